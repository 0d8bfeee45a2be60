//! Evidence that signers said two things about one number. Anybody who knows the signers can check it offline.

use std::collections::BTreeSet;

use meshara_identity::quorum::{ApprovalError, Quorum};
use meshara_identity::wire::{self, WireError};
use meshara_identity::{MeshId, NodeName};
use serde::{Deserialize, Serialize};

use super::freshness::{FRESHNESS_MAX, SignedFreshness};
use super::head::{HEAD_MAX, SetHash, SetKind, SignedHead};

/// Longest evidence: two heads, since a statement of freshness is shorter.
pub const EVIDENCE_MAX: usize = 16 + 2 * if HEAD_MAX > FRESHNESS_MAX { HEAD_MAX } else { FRESHNESS_MAX };

/// A signed statement that says which set has a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// A head: it says what it is, and what the one before it was.
    Head(SignedHead),
    /// A statement of freshness.
    Freshness(SignedFreshness),
}

impl Claim {
    fn mesh(&self) -> MeshId {
        match self {
            Self::Head(signed) => signed.head.mesh,
            Self::Freshness(signed) => signed.statement.mesh,
        }
    }

    /// Kind, number and hash of each set that it speaks of.
    fn says(&self) -> Result<Vec<(SetKind, u64, SetHash)>, WireError> {
        let mut said = match self {
            Self::Head(signed) => {
                let head = &signed.head;
                let before = head.number.checked_sub(1).ok_or(WireError::Malformed)?;
                vec![(head.kind, head.number, head.hash()?), (head.kind, before, head.previous)]
            }
            Self::Freshness(signed) => [SetKind::Revocations, SetKind::Policy]
                .map(|kind| (kind, signed.statement.newest(kind)))
                .map(|(kind, newest)| (kind, newest.number, newest.hash))
                .to_vec(),
        };
        // Number 0 is no set.
        said.retain(|(_, number, _)| *number > 0);
        Ok(said)
    }

    /// Who of `quorum` signed it, and whether they were enough to make a set.
    fn signers<'a>(&self, quorum: &'a Quorum) -> Result<(BTreeSet<&'a NodeName>, bool), EvidenceError> {
        match self {
            Self::Head(signed) => {
                let statement = signed.head.encode()?;
                let names = quorum.approvers(signed.head.kind.purpose(), &statement, &signed.approvals)?;
                let enough = names.len() >= quorum.threshold();
                Ok((names, enough))
            }
            Self::Freshness(signed) => Ok((BTreeSet::from([signed.signer(quorum)?]), false)),
        }
    }
}

/// Two signed statements that contradict each other about one number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkEvidence {
    /// One.
    pub one: Claim,
    /// The other.
    pub other: Claim,
}

/// What evidence proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// Kind of the set.
    pub kind: SetKind,
    /// The number with two contents.
    pub number: u64,
    /// Who signed both. Empty when two quorums without a common signer made the two sets.
    pub signers: Vec<NodeName>,
}

/// Why evidence proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// It doesn't decode or encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It is about another mesh.
    #[error("the evidence is about another mesh")]
    WrongMesh,
    /// The statements agree, or speak of different numbers.
    #[error("the two statements do not contradict each other")]
    NoContradiction,
    /// An approval doesn't verify.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// Nobody signed both, and they aren't two approved sets.
    #[error("no signer signed both statements, and they are not both approved sets")]
    NobodySignedBoth,
}

impl ForkEvidence {
    /// The number on which both speak, with different hashes.
    fn contradiction(&self) -> Result<Option<(SetKind, u64)>, WireError> {
        let others = self.other.says()?;
        Ok(self.one.says()?.into_iter().find_map(|(kind, number, hash)| {
            others
                .iter()
                .any(|&(k, n, other)| k == kind && n == number && other != hash)
                .then_some((kind, number))
        }))
    }

    /// Verifies it under the signers of `mesh` and says what it proves.
    pub fn verify(&self, mesh: &MeshId, quorum: &Quorum) -> Result<Fork, EvidenceError> {
        if self.one.mesh() != *mesh || self.other.mesh() != *mesh {
            return Err(EvidenceError::WrongMesh);
        }
        let (kind, number) = self.contradiction()?.ok_or(EvidenceError::NoContradiction)?;
        let (one, one_enough) = self.one.signers(quorum)?;
        let (other, other_enough) = self.other.signers(quorum)?;
        let signers: Vec<_> = one.intersection(&other).map(|name| (*name).clone()).collect();
        if signers.is_empty() && !(one_enough && other_enough) {
            return Err(EvidenceError::NobodySignedBoth);
        }
        Ok(Fork { kind, number, signers })
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. Nothing is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, EVIDENCE_MAX)
    }
}
