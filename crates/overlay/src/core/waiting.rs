//! Member records that wait for the head that they are proved under: their sender is asked for it, and they are looked at again when it is there.

use std::collections::BTreeMap;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use crate::heads::HeadId;
use crate::record::Record;
use crate::types::LinkId;

/// Member records that wait for their head: what a minute's renewals of 10,000 nodes are, thrice; 1.3 MB. Others are found again by the
/// comparison of databases.
const MAX_WAITING: usize = 1024;
/// Of one neighbour: nobody can tell yet whether they are true. When all places are taken, who has the most of them makes room.
const MAX_OF_NEIGHBOUR: usize = MAX_WAITING / 8;
/// For so long: a head crosses the mesh in less than the time in which a neighbour that dies is noticed.
pub(super) const WAIT: Duration = Duration::from_secs(30);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Waitings {
    /// By origin, and by the neighbour that sent it: a record that is made up takes no place of a true one.
    waiting: BTreeMap<(NodeId, NodeId), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    head: HeadId,
    from: LinkId,
    born: Duration,
    until: Duration,
    record: Record,
}

impl Waitings {
    /// Nothing of this node waits.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.waiting.retain(|(origin, _), _| origin != node);
    }

    fn of(&self, neighbour: &NodeId) -> usize {
        self.waiting.keys().filter(|(_, from)| from == neighbour).count()
    }

    /// Whether one more of this neighbour may wait; `Some` names what makes room for it, if something must.
    fn place(&self, neighbour: &NodeId) -> Option<Option<(NodeId, NodeId)>> {
        let of = self.of(neighbour);
        if of >= MAX_OF_NEIGHBOUR {
            return None;
        }
        if self.waiting.len() < MAX_WAITING {
            return Some(None);
        }
        let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for (_, from) in self.waiting.keys() {
            *counts.entry(from).or_default() += 1;
        }
        let (most, _) =
            counts.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > of)?;
        self.waiting.keys().rfind(|(_, from)| from == most).map(|place| Some(*place))
    }
}

impl Core {
    /// A member record is proved under a head that isn't here: it waits, and its sender, who believed it, is asked for the head.
    pub(super) fn wait_for_head(
        &mut self,
        now: Duration,
        from: LinkId,
        age: Duration,
        record: Record,
        head: HeadId,
    ) {
        let Some(neighbour) = self.links.get(&from).map(|link| link.peer.node) else { return };
        let place = (record.origin, neighbour);
        match self.waiting.waiting.get(&place) {
            // Neither its time nor whom to ask depends on copies.
            Some(held) if held.record.rank() >= record.rank() => {
                self.metrics.duplicates += 1;
                return;
            }
            Some(_) => {}
            None => {
                let Some(evicted) = self.waiting.place(&neighbour) else {
                    self.metrics.shed += 1;
                    return;
                };
                if let Some(evicted) = evicted {
                    self.waiting.waiting.remove(&evicted);
                    self.metrics.shed += 1;
                }
            }
        }
        self.metrics.waited += 1;
        let (born, until) = (now.saturating_sub(age), now + WAIT);
        self.waiting.waiting.insert(place, Waiting { head, from, born, until, record });
        self.heads_announced(now, from, &[HeadId::statement(head.issuer), head]);
    }

    /// A head is there: what waited for it is looked at.
    pub(super) fn take_waiting(&mut self, now: Duration, head: HeadId) {
        let ready: Vec<(NodeId, NodeId)> = self
            .waiting
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.head == head)
            .map(|(place, _)| *place)
            .collect();
        for place in ready {
            let Some(Waiting { from, born, record, .. }) = self.waiting.waiting.remove(&place) else {
                continue;
            };
            // Who sent it may be gone; what is wrong with it was counted.
            let _ = self.consider(now, from, now.saturating_sub(born), record);
        }
    }

    /// Gives up records that waited for long; the senders of the others have their heads, so they are asked again.
    pub(super) fn mind_waiting(&mut self, now: Duration) {
        let before = self.waiting.waiting.len();
        self.waiting.waiting.retain(|_, waiting| now < waiting.until);
        self.metrics.ignored += (before - self.waiting.waiting.len()) as u64;
        let needed: Vec<(LinkId, HeadId)> =
            self.waiting.waiting.values().map(|waiting| (waiting.from, waiting.head)).collect();
        for (from, head) in needed {
            self.offer(now, from, head);
        }
    }
}
