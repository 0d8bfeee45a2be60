//! `meshara trust`: who may say what in the mesh, and what this node holds of it.

mod audit;
mod bundle;
mod issuer;
mod log;
mod reinstate;
mod revoke;
mod role;
mod status;
mod workload;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Show and change whom the mesh trusts
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust status
  meshara trust issuer add bob
  meshara trust revoke carol --reason \"laptop stolen\"")]
pub(crate) struct TrustArgs {
    #[command(subcommand)]
    command: TrustCommand,
}

/// Each has a file of its own.
#[derive(Debug, Subcommand)]
enum TrustCommand {
    Status(status::StatusArgs),
    Audit(audit::AuditArgs),
    Log(log::LogArgs),
    Issuer(issuer::IssuerArgs),
    Workload(workload::WorkloadArgs),
    Bundle(bundle::BundleArgs),
    Revoke(revoke::RevokeArgs),
    Reinstate(reinstate::ReinstateArgs),
    Role(role::RoleArgs),
}

pub(crate) async fn run(args: TrustArgs, context: &Context) -> Result<(), Failure> {
    match args.command {
        TrustCommand::Status(_) => status::run(context).await,
        TrustCommand::Audit(args) => audit::run(args, context).await,
        TrustCommand::Log(args) => log::run(args, context).await,
        TrustCommand::Issuer(args) => issuer::run(args, context).await,
        TrustCommand::Workload(args) => workload::run(args, context).await,
        TrustCommand::Bundle(args) => bundle::run(args, context).await,
        TrustCommand::Revoke(args) => revoke::run(args, context).await,
        TrustCommand::Reinstate(args) => reinstate::run(args, context).await,
        TrustCommand::Role(args) => role::run(args, context).await,
    }
}
