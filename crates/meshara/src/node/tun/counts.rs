//! What became of packets, for the metrics.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts since the node's start.
        #[derive(Debug, Default)]
        pub(crate) struct Counts {
            $($(#[$doc])* pub(super) $name: AtomicU64,)+
        }

        impl Counts {
            /// All counts with their names.
            pub(crate) fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.load(Relaxed))),+].into_iter()
            }
        }
    };
}

counts! {
    /// Datagrams sent.
    sent,
    /// Datagrams received and delivered.
    received,
    /// Bytes of packets that the device gave.
    sent_bytes,
    /// Bytes of packets given to the device.
    received_bytes,
    /// TCP acknowledgements that waited until one came that says more.
    merged,
    /// Dropped because they waited too long, or too many waited.
    queue_full,
    /// The device gave what isn't carried: other protocols than IPv6, for one.
    not_carried,
    /// From another address than the node's.
    other_source,
    /// Packets of the node itself, which must not travel over the sessions that they carry.
    own,
    /// Nobody has the address, or no session comes about.
    unreachable,
    /// The peer has no interface.
    peer_without,
    /// Larger than the peer takes.
    too_big,
    /// Datagrams that were malformed.
    malformed,
    /// Datagrams whose packet isn't from its sender, or not for this node.
    spoofed,
    /// Connections that policy denied, packets of them.
    denied,
    /// The device refused.
    refused,
}

/// Adds to a count.
pub(super) fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Relaxed);
}
