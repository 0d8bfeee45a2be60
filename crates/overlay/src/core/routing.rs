//! Routes: when to compute them, and the table that follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::{MeshAddress, NodeId};

use super::Core;
use crate::graph::{Graph, NONE, UNREACHABLE};
use crate::liveness::Phase;
use crate::paths::{Kept, Packed, Tree};
use crate::table::{Alternates, ForwardingTable, MAX_ALTERNATES, Places, RouteEntry};
use crate::types::{Event, LinkId, LinkKind, Output};

/// Compute at once if the last time was this long ago, else at the end of it.
const HOLD: Duration = Duration::from_millis(10);
/// In meshes above this size …
const LARGE: usize = 256;
/// … that have been computed this often in a row (a start, a partition that heals) …
const IN_A_ROW: u32 = 16;
/// … compute this seldom until it is quiet.
const HOLD_LARGE: Duration = Duration::from_millis(100);
/// Computing again within this time counts as in a row.
const ROW_GAP: Duration = Duration::from_millis(250);
/// Where alternates are not computed at once, compute them after this much quiet.
const ALTERNATES_AFTER: Duration = Duration::from_millis(250);

/// A way out. Ordered by the neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    node: NodeId,
    /// The neighbour's index in the graph.
    at: u32,
    /// What the link costs.
    cost: u32,
    /// What passing through the neighbour costs besides.
    extra: u32,
    link: LinkId,
}

/// Routes as last computed.
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) table: Arc<ForwardingTable>,
    /// By index of the graph; the table holds them too.
    routes: Arc<Vec<Option<RouteEntry>>>,
    /// Where each address has its route, and the members of the graph that this is of.
    places: Arc<Places>,
    places_of: Option<u64>,
    /// Whether the routes were computed without alternates.
    bare: bool,
    direct: BTreeMap<MeshAddress, LinkId>,
    dirty: bool,
    due: Option<Duration>,
    last: Duration,
    in_a_row: u32,
    alternates_due: Option<Duration>,
    transit_ends: Option<Duration>,
    packed: Packed,
    /// Ways out of this node, shortest paths from it, and from each way on without it.
    ways: Vec<Way>,
    shortest: Kept,
    around: BTreeMap<u32, Kept>,
}

impl Routing {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            table: Arc::default(),
            routes: Arc::default(),
            places: Arc::default(),
            places_of: None,
            bare: false,
            direct: BTreeMap::new(),
            dirty: false,
            due: None,
            last: now,
            in_a_row: 0,
            alternates_due: None,
            transit_ends: None,
            packed: Packed::default(),
            ways: Vec::new(),
            shortest: Kept::default(),
            around: BTreeMap::new(),
        }
    }

    /// Something changed that routes depend on.
    pub(super) const fn touch(&mut self) {
        self.dirty = true;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.due, self.alternates_due].into_iter().flatten().min()
    }

    /// Whether the node at this index of the graph has a route.
    pub(super) fn reached(&self, index: u32) -> bool {
        self.routes.get(index as usize).is_some_and(Option::is_some)
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &RouteEntry> {
        self.routes.iter().flatten()
    }

    pub(super) fn route(&self, index: u32) -> Option<&RouteEntry> {
        self.routes.get(index as usize)?.as_ref()
    }

    /// Recomputes when a suspicion stops keeping transit away.
    pub(super) fn check_transit(&mut self, now: Duration, graph: &Graph) {
        if self.transit_ends.is_some_and(|end| now >= end) {
            self.transit_ends = graph.suspicion_ends(now);
            self.dirty = true;
        }
    }
}

impl Core {
    /// Computes routes if they are due, and publishes the table if it changed.
    pub(super) fn update_routes(&mut self, now: Duration) {
        if self.left {
            return;
        }
        if std::mem::take(&mut self.routing.dirty) && self.routing.due.is_none() {
            let busy = self.routing.in_a_row >= IN_A_ROW && self.graph.len() > LARGE;
            let hold = if busy { HOLD_LARGE } else { HOLD };
            self.routing.due = Some((self.routing.last + hold).max(now));
        }
        if self.routing.due.is_some_and(|due| now >= due) {
            let row = now < self.routing.last + ROW_GAP;
            self.routing.in_a_row = if row { self.routing.in_a_row.saturating_add(1) } else { 0 };
            self.routing.due = None;
            self.routing.last = now;
            let at_once = self.graph.len() <= self.config.alternates_at_once;
            self.routing.alternates_due = (!at_once).then_some(now + ALTERNATES_AFTER);
            self.compute(now, at_once);
        } else if self.routing.alternates_due.is_some_and(|due| now >= due) {
            self.routing.alternates_due = None;
            self.compute(now, true);
        }
    }

    fn compute(&mut self, now: Duration, with_alternates: bool) {
        self.metrics.route_runs += 1;
        let Some(root) = self.graph.find(&self.identity.node) else { return };
        self.routing.transit_ends = self.graph.suspicion_ends(now);
        self.graph.pack(&mut self.routing.packed);
        let changed = self.bring_up_to_date(now, root, with_alternates);
        let direct: BTreeMap<MeshAddress, LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer.kind == LinkKind::Direct && link.live.phase() != Phase::Init)
            .map(|(id, link)| (link.peer.address, *id))
            .collect();
        let mut same = true;
        if changed || (with_alternates && self.routing.bare) {
            self.routing.bare = !with_alternates;
            let routes = self.routes_from(root, with_alternates);
            let before = std::mem::replace(&mut self.routing.routes, Arc::new(routes));
            self.tell_reachability(&before);
            same = before == self.routing.routes;
        }
        let members = self.graph.members();
        if self.routing.places_of != Some(members) {
            self.routing.places_of = Some(members);
            self.routing.places = Arc::new(self.graph.places());
        }
        if same && direct == self.routing.direct {
            return;
        }
        self.routing.direct.clone_from(&direct);
        self.metrics.tables += 1;
        let (places, routes) = (Arc::clone(&self.routing.places), Arc::clone(&self.routing.routes));
        self.routing.table = Arc::new(ForwardingTable::new(places, routes, direct));
        self.outputs.push_back(Output::Table(Arc::clone(&self.routing.table)));
    }

    /// Brings ways and paths up to date; whether routes may differ from those last computed.
    fn bring_up_to_date(&mut self, now: Duration, root: u32, with_alternates: bool) -> bool {
        let links = self.best_links();
        let graph = &self.graph;
        let transit = graph.transit(now);
        let transit = transit.as_deref();
        let mut ways: Vec<Way> = graph
            .edges(root)
            .iter()
            .filter_map(|edge| {
                let id = graph.id(edge.to);
                let extra = transit.and_then(|transit| transit.get(edge.to as usize)).copied().unwrap_or(0);
                Some(Way { node: id, at: edge.to, cost: edge.cost, extra, link: *links.get(&id)? })
            })
            .collect();
        ways.sort_unstable();
        let Routing { packed, shortest, around, .. } = &mut self.routing;
        let mut changed = shortest.refresh(graph, packed, root, None, transit);
        if with_alternates && ways.len() > 1 {
            around.retain(|at, _| ways.iter().any(|way| way.at == *at));
            for Way { at, .. } in &ways {
                changed |= around.entry(*at).or_default().refresh(graph, packed, *at, Some(root), transit);
            }
        }
        changed |= ways != self.routing.ways;
        self.routing.ways = ways;
        changed
    }

    fn routes_from(&self, root: u32, with_alternates: bool) -> Vec<Option<RouteEntry>> {
        let graph = &self.graph;
        let Routing { ways, shortest, around, .. } = &self.routing;
        let shortest = &shortest.tree;
        let around: Vec<&Tree> =
            ways.iter().filter_map(|way| around.get(&way.at).map(|kept| &kept.tree)).collect();
        let with_alternates = with_alternates && ways.len() > 1 && around.len() == ways.len();
        // Which way each first hop is.
        let mut way_of = vec![None; graph.slots()];
        for (way, place) in ways.iter().zip(0_usize..) {
            if let Some(slot) = way_of.get_mut(way.at as usize) {
                *slot = Some(place);
            }
        }
        let slots = u32::try_from(graph.slots()).unwrap_or(NONE);
        let mut routes = Vec::with_capacity(graph.slots());
        for at in 0..slots {
            let metric_us = shortest.to(at);
            let first = shortest.first.get(at as usize).copied().unwrap_or(NONE);
            let primary = way_of.get(first as usize).copied().flatten();
            let Some(primary) = primary.filter(|_| metric_us != UNREACHABLE && at != root) else {
                routes.push(None);
                continue;
            };
            let alternates = if with_alternates {
                alternates(ways, shortest, &around, primary, at)
            } else {
                Alternates::default()
            };
            routes.push(ways.get(primary).map(|way| RouteEntry {
                node: graph.id(at),
                primary: way.link,
                alternates,
                hops: shortest.hops.get(at as usize).copied().unwrap_or(0),
                metric_us,
                path_mtu: shortest.mtu.get(at as usize).copied().unwrap_or(0),
            }));
        }
        routes
    }

    fn tell_reachability(&mut self, before: &[Option<RouteEntry>]) {
        let after = &self.routing.routes;
        let node = |routes: &[Option<RouteEntry>], at: usize| {
            routes.get(at).and_then(Option::as_ref).map(|route| route.node)
        };
        let mut events = Vec::new();
        for at in 0..before.len().max(after.len()) {
            let (old, new) = (node(before, at), node(after, at));
            if old != new {
                events.extend(old.map(Event::NodeUnreachable));
                events.extend(new.map(Event::NodeReachable));
            }
        }
        for event in events {
            self.event(event);
        }
    }
}

/// The best other ways to a node: first those that are loop-free (RFC 5286, inequality 1) and avoid the primary's
/// neighbour (inequality 3), then loop-free ones, then those that avoid it, then the rest; the shorter first.
fn alternates(
    ways: &[Way],
    shortest: &Tree,
    around: &[&Tree],
    primary: usize,
    destination: u32,
) -> Alternates {
    let mut best: [Option<(bool, bool, u32, LinkId)>; MAX_ALTERNATES] = [None; MAX_ALTERNATES];
    let Some(hop) = ways.get(primary).map(|way| way.at) else { return Alternates::default() };
    let hop_to_destination = around.get(primary).map_or(UNREACHABLE, |tree| tree.to(destination));
    let metric = shortest.to(destination);
    for (at, (way, tree)) in ways.iter().zip(around).enumerate() {
        let rest = tree.to(destination);
        if at == primary || rest == UNREACHABLE {
            continue;
        }
        // The distance from there to us, which may be shorter than the link; costs are the same both ways.
        let loop_free = rest < shortest.to(way.at).saturating_add(metric);
        let avoids = hop == destination || rest < tree.to(hop).saturating_add(hop_to_destination);
        let extra = if way.at == destination { 0 } else { way.extra };
        let total = way.cost.saturating_add(rest).saturating_add(extra);
        let mut new = Some((!(loop_free && avoids), !loop_free, total, way.link));
        for slot in &mut best {
            if slot.is_none() || new < *slot {
                std::mem::swap(slot, &mut new);
            }
            if new.is_none() {
                break;
            }
        }
    }
    let mut alternates = Alternates::default();
    for (_, _, _, link) in best.into_iter().flatten() {
        alternates.push(link);
    }
    alternates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(dist: &[u32]) -> Tree {
        let mut tree = Tree::default();
        tree.dist = dist.to_vec();
        tree
    }

    fn way(at: u32, cost: u32, extra: u32) -> Way {
        Way { node: NodeId([at as u8; 32]), at, cost, extra, link: LinkId(at) }
    }

    /// We are 0; 1, 2 and 3 are neighbours, 4 the destination behind them.
    #[test]
    fn loop_free_by_distance_not_by_the_links_own_cost() {
        // 1 is the primary. The link to 2 costs 50, but 2 reaches us over 3 for 2: it would send frames for 4 (12 by its own
        // way) back through us, no better than 3 does, which is nearer.
        let shortest = tree(&[0, 1, 2, 1, 10]);
        let ways = [way(1, 1, 0), way(2, 50, 0), way(3, 1, 0)];
        let (one, two, three) = (tree(&[9, 0, 3, 4, 9]), tree(&[9, 3, 0, 1, 12]), tree(&[9, 4, 1, 0, 13]));
        let found = alternates(&ways, &shortest, &[&one, &two, &three], 0, 4);
        assert_eq!(found.as_slice(), [LinkId(3), LinkId(2)]);
    }

    #[test]
    fn a_way_through_a_suspect_node_comes_last() {
        let shortest = tree(&[0, 1, 5, 6, 10]);
        let trees = [tree(&[9, 0, 6, 7, 9]), tree(&[9, 6, 0, 9, 6]), tree(&[9, 7, 9, 0, 6])];
        let around: Vec<&Tree> = trees.iter().collect();
        let ways = [way(1, 1, 0), way(2, 5, 0), way(3, 6, 0)];
        assert_eq!(alternates(&ways, &shortest, &around, 0, 4).as_slice(), [LinkId(2), LinkId(3)]);
        let suspect = [way(1, 1, 0), way(2, 5, 2_000_000), way(3, 6, 0)];
        assert_ne!(ways, suspect, "such a change computes routes anew");
        assert_eq!(alternates(&suspect, &shortest, &around, 0, 4).as_slice(), [LinkId(3), LinkId(2)]);
    }
}
