//! The part of the control API that is about revocation and policy.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

use super::client::{Client, MESH_TIMEOUT};
use super::control::{Control, Result};
use super::routes::{Answer, json, read_json, read_json_up_to};
use super::timestamp::Timestamp;

/// Largest request to apply a policy: 10,000 rules of 800 bytes, every byte escaped.
const MAX_POLICY: usize = 16 << 20;

/// `POST /v1/trust/revocations`: a node that is to be a member no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Name, NodeId or unique prefix.
    pub node: String,
    /// Why: at most 200 characters of one line.
    pub reason: String,
    /// Also the last issuer: nobody gets or renews a certificate from then on.
    #[serde(default)]
    pub force: bool,
}

/// A node that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRevoked {
    /// Number of the snapshot that says so.
    pub number: u64,
    /// NodeId, 64 lower-case hex digits.
    pub node_id: String,
    /// What follows where the node was an issuer; absent where it wasn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerRevoked>,
}

/// An issuer was revoked, and with it every certificate that it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRevoked {
    /// Members with a certificate of its, of those that the asked node knows: they must renew with another issuer.
    pub members: u64,
    /// Issuers that are left.
    pub issuers_left: u64,
}

/// `POST /v1/trust/reinstatements`: a revoked node that may take part again. Answered as a revocation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReinstateRequest {
    /// NodeId, a unique prefix of a revoked one, or the name under which this node's issuer admitted it.
    pub node: String,
    /// Why: at most 200 characters of one line.
    pub reason: String,
}

/// `POST /v1/trust/roles`: roles that a member's next certificate names besides, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolesRequest {
    /// Name, NodeId or unique prefix.
    pub node: String,
    /// Roles that it gets.
    #[serde(default)]
    pub add: Vec<String>,
    /// Roles that it loses.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A member's roles from its next certificate on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolesChanged {
    /// NodeId, 64 lower-case hex digits.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// All roles that it has, sorted.
    pub roles: Vec<String>,
}

/// `GET /v1/policy`: the policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Number of the set; 0 for the starter policy.
    pub number: u64,
    /// When it was signed; absent (null) for the starter policy.
    pub issued_at: Option<Timestamp>,
    /// How many rules it has.
    pub rules: u64,
    /// The policy as a file that `policy apply` takes.
    pub text: String,
}

/// `POST /v1/policy`: a policy to sign and send to every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    /// The policy file.
    pub text: String,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyApplied {
    /// Number of the set; with `dry_run` the one that it would have.
    pub number: u64,
    /// How many rules it has.
    pub rules: u64,
    /// Names of rules that the policy before did not have.
    pub added: Vec<String>,
    /// Names of rules that only the policy before had.
    pub removed: Vec<String>,
    /// Names of rules that say something else now.
    pub changed: Vec<String>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// `POST /v1/policy/check`: would this be allowed now?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCheckRequest {
    /// Who asks: name, NodeId or unique prefix; the name of a node that isn't known yet stands for one without roles.
    pub node: String,
    /// For what: `NODE/SERVICE`, or `KIND:NAME` as in rules.
    pub target: String,
    /// Also say what each rule says.
    #[serde(default)]
    pub explain: bool,
}

/// What a policy decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCheck {
    /// Whether it is allowed, rates and evidence apart.
    pub allowed: bool,
    /// The rule that decides; `default` when none matches.
    pub rule: String,
    /// Every rule in the order of the file, when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<PolicyLooked>,
}

/// A rule and what it says to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLooked {
    /// Its name.
    pub rule: String,
    /// `allow` or `deny`.
    pub effect: String,
    /// `matches`, `other_caller`, `other_target` or `other_time`.
    pub why: String,
}

/// What the control API needs of a node for revocation and policy.
pub trait PolicyControl: Send + Sync + 'static {
    /// Revokes a node. Only where the key that signs for the mesh is.
    fn trust_revoke(&self, request: RevokeRequest) -> impl Future<Output = Result<NodeRevoked>> + Send;

    /// Lets a revoked node take part again. Only where the key that signs for the mesh is.
    fn trust_reinstate(&self, request: ReinstateRequest) -> impl Future<Output = Result<NodeRevoked>> + Send;

    /// Changes the roles of a member that this node's issuer knows.
    fn trust_roles(&self, request: RolesRequest) -> impl Future<Output = Result<RolesChanged>> + Send;

    /// The policy in force.
    fn policy_show(&self) -> impl Future<Output = Result<PolicyInfo>> + Send;

    /// Signs a policy and sends it to every node. Only where the key that signs for the mesh is.
    fn policy_apply(&self, request: PolicyRequest) -> impl Future<Output = Result<PolicyApplied>> + Send;

    /// Whether something would be allowed.
    fn policy_check(&self, request: PolicyCheckRequest) -> impl Future<Output = Result<PolicyCheck>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new()
        .route("/v1/trust/revocations", post(revoke::<C>))
        .route("/v1/trust/reinstatements", post(reinstate::<C>))
        .route("/v1/trust/roles", post(change_roles::<C>))
        .route(
            "/v1/policy",
            get(async |State(c): State<Arc<C>>| json(c.policy_show().await)).post(apply::<C>),
        )
        .route("/v1/policy/check", post(check::<C>))
}

async fn revoke<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.trust_revoke(read_json(request).await?).await)
}

async fn reinstate<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.trust_reinstate(read_json(request).await?).await)
}

async fn change_roles<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.trust_roles(read_json(request).await?).await)
}

async fn apply<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.policy_apply(read_json_up_to(request, MAX_POLICY).await?).await)
}

async fn check<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    json(control.policy_check(read_json(request).await?).await)
}

impl Client {
    /// `POST /v1/trust/revocations`.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`NotAuthority`](super::ErrorCode::NotAuthority) where the signing key isn't.
    pub async fn trust_revoke(&self, request: &RevokeRequest) -> Result<NodeRevoked> {
        self.post("/v1/trust/revocations", request, MESH_TIMEOUT).await
    }

    /// `POST /v1/trust/reinstatements`.
    ///
    /// # Errors
    /// As [`trust_revoke`](Self::trust_revoke); [`InvalidArgument`](super::ErrorCode::InvalidArgument) for a node that isn't revoked.
    pub async fn trust_reinstate(&self, request: &ReinstateRequest) -> Result<NodeRevoked> {
        self.post("/v1/trust/reinstatements", request, MESH_TIMEOUT).await
    }

    /// `POST /v1/trust/roles`.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`NotIssuer`](super::ErrorCode::NotIssuer), [`InvalidArgument`](super::ErrorCode::InvalidArgument).
    pub async fn trust_roles(&self, request: &RolesRequest) -> Result<RolesChanged> {
        self.post("/v1/trust/roles", request, MESH_TIMEOUT).await
    }

    /// `GET /v1/policy`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn policy_show(&self) -> Result<PolicyInfo> {
        self.get("/v1/policy").await
    }

    /// `POST /v1/policy`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`InvalidArgument`](super::ErrorCode::InvalidArgument) with line and rule,
    /// [`NotAuthority`](super::ErrorCode::NotAuthority) where the signing key isn't.
    pub async fn policy_apply(&self, request: &PolicyRequest) -> Result<PolicyApplied> {
        self.post("/v1/policy", request, MESH_TIMEOUT).await
    }

    /// `POST /v1/policy/check`.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`InvalidArgument`](super::ErrorCode::InvalidArgument).
    pub async fn policy_check(&self, request: &PolicyCheckRequest) -> Result<PolicyCheck> {
        self.post("/v1/policy/check", request, MESH_TIMEOUT).await
    }
}
