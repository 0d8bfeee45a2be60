//! Everything that identity puts on a wire: grants and offers of them, mesh info, join and renewal, the extension of certificates, the
//! proof of a present certificate.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::grant_exchange::{HeldGrants, decode_grants, encode_grants};
use meshara_identity::{GrantOffer, IssuerGrant, MeshInfo, extension_decodes, join, leaf_proof};

fuzz_target!(|data: &[u8]| {
    if let Ok(grant) = IssuerGrant::decode(data) {
        assert_eq!(grant.encode().unwrap(), data);
    }
    if let Ok(info) = MeshInfo::decode(data) {
        assert_eq!(info.encode().unwrap(), data);
    }
    if let Ok(offer) = GrantOffer::decode(data) {
        assert_eq!(offer.encode().unwrap(), data);
    }
    if let Ok(held) = HeldGrants::decode(data) {
        assert_eq!(held.encode().unwrap(), data);
    }
    if let Ok(grants) = decode_grants(data) {
        assert_eq!(encode_grants(&grants).unwrap(), data);
    }
    let _ = extension_decodes(data);
    let _ = leaf_proof::decodes(data);
    let _ = join::decodes(data);
});
