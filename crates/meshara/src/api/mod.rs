//! The local control API: HTTP and JSON over a Unix socket in the node's home. See `docs/control-api.md`.

pub mod admission;
mod client;
mod control;
mod error;
pub mod interface;
mod lines;
pub mod log;
pub mod policy;
pub(crate) mod root;
mod routes;
mod server;
mod socket;
mod timestamp;
pub mod trust;
mod types;
pub mod workload;

pub use admission::{AdmissionControl, AllowedNode, JoinApplication, JoinDecision};
pub use client::{Client, LineStream};
pub use control::{Control, Events, Result};
pub use error::{ApiError, ErrorCode, ErrorEnvelope};
pub use interface::{InterfaceControl, NameInfo, TunInfo};
pub use log::{AuditInfo, AuditedLog, LogControl};
pub use policy::{
    IssuerRevoked, NodeRevoked, PolicyApplied, PolicyCheck, PolicyCheckRequest, PolicyControl, PolicyInfo,
    PolicyLooked, PolicyRequest, ReinstateRequest, RevokeRequest, RolesChanged, RolesRequest,
};
pub use root::{
    AdvanceRequest, GatePredicate, GrantName, KeyInfo, PhaseInfo, PublishRequest, PublishedInfo, QuorumInfo,
    RevocationInfo, RootControl, RootInfo, SignatureInfo, SignerInfo, StatementInfo,
};
pub use routes::router;
pub use server::serve;
pub(crate) use socket::bind_socket;
pub use socket::{bind, socket_path};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use trust::{
    IssuerAdded, IssuerInfo, IssuerRequest, LogStatus, OwnCertificate, TrustControl, TrustStatus,
};
pub use types::*;
pub use workload::{FederationInfo, FederationRequest, WorkloadControl, WorkloadInfo, WorkloadRequest};

/// Name of the control socket inside a home.
pub const SOCKET_NAME: &str = "control.sock";

/// Largest message, in bytes. Larger contents belong in a stream.
pub const MAX_MESSAGE: usize = 1 << 20;

/// About how many bytes of content one answer of unread messages holds: four of the largest messages, so that a reader
/// with many small ones needs few round trips and the node holds little for a slow one.
pub const MAX_UNREAD_BATCH: usize = 4 << 20;

/// Most messages that one request consumes: they fit a request's 64 KiB even at 64 digits for sender and identifier each.
pub const MAX_CONSUME: usize = 256;
