//! The part of the control API that is about trust: issuers, the log, this node's certificate.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{get, post};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::client::{Client, MESH_TIMEOUT};
use super::control::{Control, Result};
use super::error::{ApiError, ErrorCode};
use super::routes::{Answer, json, read_json};
use super::timestamp::Timestamp;

/// `GET /v1/trust`: what the node holds of the mesh's trust.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustStatus {
    /// Bootstrap phase, 0 to 3.
    pub phase: u8,
    /// The mesh: fingerprint of its founder's root key, 64 lower-case hex digits.
    pub mesh_id: String,
    /// Signers of the mesh root.
    pub roots: u64,
    /// Who may issue certificates.
    pub issuers: Vec<IssuerInfo>,
    /// The log that this node writes or follows.
    pub log: LogStatus,
    /// This node's certificate.
    pub certificate: OwnCertificate,
    /// Whether it is valid now. If not, the node is silent until it has another.
    pub valid: bool,
    /// Until then the node gets certificates by its node key alone.
    pub enrolled_until: Timestamp,
    /// For how many seconds the mesh's issuers make certificates now.
    pub leaf_life_s: u64,
    /// Why that long.
    pub leaf_life_reason: String,
    /// The highest number of a revocation snapshot that this node has seen; 0 for none.
    pub revocations: u64,
    /// Whether that snapshot revokes this node: no member talks with it.
    #[serde(default)]
    pub revoked: bool,
    /// When enough signers of the mesh last confirmed revocations and policy; absent (null) before the first word.
    #[serde(default)]
    pub signers_heard_at: Option<Timestamp>,
    /// Whether that is so long ago that this node accepts nothing.
    #[serde(default)]
    pub stale: bool,
}

/// A node with a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerInfo {
    /// NodeId.
    pub node_id: String,
    /// Its name; empty until learnt.
    pub name: String,
    /// Number of its grant.
    pub number: u64,
    /// End of its grant.
    pub not_after: Timestamp,
    /// Whether it is the node that was asked.
    pub this_node: bool,
    /// Whether this node holds evidence that the issuer's log forked: it signed for two pasts.
    #[serde(default)]
    pub log_forked: bool,
}

/// What is known of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Entries.
    pub size: u64,
    /// Root hash; absent (null) without a checkpoint.
    pub head: Option<String>,
    /// Witnesses that have cosigned it.
    pub witnesses: u64,
}

/// A certificate of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCertificate {
    /// Serial number, lower-case hex digits.
    pub serial: String,
    /// Beginning, dated back a little.
    pub not_before: Timestamp,
    /// End.
    pub not_after: Timestamp,
    /// When the node asks for the next one.
    pub renews_at: Timestamp,
    /// NodeId of the issuer.
    pub issuer: String,
    /// Its name; empty until learnt.
    pub issuer_name: String,
    /// Roles that it names, for policy.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Members that cosigned the head of the log to which the proof leads that this node shows for it; absent (null) until it holds one.
    #[serde(default)]
    pub witnesses: Option<u64>,
}

/// `POST /v1/trust/issuers`: who is to issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerRequest {
    /// The member: a name, a NodeId or a unique prefix of one.
    pub node: String,
    /// Sign nothing here; give back the grant as a statement for the root's signers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub propose: bool,
}

impl IssuerRequest {
    /// Make `node` an issuer, signed where it is asked.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), propose: false }
    }
}

/// The answer: who issues from now on, or will once the statement is signed and published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerAdded {
    /// NodeId.
    pub node_id: String,
    /// Name.
    pub name: String,
    /// Number of its grant.
    pub number: u64,
    /// End of its grant.
    pub not_after: Timestamp,
    /// The statement file for the root's signers, base64; absent when the node issues already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
}

impl IssuerAdded {
    /// The statement file, if signers have to sign it.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`]: not base64.
    pub fn statement_file(&self) -> Result<Option<Vec<u8>>> {
        let read = |text: &String| BASE64.decode(text.as_bytes());
        self.statement.as_ref().map(read).transpose().map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("the statement is not base64: {error}"))
        })
    }
}

/// What the trust part of the control API needs of a node.
pub trait TrustControl: Send + Sync + 'static {
    /// What the node holds of the mesh's trust.
    fn trust_status(&self) -> impl Future<Output = Result<TrustStatus>> + Send;

    /// Renews this node's certificate now; the new one, once it is in use.
    fn trust_renew(&self) -> impl Future<Output = Result<OwnCertificate>> + Send;

    /// Grants a running member the right to issue: where enough keys of the mesh's root are, or as a statement for its signers.
    fn trust_issuer_add(&self, request: IssuerRequest) -> impl Future<Output = Result<IssuerAdded>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new()
        .route("/v1/trust", get(async |State(c): State<Arc<C>>| json(c.trust_status().await)))
        .route("/v1/trust/renewals", post(async |State(c): State<Arc<C>>| json(c.trust_renew().await)))
        .route("/v1/trust/issuers", post(issuer_add::<C>))
}

async fn issuer_add<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.trust_issuer_add(read_json(request).await?).await)
}

impl Client {
    /// `GET /v1/trust`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn trust_status(&self) -> Result<TrustStatus> {
        self.get("/v1/trust").await
    }

    /// `POST /v1/trust/renewals`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`Unreachable`](super::ErrorCode::Unreachable) where no issuer answers,
    /// [`JoinRefused`](super::ErrorCode::JoinRefused) where one refuses.
    pub async fn trust_renew(&self) -> Result<OwnCertificate> {
        self.post("/v1/trust/renewals", &serde_json::Map::new(), MESH_TIMEOUT).await
    }

    /// `POST /v1/trust/issuers`.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`NotIssuer`](super::ErrorCode::NotIssuer) where the mesh root isn't,
    /// [`NeedsApprovals`](super::ErrorCode::NeedsApprovals) where others must sign, [`Unreachable`](super::ErrorCode::Unreachable).
    pub async fn trust_issuer_add(&self, request: &IssuerRequest) -> Result<IssuerAdded> {
        self.post("/v1/trust/issuers", request, MESH_TIMEOUT).await
    }
}
