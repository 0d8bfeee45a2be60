//! What a log says about the checkpoints that it signed: proofs under them, and cosignatures that it gathers for them.

use meshara_identity::UnixMillis;

use super::attest::InclusionProof;
use super::checkpoint::{Checkpoint, TreeHead};
use super::error::LogError;
use super::hash::Hash;
use super::history;
use super::note::Note;
use super::reader::Tiles;
use super::store::{CHECKPOINT, Log, lock};
use super::witness::WitnessPolicy;

impl Log {
    /// Proof that entry `index` is under `checkpoint`, one of this log's own.
    pub fn prove(&self, index: u64, checkpoint: &Note) -> Result<InclusionProof, LogError> {
        let size = self.own(checkpoint)?.size;
        let path = Tiles::new(&*self.files, size).inclusion(index)?;
        Ok(InclusionProof { index, path, checkpoint: checkpoint.encode() })
    }

    /// Proof, for witnesses and neighbours, that the log of `first` entries is the beginning of the one under `checkpoint`.
    pub fn prove_growth(&self, first: u64, checkpoint: &Note) -> Result<Vec<Hash>, LogError> {
        let size = self.own(checkpoint)?.size;
        Tiles::new(&*self.files, size).consistency(first)
    }

    /// Adds the witnesses' signature lines of `cosigned` to the stored checkpoint of that size, and gives the whole. Lines of others
    /// are left out.
    pub fn add_cosignatures(
        &self,
        cosigned: &Note,
        witnesses: &WitnessPolicy,
        now: UnixMillis,
    ) -> Result<Note, LogError> {
        let size = self.own(cosigned)?.size;
        witnesses.cosigned(cosigned, now)?;
        let lines = witnesses.lines(cosigned);
        let _alone = lock(&self.publishing);
        let known = self.checkpoint();
        if known.text() == cosigned.text() {
            let merged = history::cosign(&*self.files, CHECKPOINT, &known, &lines)?;
            lock(&self.published).note = merged.clone();
            return Ok(merged);
        }
        history::cosign_kept(&*self.files, size, cosigned, &lines)
    }

    /// Whether a note that this log signed, as others show it, is part of what is on disk. [`LogError::RolledBack`] when an old copy
    /// was restored: to be asked of every head that members know before the first append.
    pub fn check_signed(&self, note: &Note) -> Result<(), LogError> {
        self.own(note).map(|_| ())
    }

    /// The head of a checkpoint of this log, which must be part of its tree; a note that it didn't sign isn't.
    fn own(&self, note: &Note) -> Result<TreeHead, LogError> {
        let here = {
            let published = lock(&self.published);
            if published.note.text() == note.text() {
                return Ok(Checkpoint::parse(note.text()).map_err(|_| LogError::NotOurs)?.head);
            }
            published.edge.tree.size()
        };
        let Ok(Checkpoint { head, .. }) = self.key.public().verify(note) else {
            return Err(LogError::NotOurs);
        };
        let contained = head.size <= here && Tiles::new(&*self.files, head.size).root()? == head.root;
        if contained { Ok(head) } else { Err(LogError::RolledBack { signed: head.size, here }) }
    }
}
