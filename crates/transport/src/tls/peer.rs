//! Who is at the other end of a connection, now. Resumption skips the verifiers, so this is asked of every connection.

use meshara_identity::{LeafError, Member, NodeId, NodeName, TrustAnchors, UnixMillis};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, VarInt};
use rustls::pki_types::CertificateDer;

use super::Expect;

/// Why a peer is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// It showed more than its leaf.
    #[error("the peer showed a chain where one certificate is expected")]
    Chain,
    /// Its certificate is not, or no longer, a member's.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// It is a member, but not the expected one.
    #[error("node {found} answered where {expected} is expected")]
    WrongNode {
        /// Whom we wanted.
        expected: NodeId,
        /// Who it is.
        found: NodeId,
    },
    /// It was a member: the mesh revoked it.
    #[error("node {node} is revoked")]
    Revoked {
        /// The node.
        node: NodeId,
    },
    /// The mesh revoked whoever issued its certificate.
    #[error("node {issuer}, which issued the certificate, is revoked")]
    IssuerRevoked {
        /// The issuer.
        issuer: NodeId,
    },
    /// Another node has its name.
    #[error("the certificate is for the name {name}, which node {holder} has")]
    NameHeld {
        /// The name.
        name: NodeName,
        /// Whose it is.
        holder: NodeId,
    },
    /// A session from another mesh address than its certificate's.
    #[error("the peer's mesh address is not that of its certificate")]
    WrongAddress,
    /// This machine has no clock.
    #[error("this machine's clock cannot be read")]
    NoClock,
}

impl PeerError {
    /// QUIC application error code to close with: 0x100 + the TLS alert (RFC 8446, 6.2) that a handshake would have
    /// ended with, so both kinds of refusal read alike.
    pub fn close_code(&self) -> u32 {
        let alert = match self {
            Self::NoCertificate => 116,
            Self::Leaf(
                LeafError::Expired { .. } | LeafError::NotYetValid { .. } | LeafError::IssuerNotValid { .. },
            ) => 45,
            Self::Revoked { .. } | Self::IssuerRevoked { .. } => 44,
            Self::Leaf(LeafError::UnknownIssuer | LeafError::IssuerDropped) => 48,
            Self::Leaf(LeafError::WrongMesh { .. })
            | Self::WrongNode { .. }
            | Self::NameHeld { .. }
            | Self::WrongAddress => 49,
            Self::Leaf(LeafError::BadPurpose) => 43,
            Self::Leaf(_) | Self::Chain => 42,
            // internal_error
            Self::NoClock => 80,
        };
        0x100 + alert
    }

    /// Ends a connection for this reason.
    #[must_use]
    pub fn close(self, connection: &Connection) -> Self {
        connection.close(VarInt::from_u32(self.close_code()), self.reason());
        self
    }

    /// Short and free of details, as the peer reads it.
    fn reason(&self) -> &'static [u8] {
        match self {
            Self::NoCertificate => b"no certificate",
            Self::Leaf(LeafError::Expired { .. }) => b"certificate expired",
            Self::Leaf(LeafError::NotYetValid { .. }) => b"certificate not yet valid",
            Self::Revoked { .. } | Self::IssuerRevoked { .. } => b"certificate revoked",
            Self::NameHeld { .. } => b"the name is another node's",
            Self::WrongNode { .. } => b"wrong node",
            Self::WrongAddress => b"wrong address",
            Self::NoClock => b"no clock",
            _ => b"certificate refused",
        }
    }
}

/// The peer's leaf certificate, DER; `None` when it showed none.
pub fn peer_leaf(connection: &Connection) -> Option<Vec<u8>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match chain.as_slice() {
        [leaf] => Some(leaf.to_vec()),
        _ => None,
    }
}

/// The negotiated ALPN.
pub fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Verifies the peer's certificate at `now`, whether the handshake was full or resumed.
pub fn verified_member(
    connection: &Connection,
    anchors: &TrustAnchors,
    now: UnixMillis,
) -> Result<Member, PeerError> {
    let identity = connection.peer_identity().ok_or(PeerError::NoCertificate)?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| PeerError::NoCertificate)?;
    match chain.as_slice() {
        [] => Err(PeerError::NoCertificate),
        [leaf] => Ok(anchors.verify_leaf(leaf, now)?),
        _ => Err(PeerError::Chain),
    }
}

/// [`verified_member`], the expectation, and an end of the connection when it is refused: never silence.
pub fn admit(
    connection: &Connection,
    anchors: &TrustAnchors,
    expect: Expect,
    now: UnixMillis,
) -> Result<Member, PeerError> {
    let verdict = verified_member(connection, anchors, now).and_then(|member| match expect {
        Expect::Node(expected) if expected != member.node_id => {
            Err(PeerError::WrongNode { expected, found: member.node_id })
        }
        _ => Ok(member),
    });
    verdict.map_err(|error| error.close(connection))
}
