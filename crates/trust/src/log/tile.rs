//! Tiles of C2SP tlog-tiles: 256 hashes (or entries) side by side, the paths that name them, and bundles of entries.

use std::fmt;
use std::str::FromStr;

use meshara_identity::wire::WireError;

use super::hash::Hash;
use super::proof::SIZE_MAX;

/// Levels of the tree in one tile (fixed by tlog-tiles).
pub const HEIGHT: u32 = 8;

/// Hashes in a full tile.
pub const WIDTH: u16 = 1 << HEIGHT;

/// Highest level of tiles that a log of [`SIZE_MAX`] entries has.
pub const LEVEL_MAX: u8 = 7;

/// A text that isn't the canonical path of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a tile")]
pub struct ParseTileError;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Hashes of a level: 0 holds the entries' hashes, every higher one the roots of full tiles below.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// Name of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// What it holds.
    pub row: Row,
    /// Its position in its row.
    pub index: u64,
    /// Hashes or entries in it, 1 to [`WIDTH`].
    pub width: u16,
}

impl TileId {
    /// A tile of 256.
    pub fn full(row: Row, index: u64) -> Self {
        Self { row, index, width: WIDTH }
    }

    /// The directory that holds the partial tiles at this place.
    pub fn partial_directory(&self) -> String {
        let full = Self { width: WIDTH, ..*self };
        format!("{full}.p")
    }
}

/// How many hashes a tile has in a log of `size` entries; 0 when it has no such tile.
pub fn width_at(level: u8, index: u64, size: u64) -> u16 {
    let row = size.checked_shr(HEIGHT * u32::from(level)).unwrap_or(0);
    let before = index.saturating_mul(u64::from(WIDTH));
    u16::try_from(row.saturating_sub(before)).unwrap_or(WIDTH).min(WIDTH)
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            Row::Hashes(level) => write!(f, "tile/{level}/")?,
            Row::Entries => f.write_str("tile/entries/")?,
        }
        let mut rest = self.index;
        let mut elements = Vec::with_capacity(7);
        loop {
            elements.push(rest % 1000);
            rest /= 1000;
            if rest == 0 {
                break;
            }
        }
        while let Some(element) = elements.pop() {
            let more = !elements.is_empty();
            write!(f, "{}{element:03}{}", if more { "x" } else { "" }, if more { "/" } else { "" })?;
        }
        if self.width == WIDTH { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for TileId {
    type Err = ParseTileError;

    fn from_str(text: &str) -> Result<Self, ParseTileError> {
        let (row, rest) =
            text.strip_prefix("tile/").and_then(|rest| rest.split_once('/')).ok_or(ParseTileError)?;
        let row = match row {
            "entries" => Row::Entries,
            level => Row::Hashes(level.parse().ok().filter(|level| *level <= 63).ok_or(ParseTileError)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            None => (rest, WIDTH),
            Some((index, width)) => (index, width.parse().map_err(|_| ParseTileError)?),
        };
        let mut number = 0u64;
        for element in index.split('/') {
            let digits = element.strip_prefix('x').unwrap_or(element);
            let value: u64 = digits.parse().map_err(|_| ParseTileError)?;
            number = number.checked_mul(1000).and_then(|n| n.checked_add(value)).ok_or(ParseTileError)?;
        }
        let tile = Self { row, index: number, width };
        // Leading zeros, signs, a missing x: only one spelling is written, so only that one is read.
        let sound = (1..=WIDTH).contains(&width) && number <= SIZE_MAX && tile.to_string() == text;
        if sound { Ok(tile) } else { Err(ParseTileError) }
    }
}

/// The bytes of a tile: its hashes, one after the other.
pub fn tile_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// Hashes of a tile's bytes; `None` when they aren't whole hashes, 1 to 256 of them.
pub fn tile_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<{ Hash::LEN }>();
    let fits = rest.is_empty() && !hashes.is_empty() && hashes.len() <= usize::from(WIDTH);
    fits.then(|| hashes.iter().copied().map(Hash).collect())
}

/// Appends an entry to a bundle: its length in two bytes, big-endian, then itself.
pub fn append_to_bundle(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), WireError> {
    let max = usize::from(u16::MAX);
    let length = u16::try_from(entry.len()).map_err(|_| WireError::TooLarge { len: entry.len(), max })?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// Entries of a bundle; `None` when it doesn't end with an entry, or holds none or more than 256.
pub fn bundle_entries(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        bytes = rest;
    }
    let fits = bytes.is_empty() && !entries.is_empty() && entries.len() <= usize::from(WIDTH);
    fits.then_some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_of_the_specification() {
        let tile = TileId::full(Row::Hashes(0), 1_234_067);
        assert_eq!(tile.to_string(), "tile/0/x001/x234/067");
        assert_eq!(TileId { width: 8, ..tile }.to_string(), "tile/0/x001/x234/067.p/8");
        assert_eq!(tile.partial_directory(), "tile/0/x001/x234/067.p");
        assert_eq!(TileId::full(Row::Entries, 0).to_string(), "tile/entries/000");
        assert_eq!(TileId::full(Row::Entries, 999).to_string(), "tile/entries/999");
        assert_eq!(TileId::full(Row::Hashes(63), 1000).to_string(), "tile/63/x001/000");
    }

    #[test]
    fn a_tree_of_70000_has_the_tiles_that_the_specification_counts() {
        assert_eq!(width_at(0, 272, 70_000), 256);
        assert_eq!(width_at(0, 273, 70_000), 112);
        assert_eq!(width_at(0, 274, 70_000), 0);
        assert_eq!(width_at(1, 0, 70_000), 256);
        assert_eq!(width_at(1, 1, 70_000), 17);
        assert_eq!(width_at(2, 0, 70_000), 1);
        assert_eq!(width_at(3, 0, 70_000), 0);
        assert_eq!(width_at(1, 0, 256), 1);
        assert_eq!(width_at(63, 0, u64::MAX), 0);
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/64/000",
            "tile/0/x000/000",
            "tile/0/001/000",
            "tile/0/x001",
            "tile/0/+01",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000/",
            "tile/entries/000.p/-1",
            "/tile/0/000",
            "tile/0/../000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(text.parse::<TileId>(), Err(ParseTileError), "{text}");
        }
    }

    #[test]
    fn bundles_are_read_whole_or_not_at_all() {
        let mut bundle = Vec::new();
        append_to_bundle(&mut bundle, b"one").unwrap();
        append_to_bundle(&mut bundle, b"").unwrap();
        assert_eq!(bundle, b"\x00\x03one\x00\x00");
        assert_eq!(bundle_entries(&bundle), Some(vec![b"one".as_slice(), b""]));
        assert_eq!(bundle_entries(&bundle[..4]), None);
        assert_eq!(bundle_entries(&bundle[..6]), None);
        assert_eq!(bundle_entries(&[]), None);
        assert_eq!(bundle_entries(&[0; 2 * 257]), None);
        assert!(bundle_entries(&[0; 2 * 256]).is_some());
        let large = WireError::TooLarge { len: 65_536, max: 65_535 };
        assert_eq!(append_to_bundle(&mut bundle, &[0; 65_536]), Err(large));
        assert_eq!(tile_hashes(&[0; 33]), None);
        assert_eq!(tile_hashes(&[]), None);
        assert_eq!(tile_hashes(&[0; 257 * 32]), None);
        assert_eq!(tile_hashes(&[7; 64]), Some(vec![Hash([7; 32]); 2]));
    }

    proptest! {
        #[test]
        fn paths_round_trip(level in 0u8..64, entries: bool, index in 0..=SIZE_MAX, width in 1..=WIDTH) {
            let row = if entries { Row::Entries } else { Row::Hashes(level) };
            let tile = TileId { row, index, width };
            prop_assert_eq!(tile.to_string().parse(), Ok(tile));
        }

        #[test]
        fn bundles_round_trip(entries in proptest::collection::vec(any::<Vec<u8>>(), 1..256)) {
            let mut bundle = Vec::new();
            for entry in &entries {
                append_to_bundle(&mut bundle, entry).unwrap();
            }
            prop_assert_eq!(bundle_entries(&bundle).unwrap(), entries);
        }
    }
}
