//! Congestion control of sessions by a model of the path: its delivery rate and its shortest round trip (the idea of BBR,
//! draft-ietf-ccwg-bbr), so that random loss isn't taken for congestion and queues stay short.
//!
//! quinn asks a controller for a window only, and paces at 1.25 windows a round trip. So this one steers by the window alone: it
//! stands at what fills the path, plus `SLACK`; two rounds in nine go above, to find a rate that has grown, and the next
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
/// After so many in a row the rate is far from known, and the path is probed as at the start.
const FOUND_IN_A_ROW: u32 = 2;
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
/// It takes as long at least, or one trip if that is longer. Short, since almost nothing is sent meanwhile; a stall that hides the path
/// makes the trip too long until the first that is shorter.
const PROBE_RTT: Duration = Duration::from_millis(4);
/// A trip shorter than this part of quinn's smoothed one is a mistake of the clock.
const IMPOSSIBLE: u32 = 4;
/// A round trip within this factor of the shortest confirms it.
const CONFIRMS: f64 = 1.02;
/// Trips longer than the shortest by this share of it, and by more than our queue should be, are a reason to measure it anew: the path has
/// become longer (a mesh re-routes) or slower, or others fill its queue. Ten seconds would be too long to wait.
const CHANGED: f64 = 0.1;
/// They are one when so many rounds in a row have nothing but such trips: a round alone may have met ends that waited for a processor.
const CHANGED_ROUNDS: u32 = 3;
/// Such reasons count once in this time, so that measuring costs less than one part in a hundred.
const SUSPICION_REST: Duration = Duration::from_secs(1);
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
    /// Rounds with more than the path is known to hold, until this one; the rate before them, and how many probes in a row found more.
    Up { until: u64, rate: f64, found: u32 },
    /// Rounds with less, until this one.
    Down { until: u64 },
    /// Rounds with what it holds, until this one.
    Cruise { until: u64 },
    /// The shortest trip is measured, with a flight of `small` bytes; since when it has been so small, and the shortest trip seen. If it
    /// is as it was, the trips before were long because the path is slower: it has the rate `slower` of the rounds before.
    ProbeRtt { small: u64, slower: Option<f64>, since: Option<Instant>, shortest: Option<Duration> },
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
    /// When it was last measured for another reason than its age.
    suspected_at: Option<Instant>,
    /// A round ends when what was sent after its beginning is acknowledged.
    round: u64,
    round_ends: u64,
    /// The shortest trip of this round.
    round_rtt: Option<Duration>,
    /// Rounds in a row with longer trips only.
    long_rounds: u32,
    /// Of the acknowledgement being read: bytes, and when its newest packet was sent.
    acked: u64,
    newest: Option<Instant>,
    app_limited: bool,
    smoothed_rtt: Duration,
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
            suspected_at: None,
            round: 0,
            round_ends: 0,
            round_rtt: None,
            long_rounds: 0,
            acked: 0,
            newest: None,
            app_limited: false,
            smoothed_rtt: Duration::ZERO,
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

    fn acknowledged(&mut self, sent: Instant, bytes: u64, app_limited: bool, smoothed_rtt: Duration) {
        self.smoothed_rtt = smoothed_rtt;
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
            let delayed = self.min_rtt.is_some_and(|min| trip > min.mul_f64(1.0 + CHANGED) + SLACK * 2);
            // Whoever waits for the path isn't limited by having nothing to send, though the peer's window may stop it besides.
            let fills = self.contents(1.0, SLACK).is_some_and(|full| in_flight + acked >= full);
            self.app_limited &= !(delayed && fills);
            if let Some(sample) = self.sent.delivered(now, sent, acked) {
                self.rates.add(sample.rate, self.app_limited);
                if sample.delivered_before >= self.round_ends {
                    self.round += 1;
                    self.round_ends = self.sent.total();
                    self.round_ended(now, in_flight);
                }
            }
            self.steer(now, acked, in_flight);
        }
        if in_flight == 0 {
            self.sent.idle();
        }
    }

    fn saw_trip(&mut self, now: Instant, trip: Duration) {
        // quinn reads the clock before it receives: after a stall in between, packets seem to come before they could.
        if trip.is_zero() || trip < self.smoothed_rtt / IMPOSSIBLE {
            return;
        }
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
        if let State::ProbeRtt { since: Some(_), shortest, .. } = &mut self.state {
            *shortest = Some(shortest.map_or(trip, |other| other.min(trip)));
        }
    }

    /// Whether every trip of the round that ends was longer than the shortest by more than `share` of it and `queue`.
    fn delayed(&self, share: f64, queue: Duration) -> bool {
        self.round_rtt.zip(self.min_rtt).is_some_and(|(seen, min)| seen > min.mul_f64(1.0 + share) + queue)
    }

    fn round_ended(&mut self, now: Instant, in_flight: u64) {
        let best = self.rates.best();
        self.judge_trips();
        match self.state {
            State::Startup { .. } if !self.app_limited && self.delayed(STARTUP_QUEUE, SLACK * 2) => {
                self.state = State::Drain
            }
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
            State::Up { rate, found, .. } => {
                let found = if best >= rate * FOUND { found + 1 } else { 0 };
                self.state = match found {
                    0 => State::Down { until: self.round + DOWN_ROUNDS },
                    FOUND_IN_A_ROW => State::Startup { best, flat: 0 },
                    found => State::Up { until: self.round + UP_ROUNDS, rate: best, found },
                };
            }
            State::Down { until } if self.round < until => {}
            State::Down { .. } | State::Cruise { .. } if self.suspects(now) => self.suspect(now),
            State::Down { .. } => self.state = State::Cruise { until: self.round + CRUISE_ROUNDS },
            State::Cruise { until } => {
                if now.saturating_duration_since(self.min_rtt_at) > MIN_RTT_AGE && in_flight > 0 {
                    self.measure_trip(None);
                } else if self.round >= until {
                    self.state = State::Up { until: self.round + UP_ROUNDS, rate: best, found: 0 };
                }
            }
            State::ProbeRtt { .. } => {}
        }
        self.rates.round(self.app_limited);
        self.round_rtt = None;
    }

    /// Counts rounds whose trips are longer than our own queue explains: none is left at the end of those below what the path holds.
    fn judge_trips(&mut self) {
        let queue = match self.state {
            State::Cruise { .. } => SLACK * 2,
            State::Down { until } if self.round >= until => SLACK,
            _ => return,
        };
        if self.delayed(CHANGED, queue) {
            self.long_rounds += 1;
        } else if !self.delayed(CHANGED, SLACK) {
            self.long_rounds = 0;
        }
    }

    /// Whether the last rounds are a reason to measure the shortest trip, and the last such measurement long ago.
    fn suspects(&self, now: Instant) -> bool {
        let rested = self.suspected_at.is_none_or(|at| now.saturating_duration_since(at) >= SUSPICION_REST);
        rested && self.long_rounds >= CHANGED_ROUNDS
    }

    /// The path may be slower or longer than it was.
    fn suspect(&mut self, now: Instant) {
        self.suspected_at = Some(now);
        self.long_rounds = 0;
        self.measure_trip(Some(self.rates.latest(CHANGED_ROUNDS as usize)));
    }

    fn measure_trip(&mut self, slower: Option<f64>) {
        let rate = slower.unwrap_or_else(|| self.rates.best());
        let small = (rate * self.min_rtt.unwrap_or_default().as_secs_f64() * PROBE_RTT_GAIN) as u64;
        let small = small.max(LEAST_PACKETS * self.mtu);
        self.state = State::ProbeRtt { small, slower, since: None, shortest: None };
    }

    /// The shortest trip has been measured, with hardly anything of ours in the way.
    fn measured_trip(&mut self, now: Instant, slower: Option<f64>, shortest: Option<Duration>) {
        if let Some((seen, min)) = shortest.zip(self.min_rtt) {
            if let Some(rate) = slower.filter(|_| seen <= min.mul_f64(1.0 + CHANGED) + SLACK) {
                self.rates = Rates::default();
                self.rates.add(rate, false);
            }
            self.min_rtt = Some(seen);
        }
        self.min_rtt_at = now;
        self.state = State::Cruise { until: self.round + CRUISE_ROUNDS };
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
        if let State::ProbeRtt { small, slower, since, shortest } = &mut self.state {
            match *since {
                None if in_flight <= *small => *since = Some(now),
                Some(begun)
                    if now.saturating_duration_since(begun)
                        >= PROBE_RTT.max(self.min_rtt.unwrap_or_default()) =>
                {
                    let (slower, shortest) = (*slower, *shortest);
                    self.measured_trip(now, slower, shortest);
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
            State::ProbeRtt { small, .. } => Some(small),
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

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.acknowledged(sent, bytes, app_limited, rtt.get());
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
