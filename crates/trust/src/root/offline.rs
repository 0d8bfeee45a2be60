//! Signing away from the network: a statement file goes to each signer, a signature file comes back.

use meshara_identity::grant::GrantStatement;
use meshara_identity::lives::LivesError;
use meshara_identity::root::Purpose;
use meshara_identity::root_document::{ROOT_MAX, RootDocument};
use meshara_identity::wire::{self, WireError};
use meshara_identity::{KeyError, MeshId, RootKey};
use serde::{Deserialize, Serialize};

use crate::policy::{Compiled, Policy, PolicyError};
use crate::revocation::{RevocationError, Revocations};
use crate::sets::{
    Approval, ApprovalError, Approvals, KeyId, Quorum, SetBody, SetHash, SetHead, SetKind, SignedSet,
};

/// What a statement file starts with, so that people and `file` know it.
const STATEMENT_MAGIC: &[u8] = b"MESHARA-STATEMENT\n";
/// What a signature file starts with.
const SIGNATURE_MAGIC: &[u8] = b"MESHARA-SIGNATURE\n";

/// Longest statement file: the largest set, a revocation snapshot of 8 MiB with its head.
pub const STATEMENT_FILE_MAX: usize = 8 * 1024 * 1024 + ROOT_MAX + 64;

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
    /// It holds revocations that can't be used.
    #[error("the file holds revocations that cannot be used: {0}")]
    Revocations(#[from] RevocationError),
    /// It holds a policy that can't be used.
    #[error("the file holds a policy that cannot be used: {0}")]
    Policy(#[from] PolicyError),
    /// It holds a grant whose certificates or enrolments would last longer, or shorter, than can be set.
    #[error("the file holds a grant that cannot be used: {0}")]
    Lives(#[from] LivesError),
    /// The signature is for another statement: another file, another mesh, or this one before it was altered.
    #[error("the signature is for another statement, or the statement was altered after it was signed")]
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

/// What is to be signed, whole: purpose, statement, and the body of a set whose head the statement is. So whoever signs sees what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementFile {
    purpose: Purpose,
    statement: Vec<u8>,
    /// Of a set; else empty.
    body: Vec<u8>,
}

/// What a statement file asks for, to show to the person who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement {
    /// A version of the root document.
    Root(Box<RootDocument>),
    /// A revocation snapshot.
    Revocations(SetHead, Box<Revocations>),
    /// A policy set.
    Policy(SetHead, Box<Policy>),
    /// A grant of an issuer, for several signers.
    Grant(Box<GrantStatement>),
}

impl Statement {
    /// The mesh that it is for.
    pub fn mesh(&self) -> MeshId {
        match self {
            Self::Root(document) => document.mesh,
            Self::Revocations(head, _) | Self::Policy(head, _) => head.mesh,
            // Those without an id aren't taken into a file.
            Self::Grant(grant) => grant.mesh_id.unwrap_or(MeshId([0; 32])),
        }
    }

    /// Its version or number.
    pub fn number(&self) -> u64 {
        match self {
            Self::Root(document) => document.version,
            Self::Revocations(head, _) | Self::Policy(head, _) => head.number,
            Self::Grant(grant) => grant.number,
        }
    }

    /// In a word: `root`, `revocations`, `policy` or `grant`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Root(_) => "root",
            Self::Revocations(..) => "revocations",
            Self::Policy(..) => "policy",
            Self::Grant(_) => "grant",
        }
    }

    /// The hash of the set before; `None` for a root document.
    pub(super) fn previous(&self) -> Option<SetHash> {
        match self {
            Self::Root(_) | Self::Grant(_) => None,
            Self::Revocations(head, _) | Self::Policy(head, _) => Some(head.previous),
        }
    }
}

impl StatementFile {
    /// A version of the root document.
    pub fn root(document: &RootDocument) -> Result<Self, WireError> {
        Ok(Self { purpose: Purpose::RootDocument, statement: document.encode()?, body: Vec::new() })
    }

    /// A grant of an issuer.
    pub fn grant(statement: &GrantStatement) -> Result<Self, WireError> {
        Ok(Self { purpose: Purpose::IssuerGrant, statement: statement.encode()?, body: Vec::new() })
    }

    /// A set.
    pub fn set(head: &SetHead, body: Vec<u8>) -> Result<Self, WireError> {
        Ok(Self { purpose: head.kind.purpose(), statement: head.encode()?, body })
    }

    /// What is signed about.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The body of a set; else empty.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// What it holds.
    ///
    /// # Errors
    /// [`OfflineError`]: something that this program can't read, or whose parts don't belong together.
    pub fn statement(&self) -> Result<Statement, OfflineError> {
        match self.purpose {
            Purpose::RootDocument if self.body.is_empty() => {
                Ok(Statement::Root(Box::new(RootDocument::decode(&self.statement)?)))
            }
            Purpose::IssuerGrant if self.body.is_empty() => {
                let grant = GrantStatement::proposed(&self.statement)?;
                // Nobody could have set them, so nobody asked for them: they would undo what short certificates are for.
                grant.lives.check()?;
                Ok(Statement::Grant(Box::new(grant)))
            }
            Purpose::Revocations => {
                let head = self.head(SetKind::Revocations)?;
                Ok(Statement::Revocations(head, Box::new(Revocations::decode(&self.body)?)))
            }
            Purpose::Policy => {
                let head = self.head(SetKind::Policy)?;
                Ok(Statement::Policy(head, Box::new(Compiled::decode(&self.body)?.policy().clone())))
            }
            _ => Err(OfflineError::WrongStatement),
        }
    }

    fn head(&self, kind: SetKind) -> Result<SetHead, OfflineError> {
        let head = SetHead::decode(&self.statement)?;
        let whole = SignedSet::belong(&head, &self.body);
        if head.kind == kind && whole { Ok(head) } else { Err(OfflineError::WrongStatement) }
    }

    /// Signs it, if it holds what it says.
    pub fn sign(&self, key: &RootKey) -> Result<DetachedSignature, OfflineError> {
        self.statement()?;
        let approval = Approval::sign(key, self.purpose, &self.statement)?;
        Ok(DetachedSignature { statement_hash: self.hash(), approval })
    }

    /// Takes a signature that came back into `approvals`, if a signer of one of `quorums` made it for this statement. One that was
    /// taken before, or another one by the same key, changes nothing but that.
    pub fn join(
        &self,
        signature: DetachedSignature,
        quorums: &[&Quorum],
        approvals: &mut Approvals,
    ) -> Result<(), OfflineError> {
        if signature.statement_hash != self.hash() {
            return Err(OfflineError::OtherStatement);
        }
        let key = signature.approval.key();
        let unknown = OfflineError::UnknownKey { key };
        let quorum = quorums.iter().find(|quorum| quorum.signer_of(&key).is_some());
        let quorum = quorum.ok_or_else(|| unknown.clone())?;
        let mut alone = Approvals::default();
        if !alone.add(signature.approval.clone()) {
            return Err(unknown);
        }
        quorum.approvers(self.purpose, &self.statement, &alone)?;
        if approvals.add(signature.approval) { Ok(()) } else { Err(unknown) }
    }

    /// The hash by which signatures name the statement.
    pub fn hash(&self) -> [u8; 32] {
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
