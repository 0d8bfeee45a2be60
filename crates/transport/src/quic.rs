//! QUIC settings of links and sessions, each with its reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;

use crate::congestion::ModelConfig;
use crate::hop_keys::BULK_OVERHEAD;
use crate::wire::SOCKET_BUFFER;

/// Largest UDP payload on the wire in bytes: Ethernet's 1,500 less IPv6 and UDP headers.
pub const WIRE_MTU: u16 = 1452;
/// Parts of a full-size session packet. Throughput stops growing fast at about twelve (see `docs/benchmarks.md`); with eleven,
/// four packets fill one segmented send of 65,000 bytes almost exactly.
const SESSION_PARTS: u16 = 11;
/// Largest QUIC packet of a session in bytes: exactly `SESSION_PARTS` full frames.
pub const SESSION_MTU: u16 = SESSION_PARTS * FRAME_PAYLOAD;
/// What a full frame carries.
const FRAME_PAYLOAD: u16 = WIRE_MTU - BULK_OVERHEAD as u16;
/// Frames of a full-size session packet over a long path: with two, headers take 6 % of the wire, with one 8 %.
const LONG_PARTS: u16 = 2;
/// A path of this cost in µs or more is long: its sessions' packets are small. Over short paths the processor is the limit,
/// and large packets spare it. Over long ones queues are: QUIC's pacer sends up to 256 packets at once, which of the large ones is
/// 3.9 MB, more than routers hold; and one lost frame would cost eleven. See `docs/benchmarks.md`.
pub(crate) const LONG_PATH_US: u32 = 5_000;
/// Smallest QUIC packet of a session. Frames split it where the wire's MTU is smaller, so it may exceed the 1,200 bytes of
/// RFC 9000 §14; one full frame carries it, and it always has room for a packet of IPv6 (at least 1,280 bytes, RFC 8200 §5).
const SESSION_MIN_MTU: u16 = FRAME_PAYLOAD;

/// Window in bytes of one stream: 2.5 Gbit/s × 100 ms. quinn fixes it at connect, so it stands at the largest tier, and the
/// connection's window, which moves, does the limiting.
pub const STREAM_WINDOW: u32 = 32 << 20;
/// First connection window in bytes, before anything is measured: 1 Gbit/s × 32 ms.
const FIRST_WINDOW: u32 = 4 << 20;
/// The same over a long path, where it is the smallest, too: 0.8 Gbit/s × 80 ms, or half of that while lost packets are repeated.
pub const LONG_FIRST_WINDOW: u32 = 8 << 20;
/// Streams that a peer may have open at once in a session. Each TCP connection through a service is one.
const SESSION_STREAMS: u32 = 1024;
/// A session without any packet from the peer ends after this: long enough for a peer's restart or a re-route at its worst,
/// short enough that a dead peer's streams fail while someone still waits for them.
const SESSION_IDLE: Duration = Duration::from_secs(30);
/// Keeps NAT bindings and the idle timer alive; a third of the timeout survives two losses.
const SESSION_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes of datagrams that wait to be sent over a short path: two transmits of quinn. What waits before them waits where its age is
/// known.
const SENT_DATAGRAMS: usize = 256 << 10;
/// And over a long one, where 64 KiB are 50 ms at 10 Mbit/s.
const SENT_DATAGRAMS_LONG: usize = 64 << 10;
/// Bytes of datagrams that wait to be read: what waits in the socket may all come at once, when the process wasn't scheduled for a while.
/// The oldest goes first.
const RECEIVED_DATAGRAMS: usize = SOCKET_BUFFER;
/// Links end much earlier by the overlay's probes; this only clears what the probes don't know, such as half-made links.
const LINK_IDLE: Duration = Duration::from_secs(15);
/// As for sessions.
const LINK_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Room in bytes for datagrams of a link, each way. They only fill packets (see `mtu_check`): nobody reads them, the oldest goes. One of
/// full size, the few beside it and QUIC's own for each fit twice.
const LINK_DATAGRAMS: usize = 4096;
/// RTT assumed before the first sample. RFC 9002 says 333 ms; a lost first packet would then cost a second. 100 ms costs at
/// most a few repeated packets on longer paths.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Congestion control of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CongestionControl {
    /// RFC 9438. Halves its rate at loss, whatever the loss means.
    Cubic,
    /// A model of the path's delivery rate and shortest round trip, after BBR (see [`crate::congestion`]): random loss slows it less,
    /// and queues stay short.
    #[default]
    Bbr,
    /// quinn's own BBR, for comparison: it fills every queue (see `docs/benchmarks.md`).
    #[serde(rename = "quinn-bbr")]
    QuinnBbr,
    /// RFC 9002 §7.
    NewReno,
}

impl CongestionControl {
    /// Makes controllers that start with a window of so many bytes.
    pub fn factory(self, initial_window: u64) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => {
                let mut cubic = CubicConfig::default();
                cubic.initial_window(initial_window);
                Arc::new(cubic)
            }
            Self::Bbr => Arc::new(ModelConfig { initial_window }),
            Self::QuinnBbr => {
                let mut bbr = BbrConfig::default();
                bbr.initial_window(initial_window);
                Arc::new(bbr)
            }
            Self::NewReno => {
                let mut reno = NewRenoConfig::default();
                reno.initial_window(initial_window);
                Arc::new(reno)
            }
        }
    }
}

/// Over short paths the peer acknowledges after more packets than this (draft-ietf-quic-ack-frequency): an acknowledgement costs it
/// a tenth of what the packets cost. BBR keeps at least three packets under way, so waiting for three never stops it.
const ACK_AFTER: u32 = 2;
/// And after this time at the latest: the resolution of QUIC's timers here.
const ACK_DELAY: Duration = Duration::from_millis(1);

/// Settings of link connections.
pub fn link_transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(WIRE_MTU);
    config
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(IdleTimeout::try_from(LINK_IDLE).ok())
        .keep_alive_interval(Some(LINK_KEEP_ALIVE))
        // One control stream (or that of a join), and the few that neighbours ask each other on.
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        // What is said about signed sets.
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        // The largest control message is 64 KiB; four of them may be on their way.
        .stream_receive_window(VarInt::from_u32(256 << 10))
        .receive_window(VarInt::from_u32(512 << 10))
        .send_window(1 << 20)
        .datagram_receive_buffer_size(Some(LINK_DATAGRAMS))
        .datagram_send_buffer_size(LINK_DATAGRAMS);
    config
}

/// First connection window of a session in bytes, over a short or long path.
pub fn first_window(long: bool) -> u32 {
    if long { LONG_FIRST_WINDOW } else { FIRST_WINDOW }
}

/// Settings of session connections over short or long paths (see `LONG_PATH_US`). `datagrams`: whether somebody reads those that
/// the peer sends; it is told, and sends none otherwise.
pub fn session_transport(control: CongestionControl, long: bool, datagrams: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    let largest = if long { LONG_PARTS * FRAME_PAYLOAD } else { SESSION_MTU };
    // The step is larger than half the range, so the search tries the full size first and nothing between: sizes that aren't
    // whole frames waste their last one.
    mtu.upper_bound(largest).minimum_change((largest - SESSION_MIN_MTU) / 2 + 1);
    config
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(SESSION_MIN_MTU)
        .min_mtu(SESSION_MIN_MTU)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(IdleTimeout::try_from(SESSION_IDLE).ok())
        .keep_alive_interval(Some(SESSION_KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(SESSION_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(first_window(long)))
        .send_window(u64::from(STREAM_WINDOW))
        .datagram_receive_buffer_size(datagrams.then_some(RECEIVED_DATAGRAMS))
        .datagram_send_buffer_size(if long { SENT_DATAGRAMS_LONG } else { SENT_DATAGRAMS });
    if !long {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER)).max_ack_delay(Some(ACK_DELAY));
        config.ack_frequency_config(Some(acks));
    }
    // Ten packets, as RFC 9002 §7.2 allows, of the largest size: with fewer bytes than one packet nothing would ever be sent.
    let window = 10 * u64::from(largest);
    config.congestion_controller_factory(control.factory(window));
    config
}

/// Settings of an endpoint that takes packets up to `max_payload` bytes.
pub(crate) fn endpoint_config(max_payload: u16, reset_key: &[u8; 32]) -> EndpointConfig {
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, reset_key);
    // A packet of an earlier life is answered by a reset only if its connection id is known to be ours.
    let ids = aws_lc_rs::hmac::sign(&reset_key, b"connection ids");
    let ids = ids.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.grease_quic_bit(false); // the fixed bit tells QUIC from hop frames, RFC 9443
    let _ = config.max_udp_payload_size(max_payload); // refuses only values below 1,200
    config
}
