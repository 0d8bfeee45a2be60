//! Opening a log: the newest checkpoint, the growing edge that leads to it, and what the write-ahead files hold beyond.

use super::checkpoint::{CheckpointError, LogPublic, TreeHead};
use super::edge::Edge;
use super::error::LogError;
use super::files::{Files, damaged};
use super::hash::{Hash, root_of};
use super::history;
use super::note::Note;
use super::reader::{bundle_at, hashes_at};
use super::store::CHECKPOINT;
use super::tile::{Row, TileId, WIDTH, bundle_entries};
use super::tree::{Tree, partial_tiles};
use super::wal::{self, Segment};

/// A log as it was found.
pub(super) struct Opened {
    pub(super) edge: Edge,
    pub(super) note: Note,
    /// Durable entries that aren't in tiles.
    pub(super) pending: Vec<Vec<u8>>,
    /// The only write-ahead file, holding `pending`.
    pub(super) segment: Segment,
}

pub(super) fn open(files: &dyn Files, log: &LogPublic) -> Result<Opened, LogError> {
    let (note, edge) = published(files, log)?;
    let size = edge.tree.size();
    let (pending, last) = wal::recover(files, size)?;
    // What was found is written again and synced: after a failed write nobody knows what of it the disk really has.
    let segment = last.next(files, size, &pending)?;
    segment.remove_older(files)?;
    Ok(Opened { edge, note, pending, segment })
}

/// The newest checkpoint, and the growing edge that leads to it.
pub(super) fn published(files: &dyn Files, log: &LogPublic) -> Result<(Note, Edge), LogError> {
    let (note, head) = newest(files, log)?;
    let edge: Vec<Vec<Hash>> = partial_tiles(head.size)
        .map(|(tile, width)| match tile.row {
            Row::Hashes(level) if width > 0 => hashes_at(files, level, tile.index, width),
            _ => Ok(Vec::new()),
        })
        .collect::<Result<_, _>>()?;
    let (bundle, leaves) = partial_bundle(files, head.size)?;
    let tree = Tree::from_edge(head.size, edge.clone()).filter(|tree| tree.root() == head.root);
    let Some(tree) = tree else { return Err(find_damage(files, head, edge, leaves)) };
    if edge.first().is_some_and(|row| *row != leaves) {
        let tile = partial_tile(head.size, Row::Entries);
        return Err(damaged(files, &tile.to_string(), "its entries don't have the hashes that were signed"));
    }
    Ok((note, Edge { tree, bundle }))
}

/// The newest checkpoint, verified.
pub(super) fn newest(files: &dyn Files, log: &LogPublic) -> Result<(Note, TreeHead), LogError> {
    let note = history::note_at(files, CHECKPOINT)?;
    match log.verify(&note) {
        Ok(checkpoint) => Ok((note, checkpoint.head)),
        Err(CheckpointError::Unsigned(_) | CheckpointError::Origin { .. }) => {
            Err(LogError::WrongKey { path: files.locate(CHECKPOINT) })
        }
        Err(CheckpointError::BadSignature(_)) => Err(damaged(files, CHECKPOINT, "signature")),
        Err(_) => Err(damaged(files, CHECKPOINT, "not a checkpoint")),
    }
}

/// Bytes of the partial bundle, and the hashes of its entries.
fn partial_bundle(files: &dyn Files, size: u64) -> Result<(Vec<u8>, Vec<Hash>), LogError> {
    let tile = partial_tile(size, Row::Entries);
    if tile.width == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let (path, bytes) = bundle_at(files, tile.index, tile.width)?;
    let entries = bundle_entries(&bytes).ok_or_else(|| damaged(files, &path, "not a bundle"))?;
    let entries =
        entries.get(..usize::from(tile.width)).ok_or_else(|| damaged(files, &path, "too few entries"))?;
    let length = entries.iter().map(|entry| entry.len() + 2).sum();
    let leaves = entries.iter().map(|entry| Hash::leaf(entry)).collect();
    Ok((bytes.get(..length).unwrap_or_default().to_vec(), leaves))
}

fn partial_tile(size: u64, row: Row) -> TileId {
    let (index, width) = (size / u64::from(WIDTH), (size % u64::from(WIDTH)) as u16);
    TileId { row, index, width }
}

/// Which tile of the edge keeps it from leading to the signed root: the one that, made anew from what is below it, mends it.
fn find_damage(files: &dyn Files, head: TreeHead, edge: Vec<Vec<Hash>>, leaves: Vec<Hash>) -> LogError {
    let what = "its hashes don't lead to the root that was signed";
    for (at, (tile, width)) in partial_tiles(head.size).enumerate() {
        let Row::Hashes(level) = tile.row else { continue };
        let below = |place: u16| {
            let index = tile.index * u64::from(WIDTH) + u64::from(place);
            hashes_at(files, level.saturating_sub(1), index, WIDTH).map(|hashes| root_of(&hashes))
        };
        let anew = if level == 0 { Ok(leaves.clone()) } else { (0..width).map(below).collect() };
        let Ok(anew) = anew else { continue };
        let mut mended = edge.clone();
        if let Some(row) = mended.get_mut(at) {
            *row = anew;
        }
        if Tree::from_edge(head.size, mended).is_some_and(|tree| tree.root() == head.root) {
            return damaged(files, &tile.to_string(), what);
        }
    }
    damaged(files, "tile", "more than one file of the growing edge doesn't lead to the root that was signed")
}
