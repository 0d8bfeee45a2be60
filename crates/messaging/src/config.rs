//! Limits and timers of the messaging core, each with the reason for its value.

use std::time::Duration;

use crate::frame::MAX_MESSAGE;

/// Limits and timers. [`Config::default`] suits a node; a simulation may shrink them to reach the limits sooner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest body, bytes. 1 MiB is the product's promise; larger things are streams or files. Never above
    /// [`MAX_MESSAGE`], which the frame codec enforces.
    pub max_message: usize,
    /// Messages in the outbox over all destinations. 65,536 is three seconds at the target rate of 20,000/s.
    pub outbox_messages: usize,
    /// Bytes of bodies in the outbox over all destinations. They stay in memory for resending: 64 MiB keeps a node with a
    /// full outbox near 100 MiB resident.
    pub outbox_bytes: u64,
    /// Messages in the outbox for one destination: half of the whole, so one silent peer can't stop the others.
    pub outbox_messages_per_peer: usize,
    /// Bytes in the outbox for one destination: half of the whole, for the same reason.
    pub outbox_bytes_per_peer: u64,
    /// Destinations ever written to (a flow row of some 200 bytes each): far above the 10,000 nodes of a mesh.
    pub destinations: usize,
    /// Senders whose mark is kept. A mark is never dropped, or duplicates would pass; so a stranger beyond the limit is
    /// refused. Far above the 10,000 nodes of a mesh.
    pub senders: usize,
    /// Unread messages kept for the application. 100,000 is five seconds at the target rate.
    pub inbox_messages: u64,
    /// Bytes of unread bodies. 256 MiB bounds the store file, which holds them, not the memory.
    pub inbox_bytes: u64,
    /// Bytes received and not yet durable. They are memory: 32 MiB is a group commit of 16 MiB under way and one waiting.
    pub staging_bytes: u64,
    /// Messages one sender may have unacknowledged here. 16,384 is 0.8 s at 20,000/s, many commits deep.
    pub window_messages: u32,
    /// Bytes one sender may have unacknowledged here; also bounds what the driver buffers for a peer. 8 MiB is eight of
    /// the largest messages, and 1 Gbit/s at 64 ms.
    pub window_bytes: u64,
    /// Messages in one group commit. 8,192 of 100 B take some 10 ms to write: a longer commit would raise the latency of all.
    pub batch_messages: usize,
    /// Bytes of bodies in one group commit: 16 MiB, some 50 ms on a slow disk.
    pub batch_bytes: u64,
    /// How long removal of acknowledged messages may wait for a commit that is made anyway. Losing it costs only
    /// a resend, so one second keeps an idle disk idle.
    pub settle_delay: Duration,
    /// First wait before asking for a session again; doubles up to `connect_max`. A route heals in well under a second.
    pub connect_min: Duration,
    /// Longest wait between requests for a session. 10 s bounds the cost of many dead destinations; a driver that sees a
    /// route appear calls [`Core::peer_reachable`](crate::Core::peer_reachable) and need not wait.
    pub connect_max: Duration,
    /// Silence of a peer that owes an acknowledgement before it is asked where it stands. The channel is reliable, so this only
    /// heals a peer that lost its place: 5 s is well above any commit.
    pub probe_interval: Duration,
    /// Longest wait before what the receiver's policy denied is sent again; it doubles from `probe_interval`. A driver that hears of another
    /// policy calls [`Core::retry_denied`](crate::Core::retry_denied), so this bounds only what nobody tells it of: other roles.
    pub denied_max: Duration,
    /// How long a node whose store failed refuses messages before it tries again. 1 s: soon after space was freed, and
    /// not a busy loop.
    pub store_retry: Duration,
    /// Age at which an undelivered message is given up. Seven days outlast a weekend's outage.
    pub ttl: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: MAX_MESSAGE,
            outbox_messages: 65_536,
            outbox_bytes: 64 << 20,
            outbox_messages_per_peer: 32_768,
            outbox_bytes_per_peer: 32 << 20,
            destinations: 65_536,
            senders: 65_536,
            inbox_messages: 100_000,
            inbox_bytes: 256 << 20,
            staging_bytes: 32 << 20,
            window_messages: 16_384,
            window_bytes: 8 << 20,
            batch_messages: 8_192,
            batch_bytes: 16 << 20,
            settle_delay: Duration::from_secs(1),
            connect_min: Duration::from_millis(250),
            connect_max: Duration::from_secs(10),
            probe_interval: Duration::from_secs(5),
            denied_max: Duration::from_secs(120),
            store_retry: Duration::from_secs(1),
            ttl: Duration::from_secs(7 * 24 * 3600),
        }
    }
}
