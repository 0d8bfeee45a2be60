//! Tickets, and the names and ids that people type.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::{MeshId, MeshName, NodeId, NodeName, SpiffeId, Ticket};

fuzz_target!(|text: &str| {
    if let Ok(ticket) = text.parse::<Ticket>() {
        assert_eq!(ticket.to_string(), text);
    }
    if let Ok(name) = text.parse::<NodeName>() {
        assert_eq!(name.to_string(), text);
        assert!(text.parse::<NodeId>().is_err(), "a name never reads as an id");
    }
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
    }
    let _ = text.parse::<MeshName>();
    let _ = text.parse::<MeshId>();
});
