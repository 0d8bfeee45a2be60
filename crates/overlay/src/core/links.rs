//! Links: up, suspect, dead, doubled; and what we tell the mesh about them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use super::offers::Offers;
use crate::bucket::Bucket;
use crate::cost::{ADVERTISE_EVERY, SMALL_LASTS, link_cost, worth_telling, worth_telling_later};
use crate::damping::PENALTY;
use crate::liveness::{Change, Liveness, Phase};
use crate::probe::{Probe, ProbeError};
use crate::record::{MAX_NEIGHBOURS, Neighbour};
use crate::types::{CloseReason, Event, Hint, LinkDownReason, LinkId, LinkKind, LinkPeer, Output};

/// Of two links to one node, one is closed after both have been up this long: by then both ends know both.
const SETTLE_AFTER: Duration = Duration::from_millis(500);
/// A link counts as healthy for that decision if it was heard in this time.
const HEARD_LATELY: Duration = Duration::from_millis(1300);
/// Requests served to a peer at once: all records of the largest database, and again.
const REQUEST_BURST: u32 = 100_000;
/// And one more this often (1,000 records a second).
const REQUEST_EVERY: Duration = Duration::from_millis(1);
/// Links to one node at once: a routing link, a direct one, and what replaces each while the old one isn't known dead yet.
const MAX_LINKS_OF_ONE: usize = 4;
/// Direct links in all: half the places that the data plane has, so that they never keep out routing links.
const MAX_DIRECT: usize = 128;
/// A node that has fewer neighbours than this is always accepted: refusing it could cut it off.
const NEEDY: usize = 2;
/// After a wake-up, a link that turns suspect within this time is replaced by a new dial at once.
const DOUBT_AFTER_WAKE: Duration = Duration::from_secs(5);

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: LinkPeer,
    pub(super) live: Liveness,
    pub(super) up_at: Duration,
    /// Since when it is in its phase.
    pub(super) phase_at: Duration,
    /// When [`Core::check_links`] must look at it; a copy of the liveness' deadline.
    pub(super) deadline: Duration,
    pub(super) requests: Bucket,
    /// Heads that it offers.
    pub(super) offers: Offers,
    /// When we last sent a summary on it.
    pub(super) summary_at: Option<Duration>,
}

impl Link {
    pub(super) fn routing(&self) -> bool {
        self.peer.kind == LinkKind::Routing
    }
}

/// What our adverts say of a neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    neighbour: Neighbour,
    /// The cost before damping, and since when it stands.
    cost: u32,
    at: Duration,
    /// Since when the real cost differs a little from it.
    differs: Option<Duration>,
}

impl Told {
    /// The advertised cost, damping included, µs.
    pub(super) const fn shown_cost(&self) -> u32 {
        self.neighbour.cost
    }

    /// Whether a new cost is to be told now.
    fn outdated(&self, now: Duration, fresh: u32) -> bool {
        let lasts = self.differs.is_some_and(|since| now >= since + SMALL_LASTS);
        (worth_telling(self.cost, fresh) && now >= self.at + ADVERTISE_EVERY)
            || (worth_telling_later(self.cost, fresh) && lasts)
    }
}

impl Core {
    /// A link came up: the handshake is done, its keys are in place. It is used once probes have passed both ways.
    pub fn link_up(&mut self, now: Duration, id: LinkId, peer: LinkPeer) {
        self.begin(now);
        if self.left {
            self.outputs.push_back(Output::CloseLink { link: id, reason: CloseReason::Leaving });
            return;
        }
        if let Some(reason) = self.no_place(&peer) {
            self.metrics.refused += 1;
            self.outputs.push_back(Output::CloseLink { link: id, reason });
            return;
        }
        self.dialled(now, &peer);
        let live = Liveness::new(now, peer.rtt, &self.config);
        let link = Link {
            live,
            up_at: now,
            phase_at: now,
            deadline: now,
            requests: Bucket::new(REQUEST_BURST, REQUEST_EVERY, now),
            offers: Offers::new(now),
            summary_at: None,
            peer,
        };
        let routing = link.routing();
        self.links.insert(id, link);
        if routing {
            // Before records that are proved under them are asked for.
            self.greet_heads(id);
            self.greet(id);
        }
        self.check_link(now, id);
        self.finish(now);
    }

    /// The driver says that a link is gone.
    pub fn link_down(&mut self, now: Duration, id: LinkId, reason: LinkDownReason) {
        self.begin(now);
        if let Some(link) = self.links.remove(&id) {
            self.event(Event::LinkDown { link: id, node: link.peer.node, reason: None });
            self.link_lost(now, &link, reason);
        }
        self.finish(now);
    }

    /// The operating system hints that a link may have failed: suspect it at once, until probes say otherwise.
    pub fn link_hint(&mut self, now: Duration, id: LinkId, _hint: Hint) {
        self.begin(now);
        if let Some(link) = self.links.get_mut(&id) {
            if link.live.suspect(now) {
                self.apply(now, id, Change::Suspected);
            } else if let Some(link) = self.links.get_mut(&id) {
                link.live.hurry(now);
            }
            self.check_link(now, id);
        }
        self.finish(now);
    }

    /// The link's largest hop-frame payload changed.
    pub fn link_mtu(&mut self, now: Duration, id: LinkId, mtu: u16) {
        self.begin(now);
        if let Some(link) = self.links.get_mut(&id) {
            link.peer.mtu = mtu;
        }
        self.finish(now);
    }

    /// The neighbour's packets come from another address now: a NAT has rebound, or it moved.
    pub fn link_moved(&mut self, now: Duration, id: LinkId, remote: SocketAddr) {
        self.begin(now);
        if let Some(link) = self.links.get_mut(&id) {
            link.peer.remote = Some(remote);
        }
        self.finish(now);
    }

    /// The link carried data frames since the last call.
    pub fn note_traffic(&mut self, now: Duration, id: LinkId) {
        self.begin(now);
        if let Some(link) = self.links.get_mut(&id) {
            link.live.note_traffic(now, &self.config);
            link.deadline = link.live.deadline(now, &self.config);
            if link.deadline <= now {
                self.check_link(now, id);
            }
        }
        self.finish(now);
    }

    /// A probe came in.
    ///
    /// # Errors
    /// The probe is malformed or impossible; it changes nothing. No reason to close the link: garbage can be old.
    pub fn handle_probe(&mut self, now: Duration, id: LinkId, bytes: &[u8]) -> Result<(), ProbeError> {
        self.begin(now);
        let result = self.probe(now, id, bytes);
        if result.is_err() {
            self.metrics.bad_probes += 1;
        }
        self.finish(now);
        result
    }

    fn probe(&mut self, now: Duration, id: LinkId, bytes: &[u8]) -> Result<(), ProbeError> {
        let link = self.links.get_mut(&id).ok_or(ProbeError::UnknownLink)?;
        link.live.heard(now, &Probe::decode(bytes)?, &self.config)?;
        self.check_link(now, id);
        Ok(())
    }

    /// Looks at every link whose time has come.
    pub(super) fn check_links(&mut self, now: Duration) {
        let due: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.deadline <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.check_link(now, id);
        }
    }

    fn check_link(&mut self, now: Duration, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(change) = link.live.update(now, &self.config) {
            self.apply(now, id, change);
        }
        let jitter = rand::Rng::random_range(&mut self.rng, 0..=100);
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(probe) = link.live.poll_probe(now, jitter, &self.config) {
            self.metrics.probes_sent += 1;
            self.outputs.push_back(Output::Probe { link: id, bytes: probe.encode() });
        }
        link.deadline = link.live.deadline(now, &self.config);
    }

    fn apply(&mut self, now: Duration, id: LinkId, change: Change) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.phase_at = now;
        let node = link.peer.node;
        let damp = link.routing();
        match change {
            Change::Confirmed => {
                self.outputs.push_back(Output::LinkUsable { link: id, usable: true });
                self.event(Event::LinkUp { link: id, node });
                if damp {
                    self.dialling.not_down(&node);
                }
                if damp && let Some(damping) = self.damping.get_mut(&node) {
                    damping.recovered(now);
                }
            }
            Change::Suspected => {
                self.metrics.suspicions += 1;
                self.outputs.push_back(Output::LinkUsable { link: id, usable: false });
                self.event(Event::LinkSuspect { link: id, node });
                if damp {
                    self.damping.entry(node).or_default().failed(now);
                }
                // Only what routes by it: a new dial makes a routing link.
                if damp && self.woke_at.is_some_and(|woke| now.saturating_sub(woke) < DOUBT_AFTER_WAKE) {
                    self.redial(now, node);
                }
            }
            Change::Recovered(after) => {
                self.metrics.recoveries += 1;
                self.outputs.push_back(Output::LinkUsable { link: id, usable: true });
                self.event(Event::LinkRecovered { link: id, node, after });
                if damp && let Some(damping) = self.damping.get_mut(&node) {
                    damping.recovered(now);
                }
            }
            Change::Dead => {
                self.metrics.deaths += 1;
                self.close(now, id, CloseReason::Dead);
            }
            Change::Unconfirmed => self.close(now, id, CloseReason::Unconfirmed),
        }
        // Direct links are not in the adverts, but the table names them.
        self.routing.touch();
    }

    /// Closes a link of our own accord.
    pub(super) fn close(&mut self, now: Duration, id: LinkId, reason: CloseReason) {
        let Some(link) = self.links.remove(&id) else { return };
        self.outputs.push_back(Output::CloseLink { link: id, reason });
        self.event(Event::LinkDown { link: id, node: link.peer.node, reason: Some(reason) });
        let heard = match reason {
            CloseReason::Dead | CloseReason::Unconfirmed => LinkDownReason::TimedOut,
            _ => LinkDownReason::Redundant,
        };
        self.link_lost(now, &link, heard);
    }

    fn link_lost(&mut self, now: Duration, link: &Link, reason: LinkDownReason) {
        self.routing.touch();
        if !link.routing() {
            return;
        }
        let reason = self.judged(&link.peer.node, reason);
        self.note_down(now, link, reason);
        if self.has_link(&link.peer.node) {
            return;
        }
        if link.live.phase() == Phase::Up {
            self.damping.entry(link.peer.node).or_default().failed(now);
        }
        self.neighbour_lost(now, link, reason);
    }

    /// Whether any routing link to the node exists, in whatever state.
    pub(super) fn has_link(&self, node: &NodeId) -> bool {
        self.links.values().any(|link| link.routing() && link.peer.node == *node)
    }

    /// The nodes at the other ends of routing links.
    pub(super) fn neighbour_ids(&self) -> Vec<NodeId> {
        let mut ids: Vec<_> =
            self.links.values().filter(|link| link.routing()).map(|link| link.peer.node).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Why a new link is closed at once.
    fn no_place(&self, peer: &LinkPeer) -> Option<CloseReason> {
        let full = match peer.kind {
            LinkKind::Routing => self.too_many(peer),
            LinkKind::Direct => self.links.values().filter(|link| !link.routing()).count() >= MAX_DIRECT,
        };
        let of_one = self.links.values().filter(|link| link.peer.node == peer.node).count();
        if self.auth.revoked(&peer.node) {
            // The handshake was over before the news came.
            Some(CloseReason::Revoked)
        } else if full {
            Some(CloseReason::Full)
        } else {
            (of_one >= MAX_LINKS_OF_ONE).then_some(CloseReason::Duplicate)
        }
    }

    fn too_many(&self, peer: &LinkPeer) -> bool {
        let others = self.neighbour_ids().iter().filter(|id| **id != peer.node).count();
        if others >= MAX_NEIGHBOURS {
            return true;
        }
        let needy = self.graph.degree(&peer.node) < NEEDY;
        !peer.dialled_by_us && others >= self.config.degree_max && !needy && !self.configured(&peer.node)
    }

    /// Of several links to one node the end with the lower id keeps one: a healthy one; of those, one that it dialled
    /// itself; of those, the newest.
    pub(super) fn settle_duplicates(&mut self, now: Duration) {
        let us = self.identity.node;
        let mut by_node: BTreeMap<NodeId, Vec<(bool, bool, Duration, LinkId)>> = BTreeMap::new();
        for (id, link) in self.links.iter().filter(|(_, link)| link.routing() && us < link.peer.node) {
            let healthy = link.live.phase() == Phase::Up
                && link.live.heard_since(now.saturating_sub(HEARD_LATELY).max(link.up_at));
            let key = (healthy, link.peer.dialled_by_us, link.up_at, *id);
            by_node.entry(link.peer.node).or_default().push(key);
        }
        for mut doubled in by_node.into_values().filter(|links| links.len() > 1) {
            let settled = doubled.iter().all(|(_, _, up_at, _)| now >= *up_at + SETTLE_AFTER);
            doubled.sort_unstable();
            let Some((true, _, _, _)) = doubled.pop().filter(|_| settled) else { continue };
            for (_, _, _, id) in doubled {
                self.close(now, id, CloseReason::Duplicate);
            }
        }
    }

    /// The link that carries traffic to each neighbour: a working one, the newest of those.
    pub(super) fn best_links(&self) -> BTreeMap<NodeId, LinkId> {
        let mut best: BTreeMap<NodeId, (Duration, LinkId)> = BTreeMap::new();
        for (id, link) in self.links.iter().filter(|(_, l)| l.routing() && l.live.phase() == Phase::Up) {
            let entry = best.entry(link.peer.node).or_insert((link.up_at, *id));
            *entry = (*entry).max((link.up_at, *id));
        }
        best.into_iter().map(|(node, (_, id))| (node, id)).collect()
    }

    /// Brings our adverts up to date with the links. State changes count at once, costs with hysteresis.
    pub(super) fn update_adverts(&mut self, now: Duration) {
        if self.left {
            return;
        }
        // Of several links any may carry the traffic for a while.
        let mut mtus: BTreeMap<NodeId, u16> = BTreeMap::new();
        for link in self.links.values().filter(|link| link.routing() && link.live.phase() == Phase::Up) {
            let mtu = mtus.entry(link.peer.node).or_insert(link.peer.mtu);
            *mtu = link.peer.mtu.min(*mtu);
        }
        let mut told = BTreeMap::new();
        for link in self.links.values().filter(|link| link.routing() && link.live.phase() != Phase::Init) {
            let node = link.peer.node;
            let suspect = link.live.phase() == Phase::Suspect;
            let fresh = link_cost(link.live.rtt(), link.live.loss());
            let before = self.told.get(&node);
            let (cost, loss, at, differs) = match before {
                Some(before) if suspect || !before.outdated(now, fresh) => {
                    let differs = worth_telling_later(before.cost, fresh);
                    let differs = differs.then(|| before.differs.unwrap_or(now));
                    (before.cost, before.neighbour.loss, before.at, differs)
                }
                _ => (fresh, link.live.loss(), now, None),
            };
            let damped = self.damping.get(&node).is_some_and(|damping| damping.damped(now));
            let shown = if damped { cost.saturating_add(PENALTY) } else { cost };
            let mtu = mtus.get(&node).copied().unwrap_or(link.peer.mtu);
            let neighbour = Neighbour { node, cost: shown, loss, mtu, suspect };
            let new = Told { neighbour, cost, at, differs };
            told.entry(node)
                .and_modify(|old: &mut Told| {
                    if (suspect, shown) < (old.neighbour.suspect, old.neighbour.cost) {
                        *old = new;
                    }
                })
                .or_insert(new);
        }
        let same = told.len() == self.told.len()
            && told.values().zip(self.told.values()).all(|(new, old)| new.neighbour == old.neighbour);
        self.told = told;
        if !same {
            let adverts: Vec<_> = self.told.values().map(|told| told.neighbour).collect();
            let address = self.identity.address;
            let (_, changed) = self.graph.set(self.identity.node, || address, adverts, now);
            if changed {
                self.routing.touch();
            }
            self.flooding.link_state_changed(now);
        }
    }

    pub(super) fn adverts(&self) -> Vec<Neighbour> {
        self.told.values().map(|told| told.neighbour).take(MAX_NEIGHBOURS).collect()
    }
}
