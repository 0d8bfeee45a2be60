//! `meshara trust audit`: verifies the issuers' logs, over the mesh or from a bundle.

use std::path::{Path, PathBuf};

use clap::Args;
use meshara::api::{ApiError, AuditInfo, ErrorCode};
use meshara::{BundleError, UnixMillis};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::text;

/// Verify the public log of every issuer
///
/// Every entry, every hash, every checkpoint and its witnesses, and that each certificate in use is in a log. Exits with 0 only when
/// nothing is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust audit
  meshara trust audit --json | jq .ok
  meshara trust audit --trail --export /tmp/trail.jsonl
  meshara trust log export /tmp/logs && meshara trust audit --offline /tmp/logs --witnesses 3")]
pub(crate) struct AuditArgs {
    /// Verify the bundle in this directory instead; needs no node
    #[arg(long, value_name = "BUNDLE")]
    offline: Option<PathBuf>,
    /// How many witnesses a log in the bundle must have
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "offline")]
    witnesses: u8,
    /// Verify this node's own trail of security events alone, which the audit of the logs does besides; needs no node
    #[arg(long, conflicts_with = "offline")]
    trail: bool,
    /// Also write the trail's lines, JSON, to this new file, or to standard output for `-`
    #[arg(long, value_name = "FILE", requires = "trail")]
    export: Option<PathBuf>,
}

pub(crate) async fn run(args: AuditArgs, context: &Context) -> Result<(), Failure> {
    if args.trail {
        return super::trail::run(args.export.as_deref(), context);
    }
    let info = match args.offline {
        Some(bundle) => offline(&bundle, args.witnesses, context)?,
        None => context.client().trust_audit().await?,
    };
    if context.json {
        output::json(&info)?;
    } else {
        show(&info)?;
    }
    if info.ok { Ok(()) } else { Err(Failure::Told) }
}

fn offline(bundle: &Path, witnesses: u8, context: &Context) -> Result<AuditInfo, Failure> {
    // A home's own mesh is what its user means; without one, the id is shown to be compared.
    let mesh = meshara::mesh_of(&context.home);
    let (_, info) = meshara::audit_bundle(bundle, mesh, usize::from(witnesses), UnixMillis::now())
        .map_err(|error| told(&error))?;
    Ok(info)
}

/// What is wrong with a bundle, with what helps.
pub(super) fn told(error: &BundleError) -> ApiError {
    let (code, hint) = match error {
        BundleError::NotEmpty { .. } => (ErrorCode::InvalidArgument, ""),
        BundleError::OtherMesh { .. } => (
            ErrorCode::InvalidArgument,
            "to audit another mesh's bundle, name a --home without a node, and compare the mesh id",
        ),
        BundleError::Empty { .. } => {
            (ErrorCode::NotFound, "`meshara trust audit` on a running node fetches the logs")
        }
        BundleError::Io { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
            (ErrorCode::NotFound, "`meshara trust log export DIR` writes a bundle")
        }
        BundleError::Io { .. } => (ErrorCode::Io, ""),
        _ => (ErrorCode::DamagedFile, ""),
    };
    ApiError::new(code, error.to_string()).hint(hint)
}

fn show(info: &AuditInfo) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    for log in &info.logs {
        let kept = if log.fetched { "" } else { ", as kept" };
        output::line(format!(
            "{}  {} entries, the first {} with {} witnesses{kept}",
            paint.dim(&text::printable(&log.origin)),
            log.size,
            log.witnessed,
            log.witnesses
        ))?;
    }
    for problem in &info.problems {
        output::line(format!("{} {}", paint.bad("problem:"), text::printable(problem)))?;
    }
    let verdict = if info.ok { paint.good("ok") } else { paint.bad("not ok") };
    output::line(format!(
        "{verdict}: {} entries, {} certificates, {} witnesses; mesh {}",
        info.entries, info.certificates, info.witnesses, info.mesh_id
    ))?;
    Ok(())
}
