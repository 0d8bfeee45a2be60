//! Certificates that a peer shows.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use meshara_identity::{IssuerKey, MeshName, NodeId, RootKey, TrustAnchors, UnixMillis};

static ANCHORS: LazyLock<TrustAnchors> = LazyLock::new(|| {
    let mesh: MeshName = "lab".parse().unwrap();
    let root = RootKey::generate().unwrap();
    let grant = IssuerKey::generate().unwrap();
    let grant = grant.grant(&root, &mesh, NodeId([1; 32]), 1, UnixMillis::now()).unwrap();
    TrustAnchors::new(root.public().clone(), mesh, vec![grant]).unwrap()
});

fuzz_target!(|data: &[u8]| {
    assert!(ANCHORS.verify_leaf(data, UnixMillis(1_790_000_000_000)).is_err(), "nobody signed this");
    assert!(ANCHORS.inspect_leaf(data).is_err(), "nobody signed this");
});
