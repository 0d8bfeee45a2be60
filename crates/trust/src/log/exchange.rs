//! What nodes ask each other about logs, and the answers: one question and one answer on a stream.

use meshara_identity::NodeId;
use meshara_identity::grant::GRANTS_MAX;
use meshara_identity::wire::{self, WireError};
use serde::{Deserialize, Serialize};

use super::attest::InclusionProof;
use super::entry::ENTRY_MAX;
use super::fork::ForkEvidence;
use super::hash::Hash;
use super::keys::LogStatement;
use super::note::NOTE_MAX;
use super::proof::PATH_MAX;
use super::tile::WIDTH;

/// Longest question: a checkpoint with every cosignature it may have, and a path of 64 hashes.
pub const ASK_MAX: usize = NOTE_MAX + 4096;

/// Longest answer: a bundle of 256 of the longest entries has 525 KB; 16 heads with evidence less.
pub const ANSWER_MAX: usize = 768 * 1024;

/// A question about a log, which its issuer's NodeId names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ask {
    /// Which logs do you know?
    Heads,
    /// The consistency path, starting node written out, from `first` to `second` entries. Who hasn't the log, asks its issuer when `relay` is
    /// set: so a member finds out what the issuer tells others.
    Path {
        /// Whose log.
        issuer: NodeId,
        /// The older size.
        first: u64,
        /// The newer size.
        second: u64,
        /// Whether to ask the issuer.
        relay: bool,
    },
    /// Entries from `first` on, of the log with `size` entries: to the end of a bundle.
    Entries {
        /// Whose log.
        issuer: NodeId,
        /// The first one.
        first: u64,
        /// Entries in the log.
        size: u64,
    },
    /// Cosign this checkpoint, please.
    Cosign {
        /// Whose log: the one who asks.
        issuer: NodeId,
        /// The checkpoint.
        note: String,
        /// Path from the checkpoint that you saw last, or what I take for that.
        path: Vec<Hash>,
    },
    /// The proof that the entry with this hash is in the log.
    Proof {
        /// Whose log.
        issuer: NodeId,
        /// The entry's hash.
        leaf: Hash,
    },
    /// What proves that the certificate that you show is in its issuer's log?
    Attestation,
    /// Where is the entry with this hash in the log of `size` entries?
    Inclusion {
        /// Whose log: the one who is asked.
        issuer: NodeId,
        /// The entry's hash.
        leaf: Hash,
        /// Entries in the log.
        size: u64,
    },
}

/// A log as somebody knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its keys.
    pub statement: LogStatement,
    /// Its newest checkpoint, with the cosignatures that it has.
    pub note: Option<String>,
    /// That it forked.
    pub fork: Option<ForkEvidence>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Answer {
    /// Not known here, or not now.
    Unknown,
    /// To [`Ask::Heads`].
    Heads(Vec<Head>),
    /// To [`Ask::Path`].
    Path(Vec<Hash>),
    /// To [`Ask::Entries`].
    Entries(Vec<Vec<u8>>),
    /// To [`Ask::Cosign`]: the checkpoint with the witness's line alone.
    Cosigned(String),
    /// To [`Ask::Cosign`]: this is the checkpoint that I saw last.
    Seen(String),
    /// To [`Ask::Proof`].
    Proof(InclusionProof),
    /// To [`Ask::Attestation`]: a promise, and a proof as soon as there is one.
    Attestation {
        /// The promise, encoded; it may have ended.
        promise: Vec<u8>,
        /// The proof.
        proof: Option<InclusionProof>,
    },
    /// To [`Ask::Inclusion`].
    Inclusion {
        /// The entry's place.
        index: u64,
        /// Path to the root.
        path: Vec<Hash>,
    },
}

impl Ask {
    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let ask: Self = wire::decode(bytes, ASK_MAX)?;
        let fits = match &ask {
            Self::Cosign { note, path, .. } => note.len() <= NOTE_MAX && path.len() <= PATH_MAX + 1,
            _ => true,
        };
        if fits { Ok(ask) } else { Err(WireError::Malformed) }
    }
}

impl Answer {
    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let answer: Self = wire::decode(bytes, ANSWER_MAX)?;
        let is_note = |note: &String| note.len() <= NOTE_MAX;
        let fits = match &answer {
            Self::Heads(heads) => {
                heads.len() <= GRANTS_MAX && heads.iter().all(|head| head.note.as_ref().is_none_or(is_note))
            }
            Self::Path(path) => path.len() <= PATH_MAX + 1,
            Self::Inclusion { path, .. } => path.len() <= PATH_MAX,
            Self::Entries(entries) => {
                entries.len() <= usize::from(WIDTH) && entries.iter().all(|entry| entry.len() <= ENTRY_MAX)
            }
            Self::Cosigned(note) | Self::Seen(note) => is_note(note),
            Self::Proof(proof) | Self::Attestation { proof: Some(proof), .. } => {
                proof.path.len() <= PATH_MAX && is_note(&proof.checkpoint)
            }
            _ => true,
        };
        if fits { Ok(answer) } else { Err(WireError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: NodeId = NodeId([7; 32]);

    #[test]
    fn the_wire_forms_are_frozen() {
        let asks: [(Ask, &[u8]); 7] = [
            (Ask::Heads, &[1, 0]),
            (
                Ask::Path { issuer: NODE, first: 1, second: 300, relay: true },
                &[&[1, 1][..], &[7; 32], &[1, 0xac, 2, 1]].concat(),
            ),
            (
                Ask::Entries { issuer: NODE, first: 256, size: 257 },
                &[&[1, 2][..], &[7; 32], &[0x80, 2, 0x81, 2]].concat(),
            ),
            (
                Ask::Cosign { issuer: NODE, note: "n".into(), path: vec![Hash([9; 32])] },
                &[&[1, 3][..], &[7; 32], &[1, b'n', 1], &[9; 32]].concat(),
            ),
            (Ask::Proof { issuer: NODE, leaf: Hash([9; 32]) }, &[&[1, 4][..], &[7; 32], &[9; 32]].concat()),
            (Ask::Attestation, &[1, 5]),
            (
                Ask::Inclusion { issuer: NODE, leaf: Hash([9; 32]), size: 300 },
                &[&[1, 6][..], &[7; 32], &[9; 32], &[0xac, 2]].concat(),
            ),
        ];
        for (ask, bytes) in asks {
            assert_eq!(ask.encode().unwrap(), bytes, "{ask:?}");
            assert_eq!(Ask::decode(bytes).unwrap(), ask);
        }
        let proof = InclusionProof { index: 3, path: vec![Hash([9; 32])], checkpoint: "c".into() };
        let proved = [&[3, 1][..], &[9; 32], &[1, b'c']].concat();
        let answers: [(Answer, &[u8]); 9] = [
            (Answer::Unknown, &[1, 0]),
            (Answer::Heads(Vec::new()), &[1, 1, 0]),
            (Answer::Path(vec![Hash([9; 32])]), &[&[1, 2, 1][..], &[9; 32]].concat()),
            (Answer::Entries(vec![vec![5, 6]]), &[1, 3, 1, 2, 5, 6]),
            (Answer::Cosigned("n".into()), &[1, 4, 1, b'n']),
            (Answer::Seen("n".into()), &[1, 5, 1, b'n']),
            (Answer::Proof(proof.clone()), &[&[1, 6][..], &proved].concat()),
            (
                Answer::Attestation { promise: vec![8], proof: Some(proof) },
                &[&[1, 7, 1, 8, 1][..], &proved].concat(),
            ),
            (
                Answer::Inclusion { index: 3, path: vec![Hash([9; 32])] },
                &[&[1, 8, 3, 1][..], &[9; 32]].concat(),
            ),
        ];
        for (answer, bytes) in answers {
            assert_eq!(answer.encode().unwrap(), bytes, "{answer:?}");
            assert_eq!(Answer::decode(bytes).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let long = |count| vec![Hash([0; 32]); count];
        let cosign = |path| Ask::Cosign { issuer: NODE, note: String::new(), path }.encode().unwrap();
        assert!(Ask::decode(&cosign(long(PATH_MAX + 1))).is_ok());
        assert_eq!(Ask::decode(&cosign(long(PATH_MAX + 2))), Err(WireError::Malformed));
        let entries = |count| Answer::Entries(vec![Vec::new(); count]).encode().unwrap();
        assert!(Answer::decode(&entries(256)).is_ok());
        assert_eq!(Answer::decode(&entries(257)), Err(WireError::Malformed));
        let inclusion =
            |count| Answer::Inclusion { index: 0, path: vec![Hash([0; 32]); count] }.encode().unwrap();
        assert!(Answer::decode(&inclusion(PATH_MAX)).is_ok());
        assert_eq!(Answer::decode(&inclusion(PATH_MAX + 1)), Err(WireError::Malformed));
        assert_eq!(Answer::decode(&[1, 0, 0]), Err(WireError::Malformed));
        assert_eq!(Ask::decode(&[1, 0x80, 0]), Err(WireError::Malformed));
        assert!(matches!(Ask::decode(&[2, 0]), Err(WireError::UnsupportedVersion { found: 2, .. })));
    }

    proptest! {
        #[test]
        fn answers_round_trip(entries in proptest::collection::vec(any::<Vec<u8>>(), 0..9), hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..60)) {
            for answer in [Answer::Entries(entries), Answer::Path(hashes.into_iter().map(Hash).collect())] {
                let bytes = answer.encode().unwrap();
                prop_assert_eq!(Answer::decode(&bytes), Ok(answer));
            }
        }

        #[test]
        fn asks_round_trip(issuer: [u8; 32], first: u64, second: u64, relay: bool, leaf: [u8; 32]) {
            let issuer = NodeId(issuer);
            for ask in [
                Ask::Path { issuer, first, second, relay },
                Ask::Entries { issuer, first, size: second },
                Ask::Proof { issuer, leaf: Hash(leaf) },
            ] {
                prop_assert_eq!(Ask::decode(&ask.encode().unwrap()), Ok(ask));
            }
        }
    }
}
