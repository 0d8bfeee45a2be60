//! Renewed certificates are announced, not flooded: a summary names the new version, and who lacks it asks for it once.
//!
//! A member record is ten times as long as all else that a node tells, and everybody gets a flood from each neighbour. While the version before
//! still counts, and for the same routing key, nobody needs the new one at once: so each node loads it once instead.

use std::collections::BTreeMap;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use crate::control::{MAX_ENTRIES, Message, SummaryEntry};
use crate::record::{Kind, Rank, Record};
use crate::types::LinkId;

/// A version must count for so much longer that its successor may wait to be asked for. What is lost on the way, the comparison of databases
/// finds within 37 s; twice that, and three trips over a dozen links.
const ROOM: Duration = Duration::from_secs(90);
/// Who was asked for a version and has not sent it for so long is asked no more: the next one that announces it is. A certificate crosses any link
/// that carries a mesh in less.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Versions remembered as asked for: the renewals of 10,000 nodes in six minutes. Beyond it a version may be loaded twice.
const MAX_ASKED: usize = 2048;

/// What is to be announced, and what was asked for.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    waiting: BTreeMap<(NodeId, Kind), (Rank, Option<LinkId>)>,
    asked: BTreeMap<(NodeId, Kind), (Rank, Duration)>,
}

impl Announcing {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Announces a record to all neighbours but the one it came from.
    pub(super) fn add(&mut self, record: &Record, from: Option<LinkId>) {
        self.asked.remove(&(record.origin, record.kind));
        self.waiting.insert((record.origin, record.kind), (record.rank(), from));
    }

    /// Nothing of this origin is told or waited for.
    pub(super) fn forget(&mut self, origin: &NodeId) {
        self.waiting.retain(|(waiting, _), _| waiting != origin);
        self.asked.retain(|(asked, _), _| asked != origin);
    }
}

impl Core {
    /// Whether a new member record may wait until it is asked for: an earlier version for the same key still counts for a while.
    pub(super) fn may_wait(&self, now: Duration, record: &Record, key: &[u8; 32]) -> bool {
        let kind = record.kind;
        let known = self.database.get(&record.origin).and_then(|origin| origin.member.as_ref());
        kind == Kind::Member
            && known.is_some_and(|known| known.routing_key == *key)
            // A younger copy of the version that is here must reach those who have it too.
            && self.database.rank(&record.origin, kind).is_some_and(|held| held < record.rank())
            && self.database.until(&record.origin, kind).is_some_and(|until| until > now + ROOM)
    }

    /// Whether another neighbour was just asked for this version, which can wait. If not, it is asked for now.
    pub(super) fn asked_lately(&mut self, now: Duration, entry: &SummaryEntry) -> bool {
        let waits = entry.kind == Kind::Member
            && self.database.until(&entry.origin, entry.kind).is_some_and(|until| until > now + ROOM);
        if !waits {
            return false;
        }
        let place = (entry.origin, entry.kind);
        let asked = &mut self.flooding.announcing.asked;
        let fresh = |(rank, at): &(Rank, Duration)| *rank >= entry.rank() && now < *at + ASK_AGAIN;
        if asked.get(&place).is_some_and(fresh) {
            return true;
        }
        if asked.len() >= MAX_ASKED {
            asked.retain(|_, (_, at)| now < *at + ASK_AGAIN);
        }
        if asked.len() < MAX_ASKED {
            asked.insert(place, (entry.rank(), now));
        }
        false
    }

    /// Sends the announcements that wait.
    pub(super) fn announce(&mut self) {
        let waiting = std::mem::take(&mut self.flooding.announcing.waiting);
        if waiting.is_empty() {
            return;
        }
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.routing()).map(|(id, _)| *id).collect();
        for id in links {
            let others = waiting.iter().filter(|(_, (_, from))| *from != Some(id));
            let entries: Vec<SummaryEntry> = others
                .map(|((origin, kind), ((sequence, tie), _))| SummaryEntry {
                    origin: *origin,
                    kind: *kind,
                    sequence: *sequence,
                    tie: *tie,
                })
                .collect();
            for chunk in entries.chunks(MAX_ENTRIES) {
                self.control_out(id, Message::Summary(chunk.to_vec()).encode());
            }
        }
    }
}
