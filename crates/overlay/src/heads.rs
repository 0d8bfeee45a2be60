//! Heads of issuers' logs, under which routing keys are proved: which are held, and what the authenticator may know when it judges a member
//! record or another head. What a head is and why it counts is the authenticator's affair.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_identity::grant::GRANTS_MAX;

use crate::auth::JudgedHead;
use crate::database::Database;

/// Heads kept of one issuer, the newest. One is named every twelfth of a certificate's life, so those of a whole life are among them, and four
/// more for nodes that are slow.
pub const HEADS_KEPT: usize = 16;

/// Longest head: a statement of keys has 5.4 KB, a named checkpoint at most 8.
pub const MAX_HEAD_LEN: usize = 8 * 1024;

/// Issuers of which heads are kept: as many as a mesh has grants.
const MAX_ISSUERS: usize = GRANTS_MAX;

/// Which head. Its order is that of sending: an issuer's statement comes before its heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadId {
    /// Whose log.
    pub issuer: NodeId,
    /// Entries in the log then. With none nothing can be proved: that place holds the issuer's statement of its log's keys, without which no
    /// other head can be judged.
    pub size: u64,
}

impl HeadId {
    /// Where the issuer's statement is.
    #[must_use]
    pub const fn statement(issuer: NodeId) -> Self {
        Self { issuer, size: 0 }
    }

    const fn is_statement(&self) -> bool {
        self.size == 0
    }
}

#[derive(Clone, Debug)]
struct Held {
    since: Duration,
    judged: JudgedHead,
    body: Arc<[u8]>,
}

/// The heads that are held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heads {
    held: BTreeMap<HeadId, Held>,
}

impl Heads {
    pub(crate) fn contains(&self, id: &HeadId) -> bool {
        self.held.contains_key(id)
    }

    pub(crate) fn body(&self, id: &HeadId) -> Option<&Arc<[u8]>> {
        self.held.get(id).map(|held| &held.body)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = HeadId> {
        self.held.keys().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The heads of one issuer, oldest first, without its statement.
    fn of(&self, issuer: NodeId) -> impl Iterator<Item = HeadId> {
        let range = HeadId { issuer, size: 1 }..=HeadId { issuer, size: u64::MAX };
        self.held.range(range).map(|(id, _)| *id)
    }

    /// Whether there is a place for it: it isn't older than all that are kept, and its issuer isn't one too many.
    pub(crate) fn has_room(&self, id: &HeadId) -> bool {
        if id.is_statement() {
            let issuers = self.held.keys().filter(|held| held.is_statement()).count();
            return issuers < MAX_ISSUERS;
        }
        let full = self.of(id.issuer).count() >= HEADS_KEPT;
        !full || self.of(id.issuer).next().is_some_and(|oldest| oldest.size < id.size)
    }

    /// Keeps a head; the oldest of its issuer makes room.
    pub(crate) fn put(&mut self, now: Duration, id: HeadId, judged: JudgedHead, body: Arc<[u8]>) {
        self.held.insert(id, Held { since: now, judged, body });
        while self.of(id.issuer).count() > HEADS_KEPT {
            let Some(oldest) = self.of(id.issuer).next() else { return };
            self.held.remove(&oldest);
        }
    }

    /// Those without a witness that is known here, and whom their lines name.
    pub(crate) fn unwitnessed(&self) -> impl Iterator<Item = (HeadId, &[String])> {
        let unwitnessed = self.held.iter().filter(|(_, held)| !held.judged.unknown.is_empty());
        unwitnessed.map(|(id, held)| (*id, held.judged.unknown.as_slice()))
    }

    pub(crate) fn is_unwitnessed(&self, id: &HeadId) -> bool {
        self.held.get(id).is_some_and(|held| !held.judged.unknown.is_empty())
    }

    /// When it was taken.
    pub(crate) fn since(&self, id: &HeadId) -> Option<Duration> {
        self.held.get(id).map(|held| held.since)
    }

    /// Notes what a head that is held is worth now.
    pub(crate) fn rate(&mut self, id: &HeadId, judged: JudgedHead) {
        if let Some(held) = self.held.get_mut(id) {
            held.judged = judged;
        }
    }

    pub(crate) fn remove(&mut self, id: &HeadId) {
        self.held.remove(id);
    }

    /// Drops all of an issuer.
    pub(crate) fn forget(&mut self, issuer: &NodeId) {
        self.held.retain(|id, _| id.issuer != *issuer);
    }
}

/// What an authenticator may go by beside the bytes that it judges.
pub struct Known<'a> {
    pub(crate) heads: &'a Heads,
    pub(crate) database: &'a Database,
}

impl std::fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl Known<'_> {
    /// What [`Authenticator::head`](crate::Authenticator::head) made of a head that is held.
    #[must_use]
    pub fn root(&self, id: &HeadId) -> Option<[u8; 32]> {
        self.heads.held.get(id).map(|held| held.judged.root)
    }

    /// The bytes of a head that is held.
    #[must_use]
    pub fn head(&self, id: &HeadId) -> Option<&[u8]> {
        self.heads.body(id).map(AsRef::as_ref)
    }

    /// All verified members, ourselves included: id, name, routing key.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &str, [u8; 32])> {
        self.database.iter().filter_map(|(id, origin)| {
            origin.member.as_ref().map(|member| (*id, member.name.as_str(), member.routing_key))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(issuer: u8, size: u64) -> HeadId {
        HeadId { issuer: NodeId([issuer; 32]), size }
    }

    fn put(heads: &mut Heads, id: HeadId) {
        heads.put(Duration::ZERO, id, JudgedHead::statement(), Arc::from([0; 4]));
    }

    #[test]
    fn the_newest_of_each_issuer_are_kept_with_its_statement() {
        let mut heads = Heads::default();
        put(&mut heads, id(1, 0));
        put(&mut heads, id(2, 7));
        for size in 1..=40 {
            assert!(heads.has_room(&id(1, size)));
            put(&mut heads, id(1, size));
        }
        let kept: Vec<u64> = heads.of(NodeId([1; 32])).map(|id| id.size).collect();
        assert_eq!(kept, (25..=40).collect::<Vec<_>>());
        assert!(heads.contains(&id(1, 0)) && heads.contains(&id(2, 7)));
        assert!(!heads.has_room(&id(1, 24)) && heads.has_room(&id(1, 41)) && heads.has_room(&id(2, 1)));
        heads.forget(&NodeId([1; 32]));
        assert_eq!(heads.ids().collect::<Vec<_>>(), [id(2, 7)]);
    }

    #[test]
    fn issuers_are_bounded() {
        let mut heads = Heads::default();
        for issuer in 0..MAX_ISSUERS {
            let statement = id(u8::try_from(issuer).unwrap(), 0);
            assert!(heads.has_room(&statement));
            put(&mut heads, statement);
        }
        assert!(!heads.has_room(&id(200, 0)));
    }
}
