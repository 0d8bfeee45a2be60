//! Nodes, links and time: delivers events in order of time and does what the cores ask for.

mod deliver;
mod faults;
mod mailing;
mod view;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_messaging::{StoreOp, Token};
use meshara_overlay::{
    Config, Core, DialTarget, ForwardingTable, Identity, KnownNode, KnownOrigin, LinkDownReason, LinkId,
    LinkKind,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::auth::{TwinAuth, address, member_body, node_id};
use crate::check::Check;
use crate::mail::{Disk, Mail, UNIX_MS};
use crate::net::Net;
use crate::pings::Pinger;
use crate::report::Series;
use crate::scenario::{Fault, Neighbours, Scenario, ScenarioError};
use crate::session::Segment;
use crate::topology::Plan;
use crate::{Observer, Progress, millis, seconds};

/// What a stopped process' socket holds; the rest is dropped, as the kernel does.
const SOCKET_BUFFER: usize = 4096;
/// The trace is hashed in pieces of this size.
const TRACE_PIECE: usize = 64 * 1024;
/// Who looks on hears of progress after this many events: some ten times a second.
const PROGRESS_EVERY: u64 = 50_000;

/// What happens to a node.
#[derive(Debug)]
enum What {
    Timer,
    MailTimer,
    Probe {
        link: LinkId,
        bytes: Vec<u8>,
    },
    Control {
        link: LinkId,
        bytes: Vec<u8>,
    },
    Up {
        link: LinkId,
        peer: usize,
        dialled: bool,
        kind: LinkKind,
        rtt: Duration,
    },
    Down {
        link: LinkId,
        reason: LinkDownReason,
    },
    DialFailed(DialTarget),
    Frame(Box<Frame>),
    Stored {
        life: u64,
        token: Token,
        ops: Vec<StoreOp>,
    },
    /// These happen to the world rather than to a node.
    Fault(Box<Fault>),
    Ping {
        pinger: usize,
    },
    Submit {
        pair: usize,
    },
}

impl What {
    const fn tag(&self) -> &'static str {
        match self {
            Self::Timer => "timer",
            Self::MailTimer => "mail-timer",
            Self::Probe { .. } => "probe",
            Self::Control { .. } => "control",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
            Self::DialFailed(_) => "dial-failed",
            Self::Frame(_) => "frame",
            Self::Stored { .. } => "stored",
            Self::Fault(_) => "fault",
            Self::Ping { .. } => "ping",
            Self::Submit { .. } => "submit",
        }
    }

    /// A number that tells events of one kind apart in the trace.
    fn detail(&self) -> u64 {
        match self {
            Self::Timer | Self::MailTimer | Self::DialFailed(_) | Self::Fault(_) => 0,
            // The length and a little of the content of a message.
            Self::Probe { link, bytes } | Self::Control { link, bytes } => {
                let tail = bytes.last_chunk::<4>().map_or(0, |tail| u32::from_be_bytes(*tail));
                (u64::from(link.0) << 32) ^ (bytes.len() as u64) ^ u64::from(tail)
            }
            Self::Up { link, .. } | Self::Down { link, .. } => u64::from(link.0),
            Self::Frame(frame) => (u64::from(frame.ttl) << 32) | frame.body.size() as u64,
            Self::Stored { life, ops, .. } => (life << 32) | ops.len() as u64,
            Self::Ping { pinger } => *pinger as u64,
            Self::Submit { pair } => *pair as u64,
        }
    }
}

/// A hop frame on its way.
#[derive(Debug)]
struct Frame {
    from: usize,
    to: usize,
    ttl: u8,
    /// The link it came in on, by the receiver's name.
    over: Option<LinkId>,
    seen: Vec<usize>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Ping(usize),
    Pong(usize),
    Session(Segment),
}

impl Body {
    fn size(&self) -> usize {
        match self {
            Self::Ping(_) | Self::Pong(_) => 80,
            Self::Session(segment) => 64 + segment.len(),
        }
    }
}

/// A link as one end sees it.
#[derive(Clone, Copy, Debug)]
struct End {
    peer: usize,
    theirs: LinkId,
    edge: usize,
    traffic_at: Option<Duration>,
}

/// A node's process and disk.
#[derive(Default)]
struct Node {
    core: Option<Core>,
    mail: Option<Mail>,
    disk: Disk,
    table: Arc<ForwardingTable>,
    usable: HashMap<LinkId, bool>,
    links: BTreeMap<LinkId, End>,
    timer: Option<Duration>,
    stopped: bool,
    left: bool,
    inbox: VecDeque<What>,
    life: u64,
}

impl Node {
    const fn runs(&self) -> bool {
        self.core.is_some() && !self.stopped && !self.left
    }
}

/// An event in the queue: by time, then by the order in which events were made. Small, because heaps move their entries a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at_ns: u64,
    count: u64,
    node: u32,
    /// Where in `World::pending` it says what happens.
    slot: u32,
}

/// The simulated world.
pub(crate) struct World<'a> {
    pub(crate) now: Duration,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) check: Check,
    pub(crate) pingers: Vec<Pinger>,
    config: Config,
    nodes: Vec<Node>,
    net: Net<(usize, What)>,
    plan: Plan,
    queue: BinaryHeap<Reverse<Entry>>,
    pending: Vec<Option<What>>,
    free: Vec<u32>,
    index: HashMap<NodeId, usize>,
    count: u64,
    events: u64,
    next_link: u32,
    pairs: Vec<(usize, usize)>,
    submit_every: Duration,
    submit_until: Duration,
    message: bytes::Bytes,
    suspicions: u64,
    deaths: u64,
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
            pingers: Vec::new(),
            config: Config { auto_neighbours: auto, ..Config::default() },
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            net,
            plan,
            queue: BinaryHeap::new(),
            pending: Vec::new(),
            free: Vec::new(),
            index: (0..nodes).map(|at| (node_id(at), at)).collect(),
            count: 0,
            events: 0,
            next_link: 1,
            pairs: Vec::new(),
            submit_every: Duration::ZERO,
            submit_until: Duration::MAX,
            message: bytes::Bytes::new(),
            suspicions: 0,
            deaths: 0,
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
        for fault in &scenario.faults {
            self.validate(&fault.action)?;
            self.push(seconds(fault.at_s), 0, What::Fault(Box::new(fault.clone())));
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
        if let Some(messages) = scenario.messages {
            let sane = (0.001..=100_000.0).contains(&messages.per_second) && messages.bytes <= 1 << 20;
            if !sane || messages.pairs > 10_000 {
                return Err(ScenarioError::OutOfRange(
                    "messages: at most 10,000 pairs, 100,000 per second, 1 MiB each",
                ));
            }
            self.message = vec![0x6d; messages.bytes].into();
            self.submit_every = seconds(1.0 / messages.per_second);
            for pair in 0..messages.pairs {
                let from = self.rng.random_range(0..self.nodes.len());
                let to = (from + self.rng.random_range(1..self.nodes.len())) % self.nodes.len();
                self.pairs.push((from, to));
                let at = self.submit_every.mul_f64(self.rng.random());
                self.push(at, 0, What::Submit { pair });
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
        let auth = Box::new(TwinAuth::of(&id));
        let mut core = Core::new(self.config.clone(), identity, auth, rng, self.now, sequence);
        if let Err(error) = core.set_member(self.now, member_body(at)) {
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
        let Some(node) = self.nodes.get_mut(at) else { return };
        *node = Node {
            core: Some(core),
            mail,
            disk: std::mem::take(&mut node.disk),
            life: node.life + 1,
            ..Node::default()
        };
        self.drain(at);
        self.drain_mail(at);
    }

    fn push(&mut self, at: Duration, node: usize, what: What) {
        self.count += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            u32::try_from(self.pending.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(place) = self.pending.get_mut(slot as usize) else { return };
        *place = Some(what);
        let node = u32::try_from(node).unwrap_or(u32::MAX);
        self.queue.push(Reverse(Entry { at_ns: nanos(at), count: self.count, node, slot }));
    }

    /// Runs until `end`.
    pub(crate) fn run_until(&mut self, end: Duration) {
        let end_ns = nanos(end);
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.at_ns <= end_ns) {
            let Some(Reverse(Entry { at_ns, node, slot, .. })) = self.queue.pop() else { break };
            let Some(what) = self.pending.get_mut(slot as usize).and_then(Option::take) else { continue };
            self.free.push(slot);
            let node = node as usize;
            self.now = self.now.max(Duration::from_nanos(at_ns));
            self.events += 1;
            let line =
                writeln!(self.trace, "{} {node} {} {:x}", self.now.as_nanos(), what.tag(), what.detail());
            debug_assert!(line.is_ok(), "writing to a string doesn't fail");
            if self.trace.len() > TRACE_PIECE {
                self.flush_trace();
            }
            if self.events.is_multiple_of(PROGRESS_EVERY) {
                self.tell_progress();
            }
            self.happen(node, what);
        }
        self.now = self.now.max(end);
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
        let pinger = self.pingers.len();
        self.pingers.push(Pinger::new(from, to, every, self.now));
        self.push(self.now, from, What::Ping { pinger });
        pinger
    }

    pub(crate) const fn counters(&self) -> (u64, u64) {
        (self.suspicions, self.deaths)
    }

    /// No messages are submitted after `at`.
    pub(crate) const fn stop_messages(&mut self, at: Duration) {
        self.submit_until = at;
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
