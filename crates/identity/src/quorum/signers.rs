//! Signers, and how many distinct ones must approve.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::approval::{Approval, ApprovalError, Approvals, KeyId};
use crate::names::NodeName;
use crate::root::{Purpose, RootPublic};

/// Most keys of a quorum: a board of a dozen, each with a key and its successor. It bounds what a verifier computes.
pub const SIGNERS_MAX: usize = 32;

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
            let Some(signer) = self.signer_of(&approval.key()) else { continue };
            signer
                .key
                .verify(purpose, statement, approval.signature())
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

    /// Of good approvals as many as are needed, each of another signer.
    #[must_use]
    pub fn sufficient(&self, approvals: &Approvals) -> Approvals {
        sufficient(&[self], approvals)
    }
}

/// Of good approvals as many as each of these quorums needs, those first that several count. What is left out nobody verified, or nobody
/// needs: whoever passes a statement on could have put it there.
#[must_use]
pub fn sufficient(quorums: &[&Quorum], approvals: &Approvals) -> Approvals {
    let known = |approval: &&Approval| {
        quorums.iter().filter(|quorum| quorum.signer_of(&approval.key()).is_some()).count()
    };
    let mut ordered: Vec<_> = approvals.iter().collect();
    ordered.sort_by_key(|approval| Reverse(known(approval)));
    let mut found = vec![BTreeSet::new(); quorums.len()];
    let mut enough = Approvals::default();
    for approval in ordered {
        let mut needed = false;
        for (quorum, names) in quorums.iter().zip(&mut found) {
            let Some(signer) = quorum.signer_of(&approval.key()) else { continue };
            needed |= names.len() < quorum.threshold() && names.insert(&signer.name);
        }
        if needed {
            let _ = enough.add(approval.clone());
        }
    }
    enough
}
