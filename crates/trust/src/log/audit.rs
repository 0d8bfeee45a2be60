//! The audit: the whole log, read once from its files, entry by entry, in the memory of one bundle and the members' names.

use std::collections::{BTreeMap, BTreeSet};

use meshara_identity::issuer::MEMBERS_MAX;
use meshara_identity::{NodeId, NodeName, UnixMillis};

use super::checkpoint::{CheckpointError, LogPublic, TreeHead};
use super::entry::{Certificate, Entry, EntryError};
use super::error::LogError;
use super::files::{Files, damaged};
use super::hash::{Hash, root_of};
use super::history;
use super::note::Note;
use super::open::newest;
use super::reader::{bundle_at, hashes_at};
use super::rules::Rules;
use super::tile::{Row, TileId, WIDTH, bundle_entries, width_at};
use super::tree::Tree;
use super::witness::{WitnessError, WitnessPolicy};

/// Problems that a report lists; of a log that is wrong throughout, more would tell no more. All are counted.
pub const PROBLEMS_MAX: usize = 100;

/// Something that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file is missing, damaged or can't be read.
    #[error(transparent)]
    File(#[from] LogError),
    /// The entries, hashed anew, don't lead to a root that was signed: the log was rewritten.
    #[error("the entries don't lead to the root that was signed for {size} of them")]
    Root {
        /// Size of that checkpoint.
        size: u64,
    },
    /// A kept checkpoint isn't the log's.
    #[error("the checkpoint of {size} entries: {error}")]
    Checkpoint {
        /// Size that its file is named by.
        size: u64,
        /// What is wrong.
        error: CheckpointError,
    },
    /// A kept checkpoint is of another size than its file says, or newer than the newest.
    #[error("a checkpoint is kept as one of {size} entries and isn't one of this log's past")]
    Misplaced {
        /// Size that its file is named by.
        size: u64,
    },
    /// Too few witnesses cosigned any checkpoint that is kept, or one did so wrongly.
    #[error(transparent)]
    Witnesses(#[from] WitnessError),
    /// An entry doesn't decode.
    #[error("entry {index}: {error}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong.
        error: EntryError,
    },
    /// A name was given to a second node while the first one's enrolment ran, or a node got a second name.
    #[error("entry {index}: {node} enrolled as {name}, which contradicts an enrolment before it", node = node.short())]
    Enrolment {
        /// The entry.
        index: u64,
        /// The node.
        node: NodeId,
        /// The name.
        name: NodeName,
    },
    /// A certificate's name is enrolled for another node, or its node under another name, or not any more.
    #[error("entry {index}: a certificate for {node} as {name}, which contradicts an enrolment", node = node.short())]
    Certificate {
        /// The entry.
        index: u64,
        /// The node.
        node: NodeId,
        /// The name.
        name: NodeName,
    },
    /// A number that only grows didn't.
    #[error("entry {index}: its number isn't above the one before")]
    Order {
        /// The entry.
        index: u64,
    },
    /// A certificate in use has no entry.
    #[error("the certificate of {name} ({}) isn't in the log", data_encoding::HEXLOWER.encode(serial))]
    NotLogged {
        /// Its serial number.
        serial: [u8; 16],
        /// Its name.
        name: NodeName,
    },
    /// More members than a mesh has: names beyond are not compared.
    #[error("more than {MEMBERS_MAX} members are enrolled")]
    TooManyMembers,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The newest checkpoint's size and root.
    pub head: TreeHead,
    /// Entries that were read.
    pub entries: u64,
    /// Certificates among them.
    pub certificates: u64,
    /// Earlier checkpoints that were compared.
    pub checkpoints: u64,
    /// Size of the newest checkpoint that enough witnesses cosigned.
    pub witnessed: u64,
    /// Distinct witnesses of that checkpoint.
    pub witnesses: usize,
    /// What is wrong, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl AuditReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0
    }

    pub(super) fn add(&mut self, problem: impl Into<Problem>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem.into());
        }
    }
}

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
