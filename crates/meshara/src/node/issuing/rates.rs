//! How often one node may have certificates: each is an entry of a log that is never cut, so one member must not make it grow as it likes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meshara_identity::NodeId;

/// Certificates in the life of one, in the long run. An honest node takes two; what it asks again and again, because answers are lost, it asks
/// at this rate.
const PER_LIFE: u32 = 20;
/// Certificates that a node may save up: restarts, several issuers that it asks in a row, a new ticket.
const BURST: f64 = 10.0;
/// Shortest pause between two beyond that: lives are 20 s at least, but for tests.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Nodes counted at a time; more than a mesh is made for renew within the time that a bucket takes to fill. The one that asked longest ago is
/// forgotten first, which gives it a full bucket.
const NODES: usize = 16_384;

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    used: Instant,
    tokens: f64,
}

impl Bucket {
    /// What it holds by now, where one drop comes in each `pause`.
    fn saved(&self, pause: Duration, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.used).as_secs_f64();
        (self.tokens + since / pause.as_secs_f64()).min(BURST)
    }
}

/// The buckets of nodes of late.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<NodeId, Bucket>);

impl Rates {
    /// Whether a node would be refused another certificate. It costs nothing, so it may be asked before anything else.
    pub(super) fn spent(&self, node: &NodeId, life: Duration, now: Instant) -> bool {
        let pause = (life / PER_LIFE).max(MIN_PAUSE);
        self.0.get(node).is_some_and(|bucket| bucket.saved(pause, now) < 1.0)
    }

    /// Whether a node may have another certificate, when certificates live for `life`; it is counted then.
    pub(super) fn take(&mut self, node: NodeId, life: Duration, now: Instant) -> bool {
        let pause = (life / PER_LIFE).max(MIN_PAUSE);
        let saved = |bucket: &Bucket| bucket.saved(pause, now);
        if self.0.len() >= NODES && !self.0.contains_key(&node) {
            self.0.retain(|_, bucket| saved(bucket) < BURST);
            if self.0.len() >= NODES
                && let Some(oldest) =
                    self.0.iter().min_by_key(|(_, bucket)| bucket.used).map(|(node, _)| *node)
            {
                self.0.remove(&oldest);
            }
        }
        let bucket = self.0.entry(node).or_insert(Bucket { used: now, tokens: BURST });
        bucket.tokens = saved(bucket);
        bucket.used = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn node(number: u32) -> NodeId {
        let mut node = [0; 32];
        node[..4].copy_from_slice(&number.to_be_bytes());
        NodeId(node)
    }

    #[test]
    fn a_node_that_asks_without_end_gets_twenty_in_the_life_of_one() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut got = |node, from: Duration, seconds: u32| {
            (0..seconds * 10)
                .filter(|tenth| rates.take(node, HOUR, start + from + Duration::from_millis(100) * *tenth))
                .count()
        };
        assert_eq!(got(node(1), Duration::ZERO, 7200), BURST as usize + 2 * PER_LIFE as usize - 1);
        assert_eq!(got(node(2), HOUR, 1), BURST as usize, "another is not held");
        // After a quiet life it has the whole burst again.
        assert_eq!(got(node(1), HOUR * 3, 1), BURST as usize);
    }

    #[test]
    fn who_has_spent_all_is_known_before_anything_is_counted() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert!(!rates.spent(&node(1), HOUR, start));
        while rates.take(node(1), HOUR, start) {}
        assert!(rates.spent(&node(1), HOUR, start));
        assert!(!rates.spent(&node(1), HOUR, start + HOUR / PER_LIFE + MIN_PAUSE));
        assert!(!rates.spent(&node(2), HOUR, start));
    }

    #[test]
    fn honest_renewals_of_short_lives_are_never_held() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for life in [20, 30, 300] {
            let life = Duration::from_secs(life);
            assert!((0..1000).all(|n| rates.take(
                node(life.as_secs() as u32),
                life,
                start + life / 20 * 9 * n
            )));
        }
    }

    #[test]
    fn a_full_table_forgets_who_asked_longest_ago() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for number in 0..=NODES as u32 {
            assert!(rates.take(node(number), HOUR, start + Duration::from_micros(number.into())));
        }
        assert_eq!(rates.0.len(), NODES);
        assert!(!rates.0.contains_key(&node(0)) && rates.0.contains_key(&node(1)));
    }
}
