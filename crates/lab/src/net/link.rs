//! A network of namespaces: one link per edge, so that only neighbours reach each other.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::namespace::Namespace;
use super::topology::Topology;
use super::wire::{self, WireConfig, WireControl};
use crate::run::Run;

/// The UDP port of every node; each has a host of its own.
pub(crate) const NODE_PORT: u16 = 6374;

/// Edge number K has the four addresses from this one + 4·K: a /30 with room for 16,384 edges.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 100, 0, 0]);

/// Least bytes that may leave at once on a limited link: one unsegmented packet of the kernel.
const MIN_BURST: u64 = 64 * 1024;

/// A fast link may send this long at once: a timer of a busy machine is late by that much, and a smaller bucket would lose rate to it.
const BURST_TIME: Duration = Duration::from_millis(2);

/// How long a limited link's queue is when full; a common size of routers at the edge.
const TBF_LATENCY: &str = "50ms";

/// What the links of a network are made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Medium {
    /// A veth pair: fast, no delay.
    Veth,
    /// A wire of the lab, with delay.
    Wire(WireConfig),
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) node: usize,
    /// Name of the interface inside the node's namespace.
    pub(crate) device: String,
    pub(crate) address: Ipv4Addr,
}

impl End {
    /// Where the node listens on this link.
    pub(crate) fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, NODE_PORT)
    }
}

/// A link between two nodes.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    /// Switches, when it is a wire.
    pub(crate) wire: Option<Arc<WireControl>>,
}

impl Link {
    /// The end at a node.
    pub(crate) fn at(&self, node: usize) -> Option<&End> {
        self.ends.iter().find(|end| end.node == node)
    }

    /// The end across from a node.
    pub(crate) fn across(&self, node: usize) -> Option<&End> {
        self.ends.iter().find(|end| end.node != node)
    }
}

/// Namespaces and links of a topology.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) topology: Topology,
    pub(crate) hosts: Vec<Namespace>,
    /// In the order of the topology's edges.
    pub(crate) links: Vec<Link>,
}

impl Network {
    /// Builds it; `rate` limits every link, in bits per second.
    pub(crate) fn build(
        run: &Run,
        topology: Topology,
        medium: Medium,
        rate: Option<u64>,
        seed: u64,
    ) -> Result<Self> {
        let hosts = (0..topology.nodes)
            .map(|node| Namespace::create(run.namespace(&format!("n{node}"))))
            .collect::<Result<Vec<_>>>()?;
        let mut links = Vec::new();
        for (edge, &(a, b)) in topology.edges.iter().enumerate() {
            links.push(connect(&hosts, edge, [a, b], medium, rate, seed)?);
        }
        Ok(Self { topology, hosts, links })
    }

    /// The host of a node.
    pub(crate) fn host(&self, node: usize) -> Result<&Namespace> {
        self.hosts.get(node).with_context(|| format!("there is no node n{node}"))
    }

    /// The link between two nodes.
    pub(crate) fn link(&self, a: usize, b: usize) -> Result<&Link> {
        let edge = self.topology.edge(a, b).with_context(|| format!("n{a} and n{b} are no neighbours"))?;
        self.links.get(edge).context("an edge without a link")
    }

    /// The device at `node` that leads to `peer`.
    pub(crate) fn device(&self, node: usize, peer: usize) -> Result<String> {
        Ok(self.link(node, peer)?.at(node).context("a link with one end")?.device.clone())
    }

    /// The links of a node.
    pub(crate) fn links_of(&self, node: usize) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.at(node).is_some())
    }
}

fn connect(
    hosts: &[Namespace],
    edge: usize,
    nodes: [usize; 2],
    medium: Medium,
    rate: Option<u64>,
    seed: u64,
) -> Result<Link> {
    let first = FIRST_ADDRESS + 4 * u32::try_from(edge)?;
    let [a, b] = [(nodes[0], 1), (nodes[1], 2)].map(|(node, offset)| End {
        node,
        device: format!("e{edge}"),
        address: Ipv4Addr::from(first + offset),
    });
    let host = |end: &End| hosts.get(end.node).context("an edge to a node that is not there");
    let (a_address, b_address) = (format!("{}/30", a.address), format!("{}/30", b.address));
    let wire = match medium {
        Medium::Veth => {
            join(host(&a)?, &a.device, &a_address, host(&b)?, &b.device, &b_address)?;
            None
        }
        Medium::Wire(config) => {
            let ends = [(host(&a)?, a.device.as_str()), (host(&b)?, b.device.as_str())];
            let control = wire::lay(ends, config, seed ^ (edge as u64) << 32)?;
            configure(host(&a)?, &a.device, &a_address)?;
            configure(host(&b)?, &b.device, &b_address)?;
            Some(control)
        }
    };
    for end in [&a, &b] {
        if let Some(rate) = rate {
            limit(host(end)?, &end.device, rate)?;
        }
    }
    Ok(Link { ends: [a, b], wire })
}

/// Joins two hosts by a veth pair: device and address (with its prefix length) of each.
pub(crate) fn join(
    a: &Namespace,
    a_device: &str,
    a_address: &str,
    b: &Namespace,
    b_device: &str,
    b_address: &str,
) -> Result<()> {
    a.ip(&["link", "add", "name", a_device, "type", "veth", "peer", "name", b_device, "netns", b.name()])?;
    configure(a, a_device, a_address)?;
    configure(b, b_device, b_address)
}

/// Gives a device its address and switches it on.
fn configure(host: &Namespace, device: &str, address: &str) -> Result<()> {
    host.ip(&["addr", "add", address, "dev", device])?;
    host.ip(&["link", "set", "dev", device, "up"]).map(drop)
}

/// Limits what a device sends, in bits per second.
pub(crate) fn limit(host: &Namespace, device: &str, rate: u64) -> Result<()> {
    let burst = MIN_BURST.max((rate as f64 / 8.0 * BURST_TIME.as_secs_f64()) as u64).to_string();
    let rate = format!("{rate}bit");
    host.tc(&[
        "qdisc",
        "replace",
        "dev",
        device,
        "root",
        "tbf",
        "rate",
        &rate,
        "burst",
        &burst,
        "latency",
        TBF_LATENCY,
    ])?;
    Ok(())
}
