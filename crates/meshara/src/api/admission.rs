//! The part of the control API that is about who may join: nodes that wait for an operator's approval, and the issuer's list.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::routing::{delete, get};
use serde::{Deserialize, Serialize};

use super::client::{Client, MESH_TIMEOUT};
use super::control::{Control, Result};
use super::routes::{Answer, json, read_json};
use super::timestamp::Timestamp;
use super::types::{Invite, InviteRequest};

/// A node that asked to join with a ticket that asks for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinApplication {
    /// Names this application: this node, under this name, with this ticket. A decision says it.
    pub request: String,
    /// The node, which proved its key.
    pub node_id: String,
    /// The name that it asks for.
    pub name: String,
    /// When it first asked.
    pub since: Timestamp,
    /// `waiting`, `approved` or `declined`. One that has joined, or whose ticket has ended, is no longer here.
    pub decision: String,
    /// The roles that its ticket gives it, beside those that a decision does.
    pub ticket_roles: Vec<String>,
}

/// `POST /v1/trust/requests`: what an operator decides about a node that asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinDecision {
    /// [`JoinApplication::request`] of the application that was looked at: where the node has asked for something else since, nothing is
    /// decided.
    pub request: String,
    /// Whether it may join.
    pub approve: bool,
    /// Roles beside those of its ticket.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// A node on the issuer's list; also `POST /v1/trust/allowed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedNode {
    /// The whole NodeId.
    pub node_id: String,
    /// The only name that it may have; any free one without.
    #[serde(default)]
    pub name: Option<String>,
    /// Roles beside those of its ticket.
    #[serde(default)]
    pub roles: Vec<String>,
}

/// What the admission part of the control API needs of a node.
pub trait AdmissionControl: Send + Sync + 'static {
    /// A new ticket of this node's issuer.
    fn invite_as(&self, request: InviteRequest) -> impl Future<Output = Result<Invite>> + Send;

    /// The nodes that wait for approval by this node's issuer, the longest waiting first.
    fn join_requests(&self) -> impl Future<Output = Result<Vec<JoinApplication>>> + Send;

    /// Lets one of them join, or not.
    fn join_decide(&self, decision: JoinDecision) -> impl Future<Output = Result<JoinApplication>> + Send;

    /// The nodes on this issuer's list.
    fn allowed_list(&self) -> impl Future<Output = Result<Vec<AllowedNode>>> + Send;

    /// Puts a node on the list, or changes what the list says of it.
    fn allowed_add(&self, allowed: AllowedNode) -> impl Future<Output = Result<AllowedNode>> + Send;

    /// Takes a node off the list. One that has joined stays a member.
    fn allowed_remove(&self, node_id: String) -> impl Future<Output = Result<AllowedNode>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new()
        .route(
            "/v1/trust/requests",
            get(async |State(c): State<Arc<C>>| json(c.join_requests().await)).post(decide::<C>),
        )
        .route(
            "/v1/trust/allowed",
            get(async |State(c): State<Arc<C>>| json(c.allowed_list().await)).post(add::<C>),
        )
        .route("/v1/trust/allowed/{node_id}", delete(remove::<C>))
}

async fn decide<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let decision = read_json(request).await?;
    json(control.join_decide(decision).await)
}

async fn add<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let allowed = read_json(request).await?;
    json(control.allowed_add(allowed).await)
}

async fn remove<C: Control>(State(control): State<Arc<C>>, Path(node_id): Path<String>) -> Answer {
    json(control.allowed_remove(node_id).await)
}

impl Client {
    /// `GET /v1/trust/requests`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`NotIssuer`](super::ErrorCode::NotIssuer).
    pub async fn join_requests(&self) -> Result<Vec<JoinApplication>> {
        self.get("/v1/trust/requests").await
    }

    /// `POST /v1/trust/requests`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`NotIssuer`](super::ErrorCode::NotIssuer), [`UnknownNode`](super::ErrorCode::UnknownNode) when no such node
    /// asks so any more.
    pub async fn join_decide(&self, decision: &JoinDecision) -> Result<JoinApplication> {
        self.post("/v1/trust/requests", decision, MESH_TIMEOUT).await
    }

    /// `GET /v1/trust/allowed`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`NotIssuer`](super::ErrorCode::NotIssuer).
    pub async fn allowed_list(&self) -> Result<Vec<AllowedNode>> {
        self.get("/v1/trust/allowed").await
    }

    /// `POST /v1/trust/allowed`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`NotIssuer`](super::ErrorCode::NotIssuer), [`InvalidArgument`](super::ErrorCode::InvalidArgument),
    /// [`Busy`](super::ErrorCode::Busy) when the list is full.
    pub async fn allowed_add(&self, allowed: &AllowedNode) -> Result<AllowedNode> {
        self.post("/v1/trust/allowed", allowed, MESH_TIMEOUT).await
    }

    /// `DELETE /v1/trust/allowed/{node_id}`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`NotIssuer`](super::ErrorCode::NotIssuer), [`UnknownNode`](super::ErrorCode::UnknownNode).
    pub async fn allowed_remove(&self, node_id: &str) -> Result<AllowedNode> {
        self.delete(&format!("/v1/trust/allowed/{node_id}")).await
    }
}
