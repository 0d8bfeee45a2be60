//! Everything that trust signs: numbered sets and their bodies, freshness, evidence, root documents, files of offline signing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_trust::policy::{Compiled, Policy};
use meshara_trust::revocation::Revocations;
use meshara_trust::root::{
    DetachedSignature, Journal, RootDocument, SignedRoot, StatementFile, decode_chain_with,
    decode_public_key, encode_chain, encode_chain_with, encode_public_key,
};
use meshara_trust::sets::{ForkEvidence, SetBody, SetHead, SignedFreshness, SignedHead, SignedSet};

macro_rules! round_trip {
    ($data:expr, $($kind:ty),*) => {$(
        if let Ok(read) = <$kind>::decode($data) {
            assert_eq!(read.encode().unwrap(), $data, stringify!($kind));
        }
    )*};
}

fuzz_target!(|data: &[u8]| {
    round_trip!(data, SetHead, SignedHead, SignedSet, SignedFreshness, ForkEvidence);
    round_trip!(
        data,
        Revocations,
        Policy,
        RootDocument,
        SignedRoot,
        StatementFile,
        DetachedSignature,
        Journal
    );
    if let Ok(key) = decode_public_key(data) {
        assert_eq!(encode_public_key(&key).unwrap(), data);
    }
    match decode_chain_with(data) {
        Ok((chain, None)) => assert_eq!(encode_chain(&chain).unwrap(), data),
        Ok((chain, Some(grants))) => assert_eq!(encode_chain_with(&chain, &grants).unwrap(), data),
        Err(_) => {}
    }
    if let Ok(policy) = Policy::decode(data) {
        let _ = Compiled::new(policy);
    }
});
