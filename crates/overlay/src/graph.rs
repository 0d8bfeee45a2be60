//! The mesh as a graph, and shortest paths in it.
//!
//! An edge counts only if both ends advertise it; its cost is the larger of the two, with a floor, so a node that claims
//! free paths to everything gains nothing. While a neighbour flags its link to a node as suspect, the link is out and the
//! node is expensive to pass through: one neighbour's detection moves everyone's traffic round a dead node, and everyone
//! weighs the graph alike, so the detour has no loop. The flag loses this second effect after a while, so that nobody can
//! keep a node's transit away with it.
#![expect(
    clippy::indexing_slicing,
    reason = "indices come from this module's own table of nodes, which only grows"
)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::{MeshAddress, NodeId};

use crate::cost::FLOOR;
use crate::paths::Packed;
use crate::record::Neighbour;
use crate::table::Places;

/// Added to passing through a suspect node, µs: more than any detour, less than no path.
const SUSPECT_TRANSIT: u32 = 2_000_000;
/// How long a flag keeps traffic from passing through the node: longer than any honest neighbour takes to clear it or to
/// declare the link dead (2.5 s on an idle link).
pub(crate) const SUSPECT_TRANSIT_FOR: Duration = Duration::from_secs(5);
/// That time is counted together over this one, so that clearing the flag and setting it again gains nothing.
const SUSPECT_AGAIN: Duration = Duration::from_secs(60);
/// Changes of edges that are remembered: more than a burst of floods between two computations of paths brings.
const CHANGES: usize = 4096;
/// No path.
pub(crate) const UNREACHABLE: u32 = u32::MAX;
/// No node.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) to: u32,
    pub(crate) cost: u32,
    pub(crate) mtu: u16,
}

/// An edge is not what it was; `cost` is what it is now, if it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) cost: Option<u32>,
}

#[derive(Clone, Debug)]
struct Node {
    id: NodeId,
    address: MeshAddress,
    adverts: Arc<[Neighbour]>,
    edges: Vec<Edge>,
}

/// Nodes by dense index, with their adverts and the edges that follow from them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    /// Only looked up.
    index: HashMap<NodeId, u32>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// Counts changes of nodes and edges.
    version: u64,
    /// Counts changes of nodes alone.
    members: u64,
    /// The last changes of edges, each with the version that it made.
    changes: VecDeque<(u64, Change)>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    /// (suspect node, who says so) → since when, and how often.
    suspects: BTreeMap<(u32, u32), Suspicion>,
    /// When old suspicions were last forgotten.
    purged: Duration,
}

/// That one node says that its link to another is suspect, now or lately.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    /// Begin of the time over which its effect is counted.
    from: Duration,
    /// How much effect it has had in that time before `since`.
    had: Duration,
    /// Since when it is flagged, if it is.
    since: Option<Duration>,
}

impl Suspicion {
    /// Until when the flag keeps transit away.
    fn ends(&self) -> Option<Duration> {
        self.since.map(|since| since + SUSPECT_TRANSIT_FOR.saturating_sub(self.had))
    }

    fn flag(&mut self, now: Duration) {
        if now >= self.from + SUSPECT_AGAIN {
            (self.from, self.had) = (now, Duration::ZERO);
        }
        self.since = Some(now);
    }

    fn clear(&mut self, now: Duration) {
        if let Some(since) = self.since.take() {
            self.had = (self.had + now.saturating_sub(since)).min(SUSPECT_TRANSIT_FOR);
        }
    }
}

impl Graph {
    /// Length of index space; some slots may be free.
    pub(crate) fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn find(&self, id: &NodeId) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub(crate) fn id(&self, index: u32) -> NodeId {
        self.nodes[index as usize].id
    }

    pub(crate) fn address(&self, index: u32) -> MeshAddress {
        self.nodes[index as usize].address
    }

    pub(crate) fn edges(&self, index: u32) -> &[Edge] {
        &self.nodes[index as usize].edges
    }

    /// Number of links that the node advertises.
    pub(crate) fn degree(&self, id: &NodeId) -> usize {
        self.find(id).map_or(0, |at| self.nodes[at as usize].adverts.len())
    }

    /// Sets what a node advertises. Returns its index and whether any edge changed.
    pub(crate) fn set(
        &mut self,
        id: NodeId,
        address: impl FnOnce() -> MeshAddress,
        adverts: impl Into<Arc<[Neighbour]>>,
        now: Duration,
    ) -> (u32, bool) {
        let mut changed = false;
        let at = match self.index.get(&id) {
            Some(at) => *at,
            None => {
                changed = true;
                self.version += 1;
                self.members += 1;
                let node = Node { id, address: address(), adverts: Arc::default(), edges: Vec::new() };
                let at = match self.free.pop() {
                    Some(at) => {
                        self.nodes[at as usize] = node;
                        at
                    }
                    None => {
                        self.nodes.push(node);
                        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
                    }
                };
                self.index.insert(id, at);
                at
            }
        };
        let adverts = adverts.into();
        let before = std::mem::replace(&mut self.nodes[at as usize].adverts, Arc::clone(&adverts));
        for other in differing(&before, &adverts) {
            if let Some(other) = self.find(&other) {
                changed |= self.join(at, other, now);
            }
        }
        (at, changed)
    }

    /// Forgets a node. Returns the index it had.
    pub(crate) fn remove(&mut self, id: &NodeId, now: Duration) -> Option<u32> {
        let at = self.find(id)?;
        let address = self.address(at);
        self.set(*id, || address, Vec::new(), now);
        self.index.remove(id);
        // Whoever gets the index next is another node.
        self.suspects.retain(|(node, by), _| *node != at && *by != at);
        self.version += 1;
        self.members += 1;
        self.free.push(at);
        Some(at)
    }

    /// Makes the edge between two nodes what their adverts say. Returns whether it changed.
    fn join(&mut self, a: u32, b: u32, now: Duration) -> bool {
        let advert = |from: u32, to: u32| {
            let to = self.nodes[to as usize].id;
            let adverts = &self.nodes[from as usize].adverts;
            adverts.binary_search_by(|n| n.node.cmp(&to)).ok().map(|at| adverts[at])
        };
        let (there, back) = (advert(a, b), advert(b, a));
        let both = there.zip(back);
        let mut changed = self.suspect(b, a, both.is_some_and(|(there, _)| there.suspect), now);
        changed |= self.suspect(a, b, both.is_some_and(|(_, back)| back.suspect), now);
        let edge = both
            .filter(|(there, back)| !there.suspect && !back.suspect)
            .map(|(there, back)| (there.cost.max(back.cost).max(FLOOR), there.mtu.min(back.mtu)));
        changed |= self.put_edge(a, b, edge);
        changed |= self.put_edge(b, a, edge);
        changed
    }

    fn suspect(&mut self, node: u32, by: u32, suspect: bool, now: Duration) -> bool {
        let known = self.suspects.get_mut(&(node, by));
        if known.as_ref().is_some_and(|known| known.since.is_some()) == suspect {
            return false;
        }
        match known {
            Some(known) if suspect => known.flag(now),
            Some(known) => known.clear(now),
            None => {
                if now >= self.purged + SUSPECT_AGAIN {
                    self.purged = now;
                    self.suspects.retain(|_, old| old.since.is_some() || now < old.from + SUSPECT_AGAIN);
                }
                let new = Suspicion { from: now, had: Duration::ZERO, since: Some(now) };
                self.suspects.insert((node, by), new);
            }
        }
        true
    }

    /// Counts changes of nodes and edges.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// The changes of edges since a version; `None` when it is too long ago.
    pub(crate) fn changes_since(&self, version: u64) -> Option<impl Iterator<Item = Change>> {
        (version >= self.forgotten).then(|| {
            let first = self.changes.partition_point(|(at, _)| *at <= version);
            self.changes.range(first..).map(|(_, change)| *change)
        })
    }

    fn note(&mut self, change: Change) {
        self.version += 1;
        if self.changes.len() == CHANGES
            && let Some((version, _)) = self.changes.pop_front()
        {
            self.forgotten = version;
        }
        self.changes.push_back((self.version, change));
    }

    fn put_edge(&mut self, from: u32, to: u32, edge: Option<(u32, u16)>) -> bool {
        let changed = self.change_edge(from, to, edge);
        if changed {
            self.note(Change { from, to, cost: edge.map(|(cost, _)| cost) });
        }
        changed
    }

    fn change_edge(&mut self, from: u32, to: u32, edge: Option<(u32, u16)>) -> bool {
        let edges = &mut self.nodes[from as usize].edges;
        let at = edges.iter().position(|edge| edge.to == to);
        match (at, edge) {
            (None, None) => false,
            (Some(at), None) => {
                edges.swap_remove(at);
                true
            }
            (None, Some((cost, mtu))) => {
                edges.push(Edge { to, cost, mtu });
                true
            }
            (Some(at), Some((cost, mtu))) => {
                let new = Edge { to, cost, mtu };
                std::mem::replace(&mut edges[at], new) != new
            }
        }
    }

    /// When the next suspicion loses its effect on transit, after `now`.
    pub(crate) fn suspicion_ends(&self, now: Duration) -> Option<Duration> {
        self.suspects.values().filter_map(Suspicion::ends).filter(|end| *end > now).min()
    }

    /// What passing through each node costs extra, if any node is suspect.
    pub(crate) fn transit(&self, now: Duration) -> Option<Vec<u32>> {
        let mut transit = None;
        for ((node, _), suspicion) in &self.suspects {
            if suspicion.ends().is_some_and(|end| now < end) {
                transit.get_or_insert_with(|| vec![0; self.nodes.len()])[*node as usize] = SUSPECT_TRANSIT;
            }
        }
        transit
    }

    /// Counts nodes that come and go.
    pub(crate) const fn members(&self) -> u64 {
        self.members
    }

    /// Where each node's route stands, by address.
    pub(crate) fn places(&self) -> Places {
        self.index.values().map(|at| (self.address(*at), *at)).collect()
    }

    /// Brings `packed` up to date.
    pub(crate) fn pack(&self, packed: &mut Packed) {
        if packed.version == Some(self.version) {
            return;
        }
        packed.version = Some(self.version);
        packed.starts.clear();
        packed.edges.clear();
        for node in &self.nodes {
            packed.starts.push(u32::try_from(packed.edges.len()).unwrap_or(NONE));
            packed.edges.extend_from_slice(&node.edges);
        }
        packed.starts.push(u32::try_from(packed.edges.len()).unwrap_or(NONE));
        if packed.members == Some(self.members) {
            return;
        }
        packed.members = Some(self.members);
        let mut order: Vec<(NodeId, usize)> = self.nodes.iter().map(|node| node.id).zip(0..).collect();
        order.sort_unstable();
        packed.ranks.clear();
        packed.ranks.resize(order.len(), 0);
        for ((_, at), rank) in order.into_iter().zip(0..) {
            packed.ranks[at] = rank;
        }
    }
}

/// The nodes of which two lists of adverts, each ordered by node, say different things.
fn differing<'a>(before: &'a [Neighbour], after: &'a [Neighbour]) -> impl Iterator<Item = NodeId> + 'a {
    let said = |adverts: &[Neighbour], node: &NodeId| {
        adverts.binary_search_by(|n| n.node.cmp(node)).ok().map(|at| adverts[at])
    };
    let changed = after.iter().filter(move |new| said(before, &new.node) != Some(**new));
    let gone = before.iter().filter(move |old| said(after, &old.node).is_none());
    changed.chain(gone).map(|advert| advert.node)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::paths::Tree;

    fn id(at: usize) -> NodeId {
        NodeId([u8::try_from(at).unwrap() + 1; 32])
    }

    fn advert(to: usize, cost: u32, suspect: bool) -> Neighbour {
        Neighbour { node: id(to), cost, loss: 0, mtu: 1400, suspect }
    }

    impl Graph {
        fn paths(&self, root: u32, without: Option<u32>, transit: Option<&[u32]>, tree: &mut Tree) {
            let mut packed = Packed::default();
            self.pack(&mut packed);
            packed.paths(root, without, transit, tree);
        }
    }

    fn graph(adverts: &[Vec<Neighbour>]) -> Graph {
        let mut graph = Graph::default();
        for (at, adverts) in adverts.iter().enumerate() {
            graph.set(id(at), || MeshAddress([0xfd; 16]), adverts.clone(), Duration::ZERO);
        }
        graph
    }

    #[test]
    fn an_edge_needs_both_ends_and_costs_what_the_dearer_says() {
        // 1 claims free links to everyone; only 0 agrees that there is one, and says what it costs.
        let mut tree = Tree::default();
        let mut g = graph(&[
            vec![advert(1, 5000, false)],
            vec![advert(0, 0, false), advert(2, 0, false), advert(3, 0, false)],
            vec![advert(3, 0, false)],
            vec![advert(2, 0, false)],
        ]);
        g.paths(0, None, None, &mut tree);
        assert_eq!(tree.dist, [0, 5000, UNREACHABLE, UNREACHABLE]);
        g.paths(2, None, None, &mut tree);
        assert_eq!(tree.to(3), FLOOR);
        assert!(g.remove(&id(1), Duration::ZERO).is_some());
        g.paths(0, None, None, &mut tree);
        assert_eq!(tree.to(1), UNREACHABLE);
    }

    #[test]
    fn a_suspect_is_passed_through_last_and_not_for_ever() {
        // 0–1–3 is shorter than 0–2–3; then 4, another neighbour of 1, doesn't hear 1 any more.
        let adverts = |suspect| {
            vec![
                vec![advert(1, 1000, false), advert(2, 2000, false)],
                vec![advert(0, 1000, false), advert(3, 1000, false), advert(4, 1000, false)],
                vec![advert(0, 2000, false), advert(3, 2000, false)],
                vec![advert(1, 1000, false), advert(2, 2000, false)],
                vec![advert(1, 1000, suspect)],
            ]
        };
        let via = |g: &Graph, to: u32, now: Duration| {
            let mut tree = Tree::default();
            g.paths(0, None, g.transit(now).as_deref(), &mut tree);
            (tree.first[to as usize], tree.to(to))
        };
        assert_eq!(via(&graph(&adverts(false)), 3, Duration::ZERO), (1, 2000));
        let g = graph(&adverts(true));
        assert_eq!(via(&g, 3, Duration::ZERO), (2, 4000));
        assert_eq!(via(&g, 1, Duration::ZERO), (1, 1000), "it can still be reached itself");
        assert_eq!(via(&g, 4, Duration::ZERO), (NONE, UNREACHABLE));
        assert_eq!(g.suspicion_ends(Duration::ZERO), Some(SUSPECT_TRANSIT_FOR));
        assert_eq!(via(&g, 3, SUSPECT_TRANSIT_FOR), (1, 2000));
    }

    #[test]
    fn clearing_a_flag_and_setting_it_again_gains_nothing() {
        let address = || MeshAddress([0xfd; 16]);
        let ms = Duration::from_millis;
        let mut g = graph(&[vec![advert(1, 1000, false)], vec![advert(0, 1000, false)]]);
        let mut flag = |now, suspect| {
            g.set(id(0), address, vec![advert(1, 1000, suspect)], now);
            g.transit(now).is_some()
        };
        // Two short stalls and a death are taken in earnest …
        for start in [0, 10_000, 20_000] {
            assert!(flag(ms(start), true), "at {start} ms");
            assert!(!flag(ms(start + 500), false));
        }
        // … but in a minute not more than the whole time that one flag has.
        let keeps_away = (21_000..60_000).step_by(100).filter(|now| {
            let away = flag(ms(*now), true);
            if now % 4_500 == 0 {
                flag(ms(*now), false);
            }
            away
        });
        let keeps_away = keeps_away.count() * 100 + 1_500;
        assert!((4_900..=5_100).contains(&keeps_away), "{keeps_away} ms");
        flag(ms(59_900), false);
        assert!(flag(ms(60_000), true), "counted anew");
        // Another node with the same index begins anew too.
        let at = g.remove(&id(1), ms(61_000)).unwrap();
        assert!(g.suspects.is_empty());
        assert_eq!(g.set(id(2), address, Vec::new(), ms(61_000)).0, at);
    }

    proptest! {
        #[test]
        fn paths_equal_brute_force(
            n in 2_usize..12,
            edges in proptest::collection::vec((0_usize..12, 0_usize..12, 0_u32..5, proptest::bool::weighted(0.8)), 0..40),
            without in proptest::option::of(1_u32..12),
        ) {
            let mut adverts: Vec<BTreeMap<usize, u32>> = vec![BTreeMap::new(); n];
            for (a, b, cost, both) in edges {
                if a < n && b < n && a != b {
                    adverts[a].insert(b, cost * 1000);
                    if both { adverts[b].insert(a, cost * 500); }
                }
            }
            let lists: Vec<Vec<Neighbour>> =
                adverts.iter().map(|a| a.iter().map(|(to, cost)| advert(*to, *cost, false)).collect()).collect();
            let without = without.filter(|without| (*without as usize) < n);
            let mut tree = Tree::default();
            let graph = graph(&lists);
            graph.paths(0, without, None, &mut tree);
            // Bellman–Ford.
            let mut dist = vec![UNREACHABLE; n];
            dist[0] = 0;
            for _ in 0..n {
                for a in 0..n {
                    for (b, there) in &adverts[a] {
                        let Some(back) = adverts[*b].get(&a) else { continue };
                        if without == Some(*b as u32) || dist[a] == UNREACHABLE { continue }
                        dist[*b] = dist[*b].min(dist[a] + (*there).max(*back).max(FLOOR));
                    }
                }
            }
            for (at, dist) in dist.iter().enumerate() {
                prop_assert_eq!(tree.dist[at], *dist);
                if *dist != UNREACHABLE && at != 0 {
                    prop_assert!(graph.edges(0).iter().any(|edge| edge.to == tree.first[at]));
                }
            }
            // Built in another order, edge by edge, it is the same graph.
            let mut other = Graph::default();
            for at in (0..n).rev() {
                other.set(id(at), || MeshAddress([0xfd; 16]), Vec::new(), Duration::ZERO);
            }
            for (at, list) in lists.iter().enumerate() {
                for end in 1..=list.len() {
                    other.set(id(at), || MeshAddress([0xfd; 16]), list[..end].to_vec(), Duration::ZERO);
                }
            }
            let mut again = Tree::default();
            let root = other.find(&id(0)).unwrap();
            let skip = without.map(|at| other.find(&id(at as usize)).unwrap());
            other.paths(root, skip, None, &mut again);
            for at in 0..n {
                let there = other.find(&id(at)).unwrap();
                prop_assert_eq!(tree.dist[at], again.to(there));
            }
        }
    }
}
