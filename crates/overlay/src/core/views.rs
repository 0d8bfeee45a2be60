//! What the API shows of the core: neighbours, routes, nodes, counters.

use std::net::SocketAddr;
use std::time::Duration;

use meshara_identity::{MeshAddress, NodeId};

use super::Core;
pub use crate::liveness::Phase;
use crate::record::Kind;
pub use crate::table::RouteEntry as RouteView;
use crate::types::{LinkId, LinkKind};

/// One link and its measurements.
#[derive(Clone, Debug)]
pub struct NeighbourView {
    /// Which link.
    pub link: LinkId,
    /// To whom.
    pub node: NodeId,
    /// What for.
    pub kind: LinkKind,
    /// Its state.
    pub phase: Phase,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Share of probes lost, 0 to 1.
    pub loss: f64,
    /// Since when it is in this state.
    pub since: Duration,
    /// Who dialled.
    pub dialled_by_us: bool,
    /// Largest hop-frame payload.
    pub mtu: u16,
    /// Advertised cost, µs; `None` on direct and unconfirmed links.
    pub cost_us: Option<u32>,
}

/// A neighbour that failed, and that isn't back yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostView {
    /// Who.
    pub node: NodeId,
    /// Its name, if it was known.
    pub name: Option<String>,
    /// Where its packets last came from.
    pub addr: Option<SocketAddr>,
    /// When it failed.
    pub since: Duration,
    /// Who had dialled.
    pub dialled_by_us: bool,
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its id.
    pub node: NodeId,
    /// Its mesh address.
    pub address: MeshAddress,
    /// Its name, from its certificate.
    pub name: Option<String>,
    /// Its member record's body: a certificate or a proof.
    pub member: Option<Vec<u8>>,
    /// Whether that is a proof.
    pub proved: bool,
    /// The key that signs its records.
    pub routing_key: Option<[u8; 32]>,
    /// Where it says it can be dialled.
    pub addresses: Vec<SocketAddr>,
    /// Whether a route to it exists now.
    pub reachable: bool,
    /// It announced that it leaves.
    pub left: bool,
    /// Who its link state says are its neighbours.
    pub degree: usize,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Probes sent.
    pub probes_sent: u64,
    /// Probes refused.
    pub bad_probes: u64,
    /// Control messages refused.
    pub bad_control: u64,
    /// Links that turned suspect.
    pub suspicions: u64,
    /// Suspect links that recovered.
    pub recoveries: u64,
    /// Links declared dead.
    pub deaths: u64,
    /// Incoming links refused because we have enough.
    pub refused: u64,
    /// Neighbours exchanged for better ones.
    pub swaps: u64,
    /// Records of others accepted.
    pub accepted: u64,
    /// Records that brought nothing new.
    pub duplicates: u64,
    /// Records with a forged signature or certificate.
    pub forged: u64,
    /// Records ignored: unknown member, outside its time, signed with an outdated key.
    pub ignored: u64,
    /// Records shed by rate or size limits.
    pub shed: u64,
    /// Own records from an earlier life that were overtaken.
    pub overtaken: u64,
    /// Own records made.
    pub originated: u64,
    /// Records that expired.
    pub expired: u64,
    /// Records sent in floods, one for each link.
    pub flooded: u64,
    /// Heads of issuers' logs taken.
    pub heads_taken: u64,
    /// Heads that came and did not count, or no more when a witness was known.
    pub heads_refused: u64,
    /// Member records that waited for a head.
    pub waited: u64,
    /// Shortest-path computations.
    pub route_runs: u64,
    /// Tables published.
    pub tables: u64,
    /// Dials asked for.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Times that we stood still.
    pub stalls: u64,
    /// Of these, longer than a second.
    pub sleeps: u64,
}

impl Core {
    /// All links.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourView> {
        self.links.iter().map(|(id, link)| NeighbourView {
            link: *id,
            node: link.peer.node,
            kind: link.peer.kind,
            phase: link.live.phase(),
            rtt: link.live.rtt(),
            loss: f64::from(link.live.loss()) / f64::from(crate::probe::LOSS_ONE),
            since: link.phase_at,
            dialled_by_us: link.peer.dialled_by_us,
            mtu: link.peer.mtu,
            cost_us: self
                .told
                .get(&link.peer.node)
                .filter(|_| link.routing())
                .map(super::links::Told::shown_cost),
        })
    }

    /// All routes. Their number is the number of nodes that are routable now.
    pub fn routes(&self) -> impl Iterator<Item = &RouteView> {
        self.routing.routes()
    }

    /// All nodes whose records we hold, ourselves included.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView> {
        self.database.iter().map(|(id, _)| *id).filter_map(|id| self.node(&id))
    }

    /// What is known of a node.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<NodeView> {
        let origin = self.database.get(id)?;
        let at = self.graph.find(id);
        Some(NodeView {
            node: *id,
            address: at.map_or_else(|| self.auth.address(id), |at| self.graph.address(at)),
            name: origin.member.as_ref().map(|member| member.name.clone()),
            member: origin.record(Kind::Member).map(|record| record.body().to_vec()),
            proved: origin.member.as_ref().is_some_and(|member| member.proved),
            routing_key: origin.member.as_ref().map(|member| member.routing_key),
            addresses: self.addresses(id),
            reachable: *id == self.identity.node || at.is_some_and(|at| self.routing.reached(at)),
            left: origin.left,
            degree: self.graph.degree(id),
        })
    }

    /// The counters.
    #[must_use]
    pub const fn metrics(&self) -> Metrics {
        self.metrics
    }
}
