//! Gathers cosignatures for this node's checkpoints: of `min(3, available)` members, the ones that answered last first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::{
    Answer, Ask, Checkpoint, Hash, Note, Tiles, Witness, WitnessPolicy, one_of_each_key,
};
use tokio::task::JoinSet;

use super::{OwnLog, WITNESSES, ask, routing};
use crate::node::Inner;

/// Asked beside those that are needed, so that one that is slow delays nothing.
const SPARE: usize = 2;
/// A witness that says it saw another checkpoint is asked again with the path from there: twice, should it move on meanwhile.
const TRIES: usize = 3;
/// All of it. What is missing then is gathered with the next checkpoint, or with the same one soon after.
const GATHER: Duration = Duration::from_secs(4);
/// A member that didn't cosign is asked only if there is nobody else, for so long.
const AVOID: Duration = Duration::from_secs(30);

/// What the issuer knows of its witnesses.
#[derive(Default)]
pub(super) struct Witnesses {
    /// What each saw last, in entries, and when it answered.
    answered: BTreeMap<NodeId, (u64, Instant)>,
    failed: BTreeMap<NodeId, Instant>,
}

impl Witnesses {
    /// Whom to ask first: who cosigned lately, then others, then who failed lately.
    fn order(&self, mut nodes: Vec<NodeId>, now: Instant) -> Vec<NodeId> {
        let failed = |node: &NodeId| {
            self.failed.get(node).is_some_and(|at| now.saturating_duration_since(*at) < AVOID)
        };
        nodes.sort_by_key(|node| (failed(node), !self.answered.contains_key(node), *node));
        nodes
    }
}

/// How many distinct members cosigned `note`, as its lines say; the log itself took only good ones.
pub(super) fn cosigners(note: &Note) -> usize {
    note.signatures.len().saturating_sub(2)
}

/// How many should.
pub(super) fn wanted(inner: &Inner) -> usize {
    inner.reachable().len().min(WITNESSES)
}

/// Gathers what `note` lacks, and adds it to the log.
pub(super) async fn gather(inner: &Arc<Inner>, own: &Arc<OwnLog>, known: &mut Witnesses, note: &Note) {
    let reachable = inner.reachable();
    known.answered.retain(|node, _| reachable.contains(node));
    known.failed.retain(|node, _| reachable.contains(node));
    let needed = reachable.len().min(WITNESSES).saturating_sub(cosigners(note));
    let Ok(Checkpoint { head, .. }) = Checkpoint::parse(note.text()) else { return };
    if needed == 0 {
        return;
    }
    let done = cosigned_by(inner, note);
    let mut candidates =
        known.order(reachable, Instant::now()).into_iter().filter(|node| !done.contains(node));
    let mut asked = JoinSet::new();
    let mut ask_next = |asked: &mut JoinSet<_>, known: &Witnesses| {
        let Some(node) = candidates.next() else { return };
        let last = known.answered.get(&node).map_or(0, |(size, _)| *size);
        let (inner, own, note) = (inner.clone(), own.clone(), note.clone());
        asked.spawn(async move { (node, cosign(&inner, &own, node, note, head.size, last).await) });
    };
    for _ in 0..needed + SPARE {
        ask_next(&mut asked, known);
    }
    let (mut found, until) = (Vec::new(), tokio::time::Instant::now() + GATHER);
    while found.len() < needed
        && let Ok(Some(answer)) = tokio::time::timeout_at(until, asked.join_next()).await
    {
        match answer {
            Ok((node, Some(cosigned))) if one_more(&found, &cosigned) => {
                known.answered.insert(node, (head.size, Instant::now()));
                known.failed.remove(&node);
                found.push(cosigned);
            }
            Ok((node, _)) => {
                known.answered.remove(&node);
                known.failed.insert(node, Instant::now());
                ask_next(&mut asked, known);
            }
            Err(_) => {}
        }
    }
    add(own, note, found).await;
}

/// A witness and its line.
type Cosigned = (Witness, Note);

/// Whether a line is of another key than those before it: nodes that share a key are one witness.
fn one_more(found: &[Cosigned], (witness, _): &Cosigned) -> bool {
    let all: Vec<Witness> = found.iter().map(|(before, _)| before).chain([witness]).cloned().collect();
    one_of_each_key(all).len() > found.len()
}

/// Adds the lines of witnesses to a checkpoint.
async fn add(own: &Arc<OwnLog>, note: &Note, found: Vec<Cosigned>) {
    let (witnesses, notes): (Vec<Witness>, Vec<Note>) = found.into_iter().unzip();
    let Ok(policy) = WitnessPolicy::new(0, witnesses) else { return };
    let mut whole = note.clone();
    whole.signatures.extend(notes.into_iter().flat_map(|cosigned| cosigned.signatures));
    let own = own.clone();
    let added = tokio::task::spawn_blocking(move || own.add_cosignatures(&whole, &policy));
    if let Ok(Err(error)) = added.await {
        tracing::warn!(%error, "cosignatures could not be kept");
    }
}

/// One witness's line, verified; `None` when it doesn't answer, or will not.
async fn cosign(
    inner: &Arc<Inner>,
    own: &Arc<OwnLog>,
    node: NodeId,
    note: Note,
    size: u64,
    mut last: u64,
) -> Option<Cosigned> {
    let key = witness(inner, &node)?;
    for _ in 0..TRIES {
        let path = path(own, last.min(size), size).await?;
        let question = Ask::Cosign { issuer: inner.member.node_id, note: note.encode(), path };
        match ask::ask(&inner.sessions, node, &question).await? {
            Answer::Cosigned(text) => {
                let line = Note::parse(text.as_bytes()).ok().filter(|line| line.text() == note.text())?;
                let policy = WitnessPolicy::new(1, vec![key.clone()]).ok()?;
                return policy.require(&line, UnixMillis::now()).ok().map(|_| (key, line));
            }
            Answer::Seen(text) => {
                let seen = Note::parse(text.as_bytes()).ok()?;
                last = Checkpoint::parse(seen.text()).ok()?.head.size;
                let own = own.clone();
                tokio::task::spawn_blocking(move || own.check_signed(&seen)).await.ok()?;
                if last > size {
                    return None;
                }
            }
            _ => return None,
        }
    }
    None
}

async fn path(own: &Arc<OwnLog>, first: u64, second: u64) -> Option<Vec<Hash>> {
    if first == 0 || first == second {
        return Some(Vec::new());
    }
    let own = own.clone();
    let path = move || own.with(|log| Tiles::new(log.files(), second).consistency(first));
    tokio::task::spawn_blocking(path).await.ok()?.ok()
}

/// A member's key as a witness, from what its record shows.
fn witness(inner: &Inner, node: &NodeId) -> Option<Witness> {
    let body = inner.overlay.view(|core| core.node(node)?.member)?;
    let member = routing::recorded(&inner.standing.anchors(), &body, UnixMillis::now())?.member;
    Witness::new(&inner.mesh, *node, &member.name, member.routing_key).ok()
}

/// Reachable members whose lines `note` has.
fn cosigned_by(inner: &Inner, note: &Note) -> Vec<NodeId> {
    if cosigners(note) == 0 {
        return Vec::new();
    }
    let by = |node: &NodeId| {
        let policy = witness(inner, node).and_then(|witness| WitnessPolicy::new(1, vec![witness]).ok());
        policy.is_some_and(|policy| policy.require(note, UnixMillis::now()).is_ok())
    };
    inner.reachable().into_iter().filter(by).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_share_a_key_are_one_witness() {
        let mesh = "lab".parse().unwrap();
        let note = Note::parse(b"lab.mesh/log\n1\nAAAA\n\n\xe2\x80\x94 a AAAAAAAA\n").unwrap();
        let line = |node: u8, name: &str, key: u8| {
            let witness = Witness::new(&mesh, NodeId([node; 32]), &name.parse().unwrap(), [key; 32]);
            (witness.unwrap(), note.clone())
        };
        let found = [line(1, "bob", 1), line(2, "carol", 2)];
        assert!(one_more(&[], &found[0]) && one_more(&found, &line(3, "dave", 3)));
        assert!(!one_more(&found, &line(4, "mallory", 2)));
    }

    #[test]
    fn who_cosigned_lately_is_asked_first_and_who_failed_last() {
        let now = Instant::now();
        let nodes: Vec<NodeId> = (1..=4).map(|n| NodeId([n; 32])).collect();
        let mut known = Witnesses::default();
        known.failed.insert(nodes[0], now);
        known.answered.insert(nodes[0], (3, now));
        known.answered.insert(nodes[2], (3, now));
        let order = |at| known.order(nodes.clone(), at).iter().map(|node| node.0[0]).collect::<Vec<_>>();
        assert_eq!(order(now), [3, 2, 4, 1]);
        assert_eq!(order(now + AVOID), [1, 3, 2, 4]);
    }
}
