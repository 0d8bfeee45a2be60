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
use super::routes::{Answer, json, read_json, read_json_up_to};
use super::timestamp::Timestamp;

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

/// `POST /v1/trust/federation`: another trust domain whose identities programs of this machine verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederationRequest {
    /// Its name: 1–255 of `a-z 0-9 . - _`.
    pub trust_domain: String,
    /// Its SPIFFE bundle, as it gave it. May be left out when it is fetched with the profile `https_web`.
    #[serde(default)]
    pub bundle: Option<serde_json::Value>,
    /// Where newer bundles are fetched.
    #[serde(default)]
    pub url: Option<String>,
    /// SPIFFE ID that the endpoint must prove (profile `https_spiffe`). Without one the endpoint proves the URL's host (`https_web`).
    #[serde(default)]
    pub endpoint_id: Option<String>,
}

/// What is held of another trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationInfo {
    /// Its name.
    pub trust_domain: String,
    /// Keys that sign X.509-SVIDs.
    pub x509_authorities: usize,
    /// Keys that sign tokens.
    pub jwt_authorities: usize,
    /// The bundle's number, if it has one.
    pub sequence: Option<u64>,
    /// Where newer bundles are fetched.
    pub url: Option<String>,
    /// SPIFFE ID that the endpoint must prove.
    pub endpoint_id: Option<String>,
    /// When a bundle was fetched last, in this life of the node.
    pub fetched_at: Option<Timestamp>,
    /// Why the last try to fetch one failed.
    pub last_error: Option<String>,
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

    /// Trusts another trust domain (or holds other things of it); remembered across restarts.
    fn federation_add(
        &self,
        request: FederationRequest,
    ) -> impl Future<Output = Result<FederationInfo>> + Send;

    /// The other trust domains, by name.
    fn federation_list(&self) -> impl Future<Output = Result<Vec<FederationInfo>>> + Send;

    /// Trusts another trust domain no more.
    fn federation_remove(&self, trust_domain: String) -> impl Future<Output = Result<FederationInfo>> + Send;
}

/// The routes.
pub(super) fn routes<C: Control>() -> Router<Arc<C>> {
    Router::new()
        .route(
            "/v1/workloads",
            get(async |State(c): State<Arc<C>>| json(c.workload_list().await)).post(add::<C>),
        )
        .route("/v1/workloads/{name}", delete(remove::<C>))
        .route(
            "/v1/trust/federation",
            get(async |State(c): State<Arc<C>>| json(c.federation_list().await)).post(federate::<C>),
        )
        .route("/v1/trust/federation/{trust_domain}", delete(unfederate::<C>))
        .route("/v1/trust/bundle", get(async |State(c): State<Arc<C>>| json(c.trust_bundle().await)))
}

async fn add<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let request = read_json(request).await?;
    json(control.workload_add(request).await)
}

async fn remove<C: Control>(State(control): State<Arc<C>>, Path(name): Path<String>) -> Answer {
    json(control.workload_remove(name).await)
}

/// Longest request to trust another trust domain: a bundle of 60 KiB, which JSON may escape.
const FEDERATION_REQUEST: usize = 256 * 1024;

async fn federate<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let request = read_json_up_to(request, FEDERATION_REQUEST).await?;
    json(control.federation_add(request).await)
}

async fn unfederate<C: Control>(State(control): State<Arc<C>>, Path(trust_domain): Path<String>) -> Answer {
    json(control.federation_remove(trust_domain).await)
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

    /// `POST /v1/trust/federation`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`InvalidArgument`](super::ErrorCode::InvalidArgument), [`Busy`](super::ErrorCode::Busy) when too many are
    /// held, [`Unreachable`](super::ErrorCode::Unreachable) when the bundle is to be fetched and isn't.
    pub async fn federation_add(&self, request: &FederationRequest) -> Result<FederationInfo> {
        self.post("/v1/trust/federation", request, MESH_TIMEOUT).await
    }

    /// `GET /v1/trust/federation`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn federation_list(&self) -> Result<Vec<FederationInfo>> {
        self.get("/v1/trust/federation").await
    }

    /// `DELETE /v1/trust/federation/{trust_domain}`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`UnknownTrustDomain`](super::ErrorCode::UnknownTrustDomain).
    pub async fn federation_remove(&self, trust_domain: &str) -> Result<FederationInfo> {
        self.delete(&format!("/v1/trust/federation/{trust_domain}")).await
    }
}
