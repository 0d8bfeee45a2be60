//! Forms a mesh on a network: the first node begins it, the others join through neighbours; then waits until it is whole.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::node::Node;
use crate::measure::stall::ms;
use crate::net::link::Network;

/// Flags of a node whose neighbours the lab chooses and whose traffic stays on the overlay.
const PINNED: [&str; 3] = ["--no-multicast", "--no-auto", "--no-direct"];

/// Between two looks at all nodes while waiting; asking ten nodes costs a few milliseconds.
const POLL: Duration = Duration::from_millis(50);

/// Seconds for a mesh to become whole after forming or a fault: far above the 3 s that are promised.
pub(crate) const WHOLE_WAIT: Duration = Duration::from_secs(30);

/// Name of the mesh.
const MESH: &str = "lab";

/// Nodes that run on a network.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
}

/// When a mesh was as before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole {
    /// Every node could route to every other.
    pub(crate) routed_ms: f64,
    /// Every link was up again, too.
    pub(crate) links_ms: f64,
}

/// How forming went.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Formed {
    /// From the first command to the last start.
    pub(crate) joining_ms: f64,
    /// From the last start until every node can route to every other.
    pub(crate) routed_ms: f64,
}

impl Mesh {
    /// Begins the mesh and lets every node join. Errors if it is not whole in time.
    /// `config` goes into every node's `config.toml`, `init` are further arguments of the command that makes the mesh.
    pub(crate) fn form(
        network: Network,
        dir: &Path,
        meshara: &Path,
        config: Option<&str>,
        init: &[&str],
    ) -> Result<(Self, Formed)> {
        let mut nodes = Vec::new();
        for (number, host) in network.hosts.iter().enumerate() {
            let mut flags: Vec<String> = PINNED.map(str::to_owned).to_vec();
            for link in network.links_of(number) {
                let across = link.across(number).context("a link with one end")?;
                flags.extend(["--peer".to_owned(), across.socket().to_string()]);
            }
            nodes.push(Node::new(&format!("n{number}"), host, dir, meshara, flags));
        }
        let begun = Instant::now();
        let mut mesh = Self { network, nodes };
        let ticket = mesh.begin(config, init)?;
        for (node, through) in mesh.network.topology.joining() {
            let address =
                mesh.network.link(node, through)?.at(through).context("a link with one end")?.socket();
            let node = mesh.node_mut(node)?;
            let name = node.name.clone();
            node.run(&["join", &ticket, "--name", &name, "--peer", &address.to_string()])?;
            config.map_or(Ok(()), |config| node.configure(config))?;
            node.up()?;
        }
        let joining_ms = ms(begun.elapsed());
        let routed_ms = ms(mesh.wait_known(WHOLE_WAIT)?);
        Ok((mesh, Formed { joining_ms, routed_ms }))
    }

    /// Starts the first node; a ticket for all others.
    fn begin(&mut self, config: Option<&str>, init: &[&str]) -> Result<String> {
        let uses = self.nodes.len().to_string();
        let first = self.node_mut(0)?;
        let name = first.name.clone();
        first.run(&[&["init", "--mesh", MESH, "--name", &name], init].concat())?;
        config.map_or(Ok(()), |config| first.configure(config))?;
        first.up()?;
        ticket(first, &uses)
    }

    /// A node by number.
    pub(crate) fn node(&self, number: usize) -> Result<&Node> {
        self.nodes.get(number).with_context(|| format!("there is no node n{number}"))
    }

    /// A node by number.
    pub(crate) fn node_mut(&mut self, number: usize) -> Result<&mut Node> {
        self.nodes.get_mut(number).with_context(|| format!("there is no node n{number}"))
    }

    /// The node where measured traffic begins, and the one where it ends.
    pub(crate) fn ends(&self) -> Result<(&Node, &Node)> {
        let (from, to) = self.network.topology.ends;
        Ok((self.node(from)?, self.node(to)?))
    }

    /// Waits until every node can route to every other; how long that took.
    pub(crate) fn wait_known(&self, within: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let expected = self.nodes.len() as u64 - 1;
        loop {
            let lacking = self.nodes.iter().find_map(|node| {
                let known =
                    node.get("/v1/status").ok().and_then(|status| status.get("nodes_known")?.as_u64());
                (known != Some(expected))
                    .then(|| format!("{} knows {known:?} of {expected} nodes", node.name))
            });
            let Some(lacking) = lacking else { return Ok(begun.elapsed()) };
            if begun.elapsed() > within {
                bail!("the mesh is not whole after {within:?}: {lacking}");
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until every node knows all others and every link is up. When that was, counted from `since`; what is still amiss when
    /// the time is over.
    pub(crate) fn wait_whole(&self, since: Instant, within: Duration) -> Result<Whole, String> {
        let begun = Instant::now();
        let mut routed = None;
        loop {
            let amiss = match self.wait_known(Duration::ZERO) {
                Err(error) => error.to_string(),
                Ok(_) => {
                    let routed = *routed.get_or_insert_with(|| since.elapsed());
                    match self.link_amiss() {
                        None => {
                            return Ok(Whole { routed_ms: ms(routed), links_ms: ms(since.elapsed()) });
                        }
                        Some(amiss) => amiss,
                    }
                }
            };
            if begun.elapsed() > within {
                return Err(amiss);
            }
            thread::sleep(POLL);
        }
    }

    fn link_amiss(&self) -> Option<String> {
        self.nodes.iter().enumerate().find_map(|(number, node)| {
            let up = node.get("/v1/peers").map(|peers| count_up(&peers)).unwrap_or_default();
            let links = self.network.topology.neighbours(number).len();
            (up < links).then(|| format!("{} has {up} of {links} links up", node.name))
        })
    }

    /// The nodes on the path of the measured traffic, both ends included.
    pub(crate) fn path(&self) -> Result<Vec<usize>> {
        let (from, to) = self.ends()?;
        let traced = from.post("/v1/trace", &json!({ "node": to.name }))?;
        let mut path = vec![self.network.topology.ends.0];
        path.extend(hops(&traced)?);
        if path.last() != Some(&self.network.topology.ends.1) {
            bail!("the trace does not end at {}: {traced}", to.name);
        }
        Ok(path)
    }
}

/// A ticket of a running issuer.
pub(crate) fn ticket(issuer: &Node, uses: &str) -> Result<String> {
    let invited = issuer.json(&["invite", "--ttl", "1h", "--uses", uses])?;
    Ok(invited.get("ticket").and_then(Value::as_str).context("`invite` printed no ticket")?.to_owned())
}

/// Neighbours in state `up`.
fn count_up(peers: &Value) -> usize {
    let up = |peer: &&Value| peer.get("state").and_then(Value::as_str) == Some("up");
    peers.as_array().map(|peers| peers.iter().filter(up).count()).unwrap_or_default()
}

/// Node numbers of a trace, from the names that the lab gave.
fn hops(trace: &Value) -> Result<Vec<usize>> {
    let hops = trace.get("hops").and_then(Value::as_array).context("`trace` printed no hops")?;
    let number = |hop: &Value| hop.get("name")?.as_str()?.strip_prefix('n')?.parse().ok();
    hops.iter()
        .map(|hop| number(hop).with_context(|| format!("a hop of no node of the lab: {hop}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_gives_node_numbers() {
        let trace = json!({"hops": [{"name": "n3", "rtt_ms": 1.0}, {"name": "n12"}]});
        assert_eq!(hops(&trace).unwrap(), [3, 12]);
        assert!(hops(&json!({"hops": [{"name": null}]})).is_err());
        assert!(hops(&json!({})).is_err());
    }

    #[test]
    fn only_links_that_are_up_count() {
        assert_eq!(count_up(&json!([{"state": "up"}, {"state": "suspect"}, {"state": "up"}])), 2);
        assert_eq!(count_up(&json!({})), 0);
    }
}
