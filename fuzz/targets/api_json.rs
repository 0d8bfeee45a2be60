//! JSON that the control API takes, and that its client reads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara::api;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What was read means the same when written and read again.
fn stable<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_string(&value).unwrap();
        let again: T = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}

fuzz_target!(|data: &[u8]| {
    stable::<api::InviteRequest>(data);
    stable::<api::PingRequest>(data);
    stable::<api::NodeRequest>(data);
    stable::<api::ConsumeRequest>(data);
    stable::<api::ServeRequest>(data);
    stable::<api::ConnectRequest>(data);
    stable::<api::BenchRequest>(data);
    stable::<api::AddPeerRequest>(data);
    stable::<api::Status>(data);
    stable::<Vec<api::PeerInfo>>(data);
    stable::<Vec<api::RouteInfo>>(data);
    stable::<api::PingEvent>(data);
    stable::<api::Trace>(data);
    stable::<Vec<api::Received>>(data);
    stable::<api::ConnectEvent>(data);
    stable::<api::BenchEvent>(data);
    stable::<api::DoctorFacts>(data);
    stable::<api::ErrorEnvelope>(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(at) = text.parse::<api::Timestamp>()
    {
        assert_eq!(at.to_string().parse::<api::Timestamp>().unwrap(), at);
    }
});
