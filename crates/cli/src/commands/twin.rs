//! `meshara twin`: the digital twin.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::failure::Failure;
use crate::node;

/// Rehearse in the digital twin
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara twin run scenario.toml")]
pub(crate) struct TwinArgs {
    #[command(subcommand)]
    command: TwinCommand,
}

#[derive(Debug, Subcommand)]
enum TwinCommand {
    /// Run a scenario in virtual time and report how the mesh healed
    #[command(after_help = "Examples:
  meshara twin run scenario.toml
  meshara twin run scenario.toml --seed 7 --json")]
    Run {
        /// The scenario
        file: PathBuf,
        /// Seed of all randomness [default: the scenario's]
        #[arg(long)]
        seed: Option<u64>,
    },
}

pub(crate) fn run(args: TwinArgs, context: &Context) -> Result<(), Failure> {
    let TwinCommand::Run { file, seed } = args.command;
    node::twin(context, &file, seed)
}
