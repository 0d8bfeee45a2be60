//! The descent of the mesh's present root from the key that it is named after, as short as it can be: what a newcomer needs to judge grants.
//!
//! A version whose root signers are those of the version before adds nothing to the proof, since they also approved what follows; it is left
//! out, but for the newest. Whether versions rise one by one is for those to judge who hold all of them, and what they hold goes before what
//! a member showed ([`RootChain::going_by`]); the other rules of succession hold here too.

use std::sync::Arc;

use crate::ids::MeshId;
use crate::quorum::ApprovalError;
use crate::root::Purpose;
use crate::root_document::{ROOT_LIFE_MAX, RootDocument, SignedRoot};
use crate::wire;

/// Most versions of a chain: root signers that changed every year for half a century. It bounds what a newcomer verifies.
pub const CHAIN_MAX: usize = 64;

/// Highest version, since whoever signs for the mesh holds them all. A root that changes every month has it after 21 years.
pub const VERSION_MAX: u64 = 256;

/// Why versions of the root document make no chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// More than [`CHAIN_MAX`].
    #[error("{0} versions of the root document where at most {CHAIN_MAX} are allowed")]
    TooLong(usize),
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
        self.grown(mesh, versions, could_follow)
    }

    /// What this node itself stored. Who signed it is verified; of what may follow what, earlier programs knew less.
    pub(crate) fn restored(mesh: &MeshId, versions: Vec<SignedRoot>) -> Result<Self, ChainError> {
        Ok(Self::default().grown(mesh, &versions, |_, _| true)?.unwrap_or_default())
    }

    /// The chain of `versions`, all from the first on, which this node took one after the other: whatever else a member showed, once these
    /// reach as far. `None` when that changes nothing.
    pub fn going_by(&self, mesh: &MeshId, versions: &[SignedRoot]) -> Result<Option<Self>, ChainError> {
        let stored = |_: Option<&RootDocument>, _: &RootDocument| true;
        let same = |kept: &SignedRoot| versions.iter().any(|signed| signed.document == kept.document);
        if self.0.iter().all(same) {
            return self.grown(mesh, versions, stored);
        }
        let reached = versions.last().map_or(0, |newest| newest.document.version);
        // What is held may be newer, from a member that was met. But what can't be is waited for in vain.
        let mut before = None;
        let possible = self.0.iter().all(|kept| could_follow(before.replace(&kept.document), &kept.document));
        if reached < self.version() && possible {
            return Ok(None);
        }
        Self::default().grown(mesh, versions, stored)
    }

    fn grown(
        &self,
        mesh: &MeshId,
        versions: &[SignedRoot],
        rules: impl Fn(Option<&RootDocument>, &RootDocument) -> bool,
    ) -> Result<Option<Self>, ChainError> {
        let mut chain: Vec<SignedRoot> = self.0.to_vec();
        let held = self.version();
        for next in versions.iter().filter(|next| next.document.version > held) {
            follows(mesh, chain.last(), next)?;
            if !rules(chain.last().map(|before| &before.document), &next.document) {
                return Err(ChainError::Impossible { version: next.document.version });
            }
            let slim = next.clone().with_sufficient(chain.last().map(|before| &before.document.root));
            // What lies between two versions of one root isn't needed.
            if let [.., before, last] = chain.as_slice()
                && before.document.root == last.document.root
            {
                chain.pop();
            }
            chain.push(slim);
            if chain.len() > CHAIN_MAX {
                return Err(ChainError::TooLong(chain.len()));
            }
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
