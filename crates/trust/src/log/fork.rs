//! Evidence that a log forked: two of its checkpoints that can't both be true. Anyone who knows the log's keys checks it offline.

use meshara_identity::wire::{self, WireError};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointError, LogPublic, TreeHead};
use super::hash::Hash;
use super::note::{KeyName, Note};
use super::proof::{MerkleError, PATH_MAX, verify_written_out};

/// Longest evidence: two checkpoints with the log's own signatures (4.9 KB each) and a path of 64 hashes.
pub const EVIDENCE_MAX: usize = 16 * 1024;

/// Why evidence is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Not this encoding.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// One of the checkpoints isn't the log's.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The path doesn't belong to the newer checkpoint.
    #[error("the path proves nothing: {0}")]
    Path(MerkleError),
    /// Both can be true.
    #[error("the two checkpoints agree")]
    Consistent,
}

/// Two checkpoints, the smaller first, and what shows that the second doesn't begin with the first.
///
/// The path is a consistency proof with its starting node written out. By the hash function it can lead to the newer root only if the
/// newer tree really begins so; that it then leads to another older root than the signed one is the contradiction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkEvidence {
    first: String,
    second: String,
    path: Vec<Hash>,
}

/// What evidence proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The log that forked.
    pub origin: KeyName,
    /// The smaller head: from its size on nothing that the log says counts.
    pub first: TreeHead,
    /// The larger head, or the other one of that size.
    pub second: TreeHead,
}

impl ForkEvidence {
    /// Evidence from two notes, in any order, and a path between them (empty when their sizes are equal).
    pub fn new(log: &LogPublic, one: &Note, other: &Note, path: Vec<Hash>) -> Result<Self, EvidenceError> {
        let (a, b) = (log.verify(one)?.head, log.verify(other)?.head);
        // Of two heads of one size the order is by root, so that the same fork is the same evidence.
        let ordered = (a.size, a.root) <= (b.size, b.root);
        let (first, second) = if ordered { (one, other) } else { (other, one) };
        let own = |note: &Note| log.only_own(note).encode();
        let evidence = Self { first: own(first), second: own(second), path };
        evidence.verify(log)?;
        Ok(evidence)
    }

    /// The log that it speaks of; [`verify`](Self::verify) decides whether rightly.
    pub fn origin(&self) -> &str {
        self.first.lines().next().unwrap_or_default()
    }

    /// Checks everything: both checkpoints, and that they contradict each other.
    pub fn verify(&self, log: &LogPublic) -> Result<Fork, EvidenceError> {
        let head = |text: &str| -> Result<Checkpoint, EvidenceError> {
            Ok(log.verify(&Note::parse(text.as_bytes()).map_err(CheckpointError::from)?)?)
        };
        let (first, second) = (head(&self.first)?, head(&self.second)?);
        let (old, new) = (first.head, second.head);
        match verify_written_out(old.size, &old.root, new.size, &new.root, &self.path) {
            Err(MerkleError::NotAPrefix) => Ok(Fork { origin: first.origin, first: old, second: new }),
            Ok(()) => Err(EvidenceError::Consistent),
            Err(error) => Err(EvidenceError::Path(error)),
        }
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let evidence: Self = wire::decode(bytes, EVIDENCE_MAX)?;
        if evidence.path.len() > PATH_MAX + 1 { Err(WireError::Malformed) } else { Ok(evidence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::checkpoint::tests::key;
    use crate::log::proof::tests::{Leaves, leaves};
    use crate::log::prove::{consistency_written_out, root};

    fn note(tree: &mut Leaves, size: u64) -> Note {
        let root = root(tree, size).unwrap();
        key().checkpoint(TreeHead { size, root }).unwrap()
    }

    fn trees() -> (Leaves, Leaves) {
        let (honest, mut forked) = (leaves(50), leaves(50));
        forked.0[3] = Hash::leaf(b"rewritten");
        (honest, forked)
    }

    #[test]
    fn any_two_heads_that_contradict_each_other_are_evidence() {
        let (mut honest, mut forked) = trees();
        let (key, public) = (key(), key().public().clone());
        for (first, second) in [(20, 20), (4, 8), (5, 8), (16, 31), (20, 21), (32, 50), (49, 50)] {
            let path = consistency_written_out(&mut forked, first, second).unwrap();
            let (old, new) = (note(&mut honest, first), note(&mut forked, second));
            let evidence = ForkEvidence::new(&public, &new, &old, path.clone()).unwrap();
            assert_eq!(evidence, ForkEvidence::new(&public, &old, &new, path).unwrap());
            assert_eq!(evidence.origin(), key.public().origin().as_str());
            let bytes = evidence.encode().unwrap();
            assert!(bytes.len() < EVIDENCE_MAX * 3 / 4, "{}", bytes.len());
            let fork = ForkEvidence::decode(&bytes).unwrap().verify(&public).unwrap();
            assert_eq!((fork.first.size, fork.second.size), (first, second));
        }
    }

    #[test]
    fn honest_logs_are_never_accused() {
        let (mut honest, mut forked) = trees();
        let public = key().public().clone();
        for (first, second) in [(20, 20), (3, 9), (4, 8), (0, 7), (16, 32)] {
            let (old, new) = (note(&mut honest, first), note(&mut honest, second));
            let path = consistency_written_out(&mut honest, first, second).unwrap();
            assert_eq!(ForkEvidence::new(&public, &old, &new, path), Err(EvidenceError::Consistent));
            let wrong = consistency_written_out(&mut forked, first.max(4), second + 5).unwrap();
            let refused = ForkEvidence::new(&public, &old, &new, wrong);
            assert!(matches!(refused, Err(EvidenceError::Path(_))), "{first} {second}: {refused:?}");
        }
        // A fork that begins only later contradicts nothing before.
        let (old, new) = (note(&mut honest, 3), note(&mut forked, 9));
        let path = consistency_written_out(&mut forked, 3, 9).unwrap();
        assert_eq!(ForkEvidence::new(&public, &old, &new, path), Err(EvidenceError::Consistent));
    }

    #[test]
    fn another_logs_heads_are_no_evidence() {
        let (mut honest, mut forked) = trees();
        let other = super::super::checkpoint::LogKey::generate(key().public().origin().clone()).unwrap();
        let (one, two) = (note(&mut honest, 20), note(&mut forked, 20));
        let evidence = ForkEvidence::new(key().public(), &one, &two, Vec::new()).unwrap();
        let refused = EvidenceError::Checkpoint(CheckpointError::Unsigned("Ed25519"));
        assert_eq!(evidence.verify(other.public()), Err(refused));
    }
}
