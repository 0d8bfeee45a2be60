//! Ping and trace: echo frames of the overlay, answered by every node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::MeshAddress;
use meshara_overlay::LinkId;
use meshara_overlay::echo::{ECHO_LEN, Echo, EchoKind};
use meshara_overlay::header::DEFAULT_TTL;
use meshara_transport::{ControlFrame, DataPlane};
use tokio::sync::mpsc;

use super::services::{append_rule, rule_of};
use super::streams::MAX_NAME;

/// Runs of ping and trace at once; each is a request at the control API.
const MAX_RUNS: usize = 256;
/// Answers waiting for one run's task: a second of pings every millisecond.
const ANSWERS: usize = 1024;

/// Echoes of one neighbour, its own and those it forwards, that are answered in a second: pings of two runs at the shortest
/// interval that any tool uses, and some 3 % of one core.
const SHARE: u32 = 2_000;
/// Answered at once after a pause.
const BURST: u32 = 400;
/// Neighbours whose shares are kept; those that rest are forgotten first.
const MAX_SHARES: usize = 1024;

/// How much of its share each neighbour has used: the time until which it is used up (GCRA, ITU-T I.371).
#[derive(Debug, Default)]
struct Shares(HashMap<LinkId, Instant>);

impl Shares {
    /// Whether an echo that came over a link is to be answered.
    fn take(&mut self, link: LinkId, now: Instant) -> bool {
        if self.0.len() >= MAX_SHARES && !self.0.contains_key(&link) {
            self.0.retain(|_, until| *until > now);
            if self.0.len() >= MAX_SHARES {
                return false;
            }
        }
        let each = Duration::from_secs(1) / SHARE;
        let until = self.0.entry(link).or_insert(now);
        if until.saturating_duration_since(now) > each * (BURST - 1) {
            return false;
        }
        *until = (*until).max(now) + each;
        true
    }
}

/// An answer to an echo of ours.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) from: MeshAddress,
    pub(crate) seq: u32,
    pub(crate) hops: u8,
    /// Whether the destination answered; otherwise the echo's time to live ended at `from`.
    pub(crate) arrived: bool,
    /// The rule of the destination's policy that denies an answer.
    pub(crate) denied: Option<String>,
    pub(crate) at: Instant,
}

/// Sends echoes and hands answers to those who wait for them.
pub(crate) struct Echoes {
    plane: Arc<DataPlane>,
    next: AtomicU64,
    runs: Mutex<HashMap<u64, mpsc::Sender<Answer>>>,
    shares: Mutex<Shares>,
    shed: AtomicU64,
}

/// One run: its answers come out of `answers`; dropping it ends it.
pub(crate) struct Run<'a> {
    echoes: &'a Echoes,
    id: u64,
    own: mpsc::Sender<Answer>,
    pub(crate) answers: mpsc::Receiver<Answer>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.echoes.runs.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Run<'_> {
    /// An answer that needs no network: the node asks itself.
    pub(crate) fn answer(&self, answer: Answer) {
        let _ = self.own.try_send(answer);
    }

    /// Sends one echo; `false` when there is no route.
    pub(crate) fn send(&self, to: MeshAddress, seq: u32, ttl: u8, size: usize) -> bool {
        let echo = Echo { kind: EchoKind::Request, origin_ttl: ttl, forward_hops: 0, id: self.id, seq };
        self.echoes.plane.send_echo(to, ttl, &padded(echo, size))
    }
}

impl Echoes {
    pub(crate) fn new(plane: Arc<DataPlane>, first: u64) -> Self {
        Self {
            plane,
            next: AtomicU64::new(first),
            runs: Mutex::default(),
            shares: Mutex::default(),
            shed: AtomicU64::new(0),
        }
    }

    /// Echoes that got no answer since their neighbour had used up its share.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Relaxed)
    }

    /// Begins a run; `None` when too many are under way.
    pub(crate) fn run(&self) -> Option<Run<'_>> {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let id = self.next.fetch_add(1, Relaxed);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= MAX_RUNS {
            return None;
        }
        runs.insert(id, sender.clone());
        Some(Run { echoes: self, id, own: sender, answers })
    }

    /// Deals with an echo frame that came in. `deny` looks at a request for this node: the rule that denies it, if one does.
    pub(crate) fn receive(&self, frame: &ControlFrame, deny: impl FnOnce(&Echo) -> Option<String>) {
        let Some(Ok(echo)) = frame.payload.get(..ECHO_LEN).map(Echo::decode) else { return };
        let for_us = frame.destination == self.plane.me();
        match echo.kind {
            EchoKind::Request => {
                let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
                if !shares.take(frame.link, Instant::now()) {
                    self.shed.fetch_add(1, Relaxed);
                    return;
                }
                drop(shares);
                let denied = deny(&echo);
                let kind = match &denied {
                    Some(_) => EchoKind::Denied,
                    None if for_us => EchoKind::Reply,
                    None => EchoKind::TtlExceeded,
                };
                let mut bytes = echo.answer(kind, frame.ttl, DEFAULT_TTL).encode().to_vec();
                if let Some(rule) = denied {
                    append_rule(&mut bytes, &rule);
                }
                // As long as the request, so that a ping with a size tests both ways and amplifies nothing.
                bytes.resize(frame.payload.len(), 0);
                self.plane.send_echo(frame.source, DEFAULT_TTL, &bytes);
            }
            EchoKind::Reply | EchoKind::TtlExceeded | EchoKind::Denied if for_us => {
                let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(run) = runs.get(&echo.id) {
                    let arrived = echo.kind == EchoKind::Reply;
                    let rule = frame.payload.get(ECHO_LEN..).and_then(rule_of).unwrap_or_default();
                    let answer = Answer {
                        from: frame.source,
                        seq: echo.seq,
                        hops: echo.forward_hops,
                        arrived,
                        denied: (echo.kind == EchoKind::Denied).then_some(rule),
                        at: Instant::now(),
                    };
                    let _ = run.try_send(answer); // a full queue loses an answer, as the network might
                }
            }
            _ => {}
        }
    }
}

/// Shortest request: an answer is no longer, and may name a rule.
const SHORTEST: usize = ECHO_LEN + 1 + MAX_NAME;

/// An echo with zeros up to `size` bytes.
fn padded(echo: Echo, size: usize) -> Vec<u8> {
    let mut bytes = echo.encode().to_vec();
    bytes.resize(size.max(SHORTEST), 0);
    bytes
}

/// How long a trace waits for the answer to one echo.
pub(crate) const TRACE_WAIT: Duration = Duration::from_millis(700);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_that_floods_uses_up_only_its_own_share() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        let answered = |shares: &mut Shares, at| (0..10_000).filter(|_| shares.take(LinkId(1), at)).count();
        assert_eq!(answered(&mut shares, start), BURST as usize);
        assert!(shares.take(LinkId(2), start));
        let tenth = Duration::from_millis(100);
        assert_eq!(answered(&mut shares, start + tenth), SHARE as usize / 10);
        assert_eq!(answered(&mut shares, start + tenth * 100), BURST as usize, "a pause saves up no more");
        // A steady ping every millisecond is answered for ever.
        let steady = (0..5_000).all(|n| shares.take(LinkId(3), start + Duration::from_millis(n)));
        assert!(steady);
    }

    #[test]
    fn shares_are_bounded_and_those_at_rest_make_room() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        let neighbours = 0..u32::try_from(MAX_SHARES).unwrap();
        assert!(neighbours.map(LinkId).all(|link| shares.take(link, start)));
        assert!(!shares.take(LinkId(u32::MAX), start));
        assert!(shares.take(LinkId(u32::MAX), start + Duration::from_secs(1)));
        assert_eq!(shares.0.len(), 1);
    }
}
