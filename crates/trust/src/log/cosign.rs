//! What a member does with a checkpoint before it believes that the log only grew: as a witness it says so, to others it passes it on.

use meshara_identity::{MeshName, NodeName, RoutingKey, UnixMillis};

use super::checkpoint::{Checkpoint, CheckpointError, LogPublic};
use super::fork::ForkEvidence;
use super::hash::Hash;
use super::note::{BadKeyName, KeyId, KeyName, Note, NoteSignature};
use super::proof::{MerkleError, verify_written_out};
use super::witness::{COSIGNATURE, message, witness_name};

/// Why a checkpoint isn't taken for one that continues another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrowthError {
    /// One of them isn't the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The path is no proof between these two checkpoints: ask for the right one.
    #[error("no proof that the log only grew: {0}")]
    Proof(MerkleError),
    /// It is older than what was seen. Nothing need be wrong with the log: turn the question round.
    #[error("a checkpoint of {found} entries, after one of {seen}")]
    Older {
        /// Entries in the checkpoint shown.
        found: u64,
        /// Entries in the one seen before.
        seen: u64,
    },
    /// The log shows two pasts.
    #[error("the log forked: two checkpoints of {} contradict each other", .0.origin())]
    Fork(Box<ForkEvidence>),
}

/// Verifies that the checkpoint `note` continues `last`, both of them the log's. `path` is a consistency path with its starting node
/// (see [`verify_written_out`]), empty between heads of one size. Two that contradict each other are evidence.
pub fn verify_growth(
    log: &LogPublic,
    last: &Note,
    note: &Note,
    path: &[Hash],
) -> Result<Checkpoint, GrowthError> {
    let checkpoint = log.verify(note)?;
    let (old, new) = (log.verify(last)?.head, checkpoint.head);
    if new.size < old.size {
        return Err(GrowthError::Older { found: new.size, seen: old.size });
    }
    match verify_written_out(old.size, &old.root, new.size, &new.root, path) {
        Ok(()) => Ok(checkpoint),
        Err(MerkleError::NotAPrefix) => {
            let evidence = ForkEvidence::new(log, last, note, path.to_vec());
            Err(evidence.map_or(GrowthError::Proof(MerkleError::NotAPrefix), |evidence| {
                GrowthError::Fork(Box::new(evidence))
            }))
        }
        Err(error) => Err(GrowthError::Proof(error)),
    }
}

/// A witness's key, with the name that stands in its signature lines.
#[derive(Debug)]
pub struct Cosigner<'a> {
    name: KeyName,
    key: &'a RoutingKey,
}

impl<'a> Cosigner<'a> {
    /// The member `name` of `mesh`.
    pub fn new(mesh: &MeshName, name: &NodeName, key: &'a RoutingKey) -> Result<Self, BadKeyName> {
        Ok(Self { name: witness_name(mesh, name)?, key })
    }

    /// Cosigns `note` when `path` shows that it continues `last`, the note that this witness cosigned last; `None` for a log that it
    /// meets for the first time. The witness stores `note` durably before it hands out the line.
    pub fn cosign(
        &self,
        log: &LogPublic,
        last: Option<&Note>,
        note: &Note,
        path: &[Hash],
        now: UnixMillis,
    ) -> Result<NoteSignature, GrowthError> {
        match last {
            Some(last) => verify_growth(log, last, note, path)?,
            None => log.verify(note)?,
        };
        let key = KeyId::of(&self.name, COSIGNATURE, &self.key.public_key());
        let seconds = now.seconds();
        let signature = self.key.sign(&message(seconds, note.text()));
        let bytes = [seconds.to_be_bytes().as_slice(), &signature].concat();
        Ok(NoteSignature { name: self.name.clone(), key, bytes })
    }
}

#[cfg(test)]
#[path = "cosign_tests.rs"]
mod tests;
