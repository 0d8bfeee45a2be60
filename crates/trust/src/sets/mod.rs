//! Numbered, chained, signed sets: the frame that revocation snapshots and policy sets share.
//!
//! A set is a [`SetHead`] and a body. Signers approve the head, which holds the body's hash; so the proof that somebody signed
//! two sets of one number is two small heads. A [`Holder`] decides which set a node goes by.

mod fork;
mod freshness;
mod head;
mod holder;
mod outcome;

pub use fork::{Claim, EVIDENCE_MAX, EvidenceError, Fork, ForkEvidence};
pub use freshness::{FRESHNESS_INTERVAL, FRESHNESS_MAX, Freshness, HeadRef, SignedFreshness};
pub use head::{HEAD_MAX, SetHash, SetHead, SetKind, SignedHead, SignedSet};
pub use holder::{Holder, SILENCE_LIMIT, SKEW_MAX, SetBody};
pub use meshara_identity::quorum::{
    APPROVALS_MAX, Approval, ApprovalError, Approvals, KeyId, Quorum, QuorumError, SIGNERS_MAX, Signer,
};
pub use outcome::{HearError, Heard, OfferError, Offered, StaleError};
