//! Signers and their root document in a node: keys, what they sign together, phases. Some of it needs no node, and no network.

pub(crate) mod gates;
pub(crate) mod keys;
pub mod offline;
pub(crate) mod proposals;
pub(crate) mod publish;
pub(crate) mod signing;

/// Keys, statements and signatures as files.
const DIRECTORY: &str = "proposals";
