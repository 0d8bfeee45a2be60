use proptest::prelude::*;

use super::*;
use crate::log::entry::tests::{certificate, enrolment};
use crate::log::proof::tests::Leaves;
use crate::log::prove::{inclusion, root};

const ISSUER: NodeId = NodeId([9; 32]);

fn tree(count: u64) -> Leaves {
    let leaf = |number| Hash::leaf(&Entry::Certificate(certificate(number)).encode().unwrap());
    Leaves::of((0..count).map(leaf).collect())
}

fn proved(tree: &mut Leaves, index: u64, size: u64) -> ProvedKey {
    let path = inclusion(tree, index, size).unwrap();
    ProvedKey { issuer: ISSUER, size, index, path, certificate: certificate(index) }
}

#[test]
fn the_form_is_frozen() {
    let key = proved(&mut tree(7), 3, 7);
    let bytes = key.encode().unwrap();
    let fixture = include_bytes!("../../tests/fixtures/proved-key.bin");
    assert_eq!(bytes, fixture);
    assert_eq!(ProvedKey::decode(fixture), Ok(key));
}

#[test]
fn an_entry_is_proved_under_its_head_and_under_no_other() {
    let mut tree = tree(40);
    for (index, size) in [(0, 1), (3, 7), (39, 40), (20, 33)] {
        let key = proved(&mut tree, index, size);
        let read = ProvedKey::decode(&key.encode().unwrap()).unwrap();
        assert_eq!(read.verify(&root(&mut tree, size).unwrap()), Ok(()));
        assert_eq!(read.verify(&Hash::empty()), Err(MerkleError::WrongRoot));
    }
    let top = root(&mut tree, 40).unwrap();
    let honest = proved(&mut tree, 20, 40);
    // The path of another entry.
    let path = inclusion(&mut tree, 21, 40).unwrap();
    assert_eq!(ProvedKey { path, ..honest.clone() }.verify(&top), Err(MerkleError::WrongRoot));
    // Another certificate at this place: another key, node or role.
    let routing_key = Certificate { routing_key: [5; 32], ..certificate(20) };
    let node = Certificate { node: NodeId([1; 32]), ..certificate(20) };
    let roles = Certificate { roles: vec!["root".parse().unwrap()], ..certificate(20) };
    for certificate in [routing_key, node, roles] {
        assert_eq!(ProvedKey { certificate, ..honest.clone() }.verify(&top), Err(MerkleError::WrongRoot));
    }
    // Outside the head.
    let outside = ProvedKey { index: 40, ..honest.clone() };
    assert_eq!(outside.verify(&top), Err(MerkleError::OutOfRange { index: 40, size: 40 }));
    let short = ProvedKey { path: honest.path[1..].to_vec(), ..honest };
    assert!(matches!(short.verify(&top), Err(MerkleError::Length { .. })));
}

#[test]
fn what_is_no_proof_is_told_apart() {
    let key = proved(&mut tree(7), 3, 7);
    let bytes = key.encode().unwrap();
    for end in 0..FIXED {
        assert_eq!(ProvedKey::decode(&bytes[..end]), Err(ProvedError::Truncated), "{end}");
    }
    assert_eq!(ProvedKey::decode(&bytes[..FIXED + 40]), Err(ProvedError::Truncated));
    assert_eq!(ProvedKey::decode(&[2, 0]), Err(ProvedError::UnknownVersion(2)));
    assert_eq!(ProvedKey::decode(&vec![1; PROVED_MAX + 1]), Err(ProvedError::TooLong));
    let trailing = [&bytes[..], &[0]].concat();
    assert!(matches!(ProvedKey::decode(&trailing), Err(ProvedError::Entry(EntryError::Wire(_)))));
    let long = |count| vec![Hash([0; 32]); count];
    let longest = ProvedKey { path: long(PROVED_PATH_MAX), ..key.clone() };
    assert_eq!(ProvedKey::decode(&longest.encode().unwrap()), Ok(longest));
    assert_eq!(ProvedKey { path: long(33), ..key }.encode(), Err(ProvedError::PathTooLong(33)));
    let mut count = bytes.clone();
    count[FIXED - 1] = 33;
    assert_eq!(ProvedKey::decode(&count), Err(ProvedError::PathTooLong(33)));
    let enrolment = Entry::Enrolment(enrolment(2, "alice")).encode().unwrap();
    let other = [&bytes[..FIXED + 3 * 32], &enrolment].concat();
    assert_eq!(ProvedKey::decode(&other), Err(ProvedError::NotACertificate));
}

proptest! {
    #[test]
    fn round_trip(issuer: [u8; 32], size: u64, index: u64, path in proptest::collection::vec(any::<[u8; 32]>(), 0..33), number: u64) {
        let path = path.into_iter().map(Hash).collect();
        let key = ProvedKey { issuer: NodeId(issuer), size, index, path, certificate: certificate(number) };
        prop_assert_eq!(ProvedKey::decode(&key.encode().unwrap()), Ok(key));
    }

    #[test]
    fn only_canonical_bytes_decode(at in 0..400_usize, byte: u8) {
        let mut bytes = proved(&mut tree(7), 3, 7).encode().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(key) = ProvedKey::decode(&bytes) {
            prop_assert_eq!(key.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn any_entry_of_any_head_is_proved(size in 1_u64..200, pick: u64) {
        let (mut tree, index) = (tree(size), pick % size);
        let key = proved(&mut tree, index, size);
        prop_assert_eq!(key.verify(&root(&mut tree, size).unwrap()), Ok(()));
    }
}
