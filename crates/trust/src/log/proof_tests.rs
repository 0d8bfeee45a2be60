use std::collections::BTreeMap;
use std::convert::Infallible;

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::log::hash::root_of;
use crate::log::prove::{Nodes, consistency, consistency_written_out, inclusion, root};

/// Every leaf in memory; nodes by the definition, so that the clever code is judged by the plain one.
pub(crate) struct Leaves(pub(crate) Vec<Hash>, BTreeMap<(u32, u64), Hash>);

impl Leaves {
    pub(crate) fn of(leaves: Vec<Hash>) -> Self {
        Self(leaves, BTreeMap::new())
    }
}

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&mut self, level: u32, index: u64) -> Result<Hash, Infallible> {
        let (from, to) = ((index << level) as usize, ((index + 1) << level) as usize);
        let known = self.1.entry((level, index));
        Ok(*known.or_insert_with(|| root_of(&self.0[from..to])))
    }
}

pub(crate) fn leaves(count: u64) -> Leaves {
    Leaves::of((0..count).map(|index| Hash::leaf(&index.to_be_bytes())).collect())
}

fn reference() -> Leaves {
    let entries =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let leaf = |hex: &&str| Hash::leaf(&HEXLOWER.decode(hex.as_bytes()).unwrap());
    Leaves::of(entries.iter().map(leaf).collect())
}

fn hex(path: &[Hash]) -> Vec<String> {
    path.iter().map(|hash| HEXLOWER.encode(&hash.0)).collect()
}

#[test]
fn proofs_of_the_reference_tree() {
    let mut tree = reference();
    assert_eq!(inclusion(&mut tree, 0, 1), Ok(vec![]));
    let first = inclusion(&mut tree, 0, 8).unwrap();
    assert_eq!(
        hex(&first),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
    );
    let ragged = inclusion(&mut tree, 5, 8).unwrap();
    assert_eq!(
        hex(&ragged),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        hex(&inclusion(&mut tree, 2, 3).unwrap()),
        ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]
    );
    assert_eq!(
        hex(&consistency(&mut tree, 6, 8).unwrap()),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
    );
    assert_eq!(
        hex(&consistency(&mut tree, 2, 5).unwrap()),
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ]
    );
}

/// A proof with one change of each kind; none may be accepted.
fn tampered(path: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for at in 0..path.len() {
        let mut flipped = path.to_vec();
        flipped[at].0[at % 32] ^= 1;
        all.push(flipped);
        let mut shorter = path.to_vec();
        shorter.remove(at);
        all.push(shorter);
    }
    all.push([path, &[Hash::empty()]].concat());
    all.push([&[Hash::empty()], path].concat());
    all
}

#[test]
fn every_entry_of_every_size_is_proved_and_nothing_else() {
    let mut tree = leaves(300);
    for size in 1..=300 {
        let all = root(&mut tree, size).unwrap();
        assert_eq!(all, root_of(&tree.0[..size as usize]));
        for index in 0..size {
            let leaf = tree.0[index as usize];
            let path = inclusion(&mut tree, index, size).unwrap();
            assert_eq!(verify_inclusion(&leaf, index, size, &path, &all), Ok(()));
            let other = Hash::leaf(b"another");
            assert_eq!(verify_inclusion(&other, index, size, &path, &all), Err(MerkleError::WrongRoot));
            assert_eq!(verify_inclusion(&leaf, index, size, &path, &other), Err(MerkleError::WrongRoot));
            if size > 1 {
                assert!(verify_inclusion(&leaf, index ^ 1, size, &path, &all).is_err());
            }
            if index % 7 == 0 {
                for bad in tampered(&path) {
                    assert!(verify_inclusion(&leaf, index, size, &bad, &all).is_err(), "{index} of {size}");
                }
            }
        }
        assert_eq!(
            verify_inclusion(&all, size, size, &[], &all),
            Err(MerkleError::OutOfRange { index: size, size })
        );
    }
}

#[test]
fn every_pair_of_sizes_is_consistent_and_nothing_else() {
    let mut tree = leaves(300);
    let roots: Vec<Hash> = (0..=300).map(|size| root(&mut tree, size).unwrap()).collect();
    for second in 1..=300u64 {
        let new = roots[second as usize];
        for first in 0..=second {
            let old = roots[first as usize];
            let path = consistency(&mut tree, first, second).unwrap();
            assert_eq!(verify_consistency(first, &old, second, &new, &path), Ok(()), "{first} {second}");
            if first > 0 && first < second {
                let full = consistency_written_out(&mut tree, first, second).unwrap();
                assert_eq!(roots_of_path(first, second, &full), Ok((old, new)));
                let forked = Hash::leaf(b"another");
                let answer = verify_written_out(first, &forked, second, &new, &full);
                assert_eq!(answer, Err(MerkleError::NotAPrefix));
            }
            let wrong = Hash::leaf(b"another");
            assert!(verify_consistency(first, &wrong, second, &new, &path).is_err());
            if first > 0 {
                assert!(verify_consistency(first, &old, second, &wrong, &path).is_err());
            }
            if (first + second) % 11 == 0 {
                for bad in tampered(&path) {
                    assert!(verify_consistency(first, &old, second, &new, &bad).is_err());
                }
            }
        }
        assert_eq!(
            verify_consistency(second, &new, second - 1, &roots[second as usize - 1], &[]),
            Err(MerkleError::Shrunk { first: second, second: second - 1 })
        );
    }
}

#[test]
fn a_rewritten_past_is_seen() {
    let (mut honest, mut forked) = (leaves(40), leaves(40));
    forked.0[3] = Hash::leaf(b"rewritten");
    let old = root(&mut honest, 21).unwrap();
    let new = root(&mut forked, 40).unwrap();
    let path = consistency(&mut forked, 21, 40).unwrap();
    assert_eq!(verify_consistency(21, &old, 40, &new, &path), Err(MerkleError::NotAPrefix));
    let (shown, same) = roots_of_path(21, 40, &path).unwrap();
    assert_eq!((shown, same), (root(&mut forked, 21).unwrap(), new));
}

proptest! {
    #[test]
    fn any_input_is_answered(
        index: u64, first: u64, second: u64,
        path in proptest::collection::vec(any::<[u8; 32]>().prop_map(Hash), 0..70),
    ) {
        let hash = Hash::empty();
        let _ = verify_inclusion(&hash, index, second, &path, &hash);
        let _ = verify_consistency(first, &hash, second, &hash, &path);
        let _ = roots_of_path(first, second, &path);
    }
}
