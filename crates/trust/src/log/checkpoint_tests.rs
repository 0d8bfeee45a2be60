use super::*;

/// The same keys each time.
pub(crate) fn key() -> LogKey {
    let origin = LogKey::origin_of(&"lab".parse().unwrap(), &NodeId([0xab; 32])).unwrap();
    LogKey::from_seeds(origin, &Zeroizing::new([[1; 32], [2; 32]])).unwrap()
}

pub(crate) fn head(size: u64) -> TreeHead {
    TreeHead { size, root: Hash::of(&size.to_be_bytes()) }
}

#[test]
fn checkpoints_are_frozen() {
    let fixture = include_bytes!("../../tests/fixtures/checkpoint.txt");
    let note = Note::parse(fixture).unwrap();
    let checkpoint = key().public().verify(&note).unwrap();
    assert_eq!(checkpoint.head, head(20_852_163));
    // ML-DSA signs with fresh randomness, so only the rest is equal again.
    let again = key().checkpoint(checkpoint.head).unwrap();
    assert_eq!(again.text(), note.text());
    assert_eq!(again.signatures[0], note.signatures[0]);
    assert_eq!(again.signatures[1].key, note.signatures[1].key);
    assert_eq!(key().public().vkey(), include_str!("../../tests/fixtures/log.vkey").trim_end());
}

#[test]
fn both_signatures_must_be_there_and_good() {
    let (key, other) = (key(), LogKey::generate(key().public().origin().clone()).unwrap());
    let note = key.checkpoint(head(5)).unwrap();
    assert_eq!(key.public().verify(&note).unwrap().head, head(5));
    let without = |at: usize| {
        let mut note = note.clone();
        note.signatures.remove(at);
        key.public().verify(&note)
    };
    assert_eq!(without(0), Err(CheckpointError::Unsigned("Ed25519")));
    assert_eq!(without(1), Err(CheckpointError::Unsigned("ML-DSA-65")));
    for (at, kind) in [(0, "Ed25519"), (1, "ML-DSA-65")] {
        let mut bad = note.clone();
        bad.signatures[at].bytes[40] ^= 1;
        assert_eq!(key.public().verify(&bad), Err(CheckpointError::BadSignature(kind)));
        let mut short = note.clone();
        short.signatures[at].bytes.pop();
        assert_eq!(key.public().verify(&short), Err(CheckpointError::BadSignature(kind)));
    }
    let mut text = note.clone();
    text.text_mut().insert(0, 'x');
    assert!(matches!(key.public().verify(&text), Err(CheckpointError::Origin { .. })));
    assert_eq!(other.public().verify(&note), Err(CheckpointError::Unsigned("Ed25519")));
}

#[test]
fn other_texts_are_refused() {
    let text = Checkpoint { origin: key().public().origin().clone(), head: head(0) }.text();
    assert!(Checkpoint::parse(&text).is_ok());
    let [origin, size, root] = text.lines().collect::<Vec<_>>()[..] else { panic!() };
    for bad in [
        String::new(),
        text.trim_end().to_owned(),
        format!("{text}\n"),
        format!("{text}extension\n"),
        format!("\n{size}\n{root}\n"),
        format!("{origin}\n00\n{root}\n"),
        format!("{origin}\n+1\n{root}\n"),
        format!("{origin}\n-1\n{root}\n"),
        format!("{origin}\n{}\n{root}\n", SIZE_MAX + 1),
        format!("{origin}\n{size}\n{}\n", &root[4..]),
        format!("{origin}\n{size}\n{}\n", root.trim_end_matches('=')),
        format!("a b\n{size}\n{root}\n"),
    ] {
        assert_eq!(Checkpoint::parse(&bad), Err(CheckpointError::Text), "{bad:?}");
    }
}

#[test]
fn secrets_are_not_printed_and_come_back() {
    let key = key();
    let origin = key.public().origin();
    assert_eq!(format!("{key:?}"), format!("LogKey({origin}, secret)"));
    let again = LogKey::from_seeds(key.public().origin().clone(), &key.seeds()).unwrap();
    assert_eq!(again.public(), key.public());
}
