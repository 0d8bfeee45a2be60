//! The part of the control API that is about workloads: which programs have which identity, and the trust bundle.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::routing::{delete, get};
use serde::{Deserialize, Serialize};

use super::client::{Client, MESH_TIMEOUT};
use super::control::{Control, Result};
use super::routes::{Answer, json, read_json};

/// `POST /v1/workloads`: a program to register. At least one of `uid` and `exe`; both hold together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRequest {
    /// Last part of its SPIFFE ID: 1–63 of `a-z 0-9 -`.
    pub name: String,
    /// User id that it runs as.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Absolute path of its program file.
    #[serde(default)]
    pub exe: Option<PathBuf>,
}

/// A registered workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadInfo {
    /// Its name.
    pub name: String,
    /// The identity that it gets.
    pub spiffe_id: String,
    /// User id that it runs as.
    pub uid: Option<u32>,
    /// Its program file.
    pub exe: Option<PathBuf>,
}

/// What the workload part of the control API needs of a node.
pub trait WorkloadControl: Send + Sync + 'static {
    /// Registers (or replaces) a workload; remembered across restarts.
    fn workload_add(&self, request: WorkloadRequest) -> impl Future<Output = Result<WorkloadInfo>> + Send;

    /// The registered workloads, by name.
    fn workload_list(&self) -> impl Future<Output = Result<Vec<WorkloadInfo>>> + Send;

    /// Forgets a workload. It gets nothing new, and what it has ends within an hour.
    fn workload_remove(&self, name: String) -> impl Future<Output = Result<WorkloadInfo>> + Send;

    /// The SPIFFE bundle of the mesh: what another trust domain must know to verify this one's workloads.
    fn trust_bundle(&self) -> impl Future<Output = Result<serde_json::Value>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new()
        .route(
            "/v1/workloads",
            get(async |State(c): State<Arc<C>>| json(c.workload_list().await)).post(add::<C>),
        )
        .route("/v1/workloads/{name}", delete(remove::<C>))
        .route("/v1/trust/bundle", get(async |State(c): State<Arc<C>>| json(c.trust_bundle().await)))
}

async fn add<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let request = read_json(request).await?;
    json(control.workload_add(request).await)
}

async fn remove<C: Control>(State(control): State<Arc<C>>, Path(name): Path<String>) -> Answer {
    json(control.workload_remove(name).await)
}

impl Client {
    /// `POST /v1/workloads`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`InvalidArgument`](super::ErrorCode::InvalidArgument), [`Busy`](super::ErrorCode::Busy) when too many are
    /// registered.
    pub async fn workload_add(&self, request: &WorkloadRequest) -> Result<WorkloadInfo> {
        self.post("/v1/workloads", request, MESH_TIMEOUT).await
    }

    /// `GET /v1/workloads`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn workload_list(&self) -> Result<Vec<WorkloadInfo>> {
        self.get("/v1/workloads").await
    }

    /// `DELETE /v1/workloads/{name}`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`UnknownWorkload`](super::ErrorCode::UnknownWorkload).
    pub async fn workload_remove(&self, name: &str) -> Result<WorkloadInfo> {
        self.delete(&format!("/v1/workloads/{name}")).await
    }

    /// `GET /v1/trust/bundle`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`Unreachable`](super::ErrorCode::Unreachable) until an issuer has told its roots.
    pub async fn trust_bundle(&self) -> Result<serde_json::Value> {
        self.get("/v1/trust/bundle").await
    }
}
