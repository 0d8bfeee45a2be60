//! What nodes and issuers say to each other about workloads, the file of an issuer's roots, and the bundles of other trust domains.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_workload::federation::EndpointUrl;
use meshara_workload::wire::{Reply, Request};
use meshara_workload::{ForeignBundle, SignedRoots, TrustDomain, WorkloadId};

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
    if let Ok(domain) = "example.org".parse::<TrustDomain>()
        && let Ok(bundle) = ForeignBundle::parse(domain, data)
    {
        assert_eq!(bundle.document().as_bytes(), data);
        let _ = (bundle.x509_der(), bundle.jwks());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<WorkloadId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(domain) = TrustDomain::of(text) {
        assert!(text.starts_with(&domain.id()));
    }
    if let Ok(url) = text.parse::<EndpointUrl>() {
        assert_eq!(url.to_string(), text);
    }
});
