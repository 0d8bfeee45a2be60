//! The descent of the mesh's present root from the key that it is named after, as short as it can be: what a newcomer needs to judge grants.
//!
//! A version whose root signers are those of the version before adds nothing to the proof, since they also approved what follows; it is left
//! out, but for the newest. Whether versions rise one by one is for those to judge who hold all of them, and what they hold goes before what
//! a member showed ([`RootChain::going_by`]); the other rules of succession hold here too.

use std::sync::Arc;

use crate::ids::MeshId;
use crate::quorum::ApprovalError;
use crate::root::Purpose;
use crate::root_document::{ROOT_LIFE_MAX, ROOT_MAX, RootDocument, SignedRoot};
use crate::wire;

/// Most versions of a chain: root signers that changed every year for half a century. It bounds what a newcomer verifies.
pub const CHAIN_MAX: usize = 64;

/// Most bytes of a chain, as [`ChainLength`] counts them: 64 versions of a board of six and as many signers of the authority, or 40 of the
/// twelve with two keys each that a quorum can have. A newcomer is shown as much before it knows whom it speaks with.
pub const CHAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most bytes of all versions, which every node holds: each can be as large as 130 KB on average.
pub const VERSIONS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest list of grants in a version: 16 names of 74 bytes.
const GRANTS_NAMED_MAX: usize = 1280;

/// Longest approval: key id, Ed25519 and ML-DSA-65 signature.
const APPROVAL_MAX: usize = 3500;

/// Highest version, since whoever signs for the mesh holds them all. A root that changes every month has it after 21 years.
pub const VERSION_MAX: u64 = 256;

/// Why versions of the root document make no chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// More than [`CHAIN_MAX`].
    #[error("{0} versions of the root document where at most {CHAIN_MAX} are allowed")]
    TooLong(usize),
    /// Longer than [`CHAIN_BYTES_MAX`], or all versions than [`VERSIONS_BYTES_MAX`].
    #[error(
        "root documents of {len} bytes where at most {max} are allowed: fewer keys of signers make a shorter one"
    )]
    TooLarge {
        /// Their length.
        len: usize,
        /// Most bytes.
        max: usize,
    },
    /// A version of another mesh.
    #[error("version {version} of the root document is of another mesh")]
    WrongMesh {
        /// The version.
        version: u64,
    },
    /// The first is not version 1 of the founder alone.
    #[error("the chain of root documents does not begin with the key that the mesh is named after")]
    NotFounder,
    /// A version that isn't later than the one before.
    #[error("version {found} of the root document does not come after version {held}")]
    NotLater {
        /// The version before.
        held: u64,
        /// The version.
        found: u64,
    },
    /// No node will ever hold such a version: it is beyond [`VERSION_MAX`], its dates make no life, its phase falls, or it names no grants
    /// after one that does.
    #[error("version {version} of the root document can't follow those before it")]
    Impossible {
        /// The version.
        version: u64,
    },
    /// The signers before it, or its own, did not approve a version.
    #[error("version {version} of the root document: {error}")]
    NotApproved {
        /// The version.
        version: u64,
        /// What is missing.
        error: ApprovalError,
    },
}

/// How long a chain is, and all versions. It follows from the documents alone, whoever approved them, so that all nodes count the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainLength {
    /// Versions that stay in the chain whatever follows, and their bytes.
    settled: (usize, usize),
    newest: usize,
    /// Whether the newest is the first of its root, so that it stays.
    stays: bool,
    all: usize,
}

impl ChainLength {
    /// With the next version.
    #[must_use]
    pub fn and(self, before: Option<&RootDocument>, next: &RootDocument) -> Self {
        let (versions, bytes) = self.settled;
        let settled = if self.stays { (versions + 1, bytes + self.newest) } else { (versions, bytes) };
        let approvals = before.map_or(0, |before| before.root.threshold()) + next.root.threshold();
        let newest = next.encode().map_or(ROOT_MAX, |bytes| bytes.len()) + approvals * APPROVAL_MAX;
        let stays = before.is_none_or(|before| before.root != next.root);
        Self { settled, newest, stays, all: self.all.saturating_add(newest) }
    }

    /// Whether nodes can hold and tell so much, and one more version of the same root, so that its signers can always go on.
    ///
    /// # Errors
    /// [`ChainError::TooLong`], [`ChainError::TooLarge`].
    pub fn check(&self) -> Result<(), ChainError> {
        let (mut versions, mut bytes) = (self.settled.0 + 1, self.settled.1 + self.newest);
        if self.stays {
            (versions, bytes) = (versions + 1, bytes + self.newest + GRANTS_NAMED_MAX);
        }
        if versions > CHAIN_MAX {
            return Err(ChainError::TooLong(versions));
        }
        for (len, max) in [(bytes, CHAIN_BYTES_MAX), (self.all, VERSIONS_BYTES_MAX)] {
            if len > max {
                return Err(ChainError::TooLarge { len, max });
            }
        }
        Ok(())
    }
}

/// Where versions come from, which says what may follow what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A member that was met.
    Member,
    /// This node took all of them one after the other.
    Walked,
    /// This node stored them as a chain. Earlier programs knew fewer rules.
    Stored,
}

/// Verified versions from the first to the newest. Empty: nothing is known but the founder's key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootChain(Arc<Vec<SignedRoot>>);

impl RootChain {
    /// Verifies versions from the mesh's id down.
    pub fn verify(mesh: &MeshId, versions: Vec<SignedRoot>) -> Result<Self, ChainError> {
        match Self::default().extended(mesh, &versions)? {
            Some(chain) => Ok(chain),
            None => Ok(Self::default()),
        }
    }

    /// With those of `versions` that are later than what is held; `None` when none is. What is held never goes back. Of approvals those are
    /// kept that suffice: a member could have put any others beside them.
    pub fn extended(&self, mesh: &MeshId, versions: &[SignedRoot]) -> Result<Option<Self>, ChainError> {
        self.grown(mesh, versions, Origin::Member)
    }

    /// What this node itself stored. Who signed it is verified; of what may follow what, earlier programs knew less.
    pub(crate) fn restored(mesh: &MeshId, versions: Vec<SignedRoot>) -> Result<Self, ChainError> {
        Ok(Self::default().grown(mesh, &versions, Origin::Stored)?.unwrap_or_default())
    }

    /// The chain of `versions`, all from the first on, which this node took one after the other: whatever else a member showed, once these
    /// reach as far. `None` when that changes nothing.
    pub fn going_by(&self, mesh: &MeshId, versions: &[SignedRoot]) -> Result<Option<Self>, ChainError> {
        let same = |kept: &SignedRoot| versions.iter().any(|signed| signed.document == kept.document);
        if self.0.iter().all(same) {
            return self.grown(mesh, versions, Origin::Walked);
        }
        let reached = versions.last().map_or(0, |newest| newest.document.version);
        // What is held may be newer, from a member that was met. But what can't be is waited for in vain.
        let mut before = None;
        let possible = self.0.iter().all(|kept| could_follow(before.replace(&kept.document), &kept.document));
        if reached < self.version() && possible {
            return Ok(None);
        }
        Self::default().grown(mesh, versions, Origin::Walked)
    }

    fn grown(
        &self,
        mesh: &MeshId,
        versions: &[SignedRoot],
        origin: Origin,
    ) -> Result<Option<Self>, ChainError> {
        let mut chain: Vec<SignedRoot> = self.0.to_vec();
        let mut length = ChainLength::default();
        let mut last = None;
        for kept in self.0.iter() {
            length = length.and(last.replace(&kept.document), &kept.document);
        }
        let held = self.version();
        for next in versions.iter().filter(|next| next.document.version > held) {
            follows(mesh, chain.last(), next)?;
            let before = chain.last().map(|before| &before.document);
            if origin == Origin::Member && !could_follow(before, &next.document) {
                return Err(ChainError::Impossible { version: next.document.version });
            }
            length = length.and(before, &next.document);
            if origin != Origin::Stored {
                length.check()?;
            }
            let slim = next.clone().with_sufficient(chain.last().map(|before| &before.document.root));
            // What lies between two versions of one root isn't needed.
            if let [.., before, last] = chain.as_slice()
                && before.document.root == last.document.root
            {
                chain.pop();
            }
            chain.push(slim);
        }
        Ok((chain.len() != self.0.len() || chain.last() != self.0.last()).then(|| Self(Arc::new(chain))))
    }

    /// The newest version's number; 0 when there is none.
    pub fn version(&self) -> u64 {
        self.newest().map_or(0, |document| document.version)
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&RootDocument> {
        self.0.last().map(|signed| &signed.document)
    }

    /// All versions that are kept, oldest first.
    pub fn versions(&self) -> &[SignedRoot] {
        &self.0
    }
}

/// Whether a version can come after another one, with versions between them that aren't known.
fn could_follow(before: Option<&RootDocument>, next: &RootDocument) -> bool {
    let dated = next.issued_at < next.expires_at && next.life() <= ROOT_LIFE_MAX;
    let falls = before
        .is_some_and(|before| next.phase < before.phase || before.grants.is_some() && next.grants.is_none());
    next.version <= VERSION_MAX && dated && !falls
}

/// Whether a version is approved by the root before it and by its own.
fn follows(mesh: &MeshId, before: Option<&SignedRoot>, next: &SignedRoot) -> Result<(), ChainError> {
    let document = &next.document;
    let version = document.version;
    if document.mesh != *mesh {
        return Err(ChainError::WrongMesh { version });
    }
    let refused = |error| ChainError::NotApproved { version, error };
    let none = ApprovalError::NotEnough { found: 0, needed: document.root.threshold() };
    let statement = document.encode().map_err(|_: wire::WireError| refused(none))?;
    match before {
        None if version != 1 || document.root.signers().count() != 1 || !document.is_founders_alone() => {
            return Err(ChainError::NotFounder);
        }
        None => {}
        Some(before) => {
            let held = before.document.version;
            if version <= held {
                return Err(ChainError::NotLater { held, found: version });
            }
            let root = &before.document.root;
            root.check(Purpose::RootDocument, &statement, &next.approvals).map_err(refused)?;
        }
    }
    document.root.check(Purpose::RootDocument, &statement, &next.approvals).map_err(refused)?;
    Ok(())
}
