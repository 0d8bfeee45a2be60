//! Whom to dial: configured peers, lost neighbours, and others until the degree is right.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use meshara_identity::NodeId;
use rand::Rng;

use super::Core;
use super::links::Link;
use super::lost::Down;
use crate::config::Config;
use crate::record::{Kind, MAX_ADDRESSES, decode_addresses};
use crate::types::{DialTarget, KnownNode, KnownOrigin, LinkDownReason, LinkKind, LinkPeer, Output};

/// Most targets remembered; those that only gossip named go first, failed neighbours after them.
const MAX_TARGETS: usize = 1024;
/// New neighbours dialled per tick: incoming links may fill the need meanwhile.
const NEW_PER_TICK: usize = 2;
/// A chosen node that fails this often in a row is left alone for [`COOL_DOWN`].
const FAILURES: u32 = 4;
/// How long a node that could not be dialled, or refused, is not chosen again.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// Targets remembered of which only an announcement on the local network tells. Anyone there can make them up: they must
/// not push out others.
const MAX_ANNOUNCED: usize = 128;
/// Of these, dialled at a time: made-up ones must not keep us from others.
const ANNOUNCED_PENDING: usize = 2;
/// With enough neighbours, look this often for known nodes that the graph doesn't reach.
const REPAIR_EVERY: Duration = Duration::from_secs(5);
/// An attempt counts as under way this long, whatever the driver says.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A node that we may want to dial.
#[derive(Clone, Debug)]
struct Target {
    node: Option<NodeId>,
    addrs: Vec<SocketAddr>,
    origin: KnownOrigin,
    /// The operator named an address alone: whoever answers there is right, and `node` is who did last.
    any: bool,
    /// We had it as a neighbour until a failure parted us.
    lost: bool,
    /// What is shown of it while it is a neighbour that failed: until a new link to it works. A configured peer's stays,
    /// another's ends with the redials, or where nobody dials when they would.
    down: Option<Down>,
    /// We had it as a neighbour or chose it as one.
    wanted: bool,
    /// Since when it is wanted or lost; the pace slows with time.
    since: Duration,
    attempts: u32,
    next_at: Duration,
    busy_until: Duration,
}

impl Target {
    /// Only an announcement on the local network tells of it.
    fn announced(&self) -> bool {
        self.origin == KnownOrigin::Multicast && !self.lost
    }

    /// This node answers at the address, whoever did before.
    fn answered_by(&mut self, node: NodeId) {
        if self.node.replace(node).is_some_and(|before| before != node) {
            self.down = None;
        }
    }

    /// This address is tried first from now on.
    fn prefer(&mut self, addr: SocketAddr) {
        self.addrs.retain(|before| *before != addr);
        self.addrs.insert(0, addr);
        self.addrs.truncate(MAX_ADDRESSES);
    }

    /// Gives up what was wanted or lost for too long. A failed neighbour that isn't dialled is shown as long as if it were.
    fn give_up(&mut self, now: Duration, after: Duration) {
        if self.wanted && now >= self.since + after {
            self.wanted = false;
            self.lost = false;
        }
        let dialled = self.origin == KnownOrigin::Configured || (self.wanted && self.lost);
        if !dialled && self.down.as_ref().is_some_and(|down| now >= down.since + after) {
            self.down = None;
        }
    }

    /// Whether it has one of these addresses, and may be the node.
    fn at(&self, node: Option<&NodeId>, addrs: &[SocketAddr]) -> bool {
        (self.node.is_none() || node.is_none()) && self.addrs.iter().any(|addr| addrs.contains(addr))
    }
}

/// All targets.
#[derive(Debug)]
pub(super) struct Dialling {
    targets: Vec<Target>,
    repair_at: Duration,
    /// Whether the next choice is one that was announced, if there are others too.
    announced_next: bool,
}

impl Dialling {
    pub(super) const fn new(now: Duration) -> Self {
        Self { targets: Vec::new(), repair_at: now, announced_next: false }
    }

    fn position(&self, node: Option<&NodeId>, addrs: &[SocketAddr]) -> Option<usize> {
        node.and_then(|node| self.targets.iter().position(|target| target.node.as_ref() == Some(node)))
            .or_else(|| {
                // An address alone isn't bound to whoever claims on the local network to be there.
                let bound = |target: &Target| node.is_none() && target.announced();
                self.targets.iter().position(|target| target.at(node, addrs) && !bound(target))
            })
    }

    fn find(&mut self, node: Option<&NodeId>, addrs: &[SocketAddr]) -> Option<&mut Target> {
        let at = self.position(node, addrs)?;
        self.targets.get_mut(at)
    }

    /// The target for a node, made if need be.
    fn entry(&mut self, now: Duration, node: Option<NodeId>, addrs: &[SocketAddr]) -> &mut Target {
        let found = self.position(node.as_ref(), addrs).unwrap_or_else(|| {
            if self.targets.len() >= MAX_TARGETS {
                let rank = |t: &Target| {
                    let named = t.origin == KnownOrigin::Configured;
                    (!named, !t.wanted, t.down.is_none(), t.origin, Reverse(t.since))
                };
                let victim = self.targets.iter().enumerate().max_by_key(|(_, target)| rank(target));
                if let Some(victim) = victim.map(|(at, _)| at) {
                    self.targets.remove(victim);
                }
            }
            self.targets.push(Target {
                node,
                addrs: Vec::new(),
                origin: KnownOrigin::Gossip,
                any: false,
                lost: false,
                down: None,
                wanted: false,
                since: now,
                attempts: 0,
                next_at: now,
                busy_until: now,
            });
            self.targets.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the index was found in this vector, which isn't empty")]
        &mut self.targets[found]
    }

    /// A neighbour failed.
    pub(super) fn down(&mut self, now: Duration, node: NodeId, down: Down) {
        self.entry(now, Some(node), &[]).down = Some(down);
    }

    /// A node is a neighbour again, or was parted with.
    pub(super) fn not_down(&mut self, node: &NodeId) {
        if let Some(target) = self.find(Some(node), &[]) {
            target.down = None;
        }
    }

    /// A node is none that could be dialled any more. What the operator said of an address stays: another one may be there.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.targets.retain(|target| target.any || target.node.as_ref() != Some(node));
        for target in self.targets.iter_mut().filter(|target| target.node.as_ref() == Some(node)) {
            (target.node, target.down, target.lost, target.wanted) = (None, None, false, false);
        }
    }

    /// The neighbours that failed.
    pub(super) fn all_down(&self) -> impl Iterator<Item = (NodeId, &Down)> {
        self.targets.iter().filter_map(|target| target.node.zip(target.down.as_ref()))
    }

    /// Somebody on the local network says that a node is there. Anyone can say so, of anybody: it is one more place to
    /// try, changes nothing of what is known from elsewhere, and hurries nothing.
    fn announced(&mut self, now: Duration, node: NodeId, addrs: &[SocketAddr]) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.node == Some(node)) {
            for addr in addrs.iter().filter(|_| !target.any) {
                if !target.addrs.contains(addr) {
                    target.addrs.truncate(MAX_ADDRESSES - 1);
                    target.addrs.push(*addr);
                }
            }
            return;
        }
        if self.targets.iter().any(|target| target.at(Some(&node), addrs)) {
            return; // that address is dialled in any case
        }
        if self.targets.iter().filter(|target| target.announced()).count() >= MAX_ANNOUNCED {
            let Some(oldest) = self.targets.iter().position(|t| t.announced() && !t.wanted) else { return };
            self.targets.remove(oldest);
        }
        let target = self.entry(now, Some(node), &[]);
        target.origin = KnownOrigin::Multicast;
        target.addrs.extend(addrs.iter().take(MAX_ADDRESSES));
    }
}

impl Core {
    /// A node that could be dialled was learnt. Configured ones are dialled and kept, the others used as needed.
    pub fn add_known(&mut self, now: Duration, known: KnownNode) {
        self.begin(now);
        let usable =
            known.node != Some(self.identity.node) && (known.node.is_some() || !known.addrs.is_empty());
        if let Some(node) = known.node.filter(|_| usable && known.origin == KnownOrigin::Multicast) {
            self.dialling.announced(now, node, &known.addrs);
        } else if usable {
            let target = self.dialling.entry(now, known.node, &known.addrs);
            if known.origin == KnownOrigin::Configured {
                target.any = known.node.is_none() && (target.any || target.origin != KnownOrigin::Configured);
            }
            target.node = target.node.or(known.node);
            target.origin = target.origin.min(known.origin);
            for addr in known.addrs.iter().take(MAX_ADDRESSES).rev() {
                target.prefer(*addr);
            }
            target.next_at = target.next_at.min(now);
            self.tick_at = self.tick_at.min(now);
        }
        self.finish(now);
    }

    /// A dial failed, or reached ourselves.
    pub fn dial_failed(&mut self, now: Duration, target: &DialTarget) {
        self.begin(now);
        self.metrics.dials_failed += 1;
        if let Some(target) = self.dialling.find(target.node.as_ref(), &target.addrs) {
            target.busy_until = now;
            // A lost neighbour is given up later, a made-up node at once.
            if target.origin != KnownOrigin::Configured
                && !target.lost
                && target.attempts >= FAILURES
                && (target.announced() || target.since + COOL_DOWN < now)
            {
                target.wanted = false;
                target.next_at = now + COOL_DOWN;
            }
        }
        self.finish(now);
    }

    /// Whether the operator named this node.
    pub(super) fn configured(&self, node: &NodeId) -> bool {
        self.dialling
            .targets
            .iter()
            .any(|target| target.node.as_ref() == Some(node) && target.origin == KnownOrigin::Configured)
    }

    /// A link came up; it may fulfil a target.
    pub(super) fn dialled(&mut self, now: Duration, peer: &LinkPeer) {
        if peer.kind == LinkKind::Direct {
            return;
        }
        let addrs: Vec<SocketAddr> = peer.remote.filter(|_| peer.dialled_by_us).into_iter().collect();
        for target in self.dialling.targets.iter_mut().filter(|target| target.any) {
            if target.addrs.iter().any(|addr| addrs.contains(addr)) {
                target.answered_by(peer.node);
            }
        }
        if let Some(target) = self.dialling.find(Some(&peer.node), &addrs) {
            target.answered_by(peer.node);
            target.attempts = 0;
            target.lost = false;
            target.since = now;
            target.busy_until = now;
            target.next_at = now + Duration::from_millis(250);
        }
        // An address-only target and one by id may turn out to be the same node.
        let mut merged: Option<Target> = None;
        self.dialling.targets.retain(|target| {
            if target.node != Some(peer.node) {
                return true;
            }
            match &mut merged {
                None => merged = Some(target.clone()),
                Some(first) => {
                    let (both, wanted) = (first.any && target.any, first.wanted || target.wanted);
                    // What the operator said comes first.
                    let other = if target.origin < first.origin || (target.any && !first.any) {
                        std::mem::replace(first, target.clone())
                    } else {
                        target.clone()
                    };
                    first.wanted = wanted;
                    first.down = first.down.take().or(other.down);
                    if both || !first.any {
                        first.addrs.extend(other.addrs);
                        first.addrs.truncate(MAX_ADDRESSES);
                    }
                }
            }
            false
        });
        self.dialling.targets.extend(merged);
    }

    /// The last routing link to a node is gone.
    pub(super) fn neighbour_lost(&mut self, now: Duration, link: &Link, reason: LinkDownReason) {
        let auto = self.config.auto_neighbours;
        let first = self.config.redial_first;
        let wait = first - first / 4 + self.jitter(first / 4);
        let slow = self.config.redial_fast_for;
        let target = self.dialling.entry(now, Some(link.peer.node), &[]);
        if let Some(addr) = link.peer.remote.filter(|_| link.peer.dialled_by_us && !target.any) {
            target.prefer(addr);
        }
        target.attempts = 0;
        target.since = now;
        target.next_at = now + wait;
        target.wanted = auto;
        target.lost = true;
        match reason {
            LinkDownReason::Refused => {
                target.since = now.saturating_sub(slow);
                target.next_at = now + COOL_DOWN;
                target.wanted = false;
                target.lost = false;
            }
            LinkDownReason::Redundant | LinkDownReason::Local => {
                target.since = now.saturating_sub(slow);
                target.next_at = now + Duration::from_secs(2);
                target.wanted = false;
                target.lost = false;
            }
            // A restart in order: nobody but its configured peers waits for it.
            LinkDownReason::Left => {
                target.next_at = now + Duration::from_secs(2);
                target.wanted = false;
                target.lost = false;
            }
            _ => {}
        }
        self.tick_at = self.tick_at.min(now + wait);
    }

    /// The node left of its own will: don't call it back.
    pub(super) fn forget_target(&mut self, node: &NodeId) {
        if let Some(target) = self.dialling.find(Some(node), &[]) {
            target.wanted = false;
            target.lost = false;
            target.down = None;
        }
    }

    /// Dials a node at once that we have doubts about.
    pub(super) fn redial(&mut self, now: Duration, node: NodeId) {
        let target = self.dialling.entry(now, Some(node), &[]);
        if target.busy_until <= now {
            target.since = now;
            target.attempts = 0;
            target.wanted = true;
            self.dial(now, &node);
        }
    }

    /// Dials everything that is wanted at once.
    pub(super) fn redial_all(&mut self, now: Duration) {
        for target in &mut self.dialling.targets {
            target.attempts = 0;
            target.since = now;
            target.next_at = now;
            target.busy_until = now;
        }
        self.tick_at = now;
    }

    fn dial(&mut self, now: Duration, node: &NodeId) {
        let at = self.dialling.targets.iter().position(|target| target.node.as_ref() == Some(node));
        if let Some(at) = at {
            self.dial_at(now, at);
        }
    }

    fn dial_at(&mut self, now: Duration, at: usize) {
        let Some(target) = self.dialling.targets.get(at) else { return };
        // Whoever is at the operator's address, and in turn whoever was there last, wherever it is now.
        let node = target.node.filter(|_| !target.any || target.attempts % 2 == 1);
        let mut addrs = node.map_or_else(Vec::new, |node| self.addresses(&node));
        for addr in &target.addrs {
            if !addrs.contains(addr) {
                addrs.push(*addr);
            }
        }
        addrs.truncate(MAX_ADDRESSES);
        let keen = target.lost || target.origin == KnownOrigin::Configured;
        let wait = backoff(target.attempts, now.saturating_sub(target.since), keen, &self.config);
        let fast = wait < self.config.redial_fast;
        let wait = wait - wait / 4 + self.jitter(wait / 4);
        let many = if fast { Duration::ZERO } else { self.spread() };
        let wait = if many > wait { many - many / 8 + self.jitter(many / 8) } else { wait };
        let Some(target) = self.dialling.targets.get_mut(at) else { return };
        target.attempts = target.attempts.saturating_add(1);
        target.next_at = now + wait;
        target.busy_until = now + ATTEMPT;
        if addrs.is_empty() {
            return;
        }
        self.metrics.dials += 1;
        self.outputs.push_back(Output::Dial { target: DialTarget { node, addrs }, kind: LinkKind::Routing });
    }

    /// How long one round over all peers that are dialled without end may take at least.
    fn spread(&self) -> Duration {
        let neighbours = self.neighbour_ids();
        let away = self.dialling.targets.iter().filter(|target| {
            (target.origin == KnownOrigin::Configured || (target.wanted && target.lost))
                && !target.node.is_some_and(|node| neighbours.contains(&node))
        });
        self.config.redial_apart.saturating_mul(u32::try_from(away.count()).unwrap_or(u32::MAX))
    }

    /// The addresses in a node's signed record.
    pub(super) fn addresses(&self, node: &NodeId) -> Vec<SocketAddr> {
        let record = self.database.get(node).and_then(|origin| origin.record(Kind::Addresses));
        record.and_then(|record| decode_addresses(record.body()).ok()).unwrap_or_default()
    }

    /// Dials what is wanted and due. Returns whether anything is still wanted.
    pub(super) fn dial_wanted(&mut self, now: Duration) -> bool {
        if self.left {
            return false;
        }
        let neighbours = self.neighbour_ids();
        let auto = self.config.auto_neighbours;
        let mut pending = 0;
        let mut due = Vec::new();
        let mut busy = false;
        let mut announced = 0;
        for (at, target) in self.dialling.targets.iter_mut().enumerate() {
            if target.node.is_some_and(|node| node == self.identity.node || neighbours.contains(&node)) {
                continue;
            }
            target.give_up(now, self.config.redial_give_up);
            let wanted = match target.origin {
                KnownOrigin::Configured => true,
                KnownOrigin::Ticket => target.wanted || neighbours.is_empty(),
                _ => target.wanted,
            };
            busy |= wanted;
            if wanted && target.announced() {
                announced += 1;
            }
            if wanted && target.busy_until > now {
                pending += 1;
            }
            if wanted && target.next_at <= now {
                due.push(at);
            }
        }
        for at in due {
            self.dial_at(now, at);
        }
        if !auto {
            return busy;
        }
        let have = neighbours.len() + pending;
        let mut wants = self.config.degree_target.saturating_sub(have).min(NEW_PER_TICK);
        let mut islands = false;
        if wants == 0 && now >= self.dialling.repair_at && neighbours.len() < self.config.degree_max {
            self.dialling.repair_at = now + REPAIR_EVERY + self.jitter(REPAIR_EVERY / 4);
            (wants, islands) = (1, true);
        }
        for _ in 0..wants {
            let random =
                neighbours.len() + 1 >= self.config.degree_target.saturating_sub(self.config.degree_random);
            let room = announced < ANNOUNCED_PENDING;
            let Some((node, addrs)) = self.choose(now, &neighbours, random, islands, room) else { break };
            let target = self.dialling.entry(now, node, &addrs);
            target.wanted = true;
            target.since = now;
            target.attempts = 0;
            announced += usize::from(target.announced());
            let at =
                self.dialling.targets.iter().position(|target| {
                    if node.is_some() { target.node == node } else { target.addrs == addrs }
                });
            if let Some(at) = at {
                self.dial_at(now, at);
            }
            busy = true;
        }
        busy
    }

    /// Chooses a new neighbour: one that the graph doesn't reach; else, in turn, the nearest or any. Every second choice is
    /// one that was announced, if there is `room` for such.
    fn choose(
        &mut self,
        now: Duration,
        neighbours: &[NodeId],
        random: bool,
        islands: bool,
        room: bool,
    ) -> Option<(Option<NodeId>, Vec<SocketAddr>)> {
        let us = self.identity.node;
        let mut pool: Vec<(u32, Option<NodeId>, Vec<SocketAddr>)> = Vec::new();
        let mut announced = Vec::new();
        for target in self.dialling.targets.iter().filter(|target| !target.wanted && target.next_at <= now) {
            let known = target.node.is_some_and(|node| node == us || neighbours.contains(&node));
            let in_database = target.node.is_some_and(|node| {
                self.database.get(&node).is_some_and(|origin| origin.record(Kind::Addresses).is_some())
            });
            if !known && !in_database && target.origin != KnownOrigin::Configured && !target.addrs.is_empty()
            {
                let to = if target.announced() { &mut announced } else { &mut pool };
                to.push((0, target.node, target.addrs.clone()));
            }
        }
        for (id, origin) in self.database.iter() {
            let cooling = self
                .dialling
                .targets
                .iter()
                .any(|t| t.node.as_ref() == Some(id) && (t.wanted || t.next_at > now));
            if *id == us || origin.left || cooling || neighbours.binary_search(id).is_ok() {
                continue;
            }
            let route = self.graph.find(id).and_then(|at| self.routing.route(at));
            let metric = route.map_or(0, |route| route.metric_us);
            if origin.record(Kind::Addresses).is_some_and(|record| record.body().len() > 1) {
                pool.push((metric, Some(*id), Vec::new()));
            }
        }
        if pool.iter().any(|(metric, _, _)| *metric == 0) {
            pool.retain(|(metric, _, _)| *metric == 0);
        } else if islands {
            pool.clear();
        } else if !random {
            pool.sort_by_key(|(metric, _, _)| *metric);
            pool.truncate(4);
        }
        if room && !announced.is_empty() && (pool.is_empty() || self.dialling.announced_next) {
            pool = announced;
            self.dialling.announced_next = false;
        } else {
            self.dialling.announced_next = true;
        }
        if pool.is_empty() {
            return None;
        }
        let pick = self.rng.random_range(0..pool.len());
        let (_, node, addrs) = pool.swap_remove(pick);
        Some((node, addrs))
    }
}

/// The wait before the next attempt; `keen` for configured peers and lost neighbours.
fn backoff(attempts: u32, lost_for: Duration, keen: bool, config: &Config) -> Duration {
    let fast = config.redial_first.saturating_mul(1 << attempts.min(16)).min(config.redial_fast);
    let Some(slow_for) = lost_for.checked_sub(config.redial_fast_for) else { return fast };
    if keen && lost_for < config.redial_give_up {
        return fast;
    }
    // Doubles every 15 s once the first minute is over.
    let doublings = u32::try_from(slow_for.as_secs() / 15).unwrap_or(16).min(16);
    config.redial_fast.saturating_mul(1 << doublings).min(config.redial_slow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redials_slow_down() {
        let config = Config::default();
        let of = |keen, attempts, lost: u64| {
            backoff(attempts, Duration::from_secs(lost), keen, &config).as_millis()
        };
        let ms = |attempts, lost| of(false, attempts, lost);
        assert_eq!([ms(0, 0), ms(1, 1), ms(2, 2), ms(3, 3), ms(30, 59)], [250, 500, 1000, 1500, 1500]);
        assert_eq!([ms(30, 60), ms(30, 80), ms(30, 3600)], [1500, 3000, 30_000]);
        let keen = |lost| of(true, 30, lost);
        assert_eq!([keen(59), keen(60), keen(599), keen(600)], [1500, 1500, 1500, 30_000]);
    }
}
