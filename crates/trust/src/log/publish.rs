//! Publishing: what is durable in write-ahead files becomes tiles, and a signed checkpoint over them.

use std::sync::PoisonError;

use super::checkpoint::TreeHead;
use super::edge::remove_partial;
use super::error::LogError;
use super::files::Writer;
use super::history;
use super::note::Note;
use super::store::{CHECKPOINT, Log, Published, check_running, lock};
use super::wal::Segment;

/// What is to be published, and the write-ahead file that holds none of it.
struct Pending {
    entries: Vec<Vec<u8>>,
    segment: Segment,
}

impl Log {
    /// Moves what is durable into tiles and signs a checkpoint over it; the present one when nothing is new.
    ///
    /// Appends go on meanwhile, but for the moment in which the write-ahead file is changed.
    pub fn publish(&self) -> Result<Note, LogError> {
        let _alone = lock(&self.publishing);
        let result = self.publish_next();
        if let Err(error) = &result {
            // Tiles may be half written, and only opening the log again knows what to make of them.
            lock(&self.queue).stopped.get_or_insert_with(|| error.to_string());
            self.changed.notify_all();
        }
        result
    }

    fn publish_next(&self) -> Result<Note, LogError> {
        let Some(Pending { entries, segment }) = self.take_pending()? else { return Ok(self.checkpoint()) };
        let files = &*self.files;
        let mut writer = Writer::new(files);
        let Published { mut edge, note: last } = lock(&self.published).clone();
        let before = edge.partial();
        for entry in &entries {
            edge.push(&mut writer, entry)?;
        }
        let kept = edge.write_partial(&mut writer, &before)?;

        let head = TreeHead { size: edge.tree.size(), root: edge.tree.root() };
        let note = self.key.checkpoint(head)?;
        history::keep(&mut writer, files, &last, head.size)?;
        writer.replace(CHECKPOINT, note.encode().as_bytes())?;
        *lock(&self.published) = Published { edge, note: note.clone() };
        segment.remove_older(files)?;
        remove_partial(files, &before, &kept)?;
        Ok(note)
    }

    /// What is durable and unpublished, and the write-ahead file for what follows; `None` when nothing is new.
    fn take_pending(&self) -> Result<Option<Pending>, LogError> {
        let (segment, idle) = {
            let queue = lock(&self.queue);
            check_running(&queue)?;
            (queue.segment, queue.pending.is_empty() && !queue.flushing)
        };
        if idle {
            return Ok(None);
        }
        // Made before the lock is taken: appends need not wait for it. Only the publisher, of whom there is one, changes segments.
        let segment = segment.next(&*self.files, 0, &[])?;
        let mut queue = lock(&self.queue);
        queue.rotating = true;
        while queue.flushing {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.rotating = false;
        self.changed.notify_all();
        check_running(&queue)?;
        queue.segment = segment;
        let entries = std::mem::take(&mut queue.pending);
        // Nothing, when the one who was writing failed, or wrote nothing new: a checkpoint has one signature for each size.
        Ok(if entries.is_empty() { None } else { Some(Pending { entries, segment }) })
    }
}
