//! The commands of the lab, one experiment each.

pub(crate) mod campaign;
pub(crate) mod change;
pub(crate) mod garbage;
pub(crate) mod heal;
pub(crate) mod idle;
pub(crate) mod iperf;
pub(crate) mod issue;
pub(crate) mod lan;
pub(crate) mod nat;
pub(crate) mod revoke;
pub(crate) mod rotate;
pub(crate) mod short;
pub(crate) mod substrate;
pub(crate) mod suspicion;
pub(crate) mod throughput;
pub(crate) mod tiers;
pub(crate) mod tun;
pub(crate) mod wake;
