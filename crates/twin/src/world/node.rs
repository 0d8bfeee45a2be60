//! One node: its process, its disk, and the events that wait for it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use meshara_identity::{MeshAddress, NodeId};
use meshara_messaging::{MessageId, StoreOp, Token};
use meshara_overlay::{Core, DialTarget, ForwardingTable, HeadId, LinkDownReason, LinkId, LinkKind};
use meshara_trust::gossip::Stored;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::mail::{Disk, Mail};
use crate::pings::Pinger;
use crate::scenario;
use crate::session::Segment;
use crate::trust::Trust;

/// What happens to a node.
#[derive(Debug)]
pub(super) enum What {
    Timer,
    MailTimer,
    Probe { link: LinkId, bytes: Vec<u8> },
    Control { link: LinkId, bytes: Vec<u8> },
    Up { link: LinkId, peer: usize, dialled: bool, kind: LinkKind, rtt: Duration },
    Down { link: LinkId, reason: LinkDownReason },
    DialFailed(Box<DialTarget>),
    Frame(Box<Frame>),
    Stored { life: u64, token: Token, ops: Vec<StoreOp> },
    Ping { pinger: usize },
    Submit { pair: usize },
    Trust { link: LinkId, bytes: Arc<[u8]> },
    TrustTimer,
    Kept { life: u64, stored: Box<Stored> },
    Confirm,
    Revocation,
    Renew { serial: u64 },
    NameHead,
    Prove { serial: u64, head: HeadId },
}

impl What {
    pub(super) const fn tag(&self) -> &'static str {
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
            Self::Ping { .. } => "ping",
            Self::Submit { .. } => "submit",
            Self::Trust { .. } => "trust",
            Self::TrustTimer => "trust-timer",
            Self::Kept { .. } => "kept",
            Self::Confirm => "confirm",
            Self::Revocation => "revocation",
            Self::Renew { .. } => "renew",
            Self::NameHead => "name-head",
            Self::Prove { .. } => "prove",
        }
    }

    /// A number that tells events of one kind apart in the trace.
    pub(super) fn detail(&self) -> u64 {
        match self {
            Self::Timer | Self::MailTimer | Self::DialFailed(_) => 0,
            Self::TrustTimer | Self::Confirm | Self::Revocation | Self::NameHead => 0,
            // Without signatures, which have random bytes: the length and the kind.
            Self::Trust { link, bytes } => {
                let kind = bytes.get(1).copied().unwrap_or_default();
                (u64::from(link.0) << 32) ^ ((bytes.len() as u64) << 4) ^ u64::from(kind)
            }
            Self::Kept { life, .. } => *life,
            Self::Renew { serial } | Self::Prove { serial, .. } => *serial,
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
pub(super) struct Frame {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) ttl: u8,
    /// The link it came in on, by the receiver's name.
    pub(super) over: Option<LinkId>,
    pub(super) seen: Vec<usize>,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Ping(usize),
    Pong(usize),
    Session(Segment),
}

impl Body {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Ping(_) | Self::Pong(_) => 80,
            Self::Session(segment) => 64 + segment.len(),
        }
    }
}

/// A link as one end sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) peer: usize,
    pub(super) theirs: LinkId,
    pub(super) edge: usize,
    pub(super) traffic_at: Option<Duration>,
}

/// An event that waits: by time, then by who made it, then by the order in which that one made events. So the order doesn't
/// depend on which thread was faster.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) at_ns: u64,
    pub(super) from: u32,
    pub(super) number: u64,
    pub(super) what: What,
}

impl Due {
    const fn key(&self) -> (u64, u32, u64) {
        (self.at_ns, self.from, self.number)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// What a node does to the world around it.
#[derive(Debug)]
pub(super) enum Act {
    /// Sends something on a link.
    Send { edge: usize, peer: usize, size: usize, reliable: bool, what: What },
    /// Dials.
    Dial { target: DialTarget, kind: LinkKind },
    /// Tells something.
    Note(Note),
}

/// What a node tells for checks and counters.
#[derive(Debug)]
pub(super) enum Note {
    /// Its table or a link's flag changed.
    Changed,
    /// A frame came for the second time; the nodes that it crossed.
    Looped(Vec<usize>),
    Suspicion,
    Death,
    PingSent(usize),
    Pong(usize),
    Submitted {
        id: MessageId,
        to: usize,
    },
    Delivered {
        id: MessageId,
        from: usize,
    },
    Acked(MessageId),
    Refused,
    Violation(String),
    /// It signed a revocation snapshot.
    Published(u64),
    /// It goes by this snapshot and root document.
    Held {
        number: u64,
        root: u64,
    },
    /// Its disk has them.
    Kept {
        number: u64,
        root: u64,
    },
}

/// What all nodes read and none changes.
pub(super) struct Shared {
    pub(super) ids: Vec<NodeId>,
    pub(super) addresses: Vec<MeshAddress>,
    pub(super) index: HashMap<NodeId, usize>,
    pub(super) pingers: Vec<Pinger>,
    pub(super) pairs: Vec<(usize, usize)>,
    pub(super) submit_every: Duration,
    pub(super) submit_until: Duration,
    pub(super) message: bytes::Bytes,
    pub(super) trust: Option<scenario::Trust>,
    pub(super) certificates: Option<scenario::Certificates>,
    /// How often a node's events were gone through by another thread than the world's own.
    pub(super) helped: AtomicU64,
}

impl Shared {
    pub(super) fn id(&self, at: usize) -> NodeId {
        self.ids.get(at).copied().unwrap_or(NodeId([0; 32]))
    }

    pub(super) fn address(&self, at: usize) -> MeshAddress {
        self.addresses.get(at).copied().unwrap_or(MeshAddress([0; 16]))
    }

    pub(super) fn find(&self, id: &NodeId) -> Option<usize> {
        self.index.get(id).copied()
    }
}

/// An event that happened, for the trace: when, of which kind, and a number that tells it from others.
pub(super) type Happened = (u64, &'static str, u64);

/// A node's process and disk.
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) core: Option<Core>,
    pub(super) mail: Option<Mail>,
    pub(super) disk: Disk,
    pub(super) table: Arc<ForwardingTable>,
    pub(super) usable: HashMap<LinkId, bool>,
    pub(super) trust: Option<Trust>,
    /// What the disk has of signed sets: changed by whole writes only.
    pub(super) kept: Stored,
    pub(super) links: BTreeMap<LinkId, End>,
    pub(super) timer: Option<Duration>,
    pub(super) stopped: bool,
    pub(super) left: bool,
    pub(super) inbox: VecDeque<What>,
    pub(super) life: u64,
    /// The certificate that is to be proved under the next head, and since when its log has it.
    pub(super) unproved: Option<(u64, Duration)>,
    pub(super) rng: ChaCha8Rng,
    /// What will happen to it; survives a crash, as packets on links do.
    queue: BinaryHeap<Reverse<Due>>,
    /// How many events it made, for itself and others.
    made: u64,
    /// The time that it has come to.
    at_ns: u64,
    /// What it did since the world looked last, and when.
    pub(super) acts: Vec<(Duration, Act)>,
    /// What happened to it since then.
    pub(super) happened: Vec<Happened>,
}

impl Node {
    pub(super) fn new(at: usize) -> Self {
        Self {
            at,
            core: None,
            mail: None,
            disk: Disk::default(),
            table: Arc::default(),
            usable: HashMap::new(),
            trust: None,
            kept: Stored::default(),
            links: BTreeMap::new(),
            timer: None,
            stopped: false,
            left: false,
            inbox: VecDeque::new(),
            life: 0,
            unproved: None,
            rng: ChaCha8Rng::from_seed([0; 32]),
            queue: BinaryHeap::new(),
            made: 0,
            at_ns: 0,
            acts: Vec::new(),
            happened: Vec::new(),
        }
    }

    pub(super) const fn runs(&self) -> bool {
        self.core.is_some() && !self.stopped && !self.left
    }

    /// The process is gone, with all that it knew.
    pub(super) fn end(&mut self) {
        self.core = None;
        self.mail = None;
        self.trust = None;
        self.table = Arc::default();
        self.usable.clear();
        self.links.clear();
        self.timer = None;
        self.stopped = false;
        self.left = false;
        self.inbox.clear();
        self.life += 1;
    }

    /// The time of the next event.
    pub(super) fn next_ns(&self) -> u64 {
        self.queue.peek().map_or(u64::MAX, |Reverse(due)| due.at_ns)
    }

    pub(super) fn put(&mut self, due: Due) {
        self.queue.push(Reverse(due));
    }

    /// The name and number of the next event that this node makes.
    pub(super) fn next_made(&mut self) -> (u32, u64) {
        self.made += 1;
        (u32::try_from(self.at).unwrap_or(u32::MAX), self.made)
    }

    /// Something will happen to this node of its own doing.
    pub(super) fn push(&mut self, at: Duration, what: What) {
        let (from, number) = self.next_made();
        self.put(Due { at_ns: super::nanos(at), from, number, what });
    }

    pub(super) fn note(&mut self, now: Duration, note: Note) {
        self.acts.push((now, Act::Note(note)));
    }

    /// Goes through all that happens before `end_ns`. What others do meanwhile can't arrive before that.
    pub(super) fn run(&mut self, shared: &Shared, end_ns: u64) {
        while self.next_ns() < end_ns {
            let Some(Reverse(Due { at_ns, what, .. })) = self.queue.pop() else { return };
            debug_assert!(at_ns >= self.at_ns, "node {}: {at_ns} after {}", self.at, self.at_ns);
            self.at_ns = at_ns;
            self.happened.push((at_ns, what.tag(), what.detail()));
            self.happen(shared, Duration::from_nanos(at_ns), what);
        }
    }
}
