//! Follows the logs of other issuers by asking, and compares with what other members saw: so a log that forked is found and named.

use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_trust::audit::{Event, Words};
use meshara_trust::log::{Checkpoint, GrowthError, Head, Note, SeenError, verify_growth};
use rand::rngs::OsRng;
use rand::{Rng, SeedableRng, TryRngCore};
use rand_chacha::ChaCha8Rng;

use super::others::Other;
use super::{ask, audit};
use crate::node::Inner;

/// Between two questions in a small mesh.
const EVERY: Duration = Duration::from_secs(5);
/// Times the nodes of the mesh is how long between two questions at least, so that an issuer hears twelve a second of any mesh.
const PER_NODE: Duration = Duration::from_millis(80);
/// What is found against the issuer of a log that forked.
pub(super) const TWO_HEADS: &str = "two heads of its log";

/// Runs as long as the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    // For spreading alone: the same for all, should the system have no randomness.
    let mut seed = [0; 32];
    let _ = OsRng.try_fill_bytes(&mut seed);
    let mut random = ChaCha8Rng::from_seed(seed);
    let mut round = 0_u32;
    loop {
        let nodes = inner.reachable();
        let period = period(nodes.len());
        // Half to one and a half of it: nodes that started together don't ask together.
        tokio::time::sleep(period.mul_f64(random.random_range(0.5..1.5))).await;
        let nodes = inner.reachable();
        for issuer in inner.logs.others.contradicted() {
            distrust(&inner, issuer, "two sets of keys of its log");
        }
        for issuer in issuers(&inner) {
            if nodes.contains(&issuer) {
                follow(&inner, issuer).await;
            }
            if inner.logs.own().is_some() {
                read_names(&inner, issuer).await;
            }
        }
        // Every other time, what somebody else saw.
        round = round.wrapping_add(1);
        if round.is_multiple_of(2) && !nodes.is_empty() {
            let pick = random.random_range(0..nodes.len());
            if let Some(peer) = nodes.get(pick) {
                compare(&inner, *peer).await;
            }
        }
    }
}

/// Between two questions to an issuer in a mesh of so many nodes.
pub(super) fn period(nodes: usize) -> Duration {
    EVERY.max(PER_NODE * u32::try_from(nodes).unwrap_or(u32::MAX))
}

/// Reads whom another issuer enrolled, since this node issues too.
async fn read_names(inner: &Arc<Inner>, issuer: NodeId) {
    let Some(other) = inner.logs.others.get(&issuer) else { return };
    // What can't be fetched now is read later; what was kept is read all the same.
    if let Err(error) = audit::copy(inner, &other, &[issuer]).await {
        tracing::debug!(%issuer, %error, "this issuer's log was not copied");
    }
    copied_names(inner, other).await;
}

/// Reads whom another issuer enrolled, as far as its log is copied here.
pub(super) async fn copied_names(inner: &Arc<Inner>, other: Arc<Other>) {
    let (work, issuer) = (inner.clone(), other.issuer);
    let read = tokio::task::spawn_blocking(move || work.logs.names.read(&other)).await;
    if let Ok(Err(error)) = read {
        tracing::error!(%issuer, %error, "the copy of this issuer's log can't be read");
    }
}

/// Issuers other than this node.
pub(super) fn issuers(inner: &Inner) -> Vec<NodeId> {
    let anchors = inner.standing.anchors();
    let mut issuers: Vec<NodeId> = anchors.grants().iter().map(|grant| grant.statement.issuer).collect();
    issuers.sort_unstable();
    issuers.dedup();
    issuers.retain(|issuer| *issuer != inner.member.node_id);
    issuers
}

/// Takes the newest checkpoint of an issuer, from itself; whether this node now knows it.
pub(super) async fn follow(inner: &Arc<Inner>, issuer: NodeId) -> bool {
    let Some(heads) = ask::heads(&inner.sessions, issuer).await else { return false };
    let Some(other) = inner.log_of(issuer, issuer).await else { return false };
    let ours = |head: &Head| head.statement.public() == other.statement.public();
    let Some(head) = heads.into_iter().find(ours) else { return false };
    let Some(note) = head.note.and_then(|note| Note::parse(note.as_bytes()).ok()) else { return false };
    take(inner, &other, issuer, note).await
}

/// Compares what `peer` saw of every log with what this node saw.
async fn compare(inner: &Arc<Inner>, peer: NodeId) {
    let Some(heads) = ask::heads(&inner.sessions, peer).await else { return };
    let anchors = inner.standing.anchors();
    for head in heads {
        let Ok((issuer, _)) = head.statement.verify(&anchors) else { continue };
        if issuer == inner.member.node_id {
            own_head(inner, head).await;
            continue;
        }
        let (work, anchors) = (inner.clone(), anchors.clone());
        let learn = move || work.logs.others.learn(&head.statement, &anchors).map(|other| (other, head));
        let Ok(Ok((other, head))) = tokio::task::spawn_blocking(learn).await else { continue };
        if let Some(evidence) = head.fork {
            let known = other.shown().fork.is_some();
            let told = if known { None } else { other.using(|mirror| mirror.accuse(evidence)).await };
            if matches!(told, Some(Ok(()))) {
                tracing::error!(%issuer, "another member proved that this issuer's log forked");
                distrust(inner, issuer, TWO_HEADS);
            }
        }
        if let Some(note) = head.note.and_then(|note| Note::parse(note.as_bytes()).ok()) {
            take(inner, &other, peer, note).await;
        }
    }
}

/// What another member saw of this node's own log.
async fn own_head(inner: &Arc<Inner>, head: Head) {
    let Some(own) = inner.logs.own().cloned() else { return };
    if let Some(note) = head.note.and_then(|note| Note::parse(note.as_bytes()).ok()) {
        let _ = tokio::task::spawn_blocking(move || own.check_signed(&note)).await;
    }
}

/// Takes a checkpoint that `from` shows, or finds that it contradicts the one seen before. Whether it belongs to the log as this node knows it.
pub(super) async fn take(inner: &Arc<Inner>, other: &Arc<Other>, from: NodeId, note: Note) -> bool {
    let Ok(Checkpoint { head, .. }) = Checkpoint::parse(note.text()) else { return false };
    let shown = other.shown();
    let (seen, seen_head) = (shown.note.clone(), shown.head);
    let (issuer, relay) = (other.issuer, from != other.issuer);
    let path = match seen_head {
        // From one who has the tree of the newer of both: the one who shows it, or the issuer through that one's eyes.
        Some(seen) if seen.size < head.size => {
            ask::path(&inner.sessions, from, issuer, (seen.size, head.size), relay).await
        }
        Some(seen) if seen.size > head.size => {
            ask::path(&inner.sessions, issuer, issuer, (head.size, seen.size), false).await
        }
        _ => Some(Vec::new()),
    };
    let Some(path) = path else { return false };
    let took = other.using(move |mirror| {
        let older = seen.filter(|_| seen_head.is_some_and(|seen| seen.size > head.size));
        let result = match older {
            // An older one than this node's is no news, but must be its beginning.
            Some(seen) => match verify_growth(mirror.log(), &note, &seen, &path) {
                Err(GrowthError::Fork(evidence)) => {
                    let _ = mirror.accuse((*evidence).clone());
                    Err(SeenError::Growth(GrowthError::Fork(evidence)))
                }
                grown => return grown.is_ok(),
            },
            None => mirror.follow(&note, &path),
        };
        if let Err(error @ SeenError::Growth(GrowthError::Fork(_))) = &result {
            tracing::error!(%issuer, %error, "two checkpoints of this issuer's log contradict each other");
        }
        result.is_ok()
    });
    let took = took.await.unwrap_or(false);
    if shown.fork.is_none() && other.shown().fork.is_some() {
        distrust(inner, issuer, TWO_HEADS);
    }
    took
}

/// Writes into the audit trail what was found against a log; nothing is proved under its heads any more.
pub(super) fn distrust(inner: &Inner, issuer: NodeId, what: &str) {
    inner.overlay.input(|core, _| core.forget_heads(&issuer));
    let against = Words::clean(&issuer.to_string());
    inner.audit.record(Event::Evidence { against, what: Words::clean(what) });
}
