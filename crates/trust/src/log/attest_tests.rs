use super::*;
use crate::log::checkpoint::tests::key;
use crate::log::entry::tests::certificate;
use crate::log::proof::tests::leaves;
use crate::log::prove::{inclusion, root};
use crate::log::{Cosigner, TreeHead, Witness};
use meshara_identity::{NodeId, RoutingKey};

const NOW: UnixMillis = UnixMillis(1_795_000_000_500);

fn leaf(certificate: &Certificate) -> Hash {
    Hash::leaf(&Entry::Certificate(certificate.clone()).encode().unwrap())
}

#[test]
fn a_promise_counts_for_ten_seconds() {
    let key = key();
    let certificate = certificate(7);
    let promise = Promise::sign(&key, 3, leaf(&certificate), NOW).unwrap();
    let promise = Promise::decode(&promise.encode().unwrap()).unwrap();
    assert_eq!((promise.index(), promise.at()), (3, NOW));
    let verify = |now| verify_certificate_promise(key.public(), &certificate, &promise, now);
    assert_eq!(verify(NOW), Ok(()));
    assert_eq!(verify(NOW.plus(PROMISE_LIFE)), Ok(()));
    assert_eq!(verify(NOW.minus(PROMISE_LIFE)), Ok(()));
    let over = NOW.plus(PROMISE_LIFE + Duration::from_millis(1));
    assert_eq!(verify(over), Err(AttestError::PromiseOver { at: NOW, now: over }));
    let early = NOW.minus(PROMISE_LIFE + Duration::from_millis(1));
    assert_eq!(verify(early), Err(AttestError::Future { at: NOW, now: early }));
}

#[test]
fn a_promise_for_another_or_by_another_is_refused() {
    let key = key();
    let promise = Promise::sign(&key, 3, leaf(&certificate(7)), NOW).unwrap();
    let verify = |promise: &Promise| verify_certificate_promise(key.public(), &certificate(7), promise, NOW);
    let other = verify_certificate_promise(key.public(), &certificate(8), &promise, NOW);
    assert_eq!(other, Err(AttestError::OtherEntry));
    let moved = Promise { body: PromiseBody { index: 4, ..promise.body.clone() }, ..promise.clone() };
    assert_eq!(verify(&moved), Err(AttestError::BadPromise));
    let stranger = LogKey::generate(key.public().origin().clone()).unwrap();
    let forged = Promise::sign(&stranger, 3, leaf(&certificate(7)), NOW).unwrap();
    assert_eq!(verify(&forged), Err(AttestError::BadPromise));
    // Half of each key is no signature.
    let half = Promise { signature: forged.signature.with_ed25519_of(&promise.signature), ..promise.clone() };
    assert_eq!(verify(&half), Err(AttestError::BadPromise));
    assert_eq!(verify(&promise), Ok(()));
}

#[test]
fn promises_are_frozen() {
    let fixture = include_bytes!("../../tests/fixtures/promise.bin");
    let promise = Promise::decode(fixture).unwrap();
    assert_eq!(promise.encode().unwrap(), fixture);
    assert_eq!(verify_certificate_promise(key().public(), &certificate(7), &promise, NOW), Ok(()));
}

fn routing() -> RoutingKey {
    RoutingKey::from_seed(zeroize::Zeroizing::new([11; 32])).unwrap()
}

fn witnesses() -> WitnessPolicy {
    let (mesh, name) = ("lab".parse().unwrap(), "bob".parse().unwrap());
    let bob = Witness::new(&mesh, NodeId([1; 32]), &name, routing().public_key()).unwrap();
    WitnessPolicy::new(1, vec![bob]).unwrap()
}

/// Certificate 7 as entry 5 of 300, under a checkpoint with or without a cosignature.
fn proof(cosigned: bool) -> InclusionProof {
    let mut tree = leaves(300);
    tree.0[5] = leaf(&certificate(7));
    let head = TreeHead { size: 300, root: root(&mut tree, 300).unwrap() };
    let mut note = key().checkpoint(head).unwrap();
    if cosigned {
        let routing = routing();
        let bob = Cosigner::new(&"lab".parse().unwrap(), &"bob".parse().unwrap(), &routing).unwrap();
        let line = bob.cosign(key().public(), None, &note, &[], NOW).unwrap();
        note.signatures.push(line);
    }
    InclusionProof { index: 5, path: inclusion(&mut tree, 5, 300).unwrap(), checkpoint: note.encode() }
}

#[test]
fn a_witnessed_proof_counts() {
    let proof = InclusionProof::decode(&proof(true).encode().unwrap()).unwrap();
    let verify = |proof: &InclusionProof, certificate: &Certificate| {
        verify_certificate_proof(key().public(), certificate, proof, &witnesses(), NOW)
    };
    assert_eq!(verify(&proof, &certificate(7)).unwrap().head.size, 300);
    let wrong = Err(AttestError::Inclusion(MerkleError::WrongRoot));
    assert_eq!(verify(&proof, &certificate(8)), wrong);
    assert_eq!(verify(&InclusionProof { index: 4, ..proof.clone() }, &certificate(7)), wrong);
    let mut longer = proof.clone();
    longer.path.push(Hash::empty());
    let length = MerkleError::Length { found: 10, needed: 9 };
    assert_eq!(verify(&longer, &certificate(7)), Err(AttestError::Inclusion(length)));
    let unwitnessed = self::proof(false);
    let few = WitnessError::TooFew { found: 0, needed: 1 };
    assert_eq!(verify(&unwitnessed, &certificate(7)), Err(AttestError::Witness(few)));
    let none = WitnessPolicy::default();
    assert!(verify_certificate_proof(key().public(), &certificate(7), &unwitnessed, &none, NOW).is_ok());
    let cut = InclusionProof { checkpoint: proof.checkpoint[..200].to_owned(), ..proof };
    assert!(matches!(verify(&cut, &certificate(7)), Err(AttestError::Checkpoint(CheckpointError::Note(_)))));
}

#[test]
fn proofs_are_frozen() {
    let fixture = include_bytes!("../../tests/fixtures/inclusion-proof.bin");
    let proof = InclusionProof::decode(fixture).unwrap();
    assert_eq!(proof.encode().unwrap(), fixture);
    let checked = verify_certificate_proof(key().public(), &certificate(7), &proof, &witnesses(), NOW);
    assert_eq!(checked.unwrap().head.size, 300);
}

/// ML-DSA signs with randomness, so fixtures with its signatures were made once and are only read since. A change that can't read
/// them needs a new version; for that, `MESHARA_FREEZE=1 cargo test -p meshara-trust frozen` writes what is made anew over them.
#[test]
fn what_is_made_has_the_length_of_what_is_frozen() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let promise = Promise::sign(&key(), 3, leaf(&certificate(7)), NOW).unwrap();
    let note = key().checkpoint(crate::log::checkpoint::tests::head(20_852_163)).unwrap();
    for (name, bytes) in [
        ("promise.bin", promise.encode().unwrap()),
        ("inclusion-proof.bin", proof(true).encode().unwrap()),
        ("checkpoint.txt", note.encode().into_bytes()),
        ("log.vkey", (key().public().vkey() + "\n").into_bytes()),
    ] {
        if std::env::var_os("MESHARA_FREEZE").is_some() {
            std::fs::write(directory.join(name), &bytes).unwrap();
        }
        let frozen = std::fs::read(directory.join(name)).unwrap();
        assert_eq!(bytes.len(), frozen.len(), "{name}");
    }
}
