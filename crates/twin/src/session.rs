//! A model of the end-to-end session that carries message frames: reliable, in order, over frames that may be lost.
//!
//! It stands in for QUIC: a handshake of one round trip, cumulative acknowledgements, retransmission with backoff, and an
//! end after long silence. Congestion control is left out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

/// Segments under way.
const WINDOW: u64 = 64;
/// Shortest wait for an acknowledgement: above the delay of acknowledgements.
const MIN_RTO: Duration = Duration::from_millis(60);
/// Longest wait.
const MAX_RTO: Duration = Duration::from_secs(1);
/// A session without progress for this long is given up, as QUIC's idle timeout does.
const GIVE_UP: Duration = Duration::from_secs(10);

/// What travels between the ends of a session.
#[derive(Clone, Debug)]
pub(crate) enum Segment {
    Syn { epoch: u64 },
    SynAck { epoch: u64 },
    Data { epoch: u64, seq: u64, bytes: Bytes },
    Ack { epoch: u64, next: u64 },
    Reset { epoch: u64 },
}

impl Segment {
    pub(crate) const fn epoch(&self) -> u64 {
        match self {
            Self::Syn { epoch }
            | Self::SynAck { epoch }
            | Self::Data { epoch, .. }
            | Self::Ack { epoch, .. }
            | Self::Reset { epoch } => *epoch,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Syn { .. } | Self::SynAck { .. } => 1200,
            Self::Data { bytes, .. } => 40 + bytes.len(),
            Self::Ack { .. } | Self::Reset { .. } => 60,
        }
    }
}

/// One end of a session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) epoch: u64,
    open: bool,
    /// Not acknowledged yet, from `first` on.
    out: VecDeque<Bytes>,
    first: u64,
    /// The next one to send for the first time.
    fresh: u64,
    expected: u64,
    early: BTreeMap<u64, Bytes>,
    rto: Duration,
    timer: Option<Duration>,
    progress: Duration,
    /// A segment whose acknowledgement measures the round trip.
    timed: Option<(u64, Duration)>,
    srtt: Option<Duration>,
}

/// What came of an input.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    pub(crate) send: Vec<Segment>,
    pub(crate) frames: Vec<Bytes>,
    /// The session is ready for frames now.
    pub(crate) up: bool,
    /// The session is over.
    pub(crate) down: bool,
}

impl Session {
    pub(crate) fn dial(now: Duration, epoch: u64) -> (Self, Segment) {
        let mut session = Self::new(now, epoch, false);
        session.timer = Some(now + session.rto);
        (session, Segment::Syn { epoch })
    }

    pub(crate) fn accept(now: Duration, epoch: u64) -> (Self, Segment) {
        (Self::new(now, epoch, true), Segment::SynAck { epoch })
    }

    const fn new(now: Duration, epoch: u64, open: bool) -> Self {
        Self {
            epoch,
            open,
            out: VecDeque::new(),
            first: 0,
            fresh: 0,
            expected: 0,
            early: BTreeMap::new(),
            rto: Duration::from_millis(250),
            timer: None,
            progress: now,
            timed: None,
            srtt: None,
        }
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.open
    }

    pub(crate) const fn timer(&self) -> Option<Duration> {
        self.timer
    }

    /// Takes a frame to send.
    pub(crate) fn send(&mut self, now: Duration, frame: Bytes) -> Vec<Segment> {
        if self.out.is_empty() {
            self.progress = now;
        }
        self.out.push_back(frame);
        self.fill(now)
    }

    /// Takes a segment of this epoch.
    pub(crate) fn segment(&mut self, now: Duration, segment: Segment) -> Effect {
        let mut effect = Effect::default();
        match segment {
            // Our answer was lost.
            Segment::Syn { epoch } if self.open => effect.send.push(Segment::SynAck { epoch }),
            Segment::Syn { .. } => {}
            Segment::SynAck { .. } => {
                if !self.open {
                    self.open = true;
                    self.timer = None;
                    self.progress = now;
                    effect.up = true;
                }
            }
            // It overtook the answer to our dial. Without the handshake QUIC can't read it either; it comes again.
            Segment::Data { .. } if !self.open => {}
            Segment::Data { epoch, seq, bytes } => {
                if seq >= self.expected && seq < self.expected + 2 * WINDOW {
                    self.early.insert(seq, bytes);
                }
                while let Some(frame) = self.early.remove(&self.expected) {
                    self.expected += 1;
                    effect.frames.push(frame);
                }
                effect.send.push(Segment::Ack { epoch, next: self.expected });
            }
            Segment::Ack { next, .. } => {
                if next > self.first && next <= self.fresh {
                    let acked = usize::try_from(next - self.first).unwrap_or(usize::MAX);
                    self.out.drain(..acked.min(self.out.len()));
                    self.first = next;
                    self.progress = now;
                    if let Some((_, sent)) = self.timed.take_if(|(seq, _)| *seq < next) {
                        let rtt = now.saturating_sub(sent);
                        let srtt = self.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8);
                        self.srtt = Some(srtt);
                        self.rto = (srtt * 2).clamp(MIN_RTO, MAX_RTO);
                    }
                    self.timer = (self.fresh > self.first).then_some(now + self.rto);
                    effect.send.extend(self.fill(now));
                }
            }
            Segment::Reset { .. } => effect.down = true,
        }
        effect
    }

    /// The timer went off.
    pub(crate) fn timeout(&mut self, now: Duration) -> Effect {
        let mut effect = Effect::default();
        if self.timer.is_none_or(|at| now < at) {
            return effect;
        }
        if now >= self.progress + GIVE_UP {
            effect.down = true;
            return effect;
        }
        self.rto = (self.rto * 2).min(MAX_RTO);
        self.timer = Some(now + self.rto);
        self.timed = None;
        if self.open {
            let waiting = usize::try_from(self.fresh - self.first).unwrap_or(0);
            for (bytes, seq) in self.out.iter().take(waiting).zip(self.first..) {
                effect.send.push(Segment::Data { epoch: self.epoch, seq, bytes: bytes.clone() });
            }
        } else {
            effect.send.push(Segment::Syn { epoch: self.epoch });
        }
        effect
    }

    fn fill(&mut self, now: Duration) -> Vec<Segment> {
        let mut segments = Vec::new();
        while self.open && self.fresh < self.first + WINDOW {
            let at = usize::try_from(self.fresh - self.first).unwrap_or(usize::MAX);
            let Some(bytes) = self.out.get(at) else { break };
            segments.push(Segment::Data { epoch: self.epoch, seq: self.fresh, bytes: bytes.clone() });
            self.timed.get_or_insert((self.fresh, now));
            self.fresh += 1;
            self.timer.get_or_insert(now + self.rto);
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn frames_arrive_once_and_in_order_whatever_is_lost() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut now = Duration::ZERO;
        let (mut a, syn) = Session::dial(now, 1);
        let mut b: Option<Session> = None;
        let mut wire = vec![(true, syn)];
        let (mut sent, mut got) = (0_u64, Vec::new());
        for _ in 0..20_000 {
            now += Duration::from_millis(1);
            if a.is_open() && sent < 500 {
                let frame = Bytes::copy_from_slice(&sent.to_be_bytes());
                sent += 1;
                wire.extend(a.send(now, frame).into_iter().map(|s| (true, s)));
            }
            for (to_b, segment) in std::mem::take(&mut wire) {
                if rng.random_bool(0.3) {
                    continue;
                }
                if !to_b {
                    let effect = a.segment(now, segment);
                    wire.extend(effect.send.into_iter().map(|s| (true, s)));
                } else if let Some(b) = &mut b {
                    let effect = b.segment(now, segment);
                    got.extend(effect.frames);
                    wire.extend(effect.send.into_iter().map(|s| (false, s)));
                } else {
                    let (accepted, answer) = Session::accept(now, segment.epoch());
                    b = Some(accepted);
                    wire.push((false, answer));
                }
            }
            let effect = a.timeout(now);
            assert!(!effect.down);
            wire.extend(effect.send.into_iter().map(|s| (true, s)));
        }
        let expected: Vec<_> = (0..500_u64).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn data_that_overtakes_the_answer_to_a_dial_waits_for_it() {
        let now = Duration::ZERO;
        let (mut dialler, _) = Session::dial(now, 1);
        let early = Segment::Data { epoch: 1, seq: 0, bytes: Bytes::from_static(b"early") };
        let effect = dialler.segment(now, early.clone());
        assert!(effect.frames.is_empty() && effect.send.is_empty() && !effect.up);
        assert!(dialler.segment(now, Segment::SynAck { epoch: 1 }).up);
        assert_eq!(dialler.segment(now, early).frames, [Bytes::from_static(b"early")]);
    }

    #[test]
    fn silence_ends_it() {
        let (mut a, _) = Session::dial(Duration::ZERO, 1);
        let ends = (0..20_000).map(Duration::from_millis).find(|now| a.timeout(*now).down);
        assert!(ends.is_some_and(|at| (10_000..11_500).contains(&at.as_millis())));
    }
}
