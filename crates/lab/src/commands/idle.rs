//! A mesh that does nothing: memory and processor share of each node, and how long many processes take to find each other.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::context::Context;
use crate::measure::machine::usage;
use crate::measure::stats::Summary;
use crate::mesh::form::Formed;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, cells};

/// Time between becoming whole and the first look: joining is over, timers of it have run out.
const SETTLE: Duration = Duration::from_secs(5);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
struct Idle {
    nodes: usize,
    links: usize,
    formed: Formed,
    seconds: f64,
    /// Resident memory of each node in MiB at the end.
    resident_mib: Vec<f64>,
    /// Share of one core of each node in percent.
    cpu_percent: Vec<f64>,
}

/// `meshara-lab idle`.
pub(crate) fn command(context: &Context, nodes: usize, seconds: u64) -> Result<()> {
    let topology = Topology::parse(&format!("random-{nodes}"), context.seed)?;
    let links = topology.edges.len();
    let (mesh, formed) = context.mesh(topology, Medium::Veth)?;
    println!("{nodes} nodes, {links} links: whole {:.0} ms after the last start", formed.routed_ms);
    std::thread::sleep(SETTLE);
    let look = || {
        mesh.nodes.iter().map(|node| usage(node.pid()?).context("a node ended")).collect::<Result<Vec<_>>>()
    };
    let (begun, before) = (context.now(), look()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, passed) = (look()?, (context.now() - begun) / 1e3);
    let idle = Idle {
        nodes,
        links,
        formed,
        seconds: passed,
        resident_mib: after.iter().map(|(kib, _)| *kib as f64 / 1024.0).collect(),
        cpu_percent: before
            .iter()
            .zip(&after)
            .map(|((_, from), (_, to))| (to - from) / passed * 100.0)
            .collect(),
    };
    let mut table = Table::new(&["per node", "p50", "p95", "p99", "max"]);
    for (name, values) in [("resident MiB", &idle.resident_mib), ("% of a core", &idle.cpu_percent)] {
        let mut row = vec![name.to_owned()];
        row.extend(cells(Summary::of(values.iter().copied())));
        table.row(row);
    }
    println!("{}", table.render());
    context.write("idle", &idle)?;
    context.clear(mesh);
    Ok(())
}
