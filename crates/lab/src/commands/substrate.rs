//! Proves the lab's own ground without any node: reachability, delay, loss, drops and rate limits are what they claim to be.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::context::Context;
use crate::measure::iperf::{self, Server};
use crate::measure::rtt::Prober;
use crate::measure::stats::Summary;
use crate::net::drops::{self, Way};
use crate::net::link::{Medium, Network, limit};
use crate::net::namespace::Namespace;
use crate::net::nat::{NatLab, Translation};
use crate::net::topology::Topology;
use crate::net::wire::WireConfig;

/// How long each link is probed.
const PROBE: Duration = Duration::from_secs(2);

/// Datagrams of a burst: as many as a socket's default buffer surely holds.
const BURST: usize = 200;

/// `meshara-lab substrate`.
pub(crate) fn command(context: &Context) -> Result<()> {
    reach(context)?;
    context.run.clear();
    delay(context)?;
    context.run.clear();
    rates(context)?;
    context.run.clear();
    translation(context)
}

fn network(context: &Context, shape: &str, medium: Medium) -> Result<Network> {
    Network::build(&context.run, Topology::parse(shape, context.seed)?, medium, None, context.seed)
}

/// Neighbours reach each other, others do not; drops act on one way only, and heal.
fn reach(context: &Context) -> Result<()> {
    let network = network(context, "line-3", Medium::Veth)?;
    let near = network.link(0, 1)?.at(1).context("a link with one end")?;
    let far = network.link(1, 2)?.at(2).context("a link with one end")?;
    let (zero, one, two) = (network.host(0)?, network.host(1)?, network.host(2)?);
    let count = |to: &Namespace, address| arrived(zero, to, address);
    ensure!(count(one, near.address)? == BURST, "a neighbour is not reached");
    ensure!(count(two, far.address)? == 0, "a node that is no neighbour is reached");
    drops::begin(one, &[(&near.device, Way::In)])?;
    ensure!(count(one, near.address)? == 0, "a one-way drop lets packets through");
    drops::end(one)?;
    drops::begin(one, &[(&near.device, Way::Out)])?;
    ensure!(count(one, near.address)? == BURST, "a one-way drop drops the other way");
    drops::end(one)?;
    let device = &network.link(0, 1)?.at(0).context("a link with one end")?.device;
    drops::lose(zero, device, 300)?;
    let lost = BURST - count(one, near.address)?;
    drops::end(zero)?;
    // Four standard deviations (6.5) around 60.
    ensure!((34..=86).contains(&lost), "30 % loss lost {lost} of {BURST}");
    println!("reachability, one-way drops, random loss: as they should be ({lost} of {BURST} lost at 30 %)");
    Ok(())
}

/// Datagrams of a burst that arrive.
fn arrived(from: &Namespace, to: &Namespace, address: Ipv4Addr) -> Result<usize> {
    let receiver = to.within(|| UdpSocket::bind("0.0.0.0:6008"))??;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    from.within(move || -> std::io::Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..BURST {
            let _ = socket.send_to(b"lab", (address, 6008)); // no route is one way of not arriving
        }
        Ok(())
    })??;
    let mut buffer = [0; 8];
    Ok(std::iter::from_fn(|| receiver.recv(&mut buffer).ok()).take(BURST).count())
}

/// A wire adds the round trip that it should, and nothing of note under it.
fn delay(context: &Context) -> Result<()> {
    for rtt in [0, 1, 5, 40] {
        let wire = WireConfig::new(Duration::from_millis(rtt), 0.0);
        let network = network(context, "line-2", Medium::Wire(wire))?;
        let address = network.link(0, 1)?.at(1).context("a link with one end")?.address;
        let prober = Prober::start(network.host(0)?, network.host(1)?, address)?;
        std::thread::sleep(PROBE);
        let found = Summary::of(prober.between(0.0, prober.now())).context("no probe came back")?;
        println!(
            "wire of {rtt} ms: p50 {:.3}, p99 {:.3}, max {:.1} ms (N {})",
            found.p50, found.p99, found.max, found.n
        );
        ensure!((found.p50 - rtt as f64).abs() < 1.0, "a wire of {rtt} ms has {:.3} ms", found.p50);
        drop(prober);
        context.run.clear();
    }
    Ok(())
}

/// What raw TCP carries over each kind of link, limited and not.
fn rates(context: &Context) -> Result<()> {
    let lossy = WireConfig::new(Duration::from_millis(1), 0.005);
    for (name, medium, rate) in [
        ("veth", Medium::Veth, None),
        ("veth, 1 Gbit/s", Medium::Veth, Some(1_000_000_000)),
        ("wire of 1 ms", Medium::Wire(WireConfig::new(Duration::from_millis(1), 0.0)), None),
        (
            "wire of 1 ms, 2.5 Gbit/s",
            Medium::Wire(WireConfig::new(Duration::from_millis(1), 0.0)),
            Some(2_500_000_000),
        ),
        (
            "wire of 40 ms, 100 Mbit/s",
            Medium::Wire(WireConfig::new(Duration::from_millis(40), 0.0)),
            Some(100_000_000),
        ),
        ("wire of 1 ms, 0.5 % lost", Medium::Wire(lossy), None),
    ] {
        let network = network(context, "line-2", medium)?;
        let link = network.link(0, 1)?;
        if let Some(rate) = rate {
            for end in &link.ends {
                limit(network.host(end.node)?, &end.device, rate)?;
            }
        }
        let address = link.at(1).context("a link with one end")?.address;
        let server = Server::start(network.host(1)?)?;
        let gbit_s = iperf::measure(network.host(0)?, &address.to_string(), iperf::PORT, 3)?;
        println!("{name}: raw TCP CUBIC {gbit_s:.3} Gbit/s");
        drop(server);
        ensure!(rate.is_none_or(|rate| gbit_s * 1e9 <= rate as f64 * 1.02), "the limit does not hold");
        context.run.clear();
    }
    Ok(())
}

/// A port-preserving translator shows one port to everybody, a symmetric one does not.
fn translation(context: &Context) -> Result<()> {
    let lab = NatLab::build(&context.run, "t", [Translation::PortPreserving, Translation::Symmetric])?;
    let mut seen = Vec::new();
    for inside in [&lab.a, &lab.b] {
        let receivers = lab
            .public
            .within(|| [UdpSocket::bind("0.0.0.0:6374"), UdpSocket::bind("0.0.0.0:6375")])?
            .into_iter()
            .collect::<std::io::Result<Vec<_>>>()?;
        inside.within(|| -> std::io::Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:6374")?;
            socket.send_to(b"lab", "198.51.100.2:6374")?;
            socket.send_to(b"lab", "198.51.100.2:6375")?;
            Ok(())
        })??;
        let mut ports = Vec::new();
        for receiver in &receivers {
            receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
            ports
                .push(receiver.recv_from(&mut [0; 8]).context("nothing comes out of a translator")?.1.port());
        }
        seen.push(ports);
    }
    println!("translators show ports {seen:?}");
    ensure!(seen.first().is_some_and(|ports| *ports == [6374, 6374]), "the port is not preserved");
    ensure!(
        seen.get(1).is_some_and(|ports| ports.first() != ports.last()),
        "the symmetric translator is not symmetric"
    );
    context.run.clear();
    Ok(())
}
