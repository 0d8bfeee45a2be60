//! Rates of rules, and their token buckets: the state that a pure decision doesn't have.

use std::collections::HashMap;

use meshara_identity::{NodeId, UnixMillis};
use serde::{Deserialize, Serialize};

use super::compiled::Decision;

/// Why a rate isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// Not `N/s`, `N/min` or `N/h`.
    #[error("a rate reads N/s, N/min or N/h with N from 1 to 1000000, found {0:?}")]
    BadRate(String),
    /// A burst of none, or of too many.
    #[error("a burst is 1 to 1000000")]
    BadBurst,
}

/// Most calls of a rate and of a burst; keeps the bucket's arithmetic far from overflow.
const RATE_MAX: u32 = 1_000_000;

/// A token bucket: so many in so long, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Rate {
    pub(super) count: u32,
    pub(super) per_seconds: u32,
    pub(super) burst: u32,
}

impl TryFrom<(u32, u32, u32)> for Rate {
    type Error = RateError;

    fn try_from((count, per_seconds, burst): (u32, u32, u32)) -> Result<Self, RateError> {
        if !(1..=RATE_MAX).contains(&count) || ![1, 60, 3600].contains(&per_seconds) {
            return Err(RateError::BadRate(format!("{count}/{per_seconds}")));
        }
        if !(1..=RATE_MAX).contains(&burst) {
            return Err(RateError::BadBurst);
        }
        Ok(Self { count, per_seconds, burst })
    }
}

impl From<Rate> for (u32, u32, u32) {
    fn from(rate: Rate) -> Self {
        (rate.count, rate.per_seconds, rate.burst)
    }
}

impl Rate {
    /// As in a policy file: `N/s`, `N/min` or `N/h`, and the burst if it isn't `N`. What [`parse`](Self::parse) reads.
    pub fn words(&self) -> (String, Option<u32>) {
        let unit = match self.per_seconds {
            1 => "s",
            60 => "min",
            _ => "h",
        };
        (format!("{}/{unit}", self.count), (self.burst != self.count).then_some(self.burst))
    }

    /// From the words of a policy file; without `burst` as many at once as in one unit of time.
    pub fn parse(text: &str, burst: Option<u32>) -> Result<Self, RateError> {
        let bad = || RateError::BadRate(text.to_owned());
        let (count, unit) = text.split_once('/').ok_or_else(bad)?;
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            _ => return Err(bad()),
        };
        let count: u32 = count.parse().map_err(|_| bad())?;
        match Self::try_from((count, seconds, burst.unwrap_or(count))) {
            Err(RateError::BadRate(_)) => Err(bad()),
            other => other,
        }
    }
}

/// Most buckets: ten rated rules for each node of a mesh of 1,000 that all call one node, and room. About 1.5 MB.
pub const BUCKETS_MAX: usize = 16_384;

/// How often buckets that are full again are looked for when the table is full: the search costs a pass over it.
const SWEEP_EVERY_MS: u64 = 1000;

/// Tokens in units of `1 / per_ms` of a token, so that nothing is ever rounded.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: Rate,
    level: u64,
    at: UnixMillis,
}

impl Bucket {
    fn full(rate: Rate, at: UnixMillis) -> Self {
        Self { rate, level: capacity(rate), at }
    }

    fn refill(&mut self, now: UnixMillis) {
        let passed = now.0.saturating_sub(self.at.0);
        let gained = passed.saturating_mul(u64::from(self.rate.count));
        self.level = self.level.saturating_add(gained).min(capacity(self.rate));
        // A clock that went back gains nothing until it is where it was.
        self.at = self.at.max(now);
    }
}

/// One token in the bucket's units: the milliseconds in which `count` tokens come.
fn token(rate: Rate) -> u64 {
    u64::from(rate.per_seconds) * 1000
}

fn capacity(rate: Rate) -> u64 {
    u64::from(rate.burst) * token(rate)
}

/// Buckets of nodes by rule.
#[derive(Debug, Default)]
pub struct RateTable {
    /// By node and position of the rule; `None` is the limit that evidence sets.
    buckets: HashMap<(NodeId, Option<usize>), Bucket>,
    /// When it was swept last, ms.
    swept_at: u64,
}

impl RateTable {
    /// No buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a token for each rate of the decision, or none: whether it still allows. A table that is full denies.
    pub fn admit(&mut self, node: &NodeId, decision: &Decision<'_>, now: UnixMillis) -> bool {
        if !decision.allowed {
            return false;
        }
        let rates = [(decision.rate, decision.index), (decision.limit, None)];
        let rates = rates.into_iter().filter_map(|(rate, index)| Some((rate?, (*node, index))));
        let rates: Vec<_> = rates.collect();
        let ready = rates.iter().all(|(rate, key)| self.ready(*rate, *key, now));
        if ready {
            for (rate, key) in rates {
                if let Some(bucket) = self.buckets.get_mut(&key) {
                    bucket.level = bucket.level.saturating_sub(token(rate));
                }
            }
        }
        ready
    }

    /// Forgets everything: the positions of a new policy are other rules.
    pub fn clear(&mut self) {
        self.buckets.clear();
    }

    /// Whether the bucket has a token; makes it if there is room.
    fn ready(&mut self, rate: Rate, key: (NodeId, Option<usize>), now: UnixMillis) -> bool {
        if !self.buckets.contains_key(&key) && !self.make_room(now) {
            return false;
        }
        let bucket = self.buckets.entry(key).or_insert_with(|| Bucket::full(rate, now));
        if bucket.rate != rate {
            *bucket = Bucket::full(rate, now);
        }
        bucket.refill(now);
        bucket.level >= token(rate)
    }

    fn make_room(&mut self, now: UnixMillis) -> bool {
        if self.buckets.len() >= BUCKETS_MAX && now.0.saturating_sub(self.swept_at) >= SWEEP_EVERY_MS {
            self.swept_at = now.0;
            // A bucket that is full again says no more than none.
            self.buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.level < capacity(bucket.rate)
            });
        }
        self.buckets.len() < BUCKETS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

    fn allow(rate: &str, burst: u32) -> Decision<'static> {
        let rate = Some(Rate::parse(rate, Some(burst)).unwrap());
        Decision { allowed: true, rule: "x", index: Some(0), rate, limit: None }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut table = RateTable::new();
        let (node, decision) = (NodeId([1; 32]), allow("6/min", 3));
        let mut taken = |ms: u64| table.admit(&node, &decision, UnixMillis(NOW.0 + ms));
        assert_eq!([taken(0), taken(0), taken(0), taken(0)], [true, true, true, false]);
        assert!(!taken(9_999));
        assert!(taken(10_000) && !taken(10_000));
        assert!(taken(5_000_000) && taken(5_000_000) && taken(5_000_000) && !taken(5_000_000));
        // A clock that goes back gives nothing.
        assert!(!taken(0) && !taken(5_000_001));
    }

    #[test]
    fn both_rates_must_be_kept_and_a_refusal_takes_nothing() {
        let mut table = RateTable::new();
        let limit = allow("1/s", 1).rate;
        let decision = Decision { limit, ..allow("2/h", 2) };
        let node = NodeId([1; 32]);
        let mut taken = |ms: u64| table.admit(&node, &decision, UnixMillis(NOW.0 + ms));
        assert!(taken(0) && !taken(1) && !taken(2) && taken(1000) && !taken(2000));
        let denied = Decision { allowed: false, ..decision };
        assert!(!RateTable::new().admit(&node, &denied, NOW));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = RateTable::new();
        let decision = allow("1/s", 1);
        let node = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(id)
        };
        for number in 0..BUCKETS_MAX {
            assert!(table.admit(&node(number), &decision, NOW));
        }
        assert!(!table.admit(&node(BUCKETS_MAX), &decision, NOW), "full of buckets in use");
        assert!(table.admit(&node(BUCKETS_MAX), &decision, UnixMillis(NOW.0 + 1000)));
        assert_eq!(table.buckets.len(), 1);
    }
}
