//! Records: our own, those of others, and how they spread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use super::announce::Announcing;
use crate::auth::MemberError;
use crate::bucket::Bucket;
use crate::config::Config;
use crate::control::{ControlError, MAX_ENTRIES, Message, SummaryEntry, chunk_records, raw_records};
use crate::database::MAX_ORIGINS;
use crate::heads::HeadId;
use crate::record::{Kind, LinkState, Neighbour, Record, encode_addresses};
use crate::types::{CloseReason, Event, LinkId, LinkKind, Output};

/// A member record of our own that nothing replaced is refreshed after this share of the lifetime: later than leaf certificates of an hour are
/// renewed, which makes a new record by itself, and soon enough that every node has it long before the old one expires.
const MEMBER_REFRESH: (u32, u32) = (2, 3);
/// Own changes within this time go out together. The first goes at once.
const BATCH: Duration = Duration::from_millis(10);
/// News passes on at once this often in a row: more than any one failure makes …
const FLOOD_BURST: u32 = 32;
/// … and then once in this time, together: when a mesh starts, a message for each record would be most of the work.
const FLOOD_EVERY: Duration = Duration::from_millis(10);
/// Compare databases with one neighbour this often: finds what was shed.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// Answer another digest with a summary at most this often per link: floods under way make digests differ.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);
/// Look for expired records this often, and for heads of issuers whose grants have ended.
const AGE_EVERY: Duration = Duration::from_secs(10);
/// Updates of origins that are over their rate, newest of each; beyond that they are shed.
const MAX_DEFERRED: usize = 1024;
/// Try deferred updates this often.
const DEFERRED_EVERY: Duration = Duration::from_millis(200);

/// What is to be sent, and when.
#[derive(Debug)]
pub(super) struct Flooding {
    sequence: u64,
    /// At most the newest record of each kind and origin leaves it.
    queue: Vec<(u16, Record, Option<LinkId>)>,
    pace: Bucket,
    queue_due: Option<Duration>,
    link_state_due: Option<Duration>,
    link_state_sent: Option<Duration>,
    refresh_at: Duration,
    member_made: Duration,
    /// How old the own member record may become.
    member_refresh: Duration,
    pub(super) announcing: Announcing,
    compare_at: Duration,
    age_at: Duration,
    deferred: BTreeMap<(NodeId, Kind), (LinkId, Duration, Record)>,
    deferred_at: Option<Duration>,
}

impl Flooding {
    pub(super) fn new(now: Duration, sequence: u64, config: &Config) -> Self {
        Self {
            sequence,
            queue: Vec::new(),
            pace: Bucket::new(FLOOD_BURST, FLOOD_EVERY, now),
            queue_due: None,
            link_state_due: Some(now),
            link_state_sent: None,
            refresh_at: now + config.refresh,
            member_made: now,
            member_refresh: config.lifetime * MEMBER_REFRESH.0 / MEMBER_REFRESH.1,
            announcing: Announcing::default(),
            compare_at: now + COMPARE_EVERY,
            age_at: now + AGE_EVERY,
            deferred: BTreeMap::new(),
            deferred_at: None,
        }
    }

    pub(super) fn link_state_changed(&mut self, now: Duration) {
        let soonest = self.link_state_sent.map_or(now, |sent| (sent + BATCH).max(now));
        self.link_state_due = Some(self.link_state_due.map_or(soonest, |due| due.min(soonest)));
    }

    /// Passes on nothing of this origin that still waits.
    pub(super) fn forget(&mut self, origin: &NodeId) {
        self.queue.retain(|(_, record, _)| record.origin != *origin);
        self.announcing.forget(origin);
        self.deferred.retain(|(waiting, _), _| waiting != origin);
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.link_state_due, self.deferred_at, self.queue_due].into_iter().flatten().min()
    }
}

impl Core {
    /// A control message came in.
    ///
    /// # Errors
    /// The peer misbehaves: the driver closes the link.
    pub fn handle_control(&mut self, now: Duration, id: LinkId, bytes: &[u8]) -> Result<(), ControlError> {
        self.begin(now);
        let result = self.control(now, id, bytes);
        if result.is_err() {
            self.metrics.bad_control += 1;
        }
        // What a neighbour tells doesn't change what we tell of our links.
        self.finish_links_unchanged(now);
        result
    }

    fn control(&mut self, now: Duration, id: LinkId, bytes: &[u8]) -> Result<(), ControlError> {
        let link = self.links.get_mut(&id).ok_or(ControlError::UnknownLink)?;
        if link.peer.kind == LinkKind::Direct {
            return Err(ControlError::DirectLink);
        }
        if let Some(records) = raw_records(bytes)? {
            let peer = link.peer.node;
            for (age_s, bytes) in records {
                let age = Duration::from_secs(u64::from(age_s));
                // A newer record of ours must be looked at in full; old news of others is most of a flood.
                if let Some(head) = Record::peek(bytes)
                    && self.database.is_old(now, age, head, bytes)
                {
                    self.metrics.duplicates += 1;
                    if head.1 == peer {
                        self.remind(now, id, head);
                    }
                    continue;
                }
                let record = self.auth.read(bytes)?;
                self.consider(now, id, age, record)?;
            }
            return Ok(());
        }
        match Message::decode(bytes)? {
            Message::Records(_) => {}
            Message::Summary(entries) => {
                let mut missing = Vec::new();
                for entry in entries {
                    if self.database.wants(now, &entry) && !self.asked_lately(now, &entry) {
                        missing.push((entry.origin, entry.kind));
                    }
                }
                if !missing.is_empty() {
                    self.control_out(id, Message::Request(missing).encode());
                }
            }
            Message::Request(wanted) => {
                let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
                if !link.requests.take(count, now) {
                    return Err(ControlError::TooManyRequests);
                }
                let records: Vec<_> = wanted
                    .iter()
                    .filter_map(|(origin, kind)| self.database.record(now, origin, *kind))
                    .collect();
                for message in chunk_records(&records) {
                    self.control_out(id, message);
                }
            }
            Message::Heads(ids) => self.heads_announced(now, id, &ids),
            Message::WantHeads(ids) => self.heads_wanted(now, id, &ids)?,
            Message::Head { id: head, body } => self.head_came(now, id, head, &body),
            Message::Digest(digest) => {
                let lately = link.summary_at.is_some_and(|at| now < at + SUMMARY_EVERY);
                if digest != self.database.digest() && !lately {
                    link.summary_at = Some(now);
                    let entries: Vec<SummaryEntry> = self.database.summary().collect();
                    for chunk in entries.chunks(MAX_ENTRIES) {
                        self.control_out(id, Message::Summary(chunk.to_vec()).encode());
                    }
                }
            }
        }
        Ok(())
    }

    /// A neighbour tells a version of its own record that an expired one of it outnumbers (its clock was ahead, once):
    /// shows it that one, so that it can overtake it. Summaries don't name expired records.
    fn remind(&mut self, now: Duration, id: LinkId, (kind, origin, sequence): (Kind, NodeId, u64)) {
        let newer =
            self.database.tombstone(&origin, kind).filter(|record| record.sequence > sequence).cloned();
        let Some((record, link)) = newer.zip(self.links.get_mut(&id)) else { return };
        if link.requests.take(1, now) {
            for message in chunk_records(&[(u16::MAX, record)]) {
                self.control_out(id, message);
            }
        }
    }

    pub(super) fn control_out(&mut self, link: LinkId, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Control { link, bytes });
    }

    /// The first message on a link.
    pub(super) fn greet(&mut self, link: LinkId) {
        self.control_out(link, Message::Digest(self.database.digest()).encode());
    }

    /// Looks at a record of a neighbour: is it newer, true, and within its origin's rate?
    pub(super) fn consider(
        &mut self,
        now: Duration,
        from: LinkId,
        age: Duration,
        record: Record,
    ) -> Result<(), ControlError> {
        if record.origin == self.identity.node {
            self.returned(now, &record);
            return Ok(());
        }
        let head = (record.kind, record.origin, record.sequence);
        if age >= self.config.lifetime || self.database.is_old(now, age, head, record.bytes()) {
            self.metrics.duplicates += 1;
            return Ok(());
        }
        let member = match self.verify(from, &record) {
            Ok(member) => member,
            Err(Refused::Quietly) => {
                self.metrics.ignored += 1;
                return Ok(());
            }
            Err(Refused::Waits(head)) => {
                self.wait_for_head(now, from, age, record, head);
                return Ok(());
            }
            Err(Refused::Misbehaviour(error)) => {
                self.metrics.forged += 1;
                return Err(error);
            }
        };
        if self.database.get(&record.origin).is_none() && !self.make_room(now) {
            self.metrics.shed += 1;
            return Ok(());
        }
        let within = self.database.get_mut(&record.origin).is_none_or(|origin| origin.updates.take(1, now));
        if !within {
            self.defer(now, from, age, record);
            return Ok(());
        }
        self.accept(now, Some(from), age, record, member);
        Ok(())
    }

    fn verify(&self, from: LinkId, record: &Record) -> Result<Option<crate::auth::Member>, Refused> {
        if record.kind == Kind::Member {
            let judged = self.auth.member(&record.origin, record.body(), &self.known());
            let member = judged.map_err(|error| match error {
                // Who passes it on believed it, so the key that it would prove signed it.
                MemberError::UnknownHead { head, routing_key }
                    if self.auth.verify_record(&routing_key, record) =>
                {
                    Refused::Waits(head)
                }
                MemberError::UnknownHead { .. } => Refused::Misbehaviour(ControlError::BadSignature),
                error if error.excusable() => Refused::Quietly,
                error => Refused::Misbehaviour(ControlError::BadMember(error)),
            })?;
            return if self.auth.verify_record(&member.routing_key, record) {
                Ok(Some(member))
            } else {
                Err(Refused::Misbehaviour(ControlError::BadSignature))
            };
        }
        let origin = self.database.get(&record.origin).ok_or(Refused::Quietly)?;
        let member = origin.member.as_ref().ok_or(Refused::Quietly)?;
        if self.auth.verify_record(&member.routing_key, record) {
            return Ok(None);
        }
        // Who passes it on may believe another key than we do: its origin may have told two with one sequence, of which one stands later. Only the
        // origin itself knows better.
        let outdated = origin.previous_key.is_some_and(|key| self.auth.verify_record(&key, record));
        let blamed = self.links.get(&from).is_some_and(|link| link.peer.node == record.origin) && !outdated;
        Err(if blamed { Refused::Misbehaviour(ControlError::BadSignature) } else { Refused::Quietly })
    }

    /// Makes room for one more origin by forgetting one that cannot be reached.
    fn make_room(&mut self, now: Duration) -> bool {
        if self.database.len() < MAX_ORIGINS {
            return true;
        }
        let us = self.identity.node;
        let victim = self
            .database
            .iter()
            .map(|(id, _)| *id)
            .find(|id| *id != us && self.graph.find(id).is_none_or(|at| !self.routing.reached(at)));
        let Some(victim) = victim else { return false };
        self.database.forget(&victim);
        self.graph.remove(&victim, now);
        true
    }

    fn defer(&mut self, now: Duration, from: LinkId, age: Duration, record: Record) {
        let key = (record.origin, record.kind);
        let born = now.saturating_sub(age);
        if self.flooding.deferred.len() >= MAX_DEFERRED && !self.flooding.deferred.contains_key(&key) {
            self.metrics.shed += 1;
            return;
        }
        match self.flooding.deferred.get(&key) {
            Some((_, _, waiting)) if waiting.rank() >= record.rank() => self.metrics.duplicates += 1,
            Some(_) => {
                self.metrics.shed += 1;
                self.flooding.deferred.insert(key, (from, born, record));
            }
            None => {
                self.flooding.deferred.insert(key, (from, born, record));
            }
        }
        self.flooding.deferred_at.get_or_insert(now + DEFERRED_EVERY);
    }

    fn take_deferred(&mut self, now: Duration) {
        if self.flooding.deferred_at.is_none_or(|at| now < at) {
            return;
        }
        let waiting = std::mem::take(&mut self.flooding.deferred);
        self.flooding.deferred_at = None;
        for (_, (from, born, record)) in waiting {
            // Verified before it was deferred; a member record renewed meanwhile makes it quietly ignored.
            let _ = self.consider(now, from, now.saturating_sub(born), record);
        }
    }

    /// Takes a verified record that is newer, or a younger copy, into the database, the graph and the flood.
    fn accept(
        &mut self,
        now: Duration,
        from: Option<LinkId>,
        age: Duration,
        record: Record,
        member: Option<crate::auth::Member>,
    ) {
        self.metrics.accepted += 1;
        let (origin, kind) = (record.origin, record.kind);
        let announced =
            member.as_ref().is_some_and(|member| self.may_wait(now, &record, &member.routing_key));
        self.database.put(now, age, record.clone());
        let age_s = u16::try_from(age.as_secs()).unwrap_or(u16::MAX);
        match kind {
            Kind::Member => {
                if let Some(member) = member {
                    self.database.limit(&origin, kind, now + member.expires_in);
                    self.rekey(now, &origin, member);
                }
            }
            Kind::Addresses => {}
            Kind::LinkState => {
                self.apply_link_state(now, origin, record.leaving(), record.neighbours());
            }
        }
        if announced {
            self.flooding.announcing.add(&record, from);
        } else {
            self.flooding.queue.push((age_s, record, from));
        }
    }

    /// Notes an origin's member; what was signed with another key before no longer counts.
    fn rekey(&mut self, now: Duration, origin: &NodeId, member: crate::auth::Member) {
        let (name, key) = (member.name.clone(), member.routing_key);
        let Some(entry) = self.database.get_mut(origin) else { return };
        let before = entry.member.replace(member);
        let same_key = before.as_ref().is_none_or(|before| before.routing_key == key);
        if !same_key {
            entry.previous_key = before.as_ref().map(|before| before.routing_key);
        }
        if before.is_none_or(|before| before.routing_key != key || before.name != name) {
            self.witness_known(now, &name);
        }
        if same_key {
            return;
        }
        for kind in [Kind::Addresses, Kind::LinkState] {
            let stale = self
                .database
                .get(origin)
                .and_then(|entry| entry.record(kind))
                .is_some_and(|record| !self.auth.verify_record(&key, record));
            if stale {
                self.database.discard(origin, kind);
                if kind == Kind::LinkState {
                    self.apply_link_state(now, *origin, false, Arc::default());
                }
            }
        }
    }

    fn apply_link_state(
        &mut self,
        now: Duration,
        origin: NodeId,
        leaving: bool,
        neighbours: Arc<[Neighbour]>,
    ) {
        if let Some(entry) = self.database.get_mut(&origin) {
            if leaving && !entry.left {
                self.outputs.push_back(Output::Event(Event::NodeLeft(origin)));
            }
            entry.left = leaving;
        }
        if leaving {
            self.forget_target(&origin);
        }
        let address = || self.auth.address(&origin);
        let (_, changed) = self.graph.set(origin, address, neighbours, now);
        if changed {
            self.routing.touch();
        }
    }

    /// A record of our own came back. If it is newer than ours it is from an earlier life with a later clock: overtake it.
    fn returned(&mut self, now: Duration, record: &Record) {
        let newest = self.database.rank(&self.identity.node, record.kind);
        if newest.is_some_and(|newest| newest >= record.rank()) || record.sequence == u64::MAX {
            self.metrics.duplicates += 1;
            return;
        }
        let (message, signature) = record.signed();
        if self.auth.sign(&message) != signature {
            self.metrics.ignored += 1;
            return;
        }
        self.metrics.overtaken += 1;
        self.flooding.sequence = self.flooding.sequence.max(record.sequence);
        match record.kind {
            Kind::LinkState => self.flooding.link_state_changed(now),
            kind => {
                let body = self.own_body(kind).unwrap_or_else(|| encode_addresses(&[]));
                if kind == Kind::Addresses || self.own_body(kind).is_some() {
                    self.originate(now, kind, &body);
                }
            }
        }
    }

    fn own_body(&self, kind: Kind) -> Option<Vec<u8>> {
        self.database.get(&self.identity.node)?.record(kind).map(|record| record.body().to_vec())
    }

    /// Signs and floods a new version of an own record.
    fn originate(&mut self, now: Duration, kind: Kind, body: &[u8]) -> bool {
        self.flooding.sequence = self.flooding.sequence.saturating_add(1);
        let auth = &self.auth;
        let sign = |message: &[u8]| auth.sign(message);
        let Some(record) = Record::sign(kind, self.identity.node, self.flooding.sequence, body, sign) else {
            return false;
        };
        self.metrics.originated += 1;
        let mut announced = false;
        if kind == Kind::Member {
            self.flooding.member_made = now;
            announced = self
                .auth
                .member(&record.origin, body, &self.known())
                .is_ok_and(|member| self.may_wait(now, &record, &member.routing_key));
        }
        self.database.put(now, Duration::ZERO, record.clone());
        if announced {
            self.flooding.announcing.add(&record, None);
        } else {
            self.flooding.queue.push((0, record, None));
        }
        true
    }

    pub(super) fn own_member(&mut self, now: Duration, body: Vec<u8>) -> Result<(), MemberError> {
        let us = self.identity.node;
        let member = self.auth.member(&us, &body, &self.known())?;
        if !self.originate(now, Kind::Member, &body) {
            return Err(MemberError::Malformed);
        }
        let key = member.routing_key;
        let before = self.database.get(&us).and_then(|own| own.member.as_ref()).map(|own| own.routing_key);
        if let Some(own) = self.database.get_mut(&us) {
            own.member = Some(member);
        }
        if before.is_some_and(|before| before != key) {
            if let Some(addresses) = self.own_body(Kind::Addresses) {
                self.originate(now, Kind::Addresses, &addresses);
            }
            self.flooding.link_state_changed(now);
        }
        Ok(())
    }

    pub(super) fn own_addresses(&mut self, now: Duration, addresses: &[SocketAddr]) {
        let body = encode_addresses(addresses);
        if self.own_body(Kind::Addresses).is_none_or(|before| before != body) {
            self.originate(now, Kind::Addresses, &body);
        }
    }

    /// Sends our link state if it is due, and what else waits.
    pub(super) fn send_own_link_state(&mut self, now: Duration) {
        if self.left {
            return;
        }
        self.take_deferred(now);
        if self.flooding.link_state_due.is_none_or(|due| now < due) {
            return;
        }
        self.flooding.link_state_due = None;
        self.flooding.link_state_sent = Some(now);
        let state = LinkState { leaving: false, neighbours: self.adverts() };
        self.originate(now, Kind::LinkState, &state.encode());
    }

    /// Sends what was accepted or made to all routing links but the one it came from.
    pub(super) fn send_floods(&mut self, now: Duration) {
        if self.flooding.queue.is_empty() && self.flooding.announcing.is_empty() {
            return;
        }
        let waits = match self.flooding.queue_due {
            Some(due) => now < due,
            None => !self.flooding.pace.take(1, now),
        };
        if waits {
            self.flooding.queue_due.get_or_insert(now + FLOOD_EVERY);
            return;
        }
        self.flush_floods();
    }

    fn flush_floods(&mut self) {
        self.flooding.queue_due = None;
        let mut queue = std::mem::take(&mut self.flooding.queue);
        // What a newer version overtook while it waited is no news.
        queue.retain(|(_, record, _)| {
            self.database
                .newest(&record.origin, record.kind)
                .is_none_or(|newest| newest.bytes() == record.bytes())
        });
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.routing()).map(|(id, _)| *id).collect();
        // Most links get the same.
        let mut for_all: Option<Vec<Vec<u8>>> = None;
        for id in links {
            let told = queue.iter().filter(|(_, _, from)| *from == Some(id)).count();
            self.metrics.flooded += (queue.len() - told) as u64;
            let messages = match &for_all {
                Some(messages) if told == 0 => messages.clone(),
                _ => {
                    let others = queue.iter().filter(|(_, _, from)| *from != Some(id));
                    let records: Vec<_> = others.map(|(age, record, _)| (*age, record)).collect();
                    chunk_records(&records)
                }
            };
            if told == 0 && for_all.is_none() {
                for_all = Some(messages.clone());
            }
            for message in messages {
                self.control_out(id, message);
            }
        }
        self.announce();
    }

    /// Ages the database and refreshes our own records.
    pub(super) fn age_records(&mut self, now: Duration) {
        if now >= self.flooding.refresh_at {
            let refresh = self.config.refresh;
            self.flooding.refresh_at = now + refresh - refresh / 10 + self.jitter(refresh / 5);
            if let Some(body) = self.own_body(Kind::Addresses) {
                self.originate(now, Kind::Addresses, &body);
            }
            self.flooding.link_state_changed(now);
        }
        if now >= self.flooding.member_made + self.flooding.member_refresh
            && let Some(body) = self.own_body(Kind::Member)
        {
            let age = self.config.lifetime * MEMBER_REFRESH.0 / MEMBER_REFRESH.1;
            self.flooding.member_refresh = age - age / 10 + self.jitter(age / 5);
            self.originate(now, Kind::Member, &body);
        }
        if now < self.flooding.age_at {
            return;
        }
        self.flooding.age_at = now + AGE_EVERY;
        self.review_heads();
        for (origin, kind) in self.database.expire(now) {
            self.metrics.expired += 1;
            if kind == Kind::LinkState && origin != self.identity.node {
                self.graph.remove(&origin, now);
                self.routing.touch();
            }
        }
    }

    /// Compares databases with all neighbours: what was ignored before may count now, as when another issuer is trusted.
    pub fn compare(&mut self, now: Duration) {
        self.begin(now);
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.routing()).map(|(id, _)| *id).collect();
        for link in links {
            self.greet(link);
        }
        self.finish(now);
    }

    /// Now and then compares databases with a random neighbour.
    pub(super) fn compare_databases(&mut self, now: Duration) {
        if now < self.flooding.compare_at {
            return;
        }
        self.flooding.compare_at = now + COMPARE_EVERY + self.jitter(COMPARE_EVERY / 4);
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.routing()).map(|(id, _)| *id).collect();
        let pick = rand::Rng::random_range(&mut self.rng, 0..links.len().max(1));
        if let Some(link) = links.get(pick) {
            self.greet(*link);
        }
    }

    /// Tells everyone that we leave, and closes all links.
    pub(super) fn say_goodbye(&mut self, now: Duration) {
        let state = LinkState { leaving: true, neighbours: Vec::new() };
        self.originate(now, Kind::LinkState, &state.encode());
        self.flush_floods();
        for link in std::mem::take(&mut self.links).into_keys() {
            self.outputs.push_back(Output::CloseLink { link, reason: CloseReason::Leaving });
        }
    }
}

/// Why a record is not accepted.
enum Refused {
    /// It may come from an honest peer.
    Quietly,
    /// It is proved under a head that isn't here yet.
    Waits(HeadId),
    /// No honest peer forwards it.
    Misbehaviour(ControlError),
}
