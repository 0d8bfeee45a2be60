//! The growing edge of a log on disk: an entry goes in, and tiles and bundles that it filled are written.

use std::collections::BTreeSet;

use super::error::LogError;
use super::files::{Files, Writer, failed};
use super::hash::Hash;
use super::tile::{Row, TileId, WIDTH, append_to_bundle, tile_bytes};
use super::tree::{FullTile, Tree};

/// Tree and partial bundle of a log.
#[derive(Clone, Default)]
pub(super) struct Edge {
    pub(super) tree: Tree,
    /// Entries of the partial bundle.
    pub(super) bundle: Vec<u8>,
}

impl Edge {
    /// Appends an entry. What it filled is written and, as all that the writer writes, not synced yet.
    pub(super) fn push(&mut self, writer: &mut Writer<'_>, entry: &[u8]) -> Result<(), LogError> {
        append_to_bundle(&mut self.bundle, entry)?;
        let mut full: Vec<FullTile> = Vec::new();
        self.tree.push(Hash::leaf(entry), &mut full);
        if self.tree.size().is_multiple_of(u64::from(WIDTH)) {
            let tile = TileId::full(Row::Entries, self.tree.size() / u64::from(WIDTH) - 1);
            writer.create(&tile.to_string(), &self.bundle)?;
            self.bundle.clear();
        }
        for tile in full {
            let path = TileId::full(Row::Hashes(tile.level), tile.index).to_string();
            writer.create(&path, &tile_bytes(&tile.hashes))?;
        }
        Ok(())
    }

    /// Writes the partial tiles and the partial bundle that `before` didn't have, and syncs. All that there are now.
    pub(super) fn write_partial(
        &self,
        writer: &mut Writer<'_>,
        before: &BTreeSet<TileId>,
    ) -> Result<BTreeSet<TileId>, LogError> {
        let mut kept = BTreeSet::new();
        for (tile, hashes) in partial(&self.tree) {
            if !before.contains(&tile) {
                let bytes = if tile.row == Row::Entries { self.bundle.clone() } else { tile_bytes(hashes) };
                writer.create(&tile.to_string(), &bytes)?;
            }
            kept.insert(tile);
        }
        writer.sync()?;
        Ok(kept)
    }

    /// Names of the partial tiles.
    pub(super) fn partial(&self) -> BTreeSet<TileId> {
        partial(&self.tree).map(|(tile, _)| tile).collect()
    }
}

/// The partial tiles and the partial bundle of a tree; the bundle's hashes are those of its entries.
fn partial(tree: &Tree) -> impl Iterator<Item = (TileId, &[Hash])> {
    let bundle = tree.edge().take(1).map(|(tile, hashes)| (TileId { row: Row::Entries, ..tile }, hashes));
    tree.edge().chain(bundle).filter(|(_, hashes)| !hashes.is_empty())
}

/// Removes partial tiles that wider or full ones took the place of.
pub(super) fn remove_partial(
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
