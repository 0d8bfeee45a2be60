//! The transparency log: RFC 9162 hashing, C2SP tiles and checkpoints, witnesses, crash-safe appends, proofs.

pub mod attest;
pub mod audit;
pub mod checkpoint;
pub mod cosign;
pub mod entry;
pub mod error;
pub mod files;
pub mod follower;
pub mod fork;
pub mod hash;
mod history;
pub mod note;
mod open;
pub mod proof;
pub mod prove;
mod publish;
pub mod reader;
mod rules;
pub mod store;
pub mod tile;
pub mod tree;
mod wal;
pub mod witness;

pub use attest::{
    AttestError, InclusionProof, PROMISE_LIFE, Promise, verify_certificate_promise, verify_certificate_proof,
};
pub use audit::{AuditReport, Problem, audit};
pub use checkpoint::{Checkpoint, CheckpointError, LogKey, LogPublic, TreeHead};
pub use cosign::{Cosigner, GrowthError, verify_growth};
pub use entry::{Certificate, Ended, Enrolment, Entry, EntryError, Phase, Statement};
pub use error::LogError;
pub use files::{DiskFiles, Files};
pub use follower::{FollowError, Follower};
pub use fork::{EvidenceError, Fork, ForkEvidence};
pub use hash::Hash;
pub use note::{KeyName, Note, NoteError, NoteSignature};
pub use proof::MerkleError;
pub use reader::Tiles;
pub use store::{Log, Logged};
#[doc(hidden)]
pub use wal::wal_decodes;
pub use witness::{PolicyError, Witness, WitnessError, WitnessPolicy};
