//! Which connections have been decided: policy is asked once for each, and answers to what this node began need no rule.

use std::collections::HashMap;
use std::time::Duration;

use crate::packet::Flow;

/// A connection that is silent for this long may be decided anew; the longest keep-alive in common use is two hours (RFC 9293 §3.8.4).
const LIFE: Duration = Duration::from_secs(2 * 3600);
/// Connections of one peer that are remembered in each of two generations. A peer that makes more only makes its own be decided again.
const MOST: usize = 8192;

/// The decided connections with one peer. The table is bounded by two generations: what wasn't used in one is forgotten with it.
#[derive(Debug, Default)]
pub struct Flows {
    young: HashMap<Flow, bool>,
    old: HashMap<Flow, bool>,
    turned: Duration,
}

impl Flows {
    /// Whether a packet of the peer's may come in: as its connection was decided, else as `decide` says.
    pub fn comes(&mut self, now: Duration, flow: &Flow, decide: impl FnOnce(&Flow) -> bool) -> bool {
        if let Some(decided) = self.known(now, flow) {
            return decided;
        }
        let decided = decide(flow);
        self.keep(now, *flow, decided);
        decided
    }

    /// A packet goes out to the peer: what answers it may come in. A connection that was denied stays so.
    pub fn goes(&mut self, now: Duration, flow: &Flow) {
        let answer = flow.reversed();
        if self.known(now, &answer).is_none() {
            self.keep(now, answer, true);
        }
    }

    /// Decides everything anew: policy has changed.
    pub fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    fn known(&mut self, now: Duration, flow: &Flow) -> Option<bool> {
        if now.saturating_sub(self.turned) >= LIFE {
            self.turn(now);
        }
        if let Some(decided) = self.young.get(flow) {
            return Some(*decided);
        }
        let decided = self.old.remove(flow)?;
        self.keep(now, *flow, decided);
        Some(decided)
    }

    fn keep(&mut self, now: Duration, flow: Flow, decided: bool) {
        if self.young.len() >= MOST {
            self.turn(now);
        }
        self.young.insert(flow, decided);
    }

    /// Begins a generation.
    fn turn(&mut self, now: Duration) {
        self.old = std::mem::take(&mut self.young);
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::TCP;
    use crate::packet::tests::{ALICE, BOB};

    const NOW: Duration = Duration::from_secs(9);

    fn flow(source_port: u16, destination_port: u16) -> Flow {
        Flow { source: ALICE, destination: BOB, protocol: TCP, source_port, destination_port }
    }

    #[test]
    fn a_connection_is_decided_once_and_answers_are_free() {
        let mut flows = Flows::default();
        assert!(flows.comes(NOW, &flow(1, 22), |_| true));
        assert!(flows.comes(NOW, &flow(1, 22), |_| panic!("decided already")));
        assert!(!flows.comes(NOW, &flow(1, 23), |_| false));
        assert!(!flows.comes(NOW, &flow(1, 23), |_| panic!("decided already")));
        assert!(flows.comes(NOW, &flow(2, 23), |_| true), "another connection");
        flows.goes(NOW, &flow(80, 40_000).reversed());
        assert!(flows.comes(NOW, &flow(80, 40_000), |_| panic!("an answer")));
        flows.goes(NOW, &flow(1, 23).reversed());
        assert!(!flows.comes(NOW, &flow(1, 23), |_| true), "our refusal opens nothing");
        flows.forget();
        assert!(!flows.comes(NOW, &flow(1, 22), |_| false));
    }

    #[test]
    fn it_is_bounded_and_forgets_what_is_not_used() {
        let mut flows = Flows::default();
        for n in 0..=u16::MAX {
            assert!(flows.comes(NOW, &flow(1, 22), |_| n == 0), "used all the while");
            flows.comes(NOW, &flow(n, 80), |_| true);
        }
        assert!(flows.young.len() + flows.old.len() <= 2 * MOST);
        for later in 1..4 {
            flows.comes(NOW + LIFE * later, &flow(1, 443), |_| true);
        }
        assert_eq!(flows.young.len() + flows.old.len(), 1);
    }
}
