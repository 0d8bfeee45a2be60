//! Approvals of statements: the two signatures of a key.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::signers::SIGNERS_MAX;
use crate::keys::KeyError;
use crate::names::NodeName;
use crate::root::{HybridSignature, Purpose, RootKey, RootPublic};

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

    pub(super) fn signature(&self) -> &HybridSignature {
        &self.signature
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

    /// Keeps those for which `keep` is true.
    pub fn retain(&mut self, keep: impl FnMut(&Approval) -> bool) {
        self.0.retain(keep);
    }

    /// The approvals.
    pub fn iter(&self) -> impl Iterator<Item = &Approval> {
        self.0.iter()
    }
}
