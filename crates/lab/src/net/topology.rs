//! Shapes of networks: who neighbours whom, and between which two nodes the lab measures.

use std::collections::{BTreeSet, VecDeque};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// More nodes than this do not fit on one machine with two cores.
const MAX_NODES: usize = 200;

/// An undirected graph with two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    /// As given on the command line.
    pub(crate) name: String,
    pub(crate) nodes: usize,
    /// Pairs with the smaller node first, without duplicates.
    pub(crate) edges: Vec<(usize, usize)>,
    /// Where measured traffic begins and ends.
    pub(crate) ends: (usize, usize),
}

impl Topology {
    /// Reads `line-N`, `ring-N`, `ladder` (2×5), `ladder-N` (2×N), `grid-RxC`, `star-N` or `random-N` (of the seed).
    pub(crate) fn parse(text: &str, seed: u64) -> Result<Self> {
        let (shape, size) = text.split_once('-').unwrap_or((text, ""));
        let number = |default: &str, least: usize| -> Result<usize> {
            let size = if size.is_empty() { default } else { size };
            let n = size.parse().with_context(|| format!("`{text}`: `{size}` is not a number of nodes"))?;
            ensure!((least..=MAX_NODES).contains(&n), "`{text}`: from {least} to {MAX_NODES} nodes");
            Ok(n)
        };
        let (nodes, edges, ends) = match shape {
            "line" => {
                let n = number("3", 2)?;
                (n, (1..n).map(|i| (i - 1, i)).collect(), (0, n - 1))
            }
            "ring" => {
                let n = number("8", 3)?;
                (n, (0..n).map(|i| (i, (i + 1) % n)).collect(), (0, n / 2))
            }
            "ladder" => {
                let n = number("5", 2)?;
                let rails = (1..n).flat_map(|i| [(i - 1, i), (n + i - 1, n + i)]);
                (2 * n, rails.chain((0..n).map(|i| (i, n + i))).collect(), (0, n - 1))
            }
            "star" => {
                let n = number("5", 3)?;
                (n, (1..n).map(|i| (0, i)).collect(), (1, n - 1))
            }
            "grid" => {
                let (rows, columns) = (if size.is_empty() { "3x3" } else { size })
                    .split_once('x')
                    .and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)))
                    .with_context(|| format!("`{text}`: a grid is written grid-3x4"))?;
                ensure!(
                    rows >= 2 && columns >= 2 && rows <= MAX_NODES && columns <= MAX_NODES / rows,
                    "`{text}`: at least 2×2, at most {MAX_NODES} nodes"
                );
                (rows * columns, grid(rows, columns), (0, rows * columns - 1))
            }
            "random" => {
                let n = number("12", 4)?;
                let edges = random(n, seed);
                let ends = far_ends(n, &edges);
                (n, edges, ends)
            }
            _ => bail!("`{text}` is no topology: line-N, ring-N, ladder-N, grid-RxC, star-N, random-N"),
        };
        let edges: BTreeSet<_> = edges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        Ok(Self { name: text.to_owned(), nodes, edges: edges.into_iter().collect(), ends })
    }

    /// Neighbours of a node, in order.
    pub(crate) fn neighbours(&self, node: usize) -> Vec<usize> {
        neighbours(&self.edges, node)
    }

    /// The edge between two nodes.
    pub(crate) fn edge(&self, a: usize, b: usize) -> Option<usize> {
        self.edges.iter().position(|edge| *edge == (a.min(b), a.max(b)))
    }

    /// Hops between two nodes on the shortest path.
    #[cfg(test)]
    pub(crate) fn distance(&self, from: usize, to: usize) -> Option<usize> {
        distances(self.nodes, &self.edges, from).get(to).copied().flatten()
    }

    /// Every node but the first, each after a neighbour of it: the order in which they can join.
    pub(crate) fn joining(&self) -> Vec<(usize, usize)> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::from([0]);
        let mut queue = VecDeque::from([0]);
        while let Some(member) = queue.pop_front() {
            for node in self.neighbours(member) {
                if seen.insert(node) {
                    order.push((node, member));
                    queue.push_back(node);
                }
            }
        }
        order
    }
}

fn neighbours(edges: &[(usize, usize)], node: usize) -> Vec<usize> {
    let mut found: Vec<_> = edges
        .iter()
        .filter_map(|&(a, b)| {
            if a == node {
                Some(b)
            } else if b == node {
                Some(a)
            } else {
                None
            }
        })
        .collect();
    found.sort_unstable();
    found
}

fn distances(nodes: usize, edges: &[(usize, usize)], from: usize) -> Vec<Option<usize>> {
    let mut found = vec![None; nodes];
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((node, hops)) = queue.pop_front() {
        let Some(slot) = found.get_mut(node).filter(|slot| slot.is_none()) else { continue };
        *slot = Some(hops);
        queue.extend(neighbours(edges, node).into_iter().map(|next| (next, hops + 1)));
    }
    found
}

fn grid(rows: usize, columns: usize) -> Vec<(usize, usize)> {
    let mut edges = Vec::new();
    for node in 0..rows * columns {
        if node % columns + 1 < columns {
            edges.push((node, node + 1));
        }
        if node + columns < rows * columns {
            edges.push((node, node + columns));
        }
    }
    edges
}

/// A ring in random order, so that any single node may die, and about half as many chords.
fn random(nodes: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut order: Vec<_> = (0..nodes).collect();
    order.shuffle(&mut rng);
    let mut edges: Vec<_> = order.iter().copied().zip(order.iter().copied().cycle().skip(1)).collect();
    for _ in 0..nodes / 2 {
        let (a, b) = (rng.random_range(0..nodes), rng.random_range(0..nodes));
        if a != b {
            edges.push((a, b));
        }
    }
    edges
}

/// The pair that is farthest apart, but at most four hops: the longest path that the bar speaks of.
fn far_ends(nodes: usize, edges: &[(usize, usize)]) -> (usize, usize) {
    let mut best = (0, (0, 0));
    for from in 0..nodes {
        for (to, hops) in distances(nodes, edges, from).into_iter().enumerate() {
            if let Some(hops) = hops.filter(|hops| *hops <= 4 && *hops > best.0) {
                best = (hops, (from, to));
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topology(text: &str) -> Topology {
        Topology::parse(text, 1).unwrap()
    }

    #[test]
    fn shapes_have_their_nodes_edges_and_ends() {
        for (text, nodes, edges, hops) in [
            ("line-3", 3, 2, 2),
            ("ring-8", 8, 8, 4),
            ("ladder", 10, 13, 4),
            ("ladder-3", 6, 7, 2),
            ("grid-3x3", 9, 12, 4),
            ("star-6", 6, 5, 2),
        ] {
            let found = topology(text);
            assert_eq!((found.nodes, found.edges.len()), (nodes, edges), "{text}");
            assert_eq!(found.distance(found.ends.0, found.ends.1), Some(hops), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "circle", "ring-x", "ring-2", "line-1000", "grid-3", "grid-1x9", "grid-99999999999x2"]
        {
            assert!(Topology::parse(text, 1).is_err(), "{text}");
        }
    }

    #[test]
    fn nodes_join_through_a_neighbour_that_is_a_member() {
        let ladder = topology("ladder");
        let mut members = BTreeSet::from([0]);
        for (node, through) in ladder.joining() {
            assert!(members.contains(&through) && ladder.edge(node, through).is_some());
            assert!(members.insert(node));
        }
        assert_eq!(members.len(), ladder.nodes);
    }

    proptest! {
        #[test]
        fn a_random_network_survives_any_single_node(nodes in 4_usize..40, seed: u64) {
            let found = Topology::parse(&format!("random-{nodes}"), seed).unwrap();
            prop_assert_eq!(&found, &Topology::parse(&format!("random-{nodes}"), seed).unwrap());
            prop_assert!(found.ends.0 != found.ends.1);
            for dead in 0..nodes {
                let rest: Vec<_> = found.edges.iter().copied().filter(|(a, b)| *a != dead && *b != dead).collect();
                let from = usize::from(dead == 0);
                let reached = distances(nodes, &rest, from).into_iter().flatten().count();
                prop_assert_eq!(reached, nodes - 1);
            }
        }
    }
}
