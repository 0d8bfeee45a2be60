//! Delivers events to the overlay core, and does what it asks for.

use std::time::Duration;

use meshara_identity::NodeId;
use meshara_overlay::{CloseReason, ControlError, Event, HeadId, LinkId, LinkKind, LinkPeer, Output};
use rand::Rng;

use super::node::{Act, Body, End, Frame, Node, Note, Shared, What};
use super::socket;

/// What a stopped process' socket holds; the rest is dropped, as the kernel does.
const SOCKET_BUFFER: usize = 4096;

/// Links that a frame may cross, as the daemon starts with.
const TTL: u8 = meshara_overlay::header::DEFAULT_TTL;
/// The driver reports traffic on a link at most this often.
const TRAFFIC_EVERY: Duration = Duration::from_millis(20);
/// Witnesses that a head has.
const WITNESSES: usize = 3;
/// Bytes around a probe or control message on the wire: hop header and tag, or QUIC's.
pub(super) const FRAMING: usize = 64;

impl Node {
    /// An event happens.
    pub(super) fn happen(&mut self, shared: &Shared, now: Duration, what: What) {
        match &what {
            What::Ping { pinger } => return self.ping(shared, now, *pinger),
            What::Submit { pair } => return self.submit(shared, now, *pair),
            What::Confirm | What::Revocation => return self.sign_regularly(shared, now, &what),
            What::Renew { serial } => return self.renew(shared, now, *serial),
            What::NameHead => return self.name_head(shared, now),
            What::Prove { serial, head } => return self.prove(shared, now, *serial, *head),
            What::Timer if self.timer == Some(now) => self.timer = None,
            What::TrustTimer => match &mut self.trust {
                Some(trust) if trust.timer == Some(now) => trust.timer = None,
                _ => return,
            },
            What::MailTimer => match &mut self.mail {
                Some(mail) if mail.timer == Some(now) => mail.timer = None,
                _ => return,
            },
            What::Timer => return,
            _ => {}
        }
        if self.stopped {
            let own = matches!(what, What::Timer | What::MailTimer | What::TrustTimer);
            if !own && self.inbox.len() < SOCKET_BUFFER {
                self.inbox.push_back(what);
            }
            return;
        }
        if self.core.is_some() {
            self.deliver(shared, now, what);
        }
    }

    pub(super) fn deliver(&mut self, shared: &Shared, now: Duration, what: What) {
        let at = self.at;
        let Some(core) = self.core.as_mut() else { return };
        match what {
            What::Timer => {
                if core.poll_timeout().is_some_and(|due| due <= now) {
                    core.handle_timeout(now);
                }
            }
            What::Probe { link, bytes } => {
                // A probe of a link that one end has closed already is normal; the core counts the rest.
                let _ = core.handle_probe(now, link, &bytes);
            }
            What::Control { link, bytes } => match core.handle_control(now, link, &bytes) {
                Ok(()) | Err(ControlError::UnknownLink) => {}
                Err(error) => {
                    let what = format!("node {at} refuses honest control: {error}");
                    self.note(now, Note::Violation(what));
                }
            },
            What::Up { link, peer, dialled, kind, rtt } => {
                let remote = Some(socket(peer));
                let peer = LinkPeer {
                    node: shared.id(peer),
                    address: shared.address(peer),
                    dialled_by_us: dialled,
                    kind,
                    mtu: 1400,
                    rtt: Some(rtt),
                    remote,
                };
                core.link_up(now, link, peer);
                self.drain(shared, now);
                if kind == LinkKind::Routing {
                    self.trust_up(shared, now, link);
                }
            }
            What::Down { link, reason } => {
                self.links.remove(&link);
                core.link_down(now, link, reason);
                self.trust_down(now, link);
            }
            What::Trust { link, bytes } => self.trust_message(now, link, &bytes),
            What::TrustTimer => return self.trust_timer(shared, now),
            What::Kept { life, stored } => return self.trust_kept(now, life, *stored),
            What::DialFailed(target) => core.dial_failed(now, &target),
            What::Frame(frame) => self.forward(shared, now, *frame),
            What::MailTimer => return self.mail_timer(shared, now),
            What::Stored { life, token, ops } => return self.stored(shared, now, life, token, ops),
            What::Ping { .. } | What::Submit { .. } => return,
            What::Confirm | What::Revocation => return,
            What::Renew { .. } | What::NameHead | What::Prove { .. } => return,
        }
        self.drain(shared, now);
    }

    /// The next certificate.
    fn renew(&mut self, shared: &Shared, now: Duration, serial: u64) {
        let Some(plan) = shared.certificates else { return };
        let half = crate::seconds(plan.life_s / 2.0);
        let wait = half.mul_f64(0.9) + half.mul_f64(0.2 * self.rng.random::<f64>());
        self.push(now + wait, What::Renew { serial: serial + 1 });
        self.unproved = Some((serial, now));
        let Some(core) = self.core.as_mut().filter(|_| !self.stopped && !self.left) else { return };
        // Where heads are named, the record before stays until the next one.
        let waits = core.heads().any(|head| Some(head.issuer) == issuer(shared, self.at));
        if waits {
            return;
        }
        if let Err(error) = core.set_member(now, crate::auth::member_body(self.at, serial, plan.bytes)) {
            let what = format!("node {} refuses its own next certificate: {error}", self.at);
            self.note(now, Note::Violation(what));
        }
        self.drain(shared, now);
    }

    /// The next head of the log that this node writes.
    fn name_head(&mut self, shared: &Shared, now: Duration) {
        let Some((life, plan)) = shared.certificates.and_then(|plan| Some((plan.life_s, plan.inclusion?)))
        else {
            return;
        };
        self.push(now + crate::seconds(life / 12.0), What::NameHead);
        let id = shared.id(self.at);
        let Some(core) = self.core.as_mut().filter(|_| !self.stopped && !self.left) else { return };
        // The same ones as long as they are there. A checkpoint without any is named by nobody.
        let reachable = core.nodes().filter(|node| node.reachable && node.node != id);
        let mut witnesses: Vec<usize> = reachable.filter_map(|node| shared.find(&node.node)).collect();
        witnesses.sort_unstable();
        witnesses.truncate(WITNESSES);
        if witnesses.is_empty() {
            return;
        }
        // The size is the time: a head has what was logged until then.
        let size = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        for (size, len) in [(0, plan.statement_bytes), (size, plan.head_bytes)] {
            let head = HeadId { issuer: id, size };
            if let Err(error) = core.set_head(now, head, &crate::auth::head_body(&head, len, &witnesses)) {
                let what = format!("node {} refuses its own head: {error}", self.at);
                self.note(now, Note::Violation(what));
                return;
            }
        }
        self.drain(shared, now);
    }

    /// A head that has this node's certificate: the path is asked for, not by all at once. Question and answer (1.2 KB over a session) are not
    /// simulated.
    fn head_taken(&mut self, shared: &Shared, now: Duration, head: HeadId) {
        let Some(plan) = shared.certificates.filter(|_| issuer(shared, self.at) == Some(head.issuer)) else {
            return;
        };
        let logged = |(_, at): &(u64, Duration)| at.as_millis() < u128::from(head.size);
        let Some((serial, _)) = self.unproved.take_if(|unproved| logged(unproved)) else { return };
        let wait = crate::seconds(plan.life_s / 120.0).mul_f64(self.rng.random());
        self.push(now + wait, What::Prove { serial, head });
    }

    /// Shows the proof of a certificate in place of what was shown before.
    fn prove(&mut self, shared: &Shared, now: Duration, serial: u64, head: HeadId) {
        let Some(plan) = shared.certificates.and_then(|plan| plan.inclusion) else { return };
        let Some(core) = self.core.as_mut().filter(|_| !self.stopped && !self.left) else { return };
        let body = crate::auth::proof_body(self.at, serial, head, plan.path);
        // After a crash it may have none of the heads yet; it is told again with the next certificate.
        let _ = core.set_member(now, body);
        self.drain(shared, now);
    }

    /// Does what the overlay core asks for.
    pub(super) fn drain(&mut self, shared: &Shared, now: Duration) {
        while let Some(output) = self.core.as_mut().and_then(meshara_overlay::Core::poll_output) {
            match output {
                Output::Probe { link, bytes } => {
                    self.send(now, link, FRAMING + bytes.len(), false, |link| What::Probe { link, bytes });
                }
                Output::Control { link, bytes } => {
                    self.send(now, link, FRAMING + bytes.len(), true, |link| What::Control { link, bytes });
                }
                Output::Dial { target, kind } => self.acts.push((now, Act::Dial { target, kind })),
                Output::CloseLink { link, reason } => {
                    if reason == CloseReason::Dead {
                        self.note(now, Note::Death);
                    }
                    let heard = CloseReason::heard(u64::from(reason.code()));
                    self.send(now, link, FRAMING, false, |link| What::Down { link, reason: heard });
                    self.links.remove(&link);
                    self.trust_down(now, link);
                }
                Output::LinkUsable { link, usable } => {
                    self.usable.insert(link, usable);
                    self.note(now, Note::Changed);
                }
                Output::Table(table) => {
                    self.table = table;
                    self.note(now, Note::Changed);
                }
                Output::Event(Event::LinkSuspect { .. }) => self.note(now, Note::Suspicion),
                Output::Event(Event::NodeReachable(node)) => self.reachable(shared, now, &node),
                Output::Event(Event::HeadTaken(head)) => self.head_taken(shared, now, head),
                Output::Event(_) => {}
            }
        }
        let due = self.core.as_ref().and_then(meshara_overlay::Core::poll_timeout);
        if let Some(due) = due.map(|due| due.max(now))
            && self.timer.is_none_or(|timer| due < timer)
        {
            self.timer = Some(due);
            self.push(due, What::Timer);
        }
        self.drain_trust(shared, now);
    }

    fn reachable(&mut self, shared: &Shared, now: Duration, peer: &NodeId) {
        let Some(mail) = self.mail.as_mut() else { return };
        if mail.core.waiting(*peer).is_some() {
            mail.core.peer_reachable(now, *peer);
            self.drain_mail(shared, now);
        }
    }

    pub(super) fn send(
        &mut self,
        now: Duration,
        link: LinkId,
        size: usize,
        reliable: bool,
        what: impl FnOnce(LinkId) -> What,
    ) {
        let Some(End { peer, theirs, edge, .. }) = self.links.get(&link).copied() else { return };
        self.acts.push((now, Act::Send { edge, peer, size, reliable, what: what(theirs) }));
    }

    fn ping(&mut self, shared: &Shared, now: Duration, pinger: usize) {
        let Some(ping) = shared.pingers.get(pinger).filter(|ping| ping.on) else { return };
        self.push(now + ping.every, What::Ping { pinger });
        if self.runs() {
            self.note(now, Note::PingSent(pinger));
            self.originate(shared, now, ping.to, Body::Ping(pinger));
        }
    }

    /// Sends a frame of our own.
    pub(super) fn originate(&mut self, shared: &Shared, now: Duration, to: usize, body: Body) {
        let frame = Frame { from: self.at, to, ttl: TTL + 1, over: None, seen: Vec::new(), body };
        self.forward(shared, now, frame);
        self.drain(shared, now);
    }

    /// Takes a frame that came to, or starts at, this node.
    fn forward(&mut self, shared: &Shared, now: Duration, mut frame: Frame) {
        if let Some(link) = frame.over {
            self.traffic(now, link);
        }
        if frame.seen.contains(&self.at) {
            self.note(now, Note::Looped(frame.seen.clone()));
        }
        if self.at == frame.to {
            return self.arrive(shared, now, frame);
        }
        frame.seen.push(self.at);
        frame.ttl -= 1;
        if frame.ttl == 0 {
            return;
        }
        let usable = |link: LinkId| self.usable.get(&link).copied().unwrap_or(false);
        let Some(link) = self.table.next_hop(&shared.address(frame.to), frame.over, &usable) else {
            return;
        };
        self.traffic(now, link);
        let size = frame.body.size();
        self.send(now, link, size, false, |theirs| {
            frame.over = Some(theirs);
            What::Frame(Box::new(frame))
        });
    }

    fn arrive(&mut self, shared: &Shared, now: Duration, frame: Frame) {
        match frame.body {
            Body::Ping(pinger) => {
                let frame = Frame {
                    from: self.at,
                    to: frame.from,
                    ttl: TTL + 1,
                    over: None,
                    seen: Vec::new(),
                    body: Body::Pong(pinger),
                };
                self.forward(shared, now, frame);
            }
            Body::Pong(pinger) => self.note(now, Note::Pong(pinger)),
            Body::Session(segment) => self.segment(shared, now, frame.from, segment),
        }
    }

    fn traffic(&mut self, now: Duration, link: LinkId) {
        let Some(end) = self.links.get_mut(&link) else { return };
        if end.traffic_at.is_none_or(|last| now >= last + TRAFFIC_EVERY) {
            end.traffic_at = Some(now);
            if let Some(core) = self.core.as_mut() {
                core.note_traffic(now, link);
            }
        }
    }
}

/// Who issued a node's certificates, where there are logs.
fn issuer(shared: &Shared, at: usize) -> Option<NodeId> {
    let plan = shared.certificates?.inclusion?;
    Some(shared.id(at.checked_rem(plan.issuers)?))
}
