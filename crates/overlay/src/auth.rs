//! What the core asks of cryptography. The driver answers with certificates and Ed25519, the twin with a keyed hash.

use std::time::Duration;

use meshara_identity::{MeshAddress, NodeId};

use crate::heads::{HeadId, Known};
use crate::record::{Record, RecordError};

/// Length of a record's signature: Ed25519's (RFC 8032).
pub const SIGNATURE_LEN: usize = 64;

/// A verified member of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in the mesh.
    pub name: String,
    /// The Ed25519 key that its certificate delegates routing records to.
    pub routing_key: [u8; 32],
    /// How much longer its certificate is valid.
    pub expires_in: Duration,
    /// Whether its record is a proof under a head of its issuer's log, in place of the certificate.
    pub proved: bool,
}

/// Why a member record proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// Not a certificate of this format.
    #[error("the member record is malformed")]
    Malformed,
    /// Not signed by this mesh's root or an issuer of it.
    #[error("the member record is not signed by this mesh")]
    Untrusted,
    /// Signed by an issuer that is not known here.
    #[error("the member record's issuer is not known")]
    UnknownIssuer,
    /// Names another node than the record's origin.
    #[error("the member record names another node")]
    WrongNode,
    /// Its time has ended or not begun by our clock.
    #[error("the member record is outside its time")]
    OutsideTime,
    /// The mesh revoked it.
    #[error("the member record is revoked")]
    Revoked,
    /// Its name is another node's.
    #[error("the member record has another node's name")]
    NameHeld,
    /// It is proved under a head that is not held here. All else that can be checked without it is right.
    #[error("the member record is proved under a head of {} entries that is not held here", .head.size)]
    UnknownHead {
        /// Which one.
        head: HeadId,
        /// The key that it would prove.
        routing_key: [u8; 32],
    },
    /// It does not lead to the head that it names, as it is known here.
    #[error("the member record's proof doesn't lead to the head that it names")]
    Unproved,
    /// The log that it leads to contradicts itself.
    #[error("the log that the member record leads to forked")]
    ForkedLog,
}

/// Why a head of an issuer's log is not taken. No neighbour is blamed: it may know other grants, witnesses, or statements of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Not a head of this format, or too long.
    #[error("the head is malformed")]
    Malformed,
    /// Nobody who issues here has this log, or it was revoked, or its log forked.
    #[error("the head is of no log that counts here")]
    UnknownLog,
    /// The issuer's statement of its log's keys is not here yet.
    #[error("the keys of the head's log are not known yet")]
    LacksKeys,
    /// Not signed by that log, or not named as such a head by it.
    #[error("the head is not signed by its log")]
    Untrusted,
    /// It has no line of a witness, or a wrong one of a witness that is known here.
    #[error("the head has no line of a witness, or a wrong one")]
    Unwitnessed,
    /// Its issuer named many just now.
    #[error("the issuer names heads too often")]
    TooOften,
    /// Older than all that are kept.
    #[error("newer heads fill the places")]
    NoRoom,
}

impl MemberError {
    /// Whether an honest peer may forward such a record: it may see another time, know another issuer, not know a revocation yet, have met
    /// the other node of that name first, hold other heads, or another head of a log that shows two.
    #[must_use]
    pub const fn excusable(self) -> bool {
        matches!(
            self,
            Self::OutsideTime
                | Self::Revoked
                | Self::UnknownIssuer
                | Self::NameHeld
                | Self::UnknownHead { .. }
                | Self::Unproved
                | Self::ForkedLog
        )
    }
}

/// A head that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedHead {
    /// What proofs under it lead to.
    pub root: [u8; 32],
    /// Who witnessed it as its lines say, by name, where none of these is known here: it is judged again when one is. Empty when a known member
    /// did, and for a statement, which has no witness.
    pub unknown: Vec<String>,
}

impl JudgedHead {
    /// A statement of keys: nothing is proved under it.
    #[must_use]
    pub const fn statement() -> Self {
        Self { root: [0; 32], unknown: Vec::new() }
    }
}

/// Signs our records and checks those of others.
pub trait Authenticator {
    /// Signs with our routing key.
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN];

    /// Whether `signature` over `message` was made by the holder of `routing_key`.
    fn verify(&self, routing_key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool;

    /// Reads a record and checks its form. Who runs many nodes in one process may give all of them the same copy.
    ///
    /// # Errors
    /// As [`Record::decode`].
    fn read(&self, bytes: &[u8]) -> Result<Record, RecordError> {
        Record::decode(bytes)
    }

    /// Whether a record was signed by the holder of `routing_key`.
    fn verify_record(&self, routing_key: &[u8; 32], record: &Record) -> bool {
        let (message, signature) = record.signed();
        self.verify(routing_key, &message, &signature)
    }

    /// Checks the body of a member record: that it is a certificate of this mesh for `origin`, or the proof of one under a head that is held.
    ///
    /// # Errors
    /// Says why the record proves nothing.
    fn member(&self, origin: &NodeId, body: &[u8], known: &Known<'_>) -> Result<Member, MemberError>;

    /// Whether a head could count: its issuer has a grant.
    fn wants_head(&self, _: &HeadId) -> bool {
        false
    }

    /// Checks a head, or an issuer's statement of its log's keys (size 0).
    ///
    /// # Errors
    /// Says why it doesn't count.
    fn head(&self, _: &HeadId, _: &[u8], _: &Known<'_>) -> Result<JudgedHead, HeadError> {
        Err(HeadError::UnknownLog)
    }

    /// Whether the mesh revoked a node: no link with it is kept.
    fn revoked(&self, _: &NodeId) -> bool {
        false
    }

    /// The mesh address of a node in this mesh.
    fn address(&self, node: &NodeId) -> MeshAddress;
}
