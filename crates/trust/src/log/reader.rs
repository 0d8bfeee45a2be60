//! Reading a log from its tiles: hashes for proofs, and entries. Needs no lock: what is read was durable before it was signed.

use std::collections::BTreeMap;
use std::io;

use super::entry::ENTRY_MAX;
use super::error::LogError;
use super::files::{Files, damaged, failed, read};
use super::hash::{Hash, root_of};
use super::prove::{self, Nodes};
use super::tile::{HEIGHT, Row, TileId, WIDTH, bundle_entries, tile_hashes, width_at};

/// Longest bundle.
const BUNDLE_MAX: u64 = WIDTH as u64 * (ENTRY_MAX as u64 + 2);

/// Longest tile of hashes.
const TILE_MAX: u64 = WIDTH as u64 * Hash::LEN as u64;

/// Tiles that are remembered between proofs; one proof needs two of each of the 8 levels at most.
const CACHE_MAX: usize = 64;

/// The tiles of a log of a certain size.
pub struct Tiles<'a> {
    files: &'a dyn Files,
    size: u64,
    cache: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<'a> Tiles<'a> {
    /// The log as it was with `size` entries.
    pub fn new(files: &'a dyn Files, size: u64) -> Self {
        Self { files, size, cache: BTreeMap::new() }
    }

    /// The root.
    pub fn root(&mut self) -> Result<Hash, LogError> {
        let size = self.size;
        prove::root(self, size)
    }

    /// Path of an entry to the root (RFC 9162).
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<Hash>, LogError> {
        let size = self.size;
        if index >= size {
            return Err(LogError::OutOfRange { index, size });
        }
        prove::inclusion(self, index, size)
    }

    /// Proof that the log of `first` entries is the beginning of this one, with its starting node written out.
    pub fn consistency(&mut self, first: u64) -> Result<Vec<Hash>, LogError> {
        let size = self.size;
        if first > size {
            return Err(LogError::OutOfRange { index: first, size });
        }
        prove::consistency_written_out(self, first, size)
    }

    /// Bytes of an entry.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, LogError> {
        if index >= self.size {
            return Err(LogError::OutOfRange { index, size: self.size });
        }
        let bundle = index / u64::from(WIDTH);
        let (path, bytes) = bundle_at(self.files, bundle, width_at(0, bundle, self.size))?;
        let entries = bundle_entries(&bytes).ok_or_else(|| damaged(self.files, &path, "not a bundle"))?;
        let at = (index % u64::from(WIDTH)) as usize;
        let entry = entries.get(at).ok_or_else(|| damaged(self.files, &path, "too few entries"))?;
        Ok(entry.to_vec())
    }

    /// Entries from `first` to the end of its bundle, or of the log: at most 256.
    pub fn entries(&self, first: u64) -> Result<Vec<Vec<u8>>, LogError> {
        if first >= self.size {
            return Err(LogError::OutOfRange { index: first, size: self.size });
        }
        let bundle = first / u64::from(WIDTH);
        let width = width_at(0, bundle, self.size);
        let (path, bytes) = bundle_at(self.files, bundle, width)?;
        let entries = bundle_entries(&bytes).ok_or_else(|| damaged(self.files, &path, "not a bundle"))?;
        let from = (first % u64::from(WIDTH)) as usize;
        let entries = entries.get(from..usize::from(width));
        let entries = entries.ok_or_else(|| damaged(self.files, &path, "too few entries"))?;
        Ok(entries.iter().map(|entry| entry.to_vec()).collect())
    }

    fn tile(&mut self, level: u8, index: u64) -> Result<&[Hash], LogError> {
        if self.cache.len() >= CACHE_MAX && !self.cache.contains_key(&(level, index)) {
            self.cache.clear();
        }
        let hashes = match self.cache.entry((level, index)) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(hashes_at(self.files, level, index, width_at(level, index, self.size))?)
            }
        };
        Ok(hashes)
    }
}

impl Nodes for Tiles<'_> {
    type Error = LogError;

    fn node(&mut self, level: u32, index: u64) -> Result<Hash, LogError> {
        let outside = LogError::OutOfRange { index, size: self.size };
        // Levels within a tile are hashed again from its bottom row.
        let (row, within) = ((level / HEIGHT) as u8, level % HEIGHT);
        let first = index << within;
        let (tile, at) = (first / u64::from(WIDTH), (first % u64::from(WIDTH)) as usize);
        let hashes = self.tile(row, tile)?;
        hashes.get(at..at + (1 << within)).map(root_of).ok_or(outside)
    }
}

/// Hashes of a tile, `width` of them, from it or from a wider one that took its place.
pub(super) fn hashes_at(files: &dyn Files, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, LogError> {
    let tile = TileId { row: Row::Hashes(level), index, width };
    let (path, bytes) = tile_at(files, tile, TILE_MAX)?;
    let mut hashes = tile_hashes(&bytes).ok_or_else(|| damaged(files, &path, "not whole hashes"))?;
    if hashes.len() < usize::from(width) {
        return Err(damaged(files, &path, "too few hashes"));
    }
    hashes.truncate(usize::from(width));
    Ok(hashes)
}

/// Bytes of a bundle that has at least `width` entries, and its path.
pub(super) fn bundle_at(files: &dyn Files, index: u64, width: u16) -> Result<(String, Vec<u8>), LogError> {
    tile_at(files, TileId { row: Row::Entries, index, width }, BUNDLE_MAX)
}

/// The tile, or the full one, or a wider partial one: a narrower tile is the beginning of each of these.
fn tile_at(files: &dyn Files, tile: TileId, max: u64) -> Result<(String, Vec<u8>), LogError> {
    // A log that is published meanwhile may replace what was just listed; it does so at most twice a second.
    find_tile(files, tile, max).or_else(|_| find_tile(files, tile, max))
}

fn find_tile(files: &dyn Files, tile: TileId, max: u64) -> Result<(String, Vec<u8>), LogError> {
    let directory = tile.partial_directory();
    let mut widths = vec![tile.width];
    if tile.width < WIDTH {
        let names =
            files.list(&directory).map_err(|error: io::Error| failed(files, &directory, "list", &error))?;
        let listed = names.iter().filter_map(|name| name.parse::<u16>().ok());
        widths.extend(listed.filter(|width| (tile.width + 1..WIDTH).contains(width)));
        widths.push(WIDTH);
    }
    for width in widths {
        let path = TileId { width, ..tile }.to_string();
        match read(files, &path, max) {
            Err(LogError::Missing { .. }) => {}
            answer => return answer.map(|bytes| (path, bytes)),
        }
    }
    Err(LogError::Missing { path: files.locate(&tile.to_string()) })
}
