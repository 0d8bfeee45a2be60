//! Texts of the log: signed notes, checkpoints, paths of tiles. What is read is written again as it came.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::tile::TileId;
use meshara_trust::log::{Checkpoint, LogKey, Note, WitnessPolicy};

/// A log of the fixtures' name with other keys: its lines are told from others, and none verifies.
static LOG: LazyLock<LogKey> = LazyLock::new(|| {
    let origin = LogKey::origin_of(&"lab".parse().unwrap(), &NodeId([0xab; 32])).unwrap();
    LogKey::generate(origin).unwrap()
});

fuzz_target!(|data: &[u8]| {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.encode().as_bytes(), data);
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert_eq!(checkpoint.text(), note.text());
        }
        assert!(LOG.public().verify(&note).is_err());
        assert!(WitnessPolicy::default().require(&note, UnixMillis(0)).unwrap().is_empty());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(checkpoint) = Checkpoint::parse(text) {
            assert_eq!(checkpoint.text(), text);
        }
        if let Ok(tile) = text.parse::<TileId>() {
            assert_eq!(tile.to_string(), text);
        }
    }
});
