//! What travels with a certificate: first the issuer's promise that it is in the log, which counts for seconds, then the proof.

use std::time::Duration;

use meshara_identity::wire::{self, WireError};
use meshara_identity::{KeyError, UnixMillis};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointError, LogKey, LogPublic, LogSignature};
use super::entry::{Certificate, Entry, EntryError};
use super::hash::Hash;
use super::note::{NOTE_MAX, Note, NoteError};
use super::proof::{MerkleError, PATH_MAX, verify_inclusion};
use super::witness::{WitnessError, WitnessPolicy};

/// How long a promise counts. The proof is there after a second; ten allow for witnesses that are slow.
pub const PROMISE_LIFE: Duration = Duration::from_secs(10);

/// Longest promise: two signatures (3.4 KB) and a hundred bytes.
pub const PROMISE_MAX: usize = 4096;

/// Longest proof: a note and a path.
pub const PROOF_MAX: usize = NOTE_MAX + 4096;

/// Why a promise or proof doesn't make a certificate count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The certificate can't be an entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The promise is for another entry.
    #[error("the promise is for another certificate")]
    OtherEntry,
    /// The promise is of another log, or its signatures don't verify.
    #[error("the promise isn't signed by the issuer's log")]
    BadPromise,
    /// The promise no longer counts.
    #[error("the promise of {at} counted for 10 s: the proof is due (now {now})")]
    PromiseOver {
        /// When it was made.
        at: UnixMillis,
        /// The verifier's clock.
        now: UnixMillis,
    },
    /// The promise is from a time to come.
    #[error(
        "the promise is from {at}, ahead of this machine's clock ({now}): set the clock that is wrong, or wait for the proof"
    )]
    Future {
        /// When it was made.
        at: UnixMillis,
        /// The verifier's clock.
        now: UnixMillis,
    },
    /// The checkpoint isn't the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The entry isn't in the tree.
    #[error("the certificate isn't in the log: {0}")]
    Inclusion(#[from] MerkleError),
    /// Too few witnesses.
    #[error(transparent)]
    Witness(#[from] WitnessError),
}

/// What a promise says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PromiseBody {
    origin: String,
    index: u64,
    leaf: Hash,
    at: UnixMillis,
}

/// The log's word that an entry is durable at an index and will be in every tree that is larger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    body: PromiseBody,
    signature: LogSignature,
}

/// What both keys sign; no checkpoint begins so.
fn message(body: &PromiseBody) -> Result<Vec<u8>, WireError> {
    wire::append(b"meshara log promise v1\0".to_vec(), body)
}

impl Promise {
    /// Signs for an entry that is durable.
    pub(super) fn sign(key: &LogKey, index: u64, leaf: Hash, at: UnixMillis) -> Result<Self, KeyError> {
        let body = PromiseBody { origin: key.public().origin().to_string(), index, leaf, at };
        let message = message(&body).map_err(|_| KeyError::Signing)?;
        Ok(Self { signature: key.sign(&message)?, body })
    }

    /// The entry's place in the log.
    pub fn index(&self) -> u64 {
        self.body.index
    }

    /// The entry's hash.
    pub fn leaf(&self) -> Hash {
        self.body.leaf
    }

    /// When it was made.
    pub fn at(&self) -> UnixMillis {
        self.body.at
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, PROMISE_MAX)
    }

    /// Whether the log made it.
    fn is_signed_by(&self, log: &LogPublic) -> bool {
        self.body.origin == log.origin().as_str()
            && message(&self.body).is_ok_and(|message| log.verifies(&message, &self.signature))
    }
}

/// An entry's inclusion path and the checkpoint that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InclusionProof {
    /// The entry's place in the log.
    pub index: u64,
    /// Path to the checkpoint's root.
    pub path: Vec<Hash>,
    /// The checkpoint as a signed note, with cosignatures.
    pub checkpoint: String,
}

impl InclusionProof {
    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let proof: Self = wire::decode(bytes, PROOF_MAX)?;
        let fits = proof.path.len() <= PATH_MAX && proof.checkpoint.len() <= NOTE_MAX;
        if fits { Ok(proof) } else { Err(WireError::Malformed) }
    }
}

/// Whether the log promised this certificate less than [`PROMISE_LIFE`] ago.
///
/// A verifier whose clock is further off than that refuses every promise, and waits a second for the proof.
pub fn verify_certificate_promise(
    log: &LogPublic,
    certificate: &Certificate,
    promise: &Promise,
    now: UnixMillis,
) -> Result<(), AttestError> {
    let entry = Entry::Certificate(certificate.clone()).encode()?;
    if Hash::leaf(&entry) != promise.leaf() {
        return Err(AttestError::OtherEntry);
    }
    let at = promise.at();
    if now > at.plus(PROMISE_LIFE) {
        return Err(AttestError::PromiseOver { at, now });
    }
    if at > now.plus(PROMISE_LIFE) {
        return Err(AttestError::Future { at, now });
    }
    if promise.is_signed_by(log) { Ok(()) } else { Err(AttestError::BadPromise) }
}

/// Whether this certificate is in the log under a checkpoint that enough witnesses cosigned; gives that checkpoint.
///
/// The certificate's own dates and signature are for whoever verifies the certificate.
pub fn verify_certificate_proof(
    log: &LogPublic,
    certificate: &Certificate,
    proof: &InclusionProof,
    witnesses: &WitnessPolicy,
    now: UnixMillis,
) -> Result<Checkpoint, AttestError> {
    let entry = Entry::Certificate(certificate.clone()).encode()?;
    let note =
        Note::parse(proof.checkpoint.as_bytes()).map_err(|error: NoteError| CheckpointError::Note(error))?;
    // Paths are cheap and signatures dear: what is plainly wrong is refused first.
    let head = Checkpoint::parse(note.text())?.head;
    verify_inclusion(&Hash::leaf(&entry), proof.index, head.size, &proof.path, &head.root)?;
    let checkpoint = log.verify(&note)?;
    witnesses.require(&note, now)?;
    Ok(checkpoint)
}

#[cfg(test)]
#[path = "attest_tests.rs"]
mod tests;
