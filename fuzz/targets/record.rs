//! Signed records and their bodies: link state and addresses.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::NodeId;
use meshara_overlay::record::{LinkState, Record, decode_addresses, encode_addresses};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::decode(data) {
        assert_eq!(record.bytes(), data);
        let (signed, signature) = record.signed();
        assert!(signed.ends_with(&data[..data.len() - signature.len()]));
    }
    if let Ok(state) = LinkState::decode(&NodeId([7; 32]), data) {
        assert_eq!(state.encode(), data);
    }
    if let Ok(addresses) = decode_addresses(data) {
        assert_eq!(encode_addresses(&addresses), data);
    }
});
