//! `meshara policy apply`: signs a policy file and sends it to every node.

use std::path::{Path, PathBuf};

use clap::Args;
use meshara::api::{ApiError, ErrorCode, PolicyRequest};

use crate::context::Context;
use crate::failure::Failure;
use crate::identity::io_error;
use crate::output;

/// Longest file that is read: the node takes 8 MiB, and says so.
const FILE_MAX: u64 = 9 << 20;

/// Bring a policy file into force on every node
///
/// Run it on a node that holds a signer's keys, at first the one that made the mesh; where several must approve, it writes a statement for
/// the others to sign. What no rule allows is denied from then on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara policy apply policy.toml --dry-run
  meshara policy apply policy.toml")]
pub(crate) struct ApplyArgs {
    /// The policy file; docs/policy.md says how rules are written
    file: PathBuf,
    /// Only check the file and say what would change
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: ApplyArgs, context: &Context) -> Result<(), Failure> {
    let ApplyArgs { file, dry_run } = args;
    let text = read(&file)?;
    let request = PolicyRequest { text, dry_run };
    let applied = context.client().policy_apply(&request).await.map_err(|error| at(error, &file))?;
    if context.json {
        return Ok(output::json(&applied)?);
    }
    for (sign, rules) in [("+", &applied.added), ("-", &applied.removed), ("~", &applied.changed)] {
        for rule in rules {
            output::line(format!("{sign} {rule}"))?;
        }
    }
    let done = if applied.dry_run { "would be in force" } else { "is in force" };
    output::line(format!("policy {} with {} rules {done}", applied.number, applied.rules))?;
    Ok(())
}

fn read(file: &Path) -> Result<String, ApiError> {
    let failed = |error: std::io::Error| io_error(error.kind(), format!("{}: {error}", file.display()));
    let size = std::fs::metadata(file).map_err(failed)?.len();
    if size > FILE_MAX {
        let text = format!("{}: {size} bytes where at most {FILE_MAX} are read", file.display());
        return Err(ApiError::new(ErrorCode::TooLarge, text));
    }
    std::fs::read_to_string(file).map_err(failed)
}

/// An error of the file's content names the file.
fn at(error: ApiError, file: &Path) -> ApiError {
    if error.code != ErrorCode::InvalidArgument {
        return error;
    }
    ApiError { message: format!("{}: {}", file.display(), error.message), ..error }
}
