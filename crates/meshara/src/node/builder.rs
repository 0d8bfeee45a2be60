//! Builds a node from its home: loads the identity, opens the store, binds the socket, starts the tasks.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use meshara_identity::home::{self, HomeError};
use meshara_identity::{Identity, Issuer, LeafError, NodeId, Passphrase, UnixMillis};
use meshara_messaging::{LoadError, Snapshot};
use meshara_overlay::{Core, Identity as OverlayIdentity, KnownNode, KnownOrigin, MemberError};
use meshara_transport::tls::{Tls, TlsError, TlsMaterial};
use meshara_transport::{DataPlane, Endpoints, Wire, any_address};
use rand::rngs::OsRng;
use rand::{RngCore, SeedableRng, TryRngCore};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::address_book::AddressBook;
use super::admission::Admission;
use super::auth::MeshAuth;
use super::echo::Echoes;
use super::home::{Lock, LockError};
use super::messages::{self, Messages};
use super::multicast::{self, Announcement};
use super::overlay::Overlay;
use super::renewal::{self, Renewal};
use super::services::Services;
use super::sessions::Sessions;
use super::{APPLICATION_STREAMS, Inner, Node};
use crate::api;
use crate::config::{Config, ConfigError, DEFAULT_PORT, MAX_CONFIGURED_PEERS, PeerAddr};
use crate::store::{self, Store, StoreError};

/// How a [`Node`] is to be built.
#[derive(Debug, Default)]
pub struct Builder {
    home: PathBuf,
    passphrase: Option<Passphrase>,
    config: Option<Config>,
    control_socket: bool,
}

/// Why a node could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The identity files.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another node, or the operating system.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store contradicts itself.
    #[error("the outbox can't be loaded: {0}")]
    Load(#[from] LoadError),
    /// This node's certificate isn't valid now.
    #[error("this node's certificate can't be used: {0}")]
    Certificate(#[from] LeafError),
    /// The overlay doesn't accept this node's certificate.
    #[error("this node's certificate can't be used: {0}")]
    Member(#[from] MemberError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The UDP socket.
    #[error("can't listen on UDP {addr}: {error}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The control socket.
    #[error("can't make the control socket: {0}")]
    Control(std::io::Error),
    /// The runtime ended while the home was being opened.
    #[error("the runtime is stopping")]
    Interrupted,
    /// The system gives no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(rand::rand_core::OsError),
}

impl Builder {
    /// The home that holds the identity, see [`meshara_identity::create_mesh`] and [`crate::join`].
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = home.into();
        self
    }

    /// Opens sealed files.
    pub fn passphrase(mut self, passphrase: Passphrase) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// Takes this configuration instead of the home's `config.toml`.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Serves the control API on the Unix socket in the home.
    pub fn control_socket(mut self, serve: bool) -> Self {
        self.control_socket = serve;
        self
    }

    /// Starts the node. Must be called inside a tokio runtime with time and IO.
    ///
    /// # Errors
    /// [`BuildError`]; nothing runs then.
    pub async fn build(self) -> Result<Node, BuildError> {
        let Self { home, passphrase, config, control_socket } = self;
        let config = config.map_or_else(|| Config::load(&home), Ok)?;
        // Opening a sealed or a large file takes long; whoever waits for the node can give up meanwhile.
        let (opening, opener) = (home.clone(), passphrase.clone());
        let opened = tokio::task::spawn_blocking(move || Opened::from_home(&opening, opener.as_ref()));
        let Opened { identity, lock, issuer, store, snapshot } =
            opened.await.map_err(|_| BuildError::Interrupted)??;
        let membership = identity.membership;
        let now_unix = UnixMillis::now();
        let member = membership.member().clone();
        let anchors = Arc::new(membership.anchors().clone());
        let wire = bind(&config, &store).await?;
        let bound = wire.local_addr().map_err(|error| BuildError::Bind { addr: any_address(0), error })?;
        store.put(store::Bucket::Settings, PORT_KEY, &bound.port()).await?;

        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(BuildError::Random)?;
        let mut random = ChaCha8Rng::from_seed(seed);
        let mut next_seed = || {
            let mut seed = [0; 32];
            random.fill_bytes(&mut seed);
            seed
        };

        let reset_key = reset_key(&identity.routing);
        let tls = Arc::new(Tls::new(&TlsMaterial::new(&membership).map_err(TlsError::from)?)?);
        let (plane, plane_events) = DataPlane::new(member.address, wire);
        let endpoints = Endpoints::new(plane.clone(), tls, config.congestion, &reset_key)
            .map_err(|error| BuildError::Bind { addr: bound, error })?;
        let endpoints = Arc::new(endpoints);

        let started = Instant::now();
        let overlay_config =
            meshara_overlay::Config { auto_neighbours: config.auto, ..meshara_overlay::Config::default() };
        let who = OverlayIdentity { node: member.node_id, address: member.address };
        let auth = Box::new(MeshAuth::new(identity.routing, anchors.clone()));
        let rng = ChaCha8Rng::from_seed(next_seed());
        let mut core = Core::new(overlay_config, who, auth, rng, started.elapsed(), now_unix.0);
        core.set_member(started.elapsed(), membership.leaf_der().to_vec())?;
        let (overlay, dials) = Overlay::new(core, plane.clone(), started);

        let (sessions, opened) = Sessions::new(endpoints.clone());
        let messaging = meshara_messaging::Core::new(
            meshara_messaging::Config::default(),
            member.node_id,
            next_seed(),
            started.elapsed(),
            now_unix.0,
            snapshot,
        )?;
        let (messages, work) = Messages::new(messaging, store.clone(), member.node_id, started);
        let services = Services::default();
        for (name, tcp) in store.list::<String>(store::Bucket::Services).await? {
            services.add(name, tcp);
        }
        let issuers: Vec<NodeId> = anchors.grants().iter().map(|grant| grant.statement.issuer).collect();
        let issuer = issuer.map(Arc::new);
        let admission = Admission::new(issuer.clone(), membership.mesh_info(), issuers, member.node_id);
        let (applications, accepted) = mpsc::channel(APPLICATION_STREAMS);
        let mut peers = config.peers.clone();
        peers.extend(remembered_peers(&store).await?);
        let remembered = Remembered::of(&store, peers).await?;
        let listener = control_socket.then(|| api::bind(&home)).transpose().map_err(BuildError::Control)?;
        let renewal = issuer.map(|issuer| Renewal { home, passphrase, issuer });

        let inner = Arc::new(Inner {
            config,
            mesh: anchors.mesh().clone(),
            bound,
            started,
            overlay,
            sessions: Arc::new(sessions),
            messages,
            services,
            echoes: Echoes::new(plane, random.next_u64()),
            admission,
            network_changes: watch::channel(0).0,
            stop: watch::channel(false).0,
            local: Mutex::new(BTreeSet::new()),
            seen_at: Mutex::default(),
            configured: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
            applications,
            accepted: tokio::sync::Mutex::new(accepted),
            endpoints,
            certificate_end: member.not_after.0.into(),
            member,
        });
        inner.publish_addresses();
        start(&inner, plane_events, dials, opened, work, remembered, &anchors.mesh_id());
        if let Some(renewal) = renewal {
            inner.spawn(renewal::run(inner.clone(), renewal));
        }
        if let Some(listener) = listener {
            let mut stop = inner.stop.subscribe();
            let control = Arc::new(super::control::NodeControl(inner.clone()));
            inner.spawn(api::serve(listener, control, async move {
                let _ = stop.wait_for(|stop| *stop).await;
            }));
        }
        Ok(Node { inner, _lock: lock })
    }
}

/// What a node needs of its home.
struct Opened {
    identity: Identity,
    lock: Lock,
    issuer: Option<Issuer>,
    store: Store,
    snapshot: Snapshot,
}

impl Opened {
    fn from_home(home: &Path, passphrase: Option<&Passphrase>) -> Result<Self, BuildError> {
        let mut identity = home::load(home, passphrase)?;
        let lock = Lock::take(home)?;
        let (issuer, now) =
            (home::open_issuer(home, identity.membership.anchors(), passphrase)?, UnixMillis::now());
        if let Some(issuer) = &issuer
            && home::renew_issuer(home, &mut identity, issuer, passphrase, now)?
        {
            tracing::info!(until = %identity.membership.member().not_after, "this node's own certificate was renewed");
        }
        identity.membership.valid_at(now)?;
        let (store, snapshot) = Store::open(&home.join(store::FILE))?;
        Ok(Self { identity, lock, issuer, store, snapshot })
    }
}

/// Opens issuer, root and store of a home that no node runs on, as [`Builder::build`] opens them, and closes them again: what is wrong
/// with each. The identity itself is [`meshara_identity::home::load`]'s to check; while that fails, the issuer is not looked at.
/// Blocks.
///
/// # Errors
/// [`LockError`]: a node runs there, or the home cannot be locked. Nothing was opened then.
pub fn examine(home: &Path, passphrase: Option<&Passphrase>) -> Result<Vec<BuildError>, LockError> {
    let _lock = Lock::take(home)?;
    let mut wrong: Vec<BuildError> = Vec::new();
    if let Ok(identity) = home::load(home, passphrase) {
        let issuer = home::open_issuer(home, identity.membership.anchors(), passphrase);
        wrong.extend(issuer.err().map(BuildError::from));
    }
    if home.join(home::ROOT_KEY).symlink_metadata().is_ok() {
        wrong.extend(home::load_root(home, passphrase).err().map(BuildError::from));
    }
    wrong.extend(Store::check(&home.join(store::FILE)).err().map(BuildError::from));
    Ok(wrong)
}

/// Setting that remembers the UDP port.
const PORT_KEY: &str = "port";
/// Setting that remembers where the members were that the ticket named.
const TICKET_KEY: &str = "ticket addresses";
/// Setting that remembers peers.
const PEERS_KEY: &str = "peers";

/// Whom to dial.
struct Remembered {
    /// Configured, and remembered from `join` and `add_peer`.
    peers: Vec<PeerAddr>,
    /// Members that joining went through.
    ticket: Vec<SocketAddr>,
    book: AddressBook,
}

impl Remembered {
    async fn of(store: &Store, peers: Vec<PeerAddr>) -> Result<Self, StoreError> {
        let ticket = store.get(store::Bucket::Settings, TICKET_KEY).await?.unwrap_or_default();
        Ok(Self { peers, ticket, book: AddressBook::load(store).await? })
    }
}

/// Starts every task of the node. Can't fail: nobody would end those that were started before.
fn start(
    inner: &Arc<Inner>,
    plane_events: meshara_transport::PlaneEvents,
    dials: mpsc::Receiver<(meshara_overlay::DialTarget, meshara_overlay::LinkKind)>,
    opened: mpsc::Receiver<super::Session>,
    work: messages::Work,
    remembered: Remembered,
    mesh: &meshara_identity::MeshId,
) {
    let Remembered { peers, ticket, book } = remembered;
    let me = || inner.clone();
    inner.spawn(super::run_plane(me(), plane_events));
    inner.spawn({
        let inner = me();
        async move { inner.overlay.run_timers().await }
    });
    inner.spawn(super::links::run_dials(me(), dials));
    inner.spawn(super::links::run_accepts(me()));
    inner.spawn(super::run_session_accepts(me()));
    inner.spawn(super::run_sessions(me(), opened));
    inner.spawn(messages::run(me(), work));
    inner.spawn(super::network::watch_interfaces(me()));
    #[cfg(target_os = "linux")]
    inner.spawn(super::carrier::watch(me()));
    inner.spawn(super::network::watch_sleep(me()));
    inner.spawn(super::run_configured(me(), peers));
    if inner.config.multicast {
        let announcement = Announcement::new(mesh, inner.member.node_id, inner.bound.port());
        inner.spawn(multicast::run(me(), announcement));
    }
    if inner.config.auto {
        for addr in ticket {
            inner.overlay.known(KnownNode { node: None, addrs: vec![addr], origin: KnownOrigin::Ticket });
        }
        for (node, addrs) in book.entries() {
            let (node, addrs) = (node.parse().ok(), addrs.to_vec());
            inner.overlay.known(KnownNode { node, addrs, origin: KnownOrigin::Gossip });
        }
        inner.spawn(super::address_book::keep(me(), book));
    }
}

/// Binds the UDP socket: the configured address, else all interfaces on the port of last time, else the default port. A port that
/// wasn't asked for and is taken gives way to any free one, so that a second home on a machine just works.
async fn bind(config: &Config, store: &Store) -> Result<Wire, BuildError> {
    if let Some(addr) = config.listen {
        return Wire::bind(addr).map_err(|error| BuildError::Bind { addr, error });
    }
    let remembered: Option<u16> = store.get(store::Bucket::Settings, PORT_KEY).await?;
    for port in remembered.into_iter().chain([DEFAULT_PORT, 0]) {
        for addr in [any_address(port), SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)] {
            if let Ok(wire) = Wire::bind(addr) {
                return Ok(wire);
            }
        }
    }
    let addr = any_address(0);
    Wire::bind(addr).map_err(|error| BuildError::Bind { addr, error })
}

/// Secret for stateless resets, the same in every life of the node: derived from a signature of its routing key, which is
/// deterministic (RFC 8032).
fn reset_key(routing: &meshara_identity::RoutingKey) -> [u8; 32] {
    let signature = routing.sign(b"meshara stateless reset key v1");
    blake3::derive_key("meshara 2026-11 stateless reset key v1", &signature)
}

/// Peers remembered from `join` and `add_peer`.
async fn remembered_peers(store: &Store) -> Result<Vec<PeerAddr>, StoreError> {
    let peers: Option<Vec<String>> = store.get(store::Bucket::Settings, PEERS_KEY).await?;
    Ok(peers.unwrap_or_default().iter().filter_map(|peer| peer.parse().ok()).collect())
}

/// Remembers peers for later lives of this home.
pub(crate) async fn remember_peers(store: &Store, new: &[PeerAddr]) -> Result<(), StoreError> {
    let mut peers = remembered_peers(store).await?;
    for peer in new {
        if !peers.contains(peer) && peers.len() < MAX_CONFIGURED_PEERS {
            peers.push(peer.clone());
        }
    }
    let texts: Vec<String> = peers.iter().map(ToString::to_string).collect();
    store.put(store::Bucket::Settings, PEERS_KEY, &texts).await
}

/// Remembers the members that joining went through: dialled in later lives while this node has no neighbour.
pub(crate) async fn remember_ticket(
    store: &Store,
    via: SocketAddr,
    addrs: &[SocketAddr],
) -> Result<(), StoreError> {
    let mut all = vec![via];
    all.extend(addrs.iter().copied().filter(|addr| *addr != via));
    store.put(store::Bucket::Settings, TICKET_KEY, &all).await
}
