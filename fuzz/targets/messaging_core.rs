//! The messaging core with peers that send anything and a disk that fails at times.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use meshara_identity::NodeId;
use meshara_messaging::{Config, Core, Output, Snapshot, StoreFailure};

// Steps: `what u8 | length u16 | bytes`.
fuzz_target!(|data: &[u8]| {
    let mut now = Duration::from_secs(1);
    let unix_ms = 1_790_000_000_000;
    let mut core =
        Core::new(Config::default(), NodeId([9; 32]), [3; 32], now, unix_ms, Snapshot::default()).unwrap();
    let mut rest = data;
    let mut works = true;
    for _ in 0..200 {
        let Some(([what, high, low], tail)) = rest.split_first_chunk() else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (bytes, tail) = tail.split_at(length);
        rest = tail;
        let peer = NodeId([1 + (what >> 6); 32]);
        match what & 7 {
            0..=2 => drop(core.handle_frame(now, peer, Bytes::copy_from_slice(bytes))),
            3 => drop(core.submit(now, peer, Bytes::copy_from_slice(bytes), unix_ms)),
            4 => drop(core.peer_up(now, peer)),
            5 => core.peer_down(now, peer),
            6 => {
                now += Duration::from_millis(u64::try_from(length).unwrap());
                core.handle_timeout(now);
            }
            _ => works = !works,
        }
        while let Some(output) = core.poll_output(now) {
            match output {
                Output::Store { token, .. } if works => core.stored(now, token),
                Output::Store { token, .. } => core.store_failed(now, token, StoreFailure("full".to_owned())),
                Output::Transmit { frame, .. } => assert!(frame.len() <= meshara_messaging::MAX_FRAME),
                _ => {}
            }
        }
    }
    let stats = core.stats();
    assert!(stats.acked + stats.outbox_messages as u64 <= stats.submitted);
});
