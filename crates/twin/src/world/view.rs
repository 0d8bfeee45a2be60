//! Looks at the whole world from outside: what is connected, whether routes are right.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use meshara_overlay::{LinkId, LinkKind, Phase};
use rand::Rng;

use super::World;
use super::node::Node;

/// Nodes whose routes are compared with an independent computation, each time.
const SAMPLE: usize = 16;

impl World<'_> {
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn links(&self) -> usize {
        self.nodes.iter().map(|node| node.links.len()).sum::<usize>() / 2
    }

    pub(crate) fn runs(&self, at: usize) -> bool {
        self.nodes.get(at).is_some_and(Node::runs)
    }

    /// For each running node, the number of running nodes that working links connect it with, itself included;
    /// `without` counts as gone. Groups have numbers.
    fn groups(&self, without: Option<usize>) -> Vec<Option<usize>> {
        let alive = |at: usize| self.runs(at) && Some(at) != without && self.out.get(at) != Some(&true);
        let mut group: Vec<Option<usize>> = vec![None; self.nodes.len()];
        if self.config.auto_neighbours {
            return (0..self.nodes.len()).map(|at| alive(at).then_some(0)).collect();
        }
        let mut ends: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for edge in self.net.iter().filter(|edge| edge.works() && alive(edge.ends.0) && alive(edge.ends.1)) {
            for (a, b) in [edge.ends, (edge.ends.1, edge.ends.0)] {
                if let Some(ends) = ends.get_mut(a) {
                    ends.push(b);
                }
            }
        }
        for first in (0..self.nodes.len()).filter(|at| alive(*at)) {
            let mut waiting = vec![first];
            while let Some(at) = waiting.pop() {
                let Some(slot) = group.get_mut(at).filter(|slot| slot.is_none()) else { continue };
                *slot = Some(first);
                waiting.extend(ends.get(at).into_iter().flatten());
            }
        }
        group
    }

    /// Whether two nodes could reach each other if `without` were gone.
    pub(crate) fn connected(&self, a: usize, b: usize, without: Option<usize>) -> bool {
        let groups = self.groups(without);
        groups.get(a).copied().flatten().is_some_and(|group| groups.get(b) == Some(&Some(group)))
    }

    /// Whether two nodes could reach each other without the link between `a` and `b`.
    pub(crate) fn way_round(&self, a: usize, b: usize, from: usize, to: usize) -> bool {
        let cut = (a.min(b), a.max(b));
        let mut reached = vec![false; self.nodes.len()];
        let mut waiting = vec![from];
        let open = self.config.auto_neighbours;
        while let Some(at) = waiting.pop() {
            let Some(here) = reached.get_mut(at).filter(|here| !**here) else { continue };
            *here = true;
            if open {
                return self.nodes.len() > 2;
            }
            for edge in self.net.iter().filter(|edge| edge.works() && edge.ends != cut) {
                let other = match edge.ends {
                    (x, y) if x == at => y,
                    (x, y) if y == at => x,
                    _ => continue,
                };
                if self.runs(other) {
                    waiting.push(other);
                }
            }
        }
        reached.get(to) == Some(&true)
    }

    /// Notes who is connected with the signer and lacks its newest snapshot for too long, and who still has a link with somebody that it
    /// knows to be revoked.
    pub(crate) fn look_for_overdue(&mut self) {
        let Some((spread, trust)) = self.spread.as_ref().zip(self.shared.trust) else { return };
        let groups = self.groups(None);
        let signer = groups.get(trust.authority).copied().flatten();
        let connected = |at: usize| signer.is_some() && groups.get(at).copied().flatten() == signer;
        let mut found = spread.overdue(self.now, connected);
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(trust) = node.trust.as_ref() else { continue };
            let kept = node
                .links
                .values()
                .find(|end| crate::auth::is_revoked(&trust.revoked, &self.shared.id(end.peer)));
            if let Some(end) = kept {
                found =
                    Some(format!("node {at} keeps a link with {}, which it knows to be revoked", end.peer));
            }
        }
        if let Some(what) = found {
            self.check.violation(self.now, &what);
        }
    }

    /// Whether every running node has a route to every running node that it is connected with, and to no other.
    pub(crate) fn whole(&self) -> bool {
        let groups = self.groups(None);
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        for group in groups.iter().flatten() {
            *sizes.entry(*group).or_default() += 1;
        }
        groups.iter().zip(&self.nodes).all(|(group, node)| {
            group.is_none_or(|group| sizes.get(&group).is_some_and(|size| node.table.len() + 1 == *size))
        })
    }

    /// The nodes that a frame crosses, both ends included, if it arrives.
    pub(crate) fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let mut path = vec![from];
        let (mut at, mut over) = (from, None);
        while at != to {
            let node = self.nodes.get(at).filter(|_| path.len() <= 33)?;
            let usable = |link: LinkId| node.usable.get(&link).copied().unwrap_or(false);
            let link = node.table.next_hop(&self.shared.address(to), over, &usable)?;
            let end = node.links.get(&link)?;
            (at, over) = (end.peer, Some(end.theirs));
            path.push(at);
        }
        Some(path)
    }

    /// Some of the running nodes, for a look at their routes.
    pub(crate) fn sample(&mut self) -> BTreeSet<usize> {
        let all = self.nodes.len();
        let chosen: Vec<usize> = (0..SAMPLE.min(all)).map(|_| self.rng.random_range(0..all)).collect();
        chosen.into_iter().filter(|at| self.runs(*at)).collect()
    }

    /// Compares the routes of these nodes with shortest paths over what all nodes advertise, and takes those out that have them.
    /// `Err` says where another one's differ.
    pub(crate) fn take_shortest(&self, roots: &mut BTreeSet<usize>) -> Result<(), String> {
        let mut told: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs()) {
            for view in node.core.iter().flat_map(meshara_overlay::Core::neighbours) {
                if let (LinkKind::Routing, Phase::Up, Some(cost), Some(peer)) =
                    (view.kind, view.phase, view.cost_us, self.shared.find(&view.node))
                {
                    told.insert((at, peer), u64::from(cost));
                }
            }
        }
        let mut edges: Vec<Vec<(usize, u64)>> = vec![Vec::new(); self.nodes.len()];
        for ((a, b), cost) in &told {
            if let Some(back) = told.get(&(*b, *a))
                && let Some(edges) = edges.get_mut(*a)
            {
                edges.push((*b, *cost.max(back)));
            }
        }
        let mut result = Ok(());
        roots.retain(|root| {
            let Some(core) = self.nodes.get(*root).and_then(|node| node.core.as_ref()) else { return false };
            let expected = distances(&edges, *root);
            let mut found: BTreeMap<usize, u64> = BTreeMap::new();
            for route in core.routes() {
                if let Some(to) = self.shared.find(&route.node) {
                    found.insert(to, u64::from(route.metric_us));
                }
            }
            if found == expected {
                return false;
            }
            let differs = expected.iter().find(|(to, cost)| found.get(to) != Some(cost));
            result = Err(format!(
                "routes of node {root}: {} instead of {}; first difference: expected {differs:?}",
                found.len(),
                expected.len()
            ));
            true
        });
        result
    }
}

/// Shortest distances from `root` to all others that can be reached.
fn distances(edges: &[Vec<(usize, u64)>], root: usize) -> BTreeMap<usize, u64> {
    let mut done: BTreeMap<usize, u64> = BTreeMap::new();
    let mut queue = BinaryHeap::from([Reverse((0, root))]);
    while let Some(Reverse((dist, at))) = queue.pop() {
        if done.contains_key(&at) {
            continue;
        }
        done.insert(at, dist);
        for (to, cost) in edges.get(at).into_iter().flatten() {
            queue.push(Reverse((dist + cost, *to)));
        }
    }
    done.remove(&root);
    done
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::scenario::{Scenario, Topology};
    use crate::{Observer, world::World};

    #[test]
    fn wrong_routes_and_tables_are_noticed() {
        let scenario = Scenario::new(Topology::Ring { nodes: 5 });
        let mut world = World::new(&scenario, Observer::default()).unwrap();
        assert!(!world.whole());
        world.run_until(Duration::from_secs(8));
        assert!(world.whole());
        let mut nodes = world.sample();
        assert_eq!(world.take_shortest(&mut nodes), Ok(()));
        assert!(nodes.is_empty());
        // Two nodes with each other's brains: every table is full, but it leads elsewhere.
        let (a, b) = (world.nodes[0].core.take(), world.nodes[2].core.take());
        (world.nodes[0].core, world.nodes[2].core) = (b, a);
        let mut nodes = world.sample();
        assert!(world.take_shortest(&mut nodes).is_err() && !nodes.is_empty());
        world.nodes[1].table = std::sync::Arc::default();
        assert!(!world.whole());
    }
}
