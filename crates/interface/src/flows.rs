//! Which connections have been decided, and who began them: policy is asked about what a peer begins, and what answers a connection of
//! this node's needs no rule. A decision counts for as long as nothing has changed that it rests on.

use std::collections::HashMap;
use std::time::Duration;

use crate::packet::{Flow, UDP};

/// A connection that is silent for this long is forgotten; the longest keep-alive in common use is two hours (RFC 9293 §3.8.4).
const LIFE: Duration = Duration::from_secs(2 * 3600);
/// Connections of one peer that are remembered in each of two generations. A peer that makes more only makes its own be decided again.
const MOST: usize = 8192;
/// How long a decision counts when nobody tells of a change: windows of time open and close, and evidence ends, without an event.
const FRESH: Duration = Duration::from_secs(10);

/// What the policy is asked about a connection that a peer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it may begin: that counts towards the rates of rules.
    Begin,
    /// Whether it may go on. It has been counted already.
    GoOn,
}

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug)]
enum Known {
    /// This node began it.
    Ours,
    /// The peer began it.
    Theirs {
        allowed: bool,
        /// It was allowed once, so what goes out on it may be an answer.
        was_in: bool,
        /// Of the policy that decided.
        policy: u64,
        since: Duration,
    },
}

/// A bit for each port; none are kept before the first is set. It has no limit that a peer could use up.
#[derive(Debug, Default)]
struct Ports(Option<Box<[u64; 1024]>>);

impl Ports {
    fn set(&mut self, port: u16) {
        let words = self.0.get_or_insert_with(|| Box::new([0; 1024]));
        if let Some(word) = words.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    fn has(&self, port: u16) -> bool {
        let word = self.0.as_ref().and_then(|words| words.get(usize::from(port / 64)));
        word.is_some_and(|word| word >> (port % 64) & 1 == 1)
    }
}

/// The decided connections with one peer. The table is bounded by two generations: what wasn't used in one is forgotten with it.
///
/// A UDP packet doesn't tell whether it begins anything. So what goes out from a port on which the peer began something of late begins nothing:
/// else a service that sends on to a peer that is denied by now would make the connection this node's own, as soon as its entry is forgotten.
#[derive(Debug, Default)]
pub struct Flows {
    /// UDP ports of this node on which the peer began something, and those of the life before.
    begun: [Ports; 2],
    begun_since: Duration,
    young: HashMap<Flow, Known>,
    old: HashMap<Flow, Known>,
    turned: Duration,
}

impl Flows {
    /// Whether a packet of the peer's may come in: as its connection was decided, if that was by the present `policy` (a number that
    /// changes with it) and not long ago, else as `decide` says.
    pub fn comes(
        &mut self,
        now: Duration,
        policy: u64,
        flow: &Flow,
        decide: impl FnOnce(&Flow, Question) -> bool,
    ) -> bool {
        self.age(now);
        let (question, was_in) = match self.known(now, flow) {
            None => (Question::Begin, false),
            Some(Known::Ours) => return true,
            Some(Known::Theirs { allowed, policy: by, since, .. })
                if by == policy && now.saturating_sub(since) < FRESH =>
            {
                return allowed;
            }
            Some(Known::Theirs { allowed: true, .. }) => (Question::GoOn, true),
            Some(Known::Theirs { allowed: false, was_in, .. }) => (Question::Begin, was_in),
        };
        if flow.protocol == UDP {
            let [young, _] = &mut self.begun;
            young.set(flow.destination_port);
        }
        let allowed = decide(flow, question);
        self.keep(now, *flow, Known::Theirs { allowed, was_in: was_in || allowed, policy, since: now });
        allowed
    }

    /// A packet goes out to the peer. If it `begins` a connection, what answers it may come in; what the peer began, and was let in,
    /// stays the peer's. From a UDP port on which the peer began anything nothing begins: policy decides about what comes in there.
    pub fn goes(&mut self, now: Duration, flow: &Flow, begins: bool) {
        self.age(now);
        let answer = flow.reversed();
        if flow.protocol == UDP && self.begun.iter().any(|ports| ports.has(flow.source_port)) {
            return;
        }
        match self.known(now, &answer) {
            None | Some(Known::Theirs { was_in: false, .. }) if begins => {
                self.keep(now, answer, Known::Ours);
            }
            _ => {}
        }
    }

    fn known(&mut self, now: Duration, flow: &Flow) -> Option<Known> {
        if now.saturating_sub(self.turned) >= LIFE {
            self.turn(now);
        }
        if let Some(known) = self.young.get(flow) {
            return Some(*known);
        }
        let known = self.old.remove(flow)?;
        self.keep(now, *flow, known);
        Some(known)
    }

    fn keep(&mut self, now: Duration, flow: Flow, known: Known) {
        if self.young.len() >= MOST && !self.young.contains_key(&flow) {
            self.turn(now);
        }
        self.young.insert(flow, known);
    }

    /// Forgets ports on which the peer began nothing for one to two lives.
    fn age(&mut self, now: Duration) {
        if now.saturating_sub(self.begun_since) >= LIFE {
            let [young, old] = &mut self.begun;
            // Both are older than a life when nothing was asked for two.
            *old = if now.saturating_sub(self.begun_since) < 2 * LIFE {
                std::mem::take(young)
            } else {
                Ports::default()
            };
            *young = Ports::default();
            self.begun_since = now;
        }
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

    fn never(_: &Flow, question: Question) -> bool {
        panic!("decided already: {question:?}")
    }

    #[test]
    fn a_connection_is_decided_once_and_answers_are_free() {
        let mut flows = Flows::default();
        assert!(flows.comes(NOW, 1, &flow(1, 22), |_, question| question == Question::Begin));
        assert!(flows.comes(NOW, 1, &flow(1, 22), never));
        assert!(!flows.comes(NOW, 1, &flow(1, 23), |_, _| false));
        assert!(!flows.comes(NOW, 1, &flow(1, 23), never));
        assert!(flows.comes(NOW, 1, &flow(2, 23), |_, _| true), "another connection");
        flows.goes(NOW, &flow(80, 40_000).reversed(), true);
        assert!(flows.comes(NOW, 1, &flow(80, 40_000), never), "an answer");
        flows.goes(NOW, &flow(1, 23).reversed(), false);
        assert!(!flows.comes(NOW, 1, &flow(1, 23), never), "our refusal opens nothing");
        flows.goes(NOW, &flow(1, 99).reversed(), false);
        assert!(!flows.comes(NOW, 1, &flow(1, 99), |_, _| false), "nor does the middle of a connection");
    }

    #[test]
    fn another_policy_decides_anew_what_the_peer_began() {
        let mut flows = Flows::default();
        assert!(flows.comes(NOW, 1, &flow(1, 22), |_, _| true));
        assert!(!flows.comes(NOW, 1, &flow(1, 23), |_, _| false));
        flows.goes(NOW, &flow(80, 40_000).reversed(), true);

        // Denied now; what we send on it, even as if it began, makes it no connection of ours.
        assert!(!flows.comes(NOW, 2, &flow(1, 22), |_, question| question == Question::Begin));
        flows.goes(NOW, &flow(1, 22).reversed(), false);
        flows.goes(NOW, &flow(1, 22).reversed(), true);
        assert!(!flows.comes(NOW, 2, &flow(1, 22), never));
        assert!(flows.comes(NOW, 2, &flow(1, 23), |_, question| question == Question::Begin), "allowed now");
        assert!(flows.comes(NOW, 2, &flow(80, 40_000), never), "ours needs no rule");

        // The table was asked before the packet came in: what goes out first changes nothing.
        flows.goes(NOW, &flow(1, 23).reversed(), true);
        assert!(!flows.comes(NOW, 3, &flow(1, 23), |_, _| false));

        // Never let in, then begun by us.
        assert!(!flows.comes(NOW, 3, &flow(5353, 5353), |_, _| false));
        flows.goes(NOW, &flow(5353, 5353).reversed(), true);
        assert!(flows.comes(NOW, 3, &flow(5353, 5353), never));
    }

    #[test]
    fn what_a_service_sends_on_to_a_denied_peer_makes_no_connection_of_this_nodes() {
        let udp = |from, to| Flow { protocol: UDP, ..flow(from, to) };
        let mut flows = Flows::default();
        assert!(flows.comes(NOW, 1, &udp(9, 5353), |_, _| true));
        assert!(!flows.comes(NOW, 2, &udp(9, 5353), |_, _| false), "denied by now");
        // Its entry is driven out by others, allowed and denied; the service still sends.
        for n in 0..=u16::MAX {
            flows.comes(NOW, 2, &udp(n, 1000), |_, _| n % 2 == 0);
        }
        flows.goes(NOW, &udp(9, 5353).reversed(), true);
        assert!(!flows.comes(NOW, 2, &udp(9, 5353), |_, _| false), "asked");
        // So after a restart, once it has been heard; and another port of the peer's makes no difference.
        let mut flows = Flows::default();
        assert!(!flows.comes(NOW, 2, &udp(8, 5353), |_, _| false));
        flows.goes(NOW, &udp(9, 5353).reversed(), true);
        assert!(!flows.comes(NOW, 2, &udp(9, 5353), |_, _| false));
        // From any other port this node's questions are answered.
        flows.goes(NOW, &udp(53, 40_000).reversed(), true);
        assert!(flows.comes(NOW, 2, &udp(53, 40_000), never));
        // A port on which the peer was silent for long begins anew.
        let later = NOW + 2 * LIFE;
        flows.goes(later, &udp(9, 5353).reversed(), true);
        assert!(flows.comes(later, 2, &udp(9, 5353), never));
    }

    #[test]
    fn a_decision_counts_for_a_while() {
        let mut flows = Flows::default();
        assert!(flows.comes(NOW, 1, &flow(1, 22), |_, _| true));
        assert!(!flows.comes(NOW, 1, &flow(1, 23), |_, _| false));
        let later = NOW + FRESH;
        assert!(flows.comes(later - Duration::from_millis(1), 1, &flow(1, 22), never));
        assert!(!flows.comes(later, 1, &flow(1, 22), |_, question| question == Question::Begin));
        assert!(flows.comes(later, 1, &flow(1, 23), |_, question| question == Question::Begin));
    }

    #[test]
    fn it_is_bounded_and_forgets_what_is_not_used() {
        let mut flows = Flows::default();
        for n in 0..=u16::MAX {
            assert!(flows.comes(NOW, 1, &flow(1, 22), |_, _| n == 0), "used all the while");
            flows.comes(NOW, 1, &flow(n, 80), |_, _| true);
        }
        assert!(flows.young.len() + flows.old.len() <= 2 * MOST);
        for later in 1..4 {
            flows.comes(NOW + LIFE * later, 1, &flow(1, 443), |_, _| true);
        }
        assert_eq!(flows.young.len() + flows.old.len(), 1);
    }
}
