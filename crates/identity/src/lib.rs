//! Who is who in a mesh: node identities, the mesh root, issuers, certificates, tickets and joining.
//!
//! Nothing here touches the network. Files are read and written only by [`home`], [`sealed`] and [`issuer`].
//! The states, formats and failure answers are described in `docs/identity.md`.
#![forbid(unsafe_code)]

pub mod anchors;
mod bytes;
pub mod grant;
pub mod grant_exchange;
pub mod home;
pub mod ids;
pub mod issuer;
pub mod join;
pub mod keys;
mod leaf;
pub mod leaf_proof;
pub mod lives;
pub mod membership;
pub mod names;
pub mod quorum;
pub mod root;
pub mod root_chain;
pub mod root_document;
pub mod sealed;
pub mod ticket;
pub mod wire;

pub use anchors::{LeafError, Member, TrustAnchors, TrustError};
pub use bytes::FixedBytes;
pub use grant::{GrantOffer, IssuerGrant, IssuerKey};
pub use home::{HomeError, Identity, create_mesh, create_mesh_with};
pub use ids::{MeshAddress, MeshId, NodeId, UnixMillis};
pub use issuer::{Invite, Issuer, IssuerError};
pub use join::{JoinClient, JoinError, Refusal, RenewClient};
pub use keys::{KeyError, LeafKey, NodeKey, RoutingKey, verify_node, verify_routing};
#[doc(hidden)]
pub use leaf::extension_decodes;
pub use leaf::{BACKDATE, IssueError, ROLES_MAX, fresh_serial, set_dates};
pub use lives::{Lives, LivesError};
pub use membership::{Membership, MeshInfo, MeshInfoError};
pub use names::{MeshName, NameError, NodeName, RoleName, SpiffeId};
pub use root::{RootKey, RootPublic};
pub use root_chain::{ChainError, RootChain};
pub use sealed::{FileError, Passphrase};
pub use ticket::{Ticket, TicketError};
pub use wire::WireError;
