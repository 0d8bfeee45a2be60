use std::path::Path;
use std::time::Duration;

use meshara_identity::{NodeId, RoutingKey};

use super::*;
use crate::log::checkpoint::tests::{head, key};
use crate::log::entry::tests::{all, certificate};
use crate::log::proof::tests::Leaves;
use crate::log::proof::{verify_consistency, verify_written_out};
use crate::log::prove::root;
use crate::log::{
    Cosigner, DiskFiles, Tiles, Witness, WitnessError, WitnessPolicy, verify_certificate_promise,
    verify_certificate_proof,
};

const NOW: UnixMillis = UnixMillis(1_795_000_000_500);

fn disk(path: &Path) -> Box<dyn Files> {
    Box::new(DiskFiles::open(path).unwrap())
}

fn create(path: &Path) -> Log {
    Log::create(disk(path), key()).unwrap()
}

fn open(path: &Path) -> Result<Log, LogError> {
    Log::open(Box::new(DiskFiles::open(path)?), key())
}

fn certificates(from: u64, count: u64) -> Vec<Entry> {
    (from..from + count).map(|number| Entry::Certificate(certificate(number))).collect()
}

/// The tree that the plain definition makes of these certificates.
fn plain(count: u64) -> Leaves {
    Leaves::of(certificates(0, count).iter().map(|entry| Hash::leaf(&entry.encode().unwrap())).collect())
}

fn verified(log: &Log, note: &Note) -> TreeHead {
    log.public().verify(note).unwrap().head
}

#[test]
fn entries_are_promised_then_proved() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    assert_eq!(verified(&log, &log.checkpoint()), TreeHead { size: 0, root: Hash::empty() });
    let mut plain = plain(600);
    let mut last: (TreeHead, Note) = (verified(&log, &log.checkpoint()), log.checkpoint());
    let mut size = 0;
    for count in [1, 1, 253, 1, 1, 255, 88] {
        let entries = certificates(size, count);
        let logged = log.append_all(&entries).unwrap();
        assert_eq!(logged[0].index(), size);
        size += count;
        let promise = log.promise(&logged[0], NOW).unwrap();
        let Entry::Certificate(first) = &entries[0] else { panic!() };
        assert_eq!(verify_certificate_promise(log.public(), first, &promise, NOW), Ok(()));
        assert_eq!(
            log.prove(size - 1, &last.1),
            Err(LogError::OutOfRange { index: size - 1, size: last.0.size })
        );

        let note = log.publish().unwrap();
        assert_eq!(note, log.publish().unwrap());
        let now = verified(&log, &note);
        assert_eq!(now, TreeHead { size, root: root(&mut plain, size).unwrap() });
        let growth = log.prove_growth(last.0.size, &note).unwrap();
        assert_eq!(verify_written_out(last.0.size, &last.0.root, size, &now.root, &growth), Ok(()));
        for (index, entry) in (0..).zip(certificates(0, size)) {
            let Entry::Certificate(certificate) = entry else { panic!() };
            let proof = log.prove(index, &note).unwrap();
            let none = WitnessPolicy::default();
            assert!(
                verify_certificate_proof(log.public(), &certificate, &proof, &none, NOW).is_ok(),
                "{index}"
            );
            assert!(log.prove(index, &last.1).is_ok() == (index < last.0.size));
        }
        last = (now, note);
    }
    assert_eq!(verify_consistency(0, &Hash::empty(), size, &last.0.root, &[]), Ok(()));
    let entry = Tiles::new(log.files(), size).entry(300).unwrap();
    assert_eq!(Entry::decode(&entry), Ok(certificates(300, 1).remove(0)));
}

#[test]
fn a_log_goes_on_after_it_was_closed_at_any_size() {
    let directory = tempfile::tempdir().unwrap();
    drop(create(directory.path()));
    let mut plain = plain(530);
    let mut size = 0;
    for (count, publish) in
        [(0, false), (3, false), (2, true), (251, true), (1, false), (1, true), (254, true), (18, false)]
    {
        let log = open(directory.path()).unwrap();
        if count > 0 {
            assert_eq!(log.append_all(&certificates(size, count)).unwrap()[0].index(), size);
        }
        size += count;
        if publish {
            let head = verified(&log, &log.publish().unwrap());
            assert_eq!(head, TreeHead { size, root: root(&mut plain, size).unwrap() });
        }
    }
    let log = open(directory.path()).unwrap();
    assert_eq!(log.size(), 512);
    assert_eq!(verified(&log, &log.publish().unwrap()).size, 530);
    // What wider and full tiles made superfluous is gone; what a stock tool asks for is there.
    let names = |path: &str| log.files().list(path).unwrap();
    assert_eq!(names("tile/0"), ["000", "001", "002.p"]);
    assert_eq!(names("tile/0/002.p"), ["18"]);
    assert_eq!(names("tile/1/000.p"), ["2"]);
    assert_eq!(names("tile/entries"), ["000", "001", "002.p"]);
    assert_eq!(names("tile/entries/002.p"), ["18"]);
    assert_eq!(names("wal").len(), 1);
}

#[test]
fn nothing_new_is_not_signed_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    assert_eq!(log.append_all(&[]), Ok(Vec::new()));
    let empty = log.publish().unwrap();
    assert_eq!(empty, log.checkpoint());
    log.append(&certificates(0, 1)[0]).unwrap();
    let one = log.publish().unwrap();
    assert_ne!(one, empty);
    assert_eq!(log.publish(), Ok(one));
}

#[test]
fn kinds_of_entries_share_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    let logged = log.append_all(&all()).unwrap();
    assert_eq!(logged.len(), all().len());
    log.publish().unwrap();
    for (logged, entry) in logged.iter().zip(all()) {
        let bytes = Tiles::new(log.files(), log.size()).entry(logged.index()).unwrap();
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        assert_eq!(logged.leaf(), Hash::leaf(&bytes));
    }
}

#[test]
fn appends_from_many_threads_get_every_index_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    let mut logged: Vec<(u64, Hash)> = std::thread::scope(|scope| {
        let appends: Vec<_> = (0..8)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || -> Vec<(u64, Hash)> {
                    let append =
                        |number: u64| log.append(&certificates(thread * 100 + number, 1)[0]).unwrap();
                    (0..40).map(append).map(|logged| (logged.index(), logged.leaf())).collect()
                })
            })
            .collect();
        for _ in 0..5 {
            log.publish().unwrap();
        }
        appends.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    logged.sort();
    let size = logged.len() as u64;
    assert!(logged.iter().map(|(index, _)| *index).eq(0..320));
    let note = log.publish().unwrap();
    let mut plain = Leaves::of(logged.iter().map(|(_, leaf)| *leaf).collect());
    assert_eq!(verified(&log, &note), TreeHead { size, root: root(&mut plain, size).unwrap() });
}

#[test]
fn one_log_has_one_writer_and_one_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let log = create(&path);
    assert_eq!(DiskFiles::open(&path).unwrap_err(), LogError::Busy { path: path.clone() });
    // Readers need no lock.
    let reader = DiskFiles::read_only(&path);
    assert_eq!(reader.read(CHECKPOINT, 1 << 20).unwrap(), log.checkpoint().encode().into_bytes());
    drop(log);
    assert_eq!(Log::create(disk(&path), key()).err(), Some(LogError::AlreadyExists { path: path.clone() }));
    std::fs::remove_file(path.join(CHECKPOINT)).unwrap();
    assert_eq!(open(&path).err(), Some(LogError::Missing { path: path.join(CHECKPOINT) }));
    let stranger = LogKey::generate(key().public().origin().clone()).unwrap();
    let empty = tempfile::tempdir().unwrap();
    drop(Log::create(disk(empty.path()), stranger).unwrap());
    assert_eq!(open(empty.path()).err(), Some(LogError::WrongKey { path: empty.path().join(CHECKPOINT) }));
}

#[test]
fn damage_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    for (from, count) in [(0, 300), (300, 223)] {
        log.append_all(&certificates(from, count)).unwrap();
        log.publish().unwrap();
    }
    log.append_all(&certificates(523, 2)).unwrap();
    drop(log);
    let root = directory.path();
    for name in ["checkpoint", "tile/0/002.p/11", "tile/1/000.p/2", "tile/entries/002.p/11"] {
        let path = root.join(name);
        let sound = std::fs::read(&path).unwrap();
        for at in [0, sound.len() / 2, sound.len() - 2] {
            let mut altered = sound.clone();
            altered[at] ^= 0x01;
            std::fs::write(&path, &altered).unwrap();
            let error = open(root).err();
            let named = matches!(&error, Some(LogError::Damaged { path: named, .. }) if *named == path);
            // A key's name or id in the checkpoint: then it is somebody else's.
            let foreign = matches!(&error, Some(LogError::WrongKey { path: named }) if *named == path);
            assert!(named || foreign, "{name} at {at}: {error:?}");
            assert!(error.unwrap().to_string().contains("restore"));
        }
        std::fs::write(&path, &sound[..sound.len() - 1]).unwrap();
        assert!(
            matches!(open(root).err(), Some(LogError::Damaged { path: named, .. }) if named == path),
            "{name}"
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(open(root).err(), Some(LogError::Missing { path: path.clone() }));
        std::fs::write(&path, &sound).unwrap();
    }
    let log = open(root).unwrap();
    assert_eq!(verified(&log, &log.publish().unwrap()).size, 525);
}

#[test]
fn an_old_copy_is_recognised_by_what_was_signed() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    log.append_all(&certificates(0, 5)).unwrap();
    let note = log.publish().unwrap();
    assert_eq!(log.check_signed(&note), Ok(()));
    let newer = key().checkpoint(head(6)).unwrap();
    assert_eq!(log.check_signed(&newer), Err(LogError::RolledBack { signed: 6, here: 5 }));
    let other = key().checkpoint(head(4)).unwrap();
    assert_eq!(log.check_signed(&other), Err(LogError::RolledBack { signed: 4, here: 5 }));
    let foreign = LogKey::generate(key().public().origin().clone()).unwrap().checkpoint(head(9)).unwrap();
    assert_eq!(log.check_signed(&foreign), Err(LogError::NotOurs));
    assert_eq!(log.prove(0, &newer), Err(LogError::RolledBack { signed: 6, here: 5 }));
}

#[test]
fn cosignatures_are_kept_with_their_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    let routing = RoutingKey::from_seed(zeroize::Zeroizing::new([11; 32])).unwrap();
    let (mesh, name) = ("lab".parse().unwrap(), "bob".parse().unwrap());
    let bob = Witness::new(&mesh, NodeId([1; 32]), &name, routing.public_key()).unwrap();
    let policy = WitnessPolicy::new(1, vec![bob]).unwrap();
    let cosign = |note: &Note, now| {
        let mut note = note.clone();
        let line = Cosigner::new(&mesh, &name, &routing).unwrap().cosign(log.public(), None, &note, &[], now);
        note.signatures.push(line.unwrap());
        note
    };
    log.append_all(&certificates(0, 5)).unwrap();
    let old = log.publish().unwrap();
    log.append_all(&certificates(5, 5)).unwrap();
    let new = log.publish().unwrap();
    for note in [&old, &new] {
        let first = log.add_cosignatures(&cosign(note, NOW), &policy, NOW).unwrap();
        assert_eq!(policy.require(&first, NOW).unwrap().len(), 1);
        let later = NOW.plus(Duration::from_secs(5));
        let second = log.add_cosignatures(&cosign(note, later), &policy, later).unwrap();
        assert_eq!(second.signatures.len(), 3);
        assert_eq!(policy.require(&second, later).unwrap()[&NodeId([1; 32])].seconds(), later.seconds());
        // An older line changes nothing; a bad one is refused.
        assert_eq!(log.add_cosignatures(&cosign(note, NOW), &policy, later), Ok(second.clone()));
        let mut bad = cosign(note, later);
        bad.signatures[2].bytes[20] ^= 1;
        let refused = WitnessError::BadSignature("lab.mesh/witness/bob".into());
        assert_eq!(log.add_cosignatures(&bad, &policy, later), Err(LogError::Witness(refused)));
    }
    let witnessed = log.checkpoint();
    drop(log);
    let log = open(directory.path()).unwrap();
    assert_eq!(log.checkpoint(), witnessed);
    assert_eq!(
        policy
            .require(&history::note(log.files(), 5).unwrap(), NOW.plus(Duration::from_secs(5)))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn few_earlier_checkpoints_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    for number in 0..200 {
        log.append_all(&certificates(number, 1)).unwrap();
        log.publish().unwrap();
    }
    let sizes = history::sizes(log.files()).unwrap();
    assert!(sizes.len() <= 10, "{sizes:?}");
    assert!(sizes.contains(&0) && sizes.contains(&199), "{sizes:?}");
}

#[test]
fn a_backlog_is_refused_until_it_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let log = create(directory.path());
    let many = certificates(0, PENDING_MAX as u64);
    log.append_all(&many[1..]).unwrap();
    assert_eq!(log.append_all(&many[..2]), Err(LogError::Backlog));
    log.append(&many[0]).unwrap();
    assert_eq!(log.append(&many[0]), Err(LogError::Backlog));
    log.publish().unwrap();
    assert_eq!(log.append(&many[0]).unwrap().index(), PENDING_MAX as u64);
}
