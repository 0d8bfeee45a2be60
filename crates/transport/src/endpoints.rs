//! The node's two QUIC endpoints over one data plane: dialling and accepting links, joins and sessions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use meshara_identity::{Member, MeshAddress, NodeId};
use meshara_overlay::{LinkId, LinkKind};
use quinn::{Connection, ConnectionError, Endpoint, TokioRuntime};

use crate::data_plane::DataPlane;
use crate::hop_link::{HopLink, MAX_LINKS};
use crate::link::{ControlReceiver, ControlSender, Hello, HelloError};
use crate::quic::{self, CongestionControl, LONG_PATH_US, SESSION_MTU, WIRE_MTU};
use crate::reassembly::session_addr;
use crate::tls::{self, Expect, Tls};

/// Time to complete a handshake and the hello. Three round trips at 300 ms and one repeated loss fit.
pub const LINK_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way before every newcomer must first prove its address by a Retry (RFC 9000 §8.1.2). An honest burst, a mesh
/// of 16 neighbours starting at once, stays below.
const RETRY_ABOVE: u32 = 32;
/// Handshakes under way before newcomers are refused: each costs some 100 KB and 1 ms of processor time.
const REFUSE_ABOVE: u32 = 256;
/// First packets of newcomers that wait to be looked at, and their bytes. What comes is looked at at once, so more is flood.
const WAITING: usize = 512;
/// As above; a first flight of two packets each, four times over.
const WAITING_BYTES: u64 = 4 << 20;
/// A session's handshake runs over several hops and may meet a re-route.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a link or session could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The settings or the address are unusable.
    #[error("can't dial: {0}")]
    Dial(#[from] quinn::ConnectError),
    /// The handshake failed; TLS alerts are in here.
    #[error("the connection failed: {0}")]
    Connection(#[from] ConnectionError),
    /// The certificate isn't one of a member of this mesh, or not the expected one.
    #[error("the peer's certificate was refused: {0}")]
    Member(#[from] tls::PeerError),
    /// The peer's hello was wrong.
    #[error("the hello failed: {0}")]
    Hello(#[from] HelloError),
    /// Nothing came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The peer is this node itself.
    #[error("the address leads back to this node")]
    OurselvesDialled,
    /// All places for links are taken.
    #[error("all {MAX_LINKS} link places are in use")]
    TooManyLinks,
}

impl ConnectError {
    /// Whether the other end refused this node's certificate as revoked, or its issuer's: TLS alert 44 (RFC 8446, 6.2), in the handshake or, after
    /// a resumption, as the code that a connection is closed with.
    #[must_use]
    pub fn says_revoked(&self) -> bool {
        let end = match self {
            Self::Connection(end) => Some(end),
            Self::Hello(HelloError::Stream(error)) => error.end(),
            _ => None,
        };
        match end {
            Some(ConnectionError::ConnectionClosed(close)) => {
                u64::from(close.error_code) == CERTIFICATE_REVOKED
            }
            Some(ConnectionError::ApplicationClosed(close)) => {
                close.error_code.into_inner() == CERTIFICATE_REVOKED
            }
            _ => false,
        }
    }
}

/// A link, complete but not yet known to the overlay.
#[derive(Debug)]
pub struct Link {
    /// The data plane's half.
    pub hop: Arc<HopLink>,
    /// Who is at the other end.
    pub member: Member,
    /// Whether routes may use it.
    pub kind: LinkKind,
    /// Whether we dialled.
    pub dialled: bool,
    /// Our address as the neighbour sees it.
    pub observed: SocketAddr,
    sender: ControlSender,
    receiver: ControlReceiver,
    guard: LinkGuard,
}

impl Link {
    /// Takes the link over: where control messages go and come from. From now on whoever calls this ends the link, by
    /// [`DataPlane::remove_link`] and its connection. A link that is dropped before ends by itself.
    pub fn claim(mut self) -> (ControlSender, ControlReceiver) {
        self.guard.armed = false;
        (self.sender, self.receiver)
    }
}

/// What an incoming connection on the link endpoint turned out to be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Accepted {
    /// A neighbour.
    Link(Box<Link>),
    /// Someone who wants to join and has shown no certificate.
    Join(Connection),
}

/// Somebody who wants a link, a join or a session. It counts as under way from now until it is complete or given up: a flood is
/// counted as it comes, not when its handshakes get their turn.
#[derive(Debug)]
pub struct Newcomer {
    incoming: quinn::Incoming,
    under_way: UnderWay,
}

impl Newcomer {
    fn new(incoming: quinn::Incoming, count: &Arc<AtomicU32>) -> Self {
        Self { incoming, under_way: UnderWay::new(count) }
    }

    /// Where it says it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Tells it that there is no room.
    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

/// The QUIC endpoints of a node.
#[derive(Debug)]
pub struct Endpoints {
    plane: Arc<DataPlane>,
    tls: Arc<Tls>,
    link: Endpoint,
    session: Endpoint,
    next_link: AtomicU32,
    handshakes: Arc<AtomicU32>,
    session_handshakes: Arc<AtomicU32>,
    link_transport: Arc<quinn::TransportConfig>,
    control: CongestionControl,
    /// For short paths and for long ones.
    session_transport: [Arc<quinn::TransportConfig>; 2],
}

impl Endpoints {
    /// Starts both endpoints. Must be called inside a tokio runtime, which then drives the data plane.
    ///
    /// `reset_key` must be secret and the same after a restart: with it a restarted node tells the peers of its earlier life at once
    /// that their connections are over (stateless reset, RFC 9000 §10.3), instead of leaving them to their timeouts.
    pub fn new(
        plane: Arc<DataPlane>,
        tls: Arc<Tls>,
        control: CongestionControl,
        reset_key: &[u8; 32],
    ) -> std::io::Result<Self> {
        let link_transport = Arc::new(quic::link_transport());
        let session_transport = session_transports(control, false);
        let endpoint =
            |payload, mut server: quinn::ServerConfig, transport: &Arc<quinn::TransportConfig>, socket| {
                server.transport_config(transport.clone());
                server.max_incoming(WAITING).incoming_buffer_size_total(WAITING_BYTES);
                let config = quic::endpoint_config(payload, reset_key);
                Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))
            };
        let link_socket = Arc::new(crate::sockets::LinkSocket(plane.clone()));
        let link = endpoint(WIRE_MTU, tls.server_config(), &link_transport, link_socket)?;
        let session_socket = Arc::new(crate::sockets::SessionSocket(plane.clone()));
        let session =
            endpoint(SESSION_MTU, tls.session_server_config(), &session_transport[0], session_socket)?;
        // Numbers start anywhere, so that frames of an earlier life of this node meet no link.
        let first = u32::from_be_bytes(tls::random()) & !(MAX_LINKS as u32 - 1);
        Ok(Self {
            plane,
            tls,
            link,
            session,
            next_link: AtomicU32::new(first),
            handshakes: Arc::default(),
            session_handshakes: Arc::default(),
            link_transport,
            control,
            session_transport,
        })
    }

    /// Lets sessions carry datagrams. Whoever asks for it reads those of every session.
    #[must_use]
    pub fn with_datagrams(mut self) -> Self {
        self.session_transport = session_transports(self.control, true);
        self
    }

    /// The data plane underneath.
    pub fn plane(&self) -> &Arc<DataPlane> {
        &self.plane
    }

    /// The TLS material in use.
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The mesh address of a node of this mesh.
    pub fn address_of(&self, node: &NodeId) -> MeshAddress {
        MeshAddress::derive(&self.tls.anchors().mesh_id(), node)
    }

    /// Dials a neighbour.
    pub async fn dial(&self, to: SocketAddr, expect: Expect, kind: LinkKind) -> Result<Link, ConnectError> {
        let mut config = self.tls.client_config(tls::ALPN_LINK, expect);
        config.transport_config(self.link_transport.clone());
        let connecting =
            self.link.connect_with(config, native(self.link.local_addr().ok(), to), tls::SERVER_NAME)?;
        let attempt = async {
            let connection = connecting.await?;
            self.establish(connection, Some(kind)).await
        };
        timeout(LINK_TIMEOUT, attempt).await
    }

    /// Waits for the next incoming connection; `None` when the endpoint has been closed.
    pub async fn next_incoming(&self) -> Option<Newcomer> {
        loop {
            let incoming = self.link.accept().await?;
            if let Some(admitted) = self.admit(incoming) {
                return Some(admitted);
            }
        }
    }

    /// Completes an incoming connection of the link endpoint.
    pub async fn accept(&self, newcomer: Newcomer) -> Result<Accepted, ConnectError> {
        let Newcomer { incoming, under_way: _counted } = newcomer;
        let mut config = self.tls.server_config();
        config.transport_config(self.link_transport.clone());
        let attempt = async {
            let connection = incoming.accept_with(Arc::new(config))?.await?;
            if tls::alpn(&connection).as_deref() == Some(tls::ALPN_JOIN) {
                return Ok(Accepted::Join(connection));
            }
            Ok(Accepted::Link(Box::new(self.establish(connection, None).await?)))
        };
        timeout(LINK_TIMEOUT, attempt).await
    }

    /// Opens a session with the node at `address`; it must prove to be `node`.
    pub async fn open_session(
        &self,
        node: NodeId,
        address: MeshAddress,
    ) -> Result<(Connection, Member), ConnectError> {
        let mut config = self.tls.client_config(tls::ALPN_SESSION, Expect::Node(node));
        config.transport_config(self.session_transport(address));
        let connecting = self.session.connect_with(config, session_addr(address), tls::SERVER_NAME)?;
        timeout(SESSION_TIMEOUT, async {
            let connection = connecting.await?;
            let member = self.tls.member(&connection)?;
            confirmed(&connection).await?;
            Ok((connection, member))
        })
        .await
    }

    /// Settings for a session with the node at `address`, by the path as it is now.
    fn session_transport(&self, address: MeshAddress) -> Arc<quinn::TransportConfig> {
        let [short, long] = &self.session_transport;
        if self.is_long(address) { long.clone() } else { short.clone() }
    }

    /// Whether the path to `address` is long as it is now: its round trip, and not the processor, limits a session.
    pub fn is_long(&self, address: MeshAddress) -> bool {
        self.plane.table().lookup(&address).is_some_and(|route| route.metric_us >= LONG_PATH_US)
    }

    /// Waits for the next session that someone opens; `None` when the endpoint has been closed.
    pub async fn next_session(&self) -> Option<Newcomer> {
        loop {
            let incoming = self.session.accept().await?;
            if self.session_handshakes.load(Relaxed) < REFUSE_ABOVE {
                return Some(Newcomer::new(incoming, &self.session_handshakes));
            }
            incoming.refuse();
        }
    }

    /// Completes a session that someone opens.
    pub async fn accept_session(&self, newcomer: Newcomer) -> Result<(Connection, Member), ConnectError> {
        let Newcomer { incoming, under_way: _counted } = newcomer;
        let mut config = self.tls.session_server_config();
        if let IpAddr::V6(ip) = incoming.remote_address().ip() {
            config.transport_config(self.session_transport(MeshAddress(ip.octets())));
        }
        timeout(SESSION_TIMEOUT, async {
            let connection = incoming.accept_with(Arc::new(config))?.await?;
            let member = self.tls.member(&connection)?;
            if session_addr(member.address).ip() != connection.remote_address().ip() {
                connection.close(CLOSE_WRONG_ADDRESS.into(), b"certificate and mesh address differ");
                return Err(tls::PeerError::WrongAddress.into());
            }
            Ok((connection, member))
        })
        .await
    }

    /// Ends everything; peers are told.
    pub async fn close(&self) {
        self.session.close(0_u32.into(), b"leaving");
        self.session.wait_idle().await;
        self.link.close(0_u32.into(), b"leaving");
        self.link.wait_idle().await;
    }

    /// Proof of address and refusal when too many handshakes are under way.
    fn admit(&self, incoming: quinn::Incoming) -> Option<Newcomer> {
        let under_way = self.handshakes.load(Relaxed);
        if under_way >= REFUSE_ABOVE {
            incoming.refuse();
            return None;
        }
        if under_way >= RETRY_ABOVE && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
            return None;
        }
        Some(Newcomer::new(incoming, &self.handshakes))
    }

    /// Checks who the peer is, exchanges hellos and makes the data plane's half.
    async fn establish(&self, connection: Connection, dial: Option<LinkKind>) -> Result<Link, ConnectError> {
        let member = self.tls.member(&connection)?;
        if member.address == self.plane.me() {
            connection.close(CLOSE_OURSELVES.into(), b"this is the node itself");
            return Err(ConnectError::OurselvesDialled);
        }
        let id = self.free_link().ok_or(ConnectError::TooManyLinks)?;
        let hop = HopLink::new(id, member.address, connection.clone(), dial.is_some());
        let hop = Arc::new(hop.ok_or(HelloError::NoKeys)?);
        self.plane.add_link(&hop);
        let plane = self.plane.clone();
        let guard = LinkGuard { plane, id, connection: connection.clone(), armed: true };
        let observed = crate::wire::canonical(connection.remote_address());
        let ours = |kind| Hello::new(id.0, kind, observed);
        let (mut sender, mut receiver, theirs, kind) = if let Some(kind) = dial {
            let (send, receive) = connection.open_bi().await?;
            let (mut sender, mut receiver) = (ControlSender::new(send), ControlReceiver::new(receive));
            sender.hello(&ours(kind)).await?;
            let theirs = receiver.hello().await.inspect_err(|error| refuse(&connection, error))?;
            (sender, receiver, theirs, kind)
        } else {
            let (send, receive) = connection.accept_bi().await?;
            let (mut sender, mut receiver) = (ControlSender::new(send), ControlReceiver::new(receive));
            let theirs = receiver.hello().await.inspect_err(|error| refuse(&connection, error))?;
            let kind = theirs.kind();
            sender.hello(&ours(kind)).await?;
            (sender, receiver, theirs, kind)
        };
        hop.set_peer_index(theirs.link);
        if dial.is_some() {
            // The third message tells the listener that frames to us arrive at a link that is ready.
            sender.ready().await?;
        } else {
            receiver.ready().await?;
        }
        let dialled = dial.is_some();
        Ok(Link { hop, member, kind, dialled, observed: theirs.observed, sender, receiver, guard })
    }

    /// A number whose place in the table is free.
    fn free_link(&self) -> Option<LinkId> {
        let links = self.plane.links();
        let taken: Vec<u32> = links.iter().map(|link| link.id().0 % MAX_LINKS as u32).collect();
        (0..MAX_LINKS).find_map(|_| {
            let id = self.next_link.fetch_add(1, Relaxed);
            (!taken.contains(&(id % MAX_LINKS as u32))).then_some(LinkId(id))
        })
    }
}

/// Settings of sessions over short paths and over long ones.
fn session_transports(control: CongestionControl, datagrams: bool) -> [Arc<quinn::TransportConfig>; 2] {
    [false, true].map(|long| Arc::new(quic::session_transport(control, long, datagrams)))
}

/// TLS alert `certificate_revoked` as an error code of QUIC (RFC 9001, 4.8).
const CERTIFICATE_REVOKED: u64 = 0x100 + 44;
/// Close code: the certificate's mesh address isn't where the session came from.
const CLOSE_WRONG_ADDRESS: u32 = 2;
/// Close code: a node reached itself.
const CLOSE_OURSELVES: u32 = 3;

/// Close code: the peer's hello was wrong, or of another version. Above the overlay's codes, beside those of the node.
const CLOSE_HELLO: u32 = 0x102;

/// Tells the peer what is wrong with its hello.
fn refuse(connection: &Connection, error: &HelloError) {
    if let Some(reason) = error.close_reason() {
        connection.close(CLOSE_HELLO.into(), reason.as_bytes());
    }
}

/// Takes a link back that nobody claims: one that failed half-way, or was made beside another.
struct LinkGuard {
    plane: Arc<DataPlane>,
    id: LinkId,
    connection: Connection,
    armed: bool,
}

impl std::fmt::Debug for LinkGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkGuard").field("id", &self.id).field("armed", &self.armed).finish_non_exhaustive()
    }
}

impl Drop for LinkGuard {
    fn drop(&mut self) {
        if self.armed {
            self.plane.remove_link(self.id);
            self.connection.close(0_u32.into(), b"link not needed");
        }
    }
}

/// Counts a handshake while it lives.
#[derive(Debug)]
struct UnderWay(Arc<AtomicU32>);

impl UnderWay {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Waits until the peer has confirmed the handshake. It drops data that comes before our certificate, and if a packet of that was
/// lost, such data would fill the congestion window and keep the repetition from being sent.
async fn confirmed(connection: &Connection) -> Result<(), ConnectionError> {
    // QUIC tells of it in its counts only. A millisecond is little beside the round trip that this takes.
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while connection.stats().frame_rx.handshake_done == 0 {
        if let Some(end) = connection.close_reason() {
            return Err(end);
        }
        ticks.tick().await;
    }
    Ok(())
}

async fn timeout<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(limit, attempt).await.map_err(|_| ConnectError::TimedOut)?
}

/// quinn wants destinations in the family of the socket.
fn native(local: Option<SocketAddr>, to: SocketAddr) -> SocketAddr {
    match (local, to) {
        (Some(SocketAddr::V6(_)), SocketAddr::V4(v4)) => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
        }
        _ => to,
    }
}
