//! Invariants, checked while the world runs, and the counters of the report.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use meshara_messaging::MessageId;

/// Violations kept; the first ones tell the story.
const MAX_VIOLATIONS: usize = 20;

#[derive(Debug)]
struct Message {
    from: usize,
    to: usize,
    delivered: bool,
    acked: bool,
}

/// Counters of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MessageCounts {
    /// Taken by the sender's core.
    pub submitted: u64,
    /// Durable at the receiver.
    pub delivered: u64,
    /// Acknowledged to the sender.
    pub acked: u64,
    /// Refused by the sender's core: no room.
    pub refused: u64,
}

/// After the last change of a table or flag anywhere, frames may meet nodes that don't know of it yet for this long: a flood
/// crosses 33 links of 5 ms with a batch of 10 ms at each in less.
const SETTLE: Duration = Duration::from_millis(500);

/// What must hold, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct Check {
    messages: HashMap<MessageId, Message>,
    /// The newest message delivered from one node to another.
    newest: BTreeMap<(usize, usize), MessageId>,
    pub(crate) counts: MessageCounts,
    /// Loops seen soon after a fault.
    pub(crate) transient_loops: u64,
    /// Messages that died with their sender before its disk had them.
    pub(crate) lost_with_crashes: u64,
    /// The last time that something was broken or repaired on purpose.
    disturbed_at: Duration,
    transient: Duration,
    /// The last time that a node's table or a link's flag changed.
    changed_at: Duration,
    pub(crate) violations: Vec<String>,
}

impl Check {
    pub(crate) fn new(transient: Duration) -> Self {
        Self { transient, ..Self::default() }
    }

    /// A fault or repair happens now.
    pub(crate) fn disturb(&mut self, now: Duration) {
        self.disturbed_at = self.disturbed_at.max(now);
    }

    /// A node's table or a link's flag changes now.
    pub(crate) fn changed(&mut self, now: Duration) {
        self.changed_at = now;
    }

    /// Whether the effects of the last fault must be over.
    pub(crate) fn quiet(&self, now: Duration) -> bool {
        now > self.disturbed_at + self.transient
    }

    pub(crate) fn violation(&mut self, now: Duration, what: &str) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(format!("at {:.6} s: {what}", now.as_secs_f64()));
        }
    }

    /// A frame came to a node for the second time.
    pub(crate) fn looped(&mut self, now: Duration, path: &[usize], at: usize) {
        if self.quiet(now) && now > self.changed_at + SETTLE {
            self.violation(now, &format!("forwarding loop: {path:?} and {at} again"));
        } else {
            self.transient_loops += 1;
        }
    }

    pub(crate) fn submitted(&mut self, id: MessageId, from: usize, to: usize) {
        self.counts.submitted += 1;
        self.messages.insert(id, Message { from, to, delivered: false, acked: false });
    }

    /// A message is durable at `to`.
    pub(crate) fn delivered(&mut self, now: Duration, id: MessageId, from: usize, to: usize) {
        self.counts.delivered += 1;
        let known = self.messages.get_mut(&id);
        let problem = match known {
            None => Some("never submitted"),
            Some(message) if (message.from, message.to) != (from, to) => Some("meant for another node"),
            Some(message) if message.delivered => Some("delivered twice"),
            Some(message) => {
                message.delivered = true;
                None
            }
        };
        let newest = self.newest.entry((from, to)).or_insert(id);
        let overtaken = *newest > id;
        *newest = (*newest).max(id);
        if let Some(problem) = problem {
            self.violation(now, &format!("message {id} from {from} to {to}: {problem}"));
        } else if overtaken {
            self.violation(now, &format!("message {id} from {from} to {to}: delivered after a later one"));
        }
    }

    /// The sender was told that a message arrived.
    pub(crate) fn acked(&mut self, now: Duration, id: MessageId) {
        self.counts.acked += 1;
        match self.messages.get_mut(&id) {
            Some(message) if message.delivered => message.acked = true,
            Some(_) => self.violation(now, &format!("message {id}: acknowledged but not stored")),
            None => self.violation(now, &format!("message {id}: acknowledged but never submitted")),
        }
    }

    /// Messages of a crashed node that neither its disk nor the receiver holds can't come any more.
    pub(crate) fn crashed(&mut self, node: usize, on_disk: &std::collections::BTreeSet<MessageId>) {
        let before = self.messages.len();
        self.messages.retain(|id, message| message.from != node || message.delivered || on_disk.contains(id));
        self.lost_with_crashes += (before - self.messages.len()) as u64;
    }

    /// Between whom messages wait, and how many.
    pub(crate) fn pending(&self) -> BTreeMap<(usize, usize), u64> {
        let mut pending = BTreeMap::new();
        for message in self.messages.values().filter(|message| !message.acked && !message.delivered) {
            *pending.entry((message.from, message.to)).or_default() += 1;
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_must_not_be() {
        let s = Duration::from_secs;
        let id = |n: u8| MessageId::from_bytes([n; 16]);
        let mut check = Check::new(s(1));
        check.submitted(id(1), 0, 1);
        check.submitted(id(2), 0, 1);
        check.acked(s(1), id(1));
        check.delivered(s(1), id(2), 0, 1);
        check.delivered(s(1), id(2), 0, 1);
        check.delivered(s(1), id(1), 0, 1);
        check.delivered(s(1), id(3), 0, 1);
        let found = check.violations.join("\n");
        for what in ["but not stored", "delivered twice", "after a later one", "never submitted"] {
            assert!(found.contains(what), "{what} in {found}");
        }
        check.disturb(s(5));
        check.looped(s(6), &[1, 2], 1);
        assert_eq!(check.transient_loops, 1);
        check.looped(s(7), &[1, 2], 1);
        assert!(check.violations.iter().any(|v| v.contains("forwarding loop")));
    }
}
