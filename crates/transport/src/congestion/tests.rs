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
}

struct Flow {
    model: Model,
    start: Instant,
    now: Instant,
    /// When the link has sent all that waits.
    free: Instant,
    in_flight: u64,
    /// Acknowledgements under way: when they arrive, when their packets were sent, whether the packet was lost.
    coming: VecDeque<(Instant, Instant, bool)>,
    delivered: u64,
    dropped: u64,
    /// Queueing delay of each packet.
    queued: Vec<Duration>,
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
            in_flight: 0,
            coming: VecDeque::new(),
            delivered: 0,
            dropped: 0,
            queued: Vec::new(),
            random: 7,
        }
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.random >> 33) as f64) < share * f64::from(1_u32 << 31)
    }

    /// Sends all the time, in bursts of at most ten packets, for so long; acknowledgements come for two packets each.
    fn run(&mut self, path: &Path, lasts: Duration) -> f64 {
        let (end, before) = (self.now + lasts, self.delivered);
        let mut srtt = path.rtt;
        let mut next_send = self.now;
        self.queued.clear();
        while self.now < end {
            let ack = self.coming.front().map(|coming| coming.0);
            let may_send = self.in_flight + MTU <= self.model.window();
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
                        self.model.acknowledged(sent, MTU, false);
                    }
                }
                self.model.acknowledgement_ends(self.now, self.in_flight);
                if lost > 0 {
                    self.model.on_congestion_event(self.now, self.now, false, lost);
                }
                continue;
            }
            let burst = ((self.model.window() - self.in_flight) / MTU).min(10);
            self.model.on_sent(self.now, burst * MTU, 0);
            for _ in 0..burst {
                self.send(path);
            }
            let pace = 1.25 * self.model.window() as f64 / srtt.as_secs_f64();
            next_send = self.now + Duration::from_secs_f64((burst * MTU) as f64 / pace);
        }
        (self.delivered - before) as f64 / lasts.as_secs_f64() / path.rate
    }

    fn send(&mut self, path: &Path) {
        self.in_flight += MTU;
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
    Path { rate, rtt: Duration::from_millis(rtt_ms), buffer: rate * 0.05, loss }
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
        flow.model.acknowledged(at, MTU, true);
        flow.model.acknowledgement_ends(at + path.rtt, 0);
    }
    assert!(flow.model.window() * 10 > before * 8, "{} after {before}", flow.model.window());
}
