//! Several cores against each other in virtual time: wires with latency, silent deaths, pauses, restarts, pings.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshara_overlay::{
    Authenticator, CloseReason, Config, Core, Event, ForwardingTable, HeadError, HeadId, Identity,
    JudgedHead, Known, KnownNode, KnownOrigin, LinkDownReason, LinkId, LinkKind, LinkPeer, Member,
    MemberError, MeshAddress, NodeId, Output,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn node_id(at: usize) -> NodeId {
    NodeId(*blake3::hash(&(at as u64).to_be_bytes()).as_bytes())
}

pub fn address_of(node: &NodeId) -> MeshAddress {
    let mut address = [0; 16];
    address.copy_from_slice(&node.0[..16]);
    address[0] = 0xfd;
    MeshAddress(address)
}

/// Signatures are keyed hashes; the routing key is the secret. Good enough among friends in one process.
pub struct TestAuth {
    pub key: [u8; 32],
    /// Whom this node knows to be revoked.
    pub revoked: Arc<Mutex<BTreeSet<NodeId>>>,
}

/// The name in a member record's text, and the head of node 0's log under which it is proved: `proved-8-alice` is of alice, under the one of 8
/// entries.
fn head_of(text: &str) -> (&str, Option<HeadId>) {
    let Some((size, name)) = text.strip_prefix("proved-").and_then(|rest| rest.split_once('-')) else {
        return (text, None);
    };
    (name, Some(HeadId { issuer: node_id(0), size: size.parse().unwrap() }))
}

/// A head with the lines of these nodes, each called `n` and its number; with size 0 the issuer's statement, which has none.
pub fn head_body(id: &HeadId, witnesses: &[usize]) -> Vec<u8> {
    let mut body = b"head".to_vec();
    for at in witnesses {
        let line = witness_line(&TestAuth::of(&node_id(*at)).key, id);
        body.extend(format!("\nn{at} {line}").bytes());
    }
    body
}

/// What a witness signs, as a line ends with it.
fn witness_line(key: &[u8; 32], id: &HeadId) -> String {
    let signed = mac(key, &[&id.issuer.0[..], &id.size.to_be_bytes()].concat());
    signed.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl TestAuth {
    pub fn of(node: &NodeId) -> Self {
        Self { key: *blake3::hash(&node.0).as_bytes(), revoked: Arc::default() }
    }
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    blake3::Hasher::new_keyed(key).update(message).finalize_xof().fill(&mut out);
    out
}

impl Authenticator for TestAuth {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        mac(&self.key, message)
    }
    fn verify(&self, routing_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        mac(routing_key, message) == *signature
    }
    fn member(&self, origin: &NodeId, body: &[u8], known: &Known<'_>) -> Result<Member, MemberError> {
        let (id, rest) = body.split_first_chunk::<32>().ok_or(MemberError::Malformed)?;
        if *id != origin.0 {
            return Err(MemberError::WrongNode);
        }
        let (key, name) = rest.split_first_chunk::<32>().ok_or(MemberError::Malformed)?;
        let text = std::str::from_utf8(name).map_err(|_| MemberError::Malformed)?;
        if self.revoked.lock().unwrap().contains(origin) {
            return Err(MemberError::Revoked);
        }
        let (name, proved) = head_of(text);
        match name {
            "expired" => Err(MemberError::OutsideTime),
            "stranger" => Err(MemberError::Untrusted),
            _ if proved.is_some_and(|head| known.root(&head).is_none()) => {
                Err(MemberError::UnknownHead { head: proved.unwrap(), routing_key: *key })
            }
            _ => Ok(Member {
                name: name.to_owned(),
                routing_key: *key,
                expires_in: Duration::from_secs(86_400),
                proved: proved.is_some(),
            }),
        }
    }
    fn wants_head(&self, id: &HeadId) -> bool {
        id.issuer == node_id(0) && !self.revoked(&id.issuer)
    }
    fn head(&self, id: &HeadId, body: &[u8], known: &Known<'_>) -> Result<JudgedHead, HeadError> {
        if id.size > 0 && known.head(&HeadId::statement(id.issuer)).is_none() {
            return Err(HeadError::LacksKeys);
        }
        let text = std::str::from_utf8(body).map_err(|_| HeadError::Malformed)?;
        let mut lines = text.lines();
        if lines.next() != Some("head") {
            return Err(HeadError::Untrusted);
        }
        let root = [7; 32];
        if id.size == 0 {
            return Ok(JudgedHead::statement());
        }
        let mut right = 0;
        let lines: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
        for (_, name, key) in known.members() {
            for (_, signed) in lines.iter().filter(|(witness, _)| *witness == name) {
                if witness_line(&key, id) != *signed {
                    return Err(HeadError::Unwitnessed);
                }
                right += 1;
            }
        }
        match right {
            0 if lines.is_empty() => Err(HeadError::Unwitnessed),
            0 => Ok(JudgedHead { root, unknown: lines.iter().map(|(name, _)| (*name).to_owned()).collect() }),
            _ => Ok(JudgedHead { root, unknown: Vec::new() }),
        }
    }
    fn revoked(&self, node: &NodeId) -> bool {
        self.revoked.lock().unwrap().contains(node)
    }
    fn address(&self, node: &NodeId) -> MeshAddress {
        address_of(node)
    }
}

pub fn member_body(node: &NodeId, name: &str) -> Vec<u8> {
    [&node.0[..], &TestAuth::of(node).key, name.as_bytes()].concat()
}

fn socket(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (at >> 8) as u8, at as u8], 7000))
}

fn at_socket(addr: &SocketAddr) -> usize {
    let SocketAddr::V4(v4) = addr else { panic!("only IPv4 here") };
    let [_, _, a, b] = v4.ip().octets();
    usize::from(a) << 8 | usize::from(b)
}

#[derive(Clone, Debug)]
enum What {
    Timer,
    Probe(LinkId, Vec<u8>),
    Control(LinkId, Vec<u8>),
    Up(LinkId, usize, bool, LinkKind),
    Down(LinkId, LinkDownReason),
    DialFailed(meshara_overlay::DialTarget),
    Ping { reply: bool, seq: u64, from: usize, to: usize, ttl: u8, over: Option<LinkId> },
}

struct Node {
    core: Option<Core>,
    revoked: Arc<Mutex<BTreeSet<NodeId>>>,
    table: Arc<ForwardingTable>,
    usable: HashMap<LinkId, bool>,
    /// Our link → (peer, its link).
    links: BTreeMap<LinkId, (usize, LinkId)>,
    timer: Option<Duration>,
    stopped: bool,
    inbox: VecDeque<What>,
    traffic: HashMap<LinkId, Duration>,
}

struct Wire {
    latency: Duration,
    up: bool,
    held: Vec<(usize, What)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Slot(std::cmp::Reverse<(Duration, u64)>, usize);

pub struct World {
    pub now: Duration,
    pub rng: ChaCha8Rng,
    pub config: Config,
    nodes: Vec<Node>,
    /// (from, to) → one direction.
    wires: BTreeMap<(usize, usize), Wire>,
    queue: BinaryHeap<Slot>,
    whats: HashMap<u64, What>,
    count: u64,
    next_link: u32,
    lives: u64,
    pub pongs: Vec<(u64, Duration)>,
    pub frames: u64,
    pub events: Vec<(Duration, usize, Event)>,
    /// Control messages that came, if somebody looks.
    pub heard: Option<Vec<Vec<u8>>>,
    trace: blake3::Hasher,
    pinging: Option<(usize, usize, Duration, u64)>,
}

impl World {
    pub fn new(seed: u64, nodes: usize, edges: &[(usize, usize, u64)]) -> Self {
        Self::with(seed, nodes, edges, Config { auto_neighbours: false, ..Config::default() })
    }

    pub fn with(seed: u64, nodes: usize, edges: &[(usize, usize, u64)], config: Config) -> Self {
        let mut world = Self {
            now: ms(0),
            rng: ChaCha8Rng::seed_from_u64(seed),
            config,
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            queue: BinaryHeap::new(),
            whats: HashMap::new(),
            count: 0,
            next_link: 1,
            lives: 0,
            pongs: Vec::new(),
            frames: 0,
            events: Vec::new(),
            heard: None,
            trace: blake3::Hasher::new(),
            pinging: None,
        };
        for (a, b, latency) in edges {
            for key in [(*a, *b), (*b, *a)] {
                world.wires.insert(key, Wire { latency: ms(*latency), up: true, held: Vec::new() });
            }
        }
        for at in 0..nodes {
            world.nodes.push(Node {
                core: None,
                revoked: Arc::default(),
                table: Arc::default(),
                usable: HashMap::new(),
                links: BTreeMap::new(),
                timer: None,
                stopped: false,
                inbox: VecDeque::new(),
                traffic: HashMap::new(),
            });
            world.start(at);
        }
        world
    }

    pub fn core(&self, at: usize) -> &Core {
        self.nodes[at].core.as_ref().unwrap()
    }

    pub fn core_mut(&mut self, at: usize) -> &mut Core {
        self.nodes[at].core.as_mut().unwrap()
    }

    pub fn start(&mut self, at: usize) {
        self.lives += 1;
        let id = node_id(at);
        let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
        let identity = Identity { node: id, address: address_of(&id) };
        let sequence = 1_000 * self.lives;
        let auth = TestAuth { revoked: self.nodes[at].revoked.clone(), ..TestAuth::of(&id) };
        let mut core = Core::new(self.config.clone(), identity, Box::new(auth), rng, self.now, sequence);
        core.set_member(self.now, member_body(&id, &format!("n{at}"))).unwrap();
        core.set_own_addresses(self.now, vec![socket(at)]);
        if !self.config.auto_neighbours {
            for (_, peer) in self.wires.keys().filter(|(a, b)| *a == at && a < b) {
                let known =
                    KnownNode { node: None, addrs: vec![socket(*peer)], origin: KnownOrigin::Configured };
                core.add_known(self.now, known);
            }
        }
        let node = &mut self.nodes[at];
        node.core = Some(core);
        node.stopped = false;
        node.inbox.clear();
        node.links.clear();
        node.usable.clear();
        node.table = Arc::default();
        node.timer = None;
        self.drain(at);
    }

    pub fn know(&mut self, at: usize, other: usize, origin: KnownOrigin) {
        let now = self.now;
        let known = KnownNode { node: None, addrs: vec![socket(other)], origin };
        self.core_mut(at).add_known(now, known);
        self.drain(at);
    }

    /// The node learns that another one is revoked.
    pub fn revoke(&mut self, at: usize, other: usize) {
        let now = self.now;
        self.nodes[at].revoked.lock().unwrap().insert(node_id(other));
        self.core_mut(at).revoke(now, &node_id(other));
        self.drain(at);
    }

    /// The node names a head of its log.
    pub fn set_head(&mut self, at: usize, id: HeadId, body: &[u8]) {
        let now = self.now;
        self.core_mut(at).set_head(now, id, body).unwrap();
        self.drain(at);
    }

    /// The node gets another certificate.
    pub fn renew(&mut self, at: usize, name: &str) {
        let (now, body) = (self.now, member_body(&node_id(at), name));
        self.core_mut(at).set_member(now, body).unwrap();
        self.drain(at);
    }

    /// Whether the node holds anything of another one.
    pub fn knows_of(&self, at: usize, other: usize) -> bool {
        self.core(at).node(&node_id(other)).is_some()
    }

    /// SIGKILL without ICMP: the node is gone, nobody is told.
    pub fn kill(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.core = None;
        node.timer = None;
        node.links.clear();
        node.inbox.clear();
    }

    pub fn stop(&mut self, at: usize) {
        self.nodes[at].stopped = true;
    }

    pub fn resume(&mut self, at: usize) {
        self.nodes[at].stopped = false;
        self.deliver(at, What::Timer);
        while let Some(what) = self.nodes[at].inbox.pop_front() {
            self.deliver(at, what);
        }
    }

    /// Sets one direction of a wire.
    pub fn wire(&mut self, from: usize, to: usize, up: bool) {
        let wire = self.wires.get_mut(&(from, to)).unwrap();
        wire.up = up;
        if up {
            let latency = wire.latency;
            for (to, what) in std::mem::take(&mut wire.held) {
                self.push(latency, to, what);
            }
        }
    }

    /// What a node that only just died has in flight stays in flight; links to dead processes never answer.
    fn push(&mut self, after: Duration, to: usize, what: What) {
        self.count += 1;
        self.queue.push(Slot(std::cmp::Reverse((self.now + after, self.count)), to));
        self.whats.insert(self.count, what);
    }

    fn send(&mut self, from: usize, to: usize, reliable: bool, what: What) {
        let Some(wire) = self.wires.get_mut(&(from, to)) else { return };
        if wire.up {
            let latency = wire.latency;
            self.push(latency, to, what);
        } else if reliable {
            wire.held.push((to, what));
        }
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let event = self.queue.peek().map(|Slot(std::cmp::Reverse((at, _)), _)| *at);
            let ping = self.pinging.map(|(_, _, next, _)| next);
            let next = event.into_iter().chain(ping).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            if ping == Some(next) {
                self.send_ping();
                continue;
            }
            let Slot(std::cmp::Reverse((_, count)), at) = self.queue.pop().unwrap();
            let what = self.whats.remove(&count).unwrap();
            if matches!(what, What::Timer) && self.nodes[at].timer != Some(next) {
                continue;
            }
            if self.nodes[at].stopped {
                if !matches!(what, What::Timer) && self.nodes[at].inbox.len() < 4096 {
                    self.nodes[at].inbox.push_back(what);
                }
                continue;
            }
            self.deliver(at, what);
        }
        self.now = end;
    }

    fn deliver(&mut self, at: usize, what: What) {
        self.trace.update(format!("{:?} {at} {what:?}\n", self.now).as_bytes());
        if self.nodes[at].core.is_none() {
            return;
        }
        let now = self.now;
        match what {
            What::Timer => {
                self.nodes[at].timer = None;
                self.core_mut(at).handle_timeout(now);
            }
            What::Probe(link, bytes) => drop(self.core_mut(at).handle_probe(now, link, &bytes)),
            What::Control(link, bytes) => {
                self.heard.iter_mut().for_each(|heard| heard.push(bytes.clone()));
                let result = self.core_mut(at).handle_control(now, link, &bytes);
                if let Err(error) = result
                    && error != meshara_overlay::ControlError::UnknownLink
                {
                    panic!("{now:?} node {at}: {error}");
                }
            }
            What::Up(link, peer, dialled_by_us, kind) => {
                let id = node_id(peer);
                let rtt = Some(self.wires[&(at, peer)].latency * 2);
                let remote = Some(socket(peer));
                let peer = LinkPeer {
                    node: id,
                    address: address_of(&id),
                    dialled_by_us,
                    kind,
                    mtu: 1400,
                    rtt,
                    remote,
                };
                self.core_mut(at).link_up(now, link, peer);
            }
            What::Down(link, reason) => {
                self.nodes[at].links.remove(&link);
                self.core_mut(at).link_down(now, link, reason);
            }
            What::DialFailed(target) => self.core_mut(at).dial_failed(now, &target),
            What::Ping { reply, seq, from, to, ttl, over } => {
                self.forward(at, reply, seq, from, to, ttl, over)
            }
        }
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.core_mut(at).poll_output() {
            match output {
                Output::Probe { link, bytes } => {
                    if let Some((peer, theirs)) = self.nodes[at].links.get(&link).copied() {
                        self.send(at, peer, false, What::Probe(theirs, bytes));
                    }
                }
                Output::Control { link, bytes } => {
                    if let Some((peer, theirs)) = self.nodes[at].links.get(&link).copied() {
                        self.send(at, peer, true, What::Control(theirs, bytes));
                    }
                }
                Output::Dial { target, kind } => self.dial(at, target, kind),
                Output::CloseLink { link, reason } => {
                    if let Some((peer, theirs)) = self.nodes[at].links.remove(&link) {
                        let reason = CloseReason::heard(u64::from(reason.code()));
                        self.send(at, peer, false, What::Down(theirs, reason));
                    }
                }
                Output::LinkUsable { link, usable } => {
                    self.nodes[at].usable.insert(link, usable);
                }
                Output::Table(table) => self.nodes[at].table = table,
                Output::Event(event) => self.events.push((self.now, at, event)),
            }
        }
        let next = self.core(at).poll_timeout();
        if next != self.nodes[at].timer {
            self.nodes[at].timer = next;
            if let Some(next) = next {
                // Late timers are real: `now` may already be past.
                let after = next.saturating_sub(self.now);
                self.nodes[at].timer = Some(self.now + after);
                self.push(after, at, What::Timer);
            }
        }
    }

    fn dial(&mut self, at: usize, target: meshara_overlay::DialTarget, kind: LinkKind) {
        let peer = target.addrs.iter().map(at_socket).find(|peer| {
            let both = [(at, *peer), (*peer, at)];
            both.iter().all(|key| self.wires.get(key).is_some_and(|wire| wire.up))
                && self.nodes.get(*peer).is_some_and(|node| node.core.is_some() && !node.stopped)
        });
        let Some(peer) = peer else {
            return self.push(ms(1000), at, What::DialFailed(target));
        };
        let latency = self.wires[&(at, peer)].latency;
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        self.nodes[at].links.insert(ours, (peer, theirs));
        self.nodes[peer].links.insert(theirs, (at, ours));
        self.push(latency * 2, at, What::Up(ours, peer, true, kind));
        self.push(latency * 3, peer, What::Up(theirs, at, false, kind));
    }

    /// Pings every 10 ms from now on.
    pub fn ping(&mut self, from: usize, to: usize) {
        self.pinging = Some((from, to, self.now, 0));
        self.pongs.clear();
    }

    fn send_ping(&mut self) {
        let Some((from, to, next, seq)) = self.pinging else { return };
        self.pinging = Some((from, to, next + ms(10), seq + 1));
        if !self.nodes[from].stopped {
            self.forward(from, false, seq, from, to, 33, None);
            self.drain(from);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn forward(
        &mut self,
        at: usize,
        reply: bool,
        seq: u64,
        from: usize,
        to: usize,
        ttl: u8,
        over: Option<LinkId>,
    ) {
        if let Some(link) = over {
            self.traffic(at, link);
        }
        if at == to {
            if reply {
                self.pongs.push((seq, self.now));
            } else {
                self.forward(at, true, seq, to, from, 33, None);
            }
            return;
        }
        let node = &self.nodes[at];
        let usable = |link: LinkId| node.usable.get(&link).copied().unwrap_or(false);
        let next = node.table.next_hop(&address_of(&node_id(to)), over, &usable);
        let Some(link) = next.filter(|_| ttl > 1) else { return };
        let Some((peer, theirs)) = node.links.get(&link).copied() else { return };
        self.traffic(at, link);
        self.frames += 1;
        self.send(at, peer, false, What::Ping { reply, seq, from, to, ttl: ttl - 1, over: Some(theirs) });
    }

    fn traffic(&mut self, at: usize, link: LinkId) {
        let now = self.now;
        let last = self.nodes[at].traffic.get(&link).copied();
        if last.is_none_or(|last| now >= last + ms(20)) {
            self.nodes[at].traffic.insert(link, now);
            self.core_mut(at).note_traffic(now, link);
        }
    }

    /// Longest time without a pong since pinging began, silence at the end included.
    pub fn longest_gap(&self) -> Duration {
        let mut last = self.pongs.first().unwrap().1;
        let mut gap = ms(0);
        for (_, at) in &self.pongs {
            gap = gap.max(at.saturating_sub(last));
            last = *at;
        }
        gap.max(self.now - last)
    }

    /// Where a frame goes if the usable flags are as `usable` says at each step; `None` when it is dropped. The number of
    /// steps is bounded by the TTL.
    pub fn walk(&self, from: usize, to: usize, mut usable: impl FnMut() -> bool) -> Option<usize> {
        let (mut at, mut over) = (from, None);
        for steps in 0..32 {
            if at == to {
                return Some(steps);
            }
            let node = &self.nodes[at];
            let flags: HashMap<LinkId, bool> = node.links.keys().map(|link| (*link, usable())).collect();
            let usable = |link: LinkId| flags.get(&link).copied().unwrap_or(false);
            let link = node.table.next_hop(&address_of(&node_id(to)), over, &usable)?;
            assert_ne!(Some(link), over, "never straight back");
            let (peer, theirs) = node.links.get(&link).copied()?;
            (at, over) = (peer, Some(theirs));
        }
        None
    }

    /// The nodes that a frame crosses, both ends included.
    pub fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let mut path = vec![from];
        let (mut at, mut over) = (from, None);
        while at != to {
            if path.len() > 33 {
                return None;
            }
            let node = &self.nodes[at];
            let usable = |link: LinkId| node.usable.get(&link).copied().unwrap_or(false);
            let link = node.table.next_hop(&address_of(&node_id(to)), over, &usable)?;
            let (peer, theirs) = node.links.get(&link).copied()?;
            (at, over) = (peer, Some(theirs));
            path.push(at);
        }
        Some(path)
    }

    /// Whether every pair of live nodes has a working path of the shortest cost.
    pub fn whole(&self) -> bool {
        let live: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].core.is_some()).collect();
        live.iter().all(|a| live.iter().all(|b| a == b || self.path(*a, *b).is_some()))
    }

    pub fn count_events(&self, at: Option<usize>, pick: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, node, event)| at.is_none_or(|at| at == *node) && pick(event)).count()
    }

    pub fn clear_events(&mut self) {
        self.events.clear();
    }

    pub fn trace(&self) -> blake3::Hash {
        self.trace.finalize()
    }
}

pub fn line(n: usize, latency: u64) -> Vec<(usize, usize, u64)> {
    (1..n).map(|at| (at - 1, at, latency)).collect()
}

pub fn ring(n: usize, latency: u64) -> Vec<(usize, usize, u64)> {
    (0..n).map(|at| (at.min((at + 1) % n), at.max((at + 1) % n), latency)).collect()
}

/// Two rails of `n` nodes: 0..n and n..2n, with rungs.
pub fn ladder(n: usize, latency: u64) -> Vec<(usize, usize, u64)> {
    let mut edges = line(n, latency);
    edges.extend((1..n).map(|at| (n + at - 1, n + at, latency)));
    edges.extend((0..n).map(|at| (at, n + at, latency)));
    edges
}
