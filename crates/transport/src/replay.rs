//! Replay window of one link's hop frames: a sliding bitmap as in RFC 6479.

/// Words of the bitmap. 64 × 64 = 4,096 counters: some 80 GSO batches of 46 frames may overtake each other on
/// the wire before the oldest counts as a replay.
const WORDS: u64 = 64;

/// Counters that the window can still tell apart; one word is always being cleared.
const WINDOW: u64 = (WORDS - 1) * 64;

/// Remembers which counters were accepted.
#[derive(Debug)]
pub(crate) struct ReplayWindow {
    highest: u64,
    bits: [u64; WORDS as usize],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self { highest: 0, bits: [0; WORDS as usize] }
    }

    /// Accepts a counter once. Call it only after the frame's tag has been checked.
    ///
    /// Counter 0 is never sent, so that a fresh window needs no special case.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter == 0 || self.highest.saturating_sub(counter) >= WINDOW {
            return false;
        }
        let word = counter / 64;
        if counter > self.highest {
            let top = self.highest / 64;
            for step in 1..=(word - top).min(WORDS) {
                if let Some(slot) = self.bits.get_mut(((top + step) % WORDS) as usize) {
                    *slot = 0;
                }
            }
            self.highest = counter;
        }
        let Some(slot) = self.bits.get_mut((word % WORDS) as usize) else { return false };
        let bit = 1 << (counter % 64);
        let fresh = *slot & bit == 0;
        *slot |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_counter_is_accepted_at_most_once_and_recent_ones_always(
            steps in proptest::collection::vec(-6000_i64..9000, 1..400)
        ) {
            let (mut window, mut seen, mut at, mut highest) = (ReplayWindow::new(), BTreeSet::new(), 1_i64, 0_u64);
            for step in steps {
                at = (at + step).max(1);
                let counter = at as u64;
                let accepted = window.accept(counter);
                if !seen.insert(counter) {
                    prop_assert!(!accepted, "replay of {counter}");
                } else if counter + WINDOW > highest {
                    prop_assert!(accepted, "{counter} is new, highest {highest}");
                } else {
                    prop_assert!(!accepted);
                }
                highest = highest.max(counter);
            }
        }
    }

    #[test]
    fn zero_and_the_far_past_are_refused() {
        let mut window = ReplayWindow::new();
        assert!(!window.accept(0));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX - WINDOW));
        assert!(window.accept(u64::MAX - WINDOW + 1));
    }
}
