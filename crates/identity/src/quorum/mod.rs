//! Signers and their approvals: how many distinct ones must sign a statement, and whether they did. Knows nothing of what is signed.

mod approval;
mod signers;

pub use approval::{APPROVALS_MAX, Approval, ApprovalError, Approvals, ApprovalsError, KeyId};
pub use signers::{Quorum, QuorumError, SIGNERS_MAX, Signer, sufficient};
