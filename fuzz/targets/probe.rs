//! Link probes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_overlay::probe::Probe;

fuzz_target!(|data: &[u8]| {
    if let Ok(probe) = Probe::decode(data) {
        assert_eq!(probe.encode(), data);
        assert!(!probe.interval().is_zero());
    }
});
