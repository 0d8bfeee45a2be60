//! Where an issuer writes down what it gives out, before it gives it out.

use std::fmt;

use crate::anchors::Member;
use crate::ids::{NodeId, UnixMillis};
use crate::names::RoleName;

/// A leaf that was issued and has not left yet.
#[derive(Debug, Clone, Copy)]
pub struct Issuance<'a> {
    /// What the leaf says.
    pub member: &'a Member,
    /// The leaf.
    pub leaf_der: &'a [u8],
    /// The enrolment that begins, or is extended, with this leaf.
    pub enrolment: Option<&'a Enrolled>,
    /// When it was issued.
    pub now: UnixMillis,
}

/// That a node belongs to the mesh, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its roles, sorted, each once.
    pub roles: Vec<RoleName>,
    /// Beginning.
    pub from: UnixMillis,
    /// End.
    pub until: UnixMillis,
}

/// What an operator said last of a node's roles. Of two the greater one counts, at whichever issuer it was said: the later one, and of
/// two of one millisecond the same one everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleChange {
    /// When it was said; later than what was said before, as far as the issuer knew.
    pub at: UnixMillis,
    /// All roles that the node has from then on, sorted, each once.
    pub roles: Vec<RoleName>,
}

/// What an issuer gives out is recorded here first.
pub trait Record: Send + Sync + fmt::Debug {
    /// Makes it durable. What comes back travels with the leaf: the log's promise. Blocks; several threads call it at once.
    ///
    /// # Errors
    /// The leaf doesn't leave.
    fn record(&self, issuance: &Issuance<'_>) -> Result<Vec<u8>, RecordError>;

    /// Makes durable, for other issuers to read, what an operator said of a node's roles. May be called twice for one change. Blocks.
    ///
    /// # Errors
    /// It is recorded later.
    fn record_roles(&self, node: &NodeId, change: &RoleChange) -> Result<(), RecordError>;
}

/// Nothing was recorded, or nobody knows whether.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log did not take it: {0}")]
pub struct RecordError(pub String);
