//! Hashing of RFC 9162, 2.1.1: leaves and nodes are told apart by their first byte, so neither ever passes for the other.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// SHA-256: an entry's hash, a node of the tree, or the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// SHA-256 of `bytes`, without a domain: what entries say about things outside the log.
    pub fn of(bytes: &[u8]) -> Self {
        Self::take(digest(&SHA256, bytes).as_ref())
    }

    /// Root of the tree without entries.
    pub fn empty() -> Self {
        Self::of(&[])
    }

    /// Hash of an entry: SHA-256(0x00 || entry).
    pub fn leaf(entry: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[0]);
        context.update(entry);
        Self::take(context.finish().as_ref())
    }

    /// Hash of an inner node: SHA-256(0x01 || left || right).
    pub fn node(left: &Self, right: &Self) -> Self {
        let mut bytes = [1; 1 + 2 * Self::LEN];
        let (_, children) = bytes.split_at_mut(1);
        let (first, second) = children.split_at_mut(Self::LEN);
        first.copy_from_slice(&left.0);
        second.copy_from_slice(&right.0);
        Self::take(digest(&SHA256, &bytes).as_ref())
    }

    /// From a digest of SHA-256, which has 32 bytes.
    fn take(digest: &[u8]) -> Self {
        let mut hash = [0; Self::LEN];
        for (to, from) in hash.iter_mut().zip(digest) {
            *to = *from;
        }
        Self(hash)
    }
}

impl fmt::Display for Hash {
    /// Base64, as checkpoints show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// Root of the complete or ragged tree over `hashes` (RFC 9162, 2.1.1, without hashing the leaves again).
pub fn root_of(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Hash::empty(),
        [one] => *one,
        _ => {
            let mut row = hashes.to_vec();
            while row.len() > 1 {
                // A last node without a sibling rises as it is: that is where RFC 9162 splits, at the largest power of two.
                row = row.chunks(2).map(pair).collect();
            }
            row.first().copied().unwrap_or_else(Hash::empty)
        }
    }
}

fn pair(nodes: &[Hash]) -> Hash {
    match nodes {
        [left, right] => Hash::node(left, right),
        [alone, ..] => *alone,
        [] => Hash::empty(),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// The tree of Certificate Transparency's reference test, whose roots every implementation publishes.
    pub(crate) const ENTRIES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn roots_of_the_reference_tree() {
        assert_eq!(
            HEXLOWER.encode(&Hash::empty().0),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let leaves: Vec<Hash> =
            ENTRIES.iter().map(|hex| Hash::leaf(&HEXLOWER.decode(hex.as_bytes()).unwrap())).collect();
        for (last, root) in ROOTS.iter().enumerate() {
            assert_eq!(HEXLOWER.encode(&root_of(&leaves[..=last]).0), *root, "{} entries", last + 1);
        }
    }
}
