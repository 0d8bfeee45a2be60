//! QUIC links and end-to-end sessions of Meshara over one UDP port.

#![forbid(unsafe_code)]

pub mod tls;
