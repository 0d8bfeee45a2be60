//! Counts of what the data plane did and dropped, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One count per fate of a frame.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames forwarded for others.
    pub forwarded: AtomicU64,
    /// Frames dropped because the kernel's send buffer was full.
    pub send_full: AtomicU64,
    /// Frames or packets without a usable route.
    pub no_route: AtomicU64,
    /// Frames whose time to live ended here.
    pub ttl_ended: AtomicU64,
    /// Frames larger than the next link takes.
    pub too_big: AtomicU64,
    /// Datagrams that are neither QUIC nor a well-formed frame.
    pub malformed: AtomicU64,
    /// Frames for a link that isn't ours (any more).
    pub unknown_link: AtomicU64,
    /// Frames with a wrong tag or a replayed counter.
    pub refused: AtomicU64,
    /// Control frames shed because the node didn't keep up.
    pub control_full: AtomicU64,
    /// QUIC packets of links shed because the endpoint didn't keep up.
    pub quic_full: AtomicU64,
}

impl Counters {
    /// Every count with its metric's name.
    pub fn list(&self) -> [(&'static str, u64); 10] {
        [
            ("forwarded", self.forwarded.load(Relaxed)),
            ("send_full", self.send_full.load(Relaxed)),
            ("no_route", self.no_route.load(Relaxed)),
            ("ttl_ended", self.ttl_ended.load(Relaxed)),
            ("too_big", self.too_big.load(Relaxed)),
            ("malformed", self.malformed.load(Relaxed)),
            ("unknown_link", self.unknown_link.load(Relaxed)),
            ("refused", self.refused.load(Relaxed)),
            ("control_full", self.control_full.load(Relaxed)),
            ("quic_full", self.quic_full.load(Relaxed)),
        ]
    }
}
