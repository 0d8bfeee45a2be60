//! The flow of messages to one destination: numbered, kept until acknowledged, sent again after a break.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use crate::{
    MessageId,
    frame::{self, Ack, Data, Envelope, Trouble},
};

/// The channel to the destination, as the sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// No session.
    Down,
    /// A session, and nothing sent on it yet.
    Up,
    /// Asked the receiver where to resume; no answer yet.
    Opening,
    /// The receiver said where to resume.
    Ready,
}

/// A message that the receiver has not acknowledged.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: MessageId,
    pub(crate) sent_at_unix_ms: u64,
    pub(crate) body: Bytes,
    pub(crate) submitted: Duration,
}

/// State of one flow. Numbers are consecutive: `first` belongs to the front of `pending`.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) incarnation: u64,
    /// The store knows this incarnation, so it may be sent.
    pub(crate) incarnation_durable: bool,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) bytes: u64,
    first: u64,
    /// Highest number handed to the store, and highest that the store confirmed.
    issued: u64,
    durable: u64,
    /// Highest number on this channel, the bytes of those unacknowledged, and the highest number ever on any channel.
    sent: u64,
    sent_bytes: u64,
    high_sent: u64,
    /// Last number assigned before this process started.
    loaded: u64,
    /// Everything up to this number is gone from the store.
    pub(crate) settled_in_store: u64,
    pub(crate) channel: Channel,
    pub(crate) open_due: bool,
    window: u32,
    window_bytes: u64,
    pub(crate) trouble: Option<Trouble>,
    /// An acknowledgement came since the probe timer was armed.
    pub(crate) progressed: bool,
    /// The receiver's policy denied what was sent since the last probe.
    pub(crate) denied: bool,
    /// In how many rounds in a row it did.
    pub(crate) denials: u32,
    pub(crate) connect_at: Option<Duration>,
    pub(crate) connect_wait: Duration,
    pub(crate) probe_at: Option<Duration>,
    pub(crate) in_unstored: bool,
    pub(crate) in_sendable: bool,
}

/// What an acknowledgement changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AckEffect {
    /// It speaks of another numbering: stale.
    Stale,
    /// Numbers up to `stored` are settled.
    Settled,
    /// The receiver stored numbers that this store never sent: the store is an older copy. The flow took up a new incarnation.
    RolledBack,
}

impl Outbound {
    /// A flow whose last assigned number is `last` and of which the store holds `first..=last`.
    pub(crate) fn new(
        incarnation: u64,
        durable: bool,
        first: u64,
        last: u64,
        connect_wait: Duration,
    ) -> Self {
        Self {
            incarnation,
            incarnation_durable: durable,
            pending: VecDeque::new(),
            bytes: 0,
            first,
            issued: last,
            durable: last,
            sent: first.saturating_sub(1),
            sent_bytes: 0,
            high_sent: last,
            loaded: last,
            settled_in_store: first.saturating_sub(1),
            channel: Channel::Down,
            open_due: false,
            window: 0,
            window_bytes: 0,
            trouble: None,
            progressed: false,
            denied: false,
            denials: 0,
            connect_at: None,
            connect_wait,
            probe_at: None,
            in_unstored: false,
            in_sendable: false,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.first.saturating_add(self.pending.len() as u64)
    }

    pub(crate) fn settled(&self) -> u64 {
        self.first.saturating_sub(1)
    }

    pub(crate) fn push(&mut self, message: Pending) {
        self.bytes += message.body.len() as u64;
        self.pending.push_back(message);
    }

    pub(crate) fn has_durable(&self) -> bool {
        self.durable >= self.first
    }

    pub(crate) fn needs_store(&self) -> bool {
        self.issued + 1 < self.next() || !self.incarnation_durable
    }

    /// The next message for the store, with its number.
    pub(crate) fn peek_unissued(&self) -> Option<(u64, &Pending)> {
        let seq = self.issued + 1;
        self.at(seq).map(|pending| (seq, pending))
    }

    pub(crate) fn advance_issued(&mut self) {
        self.issued += 1;
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    /// The store confirmed everything up to `through` under `incarnation`.
    pub(crate) fn confirm(&mut self, incarnation: u64, through: u64) {
        self.durable = self.durable.max(through);
        self.incarnation_durable |= self.incarnation == incarnation;
    }

    /// The store failed: forgets and returns what it did not confirm.
    pub(crate) fn reject_unstored(&mut self) -> VecDeque<Pending> {
        let keep = (self.durable + 1).saturating_sub(self.first) as usize;
        let rejected = self.pending.split_off(keep.min(self.pending.len()));
        self.bytes -= rejected.iter().map(|m| m.body.len() as u64).sum::<u64>();
        self.issued = self.durable;
        rejected
    }

    /// Forgets and returns everything up to `through`.
    pub(crate) fn settle(&mut self, through: u64) -> VecDeque<Pending> {
        let count = (through + 1).saturating_sub(self.first).min(self.pending.len() as u64);
        let rest = self.pending.split_off(count as usize);
        let gone = std::mem::replace(&mut self.pending, rest);
        for (seq, message) in (self.first..).zip(&gone) {
            let len = message.body.len() as u64;
            self.bytes -= len;
            if seq <= self.sent {
                self.sent_bytes -= len;
            }
        }
        self.first += count;
        self.sent = self.sent.max(self.settled());
        gone
    }

    /// How many messages at the front are durable and were submitted before `unix_ms`.
    pub(crate) fn older_than(&self, unix_ms: u64) -> u64 {
        let durable = (self.durable + 1).saturating_sub(self.first) as usize;
        self.pending.iter().take(durable).take_while(|m| m.sent_at_unix_ms < unix_ms).count() as u64
    }

    /// The session began or ended.
    pub(crate) fn reset_channel(&mut self, channel: Channel) {
        self.channel = channel;
        self.open_due = false;
        self.trouble = None;
        self.window = 0;
        self.rewind(self.settled());
    }

    /// Takes an acknowledgement. After [`AckEffect::Settled`] the caller settles up to `ack.stored`.
    pub(crate) fn on_ack(&mut self, ack: &Ack, fresh_incarnation: u64) -> AckEffect {
        if ack.incarnation != self.incarnation || !matches!(self.channel, Channel::Opening | Channel::Ready) {
            return AckEffect::Stale;
        }
        if ack.stored.max(ack.expected - 1) > self.high_sent {
            self.incarnation = fresh_incarnation;
            self.incarnation_durable = false;
            self.channel = Channel::Up;
            self.rewind(self.settled());
            return AckEffect::RolledBack;
        }
        self.progressed = true;
        self.trouble = ack.trouble;
        self.window = ack.window;
        self.window_bytes = ack.window_bytes;
        if ack.resume {
            self.channel = Channel::Ready;
            self.rewind(ack.expected - 1);
        }
        AckEffect::Settled
    }

    /// Last number that was stored when this process started.
    pub(crate) fn loaded(&self) -> u64 {
        self.loaded
    }

    /// Whether [`Self::next_frame`] would give one.
    pub(crate) fn can_send(&self) -> bool {
        self.channel == Channel::Ready && self.at(self.sent + 1).is_some_and(|next| self.fits(next))
    }

    /// The next Data frame that the window allows, if any.
    pub(crate) fn next_frame(&mut self) -> Option<Data> {
        if self.channel != Channel::Ready {
            return None;
        }
        let first = self.sent + 1;
        let (mut messages, mut size) = (Vec::new(), 0);
        while let Some(next) = self.at(self.sent + 1) {
            if !self.fits(next) || messages.len() == frame::MAX_COUNT {
                break;
            }
            size += Envelope::encoded_len(next.body.len());
            if size > frame::FRAME_TARGET && !messages.is_empty() {
                break;
            }
            let len = next.body.len() as u64;
            messages.push(Envelope {
                id: next.id,
                sent_at_unix_ms: next.sent_at_unix_ms,
                body: next.body.clone(),
            });
            self.sent += 1;
            self.sent_bytes += len;
        }
        self.high_sent = self.high_sent.max(self.sent);
        let (incarnation, settled) = (self.incarnation, self.settled());
        (!messages.is_empty()).then_some(Data { incarnation, settled, first, messages })
    }

    /// A durable message may go when the window has room. One may always go when none is under way and the receiver takes any:
    /// so a message larger than the rest of a window is not stuck, the receiver answers for it.
    fn fits(&self, next: &Pending) -> bool {
        let under_way = self.sent - self.settled();
        self.sent < self.durable
            && under_way < u64::from(self.window)
            && (under_way == 0 || self.sent_bytes + next.body.len() as u64 <= self.window_bytes)
    }

    /// Goes on after number `last`, within what is pending.
    fn rewind(&mut self, last: u64) {
        self.sent = last.max(self.settled());
        let count = (self.sent - self.settled()) as usize;
        self.sent_bytes = self.pending.iter().take(count).map(|m| m.body.len() as u64).sum();
    }

    fn at(&self, seq: u64) -> Option<&Pending> {
        self.pending.get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
    }
}
