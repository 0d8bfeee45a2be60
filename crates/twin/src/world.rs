//! Nodes, links and time: what happens, in order.
//!
//! Nodes act on each other only over links. So whatever happens to them in a slice of time no longer than the shortest delay
//! of any link is independent: each node goes through its own events of the slice by itself, and several threads share the
//! nodes. What they sent and told is put together afterwards, in an order that doesn't depend on threads or slices.

mod deliver;
mod faults;
mod mailing;
mod node;
#[cfg(test)]
mod tests;
mod trusting;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshara_overlay::{Config, Core, DialTarget, Identity, KnownNode, KnownOrigin, LinkId, LinkKind};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::node::{Act, Due, End, Happened, Node, Note, Shared, What};
use crate::auth::{Pool, Revoked, TwinAuth, address, is_revoked, member_body, node_id};
use crate::check::Check;
use crate::mail::{Mail, UNIX_MS};
use crate::net::Net;
use crate::pings::Pinger;
use crate::report::Series;
use crate::scenario::{Fault, Neighbours, Scenario, ScenarioError};
use crate::spread::Spread;
use crate::topology::Plan;
use crate::traffic::Traffic;
use crate::{Observer, Progress, millis, seconds};

/// The trace is hashed in pieces of this size.
const TRACE_PIECE: usize = 64 * 1024;
/// Who looks on hears of progress after this many events: some ten times a second.
const PROGRESS_EVERY: u64 = 50_000;
/// Longest slice: an unanswered dial fails later than that.
const LONGEST_SLICE: Duration = Duration::from_millis(100);
/// With fewer nodes to go through, waking another thread takes longer than the work.
const WORTH_A_THREAD: usize = 48;
/// Most nodes that a thread takes at a time.
const BATCH: usize = 8;
/// An unanswered dial fails after this long.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long certificates are valid where the scenario doesn't say.
const DAY: Duration = Duration::from_secs(86_400);
/// The world as the maker of an event.
const WORLD: u32 = u32::MAX;

/// The simulated world.
pub(crate) struct World<'a> {
    pub(crate) now: Duration,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) check: Check,
    config: Config,
    shared: Shared,
    pool: Arc<Pool>,
    threads: usize,
    /// [`WORTH_A_THREAD`]; tests share out fewer nodes.
    worth_a_thread: usize,
    nodes: Vec<Node>,
    /// When each node's next event is.
    next: Vec<u64>,
    net: Net<(usize, What)>,
    plan: Plan,
    /// Faults by time, then in the scenario's order.
    faults: BTreeMap<(u64, usize), Fault>,
    /// How many events the world itself made.
    made: u64,
    events: u64,
    next_link: u32,
    suspicions: u64,
    dials: u64,
    deaths: u64,
    /// Who holds which revocations, where somebody signs some.
    pub(crate) spread: Option<Spread>,
    /// Whom the mesh revoked.
    out: Vec<bool>,
    /// The first snapshot that the scenario had signed, for those who replay it.
    first_set: Option<meshara_trust::sets::SignedSet>,
    pub(crate) traffic: Traffic,
    count_from: Duration,
    hasher: blake3::Hasher,
    trace: String,
    observer: Observer<'a>,
    /// Why the trace could not be written.
    pub(crate) trace_error: Option<std::io::Error>,
    pub(crate) progress: Progress,
    pub(crate) whole_after: Option<Duration>,
    pub(crate) results: Vec<Series>,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &Scenario, observer: Observer<'a>) -> Result<Self, ScenarioError> {
        let of_faults = scenario.campaigns.iter().map(|campaign| campaign.count).sum();
        let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed);
        let plan = Plan::make(&scenario.topology, scenario.link, &mut rng)?;
        let nodes = plan.nodes;
        let auto = scenario.neighbours == Neighbours::Auto;
        let mut net = Net::new(rng.random());
        if auto {
            net.open(scenario.link, (0..nodes).map(|_| (rng.random(), rng.random())).collect());
        } else {
            for ((a, b), model) in &plan.edges {
                net.add(*a, *b, *model);
            }
        }
        let mut world = Self {
            now: Duration::ZERO,
            rng,
            check: Check::new(seconds(scenario.transient_s)),
            config: configure(scenario, auto),
            shared: Shared {
                ids: (0..nodes).map(node_id).collect(),
                addresses: (0..nodes).map(|at| address(&node_id(at))).collect(),
                index: (0..nodes).map(|at| (node_id(at), at)).collect::<HashMap<_, _>>(),
                pingers: Vec::new(),
                pairs: Vec::new(),
                submit_every: Duration::ZERO,
                submit_until: Duration::MAX,
                message: bytes::Bytes::new(),
                trust: scenario.trust,
                certificates: scenario.certificates,
                helped: AtomicU64::new(0),
            },
            pool: Arc::default(),
            threads: match observer.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            },
            worth_a_thread: WORTH_A_THREAD,
            nodes: (0..nodes).map(Node::new).collect(),
            next: vec![u64::MAX; nodes],
            net,
            plan,
            faults: BTreeMap::new(),
            made: 0,
            events: 0,
            next_link: 1,
            suspicions: 0,
            dials: 0,
            deaths: 0,
            spread: scenario.trust.map(|_| Spread::new(nodes)),
            out: vec![false; nodes],
            first_set: None,
            traffic: Traffic { nodes, ..Traffic::default() },
            count_from: seconds(scenario.count_from_s),
            hasher: blake3::Hasher::new(),
            trace: String::new(),
            observer,
            trace_error: None,
            progress: Progress { virtual_s: 0.0, duration_s: scenario.duration_s, faults: 0, of_faults },
            whole_after: None,
            results: Vec::new(),
        };
        world.load(scenario)?;
        for at in 0..nodes {
            world.start(at);
        }
        Ok(world)
    }

    /// Schedules the scenario's faults, pings and messages.
    fn load(&mut self, scenario: &Scenario) -> Result<(), ScenarioError> {
        for (number, fault) in scenario.faults.iter().enumerate() {
            self.validate(&fault.action)?;
            self.faults.insert((nanos(seconds(fault.at_s)), number), fault.clone());
        }
        let ends = || scenario.campaigns.iter().filter_map(|campaign| campaign.ends);
        let named = scenario.pings.iter().flat_map(|pings| [pings.from, pings.to]);
        let named = named.chain(ends().flat_map(|(a, b)| [a, b]));
        if let Some(missing) = named.into_iter().find(|at| *at >= self.nodes.len()) {
            return Err(ScenarioError::NoSuchNode(missing));
        }
        if ends().any(|(a, b)| a == b) || scenario.pings.iter().any(|pings| pings.from == pings.to) {
            return Err(ScenarioError::OutOfRange("pings go between two nodes"));
        }
        for pings in &scenario.pings {
            if pings.every_ms < 0.1 {
                return Err(ScenarioError::OutOfRange("pings are at least 0.1 ms apart"));
            }
            self.start_pings(pings.from, pings.to, millis(pings.every_ms));
        }
        self.load_trust(scenario)?;
        if let Some(messages) = scenario.messages {
            let sane = (0.001..=100_000.0).contains(&messages.per_second) && messages.bytes <= 1 << 20;
            if !sane || messages.pairs > 10_000 {
                return Err(ScenarioError::OutOfRange(
                    "messages: at most 10,000 pairs, 100,000 per second, 1 MiB each",
                ));
            }
            self.shared.message = vec![0x6d; messages.bytes].into();
            self.shared.submit_every = seconds(1.0 / messages.per_second);
            for pair in 0..messages.pairs {
                let from = self.rng.random_range(0..self.nodes.len());
                let to = (from + self.rng.random_range(1..self.nodes.len())) % self.nodes.len();
                self.shared.pairs.push((from, to));
                let at = self.shared.submit_every.mul_f64(self.rng.random());
                self.push(at, from, What::Submit { pair });
            }
        }
        Ok(())
    }

    /// Schedules what is signed, and renewals of certificates.
    fn load_trust(&mut self, scenario: &Scenario) -> Result<(), ScenarioError> {
        if let Some(trust) = scenario.trust {
            if trust.authority >= self.nodes.len() {
                return Err(ScenarioError::NoSuchNode(trust.authority));
            }
            self.push(Duration::ZERO, trust.authority, What::Confirm);
            if let Some(every) = trust.every_s {
                if !(0.1..1e6).contains(&every) {
                    return Err(ScenarioError::OutOfRange("revocations are at least 0.1 s apart"));
                }
                self.push(seconds(every), trust.authority, What::Revocation);
            }
        }
        if let Some(plan) = scenario.certificates {
            let sane = (10.0..1e7).contains(&plan.life_s) && (10.0..1e7).contains(&plan.refresh_s);
            if !sane || plan.bytes > 12 * 1024 {
                let why = "certificates: life and refresh of 10 s or more, at most 12 KiB";
                return Err(ScenarioError::OutOfRange(why));
            }
            // As in a mesh that has run for long: the ages of certificates differ.
            for at in 0..self.nodes.len() {
                let first = seconds(plan.life_s / 2.0).mul_f64(self.rng.random());
                self.push(first, at, What::Renew { serial: 1 });
            }
            if let Some(inclusion) = plan.inclusion {
                let sane = (1..=self.nodes.len().min(16)).contains(&inclusion.issuers)
                    && inclusion.path <= 32
                    && inclusion.head_bytes.max(inclusion.statement_bytes) <= 8 * 1024;
                if !sane {
                    let why =
                        "inclusion: 1 to 16 issuers, paths of at most 32 hashes, heads of at most 8 KiB";
                    return Err(ScenarioError::OutOfRange(why));
                }
                for at in 0..inclusion.issuers {
                    let first = seconds(plan.life_s / 12.0).mul_f64(self.rng.random());
                    self.push(first, at, What::NameHead);
                }
            }
        }
        Ok(())
    }

    /// Starts a node's process, on what its disk holds.
    fn start(&mut self, at: usize) {
        let id = node_id(at);
        let rng = ChaCha8Rng::from_seed(self.rng.random());
        let identity = Identity { node: id, address: address(&id) };
        let sequence = UNIX_MS + u64::try_from(self.now.as_millis()).unwrap_or(0);
        let revoked = Revoked::default();
        let life = self.shared.certificates.map_or(DAY, |plan| seconds(plan.life_s));
        let issuers = self.shared.certificates.and_then(|plan| plan.inclusion).map_or(0, |plan| plan.issuers);
        let auth = Box::new(TwinAuth::of(&id, &self.pool, &revoked, life).with_issuers(issuers));
        let mut core = Core::new(self.config.clone(), identity, auth, rng, self.now, sequence);
        if let Err(error) = core
            .set_member(self.now, member_body(at, 0, self.shared.certificates.map_or(0, |plan| plan.bytes)))
        {
            self.check.violation(self.now, &format!("node {at} refuses its own member record: {error}"));
        }
        core.set_own_addresses(self.now, vec![socket(at)]);
        let known = |peer: usize, origin| KnownNode { node: None, addrs: vec![socket(peer)], origin };
        if self.config.auto_neighbours {
            // Everyone has a ticket of node 0, and node 0 one of node 1.
            core.add_known(self.now, known(usize::from(at == 0), KnownOrigin::Ticket));
        } else {
            for (a, b) in self.plan.edges.keys().filter(|(a, _)| *a == at) {
                debug_assert!(a < b);
                core.add_known(self.now, known(*b, KnownOrigin::Configured));
            }
        }
        let now = self.now;
        let mail = self.nodes.get(at).and_then(|node| Mail::start(id, &node.disk, now, &mut self.rng));
        if mail.is_none() {
            self.check.violation(now, &format!("node {at} refuses what its disk holds"));
        }
        let seed = self.rng.random();
        if let Some(spread) = self.spread.as_mut() {
            spread.started(at);
        }
        let Some(node) = self.nodes.get_mut(at) else { return };
        node.end();
        node.unproved = Some((0, now));
        node.core = Some(core);
        node.mail = mail;
        node.rng = ChaCha8Rng::from_seed(seed);
        node.start_trust(&self.shared, now, revoked);
        node.drain(&self.shared, now);
        node.drain_mail(&self.shared, now);
        self.settle(at);
    }

    /// Something will happen to a node of the world's doing.
    fn push(&mut self, at: Duration, node: usize, what: What) {
        self.made += 1;
        self.put(node, Due { at_ns: nanos(at), from: WORLD, number: self.made, what });
    }

    fn put(&mut self, node: usize, due: Due) {
        let Some((next, node)) = self.next.get_mut(node).zip(self.nodes.get_mut(node)) else { return };
        *next = due.at_ns.min(*next);
        node.put(due);
    }

    /// Runs until `end`.
    pub(crate) fn run_until(&mut self, end: Duration) {
        let end_ns = nanos(end);
        loop {
            let first = self.next.iter().min().copied().unwrap_or(u64::MAX);
            let fault = self.faults.first_key_value().map_or(u64::MAX, |((at_ns, _), _)| *at_ns);
            if first.min(fault) > end_ns {
                break;
            }
            self.now = self.now.max(Duration::from_nanos(first.min(fault)));
            if fault <= first {
                let Some((_, fault)) = self.faults.pop_first() else { break };
                self.trace_line((nanos(self.now), "fault", 0), 0);
                self.apply(&fault.action);
            } else {
                let slice = nanos(self.net.shortest().min(LONGEST_SLICE)).max(1);
                let slice_end = first.saturating_add(slice).min(end_ns.saturating_add(1)).min(fault);
                self.slice(slice_end);
            }
            self.flush_trace_if_long();
        }
        self.now = self.now.max(end);
    }

    /// Lets every node go through its events before `end_ns`, then carries out what they did.
    fn slice(&mut self, end_ns: u64) {
        let awake: Vec<usize> =
            self.next.iter().enumerate().filter(|(_, next)| **next < end_ns).map(|(at, _)| at).collect();
        let nodes = self.nodes.iter_mut().zip(&self.next).filter(|(_, next)| **next < end_ns);
        let nodes: Vec<&mut Node> = nodes.map(|(node, _)| node).collect();
        let threads = self.threads.min(nodes.len() / self.worth_a_thread).max(1);
        run_all(nodes, &self.shared, end_ns, threads);
        let mut happened: Vec<(Happened, usize)> = Vec::new();
        let mut others: Vec<(Duration, usize, Act)> = Vec::new();
        for at in awake {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            happened.extend(node.happened.drain(..).map(|line| (line, at)));
            self.send_all(at, &mut others);
        }
        // Stable: what one node did at one time stays in its order.
        happened.sort_by_key(|((at_ns, _, _), node)| (*at_ns, *node));
        for (line, node) in happened {
            self.trace_line(line, node);
        }
        others.sort_by_key(|(now, node, _)| (*now, *node));
        for (now, node, act) in others {
            self.carry_out(now, node, act);
        }
    }

    /// Sends what a node sent. A direction of a link has one sender, so the order between nodes makes no difference; where
    /// it does, `others` is left to do.
    fn send_all(&mut self, at: usize, others: &mut Vec<(Duration, usize, Act)>) {
        let Some(node) = self.nodes.get_mut(at) else { return };
        let mut acts = std::mem::take(&mut node.acts);
        for (now, act) in acts.drain(..) {
            let Act::Send { edge, peer, size, reliable, what } = act else {
                others.push((now, at, act));
                continue;
            };
            if now >= self.count_from {
                match &what {
                    What::Probe { .. } => self.traffic.probes += size as u64,
                    What::Control { bytes, .. } => self.traffic.control(size, bytes),
                    What::Trust { .. } => self.traffic.trust += size as u64,
                    _ => self.traffic.frames += size as u64,
                }
            }
            let Some(edge) = self.net.get(edge) else { continue };
            let sent = if reliable {
                edge.reliable(now, at, size, (peer, what))
            } else {
                edge.datagram(now, at, size).map(|arrival| (arrival, (peer, what)))
            };
            let Some((arrival, (peer, what))) = sent else { continue };
            let Some((from, number)) = self.nodes.get_mut(at).map(Node::next_made) else { continue };
            self.put(peer, Due { at_ns: nanos(arrival), from, number, what });
        }
        if let Some((next, node)) = self.next.get_mut(at).zip(self.nodes.get_mut(at)) {
            node.acts = acts;
            *next = node.next_ns();
        }
    }

    /// Carries out what a node did outside of a slice.
    fn settle(&mut self, at: usize) {
        let mut others = Vec::new();
        self.send_all(at, &mut others);
        for (now, node, act) in others {
            self.carry_out(now, node, act);
        }
    }

    fn carry_out(&mut self, now: Duration, at: usize, act: Act) {
        match act {
            Act::Send { .. } => {}
            Act::Dial { target, kind } => self.dial(now, at, target, kind),
            Act::Note(note) => self.noted(now, at, note),
        }
    }

    fn noted(&mut self, now: Duration, at: usize, note: Note) {
        match note {
            Note::Changed => self.check.changed(now),
            Note::Looped(seen) => self.check.looped(now, &seen, at),
            Note::Suspicion => self.suspicions += 1,
            Note::Death => self.deaths += 1,
            Note::PingSent(pinger) => {
                if let Some(pinger) = self.shared.pingers.get_mut(pinger) {
                    pinger.sent += 1;
                }
            }
            Note::Pong(pinger) => {
                if let Some(pinger) = self.shared.pingers.get_mut(pinger) {
                    pinger.reply(now);
                }
            }
            Note::Submitted { id, to } => self.check.submitted(id, at, to),
            Note::Delivered { id, from } => self.check.delivered(now, id, from, at),
            Note::Acked(id) => self.check.acked(now, id),
            Note::Refused => self.check.counts.refused += 1,
            Note::Violation(what) => self.check.violation(now, &what),
            Note::Published(_) | Note::Held { .. } | Note::Kept { .. } => self.spread_noted(now, at, &note),
        }
    }

    fn spread_noted(&mut self, now: Duration, at: usize, note: &Note) {
        let Some(spread) = self.spread.as_mut() else { return };
        let result = match *note {
            Note::Published(number) => spread.published(now, number),
            Note::Held { number, root } => spread.held(now, at, number, root),
            Note::Kept { number, root } => {
                spread.kept(at, number, root);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(what) = result {
            self.check.violation(now, &what);
        }
    }

    fn dial(&mut self, now: Duration, at: usize, target: DialTarget, kind: LinkKind) {
        self.dials += 1;
        let answering = target.addrs.iter().filter_map(at_socket).find_map(|peer| {
            let edge = self.net.between(at, peer)?;
            let works = self.net.get(edge)?.works() && self.nodes.get(peer)?.runs();
            // Either end's handshake refuses whom it knows to be revoked.
            let refused = self.refuses(at, peer) || self.refuses(peer, at);
            (works && !refused).then_some((peer, edge))
        });
        let Some((peer, edge)) = answering else {
            return self.push(now + DIAL_TIMEOUT, at, What::DialFailed(Box::new(target)));
        };
        let Some(latency) = self.net.get(edge).map(|edge| edge.latency()) else { return };
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        let ends = [(at, End { peer, theirs, edge, traffic_at: None }, ours)];
        let ends =
            ends.into_iter().chain([(peer, End { peer: at, theirs: ours, edge, traffic_at: None }, theirs)]);
        for (node, end, link) in ends {
            if let Some(node) = self.nodes.get_mut(node) {
                node.links.insert(link, end);
            }
        }
        // TLS 1.3: the dialler is done after one round trip, the other end half a one later.
        let rtt = latency * 2;
        self.push(now + rtt, at, What::Up { link: ours, peer, dialled: true, kind, rtt });
        self.push(now + rtt + latency, peer, What::Up { link: theirs, peer: at, dialled: false, kind, rtt });
    }

    fn refuses(&self, at: usize, peer: usize) -> bool {
        let trust = self.nodes.get(at).and_then(|node| node.trust.as_ref());
        trust.is_some_and(|trust| is_revoked(&trust.revoked, &self.shared.id(peer)))
    }

    fn trace_line(&mut self, (at_ns, tag, detail): Happened, node: usize) {
        self.events += 1;
        let line = writeln!(self.trace, "{at_ns} {node} {tag} {detail:x}");
        debug_assert!(line.is_ok(), "writing to a string doesn't fail");
        if self.events.is_multiple_of(PROGRESS_EVERY) {
            self.tell_progress();
        }
    }

    fn flush_trace_if_long(&mut self) {
        if self.trace.len() > TRACE_PIECE {
            self.flush_trace();
        }
    }

    fn flush_trace(&mut self) {
        self.hasher.update(self.trace.as_bytes());
        if let Some(out) = &mut self.observer.trace
            && self.trace_error.is_none()
        {
            self.trace_error = out.write_all(self.trace.as_bytes()).err();
        }
        self.trace.clear();
    }

    fn tell_progress(&mut self) {
        self.progress.virtual_s = self.now.as_secs_f64();
        if let Some(tell) = &mut self.observer.progress {
            tell(self.progress);
        }
    }

    /// BLAKE3 of the trace up to now, and how many events it holds.
    pub(crate) fn trace_hash(&mut self) -> (String, u64) {
        self.flush_trace();
        (self.hasher.finalize().to_hex().to_string(), self.events)
    }

    pub(crate) fn start_pings(&mut self, from: usize, to: usize, every: Duration) -> usize {
        let pinger = self.shared.pingers.len();
        self.shared.pingers.push(Pinger::new(to, every, self.now));
        self.push(self.now, from, What::Ping { pinger });
        pinger
    }

    pub(crate) fn pingers(&self) -> &[Pinger] {
        &self.shared.pingers
    }

    pub(crate) fn pinger(&mut self, pinger: usize) -> Option<&mut Pinger> {
        self.shared.pingers.get_mut(pinger)
    }

    pub(crate) const fn counters(&self) -> (u64, u64, u64) {
        (self.suspicions, self.deaths, self.dials)
    }

    /// No messages are submitted after `at`.
    pub(crate) const fn stop_messages(&mut self, at: Duration) {
        self.shared.submit_until = at;
    }
}

/// Lets each of the nodes run, on this many threads. Each begins with nodes of its own, and takes more as long as some wait.
fn run_all<'a>(nodes: Vec<&'a mut Node>, shared: &Shared, end_ns: u64, threads: usize) {
    let batch = BATCH.min(nodes.len().div_ceil(threads));
    let mut waiting = nodes.into_iter();
    let firsts: Vec<Vec<_>> = (1..threads).map(|_| waiting.by_ref().take(batch).collect()).collect();
    let waiting = Mutex::new(waiting);
    let work = |mut nodes: Vec<&'a mut Node>| {
        let mut count = 0;
        loop {
            count += nodes.len() as u64;
            nodes.into_iter().for_each(|node| node.run(shared, end_ns));
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            nodes = waiting.by_ref().take(batch).collect();
            if nodes.is_empty() {
                return count;
            }
        }
    };
    std::thread::scope(|scope| {
        for first in firsts {
            scope.spawn(|| shared.helped.fetch_add(work(first), Ordering::Relaxed));
        }
        work(Vec::new());
    });
}

fn configure(scenario: &Scenario, auto_neighbours: bool) -> Config {
    let config = Config { auto_neighbours, ..Config::default() };
    match scenario.certificates {
        Some(plan) => {
            let refresh = seconds(plan.refresh_s);
            Config { refresh, lifetime: refresh * 2, ..config }
        }
        None => config,
    }
}

/// 584 years fit.
fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

fn socket(at: usize) -> SocketAddr {
    let [_, _, a, b] = u32::try_from(at).unwrap_or(0).to_be_bytes();
    SocketAddr::from(([10, 0, a, b], 7000))
}

fn at_socket(addr: &SocketAddr) -> Option<usize> {
    let SocketAddr::V4(v4) = addr else { return None };
    let [_, _, a, b] = v4.ip().octets();
    Some(usize::from(u16::from_be_bytes([a, b])))
}
