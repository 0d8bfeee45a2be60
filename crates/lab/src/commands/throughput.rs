//! Streams over one hop and through a relay, beside bare quinn with the same certificates and beside raw TCP, all on the same
//! links in the same run; then the same with lost packets.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::measure::bare_quinn;
use crate::measure::iperf::{self, Server};
use crate::measure::stats::median;
use crate::mesh::form::Mesh;
use crate::mesh::node::Node;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::net::wire::WireConfig;
use crate::report::{Table, number};

/// Shares of packets lost on each link.
const LOSSES: [f64; 2] = [0.001, 0.01];
/// Round trips of each link in ms.
const RTTS: [u64; 2] = [1, 40];

/// Figures on one kind of link.
#[derive(Debug, Clone, Serialize)]
struct Link {
    /// `clean`, or loss and round trip.
    link: String,
    tcp: Vec<f64>,
    quinn: Vec<f64>,
    /// Over both links, with the kernel of the node between forwarding packets.
    quinn_two_links: Vec<f64>,
    one_hop: Vec<f64>,
    relayed: Vec<f64>,
    errors: Vec<String>,
}

/// `meshara-lab throughput`. Rounds alternate, so that a slow moment of the machine meets all.
pub(crate) fn command(context: &Context, rounds: usize, seconds: u64, only: &str) -> Result<()> {
    let mut media = vec![("clean".to_owned(), Medium::Veth)];
    for loss in LOSSES {
        for rtt in RTTS {
            let wire = WireConfig::new(Duration::from_millis(rtt), loss);
            media.push((format!("{} % lost, {rtt} ms", loss * 100.0), Medium::Wire(wire)));
        }
    }
    media.retain(|(link, _)| link.starts_with(only));
    let mut links = Vec::new();
    for (link, medium) in media {
        // The ends reach each other by IP for bare quinn's sake; the nodes must not.
        let line = Topology::parse("line-3", context.seed)?;
        let (mesh, _) = context.mesh_with(line, medium, None, Some("direct = false\n"))?;
        let measured = measure(&mesh, link, rounds, seconds);
        context.clear(mesh);
        links.push(measured?);
        context.write("throughput", &links)?;
    }
    println!("\n{}", table(&links));
    let errors: Vec<_> = links.iter().flat_map(|link| link.errors.clone()).collect();
    if !errors.is_empty() {
        anyhow::bail!("{}", errors.join("\n"));
    }
    Ok(())
}

fn table(links: &[Link]) -> String {
    let mut table = Table::new(&[
        "link",
        "TCP Gbit/s",
        "bare quinn",
        "one hop",
        "relayed",
        "one hop ÷ quinn",
        "one hop ÷ TCP",
        "relayed ÷ one hop",
        "relayed ÷ quinn",
        "quinn, 2 links",
        "relayed ÷ it",
    ]);
    for link in links {
        let mid = |of: &[f64]| median(of.iter().copied());
        let ratio = |of: &[f64], to: &[f64]| number(mid(of).zip(mid(to)).map(|(of, to)| of / to));
        table.row(vec![
            link.link.clone(),
            number(mid(&link.tcp)),
            number(mid(&link.quinn)),
            number(mid(&link.one_hop)),
            number(mid(&link.relayed)),
            ratio(&link.one_hop, &link.quinn),
            ratio(&link.one_hop, &link.tcp),
            ratio(&link.relayed, &link.one_hop),
            ratio(&link.relayed, &link.quinn),
            number(mid(&link.quinn_two_links)),
            ratio(&link.relayed, &link.quinn_two_links),
        ]);
    }
    table.render()
}

fn measure(mesh: &Mesh, link: String, rounds: usize, seconds: u64) -> Result<Link> {
    let (from, near, far) = (mesh.node(0)?, mesh.node(1)?, mesh.node(2)?);
    let address = mesh.network.link(0, 1)?.at(1).context("a link with one end")?.address;
    let _iperf = Server::start(&near.host)?;
    let quinn = bare_quinn::Server::start(near, address.into())?;
    let far_quinn = bare_quinn::Server::start(far, forward(mesh)?.into())?;
    let mut measured = Link {
        link,
        tcp: Vec::new(),
        quinn: Vec::new(),
        quinn_two_links: Vec::new(),
        one_hop: Vec::new(),
        relayed: Vec::new(),
        errors: Vec::new(),
    };
    let tcp = || iperf::measure(&from.host, &address.to_string(), iperf::PORT, seconds as u32);
    for round in 1..=rounds {
        let results = [
            ("TCP", tcp(), &mut measured.tcp),
            ("bare quinn", quinn.measure(from, seconds), &mut measured.quinn),
            ("one hop", bench(from, near, seconds), &mut measured.one_hop),
            ("bare quinn, two links", far_quinn.measure(from, seconds), &mut measured.quinn_two_links),
            ("relayed", bench(from, far, seconds), &mut measured.relayed),
        ];
        for (name, result, list) in results {
            match result {
                Ok(gbit_s) => {
                    println!("{}, round {round}: {name}: {gbit_s:.3} Gbit/s", measured.link);
                    list.push(gbit_s);
                }
                Err(error) => measured.errors.push(format!("{}: {name}: {error:#}", measured.link)),
            }
        }
    }
    Ok(measured)
}

/// Lets the kernel in the middle forward packets between the ends; the far end's address.
fn forward(mesh: &Mesh) -> Result<Ipv4Addr> {
    let end = |a, b, node| {
        mesh.network.link(a, b)?.at(node).map(|end| end.address.to_string()).context("a link with one end")
    };
    mesh.node(1)?.host.sysctl("net.ipv4.ip_forward", "1")?;
    let (near, far) = (end(0, 1, 0)?, end(1, 2, 2)?);
    mesh.node(0)?.host.ip(&["route", "add", &far, "via", &end(0, 1, 1)?])?;
    mesh.node(2)?.host.ip(&["route", "add", &near, "via", &end(1, 2, 1)?])?;
    Ok(far.parse()?)
}

/// The node's own `bench`.
fn bench(from: &Node, to: &Node, seconds: u64) -> Result<f64> {
    let result = from.json(&["bench", &to.name, "--duration", &format!("{seconds}s")])?;
    result.get("gbit_s").and_then(Value::as_f64).context("bench printed no rate")
}
