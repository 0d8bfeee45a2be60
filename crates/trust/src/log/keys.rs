//! Which keys the log of an issuer has: the issuer says so with its CA key, so that whoever trusts its grant can verify its log.

use meshara_identity::keys::{MlDsaSignature, verify_ml_dsa};
use meshara_identity::wire::{self, WireError};
use meshara_identity::{NodeId, TrustAnchors};
use serde::{Deserialize, Serialize};

use super::checkpoint::{LogKey, LogPublic};

/// Longest statement: two public keys (2 KB), a signature (3.3 KB), a name.
pub const STATEMENT_MAX: usize = 8 * 1024;

/// What the CA key signs begins so; a certificate begins otherwise.
pub const STATEMENT_DOMAIN: &[u8] = b"meshara log keys v1\0";

/// Why a statement doesn't count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// Not this encoding.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// No issuer of this mesh has a log of this name, or its CA key didn't sign the statement.
    #[error("no issuer of this mesh signed for the keys of {0}")]
    NotIssuers(String),
}

/// An issuer's word that these are the keys of its log.
///
/// An issuer has one log and says this once: two statements of one issuer with other keys contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatement {
    public: LogPublic,
    signature: MlDsaSignature,
}

impl LogStatement {
    /// What the CA key signs, behind [`STATEMENT_DOMAIN`].
    pub fn content(public: &LogPublic) -> Result<Vec<u8>, WireError> {
        wire::encode(public)
    }

    /// With the CA key's signature over [`content`](Self::content).
    pub fn new(public: LogPublic, signature: MlDsaSignature) -> Self {
        Self { public, signature }
    }

    /// The issuer, and its log's keys, when the CA key of one of its grants signed them.
    pub fn verify(&self, anchors: &TrustAnchors) -> Result<(NodeId, &LogPublic), StatementError> {
        let refused = || StatementError::NotIssuers(self.public.origin().to_string());
        let message = [STATEMENT_DOMAIN, &Self::content(&self.public)?].concat();
        let signed = anchors.grants().iter().find(|grant| {
            let issuer = &grant.statement.issuer;
            let own = LogKey::origin_of(anchors.mesh(), issuer).is_ok_and(|own| own == *self.public.origin());
            own && grant.ca_public().is_some_and(|ca| verify_ml_dsa(&ca, &message, &self.signature).is_ok())
        });
        signed.map(|grant| (grant.statement.issuer, &self.public)).ok_or_else(refused)
    }

    /// The keys; [`verify`](Self::verify) tells whether they count.
    pub fn public(&self) -> &LogPublic {
        &self.public
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, STATEMENT_MAX)
    }
}
