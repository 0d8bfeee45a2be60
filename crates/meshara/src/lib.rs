//! Meshara: one private, post-quantum, self-healing network as a library.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
mod frames;
mod join;
mod node;
mod store;

pub use crate::join::{JoinError, JoinOptions, JoinOutcome, MemberError, join};
pub use crate::node::{
    BuildError, Builder, LockError, Node, OpeningError, Receipt, ResolveError, SendError, ServiceError,
    SessionError, Stream,
};
#[doc(hidden)]
pub use crate::node::{decode_announcement, decode_opening};
pub use crate::store::StoreError;
#[doc(hidden)]
pub use crate::store::decodes_row;
pub use meshara_overlay::Event;
