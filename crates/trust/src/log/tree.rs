//! The growing edge of a tree: what is needed to append and to know the root, and no more than 255 hashes for each level.

use super::hash::{Hash, root_of};
use super::tile::{HEIGHT, Row, TileId, WIDTH};

/// A tree that is appended to. Full tiles leave it as they become full; it keeps the partial ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Hashes of the partial tile of each level, lowest first.
    edge: Vec<Vec<Hash>>,
}

/// A tile that became full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullTile {
    /// Its level.
    pub level: u8,
    /// Its position in the level.
    pub index: u64,
    /// Its 256 hashes.
    pub hashes: Vec<Hash>,
}

impl Tree {
    /// The tree of `size` entries whose partial tiles are `edge`, lowest first; `None` when their widths aren't that size's.
    pub fn from_edge(size: u64, edge: Vec<Vec<Hash>>) -> Option<Self> {
        let tree = Self { size, edge };
        let fits =
            tree.partial_tiles().zip(&tree.edge).all(|((_, width), row)| usize::from(width) == row.len());
        let all = tree.edge.len() == levels(size);
        (fits && all).then_some(tree)
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends the hash of an entry. Tiles that it filled are added to `full`, the lowest first.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        self.size += 1;
        let mut rising = leaf;
        for level in 0.. {
            let Some(row) = self.edge.get_mut(usize::from(level)) else {
                self.edge.push(vec![rising]);
                return;
            };
            row.push(rising);
            if row.len() < usize::from(WIDTH) {
                return;
            }
            let hashes = std::mem::take(row);
            rising = root_of(&hashes);
            let index = (self.size >> (HEIGHT * (u32::from(level) + 1))) - 1;
            full.push(FullTile { level, index, hashes });
        }
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut below: Option<Hash> = None;
        for row in &self.edge {
            let mut row = row.clone();
            // What isn't a full tile yet stands at the right end, as a smaller subtree does in RFC 9162.
            row.extend(below);
            below = if row.is_empty() { None } else { Some(root_of(&row)) };
        }
        below.unwrap_or_else(Hash::empty)
    }

    /// The partial tiles, lowest first, empty ones included: position, and hashes so far.
    pub fn edge(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        self.partial_tiles()
            .zip(&self.edge)
            .map(|((tile, width), row)| (TileId { width, ..tile }, row.as_slice()))
    }

    fn partial_tiles(&self) -> impl Iterator<Item = (TileId, u16)> + use<> {
        partial_tiles(self.size)
    }
}

/// Number of levels that have tiles in a log of `size` entries.
fn levels(size: u64) -> usize {
    (64 - size.leading_zeros()).div_ceil(HEIGHT).max(u32::from(size > 0)) as usize
}

/// The right-most tile of each level in a log of `size` entries, and how many hashes of it are there: 0 where a level ends with a
/// full one.
pub fn partial_tiles(size: u64) -> impl Iterator<Item = (TileId, u16)> {
    (0u8..).take(levels(size)).map(move |level| {
        let row = size >> (HEIGHT * u32::from(level));
        // Below WIDTH, so it fits.
        let width = (row % u64::from(WIDTH)) as u16;
        (TileId { row: Row::Hashes(level), index: row / u64::from(WIDTH), width }, width)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn grows_as_the_plain_tree_does() {
        let mut tree = Tree::default();
        assert_eq!(tree.root(), Hash::empty());
        let (mut leaves, mut full, mut tiles) = (Vec::new(), Vec::new(), BTreeMap::new());
        for number in 0u64..70_000 {
            let leaf = Hash::leaf(&number.to_be_bytes());
            leaves.push(leaf);
            tree.push(leaf, &mut full);
            for tile in full.drain(..) {
                assert_eq!(tile.hashes.len(), 256);
                assert_eq!(tiles.insert((tile.level, tile.index), tile.hashes), None);
            }
            if number < 300 || number % 9_973 == 0 {
                assert_eq!(tree.root(), root_of(&leaves), "{number}");
                let edge = tree.edge().map(|(_, row)| row.to_vec()).collect();
                assert_eq!(Tree::from_edge(tree.size(), edge).as_ref(), Some(&tree));
            }
        }
        assert_eq!(tiles.keys().filter(|(level, _)| *level == 0).count(), 273);
        assert_eq!(tiles.keys().filter(|(level, _)| *level == 1).count(), 1);
        let widths: Vec<usize> = tree.edge().map(|(_, row)| row.len()).collect();
        assert_eq!(widths, [112, 17, 1]);
        let names: Vec<String> = tree.edge().map(|(tile, _)| tile.to_string()).collect();
        assert_eq!(names, ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
        assert_eq!(tiles[&(1, 0)][1], root_of(&leaves[256..512]));
    }

    #[test]
    fn an_edge_of_another_size_is_refused() {
        let row = |count| vec![Hash::empty(); count];
        assert!(Tree::from_edge(0, vec![]).is_some());
        assert!(Tree::from_edge(256, vec![vec![], row(1)]).is_some());
        assert_eq!(Tree::from_edge(256, vec![row(256)]), None);
        assert_eq!(Tree::from_edge(256, vec![vec![], row(1), row(1)]), None);
        assert_eq!(Tree::from_edge(257, vec![vec![], row(1)]), None);
        assert_eq!(Tree::from_edge(1, vec![]), None);
    }
}
