//! Drives the messaging core: sessions over frames, commits to the simulated disk, submissions.

use std::time::Duration;

use meshara_messaging::{Output, StoreOp, Token};
use rand::Rng;

use super::node::{Body, Node, Note, Shared, What};
use crate::mail::UNIX_MS;
use crate::session::{Effect, Segment, Session};

/// A group commit takes this long, and up to as much again.
const COMMIT: Duration = Duration::from_millis(2);

impl Node {
    /// A pair's next message.
    pub(super) fn submit(&mut self, shared: &Shared, now: Duration, pair: usize) {
        let Some((_, to)) = shared.pairs.get(pair).copied() else { return };
        if now >= shared.submit_until {
            return;
        }
        self.push(now + shared.submit_every, What::Submit { pair });
        if !self.runs() {
            return;
        }
        let Some(mail) = self.mail.as_mut() else { return };
        let unix_ms = UNIX_MS + u64::try_from(now.as_millis()).unwrap_or(0);
        let note = match mail.core.submit(now, shared.id(to), shared.message.clone(), unix_ms) {
            Ok(id) => Note::Submitted { id, to },
            Err(_) => Note::Refused,
        };
        self.note(now, note);
        self.drain_mail(shared, now);
    }

    /// Does what the messaging core asks for.
    pub(super) fn drain_mail(&mut self, shared: &Shared, now: Duration) {
        let mut segments: Vec<(usize, Segment)> = Vec::new();
        loop {
            let life = self.life;
            let Some(mail) = self.mail.as_mut() else { return };
            let Some(output) = mail.core.poll_output(now) else { break };
            match output {
                Output::Transmit { to, frame } => {
                    let Some(to) = shared.find(&to) else { continue };
                    if let Some(session) = mail.sessions.get_mut(&to) {
                        segments.extend(session.send(now, frame.into()).into_iter().map(|s| (to, s)));
                    }
                }
                Output::Store { token, ops } => {
                    mail.committing = Some(ops.clone());
                    let done = now + COMMIT + COMMIT.mul_f64(self.rng.random());
                    self.push(done, What::Stored { life, token, ops });
                }
                Output::Connect { to } => {
                    let Some(to) = shared.find(&to) else { continue };
                    if let std::collections::btree_map::Entry::Vacant(slot) = mail.sessions.entry(to) {
                        let (session, syn) = Session::dial(now, self.rng.random());
                        slot.insert(session);
                        segments.push((to, syn));
                    }
                }
                Output::Acked { id, .. } => self.note(now, Note::Acked(id)),
                Output::Rejected { .. } | Output::Expired { .. } => self.note(now, Note::Refused),
                Output::Delivered { .. } => {}
            }
        }
        let Some(mail) = self.mail.as_mut() else { return };
        if let Some(due) = mail.deadline().map(|due| due.max(now))
            && mail.timer.is_none_or(|timer| due < timer)
        {
            mail.timer = Some(due);
            self.push(due, What::MailTimer);
        }
        for (to, segment) in segments {
            self.originate(shared, now, to, Body::Session(segment));
        }
    }

    /// A commit is durable.
    pub(super) fn stored(
        &mut self,
        shared: &Shared,
        now: Duration,
        life: u64,
        token: Token,
        ops: Vec<StoreOp>,
    ) {
        if self.life != life {
            return;
        }
        let arrived = self.disk.apply(ops);
        for row in &arrived {
            let from = shared.find(&row.from).unwrap_or(usize::MAX);
            self.note(now, Note::Delivered { id: row.id, from });
        }
        if let Some(mail) = self.mail.as_mut() {
            mail.committing = None;
            mail.core.stored(now, token);
            let bytes = arrived.iter().map(|row| row.body.len() as u64).sum();
            mail.core.consumed(arrived.len() as u64, bytes);
        }
        self.drain_mail(shared, now);
    }

    /// The process ends while a commit may be under way: it is on the disk whole, or not at all.
    pub(super) fn crash_disk(&mut self, shared: &Shared, now: Duration, written: bool) {
        let committing = self.mail.take().and_then(|mail| mail.committing).filter(|_| written);
        for row in committing.map(|ops| self.disk.apply(ops)).unwrap_or_default() {
            let from = shared.find(&row.from).unwrap_or(usize::MAX);
            self.note(now, Note::Delivered { id: row.id, from });
        }
    }

    pub(super) fn mail_timer(&mut self, shared: &Shared, now: Duration) {
        let Some(mail) = self.mail.as_mut() else { return };
        if mail.core.poll_timeout().is_some_and(|due| due <= now) {
            mail.core.handle_timeout(now);
        }
        let effects: Vec<(usize, Effect)> =
            mail.sessions.iter_mut().map(|(peer, session)| (*peer, session.timeout(now))).collect();
        for (peer, effect) in effects {
            self.session_effect(shared, now, peer, effect);
        }
        self.drain_mail(shared, now);
    }

    /// A segment came for this node.
    pub(super) fn segment(&mut self, shared: &Shared, now: Duration, from: usize, segment: Segment) {
        let Some(mail) = self.mail.as_mut() else { return };
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
        self.session_effect(shared, now, from, effect);
        self.drain_mail(shared, now);
    }

    fn session_effect(&mut self, shared: &Shared, now: Duration, peer: usize, effect: Effect) {
        let at = self.at;
        let id = shared.id(peer);
        let Some(mail) = self.mail.as_mut() else { return };
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
            let what = format!("node {at} refuses a message frame of {peer}: {error}");
            self.note(now, Note::Violation(what));
        }
        for segment in effect.send {
            self.originate(shared, now, peer, Body::Session(segment));
        }
    }
}
