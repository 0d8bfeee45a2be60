use data_encoding::HEXLOWER;
use meshara_identity::{MeshAddress, MeshId, MeshName, SpiffeId};
use proptest::prelude::*;

use super::*;

pub(crate) fn certificate(number: u64) -> Certificate {
    let mut serial = [0x40; 16];
    serial[8..].copy_from_slice(&number.to_be_bytes());
    Certificate {
        serial,
        node: NodeId([2; 32]),
        name: "alice".parse().unwrap(),
        not_before: UnixMillis(1_795_000_000_000),
        not_after: UnixMillis(1_795_003_600_000),
        leaf: Hash([3; 32]),
        routing_key: [4; 32],
        roles: vec!["db".parse().unwrap()],
        enrolled_from: UnixMillis(1_795_000_000_000),
        enrolled_until: UnixMillis(1_802_776_000_000),
    }
}

pub(crate) fn enrolment(node: u8, name: &str) -> Enrolment {
    Enrolment {
        node: NodeId([node; 32]),
        name: name.parse().unwrap(),
        roles: vec!["db".parse().unwrap(), "web".parse().unwrap()],
        from: UnixMillis(1_795_000_000_000),
        until: UnixMillis(1_802_776_000_000),
    }
}

pub(crate) fn roles(names: &[&str]) -> Roles {
    let roles = names.iter().map(|role| role.parse().unwrap()).collect();
    Roles { node: NodeId([2; 32]), roles, at: UnixMillis(1_795_000_000_000) }
}

fn statement() -> Statement {
    Statement { number: 300, hash: [5; 32], at: UnixMillis(1_795_000_000_000) }
}

/// One of each kind, in the order of their numbers.
pub(crate) fn all() -> Vec<Entry> {
    vec![
        Entry::Enrolment(enrolment(2, "alice")),
        Entry::Certificate(certificate(7)),
        Entry::Grant { issuer: NodeId([6; 32]), grant: statement() },
        Entry::Root(statement()),
        Entry::Phase(Phase { phase: 2, hash: [7; 32], at: UnixMillis(1_795_000_000_000) }),
        Entry::Revocations(statement()),
        Entry::Policy(statement()),
        Entry::Ended(Ended { node: NodeId([6; 32]), by: 300, at: UnixMillis(1_795_000_000_000) }),
        Entry::Roles(roles(&["db", "web"])),
    ]
}

#[test]
fn entries_are_frozen() {
    let lines: String = all().iter().map(|entry| HEXLOWER.encode(&entry.encode().unwrap()) + "\n").collect();
    assert_eq!(lines, include_str!("../../tests/fixtures/entries.txt"));
    for (line, entry) in lines.lines().zip(all()) {
        assert_eq!(Entry::decode(&HEXLOWER.decode(line.as_bytes()).unwrap()), Ok(entry));
    }
}

#[test]
fn a_leaf_says_what_its_entry_is() {
    let entry = certificate(7);
    let (mesh, name): (MeshName, NodeName) = ("lab".parse().unwrap(), "alice".parse().unwrap());
    let member = Member {
        node_id: entry.node,
        issuer: entry.node,
        spiffe_id: SpiffeId::node(&mesh, &name),
        address: MeshAddress::derive(&MeshId([1; 32]), &entry.node),
        name,
        routing_key: entry.routing_key,
        not_before: entry.not_before,
        not_after: entry.not_after,
        serial: entry.serial.to_vec(),
        enrolled: meshara_identity::issuer::Enrolled {
            roles: entry.roles.clone(),
            from: entry.enrolled_from,
            until: entry.enrolled_until,
        },
    };
    let expected = Certificate { leaf: Hash::of(b"leaf"), ..entry };
    assert_eq!(Certificate::of(&member, b"leaf"), Some(expected));
    assert_eq!(Certificate::of(&Member { serial: vec![1; 15], ..member }, b"leaf"), None);
}

#[test]
fn what_is_not_an_entry_is_refused() {
    let bytes = all()[1].encode().unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        Entry::decode(&changed)
    };
    let malformed = Err(EntryError::Wire(WireError::Malformed));
    assert_eq!(with(&|bytes| bytes.push(0)), malformed);
    assert_eq!(with(&|bytes| bytes.truncate(bytes.len() - 1)), malformed);
    assert_eq!(with(&|bytes| bytes[1] = 9), malformed);
    let version = WireError::UnsupportedVersion { found: 2, supported: 1 };
    assert_eq!(with(&|bytes| bytes[0] = 2), Err(EntryError::Wire(version)));
    let large = WireError::TooLarge { len: ENTRY_MAX + 1, max: ENTRY_MAX };
    assert_eq!(with(&|bytes| bytes.resize(ENTRY_MAX + 1, 0)), Err(EntryError::Wire(large)));
    assert_eq!(Entry::decode(&[]), malformed);
}

#[test]
fn values_out_of_range_are_refused() {
    let refused = |entry: Entry, why: EntryError| {
        assert_eq!(entry.encode(), Err(why.clone()));
        assert_eq!(Entry::decode(&wire::encode(&entry).unwrap()), Err(why));
    };
    let many: Vec<String> = (10..=10 + ROLES_MAX).map(|number| format!("role-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for wrong in [&["web", "db"][..], &["db", "db"], &many] {
        let change = roles(wrong);
        let enrolled = Enrolment { roles: change.roles.clone(), ..enrolment(2, "alice") };
        refused(Entry::Enrolment(enrolled), EntryError::Roles);
        refused(Entry::Roles(change), EntryError::Roles);
    }
    let never = UnixMillis(0);
    refused(Entry::Enrolment(Enrolment { until: never, ..enrolment(2, "a") }), EntryError::Dates);
    refused(Entry::Certificate(Certificate { not_after: never, ..certificate(1) }), EntryError::Dates);
    refused(Entry::Certificate(Certificate { enrolled_until: never, ..certificate(1) }), EntryError::Dates);
    let roles: Vec<RoleName> = ["web", "db"].map(|role| role.parse().unwrap()).into();
    refused(Entry::Certificate(Certificate { roles, ..certificate(1) }), EntryError::Roles);
    refused(Entry::Phase(Phase { phase: 4, hash: [0; 32], at: never }), EntryError::Phase(4));
    refused(Entry::Root(Statement { number: 0, ..statement() }), EntryError::Number);
    refused(Entry::Ended(Ended { node: NodeId([6; 32]), by: 0, at: never }), EntryError::Number);
}

#[test]
fn the_longest_entry_fits() {
    let long = |number: usize| format!("{number:02}{}", "x".repeat(61));
    let entry = Entry::Enrolment(Enrolment {
        name: long(0).parse().unwrap(),
        roles: (0..ROLES_MAX).map(|number| long(number).parse().unwrap()).collect(),
        from: UnixMillis(u64::MAX - 1),
        until: UnixMillis(u64::MAX),
        ..enrolment(2, "a")
    });
    let bytes = entry.encode().unwrap();
    assert!(bytes.len() < ENTRY_MAX * 2 / 3, "{}", bytes.len());
    assert_eq!(Entry::decode(&bytes), Ok(entry));
}

proptest! {
    #[test]
    fn certificates_round_trip(
        serial: [u8; 16], node: [u8; 32], name in "[a-z0-9]{1,63}", from in 0..u64::MAX, leaf: [u8; 32],
        routing_key: [u8; 32],
    ) {
        let entry = Entry::Certificate(Certificate {
            serial, node: NodeId(node), name: name.parse().unwrap(), not_before: UnixMillis(from),
            not_after: UnixMillis(from + 1), leaf: Hash(leaf), routing_key, ..certificate(1)
        });
        prop_assert_eq!(Entry::decode(&entry.encode().unwrap()), Ok(entry));
    }

    #[test]
    fn changes_of_roles_round_trip(node: [u8; 32], mut names in proptest::collection::vec("[a-z0-9]{1,63}", 0..9), at: u64) {
        names.sort();
        names.dedup();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let entry = Entry::Roles(Roles { node: NodeId(node), at: UnixMillis(at), ..roles(&names) });
        prop_assert_eq!(Entry::decode(&entry.encode().unwrap()), Ok(entry));
    }

    #[test]
    fn only_canonical_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode().unwrap(), bytes);
        }
    }
}
