//! Freshness: which numbers are the newest, said by one signer at one time.

use std::time::Duration;

use meshara_identity::quorum::{Approval, ApprovalError, Approvals, KeyId, Quorum};
use meshara_identity::root::Purpose;
use meshara_identity::wire::{self, WireError};
use meshara_identity::{KeyError, MeshId, NodeName, RootKey, UnixMillis};
use serde::{Deserialize, Serialize};

use super::head::{SetHash, SetHead, SetKind};

/// How often each signer says what is newest: a node that missed the flood of a new set learns of it within a minute.
pub const FRESHNESS_INTERVAL: Duration = Duration::from_secs(60);

/// Longest statement: 120 bytes and one approval of 3.4 KB.
pub const FRESHNESS_MAX: usize = 4096;

/// One set, by number and hash; number 0 and [`SetHash::ZERO`] while there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRef {
    /// Its number.
    pub number: u64,
    /// Hash of its head.
    pub hash: SetHash,
}

impl HeadRef {
    /// No set yet.
    pub const NONE: Self = Self { number: 0, hash: SetHash::ZERO };

    /// This set.
    pub fn of(head: &SetHead) -> Result<Self, WireError> {
        Ok(Self { number: head.number, hash: head.hash()? })
    }
}

/// The newest sets that a signer knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// The mesh.
    pub mesh: MeshId,
    /// The signer's clock.
    pub at: UnixMillis,
    /// Newest revocation snapshot.
    pub revocations: HeadRef,
    /// Newest policy set.
    pub policy: HeadRef,
}

impl Freshness {
    /// The newest set of a kind.
    pub fn newest(&self, kind: SetKind) -> HeadRef {
        match kind {
            SetKind::Revocations => self.revocations,
            SetKind::Policy => self.policy,
        }
    }

    /// Signs it.
    pub fn sign(self, key: &RootKey) -> Result<SignedFreshness, KeyError> {
        let bytes = wire::encode(&self).map_err(|_| KeyError::Signing)?;
        Ok(SignedFreshness { approval: Approval::sign(key, Purpose::Freshness, &bytes)?, statement: self })
    }
}

/// A [`Freshness`] signed by one signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFreshness {
    /// What is said.
    pub statement: Freshness,
    approval: Approval,
}

impl SignedFreshness {
    /// Whose keys it says it is by.
    pub fn key(&self) -> KeyId {
        self.approval.key()
    }

    /// Whose statement it is, if a signer of `quorum` made it.
    pub fn signer<'a>(&self, quorum: &'a Quorum) -> Result<&'a NodeName, ApprovalError> {
        let not_enough = ApprovalError::NotEnough { found: 0, needed: 1 };
        let bytes = wire::encode(&self.statement).map_err(|_| not_enough.clone())?;
        let mut approvals = Approvals::default();
        if !approvals.add(self.approval.clone()) {
            return Err(not_enough);
        }
        quorum.approvers(Purpose::Freshness, &bytes, &approvals)?.first().copied().ok_or(not_enough)
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. The signature is not verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let signed: Self = wire::decode(bytes, FRESHNESS_MAX)?;
        let none_is_zero = |head: HeadRef| (head.number == 0) == (head.hash == SetHash::ZERO);
        let statement = &signed.statement;
        if none_is_zero(statement.revocations) && none_is_zero(statement.policy) {
            Ok(signed)
        } else {
            Err(WireError::Malformed)
        }
    }
}
