//! What neighbours tell each other about signed sets: the messages, a node that hears them, and the files that keep the sets.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use meshara_identity::{MeshId, UnixMillis};
use meshara_trust::gossip::{Gossip, Message, Moment, Peer, Stored, Visit};

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(message.encode().unwrap(), data);
    }
    let mut gossip = Gossip::new(MeshId([7; 32]), Duration::from_secs(60), Stored::default(), NOW).unwrap();
    let mut now = Moment { elapsed: Duration::ZERO, clock: NOW };
    let peers = [Peer(1), Peer(2)];
    for peer in peers {
        gossip.peer_up(now, peer);
    }
    for peer in peers {
        let _ = gossip.handle_message(now, peer, data);
        now.elapsed += Duration::from_secs(1);
        gossip.handle_timeout(now);
        while gossip.poll_output().is_some() {}
    }
    let _ = gossip.answer(&mut Visit::default(), data);
    let _ = meshara::decodes_set_file(data);
});
