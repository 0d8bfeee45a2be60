//! Which nodes are members no more. A snapshot is the whole set; [`Holder`](crate::sets::Holder) keeps the newest.

mod reason;
mod snapshot;

pub use reason::{REASON_MAX, Reason, ReasonError};
pub use snapshot::{REVOKED_MAX, Reinstatement, Revocation, RevocationError, Revocations};
