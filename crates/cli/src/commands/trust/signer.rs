//! What the signers' commands have in common: their errors, and how a statement is shown.

use std::path::Path;

use meshara::api::{ApiError, ErrorCode, GrantName, QuorumInfo, RevocationInfo, RootInfo, StatementInfo};
use meshara::offline::{SignerError, SigningError};
use meshara_identity::FileError;

use crate::failure::Failure;
use crate::identity;
use crate::output;
use crate::text;

/// Entries that are shown where it isn't known which are new.
const SHOWN: usize = 20;

/// An error of a signer's command for people and programs.
pub(super) fn told(error: &SignerError) -> ApiError {
    let text = error.to_string();
    match error {
        SignerError::Home(error) => identity::home_error(error),
        SignerError::File(FileError::Missing { path }) => {
            ApiError::new(ErrorCode::NotFound, format!("{}: no such file", path.display())).hint("check its name")
        }
        SignerError::File(error) | SignerError::Signing(SigningError::File(error)) => identity::file_error(error),
        SignerError::Content { .. } => ApiError::new(ErrorCode::InvalidArgument, text)
            .hint("statements are written by `trust root rotate` and by nodes, signatures by `trust sign`"),
        SignerError::Signing(_) => ApiError::new(ErrorCode::InvalidArgument, text).hint(
            "a root document that was given up and never published is replaced with --instead; nothing else ever is",
        ),
        SignerError::Declined => ApiError::new(ErrorCode::Usage, text)
            .hint("look at it with --show; then say y on a terminal, or give --yes"),
        SignerError::NoKey { .. } => ApiError::new(ErrorCode::NotAuthority, text)
            .hint("name a key file with --key, or make keys with `meshara trust key new`"),
        SignerError::NoRoot { .. } => ApiError::new(ErrorCode::NotFound, text)
            .hint("a node that ran once holds it; or name an exported one with --chain"),
        _ => ApiError::new(ErrorCode::InvalidArgument, text)
            .hint("`meshara trust root show` says what the mesh goes by"),
    }
}

fn quorum(name: &str, threshold: u64, signers: &[meshara::api::SignerInfo]) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let count = signers.len();
    output::line(format!(
        "{}  {threshold} of these {count} keys' holders",
        paint.dim(&format!("{name:<12}"))
    ))?;
    for signer in signers {
        let (name, key) = (text::printable(&signer.name), text::printable(&signer.key));
        output::line(format!("{:<12}    {} {}", "", paint.bold(&name), paint.dim(&key)))?;
    }
    Ok(())
}

/// A version of the root document in words.
pub(super) fn show_root(root: &RootInfo) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let ended = if root.valid {
        String::new()
    } else {
        format!(" {}", paint.bad("(ended: nothing but its next version counts)"))
    };
    for (name, value) in [
        ("mesh id", root.mesh_id.clone()),
        ("version", root.version.to_string()),
        ("phase", format!("{} ({})", root.phase, root.phase_name)),
        ("written", root.issued_at.to_string()),
        ("ends", format!("{}{ended}", root.expires_at)),
    ] {
        output::line(format!("{}  {value}", paint.dim(&format!("{name:<12}"))))?;
    }
    quorum("root", root.threshold, &root.signers)?;
    let QuorumInfo { threshold, signers } = &root.authority;
    quorum("authority", *threshold, signers)?;
    root.grants.iter().try_for_each(named)?;
    if root.grants.iter().any(|grant| grant.held == Some(false)) {
        output::line(paint.bad(
            "this home does not hold every grant that is named above: ask who proposes it, and compare the hashes elsewhere",
        ))?;
    }
    Ok(())
}

/// A grant that a root document names. The name alone would say nothing of the key that may issue.
fn named(grant: &GrantName) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let node = text::printable(&grant.node_id);
    output::line(format!("{}  {node} grant {}", paint.dim(&format!("{:<12}", "issuer")), grant.number))?;
    let hash = text::printable(&grant.hash);
    output::line(format!("{:<12}    {} {hash}", "", paint.dim("statement")))?;
    match (&grant.ca, grant.held) {
        (Some(ca), _) => {
            let ca = text::printable(ca);
            output::line(format!("{:<12}    {} {ca}", "", paint.dim("CA key   ")))
        }
        (None, Some(false)) => output::line(format!(
            "{:<12}    {}",
            "",
            paint.bad("NOT HELD by this home, so its CA key isn't known")
        )),
        (None, _) => Ok(()),
    }?;
    Ok(())
}

/// Entries of a snapshot: those that are new to this home, all of them; where that isn't known, the newest.
fn entries(what: &str, since: &str, all: &[RevocationInfo]) -> Result<(), Failure> {
    let new = all.iter().filter(|one| one.new == Some(true)).count();
    let known = all.iter().all(|one| one.new.is_some());
    let shown = if known { new } else { all.len().min(SHOWN) };
    output::line(match (known, all.len() - shown) {
        (true, rest) => {
            format!("{what}; {rest} of them stand in the set that this home holds, {new} are new:")
        }
        (false, 0) => format!("{what}:"),
        (false, rest) => format!(
            "{what}; this home holds no set to compare with. The newest {shown} (--show --json lists the other {rest} too):"
        ),
    })?;
    for one in all.iter().take(shown) {
        output::line(format!("  {} {since} {}: {}", one.node_id, one.since, text::printable(&one.reason)))?;
    }
    Ok(())
}

/// A statement in words.
pub(super) fn show(info: &StatementInfo) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let what = match info.kind.as_str() {
        "root" => "the mesh's root document",
        "revocations" => "who is revoked",
        "grant" => "who may issue certificates",
        _ => "who may do what",
    };
    output::line(format!("{} {}, number {}", paint.dim("says"), paint.bold(what), info.number))?;
    if let Some(root) = &info.root {
        return show_root(root);
    }
    output::line(format!("{} {}, written {}", paint.dim("mesh"), info.mesh_id, info.issued_at))?;
    if let Some(previous) = &info.previous {
        output::line(format!("{} {previous}", paint.dim("follows")))?;
    }
    if let Some(revoked) = info.revoked {
        entries(&format!("{revoked} nodes revoked"), "since", &info.revocations)?;
        entries(&format!("{} taken back", info.reinstated.len()), "back since", &info.reinstated)?;
    }
    if let Some(grant) = &info.grant {
        output::line(format!("{} may issue in mesh {}", grant.node_id, text::printable(&grant.mesh)))?;
        output::line(format!("with the CA key {}", grant.ca))?;
        output::line(format!("from {} to {}", grant.not_before, grant.not_after))?;
        let leaf = match grant.leaf_s {
            Some(leaf_s) => format!("{leaf_s} s"),
            None => "1 h (24 h while the mesh has one issuer)".to_owned(),
        };
        output::line(format!("its certificates last {leaf}, its enrolments {} s", grant.enrolment_s))?;
    }
    if let Some(policy) = &info.policy {
        output::line(policy.trim_end())?;
    }
    Ok(())
}

/// The command that signs a file, and the one that publishes it, for whoever has to go on.
pub(super) fn next(file: &Path) -> Result<(), Failure> {
    let paint = output::stdout_paint();
    let shown = file.display();
    output::line(paint.dim(&format!("each signer: meshara trust sign {shown} --key KEY")))?;
    output::line(paint.dim(&format!("then, on any node: meshara trust publish {shown} [SIGNATURES]")))?;
    Ok(())
}
