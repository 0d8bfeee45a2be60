//! The JSON shapes of the control API: what the node answers and what the command prints.
//!
//! Field names are part of the stable surface described in `docs/control-api.md`: fields may be added, never renamed or
//! removed within `/v1`. Times end in their unit (`_s`, `_ms`); points in time (`_at`) are [`Timestamp`]s (RFC 3339, UTC).

use serde::{Deserialize, Serialize};

use super::interface::TunInfo;
use super::timestamp::Timestamp;

/// `GET /v1/status`: the node as it sees itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// NodeId, 64 lower-case hex digits.
    pub node_id: String,
    /// Name in the mesh, as certified.
    pub name: String,
    /// Name of the mesh.
    pub mesh: String,
    /// The certificate's only URI SAN: `spiffe://<mesh>/node/<name>`.
    pub spiffe_id: String,
    /// Mesh address, an IPv6 unique local address.
    pub mesh_address: String,
    /// Version of the node's software.
    pub version: String,
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// Every UDP address listened on, as `ip:port`.
    pub listen: Vec<String>,
    /// Neighbours whose link is up.
    pub neighbours: u64,
    /// Nodes that are routable now, this one excluded.
    pub nodes_known: u64,
    /// Sessions that are open now.
    pub sessions: u64,
    /// End of the node's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<Timestamp>,
    /// Whether this node issues certificates and so can invite.
    #[serde(default)]
    pub issuer: bool,
    /// Messages received and not read yet.
    #[serde(default)]
    pub unread: u64,
    /// Messages accepted for sending and not acknowledged yet.
    #[serde(default)]
    pub outbox: u64,
    /// The TUN interface; null without one.
    #[serde(default)]
    pub tun: Option<TunInfo>,
    /// Where DNS queries are answered, as `ip:port`; null where they aren't.
    #[serde(default)]
    pub dns: Option<String>,
}

/// `GET /v1/id`: who the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdInfo {
    /// NodeId, 64 lower-case hex digits.
    pub node_id: String,
    /// Name in the mesh.
    pub name: String,
    /// Name of the mesh.
    pub mesh: String,
}

/// What is known of a link's liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Probes pass.
    Up,
    /// Probes are overdue: traffic moved to an alternate, the link is kept.
    Suspect,
    /// Lost: there is no link, and the node tries to get it back. Or a link so new that no probe has passed yet.
    Down,
}

/// `GET /v1/peers`: one neighbour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// NodeId of the neighbour.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Its address as seen by this node, `ip:port`; the last one when it is down.
    pub addr: String,
    /// Liveness of the link.
    pub state: PeerState,
    /// Smoothed round-trip time; absent (null) until measured.
    pub rtt_ms: Option<f64>,
    /// Share of probes lost lately, 0 to 1.
    pub loss: f64,
    /// Key exchange group of the link, as negotiated: `X25519MLKEM768`.
    pub kex: String,
    /// Signature algorithm of the peer's certificate, as verified: `ML-DSA-65`.
    pub auth: String,
    /// Seconds in the present state.
    pub since_s: u64,
    /// Bytes sent to the neighbour on this link; 0 without one.
    pub tx_bytes: u64,
    /// Bytes received from the neighbour on this link; 0 without one.
    pub rx_bytes: u64,
    /// Delivery rate measured lately, in Mbit/s; absent until measured.
    #[serde(default)]
    pub rate_mbit_s: Option<f64>,
    /// Adaptive tier that the measured rate and RTT led to.
    #[serde(default)]
    pub tier: Option<String>,
    /// Flow-control window in force, in bytes.
    #[serde(default)]
    pub window_bytes: Option<u64>,
    /// Congestion window, in bytes.
    #[serde(default)]
    pub cwnd_bytes: Option<u64>,
    /// Largest UDP payload known to pass, in bytes.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Whether this node dialled the link (else the neighbour did).
    #[serde(default)]
    pub dialled: bool,
    /// Roles that the neighbour's certificate names.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// `GET /v1/routes`: the way to one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteInfo {
    /// NodeId of the destination.
    pub dest: String,
    /// Its name; empty until learnt.
    pub name: String,
    /// NodeId of the neighbour that traffic goes to now.
    pub next_hop: String,
    /// Links on the way, 1 for a neighbour.
    pub hops: u32,
    /// Sum of link metrics, in milliseconds of round trip.
    pub metric_ms: f64,
    /// NodeIds of the neighbours that take over at once, in order.
    pub alternates: Vec<String>,
}

/// `POST /v1/invite`: what the ticket should allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// Time to live, in milliseconds.
    pub ttl_ms: u64,
    /// How many nodes may join with it.
    pub uses: u32,
    /// Roles that their certificates name, for policy; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// What is asked of them beside the ticket: `approval` (an operator's), `listed` (on the issuer's list), or both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attest: Vec<String>,
}

/// A ticket that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The ticket. It is a secret until it is used or expires.
    pub ticket: String,
    /// End of its validity.
    pub expires_at: Timestamp,
    /// How many nodes may join with it.
    pub uses: u32,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The ticket holds a secret and stays out of logs.
        f.debug_struct("Invite")
            .field("expires_at", &self.expires_at)
            .field("uses", &self.uses)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/ping`: pings to send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// Name, NodeId or unique prefix.
    pub node: String,
    /// How many pings.
    pub count: u32,
    /// Time between two sends, in milliseconds (fractions allowed).
    pub interval_ms: f64,
    /// Payload bytes of each ping.
    #[serde(default)]
    pub size: u32,
}

/// One answered ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingReply {
    /// Number of the ping, from 0.
    pub seq: u32,
    /// Its round-trip time.
    pub rtt_ms: f64,
    /// Links it crossed on the way there.
    pub hops: u32,
}

/// What a run of pings showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingSummary {
    /// Pings sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Median round-trip time; absent (null) without a reply.
    pub p50_ms: Option<f64>,
    /// 99th percentile; absent (null) without a reply.
    pub p99_ms: Option<f64>,
    /// Longest time without a reply, silence before the first and after the last included.
    pub longest_gap_ms: f64,
}

/// A line of the ping stream: replies as they come, then the summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PingEvent {
    /// One reply.
    Reply(PingReply),
    /// The last line.
    Summary {
        /// What the run showed.
        summary: PingSummary,
    },
}

/// A request that only names a node (`POST /v1/trace`, `POST /v1/resolve`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRequest {
    /// Name, NodeId or unique prefix.
    pub node: String,
}

/// A node that a text resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRef {
    /// NodeId, 64 lower-case hex digits.
    pub node_id: String,
    /// Its name; empty until learnt.
    pub name: String,
}

/// The path to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The forwarding nodes in order, then the destination.
    pub hops: Vec<TraceHop>,
}

/// One node of a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceHop {
    /// NodeId.
    pub node_id: String,
    /// Its name; empty until learnt.
    pub name: String,
    /// Round-trip time from here to it; absent (null) when it did not answer.
    pub rtt_ms: Option<f64>,
}

/// Query of `POST /v1/send`; the body is the message's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendQuery {
    /// Name, NodeId or unique prefix.
    pub to: String,
    /// How long to wait for the acknowledgement, in milliseconds.
    pub timeout_ms: u64,
}

/// A message that its receiver has stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendReceipt {
    /// Identifier of the message.
    pub id: String,
    /// Time from acceptance to the acknowledgement.
    pub acked_ms: f64,
}

/// A message's content: `text` when it is UTF-8, else `base64` (RFC 4648 §4, padded).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// UTF-8 text.
    Text(String),
    /// Any other bytes.
    Base64(String),
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Identifier of the message, chosen by its sender.
    pub id: String,
    /// NodeId of the sender.
    pub from: String,
    /// Name of the sender; empty if unknown.
    pub from_name: String,
    /// When the sender accepted it, by its own clock.
    pub sent_at: Timestamp,
    /// The content, as `text` or `base64`.
    #[serde(flatten)]
    pub body: Body,
}

/// `POST /v1/messages/consume`: messages that were handed over for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumeRequest {
    /// Unknown and already consumed ones are no error.
    pub messages: Vec<MessageRef>,
}

/// A received message. Its identifier tells it apart only from others of the same sender.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageRef {
    /// NodeId of the sender, [`Received::from`].
    pub from: String,
    /// [`Received::id`].
    pub id: String,
}

impl Received {
    /// What to consume the message by.
    #[must_use]
    pub fn reference(&self) -> MessageRef {
        MessageRef { from: self.from.clone(), id: self.id.clone() }
    }
}

/// `POST /v1/services`: a local TCP service to offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeRequest {
    /// Name of the service.
    pub name: String,
    /// TCP target, `host:port`. It need not be reachable yet.
    pub tcp: String,
}

/// An offered service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Name of the service.
    pub name: String,
    /// TCP target, `host:port`.
    pub tcp: String,
    /// Connections open now.
    #[serde(default)]
    pub connections: u64,
}

/// `POST /v1/connect`: a local listener for a remote service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    /// Name, NodeId or unique prefix.
    pub node: String,
    /// Name of the service there.
    pub service: String,
    /// Local TCP address to listen on, `ip:port`; port 0 picks one.
    pub listen: String,
}

/// A listener in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectInfo {
    /// Local TCP address that is listening.
    pub listen: String,
    /// NodeId of the remote node.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Name of the service there.
    pub service: String,
}

/// A line of the connect stream: the listener first, then what happens to connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectEvent {
    /// The listener is in place.
    Listening(ConnectInfo),
    /// A connection was accepted and the remote service answered.
    Opened(ConnectionInfo),
    /// A connection ended.
    Closed(ConnectionInfo),
    /// A connection could not be carried.
    Failed(ConnectionFailure),
}

/// One carried TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Local TCP client, `ip:port`.
    pub client: String,
    /// Bytes carried to the service.
    pub tx_bytes: u64,
    /// Bytes carried from the service.
    pub rx_bytes: u64,
}

/// A TCP connection that could not be carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionFailure {
    /// Local TCP client, `ip:port`.
    pub client: String,
    /// Why.
    pub reason: String,
}

/// `POST /v1/bench`: a throughput run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchRequest {
    /// Name, NodeId or unique prefix.
    pub node: String,
    /// How long, in milliseconds.
    pub duration_ms: u64,
    /// How many streams at once.
    pub streams: u32,
}

/// How a session's packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Straight to the peer, one hop.
    Direct,
    /// Over other nodes.
    Relayed,
}

/// What a throughput run showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// Bytes that the receiver confirmed, in Gbit/s.
    pub gbit_s: f64,
    /// Streams used.
    pub streams: u32,
    /// Measured time.
    pub duration_s: f64,
    /// How the packets travelled.
    pub path: PathKind,
    /// Links on the way.
    pub hops: u32,
}

/// Progress of a throughput run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchProgress {
    /// Time since the start.
    pub elapsed_s: f64,
    /// Bytes confirmed so far.
    pub bytes: u64,
    /// Rate over the last interval, in Gbit/s.
    pub gbit_s: f64,
}

/// A line of the bench stream: progress, then the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchEvent {
    /// On the way.
    Progress(BenchProgress),
    /// The last line.
    Result(BenchResult),
}

/// `POST /v1/peers`: a neighbour to keep a link with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPeerRequest {
    /// Its UDP address, `host:port`.
    pub addr: String,
}

/// `GET /v1/doctor`: what only the running node can tell about its health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
#[non_exhaustive]
pub struct DoctorFacts {
    /// The node's clock.
    pub now: Timestamp,
    /// Process id of the node.
    pub pid: u32,
    /// UDP addresses listened on, `ip:port`.
    pub listen: Vec<String>,
    /// Receive buffer granted by the kernel, in bytes.
    pub recv_buffer: Option<u64>,
    /// Send buffer granted by the kernel, in bytes.
    pub send_buffer: Option<u64>,
    /// Most segments that one send carries (GSO); 1 when unsupported.
    pub gso_segments: Option<u64>,
    /// Most segments that one receive carries (GRO); 1 when unsupported.
    pub gro_segments: Option<u64>,
    /// End of the node's certificate.
    pub certificate_expires_at: Option<Timestamp>,
    /// When the node asks for the next one.
    #[serde(default)]
    pub certificate_renews_at: Option<Timestamp>,
    /// Clocks of neighbours against this node's.
    pub clocks: Vec<PeerClock>,
    /// Configured and remembered neighbours.
    pub configured_peers: Vec<ConfiguredPeer>,
}

/// A neighbour's clock against this node's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerClock {
    /// NodeId of the neighbour.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Its clock minus ours, in milliseconds.
    pub offset_ms: f64,
}

/// A neighbour that this node was told to keep a link with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfiguredPeer {
    /// Its address as configured.
    pub addr: String,
    /// Whether a link to it is up.
    pub connected: bool,
    /// Why the last attempt failed, if it did.
    #[serde(default)]
    pub last_error: Option<String>,
}
