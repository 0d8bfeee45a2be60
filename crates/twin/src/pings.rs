//! Pings between two nodes, and the silences in their replies.

use std::time::Duration;

/// One stream of pings.
#[derive(Debug)]
pub(crate) struct Pinger {
    pub(crate) to: usize,
    pub(crate) every: Duration,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) on: bool,
    /// When replies came, while someone wants to know.
    replies: Vec<Duration>,
    since: Duration,
}

impl Pinger {
    pub(crate) const fn new(to: usize, every: Duration, now: Duration) -> Self {
        Self { to, every, sent: 0, received: 0, on: true, replies: Vec::new(), since: now }
    }

    pub(crate) fn reply(&mut self, now: Duration) {
        self.received += 1;
        self.replies.push(now);
    }

    /// Starts measuring anew.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.since = self.replies.last().copied().unwrap_or(now);
        self.replies.clear();
    }

    /// The longest time without a reply since the last restart, silence at the end included.
    pub(crate) fn longest_gap(&self, now: Duration) -> Duration {
        let mut last = self.since;
        let mut longest = Duration::ZERO;
        for at in self.replies.iter().chain([&now]) {
            longest = longest.max(at.saturating_sub(last));
            last = *at;
        }
        longest
    }

    /// How long ago the last reply came.
    pub(crate) fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.replies.last().copied().unwrap_or(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps() {
        let ms = Duration::from_millis;
        let mut pinger = Pinger::new(1, ms(10), ms(0));
        [10, 20, 130, 140].into_iter().for_each(|at| pinger.reply(ms(at)));
        assert_eq!(pinger.longest_gap(ms(145)), ms(110));
        assert_eq!(pinger.longest_gap(ms(500)), ms(360));
        pinger.restart(ms(150));
        assert_eq!(pinger.longest_gap(ms(190)), ms(50));
        assert_eq!(pinger.silent_for(ms(190)), ms(50));
    }
}
