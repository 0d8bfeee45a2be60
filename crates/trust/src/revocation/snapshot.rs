//! The whole set of revoked nodes.

use std::collections::HashMap;

use meshara_identity::wire::{self, WireError};
use meshara_identity::{NodeId, UnixMillis};
use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::sets::{SetBody, SetKind};

/// Most nodes that are revoked, and most that were reinstated: as many as an issuer enrols.
pub const REVOKED_MAX: usize = 100_000;

/// A node that is a member no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The node.
    pub node: NodeId,
    /// When it was revoked.
    pub since: UnixMillis,
    /// Why.
    pub reason: Reason,
}

/// A node that was revoked once and may take part again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reinstatement {
    /// The node.
    pub node: NodeId,
    /// When it was reinstated.
    pub at: UnixMillis,
    /// Why.
    pub reason: Reason,
}

/// Why something isn't a snapshot, or may not follow the one held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// It doesn't decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// More than [`REVOKED_MAX`] entries.
    #[error("{0} entries where at most {REVOKED_MAX} are allowed")]
    TooMany(usize),
    /// Entries out of order, twice, or both revoked and reinstated.
    #[error("node {node} is listed twice or out of order")]
    BadOrder {
        /// The node.
        node: NodeId,
    },
    /// Already revoked.
    #[error("node {node} is revoked already")]
    AlreadyRevoked {
        /// The node.
        node: NodeId,
    },
    /// Not revoked.
    #[error("node {node} is not revoked")]
    NotRevoked {
        /// The node.
        node: NodeId,
    },
    /// A revoked node is left out without a reinstatement that is later than its revocation.
    #[error("node {node} was revoked and is left out without a later reinstatement")]
    Dropped {
        /// The node.
        node: NodeId,
    },
}

/// Who is revoked. Looked up in constant time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    revoked: HashMap<NodeId, (UnixMillis, Reason)>,
    reinstated: HashMap<NodeId, (UnixMillis, Reason)>,
}

/// Both lists in the order of the nodes' ids.
#[derive(Serialize, Deserialize)]
struct Lists {
    revoked: Vec<Revocation>,
    reinstated: Vec<Reinstatement>,
}

impl Revocations {
    /// Whether `node` is revoked.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.revoked.contains_key(node)
    }

    /// Since when and why `node` is revoked.
    pub fn get(&self, node: &NodeId) -> Option<Revocation> {
        let (since, reason) = self.revoked.get(node)?;
        Some(Revocation { node: *node, since: *since, reason: reason.clone() })
    }

    /// How many nodes are revoked.
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// The revoked nodes in the order of their ids.
    pub fn revoked(&self) -> Vec<Revocation> {
        let mut list: Vec<_> = self.revoked.keys().filter_map(|node| self.get(node)).collect();
        list.sort_unstable_by_key(|entry| entry.node);
        list
    }

    /// The reinstated nodes in the order of their ids.
    pub fn reinstated(&self) -> Vec<Reinstatement> {
        let entry = |(node, (at, reason)): (&NodeId, &(UnixMillis, Reason))| Reinstatement {
            node: *node,
            at: *at,
            reason: reason.clone(),
        };
        let mut list: Vec<_> = self.reinstated.iter().map(entry).collect();
        list.sort_unstable_by_key(|entry| entry.node);
        list
    }

    /// Which of `peers` this snapshot revokes and `before` did not: their links and sessions must end.
    pub fn newly_revoked<'a>(
        &self,
        before: Option<&Self>,
        peers: impl IntoIterator<Item = &'a NodeId>,
    ) -> Vec<NodeId> {
        let known = |node: &NodeId| before.is_some_and(|before| before.contains(node));
        peers.into_iter().filter(|node| self.contains(node) && !known(node)).copied().collect()
    }

    /// Revokes a node.
    pub fn revoke(&mut self, node: NodeId, since: UnixMillis, reason: Reason) -> Result<(), RevocationError> {
        if self.contains(&node) {
            return Err(RevocationError::AlreadyRevoked { node });
        }
        if self.revoked.len() >= REVOKED_MAX {
            return Err(RevocationError::TooMany(self.revoked.len() + 1));
        }
        self.reinstated.remove(&node);
        self.revoked.insert(node, (since, reason));
        Ok(())
    }

    /// Takes a revocation back.
    pub fn reinstate(&mut self, node: NodeId, at: UnixMillis, reason: Reason) -> Result<(), RevocationError> {
        let Some((since, _)) = self.revoked.get(&node) else {
            return Err(RevocationError::NotRevoked { node });
        };
        if at <= *since {
            return Err(RevocationError::Dropped { node });
        }
        if self.reinstated.len() >= REVOKED_MAX {
            return Err(RevocationError::TooMany(self.reinstated.len() + 1));
        }
        self.revoked.remove(&node);
        self.reinstated.insert(node, (at, reason));
        Ok(())
    }

    /// Body of a set: a version byte, then postcard of both lists.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(&Lists { revoked: self.revoked(), reinstated: self.reinstated() })
    }
}

/// The first node that is listed twice or out of order.
fn misplaced<'a>(nodes: impl Iterator<Item = &'a NodeId> + Clone) -> Option<NodeId> {
    nodes.clone().zip(nodes.skip(1)).find(|(one, next)| one >= next).map(|(_, next)| *next)
}

impl SetBody for Revocations {
    const KIND: SetKind = SetKind::Revocations;
    type Error = RevocationError;

    fn decode(bytes: &[u8]) -> Result<Self, RevocationError> {
        let lists: Lists = wire::decode(bytes, Self::KIND.body_max())?;
        let longest = lists.revoked.len().max(lists.reinstated.len());
        if longest > REVOKED_MAX {
            return Err(RevocationError::TooMany(longest));
        }
        let misplaced = misplaced(lists.revoked.iter().map(|entry| &entry.node))
            .or_else(|| misplaced(lists.reinstated.iter().map(|entry| &entry.node)));
        let revoked: HashMap<_, _> =
            lists.revoked.into_iter().map(|entry| (entry.node, (entry.since, entry.reason))).collect();
        let both = lists.reinstated.iter().map(|entry| entry.node).find(|node| revoked.contains_key(node));
        if let Some(node) = misplaced.or(both) {
            return Err(RevocationError::BadOrder { node });
        }
        let reinstated =
            lists.reinstated.into_iter().map(|entry| (entry.node, (entry.at, entry.reason))).collect();
        Ok(Self { revoked, reinstated })
    }

    fn may_follow(&self, before: &Self) -> Result<(), RevocationError> {
        let allowed = |node: &NodeId, since: UnixMillis| {
            self.contains(node) || self.reinstated.get(node).is_some_and(|(at, _)| *at > since)
        };
        // The smallest id, so that every node gives the same reason.
        let dropped = before.revoked.iter().filter(|(node, (since, _))| !allowed(node, *since));
        match dropped.map(|(node, _)| *node).min() {
            Some(node) => Err(RevocationError::Dropped { node }),
            None => Ok(()),
        }
    }
}
