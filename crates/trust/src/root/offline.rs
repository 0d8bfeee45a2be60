//! Signing away from the network: a statement file goes to each signer, a signature file comes back.

use meshara_identity::root::Purpose;
use meshara_identity::wire::{self, WireError};
use meshara_identity::{KeyError, RootKey};
use serde::{Deserialize, Serialize};

use super::document::{ROOT_MAX, RootDocument};
use crate::sets::{Approval, ApprovalError, Approvals, KeyId, Quorum, SetHead};

/// What a statement file starts with, so that people and `file` know it.
const STATEMENT_MAGIC: &[u8] = b"MESHARA-STATEMENT\n";
/// What a signature file starts with.
const SIGNATURE_MAGIC: &[u8] = b"MESHARA-SIGNATURE\n";

/// Longest statement file: a root document.
pub const STATEMENT_FILE_MAX: usize = ROOT_MAX + 64;

/// Longest signature file: one approval of 3.4 KB.
pub const SIGNATURE_FILE_MAX: usize = 4096;

/// Why a file can't be signed, read or joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// Another kind of file.
    #[error("not a {expected} file")]
    NotThis {
        /// What it should be.
        expected: &'static str,
    },
    /// It doesn't decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It holds something else than what it says it holds. Nothing unreadable is ever signed.
    #[error("the file does not hold what it says; nothing was signed")]
    WrongStatement,
    /// The signature is for another statement.
    #[error("the signature is for another statement")]
    OtherStatement,
    /// The key isn't one of the signers'.
    #[error("no signer has the key {key}")]
    UnknownKey {
        /// The key.
        key: KeyId,
    },
    /// It doesn't verify.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What is to be signed: purpose and statement, readable by the machine that signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementFile {
    purpose: Purpose,
    statement: Vec<u8>,
}

/// What a statement file asks for, to show to the person who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement {
    /// A version of the root document.
    Root(Box<RootDocument>),
    /// Head of a revocation snapshot or of a policy set.
    Set(SetHead),
}

impl StatementFile {
    /// A version of the root document.
    pub fn root(document: &RootDocument) -> Result<Self, WireError> {
        Ok(Self { purpose: Purpose::RootDocument, statement: document.encode()? })
    }

    /// The head of a set.
    pub fn set(head: &SetHead) -> Result<Self, WireError> {
        Ok(Self { purpose: head.kind.purpose(), statement: head.encode()? })
    }

    /// What it holds.
    pub fn statement(&self) -> Result<Statement, OfflineError> {
        match self.purpose {
            Purpose::RootDocument => Ok(Statement::Root(Box::new(RootDocument::decode(&self.statement)?))),
            Purpose::Revocations | Purpose::Policy => {
                let head = SetHead::decode(&self.statement)?;
                if head.kind.purpose() == self.purpose {
                    Ok(Statement::Set(head))
                } else {
                    Err(OfflineError::WrongStatement)
                }
            }
            _ => Err(OfflineError::WrongStatement),
        }
    }

    /// Signs it, if it holds what it says.
    pub fn sign(&self, key: &RootKey) -> Result<DetachedSignature, OfflineError> {
        self.statement()?;
        let approval = Approval::sign(key, self.purpose, &self.statement)?;
        Ok(DetachedSignature { statement_hash: self.hash(), approval })
    }

    /// Takes a signature that came back into `approvals`, if a signer of `quorum` made it for this statement.
    pub fn join(
        &self,
        signature: DetachedSignature,
        quorum: &Quorum,
        approvals: &mut Approvals,
    ) -> Result<(), OfflineError> {
        if signature.statement_hash != self.hash() {
            return Err(OfflineError::OtherStatement);
        }
        let key = signature.approval.key();
        let unknown = OfflineError::UnknownKey { key };
        let mut alone = Approvals::default();
        if !alone.add(signature.approval.clone()) {
            return Err(unknown);
        }
        if quorum.approvers(self.purpose, &self.statement, &alone)?.is_empty() {
            return Err(unknown);
        }
        if approvals.add(signature.approval) { Ok(()) } else { Err(unknown) }
    }

    fn hash(&self) -> [u8; 32] {
        blake3::derive_key("meshara 2026-11 offline statement v1", &self.statement)
    }

    /// Content of the file: a line that says what it is, a version byte, postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        Ok([STATEMENT_MAGIC, &wire::encode(self)?].concat())
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, OfflineError> {
        let body = bytes.strip_prefix(STATEMENT_MAGIC);
        let body = body.ok_or(OfflineError::NotThis { expected: "statement" })?;
        let file: Self = wire::decode(body, STATEMENT_FILE_MAX)?;
        file.statement()?;
        Ok(file)
    }
}

/// One signer's answer to a statement file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedSignature {
    statement_hash: [u8; 32],
    approval: Approval,
}

impl DetachedSignature {
    /// Whose key signed.
    pub fn key(&self) -> KeyId {
        self.approval.key()
    }

    /// Content of the file: a line that says what it is, a version byte, postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        Ok([SIGNATURE_MAGIC, &wire::encode(self)?].concat())
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, OfflineError> {
        let body = bytes.strip_prefix(SIGNATURE_MAGIC);
        let body = body.ok_or(OfflineError::NotThis { expected: "signature" })?;
        Ok(wire::decode(body, SIGNATURE_FILE_MAX)?)
    }
}
