//! The model on simulated bottlenecks: a queue of limited length behind a link of some rate, with delay and random loss, and a
//! sender that paces as quinn does.

use std::collections::VecDeque;

use super::*;

const MTU: u64 = 2760;

/// A path, and what a flow over it came to.
struct Path {
    /// Bytes a second.
    rate: f64,
    rtt: Duration,
    /// Bytes that wait before the link at most.
    buffer: f64,
    /// Share of packets lost at random.
    loss: f64,
    /// How often on average, and for how long at most, the link stands still, as one does whose ends wait for a processor.
    stalls: Option<(Duration, Duration)>,
}

struct Flow {
    model: Model,
    start: Instant,
    now: Instant,
    /// When the link has sent all that waits.
    free: Instant,
    /// When the link, the way back and the sender stand still next.
    next_stall: [Option<Instant>; 3],
    /// Until when the way back stands still.
    back_free: Instant,
    in_flight: u64,
    /// Acknowledgements under way: when they arrive, when their packets were sent, whether the packet was lost.
    coming: VecDeque<(Instant, Instant, bool)>,
    delivered: u64,
    dropped: u64,
    /// Queueing delay of each packet.
    queued: Vec<Duration>,
    /// The peer's flow control: bytes that may be in flight whatever the window.
    allowed: u64,
    random: u64,
}

impl Flow {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            model: Model::new(start, 10 * MTU, MTU as u16),
            start,
            now: start,
            free: start,
            next_stall: [None; 3],
            back_free: start,
            in_flight: 0,
            coming: VecDeque::new(),
            delivered: 0,
            dropped: 0,
            queued: Vec::new(),
            allowed: u64::MAX,
            random: 7,
        }
    }

    /// A number from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as f64 / f64::from(1_u32 << 31)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.draw() < share
    }

    /// Until when `what` stands still: until `free`, or longer if it has begun to again.
    fn stall(&mut self, path: &Path, what: usize, mut free: Instant) -> Instant {
        let Some((every, most)) = path.stalls else { return free };
        let at = self.next_stall[what].unwrap_or(self.now);
        if at <= self.now {
            free = free.max(at) + most.mul_f64(self.draw());
            self.next_stall[what] = Some(self.now + every.mul_f64(-(1.0 - self.draw()).ln()));
        }
        free
    }

    /// Sends all the time, in bursts of at most ten packets, for so long; acknowledgements come for two packets each.
    fn run(&mut self, path: &Path, lasts: Duration) -> f64 {
        let (end, before) = (self.now + lasts, self.delivered);
        let mut srtt = path.rtt;
        let mut next_send = self.now;
        self.queued.clear();
        while self.now < end {
            self.back_free = self.stall(path, 1, self.back_free);
            self.now = self.now.max(self.stall(path, 2, self.now));
            let ack = self.coming.front().map(|coming| coming.0.max(self.back_free));
            let window = self.model.window().min(self.allowed);
            let may_send = self.in_flight + MTU <= window;
            let at = match ack {
                Some(ack) if !may_send || ack <= next_send => ack,
                _ if may_send => next_send,
                _ => panic!("nothing in flight and no window: {:?}", self.model),
            };
            self.now = self.now.max(at);
            if ack.is_some_and(|ack| ack <= self.now) {
                let mut lost = 0;
                for _ in 0..2 {
                    let Some((_, sent, dropped)) = self.coming.pop_front_if(|coming| coming.0 <= self.now)
                    else {
                        break;
                    };
                    self.in_flight -= MTU;
                    if dropped {
                        lost += MTU;
                    } else {
                        self.delivered += MTU;
                        srtt = (srtt * 7 + (self.now - sent)) / 8;
                        // quinn takes one that the peer's window stops for one without anything to send.
                        let limited = self.allowed < self.model.window();
                        self.model.acknowledged(sent, MTU, limited, srtt);
                    }
                }
                self.model.acknowledgement_ends(self.now, self.in_flight);
                if lost > 0 {
                    self.model.on_congestion_event(self.now, self.now, false, lost);
                }
                continue;
            }
            let burst = ((window - self.in_flight) / MTU).min(10);
            self.model.on_sent(self.now, burst * MTU, 0);
            for _ in 0..burst {
                self.send(path);
            }
            let pace = 1.25 * window as f64 / srtt.as_secs_f64();
            next_send = self.now + Duration::from_secs_f64((burst * MTU) as f64 / pace);
        }
        (self.delivered - before) as f64 / lasts.as_secs_f64() / path.rate
    }

    fn send(&mut self, path: &Path) {
        self.in_flight += MTU;
        self.free = self.stall(path, 0, self.free);
        let wait = self.free.saturating_duration_since(self.now);
        let full = wait.as_secs_f64() * path.rate > path.buffer;
        if full || self.chance(path.loss) {
            self.dropped += 1;
            self.coming.push_back((self.now + wait + path.rtt, self.now, true));
        } else {
            self.queued.push(wait);
            self.free = self.now.max(self.free) + Duration::from_secs_f64(MTU as f64 / path.rate);
            self.coming.push_back((self.free + path.rtt, self.now, false));
        }
        // Losses of a full queue are noticed in the order of the rest.
        self.coming.make_contiguous().sort_by_key(|coming| coming.0);
    }

    fn median_queue(&mut self) -> Duration {
        self.queued.sort_unstable();
        self.queued.get(self.queued.len() / 2).copied().unwrap_or_default()
    }
}

fn path(mbit: f64, rtt_ms: u64, loss: f64) -> Path {
    let rate = mbit * 125_000.0;
    Path { rate, rtt: Duration::from_millis(rtt_ms), buffer: rate * 0.05, loss, stalls: None }
}

#[test]
fn it_fills_links_of_any_speed_and_length_with_short_queues() {
    for (mbit, rtt) in
        [(10.0, 20), (100.0, 1), (100.0, 40), (1000.0, 1), (1000.0, 40), (2500.0, 10), (100.0, 200)]
    {
        let (mut flow, path) = (Flow::new(), path(mbit, rtt, 0.0));
        flow.run(&path, Duration::from_millis(500 + 10 * rtt));
        let used = flow.run(&path, Duration::from_secs(2));
        let queue = flow.median_queue();
        println!("{mbit} Mbit/s, {rtt} ms: {used:.3}, queue {queue:?}, dropped {}", flow.dropped);
        assert!(used > 0.96, "{mbit} Mbit/s, {rtt} ms: {used}");
        assert!(queue < Duration::from_millis(6) + path.rtt / 10, "{mbit} Mbit/s, {rtt} ms: {queue:?}");
    }
}

#[test]
fn random_loss_does_not_slow_it() {
    for (rtt, loss) in [(1, 0.01), (40, 0.01), (40, 0.05), (10, 0.1)] {
        let (mut flow, path) = (Flow::new(), path(500.0, rtt, loss));
        flow.run(&path, Duration::from_secs(1));
        let used = flow.run(&path, Duration::from_secs(2));
        println!("{rtt} ms, {loss}: {used:.3}");
        assert!(used > 0.95 * (1.0 - loss), "{rtt} ms, {loss}: {used}");
    }
}

#[test]
fn ends_that_wait_for_a_processor_cost_little_more_than_the_wait() {
    // Link, way back and sender stand still apart from each other, so less than a third of the time may be left.
    for (rtt, buffer_ms, every, most, least) in
        [(40, 5, 10, 8, 0.28), (40, 50, 50, 20, 0.63), (40, 50, 200, 40, 0.77), (1, 5, 200, 20, 0.8)]
    {
        let mut path = path(600.0, rtt, 0.01);
        path.buffer = path.rate * f64::from(buffer_ms) / 1000.0;
        path.stalls = Some((Duration::from_millis(every), Duration::from_millis(most)));
        let mut flow = Flow::new();
        flow.run(&path, Duration::from_secs(1));
        let used = flow.run(&path, Duration::from_secs(5));
        println!("{rtt} ms, every {every} ms up to {most} ms: {used:.3}");
        assert!(used > least, "{rtt} ms, every {every} ms up to {most} ms: {used}");
    }
}

#[test]
fn the_start_is_over_in_a_few_round_trips_and_drops_little() {
    let (mut flow, path) = (Flow::new(), path(1000.0, 40, 0.0));
    flow.run(&path, Duration::from_millis(40 * 14));
    let used = flow.run(&path, Duration::from_millis(200));
    let dropped = (flow.dropped * MTU) as f64 / (path.rate * 0.04);
    println!("{used:.3} {dropped:.3}");
    assert!(used > 0.9, "{used}");
    assert!(dropped < 0.5, "{dropped} of what the path holds");
}

#[test]
fn it_follows_a_path_that_gets_faster_slower_or_longer() {
    let mut flow = Flow::new();
    flow.run(&path(100.0, 10, 0.0), Duration::from_secs(1));
    for (mbit, rtt) in [(400.0, 10), (50.0, 10), (50.0, 80), (50.0, 5)] {
        let path = path(mbit, rtt, 0.0);
        flow.run(&path, Duration::from_secs(2));
        let used = flow.run(&path, Duration::from_secs(1));
        let queue = flow.median_queue();
        println!("{mbit} Mbit/s, {rtt} ms: {used:.3}, queue {queue:?}");
        assert!(used > 0.9, "{mbit} Mbit/s, {rtt} ms: {used}");
        assert!(queue < Duration::from_millis(20), "{mbit} Mbit/s, {rtt} ms: {queue:?}");
    }
}

#[test]
fn it_leaves_the_queue_that_a_slower_path_makes_also_when_the_peer_s_window_stops_it() {
    for (before, after, buffer_s, allowed) in [
        (40.0, 20.0, 3.0, u64::MAX),
        (80.0, 8.0, 4.0, u64::MAX),
        (80.0, 8.0, 4.0, 1 << 20),
        (80.0, 8.0, 0.1, 1 << 20),
    ] {
        let mut flow = Flow::new();
        flow.allowed = allowed;
        flow.run(&path(before, 40, 0.0), Duration::from_secs(2));
        let mut slow = path(after, 40, 0.0);
        slow.buffer = slow.rate * buffer_s;
        flow.run(&slow, Duration::from_secs(5));
        let dropped = flow.dropped;
        let used = flow.run(&slow, Duration::from_secs(2));
        let queue = flow.median_queue();
        println!(
            "{before} to {after} Mbit/s, {buffer_s} s, {allowed}: {used:.3}, queue {queue:?}, dropped {}",
            flow.dropped - dropped
        );
        assert!(used > 0.93, "{used}");
        assert!(queue < Duration::from_millis(15), "{queue:?}");
        assert!(flow.dropped - dropped < 20, "{}", flow.dropped - dropped);
    }
}

#[test]
fn a_trip_that_gets_a_little_longer_costs_little() {
    for (before, after) in [(1, 4), (1, 5), (20, 26), (20, 30)] {
        let mut flow = Flow::new();
        flow.run(&path(80.0, before, 0.0), Duration::from_secs(1));
        flow.run(&path(80.0, after, 0.0), Duration::from_secs(1));
        let used = flow.run(&path(80.0, after, 0.0), Duration::from_secs(2));
        println!("{before} to {after} ms: {used:.3}");
        assert!(used > 0.93, "{before} to {after} ms: {used}");
    }
}

#[test]
fn more_sendings_than_are_remembered_do_no_harm() {
    let (mut flow, path) = (Flow::new(), path(1000.0, 200, 0.0));
    flow.run(&path, Duration::from_secs(4));
    let used = flow.run(&path, Duration::from_secs(2));
    println!("{used:.3}, {:?}", flow.median_queue());
    assert!(used > 0.93, "{used}");
    assert!(flow.median_queue() < Duration::from_millis(20));
}

#[test]
fn a_lone_packet_whose_acknowledgement_waits_does_not_end_the_start() {
    let mut flow = Flow::new();
    let rtt = Duration::from_millis(40);
    for n in 0..5_u32 {
        let at = flow.now + Duration::from_secs(1) * n;
        flow.model.on_sent(at, MTU, 0);
        flow.model.acknowledged(at, MTU, true, Duration::from_millis(40));
        flow.model.acknowledgement_ends(at + rtt + Duration::from_millis(if n == 0 { 0 } else { 25 }), 0);
    }
    assert!(matches!(flow.model.state, State::Startup { .. }), "{:?}", flow.model.state);
    assert!(flow.model.window() >= 10 * MTU);
}

#[test]
fn a_trip_that_is_impossibly_short_is_not_believed() {
    let mut flow = Flow::new();
    flow.run(&path(100.0, 40, 0.0), Duration::from_secs(1));
    let (now, min) = (flow.now, flow.model.min_rtt);
    flow.model.on_sent(now, MTU, 0);
    flow.model.acknowledged(now, MTU, false, Duration::from_millis(41));
    flow.model.acknowledgement_ends(now + Duration::from_micros(1), flow.in_flight);
    assert_eq!(flow.model.min_rtt, min);
}

#[test]
fn what_only_acknowledges_remembers_little() {
    let mut flow = Flow::new();
    for n in 0..100_000_u32 {
        flow.model.on_sent(flow.now + Duration::from_micros(100) * n, 50, 0);
    }
    assert!(flow.model.sent.remembered() <= 16);
}

#[test]
fn a_start_that_ended_too_early_is_made_up_for() {
    let (mut flow, path) = (Flow::new(), path(1000.0, 40, 0.01));
    flow.run(&path, Duration::from_millis(100));
    flow.model.state = State::Cruise { until: flow.model.round };
    flow.model.rates = Rates::default();
    flow.model.rates.add(1e6, false);
    flow.run(&path, Duration::from_millis(1200));
    let used = flow.run(&path, Duration::from_millis(300));
    println!("{used:.3}");
    assert!(used > 0.85, "{used}");
}

#[test]
fn a_short_queue_loses_little() {
    let mut path = path(200.0, 30, 0.0);
    path.buffer = path.rate * 0.003;
    let mut flow = Flow::new();
    flow.run(&path, Duration::from_secs(1));
    let (dropped, delivered) = (flow.dropped, flow.delivered);
    let used = flow.run(&path, Duration::from_secs(3));
    let lost = ((flow.dropped - dropped) * MTU) as f64 / (flow.delivered - delivered) as f64;
    println!("{used:.3} {lost:.4}");
    assert!(used > 0.93, "{used}");
    assert!(lost < 0.06, "{lost}");
}

#[test]
fn the_shortest_trip_is_measured_anew_at_least_every_ten_seconds() {
    let (mut flow, short, long) = (Flow::new(), path(50.0, 20, 0.0), path(50.0, 26, 0.0));
    flow.run(&short, Duration::from_secs(1));
    assert!(flow.model.min_rtt.unwrap() < Duration::from_millis(22), "{:?}", flow.model.min_rtt);
    flow.run(&long, Duration::from_secs(12));
    assert!(flow.model.min_rtt.unwrap() >= Duration::from_millis(26), "{:?}", flow.model.min_rtt);
}

#[test]
fn losing_everything_for_long_starts_anew() {
    let mut flow = Flow::new();
    flow.run(&path(100.0, 10, 0.0), Duration::from_secs(1));
    assert!(flow.model.window() > 10 * MTU);
    flow.model.on_congestion_event(flow.now, flow.start, true, MTU);
    assert_eq!(flow.model.window(), 10 * MTU);
    assert_eq!(flow.model.state, State::Startup { best: 0.0, flat: 0 });
}

#[test]
fn a_sender_with_little_to_send_keeps_what_is_known() {
    let mut flow = Flow::new();
    let path = path(100.0, 10, 0.0);
    flow.run(&path, Duration::from_secs(1));
    let before = flow.model.window();
    // One packet every 50 ms, for five seconds.
    flow.coming.clear();
    flow.model.acknowledgement_ends(flow.now, 0);
    for n in 1..100_u32 {
        let at = flow.now + Duration::from_millis(50) * n;
        flow.model.on_sent(at, MTU, 0);
        flow.model.acknowledged(at, MTU, true, Duration::from_millis(40));
        flow.model.acknowledgement_ends(at + path.rtt, 0);
    }
    assert!(flow.model.window() * 10 > before * 8, "{} after {before}", flow.model.window());
}
