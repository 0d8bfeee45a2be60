//! Which heads neighbours offer, and which of them is asked for one.
//!
//! What a neighbour offers is kept with its link, and bounded and paced there: offers that are made up take neither the place nor the pace of
//! another's. Knows nothing of what a head is worth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_identity::grant::GRANTS_MAX;

use super::Core;
use crate::bucket::Bucket;
use crate::control::{MAX_ENTRIES, Message};
use crate::heads::{HEADS_KEPT, HeadId};
use crate::types::LinkId;

/// Who was asked for a head and has not sent it for so long is not waited for: another one that offers it is asked. As for certificates.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Heads of one issuer that a neighbour may offer and this node lacks: its statement and all that are kept, twice.
const MAX_OF_ISSUER: usize = 2 * (HEADS_KEPT + 1);
/// Of all issuers: as many as there are grants, each with its statement and all that are kept, as a newcomer lacks them.
const MAX_OFFERS: usize = GRANTS_MAX * (HEADS_KEPT + 1);
/// As many are asked for at once on a link …
const ASK_BURST: u32 = 16 * (HEADS_KEPT as u32 + 1);
/// … and then one in this time: the shortest certificates that are proved live for a minute, so sixteen issuers name 3.2 heads in a second.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// An offer that led to nothing is forgotten after as long as records wait for a head.
const OFFERED: Duration = super::waiting::WAIT;
/// A head without a witness that is known is asked for again after so long, of another neighbour, that may have it with other lines: by then a
/// newcomer has its neighbours' records.
const UNWITNESSED_AGAIN: Duration = Duration::from_secs(10);

/// What one neighbour offers.
#[derive(Debug)]
pub(super) struct Offers {
    pace: Bucket,
    offered: BTreeMap<HeadId, Offer>,
}

#[derive(Clone, Copy, Debug)]
struct Offer {
    until: Duration,
    asked: Option<Duration>,
    /// It sent a body since.
    answered: bool,
}

impl Offer {
    fn lately(&self, now: Duration) -> bool {
        self.asked.is_some_and(|at| now < at + ASK_AGAIN)
    }
}

impl Offers {
    pub(super) const fn new(now: Duration) -> Self {
        Self { pace: Bucket::new(ASK_BURST, ASK_EVERY, now), offered: BTreeMap::new() }
    }

    /// Notes an offer, if there is a place for it.
    fn add(&mut self, now: Duration, id: HeadId) {
        let until = now + OFFERED;
        if let Some(offer) = self.offered.get_mut(&id) {
            offer.until = until;
            // What it has may be another body by now.
            offer.answered &= offer.lately(now);
            return;
        }
        if self.is_full(id.issuer) {
            self.offered.retain(|_, offer| !offer.answered);
        }
        if !self.is_full(id.issuer) {
            self.offered.insert(id, Offer { until, asked: None, answered: false });
        }
    }

    fn is_full(&self, issuer: NodeId) -> bool {
        let of_issuer = HeadId::statement(issuer)..=HeadId { issuer, size: u64::MAX };
        self.offered.len() >= MAX_OFFERS || self.offered.range(of_issuer).count() >= MAX_OF_ISSUER
    }

    /// Whether an answer may be under way.
    fn awaited(&self, now: Duration, id: &HeadId) -> bool {
        self.offered.get(id).is_some_and(|offer| offer.lately(now) && !offer.answered)
    }

    /// When it was last asked for this, if it offers it and may be asked now.
    fn open(&self, now: Duration, id: &HeadId) -> Option<Option<Duration>> {
        let open = |offer: &&Offer| !offer.answered && !offer.lately(now);
        self.offered.get(id).filter(open).map(|offer| offer.asked)
    }

    /// Notes that it is asked, unless it was asked too often.
    fn ask(&mut self, now: Duration, id: &HeadId) -> bool {
        let Some(offer) = self.offered.get_mut(id) else { return false };
        if !self.pace.take(1, now) {
            return false;
        }
        (offer.asked, offer.answered) = (Some(now), false);
        true
    }

    /// Whether it was asked for what it sends. From now on it has answered.
    pub(super) fn answer(&mut self, id: &HeadId) -> bool {
        let asked = self.offered.get_mut(id).filter(|offer| offer.asked.is_some() && !offer.answered);
        asked.map(|offer| offer.answered = true).is_some()
    }

    /// It offers nothing of this issuer.
    pub(super) fn forget(&mut self, issuer: &NodeId) {
        self.offered.retain(|id, _| id.issuer != *issuer);
    }
}

impl Core {
    /// A neighbour says which heads it holds: those that are lacking are asked for.
    pub(super) fn heads_announced(&mut self, now: Duration, link: LinkId, ids: &[HeadId]) {
        for id in ids {
            self.offer(now, link, *id);
        }
        self.ask_for(now, ids.iter().copied());
    }

    /// Notes that a neighbour has a head, and so the statement of keys without which it is worth nothing.
    pub(super) fn offer(&mut self, now: Duration, link: LinkId, id: HeadId) {
        for id in [HeadId::statement(id.issuer), id] {
            if self.may_take(&id)
                && let Some(link) = self.links.get_mut(&link)
            {
                link.offers.add(now, id);
            }
        }
    }

    /// Whether a head would be taken as far as this node can tell: it isn't here, or without a witness.
    fn may_take(&self, id: &HeadId) -> bool {
        let room =
            if self.heads.contains(id) { self.heads.is_unwitnessed(id) } else { self.heads.has_room(id) };
        room && self.auth.wants_head(id)
    }

    /// Whether it is to be asked for.
    fn lacks(&self, now: Duration, id: &HeadId) -> bool {
        let rests = self.heads.since(id).is_some_and(|since| now < since + UNWITNESSED_AGAIN);
        !rests && self.may_take(id)
    }

    /// Asks for those of these heads that are lacking and not under way: each of the neighbour that offers it and was not asked for it yet, or
    /// longest ago.
    pub(super) fn ask_for(&mut self, now: Duration, ids: impl IntoIterator<Item = HeadId>) {
        let mut asks: BTreeMap<LinkId, BTreeSet<HeadId>> = BTreeMap::new();
        for id in ids {
            if self.links.values().any(|link| link.offers.awaited(now, &id)) || !self.lacks(now, &id) {
                continue;
            }
            let offers = self.links.iter().filter_map(|(at, link)| Some((link.offers.open(now, &id)?, *at)));
            let mut offers: Vec<_> = offers.collect();
            offers.sort_unstable();
            let asked = offers
                .into_iter()
                .find(|(_, at)| self.links.get_mut(at).is_some_and(|link| link.offers.ask(now, &id)));
            let Some((_, at)) = asked else { continue };
            let wanted = asks.entry(at).or_default();
            wanted.insert(id);
            // The keys of the log come from the same one, whoever was asked for them: it may be silent.
            let keys = HeadId::statement(id.issuer);
            if !self.heads.contains(&keys)
                && let Some(link) = self.links.get_mut(&at)
                && link.offers.open(now, &keys).is_some()
                && link.offers.ask(now, &keys)
            {
                wanted.insert(keys);
            }
        }
        for (link, wanted) in asks {
            let wanted: Vec<HeadId> = wanted.into_iter().collect();
            for chunk in wanted.chunks(MAX_ENTRIES) {
                self.control_out(link, Message::WantHeads(chunk.to_vec()).encode());
            }
        }
    }

    /// Forgets offers that led to nothing, and asks the next ones for what was not sent.
    pub(super) fn mind_offers(&mut self, now: Duration) {
        let offered = |link: &super::links::Link| link.offers.offered.keys().copied().collect::<Vec<_>>();
        let ids: BTreeSet<HeadId> = self.links.values().flat_map(offered).collect();
        let worthless: BTreeSet<HeadId> = ids.iter().copied().filter(|id| !self.may_take(id)).collect();
        for link in self.links.values_mut() {
            link.offers.offered.retain(|id, offer| now < offer.until && !worthless.contains(id));
        }
        self.ask_for(now, ids);
    }
}
