//! How signed sets, root documents, statements of freshness and evidence reach every node: a state machine beside each link.
//!
//! Neighbours tell each other what they have, in 90 bytes; who has less asks for it, of one neighbour and soon of the next should that
//! one be slow. So each body crosses the mesh once for each node. Statements of freshness and evidence are small and are passed on as
//! they come. See `docs/trust.md`, "How sets travel".

mod core;
mod message;
mod neighbour;

pub use self::core::{Change, Gossip, GossipError, Misbehaviour, Moment, Output, Peer, Stored, Visit};
pub use message::{Have, Item, MESSAGE_MAX, Message, SET_MESSAGE_MAX};
