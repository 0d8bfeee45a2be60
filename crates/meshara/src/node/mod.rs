//! A running node: the protocol cores on tokio and real sockets.
//!
//! [`Node`] is the library's face; the modules below each drive one part of it.

mod address_book;
mod admission;
mod admission_control;
mod auth;
mod bench;
mod builder;
#[cfg(target_os = "linux")]
mod carrier;
mod clock;
mod contests;
mod control;
mod direct;
mod dns;
mod echo;
mod federation;
mod grants;
mod handed;
mod home;
mod issuing;
mod link_streams;
mod links;
mod messages;
mod metrics;
mod multicast;
mod names;
mod network;
mod observed;
mod overlay;
mod pipe;
mod policy_control;
mod recheck;
mod rejoin;
mod renewal;
mod root_control;
mod services;
mod sessions;
pub(crate) mod standing;
mod streams;
mod tiers;
mod trust;
mod trust_control;
#[cfg(target_os = "linux")]
mod tun;
mod workload;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::{Member, MeshName, NodeId, UnixMillis};
use meshara_overlay::{DialTarget, Event, KnownNode, KnownOrigin};
use meshara_transport::{ConnectError, Endpoints};
use meshara_trust::policy::{Asked, TargetKind};
use quinn::VarInt;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use self::admission::Admission;
pub(crate) use self::admission::JOIN_VERSION;
pub use self::builder::{BuildError, Builder, examine};
pub(crate) use self::builder::{remember_peers, remember_ticket};
use self::echo::Echoes;
use self::handed::Handed;
pub use self::home::LockError;
use self::messages::Messages;
pub use self::messages::{Receipt, SendError};
#[doc(hidden)]
pub use self::multicast::decode_announcement;
use self::observed::Observed;
use self::overlay::Overlay;
pub use self::services::ServiceError;
use self::services::Services;
pub use self::sessions::SessionError;
use self::sessions::{FAREWELL, Session, Sessions};
use self::standing::Standing;
pub use self::streams::OpeningError;
#[doc(hidden)]
pub use self::streams::decode_opening;
use self::streams::{Opening, read_opening};
use self::trust::audit::Audit;
pub use self::trust::audit::{export_trail, verify_trail};
#[doc(hidden)]
pub use self::trust::files::decodes as decodes_set_file;
use self::trust::log::Logs;
pub use self::trust::log::bundle::{BundleError, audit_bundle, mesh_of, write_bundle};
use self::trust::policy::{self, Gate};
pub use self::trust::root::offline;
use self::trust::sets::Sets;
pub use self::trust::sets::SetsError;
use self::trust::visit::Doubts;
pub use self::workload::OpenError as WorkloadError;
use self::workload::Workload;
use crate::config::{Config, PeerAddr};

/// Streams of applications that wait to be accepted; more are refused.
const APPLICATION_STREAMS: usize = 256;
/// Streams of one session served at once, as many as its peer may open.
const SESSION_TASKS: usize = 1024;

/// Stream error code: the other node's policy denies the stream to its opener. [`Node::denied_by`] names the rule.
pub const STREAM_DENIED: VarInt = VarInt::from_u32(4);

/// Close code of a session on which an application holds a stream that is denied by now.
const CLOSE_DENIED: u32 = 0x303;

/// A stream between two nodes, end to end encrypted. The accepting node closes the whole session when its policy denies it later.
#[derive(Debug)]
pub struct Stream {
    /// Who is at the other end.
    pub peer: Member,
    /// What the stream is for, as the opener named it.
    pub protocol: String,
    /// To the peer.
    pub send: quinn::SendStream,
    /// From the peer.
    pub receive: quinn::RecvStream,
}

/// What the tasks of a node share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    /// As its certificate was when the node started; see [`Inner::standing`].
    pub(crate) member: Member,
    pub(crate) mesh: MeshName,
    pub(crate) bound: SocketAddr,
    pub(crate) started: Instant,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) overlay: Overlay,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) sets: Sets,
    pub(crate) gate: Gate,
    /// Closed before the store, whose lock keeps a later life of the home out until then.
    pub(crate) audit: Audit,
    pub(crate) messages: Messages,
    pub(crate) services: Services,
    pub(crate) echoes: Echoes,
    pub(crate) admission: Admission,
    pub(crate) doubts: Doubts,
    /// What members ask of this node's issuer on their sessions.
    pub(crate) asked: Admission,
    pub(crate) standing: Standing,
    /// Offers to make this node an issuer.
    granting: issuing::Granting,
    /// Where earlier lives met other members.
    remembered: Vec<SocketAddr>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) workload: Workload,
    pub(crate) network_changes: watch::Sender<u32>,
    /// Where programs of this machine send packets to other nodes.
    #[cfg(target_os = "linux")]
    pub(crate) interface: Option<Arc<tun::Interface>>,
    /// Where DNS queries are answered.
    pub(crate) dns: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    local: Mutex<BTreeSet<IpAddr>>,
    seen_at: Mutex<Observed>,
    /// Configured and remembered peers: what they resolve to, and the last failure.
    configured: Mutex<Vec<ConfiguredState>>,
    tasks: Mutex<JoinSet<()>>,
    applications: mpsc::Sender<Stream>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
}

/// A neighbour that this node was told to keep.
#[derive(Clone, Debug)]
struct ConfiguredState {
    peer: PeerAddr,
    addrs: Vec<SocketAddr>,
    last_error: Option<String>,
}

/// A member of a mesh, running.
///
/// Dropping it ends it at once; [`Node::shutdown`] says goodbye first.
pub struct Node {
    inner: Arc<Inner>,
    _lock: home::Lock,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.inner.member.name).finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

impl Node {
    /// Begins to build a node.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Who this node is, as its certificate said when it started; it renews it meanwhile.
    pub fn member(&self) -> &Member {
        &self.inner.member
    }

    /// The UDP address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.bound
    }

    /// What happens in the mesh from now on. A slow reader is told how many events it missed.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.overlay.subscribe()
    }

    /// Everything else that the command can do: tickets, pings, traces, TCP services, measurements.
    ///
    /// It works as long as the node runs and doesn't keep it running.
    pub fn control(&self) -> impl crate::api::Control + Clone + use<> {
        control::NodeControl(self.inner.clone())
    }

    /// The NodeId that a text names: a name, a NodeId or a unique prefix of one.
    ///
    /// # Errors
    /// Nobody or several.
    pub fn resolve(&self, text: &str) -> Result<NodeId, ResolveError> {
        self.inner.resolve(text).map(|(node, _)| node)
    }

    /// Sends a message of at most 1 MiB; returns when the receiver has stored it.
    ///
    /// # Errors
    /// [`SendError`]. After a timeout the message stays queued, also over a restart, and is still delivered.
    pub async fn send(
        &self,
        to: NodeId,
        body: impl Into<Bytes>,
        wait: Duration,
    ) -> Result<Receipt, SendError> {
        self.inner.messages.send(to, body.into(), wait).await
    }

    /// Opens a stream for `protocol`, a name of at most 63 bytes that both applications agree on. It is a service to the policy of the other
    /// node, which resets the stream with [`STREAM_DENIED`] where that denies it.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn open_stream(&self, to: NodeId, protocol: &str) -> Result<Stream, SessionError> {
        let opening = Opening::Application(protocol.to_owned());
        let session = self.inner.sessions.get(to).await?;
        let (send, receive) = self.inner.sessions.open_stream(to, &opening).await?;
        Ok(Stream { peer: session.member, protocol: protocol.to_owned(), send, receive })
    }

    /// The rule by which the mesh's policy denies this node a stream to `to` for `protocol` now, `None` if it allows one. All nodes go by one
    /// policy; rates and evidence, which the other node alone knows, are left out.
    pub fn denied_by(&self, to: &NodeId, protocol: &str) -> Option<String> {
        let name = format!("{}/{protocol}", self.inner.name_of(to));
        let asked = Asked { kind: TargetKind::Service, name: &name, port: 0 };
        let us = policy::who(&self.inner, &self.inner.member.node_id);
        let checked = policy::check(&self.inner, &us, &asked);
        (!checked.allowed).then_some(checked.rule)
    }

    /// Waits for the next stream that another node's application opens; `None` when the node has stopped.
    pub async fn accept_stream(&self) -> Option<Stream> {
        self.inner.accepted.lock().await.recv().await
    }

    /// Messages that have arrived, in each sender's order; they are consumed. Empty when there are none.
    ///
    /// They are consumed right after this has returned them, so a call that is cancelled loses none, and a program that dies
    /// at that moment gets them once more.
    ///
    /// # Errors
    /// The store failed, perhaps as it consumed what the call before gave; that is then tried again.
    pub async fn receive(&self) -> Result<Vec<meshara_messaging::InboxRow>, crate::store::StoreError> {
        let limit = crate::store::TakeLimit { messages: 1024, bytes: crate::api::MAX_UNREAD_BATCH };
        messages::receive(&self.inner, limit).await
    }

    /// Waits until a message may have arrived since the last call on the same watch.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.inner.messages.store.arrivals()
    }

    /// Runs until `stop` resolves or someone asks the control API to stop, then leaves the mesh in order.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        let mut asked = self.inner.stop.subscribe();
        tokio::select! {
            () = stop => {}
            _ = asked.wait_for(|stop| *stop) => {}
        }
        self.shutdown().await;
    }

    /// Leaves the mesh: neighbours are told, open requests end, what is stored stays.
    pub async fn shutdown(self) {
        let inner = self.inner.clone();
        inner.stop.send_replace(true);
        inner.messages.stop();
        inner.overlay.input(|core, now| core.leave(now));
        let goodbye = async {
            // The farewell record must reach the neighbours' sockets before their links close.
            tokio::time::sleep(FAREWELL / 5).await;
            inner.endpoints.close().await;
        };
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
        let _ = tokio::time::timeout(FAREWELL, inner.messages.settled()).await;
        inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let closing = inner.clone();
        let _ = tokio::task::spawn_blocking(move || closing.audit.close()).await;
        inner.messages.store.clone().close().await;
    }
}

/// Why a text names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The text is empty.
    #[error("the node's name is empty")]
    Empty,
    /// Nobody has this name, NodeId or prefix.
    #[error("no node called {0} is known")]
    Unknown(String),
    /// Several nodes' ids begin so.
    #[error("{text} fits several nodes: {}", matches.join(", "))]
    Ambiguous {
        /// The text.
        text: String,
        /// Names (or ids) that it fits, at most eight.
        matches: Vec<String>,
    },
}

impl Inner {
    /// Runs a task as long as the node runs.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// A node's id and name by name, id or unique prefix. The node itself counts.
    pub(crate) fn resolve(&self, text: &str) -> Result<(NodeId, String), ResolveError> {
        if text.is_empty() {
            return Err(ResolveError::Empty);
        }
        let mut nodes: Vec<(NodeId, String)> = self
            .overlay
            .view(|core| core.nodes().map(|node| (node.node, node.name.unwrap_or_default())).collect());
        nodes.push((self.member.node_id, self.member.name.to_string()));
        nodes.sort();
        nodes.dedup_by_key(|(node, _)| *node);
        if let Some(found) = nodes.iter().find(|(_, name)| name == text) {
            return Ok(found.clone());
        }
        if let Ok(id) = text.parse::<NodeId>() {
            let name = nodes.iter().find(|(node, _)| *node == id).map(|(_, name)| name.clone());
            return name.map(|name| (id, name)).ok_or_else(|| ResolveError::Unknown(text.to_owned()));
        }
        let prefix = text.to_ascii_lowercase();
        let is_hex = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = nodes.iter().filter(|(node, _)| is_hex && node.to_string().starts_with(&prefix));
        match (found.next(), found.next()) {
            (None, _) => Err(ResolveError::Unknown(text.to_owned())),
            (Some(one), None) => Ok(one.clone()),
            (Some(a), Some(b)) => {
                let named = |(node, name): &(NodeId, String)| {
                    if name.is_empty() { node.short() } else { name.clone() }
                };
                let matches = [a, b].into_iter().chain(found).take(8).map(named).collect();
                Err(ResolveError::Ambiguous { text: text.to_owned(), matches })
            }
        }
    }

    /// When the certificate in use ends.
    pub(crate) fn certificate_end(&self) -> UnixMillis {
        self.standing.member().not_after
    }

    /// The name of a node, empty when it isn't known.
    pub(crate) fn name_of(&self, node: &NodeId) -> String {
        if *node == self.member.node_id {
            return self.member.name.to_string();
        }
        self.overlay.view(|core| core.node(node).and_then(|node| node.name)).unwrap_or_default()
    }

    /// The node with a mesh address.
    pub(crate) fn node_at(&self, address: meshara_identity::MeshAddress) -> Option<NodeId> {
        if address == self.member.address {
            return Some(self.member.node_id);
        }
        self.endpoints.plane().table().lookup(&address).map(|route| route.node)
    }

    /// Whether it is new. The mesh address, which the interface has, is no way to reach this node: links would run over themselves.
    pub(crate) fn add_local(&self, ip: IpAddr) -> bool {
        ip != IpAddr::V6(self.member.address.ipv6())
            && self.local.lock().unwrap_or_else(PoisonError::into_inner).insert(ip)
    }

    pub(crate) fn remove_local(&self, ip: IpAddr) -> bool {
        self.local.lock().unwrap_or_else(PoisonError::into_inner).remove(&ip)
    }

    /// Addresses of this machine's interfaces.
    pub(crate) fn local_ips(&self) -> Vec<IpAddr> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// A neighbour says that it sees us at this address.
    pub(crate) fn observed(&self, neighbour: NodeId, addr: SocketAddr) {
        // One on the same network sees what the node knows by itself.
        let known = self.local_ips().contains(&addr.ip().to_canonical());
        {
            let mut seen = self.seen_at.lock().unwrap_or_else(PoisonError::into_inner);
            if known || !observed::is_credible(addr, self.bound) {
                seen.forget(&neighbour);
            } else {
                seen.claim(neighbour, addr);
            }
        }
        self.publish_addresses();
    }

    /// A link to the neighbour has ended.
    pub(crate) fn unlinked(&self, neighbour: &NodeId) {
        if self.overlay.link_to(neighbour).is_none() {
            self.seen_at.lock().unwrap_or_else(PoisonError::into_inner).forget(neighbour);
            self.publish_addresses();
        }
    }

    /// The addresses under which others may reach this node, best first.
    pub(crate) fn reachable_at(&self) -> Vec<SocketAddr> {
        let local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.seen_at.lock().unwrap_or_else(PoisonError::into_inner);
        network::reachable(self.bound, &local, &seen.addresses())
    }

    pub(crate) fn publish_addresses(&self) {
        let addrs = self.reachable_at();
        self.overlay.input(|core, now| core.set_own_addresses(now, addrs));
    }

    /// Makes a neighbour known that the user named, now and whenever its name resolves to something new.
    pub(crate) async fn keep_peer(&self, peer: PeerAddr) {
        let resolved = peer.resolve().await;
        let mut configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        let place = configured.iter().position(|known| known.peer == peer);
        let known = match place.and_then(|place| configured.get_mut(place)) {
            Some(known) => known,
            None => {
                configured.push(ConfiguredState { peer, addrs: Vec::new(), last_error: None });
                let Some(last) = configured.last_mut() else { return };
                last
            }
        };
        match resolved {
            Ok(addrs) => {
                if known.addrs == addrs {
                    return;
                }
                known.addrs.clone_from(&addrs);
                drop(configured);
                self.overlay.known(KnownNode { node: None, addrs, origin: KnownOrigin::Configured });
            }
            Err(error) => known.last_error = Some(error.to_string()),
        }
    }

    pub(crate) fn note_dial_error(&self, target: &DialTarget, error: &ConnectError) {
        let mut configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        for known in configured.iter_mut() {
            if known.addrs.iter().any(|addr| target.addrs.contains(addr)) {
                known.last_error = Some(error.to_string());
            }
        }
    }
}

/// How often names of configured peers are resolved again: they may move.
const RESOLVE: Duration = Duration::from_secs(30);

/// Keeps configured peers known, for ever. A name that takes long holds up no other: each has a task, which the resolver's limit
/// ends.
async fn run_configured(inner: Arc<Inner>, mut peers: Vec<PeerAddr>) {
    loop {
        let mut tasks = JoinSet::new();
        for peer in peers {
            let inner = inner.clone();
            tasks.spawn(async move { inner.keep_peer(peer).await });
        }
        tasks.join_all().await;
        tokio::time::sleep(RESOLVE).await;
        let configured = inner.configured.lock().unwrap_or_else(PoisonError::into_inner);
        peers = configured.iter().map(|known| known.peer.clone()).collect();
    }
}

/// Hands the data plane's frames to the overlay and to ping and trace.
async fn run_plane(inner: Arc<Inner>, mut events: meshara_transport::PlaneEvents) {
    use meshara_overlay::header::Class;
    use meshara_transport::PlaneEvent;
    while let Some(event) = events.recv().await {
        match event {
            PlaneEvent::Frame(frame) if frame.class == Class::Probe => {
                let handled =
                    inner.overlay.input(|core, now| core.handle_probe(now, frame.link, &frame.payload));
                if let Err(error) = handled {
                    tracing::debug!(%error, "a probe was refused");
                }
            }
            PlaneEvent::Frame(frame) if frame.class == Class::Echo => {
                inner.echoes.receive(&frame, |echo| trust::policy::deny_echo(&inner, &frame, echo));
            }
            PlaneEvent::Busy(link) => inner.overlay.input(|core, now| core.note_traffic(now, link)),
            _ => {}
        }
    }
}

/// Accepts the sessions that others open.
async fn run_session_accepts(inner: Arc<Inner>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            incoming = inner.endpoints.next_session(), if tasks.len() < SESSION_TASKS => {
                let Some(incoming) = incoming else { return };
                let inner = inner.clone();
                tasks.spawn(async move {
                    match inner.endpoints.accept_session(incoming).await {
                        Ok((connection, member)) => {
                            if !inner.sessions.keep(Session::new(connection, member)).await {
                                tracing::warn!("a session was refused: too many are open");
                            }
                        }
                        Err(error) => tracing::debug!(%error, "a session was not accepted"),
                    }
                });
            }
        }
    }
}

/// Serves every session, whoever opened it.
async fn run_sessions(inner: Arc<Inner>, mut opened: mpsc::Receiver<Session>) {
    while let Some(session) = opened.recv().await {
        tracing::debug!(peer = %session.member.name, "session open");
        #[cfg(target_os = "linux")]
        inner.spawn(tun::receive(inner.clone(), session.clone()));
        let task = inner.clone();
        inner.spawn(async move {
            tokio::join!(
                serve_session(task.clone(), session.clone()),
                recheck::follow(&task, &session.connection, &session.member),
                tiers::follow(task.clone(), session.clone()),
                direct::seek(task.clone(), session.clone()),
            );
        });
    }
}

/// Accepts a session's streams until it ends.
async fn serve_session(inner: Arc<Inner>, session: Session) {
    let mut streams = JoinSet::new();
    // What applications were handed. They hold the streams, so those end with the session.
    let handed = Handed::default();
    loop {
        tokio::select! {
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            () = policy::reviewed(&inner), if !handed.is_empty() => {
                if let Some(denied) = handed.denied(&inner, &session.member) {
                    tracing::info!(peer = %session.member.name, rule = denied.rule, "a session with an application's stream that is denied by now was closed");
                    session.connection.close(CLOSE_DENIED.into(), b"an application's stream is denied by now");
                    break;
                }
            }
            stream = session.connection.accept_bi(), if streams.len() < SESSION_TASKS => {
                let Ok((send, receive)) = stream else { break };
                session.began.notify_one();
                let (inner, session) = (inner.clone(), session.clone());
                streams.spawn(serve_stream(inner, session, handed.clone(), send, receive));
            }
        }
    }
    // Streams end by themselves: their connection is gone.
    while streams.join_next().await.is_some() {}
    tracing::debug!(peer = %session.member.name, "session ended");
}

async fn serve_stream(
    inner: Arc<Inner>,
    session: Session,
    handed: Handed,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let opening = match read_opening(&mut receive).await {
        Ok(opening) => opening,
        Err(error) => {
            tracing::debug!(peer = %session.member.name, %error, "a stream was refused");
            let _ = send.reset(pipe::RESET);
            return;
        }
    };
    let who = || policy::who_now(&inner, &session.member);
    match opening {
        Opening::Messages => {
            let deny = policy::deny_messages(&inner, &session.member);
            inner.messages.accept(session, send, receive, deny).await;
        }
        Opening::Service(name) => match policy::ask(&inner, &who(), TargetKind::Service, &name) {
            Ok(()) => {
                let denied = async {
                    let denied =
                        policy::until_denied(&inner, &session.member, TargetKind::Service, &name).await;
                    tracing::info!(peer = %session.member.name, %name, rule = denied.rule, "a stream that was open is denied");
                };
                inner.services.serve(&name, send, receive, denied).await;
            }
            Err(denied) => services::deny(send, receive, &denied.rule).await,
        },
        Opening::Clock => clock::tell(send).await,
        Opening::Workload => {
            Workload::serve(&inner, &session.member, send, receive).await;
        }
        Opening::Bench => match policy::ask(&inner, &who(), TargetKind::Mesh, "bench") {
            Ok(()) => {
                let denied = policy::until_denied(&inner, &session.member, TargetKind::Mesh, "bench");
                bench::sink(send, receive, denied).await;
            }
            Err(denied) => bench::deny(send, receive, &denied.rule).await,
        },
        Opening::Log => {
            trust::log::serve(&inner, session.member.node_id, send, receive).await;
        }
        Opening::Join => {
            admission::serve_carried(&inner, session.member.node_id, send, receive).await;
        }
        Opening::Renew => {
            admission::serve_renewal(&inner, session.member.node_id, send, receive).await;
        }
        Opening::Grant => issuing::serve(&inner, &session, send, receive).await,
        Opening::Leaf => {
            recheck::show(&inner, &session.connection, send, receive).await;
        }
        // Neighbours ask that on their link.
        Opening::Grants => {
            let _ = send.reset(pipe::RESET);
        }
        Opening::Punch(addrs) => direct::punched(&inner, &session, addrs),
        Opening::Application(protocol)
            if policy::ask(&inner, &who(), TargetKind::Service, &protocol).is_err() =>
        {
            let _ = send.reset(STREAM_DENIED);
            let _ = receive.stop(STREAM_DENIED);
        }
        Opening::Application(protocol) => {
            if !handed.add(&protocol) {
                let _ = send.reset(pipe::RESET);
                let _ = receive.stop(pipe::RESET);
                return;
            }
            let stream = Stream { peer: session.member, protocol, send, receive };
            if let Err(refused) = inner.applications.try_send(stream) {
                let mut stream = refused.into_inner();
                let _ = stream.send.reset(pipe::RESET);
                let _ = stream.receive.stop(pipe::RESET);
            }
        }
    }
}
