//! How soon a node three hops from the issuer has its next certificate in use, and how soon the proof that three witnesses saw it logged.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::measure::stall::ms;
use crate::measure::stats::Summary;
use crate::mesh::form::Mesh;
use crate::mesh::node::Node;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::net::wire::WireConfig;
use crate::report::{Table, cells};

/// The issuer is n0; n3 to n8 are three hops away, through n1 and n2. Of the eight members it asks five to witness.
const EDGES: [(usize, usize); 8] = [(0, 1), (1, 2), (2, 3), (2, 4), (2, 5), (2, 6), (2, 7), (2, 8)];
const NODES: usize = 9;
const ASKING: [usize; 6] = [3, 4, 5, 6, 7, 8];
const HOPS: usize = 3;

/// The shortest life: an issuer gives a node twenty certificates in the life of one, so six nodes may have six a second.
const LIFE: &str = "20s";

/// What is to be reached by 99 of 100: beyond the path's round trip, and until the proof is held.
const ISSUE_BAR_MS: f64 = 35.0;
const PROOF_BAR_MS: f64 = 1000.0;

/// Witnesses of a proof that counts.
const WITNESSES: u64 = 3;

/// Pings that measure the path.
const PINGS: u32 = 50;

/// Random pause of a node between two requests of which the proof is waited for, in seconds: a checkpoint is made twice a second, and requests
/// must not keep step with it.
const PAUSE_S: std::ops::Range<f64> = 0.5..1.1;

/// Pause between requests of which only the certificate is waited for.
const APART: Duration = Duration::from_millis(165);

/// Between two looks for the proof.
const LOOK: Duration = Duration::from_millis(4);

/// Longest wait for a proof, and for the last node's first one.
const WAIT: Duration = Duration::from_secs(20);

/// What was measured on links of one kind.
#[derive(Debug, Clone, Default, Serialize)]
struct Series {
    /// Round trip of each link, as the lab makes it; 0 for plain veth pairs.
    link_rtt_ms: f64,
    hops: usize,
    /// Median round trip of pings between the node that asks and the issuer.
    path_rtt_ms: f64,
    /// From the request for a renewal until the node had the new certificate in use.
    issued_ms: Vec<f64>,
    /// From then until it held the proof, with three cosignatures.
    proved_ms: Vec<f64>,
    audit: Value,
    failures: Vec<String>,
}

/// `meshara-lab issue`.
pub(crate) fn command(context: &Context, count: usize, rtts: &[f64]) -> Result<()> {
    let mut all = Vec::new();
    for rtt in rtts {
        let topology = Topology {
            name: "broom".into(),
            nodes: NODES,
            edges: EDGES.to_vec(),
            ends: (0, ASKING.last().copied().unwrap_or_default()),
        };
        let medium = if *rtt > 0.0 {
            Medium::Wire(WireConfig::new(Duration::try_from_secs_f64(rtt / 1e3)?, 0.0))
        } else {
            Medium::Veth
        };
        let (mesh, _) = context.mesh_made(topology, medium, &["--leaf-life", LIFE])?;
        let mut series = Series { link_rtt_ms: *rtt, hops: HOPS, ..Series::default() };
        let measured = measure(context, &mesh, count, &mut series);
        context.clear(mesh);
        all.push(series);
        context.write("issue", &all)?;
        measured?;
    }
    let mut table = Table::new(&["three hops, ms", "n", "p50", "p95", "p99", "max"]);
    let mut failures = Vec::new();
    for series in &all {
        series.rows(&mut table);
        failures.extend(series.failures());
    }
    println!("\n{}", table.render());
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

impl Series {
    fn rows(&self, table: &mut Table) {
        let mut row = |name: &str, values: &[f64]| {
            let mut row = vec![name.to_owned(), values.len().to_string()];
            row.extend(cells(Summary::of(values.iter().copied())));
            table.row(row);
        };
        row(&format!("path's round trip {:.1}: certificate in use", self.path_rtt_ms), &self.issued_ms);
        row("from then: proof with three witnesses", &self.proved_ms);
    }

    fn failures(&self) -> Vec<String> {
        let mut failures = self.failures.clone();
        let bars = [
            ("certificate in use", &self.issued_ms, ISSUE_BAR_MS + self.path_rtt_ms),
            ("proof", &self.proved_ms, PROOF_BAR_MS),
        ];
        for (name, values, bar) in bars {
            match Summary::of(values.iter().copied()) {
                Some(found) if found.p99 <= bar => {}
                Some(found) => failures.push(format!("{name}: p99 {:.1} ms is above {bar:.1} ms", found.p99)),
                None => failures.push(format!("{name}: nothing was measured")),
            }
        }
        failures
    }
}

fn measure(context: &Context, mesh: &Mesh, count: usize, series: &mut Series) -> Result<()> {
    // Every node's first proof: sessions stand then, and witnesses are known.
    for node in ASKING {
        let node = mesh.node(node)?;
        let (_, serial) = renew(node)?;
        proved(node, &serial, Instant::now())?.with_context(|| format!("{} has no proof", node.name))?;
    }
    series.path_rtt_ms = path_rtt(mesh)?;
    println!("{HOPS} hops, {:.1} ms there and back", series.path_rtt_ms);
    for number in 0..count {
        let asking = ASKING.get(number % ASKING.len()).copied().unwrap_or_default();
        series.issued_ms.push(renew(mesh.node(asking)?)?.0);
        thread::sleep(APART);
    }
    println!("{count} renewals one after the other are done");
    series.proved_ms = proofs(context, mesh, count.div_ceil(ASKING.len()), &mut series.failures)?;
    let audited = mesh.node(ASKING[0])?.post_lines("/v1/trust/audit", &json!({}), WAIT)?;
    series.audit = serde_json::from_str(&audited)?;
    let witnesses = series.audit.get("witnesses").and_then(Value::as_u64);
    if series.audit.get("ok").and_then(Value::as_bool) != Some(true) || witnesses < Some(WITNESSES) {
        series.failures.push(format!("the audit of the log: {}", series.audit));
    }
    Ok(())
}

/// Renews at all asking nodes, each again and again at random times; how long after each certificate its proof was held.
fn proofs(context: &Context, mesh: &Mesh, each: usize, failures: &mut Vec<String>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    thread::scope(|scope| {
        let asking: Vec<_> = ASKING
            .map(|asking| {
                let mut rng = SmallRng::seed_from_u64(context.seed ^ asking as u64);
                scope.spawn(move || -> Result<Vec<Option<f64>>> {
                    let node = mesh.node(asking)?;
                    let mut times = Vec::new();
                    for _ in 0..each {
                        thread::sleep(Duration::from_secs_f64(rng.random_range(PAUSE_S)));
                        let (_, serial) = renew(node)?;
                        times.push(proved(node, &serial, Instant::now())?);
                    }
                    Ok(times)
                })
            })
            .into_iter()
            .collect();
        for (thread, node) in asking.into_iter().zip(ASKING) {
            for time in thread.join().map_err(|_| anyhow!("a thread panicked"))?? {
                match time {
                    Some(time) => times.push(time),
                    None => failures.push(format!("n{node} held no proof within {WAIT:?}")),
                }
            }
        }
        Ok(times)
    })
}

/// Renews; how long that took, and the serial number of the certificate.
fn renew(node: &Node) -> Result<(f64, String)> {
    let begun = Instant::now();
    let certificate = node.post("/v1/trust/renewals", &json!({}))?;
    let took = ms(begun.elapsed());
    let serial = certificate.get("serial").and_then(Value::as_str);
    Ok((took, serial.context("a certificate without a serial number")?.to_owned()))
}

/// Waits until the node holds the proof of a certificate with enough witnesses; how long after `begun`, if ever.
fn proved(node: &Node, wanted: &str, begun: Instant) -> Result<Option<f64>> {
    while begun.elapsed() < WAIT {
        let status = node.get("/v1/trust")?;
        let witnesses =
            status.get("certificate").and_then(|certificate| certificate.get("witnesses")?.as_u64());
        if serial(&status) != wanted {
            bail!("{} has another certificate meanwhile", node.name);
        }
        if witnesses >= Some(WITNESSES) {
            return Ok(Some(ms(begun.elapsed())));
        }
        thread::sleep(LOOK);
    }
    Ok(None)
}

fn serial(status: &Value) -> String {
    let serial = status.get("certificate").and_then(|certificate| certificate.get("serial")?.as_str());
    serial.unwrap_or_default().to_owned()
}

/// Median round trip of pings from the first asking node to the issuer, all over three hops.
fn path_rtt(mesh: &Mesh) -> Result<f64> {
    let request = json!({ "node": "n0", "count": PINGS, "interval_ms": 20.0, "size": 64 });
    let lines = mesh.node(ASKING[0])?.post_lines("/v1/ping", &request, Duration::from_millis(20) * PINGS)?;
    let mut rtts = Vec::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line)?;
        if let Some(rtt) = line.get("rtt_ms").and_then(Value::as_f64) {
            if line.get("hops").and_then(Value::as_u64) != Some(HOPS as u64) {
                bail!("a ping that did not take {HOPS} hops: {line}");
            }
            rtts.push(rtt);
        }
    }
    Ok(Summary::of(rtts).context("no ping was answered")?.p50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asking_nodes_are_three_hops_from_the_issuer() {
        let broom = Topology { name: String::new(), nodes: NODES, edges: EDGES.to_vec(), ends: (0, 3) };
        assert!(ASKING.iter().all(|node| broom.distance(0, *node) == Some(HOPS)));
    }

    #[test]
    fn the_path_counts_once() {
        let series = |issued, proved| Series {
            path_rtt_ms: 30.0,
            issued_ms: vec![issued],
            proved_ms: vec![proved],
            ..Series::default()
        };
        assert!(series(65.0, 1000.0).failures().is_empty());
        assert_eq!(series(65.1, 1000.1).failures().len(), 2);
    }
}
