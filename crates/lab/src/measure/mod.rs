//! Measurements: statistics, the machine's own stalls, heartbeats, streams, round trips and raw TCP.

pub(crate) mod bare_quinn;
pub(crate) mod heartbeat;
pub(crate) mod iperf;
pub(crate) mod machine;
pub(crate) mod rtt;
pub(crate) mod stall;
pub(crate) mod stats;
pub(crate) mod stream;
