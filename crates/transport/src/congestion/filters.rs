//! What the model measures by: delivery rates of packets, and the best rate of the last rounds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times of sending that are remembered. When there are more, every second is forgotten: what was sent then counts for the one before.
const TIMES: usize = 2048;
/// Times that are remembered while nothing is known to be in flight: acknowledgements of the other direction are told as sent, too.
const IDLE_TIMES: usize = 16;
/// Rounds whose best rate counts: a cycle of probing and two more (draft-ietf-ccwg-bbr §2.6 has two cycles; a mesh's paths change).
const ROUNDS: usize = 10;

/// What was known when something was sent.
#[derive(Debug, Clone, Copy)]
struct Sending {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet was sent that had been acknowledged last.
    newest_acked: Instant,
}

/// What was sent and delivered.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    times: VecDeque<Sending>,
    delivered: u64,
    delivered_at: Instant,
    newest_acked: Instant,
    idle: bool,
}

impl Sent {
    pub(super) fn new(now: Instant) -> Self {
        Self { times: VecDeque::new(), delivered: 0, delivered_at: now, newest_acked: now, idle: true }
    }

    /// Bytes delivered in all.
    pub(super) fn total(&self) -> u64 {
        self.delivered
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.times.len()
    }

    /// Nothing is in flight: time until the next packet is nobody's rate.
    pub(super) fn idle(&mut self) {
        self.idle = true;
        self.times = VecDeque::new();
    }

    pub(super) fn sent(&mut self, at: Instant) {
        if self.idle && self.times.len() == IDLE_TIMES {
            self.times.clear();
        }
        if self.idle && self.times.is_empty() {
            self.delivered_at = at;
            self.newest_acked = at;
        }
        if self.times.back().is_some_and(|last| last.at >= at) {
            return;
        }
        if self.times.len() == TIMES {
            let mut keep = false;
            self.times.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let Self { delivered, delivered_at, newest_acked, .. } = *self;
        self.times.push_back(Sending { at, delivered, delivered_at, newest_acked });
    }

    /// `acked` bytes were delivered, the newest of them sent at `sent`. `None` when nothing is known of that time, or no time has passed.
    pub(super) fn delivered(&mut self, now: Instant, sent: Instant, acked: u64) -> Option<Sample> {
        self.idle = false;
        self.delivered += acked;
        let passed = self.times.partition_point(|sending| sending.at <= sent);
        let found = passed.checked_sub(1).and_then(|last| self.times.get(last)).copied();
        // Older packets may still be acknowledged; they say nothing new.
        self.times.drain(..passed.saturating_sub(1));
        let sample = found.and_then(|sending| {
            // The longer of both: acknowledgements that come in a burst would show a rate that never was.
            let sending_took = sending.at.saturating_duration_since(sending.newest_acked);
            let took = now.saturating_duration_since(sending.delivered_at).max(sending_took);
            let bytes = self.delivered - sending.delivered;
            let rate = bytes as f64 / took.as_secs_f64();
            (took > Duration::ZERO).then_some(Sample { rate, delivered_before: sending.delivered })
        });
        self.delivered_at = now;
        self.newest_acked = self.newest_acked.max(sent);
        sample
    }
}

/// What the newest packet of an acknowledgement tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Delivery rate in bytes a second (draft-cheng-iccrg-delivery-rate-estimation).
    pub(super) rate: f64,
    /// How much had been delivered when it left.
    pub(super) delivered_before: u64,
}

/// The best rate of the last rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    rounds: [f64; ROUNDS],
    /// Of the rounds before this one and of it.
    best: f64,
}

impl Rates {
    /// Bytes a second; 0 when nothing is known.
    pub(super) fn best(&self) -> f64 {
        self.best
    }

    /// The best of the last `rounds` in which any was seen, this one included.
    pub(super) fn latest(&self, rounds: usize) -> f64 {
        self.rounds.iter().copied().filter(|rate| *rate > 0.0).take(rounds).fold(0.0, f64::max)
    }

    /// A rate seen in this round. One of a sender that had nothing more to send counts only upwards.
    pub(super) fn add(&mut self, rate: f64, app_limited: bool) {
        if let Some(first) = self.rounds.first_mut()
            && (!app_limited || rate > self.best)
        {
            *first = first.max(rate);
            self.best = self.best.max(rate);
        }
    }

    /// A round has ended. One without anything to send proves no rate outdated, nor does one in which none was seen.
    pub(super) fn round(&mut self, app_limited: bool) {
        if app_limited || self.rounds.first().is_none_or(|rate| *rate == 0.0) {
            return;
        }
        self.rounds.rotate_right(1);
        if let Some(first) = self.rounds.first_mut() {
            *first = 0.0;
        }
        self.best = self.rounds.iter().copied().fold(0.0, f64::max);
    }
}
