//! A version of the root document.

use std::time::Duration;

use meshara_identity::root::Purpose;
use meshara_identity::wire::{self, WireError};
use meshara_identity::{KeyError, MeshId, NodeName, RootKey, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::sets::{APPROVALS_MAX, Approval, Approvals, Quorum, QuorumError, SIGNERS_MAX, Signer};

/// Longest life of a version: as a grant's, three years. Less is better where signers meet more often.
pub const ROOT_LIFE_MAX: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// Longest encoded version: two quorums of keys (2.1 KB each) and the approvals of two (3.4 KB each).
pub const ROOT_MAX: usize = 1024 + 2 * SIGNERS_MAX * 2200 + APPROVALS_MAX * 3500;

/// How far the mesh has left its founder behind. It only rises, one step a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// The founder's key signs for everything.
    Founder,
    /// Nodes join by ticket, and their certificates are logged.
    Logged,
    /// Several issuers and witnesses.
    Shared,
    /// The root is a quorum, and the founder's key is retired.
    Quorum,
}

impl Phase {
    /// The phase after this one; `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Founder => Some(Self::Logged),
            Self::Logged => Some(Self::Shared),
            Self::Shared => Some(Self::Quorum),
            Self::Quorum => None,
        }
    }
}

/// Who signs for the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDocument {
    /// The mesh: the fingerprint of its founder's key, for ever.
    pub mesh: MeshId,
    /// From 1, rising by one.
    pub version: u64,
    /// When it was written.
    pub issued_at: UnixMillis,
    /// From then on nothing that these signers sign counts, but for the next version.
    pub expires_at: UnixMillis,
    /// How far the mesh has come.
    pub phase: Phase,
    /// Who signs the next version, and grants of issuers.
    pub root: Quorum,
    /// Who signs revocations, policy and freshness.
    pub authority: Quorum,
}

impl RootDocument {
    /// Version 1: the founder alone is root, with the first authority.
    pub fn founding(
        founder: &RootKey,
        name: NodeName,
        authority: Quorum,
        issued_at: UnixMillis,
        life: Duration,
    ) -> Result<Self, QuorumError> {
        let key = founder.public().clone();
        Ok(Self {
            mesh: key.fingerprint(),
            version: 1,
            issued_at,
            expires_at: issued_at.plus(life),
            phase: Phase::Founder,
            root: Quorum::new(1, vec![Signer { name, key }])?,
            authority,
        })
    }

    /// The next version, which says the same until something is changed in it: written now, for `life`.
    pub fn following(&self, issued_at: UnixMillis, life: Duration) -> Self {
        let (version, expires_at) = (self.version.saturating_add(1), issued_at.plus(life));
        Self { version, issued_at, expires_at, ..self.clone() }
    }

    /// For how long it was written.
    pub fn life(&self) -> Duration {
        self.issued_at.distance(self.expires_at)
    }

    /// What signers sign: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, ROOT_MAX)
    }
}

/// A version and its approvals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoot {
    /// What is approved.
    pub document: RootDocument,
    /// By whom.
    pub approvals: Approvals,
}

impl SignedRoot {
    /// A version that nobody has approved yet.
    pub fn new(document: RootDocument) -> Self {
        Self { document, approvals: Approvals::default() }
    }

    /// Adds the approval of `key`.
    pub fn approve(&mut self, key: &RootKey) -> Result<(), KeyError> {
        let statement = self.document.encode().map_err(|_| KeyError::Signing)?;
        let approval = Approval::sign(key, Purpose::RootDocument, &statement)?;
        if self.approvals.add(approval) { Ok(()) } else { Err(KeyError::Signing) }
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. Nothing is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, ROOT_MAX)
    }
}
