//! `meshara root`: the mesh root's backup.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use meshara::api::{ApiError, ErrorCode};
use meshara_identity::home::HomeError;
use meshara_identity::{FileError, Passphrase, home};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::identity;
use crate::output;

/// Back up the mesh root, or restore it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara root export --to root.backup --seal-with passphrase.txt
  meshara root import --from root.backup --sealed-with passphrase.txt")]
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
    /// Put the mesh root of a backup into a home that has none
    ///
    /// `meshara init` in that home then begins with this root: tickets name the same mesh as before. Nothing is overwritten.
    #[command(after_help = "Examples:
  meshara root import --from root.backup --sealed-with passphrase.txt
  meshara --home /srv/new root import --from root.backup --sealed-with p.txt && meshara --home /srv/new init --mesh lab --name alice")]
    Import {
        /// Backup to read
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// File with the passphrase of the backup [default: that of --passphrase-file]
        #[arg(long, value_name = "FILE")]
        sealed_with: Option<PathBuf>,
    },
}

pub(crate) fn run(args: RootArgs, context: &Context) -> Result<(), Failure> {
    let own = identity::passphrase(context)?;
    match args.command {
        RootCommand::Export { to, seal_with } => {
            let backup = backup_passphrase(seal_with.as_deref(), own.as_ref(), "--seal-with")?;
            home::export_root(&context.home, own.as_ref(), &to, &backup)
                .map_err(|error| at_backup(&error, &to, "use another --to: a backup is never overwritten"))?;
            if context.json {
                return Ok(output::json(&json!({ "file": to }))?);
            }
            output::line(format!("wrote the sealed mesh root to {}", to.display()))?;
            output::line("keep it and its passphrase apart, and away from this machine")?;
        }
        RootCommand::Import { from, sealed_with } => {
            let backup = backup_passphrase(sealed_with.as_deref(), own.as_ref(), "--sealed-with")?;
            let root = home::import_root(&context.home, own.as_ref(), &from, &backup)
                .map_err(|error| at_backup(&error, &from, "name the backup with --from"))?;
            let mesh_id = root.public().fingerprint().to_string();
            if context.json {
                return Ok(output::json(&json!({ "mesh_id": mesh_id, "home": context.home }))?);
            }
            output::line(format!("put the mesh root {mesh_id} into {}", context.home.display()))?;
            let paint = output::stdout_paint();
            output::line(
                paint.dim("next: `meshara init` with the mesh's name makes an issuer under this root"),
            )?;
        }
    }
    Ok(())
}

/// An error of export or import; `hint` when the backup stands where it must not, or not where it should.
fn at_backup(error: &HomeError, backup: &Path, hint: &str) -> ApiError {
    let told = identity::home_error(error);
    match error {
        HomeError::File(FileError::AlreadyExists { path } | FileError::Missing { path })
            if path == backup =>
        {
            told.hint(hint)
        }
        _ => told,
    }
}

/// The passphrase of a backup: of its own file, else the keystore's.
fn backup_passphrase(
    file: Option<&Path>,
    own: Option<&Passphrase>,
    flag: &str,
) -> Result<Passphrase, Failure> {
    match (file, own) {
        (Some(file), _) => Ok(identity::passphrase_of(file)?),
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => Err(ApiError::new(
            ErrorCode::Usage,
            "a backup of the mesh root is always sealed, and no passphrase was given",
        )
        .hint(format!("write the passphrase to a file and give it with {flag} FILE"))
        .into()),
    }
}
