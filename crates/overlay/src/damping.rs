//! Damping of flapping links: bad news travels at once, good news waits longer each time.
//!
//! A damped link is advertised at [`PENALTY`] more, so it is used only where nothing else is left: damping never cuts
//! the last route to a node.

use std::time::Duration;

/// Added to a damped link's cost, µs: more than any sensible path costs.
pub(crate) const PENALTY: u32 = 10_000_000;
/// First hold after the second flap; doubles with each further one.
const FIRST_HOLD: Duration = Duration::from_secs(1);
/// Longest hold: a link that heals for good is used again within half a minute.
const MAX_HOLD: Duration = Duration::from_secs(30);
/// One flap is forgiven in this time of quiet.
const FORGIVE: Duration = Duration::from_secs(30);

/// The flaps of one neighbour's links.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damping {
    flaps: u32,
    changed: Duration,
    hold_until: Duration,
}

impl Damping {
    /// A good link failed.
    pub(crate) fn failed(&mut self, now: Duration) {
        self.forgive(now);
        self.flaps = (self.flaps + 1).min(16);
        self.changed = now;
    }

    /// It is good again. The first failure costs nothing.
    pub(crate) fn recovered(&mut self, now: Duration) {
        if let Some(doublings) = self.flaps.checked_sub(2) {
            let hold = FIRST_HOLD.saturating_mul(1 << doublings.min(5)).min(MAX_HOLD);
            self.hold_until = now + hold;
        }
    }

    /// Whether the link is to be advertised with the penalty.
    pub(crate) fn damped(&self, now: Duration) -> bool {
        now < self.hold_until
    }

    /// Whether nothing is left to remember.
    pub(crate) fn forgotten(&mut self, now: Duration) -> bool {
        self.forgive(now);
        self.flaps == 0 && !self.damped(now)
    }

    fn forgive(&mut self, now: Duration) {
        while self.flaps > 0 && now.saturating_sub(self.changed) >= FORGIVE {
            self.flaps -= 1;
            self.changed += FORGIVE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_is_free_and_later_ones_double() {
        let s = Duration::from_secs;
        let mut damping = Damping::default();
        let holds: Vec<_> = (0..9)
            .map(|_| {
                damping.failed(s(1));
                damping.recovered(s(1));
                (damping.hold_until.saturating_sub(s(1))).as_secs()
            })
            .collect();
        assert_eq!(holds, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(damping.damped(s(30)) && !damping.damped(s(31)));
        assert!(!damping.forgotten(s(100)) && damping.forgotten(s(1 + 9 * 30)));
    }
}
