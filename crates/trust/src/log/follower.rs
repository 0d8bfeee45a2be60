//! Reading another issuer's log as it grows: each piece counts once it leads to a root that the log signed.

use super::checkpoint::{CheckpointError, LogPublic, TreeHead};
use super::entry::{Entry, EntryError};
use super::hash::Hash;
use super::note::Note;
use super::tree::Tree;

/// Why a piece of a log isn't taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The checkpoint isn't the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The piece doesn't end where the checkpoint does.
    #[error("{found} entries where the checkpoint has {needed} more")]
    Count {
        /// Entries given.
        found: u64,
        /// Entries between what is known and the checkpoint.
        needed: u64,
    },
    /// The entries aren't those under the checkpoint, or the log forked: only a path between the two checkpoints tells which.
    #[error("the entries don't lead to the root that the log signed")]
    WrongRoot,
    /// The log signed for something that is no entry.
    #[error("entry {index}: {error}")]
    Entry {
        /// Its place.
        index: u64,
        /// What is wrong.
        error: EntryError,
    },
}

/// How far a log was read: its size, and the hashes that lead to its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Follower {
    tree: Tree,
}

impl Follower {
    /// Goes on from a tree that was kept.
    pub fn resume(tree: Tree) -> Self {
        Self { tree }
    }

    /// What to keep.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What was read.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.tree.size(), root: self.tree.root() }
    }

    /// Takes all entries from here to the checkpoint `note`, or none of them. A log far ahead is read piece by piece, under
    /// checkpoints that it kept.
    pub fn take(
        &mut self,
        log: &LogPublic,
        note: &Note,
        entries: &[Vec<u8>],
    ) -> Result<Vec<Entry>, FollowError> {
        let head = log.verify(note)?.head;
        let (first, found) = (self.tree.size(), entries.len() as u64);
        if first.checked_add(found) != Some(head.size) {
            return Err(FollowError::Count { found, needed: head.size.saturating_sub(first) });
        }
        let mut tree = self.tree.clone();
        let mut full = Vec::new();
        for entry in entries {
            tree.push(Hash::leaf(entry), &mut full);
            full.clear();
        }
        if tree.root() != head.root {
            return Err(FollowError::WrongRoot);
        }
        let decoded = (first..)
            .zip(entries)
            .map(|(index, bytes)| Entry::decode(bytes).map_err(|error| FollowError::Entry { index, error }))
            .collect::<Result<_, _>>()?;
        self.tree = tree;
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::checkpoint::tests::key;
    use crate::log::entry::tests::certificate;

    fn encoded(from: u64, count: u64) -> Vec<Vec<u8>> {
        (from..from + count).map(|number| Entry::Certificate(certificate(number)).encode().unwrap()).collect()
    }

    fn note(entries: &[Vec<u8>]) -> Note {
        let mut tree = Tree::default();
        for entry in entries {
            tree.push(Hash::leaf(entry), &mut Vec::new());
        }
        key().checkpoint(TreeHead { size: tree.size(), root: tree.root() }).unwrap()
    }

    #[test]
    fn a_log_is_followed_piece_by_piece() {
        let all = encoded(0, 600);
        let mut follower = Follower::default();
        for (from, to) in [(0, 0), (0, 3), (3, 256), (256, 257), (257, 600), (600, 600)] {
            let read = follower.take(key().public(), &note(&all[..to]), &all[from..to]).unwrap();
            assert_eq!(read.len(), to - from);
            assert_eq!(follower.head().size, to as u64);
            let edge = follower.tree().edge().map(|(_, row)| row.to_vec()).collect();
            follower = Follower::resume(Tree::from_edge(to as u64, edge).unwrap());
        }
    }

    #[test]
    fn what_does_not_lead_to_the_signed_root_changes_nothing() {
        let all = encoded(0, 20);
        let mut follower = Follower::default();
        follower.take(key().public(), &note(&all[..10]), &all[..10]).unwrap();
        let before = follower.clone();
        let mut take =
            |note: &Note, entries: &[Vec<u8>]| follower.take(key().public(), note, entries).unwrap_err();
        let newest = note(&all);
        assert_eq!(take(&newest, &all[10..19]), FollowError::Count { found: 9, needed: 10 });
        assert_eq!(take(&newest, &all), FollowError::Count { found: 20, needed: 10 });
        assert_eq!(take(&note(&all[..9]), &[]), FollowError::Count { found: 0, needed: 0 });
        assert_eq!(take(&newest, &encoded(30, 10)), FollowError::WrongRoot);
        let stranger = super::super::LogKey::generate(key().public().origin().clone()).unwrap();
        let unsigned = FollowError::Checkpoint(CheckpointError::Unsigned("Ed25519"));
        assert_eq!(take(&stranger.checkpoint(before.head()).unwrap(), &[]), unsigned);
        let mut odd = all.clone();
        odd[15] = b"nonsense".to_vec();
        let refused = take(&note(&odd), &odd[10..]);
        assert!(matches!(refused, FollowError::Entry { index: 15, .. }), "{refused:?}");
        assert_eq!(follower, before);
    }
}
