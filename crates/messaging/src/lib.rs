//! Reliable messages of Meshara: envelopes, outbox and inbox state machines. No IO.
//!
//! [`Core`] is one node's half of every message flow, sending and receiving. It reads no clock, opens no socket and
//! writes no file: time and frames go in, frames and batches of [`StoreOp`]s come out. The contract with its driver,
//! the frames and the argument for exactly-once delivery are in `docs/messaging.md`.
#![forbid(unsafe_code)]

mod batch;
mod config;
mod core;
mod error;
pub mod frame;
mod id;
mod inbox;
mod load;
mod outbound;
mod output;
mod progress;
mod store;
mod submit;
mod timers;

pub use crate::{
    config::Config,
    core::Core,
    error::{FrameError, LoadError, StoreFailure, SubmitError},
    frame::{MAX_FRAME, MAX_MESSAGE, Trouble},
    id::{MessageId, ParseIdError},
    output::{Output, Stats, Waiting},
    store::{FlowRow, InboxRow, InboxTotals, MarkRow, OutboxRow, Snapshot, StoreOp, Token},
};
