//! DNS queries: whatever comes, the answer is none or a message that says so of itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::{MeshAddress, NodeId, SpiffeId};
use meshara_interface::{Name, Zone};

fuzz_target!(|data: &[u8]| {
    let (mesh, name) = ("lab".parse().unwrap(), "alice".parse().unwrap());
    let spiffe_id = SpiffeId::node(&mesh, &name);
    let alice = Name {
        name: name.clone(),
        address: MeshAddress([0xfd; 16]),
        node: NodeId([1; 32]),
        spiffe_id,
        reachable: true,
    };
    if let Some(answer) = Zone::new(&mesh, &name, vec![alice]).answer(data) {
        assert!((12..=512).contains(&answer.len()));
        assert_eq!(answer[..2], data[..2], "the id");
        assert_eq!(answer[2] & 0x80, 0x80, "a response");
        assert_eq!(answer[3] & 0x80, 0, "no recursion");
    }
});
