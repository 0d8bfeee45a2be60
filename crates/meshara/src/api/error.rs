//! The error that every surface shows: over HTTP, with `--json` and in plain words.

use serde::{Deserialize, Serialize};

/// What went wrong, for programs. The text form (snake case) is stable; codes may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The command line is wrong.
    Usage,
    /// A value in a request is wrong.
    InvalidArgument,
    /// No such route in the API.
    NotFound,
    /// The request's body is above the limit.
    TooLarge,
    /// No node runs on this home.
    NotRunning,
    /// The control socket exists and this user may not use it.
    PermissionDenied,
    /// What answered on the control socket does not speak this API.
    Protocol,
    /// The node is shutting down.
    ShuttingDown,
    /// A node runs on this home already.
    AlreadyRunning,
    /// The home holds no identity yet.
    NotInitialised,
    /// The home holds an identity already; nothing was overwritten.
    AlreadyInitialised,
    /// No node of that name, NodeId or prefix is known.
    UnknownNode,
    /// The text fits several nodes.
    AmbiguousNode,
    /// The node is known and no route leads to it now.
    Unreachable,
    /// It took too long.
    Timeout,
    /// A queue is full; try again later.
    Busy,
    /// The remote node offers no such service, or there is no such service to remove.
    UnknownService,
    /// No workload of this name is registered.
    UnknownWorkload,
    /// No bundle of this trust domain is held.
    UnknownTrustDomain,
    /// The local address is taken.
    AddressInUse,
    /// This node issues no certificates.
    NotIssuer,
    /// This node does not hold the key that signs revocations and policy.
    NotAuthority,
    /// Other signers must approve; nothing has changed yet. The message names the statement.
    NeedsApprovals,
    /// The node is the mesh's last issuer: without it nobody gets or renews a certificate.
    LastIssuer,
    /// A predicate of the next phase's gate does not hold; the message says which.
    GateClosed,
    /// A node's policy denies it; the message names the rule.
    Denied,
    /// This node has not heard the mesh's signers for too long, and accepts nothing.
    Stale,
    /// The text is no ticket, or was altered.
    InvalidTicket,
    /// The ticket's time is over.
    TicketExpired,
    /// Every use of the ticket is spent.
    TicketUsed,
    /// Another node has that name.
    NameTaken,
    /// The mesh refused the newcomer for another reason.
    JoinRefused,
    /// The keystore is sealed and no passphrase file was given, or the passphrase is wrong.
    Passphrase,
    /// A file in the home does not read; the message names it.
    DamagedFile,
    /// A file or a peer is of a newer version.
    NewerVersion,
    /// A file in the home is not valid configuration.
    InvalidConfig,
    /// The disk is full.
    DiskFull,
    /// The operating system refused.
    Io,
    /// Stopped by a signal.
    Interrupted,
    /// A defect in Meshara.
    #[serde(other)]
    Internal,
}

impl ErrorCode {
    /// The HTTP status that carries this code.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Usage | Self::InvalidArgument | Self::InvalidTicket | Self::InvalidConfig => 400,
            Self::PermissionDenied
            | Self::NotIssuer
            | Self::NotAuthority
            | Self::Denied
            | Self::JoinRefused
            | Self::Passphrase => 403,
            Self::NotFound
            | Self::UnknownNode
            | Self::UnknownService
            | Self::UnknownWorkload
            | Self::UnknownTrustDomain => 404,
            Self::AlreadyRunning
            | Self::AlreadyInitialised
            | Self::AmbiguousNode
            | Self::NameTaken
            | Self::NeedsApprovals
            | Self::LastIssuer
            | Self::GateClosed
            | Self::AddressInUse => 409,
            Self::TicketExpired | Self::TicketUsed => 410,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::Protocol | Self::Io | Self::DamagedFile | Self::NewerVersion | Self::Internal => 500,
            Self::Unreachable => 502,
            Self::NotRunning
            | Self::NotInitialised
            | Self::ShuttingDown
            | Self::Interrupted
            | Self::Stale => 503,
            Self::Timeout => 504,
            Self::DiskFull => 507,
        }
    }
}

/// An error with its remedy. Never holds secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what went wrong, with the names that matter.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    #[serde(default)]
    pub hint: String,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// The envelope on the wire and on stderr: `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ApiError,
}

impl From<ApiError> for ErrorEnvelope {
    fn from(error: ApiError) -> Self {
        Self { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_its_envelope() {
        let error = ApiError::new(ErrorCode::UnknownNode, "no node called bob").hint("see `meshara routes`");
        let json = serde_json::to_string(&ErrorEnvelope::from(error.clone())).unwrap();
        assert_eq!(
            json,
            r#"{"error":{"code":"unknown_node","message":"no node called bob","hint":"see `meshara routes`"}}"#
        );
        assert_eq!(serde_json::from_str::<ErrorEnvelope>(&json).unwrap().error, error);
    }

    #[test]
    fn a_code_of_a_newer_node_reads_as_internal() {
        let error: ApiError = serde_json::from_str(r#"{"code":"from_the_future","message":"m"}"#).unwrap();
        assert_eq!(error, ApiError::new(ErrorCode::Internal, "m"));
    }
}
