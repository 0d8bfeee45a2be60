//! A mesh that falls into two: nothing passes between the nodes of one side and all others.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rand::Rng;
use rand::rngs::SmallRng;

use super::form::Mesh;
use crate::net::drops::{self, Way};
use crate::net::link::Network;
use crate::net::namespace::Namespace;

/// Sides tried at random until one leaves both connected.
const TRIES: usize = 500;

/// A partition that is planned: nothing is broken yet.
#[derive(Debug)]
pub(crate) struct Partition {
    /// The nodes of the side without the first node.
    pub(crate) side: BTreeSet<usize>,
    /// Hosts of that side at the border, and their devices that lead across.
    border: Vec<(Namespace, Vec<String>)>,
}

impl Partition {
    /// Chooses about half of the nodes that are left, never the first, so that both sides are connected.
    pub(crate) fn plan(mesh: &Mesh, gone: &BTreeSet<usize>, rng: &mut SmallRng) -> Result<Self> {
        let topology = &mesh.network.topology;
        let left = topology.nodes - gone.len();
        ensure!(left >= 4, "{left} nodes are too few for two sides");
        // Large sides are rarely connected both; after many tries a smaller one will do.
        for attempt in 0..TRIES {
            let size = (left / 2 * (TRIES - attempt) / TRIES).max(2);
            let side = grow(&topology.edges, topology.nodes, gone, size, rng);
            let others: BTreeSet<usize> = side.iter().chain(gone).copied().collect();
            let apart: BTreeSet<usize> = (0..topology.nodes).filter(|node| !side.contains(node)).collect();
            let whole = is_connected(&topology.edges, topology.nodes, &others)
                && is_connected(&topology.edges, topology.nodes, &apart);
            if side.len() >= 2 && whole {
                let border = border(&mesh.network, &side)?;
                return Ok(Self { side, border });
            }
        }
        Err(anyhow!("no two sides were found that are both connected"))
    }

    /// Cuts all links across, both ways.
    pub(crate) fn begin(&self) -> Result<()> {
        self.everywhere(|host, devices| {
            let ways: Vec<_> =
                devices.iter().flat_map(|device| [(device.as_str(), Way::In), (device, Way::Out)]).collect();
            drops::begin(host, &ways)
        })
    }

    /// Lets everything pass again.
    pub(crate) fn heal(&self) -> Result<()> {
        self.everywhere(|host, _| drops::end(host))
    }

    /// At all hosts of the border at once: one after the other they would take as long as what is measured.
    fn everywhere(&self, act: impl Fn(&Namespace, &[String]) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let act = &act;
            let acts: Vec<_> =
                self.border.iter().map(|(host, devices)| scope.spawn(move || act(host, devices))).collect();
            acts.into_iter().try_for_each(|act| act.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }
}

/// The hosts of a side that have links across, and those links' devices there.
fn border(network: &Network, side: &BTreeSet<usize>) -> Result<Vec<(Namespace, Vec<String>)>> {
    let mut border = Vec::new();
    for &node in side {
        let across = |peer: &usize| !side.contains(peer);
        let peers = network.topology.neighbours(node).into_iter().filter(across);
        let devices = peers.map(|peer| network.device(node, peer)).collect::<Result<Vec<_>>>()?;
        if !devices.is_empty() {
            border.push((network.host(node)?.clone(), devices));
        }
    }
    ensure!(!border.is_empty(), "a side without links across");
    Ok(border)
}

/// A connected set of nodes, grown at random from one.
fn grow(
    edges: &[(usize, usize)],
    nodes: usize,
    gone: &BTreeSet<usize>,
    size: usize,
    rng: &mut SmallRng,
) -> BTreeSet<usize> {
    let mut side = BTreeSet::new();
    let able =
        |node: &usize, side: &BTreeSet<usize>| *node != 0 && !gone.contains(node) && !side.contains(node);
    let mut next: Vec<usize> = (1..nodes).filter(|node| !gone.contains(node)).collect();
    while side.len() < size && !next.is_empty() {
        if let Some(node) = next.get(rng.random_range(0..next.len())) {
            side.insert(*node);
        }
        next = edges
            .iter()
            .flat_map(|&(a, b)| [(a, b), (b, a)])
            .filter(|(from, to)| side.contains(from) && able(to, &side))
            .map(|(_, to)| to)
            .collect();
    }
    side
}

/// Whether all nodes but these reach each other.
pub(crate) fn is_connected(edges: &[(usize, usize)], nodes: usize, without: &BTreeSet<usize>) -> bool {
    let Some(first) = (0..nodes).find(|node| !without.contains(node)) else { return false };
    let mut reached = BTreeSet::from([first]);
    let mut next = vec![first];
    while let Some(at) = next.pop() {
        for &(a, b) in edges.iter().filter(|(a, b)| *a == at || *b == at) {
            let other = if a == at { b } else { a };
            if !without.contains(&other) && reached.insert(other) {
                next.push(other);
            }
        }
    }
    reached.len() + without.len() == nodes
}

/// A node, not the first, without which those that are left are still connected.
pub(crate) fn spare(
    mesh: &Mesh,
    rng: &mut SmallRng,
    gone: &BTreeSet<usize>,
    among: impl Fn(usize) -> bool,
) -> Result<usize> {
    let topology = &mesh.network.topology;
    let without = |node: usize| gone.iter().copied().chain([node]).collect::<BTreeSet<_>>();
    let able: Vec<usize> = (1..topology.nodes)
        .filter(|node| !gone.contains(node) && among(*node))
        .filter(|node| is_connected(&topology.edges, topology.nodes, &without(*node)))
        .collect();
    able.get(rng.random_range(0..able.len().max(1)))
        .copied()
        .context("every node is needed to connect the others")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_node_between_two_halves_is_needed() {
        let line = [(0, 1), (1, 2), (2, 3)];
        assert!(is_connected(&line, 4, &BTreeSet::from([3])));
        assert!(!is_connected(&line, 4, &BTreeSet::from([2])));
        assert!(is_connected(&line, 4, &BTreeSet::from([2, 3])));
        assert!(is_connected(&line, 4, &BTreeSet::from([0, 1])));
    }

    #[test]
    fn a_side_is_connected_and_has_neither_the_first_node_nor_one_that_is_gone() {
        let ring: Vec<_> = (0..10).map(|node| (node, (node + 1) % 10)).collect();
        let gone = BTreeSet::from([4]);
        for seed in 0..50 {
            let side = grow(&ring, 10, &gone, 4, &mut SmallRng::seed_from_u64(seed));
            assert!(!side.contains(&0) && !side.contains(&4) && !side.is_empty(), "{side:?}");
            let others: BTreeSet<_> = (0..10).filter(|node| !side.contains(node)).collect();
            assert!(is_connected(&ring, 10, &others), "{side:?}");
        }
    }
}
