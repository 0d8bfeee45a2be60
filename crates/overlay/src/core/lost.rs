//! Neighbours that failed: shown as down until they are back, or given up. Their dial targets hold what is shown.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use super::links::Link;
use super::views::LostView;
use crate::liveness::Phase;
use crate::record::MAX_NEIGHBOURS;
use crate::types::LinkDownReason;

/// Most that are shown: all neighbours that a node can have, twice over. Those that failed last.
const MAX_SHOWN: usize = 2 * MAX_NEIGHBOURS;

/// What is shown of a neighbour that failed.
#[derive(Clone, Debug)]
pub(super) struct Down {
    name: Option<String>,
    addr: Option<SocketAddr>,
    pub(super) since: Duration,
    dialled_by_us: bool,
}

impl Core {
    /// What the end of a routing link means. Who has said goodbye to the mesh has left, however the link ended.
    pub(super) fn judged(&self, node: &NodeId, reason: LinkDownReason) -> LinkDownReason {
        let left = self.database.get(node).is_some_and(|origin| origin.left);
        match reason {
            LinkDownReason::Closed | LinkDownReason::TimedOut if left => LinkDownReason::Left,
            reason => reason,
        }
    }

    /// A routing link is gone. Its node is down if this was the last one that worked, and nobody meant to end it.
    pub(super) fn note_down(&mut self, now: Duration, link: &Link, reason: LinkDownReason) {
        let node = link.peer.node;
        match reason {
            // Alive, or gone in order, and no neighbour any more.
            LinkDownReason::Refused
            | LinkDownReason::Redundant
            | LinkDownReason::Left
            | LinkDownReason::Local => {
                self.dialling.not_down(&node);
            }
            LinkDownReason::Closed | LinkDownReason::TimedOut => {
                let worked = |link: &Link| link.routing() && link.live.phase() != Phase::Init;
                let others = self.links.values().any(|other| other.peer.node == node && worked(other));
                if others || !worked(link) {
                    return;
                }
                let member = self.database.get(&node).and_then(|origin| origin.member.as_ref());
                let down = Down {
                    name: member.map(|member| member.name.clone()),
                    addr: link.peer.remote,
                    since: now,
                    dialled_by_us: link.peer.dialled_by_us,
                };
                self.dialling.down(now, node, down);
            }
        }
    }

    /// Neighbours that failed, the last ones first: until a new link to them works; at most for
    /// [`crate::Config::redial_give_up`], or as long as this node dials them as lost. Not those that one of both sides
    /// parted with.
    pub fn lost_neighbours(&self) -> impl Iterator<Item = LostView> {
        let mut lost: Vec<LostView> = self
            .dialling
            .all_down()
            .map(|(node, down)| LostView {
                node,
                name: down.name.clone(),
                addr: down.addr,
                since: down.since,
                dialled_by_us: down.dialled_by_us,
            })
            .collect();
        lost.sort_unstable_by_key(|lost| (Reverse(lost.since), lost.node));
        lost.truncate(MAX_SHOWN);
        lost.into_iter()
    }
}
