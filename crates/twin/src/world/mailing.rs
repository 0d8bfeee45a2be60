//! Drives the messaging cores: sessions over frames, commits to the simulated disk, submissions.

use std::time::Duration;

use meshara_messaging::{Output, StoreOp, Token};
use rand::Rng;

use super::{Body, What, World};
use crate::auth::node_id;
use crate::mail::UNIX_MS;
use crate::session::{Effect, Segment, Session};

/// A group commit takes this long, and up to as much again.
const COMMIT: Duration = Duration::from_millis(2);

impl World<'_> {
    /// A pair's next message.
    pub(super) fn submit(&mut self, pair: usize) {
        let now = self.now;
        let Some((from, to)) = self.pairs.get(pair).copied() else { return };
        if now >= self.submit_until {
            return;
        }
        self.push(now + self.submit_every, from, What::Submit { pair });
        let Some(node) = self.nodes.get_mut(from).filter(|node| node.runs()) else { return };
        let Some(mail) = node.mail.as_mut() else { return };
        let unix_ms = UNIX_MS + u64::try_from(now.as_millis()).unwrap_or(0);
        match mail.core.submit(now, node_id(to), self.message.clone(), unix_ms) {
            Ok(id) => self.check.submitted(id, from, to),
            Err(_) => self.check.counts.refused += 1,
        }
        self.drain_mail(from);
    }

    /// Does what a node's messaging core asks for.
    pub(super) fn drain_mail(&mut self, at: usize) {
        let now = self.now;
        let mut segments: Vec<(usize, Segment)> = Vec::new();
        loop {
            let Some(node) = self.nodes.get_mut(at) else { return };
            let life = node.life;
            let Some(mail) = node.mail.as_mut() else { return };
            let Some(output) = mail.core.poll_output(now) else { break };
            match output {
                Output::Transmit { to, frame } => {
                    let Some(to) = self.index.get(&to).copied() else { continue };
                    if let Some(session) = mail.sessions.get_mut(&to) {
                        segments.extend(session.send(now, frame.into()).into_iter().map(|s| (to, s)));
                    }
                }
                Output::Store { token, ops } => {
                    mail.committing = Some(ops.clone());
                    let done = now + COMMIT + COMMIT.mul_f64(self.rng.random());
                    self.push(done, at, What::Stored { life, token, ops });
                }
                Output::Connect { to } => {
                    let Some(to) = self.index.get(&to).copied() else { continue };
                    if let std::collections::btree_map::Entry::Vacant(slot) = mail.sessions.entry(to) {
                        let (session, syn) = Session::dial(now, self.rng.random());
                        slot.insert(session);
                        segments.push((to, syn));
                    }
                }
                Output::Acked { id, .. } => self.check.acked(now, id),
                Output::Rejected { .. } | Output::Expired { .. } => self.check.counts.refused += 1,
                Output::Delivered { .. } => {}
            }
        }
        let Some(mail) = self.nodes.get_mut(at).and_then(|node| node.mail.as_mut()) else { return };
        if let Some(due) = mail.deadline().map(|due| due.max(now))
            && mail.timer.is_none_or(|timer| due < timer)
        {
            mail.timer = Some(due);
            self.push(due, at, What::MailTimer);
        }
        for (to, segment) in segments {
            self.originate(at, to, Body::Session(segment));
        }
    }

    /// A commit is durable.
    pub(super) fn stored(&mut self, at: usize, life: u64, token: Token, ops: Vec<StoreOp>) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.life == life) else { return };
        let arrived = node.disk.apply(ops);
        for row in &arrived {
            let from = self.index.get(&row.from).copied().unwrap_or(usize::MAX);
            self.check.delivered(now, row.id, from, at);
        }
        if let Some(mail) = node.mail.as_mut() {
            mail.committing = None;
            mail.core.stored(now, token);
            let bytes = arrived.iter().map(|row| row.body.len() as u64).sum();
            mail.core.consumed(arrived.len() as u64, bytes);
        }
        self.drain_mail(at);
    }

    /// A crash catches a commit under way: it is on the disk whole, or not at all.
    pub(super) fn crash_disk(&mut self, at: usize) {
        let written = self.rng.random_bool(0.5);
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        if let Some(ops) = node.mail.take().and_then(|mail| mail.committing).filter(|_| written) {
            for row in node.disk.apply(ops) {
                let from = self.index.get(&row.from).copied().unwrap_or(usize::MAX);
                self.check.delivered(now, row.id, from, at);
            }
        }
        self.check.crashed(at, &node.disk.outgoing());
    }

    pub(super) fn mail_timer(&mut self, at: usize) {
        let now = self.now;
        let Some(mail) = self.nodes.get_mut(at).and_then(|node| node.mail.as_mut()) else { return };
        if mail.core.poll_timeout().is_some_and(|due| due <= now) {
            mail.core.handle_timeout(now);
        }
        let effects: Vec<(usize, Effect)> =
            mail.sessions.iter_mut().map(|(peer, session)| (*peer, session.timeout(now))).collect();
        for (peer, effect) in effects {
            self.session_effect(at, peer, effect);
        }
        self.drain_mail(at);
    }

    /// A segment came for this node.
    pub(super) fn segment(&mut self, at: usize, from: usize, segment: Segment) {
        let now = self.now;
        let Some(mail) = self.nodes.get_mut(at).and_then(|node| node.mail.as_mut()) else { return };
        let epoch = segment.epoch();
        let known = mail.sessions.get(&from).map(|session| (session.epoch, session.is_open()));
        let effect = match (known, &segment) {
            (Some((ours, _)), _) if ours == epoch => match mail.sessions.get_mut(&from) {
                Some(session) => session.segment(now, segment),
                None => Effect::default(),
            },
            // Both dialled: the larger epoch wins. An open session gives way, its peer must have lost it.
            (Some((ours, false)), Segment::Syn { .. }) if ours > epoch => Effect::default(),
            (_, Segment::Syn { .. }) => {
                let (session, answer) = Session::accept(now, epoch);
                mail.sessions.insert(from, session);
                Effect { send: vec![answer], up: true, ..Effect::default() }
            }
            (_, Segment::Reset { .. }) => Effect::default(),
            _ => Effect { send: vec![Segment::Reset { epoch }], ..Effect::default() },
        };
        self.session_effect(at, from, effect);
        self.drain_mail(at);
    }

    fn session_effect(&mut self, at: usize, peer: usize, effect: Effect) {
        let now = self.now;
        let id = node_id(peer);
        let Some(mail) = self.nodes.get_mut(at).and_then(|node| node.mail.as_mut()) else { return };
        let mut problem = None;
        if effect.down {
            mail.sessions.remove(&peer);
            mail.core.peer_down(now, id);
        }
        if effect.up
            && let Err(error) = mail.core.peer_up(now, id)
        {
            problem = Some(error);
        }
        for frame in effect.frames {
            if let Err(error) = mail.core.handle_frame(now, id, frame) {
                problem = Some(error);
            }
        }
        if let Some(error) = problem {
            self.check.violation(now, &format!("node {at} refuses a message frame of {peer}: {error}"));
        }
        for segment in effect.send {
            self.originate(at, peer, Body::Session(segment));
        }
    }
}
