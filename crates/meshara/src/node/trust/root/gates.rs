//! Phases of a mesh, and the gates between them: each predicate is measured when it is asked for, before anybody signs.

use std::sync::Arc;
use std::time::Duration;

use meshara_identity::UnixMillis;
use meshara_trust::audit::{Event, Outcome as AuditOutcome, Words};
use meshara_trust::gossip::GossipError;
use meshara_trust::root::{Phase, RootDocument, SignedRoot, StatementFile};
use meshara_trust::sets::{Approvals, FRESHNESS_INTERVAL, KeyId};

use super::proposals;
use super::publish::{self, Published};
use super::signing::{self, JournalFile};
use crate::api::root::{GatePredicate, PhaseInfo};
use crate::node::Inner;
use crate::node::trust::log;
use crate::node::trust::sets::PublishError;

/// A signer that speaks every minute and wasn't heard for so long is away.
const HEARD_WITHIN: Duration = FRESHNESS_INTERVAL.saturating_mul(5);
/// Issuers, and witnesses of the log with fewest: so that one may be away.
const SEVERAL: u64 = 2;
/// A quorum of one is no quorum.
const QUORUM_MIN: u64 = 2;

/// What a phase is called.
pub(crate) fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Founder => "founder's key",
        Phase::Logged => "tickets and logged certificates",
        Phase::Shared => "several issuers and witnesses",
        Phase::Quorum => "a quorum as root, the founder's key retired",
    }
}

/// Why the mesh didn't enter the next phase.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AdvanceError {
    /// There is none.
    #[error("the mesh is in its last phase")]
    Last,
    /// The gate is closed.
    #[error("the gate of phase {next} is closed: {missing}")]
    Closed {
        /// The next phase.
        next: u8,
        /// Each predicate that doesn't hold, in words.
        missing: String,
    },
    /// Another version of the root document came while the gate was measured: it was the gate of another phase, or is measured by others' keys.
    #[error(
        "the mesh went on from root document {measured} to {held} while the gate was measured: nothing was signed"
    )]
    Changed {
        /// The version under which it was measured.
        measured: u64,
        /// The version held now.
        held: u64,
    },
    /// It could not be signed or published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// The phase, and the gate of the next one as it is now.
pub(crate) async fn measure(inner: &Arc<Inner>) -> Result<PhaseInfo, PublishError> {
    let root = inner.sets.view(|gossip| gossip.root().cloned()).ok_or(GossipError::NoRoot)?;
    let next = root.phase.next();
    let gate = match next {
        Some(next) => predicates(inner, next, &root).await,
        None => Vec::new(),
    };
    Ok(PhaseInfo {
        phase: root.phase as u8,
        name: name(root.phase).to_owned(),
        version: root.version,
        next: next.map(|next| next as u8),
        next_name: next.map(|next| name(next).to_owned()),
        ready: next.is_some() && gate.iter().all(|predicate| predicate.holds),
        gate,
    })
}

fn at_least(what: &str, value: u64, need: u64) -> GatePredicate {
    GatePredicate { what: what.to_owned(), value, need: format!("at least {need}"), holds: value >= need }
}

fn none(what: &str, value: u64) -> GatePredicate {
    GatePredicate { what: what.to_owned(), value, need: "0".to_owned(), holds: value == 0 }
}

async fn predicates(inner: &Arc<Inner>, next: Phase, root: &RootDocument) -> Vec<GatePredicate> {
    let now = UnixMillis::now();
    // The whole of every log, every certificate in use, their witnesses.
    let audit = log::audit::audit(inner).await;
    let mut gate = match next {
        Phase::Founder => Vec::new(),
        Phase::Logged => {
            let members =
                inner.overlay.view(|core| core.nodes().filter(|node| node.member.is_some()).count());
            vec![at_least("members in the mesh", members as u64, 2)]
        }
        Phase::Shared => {
            let issuers = inner.standing.anchors().issuers(now);
            let reachable = inner.reachable();
            let here = |issuer: &&_| **issuer == inner.member.node_id || reachable.contains(issuer);
            let reached = issuers.iter().filter(here).count();
            vec![
                at_least("issuers", issuers.len() as u64, SEVERAL),
                at_least("issuers that are reached now", reached as u64, SEVERAL),
                at_least("witnesses of each log", audit.witnesses, SEVERAL),
            ]
        }
        Phase::Quorum => {
            let founder = KeyId(root.mesh.0);
            let founders = [&root.root, &root.authority];
            let kept = founders.iter().filter(|quorum| quorum.signer_of(&founder).is_some()).count();
            let (signers, threshold) = (root.root.names().len(), root.root.threshold());
            let heard = inner.sets.view(|gossip| {
                let recent = now.minus(HEARD_WITHIN);
                let statements = gossip.revocations().statements();
                let recent = statements.filter(|signed| signed.statement.at >= recent);
                let mut keys: Vec<_> = recent
                    .filter_map(|signed| root.authority.signer_of(&signed.key()))
                    .map(|s| &s.name)
                    .collect();
                keys.sort_unstable();
                keys.dedup();
                keys.len()
            });
            vec![
                at_least("root signers that must approve", threshold as u64, QUORUM_MIN),
                at_least("root signers beyond those that must", (signers - threshold) as u64, 1),
                none("quorums that the founder's key is part of", kept as u64),
                at_least(
                    "signers of revocations and policy heard in the last 5 min",
                    heard as u64,
                    root.authority.threshold() as u64,
                ),
            ]
        }
    };
    gate.push(at_least("certificates in the logs", audit.certificates, 2));
    gate.push(none("problems that an audit of the logs finds", audit.problems.len() as u64));
    gate
}

/// Enters the next phase, if its gate holds: signed here where this node's keys suffice, else as a proposal.
///
/// `instead`: the operator says that another document of that version, which this node's keys signed, was never published and never will be.
/// The node can't know: it may have been handed out, or be published where this node hasn't heard of it yet.
pub(crate) async fn advance(inner: &Arc<Inner>, instead: bool) -> Result<Published, AdvanceError> {
    let measured = measure(inner).await?;
    enter(inner, measured, instead).await
}

/// Enters the phase whose gate was measured.
async fn enter(inner: &Arc<Inner>, measured: PhaseInfo, instead: bool) -> Result<Published, AdvanceError> {
    let held = inner
        .sets
        .view(|gossip| gossip.root().cloned())
        .ok_or_else(|| PublishError::from(GossipError::NoRoot))?;
    if measured.version != held.version {
        return Err(AdvanceError::Changed { measured: measured.version, held: held.version });
    }
    let next = held.phase.next().ok_or(AdvanceError::Last)?;
    if !measured.ready {
        inner.audit.record(Event::Phase {
            version: held.version,
            phase: next as u8,
            outcome: AuditOutcome::Refused(Words::clean("gate closed")),
        });
        let closed = measured.gate.iter().filter(|predicate| !predicate.holds);
        let missing: Vec<String> =
            closed.map(|one| format!("{}: {}, needed {}", one.what, one.value, one.need)).collect();
        return Err(AdvanceError::Closed { next: next as u8, missing: missing.join("; ") });
    }
    let now = UnixMillis::now();
    let grants = Some(inner.standing.anchors().standing(now));
    let document = RootDocument { phase: next, grants, ..held.following(now, held.life()) };
    let file = StatementFile::root(&document).map_err(PublishError::from)?;
    let work = inner.clone();
    let signed = tokio::task::spawn_blocking(move || sign(&work, &held, &document, &file, instead));
    let (file, signatures) = signed.await.map_err(|_| PublishError::Stopping)??;
    Ok(publish::publish(inner, file, signatures).await?)
}

/// Signs a version with each key of this node that is asked for. Where more are, the error names the proposal. Blocks.
fn sign(
    inner: &Inner,
    held: &RootDocument,
    document: &RootDocument,
    file: &StatementFile,
    instead: bool,
) -> Result<(StatementFile, Vec<meshara_trust::root::DetachedSignature>), PublishError> {
    let (home, keys) = (inner.sets.home(), inner.sets.keys());
    let journal = JournalFile::of_home(home);
    let mut signed = SignedRoot::new(document.clone());
    let mut signatures = Vec::new();
    for key in keys.all() {
        let id = KeyId::of(key.public());
        if held.root.signer_of(&id).is_none() && document.root.signer_of(&id).is_none() {
            continue;
        }
        let signature = signing::sign(file, key, &journal, instead)?;
        file.join(signature.clone(), &[&held.root, &document.root], &mut signed.approvals)?;
        signatures.push(signature);
    }
    let enough = |approvals: &Approvals| {
        let statement = document.encode().ok()?;
        held.root.check(file.purpose(), &statement, approvals).ok()?;
        document.root.check(file.purpose(), &statement, approvals).ok()
    };
    if enough(&signed.approvals).is_some() {
        return Ok((file.clone(), signatures));
    }
    let needed = held.root.threshold().max(document.root.threshold());
    Err(PublishError::Proposed(proposals::write(home, file, &signatures, needed)?))
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
