//! A copy of somebody's log in the making: entries come piece by piece, and count once they lead to the root that was signed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::checkpoint::TreeHead;
use super::edge::Edge;
use super::files::{Files, Writer};
use super::mirror::MirrorError;
use super::note::Note;

/// What [`Mirror::begin`](super::Mirror::begin) begins and [`Mirror::finish`](super::Mirror::finish) ends. It needs no mirror in between, so
/// that nobody waits for the network.
pub struct Copying {
    pub(super) files: Arc<dyn Files>,
    /// The checkpoint that the copy is to lead to.
    pub(super) note: Note,
    pub(super) head: TreeHead,
    /// Entries that were copied before.
    pub(super) before: u64,
    pub(super) edge: Edge,
    pub(super) unsynced: BTreeSet<String>,
}

impl Copying {
    /// The first entry that is missing, and the size of the log whose entries are wanted; `None` when all are there.
    pub fn wants(&self) -> Option<(u64, u64)> {
        let first = self.edge.tree.size();
        (first < self.head.size).then_some((first, self.head.size))
    }

    /// Takes entries from the first on that is missing. Writes files.
    ///
    /// # Errors
    /// [`MirrorError::Count`], [`MirrorError::Log`]; this copy is of no use then.
    pub fn take(&mut self, entries: &[Vec<u8>]) -> Result<(), MirrorError> {
        let wanted = self.head.size.saturating_sub(self.edge.tree.size());
        if entries.is_empty() || entries.len() as u64 > wanted {
            return Err(MirrorError::Count { found: entries.len(), wanted });
        }
        let mut writer = Writer::resume(&*self.files, std::mem::take(&mut self.unsynced));
        for entry in entries {
            self.edge.push(&mut writer, entry)?;
        }
        self.unsynced = writer.unsynced();
        Ok(())
    }
}

impl fmt::Debug for Copying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Copying({} of {} entries)", self.edge.tree.size(), self.head.size)
    }
}
