//! Meshara: one private, post-quantum, self-healing network as a library.
//!
//! A [`Node`] is a member of a mesh. It runs on tokio, over one UDP port and a directory (its *home*) that holds its identity and its
//! store. Links and sessions are mutually authenticated with X25519MLKEM768 and ML-DSA-65; nothing has to be configured for that.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use meshara::api::Control;
//! use meshara::{JoinOptions, Node, UnixMillis, create_mesh, join};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // The first node makes the mesh and can invite others.
//! let home = Path::new("/var/lib/app/alice");
//! create_mesh(home, &"lab".parse()?, &"alice".parse()?, None, UnixMillis::now())?;
//! let alice = Node::builder().home(home).build().await?;
//! let ticket = alice.control().invite(Duration::from_secs(3600), 1).await?.ticket;
//!
//! // Another machine joins with the ticket; no node needs to run there for that.
//! let home = Path::new("/var/lib/app/bob");
//! join(JoinOptions::new(home.to_owned(), ticket, "bob".parse()?)).await?;
//! let bob = Node::builder().home(home).build().await?;
//!
//! // A message: returns when alice has it on disk. It survives crashes of either side.
//! let to = alice.member().node_id;
//! bob.send(to, "hello", Duration::from_secs(30)).await?;
//! for message in alice.receive().await? {
//!     println!("{}: {:?}", message.from, message.body);
//! }
//!
//! // A stream: ordered bytes both ways, encrypted end to end, moved to another path when one fails.
//! let mut stream = bob.open_stream(to, "app/1").await?;
//! stream.send.write_all(b"as many bytes as you like").await?;
//! stream.send.finish()?;
//! # Ok(())
//! # }
//! ```
//!
//! Complete programs are in `examples/`: messages, a stream, a TCP service. [`Node::control`] gives everything else that the command
//! `meshara` can do, and [`api`] the same of a node in another process.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
mod frames;
mod join;
mod node;
mod store;

pub use crate::join::{JoinError, JoinOptions, JoinOutcome, MemberError, join};
pub use crate::node::offline;
pub use crate::node::{
    BuildError, Builder, BundleError, LockError, Node, OpeningError, Receipt, ResolveError, STREAM_DENIED,
    SendError, ServiceError, SessionError, SetsError, Stream, WorkloadError, audit_bundle, examine,
    export_trail, mesh_of, verify_trail, write_bundle,
};
#[doc(hidden)]
pub use crate::node::{decode_announcement, decode_opening, decodes_set_file};
pub use crate::store::StoreError;
#[doc(hidden)]
pub use crate::store::decodes_row;
pub use meshara_identity::home::HomeError;
pub use meshara_identity::{
    Lives, LivesError, Member, MeshName, NameError, NodeId, NodeName, Passphrase, UnixMillis, create_mesh,
    create_mesh_with,
};
pub use meshara_messaging::{InboxRow as Message, MessageId, SubmitError};
pub use meshara_overlay::Event;
pub use meshara_transport::quic::CongestionControl;
pub use meshara_trust::audit::{Report as TrailReport, TrailError};
