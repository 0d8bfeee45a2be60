//! The substrate: hosts as network namespaces, links as veth pairs or delayed wires, drops and rate limits.

pub(crate) mod drops;
pub(crate) mod link;
pub(crate) mod namespace;
pub(crate) mod nat;
pub(crate) mod topology;
mod tun;
pub(crate) mod wire;
