//! Shortest paths, and keeping them while changes elsewhere in the graph don't touch them.
#![expect(
    clippy::indexing_slicing,
    reason = "indices come from the graph's own table of nodes, which only grows, and arrays are sized by it"
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::graph::{Change, Edge, Graph, NONE, UNREACHABLE};

/// The edges of a graph side by side, for computing many paths: scattered over the heap they cost a cache miss each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    pub(crate) version: Option<u64>,
    /// The members of the graph that `ranks` are of.
    pub(crate) members: Option<u64>,
    /// Where each node's edges begin; one more at the end.
    pub(crate) starts: Vec<u32>,
    pub(crate) edges: Vec<Edge>,
    /// Place of each node's id in the order of ids.
    pub(crate) ranks: Vec<u32>,
}

/// Shortest paths from one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) dist: Vec<u32>,
    pub(crate) hops: Vec<u16>,
    /// First node after the root on the path.
    pub(crate) first: Vec<u32>,
    pub(crate) mtu: Vec<u16>,
    parent: Vec<u32>,
}

impl Packed {
    /// Dijkstra's shortest paths from `root`, never through `without`. Ties go to fewer hops, then to the parent with the
    /// smaller id, so every node with the same records sees the same tree.
    pub(crate) fn paths(&self, root: u32, without: Option<u32>, transit: Option<&[u32]>, tree: &mut Tree) {
        let slots = self.ranks.len();
        tree.reset(slots);
        tree.dist[root as usize] = 0;
        tree.mtu[root as usize] = u16::MAX;
        let mut queue = BinaryHeap::with_capacity(slots.min(1024));
        queue.push(waiting(0, 0, root));
        while let Some((dist, hops, at)) = queue.pop().map(waited) {
            let from = at as usize;
            if (dist, hops) != (tree.dist[from], tree.hops[from]) {
                continue;
            }
            let extra = if at == root { 0 } else { transit.map_or(0, |t| t[from]) };
            for edge in &self.edges[self.starts[from] as usize..self.starts[from + 1] as usize] {
                if Some(edge.to) == without || edge.to == root {
                    continue;
                }
                let to = edge.to as usize;
                let reached = (dist.saturating_add(edge.cost).saturating_add(extra), hops.saturating_add(1));
                let known = (tree.dist[to], tree.hops[to]);
                let better = reached < known;
                let tie = reached == known
                    && tree.parent[to] != NONE
                    && self.ranks[from] < self.ranks[tree.parent[to] as usize];
                if better || tie {
                    (tree.dist[to], tree.hops[to]) = reached;
                    tree.parent[to] = at;
                    tree.first[to] = if at == root { edge.to } else { tree.first[from] };
                    tree.mtu[to] = tree.mtu[from].min(edge.mtu);
                }
                if better {
                    queue.push(waiting(reached.0, reached.1, edge.to));
                }
            }
        }
    }
}

/// A node in the queue, by distance, then by hops; as one number, which a heap orders much faster than three.
fn waiting(dist: u32, hops: u16, at: u32) -> Reverse<u128> {
    Reverse(u128::from(dist) << 48 | u128::from(hops) << 32 | u128::from(at))
}

/// The three numbers again.
const fn waited(Reverse(key): Reverse<u128>) -> (u32, u16, u32) {
    ((key >> 48) as u32, (key >> 32) as u16, key as u32)
}

impl Tree {
    fn reset(&mut self, slots: usize) {
        fn fill<T: Clone>(all: &mut Vec<T>, slots: usize, value: T) {
            all.clear();
            all.resize(slots, value);
        }
        fill(&mut self.dist, slots, UNREACHABLE);
        fill(&mut self.hops, slots, 0);
        fill(&mut self.first, slots, NONE);
        fill(&mut self.mtu, slots, 0);
        fill(&mut self.parent, slots, NONE);
    }

    /// Room for nodes that have come since; none of them is reached.
    fn extend(&mut self, slots: usize) {
        self.dist.resize(slots.max(self.dist.len()), UNREACHABLE);
        self.hops.resize(self.dist.len(), 0);
        self.first.resize(self.dist.len(), NONE);
        self.mtu.resize(self.dist.len(), 0);
        self.parent.resize(self.dist.len(), NONE);
    }

    /// Distance to a node.
    pub(crate) fn to(&self, index: u32) -> u32 {
        self.dist.get(index as usize).copied().unwrap_or(UNREACHABLE)
    }
}

/// Shortest paths that are computed again only when a change touches them.
///
/// Most changes don't: of a thousand nodes that hear of a dead link, few have a shortest path over it. A tree stays
/// the right one as long as its own edges stay as they are and no other edge offers a path as good.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) tree: Tree,
    /// What the tree was computed for: root, the node left out, extra costs of transit, and the graph's version.
    of: Option<(u32, Option<u32>)>,
    transit: Option<Vec<u32>>,
    version: u64,
}

impl Kept {
    /// Brings the tree up to date with `graph`, of which `packed` is the present form. Returns whether it may have changed.
    pub(crate) fn refresh(
        &mut self,
        graph: &Graph,
        packed: &Packed,
        root: u32,
        without: Option<u32>,
        transit: Option<&[u32]>,
    ) -> bool {
        let valid = self.of == Some((root, without))
            && !self.touched_by_transit(root, transit)
            && graph.changes_since(self.version).is_some_and(|mut changes| {
                !changes.any(|change| self.touched_by(root, without, transit, change))
            });
        self.version = graph.version();
        if valid {
            self.tree.extend(graph.slots());
        } else {
            packed.paths(root, without, transit, &mut self.tree);
            self.of = Some((root, without));
        }
        if self.transit.as_deref() != transit {
            self.transit = transit.map(<[u32]>::to_vec);
        }
        !valid
    }

    /// Whether an edge that is now so can have changed the tree. In doubt it has.
    fn touched_by(&self, root: u32, without: Option<u32>, transit: Option<&[u32]>, change: Change) -> bool {
        let Change { from, to, cost } = change;
        if to == root || Some(to) == without || Some(from) == without {
            return false;
        }
        let at = |list: &[u32], index: u32, none: u32| list.get(index as usize).copied().unwrap_or(none);
        if at(&self.tree.parent, to, NONE) == from {
            return true;
        }
        let dist = at(&self.tree.dist, from, UNREACHABLE);
        let Some(cost) = cost.filter(|_| dist != UNREACHABLE) else { return false };
        let hops = |index: u32| self.tree.hops.get(index as usize).copied().unwrap_or(0);
        let extra = if from == root { 0 } else { transit.map_or(0, |t| at(t, from, 0)) };
        let offered = (dist.saturating_add(cost).saturating_add(extra), hops(from).saturating_add(1));
        offered <= (at(&self.tree.dist, to, UNREACHABLE), hops(to))
    }

    /// Whether other extra costs can change the tree: a lower one always, a higher one if paths pass there.
    fn touched_by_transit(&self, root: u32, transit: Option<&[u32]>) -> bool {
        let before = self.transit.as_deref();
        if before == transit {
            return false;
        }
        let extra = |list: Option<&[u32]>, at: usize| list.and_then(|l| l.get(at)).copied().unwrap_or(0);
        let slots = self.tree.dist.len().max(transit.map_or(0, <[u32]>::len));
        let mut dearer = vec![false; slots];
        for (at, dearer) in dearer.iter_mut().enumerate() {
            let (old, new) = (extra(before, at), extra(transit, at));
            if new < old {
                return true;
            }
            *dearer = new > old;
        }
        self.tree
            .parent
            .iter()
            .any(|parent| *parent != NONE && *parent != root && dearer.get(*parent as usize) == Some(&true))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshara_identity::{MeshAddress, NodeId};
    use proptest::prelude::*;

    use super::*;
    use crate::record::Neighbour;

    /// A change of the mesh.
    #[derive(Clone, Debug)]
    enum Step {
        /// A node advertises others.
        Set(u8, Vec<(u8, u32, bool)>),
        Remove(u8),
        Wait,
    }

    fn step() -> impl Strategy<Value = Step> {
        let adverts = proptest::collection::vec((0_u8..9, 0_u32..4, proptest::bool::weighted(0.1)), 0..6);
        prop_oneof![
            8 => (0_u8..9, adverts).prop_map(|(node, adverts)| Step::Set(node, adverts)),
            1 => (1_u8..9).prop_map(Step::Remove),
            1 => Just(Step::Wait),
        ]
    }

    fn id(node: u8) -> NodeId {
        NodeId([node + 1; 32])
    }

    proptest! {
        #[test]
        fn kept_trees_equal_new_ones(steps in proptest::collection::vec(step(), 1..60), often in 1_usize..4) {
            let mut graph = Graph::default();
            let address = || MeshAddress([0xfd; 16]);
            let (root, _) = graph.set(id(0), address, Vec::new(), Duration::ZERO);
            let (other, _) = graph.set(id(1), address, Vec::new(), Duration::ZERO);
            let mut packed = Packed::default();
            let mut kept = [Kept::default(), Kept::default()];
            let mut now = Duration::ZERO;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Set(node, list) => {
                        let mut adverts: Vec<Neighbour> = Vec::new();
                        for (to, cost, suspect) in list {
                            if to != node && adverts.iter().all(|advert| advert.node != id(to)) {
                                adverts.push(Neighbour { node: id(to), cost: cost * 700, loss: 0, mtu: 1400, suspect });
                            }
                        }
                        adverts.sort_unstable_by_key(|advert| advert.node);
                        graph.set(id(node), address, adverts, now);
                    }
                    // The root and the node that some trees start from stay.
                    Step::Remove(node) if node > 1 => {
                        graph.remove(&id(node), now);
                    }
                    Step::Remove(_) => {}
                    Step::Wait => now += Duration::from_secs(3),
                }
                if number % often != 0 {
                    continue;
                }
                graph.pack(&mut packed);
                let transit = graph.transit(now);
                let transit = transit.as_deref();
                for (kept, (from, without)) in kept.iter_mut().zip([(root, None), (other, Some(root))]) {
                    kept.refresh(&graph, &packed, from, without, transit);
                    let mut new = Tree::default();
                    packed.paths(from, without, transit, &mut new);
                    prop_assert_eq!(&kept.tree, &new);
                }
            }
        }
    }

    #[test]
    fn a_change_elsewhere_keeps_the_tree() {
        let advert = |to, cost| Neighbour { node: id(to), cost, loss: 0, mtu: 1400, suspect: false };
        let address = || MeshAddress([0xfd; 16]);
        let mut graph = Graph::default();
        let set = |graph: &mut Graph, node, adverts| graph.set(id(node), address, adverts, Duration::ZERO).0;
        let root = set(&mut graph, 0, vec![advert(1, 1000), advert(2, 1000)]);
        set(&mut graph, 1, vec![advert(0, 1000), advert(2, 1000)]);
        set(&mut graph, 2, vec![advert(0, 1000), advert(1, 1000)]);
        let (mut kept, mut packed) = (Kept::default(), Packed::default());
        let mut refresh = |graph: &Graph, kept: &mut Kept| {
            graph.pack(&mut packed);
            kept.refresh(graph, &packed, root, None, None)
        };
        assert!(refresh(&graph, &mut kept), "the first time");
        assert!(!refresh(&graph, &mut kept));
        set(&mut graph, 2, vec![advert(0, 1000)]);
        assert!(!refresh(&graph, &mut kept), "the link between 1 and 2 carries nothing");
        set(&mut graph, 2, vec![]);
        assert!(refresh(&graph, &mut kept));
        assert_eq!(kept.tree.to(2), UNREACHABLE);
    }
}
