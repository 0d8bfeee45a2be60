//! Better neighbours for worse: rarely, one at a time, only for a clear gain, never at the price of connection.
//!
//! A candidate's RTT shows only on a link, so a random node gets a direct link on trial (not advertised, so nobody
//! recomputes anything). If it beats our worst neighbour by 30 %, it takes its place.

use std::time::Duration;

use meshara_identity::NodeId;
use rand::Rng;

use super::Core;
use crate::graph::UNREACHABLE;
use crate::liveness::Phase;
use crate::paths::{Packed, Tree};
use crate::types::{CloseReason, DialTarget, LinkId, LinkKind, Output};

/// Measure a candidate this long before deciding: ten idle probes.
const TRIAL: Duration = Duration::from_secs(5);
/// A neighbour is not exchanged before it has been one for this long.
const SETTLED: Duration = Duration::from_secs(60);
/// Above the most that we accept (needy nodes are accepted beyond it), drop one this often …
const CROWDED_PACE: Duration = Duration::from_secs(2);
/// … that has had this long to find others.
const CROWDED_SETTLED: Duration = Duration::from_secs(5);
/// Trials that gain nothing slow down to this.
const SELDOM: Duration = Duration::from_secs(600);
/// Swap when the candidate's RTT is below this share of the worst neighbour's, in percent.
const GAIN_PERCENT: u32 = 70;
/// Neighbours beyond the target that are tolerated: everyone dials at once when a mesh starts.
const SURPLUS: usize = 4;

/// The trial under way and the pace.
#[derive(Debug)]
pub(super) struct Swapping {
    next_at: Duration,
    pace: Duration,
    trial: Option<NodeId>,
    crowded_at: Duration,
}

impl Swapping {
    pub(super) const fn new(now: Duration, pace: Duration) -> Self {
        Self { next_at: now.saturating_add(pace), pace, trial: None, crowded_at: now }
    }
}

impl Core {
    /// Drops a surplus neighbour, judges the trial, or starts one.
    pub(super) fn improve_neighbours(&mut self, now: Duration) {
        if !self.config.auto_neighbours {
            return;
        }
        let neighbours = self.neighbour_ids();
        let crowded = neighbours.len() > self.config.degree_max;
        if crowded && now >= self.swapping.crowded_at {
            self.swapping.crowded_at = now + CROWDED_PACE;
            if let Some((worst, _)) = self.worst_neighbour(now, CROWDED_SETTLED) {
                self.metrics.swaps += 1;
                self.close(now, worst, CloseReason::Swapped);
            }
        }
        if now < self.swapping.next_at {
            return;
        }
        if neighbours.len() > self.config.degree_target + SURPLUS {
            self.wait_for_swap(now, self.config.swap_every);
            if let Some((worst, _)) = self.worst_neighbour(now, SETTLED) {
                self.metrics.swaps += 1;
                self.close(now, worst, CloseReason::Swapped);
            }
        } else if let Some(candidate) = self.swapping.trial.take() {
            self.judge(now, candidate);
        } else if neighbours.len() >= self.config.degree_target {
            self.wait_for_swap(now, TRIAL);
            self.swapping.trial = self.start_trial(&neighbours);
        } else {
            self.wait_for_swap(now, self.config.swap_every);
        }
    }

    fn wait_for_swap(&mut self, now: Duration, wait: Duration) {
        self.swapping.next_at = now + wait + self.jitter(wait / 4);
    }

    fn start_trial(&mut self, neighbours: &[NodeId]) -> Option<NodeId> {
        let pool: Vec<NodeId> = self
            .routing
            .routes()
            .map(|route| route.node)
            .filter(|node| neighbours.binary_search(node).is_err() && !self.addresses(node).is_empty())
            .collect();
        let pick = self.rng.random_range(0..pool.len().max(1));
        let node = *pool.get(pick)?;
        if !self.links.values().any(|link| link.peer.node == node) {
            let target = DialTarget { node: Some(node), addrs: self.addresses(&node) };
            self.metrics.dials += 1;
            self.outputs.push_back(Output::Dial { target, kind: LinkKind::Direct });
        }
        Some(node)
    }

    fn judge(&mut self, now: Duration, candidate: NodeId) {
        let measured = self
            .links
            .values()
            .filter(|link| link.peer.node == candidate && link.live.phase() == Phase::Up)
            .find_map(|link| link.live.rtt());
        let worst = self.worst_neighbour(now, SETTLED);
        if let Some((rtt, (worst, worst_rtt))) = measured.zip(worst)
            && rtt < worst_rtt * GAIN_PERCENT / 100
        {
            self.metrics.swaps += 1;
            self.close(now, worst, CloseReason::Swapped);
            self.redial(now, candidate);
            self.swapping.pace = self.config.swap_every;
        } else {
            self.swapping.pace = (self.swapping.pace * 2).min(SELDOM.max(self.config.swap_every));
        }
        self.wait_for_swap(now, self.swapping.pace);
    }

    /// The neighbour with the longest RTT that may go: not configured, long enough a neighbour, not dependent on us, and
    /// connected with our other neighbours without us. The random long links are those that stay: a tenth of the choice
    /// by RTT would otherwise undo them, so the longest `degree_random` are left out.
    fn worst_neighbour(&self, now: Duration, settled: Duration) -> Option<(LinkId, Duration)> {
        let mut by_rtt: Vec<(Duration, LinkId)> = self
            .best_links()
            .into_values()
            .filter_map(|id| Some((self.links.get(&id)?.live.rtt()?, id)))
            .collect();
        by_rtt.sort_unstable();
        let keep = by_rtt.len().saturating_sub(self.config.degree_random);
        by_rtt.truncate(keep);
        by_rtt.into_iter().rev().find_map(|(rtt, id)| {
            let link = self.links.get(&id)?;
            let node = link.peer.node;
            let settled = now >= link.up_at + settled && !self.configured(&node);
            (settled && self.graph.degree(&node) > 2 && self.connected_without_us(&node)).then_some((id, rtt))
        })
    }

    fn connected_without_us(&self, node: &NodeId) -> bool {
        let (Some(us), Some(at)) = (self.graph.find(&self.identity.node), self.graph.find(node)) else {
            return false;
        };
        let mut tree = Tree::default();
        let mut packed = Packed::default();
        self.graph.pack(&mut packed);
        packed.paths(at, Some(us), None, &mut tree);
        self.graph.edges(us).iter().any(|edge| edge.to != at && tree.to(edge.to) != UNREACHABLE)
    }
}
