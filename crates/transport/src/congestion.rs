//! Congestion control of sessions by a model of the path: its delivery rate and its shortest round trip (the idea of BBR,
//! draft-ietf-ccwg-bbr), so that random loss doesn't slow it and queues stay short.
//!
//! quinn asks a controller for a window only, and paces at 1.25 windows a round trip. So this one steers by the window alone: it
//! stands at what fills the path, plus [`SLACK`]; two rounds in nine go above, to find a rate that has grown, and the next
//! two below, to see the path without our queue. It knows nothing of packets, frames or the overlay.

mod filters;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use filters::{Rates, Sent};

/// More in flight than the path holds, as time at its rate: acknowledgements come in bursts, and either end may have to wait for a
/// processor. It is also the queue that stands at the bottleneck.
const SLACK: Duration = Duration::from_millis(2);
/// Window of the start in path contents: enough to double the rate each round.
const STARTUP_GAIN: f64 = 2.0;
/// The start has found the rate when it grew by less than this in a round …
const GROWTH: f64 = 1.25;
/// … for so many rounds.
const FLAT_ROUNDS: u32 = 3;
/// It has, too, when every trip of a round is longer than the shortest by this share of it and twice [`SLACK`]: the queue grows, as in
/// HyStart++ (RFC 9406).
const STARTUP_QUEUE: f64 = 0.25;
/// A probe asks for a quarter more.
const UP_GAIN: f64 = 1.25;
/// In its first round the quarter is sent, in the second it is acknowledged.
const UP_ROUNDS: u64 = 2;
/// A probe that found this much more is followed by the next at once.
const FOUND: f64 = 1.1;
/// The rounds after it stay below what the path holds, so that its queue empties.
const DOWN_GAIN: f64 = 0.95;
/// The first of them still sees what the probe sent, the second sees the path without our queue.
const DOWN_ROUNDS: u64 = 2;
/// Rounds between those below and the next probe.
const CRUISE_ROUNDS: u64 = 5;
/// The shortest round trip is measured anew when none came near it for this long (draft-ietf-ccwg-bbr §2.13.3).
const MIN_RTT_AGE: Duration = Duration::from_secs(10);
/// Window while it is measured, in path contents.
const PROBE_RTT_GAIN: f64 = 0.5;
/// It takes as long at least: one stall of a virtual machine's clock must not be all that it sees.
const PROBE_RTT: Duration = Duration::from_millis(20);
/// A round trip within this factor of the shortest confirms it.
const CONFIRMS: f64 = 1.02;
/// If even the round below sees every trip longer than the shortest known by this share of it, beyond what our queue explains, the
/// path has changed (a mesh re-routes), and waiting for [`MIN_RTT_AGE`] would cost ten slow seconds.
const CHANGED: f64 = 0.5;
/// Packets that may always be in flight: fewer could leave acknowledgements to their timer.
const LEAST_PACKETS: u64 = 4;

/// Makes [`Model`]s.
#[derive(Debug, Clone, Copy)]
pub struct ModelConfig {
    /// Window in bytes before anything is known.
    pub initial_window: u64,
}

impl ControllerFactory for ModelConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Model::new(now, self.initial_window, current_mtu))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// The window grows by what is acknowledged, until the rate doesn't.
    Startup { best: f64, flat: u32 },
    /// What the start put into queues leaves them.
    Drain,
    /// Rounds with more than the path is known to hold, until this one; the rate before them.
    Up { until: u64, rate: f64 },
    /// Rounds with less, until this one.
    Down { until: u64 },
    /// Rounds with what it holds, until this one.
    Cruise { until: u64 },
    /// The shortest trip is measured; since when the flight has been small, and the shortest seen.
    ProbeRtt { since: Option<Instant>, shortest: Option<Duration> },
}

/// The controller of one path.
#[derive(Debug, Clone)]
pub struct Model {
    mtu: u64,
    initial_window: u64,
    window: u64,
    state: State,
    sent: Sent,
    rates: Rates,
    min_rtt: Option<Duration>,
    /// When a round trip last came near the shortest.
    min_rtt_at: Instant,
    /// A round ends when what was sent after its beginning is acknowledged.
    round: u64,
    round_ends: u64,
    /// The shortest trip of this round.
    round_rtt: Option<Duration>,
    /// Of the acknowledgement being read: bytes, and when its newest packet was sent.
    acked: u64,
    newest: Option<Instant>,
    app_limited: bool,
}

impl Model {
    fn new(now: Instant, initial_window: u64, mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            initial_window,
            window: initial_window,
            state: State::Startup { best: 0.0, flat: 0 },
            sent: Sent::new(now),
            rates: Rates::default(),
            min_rtt: None,
            min_rtt_at: now,
            round: 0,
            round_ends: 0,
            round_rtt: None,
            acked: 0,
            newest: None,
            app_limited: false,
        }
    }

    /// Bytes that the path holds at `gain` times its rate, and what arrives in `more` besides, which is two packets at least: on a slow
    /// path one is being sent while another waits for its acknowledgement.
    fn contents(&self, gain: f64, more: Duration) -> Option<u64> {
        let rate = self.rates.best();
        let held = (rate * self.min_rtt?.as_secs_f64() * gain) as u64;
        let besides = if more.is_zero() { 0 } else { ((rate * more.as_secs_f64()) as u64).max(2 * self.mtu) };
        (rate > 0.0).then(|| (held + besides).max(LEAST_PACKETS * self.mtu))
    }

    fn acknowledged(&mut self, sent: Instant, bytes: u64, app_limited: bool) {
        self.acked += bytes;
        self.newest = self.newest.max(Some(sent));
        self.app_limited = app_limited;
    }

    /// Everything of one acknowledgement is known.
    fn acknowledgement_ends(&mut self, now: Instant, in_flight: u64) {
        let (acked, newest) = (std::mem::take(&mut self.acked), self.newest.take());
        if let Some(sent) = newest.filter(|_| acked > 0) {
            let trip = now.saturating_duration_since(sent);
            self.saw_trip(now, trip);
            let (rate, delivered_before) = self.sent.delivered(now, sent, acked);
            let ends = delivered_before >= self.round_ends;
            if let Some(rate) = rate {
                self.rates.add(rate, self.app_limited);
            }
            if ends {
                self.round += 1;
                self.round_ends = self.sent.total();
                self.round_ended(now, in_flight);
            }
            self.steer(now, acked, in_flight);
        }
        if in_flight == 0 {
            self.sent.idle();
        }
    }

    fn saw_trip(&mut self, now: Instant, trip: Duration) {
        let trip = trip.max(Duration::from_micros(1));
        match self.min_rtt {
            Some(min) if trip > min => {
                if trip <= min.mul_f64(CONFIRMS) {
                    self.min_rtt_at = now;
                }
            }
            _ => {
                self.min_rtt = Some(trip);
                self.min_rtt_at = now;
            }
        }
        self.round_rtt = Some(self.round_rtt.map_or(trip, |other| other.min(trip)));
        if let State::ProbeRtt { since: Some(_), shortest } = &mut self.state {
            *shortest = Some(shortest.map_or(trip, |other| other.min(trip)));
        }
    }

    /// Whether every trip of the round that ends was longer than the shortest by more than `share` of it and what our queue explains.
    fn delayed(&self, share: f64) -> bool {
        self.round_rtt
            .zip(self.min_rtt)
            .is_some_and(|(seen, min)| seen > min.mul_f64(1.0 + share) + SLACK * 2)
    }

    fn round_ended(&mut self, now: Instant, in_flight: u64) {
        let best = self.rates.best();
        match self.state {
            State::Startup { .. } if self.delayed(STARTUP_QUEUE) => self.state = State::Drain,
            State::Startup { best: before, flat } => {
                if best >= before * GROWTH {
                    self.state = State::Startup { best, flat: 0 };
                } else if !self.app_limited {
                    let flat = flat + 1;
                    self.state = if flat >= FLAT_ROUNDS {
                        State::Drain
                    } else {
                        State::Startup { best: before, flat }
                    };
                }
            }
            State::Drain => {}
            State::Up { until, .. } if self.round < until => {}
            State::Up { rate, .. } => {
                self.state = if best >= rate * FOUND {
                    State::Up { until: self.round + UP_ROUNDS, rate: best }
                } else {
                    State::Down { until: self.round + DOWN_ROUNDS }
                };
            }
            State::Down { until } if self.round < until => {}
            State::Down { .. } => {
                self.look_for_a_change(now);
                self.state = State::Cruise { until: self.round + CRUISE_ROUNDS };
            }
            State::Cruise { until } => {
                self.look_for_a_change(now);
                if self.round >= until {
                    self.state = State::Up { until: self.round + UP_ROUNDS, rate: best };
                }
            }
            State::ProbeRtt { .. } => {}
        }
        self.rates.round(self.app_limited);
        self.round_rtt = None;
        let old = now.saturating_duration_since(self.min_rtt_at) > MIN_RTT_AGE;
        if old && in_flight > 0 && matches!(self.state, State::Cruise { .. }) {
            self.state = State::ProbeRtt { since: None, shortest: None };
        }
    }

    /// A whole round of trips that neither the path as it was nor our queue explains.
    fn look_for_a_change(&mut self, now: Instant) {
        if self.delayed(CHANGED) {
            self.min_rtt = self.round_rtt;
            self.min_rtt_at = now;
        }
    }

    /// Sets the window.
    fn steer(&mut self, now: Instant, acked: u64, in_flight: u64) {
        let Some(full) = self.contents(1.0, Duration::ZERO) else {
            self.window += acked;
            return;
        };
        if self.state == State::Drain && in_flight <= full {
            self.state = State::Cruise { until: self.round + CRUISE_ROUNDS };
        }
        let small = self.contents(PROBE_RTT_GAIN, Duration::ZERO).unwrap_or(full);
        if let State::ProbeRtt { since, shortest } = &mut self.state {
            match since {
                None if in_flight <= small => *since = Some(now),
                Some(since)
                    if now.saturating_duration_since(*since)
                        >= PROBE_RTT.max(self.min_rtt.unwrap_or_default()) =>
                {
                    if let Some(shortest) = shortest {
                        self.min_rtt = Some(*shortest);
                    }
                    self.min_rtt_at = now;
                    self.state = State::Cruise { until: self.round + CRUISE_ROUNDS };
                }
                None | Some(_) => {}
            }
        }
        let wanted = match self.state {
            State::Startup { .. } => {
                let most = self.contents(STARTUP_GAIN, SLACK * 2).unwrap_or(full);
                // What isn't used says nothing about what the path would carry.
                let grown = if self.app_limited { self.window } else { self.window + acked };
                Some(grown.min(most.max(self.initial_window)))
            }
            State::Drain => Some(full),
            State::Up { .. } => self.contents(UP_GAIN, SLACK.mul_f64(UP_GAIN)),
            State::Down { .. } => self.contents(DOWN_GAIN, SLACK.mul_f64(0.5)),
            State::Cruise { .. } => self.contents(1.0, SLACK),
            State::ProbeRtt { .. } => Some(small),
        };
        self.window = wanted.unwrap_or(full).max(LEAST_PACKETS * self.mtu);
    }

    fn collapsed(&mut self, now: Instant) {
        *self = Self { round: self.round, ..Self::new(now, self.initial_window, self.mtu as u16) };
    }
}

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last: u64) {
        self.sent.sent(now);
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.acknowledged(sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.acknowledgement_ends(now, in_flight);
    }

    /// Loss alone says little: the delivery rate has it in it already. Only when everything is lost for long (RFC 9002 §7.6) the path
    /// isn't what it was, and the model starts anew.
    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, persistent: bool, _lost: u64) {
        if persistent {
            self.collapsed(now);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(LEAST_PACKETS * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
