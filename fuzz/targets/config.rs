//! `config.toml` and addresses of peers.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use meshara::config::{Config, PeerAddr};

fuzz_target!(|text: &str| {
    let _ = Config::parse(text, Path::new("config.toml"));
    if let Ok(peer) = text.parse::<PeerAddr>() {
        assert_eq!(peer.to_string(), text);
    }
});
