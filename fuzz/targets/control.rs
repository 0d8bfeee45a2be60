//! Control messages between neighbours.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_overlay::control::Message;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(message.encode(), data);
    }
});
