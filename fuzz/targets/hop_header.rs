//! The header of hop frames.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_overlay::header::{HEADER_LEN, Header, decrement_ttl, is_hop_frame};

fuzz_target!(|data: &[u8]| {
    let decoded = Header::decode(data);
    if let Ok(header) = decoded {
        assert!(is_hop_frame(data));
        assert_eq!(header.encode(), data[..HEADER_LEN]);
        let mut forwarded = data.to_vec();
        let sent_on = decrement_ttl(&mut forwarded);
        assert_eq!(sent_on, header.ttl > 1);
        assert_eq!(Header::decode(&forwarded).unwrap().ttl, header.ttl - u8::from(sent_on));
    }
});
