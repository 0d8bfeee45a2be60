//! The receiving half: accepts messages in each sender's order, has them stored, then acknowledges.

use std::collections::{BTreeMap, VecDeque};

use meshara_identity::NodeId;

use crate::{
    Config, FrameError, InboxTotals, MarkRow,
    frame::{Ack, Data, Envelope, Open, Trouble},
};

/// An accepted message that is not durable yet.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) from: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) seq: u64,
    pub(crate) message: Envelope,
}

/// The flow from one sender.
#[derive(Debug, Default)]
struct Inbound {
    incarnation: u64,
    /// Everything up to here is durable or settled at the sender.
    stored: u64,
    /// The next number that is accepted; everything between it and `stored` is staged.
    expected: u64,
    /// A channel exists, and the flow was opened on it.
    up: bool,
    opened: bool,
    /// Place in the line of those that wait for room, and the bytes of the message that found none.
    paused: Option<(u64, u64)>,
    ack_due: bool,
    resume_due: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    messages: u64,
    bytes: u64,
}

/// All senders' flows and the room that they share.
#[derive(Debug)]
pub(crate) struct Inbox {
    flows: BTreeMap<NodeId, Inbound>,
    staged: VecDeque<Staged>,
    /// Accepted and not durable, whether waiting or in the batch under way.
    unstored_messages: u64,
    unstored_bytes: u64,
    /// Ever stored and ever consumed. Apart, because the driver may report a consumption before the commit it follows.
    stored: Amount,
    consumed: Amount,
    last_arrival: u64,
    paused: BTreeMap<u64, NodeId>,
    next_place: u64,
    acks: VecDeque<NodeId>,
    failing: bool,
    pub(crate) duplicates: u64,
    pub(crate) refused: u64,
}

impl Inbox {
    pub(crate) fn new(marks: &[MarkRow], totals: InboxTotals) -> Self {
        let flow = |mark: &MarkRow| Inbound {
            incarnation: mark.incarnation,
            stored: mark.stored,
            expected: mark.stored.saturating_add(1),
            ..Inbound::default()
        };
        Self {
            flows: marks.iter().map(|mark| (mark.from, flow(mark))).collect(),
            staged: VecDeque::new(),
            unstored_messages: 0,
            unstored_bytes: 0,
            stored: Amount { messages: totals.messages, bytes: totals.bytes },
            consumed: Amount::default(),
            last_arrival: totals.last_arrival,
            paused: BTreeMap::new(),
            next_place: 0,
            acks: VecDeque::new(),
            failing: false,
            duplicates: 0,
            refused: 0,
        }
    }

    /// Unread messages and the bytes of their bodies.
    pub(crate) fn unread(&self) -> (u64, u64) {
        let messages = self.stored.messages.saturating_sub(self.consumed.messages);
        (messages, self.stored.bytes.saturating_sub(self.consumed.bytes))
    }

    /// Unread and accepted messages and the bytes of their bodies: what counts against the limits.
    fn held(&self) -> (u64, u64) {
        let (messages, bytes) = self.unread();
        (messages + self.unstored_messages, bytes + self.unstored_bytes)
    }

    pub(crate) fn peer_up(&mut self, config: &Config, from: NodeId) -> Result<(), FrameError> {
        if !self.flows.contains_key(&from) && self.flows.len() >= config.senders {
            return Err(FrameError::TooManySenders { max: config.senders });
        }
        self.channel(from, true);
        Ok(())
    }

    pub(crate) fn peer_down(&mut self, from: NodeId) {
        if self.flows.contains_key(&from) {
            self.channel(from, false);
        }
        // A flow that never carried anything holds no mark worth keeping.
        if self.flows.get(&from).is_some_and(|flow| flow.expected <= 1) {
            self.flows.remove(&from);
        }
    }

    fn channel(&mut self, from: NodeId, up: bool) {
        let flow = self.flows.entry(from).or_default();
        (flow.up, flow.opened, flow.resume_due) = (up, false, false);
        if let Some((place, _)) = flow.paused.take() {
            self.paused.remove(&place);
        }
    }

    pub(crate) fn on_open(&mut self, config: &Config, from: NodeId, open: &Open) -> Result<(), FrameError> {
        let flow = self.flows.get_mut(&from).filter(|flow| flow.up).ok_or(FrameError::NotConnected)?;
        if flow.incarnation != open.incarnation || flow.expected == 0 {
            (flow.incarnation, flow.stored, flow.expected) = (open.incarnation, 0, 1);
        }
        flow.skip(open.settled);
        (flow.opened, flow.resume_due) = (true, true);
        let need = flow.paused.map_or(0, |(_, need)| need);
        self.unpause(from);
        if self.failing || !self.has_room(config, need) {
            self.pause(from, need);
        }
        self.ack(from);
        Ok(())
    }

    pub(crate) fn on_data(&mut self, config: &Config, from: NodeId, data: Data) -> Result<(), FrameError> {
        let flow = self.flows.get_mut(&from).filter(|flow| flow.up).ok_or(FrameError::NotConnected)?;
        if !flow.opened || flow.incarnation != data.incarnation {
            return Err(FrameError::NotOpened);
        }
        flow.skip(data.settled);
        for (seq, message) in (data.first..).zip(data.messages) {
            let Some(flow) = self.flows.get_mut(&from) else { break };
            if seq < flow.expected {
                self.duplicates += 1;
                self.ack(from);
                continue;
            }
            // While paused, and after a resume until the sender has rewound, what is under way is dropped: it comes again.
            if flow.paused.is_some() || seq > flow.expected {
                self.refused += 1;
                continue;
            }
            let len = message.body.len() as u64;
            if !self.has_room(config, len) {
                self.refused += 1;
                self.pause(from, len);
                self.ack(from);
                continue;
            }
            if let Some(flow) = self.flows.get_mut(&from) {
                flow.expected = seq + 1;
                self.staged.push_back(Staged { from, incarnation: flow.incarnation, seq, message });
                self.unstored_messages += 1;
                self.unstored_bytes += len;
            }
        }
        Ok(())
    }

    /// Whether a message of `len` bytes may be accepted. An empty inbox takes any message, whatever the limits.
    fn has_room(&self, config: &Config, len: u64) -> bool {
        let (messages, bytes) = self.held();
        !self.failing
            && messages < config.inbox_messages.max(1)
            && (messages == 0 || bytes + len <= config.inbox_bytes)
            && (self.unstored_messages == 0 || self.unstored_bytes + len <= config.staging_bytes)
    }

    fn pause(&mut self, from: NodeId, need: u64) {
        if let Some(flow) = self.flows.get_mut(&from)
            && flow.paused.is_none()
        {
            flow.paused = Some((self.next_place, need));
            self.paused.insert(self.next_place, from);
            self.next_place += 1;
        }
    }

    fn unpause(&mut self, from: NodeId) {
        if let Some((place, _)) = self.flows.get_mut(&from).and_then(|flow| flow.paused.take()) {
            self.paused.remove(&place);
        }
    }

    fn ack(&mut self, from: NodeId) {
        if let Some(flow) = self.flows.get_mut(&from)
            && !flow.ack_due
        {
            flow.ack_due = true;
            self.acks.push_back(from);
        }
    }

    /// The next acknowledgement to send.
    pub(crate) fn next_ack(&mut self, config: &Config) -> Option<(NodeId, Ack)> {
        while let Some(from) = self.acks.pop_front() {
            let (messages, bytes) = self.held();
            let full = messages >= config.inbox_messages || bytes >= config.inbox_bytes;
            let room = config.inbox_messages.saturating_sub(messages).max(1);
            let room_bytes = config.inbox_bytes.saturating_sub(bytes).max(1);
            if !self.has_room(config, 0) {
                self.pause(from, 0);
            }
            let failing = self.failing;
            let Some(flow) = self.flows.get_mut(&from) else { continue };
            flow.ack_due = false;
            if !flow.up || !flow.opened {
                continue;
            }
            let paused = flow.paused.is_some();
            let trouble = match (failing, paused) {
                (true, _) => Some(Trouble::StoreFailing),
                (false, true) if full => Some(Trouble::InboxFull),
                // A large message may find no room although a small one would.
                (false, true) if flow.paused.is_some_and(|(_, need)| need > room_bytes) => {
                    Some(Trouble::InboxFull)
                }
                (false, _) => None,
            };
            let window = u64::from(config.window_messages).min(room);
            let ack = Ack {
                incarnation: flow.incarnation,
                stored: flow.stored,
                expected: flow.expected,
                resume: std::mem::take(&mut flow.resume_due),
                trouble,
                window: if paused { 0 } else { u32::try_from(window).unwrap_or(u32::MAX) },
                window_bytes: if paused { 0 } else { config.window_bytes.min(room_bytes) },
            };
            return Some((from, ack));
        }
        None
    }

    pub(crate) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Takes the next message for a batch, with its arrival number counted from the last durable one.
    pub(crate) fn take_staged(&mut self) -> Option<Staged> {
        self.staged.pop_front()
    }

    pub(crate) fn last_arrival(&self) -> u64 {
        self.last_arrival
    }

    /// The store confirmed these messages.
    pub(crate) fn confirm(&mut self, config: &Config, batch: &[Staged], last_arrival: u64) {
        for staged in batch {
            let len = staged.message.body.len() as u64;
            self.unstored_messages -= 1;
            self.unstored_bytes -= len;
            self.stored.messages += 1;
            self.stored.bytes += len;
            if let Some(flow) = self.flows.get_mut(&staged.from)
                && flow.incarnation == staged.incarnation
            {
                flow.stored = flow.stored.max(staged.seq);
            }
            self.ack(staged.from);
        }
        self.last_arrival = self.last_arrival.max(last_arrival);
        self.set_failing(config, false);
    }

    /// The store did not take these messages: they and those behind them are forgotten, and their senders wait.
    pub(crate) fn fail(&mut self, config: &Config, batch: Vec<Staged>) {
        self.set_failing(config, true);
        let dropped: Vec<_> = batch.into_iter().chain(std::mem::take(&mut self.staged)).collect();
        self.refused += dropped.len() as u64;
        (self.unstored_messages, self.unstored_bytes) = (0, 0);
        for staged in dropped {
            if let Some(flow) = self.flows.get_mut(&staged.from) {
                flow.expected = flow.stored + 1;
            }
            self.pause(staged.from, 0);
            self.ack(staged.from);
        }
    }

    /// Whether the store refuses; when that ends, those that wait are told to go on.
    pub(crate) fn set_failing(&mut self, config: &Config, failing: bool) {
        self.failing = failing;
        self.resume(config);
    }

    /// The application consumed unread messages.
    pub(crate) fn consumed(&mut self, config: &Config, messages: u64, bytes: u64) {
        self.consumed.messages += messages;
        self.consumed.bytes += bytes;
        self.resume(config);
    }

    /// Lets the longest-waiting senders go on, as many as the room serves with a full window each, but at least one.
    fn resume(&mut self, config: &Config) {
        if self.paused.is_empty() || self.failing {
            return;
        }
        let (messages, bytes) = self.held();
        // A sixteenth free before anyone goes on, or senders would be stopped and started for each message read.
        let enough = messages == 0
            || (messages + (config.inbox_messages / 16).max(1) <= config.inbox_messages
                && bytes + config.inbox_bytes / 16 <= config.inbox_bytes);
        if !enough {
            return;
        }
        let mut room = config.inbox_messages.saturating_sub(messages);
        while let Some((_, from)) = self.paused.first_key_value().map(|(place, from)| (*place, *from)) {
            let need = self.flows.get(&from).and_then(|flow| flow.paused).map_or(0, |(_, need)| need);
            if room == 0 || !self.has_room(config, need) {
                break;
            }
            self.unpause(from);
            if let Some(flow) = self.flows.get_mut(&from) {
                flow.resume_due = true;
            }
            self.ack(from);
            room = room.saturating_sub(u64::from(config.window_messages));
        }
    }
}

impl Inbound {
    /// The sender will not send numbers up to `settled` again.
    fn skip(&mut self, settled: u64) {
        self.stored = self.stored.max(settled);
        self.expected = self.expected.max(settled.saturating_add(1));
    }
}
