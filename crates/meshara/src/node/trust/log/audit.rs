//! `trust audit` on a running node: fetches every issuer's log over the mesh, then verifies the files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::audit::verify;
use meshara_trust::log::{Answer, Ask, Certificate, Mirror, MirrorError};

use super::bundle::{Audited, Place, audit_places};
use super::others::Other;
use super::routing::{Recorded, recorded};
use super::{WITNESSES, ask, follow};
use crate::api::{AuditInfo, LogControl, Result};
use crate::node::Inner;
use crate::node::control::NodeControl;

/// What is published or cosigned at this moment is there a second later: it is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// Looks.
const LOOKS: usize = 4;
/// Members asked for entries when the issuer gives none.
const SOURCES: usize = 8;

/// Audits every log of the mesh.
pub(crate) async fn audit(inner: &Arc<Inner>) -> AuditInfo {
    let mut looks = 1;
    loop {
        let audited = look(inner).await;
        if audited.info.ok || !audited.young || looks == LOOKS {
            return audited.info;
        }
        looks += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn look(inner: &Arc<Inner>) -> Audited {
    let reachable = inner.reachable();
    // Read before the logs: each of these was logged before it was seen.
    let work = inner.clone();
    let live = tokio::task::spawn_blocking(move || live(&work)).await.unwrap_or_default();
    let mut problems = Vec::new();
    let work = inner.clone();
    let kept = tokio::task::spawn_blocking(move || work.logs.keep_mesh(&work.standing.anchors())).await;
    if let Ok(Err(error)) = kept {
        problems.push(error);
    }
    let mut places = Vec::new();
    if let Some(own) = inner.logs.own() {
        places.push(Place {
            issuer: inner.member.node_id,
            statement: own.statement().clone(),
            directory: own.directory().to_owned(),
            fetched: true,
        });
    }
    for issuer in follow::issuers(inner) {
        let sources: Vec<NodeId> =
            std::iter::once(issuer).chain(reachable.iter().copied().filter(|node| *node != issuer)).collect();
        if reachable.contains(&issuer) {
            follow::follow(inner, issuer).await;
        } else {
            for peer in reachable.iter().take(SOURCES) {
                let _ = inner.log_of(issuer, *peer).await;
            }
        }
        let Some(other) = inner.logs.others.get(&issuer) else { continue };
        let copied = copy(inner, &other, &sources).await;
        if inner.logs.own().is_some() {
            follow::copied_names(inner, other.clone()).await;
        }
        if let Err(error) = &copied {
            problems.push(format!("{}: not fetched: {error}", other.statement.public().origin()));
        }
        if other.is_contradicted() {
            problems.push(format!("{issuer} signed for two sets of keys of its log"));
        }
        let shown = other.shown();
        let (forked, held) = (shown.fork.is_some(), shown.copied > 0);
        if forked {
            problems.push(format!("{}: this log forked", other.statement.public().origin()));
        }
        if held {
            let directory = inner.logs.others.directory_of(&issuer);
            places.push(Place {
                issuer,
                statement: other.statement.clone(),
                directory,
                fetched: copied.is_ok() && reachable.contains(&issuer),
            });
        }
    }
    for (issuer, error) in inner.logs.others.broken() {
        problems.push(format!("what was kept of the log of {issuer} can't be used: {error}"));
    }
    let threshold = reachable.len().min(WITNESSES);
    let (anchors, now) = (inner.standing.anchors(), UnixMillis::now());
    let work = move || audit_places(&anchors, &places, &live, threshold, now);
    let audited = tokio::task::spawn_blocking(work).await;
    let mut audited = audited.unwrap_or_else(|error| {
        let mut audited = Audited { info: AuditInfo::default(), young: false };
        audited.problem(error.to_string(), false);
        audited
    });
    problems.into_iter().for_each(|problem| audited.problem(problem, false));
    let directory = inner.logs.home.join(crate::node::trust::audit::DIRECTORY);
    if let Ok(Some(trail)) = tokio::task::spawn_blocking(move || trail(&directory)).await {
        match trail {
            Ok(lines) => audited.info.trail_lines = lines,
            Err(problem) => audited.problem(problem, false),
        }
    }
    audited.finish()
}

/// Verifies this node's own trail of security events: how many lines it has, or what is wrong. `None` when there is none.
fn trail(directory: &Path) -> Option<std::result::Result<u64, String>> {
    directory.exists().then(|| match verify(directory) {
        Ok(report) => report.bad.map_or(Ok(report.lines), |bad| Err(format!("audit trail: {bad}"))),
        Err(error) => Err(error.to_string()),
    })
}

/// Certificates that members show now, with their issuers. Those that have ended are left out.
fn live(inner: &Inner) -> Vec<(NodeId, Certificate)> {
    let bodies: Vec<Vec<u8>> =
        inner.overlay.view(|core| core.nodes().filter_map(|node| node.member).collect());
    let (anchors, now) = (inner.standing.anchors(), UnixMillis::now());
    let live = |body: Vec<u8>| {
        let Recorded { member, certificate } = recorded(&anchors, &body, now)?;
        Some((member.issuer, certificate))
    };
    bodies.into_iter().filter_map(live).collect()
}

/// Copies a log up to the newest checkpoint seen, from the first source that gives each piece. Nobody waits for it but who copies the same log.
pub(super) async fn copy(
    inner: &Arc<Inner>,
    other: &Arc<Other>,
    sources: &[NodeId],
) -> std::result::Result<(), MirrorError> {
    let alone = other.copying.clone().lock_owned().await;
    let stopping = || MirrorError::Fetch("the node is stopping".into());
    let begun = other.using(Mirror::begin).await.ok_or_else(stopping)?;
    let Some(mut copying) = begun? else { return Ok(()) };
    // It goes along to the threads that write: whoever asked may be gone before they are done.
    let mut alone = alone;
    while let Some((first, size)) = copying.wants() {
        let entries = fetch(inner, other.issuer, sources, first, size).await?;
        let taken = tokio::task::spawn_blocking(move || {
            let taken = copying.take(&entries);
            (alone, taken.map(|()| copying))
        });
        let taken = taken.await.map_err(|_| stopping())?;
        (alone, copying) = (taken.0, taken.1?);
    }
    let finish = move |mirror: &mut Mirror| {
        let finished = mirror.finish(copying);
        drop(alone);
        finished
    };
    other.using(finish).await.ok_or_else(stopping)?
}

/// A piece of a log, from the first who gives it.
async fn fetch(
    inner: &Inner,
    issuer: NodeId,
    sources: &[NodeId],
    first: u64,
    size: u64,
) -> std::result::Result<Vec<Vec<u8>>, MirrorError> {
    let question = Ask::Entries { issuer, first, size };
    for source in sources.iter().take(SOURCES) {
        if let Some(Answer::Entries(entries)) = ask::ask(&inner.sessions, *source, &question).await {
            return Ok(entries);
        }
    }
    Err(MirrorError::Fetch("nobody who is reachable has it".into()))
}

impl LogControl for NodeControl {
    async fn trust_audit(&self) -> Result<AuditInfo> {
        Ok(audit(&self.0).await)
    }
}
