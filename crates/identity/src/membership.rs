//! What a member holds: the mesh's root and issuers, its own leaf certificate and key.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::anchors::{LeafError, Member, TrustAnchors, TrustError, leaf_public};
use crate::grant::{GRANTS_MAX, IssuerGrant};
use crate::ids::UnixMillis;
use crate::keys::{KeyError, LeafKey};
use crate::names::MeshName;
use crate::root::RootPublic;
use crate::ticket::Ticket;
use crate::wire::{self, WireError};

/// Longest [`MeshInfo`]: a root and 16 grants of 9 KB, with room.
pub const MESH_INFO_MAX: usize = 256 * 1024;

/// Why root, grants, leaf and key do not make a membership.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// It does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The grants make no trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The leaf is not of this mesh.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf is for another key.
    #[error("the certificate is for another key")]
    WrongKey,
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Root public, grants, leaf certificate and leaf key, checked against each other.
#[derive(Debug)]
pub struct Membership {
    anchors: TrustAnchors,
    leaf_der: Vec<u8>,
    leaf_key: LeafKey,
    member: Member,
    promise: Vec<u8>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    #[zeroize(skip)]
    info: MeshInfo,
    #[zeroize(skip)]
    leaf_der: Vec<u8>,
    leaf_seed: [u8; 32],
}

impl Membership {
    /// Checks that the leaf was issued in this mesh for this key. Its end is not looked at: an ended leaf can be
    /// renewed; [`Membership::valid_at`] looks at it.
    pub fn new(anchors: TrustAnchors, leaf_der: Vec<u8>, leaf_key: LeafKey) -> Result<Self, MembershipError> {
        let member = anchors.inspect_leaf(&leaf_der)?;
        if leaf_public(&leaf_der).as_deref() != Some(leaf_key.public_key().as_ref()) {
            return Err(MembershipError::WrongKey);
        }
        Ok(Self { anchors, leaf_der, leaf_key, member, promise: Vec::new() })
    }

    /// With what the issuer's log said about the leaf as it was given.
    pub(crate) fn with_promise(self, promise: Vec<u8>) -> Self {
        Self { promise, ..self }
    }

    /// The same leaf and key under other anchors: issuers came or went.
    ///
    /// # Errors
    /// [`MembershipError`]: the leaf's own issuer is not among them.
    pub fn under(&self, anchors: TrustAnchors) -> Result<Self, MembershipError> {
        let leaf_key = LeafKey::from_seed(self.leaf_key.seed().clone())?;
        let made = Self::new(anchors, self.leaf_der.clone(), leaf_key)?;
        Ok(made.with_promise(self.promise.clone()))
    }

    /// The promise of the issuer's log that came with the leaf. Empty when none came, and in a membership that was loaded: it counts
    /// for seconds only.
    pub fn promise(&self) -> &[u8] {
        &self.promise
    }

    /// Whom this node trusts.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// This node as its certificate describes it.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Own leaf certificate, DER.
    pub fn leaf_der(&self) -> &[u8] {
        &self.leaf_der
    }

    /// Key of the leaf.
    pub fn leaf_key(&self) -> &LeafKey {
        &self.leaf_key
    }

    /// Whether peers with this clock would accept the own leaf.
    pub fn valid_at(&self, now: UnixMillis) -> Result<(), LeafError> {
        self.anchors.verify_leaf(&self.leaf_der, now).map(drop)
    }

    /// What a newcomer is told first.
    pub fn mesh_info(&self) -> MeshInfo {
        MeshInfo::of(&self.anchors)
    }

    pub(crate) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, WireError> {
        let stored = Stored {
            info: self.mesh_info(),
            leaf_der: self.leaf_der.clone(),
            leaf_seed: **self.leaf_key.seed(),
        };
        wire::encode(&stored).map(Zeroizing::new)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let stored: Stored = wire::decode(bytes, MESH_INFO_MAX + 32 * 1024)?;
        let leaf_key = LeafKey::from_seed(Zeroizing::new(stored.leaf_seed))?;
        Self::new(stored.info.anchors()?, stored.leaf_der.clone(), leaf_key)
    }
}

/// Root, name and issuers of a mesh: what a member shows a newcomer, who checks it against the ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshInfo {
    root: RootPublic,
    mesh: MeshName,
    grants: Vec<IssuerGrant>,
}

/// Why a member does not belong to the ticket's mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshInfoError {
    /// It does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Another root than the ticket's.
    #[error("this member belongs to another mesh than the ticket")]
    WrongRoot,
    /// The same root with another name than the ticket's.
    #[error("this member calls the mesh {found}, the ticket does not")]
    WrongMesh {
        /// The name it uses.
        found: MeshName,
    },
    /// Its grants make no trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Its own certificate is not of this mesh.
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

impl MeshInfo {
    /// What these anchors are made of.
    pub fn of(anchors: &TrustAnchors) -> Self {
        Self { root: anchors.root().clone(), mesh: anchors.mesh().clone(), grants: anchors.grants().to_vec() }
    }

    /// Version byte and postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form, at most [`MESH_INFO_MAX`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, MESH_INFO_MAX)
    }

    /// What a member of the same mesh learns: the grants that it lacks, once `peer_leaf` (the certificate that TLS saw) proves under them
    /// that another member speaks. Needs no ticket: the root is the one that `held` trusts.
    ///
    /// # Errors
    /// [`MeshInfoError`]: another mesh, grants that aren't the root's, or no member.
    pub fn learn(
        &self,
        held: &TrustAnchors,
        peer_leaf: &[u8],
        now: UnixMillis,
    ) -> Result<Option<TrustAnchors>, MeshInfoError> {
        if self.root != *held.root() {
            return Err(MeshInfoError::WrongRoot);
        }
        if self.mesh != *held.mesh() {
            return Err(MeshInfoError::WrongMesh { found: self.mesh.clone() });
        }
        let merged = held.merged(&self.grants, now)?;
        merged.as_ref().unwrap_or(held).verify_leaf(peer_leaf, now)?;
        Ok(merged)
    }

    /// Root, name and issuers, once the root's signatures have been checked.
    ///
    /// # Errors
    /// [`TrustError`]. Whether the root is the right one, the caller has to know.
    pub fn anchors(&self) -> Result<TrustAnchors, TrustError> {
        if self.grants.len() > GRANTS_MAX {
            return Err(TrustError::TooManyGrants(self.grants.len()));
        }
        TrustAnchors::new(self.root.clone(), self.mesh.clone(), self.grants.clone())
    }

    /// The newcomer's check before it sends anything: the root is the ticket's, the grants are the root's, and
    /// `peer_leaf` (the certificate that TLS saw) is a member's.
    pub fn check(&self, ticket: &Ticket, peer_leaf: &[u8], now: UnixMillis) -> Result<Member, MeshInfoError> {
        if self.root.fingerprint() != ticket.mesh_id() {
            return Err(MeshInfoError::WrongRoot);
        }
        if self.mesh != *ticket.mesh() {
            return Err(MeshInfoError::WrongMesh { found: self.mesh.clone() });
        }
        Ok(self.anchors()?.verify_leaf(peer_leaf, now)?)
    }
}
