//! The command as its users meet it: real nodes in processes of their own on loopback.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

mod admission;
mod clock;
mod damage;
mod disk;
mod dns;
mod joining;
mod lifetime;
mod log;
mod messages;
mod paths;
mod remedies;
mod renewal;
mod revocation;
mod roots;
mod services;
mod trail;
mod tun;
mod workload;
mod world;
