//! An ordered set of deadlines: few inputs and no hash order.

use std::{collections::BTreeSet, time::Duration};

use meshara_identity::NodeId;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Ask for a session to this destination again.
    Connect(NodeId),
    /// Ask this silent destination where it stands.
    Probe(NodeId),
    /// Write the removal of acknowledged messages.
    Settle,
    /// Try the store again after it failed.
    StoreRetry,
    /// Look for messages past their time to live.
    Expiry,
}

/// Deadlines in order of time, then of kind and node.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// Arms `timer`; `slot` is where its owner remembers the deadline, so that there is never more than one.
    pub(crate) fn arm(&mut self, slot: &mut Option<Duration>, at: Duration, timer: Timer) {
        self.clear(slot, timer);
        *slot = Some(at);
        self.deadlines.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, slot: &mut Option<Duration>, timer: Timer) {
        if let Some(old) = slot.take() {
            self.deadlines.remove(&(old, timer));
        }
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes the next timer due at `now`; its owner must empty its slot.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.deadlines.pop_first().map(|(_, timer)| timer)
    }
}
