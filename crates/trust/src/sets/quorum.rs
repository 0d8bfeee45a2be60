//! Signers, their approvals, and how many distinct signers must approve.

use std::collections::BTreeSet;
use std::fmt;

use data_encoding::HEXLOWER;
use meshara_identity::root::{HybridSignature, Purpose};
use meshara_identity::{KeyError, NodeName, RootKey, RootPublic};
use serde::{Deserialize, Serialize};

/// Most keys of a quorum: a board of a dozen, each with a key and its successor. It bounds what a verifier computes.
pub const SIGNERS_MAX: usize = 32;

/// Most approvals beside a statement: a root document carries those of two quorums.
pub const APPROVALS_MAX: usize = 2 * SIGNERS_MAX;

/// Fingerprint of a signer's two public keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// The id of `key`.
    pub fn of(key: &RootPublic) -> Self {
        Self(key.fingerprint().0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// One key of a signer. The name is who counts: a signer with several keys counts once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// The person or node that holds the key.
    pub name: NodeName,
    /// Both public keys.
    pub key: RootPublic,
}

/// Why signers and threshold make no quorum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuorumError {
    /// More than [`SIGNERS_MAX`] keys.
    #[error("{0} keys where at most {SIGNERS_MAX} are allowed")]
    TooMany(usize),
    /// A threshold of zero: anybody could sign.
    #[error("a quorum needs at least one approval")]
    NoThreshold,
    /// More approvals asked for than there are signers.
    #[error("{threshold} approvals asked for, {signers} distinct signers")]
    Unreachable {
        /// Approvals asked for.
        threshold: u8,
        /// Distinct signers.
        signers: usize,
    },
    /// Two entries share an Ed25519 or an ML-DSA-65 key: one holder could count twice.
    #[error("{first} and {second} share a key")]
    SharedKey {
        /// One of them.
        first: NodeName,
        /// The other.
        second: NodeName,
    },
}

/// Who may sign and how many distinct signers must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Quorum {
    threshold: u8,
    /// Sorted by name, then key id.
    signers: Vec<(KeyId, Signer)>,
}

/// What a quorum is on the wire. Another order than `Quorum::new`'s is not canonical, which the decoder finds.
#[derive(Serialize, Deserialize)]
struct Parts {
    threshold: u8,
    signers: Vec<Signer>,
}

impl TryFrom<Parts> for Quorum {
    type Error = QuorumError;

    fn try_from(parts: Parts) -> Result<Self, QuorumError> {
        Self::new(parts.threshold, parts.signers)
    }
}

impl From<Quorum> for Parts {
    fn from(quorum: Quorum) -> Self {
        let signers = quorum.signers.into_iter().map(|(_, signer)| signer).collect();
        Self { threshold: quorum.threshold, signers }
    }
}

impl Quorum {
    /// `threshold` distinct signers of these.
    pub fn new(threshold: u8, signers: Vec<Signer>) -> Result<Self, QuorumError> {
        if signers.len() > SIGNERS_MAX {
            return Err(QuorumError::TooMany(signers.len()));
        }
        for (at, one) in signers.iter().enumerate() {
            if let Some(other) =
                signers.iter().skip(at + 1).find(|other| other.key.shares_a_key_with(&one.key))
            {
                return Err(QuorumError::SharedKey { first: one.name.clone(), second: other.name.clone() });
            }
        }
        let mut signers: Vec<_> =
            signers.into_iter().map(|signer| (KeyId::of(&signer.key), signer)).collect();
        signers.sort_by(|(a_id, a), (b_id, b)| (&a.name, a_id).cmp(&(&b.name, b_id)));
        let quorum = Self { threshold, signers };
        let distinct = quorum.names().len();
        match threshold {
            0 => Err(QuorumError::NoThreshold),
            _ if usize::from(threshold) > distinct => {
                Err(QuorumError::Unreachable { threshold, signers: distinct })
            }
            _ => Ok(quorum),
        }
    }

    /// Approvals that are needed.
    pub fn threshold(&self) -> usize {
        usize::from(self.threshold)
    }

    /// The keys with their signers, by name.
    pub fn signers(&self) -> impl Iterator<Item = &Signer> {
        self.signers.iter().map(|(_, signer)| signer)
    }

    /// The distinct signers.
    pub fn names(&self) -> BTreeSet<&NodeName> {
        self.signers().map(|signer| &signer.name).collect()
    }

    /// The signer that holds `key`.
    pub fn signer_of(&self, key: &KeyId) -> Option<&Signer> {
        self.signers.iter().find(|(id, _)| id == key).map(|(_, signer)| signer)
    }

    /// Verifies the approvals of this quorum's keys and names whose they are. Approvals by other keys don't count.
    pub fn approvers(
        &self,
        purpose: Purpose,
        statement: &[u8],
        approvals: &Approvals,
    ) -> Result<BTreeSet<&NodeName>, ApprovalError> {
        let mut names = BTreeSet::new();
        for approval in approvals.iter() {
            let Some(signer) = self.signer_of(&approval.key) else { continue };
            signer
                .key
                .verify(purpose, statement, &approval.signature)
                .map_err(|_| ApprovalError::BadSignature { signer: signer.name.clone() })?;
            names.insert(&signer.name);
        }
        Ok(names)
    }

    /// As [`approvers`](Self::approvers), and there must be enough of them.
    pub fn check(
        &self,
        purpose: Purpose,
        statement: &[u8],
        approvals: &Approvals,
    ) -> Result<BTreeSet<&NodeName>, ApprovalError> {
        let names = self.approvers(purpose, statement, approvals)?;
        if names.len() < self.threshold() {
            return Err(ApprovalError::NotEnough { found: names.len(), needed: self.threshold() });
        }
        Ok(names)
    }
}

/// Why a statement isn't approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApprovalError {
    /// An approval by a known key doesn't verify under both its algorithms.
    #[error("the approval of {signer} does not verify")]
    BadSignature {
        /// Whose approval it claims to be.
        signer: NodeName,
    },
    /// Too few distinct signers.
    #[error("approved by {found} of the {needed} signers that are needed")]
    NotEnough {
        /// Distinct signers with good approvals.
        found: usize,
        /// Signers that are needed.
        needed: usize,
    },
}

/// The two signatures of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    key: KeyId,
    signature: HybridSignature,
}

impl Approval {
    /// Approves a statement.
    pub fn sign(key: &RootKey, purpose: Purpose, statement: &[u8]) -> Result<Self, KeyError> {
        Ok(Self { key: KeyId::of(key.public()), signature: key.sign(purpose, statement)? })
    }

    /// Whose keys it says it is by.
    pub fn key(&self) -> KeyId {
        self.key
    }
}

/// Approvals of one statement, at most one by each key, in the order of key ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Approval>", into = "Vec<Approval>")]
pub struct Approvals(Vec<Approval>);

/// A list of approvals that isn't one: too long, out of order, or with a key twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {APPROVALS_MAX} approvals, or not in the order of their keys")]
pub struct ApprovalsError;

impl TryFrom<Vec<Approval>> for Approvals {
    type Error = ApprovalsError;

    fn try_from(list: Vec<Approval>) -> Result<Self, ApprovalsError> {
        let ordered = list.is_sorted_by(|a, b| a.key < b.key);
        if ordered && list.len() <= APPROVALS_MAX { Ok(Self(list)) } else { Err(ApprovalsError) }
    }
}

impl From<Approvals> for Vec<Approval> {
    fn from(approvals: Approvals) -> Self {
        approvals.0
    }
}

impl Approvals {
    /// Adds one, in place of an earlier one by the same key. Whether there was room.
    #[must_use]
    pub fn add(&mut self, approval: Approval) -> bool {
        match self.0.binary_search_by_key(&approval.key, |held| held.key) {
            Ok(at) => {
                self.0.splice(at..=at, [approval]);
                true
            }
            Err(at) if self.0.len() < APPROVALS_MAX => {
                self.0.insert(at, approval);
                true
            }
            Err(_) => false,
        }
    }

    /// The approvals.
    pub fn iter(&self) -> impl Iterator<Item = &Approval> {
        self.0.iter()
    }
}
