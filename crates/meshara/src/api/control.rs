//! What the control API needs of a node. [`crate::Node::control`] gives it; tests implement it in memory.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;

use super::admission::AdmissionControl;
use super::error::ApiError;
use super::interface::InterfaceControl;
use super::log::LogControl;
use super::policy::PolicyControl;
use super::root::RootControl;
use super::trust::TrustControl;
use super::types::{
    BenchEvent, BenchRequest, ConnectEvent, ConnectRequest, DoctorFacts, IdInfo, Invite, MessageRef, NodeRef,
    PeerInfo, PingEvent, PingRequest, Received, RouteInfo, SendReceipt, ServiceInfo, Status, Trace,
};
use super::workload::WorkloadControl;

/// The answer of every operation.
pub type Result<T> = std::result::Result<T, ApiError>;

/// Lines of a streamed answer, in order. An `Err` is the last line. Dropping the receiver tells the node that the client
/// has gone (`Sender::closed` resolves): the operation must end then.
pub type Events<T> = mpsc::Receiver<Result<T>>;

/// A node as the control API sees it. Node texts (`node`, `to`) are a name, a NodeId or a unique prefix of one.
pub trait Control:
    AdmissionControl
    + InterfaceControl
    + PolicyControl
    + RootControl
    + TrustControl
    + LogControl
    + WorkloadControl
    + Send
    + Sync
    + 'static
{
    /// The node as it sees itself.
    fn status(&self) -> impl Future<Output = Result<Status>> + Send;

    /// Who the node is.
    fn id(&self) -> impl Future<Output = Result<IdInfo>> + Send;

    /// One entry per neighbour, in a stable order.
    fn peers(&self) -> impl Future<Output = Result<Vec<PeerInfo>>> + Send;

    /// One entry per routable node, in a stable order.
    fn routes(&self) -> impl Future<Output = Result<Vec<RouteInfo>>> + Send;

    /// All metrics as Prometheus (OpenMetrics) text.
    fn metrics_text(&self) -> impl Future<Output = Result<String>> + Send;

    /// `Ok` once the node carries traffic; the error says what is missing.
    fn ready(&self) -> impl Future<Output = Result<()>> + Send;

    /// The node that a text names.
    fn resolve(&self, node: String) -> impl Future<Output = Result<NodeRef>> + Send;

    /// A new ticket, valid for exactly `ttl`.
    fn invite(&self, ttl: Duration, uses: u32) -> impl Future<Output = Result<Invite>> + Send;

    /// Sends pings on time, whether answered or not. Replies come as events, then one summary; the stream ends at most
    /// one second after the last ping.
    fn ping(&self, request: PingRequest) -> impl Future<Output = Result<Events<PingEvent>>> + Send;

    /// The forwarding nodes to `node` in order, then itself.
    fn trace(&self, node: String) -> impl Future<Output = Result<Trace>> + Send;

    /// Sends one message; resolves when the receiver has stored it.
    fn send(
        &self,
        to: String,
        body: bytes::Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<SendReceipt>> + Send;

    /// Unread messages in each sender's order, without consuming them: as many as fit in about
    /// [`super::MAX_UNREAD_BATCH`] bytes of content, at least one if there is any.
    fn unread(&self) -> impl Future<Output = Result<Vec<Received>>> + Send;

    /// Marks messages as read, durably. Those that are unknown or consumed already are ignored.
    fn consume(&self, messages: Vec<MessageRef>) -> impl Future<Output = Result<()>> + Send;

    /// All unread messages and then new ones as they are stored, each once, without consuming them.
    fn follow(&self) -> impl Future<Output = Result<Events<Received>>> + Send;

    /// Offers (or replaces) a local TCP service; remembered across restarts. The target need not be reachable.
    fn serve_add(&self, name: String, tcp: String) -> impl Future<Output = Result<ServiceInfo>> + Send;

    /// The offered services, by name.
    fn serve_list(&self) -> impl Future<Output = Result<Vec<ServiceInfo>>> + Send;

    /// Stops offering a service; open connections go on.
    fn serve_remove(&self, name: String) -> impl Future<Output = Result<ServiceInfo>> + Send;

    /// Listens locally and carries every connection to the remote service. The first event is
    /// [`ConnectEvent::Listening`]. The listener and its connections end when the receiver is dropped. Events that the
    /// receiver is too slow for may be left out, save the first.
    fn connect(&self, request: ConnectRequest) -> impl Future<Output = Result<Events<ConnectEvent>>> + Send;

    /// Sends bytes for a while and reports what the other side confirmed.
    fn bench(&self, request: BenchRequest) -> impl Future<Output = Result<Events<BenchEvent>>> + Send;

    /// What only the running node can tell about its health.
    fn doctor(&self) -> impl Future<Output = Result<DoctorFacts>> + Send;

    /// Keeps a link with the node at `addr` (`host:port`) from now on, also after a restart.
    fn add_peer(&self, addr: String) -> impl Future<Output = Result<()>> + Send;

    /// Begins a graceful end; returns at once.
    fn shutdown(&self) -> impl Future<Output = Result<()>> + Send;
}
