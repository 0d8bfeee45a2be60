//! The part of the control API that is about names and the interface for other programs.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::control::{Control, Result};
use super::routes::json;

/// `GET /v1/names`: a name of the mesh, and the node that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameInfo {
    /// Name in the mesh, as certified.
    pub name: String,
    /// The same as a name of DNS, `<name>.<mesh>.mesh`.
    pub dns: String,
    /// Mesh address, an IPv6 unique local address.
    pub address: String,
    /// NodeId, 64 lower-case hex digits.
    pub node_id: String,
    /// `spiffe://<mesh>/node/<name>`.
    pub spiffe_id: String,
    /// Whether a route leads there now; true for the node itself.
    pub reachable: bool,
}

/// The TUN interface of the node, in its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunInfo {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Largest packet in bytes.
    pub mtu: u16,
}

/// What this part of the API needs of a node.
pub trait InterfaceControl: Send + Sync + 'static {
    /// All names that are known, in order, the node's own among them.
    fn names(&self) -> impl Future<Output = Result<Vec<NameInfo>>> + Send;
}

pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new().route("/v1/names", get(async |State(c): State<Arc<C>>| json(c.names().await)))
}

impl Client {
    /// `GET /v1/names`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn names(&self) -> Result<Vec<NameInfo>> {
        self.get("/v1/names").await
    }
}
