//! Heads that routing keys are proved under: checkpoints that a log's issuer names for it, one every few minutes.
//!
//! ```text
//! version u8 = 1 | Ed25519 signature of the log's key [64] | checkpoint as a signed note
//! ```
//! The signature covers [`CONTEXT`] and the note's text. It says that the issuer names this checkpoint: without it any member could spread each of
//! the two checkpoints that a log makes in a second, and so drive out those that proofs lead to.

use meshara_identity::UnixMillis;

use super::checkpoint::{CheckpointError, LogPublic, TreeHead};
use super::note::{KeyName, Note, NoteError};
use super::witness::{PolicyError, Witness, WitnessError, WitnessPolicy, one_of_each_key};

/// Version of the format, the first byte.
pub const VERSION: u8 = 1;

/// What is signed before the note's text; no checkpoint begins so.
pub const CONTEXT: &[u8] = b"meshara routing head v1\0";

/// Longest head: a checkpoint with the log's two signatures (4.9 KB) and the lines of [`WITNESS_LINES`] witnesses with the longest names.
pub const HEAD_MAX: usize = 8 * 1024;

/// Lines of witnesses that a head carries: as many as a log asks for.
pub const WITNESS_LINES: usize = 3;

/// Bytes before the note.
const FIXED: usize = 1 + 64;

/// Why a head doesn't count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoutingHeadError {
    /// Ends before its fields do.
    #[error("the routing head is truncated")]
    Truncated,
    /// Longer than [`HEAD_MAX`].
    #[error("a routing head has at most {HEAD_MAX} bytes")]
    TooLong,
    /// Another version.
    #[error("unknown version {0} of a routing head")]
    UnknownVersion(u8),
    /// More lines of witnesses than [`WITNESS_LINES`].
    #[error("a routing head has at most {WITNESS_LINES} lines of witnesses")]
    TooManyLines,
    /// The checkpoint isn't the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log's key didn't name it.
    #[error("the log did not name this checkpoint a routing head")]
    Unnamed,
    /// Another head than it is said to be.
    #[error("a head of {found} entries where one of {said} was said to be")]
    Size {
        /// What it was said to have.
        said: u64,
        /// What it has.
        found: u64,
    },
    /// No witness's line, or a wrong one.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// Two witnesses with one key.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A named checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingHead {
    /// The log's signature over it as a routing head.
    pub naming: [u8; 64],
    /// The checkpoint with its cosignatures.
    pub note: Note,
}

/// What a head says, and who it is known to be witnessed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedHead {
    /// The tree that it speaks of.
    pub tree: TreeHead,
    /// Distinct members that are known and cosigned it. With none it is the log's word alone: a newcomer, and who starts together with others, knows
    /// no witness before the records that are proved under heads.
    pub witnesses: usize,
}

/// What the signature covers.
pub(super) fn message(note: &Note) -> Vec<u8> {
    [CONTEXT, note.text().as_bytes()].concat()
}

impl RoutingHead {
    /// The bytes that are passed on.
    ///
    /// # Errors
    /// The note is too long.
    pub fn encode(&self) -> Result<Vec<u8>, RoutingHeadError> {
        let note = self.note.encode();
        if FIXED + note.len() > HEAD_MAX {
            return Err(RoutingHeadError::TooLong);
        }
        Ok([&[VERSION][..], &self.naming, note.as_bytes()].concat())
    }

    /// Reads [`encode`](Self::encode)'s form; nothing is verified.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RoutingHeadError> {
        if bytes.len() > HEAD_MAX {
            return Err(RoutingHeadError::TooLong);
        }
        let (&version, rest) = bytes.split_first().ok_or(RoutingHeadError::Truncated)?;
        if version != VERSION {
            return Err(RoutingHeadError::UnknownVersion(version));
        }
        let (naming, note) = rest.split_first_chunk::<64>().ok_or(RoutingHeadError::Truncated)?;
        let note = Note::parse(note).map_err(|error: NoteError| CheckpointError::Note(error))?;
        // The log's own are two.
        if note.signatures.len() > 2 + WITNESS_LINES {
            return Err(RoutingHeadError::TooManyLines);
        }
        Ok(Self { naming: *naming, note })
    }

    /// The names in the lines that aren't the log's.
    pub fn witness_names(&self, log: &LogPublic) -> impl Iterator<Item = &KeyName> {
        let own = log.origin().clone();
        self.note.signatures.iter().map(|line| &line.name).filter(move |name| **name != own)
    }

    /// The tree that it speaks of, `size` entries as it is said, when the log signed it with both keys and as a routing head, and it has lines of
    /// witnesses, of which those by `known` keys verify.
    ///
    /// # Errors
    /// Says why it doesn't count.
    pub fn verify(
        &self,
        log: &LogPublic,
        size: u64,
        known: Vec<Witness>,
        now: UnixMillis,
    ) -> Result<VerifiedHead, RoutingHeadError> {
        if self.witness_names(log).next().is_none() {
            return Err(WitnessError::TooFew { found: 0, needed: 1 }.into());
        }
        // Cheap before dear.
        if !log.verifies_ed25519(&message(&self.note), &self.naming) {
            return Err(RoutingHeadError::Unnamed);
        }
        let tree = log.verify(&self.note)?.head;
        if tree.size != size {
            return Err(RoutingHeadError::Size { said: size, found: tree.size });
        }
        let witnesses = WitnessPolicy::new(0, one_of_each_key(known))?.cosigned(&self.note, now)?.len();
        Ok(VerifiedHead { tree, witnesses })
    }
}

#[cfg(test)]
#[path = "routing_head_tests.rs"]
mod tests;
