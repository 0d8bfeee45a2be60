//! TCP through `serve` and `connect`, over one and two hops, against raw TCP on the same link in the same run.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::context::Context;
use crate::measure::iperf::{self, Server};
use crate::measure::stats::median;
use crate::mesh::form::Mesh;
use crate::mesh::tunnel::Tunnel;
use crate::net::link::Medium;
use crate::net::namespace::Namespace;
use crate::net::topology::Topology;
use crate::report::{Table, number};

/// First port on which the tunnels listen.
const LISTEN: u16 = 7201;

/// Where a flow goes, and what is to be reached.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) bar: Option<f64>,
    pub(super) address: String,
    pub(super) port: u16,
}

/// One way through, round after round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Flow {
    name: &'static str,
    gbit_s: Vec<f64>,
    errors: Vec<String>,
    median_gbit_s: Option<f64>,
    /// Median against the median of the first flow, raw TCP.
    ratio: Option<f64>,
    /// What is to be reached.
    bar: Option<f64>,
}

/// `meshara-lab iperf`.
pub(crate) fn command(context: &Context, rounds: usize, seconds: u32) -> Result<()> {
    let (mesh, _) = context.mesh(Topology::parse("line-3", context.seed)?, Medium::Veth)?;
    let (from, near, far) = (mesh.node(0)?, mesh.node(1)?, mesh.node(2)?);
    let _servers = [Server::start(&near.host)?, Server::start(&far.host)?];
    let one = Tunnel::open(from, near, "iperf", iperf::PORT, LISTEN)?;
    let two = Tunnel::open(from, far, "iperf", iperf::PORT, LISTEN + 1)?;
    let through = |name, bar, tunnel: &Tunnel| Target {
        name,
        bar: Some(bar),
        address: tunnel.address.ip().to_string(),
        port: tunnel.address.port(),
    };
    let targets = [raw(&mesh)?, through("one hop", 0.30, &one), through("two hops", 0.20, &two)];
    let flows = measure(&from.host, &targets, rounds, seconds);
    let done = report(context, "iperf", &flows);
    drop((one, two));
    context.clear(mesh);
    done
}

/// TCP on the link between the first two nodes, without any mesh.
pub(super) fn raw(mesh: &Mesh) -> Result<Target> {
    let end = mesh.network.link(0, 1)?.at(1).context("a link with one end")?;
    Ok(Target { name: "raw TCP, one link", bar: None, address: end.address.to_string(), port: iperf::PORT })
}

/// Rounds alternate, so that a slow moment of the machine meets all.
pub(super) fn measure(host: &Namespace, targets: &[Target], rounds: usize, seconds: u32) -> Vec<Flow> {
    let flow = |target: &Target| Flow {
        name: target.name,
        gbit_s: Vec::new(),
        errors: Vec::new(),
        median_gbit_s: None,
        ratio: None,
        bar: target.bar,
    };
    let mut flows: Vec<Flow> = targets.iter().map(flow).collect();
    for round in 1..=rounds {
        for (flow, target) in flows.iter_mut().zip(targets) {
            match iperf::measure(host, &target.address, target.port, seconds) {
                Ok(gbit_s) => {
                    println!("round {round}: {}: {gbit_s:.3} Gbit/s", flow.name);
                    flow.gbit_s.push(gbit_s);
                }
                Err(error) => {
                    println!("round {round}: {}: {error:#}", flow.name);
                    flow.errors.push(format!("{}: {error:#}", flow.name));
                }
            }
        }
    }
    let raw = flows.first().and_then(|flow| median(flow.gbit_s.iter().copied()));
    for flow in &mut flows {
        flow.median_gbit_s = median(flow.gbit_s.iter().copied());
        flow.ratio = flow.median_gbit_s.zip(raw).map(|(through, raw)| through / raw);
    }
    flows
}

/// Prints and writes what was measured. Errors if a flow failed; a missed bar is only shown.
pub(super) fn report(context: &Context, name: &str, flows: &Vec<Flow>) -> Result<()> {
    let mut table = Table::new(&["flow", "Gbit/s (median)", "÷ raw", "bar", "rounds"]);
    for flow in flows {
        table.row(vec![
            flow.name.into(),
            number(flow.median_gbit_s),
            number(flow.ratio),
            number(flow.bar),
            flow.gbit_s.len().to_string(),
        ]);
    }
    println!("{}", table.render());
    context.write(name, flows)?;
    let errors: Vec<_> = flows.iter().flat_map(|flow| flow.errors.clone()).collect();
    if !errors.is_empty() {
        anyhow::bail!("{}", errors.join("\n"));
    }
    Ok(())
}
