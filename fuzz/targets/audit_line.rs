//! Lines of the audit trail: one spelling of each.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_trust::audit::fuzz;

fuzz_target!(|text: &str| {
    if let Some(again) = fuzz::decoded(text) {
        assert_eq!(again, text);
    }
    // With its hash made good, what it guards is reached.
    let line = fuzz::hashed(text);
    if let Some(again) = fuzz::decoded(&line) {
        assert_eq!(again, line);
    }
});
