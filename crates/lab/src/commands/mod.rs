//! The commands of the lab, one experiment each.

pub(crate) mod garbage;
pub(crate) mod heal;
pub(crate) mod idle;
pub(crate) mod iperf;
pub(crate) mod nat;
pub(crate) mod short;
pub(crate) mod substrate;
pub(crate) mod suspicion;
pub(crate) mod tiers;
