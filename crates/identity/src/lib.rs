//! Who is who in a mesh: node identities, the mesh root, issuers, certificates, tickets and joining.
//!
//! Nothing here touches the network. Files are read and written only by [`home`], [`sealed`] and [`issuer`].
//! The states, formats and failure answers are described in `docs/identity.md`.
#![forbid(unsafe_code)]

pub mod anchors;
mod bytes;
pub mod grant;
pub mod home;
pub mod ids;
pub mod issuer;
pub mod join;
pub mod keys;
mod leaf;
pub mod membership;
pub mod names;
pub mod root;
pub mod sealed;
pub mod ticket;
pub mod wire;

pub use anchors::{LeafError, Member, TrustAnchors, TrustError};
pub use bytes::FixedBytes;
pub use grant::{IssuerGrant, IssuerKey};
pub use home::{HomeError, Identity, create_mesh};
pub use ids::{MeshAddress, MeshId, NodeId, UnixMillis};
pub use issuer::{Invite, Issuer, IssuerError};
pub use join::{JoinClient, JoinError, Refusal, RenewClient};
pub use keys::{KeyError, LeafKey, NodeKey, RoutingKey, verify_node, verify_routing};
pub use leaf::LEAF_LIFE;
pub use membership::{Membership, MeshInfo, MeshInfoError};
pub use names::{MeshName, NameError, NodeName, RoleName, SpiffeId};
pub use root::{RootKey, RootPublic};
pub use sealed::{FileError, Passphrase};
pub use ticket::{Ticket, TicketError};
pub use wire::WireError;
