//! Meshara: one private, post-quantum, self-healing network as a library.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
