//! What nodes ask each other about logs, the answers, and an issuer's statement of its log's keys. What is read is written again as it came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_trust::log::{Answer, Ask, LogStatement};

fuzz_target!(|data: &[u8]| {
    if let Ok(ask) = Ask::decode(data) {
        assert_eq!(ask.encode().unwrap(), data);
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(answer.encode().unwrap(), data);
    }
    if let Ok(statement) = LogStatement::decode(data) {
        assert_eq!(statement.encode().unwrap(), data);
    }
});
