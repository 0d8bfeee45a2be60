//! What the core gives its driver.

use std::time::Duration;

use meshara_identity::NodeId;

use crate::{MessageId, StoreOp, SubmitError, Token, Trouble};

/// What the driver must do, or tell the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this frame on the channel to `to`, after all earlier ones.
    Transmit {
        /// Peer.
        to: NodeId,
        /// An encoded [`Frame`](crate::frame::Frame).
        frame: Vec<u8>,
    },
    /// Make these durable in one commit, then call [`Core::stored`](crate::Core::stored) or [`Core::store_failed`](crate::Core::store_failed).
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
