//! What a node asks an issuer for over their session, and what comes back: one frame each way. The session proves who asks.

use meshara_identity::{MeshId, NodeId, WireError, wire as encoding};
use serde::{Deserialize, Serialize};

use crate::id::{EntryName, WorkloadId};
use crate::keys::{P256Public, P256Signature};
use crate::roots::{ROOTS_BYTES_MAX, SignedRoots};

/// Longest encoded request: [`AUDIENCES_MAX`] audiences of [`AUDIENCE_MAX`] bytes, with room.
pub const REQUEST_MAX: usize = 16 * 1024;
/// Longest encoded reply: a statement, and a certificate or token that is shorter.
pub const REPLY_MAX: usize = ROOTS_BYTES_MAX + 16 * 1024;
/// Most audiences of one token; one is usual.
pub const AUDIENCES_MAX: usize = 16;
/// Longest audience: an URL.
pub const AUDIENCE_MAX: usize = 512;

/// What a node wants of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Only the roots.
    Roots,
    /// An X.509-SVID of one of its workloads.
    X509 {
        /// Which; `None` for the node's own programs.
        entry: Option<EntryName>,
        /// Key of the SVID, made on the asking node.
        key: P256Public,
        /// Made with that key over [`possession`].
        proof: P256Signature,
    },
    /// A JWT-SVID of one of its workloads.
    Jwt {
        /// Which; `None` for the node's own programs.
        entry: Option<EntryName>,
        /// Whom it is for.
        audience: Vec<String>,
    },
}

/// What an issuer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its roots, always.
    pub roots: SignedRoots,
    /// What was asked for.
    pub answer: Answer,
}

/// The answer proper.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing else was asked for.
    Roots,
    /// A leaf certificate, DER, under one of the roots.
    X509(Vec<u8>),
    /// A token.
    Jwt(String),
    /// Nothing is issued.
    Refused(Refusal),
}

/// Why an issuer issued nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The proof is not of the key.
    #[error("the proof of possession does not verify")]
    BadProof,
    /// No audience, too many, or too long ones.
    #[error("a token needs 1 to 16 audiences of at most 512 bytes")]
    BadAudience,
    /// The issuer failed.
    #[error("the issuer failed; its log says why")]
    Internal,
}

impl std::fmt::Debug for Answer {
    /// Without the token: who has it is who it names.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Roots => f.write_str("Roots"),
            Self::X509(der) => write!(f, "X509({} bytes)", der.len()),
            Self::Jwt(_) => f.write_str("Jwt(secret)"),
            Self::Refused(refusal) => write!(f, "Refused({refusal:?})"),
        }
    }
}

/// What the key of a requested SVID signs: nobody gets a certificate for a key that isn't theirs.
pub fn possession(mesh: &MeshId, node: &NodeId, id: &WorkloadId, key: &P256Public) -> Vec<u8> {
    let mut message = b"meshara workload key v1\0".to_vec();
    message.extend_from_slice(&mesh.0);
    message.extend_from_slice(&node.0);
    message.extend_from_slice(key.as_ref());
    message.extend_from_slice(id.to_string().as_bytes());
    message
}

/// Whether a token may be made for these.
pub fn is_audience(audience: &[String]) -> bool {
    (1..=AUDIENCES_MAX).contains(&audience.len())
        && audience.iter().all(|one| (1..=AUDIENCE_MAX).contains(&one.len()))
}

impl Request {
    /// Version byte and postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encoding::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form, at most [`REQUEST_MAX`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        encoding::decode(bytes, REQUEST_MAX)
    }
}

impl Reply {
    /// Version byte and postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encoding::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form, at most [`REPLY_MAX`] bytes. The content is checked where it is used.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        encoding::decode(bytes, REPLY_MAX)
    }
}
