//! A wire with delay, jitter, loss and replay between two TUN devices: the kernel here has no netem.
//!
//! Each direction is two threads: one reads and stamps packets, one hands them over when they are due. Everything that is IP passes,
//! TCP too, so that Meshara and its baselines share one link. Order is kept.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::namespace::Namespace;
use super::tun;

/// Packets under way in one direction: 2.5 Gbit/s of 1,500 bytes for 160 ms. A full wire drops, as a router does.
const UNDER_WAY: usize = 1 << 15;

/// Largest packet with its offload header.
const PACKET: usize = 65_536 + 10;

/// How much later a replayed packet comes once more: after the window of any sliding replay filter has moved on.
const REPLAY_AFTER: Duration = Duration::from_secs(1);

/// Packets kept for replay; older ones are forgotten.
const REPLAY_KEPT: usize = 4096;

/// What a wire does to packets, in each direction alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WireConfig {
    /// One-way latency.
    pub(crate) delay: Duration,
    /// Largest addition to the latency of a packet, uniform; packets stay in order.
    pub(crate) jitter: Duration,
    /// Share of packets that are lost, 0 to 1.
    pub(crate) loss: f64,
    /// Whether unsegmented packets may pass: cheap, but one loss would then take up to 64 KiB.
    pub(crate) offload: bool,
}

impl WireConfig {
    /// A wire with half of `rtt` each way and a share of lost packets.
    pub(crate) fn new(rtt: Duration, loss: f64) -> Self {
        Self { delay: rtt / 2, jitter: Duration::ZERO, loss, offload: loss == 0.0 }
    }
}

/// Switches of a running wire.
#[derive(Debug, Default)]
pub(crate) struct WireControl {
    /// While set, every packet comes a second time, [`REPLAY_AFTER`] the first.
    pub(crate) replay: AtomicBool,
}

/// Lays a wire: a device of the given name appears in each namespace. It lasts until the namespaces go.
pub(crate) fn lay(ends: [(&Namespace, &str); 2], config: WireConfig, seed: u64) -> Result<Arc<WireControl>> {
    let [a, b] = ends.map(|(namespace, device)| {
        let device = device.to_owned();
        namespace.within(move || tun::open(&device, config.offload))?
    });
    let (a, b) = (a?, b?);
    let control = Arc::new(WireControl::default());
    direction(a.try_clone()?, b.try_clone()?, config, seed, Arc::clone(&control))?;
    direction(b, a, config, seed.wrapping_add(1), Arc::clone(&control))?;
    Ok(control)
}

type Stamped = (Instant, Vec<u8>);

fn direction(from: File, to: File, config: WireConfig, seed: u64, control: Arc<WireControl>) -> Result<()> {
    let (send, receive) = sync_channel(UNDER_WAY);
    let rng = SmallRng::seed_from_u64(seed);
    let start = |name: &str| thread::Builder::new().name(name.into());
    start("wire-in")
        .spawn(move || take(from, config, rng, &control, &send))
        .context("cannot start a thread")?;
    start("wire-out").spawn(move || give(to, &receive)).context("cannot start a thread")?;
    Ok(())
}

/// Reads packets until the device is gone.
fn take(
    mut from: File,
    config: WireConfig,
    mut rng: SmallRng,
    control: &WireControl,
    send: &SyncSender<Stamped>,
) {
    let mut buffer = vec![0; PACKET];
    let mut last = Instant::now();
    let mut replays = std::collections::VecDeque::new();
    while let Ok(len) = from.read(&mut buffer) {
        let now = Instant::now();
        if config.loss > 0.0 && rng.random_bool(config.loss) {
            continue;
        }
        let packet = buffer.get(..len).unwrap_or_default();
        let jitter =
            if config.jitter.is_zero() { Duration::ZERO } else { config.jitter.mul_f64(rng.random()) };
        last = last.max(now + config.delay + jitter);
        if control.replay.load(Relaxed) && replays.len() < REPLAY_KEPT {
            replays.push_back((now + REPLAY_AFTER, packet.to_vec()));
        }
        // A full channel drops the packet; a closed one means that the other end is gone.
        let _ = send.try_send((last, packet.to_vec()));
        while replays.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, packet)) = replays.pop_front() {
                let _ = send.try_send((last, packet));
            }
        }
    }
}

/// Writes packets when they are due.
fn give(mut to: File, receive: &Receiver<Stamped>) {
    while let Ok((due, packet)) = receive.recv() {
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        // A device that is down refuses packets: they are lost, as on a real link.
        let _ = to.write(&packet);
    }
}
