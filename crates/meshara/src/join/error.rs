//! Exact errors of joining.

use std::net::SocketAddr;

use meshara_identity::home::HomeError;
use meshara_identity::{LeafError, MeshInfoError, TicketError, WireError};
use meshara_transport::tls;

use crate::config::PeerAddr;
use crate::frames::FrameReadError;
use crate::store::StoreError;

/// Why joining failed. Nothing in the home was overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The ticket's text is wrong.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The home can't take the identity.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The mesh, or a member that can't be proved to speak for it, refused.
    #[error(transparent)]
    Join(#[from] meshara_identity::JoinError),
    /// No socket.
    #[error("can't open a UDP socket: {0}")]
    Socket(std::io::Error),
    /// The ticket names no address and no peer was given.
    #[error("the ticket names no address")]
    NoAddress,
    /// This machine's clock and the mesh's contradict each other.
    #[error(transparent)]
    Clock(LeafError),
    /// Nobody answered in time.
    #[error("no member could help within {} s; last: {last}", super::TRY_FOR.as_secs())]
    NoMember {
        /// The last failure.
        last: MemberError,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The peers could not be remembered.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an attempt with one member failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// No answer.
    #[error("{0}: no answer")]
    Silent(SocketAddr),
    /// The name has no address.
    #[error("{0}: the name does not resolve")]
    Name(PeerAddr),
    /// The connection failed.
    #[error("{0}: {1}")]
    Connection(SocketAddr, quinn::ConnectionError),
    /// The address can't be dialled.
    #[error("{0}: {1}")]
    Dial(SocketAddr, quinn::ConnectError),
    /// The stream broke.
    #[error("{0}: {1}")]
    Read(SocketAddr, FrameReadError),
    /// The stream broke.
    #[error("{0}: {1}")]
    Write(SocketAddr, quinn::WriteError),
    /// What the member says of its mesh doesn't decode.
    #[error("{0}: {1}")]
    Wire(SocketAddr, WireError),
    /// Not a member of the ticket's mesh.
    #[error("{0}: {1}")]
    NotMember(SocketAddr, MeshInfoError),
    /// The member shows no certificate.
    #[error("{0}: no certificate")]
    NoCertificate(SocketAddr),
    /// The member reaches no issuer.
    #[error("{0}: this member reaches no issuer now")]
    NoIssuer(SocketAddr),
}

impl MemberError {
    /// Whether somebody answered, only not as hoped.
    pub(super) fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Read(..)
                | Self::Wire(..)
                | Self::NotMember(..)
                | Self::NoCertificate(_)
                | Self::NoIssuer(_)
        )
    }
}
