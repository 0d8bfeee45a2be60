//! `meshara trust`: who may say what in the mesh, and what this node holds of it.

mod allowed;
mod audit;
mod bundle;
mod issuer;
mod key;
mod log;
mod phase;
mod publish;
mod reinstate;
mod renew;
mod requests;
mod revoke;
mod role;
mod root;
mod sign;
mod signer;
mod status;
mod trail;
mod workload;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Show and change whom the mesh trusts
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust status
  meshara trust issuer add bob
  meshara trust root rotate --signer founder --signer bob=bob.pub --signer carol=carol.pub --threshold 2
  meshara trust revoke carol --reason \"laptop stolen\"")]
pub(crate) struct TrustArgs {
    #[command(subcommand)]
    command: TrustCommand,
}

/// Each has a file of its own.
#[derive(Debug, Subcommand)]
enum TrustCommand {
    Status(status::StatusArgs),
    Phase(phase::PhaseArgs),
    Root(root::RootArgs),
    Key(key::KeyArgs),
    Sign(sign::SignArgs),
    Publish(publish::PublishArgs),
    Renew(renew::RenewArgs),
    Audit(audit::AuditArgs),
    Log(log::LogArgs),
    Issuer(issuer::IssuerArgs),
    Requests(requests::RequestsArgs),
    Allowed(allowed::AllowedArgs),
    Workload(workload::WorkloadArgs),
    Bundle(bundle::BundleArgs),
    Revoke(revoke::RevokeArgs),
    Reinstate(reinstate::ReinstateArgs),
    Role(role::RoleArgs),
}

pub(crate) async fn run(args: TrustArgs, context: &Context) -> Result<(), Failure> {
    match args.command {
        TrustCommand::Status(_) => status::run(context).await,
        TrustCommand::Phase(args) => phase::run(args, context).await,
        TrustCommand::Root(args) => root::run(args, context).await,
        TrustCommand::Key(args) => key::run(args, context),
        TrustCommand::Sign(args) => sign::run(args, context),
        TrustCommand::Publish(args) => publish::run(args, context).await,
        TrustCommand::Renew(_) => renew::run(context).await,
        TrustCommand::Audit(args) => audit::run(args, context).await,
        TrustCommand::Log(args) => log::run(args, context).await,
        TrustCommand::Issuer(args) => issuer::run(args, context).await,
        TrustCommand::Requests(args) => requests::run(args, context).await,
        TrustCommand::Allowed(args) => allowed::run(args, context).await,
        TrustCommand::Workload(args) => workload::run(args, context).await,
        TrustCommand::Bundle(args) => bundle::run(args, context).await,
        TrustCommand::Revoke(args) => revoke::run(args, context).await,
        TrustCommand::Reinstate(args) => reinstate::run(args, context).await,
        TrustCommand::Role(args) => role::run(args, context).await,
    }
}
