//! A client of the control API: what `meshara` uses to reach the node that runs on a home.

mod lines;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::lines::Connection;
pub use self::lines::LineStream;
use super::control::Result;
use super::error::{ApiError, ErrorCode, ErrorEnvelope};
use super::socket::{connect, socket_path};
use super::types::{
    AddPeerRequest, BenchEvent, BenchRequest, ConnectEvent, ConnectRequest, ConsumeRequest, DoctorFacts,
    IdInfo, Invite, InviteRequest, MessageRef, NodeRef, NodeRequest, PeerInfo, PingEvent, PingRequest,
    Received, RouteInfo, SendReceipt, ServeRequest, ServiceInfo, Status, Trace,
};
use super::{MAX_CONSUME, MAX_MESSAGE};

/// How long a node may take over a question that it answers from memory. One that is stopped or hangs is told apart from
/// one that is busy.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A trace may meet hops that are silent; a node asked to open something may first make a session.
pub(super) const MESH_TIMEOUT: Duration = Duration::from_secs(20);
/// Added to the time that the node was given, for the answer to arrive.
const MARGIN: Duration = Duration::from_secs(2);
/// Largest answer read: 10,000 routes with their alternates, or a batch of unread messages whose every byte is escaped.
const MAX_ANSWER: usize = 64 << 20;
/// Speaks to the node of one home. Every call is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    home: PathBuf,
}

impl Client {
    /// For the node that runs (or not) on `home`.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// The home.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// Here and below: [`ErrorCode::NotRunning`] when no node answers, [`ErrorCode::PermissionDenied`] when the home is
    /// another user's, [`ErrorCode::Timeout`] when the node hangs, [`ErrorCode::Protocol`] when what answers is no
    /// Meshara node, else what the node says.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// `GET /v1/id`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn id(&self) -> Result<IdInfo> {
        self.get("/v1/id").await
    }

    /// `GET /v1/peers`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn peers(&self) -> Result<Vec<PeerInfo>> {
        self.get("/v1/peers").await
    }

    /// `GET /v1/routes`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn routes(&self) -> Result<Vec<RouteInfo>> {
        self.get("/v1/routes").await
    }

    /// `GET /metrics`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn metrics(&self) -> Result<String> {
        let body = self.call(Method::GET, "/metrics", Bytes::new(), ANSWER_TIMEOUT).await?;
        String::from_utf8(body.into()).map_err(|_| self.protocol("the metrics are not text"))
    }

    /// `GET /ready`.
    ///
    /// # Errors
    /// See [`Client::status`]; also whatever keeps the node from carrying traffic.
    pub async fn ready(&self) -> Result<()> {
        self.call(Method::GET, "/ready", Bytes::new(), ANSWER_TIMEOUT).await.map(|_| ())
    }

    /// `GET /v1/doctor`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn doctor(&self) -> Result<DoctorFacts> {
        self.get("/v1/doctor").await
    }

    /// `POST /v1/resolve`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`ErrorCode::UnknownNode`] or [`ErrorCode::AmbiguousNode`].
    pub async fn resolve(&self, node: &str) -> Result<NodeRef> {
        self.post("/v1/resolve", &NodeRequest { node: node.to_owned() }, ANSWER_TIMEOUT).await
    }

    /// `POST /v1/invite`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`ErrorCode::NotIssuer`].
    pub async fn invite(&self, request: &InviteRequest) -> Result<Invite> {
        self.post("/v1/invite", request, ANSWER_TIMEOUT).await
    }

    /// `POST /v1/trace`.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`ErrorCode::Unreachable`].
    pub async fn trace(&self, node: &str) -> Result<Trace> {
        self.post("/v1/trace", &NodeRequest { node: node.to_owned() }, MESH_TIMEOUT).await
    }

    /// `POST /v1/send`: resolves when the receiver has stored the message.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`ErrorCode::TooLarge`], [`ErrorCode::Busy`], [`ErrorCode::Timeout`].
    pub async fn send(&self, to: &str, body: Bytes, timeout: Duration) -> Result<SendReceipt> {
        if body.len() > MAX_MESSAGE {
            let message = format!("a message holds at most {MAX_MESSAGE} bytes, this one has {}", body.len());
            return Err(ApiError::new(ErrorCode::TooLarge, message)
                .hint("send larger contents as a stream: see `serve` and `connect`"));
        }
        let uri = format!("/v1/send?to={}&timeout_ms={}", percent_encode(to), timeout.as_millis());
        let answer = self.call(Method::POST, &uri, body, timeout.saturating_add(MARGIN)).await?;
        self.decode(&answer)
    }

    /// `GET /v1/messages`: some unread messages, without consuming them.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn unread(&self) -> Result<Vec<Received>> {
        self.get("/v1/messages").await
    }

    /// `POST /v1/messages/consume`, in as many requests as it takes.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn consume(&self, messages: &[MessageRef]) -> Result<()> {
        for messages in messages.chunks(MAX_CONSUME) {
            let request = ConsumeRequest { messages: messages.to_vec() };
            self.post_empty("/v1/messages/consume", &request).await?;
        }
        Ok(())
    }

    /// `GET /v1/messages/follow`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn follow(&self) -> Result<LineStream<Received>> {
        self.stream(Method::GET, "/v1/messages/follow", Bytes::new(), ANSWER_TIMEOUT).await
    }

    /// `POST /v1/ping`.
    ///
    /// # Errors
    /// See [`Client::resolve`].
    pub async fn ping(&self, request: &PingRequest) -> Result<LineStream<PingEvent>> {
        self.stream(Method::POST, "/v1/ping", self.encode(request)?, ANSWER_TIMEOUT).await
    }

    /// `POST /v1/connect`. The listener lives as long as the stream.
    ///
    /// # Errors
    /// See [`Client::resolve`]; [`ErrorCode::AddressInUse`].
    pub async fn connect(&self, request: &ConnectRequest) -> Result<LineStream<ConnectEvent>> {
        self.stream(Method::POST, "/v1/connect", self.encode(request)?, MESH_TIMEOUT).await
    }

    /// `POST /v1/bench`.
    ///
    /// # Errors
    /// See [`Client::resolve`].
    pub async fn bench(&self, request: &BenchRequest) -> Result<LineStream<BenchEvent>> {
        self.stream(Method::POST, "/v1/bench", self.encode(request)?, MESH_TIMEOUT).await
    }

    /// `POST /v1/services`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn serve_add(&self, name: &str, tcp: &str) -> Result<ServiceInfo> {
        let request = ServeRequest { name: name.to_owned(), tcp: tcp.to_owned() };
        self.post("/v1/services", &request, ANSWER_TIMEOUT).await
    }

    /// `GET /v1/services`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn serve_list(&self) -> Result<Vec<ServiceInfo>> {
        self.get("/v1/services").await
    }

    /// `DELETE /v1/services/NAME`.
    ///
    /// # Errors
    /// See [`Client::status`]; [`ErrorCode::UnknownService`].
    pub async fn serve_remove(&self, name: &str) -> Result<ServiceInfo> {
        self.delete(&format!("/v1/services/{}", percent_encode(name))).await
    }

    /// `POST /v1/peers`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add_peer(&self, addr: &str) -> Result<()> {
        self.post_empty("/v1/peers", &AddPeerRequest { addr: addr.to_owned() }).await
    }

    /// `POST /v1/shutdown`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn shutdown(&self) -> Result<()> {
        self.call(Method::POST, "/v1/shutdown", Bytes::new(), ANSWER_TIMEOUT).await.map(|_| ())
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, uri: &str) -> Result<T> {
        self.get_within(uri, ANSWER_TIMEOUT).await
    }

    pub(super) async fn get_within<T: DeserializeOwned>(&self, uri: &str, timeout: Duration) -> Result<T> {
        let answer = self.call(Method::GET, uri, Bytes::new(), timeout).await?;
        self.decode(&answer)
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, uri: &str) -> Result<T> {
        let answer = self.call(Method::DELETE, uri, Bytes::new(), ANSWER_TIMEOUT).await?;
        self.decode(&answer)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        uri: &str,
        request: &impl Serialize,
        timeout: Duration,
    ) -> Result<T> {
        let answer = self.call(Method::POST, uri, self.encode(request)?, timeout).await?;
        self.decode(&answer)
    }

    async fn post_empty(&self, uri: &str, request: &impl Serialize) -> Result<()> {
        self.call(Method::POST, uri, self.encode(request)?, ANSWER_TIMEOUT).await.map(|_| ())
    }

    fn encode(&self, request: &impl Serialize) -> Result<Bytes> {
        serde_json::to_vec(request).map(Bytes::from).map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("the request does not serialise: {error}"))
        })
    }

    fn decode<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T> {
        serde_json::from_slice(answer)
            .map_err(|error| self.protocol(&format!("its answer does not read: {error}")))
    }

    /// One request and its whole answer.
    async fn call(&self, method: Method, uri: &str, body: Bytes, timeout: Duration) -> Result<Bytes> {
        let call = async {
            let (response, connection) = self.request(method, uri, body).await?;
            let body = self.read(response.into_body()).await;
            drop(connection);
            body
        };
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(self.silent(timeout)))
    }

    /// One request whose answer is a stream of lines; `timeout` is for its beginning.
    async fn stream<T>(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<LineStream<T>> {
        let request = tokio::time::timeout(timeout, self.request(method, uri, body));
        let (response, connection) = request.await.unwrap_or_else(|_| Err(self.silent(timeout)))?;
        Ok(LineStream::new(self.clone(), response.into_body(), connection))
    }

    async fn request(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection)> {
        let stream = connect(&self.home).await.map_err(|error| self.not_connected(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.protocol(&format!("no connection: {error}")))?;
        let connection = Connection::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a control connection ended early");
            }
        }));
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "node")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| {
                ApiError::new(ErrorCode::Internal, format!("the request is malformed: {error}"))
            })?;
        let response = sender.send_request(request).await.map_err(|error| self.cut(&error))?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        Err(self.refusal(response).await)
    }

    async fn read(&self, body: Incoming) -> Result<Bytes> {
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| self.protocol(&format!("its answer broke off: {error}")))
    }

    async fn refusal(&self, response: Response<Incoming>) -> ApiError {
        let status: StatusCode = response.status();
        match self.read(response.into_body()).await {
            Ok(body) => serde_json::from_slice::<ErrorEnvelope>(&body).map_or_else(
                |_| self.protocol(&format!("it answered HTTP {status}")),
                |envelope| envelope.error,
            ),
            Err(error) => error,
        }
    }

    fn not_connected(&self, error: &io::Error) -> ApiError {
        let socket = socket_path(&self.home);
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound if !self.home.exists() => {
                let message = format!("no node is running: the home {} does not exist", self.home.display());
                ApiError::new(ErrorCode::NotRunning, message).hint(
                    "make a mesh with `meshara init`, or join one with `meshara join`; then `meshara up`",
                )
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ApiError::new(ErrorCode::NotRunning, format!("no node is running on {socket}"))
                    .hint(format!("start it with `meshara up --home {}`", self.home.display()))
            }
            io::ErrorKind::PermissionDenied => {
                ApiError::new(ErrorCode::PermissionDenied, format!("{socket} belongs to another user"))
                    .hint("run the command as the user that runs the node")
            }
            _ => ApiError::new(ErrorCode::Io, format!("cannot reach the node on {socket}: {error}")),
        }
    }

    fn silent(&self, after: Duration) -> ApiError {
        let message = format!(
            "the node on {} did not answer within {} s",
            socket_path(&self.home).display(),
            after.as_secs_f32()
        );
        ApiError::new(ErrorCode::Timeout, message).hint("is it stopped or overloaded? its log may say")
    }

    fn cut(&self, error: &hyper::Error) -> ApiError {
        if error.is_parse() {
            return self.protocol(&error.to_string());
        }
        let message = format!("the node on {} ended while answering", socket_path(&self.home).display());
        ApiError::new(ErrorCode::ShuttingDown, message)
            .hint("its log says why; start it again with `meshara up`")
    }

    fn protocol(&self, what: &str) -> ApiError {
        let message = format!(
            "what runs on {} does not speak Meshara's API: {what}",
            socket_path(&self.home).display()
        );
        ApiError::new(ErrorCode::Protocol, message).hint("do the command and the node have the same version?")
    }
}

/// RFC 3986 percent-encoding of everything but unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
