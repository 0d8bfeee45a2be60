//! What a log records, in one canonical form: a version byte, the kind, its fields.

use meshara_identity::wire::{self, WireError};
use meshara_identity::{NodeId, NodeName, RoleName, UnixMillis};
use serde::{Deserialize, Serialize};

use super::hash::Hash;

/// Longest entry: an enrolment with the longest name and [`ROLES_MAX`] of the longest roles has 1.2 KB. A bundle could hold 64 KB.
pub const ENTRY_MAX: usize = 2048;

/// Most roles of a node: a role is a job, and nobody has more jobs than this; it bounds an entry.
pub const ROLES_MAX: usize = 16;

/// Highest bootstrap phase.
pub const PHASE_MAX: u8 = 3;

/// Why bytes aren't an entry, or a value can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Not this encoding.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Roles that aren't sorted, appear twice, or are too many.
    #[error("roles are sorted, each once, at most {ROLES_MAX}")]
    Roles,
    /// A certificate or an enrolment that ends before it begins.
    #[error("it ends before it begins")]
    Dates,
    /// No such phase.
    #[error("there is no phase {0}")]
    Phase(u8),
    /// Numbers of statements begin at 1.
    #[error("statements are numbered from 1")]
    Number,
}

/// A node belongs to the mesh under a name. Its NodeId is the hash of its node key, so the key needs no other mention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its roles, sorted, each once.
    pub roles: Vec<RoleName>,
    /// When it was enrolled. Of two enrolments of one name in two logs the earlier one stands.
    pub from: UnixMillis,
    /// When the enrolment ends, unless another entry for the same node and name extends it.
    pub until: UnixMillis,
}

/// A leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number.
    pub serial: [u8; 16],
    /// The node that it is for.
    pub node: NodeId,
    /// The name in it.
    pub name: NodeName,
    /// It holds from here…
    pub not_before: UnixMillis,
    /// …to here.
    pub not_after: UnixMillis,
    /// SHA-256 of the certificate (DER), as other tools show it.
    pub leaf: Hash,
    /// The Ed25519 key that signs the node's routing records: proved by this entry, so that records need no certificate.
    pub routing_key: [u8; 32],
}

/// A numbered statement that is kept elsewhere and proved to be known by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Its number or version.
    pub number: u64,
    /// Hash of the statement, as its own format defines it.
    pub hash: [u8; 32],
    /// When it was logged.
    pub at: UnixMillis,
}

/// A bootstrap phase began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// 0 to [`PHASE_MAX`].
    pub phase: u8,
    /// Hash of the root's signed record.
    pub hash: [u8; 32],
    /// When it began.
    pub at: UnixMillis,
}

/// An entry of the log. Kinds are only ever added, at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Entry {
    /// A node was enrolled, or its enrolment extended.
    Enrolment(Enrolment),
    /// A leaf certificate was issued.
    Certificate(Certificate),
    /// An issuer's grant.
    Grant {
        /// The issuer.
        issuer: NodeId,
        /// Number and hash of its grant.
        grant: Statement,
    },
    /// A version of the root document.
    Root(Statement),
    /// A bootstrap phase.
    Phase(Phase),
    /// A revocation snapshot.
    Revocations(Statement),
    /// A policy set.
    Policy(Statement),
}

impl Entry {
    /// Its bytes, which the log hashes and stores.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        self.check()?;
        Ok(wire::encode(self)?)
    }

    /// Reads [`encode`](Self::encode)'s form and no other.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry: Self = wire::decode(bytes, ENTRY_MAX)?;
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<(), EntryError> {
        let ordered = |from: &UnixMillis, until: &UnixMillis| from < until;
        match self {
            Self::Enrolment(enrolment) => {
                let sorted = enrolment.roles.is_sorted_by(|a, b| a < b) && enrolment.roles.len() <= ROLES_MAX;
                if !sorted {
                    return Err(EntryError::Roles);
                }
                ordered(&enrolment.from, &enrolment.until).then_some(()).ok_or(EntryError::Dates)
            }
            Self::Certificate(certificate) => ordered(&certificate.not_before, &certificate.not_after)
                .then_some(())
                .ok_or(EntryError::Dates),
            Self::Phase(Phase { phase, .. }) if *phase > PHASE_MAX => Err(EntryError::Phase(*phase)),
            Self::Grant { grant: statement, .. }
            | Self::Root(statement)
            | Self::Revocations(statement)
            | Self::Policy(statement)
                if statement.number == 0 =>
            {
                Err(EntryError::Number)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use data_encoding::HEXLOWER;
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
        ]
    }

    #[test]
    fn entries_are_frozen() {
        let lines: String =
            all().iter().map(|entry| HEXLOWER.encode(&entry.encode().unwrap()) + "\n").collect();
        assert_eq!(lines, include_str!("../../tests/fixtures/entries.txt"));
        for (line, entry) in lines.lines().zip(all()) {
            assert_eq!(Entry::decode(&HEXLOWER.decode(line.as_bytes()).unwrap()), Ok(entry));
        }
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
        assert_eq!(with(&|bytes| bytes[1] = 7), malformed);
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
        let roles = |roles: &[&str]| {
            let roles = roles.iter().map(|role| role.parse().unwrap()).collect();
            Entry::Enrolment(Enrolment { roles, ..enrolment(2, "alice") })
        };
        refused(roles(&["web", "db"]), EntryError::Roles);
        refused(roles(&["db", "db"]), EntryError::Roles);
        let many: Vec<String> = (10..=10 + ROLES_MAX).map(|number| format!("role-{number}")).collect();
        refused(roles(&many.iter().map(String::as_str).collect::<Vec<_>>()), EntryError::Roles);
        let never = UnixMillis(0);
        refused(Entry::Enrolment(Enrolment { until: never, ..enrolment(2, "a") }), EntryError::Dates);
        refused(Entry::Certificate(Certificate { not_after: never, ..certificate(1) }), EntryError::Dates);
        refused(Entry::Phase(Phase { phase: 4, hash: [0; 32], at: never }), EntryError::Phase(4));
        refused(Entry::Root(Statement { number: 0, ..statement() }), EntryError::Number);
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
                not_after: UnixMillis(from + 1), leaf: Hash(leaf), routing_key,
            });
            prop_assert_eq!(Entry::decode(&entry.encode().unwrap()), Ok(entry));
        }

        #[test]
        fn only_canonical_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode().unwrap(), bytes);
            }
        }
    }
}
