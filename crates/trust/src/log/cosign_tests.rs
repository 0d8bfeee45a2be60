use super::*;
use crate::log::checkpoint::tests::{head, key};
use crate::log::proof::tests::{Leaves, leaves};
use crate::log::prove::{consistency_written_out, root};
use crate::log::witness::tests::{NOW, mesh, routing, sign};
use crate::log::{LogKey, TreeHead};

fn note(tree: &mut Leaves, size: u64) -> Note {
    let root = root(tree, size).unwrap();
    key().checkpoint(TreeHead { size, root }).unwrap()
}

/// The bytes of a cosignature, so that other tools' witnesses and ours stay exchangeable.
#[test]
fn cosignatures_are_frozen() {
    let note = key().checkpoint(head(5)).unwrap();
    let line = sign(&note, "bob", 11, NOW);
    let text =
        format!("{} {}", line.name, data_encoding::HEXLOWER.encode(&[&line.key.0[..], &line.bytes].concat()));
    assert_eq!(text, include_str!("../../tests/fixtures/cosignature.txt").trim_end());
}

#[test]
fn witnesses_sign_only_what_continues_what_they_saw() {
    let (mut honest, mut forked) = (leaves(50), leaves(50));
    forked.0[3] = Hash::leaf(b"rewritten");
    let (public, bob) = (key().public().clone(), routing(11));
    let cosigner = Cosigner::new(&mesh(), &"bob".parse().unwrap(), &bob).unwrap();
    let last = note(&mut honest, 16);
    let cosign = |note: &Note, proof: &[Hash]| cosigner.cosign(&public, Some(&last), note, proof, NOW);

    let path = consistency_written_out(&mut honest, 16, 50).unwrap();
    let next = note(&mut honest, 50);
    assert!(cosign(&next, &path).is_ok());
    assert!(cosign(&last, &[]).is_ok());
    assert!(matches!(cosign(&next, &[]), Err(GrowthError::Proof(MerkleError::Length { .. }))));
    let older = note(&mut honest, 15);
    assert_eq!(cosign(&older, &[]), Err(GrowthError::Older { found: 15, seen: 16 }));

    let bad = note(&mut forked, 50);
    assert_eq!(cosign(&bad, &path), Err(GrowthError::Proof(MerkleError::WrongRoot)));
    for (size, sizes) in [(50, (16, 50)), (16, (16, 16))] {
        let path = consistency_written_out(&mut forked, 16, size).unwrap();
        let Err(GrowthError::Fork(evidence)) = cosign(&note(&mut forked, size), &path) else { panic!() };
        let fork = evidence.verify(&public).unwrap();
        assert_eq!((fork.first.size, fork.second.size), sizes);
    }
    let foreign = LogKey::generate(public.origin().clone()).unwrap().checkpoint(head(60)).unwrap();
    let unsigned = CheckpointError::Unsigned("Ed25519");
    assert_eq!(cosign(&foreign, &[]), Err(GrowthError::Checkpoint(unsigned)));
}
