//! Adaptive windows: a session's connection window follows the measured delivery rate times the round trip, with hysteresis.
//!
//! A window far above the path's bandwidth-delay product only fills buffers and memory; one below it caps the rate. Parity
//! parts are switched here too, by measured loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_transport::quic::{LONG_FIRST_WINDOW, STREAM_WINDOW, first_window};
use quinn::{ConnectionStats, FrameStats};

use super::Inner;
use super::sessions::Session;

/// How often the path is measured.
const MEASURE: Duration = Duration::from_millis(250);
/// A window counts as stopping the peer for this long after it has said so, which it does once for each window.
const STOPPED: Duration = Duration::from_secs(1);
/// How often while no stream carries anything: each look wakes the connection, and a node has many that rest.
const MEASURE_QUIET: Duration = Duration::from_secs(1);
/// A session is quiet when no stream has carried anything for this long, and none is blocked.
const QUIET: Duration = Duration::from_secs(2);
/// The window is this many bandwidth-delay products: one is on the way, one waits for its acknowledgement, and the rate
/// can double before the next measurement.
const PRODUCTS: f64 = 4.0;
/// While the peer says that the window stops it, over a long path it is this many: what arrives after a lost packet waits here for its
/// repetition, and where one in fifty is lost, some repetition is always lost too and takes three round trips. A reader slower than the
/// path asks for no more: one window in 16 round trips is little beside what it reads.
const STOPPED_PRODUCTS: f64 = 16.0;
/// A new window must differ by this factor from the one in force.
const HYSTERESIS: f64 = 2.0;
/// Over a short path at most this part of the socket's receive buffer (as the kernel counts it, which is twice the bytes asked for and
/// includes its own overhead): while this node isn't scheduled the whole window comes to wait there, and what finds no place is
/// lost. Over long paths the window must exceed the buffer, since most of it is on the way.
const BUFFER_SHARE: u32 = 4;
/// Over short paths smaller windows save nothing worth having. Over long ones the first window is the smallest: a stream's start looks like a
/// slow path, and the sender may not spend its first second in a window that was fitted to it.
const MIN_WINDOW: u32 = 1 << 20;
/// Measurements below this many packets say nothing of loss.
const MIN_PACKETS: u64 = 50;
/// Loss above which parity parts pay: one packet in a thousand halves CUBIC's rate long before it costs 8 % of the bytes.
const PARITY_ON: f64 = 0.001;
/// Measurements in a row that must show such loss: a flow's start fills queues for a moment, which is no property of the path.
const PARITY_AFTER: u32 = 4;
/// Packets below this size have too few parts: one more would cost more than the loss does.
const PARITY_PACKET: u16 = 8_000;
/// How long parity is kept after the loss that asked for it.
const PARITY_HOLD: Duration = Duration::from_secs(10);
/// If parity doesn't at least halve the loss, the loss is congestion's, and parity only adds to it.
const PARITY_GAIN: f64 = 0.5;
/// Rest after parity has proved useless.
const PARITY_REST: Duration = Duration::from_secs(60);
/// A tick that brings less than this, although the peer has more to send, stands still: a fast path brings far more, a slow
/// one (2 Mbit/s) isn't stopped by the window.
const STANDSTILL: u64 = 64 << 10;
/// Streams of one peer that may stand still, each holding a whole stream window, before the session does: 128 MiB.
const STANDING_STREAMS: u32 = 4;
/// The room is taken back when the peer hasn't been stopped for this long; if the streams still stand, it comes again.
const UNREAD_HOLD: Duration = Duration::from_secs(300);

/// What a session's path was measured to be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Delivery rate in bytes a second, the larger of both directions.
    pub(crate) rate: f64,
    /// Connection window in bytes.
    pub(crate) window: u32,
    /// Share of packets lost lately.
    pub(crate) loss: f64,
    /// Whether parity parts are sent.
    pub(crate) parity: bool,
}

/// The name of the tier that a rate belongs to.
pub(crate) fn tier(rate: f64) -> &'static str {
    match rate * 8e-6 {
        mbit if mbit < 10.0 => "under 10 Mbit/s",
        mbit if mbit < 150.0 => "100 Mbit/s",
        mbit if mbit < 1500.0 => "1 Gbit/s",
        mbit if mbit < 3500.0 => "2.5 Gbit/s",
        _ => "10 Gbit/s",
    }
}

/// The window for a rate (bytes a second) and a round trip, given the one in force, whether it stops the peer, and the smallest and largest
/// for this path; `None` to leave it.
pub(crate) fn window(
    rate: f64,
    rtt: Duration,
    current: u32,
    stops: bool,
    (least, largest): (u32, u32),
) -> Option<u32> {
    let products = if stops { STOPPED_PRODUCTS } else { PRODUCTS };
    let wanted = (rate * rtt.as_secs_f64() * products).clamp(f64::from(least), f64::from(largest));
    if current > largest {
        return Some(wanted as u32);
    }
    let factor = wanted / f64::from(current.max(1));
    // Growing is urgent, since a window that is too small hides the rate that would ask for more.
    (factor >= HYSTERESIS.sqrt() || factor <= 1.0 / HYSTERESIS).then_some(wanted as u32)
}

/// When parity was turned on, and what the path lost without it.
#[derive(Clone, Copy, Debug)]
struct Trial {
    since: Instant,
    loss: f64,
    packet: u16,
}

/// Whether to send parity parts.
#[derive(Debug, Default)]
pub(crate) struct ParityChoice {
    /// Measurements in a row with loss.
    lossy: u32,
    on_since: Option<Trial>,
    rest_until: Option<Instant>,
}

impl ParityChoice {
    /// Decides by the loss just measured of packets of `packet` bytes.
    pub(crate) fn decide(&mut self, now: Instant, loss: f64, packet: u16) -> bool {
        if self.rest_until.is_some_and(|until| now < until) {
            return false;
        }
        self.lossy = if loss >= PARITY_ON { self.lossy.saturating_add(1) } else { 0 };
        match self.on_since {
            None if self.lossy >= PARITY_AFTER && packet >= PARITY_PACKET => {
                self.on_since = Some(Trial { since: now, loss, packet })
            }
            None => {}
            // Larger packets lose more, whatever parity does: look again without it.
            Some(trial) if trial.packet != packet => self.on_since = None,
            Some(Trial { since, loss: before, .. }) => {
                let settled = now.duration_since(since) >= MEASURE * 4;
                if settled && loss >= PARITY_ON && loss > before * PARITY_GAIN {
                    self.on_since = None;
                    self.rest_until = Some(now + PARITY_REST);
                } else if now.duration_since(since) >= PARITY_HOLD {
                    self.on_since = None; // look whether the path still loses
                }
            }
        }
        self.on_since.is_some()
    }
}

/// Room for streams that nobody reads here: what waits in them counts against the session's window, and must not keep every
/// other stream and all messages of the peer from coming.
#[derive(Default)]
struct Unread {
    /// Bytes added to the measured window.
    room: u32,
    /// How often the peer had said that the window stops it.
    seen: u64,
    /// Whether it has said so since the window last moved on; how often that was.
    blocked: bool,
    granted: u64,
    /// When it last said so.
    at: Option<Instant>,
}

impl Unread {
    /// The room after a tick in which `received` bytes came. The peer has named the window `blocked` times in all, and has been told of
    /// a larger one `granted` times.
    fn decide(&mut self, now: Instant, blocked: u64, granted: u64, received: u64) -> u32 {
        if granted > self.granted {
            // Someone reads: it goes on, and the measured window follows.
            self.granted = granted;
            self.blocked = false;
        }
        if blocked > self.seen {
            self.seen = blocked;
            self.blocked = true;
            self.at = Some(now);
        }
        // QUIC says it once for each window, before the data that fills it has arrived: on a slow path seconds before.
        if self.blocked && received < STANDSTILL {
            self.blocked = false;
            self.room = (self.room + STREAM_WINDOW).min(STANDING_STREAMS * STREAM_WINDOW);
        }
        if self.at.is_some_and(|at| now.duration_since(at) >= UNREAD_HOLD) {
            self.at = None;
            self.room = 0;
        }
        self.room
    }
}

/// How closely a session is followed.
#[derive(Debug)]
struct Pace {
    carried: u64,
    /// When a stream last carried something.
    active: Instant,
}

impl Pace {
    fn new(now: Instant, stats: &ConnectionStats) -> Self {
        Self { carried: carried(stats), active: now }
    }

    /// The time until the next look, and whether the session is quiet.
    fn decide(&mut self, now: Instant, carried: u64, blocked: bool) -> (Duration, bool) {
        if blocked || carried != self.carried {
            self.carried = carried;
            self.active = now;
        }
        let quiet = now.duration_since(self.active) >= QUIET;
        (if quiet { MEASURE_QUIET } else { MEASURE }, quiet)
    }
}

/// Grows when a stream carries something or a writer is stopped; keep-alives and acknowledgements don't count.
fn carried(stats: &ConnectionStats) -> u64 {
    let of = |frames: &FrameStats| frames.stream + frames.data_blocked + frames.stream_data_blocked;
    of(&stats.frame_tx) + of(&stats.frame_rx)
}

/// Follows one session until it ends.
pub(crate) async fn follow(inner: Arc<Inner>, session: Session) {
    let connection = &session.connection;
    let address = session.member.address;
    let buffer = inner.endpoints.plane().wire().buffer_sizes().map_or(0, |(receive, _)| receive);
    let near = (u32::try_from(buffer).unwrap_or(u32::MAX) / BUFFER_SHARE).clamp(MIN_WINDOW, STREAM_WINDOW);
    let mut before = connection.stats();
    let mut at = Instant::now();
    let mut measured =
        Measured { window: first_window(inner.endpoints.is_long(address)), ..Measured::default() };
    let mut choice = ParityChoice::default();
    let mut unread = Unread::default();
    let mut pace = Pace::new(at, &before);
    let mut stopped: Option<Instant> = None;
    loop {
        let (wait, quiet) = pace.decide(at, carried(&before), unread.blocked);
        tokio::select! {
            _ = connection.closed() => break,
            () = tokio::time::sleep(wait) => {}
            () = session.began.notified(), if quiet => {
                // What follows is measured from here, at the quicker pace.
                (before, at) = (connection.stats(), Instant::now());
                pace.active = at;
                continue;
            }
        }
        let (stats, now) = (connection.stats(), Instant::now());
        let elapsed = now.duration_since(at).as_secs_f64().max(1e-3);
        let received = stats.udp_rx.bytes.saturating_sub(before.udp_rx.bytes);
        let sent = stats.udp_tx.bytes.saturating_sub(before.udp_tx.bytes);
        measured.rate = received.max(sent) as f64 / elapsed;
        // The window limits what the peer sends to us, so the receiving rate decides.
        if stats.frame_rx.data_blocked > before.frame_rx.data_blocked {
            stopped = Some(now);
        }
        let stops = stopped.is_some_and(|said| now.duration_since(said) < STOPPED);
        let (stops, bounds) = match inner.endpoints.is_long(address) {
            true => (stops, (LONG_FIRST_WINDOW, STREAM_WINDOW)),
            // Here a repetition takes hardly any time.
            false => (false, (MIN_WINDOW, near)),
        };
        let rate = received as f64 / elapsed;
        if let Some(window) = window(rate, connection.rtt(), measured.window, stops, bounds)
            && (window > measured.window || received > 0)
        {
            measured.window = window;
        }
        let room = unread.decide(now, stats.frame_rx.data_blocked, stats.frame_tx.max_data, received);
        let whole = measured.window.saturating_add(room);
        // Also when nothing changes: a writer that the peer's window stops wakes nobody, and only a connection that is awake says so.
        connection.set_receive_window(whole.into());
        let packets = stats.path.sent_packets.saturating_sub(before.path.sent_packets);
        if packets >= MIN_PACKETS {
            let lost = stats.path.lost_packets.saturating_sub(before.path.lost_packets);
            measured.loss = lost as f64 / packets as f64;
            measured.parity = choice.decide(now, measured.loss, stats.path.current_mtu);
        }
        if received.max(sent) >= STANDSTILL {
            let path = stats.path;
            tracing::trace!(
                %address, sent, received, window = whole, congestion_window = path.cwnd, rtt = ?path.rtt, loss = measured.loss,
                mtu = path.current_mtu, lost = path.lost_packets, black_holes = path.black_holes_detected, "session"
            );
        }
        // Of several sessions with a peer one decides. It says so each time, as another one may have done so before it.
        if inner.sessions.is_current(&session) {
            inner.endpoints.plane().set_parity(address, measured.parity);
            inner.sessions.note(session.member.node_id, measured);
        }
        before = stats;
        at = now;
    }
    if inner.sessions.existing(&session.member.node_id).is_none() {
        inner.endpoints.plane().set_parity(address, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_stands_still_gets_room_beside_it() {
        let (mut unread, start) = (Unread::default(), Instant::now());
        let tick = |n: u32| start + MEASURE * n;
        assert_eq!(unread.decide(tick(1), 0, 0, 0), 0, "idle is not blocked");
        for n in 2..5 {
            assert_eq!(
                unread.decide(tick(n), n.into(), n.into(), 10 << 20),
                0,
                "fast, and the window follows"
            );
        }
        assert_eq!(unread.decide(tick(5), 4, 5, 0), 0, "a transfer that was read whole, and ended");
        for n in 6..20 {
            assert_eq!(unread.decide(tick(n), 5, 5, 400 << 10), 0, "said long before the data came");
        }
        assert_eq!(unread.decide(tick(20), 5, 5, 100), STREAM_WINDOW, "all has come, and nobody reads it");
        assert_eq!(unread.decide(tick(21), 5, 6, 100), STREAM_WINDOW, "once for each time");
        for n in 22..40 {
            let room = unread.decide(tick(n), n.into(), 6, 100);
            assert!(room <= STANDING_STREAMS * STREAM_WINDOW);
        }
        let later = tick(40) + UNREAD_HOLD;
        assert_eq!(unread.decide(later, 39, 6, 0), 0);
    }

    #[test]
    fn a_session_at_rest_is_looked_at_rarely() {
        let start = Instant::now();
        let mut pace = Pace { carried: 7, active: start };
        assert_eq!(pace.decide(start, 7, false), (MEASURE, false));
        assert_eq!(pace.decide(start + QUIET, 7, false), (MEASURE_QUIET, true));
        assert_eq!(pace.decide(start + QUIET, 8, false), (MEASURE, false), "a frame came");
        assert_eq!(pace.decide(start + QUIET * 2, 8, true), (MEASURE, false), "a writer is stopped");
        assert_eq!(pace.decide(start + QUIET * 3, 8, false), (MEASURE_QUIET, true));
    }

    #[test]
    fn windows_follow_the_product_with_hysteresis() {
        let (gigabit, any) = (125e6, (MIN_WINDOW, STREAM_WINDOW));
        let rtt = Duration::from_millis(40);
        assert_eq!(window(gigabit, rtt, 4 << 20, false, any), Some(20_000_000));
        assert_eq!(window(gigabit, rtt, 20_000_000, false, any), None);
        assert_eq!(
            window(gigabit * 1.2, rtt, 20_000_000, false, any),
            None,
            "a fifth more is within the margin"
        );
        assert_eq!(window(gigabit, Duration::from_millis(1), 20_000_000, false, any), Some(MIN_WINDOW));
        assert_eq!(window(1e12, rtt, 4 << 20, false, any), Some(STREAM_WINDOW), "bounded");
        let near = (MIN_WINDOW, 4 << 20);
        assert_eq!(
            window(gigabit, rtt, 16 << 20, false, near),
            Some(4 << 20),
            "what fits in the socket's buffer"
        );
        assert_eq!(window(gigabit, rtt, 4 << 20, false, near), None);
    }

    #[test]
    fn the_start_of_a_stream_over_a_long_path_keeps_its_first_window() {
        let long = (LONG_FIRST_WINDOW, STREAM_WINDOW);
        assert_eq!(window(1e6, Duration::from_millis(40), LONG_FIRST_WINDOW, false, long), None);
        assert_eq!(
            window(1e6, Duration::from_millis(40), STREAM_WINDOW, false, long),
            Some(LONG_FIRST_WINDOW)
        );
    }

    #[test]
    fn a_window_that_stops_the_peer_grows_but_for_a_slow_reader() {
        let (rtt, long) = (Duration::from_millis(40), (LONG_FIRST_WINDOW, STREAM_WINDOW));
        // 0.3 Gbit/s, where packets are lost and their repetitions too.
        assert_eq!(window(37.5e6, rtt, 6 << 20, true, long), Some(24_000_000));
        assert_eq!(window(37.5e6, rtt, 24_000_000, true, long), None);
        assert_eq!(window(1e6, rtt, LONG_FIRST_WINDOW, true, long), None);
    }

    /// The decision after so much loss for as long as it takes.
    fn lasting(choice: &mut ParityChoice, at: Instant, loss: f64, packet: u16) -> bool {
        (0..PARITY_AFTER).map(|_| choice.decide(at, loss, packet)).last().unwrap()
    }

    #[test]
    fn parity_is_judged_by_packets_of_one_size() {
        let start = Instant::now();
        let mut choice = ParityChoice::default();
        assert!(!lasting(&mut choice, start, 0.01, 1200), "too few parts");
        assert!(choice.decide(start, 0.01, 10_000));
        assert!(!choice.decide(start + MEASURE, 0.02, 15_000), "measured anew");
        assert!(choice.decide(start + MEASURE * 2, 0.1, 15_000));
        assert!(choice.decide(start + MEASURE * 7, 0.006, 15_000), "it helps");
    }

    #[test]
    fn a_full_queue_for_a_moment_asks_for_no_parity() {
        let (mut choice, start) = (ParityChoice::default(), Instant::now());
        for n in 0..PARITY_AFTER - 1 {
            assert!(!choice.decide(start + MEASURE * n, 0.05, 15_000));
        }
        assert!(!choice.decide(start + MEASURE * PARITY_AFTER, 0.0, 15_000));
        assert!(!choice.decide(start + MEASURE * (PARITY_AFTER + 1), 0.05, 15_000));
    }

    #[test]
    fn parity_stays_only_where_it_helps() {
        let start = Instant::now();
        let mut random = ParityChoice::default();
        assert!(!random.decide(start, 0.0, 15_000));
        assert!(lasting(&mut random, start, 0.01, 15_000));
        assert!(random.decide(start + MEASURE * 5, 0.0005, 15_000), "it helps");
        let mut congestion = ParityChoice::default();
        assert!(lasting(&mut congestion, start, 0.01, 15_000));
        assert!(!congestion.decide(start + MEASURE * 5, 0.02, 15_000), "it doesn't");
        assert!(!lasting(&mut congestion, start + MEASURE * 6, 0.02, 15_000), "and rests");
        assert!(lasting(&mut congestion, start + PARITY_REST * 2, 0.02, 15_000));
    }
}
