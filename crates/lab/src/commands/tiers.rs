//! Links of several speeds, lengths and qualities: what sessions carry and how much queueing they add, beside TCP CUBIC.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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

/// The start of a flow does not count, for any of them: what is asked is what the link carries, not how fast that is found out.
const RAMP_SECONDS: u32 = 2;

/// What a link can carry of its rate: a TCP segment of 1,448 bytes in a packet of 1,500 (the limiter counts IP packets here).
const PAYLOAD_SHARE: f64 = 1448.0 / 1500.0;

/// One flow on a link.
#[derive(Debug, Clone, Serialize)]
struct Load {
    /// `bbr`, `cubic` or `newreno` of Meshara, or `TCP CUBIC`.
    controller: String,
    /// Without the ramp.
    gbit_s: Option<f64>,
    error: Option<String>,
    /// Round trips of bare UDP probes beside the load.
    rtt: Option<Summary>,
    /// Median round trip under load less that of the idle link.
    added_ms: Option<f64>,
    /// What the node says of the neighbour right after the load: tier, rate, window.
    peer: Value,
}

/// A link and the flows on it.
#[derive(Debug, Clone, Serialize)]
struct Tier {
    rate_mbit_s: u64,
    rtt_ms: u64,
    loss: f64,
    /// What TCP's payload can be of it at most.
    limit_gbit_s: f64,
    loads: Vec<Load>,
}

/// A line of `bench`.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Progress {
    elapsed_s: f64,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Line {
    progress: Option<Progress>,
    error: Option<Value>,
}

/// `meshara-lab tiers`; `only` limits the rates.
pub(crate) fn command(context: &Context, seconds: u32, only: &[u64], controllers: &[String]) -> Result<()> {
    ensure!(seconds > 0, "--seconds: at least 1");
    let mut tiers = Vec::new();
    for rate in RATES.into_iter().filter(|rate| only.is_empty() || only.contains(rate)) {
        for rtt in RTTS {
            for loss in LOSSES {
                let tier = tier(context, rate, rtt, loss, seconds, controllers)?;
                for load in &tier.loads {
                    println!(
                        "{rate} Mbit/s, {rtt} ms, {} % lost: {}: {} Gbit/s, {} of what it can carry, {} ms added{}",
                        loss * 100.0,
                        load.controller,
                        number(load.gbit_s),
                        number(load.gbit_s.map(|gbit| gbit / tier.limit_gbit_s)),
                        number(load.added_ms),
                        load.error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default()
                    );
                }
                tiers.push(tier);
                context.write("tiers", &tiers)?;
            }
        }
    }
    println!("\n{}", table(&tiers));
    Ok(())
}

fn table(tiers: &[Tier]) -> String {
    let mut head = vec!["Mbit/s".to_owned(), "RTT ms".into(), "loss %".into()];
    for load in tiers.first().map(|tier| tier.loads.as_slice()).unwrap_or_default() {
        head.extend([format!("{} Gbit/s", load.controller), "of limit".into(), "added ms".into()]);
    }
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    for tier in tiers {
        let mut row =
            vec![tier.rate_mbit_s.to_string(), tier.rtt_ms.to_string(), (tier.loss * 100.0).to_string()];
        for load in &tier.loads {
            row.push(number(load.gbit_s));
            row.push(number(load.gbit_s.map(|gbit| gbit / tier.limit_gbit_s)));
            row.push(number(load.added_ms));
        }
        table.row(row);
    }
    table.render()
}

/// Each controller on a mesh of its own, since it is set at the start; TCP beside the first.
fn tier(
    context: &Context,
    rate_mbit_s: u64,
    rtt_ms: u64,
    loss: f64,
    seconds: u32,
    controllers: &[String],
) -> Result<Tier> {
    let limit_gbit_s = rate_mbit_s as f64 / 1000.0 * PAYLOAD_SHARE;
    let mut tier = Tier { rate_mbit_s, rtt_ms, loss, limit_gbit_s, loads: Vec::new() };
    for (number, controller) in controllers.iter().enumerate() {
        let wire = WireConfig::new(Duration::from_millis(rtt_ms), loss);
        let topology = Topology::parse("line-2", context.seed)?;
        let config = format!("congestion = '{controller}'\n");
        let (mesh, _) =
            context.mesh_with(topology, Medium::Wire(wire), Some(rate_mbit_s * 1_000_000), Some(&config))?;
        let measured = measure(&mesh, controller, seconds, number + 1 == controllers.len());
        context.clear(mesh);
        tier.loads.extend(measured?);
    }
    Ok(tier)
}

fn measure(mesh: &Mesh, controller: &str, seconds: u32, with_tcp: bool) -> Result<Vec<Load>> {
    let (from, to) = mesh.ends()?;
    let address = mesh.network.link(0, 1)?.at(1).context("a link with one end")?.address;
    let prober = Prober::start(&from.host, &to.host, address)?;
    std::thread::sleep(IDLE);
    let idle_rtt = Summary::of(prober.between(0.0, prober.now()));
    let mut loads = Vec::new();
    let lasts = Duration::from_secs(u64::from(seconds + RAMP_SECONDS));
    let mut meshara = load(&prober, controller, idle_rtt, || {
        let request = json!({"node": to.name, "duration_ms": lasts.as_millis(), "streams": 1});
        steady(&from.post_lines("/v1/bench", &request, lasts)?)
    });
    if let Some(peer) = from.get("/v1/peers").ok().and_then(|peers| peers.get(0).cloned()) {
        meshara.peer = peer;
    }
    loads.push(meshara);
    if with_tcp {
        let _server = Server::start(&to.host)?;
        std::thread::sleep(IDLE);
        let address = address.to_string();
        loads.push(load(&prober, "TCP CUBIC", idle_rtt, || {
            iperf::measure_after(&from.host, &address, iperf::PORT, RAMP_SECONDS, seconds)
        }));
    }
    Ok(loads)
}

/// What came between the end of the ramp and the last report, in Gbit/s.
fn steady(lines: &str) -> Result<f64> {
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Line>, _>>()?;
    if let Some(error) = lines.iter().find_map(|line| line.error.as_ref()) {
        anyhow::bail!("bench: {error}");
    }
    let progress: Vec<_> = lines.iter().filter_map(|line| line.progress).collect();
    let first = progress.iter().find(|report| report.elapsed_s >= f64::from(RAMP_SECONDS));
    let last = progress.last();
    let (first, last) = first.zip(last).context("bench ended within the ramp")?;
    ensure!(last.elapsed_s > first.elapsed_s, "bench ended within the ramp");
    Ok((last.bytes - first.bytes) as f64 * 8e-9 / (last.elapsed_s - first.elapsed_s))
}

fn load(prober: &Prober, controller: &str, idle: Option<Summary>, run: impl FnOnce() -> Result<f64>) -> Load {
    let begun = prober.now();
    let ran = run();
    let rtt = Summary::of(prober.between(begun + f64::from(RAMP_SECONDS) * 1e3, prober.now()));
    let added_ms = rtt.zip(idle).map(|(loaded, idle)| loaded.p50 - idle.p50);
    let error = ran.as_ref().err().map(|error| format!("{error:#}"));
    Load { controller: controller.to_owned(), gbit_s: ran.ok(), error, rtt, added_ms, peer: Value::Null }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_does_not_count() {
        let line = |elapsed: f64, bytes: u64| {
            format!("{{\"progress\":{{\"elapsed_s\":{elapsed},\"bytes\":{bytes},\"gbit_s\":1}}}}\n")
        };
        let lines = line(1.0, 1_000) + &line(2.0, 2_000_000) + &line(4.0, 252_000_000) + "{\"result\":{}}\n";
        assert_eq!(steady(&lines).unwrap(), 1.0);
        assert!(steady(&line(1.0, 5)).is_err());
        assert!(steady("{\"error\":{\"code\":\"timeout\"}}").unwrap_err().to_string().contains("timeout"));
    }
}
