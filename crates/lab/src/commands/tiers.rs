//! Links of several speeds, lengths and qualities: what `bench` carries and how much queueing it adds, beside TCP CUBIC.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::measure::iperf::{self, Server};
use crate::measure::rtt::Prober;
use crate::measure::stats::Summary;
use crate::mesh::form::Mesh;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::net::wire::WireConfig;
use crate::report::{Table, number};

/// Limits of the link in Mbit/s.
const RATES: [u64; 3] = [100, 1000, 2500];
/// Round trips in ms.
const RTTS: [u64; 2] = [1, 40];
/// Shares of lost packets.
const LOSSES: [f64; 2] = [0.0, 0.005];

/// Probing of the idle link before each load.
const IDLE: Duration = Duration::from_secs(1);

/// The start of a load does not count for its queueing.
const RAMP_MS: f64 = 1000.0;

/// One flow on a link.
#[derive(Debug, Clone, Serialize)]
struct Load {
    gbit_s: Option<f64>,
    error: Option<String>,
    /// Round trips of bare UDP probes beside the load.
    rtt: Option<Summary>,
    /// Median round trip under load less that of the idle link.
    added_ms: Option<f64>,
}

/// A link and both flows on it.
#[derive(Debug, Clone, Serialize)]
struct Tier {
    rate_mbit_s: u64,
    rtt_ms: u64,
    loss: f64,
    idle_rtt: Option<Summary>,
    meshara: Load,
    /// What the node says of the neighbour right after the load: tier, rate, window.
    peer: Value,
    cubic: Load,
}

/// `meshara-lab tiers`; `only` limits the rates.
pub(crate) fn command(context: &Context, seconds: u32, only: &[u64]) -> Result<()> {
    let mut tiers = Vec::new();
    let mut table = Table::new(&[
        "Mbit/s",
        "RTT ms",
        "loss %",
        "Meshara Gbit/s",
        "of link",
        "added ms",
        "CUBIC Gbit/s",
        "of link",
        "added ms",
    ]);
    for rate in RATES.into_iter().filter(|rate| only.is_empty() || only.contains(rate)) {
        for rtt in RTTS {
            for loss in LOSSES {
                let wire = WireConfig::new(Duration::from_millis(rtt), loss);
                let topology = Topology::parse("line-2", context.seed)?;
                let (mesh, _) =
                    context.mesh_with(topology, Medium::Wire(wire), Some(rate * 1_000_000), None)?;
                let tier = measure(&mesh, rate, rtt, loss, seconds)?;
                context.clear(mesh);
                let share = |load: &Load| number(load.gbit_s.map(|gbit| gbit * 1000.0 / rate as f64));
                table.row(vec![
                    rate.to_string(),
                    rtt.to_string(),
                    format!("{}", loss * 100.0),
                    number(tier.meshara.gbit_s),
                    share(&tier.meshara),
                    number(tier.meshara.added_ms),
                    number(tier.cubic.gbit_s),
                    share(&tier.cubic),
                    number(tier.cubic.added_ms),
                ]);
                println!("{}", table.render());
                tiers.push(tier);
                context.write("tiers", &tiers)?;
            }
        }
    }
    Ok(())
}

fn measure(mesh: &Mesh, rate_mbit_s: u64, rtt_ms: u64, loss: f64, seconds: u32) -> Result<Tier> {
    let (from, to) = mesh.ends()?;
    let address = mesh.network.link(0, 1)?.at(1).context("a link with one end")?.address;
    let _server = Server::start(&to.host)?;
    let prober = Prober::start(&from.host, &to.host, address)?;
    std::thread::sleep(IDLE);
    let idle_rtt = Summary::of(prober.between(0.0, prober.now()));
    let duration = format!("{seconds}s");
    let meshara = load(&prober, idle_rtt, || {
        let benched = from.json(&["bench", &to.name, "--duration", &duration])?;
        benched.get("gbit_s").and_then(Value::as_f64).context("`bench` printed no gbit_s")
    });
    let peer = from.get("/v1/peers").ok().and_then(|peers| peers.get(0).cloned()).unwrap_or_default();
    std::thread::sleep(IDLE);
    let address = address.to_string();
    let cubic = load(&prober, idle_rtt, || iperf::measure(&from.host, &address, iperf::PORT, seconds));
    Ok(Tier { rate_mbit_s, rtt_ms, loss, idle_rtt, meshara, peer, cubic })
}

fn load(prober: &Prober, idle: Option<Summary>, run: impl FnOnce() -> Result<f64>) -> Load {
    let begun = prober.now();
    let ran = run();
    let rtt = Summary::of(prober.between(begun + RAMP_MS, prober.now()));
    let added_ms = rtt.zip(idle).map(|(loaded, idle)| loaded.p50 - idle.p50);
    let error = ran.as_ref().err().map(|error| format!("{error:#}"));
    if let Some(error) = &error {
        println!("{error}");
    }
    Load { gbit_s: ran.ok(), error, rtt, added_ms }
}
