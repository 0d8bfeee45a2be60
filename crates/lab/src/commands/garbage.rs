//! Bad input from outside: floods of nonsense, replayed frames and wrong joins at a node that carries traffic meanwhile.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde::Serialize;

use crate::context::Context;
use crate::measure::machine::usage;
use crate::measure::stats::Summary;
use crate::mesh::form::{Mesh, ticket};
use crate::mesh::node::Node;
use crate::mesh::ping::PingRun;
use crate::net::link::{Medium, NODE_PORT, join};
use crate::net::namespace::Namespace;
use crate::net::topology::Topology;
use crate::net::wire::WireConfig;
use crate::report::{Table, cells};

/// Datagrams per second: a bounded flood that leaves the machine enough time for the node.
const FLOOD_PER_SECOND: u32 = 5_000;

/// Datagrams sent at once, so that the sleep between is one that the kernel can keep.
const BURST: u32 = 10;

/// Wrong joins per second.
const JOINS_PER_SECOND: u32 = 20;

/// How long each attack lasts; its pings take as long.
const ATTACK: Duration = Duration::from_secs(10);

/// Largest datagram that the flood sends: more than a wire's MTU, so that some come in fragments.
const LARGEST: usize = 3000;

/// `status` must answer within this while under attack.
const STATUS_MS: f64 = 250.0;

/// No gap of the traffic that the attacked node carries may be longer.
const GAP_MS: f64 = 400.0;

/// One attack and what the mesh felt of it.
#[derive(Debug, Clone, Serialize)]
struct Attack {
    name: &'static str,
    sent: u64,
    pings_lost: u64,
    longest_gap_ms: f64,
    /// Times of `status` at the attacked node in ms.
    status_ms: Option<Summary>,
    /// Resident memory of the attacked node in KiB before and after.
    resident_kib: [u64; 2],
}

/// `meshara-lab garbage`.
pub(crate) fn command(context: &Context) -> Result<()> {
    let wire =
        WireConfig { delay: Duration::from_micros(500), jitter: Duration::ZERO, loss: 0.0, offload: true };
    let (mesh, _) = context.mesh(Topology::parse("line-3", context.seed)?, Medium::Wire(wire))?;
    let attacked = mesh.node(1)?;
    // A host outside the mesh, on a link of its own to the attacked node.
    let outside = Namespace::create(context.run.namespace("outside"))?;
    join(&outside, "side", "10.99.0.2/30", &attacked.host, "side", "10.99.0.1/30")?;
    let target = SocketAddr::from(([10, 99, 0, 1], NODE_PORT));
    let mut attacks = Vec::new();
    for name in ["nothing", "garbage", "replay", "wrong joins"] {
        attacks.push(attack(context, &mesh, name, &outside, target)?);
    }
    let right = join_rightly(context, &mesh, &outside, target);
    let mut table = Table::new(&[
        "attack",
        "sent",
        "pings lost",
        "longest gap ms",
        "status p50 ms",
        "p95",
        "p99",
        "max",
        "MiB before",
        "after",
    ]);
    for attack in &attacks {
        let mut row = vec![
            attack.name.to_owned(),
            attack.sent.to_string(),
            attack.pings_lost.to_string(),
            format!("{:.0}", attack.longest_gap_ms),
        ];
        row.extend(cells(attack.status_ms));
        row.extend(attack.resident_kib.map(|kib| (kib / 1024).to_string()));
        table.row(row);
    }
    println!("{}", table.render());
    context.write("garbage", &attacks)?;
    context.clear(mesh);
    right.context("a right join after all that")?;
    println!("a right join from the same address still works");
    for attack in &attacks {
        let slow = attack.status_ms.is_none_or(|status| status.p99 > STATUS_MS);
        if attack.longest_gap_ms > GAP_MS || slow {
            bail!("{}: the node did not stay responsive", attack.name);
        }
    }
    Ok(())
}

fn attack(
    context: &Context,
    mesh: &Mesh,
    name: &'static str,
    outside: &Namespace,
    target: SocketAddr,
) -> Result<Attack> {
    let (from, to) = mesh.ends()?;
    let attacked = mesh.node(1)?;
    let memory = || usage(attacked.pid()?).map(|(kib, _)| kib).context("the attacked node ended");
    let before = memory()?;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let replay = |on: bool| {
        for wire in mesh.network.links.iter().filter_map(|link| link.wire.as_ref()) {
            wire.replay.store(on, Relaxed);
        }
    };
    let pings = PingRun::start(from, &to.name, u32::try_from(ATTACK.as_millis() / 10)?, context.start)?;
    let attacker = match name {
        "garbage" => {
            let (stop, sent, seed) = (Arc::clone(&stop), Arc::clone(&sent), context.seed);
            Some(outside.spawn(move || flood(target, seed, &stop, &sent))?)
        }
        "wrong joins" => {
            let wrong = wrong_ticket(mesh.node(0)?)?;
            let joins =
                Joins { dir: context.fresh_dir()?, meshara: context.meshara.clone(), host: outside.clone() };
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            Some(outside.spawn(move || joins.run(&wrong, target, &stop, &sent))?)
        }
        "replay" => {
            replay(true);
            None
        }
        _ => None,
    };
    let mut status = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < ATTACK {
        let asked = context.now();
        attacked.get("/v1/status")?;
        status.push(context.now() - asked);
        std::thread::sleep(Duration::from_millis(100));
    }
    replay(false);
    stop.store(true, Relaxed);
    let pings = pings.finish()?;
    if let Some(attacker) = attacker {
        attacker.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))???;
    }
    let found = Attack {
        name,
        sent: sent.load(Relaxed),
        pings_lost: pings.summary.sent - pings.summary.received,
        longest_gap_ms: pings.summary.longest_gap_ms.unwrap_or_default(),
        status_ms: Summary::of(status),
        resident_kib: [before, memory()?],
    };
    println!("{name}: longest gap {:.0} ms, {} pings lost", found.longest_gap_ms, found.pings_lost);
    Ok(found)
}

/// Sends nonsense of every kind: random bytes, empty and oversized datagrams, QUIC long headers cut off, hop frames of nobody.
fn flood(target: SocketAddr, seed: u64, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut buffer = [0; LARGEST];
    while !stop.load(Relaxed) {
        for _ in 0..BURST {
            rng.fill_bytes(&mut buffer);
            let len =
                if rng.random_bool(0.2) { rng.random_range(0..40) } else { rng.random_range(0..LARGEST) };
            shape(&mut buffer, &mut rng);
            if socket.send_to(buffer.get(..len).unwrap_or_default(), target).is_ok() {
                sent.fetch_add(1, Relaxed);
            }
        }
        std::thread::sleep(Duration::from_secs(1) * BURST / FLOOD_PER_SECOND);
    }
    Ok(())
}

/// Makes a datagram begin like a QUIC Initial, a QUIC short header or a hop frame, or leaves it random.
fn shape(buffer: &mut [u8], rng: &mut SmallRng) {
    let kind = rng.random_range(0..4);
    let Some((first, rest)) = buffer.split_first_mut() else { return };
    match kind {
        0 => {
            *first = 0xc0 | (*first & 0x0f);
            // Version 1 and a connection id of 8 bytes, as a client sends them.
            rest.iter_mut().zip([0, 0, 0, 1, 8]).for_each(|(byte, value)| *byte = value);
        }
        1 => *first = 0x40 | (*first & 0x3f),
        2 => *first &= 0x3f,
        _ => {}
    }
}

/// A ticket that was right and is no longer: the strongest wrong one that an outsider can have.
fn wrong_ticket(issuer: &Node) -> Result<String> {
    let invited = issuer.json(&["invite", "--ttl", "1s", "--uses", "1"])?;
    std::thread::sleep(Duration::from_millis(1500));
    Ok(invited
        .get("ticket")
        .and_then(|ticket| ticket.as_str())
        .context("`invite` printed no ticket")?
        .to_owned())
}

/// Many wrong joins from one host.
struct Joins {
    dir: std::path::PathBuf,
    meshara: std::path::PathBuf,
    host: Namespace,
}

impl Joins {
    fn run(&self, ticket: &str, target: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
        let mut running: Vec<Child> = Vec::new();
        while !stop.load(Relaxed) {
            let number = sent.fetch_add(1, Relaxed);
            let child = self
                .host
                .command(&self.meshara.to_string_lossy())
                .arg("--home")
                .arg(self.dir.join(format!("w{number}")))
                .args(["join", ticket, "--name", &format!("w{number}"), "--peer", &target.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            running.push(child);
            running.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            std::thread::sleep(Duration::from_secs(1) / JOINS_PER_SECOND);
        }
        for mut child in running {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(())
    }
}

/// Twenty refusals a second lock nobody out: a right ticket from the same address still works.
fn join_rightly(context: &Context, mesh: &Mesh, outside: &Namespace, target: SocketAddr) -> Result<()> {
    let ticket = ticket(mesh.node(0)?, "1")?;
    let newcomer = Node::new("late", outside, &context.fresh_dir()?, &context.meshara, Vec::new());
    newcomer.run(&["join", &ticket, "--name", "late", "--peer", &target.to_string()])
}
