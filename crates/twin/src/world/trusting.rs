//! Drives the core of signed sets: over links, timers and the simulated disk; and signs, where the keys are.

use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_overlay::LinkId;
use meshara_trust::gossip::{Change, Message, Output, Peer, Stored};
use meshara_trust::revocation::Revocations;
use meshara_trust::sets::{FRESHNESS_INTERVAL, SetKind, SignedSet};
use rand::Rng;

use super::node::{Node, Note, Shared, What};
use crate::auth::{Revoked, revoke};
use crate::trust::{Trust, confirming, former, founding, moment, reapproved, revoking, rotated};

/// Files of sets are written and synced in this long, and up to as much again.
const WRITE: Duration = Duration::from_millis(2);

const fn peer(link: LinkId) -> Peer {
    Peer(link.0 as u64)
}

impl Node {
    /// The process starts with what its disk has of signed sets. A mesh begins where the keys are.
    pub(super) fn start_trust(&mut self, shared: &Shared, now: Duration, revoked: Revoked) {
        let Some(plan) = shared.trust else { return };
        self.trust = Trust::start(self.kept.clone(), revoked, now);
        let founds = plan.authority == self.at && self.kept.roots.is_empty();
        let Some(trust) = self.trust.as_mut() else {
            let what = format!("node {} refuses the signed sets on its disk", self.at);
            return self.note(now, Note::Violation(what));
        };
        if founds && let Some(root) = founding() {
            self.kept.roots.push(root.clone());
            if let Err(error) = trust.gossip.publish_root(moment(now), root) {
                self.note(now, Note::Violation(format!("no root document: {error}")));
            }
        }
        self.enforce(shared, now);
        self.hold(now);
        self.drain_trust(shared, now);
    }

    pub(super) fn trust_up(&mut self, shared: &Shared, now: Duration, link: LinkId) {
        if let Some(trust) = self.trust.as_mut().filter(|_| self.links.contains_key(&link)) {
            trust.gossip.peer_up(moment(now), peer(link));
            self.drain_trust(shared, now);
        }
    }

    /// Without draining: whoever closes links does that afterwards.
    pub(super) fn trust_down(&mut self, now: Duration, link: LinkId) {
        if let Some(trust) = self.trust.as_mut() {
            trust.gossip.peer_down(moment(now), peer(link));
        }
    }

    pub(super) fn trust_message(&mut self, now: Duration, link: LinkId, bytes: &[u8]) {
        let Some(trust) = self.trust.as_mut().filter(|_| self.links.contains_key(&link)) else { return };
        let refused = if bytes.len() > trust.gossip.limit(peer(link)) {
            Some("longer than its kind".to_owned())
        } else {
            trust.gossip.handle_message(moment(now), peer(link), bytes).err().map(|error| error.to_string())
        };
        if let Some(error) = refused {
            let what = format!("node {} refuses an honest message about signed sets: {error}", self.at);
            self.note(now, Note::Violation(what));
        }
    }

    pub(super) fn trust_timer(&mut self, shared: &Shared, now: Duration) {
        let Some(trust) = self.trust.as_mut() else { return };
        if trust.gossip.poll_timeout().is_some_and(|due| due <= now) {
            trust.gossip.handle_timeout(moment(now));
        }
        self.drain_trust(shared, now);
    }

    /// Does what the core of signed sets asks for.
    pub(super) fn drain_trust(&mut self, shared: &Shared, now: Duration) {
        while let Some(output) = self.trust.as_mut().and_then(|trust| trust.gossip.poll_output()) {
            match output {
                Output::Send { to: Peer(to), message } => {
                    let Ok(link) = u32::try_from(to).map(LinkId) else { continue };
                    self.send_trust(now, link, message);
                }
                Output::Changed(change) => self.trust_changed(shared, now, change),
            }
        }
        let Some(trust) = self.trust.as_mut() else { return };
        if let Some(due) = trust.gossip.poll_timeout().map(|due| due.max(now))
            && trust.timer.is_none_or(|timer| due < timer)
        {
            trust.timer = Some(due);
            self.push(due, What::TrustTimer);
        }
    }

    fn trust_changed(&mut self, shared: &Shared, now: Duration, change: Change) {
        match change {
            Change::Set(SetKind::Revocations) => {
                self.hold(now);
                self.enforce(shared, now);
            }
            Change::Root => self.hold(now),
            Change::Fork(fork) => {
                let what = format!("node {} holds honest signers for liars: {fork:?}", self.at);
                return self.note(now, Note::Violation(what));
            }
            // One that goes by another root document may be offered what it can't verify yet.
            Change::Refused(_) => return,
            _ => {}
        }
        self.write_trust(now);
    }

    /// Tells the world what this node goes by.
    fn hold(&mut self, now: Duration) {
        let Some(have) = self.trust.as_ref().map(|trust| trust.gossip.have()) else { return };
        self.note(now, Note::Held { number: have.revocations.number, root: have.root });
    }

    /// Closes links and drops records of the newly revoked, as the daemon does.
    fn enforce(&mut self, shared: &Shared, now: Duration) {
        let Some((trust, core)) = self.trust.as_ref().zip(self.core.as_mut()) else { return };
        let held = trust.gossip.revocations().unconfirmed().map(Revocations::revoked).unwrap_or_default();
        for revocation in held {
            if revoke(&trust.revoked, revocation.node) && shared.find(&revocation.node).is_some() {
                core.revoke(now, &revocation.node);
            }
        }
        self.drain(shared, now);
    }

    /// One write at a time; what comes meanwhile is written after it.
    fn write_trust(&mut self, now: Duration) {
        let life = self.life;
        let Some(trust) = self.trust.as_mut() else { return };
        trust.dirty = trust.writing;
        if !std::mem::replace(&mut trust.writing, true) {
            let stored = Box::new(trust.stored());
            let done = now + WRITE + WRITE.mul_f64(self.rng.random());
            self.push(done, What::Kept { life, stored });
        }
    }

    /// A write is durable.
    pub(super) fn trust_kept(&mut self, now: Duration, life: u64, stored: Stored) {
        if self.life != life {
            return;
        }
        self.keep(now, stored);
        if let Some(trust) = self.trust.as_mut() {
            trust.writing = false;
            if trust.dirty {
                self.write_trust(now);
            }
        }
    }

    fn keep(&mut self, now: Duration, stored: Stored) {
        let number = stored.revocations.as_ref().map_or(0, |set| set.signed.head.number);
        let root = stored.roots.last().map_or(0, |root| root.document.version);
        self.kept = stored;
        self.note(now, Note::Kept { number, root });
    }

    fn send_trust(&mut self, now: Duration, link: LinkId, message: Arc<[u8]>) {
        let size = super::deliver::FRAMING + message.len();
        self.send(now, link, size, true, |link| What::Trust { link, bytes: message });
    }

    /// Signs a snapshot that revokes `node`, or a former member: on its own disk first, then out. What was signed.
    pub(super) fn sign_revocation(
        &mut self,
        shared: &Shared,
        now: Duration,
        node: Option<NodeId>,
    ) -> Option<SignedSet> {
        let at = moment(now);
        let trust = self.trust.as_mut()?;
        let number = trust.gossip.have().revocations.number + 1;
        let set = revoking(&trust.gossip, at.clock, node.unwrap_or_else(|| former(number)))?;
        let stored = Stored { revocations: Some(set.clone()), ..trust.stored() };
        let offered = trust.gossip.publish_set(at, set.clone());
        self.note(now, Note::Published(number));
        self.keep(now, stored);
        if let Err(error) = offered {
            self.note(now, Note::Violation(format!("the signer refuses its own snapshot: {error}")));
        }
        self.confirm(shared, now);
        Some(set)
    }

    /// Says which sets are the newest.
    pub(super) fn confirm(&mut self, shared: &Shared, now: Duration) {
        let Some(trust) = self.trust.as_mut() else { return };
        if let Some(signed) = confirming(&trust.gossip, moment(now).clock) {
            // Its own word of the same millisecond is no news.
            let _ = trust.gossip.publish_freshness(moment(now), signed);
        }
        self.drain_trust(shared, now);
    }

    /// The root names another authority, which approves what is held.
    pub(super) fn rotate(&mut self, shared: &Shared, now: Duration) {
        let at = moment(now);
        let Some(trust) = self.trust.as_mut() else { return };
        let Some(root) = rotated(&trust.gossip, at.clock) else { return };
        let advanced = trust.gossip.publish_root(at, root);
        let approved = reapproved(&trust.gossip, at.clock).map(|set| trust.gossip.publish_set(at, set));
        let problem = advanced.err().or_else(|| approved.and_then(Result::err));
        let stored = trust.stored();
        self.keep(now, stored);
        if let Some(error) = problem {
            self.note(now, Note::Violation(format!("another authority can't begin: {error}")));
        }
        self.confirm(shared, now);
    }

    /// Sends all neighbours an old snapshot, as a liar does.
    pub(super) fn replay(&mut self, now: Duration, old: &SignedSet) {
        let Ok(message) = Message::Set(old.clone()).encode() else { return };
        let message: Arc<[u8]> = message.into();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.send_trust(now, link, message.clone());
        }
    }

    /// What the authority does by itself, again and again.
    pub(super) fn sign_regularly(&mut self, shared: &Shared, now: Duration, what: &What) {
        let Some(plan) = shared.trust else { return };
        match what {
            What::Confirm => {
                self.push(now + FRESHNESS_INTERVAL, What::Confirm);
                if self.runs() {
                    self.confirm(shared, now);
                }
            }
            What::Revocation => {
                if let Some(every) = plan.every_s {
                    self.push(now + crate::seconds(every), What::Revocation);
                }
                if self.runs() {
                    self.sign_revocation(shared, now, None);
                }
            }
            _ => {}
        }
    }
}
