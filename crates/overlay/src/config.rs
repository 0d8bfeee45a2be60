//! The core's settings. Every default carries its reason.

use std::time::Duration;

/// Settings of a [`crate::Core`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Shortest probe interval. 20 probes a second of about 110 bytes are 18 kbit/s each way; shorter ones would only find
    /// the 40–110 ms stalls of busy machines.
    pub probe_min: Duration,
    /// Longest probe interval on a link that carries traffic: keeps detection under 700 ms on a 500 ms path.
    pub probe_max: Duration,
    /// Interval on an idle link: finds a dead neighbour in 1.25 s for 2 packets a second.
    pub probe_idle: Duration,
    /// How long after the last frame a link counts as carrying traffic: longer than the pauses of interactive use.
    pub traffic_linger: Duration,
    /// Never suspect a peer sooner than this after hearing it: machines stand still for up to 110 ms.
    pub suspect_min: Duration,
    /// Declare a link dead after this silence (or five of the peer's intervals, if longer): ten times the usual stall,
    /// and soon enough to redial within 3 s.
    pub dead_after: Duration,
    /// Close a new link whose probes don't pass both ways within this time: covers a peer busy with handshakes.
    pub confirm_within: Duration,
    /// Whether to choose neighbours. Off: only configured peers and incoming links (pins a topology).
    pub auto_neighbours: bool,
    /// Neighbours to aim at: a random 8-regular graph of 10,000 nodes has diameter 5 to 6 and stays connected when a
    /// quarter of its nodes fail.
    pub degree_target: usize,
    /// Of these, chosen at random whatever their RTT: long links keep the diameter logarithmic (Watts–Strogatz).
    pub degree_random: usize,
    /// Accept incoming links up to this many neighbours: twice the target absorbs everyone dialling at once.
    pub degree_max: usize,
    /// First wait before dialling a lost neighbour again; doubles each time.
    pub redial_first: Duration,
    /// Longest wait in the first `redial_fast_for`, and for configured peers and lost neighbours until `redial_give_up`: a
    /// restarted node must be routed again in 3 s, and what was revoked meanwhile must be known 2 s after a partition's end,
    /// however long it lasted.
    pub redial_fast: Duration,
    /// How long to redial fast: most outages that end by themselves end within a minute.
    pub redial_fast_for: Duration,
    /// Redials are about this far apart on average, once the first few have failed: with more peers away than fit into
    /// `redial_fast` each waits longer. 8.5 a second of some 2.4 KB are 160 kbit/s, and twelve neighbours away slow nobody down.
    pub redial_apart: Duration,
    /// Longest wait ever.
    pub redial_slow: Duration,
    /// Stop redialling a neighbour that nobody configured after this time.
    pub redial_give_up: Duration,
    /// Least time between exchanging one neighbour for a better one: a swap moves routes, so it must be rare.
    pub swap_every: Duration,
    /// Meshes of more nodes publish primaries first and compute alternates when the topology has been quiet: alternates
    /// cost one more shortest-path run for each neighbour.
    pub alternates_at_once: usize,
    /// Re-sign own records this often (± 10 %): half the lifetime, so that one lost refresh does no harm.
    pub refresh: Duration,
    /// Forget records of others after this time without a refresh.
    pub lifetime: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_min: Duration::from_millis(50),
            probe_max: Duration::from_millis(250),
            probe_idle: Duration::from_millis(500),
            traffic_linger: Duration::from_secs(2),
            suspect_min: Duration::from_millis(120),
            dead_after: Duration::from_secs(1),
            confirm_within: Duration::from_secs(3),
            auto_neighbours: true,
            degree_target: 8,
            degree_random: 2,
            degree_max: 16,
            redial_first: Duration::from_millis(250),
            redial_fast: Duration::from_millis(1500),
            redial_fast_for: Duration::from_secs(60),
            redial_apart: Duration::from_millis(125),
            redial_slow: Duration::from_secs(30),
            redial_give_up: Duration::from_secs(600),
            swap_every: Duration::from_secs(30),
            alternates_at_once: 512,
            refresh: Duration::from_secs(30 * 60),
            lifetime: Duration::from_secs(60 * 60),
        }
    }
}
