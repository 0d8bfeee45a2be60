//! Where an issuer writes down what it gives out, before it gives it out.

use std::fmt;

use crate::anchors::Member;
use crate::ids::UnixMillis;
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

/// What an issuer gives out is recorded here first.
pub trait Record: Send + Sync + fmt::Debug {
    /// Makes it durable. What comes back travels with the leaf: the log's promise. Blocks; several threads call it at once.
    ///
    /// # Errors
    /// The leaf doesn't leave.
    fn record(&self, issuance: &Issuance<'_>) -> Result<Vec<u8>, RecordError>;
}

/// Nothing was recorded, or nobody knows whether.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log did not take the certificate: {0}")]
pub struct RecordError(pub String);
