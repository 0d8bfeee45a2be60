//! Frames of a message channel.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use meshara_messaging::frame::Frame;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(frame.encode(), data);
    }
});
