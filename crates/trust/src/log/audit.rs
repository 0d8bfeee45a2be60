//! The audit: the whole log, read once from its files, entry by entry, in the memory of one bundle and the members' names.

use std::collections::{BTreeMap, BTreeSet};

use meshara_identity::UnixMillis;

use super::checkpoint::{LogPublic, TreeHead};
use super::entry::{Certificate, Entry};
use super::error::LogError;
use super::files::{Files, damaged};
use super::hash::{Hash, root_of};
use super::history;
use super::note::Note;
use super::open::newest;
use super::reader::{bundle_at, hashes_at};
use super::report::{AuditReport, Problem};
use super::rules::Rules;
use super::tile::{Row, TileId, WIDTH, bundle_entries, width_at};
use super::tree::Tree;
use super::witness::{WitnessError, WitnessPolicy};

/// Verifies a log from its files alone: the newest checkpoint, its witnesses, every tile, every kept checkpoint, every entry, and that
/// each certificate of `live` is in it. `visit` sees every entry in order, for what concerns several logs.
///
/// Fails only when there is no newest checkpoint to audit against; all else is in the report.
pub fn audit(
    files: &dyn Files,
    log: &LogPublic,
    witnesses: &WitnessPolicy,
    live: &[Certificate],
    now: UnixMillis,
    visit: &mut dyn FnMut(u64, &Entry),
) -> Result<AuditReport, LogError> {
    // Before the newest checkpoint is read, so that of a log that goes on meanwhile none of these is newer.
    let sizes = history::sizes(files)?;
    let (note, head) = newest(files, log)?;
    let mut report = AuditReport {
        head,
        entries: 0,
        certificates: 0,
        checkpoints: 0,
        witnessed: 0,
        witnesses: 0,
        problems: Vec::new(),
        problem_count: 0,
    };
    let kept = kept_checkpoints(files, log, sizes, &mut report);
    let newest_first =
        std::iter::once((head.size, &note)).chain(kept.iter().rev().map(|(size, (_, note))| (*size, note)));
    check_witnesses(witnesses, newest_first, now, &mut report);
    let mut wanted = BTreeMap::new();
    for certificate in live {
        let entry = Entry::Certificate(certificate.clone()).encode()?;
        wanted.insert(Hash::leaf(&entry), certificate);
    }
    let mut rules = Rules::default();
    let mut tree = Tree::default();
    for bundle in 0..head.size.div_ceil(u64::from(WIDTH)) {
        let Some(leaves) = read_bundle(files, bundle, &tree, &mut rules, &mut report, visit) else { break };
        for leaf in leaves {
            push(files, &mut tree, leaf, &mut report);
            wanted.remove(&leaf);
            if kept.get(&tree.size()).is_some_and(|(root, _)| *root != tree.root()) {
                report.add(Problem::Root { size: tree.size() });
            }
        }
    }
    check_edge(files, &tree, &mut report);
    if tree.size() == head.size && tree.root() != head.root {
        report.add(Problem::Root { size: head.size });
    }
    report.checkpoints = kept.keys().filter(|size| **size <= tree.size()).count() as u64;
    for certificate in wanted.into_values() {
        report.add(Problem::NotLogged { serial: certificate.serial, name: certificate.name.clone() });
    }
    Ok(report)
}

/// The checkpoints that are kept and that the log signed: their roots and themselves, by size.
fn kept_checkpoints(
    files: &dyn Files,
    log: &LogPublic,
    sizes: BTreeSet<u64>,
    report: &mut AuditReport,
) -> BTreeMap<u64, (Hash, Note)> {
    let mut kept = BTreeMap::new();
    for size in sizes {
        let verified = |note: Note| match log.verify(&note) {
            Ok(checkpoint) => Ok((checkpoint.head, note)),
            Err(error) => Err(Problem::Checkpoint { size, error }),
        };
        match history::note(files, size).map_err(Problem::from).and_then(verified) {
            // A log that goes on lets go of some.
            Err(Problem::File(LogError::Missing { .. })) => {}
            Ok((head, note)) if head.size == size && size <= report.head.size => {
                kept.insert(size, (head.root, note));
            }
            Ok(_) => report.add(Problem::Misplaced { size }),
            Err(problem) => report.add(problem),
        }
    }
    if kept.get(&0).is_some_and(|(root, _)| *root != Hash::empty()) {
        report.add(Problem::Root { size: 0 });
    }
    kept
}

/// Finds the newest checkpoint that enough witnesses cosigned; the very newest may be a second too young for that.
fn check_witnesses<'a>(
    witnesses: &WitnessPolicy,
    newest_first: impl Iterator<Item = (u64, &'a Note)>,
    now: UnixMillis,
    report: &mut AuditReport,
) {
    let mut best = 0;
    for (size, note) in newest_first {
        match witnesses.require(note, now) {
            Ok(seen) => {
                report.witnesses = seen.len();
                report.witnessed = size;
                return;
            }
            Err(WitnessError::TooFew { found, .. }) => best = best.max(found),
            Err(error) => report.add(error),
        }
    }
    if report.head.size > 0 {
        report.add(WitnessError::TooFew { found: best, needed: witnesses.threshold() });
    }
}

/// Hashes of a bundle's entries, which it checks. Where bundle and tile differ, or one is unreadable, the other serves, so that the rest
/// of the log is still audited; without both nothing does.
fn read_bundle(
    files: &dyn Files,
    bundle: u64,
    before: &Tree,
    rules: &mut Rules,
    report: &mut AuditReport,
    visit: &mut dyn FnMut(u64, &Entry),
) -> Option<Vec<Hash>> {
    let width = width_at(0, bundle, report.head.size);
    let read = bundle_at(files, bundle, width).and_then(|(path, bytes)| {
        let entries = bundle_entries(&bytes).ok_or_else(|| damaged(files, &path, "not a bundle"))?;
        let entries = entries.get(..usize::from(width));
        let entries = entries.ok_or_else(|| damaged(files, &path, "too few entries"))?;
        Ok((path, entries.iter().map(|entry| entry.to_vec()).collect::<Vec<_>>()))
    });
    let tile = match hashes_at(files, 0, bundle, width) {
        Ok(tile) => Some(tile),
        Err(error) => {
            report.add(error);
            None
        }
    };
    let (path, entries) = match read {
        Ok(read) => read,
        Err(error) => {
            report.add(error);
            return tile;
        }
    };
    let leaves: Vec<Hash> = entries.iter().map(|entry| Hash::leaf(entry)).collect();
    if let Some(tile) = tile
        && tile != leaves
    {
        if was_signed(files, bundle, before, &tile, report.head) {
            report.add(damaged(files, &path, "its entries don't have the hashes that were signed"));
            return Some(tile);
        }
        let path = TileId { row: Row::Hashes(0), index: bundle, width }.to_string();
        report.add(damaged(files, &path, "its hashes aren't those of the entries"));
    }
    for (index, bytes) in (bundle * u64::from(WIDTH)..).zip(&entries) {
        report.entries += 1;
        match Entry::decode(bytes) {
            Ok(entry) => {
                rules.check(index, &entry, report);
                visit(index, &entry);
            }
            Err(error) => report.add(Problem::Entry { index, error }),
        }
    }
    Some(leaves)
}

/// Whether these are the hashes that the rest of the log was built on: the tile above says so of a full tile, the root of the last one.
fn was_signed(files: &dyn Files, bundle: u64, before: &Tree, tile: &[Hash], head: TreeHead) -> bool {
    let mut tree = before.clone();
    for leaf in tile {
        tree.push(*leaf, &mut Vec::new());
    }
    if tree.size() == head.size && tree.root() == head.root {
        return true;
    }
    let (above, at) = (bundle / u64::from(WIDTH), (bundle % u64::from(WIDTH)) as usize);
    let above = hashes_at(files, 1, above, width_at(1, above, head.size));
    tile.len() == usize::from(WIDTH) && above.is_ok_and(|above| above.get(at) == Some(&root_of(tile)))
}

/// Appends a hash to the audit's own tree; compares the tiles above the lowest level that it filled.
fn push(files: &dyn Files, tree: &mut Tree, leaf: Hash, report: &mut AuditReport) {
    let mut full = Vec::new();
    tree.push(leaf, &mut full);
    for tile in full.iter().filter(|tile| tile.level > 0) {
        compare(files, tile.level, tile.index, &tile.hashes, report);
    }
}

/// Compares the partial tiles above the lowest level.
fn check_edge(files: &dyn Files, tree: &Tree, report: &mut AuditReport) {
    for (tile, hashes) in tree.edge() {
        if let Row::Hashes(level) = tile.row
            && level > 0
            && !hashes.is_empty()
        {
            compare(files, level, tile.index, hashes, report);
        }
    }
}

fn compare(files: &dyn Files, level: u8, index: u64, hashes: &[Hash], report: &mut AuditReport) {
    // A tile has at most 256 hashes.
    let width = hashes.len() as u16;
    match hashes_at(files, level, index, width) {
        Ok(stored) if stored == hashes => {}
        Ok(_) => {
            let path = TileId { row: Row::Hashes(level), index, width }.to_string();
            report.add(damaged(files, &path, "its hashes aren't those of the tiles below"));
        }
        Err(error) => report.add(error),
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
