//! The routes of the control API: decode the request, ask the node, encode its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::{Control, Events, Result};
use super::error::{ApiError, ErrorCode, ErrorEnvelope};
use super::lines::Lines;
use super::types::{
    AddPeerRequest, BenchRequest, ConnectRequest, ConsumeRequest, InviteRequest, NodeRequest, PingRequest,
    SendQuery, ServeRequest,
};
use super::{MAX_CONSUME, MAX_MESSAGE};

/// Largest body of a request that is no message: the largest is `consume` with [`MAX_CONSUME`] messages.
const MAX_REQUEST: usize = 64 << 10;
/// A reader that takes this long to hand over a request body that it announced is stuck.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The whole API of a node as an axum router.
pub fn router<C: Control>(control: Arc<C>) -> Router {
    Router::new()
        .route("/health", get(async || "ok\n"))
        .route(
            "/ready",
            get(async |State(c): State<Arc<C>>| c.ready().await.map(|()| "ok\n").map_err(Failure)),
        )
        .route("/metrics", get(metrics::<C>))
        .route("/v1/status", get(async |State(c): State<Arc<C>>| json(c.status().await)))
        .route("/v1/id", get(async |State(c): State<Arc<C>>| json(c.id().await)))
        .route("/v1/peers", get(async |State(c): State<Arc<C>>| json(c.peers().await)).post(add_peer::<C>))
        .route("/v1/routes", get(async |State(c): State<Arc<C>>| json(c.routes().await)))
        .route("/v1/resolve", post(resolve::<C>))
        .route("/v1/invite", post(invite::<C>))
        .route("/v1/ping", post(ping::<C>))
        .route("/v1/trace", post(trace::<C>))
        .route("/v1/send", post(send::<C>))
        .route("/v1/messages", get(async |State(c): State<Arc<C>>| json(c.unread().await)))
        .route("/v1/messages/consume", post(consume::<C>))
        .route("/v1/messages/follow", get(async |State(c): State<Arc<C>>| lines(c.follow().await)))
        .route(
            "/v1/services",
            get(async |State(c): State<Arc<C>>| json(c.serve_list().await)).post(serve_add::<C>),
        )
        .route("/v1/services/{name}", delete(serve_remove::<C>))
        .route("/v1/connect", post(connect::<C>))
        .route("/v1/bench", post(bench::<C>))
        .route("/v1/doctor", get(async |State(c): State<Arc<C>>| json(c.doctor().await)))
        .merge(super::admission::routes())
        .merge(super::policy::routes())
        .merge(super::trust::routes())
        .merge(super::root::routes())
        .merge(super::workload::routes())
        .merge(super::log::routes())
        .merge(super::interface::routes())
        .route("/v1/shutdown", post(async |State(c): State<Arc<C>>| empty(c.shutdown().await)))
        .fallback(async |method: Method, uri: Uri| not_found(&method, &uri))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let mut response = not_found(&method, &uri).into_response();
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response
        })
        .layer(middleware::from_fn(taken_whole))
        .with_state(control)
}

/// Takes a short body before the request is looked at. An operation that has no use for its body would be answered, and the connection closed,
/// while the body is still under way; what comes after a close makes the system reset the connection, and takes the answer from the client.
async fn taken_whole(request: Request, next: Next) -> Answer {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_none_or(|length| length == 0 || length > MAX_REQUEST) {
        return Ok(next.run(request).await);
    }
    let (head, body) = request.into_parts();
    let body = read_body(body, MAX_REQUEST, "a request").await?;
    Ok(next.run(Request::from_parts(head, body.into())).await)
}

async fn metrics<C: Control>(State(control): State<Arc<C>>) -> Answer {
    let text = control.metrics_text().await.map_err(Failure)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn add_peer<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let AddPeerRequest { addr } = read_json(request).await?;
    empty(control.add_peer(addr).await)
}

async fn resolve<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let NodeRequest { node } = read_json(request).await?;
    json(control.resolve(node).await)
}

async fn invite<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let asked: InviteRequest = read_json(request).await?;
    if asked.ttl_ms == 0 || asked.uses == 0 {
        return Err(Failure(invalid("a ticket needs a time to live and at least one use")));
    }
    json(control.invite_as(asked).await)
}

async fn ping<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let ping: PingRequest = read_json(request).await?;
    if ping.count == 0 || !ping.interval_ms.is_finite() || ping.interval_ms <= 0.0 {
        return Err(Failure(invalid("a ping needs a count of at least 1 and an interval above 0")));
    }
    lines(control.ping(ping).await)
}

async fn trace<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let NodeRequest { node } = read_json(request).await?;
    json(control.trace(node).await)
}

async fn send<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let SendQuery { to, timeout_ms } = match Query::try_from_uri(request.uri()) {
        Ok(Query(query)) => query,
        Err(error) => return Err(Failure(invalid(error.body_text()))),
    };
    let body = read_body(request.into_body(), MAX_MESSAGE, "a message").await?;
    json(control.send(to, body, Duration::from_millis(timeout_ms)).await)
}

async fn consume<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let ConsumeRequest { messages } = read_json(request).await?;
    if messages.len() > MAX_CONSUME {
        return Err(Failure(invalid(format!("at most {MAX_CONSUME} messages are consumed at once"))));
    }
    empty(control.consume(messages).await)
}

async fn serve_add<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let ServeRequest { name, tcp } = read_json(request).await?;
    json(control.serve_add(name, tcp).await)
}

async fn serve_remove<C: Control>(State(control): State<Arc<C>>, Path(name): Path<String>) -> Answer {
    json(control.serve_remove(name).await)
}

async fn connect<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let connect: ConnectRequest = read_json(request).await?;
    lines(control.connect(connect).await)
}

async fn bench<C: Control>(State(control): State<Arc<C>>, request: Request) -> Answer {
    let bench: BenchRequest = read_json(request).await?;
    if bench.duration_ms == 0 || bench.streams == 0 {
        return Err(Failure(invalid("a bench needs a duration and at least one stream")));
    }
    lines(control.bench(bench).await)
}

pub(super) type Answer = std::result::Result<Response, Failure>;

/// An error as a response: its HTTP status and its envelope.
pub(super) struct Failure(ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(ErrorEnvelope::from(self.0))).into_response()
    }
}

pub(super) fn json<T: Serialize>(result: Result<T>) -> Answer {
    Ok(axum::Json(result?).into_response())
}

fn empty(result: Result<()>) -> Answer {
    json(result.map(|()| serde_json::Map::new()))
}

fn lines<T: Serialize + Send + 'static>(result: Result<Events<T>>) -> Answer {
    let body = Body::new(Lines::new(result?));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn not_found(method: &Method, uri: &Uri) -> Failure {
    Failure(
        ApiError::new(ErrorCode::NotFound, format!("the control API has no {method} {}", uri.path()))
            .hint("docs/control-api.md lists the routes; a newer command needs a newer node"),
    )
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, message)
}

pub(super) async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T> {
    read_json_up_to(request, MAX_REQUEST).await
}

/// A request that may be as long as this.
pub(super) async fn read_json_up_to<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T> {
    let body = read_body(request.into_body(), limit, "a request").await?;
    serde_json::from_slice(&body).map_err(|error| invalid(format!("the request does not read: {error}")))
}

async fn read_body(body: Body, limit: usize, what: &str) -> Result<Bytes> {
    let body = Limited::new(body, limit).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::new(ErrorCode::TooLarge, format!("{what} holds at most {limit} bytes")))
        }
        Ok(Err(error)) => Err(invalid(format!("the request's body ended early: {error}"))),
        Err(_) => Err(ApiError::new(ErrorCode::Timeout, "the request's body did not arrive")),
    }
}
