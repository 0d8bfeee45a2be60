//! The first message of a link.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = meshara_transport::decode_hello(data);
});
