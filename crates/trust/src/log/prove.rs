//! Inclusion and consistency proofs of RFC 9162: made from anything that knows the nodes of the tree.

use super::hash::Hash;
use super::proof::{split, with_start};

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

/// As [`consistency`], with the starting node written out; see [`verify_written_out`](super::proof::verify_written_out).
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
