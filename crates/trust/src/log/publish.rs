//! Publishing: what is durable in write-ahead files becomes tiles, and a signed checkpoint over them.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::checkpoint::TreeHead;
use super::error::LogError;
use super::files::{Files, Writer, failed};
use super::hash::Hash;
use super::history;
use super::note::Note;
use super::store::{CHECKPOINT, Log, Published, check_running, lock};
use super::tile::{Row, TileId, WIDTH, append_to_bundle, tile_bytes};
use super::tree::Tree;
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
        let published = lock(&self.published).clone();
        let (mut tree, mut bundle) = (published.tree.clone(), published.bundle);
        let mut full = Vec::new();
        for entry in &entries {
            append_to_bundle(&mut bundle, entry)?;
            tree.push(Hash::leaf(entry), &mut full);
            if tree.size() % u64::from(WIDTH) == 0 {
                let tile = TileId::full(Row::Entries, tree.size() / u64::from(WIDTH) - 1);
                writer.create(&tile.to_string(), &bundle)?;
                bundle.clear();
            }
            for tile in full.drain(..) {
                let path = TileId::full(Row::Hashes(tile.level), tile.index).to_string();
                writer.create(&path, &tile_bytes(&tile.hashes))?;
            }
        }
        let before: BTreeSet<TileId> = partial(&published.tree).map(|(tile, _)| tile).collect();
        let mut kept = BTreeSet::new();
        for (tile, hashes) in partial(&tree) {
            if !before.contains(&tile) {
                let bytes = if tile.row == Row::Entries { bundle.clone() } else { tile_bytes(hashes) };
                writer.create(&tile.to_string(), &bytes)?;
            }
            kept.insert(tile);
        }
        writer.sync()?;

        let head = TreeHead { size: tree.size(), root: tree.root() };
        let note = self.key.checkpoint(head)?;
        history::keep(&mut writer, files, &published.note, head.size)?;
        writer.replace(CHECKPOINT, note.encode().as_bytes())?;
        *lock(&self.published) = Published { tree, bundle, note: note.clone() };
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

/// The partial tiles and the partial bundle of a tree; the bundle's hashes are those of its entries.
fn partial(tree: &Tree) -> impl Iterator<Item = (TileId, &[Hash])> {
    let bundle = tree.edge().take(1).map(|(tile, hashes)| (TileId { row: Row::Entries, ..tile }, hashes));
    tree.edge().chain(bundle).filter(|(_, hashes)| !hashes.is_empty())
}

/// Removes partial tiles that wider or full ones took the place of.
fn remove_partial(
    files: &dyn Files,
    before: &BTreeSet<TileId>,
    kept: &BTreeSet<TileId>,
) -> Result<(), LogError> {
    let writer = Writer::new(files);
    for tile in before.union(kept) {
        let directory = tile.partial_directory();
        let names = files.list(&directory).map_err(|error| failed(files, &directory, "list", &error))?;
        let mut empty = true;
        for name in names {
            let path = format!("{directory}/{name}");
            if kept.iter().any(|tile| tile.to_string() == path) {
                empty = false;
            } else {
                writer.remove(&path)?;
            }
        }
        if empty {
            writer.remove_directory(&directory)?;
        }
    }
    Ok(())
}
