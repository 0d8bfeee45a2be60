//! What a log records, in one canonical form: a version byte, the kind, its fields.

use meshara_identity::issuer::Enrolled;
use meshara_identity::wire::{self, WireError};
use meshara_identity::{Member, MeshAddress, NodeId, NodeName, RoleName, SpiffeId, TrustAnchors, UnixMillis};
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
    /// Its roles, sorted, each once: with them the entry says all that the certificate says of the node.
    pub roles: Vec<RoleName>,
    /// When its enrolment began.
    pub enrolled_from: UnixMillis,
    /// When its enrolment ends.
    pub enrolled_until: UnixMillis,
}

impl Certificate {
    /// The entry of a leaf, from what verifying it gave and its DER; `None` when its serial number isn't one of ours.
    pub fn of(member: &Member, leaf_der: &[u8]) -> Option<Self> {
        Some(Self {
            serial: member.serial.as_slice().try_into().ok()?,
            node: member.node_id,
            name: member.name.clone(),
            not_before: member.not_before,
            not_after: member.not_after,
            leaf: Hash::of(leaf_der),
            routing_key: member.routing_key,
            roles: member.enrolled.roles.clone(),
            enrolled_from: member.enrolled.from,
            enrolled_until: member.enrolled.until,
        })
    }

    /// The node as its certificate would show it: in the mesh of `anchors`, certified by `issuer`, in whose log this entry is.
    pub fn member(&self, anchors: &TrustAnchors, issuer: NodeId) -> Member {
        Member {
            node_id: self.node,
            issuer,
            name: self.name.clone(),
            spiffe_id: SpiffeId::node(anchors.mesh(), &self.name),
            address: MeshAddress::derive(&anchors.mesh_id(), &self.node),
            routing_key: self.routing_key,
            not_before: self.not_before,
            not_after: self.not_after,
            serial: self.serial.to_vec(),
            enrolled: Enrolled {
                roles: self.roles.clone(),
                from: self.enrolled_from,
                until: self.enrolled_until,
            },
        }
    }
}

/// An enrolment was ended before its time, because the node was revoked: its name is free, and it gets no certificate any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The node.
    pub node: NodeId,
    /// Number of the revocation snapshot that names it.
    pub by: u64,
    /// When it was logged.
    pub at: UnixMillis,
}

/// An operator said which roles a node has from now on. Of two, in whichever logs, the later one counts, and of two of one time the one with the
/// greater roles: so all issuers go by the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// The node.
    pub node: NodeId,
    /// All its roles, sorted, each once.
    pub roles: Vec<RoleName>,
    /// When it was said.
    pub at: UnixMillis,
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
    /// An enrolment was ended before its time.
    Ended(Ended),
    /// A node's roles were changed.
    Roles(Roles),
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
                check_roles(&enrolment.roles)?;
                ordered(&enrolment.from, &enrolment.until).then_some(()).ok_or(EntryError::Dates)
            }
            Self::Certificate(certificate) => {
                check_roles(&certificate.roles)?;
                let valid = ordered(&certificate.not_before, &certificate.not_after);
                let enrolled = ordered(&certificate.enrolled_from, &certificate.enrolled_until);
                (valid && enrolled).then_some(()).ok_or(EntryError::Dates)
            }
            Self::Phase(Phase { phase, .. }) if *phase > PHASE_MAX => Err(EntryError::Phase(*phase)),
            Self::Grant { grant: statement, .. }
            | Self::Root(statement)
            | Self::Revocations(statement)
            | Self::Policy(statement)
                if statement.number == 0 =>
            {
                Err(EntryError::Number)
            }
            Self::Ended(Ended { by: 0, .. }) => Err(EntryError::Number),
            Self::Roles(Roles { roles, .. }) => check_roles(roles),
            _ => Ok(()),
        }
    }
}

fn check_roles(roles: &[RoleName]) -> Result<(), EntryError> {
    let fits = roles.is_sorted_by(|a, b| a < b) && roles.len() <= ROLES_MAX;
    if fits { Ok(()) } else { Err(EntryError::Roles) }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
pub(crate) mod tests;
