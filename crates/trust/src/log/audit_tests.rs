use std::path::Path;

use meshara_identity::NodeId;

use super::*;
use crate::log::checkpoint::tests::key;
use crate::log::entry::tests::{certificate, enrolment, roles};
use crate::log::entry::{Ended, Enrolment, Phase, Roles, Statement};
use crate::log::witness::tests::{mesh, routing, sign};
use crate::log::{CheckpointError, DiskFiles, Log, LogKey, PROBLEMS_MAX, Witness};

const NOW: UnixMillis = UnixMillis(1_795_000_000_500);

fn run(path: &Path, live: &[Certificate]) -> AuditReport {
    let files = DiskFiles::read_only(path);
    audit(&files, key().public(), &WitnessPolicy::default(), live, NOW, &mut |_, _| {}).unwrap()
}

fn log(path: &Path, publications: &[&[Entry]]) {
    let log = Log::create(Box::new(DiskFiles::open(path).unwrap()), key()).unwrap();
    for entries in publications {
        log.append_all(entries).unwrap();
        log.publish().unwrap();
    }
}

fn certificates(from: u64, count: u64) -> Vec<Entry> {
    (from..from + count).map(|number| Entry::Certificate(certificate(number))).collect()
}

/// 600 certificates in three publications.
fn sound() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    log(directory.path(), &[&certificates(0, 100), &certificates(100, 200), &certificates(300, 300)]);
    directory
}

#[test]
fn a_sound_log_has_no_problems() {
    let directory = sound();
    let live = [certificate(0), certificate(299), certificate(599)];
    let files = DiskFiles::read_only(directory.path());
    let mut seen = Vec::new();
    let mut visit = |index, entry: &Entry| seen.push((index, entry.clone()));
    let report = audit(&files, key().public(), &WitnessPolicy::default(), &live, NOW, &mut visit).unwrap();
    assert_eq!(report.problems, []);
    assert!(report.is_ok());
    assert_eq!((report.entries, report.certificates, report.checkpoints), (600, 600, 3));
    assert!(seen.into_iter().eq((0..).zip(certificates(0, 600))));
}

#[test]
fn every_damaged_or_missing_file_is_named() {
    let directory = sound();
    let root = directory.path();
    for name in [
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/88",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/88",
        "checkpoints/100",
        "checkpoints/300",
    ] {
        let path = root.join(name);
        let sound = std::fs::read(&path).unwrap();
        let mut altered = sound.clone();
        altered[40] ^= 1;
        std::fs::write(&path, altered).unwrap();
        let report = run(root, &[certificate(599)]);
        assert!(!report.is_ok(), "{name}");
        let size = name.strip_prefix("checkpoints/").map(|size| size.parse().unwrap());
        let tile = name.split('/').next_back().unwrap();
        let named = report.problems.iter().all(|problem| match problem {
            Problem::File(LogError::Damaged { path, .. }) => path.ends_with(name) || path.ends_with(tile),
            Problem::Checkpoint { size: found, .. } => Some(*found) == size,
            _ => false,
        });
        assert!(named, "{name}: {:?}", report.problems);
        std::fs::remove_file(&path).unwrap();
        let report = run(root, &[]);
        if size.is_some() {
            assert!(report.is_ok());
        } else {
            let missing = Problem::File(LogError::Missing { path: path.clone() });
            assert_eq!(report.problems, [missing], "{name}");
        }
        std::fs::write(&path, sound).unwrap();
    }
    assert!(run(root, &[]).is_ok());
    std::fs::remove_file(root.join("tile/0/001")).unwrap();
    std::fs::remove_file(root.join("tile/entries/001")).unwrap();
    let report = run(root, &[certificate(0), certificate(599)]);
    let lost = Problem::NotLogged { serial: certificate(599).serial, name: certificate(599).name };
    assert_eq!(report.problems.last(), Some(&lost));
    assert_eq!(report.entries, 256);
}

#[test]
fn a_rewritten_past_contradicts_what_was_signed() {
    let (honest, rewritten) = (sound(), tempfile::tempdir().unwrap());
    let mut entries = certificates(0, 600);
    entries[150] = Entry::Certificate(certificate(9999));
    log(rewritten.path(), &[&entries]);
    assert!(run(rewritten.path(), &[]).is_ok());
    for size in [100, 300] {
        let name = format!("checkpoints/{size}");
        std::fs::copy(honest.path().join(&name), rewritten.path().join(&name)).unwrap();
    }
    let report = run(rewritten.path(), &[certificate(150)]);
    let lost = Problem::NotLogged { serial: certificate(150).serial, name: certificate(150).name };
    assert_eq!(report.problems, [Problem::Root { size: 300 }, lost]);
}

#[test]
fn checkpoints_in_the_wrong_place_are_no_past() {
    let directory = sound();
    let kept = directory.path().join("checkpoints");
    std::fs::copy(kept.join("100"), kept.join("200")).unwrap();
    assert_eq!(run(directory.path(), &[]).problems, [Problem::Misplaced { size: 200 }]);
    let stranger = LogKey::generate(key().public().origin().clone()).unwrap();
    let note = stranger.checkpoint(TreeHead { size: 200, root: Hash::empty() }).unwrap();
    std::fs::write(kept.join("200"), note.encode()).unwrap();
    let error = CheckpointError::Unsigned("Ed25519");
    assert_eq!(run(directory.path(), &[]).problems, [Problem::Checkpoint { size: 200, error }]);
}

#[test]
fn entries_that_contradict_each_other_are_named() {
    let named = |node, name: &str| Entry::Enrolment(enrolment(node, name));
    let later = |node, name: &str| {
        let first = enrolment(node, name);
        Entry::Enrolment(Enrolment { from: first.until, until: UnixMillis(first.until.0 + 1), ..first })
    };
    let issued = |node, name: &str| {
        Entry::Certificate(Certificate {
            node: NodeId([node; 32]),
            name: name.parse().unwrap(),
            ..certificate(1)
        })
    };
    let statement = |number| Statement { number, hash: [0; 32], at: NOW };
    let phase = |phase| Entry::Phase(Phase { phase, hash: [0; 32], at: NOW });
    let grant = |issuer, number| Entry::Grant { issuer: NodeId([issuer; 32]), grant: statement(number) };
    let other = |number| Statement { hash: [1; 32], ..statement(number) };
    let entries = [
        named(1, "alice"),
        named(2, "bob"),
        named(1, "alice"),
        named(3, "alice"), // 3: taken
        named(2, "carol"), // 4: renamed
        issued(1, "alice"),
        issued(9, "dave"),
        issued(2, "alice"), // 7: another's name
        issued(9, "bob"),   // 8: another's name
        later(3, "alice"),
        issued(1, "alice"), // 10: no longer its name
        Entry::Root(statement(1)),
        Entry::Policy(statement(5)),
        Entry::Policy(statement(5)), // the same once more
        Entry::Policy(other(5)),     // 14
        Entry::Revocations(statement(7)),
        Entry::Revocations(statement(6)), // 16
        phase(0),
        phase(1),
        phase(1),
        phase(0), // 20
        grant(1, 1),
        grant(2, 1),
        Entry::Grant { issuer: NodeId([1; 32]), grant: other(1) }, // 23
        Entry::Revocations(statement(6)),                          // 24: still below what was
        Entry::Roles(roles(&["db"])),
        Entry::Roles(roles(&["db"])),
        // The last word counts, also of two of one time, and of one whose clock was ahead before.
        Entry::Roles(roles(&["web"])),
        Entry::Roles(Roles { at: UnixMillis(1), ..roles(&["db"]) }),
    ];
    let directory = tempfile::tempdir().unwrap();
    log(directory.path(), &[&entries]);
    let found: Vec<String> = run(directory.path(), &[])
        .problems
        .iter()
        .map(|problem| match problem {
            Problem::Enrolment { index, name, .. } => format!("enrolment {index} {name}"),
            Problem::Certificate { index, name, .. } => format!("certificate {index} {name}"),
            Problem::Order { index } => format!("order {index}"),
            other => other.to_string(),
        })
        .collect();
    let expected = [
        "enrolment 3 alice",
        "enrolment 4 carol",
        "certificate 7 alice",
        "certificate 8 bob",
        "certificate 10 alice",
        "order 14",
        "order 16",
        "order 20",
        "order 23",
        "order 24",
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_ended_enrolment_frees_the_name_and_ends_the_certificates() {
    let named = |node, name: &str| Entry::Enrolment(enrolment(node, name));
    let issued = |node, name: &str| {
        Entry::Certificate(Certificate {
            node: NodeId([node; 32]),
            name: name.parse().unwrap(),
            ..certificate(1)
        })
    };
    let ended = |node| Entry::Ended(Ended { node: NodeId([node; 32]), by: 1, at: NOW });
    let entries = [
        named(1, "carol"),
        issued(1, "carol"),
        ended(1),
        issued(1, "carol"), // 3: revoked
        named(2, "carol"),
        issued(2, "carol"),
        issued(1, "carol"), // 6: revoked, and another's name
        ended(9),
        ended(1),
        issued(2, "carol"),
        named(1, "dora"), // reinstated, under another name
        issued(1, "dora"),
    ];
    let directory = tempfile::tempdir().unwrap();
    log(directory.path(), &[&entries]);
    let wrong = |index| {
        let name = "carol".parse().unwrap();
        Problem::Certificate { index, node: NodeId([1; 32]), name }
    };
    assert_eq!(run(directory.path(), &[]).problems, [wrong(3), wrong(6)]);
}

#[test]
fn the_newest_witnessed_checkpoint_counts() {
    let directory = tempfile::tempdir().unwrap();
    let files = DiskFiles::open(directory.path()).unwrap();
    let log = Log::create(Box::new(files), key()).unwrap();
    let bob = routing(11);
    let name = "bob".parse().unwrap();
    let witness = Witness::new(&mesh(), NodeId([1; 32]), &name, bob.public_key()).unwrap();
    let policy = WitnessPolicy::new(1, vec![witness]).unwrap();
    let audit = || {
        let files = DiskFiles::read_only(directory.path());
        audit(&files, key().public(), &policy, &[], NOW, &mut |_, _| {}).unwrap()
    };
    assert!(audit().is_ok());
    log.append_all(&certificates(0, 5)).unwrap();
    let old = log.publish().unwrap();
    let few = Problem::Witnesses(WitnessError::TooFew { found: 0, needed: 1 });
    assert_eq!(audit().problems, [few]);
    let mut cosigned = old.clone();
    cosigned.signatures.push(sign(&old, "bob", 11, NOW));
    log.add_cosignatures(&cosigned, &policy, NOW).unwrap();
    assert_eq!((audit().is_ok(), audit().witnessed, audit().witnesses), (true, 5, 1));
    log.append_all(&certificates(5, 5)).unwrap();
    log.publish().unwrap();
    assert_eq!((audit().is_ok(), audit().witnessed, audit().witnesses), (true, 5, 1));
    let mut bad = log.checkpoint();
    bad.signatures.push(sign(&old, "bob", 11, NOW));
    drop(log);
    std::fs::write(directory.path().join("checkpoint"), bad.encode()).unwrap();
    let wrong = WitnessError::BadSignature("lab.mesh/witness/bob".into());
    assert_eq!(audit().problems, [Problem::Witnesses(wrong)]);
}

#[test]
fn problems_are_listed_up_to_a_bound_and_all_counted() {
    let directory = tempfile::tempdir().unwrap();
    let other = |hash| Entry::Root(Statement { number: 1, hash: [hash; 32], at: NOW });
    let entries: Vec<Entry> = (0..300).map(|index| other((index % 2) as u8)).collect();
    log(directory.path(), &[&entries]);
    let report = run(directory.path(), &[]);
    assert_eq!((report.problems.len(), report.problem_count), (PROBLEMS_MAX, 150));
}
