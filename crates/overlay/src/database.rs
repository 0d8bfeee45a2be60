//! The records of all members, newest of each, with their ages.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use meshara_identity::NodeId;

use crate::auth::Member;
use crate::bucket::Bucket;
use crate::control::SummaryEntry;
use crate::record::{self, Kind, Rank, Record};

/// Most origins: beyond 10,000 nodes a mesh needs areas.
pub(crate) const MAX_ORIGINS: usize = 16_384;
/// Updates accepted from one origin at once: a node with all its links failing sends fewer.
const UPDATE_BURST: u32 = 32;
/// And one more this often.
const UPDATE_EVERY: Duration = Duration::from_millis(200);
/// A copy of the same record counts as younger from this on: honest copies differ by less than a second for each hop.
const YOUNGER: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Stored {
    record: Record,
    tie: u64,
    /// When it is too old. It then counts for nothing, but its sequence is remembered for as long again, so that peers
    /// who still hold it can't bring it back.
    expires: Duration,
    expired: bool,
    /// The longest that it may live, whatever age other copies tell: a lifetime from when this version was first seen, or
    /// until its certificate ends.
    latest: Duration,
}

impl Stored {
    const fn rank(&self) -> Rank {
        (self.record.sequence, self.tie)
    }
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) member: Option<Member>,
    /// The key before the last renewal: records signed with it may still be under way.
    pub(crate) previous_key: Option<[u8; 32]>,
    pub(crate) left: bool,
    pub(crate) updates: Bucket,
    records: [Option<Stored>; 3],
}

impl Origin {
    fn slot(&self, kind: Kind) -> Option<&Stored> {
        let [member, addresses, link_state] = &self.records;
        match kind {
            Kind::Member => member,
            Kind::Addresses => addresses,
            Kind::LinkState => link_state,
        }
        .as_ref()
    }

    fn slot_mut(&mut self, kind: Kind) -> &mut Option<Stored> {
        let [member, addresses, link_state] = &mut self.records;
        match kind {
            Kind::Member => member,
            Kind::Addresses => addresses,
            Kind::LinkState => link_state,
        }
    }

    /// The record of a kind, unless it has expired.
    pub(crate) fn record(&self, kind: Kind) -> Option<&Record> {
        self.slot(kind).filter(|stored| !stored.expired).map(|stored| &stored.record)
    }
}

/// All records.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Only looked up: every record of a flood is, several times. Boxed, as an origin is long and a map keeps room for
    /// twice as many.
    origins: HashMap<NodeId, Box<Origin>>,
    /// The order in which they are gone through.
    order: BTreeSet<NodeId>,
    digest: [u8; 32],
    lifetime: Duration,
}

impl Database {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { origins: HashMap::new(), order: BTreeSet::new(), digest: [0; 32], lifetime }
    }

    pub(crate) fn len(&self) -> usize {
        self.origins.len()
    }

    pub(crate) const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    pub(crate) fn get(&self, origin: &NodeId) -> Option<&Origin> {
        self.origins.get(origin).map(AsRef::as_ref)
    }

    pub(crate) fn get_mut(&mut self, origin: &NodeId) -> Option<&mut Origin> {
        self.origins.get_mut(origin).map(AsMut::as_mut)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Origin)> {
        self.order.iter().filter_map(|id| Some((id, self.get(id)?)))
    }

    /// The newest version seen, also if it has expired.
    pub(crate) fn newest(&self, origin: &NodeId, kind: Kind) -> Option<&Record> {
        self.origins.get(origin)?.slot(kind).map(|stored| &stored.record)
    }

    /// Its rank.
    pub(crate) fn rank(&self, origin: &NodeId, kind: Kind) -> Option<Rank> {
        self.origins.get(origin)?.slot(kind).map(Stored::rank)
    }

    /// The record and its age, unless it has expired.
    pub(crate) fn record(&self, now: Duration, origin: &NodeId, kind: Kind) -> Option<(u16, Record)> {
        let stored = self.origins.get(origin)?.slot(kind).filter(|stored| !stored.expired)?;
        let left = stored.expires.saturating_sub(now);
        let age = self.lifetime.saturating_sub(left).as_secs();
        Some((u16::try_from(age).unwrap_or(u16::MAX), stored.record.clone()))
    }

    /// Whether a record is no news: a newer version is here, another one of the same sequence that stands, or this one and not older than it seemed. A copy of the stored
    /// version that tells a younger age is news. Ages are not signed: whoever tells too high a one must not shorten the
    /// record's life, and whoever tells too low a one can't stretch it beyond a lifetime from first sight.
    pub(crate) fn is_old(
        &self,
        now: Duration,
        age: Duration,
        (kind, origin, sequence): (Kind, NodeId, u64),
        bytes: &[u8],
    ) -> bool {
        self.origins.get(&origin).and_then(|origin| origin.slot(kind)).is_some_and(|stored| {
            let younger =
                || (now + self.lifetime.saturating_sub(age)).min(stored.latest) > stored.expires + YOUNGER;
            match stored.record.sequence.cmp(&sequence) {
                Ordering::Greater => true,
                Ordering::Less => false,
                Ordering::Equal if stored.record.bytes() == bytes => !younger(),
                Ordering::Equal => stored.tie >= record::tie(bytes),
            }
        })
    }

    /// Whether a neighbour's version is worth asking for: a newer one, or ours has expired before its time.
    pub(crate) fn wants(&self, now: Duration, entry: &SummaryEntry) -> bool {
        let stored = self.origins.get(&entry.origin).and_then(|origin| origin.slot(entry.kind));
        stored.is_none_or(|stored| {
            let (held, told) = (stored.rank(), entry.rank());
            held < told || (held == told && stored.expired && now + YOUNGER < stored.latest)
        })
    }

    /// Until when a record counts, unless it has expired.
    pub(crate) fn until(&self, origin: &NodeId, kind: Kind) -> Option<Duration> {
        self.origins.get(origin)?.slot(kind).filter(|stored| !stored.expired).map(|stored| stored.expires)
    }

    /// The expired record of a kind whose sequence is still remembered.
    pub(crate) fn tombstone(&self, origin: &NodeId, kind: Kind) -> Option<&Record> {
        self.origins.get(origin)?.slot(kind).filter(|stored| stored.expired).map(|stored| &stored.record)
    }

    /// Stores a record that is newer than what is there, or a younger copy of it.
    pub(crate) fn put(&mut self, now: Duration, age: Duration, record: Record) {
        let origin = self.origins.entry(record.origin).or_insert_with(|| {
            self.order.insert(record.origin);
            Box::new(Origin {
                member: None,
                previous_key: None,
                left: false,
                updates: Bucket::new(UPDATE_BURST, UPDATE_EVERY, now),
                records: [None, None, None],
            })
        });
        let slot = origin.slot_mut(record.kind);
        let again = slot.as_ref().filter(|stored| stored.record.bytes() == record.bytes());
        let (tie, latest) =
            again.map_or_else(|| (record.tie(), now + self.lifetime), |stored| (stored.tie, stored.latest));
        let expires = (now + self.lifetime.saturating_sub(age)).min(latest);
        let stored = Stored { record, tie, expires, expired: false, latest };
        mix(&mut self.digest, &stored);
        let before = slot.replace(stored);
        if let Some(before) = before.filter(|before| !before.expired) {
            mix(&mut self.digest, &before);
        }
    }

    /// Drops one record at once, sequence and all.
    pub(crate) fn discard(&mut self, origin: &NodeId, kind: Kind) {
        let stored = self.origins.get_mut(origin).and_then(|origin| origin.slot_mut(kind).take());
        if let Some(stored) = stored.filter(|stored| !stored.expired) {
            mix(&mut self.digest, &stored);
        }
    }

    /// Drops everything of an origin.
    pub(crate) fn forget(&mut self, origin: &NodeId) {
        for kind in Kind::ALL {
            self.discard(origin, kind);
        }
        self.origins.remove(origin);
        self.order.remove(origin);
    }

    /// Ages everything; returns what expired now. Without its member record nothing of an origin counts.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<(NodeId, Kind)> {
        let mut expired = Vec::new();
        let (lifetime, digest, origins) = (self.lifetime, &mut self.digest, &mut self.origins);
        self.order.retain(|id| {
            let Some(origin) = origins.get_mut(id) else { return false };
            let member_ends =
                origin.slot(Kind::Member).is_none_or(|member| member.expired || member.expires <= now);
            for kind in Kind::ALL {
                let slot = origin.slot_mut(kind);
                let Some(stored) = slot else { continue };
                if !stored.expired && (stored.expires <= now || member_ends) {
                    stored.expired = true;
                    stored.expires = now;
                    mix(digest, stored);
                    expired.push((*id, kind));
                } else if stored.expired && stored.expires + lifetime <= now {
                    *slot = None;
                }
            }
            if member_ends {
                origin.member = None;
            }
            let keep = origin.records.iter().any(Option::is_some);
            if !keep {
                origins.remove(id);
            }
            keep
        });
        expired
    }

    /// Shortens a record's life (a certificate that ends sooner).
    pub(crate) fn limit(&mut self, origin: &NodeId, kind: Kind, until: Duration) {
        if let Some(stored) = self.origins.get_mut(origin).and_then(|origin| origin.slot_mut(kind).as_mut()) {
            stored.expires = stored.expires.min(until);
            stored.latest = stored.latest.min(until);
        }
    }

    /// Everything that counts, in the order of sending.
    pub(crate) fn summary(&self) -> impl Iterator<Item = SummaryEntry> {
        self.iter().flat_map(|(id, origin)| {
            Kind::ALL.into_iter().filter_map(|kind| {
                let stored = origin.slot(kind).filter(|stored| !stored.expired)?;
                Some(SummaryEntry { origin: *id, kind, sequence: stored.record.sequence, tie: stored.tie })
            })
        })
    }
}

/// Adds a record to the digest, or takes it out again: exclusive or of hashes doesn't depend on order.
fn mix(digest: &mut [u8; 32], Stored { record, tie, .. }: &Stored) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[record.kind.code()]);
    hasher.update(&record.origin.0);
    hasher.update(&record.sequence.to_be_bytes());
    hasher.update(&tie.to_be_bytes());
    for (to, from) in digest.iter_mut().zip(hasher.finalize().as_bytes()) {
        *to ^= from;
    }
}
