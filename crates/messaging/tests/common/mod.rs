//! The durable store as a model: maps that change only when a whole batch is applied.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::{collections::BTreeMap, time::Duration};

use meshara_identity::NodeId;
use meshara_messaging::{
    Config, Core, FlowRow, InboxRow, InboxTotals, MarkRow, OutboxRow, Output, Snapshot, StoreOp, Token,
};

pub const UNIX_MS: u64 = 1_790_000_000_000;

pub fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub outbox: BTreeMap<(NodeId, u64), OutboxRow>,
    pub flows: BTreeMap<NodeId, FlowRow>,
    pub marks: BTreeMap<NodeId, MarkRow>,
    pub inbox: BTreeMap<u64, InboxRow>,
}

impl Disk {
    pub fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::OutboxPut(row) => drop(self.outbox.insert((row.to, row.seq), row)),
            StoreOp::OutboxFlow(row) => drop(self.flows.insert(row.to, row)),
            StoreOp::OutboxSettle { to, through } => {
                self.outbox.retain(|key, _| key.0 != to || key.1 > through)
            }
            StoreOp::InboxPut(row) => {
                assert!(self.inbox.last_key_value().is_none_or(|(last, _)| *last < row.arrival));
                self.inbox.insert(row.arrival, row);
            }
            StoreOp::Mark(row) => drop(self.marks.insert(row.from, row)),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            outbox: self.outbox.values().cloned().collect(),
            flows: self.flows.values().copied().collect(),
            marks: self.marks.values().copied().collect(),
            inbox: InboxTotals {
                messages: self.inbox.len() as u64,
                bytes: self.inbox.values().map(|row| row.body.len() as u64).sum(),
                last_arrival: self.inbox.last_key_value().map_or(0, |(arrival, _)| *arrival),
            },
        }
    }
}

pub fn core(config: &Config, n: u8, seed: u64, now: Duration, disk: &Disk) -> Core {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let unix_ms = UNIX_MS + now.as_millis() as u64;
    Core::new(config.clone(), node(n), bytes, now, unix_ms, disk.snapshot()).expect("a consistent snapshot")
}

pub fn drain(core: &mut Core, now: Duration) -> Vec<Output> {
    std::iter::from_fn(|| core.poll_output(now)).collect()
}

/// The batch among `outputs`.
pub fn batch(outputs: &[Output]) -> Option<(Token, Vec<StoreOp>)> {
    outputs.iter().find_map(|output| match output {
        Output::Store { token, ops } => Some((*token, ops.clone())),
        _ => None,
    })
}

/// The frames among `outputs`.
pub fn frames(outputs: &[Output]) -> Vec<Vec<u8>> {
    let frame = |output: &Output| match output {
        Output::Transmit { frame, .. } => Some(frame.clone()),
        _ => None,
    };
    outputs.iter().filter_map(frame).collect()
}
