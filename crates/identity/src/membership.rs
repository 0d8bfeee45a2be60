//! What a member holds: the mesh's root and issuers, its own leaf certificate and key.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::anchors::{LeafError, Member, TrustAnchors, TrustError, leaf_public};
use crate::grant::{GRANTS_BYTES_MAX, GRANTS_MAX, IssuerGrant};
use crate::ids::UnixMillis;
use crate::keys::{KeyError, LeafKey};
use crate::names::MeshName;
use crate::root::RootPublic;
use crate::root_chain::{CHAIN_BYTES_MAX, RootChain};
use crate::root_document::{RootDocument, SignedRoot};
use crate::ticket::Ticket;
use crate::wire::{self, WireError};

/// Longest [`MeshInfo`]: a root and a name, all grants and the whole chain of root documents. Whatever these may be, it fits.
pub const MESH_INFO_MAX: usize = 8 * 1024 + GRANTS_BYTES_MAX + CHAIN_BYTES_MAX;
/// Version of what holds root documents besides.
const VERSION_2: u8 = 2;

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
    info: Founders,
    #[zeroize(skip)]
    leaf_der: Vec<u8>,
    leaf_seed: [u8; 32],
}

/// Version 2: with root documents.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredRoots {
    stored: Stored,
    #[zeroize(skip)]
    roots: Vec<SignedRoot>,
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
        let MeshInfo { founders, roots } = MeshInfo::with(&self.anchors, self.anchors.grants().to_vec());
        let stored =
            Stored { info: founders, leaf_der: self.leaf_der.clone(), leaf_seed: **self.leaf_key.seed() };
        let bytes = Zeroizing::new(if roots.is_empty() {
            wire::encode(&stored)?
        } else {
            wire::append(vec![VERSION_2], &StoredRoots { stored, roots })?
        });
        // What could not be read again must not take the place of what can.
        if bytes.len() > STORED_MAX {
            return Err(WireError::TooLarge { len: bytes.len(), max: STORED_MAX });
        }
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let (stored, roots) = if bytes.first() == Some(&VERSION_2) {
            let mut both: StoredRoots = wire::decode_version(VERSION_2, bytes, STORED_MAX)?;
            let roots = std::mem::take(&mut both.roots);
            if roots.is_empty() {
                return Err(WireError::Malformed.into());
            }
            let Stored { info, leaf_der, leaf_seed } = &both.stored;
            (Stored { info: info.clone(), leaf_der: leaf_der.clone(), leaf_seed: *leaf_seed }, roots)
        } else {
            (wire::decode(bytes, STORED_MAX)?, Vec::new())
        };
        let leaf_key = LeafKey::from_seed(Zeroizing::new(stored.leaf_seed))?;
        let info = MeshInfo { founders: stored.info.clone(), roots };
        Self::new(info.restored()?, stored.leaf_der.clone(), leaf_key)
    }
}

/// Longest stored membership: what is told of the mesh, and a leaf.
pub const STORED_MAX: usize = MESH_INFO_MAX + 32 * 1024;

/// Root, name and issuers of a mesh: what a member shows a newcomer, who checks it against the ticket. With the versions of the root
/// document that lead from the founder to who is root now, once that isn't the founder alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshInfo {
    founders: Founders,
    roots: Vec<SignedRoot>,
}

/// All of it while the founder is root alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Founders {
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
    /// What these anchors are made of, but for grants that nothing proves: nobody else would take it with them.
    pub fn of(anchors: &TrustAnchors) -> Self {
        Self::with(anchors, anchors.told())
    }

    fn with(anchors: &TrustAnchors, grants: Vec<IssuerGrant>) -> Self {
        let (root, mesh) = (anchors.root().clone(), anchors.mesh().clone());
        let founders = Founders { root, mesh, grants };
        // Who holds the founder's key needs no document to be believed, and programs that know none can read it.
        let plain = anchors.roots().newest().is_none_or(RootDocument::is_founders_alone)
            && founders.grants.iter().all(IssuerGrant::is_founders);
        Self { founders, roots: if plain { Vec::new() } else { anchors.roots().versions().to_vec() } }
    }

    /// Version byte and postcard: version 1, or 2 with root documents.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        if self.roots.is_empty() {
            return wire::encode(&self.founders);
        }
        wire::append(vec![VERSION_2], &(&self.founders, &self.roots))
    }

    /// Reads [`encode`](Self::encode)'s form, at most [`MESH_INFO_MAX`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if let Some(&found) = bytes.first().filter(|found| **found > VERSION_2) {
            return Err(WireError::UnsupportedVersion { found, supported: VERSION_2 });
        }
        if bytes.first() != Some(&VERSION_2) {
            return Ok(Self { founders: wire::decode(bytes, MESH_INFO_MAX)?, roots: Vec::new() });
        }
        let (founders, roots): (Founders, Vec<SignedRoot>) =
            wire::decode_version(VERSION_2, bytes, MESH_INFO_MAX)?;
        if roots.is_empty() { Err(WireError::Malformed) } else { Ok(Self { founders, roots }) }
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
        if self.founders.root != *held.root() {
            return Err(MeshInfoError::WrongRoot);
        }
        if self.founders.mesh != *held.mesh() {
            return Err(MeshInfoError::WrongMesh { found: self.founders.mesh.clone() });
        }
        let rooted = held.with_roots(&self.roots)?;
        let merged = rooted.as_ref().unwrap_or(held).merged(&self.founders.grants, now)?.or(rooted);
        merged.as_ref().unwrap_or(held).verify_leaf(peer_leaf, now)?;
        Ok(merged)
    }

    /// Root, name and issuers, once the root's signatures have been checked.
    ///
    /// # Errors
    /// [`TrustError`]. Whether the root is the right one, the caller has to know.
    pub fn anchors(&self) -> Result<TrustAnchors, TrustError> {
        if self.founders.grants.len() > GRANTS_MAX {
            return Err(TrustError::TooManyGrants(self.founders.grants.len()));
        }
        let Founders { root, mesh, grants } = self.founders.clone();
        let roots = RootChain::verify(&root.fingerprint(), self.roots.clone())?;
        TrustAnchors::under(root, mesh, roots, grants)
    }

    /// As [`anchors`](Self::anchors), from what this node itself stored.
    fn restored(&self) -> Result<TrustAnchors, TrustError> {
        let Founders { root, mesh, grants } = self.founders.clone();
        let roots = RootChain::restored(&root.fingerprint(), self.roots.clone())?;
        TrustAnchors::restored(root, mesh, roots, grants)
    }

    /// The newcomer's check before it sends anything: the root is the ticket's, the grants are the root's, and
    /// `peer_leaf` (the certificate that TLS saw) is a member's.
    pub fn check(&self, ticket: &Ticket, peer_leaf: &[u8], now: UnixMillis) -> Result<Member, MeshInfoError> {
        if self.founders.root.fingerprint() != ticket.mesh_id() {
            return Err(MeshInfoError::WrongRoot);
        }
        if self.founders.mesh != *ticket.mesh() {
            return Err(MeshInfoError::WrongMesh { found: self.founders.mesh.clone() });
        }
        Ok(self.anchors()?.verify_leaf(peer_leaf, now)?)
    }
}
