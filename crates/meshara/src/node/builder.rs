//! Builds a node from its home: loads the identity, opens the store, binds the socket, starts the tasks.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshara_identity::home::{self, HomeError};
use meshara_identity::{Identity, Issuer, LeafError, Passphrase, RoutingKey, UnixMillis};
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
use super::dns::Responder;
use super::echo::Echoes;
use super::home::{Lock, LockError};
use super::messages::{self, Messages};
use super::multicast::{self, Announcement};
use super::overlay::Overlay;
use super::services::Services;
use super::sessions::Sessions;
use super::standing::{self, Standing};
use super::trust::audit::Audit;
use super::trust::files::Files;
use super::trust::log::{self, Logs};
use super::trust::policy::Gate;
use super::trust::sets::{Sets, SetsError};
use super::trust::visit::Doubts;
use super::workload::{self, Workload};
use super::{APPLICATION_STREAMS, Inner, Node, issuing, rejoin, renewal};
use crate::api;
use crate::config::{Config, ConfigError, DEFAULT_PORT, MAX_CONFIGURED_PEERS, PeerAddr, TunSetting};
use crate::store::{self, Store, StoreError};

/// How a [`Node`] is to be built.
#[derive(Debug, Default)]
pub struct Builder {
    home: PathBuf,
    passphrase: Option<Passphrase>,
    config: Option<Config>,
    control_socket: bool,
    workload_socket: bool,
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
    /// Signed sets, policy and audit trail.
    #[error(transparent)]
    Sets(#[from] super::trust::sets::SetsError),
    /// The log of what this node issues.
    #[error(transparent)]
    Log(#[from] super::trust::log::OpenError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Where other trust domains are to fetch the bundle.
    #[error("cannot serve the trust bundle on {addr}: {error}")]
    BundleEndpoint {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// Identities of workloads.
    #[error(transparent)]
    Workload(#[from] super::workload::OpenError),
    /// The socket of the Workload API.
    #[error("can't serve the Workload API: {0}")]
    WorkloadSocket(std::io::Error),
    /// The UDP socket.
    #[error("can't listen on UDP {addr}: {error}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The sockets for DNS queries.
    #[error("can't answer DNS queries on {addr}: {error}")]
    Dns {
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

    /// Serves the SPIFFE Workload API on the Unix socket `workload.sock` in the home.
    pub fn workload_socket(mut self, serve: bool) -> Self {
        self.workload_socket = serve;
        self
    }

    /// Starts the node. Must be called inside a tokio runtime with time and IO.
    ///
    /// # Errors
    /// [`BuildError`]; nothing runs then.
    pub async fn build(self) -> Result<Node, BuildError> {
        let Self { home, passphrase, config, control_socket, workload_socket } = self;
        let config = config.map_or_else(|| Config::load(&home), Ok)?;
        // Opening a sealed or a large file takes long; whoever waits for the node can give up meanwhile.
        let (opening, opener) = (home.clone(), passphrase.clone());
        let limit = config.stale_after();
        let opened = tokio::task::spawn_blocking(move || Opened::from_home(&opening, opener.as_ref(), limit));
        let Opened { identity, lock, issuer, logs, store, snapshot, mut sets, audit } =
            opened.await.map_err(|_| BuildError::Interrupted)??;
        let routing = RoutingKey::from_seed(identity.routing.seed().clone()).map_err(HomeError::from)?;
        let sealing = passphrase.clone();
        let tls = Arc::new(Tls::new(&TlsMaterial::new(&identity.membership).map_err(TlsError::from)?)?);
        let revoked = tls.revoked().clone();
        sets.attach(revoked.clone(), store.get(store::Bucket::Settings, SINCE_KEY).await?);
        store.put(store::Bucket::Settings, SINCE_KEY, &sets.since()).await?;
        let standing =
            Standing::new(home.clone(), passphrase, identity, issuer.map(Arc::new), revoked.clone());
        let membership = standing.membership();
        let now_unix = UnixMillis::now();
        let member = membership.member().clone();
        let anchors = standing.anchors();
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

        let reset_key = reset_key(&routing);
        let names = tls.names().clone();
        let gate = Gate::new(&member.name, sets.stored_policy()).map_err(SetsError::from)?;
        let (plane, plane_events) = DataPlane::new(member.address, wire);
        let endpoints = Endpoints::new(plane.clone(), tls, config.congestion, &reset_key)
            .map_err(|error| BuildError::Bind { addr: bound, error })?;
        #[cfg(target_os = "linux")]
        let interface = interface(&config, member.address).await;
        #[cfg(target_os = "linux")]
        let endpoints = if interface.is_some() { endpoints.with_datagrams() } else { endpoints };
        #[cfg(not(target_os = "linux"))]
        if config.tun != crate::config::TunSetting::Off {
            tracing::warn!("no TUN interface: this needs Linux; everything else works");
        }
        let endpoints = Arc::new(endpoints);
        let responder = responder(&config).await?;
        let bundle_listener = super::federation::bind(&config).await?;

        let started = Instant::now();
        let overlay_config =
            meshara_overlay::Config { auto_neighbours: config.auto, ..meshara_overlay::Config::default() };
        let who = OverlayIdentity { node: member.node_id, address: member.address };
        let logs = Arc::new(logs);
        let auth = Box::new(MeshAuth::new(
            member.node_id,
            routing,
            standing.shared_anchors(),
            revoked,
            names,
            logs.clone(),
        ));
        let rng = ChaCha8Rng::from_seed(next_seed());
        let mut core = Core::new(overlay_config, who, auth, rng, started.elapsed(), now_unix.0);
        // One whose certificate has ended says nothing until it has another.
        if !standing.is_silent() {
            core.set_member(started.elapsed(), membership.leaf_der().to_vec())?;
        }
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
        let (applications, accepted) = mpsc::channel(APPLICATION_STREAMS);
        let mut peers = config.peers.clone();
        peers.extend(remembered_peers(&store).await?);
        let remembered = Remembered::of(&store, peers).await?;
        let sessions = Arc::new(sessions);
        let workload = Workload::open(workload::Parts {
            home: home.clone(),
            passphrase: sealing,
            member: member.clone(),
            issuer: standing.issuer(),
            anchors: standing.shared_anchors(),
            revoked: endpoints.tls().revoked().clone(),
            sessions: sessions.clone(),
            store: store.clone(),
        });
        let workload = workload.await?;
        let workload_listener =
            workload_socket.then(|| Workload::bind(&home)).transpose().map_err(BuildError::WorkloadSocket)?;
        let listener = control_socket.then(|| api::bind(&home)).transpose().map_err(BuildError::Control)?;

        let inner = Arc::new(Inner {
            config,
            mesh: anchors.mesh().clone(),
            bound,
            started,
            overlay,
            sessions,
            sets,
            gate,
            audit,
            messages,
            services,
            echoes: Echoes::new(plane, random.next_u64()),
            admission: Admission::default(),
            doubts: Doubts::default(),
            standing,
            granting: super::issuing::Granting::default(),
            asked: Admission::default(),
            remembered: remembered.addresses(),
            logs,
            workload,
            network_changes: watch::channel(0).0,
            #[cfg(target_os = "linux")]
            interface,
            dns: responder.as_ref().map(|responder| responder.addr),
            stop: watch::channel(false).0,
            local: Mutex::new(BTreeSet::new()),
            seen_at: Mutex::default(),
            configured: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
            applications,
            accepted: tokio::sync::Mutex::new(accepted),
            endpoints,
            member,
        });
        inner.publish_addresses();
        if let Some(issuer) = inner.standing.issuer() {
            issuing::guard(&inner, &issuer);
        }
        start(&inner, plane_events, dials, opened, work, remembered, &anchors.mesh_id());
        inner.workload.reconsider(&inner);
        inner.spawn(Workload::run(inner.clone()));
        inner.spawn(super::federation::run(inner.clone()));
        if let Some(listener) = bundle_listener {
            inner.spawn(super::federation::serve(inner.clone(), listener));
        }
        if let Some(listener) = workload_listener {
            let (mut stop, workloads) = (inner.stop.subscribe(), inner.workload.workloads.clone());
            inner.spawn(meshara_workload::serve(listener, workloads, async move {
                let _ = stop.wait_for(|stop| *stop).await;
            }));
        }
        #[cfg(target_os = "linux")]
        if let Some(interface) = inner.interface.clone() {
            inner.spawn(super::tun::run(inner.clone(), interface));
        }
        if let Some(responder) = responder {
            inner.spawn(super::dns::run(inner.clone(), responder));
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
    logs: Logs,
    store: Store,
    snapshot: Snapshot,
    sets: Sets,
    audit: Audit,
}

impl Opened {
    fn from_home(home: &Path, passphrase: Option<&Passphrase>, limit: Duration) -> Result<Self, BuildError> {
        let mut identity = home::load(home, passphrase)?;
        let lock = Lock::take(home)?;
        let (issuer, now) =
            (home::open_issuer(home, identity.membership.anchors(), passphrase)?, UnixMillis::now());
        let logs = Logs::open(home, &identity.membership, &identity.routing, passphrase.cloned())
            .map_err(super::trust::log::OpenError::from)?;
        if let Some(issuer) = &issuer {
            logs.issue(issuer, &identity.membership)?;
        }
        if let Some(issuer) = &issuer
            && home::renew_issuer(home, &mut identity, issuer, passphrase, now)?
        {
            tracing::info!(until = %identity.membership.member().not_after, "this node's own certificate was renewed");
        }
        let member = identity.membership.member();
        match identity.membership.valid_at(now) {
            // The node comes up, and gets another by its node key.
            Err(error) if standing::is_renewable(member, &error, now) => {}
            valid => valid?,
        }
        let (store, snapshot) = Store::open(&home.join(store::FILE))?;
        // After the store: its lock is what says that an earlier life of this home is over.
        let audit = Audit::open(home).map_err(SetsError::from)?;
        let sets = Sets::open(home, identity.membership.anchors().mesh_id(), passphrase, limit)?;
        Ok(Self { identity, lock, issuer, logs, store, snapshot, sets, audit })
    }
}

/// Opens issuer, root, signed sets and store of a home that no node runs on, as [`Builder::build`] opens them, and closes them again: what is wrong
/// with each. The identity itself is [`meshara_identity::home::load`]'s to check; while that fails, the issuer is not looked at.
/// Blocks.
///
/// # Errors
/// [`LockError`]: a node runs there, or the home cannot be locked. Nothing was opened then.
pub fn examine(home: &Path, passphrase: Option<&Passphrase>) -> Result<Vec<BuildError>, LockError> {
    let _lock = Lock::take(home)?;
    let mut wrong: Vec<BuildError> = Vec::new();
    if let Ok(identity) = home::load(home, passphrase) {
        match home::open_issuer(home, identity.membership.anchors(), passphrase) {
            // A log that was never begun is none that could be wrong.
            Ok(Some(issuer)) if log::is_begun(home) => {
                let opened = Logs::open(home, &identity.membership, &identity.routing, passphrase.cloned())
                    .map_err(log::OpenError::from)
                    .and_then(|logs| logs.issue(&issuer, &identity.membership));
                wrong.extend(opened.err().map(BuildError::from));
            }
            issuer => wrong.extend(issuer.err().map(BuildError::from)),
        }
    }
    if let Ok(identity) = home::load(home, passphrase)
        && home::is_issuer(home)
    {
        let (mesh, me) = (identity.membership.anchors().mesh_id(), identity.node.node_id());
        let roots = meshara_workload::Authority::check(home, passphrase, mesh, me);
        wrong.extend(roots.err().map(|error| BuildError::Workload(error.into())));
    }
    if home.join(home::ROOT_KEY).symlink_metadata().is_ok() {
        wrong.extend(home::load_root(home, passphrase).err().map(BuildError::from));
    }
    let sets = Files::open(home).map_err(SetsError::from);
    wrong.extend(sets.err().map(BuildError::from));
    wrong.extend(Store::check(&home.join(store::FILE)).err().map(BuildError::from));
    Ok(wrong)
}

/// Setting that remembers the UDP port.
const PORT_KEY: &str = "port";
/// Setting that remembers since when the home listens to the mesh's signers.
const SINCE_KEY: &str = "signers heard since";
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
    /// All addresses of other members that earlier lives wrote down.
    fn addresses(&self) -> Vec<SocketAddr> {
        let book = self.book.entries().flat_map(|(_, addrs)| addrs.iter().copied());
        self.ticket.iter().copied().chain(book).collect()
    }

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
    inner.spawn(renewal::run(me()));
    inner.spawn(rejoin::watch(me()));
    inner.spawn(super::trust::visit::run(me()));
    inner.spawn(super::contests::run(me()));
    inner.spawn(super::issuing::run(me()));
    inner.spawn(super::trust::sets::run(me()));
    inner.spawn(log::run_follow(me()));
    inner.spawn(log::run_attest(me()));
    inner.spawn(log::routing::run_compare(me()));
    inner.spawn(log::run_own_record(me()));
    if let Some(own) = inner.logs.own() {
        inner.spawn(log::run_publish(me(), own.clone()));
    }
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

/// The TUN interface, if one is wanted and can be. A node without it does everything else, so this is no error.
#[cfg(target_os = "linux")]
async fn interface(
    config: &Config,
    address: meshara_identity::MeshAddress,
) -> Option<Arc<super::tun::Interface>> {
    let name = match &config.tun {
        TunSetting::Off => return None,
        TunSetting::On => None,
        TunSetting::Named(name) => Some(name),
    };
    match super::tun::Interface::open(name, address).await {
        Ok(interface) => {
            tracing::info!(name = interface.name(), %address, "TUN interface up");
            Some(Arc::new(interface))
        }
        Err(error) => {
            tracing::warn!(%error, "no TUN interface: programs can't use mesh addresses; everything else works");
            None
        }
    }
}

/// The sockets for DNS queries, if they are to be answered.
async fn responder(config: &Config) -> Result<Option<Responder>, BuildError> {
    let Some(addr) = config.dns else { return Ok(None) };
    let responder = Responder::bind(addr).await.map_err(|error| BuildError::Dns { addr, error })?;
    tracing::info!(addr = %responder.addr, "answering DNS queries");
    Ok(Some(responder))
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
