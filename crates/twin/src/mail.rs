//! One node's messaging core with a model of its disk and its sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_messaging::{Config, Core, FlowRow, InboxTotals, MarkRow, OutboxRow, Snapshot, StoreOp};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::session::Session;

/// Wall clock at the start of every world: some day in 2026.
pub(crate) const UNIX_MS: u64 = 1_790_000_000_000;

/// What survives a crash: changed by whole batches only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    outbox: BTreeMap<(NodeId, u64), OutboxRow>,
    flows: BTreeMap<NodeId, FlowRow>,
    marks: BTreeMap<NodeId, MarkRow>,
    last_arrival: u64,
}

impl Disk {
    /// Applies a batch. The application takes every message out of the inbox at once; they are returned.
    pub(crate) fn apply(&mut self, ops: Vec<StoreOp>) -> Vec<meshara_messaging::InboxRow> {
        let mut arrived = Vec::new();
        for op in ops {
            match op {
                StoreOp::OutboxPut(row) => drop(self.outbox.insert((row.to, row.seq), row)),
                StoreOp::OutboxFlow(row) => drop(self.flows.insert(row.to, row)),
                StoreOp::OutboxSettle { to, through } => {
                    self.outbox.retain(|(dest, seq), _| *dest != to || *seq > through);
                }
                StoreOp::InboxPut(row) => {
                    self.last_arrival = self.last_arrival.max(row.arrival);
                    arrived.push(row);
                }
                StoreOp::Mark(row) => drop(self.marks.insert(row.from, row)),
            }
        }
        arrived
    }

    /// The messages that wait to be sent.
    pub(crate) fn outgoing(&self) -> std::collections::BTreeSet<meshara_messaging::MessageId> {
        self.outbox.values().map(|row| row.id).collect()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            outbox: self.outbox.values().cloned().collect(),
            flows: self.flows.values().copied().collect(),
            marks: self.marks.values().copied().collect(),
            inbox: InboxTotals { messages: 0, bytes: 0, last_arrival: self.last_arrival },
        }
    }
}

/// The messaging part of a running node.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) core: Core,
    /// By the other end.
    pub(crate) sessions: BTreeMap<usize, Session>,
    /// A batch under way to the disk.
    pub(crate) committing: Option<Vec<StoreOp>>,
    /// The event under way to wake this part.
    pub(crate) timer: Option<Duration>,
}

impl Mail {
    /// `None` if the disk contradicts itself.
    pub(crate) fn start(node: NodeId, disk: &Disk, now: Duration, rng: &mut ChaCha8Rng) -> Option<Self> {
        let unix_ms = UNIX_MS + u64::try_from(now.as_millis()).unwrap_or(0);
        let core = Core::new(Config::default(), node, rng.random(), now, unix_ms, disk.snapshot()).ok()?;
        Some(Self { core, sessions: BTreeMap::new(), committing: None, timer: None })
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.sessions.values().filter_map(Session::timer).chain(self.core.poll_timeout()).min()
    }
}
