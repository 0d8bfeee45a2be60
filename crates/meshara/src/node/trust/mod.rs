//! What a running node does for the mesh's trust.

pub(crate) mod audit;
pub(crate) mod files;
pub(crate) mod log;
pub(crate) mod policy;
pub(crate) mod revocation;
pub(crate) mod root;
pub(crate) mod sets;
pub(crate) mod visit;
