//! What the core asks its driver to keep, and gets back at start.

use bytes::Bytes;
use meshara_identity::NodeId;

use crate::MessageId;

/// Names one batch of operations handed to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) u64);

/// One change of the durable state. A batch of them is applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Keep an outgoing message.
    OutboxPut(OutboxRow),
    /// Keep the state of a flow to a destination, replacing the row that was there.
    OutboxFlow(FlowRow),
    /// Forget the outgoing messages to `to` numbered up to and including `through`.
    OutboxSettle {
        /// Destination.
        to: NodeId,
        /// Highest number to forget.
        through: u64,
    },
    /// Keep an incoming message for the application.
    InboxPut(InboxRow),
    /// Keep how far a sender's flow is stored, replacing the row that was there.
    Mark(MarkRow),
}

/// An outgoing message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Destination.
    pub to: NodeId,
    /// Number in the flow to that destination; the first is 1.
    pub seq: u64,
    /// Identifier.
    pub id: MessageId,
    /// When it was submitted, Unix milliseconds by this node's clock.
    pub sent_at_unix_ms: u64,
    /// Body.
    pub body: Bytes,
}

/// A flow to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// Destination.
    pub to: NodeId,
    /// Random name of this numbering.
    pub incarnation: u64,
    /// Number that the next message gets.
    pub next_seq: u64,
}

/// An incoming message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    /// Order of arrival; rows of one sender keep its order.
    pub arrival: u64,
    /// Sender, as the session proved it.
    pub from: NodeId,
    /// Identifier that the sender gave.
    pub id: MessageId,
    /// When it was submitted, Unix milliseconds by the sender's clock.
    pub sent_at_unix_ms: u64,
    /// Body.
    pub body: Bytes,
}

/// How far a sender's flow is stored here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRow {
    /// Sender.
    pub from: NodeId,
    /// Name of its numbering.
    pub incarnation: u64,
    /// Everything up to this number is stored.
    pub stored: u64,
}

/// Size of the inbox at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboxTotals {
    /// Unread messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Arrival number of the newest, 0 when there is none.
    pub last_arrival: u64,
}

/// The durable state, as the core finds it at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Outgoing messages, ordered by destination and number.
    pub outbox: Vec<OutboxRow>,
    /// Flows to destinations.
    pub flows: Vec<FlowRow>,
    /// Marks of senders.
    pub marks: Vec<MarkRow>,
    /// Size of the inbox.
    pub inbox: InboxTotals,
}
