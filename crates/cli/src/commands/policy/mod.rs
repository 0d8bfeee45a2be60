//! `meshara policy`: who may do what in the mesh.

mod apply;
mod check;
mod show;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;

/// Show and change who may do what in the mesh
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara policy show > policy.toml
  meshara policy apply policy.toml --dry-run
  meshara policy check alice db/postgres --explain")]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

/// Each has a file of its own.
#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Apply(apply::ApplyArgs),
    Show(show::ShowArgs),
    Check(check::CheckArgs),
}

pub(crate) async fn run(args: PolicyArgs, context: &Context) -> Result<(), Failure> {
    match args.command {
        PolicyCommand::Apply(args) => apply::run(args, context).await,
        PolicyCommand::Show(_) => show::run(context).await,
        PolicyCommand::Check(args) => check::run(args, context).await,
    }
}
