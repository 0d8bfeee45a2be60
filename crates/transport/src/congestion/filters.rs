//! What the model measures by: delivery rates of packets, and the best rate of the last rounds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times of sending that are remembered. quinn gives all packets of a transmit one time: at 27 KB each (ten small packets)
/// 2,048 are 55 MB, more than the largest window.
const TIMES: usize = 2048;
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

    /// Nothing is in flight: time until the next packet is nobody's rate.
    pub(super) fn idle(&mut self) {
        self.idle = true;
        self.times.clear();
    }

    pub(super) fn sent(&mut self, at: Instant) {
        if std::mem::take(&mut self.idle) {
            self.delivered_at = at;
            self.newest_acked = at;
        }
        if self.times.back().is_none_or(|last| last.at < at) {
            if self.times.len() == TIMES {
                self.times.pop_front();
            }
            let Self { delivered, delivered_at, newest_acked, .. } = *self;
            self.times.push_back(Sending { at, delivered, delivered_at, newest_acked });
        }
    }

    /// `acked` bytes were delivered, the newest of them sent at `sent`. Their rate in bytes a second
    /// (draft-cheng-iccrg-delivery-rate-estimation), and how much had been delivered when they left.
    pub(super) fn delivered(&mut self, now: Instant, sent: Instant, acked: u64) -> (Option<f64>, u64) {
        self.delivered += acked;
        let passed = self.times.partition_point(|sending| sending.at <= sent);
        let found = passed.checked_sub(1).and_then(|last| self.times.get(last)).copied();
        // Older packets may still be acknowledged; they say nothing new.
        self.times.drain(..passed.saturating_sub(1));
        let before = found.map_or(self.delivered, |sending| sending.delivered);
        let rate = found.and_then(|sending| {
            // The longer of both: acknowledgements that come in a burst would show a rate that never was.
            let sending_took = sending.at.saturating_duration_since(sending.newest_acked);
            let took = now.saturating_duration_since(sending.delivered_at).max(sending_took);
            let bytes = self.delivered - sending.delivered;
            (took > Duration::ZERO).then(|| bytes as f64 / took.as_secs_f64())
        });
        self.delivered_at = now;
        self.newest_acked = self.newest_acked.max(sent);
        (rate, before)
    }
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

    /// A rate seen in this round. One of a sender that had nothing more to send counts only upwards.
    pub(super) fn add(&mut self, rate: f64, app_limited: bool) {
        if let Some(first) = self.rounds.first_mut()
            && (!app_limited || rate > self.best)
        {
            *first = first.max(rate);
            self.best = self.best.max(rate);
        }
    }

    /// A round has ended. One without anything to send proves no rate outdated.
    pub(super) fn round(&mut self, app_limited: bool) {
        if app_limited {
            return;
        }
        self.rounds.rotate_right(1);
        if let Some(first) = self.rounds.first_mut() {
            *first = 0.0;
        }
        self.best = self.rounds.iter().copied().fold(0.0, f64::max);
    }
}
