//! How heads spread: announced by issuer and size, asked for by who lacks them, judged, kept, announced on. And the member records that wait for
//! one: their sender is asked for the head, and they are looked at again when it is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use crate::auth::HeadError;
use crate::bucket::Bucket;
use crate::control::{ControlError, MAX_ENTRIES, Message};
use crate::heads::{HEADS_KEPT, HeadId, Known, MAX_HEAD_LEN};
use crate::record::Record;
use crate::types::{Event, LinkId};

/// Who was asked for a head and has not sent it for so long is asked no more: the next one who needs it asks again. As for certificates.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Heads asked for at once: all of every issuer, which a newcomer lacks.
const MAX_ASKED: usize = 17 * 16;
/// Heads of one issuer asked for at once: its statement and all that are kept, twice …
const ISSUER_BURST: u32 = 2 * (HEADS_KEPT as u32 + 1);
/// … and then one in this time: the shortest certificates that are proved live for a minute, with a head every 5 s.
const ISSUER_EVERY: Duration = Duration::from_secs(2);
/// Issuers whose pace is remembered: four times as many as there are grants at a time.
const MAX_PACES: usize = 64;
/// Member records that wait for their head: what a minute's renewals of 10,000 nodes are, thrice; 1.3 MB. Others are found again by the
/// comparison of databases.
const MAX_WAITING: usize = 1024;
/// For so long: a head crosses the mesh in less than the time in which a neighbour that dies is noticed.
const WAIT: Duration = Duration::from_secs(30);

/// What was asked for, and what waits.
#[derive(Debug, Default)]
pub(super) struct Awaiting {
    asked: BTreeMap<HeadId, (LinkId, Duration)>,
    paces: BTreeMap<NodeId, Bucket>,
    waiting: BTreeMap<NodeId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    head: HeadId,
    from: LinkId,
    born: Duration,
    until: Duration,
    record: Record,
}

impl Awaiting {
    /// Nothing of this node waits, and nothing of its log is asked for.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.waiting.remove(node);
        self.asked.retain(|id, _| id.issuer != *node);
        self.paces.remove(node);
    }
}

impl Core {
    /// What the authenticator may go by.
    pub(super) const fn known(&self) -> Known<'_> {
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
        self.awaiting.forget(issuer);
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

    /// A neighbour says which heads it holds: those that are lacking are asked for.
    pub(super) fn heads_announced(&mut self, now: Duration, link: LinkId, ids: &[HeadId]) {
        let lacking: Vec<HeadId> = ids.iter().copied().filter(|id| self.asks_now(now, link, id)).collect();
        if !lacking.is_empty() {
            self.control_out(link, Message::WantHeads(lacking).encode());
        }
    }

    /// Whether a head is to be asked for on this link now; if so, it is noted.
    fn asks_now(&mut self, now: Duration, link: LinkId, id: &HeadId) -> bool {
        if self.heads.contains(id) || !self.heads.has_room(id) || !self.auth.wants_head(id) {
            return false;
        }
        let Awaiting { asked, paces, .. } = &mut self.awaiting;
        if asked.get(id).is_some_and(|(_, at)| now < *at + ASK_AGAIN) {
            return false;
        }
        if asked.len() >= MAX_ASKED {
            asked.retain(|_, (_, at)| now < *at + ASK_AGAIN);
        }
        // The authenticator wants heads of issuers alone, so these are few; should it not, all begin anew.
        if paces.len() >= MAX_PACES {
            paces.clear();
        }
        let pace = paces.entry(id.issuer).or_insert_with(|| Bucket::new(ISSUER_BURST, ISSUER_EVERY, now));
        if asked.len() >= MAX_ASKED || !pace.take(1, now) {
            return false;
        }
        asked.insert(*id, (link, now));
        true
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

    /// A head came. One that this neighbour wasn't asked for is not looked at: checking it costs signatures.
    pub(super) fn head_came(&mut self, now: Duration, link: LinkId, id: HeadId, body: &[u8]) {
        if self.awaiting.asked.get(&id).is_none_or(|(asked, _)| *asked != link) {
            self.metrics.duplicates += 1;
            return;
        }
        self.awaiting.asked.remove(&id);
        if self.heads.contains(&id) {
            self.metrics.duplicates += 1;
        } else if self.take_head(now, id, body, Some(link)).is_err() {
            self.metrics.heads_refused += 1;
        }
    }

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
        if !self.heads.has_room(&id) {
            return Err(HeadError::NoRoom);
        }
        let judged = self.auth.head(&id, body, &self.known())?;
        self.heads.put(id, judged, body.into());
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
    /// again. One that doesn't stand goes; members that were believed under it stay so until their record ends, for their log did sign the head.
    pub(super) fn witness_known(&mut self, name: &str) {
        let names = |(_, unknown): &(HeadId, &[String])| unknown.iter().any(|witness| witness == name);
        let again: Vec<HeadId> = self.heads.unwitnessed().filter(names).map(|(id, _)| id).collect();
        for id in again {
            let Some(body) = self.heads.body(&id).cloned() else { continue };
            match self.auth.head(&id, &body, &self.known()) {
                Ok(judged) => self.heads.rate(&id, judged),
                Err(_) => {
                    self.heads.remove(&id);
                    self.metrics.heads_refused += 1;
                }
            }
        }
    }

    /// A member record is proved under a head that isn't here: it waits, and its sender, who believed it, is asked for the head.
    pub(super) fn wait_for_head(
        &mut self,
        now: Duration,
        from: LinkId,
        age: Duration,
        record: Record,
        head: HeadId,
    ) {
        let waiting = &mut self.awaiting.waiting;
        let newer = waiting.get(&record.origin).is_some_and(|held| held.record.sequence > record.sequence);
        if newer || (waiting.len() >= MAX_WAITING && !waiting.contains_key(&record.origin)) {
            self.metrics.shed += 1;
            return;
        }
        self.metrics.waited += 1;
        let (born, until) = (now.saturating_sub(age), now + WAIT);
        waiting.insert(record.origin, Waiting { head, from, born, until, record });
        self.ask_for(now, from, head);
    }

    fn ask_for(&mut self, now: Duration, link: LinkId, head: HeadId) {
        if self.links.contains_key(&link) {
            self.heads_announced(now, link, &[HeadId::statement(head.issuer), head]);
        }
    }

    fn take_waiting(&mut self, now: Duration, head: HeadId) {
        let ready: Vec<NodeId> = self
            .awaiting
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.head == head)
            .map(|(origin, _)| *origin)
            .collect();
        for origin in ready {
            let Some(Waiting { from, born, record, .. }) = self.awaiting.waiting.remove(&origin) else {
                continue;
            };
            // Who sent it may be gone; what is wrong with it was counted.
            let _ = self.consider(now, from, now.saturating_sub(born), record);
        }
    }

    /// Asks again for what records wait for, and gives up those that waited for long.
    pub(super) fn mind_waiting(&mut self, now: Duration) {
        let before = self.awaiting.waiting.len();
        self.awaiting.waiting.retain(|_, waiting| now < waiting.until);
        self.metrics.ignored += (before - self.awaiting.waiting.len()) as u64;
        let asks: BTreeMap<HeadId, LinkId> =
            self.awaiting.waiting.values().map(|waiting| (waiting.head, waiting.from)).collect();
        for (head, link) in asks {
            self.ask_for(now, link, head);
        }
    }
}
