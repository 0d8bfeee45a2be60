//! Neighbours, probes, link state, routes and the hop-frame header of Meshara. No IO.
//!
//! [`Core`] is a state machine: inputs go in with the time, [`Output`]s come out. `docs/overlay.md` describes its states,
//! messages, timers and answers to failure.
#![forbid(unsafe_code)]

pub mod auth;
mod bucket;
mod codec;
pub mod config;
pub mod control;
pub mod core;
mod cost;
mod damping;
mod database;
pub mod echo;
mod graph;
pub mod header;
pub mod heads;
mod liveness;
mod paths;
pub mod probe;
pub mod record;
pub mod table;
pub mod types;

pub use crate::auth::{Authenticator, HeadError, JudgedHead, Member, MemberError};
pub use crate::config::Config;
pub use crate::control::ControlError;
pub use crate::core::Core;
pub use crate::core::views::{LostView, Metrics, NeighbourView, NodeView, Phase, RouteView};
pub use crate::heads::{HeadId, Known};
pub use crate::probe::ProbeError;
pub use crate::table::{Alternates, ForwardingTable, RouteEntry};
pub use crate::types::{
    CloseReason, DialTarget, Event, Hint, Identity, KnownNode, KnownOrigin, LinkDownReason, LinkId, LinkKind,
    LinkPeer, Output,
};
pub use meshara_identity::{MeshAddress, NodeId};
