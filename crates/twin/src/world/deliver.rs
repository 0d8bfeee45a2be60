//! Delivers events to the overlay cores, and does what they ask for.

use std::time::Duration;

use meshara_identity::NodeId;
use meshara_overlay::{CloseReason, ControlError, DialTarget, Event, LinkId, LinkKind, LinkPeer, Output};

use super::{Body, End, Frame, SOCKET_BUFFER, What, World, at_socket, socket};
use crate::auth::{address, node_id};

/// Links that a frame may cross, as the daemon starts with.
const TTL: u8 = meshara_overlay::header::DEFAULT_TTL;
/// The driver reports traffic on a link at most this often.
const TRAFFIC_EVERY: Duration = Duration::from_millis(20);
/// An unanswered dial fails after this long.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// Bytes around a probe or control message on the wire: hop header and tag, or QUIC's.
const FRAMING: usize = 64;

impl World<'_> {
    /// An event happens.
    pub(super) fn happen(&mut self, at: usize, what: What) {
        match what {
            What::Fault(fault) => return self.apply(&fault.action),
            What::Ping { pinger } => return self.ping(pinger),
            What::Submit { pair } => return self.submit(pair),
            _ => {}
        }
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        match &what {
            What::Timer if node.timer == Some(now) => node.timer = None,
            What::MailTimer => match &mut node.mail {
                Some(mail) if mail.timer == Some(now) => mail.timer = None,
                _ => return,
            },
            What::Timer => return,
            _ => {}
        }
        if node.stopped {
            let own = matches!(what, What::Timer | What::MailTimer);
            if !own && node.inbox.len() < SOCKET_BUFFER {
                node.inbox.push_back(what);
            }
            return;
        }
        if node.core.is_some() {
            self.deliver(at, what);
        }
    }

    pub(super) fn deliver(&mut self, at: usize, what: What) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        let Some(core) = node.core.as_mut() else { return };
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
                    self.check.violation(now, &format!("node {at} refuses honest control: {error}"))
                }
            },
            What::Up { link, peer, dialled, kind, rtt } => {
                let id = node_id(peer);
                let remote = Some(socket(peer));
                let peer = LinkPeer {
                    node: id,
                    address: address(&id),
                    dialled_by_us: dialled,
                    kind,
                    mtu: 1400,
                    rtt: Some(rtt),
                    remote,
                };
                core.link_up(now, link, peer);
            }
            What::Down { link, reason } => {
                node.links.remove(&link);
                core.link_down(now, link, reason);
            }
            What::DialFailed(target) => core.dial_failed(now, &target),
            What::Frame(frame) => self.forward(at, *frame),
            What::MailTimer => return self.mail_timer(at),
            What::Stored { life, token, ops } => return self.stored(at, life, token, ops),
            What::Fault(_) | What::Ping { .. } | What::Submit { .. } => return,
        }
        self.drain(at);
    }

    /// Does what a node's overlay core asks for.
    pub(super) fn drain(&mut self, at: usize) {
        let now = self.now;
        loop {
            let Some(node) = self.nodes.get_mut(at) else { return };
            let Some(output) = node.core.as_mut().and_then(meshara_overlay::Core::poll_output) else { break };
            match output {
                Output::Probe { link, bytes } => {
                    self.datagram(at, link, FRAMING + bytes.len(), |link| What::Probe { link, bytes })
                }
                Output::Control { link, bytes } => {
                    let Some(End { peer, theirs, edge, .. }) = node.links.get(&link).copied() else {
                        continue;
                    };
                    let Some(edge) = self.net.get(edge) else { continue };
                    let what = What::Control { link: theirs, bytes };
                    let size = FRAMING + what_len(&what);
                    if let Some((arrival, (peer, what))) = edge.reliable(now, at, size, (peer, what)) {
                        self.push(arrival, peer, what);
                    }
                }
                Output::Dial { target, kind } => self.dial(at, target, kind),
                Output::CloseLink { link, reason } => {
                    if reason == CloseReason::Dead {
                        self.deaths += 1;
                    }
                    let heard = CloseReason::heard(u64::from(reason.code()));
                    self.datagram(at, link, FRAMING, |link| What::Down { link, reason: heard });
                    if let Some(node) = self.nodes.get_mut(at) {
                        node.links.remove(&link);
                    }
                }
                Output::LinkUsable { link, usable } => {
                    node.usable.insert(link, usable);
                    self.check.changed(now);
                }
                Output::Table(table) => {
                    node.table = table;
                    self.check.changed(now);
                }
                Output::Event(event) => self.note(at, &event),
            }
        }
        let Some(node) = self.nodes.get_mut(at) else { return };
        let due = node.core.as_ref().and_then(meshara_overlay::Core::poll_timeout);
        if let Some(due) = due.map(|due| due.max(now))
            && node.timer.is_none_or(|timer| due < timer)
        {
            node.timer = Some(due);
            self.push(due, at, What::Timer);
        }
    }

    fn note(&mut self, at: usize, event: &Event) {
        match event {
            Event::LinkSuspect { .. } => self.suspicions += 1,
            Event::NodeReachable(node) => self.reachable(at, node),
            _ => {}
        }
    }

    fn reachable(&mut self, at: usize, peer: &NodeId) {
        let now = self.now;
        let Some(mail) = self.nodes.get_mut(at).and_then(|node| node.mail.as_mut()) else { return };
        if mail.core.waiting(*peer).is_some() {
            mail.core.peer_reachable(now, *peer);
            self.drain_mail(at);
        }
    }

    fn datagram(&mut self, at: usize, link: LinkId, size: usize, what: impl FnOnce(LinkId) -> What) {
        let end = self.nodes.get(at).and_then(|node| node.links.get(&link)).copied();
        let Some(End { peer, theirs, edge, .. }) = end else { return };
        let now = self.now;
        if let Some(arrival) = self.net.get(edge).and_then(|edge| edge.datagram(now, at, size)) {
            self.push(arrival, peer, what(theirs));
        }
    }

    fn dial(&mut self, at: usize, target: DialTarget, kind: LinkKind) {
        let answering = target.addrs.iter().filter_map(at_socket).find_map(|peer| {
            let edge = self.net.between(at, peer)?;
            let works = self.net.get(edge)?.works() && self.nodes.get(peer)?.runs();
            works.then_some((peer, edge))
        });
        let Some((peer, edge)) = answering else {
            return self.push(self.now + DIAL_TIMEOUT, at, What::DialFailed(target));
        };
        let Some(latency) = self.net.get(edge).map(|edge| edge.latency()) else { return };
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        let ends = [(at, End { peer, theirs, edge, traffic_at: None }, ours)];
        let ends =
            ends.into_iter().chain([(peer, End { peer: at, theirs: ours, edge, traffic_at: None }, theirs)]);
        for (node, end, link) in ends {
            if let Some(node) = self.nodes.get_mut(node) {
                node.links.insert(link, end);
            }
        }
        // TLS 1.3: the dialler is done after one round trip, the other end half a one later.
        let rtt = latency * 2;
        let now = self.now;
        self.push(now + rtt, at, What::Up { link: ours, peer, dialled: true, kind, rtt });
        self.push(now + rtt + latency, peer, What::Up { link: theirs, peer: at, dialled: false, kind, rtt });
    }

    fn ping(&mut self, pinger: usize) {
        let now = self.now;
        let Some(ping) = self.pingers.get_mut(pinger).filter(|ping| ping.on) else { return };
        let (from, to, every) = (ping.from, ping.to, ping.every);
        let runs = self.nodes.get(from).is_some_and(super::Node::runs);
        if runs {
            ping.sent += 1;
        }
        self.push(now + every, from, What::Ping { pinger });
        if runs {
            self.originate(from, to, Body::Ping(pinger));
        }
    }

    /// Sends a frame of our own.
    pub(super) fn originate(&mut self, from: usize, to: usize, body: Body) {
        let frame = Frame { from, to, ttl: TTL + 1, over: None, seen: Vec::new(), body };
        self.forward(from, frame);
        self.drain(from);
    }

    /// Takes a frame that came to, or starts at, a node.
    fn forward(&mut self, at: usize, mut frame: Frame) {
        if let Some(link) = frame.over {
            self.traffic(at, link);
        }
        if frame.seen.contains(&at) {
            self.check.looped(self.now, &frame.seen, at);
        }
        if at == frame.to {
            return self.arrive(at, frame);
        }
        frame.seen.push(at);
        frame.ttl -= 1;
        let Some(node) = self.nodes.get(at).filter(|_| frame.ttl > 0) else { return };
        let usable = |link: LinkId| node.usable.get(&link).copied().unwrap_or(false);
        let Some(link) = node.table.next_hop(&address(&node_id(frame.to)), frame.over, &usable) else {
            return;
        };
        self.traffic(at, link);
        let size = frame.body.size();
        self.datagram(at, link, size, |theirs| {
            frame.over = Some(theirs);
            What::Frame(Box::new(frame))
        });
    }

    fn arrive(&mut self, at: usize, frame: Frame) {
        match frame.body {
            Body::Ping(pinger) => {
                let frame = Frame {
                    from: at,
                    to: frame.from,
                    ttl: TTL + 1,
                    over: None,
                    seen: Vec::new(),
                    body: Body::Pong(pinger),
                };
                self.forward(at, frame);
            }
            Body::Pong(pinger) => {
                let now = self.now;
                if let Some(pinger) = self.pingers.get_mut(pinger) {
                    pinger.reply(now);
                }
            }
            Body::Session(segment) => self.segment(at, frame.from, segment),
        }
    }

    fn traffic(&mut self, at: usize, link: LinkId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        let Some(end) = node.links.get_mut(&link) else { return };
        if end.traffic_at.is_none_or(|last| now >= last + TRAFFIC_EVERY) {
            end.traffic_at = Some(now);
            if let Some(core) = node.core.as_mut() {
                core.note_traffic(now, link);
            }
        }
    }
}

fn what_len(what: &What) -> usize {
    match what {
        What::Control { bytes, .. } => bytes.len(),
        _ => 0,
    }
}
