//! Signed sets in a running node: kept on the disk, exchanged with every neighbour, signed where the mesh root is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use meshara_identity::sealed::FileError;
use meshara_identity::{
    KeyError, MeshId, NodeId, NodeName, Passphrase, RootKey, RootPublic, UnixMillis, WireError,
};
use meshara_overlay::LinkId;
use meshara_transport::tls::Revoked;
use meshara_trust::audit::{Event, TrailError, Words};
use meshara_trust::gossip::{Change, Gossip, GossipError, Misbehaviour, Moment, Output, Peer, Visit};
use meshara_trust::policy::{Compiled, Evidence, PolicyError, PolicyTextError};
use meshara_trust::revocation::{RevocationError, Revocations};
use meshara_trust::root::{OfflineError, ROOT_LIFE_MAX, RootDocument, RootError, SignedRoot};
use meshara_trust::sets::{
    FRESHNESS_INTERVAL, KeyId, OfferError, Offered, Quorum, QuorumError, SetBody, SetKind, SignedSet, Signer,
    StaleError,
};
use quinn::{Connection, RecvStream};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};

use super::files::Files;
use super::root::keys::Keys;
use super::root::proposals::Proposed;
use super::root::publish;
use super::root::signing::SigningError;
use super::{policy, revocation};
use crate::frames::write_frame;
use crate::node::Inner;
use crate::node::standing::{self, AdoptError};

/// Messages that wait for one neighbour: all versions of a root document, and statements beside. Whoever doesn't read for longer is cut off.
const QUEUE: usize = 512;
/// Messages of one neighbour taken at once after a pause: all that a new link brings.
const BURST: u32 = 512;
/// Afterwards, one in this time: a neighbour passes on a few statements a minute.
const EVERY: Duration = Duration::from_millis(50);
/// How often silence is looked at: much less than any limit.
const LOOK: Duration = Duration::from_secs(1);
/// Before writing is tried again after the disk failed.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// Before grants are judged by the newest root document once more, though none came: a write may have failed.
const TAKE_UP: Duration = Duration::from_secs(30);
/// From so long before its end on, a root document that ends is worth a warning: its signers may have to meet.
const ROOT_ENDS: Duration = Duration::from_secs(60 * 24 * 3600);
/// How often that is said.
const SAY_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// Close code of a link whose neighbour misbehaves. Above the overlay's own codes, beside that of control messages.
const CLOSE_SETS: u32 = 0x103;
/// The signer of a mesh that only its founder signs for.
const FOUNDER: &str = "founder";

/// Why a home's signed sets could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetsError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The audit trail.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// What the files hold doesn't fit.
    #[error(
        "the home's signed sets cannot be used: {0}; move its files `trust/*.set` away, but leave `signed.set`: the node asks its \
         neighbours for all of them"
    )]
    Stored(#[from] GossipError),
    /// This machine's clock shows a time before the mesh's root document was made.
    #[error(
        "this machine's clock shows {now}, and the mesh's root document was made at {issued_at}: set the clock"
    )]
    Clock {
        /// This machine's clock.
        now: UnixMillis,
        /// When the document was made.
        issued_at: UnixMillis,
    },
    /// The first root document could not be made.
    #[error("the first root document could not be made: {0}")]
    Founding(#[from] QuorumError),
    /// It could not be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The starter policy.
    #[error("the starter policy cannot be used: {0}")]
    Starter(#[from] PolicyTextError),
}

/// Why nothing was signed and published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PublishError {
    /// The mesh root is elsewhere.
    #[error("this node does not hold the key that signs for the mesh")]
    NoAuthority,
    /// One signature isn't enough: the statement waits for others.
    #[error(
        "{needed} signers must approve, and this node is {given} of them: nothing has changed yet; the statement waits in {file}",
        needed = .0.needed, given = .0.given, file = .0.file.display()
    )]
    Proposed(Proposed),
    /// A statement or a signature from elsewhere.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// This node's key must not sign it.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// Revocations.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It doesn't encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It could not be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// This node itself refuses it.
    #[error(transparent)]
    Gossip(#[from] GossipError),
    /// It contradicts what was signed before, or is older.
    #[error("the set contradicts one that was published before: {0:?}")]
    NotNewest(Box<Offered>),
    /// A root document that would end an issuer without anybody's wish: it was granted after the document was written.
    #[error("grant {number} of issuer {issuer} would not stand under this root document: propose it anew")]
    DropsGrant {
        /// The issuer.
        issuer: NodeId,
        /// The grant's number.
        number: u64,
    },
    /// A grant that enough signed and that changes nothing: it has ended, or the issuer has one with this number or a later one.
    #[error("grant {number} was not taken: it has ended, or its issuer has a later one: propose it anew")]
    GrantNotTaken {
        /// The grant's number.
        number: u64,
    },
    /// A grant.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

struct State {
    gossip: Gossip,
    streams: HashMap<Peer, mpsc::Sender<Arc<[u8]>>>,
    next: u64,
}

impl State {
    /// Hands out what the core wants sent; gives what it wants done.
    fn carry_out(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Send { to, message } => {
                    let sent = self.streams.get(&to).is_some_and(|stream| stream.try_send(message).is_ok());
                    if !sent {
                        // Without its sender the exchange ends, and with it the link.
                        self.streams.remove(&to);
                    }
                }
                Output::Changed(change) => changes.push(change),
            }
        }
        changes
    }
}

/// The signed sets of a running node.
pub(crate) struct Sets {
    state: Mutex<State>,
    files: Mutex<Files>,
    home: PathBuf,
    passphrase: Option<Passphrase>,
    /// The keys with which this node signs for the mesh, if it does.
    keys: ArcSwap<Keys>,
    /// Told when the mesh has another root document: perhaps this node signs now.
    signers: Notify,
    /// Told likewise: other grants may count.
    roots: Notify,
    /// One at a time signs.
    signing: AsyncMutex<()>,
    pub(super) revoked: Arc<Revoked>,
    /// One at a time enforces.
    pub(super) enforcing: Mutex<()>,
    dirty: Notify,
    timer: Notify,
    start: Instant,
    limit: Duration,
    /// Since when this node listens: silence before doesn't count, since nobody can have been heard.
    since: UnixMillis,
    refused: AtomicU64,
    /// Whether it is known what the mesh's policy is. It stays known.
    knows_policy: AtomicBool,
    /// Whether it was said that the signers are silent.
    warned: AtomicBool,
}

impl Sets {
    /// Opens what the home keeps, and founds the root document where the mesh root is and no document yet. Blocks.
    pub(crate) fn open(
        home: &Path,
        mesh: MeshId,
        passphrase: Option<&Passphrase>,
        limit: Duration,
    ) -> Result<Self, SetsError> {
        let keys = Keys::load(home, passphrase);
        let now = UnixMillis::now();
        let (mut files, stored) = Files::open(home)?;
        let mut gossip = Gossip::new(mesh, limit, stored, now).map_err(|error| match error {
            GossipError::Root(RootError::BadDates { issued_at, .. }) if issued_at > now => {
                SetsError::Clock { now, issued_at }
            }
            error => error.into(),
        })?;
        if let Some(key) = keys.root().filter(|key| key.public().fingerprint() == mesh)
            && gossip.root().is_none()
        {
            let root = found(key, now)?;
            files.write_root(&root)?;
            gossip.publish_root(Moment { elapsed: Duration::ZERO, clock: now }, root)?;
        }
        let mut state = State { gossip, streams: HashMap::new(), next: 0 };
        state.carry_out();
        Ok(Self {
            state: Mutex::new(state),
            files: Mutex::new(files),
            home: home.to_owned(),
            passphrase: passphrase.cloned(),
            keys: ArcSwap::from_pointee(keys),
            signers: Notify::new(),
            roots: Notify::new(),
            signing: AsyncMutex::default(),
            revoked: Arc::default(),
            enforcing: Mutex::default(),
            dirty: Notify::new(),
            timer: Notify::new(),
            start: Instant::now(),
            limit,
            since: now,
            refused: AtomicU64::new(0),
            knows_policy: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        })
    }

    /// From now on handshakes refuse whom the snapshot that is held revokes. `since` is when this home began to listen, if an earlier life did.
    pub(crate) fn attach(&mut self, revoked: Arc<Revoked>, since: Option<UnixMillis>) {
        let nodes = self.view(|gossip| gossip.revocations().unconfirmed().map(Revocations::revoked));
        revoked.replace(nodes.into_iter().flatten().map(|revocation| revocation.node).collect());
        self.revoked = revoked;
        self.since = since.map_or(self.since, |since| since.min(self.since));
    }

    /// The home.
    pub(in crate::node) fn home(&self) -> &Path {
        &self.home
    }

    /// The keys with which this node signs for the mesh.
    pub(in crate::node) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }

    /// Held while this node signs: one at a time.
    pub(super) async fn signing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.signing.lock().await
    }

    /// Writes a set before anybody hears that it is done. Blocks.
    pub(super) fn write(&self, set: &SignedSet) -> Result<(), FileError> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).write_set(set)
    }

    /// Writes what is new. Blocks.
    pub(super) fn write_all(&self) -> Result<(), FileError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let unwritten = self.view(|gossip| files.unwritten(gossip));
        files.write(unwritten)
    }

    /// Signers of the root document that haven't ended; `None` before the first document.
    pub(crate) fn root_quorum(&self) -> Result<Option<(MeshId, Quorum)>, PublishError> {
        self.view(|gossip| match gossip.root() {
            None => Ok(None),
            Some(document) if document.expires_at < UnixMillis::now() => Err(GossipError::NoRoot.into()),
            Some(document) => Ok(Some((document.mesh, document.root.clone()))),
        })
    }

    /// Whether this key alone signs for the mesh as root. Before the first root document the founder's does.
    pub(crate) fn is_sole_root(&self, key: &RootPublic) -> bool {
        self.view(|gossip| {
            gossip.root().is_none_or(|document| {
                document.root.threshold() == 1 && document.root.signer_of(&KeyId::of(key)).is_some()
            })
        })
    }

    /// Since when this home listens.
    pub(crate) fn since(&self) -> UnixMillis {
        self.since
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        Moment { elapsed: self.start.elapsed(), clock: UnixMillis::now() }
    }

    /// Looks at what is held.
    pub(crate) fn view<T>(&self, look: impl FnOnce(&Gossip) -> T) -> T {
        look(&self.lock().gossip)
    }

    /// The highest number of a revocation snapshot that this node holds.
    pub(crate) fn revocations(&self) -> u64 {
        self.view(|gossip| gossip.have().revocations.number)
    }

    /// The policy that an earlier life kept, if there is one.
    pub(crate) fn stored_policy(&self) -> Option<Compiled> {
        let body = self.view(|gossip| gossip.set(SetKind::Policy).map(|set| set.body.clone()))?;
        Compiled::decode(&body).ok()
    }

    /// Whether it is known what the mesh's policy is: until then the starter policy may be far laxer.
    pub(super) fn knows_policy(&self) -> bool {
        if !self.knows_policy.load(Relaxed) {
            self.knows_policy.store(self.view(Gossip::knows_policy), Relaxed);
        }
        self.knows_policy.load(Relaxed)
    }

    /// Messages of neighbours that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Whether the signers were heard within the limit.
    pub(crate) fn current(&self) -> Result<(), StaleError> {
        let now = UnixMillis::now();
        match self.view(|gossip| gossip.current(now)) {
            Err(_) if now <= self.since.plus(self.limit) => Ok(()),
            heard => heard,
        }
    }

    /// When enough signers were last heard; `None` before a first root document, and before a first word.
    pub(crate) fn heard(&self) -> Option<UnixMillis> {
        self.view(Gossip::confirmed)
    }

    /// Since when the signers are silent, if that is half of the limit ago or more.
    fn quiet(&self, now: UnixMillis) -> Option<UnixMillis> {
        let last = self.heard().map_or(self.since, |heard| heard.max(self.since));
        (now > last.plus(self.limit / 2)).then_some(last)
    }

    /// Gives the core an input and carries out what follows from it.
    pub(crate) fn input<T>(&self, inner: &Inner, input: impl FnOnce(&mut Gossip, Moment) -> T) -> T {
        let (result, changes) = {
            let mut state = self.lock();
            let result = input(&mut state.gossip, self.now());
            (result, state.carry_out())
        };
        self.timer.notify_one();
        for change in changes {
            changed(inner, change);
        }
        result
    }

    /// The answer to a visitor's message.
    pub(super) fn answer(&self, visit: &mut Visit, message: &[u8]) -> Result<Vec<Arc<[u8]>>, WireError> {
        self.lock().gossip.answer(visit, message)
    }

    /// Begins to exchange messages with a peer; an [`Exchange`] ends that.
    pub(super) fn begin(&self, inner: &Inner) -> (Peer, mpsc::Receiver<Arc<[u8]>>) {
        let (stream, messages) = mpsc::channel(QUEUE);
        let peer = {
            let mut state = self.lock();
            let peer = Peer(state.next);
            state.next += 1;
            state.streams.insert(peer, stream);
            peer
        };
        self.input(inner, |gossip, now| gossip.peer_up(now, peer));
        (peer, messages)
    }

    fn end(&self, inner: &Inner, peer: Peer) {
        self.lock().streams.remove(&peer);
        self.input(inner, |gossip, now| gossip.peer_down(now, peer));
    }
}

/// Version 1 of the root document: the founder alone.
fn found(key: &RootKey, now: UnixMillis) -> Result<SignedRoot, SetsError> {
    let name: NodeName = FOUNDER.parse().map_err(|_| QuorumError::NoThreshold)?;
    let signers = vec![Signer { name: name.clone(), key: key.public().clone() }];
    let authority = Quorum::new(1, signers)?;
    let mut root = SignedRoot::new(RootDocument::founding(key, name, authority, now, ROOT_LIFE_MAX)?);
    root.approve(key)?;
    Ok(root)
}

/// Enforces what is new, and has it stored.
fn changed(inner: &Inner, change: Change) {
    match change {
        Change::Root => {
            let (version, phase) = inner
                .sets
                .view(|gossip| gossip.root().map_or((0, 0), |root| (root.version, root.phase as u8)));
            tracing::info!(version, "this node goes by a new root document");
            inner.sets.signers.notify_one();
            inner.sets.roots.notify_one();
            inner.audit.record(Event::Root { version, phase });
        }
        Change::Set(SetKind::Revocations) => revocation::enforce(inner),
        Change::Set(SetKind::Policy) => policy::enforce(inner),
        Change::Statements => inner.sets.look_at_silence(inner),
        Change::Fork(fork) => {
            tracing::error!(?fork, "signers of the mesh contradict themselves; what is held stays");
            for signer in &fork.signers {
                let what = format!("two sets of {:?} with number {}", fork.kind, fork.number);
                inner.audit.record(Event::Evidence {
                    against: Words::clean(signer.as_str()),
                    what: Words::clean(&what),
                });
            }
        }
        Change::Refused(
            error
            @ (GossipError::Policy(OfferError::Body(_)) | GossipError::Revocations(OfferError::Body(_))),
        ) => {
            tracing::error!(%error, "the mesh's signers approved a set that this node can't use: it goes by the one before, and accepts nothing once that is stale; this program may be too old");
        }
        Change::Refused(error) => tracing::debug!(%error, "a signed statement was not taken"),
        _ => {}
    }
    inner.sets.dirty.notify_one();
}

/// Exchanges signed sets with a neighbour, until the link ends or the neighbour misbehaves.
pub(crate) async fn exchange(inner: &Arc<Inner>, link: LinkId, connection: &Connection) {
    let (peer, mut messages) = inner.sets.begin(inner);
    let _ends = Exchange { inner, peer };
    let write = async {
        let Ok(mut send) = connection.open_uni().await else { return "no stream" };
        while let Some(message) = messages.recv().await {
            if write_frame(&mut send, &message).await.is_err() {
                return "the stream of signed sets broke";
            }
        }
        "signed sets are not being read"
    };
    let read = async {
        let Ok(receive) = connection.accept_uni().await else { return "no stream" };
        read(inner, link, peer, receive).await
    };
    let why = tokio::select! {
        why = write => why,
        why = read => why,
    };
    if connection.close_reason().is_none() {
        inner.overlay.close_link(link, CLOSE_SETS, why);
    }
}

/// A neighbour's part in the exchange; it ends when this is dropped.
pub(super) struct Exchange<'a> {
    pub(super) inner: &'a Inner,
    pub(super) peer: Peer,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.inner.sets.end(self.inner, self.peer);
    }
}

/// Takes a neighbour's messages; why they ended.
async fn read(inner: &Inner, link: LinkId, peer: Peer, mut receive: RecvStream) -> &'static str {
    const BROKEN: &str = "the stream of signed sets broke";
    let misbehaves = || {
        inner.sets.refused.fetch_add(1, Relaxed);
        if let Some(link) = inner.overlay.link(link) {
            policy::report(inner, link.member.node_id, Evidence::Malformed);
        }
    };
    let mut until = Instant::now();
    loop {
        let mut length = [0; 4];
        if receive.read_exact(&mut length).await.is_err() {
            return BROKEN;
        }
        let length = u32::from_be_bytes(length) as usize;
        // By now it is known whether the neighbour was asked for a set.
        if length > inner.sets.view(|gossip| gossip.limit(peer)) {
            misbehaves();
            return "a message about signed sets is too long";
        }
        let mut message = vec![0; length];
        if receive.read_exact(&mut message).await.is_err() {
            return BROKEN;
        }
        let handled = inner.sets.input(inner, |gossip, now| gossip.handle_message(now, peer, &message));
        if let Err(error) = handled {
            if let Some(why) = other_version(&error) {
                inner.sets.refused.fetch_add(1, Relaxed);
                return why;
            }
            misbehaves();
            tracing::warn!(%error, "a neighbour misbehaves");
            return "a message about signed sets was refused";
        }
        // A flood is slowed down: its sender waits.
        let now = Instant::now();
        until = until.max(now) + EVERY;
        let ahead = until.saturating_duration_since(now);
        tokio::time::sleep(ahead.saturating_sub(EVERY * BURST)).await;
    }
}

/// Which side is to be updated, if a neighbour only speaks another version: no misdeed. There never was a version 0.
fn other_version(error: &Misbehaviour) -> Option<&'static str> {
    match error {
        Misbehaviour::Wire(WireError::UnsupportedVersion { found: 0, .. }) => None,
        Misbehaviour::Wire(WireError::UnsupportedVersion { found, supported }) if found > supported => {
            Some("signed sets of a newer version: update the node that closes this link")
        }
        Misbehaviour::Wire(WireError::UnsupportedVersion { .. }) => {
            Some("signed sets of an older version: update the node that sent them")
        }
        _ => None,
    }
}

/// Runs timers, files and, where the mesh root is, statements of freshness. For ever.
pub(crate) async fn run(inner: Arc<Inner>) {
    tokio::join!(run_timers(&inner), run_files(&inner), run_freshness(&inner), run_roots(&inner));
}

/// Has grants judged by the newest root document. Again after a while: the disk may have failed.
async fn run_roots(inner: &Arc<Inner>) {
    loop {
        let versions = inner.sets.view(|gossip| gossip.versions().to_vec());
        if let Err(error) = standing::rooted(inner, &versions).await {
            tracing::error!(%error, "grants can't be judged by the newest root document");
        }
        let _ = tokio::time::timeout(TAKE_UP, inner.sets.roots.notified()).await;
    }
}

async fn run_timers(inner: &Inner) {
    let sets = &inner.sets;
    loop {
        let next = sets.view(Gossip::poll_timeout);
        let elapsed = sets.start.elapsed();
        match next {
            Some(at) if at <= elapsed => sets.input(inner, |gossip, now| gossip.handle_timeout(now)),
            next => {
                let wait = next.map_or(LOOK, |at| LOOK.min(at.saturating_sub(elapsed)));
                let _ = tokio::time::timeout(wait, sets.timer.notified()).await;
                sets.look_at_silence(inner);
            }
        }
    }
}

impl Sets {
    /// Stops accepting when the signers have been silent for too long, and accepts again once they are heard.
    fn look_at_silence(&self, inner: &Inner) {
        let stale = self.current().err();
        let before = inner.sessions.set_stale(stale);
        match (before, stale) {
            (None, Some(stale)) => {
                tracing::error!(%stale, "nothing is accepted any more; links stay up to hear the signers");
            }
            (Some(_), None) => tracing::info!("the signers are heard again: sessions are accepted"),
            _ => {}
        }
        let quiet = self.quiet(UnixMillis::now());
        let warned = self.warned.swap(quiet.is_some(), Relaxed);
        if let Some(since) = quiet.filter(|_| !warned && stale.is_none()) {
            let end = since.plus(self.limit);
            tracing::warn!(%since, %end, "the mesh's signers are silent: if none is heard until the end, this node accepts nothing any more; start the node that holds the mesh root");
        }
    }
}

/// Writes what is new. Blocking work happens elsewhere.
async fn run_files(inner: &Arc<Inner>) {
    loop {
        inner.sets.dirty.notified().await;
        let work = inner.clone();
        let written = tokio::task::spawn_blocking(move || work.sets.write_all());
        if let Ok(Err(error)) = written.await {
            tracing::error!(%error, "signed sets could not be stored");
            tokio::time::sleep(WRITE_AGAIN).await;
            inner.sets.dirty.notify_one();
        }
    }
}

/// Where this node is one of the signers: says at once and then every minute which sets are the newest, and approves them anew after the
/// signers changed.
async fn run_freshness(inner: &Arc<Inner>) {
    let sets = &inner.sets;
    let mut said: Option<Instant> = None;
    loop {
        if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) && warn_of_end(inner) {
            said = Some(Instant::now());
        }
        if sets.keys().lacks(&sets.home) {
            let work = inner.clone();
            let loaded = tokio::task::spawn_blocking(move || {
                Keys::load(&work.sets.home, work.sets.passphrase.as_ref())
            });
            if let Ok(keys) = loaded.await {
                sets.keys.store(Arc::new(keys));
            }
        }
        reapprove(inner).await;
        confirm(inner);
        let _ = tokio::time::timeout(FRESHNESS_INTERVAL, sets.signers.notified()).await;
    }
}

/// Says when the root document is about to end, or has ended; whether it was said.
fn warn_of_end(inner: &Inner) -> bool {
    let now = UnixMillis::now();
    let end = inner.sets.view(|gossip| gossip.root().map(|root| root.expires_at));
    match end {
        Some(end) if now > end => {
            tracing::error!(%end, "the root document has ended: nothing new that the mesh's signers sign counts until there is a next version; see `meshara trust root rotate`");
            true
        }
        Some(end) if now.plus(ROOT_ENDS) > end => {
            tracing::warn!(%end, "the root document ends soon: renew it with `meshara trust root rotate`");
            true
        }
        _ => false,
    }
}

/// Approves the sets held as one of the present signers, where they are not approved.
async fn reapprove(inner: &Arc<Inner>) {
    let sets = &inner.sets;
    let now = UnixMillis::now();
    let lacking = sets.view(|gossip| {
        gossip.authority(now).is_some_and(|quorum| {
            sets.keys().of(quorum).is_some()
                && !(gossip.revocations().is_approved(quorum) && gossip.policy().is_approved(quorum))
        })
    });
    if !lacking {
        return;
    }
    let _alone = sets.signing.lock().await;
    let work = inner.clone();
    let approved = tokio::task::spawn_blocking(move || publish::reapprove(&work)).await;
    for set in approved.unwrap_or_default() {
        if let Err(error) = sets.input(inner, |gossip, now| gossip.publish_set(now, set)) {
            tracing::error!(%error, "the set that this node approved anew is not taken");
        }
    }
}

/// Signs which sets are the newest, if this node is one of the signers.
pub(super) fn confirm(inner: &Inner) {
    let sets = &inner.sets;
    let (keys, now) = (sets.keys(), UnixMillis::now());
    let quorum = sets.view(|gossip| gossip.authority(now).cloned());
    let Some(key) = quorum.as_ref().and_then(|quorum| keys.of(quorum)) else { return };
    let signed = sets.view(|gossip| gossip.freshness(now)).sign(key);
    let published =
        signed.map(|signed| sets.input(inner, |gossip, now| gossip.publish_freshness(now, signed)));
    match published {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "this node's own word is not taken"),
        Err(error) => tracing::error!(%error, "which sets are the newest could not be signed"),
    }
}

/// Signs the next set of a kind, stores it, then publishes it; its number. Where other signers must approve too, the error names the
/// statement that waits for them.
pub(crate) async fn publish(
    inner: &Arc<Inner>,
    kind: SetKind,
    body: impl FnOnce(&Gossip) -> Result<Vec<u8>, PublishError>,
) -> Result<u64, PublishError> {
    let sets = &inner.sets;
    let _alone = sets.signing.lock().await;
    let draft = publish::draft(inner, kind, body)?;
    let work = inner.clone();
    let approved = tokio::task::spawn_blocking(move || publish::approve(&work, draft));
    let set = approved.await.map_err(|_| PublishError::Stopping)??;
    let number = set.signed.head.number;
    match sets.input(inner, |gossip, now| gossip.publish_set(now, set))? {
        Offered::Accepted => {}
        other => return Err(PublishError::NotNewest(Box::new(other))),
    }
    confirm(inner);
    Ok(number)
}
