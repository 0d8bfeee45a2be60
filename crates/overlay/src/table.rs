//! The forwarding table: an immutable snapshot that the data plane reads without a lock.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use meshara_identity::{MeshAddress, NodeId};

use crate::types::LinkId;

/// Most alternates for a destination: three independent ways round outlive any two failures at once.
pub const MAX_ALTERNATES: usize = 3;

/// Next hops besides the primary, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternates {
    links: [LinkId; MAX_ALTERNATES],
    len: u8,
}

impl Default for Alternates {
    fn default() -> Self {
        Self { links: [LinkId(0); MAX_ALTERNATES], len: 0 }
    }
}

impl Alternates {
    /// The links.
    #[must_use]
    pub fn as_slice(&self) -> &[LinkId] {
        self.links.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Adds a link; false when full.
    pub fn push(&mut self, link: LinkId) -> bool {
        let Some(slot) = self.links.get_mut(usize::from(self.len)) else { return false };
        *slot = link;
        self.len += 1;
        true
    }
}

/// How to reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// The destination.
    pub node: NodeId,
    /// The link of the shortest path.
    pub primary: LinkId,
    /// Other links, loop-free and around the primary's neighbour where possible.
    pub alternates: Alternates,
    /// Links on the shortest path.
    pub hops: u16,
    /// Its cost, µs.
    pub metric_us: u32,
    /// Smallest MTU on it, bytes of hop-frame payload.
    pub path_mtu: u16,
}

/// Mesh addresses are hashes already: their last eight bytes spread well enough.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 = u64::from_le_bytes(*last);
        }
    }
}

/// Where in a list of routes each address has its place. Only looked up: its order is as random as the graph's index.
pub(crate) type Places = HashMap<MeshAddress, u32, BuildHasherDefault<AddressHasher>>;

/// Next hops for every destination. Successive tables share what did not change.
#[derive(Clone, Debug, Default)]
pub struct ForwardingTable {
    places: Arc<Places>,
    routes: Arc<Vec<Option<RouteEntry>>>,
    len: usize,
    direct: BTreeMap<MeshAddress, LinkId>,
}

impl ForwardingTable {
    pub(crate) fn new(
        places: Arc<Places>,
        routes: Arc<Vec<Option<RouteEntry>>>,
        direct: BTreeMap<MeshAddress, LinkId>,
    ) -> Self {
        let len = routes.iter().flatten().count();
        Self { places, routes, len, direct }
    }

    /// The route to a destination.
    #[must_use]
    pub fn lookup(&self, destination: &MeshAddress) -> Option<&RouteEntry> {
        self.at(*self.places.get(destination)?)
    }

    fn at(&self, place: u32) -> Option<&RouteEntry> {
        self.routes.get(place as usize)?.as_ref()
    }

    /// The direct link to a destination, if there is one.
    #[must_use]
    pub fn direct(&self, destination: &MeshAddress) -> Option<LinkId> {
        self.direct.get(destination).copied()
    }

    /// Number of destinations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no destination.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All routes, in an order that the same inputs to the core give again.
    pub fn iter(&self) -> impl Iterator<Item = &RouteEntry> {
        self.routes.iter().flatten()
    }

    /// Where a frame for `destination` goes: the first usable link that is not the one it came in on. At the origin
    /// (`from` is `None`) a direct link comes first.
    #[must_use]
    pub fn next_hop(
        &self,
        destination: &MeshAddress,
        from: Option<LinkId>,
        usable: &impl Fn(LinkId) -> bool,
    ) -> Option<LinkId> {
        if from.is_none()
            && let Some(link) = self.direct(destination)
            && usable(link)
        {
            return Some(link);
        }
        let route = self.lookup(destination)?;
        std::iter::once(route.primary)
            .chain(route.alternates.as_slice().iter().copied())
            .find(|link| Some(*link) != from && usable(*link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(at: u32) -> NodeId {
        NodeId(*blake3::hash(&at.to_be_bytes()).as_bytes())
    }

    #[test]
    fn routes_come_in_the_order_of_their_places() {
        let address = |at: u32| MeshAddress::derive(&meshara_identity::MeshId([1; 32]), &node(at));
        let route = |at: u32| RouteEntry {
            node: node(at),
            primary: LinkId(1),
            alternates: Alternates::default(),
            hops: 1,
            metric_us: 1,
            path_mtu: 1400,
        };
        let routes = (0..100).map(|at| (at % 3 > 0).then(|| route(at))).collect();
        let places = (0..100).rev().map(|at| (address(at), at)).collect();
        let table = ForwardingTable::new(Arc::new(places), Arc::new(routes), BTreeMap::new());
        let expected: Vec<RouteEntry> = (0..100).filter(|at| at % 3 > 0).map(route).collect();
        assert_eq!(table.len(), expected.len());
        assert!(table.iter().eq(&expected));
        assert!(
            expected
                .iter()
                .zip((0..100).filter(|at| at % 3 > 0))
                .all(|(route, at)| { table.lookup(&address(at)) == Some(route) })
        );
    }
}
