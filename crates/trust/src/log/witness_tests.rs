use meshara_identity::RoutingKey;

use super::*;
use crate::log::checkpoint::tests::{head, key};
use crate::log::{Cosigner, NoteSignature};

pub(crate) const NOW: UnixMillis = UnixMillis(1_795_000_000_500);

pub(crate) fn routing(seed: u8) -> RoutingKey {
    RoutingKey::from_seed(zeroize::Zeroizing::new([seed; 32])).unwrap()
}

pub(crate) fn mesh() -> MeshName {
    "lab".parse().unwrap()
}

fn witness(node: u8, name: &str, seed: u8) -> Witness {
    Witness::new(&mesh(), NodeId([node; 32]), &name.parse().unwrap(), routing(seed).public_key()).unwrap()
}

pub(crate) fn sign(note: &Note, name: &str, seed: u8, now: UnixMillis) -> NoteSignature {
    let routing = routing(seed);
    let cosigner = Cosigner::new(&mesh(), &name.parse().unwrap(), &routing).unwrap();
    cosigner.cosign(key().public(), None, note, &[], now).unwrap()
}

#[test]
fn a_node_counts_once_whatever_it_shows() {
    let policy = WitnessPolicy::new(
        2,
        vec![witness(1, "bob", 11), witness(1, "bob", 12), witness(2, "carol", 13), witness(3, "dave", 14)],
    )
    .unwrap();
    let mut note = key().checkpoint(head(5)).unwrap();
    let few = |found| Err(WitnessError::TooFew { found, needed: 2 });
    assert_eq!(policy.require(&note, NOW), few(0));
    note.signatures.push(sign(&note, "bob", 11, NOW));
    assert_eq!(policy.require(&note, NOW), few(1));
    note.signatures.push(sign(&note, "bob", 11, NOW.plus(Duration::from_secs(5))));
    note.signatures.push(sign(&note, "bob", 12, NOW));
    assert_eq!(policy.require(&note, NOW), few(1));
    // Strangers, and a known key under another name, count for nothing.
    note.signatures.push(sign(&note, "mallory", 15, NOW));
    note.signatures.push(sign(&note, "carol", 14, NOW));
    assert_eq!(policy.require(&note, NOW), few(1));
    note.signatures.push(sign(&note, "dave", 14, NOW));
    let seen = policy.require(&Note::parse(note.encode().as_bytes()).unwrap(), NOW).unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[&NodeId([1; 32])], UnixMillis(1_795_000_005_000));
    assert_eq!(seen[&NodeId([3; 32])], UnixMillis(1_795_000_000_000));
}

#[test]
fn a_policy_that_could_count_twice_or_never_be_met_is_refused() {
    let twice = vec![witness(1, "bob", 11), witness(2, "carol", 11)];
    assert_eq!(WitnessPolicy::new(1, twice), Err(PolicyError::SharedKey));
    let some = vec![witness(1, "bob", 11), witness(2, "carol", 11), witness(1, "bob", 12)];
    assert_eq!(one_of_each_key(some), [witness(1, "bob", 11), witness(1, "bob", 12)]);
    let one = vec![witness(1, "bob", 11), witness(1, "bob", 12)];
    assert_eq!(WitnessPolicy::new(2, one), Err(PolicyError::Unreachable { threshold: 2, nodes: 1 }));
    let many = (0..=WITNESSES_MAX as u8).map(|number| witness(number, "bob", number)).collect();
    assert_eq!(WitnessPolicy::new(1, many), Err(PolicyError::TooMany));
}

#[test]
fn bad_and_future_cosignatures_are_refused() {
    let policy = WitnessPolicy::new(1, vec![witness(1, "bob", 11)]).unwrap();
    let plain = key().checkpoint(head(5)).unwrap();
    let name = "lab.mesh/witness/bob".to_owned();
    for at in [0, 7, 8, 71] {
        let mut note = plain.clone();
        let mut line = sign(&note, "bob", 11, NOW);
        line.bytes[at] ^= 1;
        note.signatures.push(line);
        assert_eq!(policy.require(&note, NOW), Err(WitnessError::BadSignature(name.clone())), "{at}");
    }
    let mut other = key().checkpoint(head(6)).unwrap();
    other.signatures.push(sign(&plain, "bob", 11, NOW));
    assert_eq!(policy.require(&other, NOW), Err(WitnessError::BadSignature(name.clone())));
    let mut late = plain;
    let at = UnixMillis(NOW.plus(FUTURE_MAX).seconds() * 1000 + 1000);
    late.signatures.push(sign(&late, "bob", 11, at));
    assert_eq!(policy.require(&late, NOW), Err(WitnessError::Future { name, at, now: NOW }));
    assert!(policy.require(&late, at).is_ok());
}
