//! Everything that identity puts on a wire: grants, mesh info, join and renewal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::{IssuerGrant, MeshInfo, join};

fuzz_target!(|data: &[u8]| {
    if let Ok(grant) = IssuerGrant::decode(data) {
        assert_eq!(grant.encode().unwrap(), data);
    }
    if let Ok(info) = MeshInfo::decode(data) {
        assert_eq!(info.encode().unwrap(), data);
    }
    let _ = join::decodes(data);
});
