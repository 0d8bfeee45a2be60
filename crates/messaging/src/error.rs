//! Exact errors of the messaging core, one enum per operation.

use meshara_identity::NodeId;

use crate::frame::DecodeError;

/// Why the store could not make a batch durable, in words for the user (file and remedy included).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreFailure(pub String);

/// A message was not accepted, or (in [`Output::Rejected`](crate::Output::Rejected)) not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The body is larger than a message may be.
    #[error("the message has {size} bytes, the maximum is {max}; send it as a stream instead")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The destination is this node.
    #[error("a node cannot send a message to itself")]
    ToSelf,
    /// Too much is waiting for this destination.
    #[error(
        "{messages} messages ({bytes} bytes) already wait for this destination; wait until it is reachable again"
    )]
    PeerQueueFull {
        /// Messages waiting for it.
        messages: usize,
        /// Bytes waiting for it.
        bytes: u64,
    },
    /// Too much is waiting over all destinations.
    #[error("the outbox is full: {messages} messages ({bytes} bytes) wait for their destinations")]
    QueueFull {
        /// Messages waiting.
        messages: usize,
        /// Bytes waiting.
        bytes: u64,
    },
    /// More distinct destinations than the outbox keeps.
    #[error("messages went to {max} different nodes already, no more are kept apart")]
    TooManyDestinations {
        /// The limit.
        max: usize,
    },
    /// The store refused the last batch; it is tried again shortly.
    #[error("the message could not be stored: {0}")]
    Store(StoreFailure),
}

/// A frame from a peer was refused. The driver closes the channel, except after `NotConnected`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes are not a frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The driver never announced this channel, or ended it.
    #[error("a frame came from a peer without a channel")]
    NotConnected,
    /// Messages came before the flow was opened on this channel, or under another incarnation.
    #[error("messages came before their flow was opened")]
    NotOpened,
    /// No room to keep a mark for one more sender.
    #[error("messages came from {max} different nodes already, no more are kept apart")]
    TooManySenders {
        /// The limit.
        max: usize,
    },
}

/// The stored state contradicts itself, so the core will not run on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Stored messages without the row of their flow, or numbered outside of it.
    #[error("the stored outbox for {to:?} contradicts itself: message {seq} does not fit its flow")]
    Outbox {
        /// Destination.
        to: NodeId,
        /// Number of the offending message.
        seq: u64,
    },
}
