//! The command as its users meet it: real nodes in processes of their own on loopback.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

mod clock;
mod damage;
mod disk;
mod dns;
mod joining;
mod lifetime;
mod messages;
mod paths;
mod remedies;
mod services;
mod tun;
mod world;
