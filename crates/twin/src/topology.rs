//! Graphs: made by rule or read from a file.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::graphs;
use crate::scenario::{LinkModel, ScenarioError, Topology};

/// Most nodes: above, the memory of n² records ends on any desk.
const MAX_NODES: usize = 20_000;

/// Nodes 0..nodes and the links between them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// (a, b) with a < b.
    pub(crate) edges: BTreeMap<(usize, usize), LinkModel>,
}

impl Plan {
    pub(crate) fn make(
        topology: &Topology,
        link: LinkModel,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self, ScenarioError> {
        let plan = match topology {
            Topology::Line { nodes } => Self::chain(*nodes, link),
            Topology::Ring { nodes } => {
                let mut plan = Self::chain(*nodes, link);
                if *nodes > 2 {
                    plan.join(0, nodes - 1, link);
                }
                plan
            }
            Topology::Grid { width, height } => Self::grid(*width, *height, link),
            Topology::Ladder { length } => Self::grid(*length, 2, link),
            Topology::Geometric { nodes, radius } => Self::geometric(*nodes, *radius, link, rng),
            Topology::BarabasiAlbert { nodes, links } => Self::barabasi_albert(*nodes, *links, link, rng),
            Topology::File { path } => graphs::read(path, link)?,
        };
        if !(2..=MAX_NODES).contains(&plan.nodes) {
            return Err(ScenarioError::OutOfRange("a topology has 2 to 20,000 nodes"));
        }
        plan.edges.values().chain([&link]).try_for_each(LinkModel::check)?;
        Ok(plan)
    }

    pub(crate) fn join(&mut self, a: usize, b: usize, link: LinkModel) {
        if a != b {
            self.edges.insert((a.min(b), a.max(b)), link);
        }
    }

    fn chain(nodes: usize, link: LinkModel) -> Self {
        let mut plan = Self { nodes, ..Self::default() };
        for at in 1..nodes {
            plan.join(at - 1, at, link);
        }
        plan
    }

    fn grid(width: usize, height: usize, link: LinkModel) -> Self {
        let mut plan = Self { nodes: width.saturating_mul(height), ..Self::default() };
        if plan.nodes > MAX_NODES {
            return plan;
        }
        for y in 0..height {
            for x in 0..width {
                let at = y * width + x;
                if x + 1 < width {
                    plan.join(at, at + 1, link);
                }
                if y + 1 < height {
                    plan.join(at, at + width, link);
                }
            }
        }
        plan
    }

    fn geometric(nodes: usize, radius: f64, link: LinkModel, rng: &mut ChaCha8Rng) -> Self {
        let mut plan = Self { nodes, ..Self::default() };
        if nodes > MAX_NODES {
            return plan;
        }
        let places: Vec<(f64, f64)> = (0..nodes).map(|_| (rng.random(), rng.random())).collect();
        let far = |a: &(f64, f64), b: &(f64, f64)| (a.0 - b.0).hypot(a.1 - b.1);
        // Latency follows distance: the model's at the radius.
        let at_distance = |distance: f64| {
            let share = if radius > 0.0 { distance / radius } else { 1.0 };
            LinkModel { latency_ms: (link.latency_ms * share).max(0.05), ..link }
        };
        for (a, here) in places.iter().enumerate() {
            for (b, there) in places.iter().enumerate().skip(a + 1) {
                let distance = far(here, there);
                if distance <= radius {
                    plan.join(a, b, at_distance(distance));
                }
            }
        }
        while let Some(island) = plan.island() {
            let gap = places
                .iter()
                .enumerate()
                .filter(|(a, _)| island.get(*a) == Some(&true))
                .flat_map(|(a, here)| {
                    let others = places.iter().enumerate().filter(|(b, _)| island.get(*b) == Some(&false));
                    others.map(move |(b, there)| (far(here, there), a, b))
                })
                .min_by(|x, y| x.0.total_cmp(&y.0));
            let Some((distance, a, b)) = gap else { break };
            plan.join(a, b, at_distance(distance));
        }
        plan
    }

    /// Which nodes node 0 can reach, unless it reaches all.
    fn island(&self) -> Option<Vec<bool>> {
        let mut reached = vec![false; self.nodes];
        let mut ends: Vec<Vec<usize>> = vec![Vec::new(); self.nodes];
        for (a, b) in self.edges.keys() {
            ends.get_mut(*a)?.push(*b);
            ends.get_mut(*b)?.push(*a);
        }
        let mut waiting = vec![0];
        while let Some(at) = waiting.pop() {
            let here = reached.get_mut(at)?;
            if !std::mem::replace(here, true) {
                waiting.extend(ends.get(at)?);
            }
        }
        reached.contains(&false).then_some(reached)
    }

    fn barabasi_albert(nodes: usize, links: usize, link: LinkModel, rng: &mut ChaCha8Rng) -> Self {
        let links = links.max(1);
        let mut plan = Self::chain(nodes.min(links + 1), link);
        plan.nodes = nodes;
        if nodes > MAX_NODES {
            return plan;
        }
        // Every end of a link once: a random entry prefers nodes with many links.
        let mut ends: Vec<usize> = plan.edges.keys().flat_map(|(a, b)| [*a, *b]).collect();
        for new in links + 1..nodes {
            let mut chosen: Vec<usize> = Vec::new();
            while chosen.len() < links {
                let pick = rng.random_range(0..ends.len().max(1));
                let Some(old) = ends.get(pick).copied() else { break };
                if !chosen.contains(&old) {
                    chosen.push(old);
                }
            }
            for old in chosen {
                plan.join(old, new, link);
                ends.extend([old, new]);
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn plan(topology: &Topology) -> Plan {
        Plan::make(topology, LinkModel::default(), &mut ChaCha8Rng::seed_from_u64(1)).unwrap()
    }

    #[test]
    fn shapes() {
        let count = |topology| {
            let plan = plan(&topology);
            assert!(plan.island().is_none(), "{topology:?} is connected");
            (plan.nodes, plan.edges.len())
        };
        assert_eq!(count(Topology::Line { nodes: 5 }), (5, 4));
        assert_eq!(count(Topology::Ring { nodes: 5 }), (5, 5));
        assert_eq!(count(Topology::Ring { nodes: 2 }), (2, 1));
        assert_eq!(count(Topology::Grid { width: 3, height: 4 }), (12, 17));
        assert_eq!(count(Topology::Ladder { length: 5 }), (10, 13));
        assert_eq!(count(Topology::BarabasiAlbert { nodes: 100, links: 3 }), (100, 3 + 96 * 3));
        assert_eq!(count(Topology::Geometric { nodes: 60, radius: 0.05 }).0, 60);
    }

    #[test]
    fn refuses() {
        let make = |topology: Topology, link| {
            Plan::make(&topology, link, &mut ChaCha8Rng::seed_from_u64(1)).map(|plan| plan.nodes)
        };
        let good = LinkModel::default();
        assert!(matches!(make(Topology::Line { nodes: 1 }, good), Err(ScenarioError::OutOfRange(_))));
        let huge = Topology::Grid { width: usize::MAX, height: 2 };
        assert!(matches!(make(huge, good), Err(ScenarioError::OutOfRange(_))));
        let bad = LinkModel { loss: 1.5, ..good };
        assert!(matches!(make(Topology::Line { nodes: 2 }, bad), Err(ScenarioError::OutOfRange(_))));
    }
}
