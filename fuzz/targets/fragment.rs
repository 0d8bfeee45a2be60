//! The fragment header and the table of partial packets.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_transport::{FragmentHeader, fuzz};

fuzz_target!(|data: &[u8]| {
    if let Some(header) = FragmentHeader::read(data) {
        let mut out = [0; 8];
        header.write(&mut out).unwrap();
        assert_eq!(out, data[..8]);
    }
    for length in fuzz::reassemble(data) {
        assert!(length > 0 && length <= usize::from(u16::MAX));
    }
});
