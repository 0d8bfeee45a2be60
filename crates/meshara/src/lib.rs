//! Meshara: one private, post-quantum, self-healing network as a library.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
#[cfg_attr(not(test), expect(dead_code, reason = "the driver of the messaging core is the next change"))]
pub(crate) mod store;
