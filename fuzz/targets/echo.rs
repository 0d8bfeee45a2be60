//! Echo requests, replies and reports.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_overlay::echo::Echo;

fuzz_target!(|data: &[u8]| {
    if let Ok(echo) = Echo::decode(data) {
        assert_eq!(echo.encode(), data);
    }
});
