//! What lets a mesh be left alone: a public log of every certificate, revocation, policy and the local audit trail.
//!
//! Nothing here touches the network; only [`log`] and [`audit`] read and write files. The design is `docs/trust.md`.
#![forbid(unsafe_code)]

pub mod audit;
pub mod gossip;
pub mod log;
pub mod policy;
pub mod revocation;
pub mod root;
pub mod sets;
