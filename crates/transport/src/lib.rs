//! QUIC links and end-to-end sessions of Meshara over one UDP port.
//!
//! The data plane (`data_plane`) owns the socket: it hands QUIC packets to the link endpoint, forwards hop frames by the
//! published routes, and joins frames for this node into packets of the session endpoint. It decides nothing about routes.

#![forbid(unsafe_code)]

pub mod congestion;
mod counters;
mod data_plane;
mod endpoints;
mod fragment;
#[doc(hidden)]
pub mod fuzz;
mod hop_keys;
mod hop_link;
mod link;
mod mtu_check;
pub mod quic;
mod quic_queue;
mod reassembly;
mod replay;
mod sender;
mod sockets;
pub mod tls;
mod wire;

pub use counters::Counters;
pub use data_plane::{ControlFrame, DataPlane, PlaneEvent, PlaneEvents};
pub use endpoints::{Accepted, ConnectError, Endpoints, LINK_TIMEOUT, Link, Newcomer};
pub use fragment::FragmentHeader;
pub use hop_keys::BULK_OVERHEAD;
pub use hop_link::{HopLink, LinkTable, MAX_LINKS};
#[doc(hidden)]
pub use link::decode_hello;
pub use link::{ControlReceiver, ControlSender, ControlStreamError, HelloError, MAX_CONTROL};
pub use mtu_check::MtuCheck;
pub use reassembly::{ReassemblyStats, session_addr};
pub use wire::{SOCKET_BUFFER, Wire, any_address, canonical};
