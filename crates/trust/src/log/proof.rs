//! Inclusion and consistency proofs of RFC 9162: verification, and generation from anything that knows the tree's nodes.

use super::hash::Hash;

/// Longest path: a tree of 2^63 entries; sizes are kept below that, so that arithmetic on them can't overflow.
pub const PATH_MAX: usize = 63;

/// Largest tree.
pub const SIZE_MAX: u64 = 1 << 62;

/// Why a proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MerkleError {
    /// The entry isn't in a tree of that size.
    #[error("entry {index} is outside a log of {size} entries")]
    OutOfRange {
        /// The entry.
        index: u64,
        /// Entries in the tree.
        size: u64,
    },
    /// The first tree is larger than the second.
    #[error("a log of {first} entries can't have been one of {second} before")]
    Shrunk {
        /// The older size.
        first: u64,
        /// The newer size.
        second: u64,
    },
    /// The path hasn't the length that the sizes demand.
    #[error("the proof has {found} hashes where these sizes need {needed}")]
    Length {
        /// Hashes that it has.
        found: usize,
        /// Hashes that belong there.
        needed: usize,
    },
    /// The path leads to another root of the (newer) tree.
    #[error("the proof doesn't lead to the log's root hash")]
    WrongRoot,
    /// The path leads to the newer root, but the older tree isn't its beginning.
    #[error("the newer log doesn't begin with the older one")]
    NotAPrefix,
}

/// Largest power of two below `size` (RFC 9162, 2.1.1), for sizes of two or more.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Number of hashes in the inclusion path of entry `index`.
fn inclusion_length(index: u64, size: u64) -> usize {
    // Below the level where the entry's and the last entry's ways part every node has a sibling; above, only left ones count.
    let inner = 64 - (index ^ (size - 1)).leading_zeros();
    let border = index.checked_shr(inner).unwrap_or(0).count_ones();
    (inner + border) as usize
}

/// Verifies that `leaf` is entry `index` of the tree of `size` entries with `root` (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), MerkleError> {
    if index >= size || size > SIZE_MAX {
        return Err(MerkleError::OutOfRange { index, size });
    }
    let needed = inclusion_length(index, size);
    if path.len() != needed {
        return Err(MerkleError::Length { found: path.len(), needed });
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if node & 1 == 1 || node == last {
            hash = Hash::node(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if hash == *root { Ok(()) } else { Err(MerkleError::WrongRoot) }
}

/// Both roots that a consistency path, with its starting node written out, leads to: of the first `first` entries, and of all.
///
/// RFC 9162 leaves the starting node out where it is the older root itself; see [`verify_consistency`]. Whoever shows a path that
/// ends in the newer root has shown, by the hash function, what the newer tree begins with: that is evidence of a fork.
pub fn roots_of_path(first: u64, second: u64, path: &[Hash]) -> Result<(Hash, Hash), MerkleError> {
    if first > second || second > SIZE_MAX {
        return Err(MerkleError::Shrunk { first, second });
    }
    if first == 0 {
        return Err(MerkleError::OutOfRange { index: 0, size: 0 });
    }
    let needed = full_length(first, second);
    if path.len() != needed {
        return Err(MerkleError::Length { found: path.len(), needed });
    }
    let Some((seed, rest)) = path.split_first() else {
        return Err(MerkleError::Length { found: 0, needed });
    };
    let shift = first.trailing_zeros();
    let (mut node, mut last) = ((first - 1) >> shift, (second - 1) >> shift);
    let (mut old, mut new) = (*seed, *seed);
    for sibling in rest {
        if node & 1 == 1 || node == last {
            old = Hash::node(sibling, &old);
            new = Hash::node(sibling, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = Hash::node(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    Ok((old, new))
}

/// Length of a consistency path with its starting node.
fn full_length(first: u64, second: u64) -> usize {
    let shift = first.trailing_zeros();
    1 + inclusion_length((first - 1) >> shift, ((second - 1) >> shift) + 1)
}

/// The path of [`roots_of_path`], from a proof as RFC 9162 has it.
fn with_start(first: u64, old_root: &Hash, path: &[Hash]) -> Vec<Hash> {
    let mut full = Vec::with_capacity(path.len() + 1);
    if first.is_power_of_two() {
        full.push(*old_root);
    }
    full.extend_from_slice(path);
    full
}

/// Verifies that the tree of `first` entries is the beginning of the one of `second` (RFC 9162, 2.1.4.2).
///
/// An empty tree begins every other; equal sizes need equal roots. Both take an empty path.
pub fn verify_consistency(
    first: u64,
    old_root: &Hash,
    second: u64,
    new_root: &Hash,
    path: &[Hash],
) -> Result<(), MerkleError> {
    if first > second || second > SIZE_MAX {
        return Err(MerkleError::Shrunk { first, second });
    }
    if first == 0 || first == second {
        if !path.is_empty() {
            return Err(MerkleError::Length { found: path.len(), needed: 0 });
        }
        let same = if first == 0 { *old_root == Hash::empty() } else { old_root == new_root };
        return if same { Ok(()) } else { Err(MerkleError::NotAPrefix) };
    }
    let extra = usize::from(first.is_power_of_two());
    verify_written_out(first, old_root, second, new_root, &with_start(first, old_root, path)).map_err(
        |error| match error {
            MerkleError::Length { found, needed } => {
                MerkleError::Length { found: found - extra, needed: needed - extra }
            }
            other => other,
        },
    )
}

/// As [`verify_consistency`], for a path with its starting node written out: what Meshara's nodes send each other, because with it
/// a fork is always [`MerkleError::NotAPrefix`], and the path is the evidence.
pub fn verify_written_out(
    first: u64,
    old_root: &Hash,
    second: u64,
    new_root: &Hash,
    path: &[Hash],
) -> Result<(), MerkleError> {
    if first == 0 || first == second {
        return verify_consistency(first, old_root, second, new_root, path);
    }
    let (old, new) = roots_of_path(first, second, path)?;
    match (new == *new_root, old == *old_root) {
        (false, _) => Err(MerkleError::WrongRoot),
        (true, false) => Err(MerkleError::NotAPrefix),
        (true, true) => Ok(()),
    }
}

/// Whoever knows the nodes of a tree: tiles on disk, or all leaves in memory.
pub trait Nodes {
    /// Why a node couldn't be had.
    type Error;

    /// Hash of the complete subtree over entries `index << level` to `(index + 1) << level`, all of them in the tree.
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// Root over the entries from `from` to `to`, a range that is a node of some tree: `from` is a multiple of the power of two at
/// or above its length.
fn range_root<N: Nodes>(nodes: &mut N, from: u64, to: u64) -> Result<Hash, N::Error> {
    let length = to - from;
    if length.is_power_of_two() {
        let level = length.trailing_zeros();
        return nodes.node(level, from >> level);
    }
    let middle = from + split(length);
    let left = range_root(nodes, from, middle)?;
    Ok(Hash::node(&left, &range_root(nodes, middle, to)?))
}

/// Root of the first `size` entries.
pub fn root<N: Nodes>(nodes: &mut N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(Hash::empty()) } else { range_root(nodes, 0, size) }
}

/// Path of entry `index` in the tree of `size` entries (RFC 9162, 2.1.3.1). `index` is below `size`.
pub fn inclusion<N: Nodes>(nodes: &mut N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(range_root(nodes, middle, to)?);
            to = middle;
        } else {
            path.push(range_root(nodes, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// Proof that the tree of `first` entries is the beginning of that of `second` (RFC 9162, 2.1.4.1), `first` ≤ `second`.
pub fn consistency<N: Nodes>(nodes: &mut N, first: u64, second: u64) -> Result<Vec<Hash>, N::Error> {
    if first == 0 || first == second {
        return Ok(Vec::new());
    }
    let (mut from, mut to) = (0, second);
    let mut path = Vec::new();
    while to != first {
        let middle = from + split(to - from);
        if first <= middle {
            path.push(range_root(nodes, middle, to)?);
            to = middle;
        } else {
            path.push(range_root(nodes, from, middle)?);
            from = middle;
        }
    }
    if from != 0 {
        path.push(range_root(nodes, from, to)?);
    }
    path.reverse();
    Ok(path)
}

/// As [`consistency`], with the starting node written out; see [`verify_written_out`].
pub fn consistency_written_out<N: Nodes>(
    nodes: &mut N,
    first: u64,
    second: u64,
) -> Result<Vec<Hash>, N::Error> {
    let path = consistency(nodes, first, second)?;
    if path.is_empty() || !first.is_power_of_two() {
        return Ok(path);
    }
    Ok(with_start(first, &root(nodes, first)?, &path))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;
    use crate::log::hash::root_of;

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
        let entries = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
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
                        assert!(
                            verify_inclusion(&leaf, index, size, &bad, &all).is_err(),
                            "{index} of {size}"
                        );
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
}
