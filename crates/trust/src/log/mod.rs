//! The transparency log: RFC 9162 hashing, C2SP tiles and checkpoints, witnesses, crash-safe appends, proofs.

pub mod attest;
pub mod audit;
pub mod checkpoint;
pub mod copying;
pub mod cosign;
mod edge;
pub mod entry;
pub mod error;
pub mod exchange;
pub mod export;
pub mod files;
pub mod follower;
pub mod fork;
pub mod hash;
mod history;
pub mod keys;
pub mod mirror;
pub mod note;
mod open;
pub mod proof;
pub mod prove;
pub mod proved;
mod publish;
pub mod reader;
mod report;
pub mod routing_head;
mod rules;
mod signed;
pub mod store;
pub mod tile;
pub mod tree;
mod wal;
pub mod witness;

pub use attest::{
    AttestError, InclusionProof, PROMISE_LIFE, Promise, verify_certificate_promise, verify_certificate_proof,
};
pub use audit::audit;
pub use checkpoint::{Checkpoint, CheckpointError, LogKey, LogPublic, TreeHead};
pub use copying::Copying;
pub use cosign::{Cosigner, GrowthError, verify_growth};
pub use entry::{Certificate, Ended, Enrolment, Entry, EntryError, Phase, Roles, Statement};
pub use error::LogError;
pub use exchange::{Answer, Ask, Head};
pub use files::{DiskFiles, Files};
pub use follower::{FollowError, Follower};
pub use fork::{EvidenceError, Fork, ForkEvidence};
pub use hash::Hash;
pub use keys::{LogStatement, StatementError};
pub use mirror::{Mirror, MirrorError, SeenError};
pub use note::{KeyName, Note, NoteError, NoteSignature};
pub use proof::MerkleError;
pub use proved::{ProvedError, ProvedKey};
pub use reader::Tiles;
pub use report::{AuditReport, PROBLEMS_MAX, Problem};
pub use routing_head::{RoutingHead, RoutingHeadError, VerifiedHead};
pub use store::{Log, Logged};
#[doc(hidden)]
pub use wal::wal_decodes;
pub use witness::{PolicyError, Witness, WitnessError, WitnessPolicy, one_of_each_key};
