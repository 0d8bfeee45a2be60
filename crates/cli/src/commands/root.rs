//! `meshara root`: the mesh root's backup.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meshara_identity::home;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::identity;
use crate::output;

/// Back up the mesh root
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara root export --to root.backup --seal-with passphrase.txt")]
pub(crate) struct RootArgs {
    #[command(subcommand)]
    command: RootCommand,
}

#[derive(Debug, Subcommand)]
enum RootCommand {
    /// Write the mesh root to a sealed file
    ///
    /// Only the node that made the mesh has it. The backup is always sealed; an existing file is never overwritten.
    #[command(after_help = "Examples:
  meshara root export --to root.backup --seal-with passphrase.txt
  meshara root export --to root.backup --passphrase-file p.txt     (seals with the keystore's passphrase)")]
    Export {
        /// File to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// File with the passphrase of the backup [default: that of --passphrase-file]
        #[arg(long, value_name = "FILE")]
        seal_with: Option<PathBuf>,
    },
}

pub(crate) fn run(args: RootArgs, context: &Context) -> Result<(), Failure> {
    let RootCommand::Export { to, seal_with } = args.command;
    let own = identity::passphrase(context)?;
    let backup = match (seal_with, &own) {
        (Some(file), _) => identity::passphrase_of(&file)?,
        (None, Some(own)) => own.clone(),
        (None, None) => {
            return Err(meshara::api::ApiError::new(
                meshara::api::ErrorCode::Usage,
                "a backup of the mesh root is always sealed, and no passphrase was given",
            )
            .hint("write a passphrase to a file and give it with --seal-with FILE")
            .into());
        }
    };
    home::export_root(&context.home, own.as_ref(), &to, &backup)
        .map_err(|error| identity::home_error(&error))?;
    if context.json {
        return Ok(output::json(&json!({ "file": to }))?);
    }
    output::line(format!("wrote the sealed mesh root to {}", to.display()))?;
    output::line("keep it and its passphrase apart, and away from this machine")?;
    Ok(())
}
