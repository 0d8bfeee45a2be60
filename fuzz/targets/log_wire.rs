//! The log's binary forms: entries, promises, proofs, evidence, bundles, tiles, write-ahead files, proofs of routing keys and the
//! heads that they lead to; and Merkle paths of any shape.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_trust::log::proof::{roots_of_path, verify_consistency, verify_inclusion};
use meshara_trust::log::tile::{append_to_bundle, bundle_entries, tile_bytes, tile_hashes};
use meshara_trust::log::{
    Entry, ForkEvidence, Hash, InclusionProof, Promise, ProvedKey, RoutingHead, wal_decodes,
};

macro_rules! round_trip {
    ($data:expr, $($kind:ty),*) => {$(
        if let Ok(read) = <$kind>::decode($data) {
            assert_eq!(read.encode().unwrap(), $data, stringify!($kind));
        }
    )*};
}

fuzz_target!(|data: &[u8]| {
    round_trip!(data, Entry, Promise, InclusionProof, ForkEvidence, ProvedKey, RoutingHead);
    if let Some(entries) = bundle_entries(data) {
        let mut bundle = Vec::new();
        for entry in entries {
            append_to_bundle(&mut bundle, entry).unwrap();
        }
        assert_eq!(bundle, data);
    }
    if let Some(hashes) = tile_hashes(data) {
        assert_eq!(tile_bytes(&hashes), data);
    }
    let _ = wal_decodes(data);
    let Some((index, rest)) = data.split_first_chunk::<8>() else { return };
    let Some((size, rest)) = rest.split_first_chunk::<8>() else { return };
    let (index, size) = (u64::from_be_bytes(*index), u64::from_be_bytes(*size));
    let (path, _) = rest.as_chunks::<32>();
    let path: Vec<Hash> = path.iter().copied().map(Hash).collect();
    let (leaf, root) = (Hash::leaf(data), Hash::empty());
    assert!(verify_inclusion(&leaf, index, size, &path, &root).is_err());
    if let Ok((old, new)) = roots_of_path(index, size, &path) {
        // A path leads to one pair of roots and to no other. A power of two needs its older root besides.
        let start = usize::from(index.is_power_of_two());
        if index < size {
            assert_eq!(
                verify_consistency(index, &old, size, &new, &path[start..]).is_ok(),
                start == 0 || path[0] == old
            );
        }
        assert!(verify_consistency(index, &leaf, size, &new, &path[start..]).is_err());
    }
});
