//! The core: ties flows, inbox, group commit and timers together behind the driver's interface.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use meshara_identity::NodeId;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    Config, FrameError, LoadError, MessageId, Snapshot, StoreFailure, StoreOp, SubmitError, Token, Trouble,
    batch::Batch,
    frame::{Ack, Frame, Open},
    id::IdSource,
    inbox::Inbox,
    outbound::{AckEffect, Channel, Outbound, Pending},
    timers::{Timer, Timers},
};

/// How often the outbox is looked through for messages past their time to live: they live for days.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// What the driver must do, or tell the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this frame on the channel to `to`, after all earlier ones.
    Transmit {
        /// Peer.
        to: NodeId,
        /// An encoded [`Frame`].
        frame: Vec<u8>,
    },
    /// Make these durable in one commit, then call [`Core::stored`] or [`Core::store_failed`].
    Store {
        /// Names the batch.
        token: Token,
        /// What to apply, whole or not at all.
        ops: Vec<StoreOp>,
    },
    /// New messages of one sender are durable in the inbox.
    Delivered {
        /// Sender.
        from: NodeId,
        /// How many.
        messages: u64,
    },
    /// The destination has stored a message.
    Acked {
        /// Destination.
        to: NodeId,
        /// The message.
        id: MessageId,
        /// Time since it was submitted, or since this process loaded it.
        after: Duration,
    },
    /// A session to this node is wanted. Failing needs no answer: it is asked for again.
    Connect {
        /// Destination.
        to: NodeId,
    },
    /// A message that `submit` took could not be stored here; it is forgotten and was never sent.
    Rejected {
        /// Destination.
        to: NodeId,
        /// The message.
        id: MessageId,
        /// Why.
        error: SubmitError,
    },
    /// A message was given up after its time to live. It may have arrived, if only its acknowledgement was lost.
    Expired {
        /// Destination.
        to: NodeId,
        /// The message.
        id: MessageId,
    },
}

/// What the oldest unacknowledged message to a destination waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// This node's own store.
    Storing,
    /// A session to the destination.
    Session,
    /// The destination takes nothing at present.
    Peer(Trouble),
    /// The acknowledgement.
    Acknowledgement,
}

/// Counters and gauges of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages submitted and neither acknowledged nor given up.
    pub outbox_messages: usize,
    /// Bytes of their bodies.
    pub outbox_bytes: u64,
    /// Durable and unread messages.
    pub inbox_messages: u64,
    /// Bytes of their bodies.
    pub inbox_bytes: u64,
    /// Messages accepted by `submit`, ever.
    pub submitted: u64,
    /// Messages acknowledged by their destination, ever.
    pub acked: u64,
    /// Messages made durable in the inbox, ever.
    pub delivered: u64,
    /// Messages received again and dropped, ever.
    pub duplicates: u64,
    /// Messages received while there was no room or no working store, ever; they come again.
    pub refused: u64,
    /// Messages given up, ever.
    pub expired: u64,
}

/// One node's messaging: an outbox with a flow per destination, an inbox with a flow per sender.
///
/// After every input, call [`Core::poll_output`] until it gives nothing, then [`Core::poll_timeout`].
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    local: NodeId,
    rng: ChaCha8Rng,
    ids: IdSource,
    /// Unix milliseconds when the driver's clock stood at zero.
    unix_base_ms: u64,
    pub(crate) outbound: BTreeMap<NodeId, Outbound>,
    pub(crate) inbox: Inbox,
    outbox_messages: usize,
    outbox_bytes: u64,
    /// Flows with something for the store, flows with something to send: served in turn.
    pub(crate) unstored: VecDeque<NodeId>,
    sendable: VecDeque<NodeId>,
    /// Flows with settled messages that the store still holds.
    pub(crate) unsettled: BTreeSet<NodeId>,
    pub(crate) settle_due: bool,
    pub(crate) batch: Option<Batch>,
    pub(crate) next_token: u64,
    failure: Option<StoreFailure>,
    pub(crate) retry_at: Option<Duration>,
    settle_at: Option<Duration>,
    expiry_at: Option<Duration>,
    timers: Timers,
    events: VecDeque<Output>,
    stats: Stats,
}

impl Core {
    /// A core on the durable state `snapshot`. `seed` feeds identifiers, incarnations and jitter; `now_unix_ms` is the wall
    /// clock at `now`.
    ///
    /// # Errors
    /// [`LoadError`] when the snapshot contradicts itself.
    pub fn new(
        config: Config,
        local: NodeId,
        seed: [u8; 32],
        now: Duration,
        now_unix_ms: u64,
        snapshot: Snapshot,
    ) -> Result<Self, LoadError> {
        let mut core = Self {
            inbox: Inbox::new(&snapshot.marks, snapshot.inbox),
            config,
            local,
            rng: ChaCha8Rng::from_seed(seed),
            ids: IdSource::new(),
            unix_base_ms: now_unix_ms.saturating_sub(millis(now)),
            outbound: BTreeMap::new(),
            outbox_messages: 0,
            outbox_bytes: 0,
            unstored: VecDeque::new(),
            sendable: VecDeque::new(),
            unsettled: BTreeSet::new(),
            settle_due: false,
            batch: None,
            next_token: 0,
            failure: None,
            retry_at: None,
            settle_at: None,
            expiry_at: None,
            timers: Timers::default(),
            events: VecDeque::new(),
            stats: Stats::default(),
        };
        core.load(now, snapshot)?;
        Ok(core)
    }

    fn load(&mut self, now: Duration, snapshot: Snapshot) -> Result<(), LoadError> {
        let mut first_of = BTreeMap::new();
        for row in &snapshot.outbox {
            first_of.entry(row.to).or_insert(row.seq);
        }
        for row in snapshot.flows {
            let first = first_of.get(&row.to).copied().unwrap_or(row.next_seq);
            if first == 0 || row.next_seq < first {
                return Err(LoadError::Outbox { to: row.to, seq: first });
            }
            let last = row.next_seq - 1;
            let flow = Outbound::new(row.incarnation, true, first, last, self.config.connect_min);
            self.outbound.insert(row.to, flow);
        }
        for row in snapshot.outbox {
            let flow = self.outbound.get_mut(&row.to);
            let flow = flow.filter(|flow| flow.next() == row.seq && row.seq <= flow.loaded());
            let flow = flow.ok_or(LoadError::Outbox { to: row.to, seq: row.seq })?;
            self.outbox_messages += 1;
            self.outbox_bytes += row.body.len() as u64;
            let (id, sent_at_unix_ms, body) = (row.id, row.sent_at_unix_ms, row.body);
            flow.push(Pending { id, sent_at_unix_ms, body, submitted: now });
        }
        let gap = self.outbound.iter().find(|(_, flow)| flow.next() != flow.loaded() + 1);
        if let Some((to, flow)) = gap {
            return Err(LoadError::Outbox { to: *to, seq: flow.next() });
        }
        let all: Vec<_> = self.outbound.keys().copied().collect();
        all.into_iter().for_each(|to| self.kick(now, to));
        self.arm_expiry(now);
        Ok(())
    }

    /// Takes a message for `to`. Its identifier comes back in `Acked`, `Rejected` or `Expired`.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is kept then.
    pub fn submit(
        &mut self,
        now: Duration,
        to: NodeId,
        body: Bytes,
        sent_at_unix_ms: u64,
    ) -> Result<MessageId, SubmitError> {
        self.check_room(to, body.len())?;
        if !self.outbound.contains_key(&to) {
            let flow = Outbound::new(self.rng.next_u64(), false, 1, 0, self.config.connect_min);
            self.outbound.insert(to, flow);
        }
        let id = self.ids.next(sent_at_unix_ms, &mut self.rng);
        self.outbox_messages += 1;
        self.outbox_bytes += body.len() as u64;
        self.stats.submitted += 1;
        if let Some(flow) = self.outbound.get_mut(&to) {
            flow.push(Pending { id, sent_at_unix_ms, body, submitted: now });
        }
        self.queue_for_store(to);
        self.arm_expiry(now);
        Ok(id)
    }

    fn check_room(&self, to: NodeId, size: usize) -> Result<(), SubmitError> {
        let config = &self.config;
        let max = config.max_message.min(crate::MAX_MESSAGE);
        if size > max {
            return Err(SubmitError::TooLarge { size, max });
        }
        if to == self.local {
            return Err(SubmitError::ToSelf);
        }
        if let (Some(failure), Some(_)) = (&self.failure, self.retry_at) {
            return Err(SubmitError::Store(failure.clone()));
        }
        let size = size as u64;
        match self.outbound.get(&to) {
            None if self.outbound.len() >= config.destinations => {
                return Err(SubmitError::TooManyDestinations { max: config.destinations });
            }
            Some(flow)
                if flow.pending.len() >= config.outbox_messages_per_peer
                    || flow.bytes + size > config.outbox_bytes_per_peer =>
            {
                return Err(SubmitError::PeerQueueFull { messages: flow.pending.len(), bytes: flow.bytes });
            }
            _ => {}
        }
        if self.outbox_messages >= config.outbox_messages || self.outbox_bytes + size > config.outbox_bytes {
            return Err(SubmitError::QueueFull { messages: self.outbox_messages, bytes: self.outbox_bytes });
        }
        Ok(())
    }

    /// A channel to `peer` exists, in both directions; any earlier one is gone with the frames that were on it.
    ///
    /// # Errors
    /// [`FrameError::TooManySenders`]; the channel then serves outgoing messages only.
    pub fn peer_up(&mut self, now: Duration, peer: NodeId) -> Result<(), FrameError> {
        let Self { outbound, timers, config, .. } = self;
        if let Some(flow) = outbound.get_mut(&peer) {
            flow.reset_channel(Channel::Up);
            flow.connect_wait = config.connect_min;
            timers.clear(&mut flow.connect_at, Timer::Connect(peer));
            timers.clear(&mut flow.probe_at, Timer::Probe(peer));
        } else if outbound.len() < config.destinations {
            // Remembered so that a message submitted later finds the channel; nothing is stored for it.
            let mut flow = Outbound::new(self.rng.next_u64(), false, 1, 0, config.connect_min);
            flow.channel = Channel::Up;
            outbound.insert(peer, flow);
        }
        self.kick(now, peer);
        self.inbox.peer_down(peer);
        self.inbox.peer_up(&self.config, peer)
    }

    /// The channel to `peer` ended.
    pub fn peer_down(&mut self, now: Duration, peer: NodeId) {
        let Self { outbound, timers, .. } = self;
        if let Some(flow) = outbound.get_mut(&peer) {
            flow.reset_channel(Channel::Down);
            timers.clear(&mut flow.probe_at, Timer::Probe(peer));
            // A flow that never carried anything is nothing to remember.
            if flow.pending.is_empty() && !flow.incarnation_durable && flow.next() == 1 && flow.issued() == 0
            {
                outbound.remove(&peer);
            }
        }
        self.inbox.peer_down(peer);
        self.kick(now, peer);
    }

    /// A route to `peer` appeared: if messages wait for it, a session is asked for at once.
    pub fn peer_reachable(&mut self, now: Duration, peer: NodeId) {
        let Self { outbound, timers, config, .. } = self;
        if let Some(flow) = outbound.get_mut(&peer) {
            flow.connect_wait = config.connect_min;
            timers.clear(&mut flow.connect_at, Timer::Connect(peer));
        }
        self.kick(now, peer);
    }

    /// Takes a frame that came on the channel of `from`.
    ///
    /// # Errors
    /// [`FrameError`]: close the channel, except after `NotConnected`.
    pub fn handle_frame(&mut self, now: Duration, from: NodeId, frame: Bytes) -> Result<(), FrameError> {
        match Frame::decode(frame)? {
            Frame::Open(open) => self.inbox.on_open(&self.config, from, &open),
            Frame::Data(data) => self.inbox.on_data(&self.config, from, data),
            Frame::Ack(ack) => {
                self.handle_ack(now, from, &ack);
                Ok(())
            }
        }
    }

    fn handle_ack(&mut self, now: Duration, from: NodeId, ack: &Ack) {
        let fresh = self.rng.next_u64();
        let Some(flow) = self.outbound.get_mut(&from) else { return };
        let through = match flow.on_ack(ack, fresh) {
            AckEffect::Stale => return,
            AckEffect::Settled => ack.stored,
            // What the older copy already held under these numbers is what the receiver stored; what came since is not.
            AckEffect::RolledBack => {
                let through = ack.stored.min(flow.loaded());
                self.queue_for_store(from);
                through
            }
        };
        for message in self.settle(now, from, through) {
            self.stats.acked += 1;
            let after = now.saturating_sub(message.submitted);
            self.events.push_back(Output::Acked { to: from, id: message.id, after });
        }
        self.kick(now, from);
    }

    /// The batch `token` is durable.
    pub fn stored(&mut self, now: Duration, token: Token) {
        let Some(batch) = self.batch.take_if(|batch| batch.token == token) else { return };
        self.failure = None;
        for (to, incarnation, through) in batch.flows {
            if let Some(flow) = self.outbound.get_mut(&to) {
                flow.confirm(incarnation, through);
            }
            self.kick(now, to);
        }
        for (to, through) in batch.settles {
            if let Some(flow) = self.outbound.get_mut(&to) {
                flow.settled_in_store = flow.settled_in_store.max(through);
                if flow.settled_in_store == flow.settled() {
                    self.unsettled.remove(&to);
                }
            }
        }
        if self.unsettled.is_empty() {
            self.timers.clear(&mut self.settle_at, Timer::Settle);
        }
        let mut delivered = BTreeMap::new();
        for staged in &batch.inbox {
            *delivered.entry(staged.from).or_insert(0) += 1;
        }
        self.stats.delivered += batch.inbox.len() as u64;
        self.events
            .extend(delivered.into_iter().map(|(from, messages)| Output::Delivered { from, messages }));
        self.inbox.confirm(&self.config, &batch.inbox, batch.last_arrival);
    }

    /// The batch `token` could not be stored, and nothing of it was. Messages that this node was to send are rejected;
    /// incoming ones stay unacknowledged; the store is tried again after [`Config::store_retry`].
    pub fn store_failed(&mut self, now: Duration, token: Token, failure: StoreFailure) {
        let Some(batch) = self.batch.take_if(|batch| batch.token == token) else { return };
        let waiting = std::mem::take(&mut self.unstored);
        let flows: BTreeSet<_> = batch.flows.iter().map(|(to, ..)| *to).chain(waiting).collect();
        for to in flows {
            let Some(flow) = self.outbound.get_mut(&to) else { continue };
            flow.in_unstored = false;
            for message in flow.reject_unstored() {
                self.outbox_messages -= 1;
                self.outbox_bytes -= message.body.len() as u64;
                let error = SubmitError::Store(failure.clone());
                self.events.push_back(Output::Rejected { to, id: message.id, error });
            }
            // A new incarnation of a flow with stored messages must still be written before they are sent.
            if flow.has_durable() && !flow.incarnation_durable {
                self.queue_for_store(to);
            }
        }
        self.inbox.fail(&self.config, batch.inbox);
        self.failure = Some(failure);
        self.timers.arm(&mut self.retry_at, now + self.config.store_retry, Timer::StoreRetry);
        if !self.unsettled.is_empty() {
            self.timers.arm(&mut self.settle_at, now + self.config.settle_delay, Timer::Settle);
        }
    }

    /// The application consumed unread messages from the store: their number and the bytes of their bodies.
    pub fn consumed(&mut self, messages: u64, bytes: u64) {
        self.inbox.consumed(&self.config, messages, bytes);
    }

    /// When to call [`Core::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Connect(to) => {
                    if let Some(flow) = self.outbound.get_mut(&to) {
                        flow.connect_at = None;
                    }
                    self.kick(now, to);
                }
                Timer::Probe(to) => self.probe(now, to),
                Timer::Settle => {
                    self.settle_at = None;
                    self.settle_due = true;
                }
                Timer::StoreRetry => {
                    self.retry_at = None;
                    self.inbox.set_failing(&self.config, false);
                }
                Timer::Expiry => {
                    self.expiry_at = None;
                    self.expire(now);
                    self.arm_expiry(now);
                }
            }
        }
    }

    /// The next thing to do. Frames are made only here, so what waits is bounded by the windows.
    pub fn poll_output(&mut self, now: Duration) -> Option<Output> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if let Some((token, ops)) = self.next_batch() {
            return Some(Output::Store { token, ops });
        }
        if let Some((to, ack)) = self.inbox.next_ack(&self.config) {
            return Some(Output::Transmit { to, frame: Frame::Ack(ack).encode() });
        }
        self.next_frame(now)
    }

    fn next_frame(&mut self, now: Duration) -> Option<Output> {
        while let Some(to) = self.sendable.pop_front() {
            let Some(flow) = self.outbound.get_mut(&to) else { continue };
            flow.in_sendable = false;
            let frame = if std::mem::take(&mut flow.open_due) {
                let (incarnation, settled, next) = (flow.incarnation, flow.settled(), flow.next());
                Frame::Open(Open { incarnation, settled, next })
            } else if let Some(data) = flow.next_frame() {
                Frame::Data(data)
            } else {
                continue;
            };
            if flow.probe_at.is_none() {
                flow.progressed = false;
                let at = now + self.config.probe_interval;
                self.timers.arm(&mut flow.probe_at, at, Timer::Probe(to));
            }
            if flow.can_send() {
                self.queue_to_send(to);
            }
            return Some(Output::Transmit { to, frame: frame.encode() });
        }
        None
    }

    /// What the messages to `to` wait for; `None` when there are none.
    pub fn waiting(&self, to: NodeId) -> Option<Waiting> {
        let flow = self.outbound.get(&to).filter(|flow| !flow.pending.is_empty())?;
        Some(match (flow.has_durable(), flow.channel, flow.trouble) {
            (false, ..) => Waiting::Storing,
            (_, Channel::Down, _) => Waiting::Session,
            (.., Some(trouble)) => Waiting::Peer(trouble),
            _ => Waiting::Acknowledgement,
        })
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        let (inbox_messages, inbox_bytes) = self.inbox.unread();
        Stats {
            outbox_messages: self.outbox_messages,
            outbox_bytes: self.outbox_bytes,
            inbox_messages,
            inbox_bytes,
            duplicates: self.inbox.duplicates,
            refused: self.inbox.refused,
            ..self.stats
        }
    }

    /// Moves a flow on after any change: asks for a session, opens the channel or sends.
    fn kick(&mut self, now: Duration, to: NodeId) {
        let Some(flow) = self.outbound.get_mut(&to) else { return };
        if !flow.has_durable() || !flow.incarnation_durable {
            return;
        }
        match flow.channel {
            Channel::Down if flow.connect_at.is_none() => {
                self.events.push_back(Output::Connect { to });
                // Up to a quarter of jitter, so that many nodes do not all dial one that comes back.
                let jitter = f64::from(self.rng.next_u32()) / f64::from(u32::MAX) / 4.0;
                let at = now + flow.connect_wait.mul_f64(1.0 + jitter);
                flow.connect_wait = (flow.connect_wait * 2).min(self.config.connect_max);
                self.timers.arm(&mut flow.connect_at, at, Timer::Connect(to));
            }
            Channel::Up => {
                (flow.channel, flow.open_due) = (Channel::Opening, true);
                self.queue_to_send(to);
            }
            Channel::Ready if flow.can_send() => self.queue_to_send(to),
            Channel::Down | Channel::Opening | Channel::Ready => {}
        }
    }

    /// A receiver that owes an acknowledgement and is silent is asked where it stands.
    fn probe(&mut self, now: Duration, to: NodeId) {
        let Some(flow) = self.outbound.get_mut(&to) else { return };
        flow.probe_at = None;
        if !flow.has_durable() || !matches!(flow.channel, Channel::Opening | Channel::Ready) {
            return;
        }
        if std::mem::take(&mut flow.progressed) {
            self.timers.arm(&mut flow.probe_at, now + self.config.probe_interval, Timer::Probe(to));
            return;
        }
        (flow.channel, flow.open_due) = (Channel::Opening, true);
        self.queue_to_send(to);
    }

    fn expire(&mut self, now: Duration) {
        let unix_ms = self.unix_base_ms.saturating_add(millis(now));
        let oldest = unix_ms.saturating_sub(millis(self.config.ttl));
        let old = |(to, flow): (&NodeId, &Outbound)| {
            let count = flow.older_than(oldest);
            (count > 0).then(|| (*to, flow.settled() + count))
        };
        let expired: Vec<_> = self.outbound.iter().filter_map(old).collect();
        for (to, through) in expired {
            for message in self.settle(now, to, through) {
                self.stats.expired += 1;
                self.events.push_back(Output::Expired { to, id: message.id });
            }
        }
    }

    /// Forgets messages of a flow up to `through` and has the store forget them soon.
    fn settle(&mut self, now: Duration, to: NodeId, through: u64) -> VecDeque<Pending> {
        let Some(flow) = self.outbound.get_mut(&to) else { return VecDeque::new() };
        let gone = flow.settle(through);
        if !gone.is_empty() {
            self.outbox_messages -= gone.len();
            self.outbox_bytes -= gone.iter().map(|m| m.body.len() as u64).sum::<u64>();
            self.unsettled.insert(to);
            if self.settle_at.is_none() {
                self.timers.arm(&mut self.settle_at, now + self.config.settle_delay, Timer::Settle);
            }
        }
        gone
    }

    fn arm_expiry(&mut self, now: Duration) {
        if self.expiry_at.is_none() && self.outbox_messages > 0 {
            self.timers.arm(&mut self.expiry_at, now + EXPIRY_INTERVAL, Timer::Expiry);
        }
    }

    fn queue_for_store(&mut self, to: NodeId) {
        if let Some(flow) = self.outbound.get_mut(&to)
            && flow.needs_store()
            && !flow.in_unstored
        {
            flow.in_unstored = true;
            self.unstored.push_back(to);
        }
    }

    fn queue_to_send(&mut self, to: NodeId) {
        if let Some(flow) = self.outbound.get_mut(&to)
            && !flow.in_sendable
        {
            flow.in_sendable = true;
            self.sendable.push_back(to);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
