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
    Config, FrameError, LoadError, Snapshot, StoreFailure, SubmitError, Token,
    batch::Batch,
    frame::{Ack, Frame},
    id::IdSource,
    inbox::Inbox,
    outbound::{AckEffect, Channel, Outbound},
    output::{Output, Stats, Waiting},
    timers::{Timer, Timers},
};

/// One node's messaging: an outbox with a flow per destination, an inbox with a flow per sender.
///
/// After every input, call [`Core::poll_output`] until it gives nothing, then [`Core::poll_timeout`].
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) local: NodeId,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) ids: IdSource,
    /// Unix milliseconds when the driver's clock stood at zero.
    pub(crate) unix_base_ms: u64,
    pub(crate) outbound: BTreeMap<NodeId, Outbound>,
    pub(crate) inbox: Inbox,
    pub(crate) outbox_messages: usize,
    pub(crate) outbox_bytes: u64,
    /// Flows with something for the store, flows with something to send: served in turn.
    pub(crate) unstored: VecDeque<NodeId>,
    pub(crate) sendable: VecDeque<NodeId>,
    /// Flows with settled messages that the store still holds.
    pub(crate) unsettled: BTreeSet<NodeId>,
    pub(crate) settle_due: bool,
    pub(crate) batch: Option<Batch>,
    pub(crate) next_token: u64,
    pub(crate) failure: Option<StoreFailure>,
    pub(crate) retry_at: Option<Duration>,
    pub(crate) settle_at: Option<Duration>,
    pub(crate) expiry_at: Option<Duration>,
    pub(crate) timers: Timers,
    pub(crate) events: VecDeque<Output>,
    pub(crate) stats: Stats,
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

    /// The policy of `to` denied what was sent to it: it is sent again ever more seldom, until something is taken.
    pub fn denied(&mut self, to: NodeId) {
        if let Some(flow) = self.outbound.get_mut(&to) {
            flow.denied = true;
        }
    }

    /// Perhaps other things are denied now: all that was is tried again at once.
    pub fn retry_denied(&mut self, now: Duration) {
        let denied = self.outbound.iter_mut().filter(|(_, flow)| flow.denied || flow.denials > 0);
        let denied: Vec<NodeId> = denied
            .map(|(to, flow)| {
                (flow.denied, flow.denials, flow.progressed) = (false, 0, false);
                *to
            })
            .collect();
        for to in denied {
            if let Some(flow) = self.outbound.get_mut(&to) {
                self.timers.clear(&mut flow.probe_at, Timer::Probe(to));
            }
            self.probe(now, to);
        }
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
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
