//! The issuer's task: makes sure that its log is the newest copy, then publishes twice a second and has it witnessed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::UnixMillis;
use meshara_trust::log::{Entry, Hash, LogError, Note, Tiles};

use super::own::{Newest, own_certificate};
use super::stated::{self, Stated};
use super::witness::{self, Witnesses};
use super::{OwnLog, ask, routing, stops};
use crate::node::Inner;

/// Between two checkpoints.
const PUBLISH: Duration = Duration::from_millis(500);
/// How long, after a start, members are waited for who may know a newer head than this copy of the log has. Joins wait meanwhile, and give
/// up after 4 s; where nobody is reachable the mesh must go on all the same.
pub(super) const DECIDE: Duration = Duration::from_secs(3);
/// For further answers after the first.
const MOMENT: Duration = Duration::from_millis(300);
/// Members asked.
const ASKED: usize = 8;
/// A checkpoint that lacks cosignatures, though nothing new was logged, is shown around this often.
const AGAIN: Duration = Duration::from_secs(2);
/// Entries of certificates older than this are of no certificate that lives: the longest leaf, with what it is dated back by.
const OLDEST: Duration = Duration::from_secs(8 * 24 * 3600);

/// Runs as long as the node.
pub(crate) async fn run(inner: Arc<Inner>, own: Arc<OwnLog>) {
    let mut confirmed = decide(&inner, &own).await;
    let mut remembered = false;
    let mut known = Witnesses::default();
    let mut stated = Stated::default();
    let mut gathered: Option<(Hash, Instant)> = None;
    let mut named: Option<Instant> = None;
    let mut ticks = tokio::time::interval(PUBLISH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !confirmed {
            // Nobody was there when the node had to go on: the first who comes is asked before anything else is signed.
            confirmed = hear(&inner, &own, Instant::now() + MOMENT * 2).await;
        }
        if own.newest() != Newest::Yes {
            continue;
        }
        let Some(note) = publish(&own).await else { continue };
        if !remembered {
            remembered = remember(&inner, &own).await;
        }
        let Some(now_stated) = state(&inner, &own, stated).await else { return };
        stated = now_stated;
        // The same checkpoint is shown around again only now and then, should cosignatures be missing.
        let hash = Hash::of(note.text().as_bytes());
        let lately = gathered.is_some_and(|(last, at)| last == hash && at.elapsed() < AGAIN);
        if !lately && witness::cosigners(&note) < witness::wanted(&inner) {
            witness::gather(&inner, &own, &mut known, &note).await;
            gathered = Some((hash, Instant::now()));
        }
        routing::name(&inner, &own, &mut named).await;
    }
}

async fn publish(own: &Arc<OwnLog>) -> Option<Note> {
    let work = own.clone();
    match tokio::task::spawn_blocking(move || work.publish()).await.ok()? {
        Ok(note) => Some(note),
        Err(error) => {
            tracing::error!(%error, "the log could not be published");
            None
        }
    }
}

/// Writes into the log what this node goes by, after what the log says already.
async fn state(inner: &Arc<Inner>, own: &Arc<OwnLog>, mut stated: Stated) -> Option<Stated> {
    let (inner, own) = (inner.clone(), own.clone());
    let work = tokio::task::spawn_blocking(move || {
        if let Err(error) = stated::state(&inner, &own, &mut stated) {
            tracing::error!(%error, "what this issuer goes by could not be logged");
        }
        stated
    });
    work.await.ok()
}

/// Asks members for the newest head that they know of this log: an old copy that somebody restored must not go on. Whether any answered.
async fn decide(inner: &Arc<Inner>, own: &Arc<OwnLog>) -> bool {
    let end = Instant::now() + DECIDE;
    while own.newest() == Newest::Unknown {
        if hear(inner, own, end).await {
            own.decide(Newest::Yes);
            return true;
        }
        if Instant::now() >= end {
            tracing::info!(
                "no member could say whether this is the newest copy of the log; going on with it"
            );
            own.decide(Newest::Yes);
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}

/// Shows the log what members know of it, until `end` at the latest. Whether any answered.
async fn hear(inner: &Arc<Inner>, own: &Arc<OwnLog>, end: Instant) -> bool {
    let mut answers = tokio::task::JoinSet::new();
    for node in inner.reachable().into_iter().take(ASKED) {
        let (inner, own) = (inner.clone(), own.clone());
        answers.spawn(async move {
            let heads = ask::heads(&inner.sessions, node).await?;
            let ours = |head: &meshara_trust::log::Head| head.statement.public() == own.public();
            let note = heads.into_iter().find(ours).and_then(|head| head.note);
            if let Some(note) = note.and_then(|note| Note::parse(note.as_bytes()).ok()) {
                tokio::task::spawn_blocking(move || own.check_signed(&note)).await.ok()?;
            }
            Some(())
        });
    }
    // One who answers is enough, since it was asked to cosign or heard of it from those who were; others are given a moment.
    let mut heard = false;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = if heard { left.min(MOMENT) } else { left };
        match tokio::time::timeout(left, answers.join_next()).await {
            Ok(Some(answer)) => heard |= matches!(answer, Ok(Some(()))),
            Ok(None) | Err(_) => return heard,
        }
    }
}

/// Reads the entries of certificates that have not ended, and logs this node's own should a crash have kept that from happening.
async fn remember(inner: &Arc<Inner>, own: &Arc<OwnLog>) -> bool {
    let (work, membership) = (own.clone(), inner.standing.membership());
    let done = tokio::task::spawn_blocking(move || -> Result<(), LogError> {
        let now = UnixMillis::now();
        work.with(|log| live(log.files(), log.size(), now, &mut |found| work.remember(found, now)))?;
        if let Some(certificate) = own_certificate(&membership) {
            let entry = Entry::Certificate(certificate);
            if work.find(&Hash::leaf(&entry.encode()?)).is_none() {
                work.append(&[entry])?;
            }
        }
        Ok(())
    });
    match done.await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            if !stops(&error) {
                tracing::error!(%error, "the log can't be read");
            }
            false
        }
        Err(_) => false,
    }
}

/// Hands out the entries of certificates that have not ended at `now`, newest bundle first, until all that come are too old.
fn live(
    files: &dyn meshara_trust::log::Files,
    size: u64,
    now: UnixMillis,
    found: &mut dyn FnMut(std::vec::IntoIter<(Hash, u64, UnixMillis)>),
) -> Result<(), LogError> {
    let width = u64::from(meshara_trust::log::tile::WIDTH);
    let tiles = Tiles::new(files, size);
    for bundle in (0..size.div_ceil(width)).rev() {
        let (mut young, mut lives) = (false, Vec::new());
        for (index, bytes) in (bundle * width..).zip(tiles.entries(bundle * width)?) {
            if let Ok(Entry::Certificate(certificate)) = Entry::decode(&bytes) {
                young |= certificate.not_before > now.minus(OLDEST);
                if certificate.not_after > now {
                    lives.push((Hash::leaf(&bytes), index, certificate.not_after));
                }
            }
        }
        found(lives.into_iter());
        if !young {
            break;
        }
    }
    Ok(())
}
