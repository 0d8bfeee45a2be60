//! What a stream of a session is for; announcements on the LAN; rows of the store.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = meshara::decode_opening(data);
    if meshara::decode_announcement(data) {
        assert_eq!(data.len(), 47);
    }
    let _ = meshara::decodes_row(data);
});
