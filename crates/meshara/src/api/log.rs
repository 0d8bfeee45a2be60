//! The part of the control API that is about the issuers' logs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::control::{Control, Result};
use super::routes::{Answer, json};

/// A log of a million entries is copied and audited within this on a slow disk.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// `POST /v1/trust/audit`: what an audit of every issuer's log found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditInfo {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Entries of all logs.
    pub entries: u64,
    /// Certificates among them.
    pub certificates: u64,
    /// Distinct witnesses of the newest checkpoint, of the log that has fewest.
    pub witnesses: u64,
    /// What is wrong, in words; at most 100 of each log.
    pub problems: Vec<String>,
    /// The mesh whose logs they are: fingerprint of its founder's root key, 64 lower-case hex digits. Compare it, where a bundle came from
    /// somebody else.
    pub mesh_id: String,
    /// Each log.
    pub logs: Vec<AuditedLog>,
    /// Lines of this node's own trail of security events, which were verified too.
    #[serde(default)]
    pub trail_lines: u64,
}

/// A log that was audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedLog {
    /// NodeId of the issuer that writes it.
    pub issuer: String,
    /// Its name in checkpoints.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// Root hash, base64 as checkpoints show it.
    pub head: String,
    /// Size of the newest checkpoint that has enough witnesses.
    pub witnessed: u64,
    /// Distinct witnesses of that.
    pub witnesses: u64,
    /// Whether it was fetched now. If not, what is audited is the copy kept from earlier.
    pub fetched: bool,
}

/// What the log part of the control API needs of a node.
pub trait LogControl: Send + Sync + 'static {
    /// Fetches every issuer's log and verifies all of it.
    fn trust_audit(&self) -> impl Future<Output = Result<AuditInfo>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new().route("/v1/trust/audit", post(audit::<C>))
}

async fn audit<C: Control>(State(control): State<Arc<C>>) -> Answer {
    json(control.trust_audit().await)
}

impl Client {
    /// `POST /v1/trust/audit`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn trust_audit(&self) -> Result<AuditInfo> {
        self.post("/v1/trust/audit", &serde_json::Map::new(), AUDIT_TIMEOUT).await
    }
}
