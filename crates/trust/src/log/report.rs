//! What an audit says.

use meshara_identity::issuer::MEMBERS_MAX;
use meshara_identity::{NodeId, NodeName};

use super::checkpoint::{CheckpointError, TreeHead};
use super::entry::EntryError;
use super::error::LogError;
use super::witness::WitnessError;

/// Problems that a report lists; of a log that is wrong throughout, more would tell no more. All are counted.
pub const PROBLEMS_MAX: usize = 100;

/// Something that isn't as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file is missing, damaged or can't be read.
    #[error(transparent)]
    File(#[from] LogError),
    /// The entries, hashed anew, don't lead to a root that was signed: the log was rewritten.
    #[error("the entries don't lead to the root that was signed for {size} of them")]
    Root {
        /// Size of that checkpoint.
        size: u64,
    },
    /// A kept checkpoint isn't the log's.
    #[error("the checkpoint of {size} entries: {error}")]
    Checkpoint {
        /// Size that its file is named by.
        size: u64,
        /// What is wrong.
        error: CheckpointError,
    },
    /// A kept checkpoint is of another size than its file says, or newer than the newest.
    #[error("a checkpoint is kept as one of {size} entries and isn't one of this log's past")]
    Misplaced {
        /// Size that its file is named by.
        size: u64,
    },
    /// Too few witnesses cosigned any checkpoint that is kept, or one did so wrongly.
    #[error(transparent)]
    Witnesses(#[from] WitnessError),
    /// An entry doesn't decode.
    #[error("entry {index}: {error}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong.
        error: EntryError,
    },
    /// A name was given to a second node while the first one's enrolment ran, or a node got a second name.
    #[error("entry {index}: {node} enrolled as {name}, which contradicts an enrolment before it", node = node.short())]
    Enrolment {
        /// The entry.
        index: u64,
        /// The node.
        node: NodeId,
        /// The name.
        name: NodeName,
    },
    /// A certificate's name is enrolled for another node, or its node under another name, or not any more.
    #[error("entry {index}: a certificate for {node} as {name}, which contradicts an enrolment", node = node.short())]
    Certificate {
        /// The entry.
        index: u64,
        /// The node.
        node: NodeId,
        /// The name.
        name: NodeName,
    },
    /// A number that only grows didn't.
    #[error("entry {index}: its number isn't above the one before")]
    Order {
        /// The entry.
        index: u64,
    },
    /// A certificate in use has no entry.
    #[error("the certificate of {name} ({}) isn't in the log", data_encoding::HEXLOWER.encode(serial))]
    NotLogged {
        /// Its serial number.
        serial: [u8; 16],
        /// Its name.
        name: NodeName,
    },
    /// More members than a mesh has: names beyond are not compared.
    #[error("more than {MEMBERS_MAX} members are enrolled")]
    TooManyMembers,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// The newest checkpoint's size and root.
    pub head: TreeHead,
    /// Entries that were read.
    pub entries: u64,
    /// Certificates among them.
    pub certificates: u64,
    /// Earlier checkpoints that were compared.
    pub checkpoints: u64,
    /// Size of the newest checkpoint that enough witnesses cosigned.
    pub witnessed: u64,
    /// Distinct witnesses of that checkpoint.
    pub witnesses: usize,
    /// What is wrong, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl AuditReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problem_count == 0
    }

    pub(super) fn add(&mut self, problem: impl Into<Problem>) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem.into());
        }
    }
}
