//! The part of the control API that is about the mesh's root, its signers and phases; and what the signers' commands show.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{get, post};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::client::{Client, MESH_TIMEOUT};
use super::control::{Control, Result};
use super::error::{ApiError, ErrorCode};
use super::routes::{Answer, json, read_json, read_json_up_to};
use super::timestamp::Timestamp;

/// Largest request to publish: the largest set, 64 signatures, all in base64.
const MAX_PUBLISH: usize = 16 << 20;
/// An audit of the logs is part of a gate.
const GATE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A signer's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerInfo {
    /// The person or node that holds it; who counts.
    pub name: String,
    /// Fingerprint of both public keys, 64 lower-case hex digits.
    pub key: String,
}

/// Signers, and how many of them must approve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumInfo {
    /// Distinct signers that must approve.
    pub threshold: u64,
    /// Their keys.
    pub signers: Vec<SignerInfo>,
}

/// A version of the root document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootInfo {
    /// The mesh.
    pub mesh_id: String,
    /// From 1.
    pub version: u64,
    /// Bootstrap phase, 0 to 3.
    pub phase: u8,
    /// What it is called.
    pub phase_name: String,
    /// Root signers that must approve the next version.
    pub threshold: u64,
    /// Root signers' keys.
    pub signers: Vec<SignerInfo>,
    /// Who signs revocations, policy and freshness.
    pub authority: QuorumInfo,
    /// When it was written.
    pub issued_at: Timestamp,
    /// From then on only the next version counts.
    pub expires_at: Timestamp,
    /// Grants of issuers that stand under it, whoever signed them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantName>,
    /// Whether it has not ended.
    pub valid: bool,
}

/// A grant that a root document names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantName {
    /// The issuer.
    pub node_id: String,
    /// The grant's number.
    pub number: u64,
    /// Hash of the grant's statement, 64 lower-case hex digits: what the name stands for.
    pub hash: String,
    /// Fingerprint of the CA key; absent where this home does not hold the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Whether this home holds the grant, and goes by it; absent where it holds none of this mesh, or was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
}

/// A grant in a statement: who may issue, with which key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantInfo {
    /// Name of the mesh.
    pub mesh: String,
    /// The node that may issue.
    pub node_id: String,
    /// The grant's number.
    pub number: u64,
    /// Fingerprint of the CA key, which the node made.
    pub ca: String,
    /// How long each certificate lasts, seconds; absent for the default: 1 h, and 24 h while the mesh has one issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_s: Option<u64>,
    /// How long each enrolment lasts, seconds.
    pub enrolment_s: u64,
    /// It may issue from here…
    pub not_before: Timestamp,
    /// …to here.
    pub not_after: Timestamp,
}

/// A revocation in a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationInfo {
    /// The node.
    pub node_id: String,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
    /// Whether the set that this home holds lacks it; absent where it holds none of this mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<bool>,
}

/// What a statement file asks to sign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatementInfo {
    /// The file.
    pub file: PathBuf,
    /// `root`, `revocations`, `policy` or `grant`.
    pub kind: String,
    /// Version or number.
    pub number: u64,
    /// The mesh.
    pub mesh_id: String,
    /// When it was written.
    pub issued_at: Timestamp,
    /// Hash of the set before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Of a root document: what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootInfo>,
    /// Of revocations: how many nodes are revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// All of them, new ones first, then by their times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<RevocationInfo>,
    /// All that were taken back, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reinstated: Vec<RevocationInfo>,
    /// Of a policy: its rules, as a file that `policy apply` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Of a grant: what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantInfo>,
}

/// A signer's key file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Fingerprint of both public keys.
    pub key: String,
    /// The file with the secret keys.
    pub file: PathBuf,
    /// The file with the public ones.
    pub public: PathBuf,
    /// Whether the secret keys are sealed with a passphrase.
    pub sealed: bool,
}

/// A signature that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureInfo {
    /// Fingerprint of the key.
    pub key: String,
    /// The file.
    pub file: PathBuf,
}

/// `POST /v1/trust/publish`: a statement with its signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The statement file, base64.
    pub statement: String,
    /// The signature files, base64.
    pub signatures: Vec<String>,
}

impl PublishRequest {
    /// A request with these files.
    pub fn new(statement: &[u8], signatures: &[Vec<u8>]) -> Self {
        let signatures = signatures.iter().map(|bytes| BASE64.encode(bytes)).collect();
        Self { statement: BASE64.encode(statement), signatures }
    }

    /// The files.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`]: not base64.
    pub fn files(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        let read = |text: &String| {
            BASE64.decode(text.as_bytes()).map_err(|error| {
                ApiError::new(ErrorCode::InvalidArgument, format!("a file is not base64: {error}"))
            })
        };
        Ok((read(&self.statement)?, self.signatures.iter().map(read).collect::<Result<_>>()?))
    }
}

/// What the mesh goes by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedInfo {
    /// `root`, `revocations`, `policy` or `grant`.
    pub kind: String,
    /// Version or number.
    pub number: u64,
    /// Whether it was known already.
    pub known: bool,
}

/// A predicate of a gate, as it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePredicate {
    /// What was counted.
    pub what: String,
    /// How many.
    pub value: u64,
    /// How many are needed.
    pub need: String,
    /// Whether it holds.
    pub holds: bool,
}

/// `GET /v1/trust/phase`: how far the mesh has left its founder behind, and what the next phase needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseInfo {
    /// 0 to 3.
    pub phase: u8,
    /// What it is called.
    pub name: String,
    /// Version of the root document that says so.
    pub version: u64,
    /// The next phase; absent (null) in the last one.
    pub next: Option<u8>,
    /// What that is called.
    pub next_name: Option<String>,
    /// Whether every predicate of its gate holds.
    pub ready: bool,
    /// The predicates.
    pub gate: Vec<GatePredicate>,
}

/// `POST /v1/trust/phase`: the mesh is to enter its next phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvanceRequest {
    /// Sign it although this node's keys signed another root document of its version, which was never published and never will be.
    #[serde(default)]
    pub instead: bool,
}

/// What the control API needs of a node for the root, its signers and phases.
pub trait RootControl: Send + Sync + 'static {
    /// Publishes a statement that enough signers signed.
    fn trust_publish(&self, request: PublishRequest) -> impl Future<Output = Result<PublishedInfo>> + Send;

    /// The phase, and the gate of the next one as it is now.
    fn trust_phase(&self) -> impl Future<Output = Result<PhaseInfo>> + Send;

    /// Enters the next phase, if its gate holds.
    fn trust_phase_advance(
        &self,
        request: AdvanceRequest,
    ) -> impl Future<Output = Result<PublishedInfo>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new().route("/v1/trust/publish", post(publish::<C>)).route(
        "/v1/trust/phase",
        get(async |State(c): State<Arc<C>>| json(c.trust_phase().await)).post(advance::<C>),
    )
}

async fn publish<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.trust_publish(read_json_up_to(request, MAX_PUBLISH).await?).await)
}

async fn advance<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.trust_phase_advance(read_json(request).await?).await)
}

impl Client {
    /// `POST /v1/trust/publish`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`ErrorCode::NeedsApprovals`] when signatures are missing, [`ErrorCode::InvalidArgument`] when a file
    /// can't be used.
    pub async fn trust_publish(&self, request: &PublishRequest) -> Result<PublishedInfo> {
        self.post("/v1/trust/publish", request, MESH_TIMEOUT).await
    }

    /// `GET /v1/trust/phase`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn trust_phase(&self) -> Result<PhaseInfo> {
        self.get_within("/v1/trust/phase", GATE_TIMEOUT).await
    }

    /// `POST /v1/trust/phase`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`ErrorCode::GateClosed`], [`ErrorCode::NeedsApprovals`] when others must sign, and
    /// [`ErrorCode::InvalidArgument`] when this node's keys signed another root document of that version.
    pub async fn trust_phase_advance(&self, request: &AdvanceRequest) -> Result<PublishedInfo> {
        self.post("/v1/trust/phase", request, GATE_TIMEOUT).await
    }
}
