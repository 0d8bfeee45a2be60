use meshara_identity::NodeId;

use super::*;
use crate::log::checkpoint::tests::{head, key};
use crate::log::witness::tests::{NOW, mesh, routing};
use crate::log::{Cosigner, LogKey};

fn witness(node: u8, name: &str, seed: u8) -> Witness {
    Witness::new(&mesh(), NodeId([node; 32]), &name.parse().unwrap(), routing(seed).public_key()).unwrap()
}

fn named(key: &LogKey, size: u64, witnesses: &[(&str, u8)]) -> RoutingHead {
    let mut note = key.checkpoint(head(size)).unwrap();
    for (name, seed) in witnesses {
        let (routing, name) = (routing(*seed), name.parse().unwrap());
        let cosigner = Cosigner::new(&mesh(), &name, &routing).unwrap();
        let line = cosigner.cosign(key.public(), None, &note, &[], NOW).unwrap();
        note.signatures.push(line);
    }
    RoutingHead { naming: key.sign_ed25519(&message(&note)), note }
}

fn verified(size: u64, witnesses: usize) -> VerifiedHead {
    VerifiedHead { tree: head(size), witnesses }
}

#[test]
fn the_form_is_frozen() {
    let fixture = include_bytes!("../../tests/fixtures/routing-head.bin");
    let read = RoutingHead::decode(fixture).unwrap();
    let bob = vec![witness(1, "bob", 11)];
    assert_eq!(read.verify(key().public(), 5, bob, NOW), Ok(verified(5, 1)));
    assert_eq!(read.encode().unwrap(), fixture);
    // ML-DSA signs with fresh randomness, so only the rest is equal again.
    let again = named(&key(), 5, &[("bob", 11)]);
    assert_eq!((again.naming, again.note.text()), (read.naming, read.note.text()));
}

#[test]
fn a_head_needs_its_log_and_a_witness() {
    let key = key();
    let full = named(&key, 5, &[("bob", 11), ("carol", 12)]);
    let bob = || witness(1, "bob", 11);
    let verify = |head: &RoutingHead, known| head.verify(key.public(), 5, known, NOW);
    assert_eq!(verify(&full, vec![bob()]), Ok(verified(5, 1)));
    assert_eq!(verify(&full, vec![bob(), witness(2, "carol", 12)]), Ok(verified(5, 2)));
    // A newcomer knows no witness; nor does who knows others, or one by another key.
    assert_eq!(verify(&full, Vec::new()), Ok(verified(5, 0)));
    assert_eq!(verify(&full, vec![witness(3, "dave", 13), witness(1, "bob", 14)]), Ok(verified(5, 0)));
    // Nobody cosigned.
    let none = RoutingHeadError::Witness(WitnessError::TooFew { found: 0, needed: 1 });
    assert_eq!(verify(&named(&key, 5, &[]), Vec::new()), Err(none));
    // A known witness's line over another checkpoint.
    let mut wrong = full.clone();
    wrong.note.signatures[2] = named(&key, 6, &[("bob", 11)]).note.signatures[2].clone();
    let bad = WitnessError::BadSignature("lab.mesh/witness/bob".into());
    assert_eq!(verify(&wrong, vec![bob()]), Err(RoutingHeadError::Witness(bad)));
}

#[test]
fn heads_of_others_and_checkpoints_that_were_not_named_are_refused() {
    let key = key();
    let full = named(&key, 5, &[("bob", 11)]);
    let verify = |head: &RoutingHead| head.verify(key.public(), 5, Vec::new(), NOW);
    let other = LogKey::generate(key.public().origin().clone()).unwrap();
    // Keys of another log, for all of it, for the checkpoint, for the naming.
    assert_eq!(verify(&named(&other, 5, &[("bob", 11)])), Err(RoutingHeadError::Unnamed));
    let foreign = RoutingHead { naming: full.naming, ..named(&other, 5, &[("bob", 11)]) };
    let unsigned = CheckpointError::Unsigned("Ed25519");
    assert_eq!(verify(&foreign), Err(RoutingHeadError::Checkpoint(unsigned)));
    let unnamed = RoutingHead { naming: named(&key, 6, &[]).naming, note: full.note.clone() };
    assert_eq!(verify(&unnamed), Err(RoutingHeadError::Unnamed));
    // Another size than it goes by.
    assert_eq!(verify(&named(&key, 6, &[("bob", 11)])), Err(RoutingHeadError::Size { said: 5, found: 6 }));
    // One of the log's own signatures alone.
    let mut half = full;
    half.note.signatures.remove(1);
    assert_eq!(verify(&half), Err(RoutingHeadError::Checkpoint(CheckpointError::Unsigned("ML-DSA-65"))));
}

#[test]
fn what_is_no_head_is_told_apart() {
    let four: Vec<(&str, u8)> = [("a", 11), ("b", 12), ("c", 13), ("d", 14)].into();
    let bytes = |witnesses: &[_]| named(&key(), 5, witnesses).encode().unwrap();
    let whole = bytes(&four[..3]);
    assert!(RoutingHead::decode(&whole).is_ok());
    assert_eq!(RoutingHead::decode(&bytes(&four)), Err(RoutingHeadError::TooManyLines));
    assert_eq!(RoutingHead::decode(&[]), Err(RoutingHeadError::Truncated));
    assert_eq!(RoutingHead::decode(&whole[..64]), Err(RoutingHeadError::Truncated));
    assert_eq!(RoutingHead::decode(&[2]), Err(RoutingHeadError::UnknownVersion(2)));
    assert_eq!(RoutingHead::decode(&vec![1; HEAD_MAX + 1]), Err(RoutingHeadError::TooLong));
    for odd in [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
        let refused = RoutingHead::decode(odd);
        assert!(matches!(refused, Err(RoutingHeadError::Checkpoint(_))), "{refused:?}");
    }
    let name = "x".repeat(63);
    let longest =
        named(&key(), u64::MAX >> 2, &[(name.as_str(), 11), (name.as_str(), 12), (name.as_str(), 13)]);
    assert!(longest.encode().unwrap().len() < HEAD_MAX * 3 / 4);
}
