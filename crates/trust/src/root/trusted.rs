//! The version that a node goes by, and the rules by which the next replaces it.

use meshara_identity::root::Purpose;
use meshara_identity::root_chain::{ChainError, ChainLength};
use meshara_identity::root_document::{Phase, ROOT_LIFE_MAX, RootDocument, SignedRoot, StandingGrants};
use meshara_identity::wire::WireError;
use meshara_identity::{MeshId, UnixMillis};

use crate::sets::{ApprovalError, KeyId, Quorum, SKEW_MAX};

/// Why a version was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Of another mesh.
    #[error("a root document of another mesh")]
    WrongMesh,
    /// The first version is not the founder's alone.
    #[error("version 1 is not signed by the key that the mesh is named after, alone")]
    NotFounder,
    /// A version is missing before it.
    #[error("version {found} does not follow version {held}: the versions between are needed")]
    Gap {
        /// Version held.
        held: u64,
        /// Version offered.
        found: u64,
    },
    /// An older version.
    #[error("version {found} is older than version {held}")]
    Rollback {
        /// Version held.
        held: u64,
        /// Version offered.
        found: u64,
    },
    /// Another document with the version held: root signers contradict themselves.
    #[error("two documents with version {version} exist: the root's signers contradict themselves")]
    Fork {
        /// The version.
        version: u64,
    },
    /// It ends before it begins, lives too long, or begins later than now.
    #[error("issued at {issued_at}, ends at {expires_at}: not a possible life")]
    BadDates {
        /// When it was written.
        issued_at: UnixMillis,
        /// When it ends.
        expires_at: UnixMillis,
    },
    /// The phase falls, or rises by more than one.
    #[error("phase {found:?} does not follow phase {held:?}")]
    BadPhase {
        /// Phase held.
        held: Phase,
        /// Phase offered.
        found: Phase,
    },
    /// In the last phase the founder's key is still a key of the root or of the authority, or one root signer is enough.
    #[error("phase Quorum needs at least two root signers, and the founder's key in no quorum")]
    FounderNotRetired,
    /// The last phase begins with as many root signers as must approve: the loss of one key would end the mesh.
    #[error(
        "phase Quorum begins with {signers} root signers of whom {threshold} must approve, and needs one more"
    )]
    NoSpareSigner {
        /// Distinct root signers.
        signers: usize,
        /// How many must approve.
        threshold: usize,
    },
    /// A phase of several issuers begins with grants for fewer.
    #[error("phase Shared needs grants of 2 issuers that stand under it, and names {found}")]
    FewIssuers {
        /// Issuers that the document names.
        found: usize,
    },
    /// It names no grants, though the version before does or it is newly proposed: what stands under it could not be told.
    #[error("a version that names no grants can't follow one that does, nor be proposed")]
    NamesNoGrants,
    /// Newcomers could not be shown all that leads to it, or nodes not hold it. A version with the same root signers takes the place of the
    /// newest, with fewer keys it is shorter.
    #[error("no room for another version: {0}")]
    NoRoom(ChainError),
    /// Not approved by the quorum of the version before.
    #[error("not approved by the root before it: {0}")]
    OldQuorum(ApprovalError),
    /// Not approved by its own quorum.
    #[error("not approved by its own root: {0}")]
    NewQuorum(ApprovalError),
    /// It ended.
    #[error(
        "the root document ended at {expires_at} and this machine's clock shows {now}: its signers must sign a new version"
    )]
    Expired {
        /// When it ended.
        expires_at: UnixMillis,
        /// This machine's clock.
        now: UnixMillis,
    },
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Whether an offered version changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advanced {
    /// It is held now.
    Yes,
    /// It was held already.
    Same,
}

/// A version whose whole descent from the founder's key was verified, with the approvals that suffice: whoever passed it on could have put any
/// others beside them.
#[derive(Debug, Clone)]
pub struct TrustedRoot {
    current: SignedRoot,
    length: ChainLength,
}

impl TrustedRoot {
    /// Begins with version 1 of the mesh that a ticket or the own files name.
    pub fn first(mesh: &MeshId, signed: SignedRoot, now: UnixMillis) -> Result<Self, RootError> {
        let document = &signed.document;
        if document.mesh != *mesh {
            return Err(RootError::WrongMesh);
        }
        let keys: Vec<_> = document.root.signers().map(|signer| signer.key.fingerprint()).collect();
        if document.version != 1 || keys != [*mesh] {
            return Err(RootError::NotFounder);
        }
        if document.phase != Phase::Founder {
            return Err(RootError::BadPhase { held: Phase::Founder, found: document.phase });
        }
        check_dates(document, now)?;
        check(&document.root, &signed).map_err(RootError::NewQuorum)?;
        let length = ChainLength::default().and(None, &signed.document);
        Ok(Self { current: signed.with_sufficient(None), length })
    }

    /// Walks from version 1 to the last of `versions`. Versions on the way may have ended; whether the last has is
    /// [`valid_at`](Self::valid_at)'s to say.
    pub fn walk(
        mesh: &MeshId,
        versions: impl IntoIterator<Item = SignedRoot>,
        now: UnixMillis,
    ) -> Result<Self, RootError> {
        let mut versions = versions.into_iter();
        let mut trusted = Self::first(mesh, versions.next().ok_or(RootError::NotFounder)?, now)?;
        for next in versions {
            trusted.restore(next, now)?;
        }
        Ok(trusted)
    }

    /// Takes the next version. Nothing changes on an error.
    pub fn advance(&mut self, next: SignedRoot, now: UnixMillis) -> Result<Advanced, RootError> {
        let held = self.document();
        if next.document.version == held.version.saturating_add(1) {
            self.length.and(Some(held), &next.document).check().map_err(RootError::NoRoom)?;
        }
        self.restore(next, now)
    }

    /// As [`advance`](Self::advance), of a version that was taken before: it stays however long the chain has become.
    pub fn restore(&mut self, next: SignedRoot, now: UnixMillis) -> Result<Advanced, RootError> {
        let (old, new) = (&self.current.document, &next.document);
        let (held, found) = (old.version, new.version);
        if new.mesh != old.mesh {
            return Err(RootError::WrongMesh);
        }
        if found < held {
            return Err(RootError::Rollback { held, found });
        }
        if found > held.saturating_add(1) {
            return Err(RootError::Gap { held, found });
        }
        if found == held && new == old {
            return Ok(Advanced::Same);
        }
        if found == held {
            // Only the signers themselves can make this evidence; a stranger's paper is just not approved.
            check(&new.root, &next).map_err(RootError::NewQuorum)?;
            check(&old.root, &next).map_err(RootError::OldQuorum)?;
            return Err(RootError::Fork { version: held });
        }
        check_content(old, new, now)?;
        check(&old.root, &next).map_err(RootError::OldQuorum)?;
        check(&new.root, &next).map_err(RootError::NewQuorum)?;
        self.length = self.length.and(Some(old), new);
        self.current = next.with_sufficient(Some(&self.current.document.root));
        Ok(Advanced::Yes)
    }

    /// Whether a document could be the next version, were it approved: for who proposes one.
    pub fn could_follow(&self, next: &RootDocument, now: UnixMillis) -> Result<(), RootError> {
        let held = &self.current.document;
        if next.mesh != held.mesh {
            return Err(RootError::WrongMesh);
        }
        if next.version <= held.version {
            return Err(RootError::Rollback { held: held.version, found: next.version });
        }
        if next.version > held.version.saturating_add(1) {
            return Err(RootError::Gap { held: held.version, found: next.version });
        }
        if next.grants.is_none() {
            return Err(RootError::NamesNoGrants);
        }
        self.length.and(Some(held), next).check().map_err(RootError::NoRoom)?;
        check_content(held, next, now)
    }

    /// The version held, to store and to send.
    pub fn signed(&self) -> &SignedRoot {
        &self.current
    }

    /// The document held. Whether it has ended is for [`valid_at`](Self::valid_at) to say.
    pub fn document(&self) -> &RootDocument {
        &self.current.document
    }

    /// The document, unless it has ended: who freezes a node at an old version gains no more than its life.
    pub fn valid_at(&self, now: UnixMillis) -> Result<&RootDocument, RootError> {
        let document = self.document();
        if now > document.expires_at {
            return Err(RootError::Expired { expires_at: document.expires_at, now });
        }
        Ok(document)
    }
}

/// Issuers that a mesh of several has at least.
const SEVERAL_ISSUERS: usize = 2;

/// What the next version must be by itself, whoever approves it. Of a phase's gate that is all that its document shows; the rest is measured
/// by those who sign.
fn check_content(old: &RootDocument, new: &RootDocument, now: UnixMillis) -> Result<(), RootError> {
    check_dates(new, now)?;
    let one_up = new.phase as u8 <= old.phase as u8 + 1;
    if new.phase < old.phase || !one_up {
        return Err(RootError::BadPhase { held: old.phase, found: new.phase });
    }
    if old.grants.is_some() && new.grants.is_none() {
        return Err(RootError::NamesNoGrants);
    }
    let found = new.grants.as_ref().map(StandingGrants::issuers);
    // Versions that were written before they named grants entered phases by what was measured alone, and stand in homes and with neighbours.
    let begins = |phase| new.phase == phase && old.phase < phase && found.is_some();
    if let Some(found) = found.filter(|found| begins(Phase::Shared) && *found < SEVERAL_ISSUERS) {
        return Err(RootError::FewIssuers { found });
    }
    let founder = KeyId(new.mesh.0);
    let kept = [&new.root, &new.authority].into_iter().any(|quorum| quorum.signer_of(&founder).is_some());
    if new.phase == Phase::Quorum && (new.root.threshold() < 2 || kept) {
        return Err(RootError::FounderNotRetired);
    }
    let (signers, threshold) = (new.root.names().len(), new.root.threshold());
    if begins(Phase::Quorum) && signers <= threshold {
        return Err(RootError::NoSpareSigner { signers, threshold });
    }
    Ok(())
}

fn check(quorum: &Quorum, signed: &SignedRoot) -> Result<(), ApprovalError> {
    let none = ApprovalError::NotEnough { found: 0, needed: quorum.threshold() };
    let statement = signed.document.encode().map_err(|_| none)?;
    quorum.check(Purpose::RootDocument, &statement, &signed.approvals).map(drop)
}

fn check_dates(document: &RootDocument, now: UnixMillis) -> Result<(), RootError> {
    let (issued_at, expires_at) = (document.issued_at, document.expires_at);
    let possible = issued_at < expires_at
        && issued_at.distance(expires_at) <= ROOT_LIFE_MAX
        && issued_at <= now.plus(SKEW_MAX);
    if possible { Ok(()) } else { Err(RootError::BadDates { issued_at, expires_at }) }
}
