//! What a member keeps of another's log: the newest checkpoint that it saw, evidence if the log forked, and a copy when it wants one.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshara_identity::UnixMillis;

use super::checkpoint::{CheckpointError, LogPublic, TreeHead};
use super::copying::Copying;
use super::cosign::{Cosigner, GrowthError, verify_growth};
use super::edge::{Edge, remove_partial};
use super::error::LogError;
use super::files::{Files, Writer, damaged, read};
use super::fork::{EVIDENCE_MAX, EvidenceError, ForkEvidence};
use super::hash::Hash;
use super::history;
use super::note::{Note, NoteSignature};
use super::open;
use super::proof::MerkleError;
use super::reader::Tiles;
use super::store::CHECKPOINT;

/// The newest checkpoint that was seen.
const SEEN: &str = "seen";

/// Evidence that the log forked.
const FORK: &str = "fork";

/// Why a checkpoint is not taken for the newest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeenError {
    /// It doesn't continue the one seen last.
    #[error(transparent)]
    Growth(#[from] GrowthError),
    /// It could not be kept.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log forked before: nothing that it says counts from then on.
    #[error("this log forked")]
    Forked,
}

/// Why a log was not copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// Files.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The checkpoint isn't the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Whoever has the log didn't give its entries.
    #[error("{0}")]
    Fetch(String),
    /// More entries than asked for, or none.
    #[error("{found} entries came where 1 to {wanted} are wanted")]
    Count {
        /// How many came.
        found: usize,
        /// How many are missing.
        wanted: u64,
    },
    /// The entries aren't those under the checkpoint.
    #[error("the entries that came don't lead to the root that was signed")]
    WrongRoot,
    /// Another copy ended meanwhile.
    #[error("another copy of this log was made meanwhile")]
    Overtaken,
}

/// One log of somebody else, in a directory of its own.
pub struct Mirror {
    files: Arc<dyn Files>,
    log: LogPublic,
    seen: Option<Note>,
    fork: Option<ForkEvidence>,
    edge: Edge,
    copied: Option<Note>,
}

impl Mirror {
    /// Opens what was kept; nothing in an empty directory.
    pub fn open(files: Box<dyn Files>, log: LogPublic) -> Result<Self, LogError> {
        let seen = present(history::note_at(&*files, SEEN))?;
        if let Some(seen) = &seen
            && log.verify(seen).is_err()
        {
            return Err(LogError::WrongKey { path: files.locate(SEEN) });
        }
        let fork = match present(read(&*files, FORK, EVIDENCE_MAX as u64))? {
            None => None,
            Some(bytes) => {
                let evidence = ForkEvidence::decode(&bytes).ok().filter(|it| it.verify(&log).is_ok());
                Some(evidence.ok_or_else(|| damaged(&*files, FORK, "not evidence of a fork"))?)
            }
        };
        let (copied, edge) = match present(open::published(&*files, &log))? {
            Some((note, edge)) => (Some(note), edge),
            None => (None, Edge::default()),
        };
        Ok(Self { files: files.into(), log, seen, fork, edge, copied })
    }

    /// Whose log it is.
    pub fn log(&self) -> &LogPublic {
        &self.log
    }

    /// The newest checkpoint seen.
    pub fn seen(&self) -> Option<&Note> {
        self.seen.as_ref()
    }

    /// Its head.
    pub fn head(&self) -> Option<TreeHead> {
        self.seen.as_ref().and_then(|note| self.log.verify(note).ok()).map(|checkpoint| checkpoint.head)
    }

    /// Evidence that the log forked, if anybody showed it.
    pub fn fork(&self) -> Option<&ForkEvidence> {
        self.fork.as_ref()
    }

    /// The files of the copy, for auditing and serving.
    pub fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Entries that are copied.
    pub fn copied(&self) -> u64 {
        self.edge.tree.size()
    }

    /// Takes `note` for the newest checkpoint when `path` shows that it continues the one seen last; it is durable then. Evidence of a fork
    /// is kept. A checkpoint of the same tree brings its cosignatures.
    pub fn follow(&mut self, note: &Note, path: &[Hash]) -> Result<(), SeenError> {
        if self.fork.is_some() {
            return Err(SeenError::Forked);
        }
        let result = match &self.seen {
            Some(seen) if seen.text() == note.text() => self.log.verify(note).map_err(GrowthError::from),
            Some(seen) => verify_growth(&self.log, seen, note, path),
            None => self.log.verify(note).map_err(GrowthError::from),
        };
        self.checked(result)?;
        Ok(self.keep(note)?)
    }

    /// As [`follow`](Self::follow), and the witness's line for it.
    pub fn cosign(
        &mut self,
        cosigner: &Cosigner<'_>,
        note: &Note,
        path: &[Hash],
        now: UnixMillis,
    ) -> Result<NoteSignature, SeenError> {
        if self.fork.is_some() {
            return Err(SeenError::Forked);
        }
        let result = cosigner.cosign(&self.log, self.seen.as_ref(), note, path, now);
        let line = self.checked(result)?;
        self.keep(note)?;
        Ok(line)
    }

    /// Keeps evidence that somebody shows, when it is some.
    pub fn accuse(&mut self, evidence: ForkEvidence) -> Result<(), EvidenceError> {
        evidence.verify(&self.log)?;
        self.keep_fork(evidence);
        Ok(())
    }

    fn checked<T>(&mut self, result: Result<T, GrowthError>) -> Result<T, SeenError> {
        if let Err(GrowthError::Fork(evidence)) = &result {
            self.keep_fork((**evidence).clone());
        }
        Ok(result?)
    }

    fn keep_fork(&mut self, evidence: ForkEvidence) {
        if self.fork.is_none() {
            // What can't be written is known until the node ends, and is found again.
            if let Ok(bytes) = evidence.encode() {
                let _ = Writer::new(&*self.files).replace(FORK, &bytes);
            }
            self.fork = Some(evidence);
        }
    }

    fn keep(&mut self, note: &Note) -> Result<(), LogError> {
        let merged = match &self.seen {
            Some(seen) if seen.text() == note.text() => history::merge(seen, &note.signatures),
            _ => note.clone(),
        };
        if self.seen.as_ref() != Some(&merged) {
            Writer::new(&*self.files).replace(SEEN, merged.encode().as_bytes())?;
            self.seen = Some(merged);
        }
        Ok(())
    }

    /// Begins to copy the log up to the checkpoint seen last; `None` when that is done, or none was seen. One copy at a time may be in the
    /// making, since both would write the same files.
    ///
    /// # Errors
    /// [`MirrorError::Log`], [`MirrorError::Checkpoint`].
    pub fn begin(&mut self) -> Result<Option<Copying>, MirrorError> {
        let Some(note) = self.seen.clone() else { return Ok(None) };
        let head = self.log.verify(&note)?.head;
        if self.copied.as_ref().is_some_and(|copied| copied.text() == note.text()) {
            if self.copied.as_ref() != Some(&note) {
                Writer::new(&*self.files).replace(CHECKPOINT, note.encode().as_bytes())?;
                self.copied = Some(note);
            }
            return Ok(None);
        }
        Ok(Some(Copying {
            files: self.files.clone(),
            note,
            head,
            before: self.copied(),
            edge: self.edge.clone(),
            unsynced: BTreeSet::new(),
        }))
    }

    /// Ends a copy that has all its entries.
    ///
    /// Nothing of a copy that doesn't lead to the signed root is ever used: the checkpoint comes last.
    ///
    /// # Errors
    /// [`MirrorError`]; the copy before is still the one in use.
    pub fn finish(&mut self, copying: Copying) -> Result<(), MirrorError> {
        let Copying { files: _, note, head, before: size, edge, unsynced } = copying;
        if size != self.copied() {
            return Err(MirrorError::Overtaken);
        }
        if edge.tree.size() != head.size || edge.tree.root() != head.root {
            return Err(MirrorError::WrongRoot);
        }
        let before = self.edge.partial();
        let mut writer = Writer::resume(&*self.files, unsynced);
        let kept = edge.write_partial(&mut writer, &before)?;
        if let Some(copied) = &self.copied {
            history::keep(&mut writer, &*self.files, copied, head.size)?;
        }
        writer.replace(CHECKPOINT, note.encode().as_bytes())?;
        remove_partial(&*self.files, &before, &kept)?;
        (self.edge, self.copied) = (edge, Some(note));
        Ok(())
    }

    /// The consistency path between two sizes that are copied.
    pub fn path(&self, first: u64, second: u64) -> Result<Vec<Hash>, LogError> {
        let size = self.copied();
        if second > size {
            return Err(LogError::OutOfRange { index: second, size });
        }
        Tiles::new(&*self.files, second).consistency(first)
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mirror({}, {} entries)", self.log.origin(), self.copied())
    }
}

impl SeenError {
    /// Whether another path would have served: the one who asks took another checkpoint for the one seen last.
    pub fn wants_another_path(&self) -> bool {
        matches!(
            self,
            Self::Growth(
                GrowthError::Proof(
                    MerkleError::Length { .. } | MerkleError::WrongRoot | MerkleError::OutOfRange { .. }
                ) | GrowthError::Older { .. }
            )
        )
    }
}

/// `None` for what isn't there.
fn present<T>(result: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match result {
        Err(LogError::Missing { .. }) => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
