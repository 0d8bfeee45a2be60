//! A token bucket in integer time.

use std::time::Duration;

/// Lets `burst` actions pass at once and one more every `every`.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    burst: u32,
    every: Duration,
    at: Duration,
}

impl Bucket {
    pub(crate) const fn new(burst: u32, every: Duration, now: Duration) -> Self {
        Self { tokens: burst, burst, every, at: now }
    }

    /// Takes `count` tokens if there are as many.
    pub(crate) fn take(&mut self, count: u32, now: Duration) -> bool {
        let every = self.every.as_nanos().max(1);
        let gained = now.saturating_sub(self.at).as_nanos() / every;
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(gained);
        if self.tokens >= self.burst {
            self.tokens = self.burst;
            self.at = now;
        } else {
            self.at += self.every.saturating_mul(gained);
        }
        if self.tokens < count {
            return false;
        }
        self.tokens -= count;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refills_up_to_the_burst() {
        let ms = Duration::from_millis;
        let mut bucket = Bucket::new(2, ms(100), ms(0));
        assert!(bucket.take(1, ms(0)) && bucket.take(1, ms(0)) && !bucket.take(1, ms(99)));
        assert!(bucket.take(1, ms(100)) && !bucket.take(1, ms(199)));
        assert!(bucket.take(2, ms(10_000)) && !bucket.take(1, ms(10_000)));
    }
}
