//! Whether one link works: a state machine fed by probes.
//!
//! `Init` until probes pass both ways; `Up`; `Suspect` when the peer isn't heard, doesn't hear us, or doesn't echo what we
//! send; back to `Up` when probes pass both ways again, or dead.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::probe::{LOSS_ONE, Probe, ProbeError};

/// Suspect after this many of the peer's intervals, times two: 2.5 lets one probe be lost and the next be late.
const SUSPECT_HALF_INTERVALS: u32 = 5;
/// Dead after this many of the peer's intervals, if that is longer than the configured time.
const DEAD_INTERVALS: u32 = 5;
/// After a suspicion, look for at least this long for signs of life before declaring a death.
const LAST_CHANCE: Duration = Duration::from_millis(500);
/// After our own stall, wait this long for what the sockets have queued meanwhile.
const GRACE: Duration = Duration::from_millis(30);
/// Answer a probe out of turn at most this often.
const ANSWER_EVERY: Duration = Duration::from_millis(10);
/// Good probes in a row that end a suspicion: one may be a straggler.
const RECOVER_AFTER: u32 = 2;
/// Round trips of which the smallest counts.
const RECENT: usize = 4;
/// Sent probes remembered for RTT: 3 s of them at the fastest interval.
const SENT: usize = 64;
/// Most that jitter may add to detection.
const MAX_VARIATION: Duration = Duration::from_millis(40);
/// Probes to have seen before their loss means anything.
const LOSS_AFTER: u32 = 20;

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet confirmed both ways.
    Init,
    /// Works both ways.
    Up,
    /// Fell silent or one-way.
    Suspect,
}

/// A change that [`Liveness::update`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Confirmed,
    Suspected,
    Recovered(Duration),
    Dead,
    Unconfirmed,
}

/// The probe state of one link.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    phase: Phase,
    started: Duration,
    /// Our probes.
    seq: u32,
    sent: VecDeque<(u32, Duration)>,
    last_send: Option<Duration>,
    next_send: Duration,
    /// When the newest echoed probe was sent.
    echoed_at: Duration,
    echoed: u32,
    /// Since when echoes are expected at the present pace.
    pace_since: Duration,
    /// The peer's probes. Times are moved forward by our own stalls.
    heard_at: Duration,
    peer_seq: u32,
    peer_seq_at: Duration,
    peer_seen: u64,
    peer_interval: Duration,
    peer_active: bool,
    peer_deaf: bool,
    peer_loss: u16,
    /// Since when the peer owes fast answers.
    hurry_since: Option<Duration>,
    traffic_until: Duration,
    suspected_at: Duration,
    good: u32,
    grace_until: Duration,
    srtt: Option<Duration>,
    variation: Duration,
    recent: VecDeque<Duration>,
}

impl Liveness {
    pub(crate) fn new(now: Duration, rtt: Option<Duration>, config: &Config) -> Self {
        Self {
            phase: Phase::Init,
            started: now,
            seq: 0,
            sent: VecDeque::new(),
            last_send: None,
            next_send: now,
            echoed_at: now,
            echoed: 0,
            pace_since: now,
            heard_at: now,
            peer_seq: 0,
            peer_seq_at: now,
            peer_seen: 0,
            peer_interval: config.probe_min,
            peer_active: false,
            peer_deaf: false,
            peer_loss: 0,
            hurry_since: None,
            traffic_until: Duration::ZERO,
            suspected_at: now,
            good: 0,
            grace_until: now,
            srtt: rtt,
            variation: Duration::ZERO,
            recent: VecDeque::new(),
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.srtt
    }

    /// Share of probes lost in the worse direction, of [`LOSS_ONE`].
    pub(crate) fn loss(&self) -> u16 {
        self.loss_in().max(self.peer_loss)
    }

    /// Whether the peer was heard since `then`.
    pub(crate) fn heard_since(&self, then: Duration) -> bool {
        self.peer_seq > 0 && self.heard_at > then
    }

    /// The link carried data frames.
    pub(crate) fn note_traffic(&mut self, now: Duration, config: &Config) {
        let idle = self.traffic_until <= now;
        self.traffic_until = now + config.traffic_linger;
        if idle && self.interval(now, config) < self.peer_interval {
            self.hurry(now);
        }
    }

    /// Probes at once and expects an answer soon.
    pub(crate) fn hurry(&mut self, now: Duration) {
        self.hurry_since = Some(now);
        self.pace_since = now;
        self.next_send = now;
    }

    /// Suspects the link now, on evidence from outside, until probes disprove it.
    pub(crate) fn suspect(&mut self, now: Duration) -> bool {
        let was_up = self.phase == Phase::Up;
        if was_up {
            self.phase = Phase::Suspect;
            self.suspected_at = now;
            self.good = 0;
            self.next_send = now;
        }
        was_up
    }

    /// Our process stood still for `late`: silence in that time proves nothing.
    pub(crate) fn credit(&mut self, now: Duration, late: Duration) {
        self.heard_at += late;
        self.echoed_at += late;
        self.pace_since += late;
        self.started += late;
        self.suspected_at += late;
        if let Some(since) = &mut self.hurry_since {
            *since += late;
        }
        self.grace_until = now + GRACE;
    }

    /// Takes a probe in.
    pub(crate) fn heard(&mut self, now: Duration, probe: &Probe, config: &Config) -> Result<(), ProbeError> {
        if probe.echo > self.seq {
            return Err(ProbeError::EchoFromFuture);
        }
        self.mark_seen(probe.seq);
        if probe.seq <= self.peer_seq {
            return Ok(());
        }
        let answer = probe.deaf
            || probe.echo == 0
            || (probe.active && !self.peer_active)
            || probe.interval() < self.peer_interval;
        if probe.active != self.peer_active || probe.interval() < self.peer_interval {
            self.pace_since = now;
        }
        self.peer_seq = probe.seq;
        self.peer_seq_at = now;
        self.heard_at = self.heard_at.max(now);
        self.hurry_since = None;
        self.peer_interval = probe.interval().min(config.dead_after);
        self.peer_active = probe.active;
        self.peer_deaf = probe.deaf;
        self.peer_loss = probe.loss;
        if probe.echo > self.echoed {
            self.echoed = probe.echo;
            self.sample(now, probe);
        }
        if self.phase == Phase::Suspect {
            let good = !probe.deaf && self.echoed_at > self.suspected_at;
            self.good = if good { self.good + 1 } else { 0 };
        }
        if answer {
            let soonest = self.last_send.map_or(now, |at| (at + ANSWER_EVERY).max(now));
            self.next_send = self.next_send.min(soonest);
        }
        Ok(())
    }

    /// The next probe, if it is due.
    pub(crate) fn poll_probe(&mut self, now: Duration, jitter: u32, config: &Config) -> Option<Probe> {
        if now < self.next_send {
            return None;
        }
        self.seq = self.seq.checked_add(1)?;
        if self.sent.len() == SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, now));
        self.last_send = Some(now);
        let interval = self.interval(now, config);
        // Up to a tenth early, never late: the peer counts on the announcement.
        self.next_send = now + interval - interval / 10 * jitter.min(100) / 100;
        let hold = if self.peer_seq == 0 { Duration::ZERO } else { now.saturating_sub(self.peer_seq_at) };
        Some(Probe {
            active: self.active(now),
            deaf: now >= self.hear_limit(config),
            interval_ms: u16::try_from(interval.as_millis()).unwrap_or(u16::MAX).max(1),
            seq: self.seq,
            echo: self.peer_seq,
            hold_us: u32::try_from(hold.as_micros()).unwrap_or(u32::MAX),
            loss: self.loss_in(),
        })
    }

    /// Decides the state anew.
    pub(crate) fn update(&mut self, now: Duration, config: &Config) -> Option<Change> {
        match self.phase {
            Phase::Init if self.echoed > 0 && !self.peer_deaf => {
                self.phase = Phase::Up;
                Some(Change::Confirmed)
            }
            Phase::Init => (now >= self.started + config.confirm_within).then_some(Change::Unconfirmed),
            Phase::Up if self.peer_deaf || now >= self.suspect_limit(now, config) => {
                self.suspect(now);
                Some(Change::Suspected)
            }
            Phase::Up => None,
            Phase::Suspect if self.good >= RECOVER_AFTER => {
                self.phase = Phase::Up;
                Some(Change::Recovered(now.saturating_sub(self.suspected_at)))
            }
            Phase::Suspect => (now >= self.dead_limit(config)).then_some(Change::Dead),
        }
    }

    /// When to call [`Self::poll_probe`] and [`Self::update`] next.
    pub(crate) fn deadline(&self, now: Duration, config: &Config) -> Duration {
        let verdict = match self.phase {
            Phase::Init => self.started + config.confirm_within,
            Phase::Up => self.suspect_limit(now, config),
            Phase::Suspect => self.dead_limit(config),
        };
        self.next_send.min(verdict)
    }

    fn active(&self, now: Duration) -> bool {
        now < self.traffic_until || self.phase != Phase::Up || self.hurry_since.is_some()
    }

    fn interval(&self, now: Duration, config: &Config) -> Duration {
        if self.active(now) || self.peer_active { self.fast(config) } else { config.probe_idle }
    }

    fn fast(&self, config: &Config) -> Duration {
        (self.srtt.unwrap_or_default() / 2).clamp(config.probe_min, config.probe_max)
    }

    fn patience(&self, interval: Duration, config: &Config) -> Duration {
        (interval * SUSPECT_HALF_INTERVALS / 2).max(config.suspect_min)
            + (self.variation * 2).min(MAX_VARIATION)
    }

    /// Until when silence is normal.
    fn hear_limit(&self, config: &Config) -> Duration {
        let limit = self.heard_at + self.patience(self.peer_interval, config);
        match self.hurry_since {
            Some(since) => {
                let answer = since + self.srtt.unwrap_or_default() + self.patience(self.fast(config), config);
                limit.min(answer)
            }
            None => limit,
        }
    }

    /// Until when it is normal that the peer has not echoed newer probes.
    fn echo_limit(&self, now: Duration, config: &Config) -> Duration {
        let interval = self.interval(now, config).max(self.peer_interval);
        let since = self.echoed_at.max(self.pace_since);
        since + self.srtt.unwrap_or_default() + self.peer_interval + self.patience(interval, config)
    }

    fn suspect_limit(&self, now: Duration, config: &Config) -> Duration {
        self.hear_limit(config).min(self.echo_limit(now, config)).max(self.grace_until)
    }

    fn dead_limit(&self, config: &Config) -> Duration {
        let silence = config.dead_after.max(self.peer_interval * DEAD_INTERVALS);
        let good_at = self.heard_at.min(self.echoed_at);
        (good_at + silence).max(self.suspected_at + LAST_CHANCE).max(self.grace_until)
    }

    fn sample(&mut self, now: Duration, probe: &Probe) {
        let Some((_, sent_at)) = self.sent.iter().find(|(seq, _)| *seq == probe.echo) else { return };
        let sent_at = *sent_at;
        self.sent.retain(|(seq, _)| *seq > probe.echo);
        self.echoed_at = self.echoed_at.max(sent_at);
        let hold = Duration::from_micros(u64::from(probe.hold_us));
        let rtt = now.saturating_sub(sent_at).saturating_sub(hold);
        // The smallest of the last four: a stall of either machine isn't the path's. Until there are four it is the best
        // guess by itself: the handshake's round trip holds its computations, and would take dozens of probes to fade.
        let early = self.recent.len() < RECENT;
        if !early {
            self.recent.pop_front();
        }
        self.recent.push_back(rtt);
        let steady = self.recent.iter().min().copied().unwrap_or(rtt);
        let before = self.srtt.filter(|_| !early).unwrap_or(steady);
        self.srtt = Some((before * 7 + steady) / 8);
        let deviation = rtt.abs_diff(before).min(MAX_VARIATION);
        self.variation = (self.variation * 3 + deviation) / 4;
    }

    fn mark_seen(&mut self, seq: u32) {
        if let Some(ahead) = seq.checked_sub(self.peer_seq).filter(|ahead| *ahead > 0) {
            self.peer_seen = self.peer_seen.checked_shl(ahead).unwrap_or(0) | 1;
        } else {
            self.peer_seen |= 1_u64.checked_shl(self.peer_seq - seq).unwrap_or(0);
        }
    }

    fn loss_in(&self) -> u16 {
        if self.peer_seq < LOSS_AFTER {
            return 0;
        }
        let window = self.peer_seq.min(64);
        let seen = self.peer_seen & (u64::MAX >> (64 - window));
        let lost = window.saturating_sub(seen.count_ones());
        u16::try_from(lost * u32::from(LOSS_ONE) / window).unwrap_or(LOSS_ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_outweigh_the_handshakes_round_trip_at_once() {
        let ms = Duration::from_millis;
        let config = Config::default();
        // The handshake took 40 ms, the path takes 2.
        let mut live = Liveness::new(ms(0), Some(ms(40)), &config);
        let mut now = ms(0);
        let mut pass = |live: &mut Liveness, rtt: u64| {
            now += ms(500);
            let sent = live.poll_probe(now, 0, &config).unwrap();
            let probe = Probe {
                active: false,
                deaf: false,
                interval_ms: 500,
                seq: sent.seq,
                echo: sent.seq,
                hold_us: 0,
                loss: 0,
            };
            live.heard(now + ms(rtt), &probe, &config).unwrap();
            live.rtt().unwrap()
        };
        assert_eq!([pass(&mut live, 3), pass(&mut live, 2), pass(&mut live, 9)], [ms(3), ms(2), ms(2)]);
        assert_eq!(pass(&mut live, 2), ms(2));
        // Later one slow probe is a stall, and a lasting change comes in step by step.
        assert_eq!(pass(&mut live, 10), ms(2));
        for _ in 0..3 {
            pass(&mut live, 10);
        }
        assert_eq!(pass(&mut live, 10), ms(3) + Duration::from_micros(875));
    }
}
