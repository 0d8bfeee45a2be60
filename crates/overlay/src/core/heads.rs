//! How heads spread: announced by issuer and size, judged, kept, announced on; and judged again when a witness is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use crate::auth::HeadError;
use crate::bucket::Bucket;
use crate::control::{ControlError, MAX_ENTRIES, Message};
use crate::heads::{HEADS_KEPT, HeadId, Known, MAX_HEAD_LEN};
use crate::types::{Event, LinkId};

/// Heads of one issuer taken at once: its statement and all that are kept, twice …
const ISSUER_BURST: u32 = 2 * (HEADS_KEPT as u32 + 1);
/// … and then one in this time: the shortest certificates that are proved live for a minute, with a head every 5 s.
const ISSUER_EVERY: Duration = Duration::from_secs(2);
/// Issuers whose pace is remembered: four times as many as there are grants at a time.
const MAX_PACES: usize = 64;

/// How often each issuer's log named a head that was taken.
#[derive(Debug, Default)]
pub(super) struct Paces {
    issuers: BTreeMap<NodeId, Bucket>,
}

impl Paces {
    /// Only what the issuer signed takes of its pace: nobody else can use it up.
    fn take(&mut self, now: Duration, issuer: NodeId) -> bool {
        // Heads of issuers alone are taken, so these are few; should they not be, all begin anew.
        if self.issuers.len() >= MAX_PACES {
            self.issuers.clear();
        }
        let new = || Bucket::new(ISSUER_BURST, ISSUER_EVERY, now);
        self.issuers.entry(issuer).or_insert_with(new).take(1, now)
    }
}

impl Core {
    /// What the authenticator may go by; for who asks it outside of this core, too.
    #[must_use]
    pub const fn known(&self) -> Known<'_> {
        Known { heads: &self.heads, database: &self.database }
    }

    /// Takes a head that this node names itself, and announces it.
    ///
    /// # Errors
    /// The authenticator refuses it.
    pub fn set_head(&mut self, now: Duration, id: HeadId, body: &[u8]) -> Result<(), HeadError> {
        self.begin(now);
        let taken = if self.heads.contains(&id) { Ok(()) } else { self.take_head(now, id, body, None) };
        self.finish(now);
        taken
    }

    /// The heads that are held, by issuer, oldest first; with size 0 its statement.
    pub fn heads(&self) -> impl Iterator<Item = HeadId> {
        self.heads.ids()
    }

    /// Those of which no witness is known here: taken on their log's word until one is.
    pub fn unwitnessed(&self) -> impl Iterator<Item = HeadId> {
        self.heads.unwitnessed().map(|(id, _)| id)
    }

    /// The bytes of one.
    #[must_use]
    pub fn head(&self, id: &HeadId) -> Option<Arc<[u8]>> {
        self.heads.body(id).cloned()
    }

    /// The heads of an issuer's log count no more: it forked, or its issuer was revoked. The authenticator must refuse others from now on. Members
    /// that were believed under one stay so until their record ends.
    pub fn forget_heads(&mut self, issuer: &NodeId) {
        self.heads.forget(issuer);
        self.waiting.forget(issuer);
        self.paces.issuers.remove(issuer);
        for link in self.links.values_mut() {
            link.offers.forget(issuer);
        }
    }

    /// Forgets the heads of issuers of which the authenticator wants none any more: they are revoked, or their grants have ended. Done now and then
    /// anyway; whoever knows of a change calls it at once.
    pub fn review_heads(&mut self) {
        let issuers: BTreeSet<NodeId> = self.heads.ids().map(|id| id.issuer).collect();
        for issuer in issuers {
            if !self.auth.wants_head(&HeadId::statement(issuer)) {
                self.forget_heads(&issuer);
            }
        }
    }

    /// Tells a new neighbour which heads are held here.
    pub(super) fn greet_heads(&mut self, link: LinkId) {
        if self.heads.is_empty() {
            return;
        }
        let ids: Vec<HeadId> = self.heads.ids().collect();
        for chunk in ids.chunks(MAX_ENTRIES) {
            self.control_out(link, Message::Heads(chunk.to_vec()).encode());
        }
    }

    /// A neighbour wants heads.
    pub(super) fn heads_wanted(
        &mut self,
        now: Duration,
        link: LinkId,
        ids: &[HeadId],
    ) -> Result<(), ControlError> {
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let within = self.links.get_mut(&link).is_some_and(|link| link.requests.take(count, now));
        if !within {
            return Err(ControlError::TooManyRequests);
        }
        for id in ids {
            if let Some(body) = self.heads.body(id).map(|body| body.to_vec()) {
                self.control_out(link, Message::Head { id: *id, body }.encode());
            }
        }
        Ok(())
    }

    /// A head came. One that this neighbour wasn't asked for is not looked at: checking it costs signatures. If it is refused, the next neighbour
    /// that offers it is asked.
    pub(super) fn head_came(&mut self, now: Duration, link: LinkId, id: HeadId, body: &[u8]) {
        let asked = self.links.get_mut(&link).is_some_and(|link| link.offers.answer(&id));
        let held = self.heads.body(&id);
        let news = held.is_none_or(|held| self.heads.is_unwitnessed(&id) && **held != *body);
        if !asked || !news {
            self.metrics.duplicates += 1;
            return;
        }
        if self.take_head(now, id, body, Some(link)).is_err() {
            self.metrics.heads_refused += 1;
            self.ask_for(now, [id]);
        }
    }

    /// Takes a head that isn't here, or one that is here without a witness and has one now.
    fn take_head(
        &mut self,
        now: Duration,
        id: HeadId,
        body: &[u8],
        from: Option<LinkId>,
    ) -> Result<(), HeadError> {
        if body.len() > MAX_HEAD_LEN {
            return Err(HeadError::Malformed);
        }
        let held = self.heads.contains(&id);
        if !held && !self.heads.has_room(&id) {
            return Err(HeadError::NoRoom);
        }
        let judged = self.auth.head(&id, body, &self.known())?;
        if held && !judged.unknown.is_empty() {
            return Err(HeadError::Unwitnessed);
        }
        if from.is_some() && !self.paces.take(now, id.issuer) {
            return Err(HeadError::TooOften);
        }
        self.heads.put(now, id, judged, body.into());
        self.metrics.heads_taken += 1;
        let others: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.routing()).map(|(id, _)| *id).collect();
        for link in others.into_iter().filter(|link| Some(*link) != from) {
            self.control_out(link, Message::Heads(vec![id]).encode());
        }
        self.event(Event::HeadTaken(id));
        self.take_waiting(now, id);
        Ok(())
    }

    /// A member is known by this name and key as it wasn't before: heads that it may have witnessed, and nobody else who is known here, are judged
    /// again. One that doesn't stand goes, and who else offers it is asked; members that were believed under it stay so until their record ends,
    /// for their log did sign the head.
    pub(super) fn witness_known(&mut self, now: Duration, name: &str) {
        let names = |(_, unknown): &(HeadId, &[String])| unknown.iter().any(|witness| witness == name);
        let again: Vec<HeadId> = self.heads.unwitnessed().filter(names).map(|(id, _)| id).collect();
        for id in again {
            let Some(body) = self.heads.body(&id).cloned() else { continue };
            match self.auth.head(&id, &body, &self.known()) {
                Ok(judged) => self.heads.rate(&id, judged),
                Err(_) => {
                    self.heads.remove(&id);
                    self.metrics.heads_refused += 1;
                    self.ask_for(now, [id]);
                }
            }
        }
    }
}
