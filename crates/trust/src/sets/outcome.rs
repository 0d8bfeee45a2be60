//! What became of an offered set, or of a statement of freshness.

use std::time::Duration;

use meshara_identity::UnixMillis;
use meshara_identity::quorum::ApprovalError;
use meshara_identity::wire::WireError;

use super::fork::ForkEvidence;

/// What became of an offered set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is the newest and was taken; flood it on.
    Accepted,
    /// It is the one held.
    Same,
    /// It is the one held, with approvals of the present signers in place of former ones; flood it on.
    Reapproved,
    /// It is older than the one held and was ignored; send the newer one back.
    Stale {
        /// Number of the one held.
        held: u64,
    },
    /// Its signers contradict themselves, or the signers before them. What was held is still held; flood the evidence if it verifies.
    Fork(Box<ForkEvidence>),
}

/// Why an offered set was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError<E: std::error::Error> {
    /// Of another kind.
    #[error("a set of another kind")]
    WrongKind,
    /// Of another mesh.
    #[error("a set of another mesh")]
    WrongMesh,
    /// Body and head don't belong together.
    #[error("the body is not the one that the head names")]
    WrongBody,
    /// Number 0, or number 1 with a predecessor, or a later one without.
    #[error("number {number} cannot have this predecessor")]
    BadChain {
        /// Its number.
        number: u64,
    },
    /// So far above the one held that no honest signer got there: the mesh could not count on from it.
    #[error("number {number} is too far above {held}: someone wants to use up the numbers")]
    TooFar {
        /// Number of the one held.
        held: u64,
        /// Its number.
        number: u64,
    },
    /// Not approved.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Approved, but the content can't be used.
    #[error("the content is refused: {0}")]
    Body(E),
}

/// What a statement of freshness told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// What is held is the newest.
    Newest,
    /// There is a newer one; ask for it.
    Behind {
        /// Its number.
        number: u64,
    },
    /// The signer doesn't know the newest yet.
    Older,
    /// Not later than what this signer said before.
    Known,
    /// The signer goes by another set of this number, and didn't sign the one held: ask for it, the two heads are the evidence.
    Other {
        /// The number.
        number: u64,
    },
    /// The signer contradicts itself. Flood the evidence.
    Fork(Box<ForkEvidence>),
}

/// Why a statement of freshness was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HearError {
    /// Of another mesh.
    #[error("a statement of another mesh")]
    WrongMesh,
    /// Made later than now.
    #[error("said at {at}, and this machine's clock shows {now}: set the clock if that is wrong")]
    FromTheFuture {
        /// The signer's clock.
        at: UnixMillis,
        /// This machine's clock.
        now: UnixMillis,
    },
    /// Not by a signer.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

/// Nothing was heard from enough signers for longer than the limit: nothing may be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct StaleError {
    /// When enough signers last confirmed what is held; `None`: never.
    pub confirmed: Option<UnixMillis>,
    /// The limit.
    pub limit: Duration,
}

impl StaleError {
    fn text(self) -> String {
        let hours = self.limit.as_secs() / 3600;
        match self.confirmed {
            Some(at) => format!(
                "no signer has confirmed revocations and policy since {at}, the limit is {hours} h: connect to a member that \
                 hears them, and check the clock"
            ),
            None => "no signer has confirmed revocations and policy yet".to_owned(),
        }
    }
}
