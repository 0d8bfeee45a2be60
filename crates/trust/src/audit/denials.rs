//! Denials by the thousand become a line now and then: who, what, by which rule, how often.

use std::collections::BTreeMap;
use std::time::Duration;

use meshara_identity::{NodeId, UnixMillis};

use super::event::{Event, Words};

/// How often denials become lines. The first of a kind waits no longer than this.
pub const DENIALS_EVERY: Duration = Duration::from_secs(1);

/// Most different denials between two times: 100 lines of 350 bytes a second turn the trail over in an hour, which a
/// flood from many nodes at once may do.
const DIFFERENT_MAX: usize = 100;

/// Denials since the last lines.
#[derive(Debug, Default)]
pub struct Denials {
    counts: BTreeMap<(NodeId, Words, Words), u64>,
    /// Those of each node that found no room, counted together.
    rest: BTreeMap<NodeId, u64>,
    /// Those of nodes that found no room either.
    uncounted: u64,
    /// When the last lines were.
    written: Option<UnixMillis>,
}

impl Denials {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one.
    pub fn add(&mut self, node: NodeId, target: &str, rule: &str) {
        let key = (node, Words::clean(target), Words::clean(rule));
        if self.counts.len() < DIFFERENT_MAX || self.counts.contains_key(&key) {
            let count = self.counts.entry(key).or_default();
            *count = count.saturating_add(1);
        } else if self.rest.len() < DIFFERENT_MAX || self.rest.contains_key(&node) {
            let count = self.rest.entry(node).or_default();
            *count = count.saturating_add(1);
        } else {
            self.uncounted = self.uncounted.saturating_add(1);
        }
    }

    /// How many had no room at all since this was asked last.
    pub fn take_uncounted(&mut self) -> u64 {
        std::mem::take(&mut self.uncounted)
    }

    /// The events of what was counted, once [`DENIALS_EVERY`] has passed; else none.
    pub fn take(&mut self, now: UnixMillis) -> Vec<Event> {
        let early = self.written.is_some_and(|at| at.distance(now) < DENIALS_EVERY);
        if early || self.counts.is_empty() {
            return Vec::new();
        }
        self.written = Some(now);
        self.finish()
    }

    /// The events of what was counted, however lately others became lines: when the node stops.
    pub fn finish(&mut self) -> Vec<Event> {
        let counted = std::mem::take(&mut self.counts);
        let rest = std::mem::take(&mut self.rest);
        let counted = counted.into_iter().map(|((node, target, rule), count)| Event::Denial {
            node,
            target,
            rule,
            count,
        });
        let rest = rest.into_iter().map(|(node, count)| Event::Denial {
            node,
            target: Words::clean("several"),
            rule: Words::clean("several"),
            count,
        });
        counted.chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

    #[test]
    fn what_finds_no_line_at_all_is_counted_as_such() {
        let mut denials = Denials::new();
        for node in 0..250 {
            denials.add(NodeId([node; 32]), "service:a/b", "default");
        }
        assert_eq!(denials.take_uncounted(), 250 - 2 * DIFFERENT_MAX as u64);
        assert_eq!(denials.take_uncounted(), 0);
        assert_eq!(denials.take(NOW).len(), 2 * DIFFERENT_MAX);
    }

    #[test]
    fn a_flood_becomes_few_lines_and_nothing_is_lost_from_the_counts() {
        let mut denials = Denials::new();
        let node = NodeId([1; 32]);
        for round in 0..1000 {
            denials.add(node, &format!("service:a/{}", round % 300), "default");
        }
        let events = denials.take(NOW);
        assert_eq!(events.len(), DIFFERENT_MAX + 1);
        let counts = events.iter().map(|event| match event {
            Event::Denial { count, .. } => *count,
            _ => 0,
        });
        assert_eq!(counts.sum::<u64>(), 1000);
        denials.add(node, "x", "y");
        assert_eq!(denials.take(NOW), []);
        assert_eq!(denials.take(NOW.plus(DENIALS_EVERY)).len(), 1);
        assert_eq!(denials.take(NOW.plus(DENIALS_EVERY * 2)), []);
        // The last ones, when the node stops.
        denials.add(node, "x", "y");
        assert_eq!(denials.take(NOW.plus(DENIALS_EVERY)), []);
        assert_eq!((denials.finish().len(), denials.finish().len()), (1, 0));
    }
}
