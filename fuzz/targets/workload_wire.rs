//! What nodes and issuers say to each other about workloads, and the file of an issuer's roots.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_workload::wire::{Reply, Request};
use meshara_workload::{SignedRoots, WorkloadId};

macro_rules! round_trip {
    ($data:expr, $($kind:ty),*) => {$(
        if let Ok(read) = <$kind>::decode($data) {
            assert_eq!(read.encode().unwrap(), $data, stringify!($kind));
        }
    )*};
}

fuzz_target!(|data: &[u8]| {
    round_trip!(data, Request, Reply, SignedRoots);
    let _ = meshara_workload::authority::decodes(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<WorkloadId>() {
        assert_eq!(id.to_string(), text);
    }
});
