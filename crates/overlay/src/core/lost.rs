//! Neighbours that failed: shown as down while the node tries to get them back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use super::links::Link;
use super::views::LostView;
use crate::liveness::Phase;
use crate::record::MAX_NEIGHBOURS;
use crate::types::LinkDownReason;

/// Lost neighbours remembered: all that a node can have, twice over. The one that was lost first makes room.
const MAX_LOST: usize = 2 * MAX_NEIGHBOURS;

/// A neighbour that failed.
#[derive(Clone, Debug)]
struct Lost {
    name: Option<String>,
    addr: Option<SocketAddr>,
    since: Duration,
    dialled_by_us: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct LostNeighbours(BTreeMap<NodeId, Lost>);

impl LostNeighbours {
    fn insert(&mut self, node: NodeId, lost: Lost) {
        if self.0.len() >= MAX_LOST && !self.0.contains_key(&node) {
            let first = self.0.iter().min_by_key(|(node, lost)| (lost.since, **node));
            if let Some(first) = first.map(|(node, _)| *node) {
                self.0.remove(&first);
            }
        }
        self.0.insert(node, lost);
    }

    /// The node is a neighbour again.
    pub(super) fn found(&mut self, node: &NodeId) {
        self.0.remove(node);
    }
}

impl Core {
    /// A routing link is gone. Its node is lost if this was the last one that worked, and nobody meant to end it.
    pub(super) fn note_lost(&mut self, now: Duration, link: &Link, reason: LinkDownReason) {
        let node = link.peer.node;
        match reason {
            // Alive, and no neighbour any more.
            LinkDownReason::Refused | LinkDownReason::Redundant | LinkDownReason::Left => {
                self.lost.found(&node);
            }
            LinkDownReason::Closed | LinkDownReason::TimedOut | LinkDownReason::Local => {
                let worked = |link: &Link| link.routing() && link.live.phase() != Phase::Init;
                let others = self.links.values().any(|other| other.peer.node == node && worked(other));
                if others || !worked(link) {
                    return;
                }
                let member = self.database.get(&node).and_then(|origin| origin.member.as_ref());
                let lost = Lost {
                    name: member.map(|member| member.name.clone()),
                    addr: link.peer.remote,
                    since: now,
                    dialled_by_us: link.peer.dialled_by_us,
                };
                self.lost.insert(node, lost);
            }
        }
    }

    /// Forgets those that are not dialled any more, and those that have left in order since.
    pub(super) fn forget_lost(&mut self, now: Duration) {
        let mut lost = std::mem::take(&mut self.lost);
        let limit = self.config.redial_give_up;
        lost.0
            .retain(|node, lost| (self.configured(node) || now < lost.since + limit) && !self.has_left(node));
        self.lost = lost;
    }

    fn has_left(&self, node: &NodeId) -> bool {
        self.database.get(node).is_some_and(|origin| origin.left)
    }

    /// Neighbours that failed, as long as they are dialled: those that nobody configured for
    /// [`crate::Config::redial_give_up`]. Whoever left in order isn't among them.
    pub fn lost_neighbours(&self) -> impl Iterator<Item = LostView> {
        self.lost.0.iter().filter(|(node, _)| !self.has_left(node)).map(|(node, lost)| LostView {
            node: *node,
            name: lost.name.clone(),
            addr: lost.addr,
            since: lost.since,
            dialled_by_us: lost.dialled_by_us,
        })
    }
}
