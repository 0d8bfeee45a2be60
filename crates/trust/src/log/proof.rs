//! Inclusion and consistency proofs of RFC 9162: verifying them.

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
pub(super) fn split(size: u64) -> u64 {
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
pub(super) fn with_start(first: u64, old_root: &Hash, path: &[Hash]) -> Vec<Hash> {
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

#[cfg(test)]
#[path = "proof_tests.rs"]
pub(crate) mod tests;
