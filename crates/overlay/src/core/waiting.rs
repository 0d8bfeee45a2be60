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
/// For so long: a head crosses the mesh in less than the time in which a neighbour that dies is noticed.
pub(super) const WAIT: Duration = Duration::from_secs(30);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Waitings {
    waiting: BTreeMap<NodeId, Waiting>,
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
        self.waiting.remove(node);
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
        let waiting = &mut self.waiting.waiting;
        let newer = waiting.get(&record.origin).is_some_and(|held| held.record.sequence > record.sequence);
        if newer || (waiting.len() >= MAX_WAITING && !waiting.contains_key(&record.origin)) {
            self.metrics.shed += 1;
            return;
        }
        self.metrics.waited += 1;
        let (born, until) = (now.saturating_sub(age), now + WAIT);
        waiting.insert(record.origin, Waiting { head, from, born, until, record });
        self.heads_announced(now, from, &[HeadId::statement(head.issuer), head]);
    }

    /// A head is there: what waited for it is looked at.
    pub(super) fn take_waiting(&mut self, now: Duration, head: HeadId) {
        let ready: Vec<NodeId> = self
            .waiting
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.head == head)
            .map(|(origin, _)| *origin)
            .collect();
        for origin in ready {
            let Some(Waiting { from, born, record, .. }) = self.waiting.waiting.remove(&origin) else {
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
