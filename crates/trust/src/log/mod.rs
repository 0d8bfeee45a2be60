//! The transparency log: RFC 9162 hashing, C2SP tiles and checkpoints, witnesses, crash-safe appends, proofs.

pub mod hash;
pub mod proof;

pub use hash::Hash;
pub use proof::MerkleError;
