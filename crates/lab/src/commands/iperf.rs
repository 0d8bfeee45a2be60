//! TCP through `serve` and `connect`, over one and two hops, against raw TCP on the same link in the same run.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::context::Context;
use crate::measure::iperf::{self, Server};
use crate::measure::stats::median;
use crate::mesh::form::Mesh;
use crate::mesh::tunnel::Tunnel;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, number};

/// First port on which the tunnels listen.
const LISTEN: u16 = 7201;

/// One way through, round after round.
#[derive(Debug, Clone, Serialize)]
struct Flow {
    name: &'static str,
    gbit_s: Vec<f64>,
    errors: Vec<String>,
    median_gbit_s: Option<f64>,
    /// Median against the median of raw TCP.
    ratio: Option<f64>,
    /// What is to be reached.
    bar: Option<f64>,
}

/// `meshara-lab iperf`. Rounds alternate, so that a slow moment of the machine meets all.
pub(crate) fn command(context: &Context, rounds: usize, seconds: u32) -> Result<()> {
    let (mesh, _) = context.mesh(Topology::parse("line-3", context.seed)?, Medium::Veth)?;
    let flows = measure(&mesh, rounds, seconds)?;
    let mut table = Table::new(&["flow", "Gbit/s (median)", "÷ raw", "bar", "rounds"]);
    for flow in &flows {
        table.row(vec![
            flow.name.into(),
            number(flow.median_gbit_s),
            number(flow.ratio),
            number(flow.bar),
            flow.gbit_s.len().to_string(),
        ]);
    }
    println!("{}", table.render());
    context.write("iperf", &flows)?;
    let errors: Vec<_> = flows.iter().flat_map(|flow| flow.errors.clone()).collect();
    context.clear(mesh);
    if !errors.is_empty() {
        anyhow::bail!("{}", errors.join("\n"));
    }
    Ok(())
}

fn measure(mesh: &Mesh, rounds: usize, seconds: u32) -> Result<Vec<Flow>> {
    let (from, near, far) = (mesh.node(0)?, mesh.node(1)?, mesh.node(2)?);
    let raw = mesh.network.link(0, 1)?.at(1).context("a link with one end")?.address.to_string();
    let _servers = [Server::start(&near.host)?, Server::start(&far.host)?];
    let one = Tunnel::open(from, near, "iperf", iperf::PORT, LISTEN)?;
    let two = Tunnel::open(from, far, "iperf", iperf::PORT, LISTEN + 1)?;
    let flow = |name, bar| Flow {
        name,
        gbit_s: Vec::new(),
        errors: Vec::new(),
        median_gbit_s: None,
        ratio: None,
        bar,
    };
    let mut flows =
        [flow("raw TCP, one link", None), flow("one hop", Some(0.30)), flow("two hops", Some(0.20))];
    let targets =
        [(raw.as_str(), iperf::PORT), ("127.0.0.1", one.address.port()), ("127.0.0.1", two.address.port())];
    for round in 1..=rounds {
        for (flow, (address, port)) in flows.iter_mut().zip(targets) {
            match iperf::measure(&from.host, address, port, seconds) {
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
    Ok(flows.into())
}
