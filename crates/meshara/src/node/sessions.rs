//! The sessions of a node: one QUIC connection per peer that it talks with, opened when first needed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::{Member, MeshAddress, NodeId};
use meshara_transport::{ConnectError, Endpoints};
use meshara_trust::sets::StaleError;
use quinn::{Connection, Side};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};

use super::direct::Punches;
use super::messages::SIMULTANEOUS;
use super::streams::{Opening, write_opening};
use super::tiers::Measured;

/// Sessions at once; more are refused until some end. Each costs some 100 KB of memory, and stays until its peer goes, says
/// goodbye or opens newer ones.
const MAX_SESSIONS: usize = 1024;
/// Sessions with one peer: both sides may open one at the same moment. Then new streams of both go over one of them; those that
/// began on the other stay there, and as nobody can tell when the last of them has ended, it stays open beside. The oldest above this is
/// closed after [`GRACE`].
const KEPT: usize = 2;
/// How long streams may still end on a session that newer ones have replaced.
const GRACE: Duration = Duration::from_secs(10);
/// Close code: newer sessions have taken this one's place.
const CLOSE_REPLACED: u32 = 0x300;
/// Close code: the node has [`MAX_SESSIONS`].
const CLOSE_TOO_MANY: u32 = 0x301;
/// Close code: the node hasn't heard the mesh's signers for too long, and accepts nothing.
const CLOSE_STALE: u32 = 0x302;
/// Attempts to open a session before the caller hears of it: a re-route may eat the first.
const ATTEMPTS: u32 = 2;
/// How long a caller waits for a route: a re-route after a failure or a fresh start.
const ROUTE_WAIT: Duration = Duration::from_secs(2);
/// Between looks at the table meanwhile.
const ROUTE_POLL: Duration = Duration::from_millis(20);

/// A session with a proven peer.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) member: Member,
    /// Told when a stream begins.
    pub(crate) began: Arc<Notify>,
    opened: Instant,
}

impl Session {
    pub(crate) fn new(connection: Connection, member: Member) -> Self {
        Self { connection, member, began: Arc::default(), opened: Instant::now() }
    }

    fn opened_by_us(&self) -> bool {
        self.connection.side() == Side::Client
    }

    /// Whether both sides opened one at the same time, so that neither knew of the other's.
    fn is_simultaneous(&self, other: &Self) -> bool {
        let apart = self.opened.max(other.opened).duration_since(self.opened.min(other.opened));
        self.opened_by_us() != other.opened_by_us() && apart < SIMULTANEOUS
    }

    fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    fn is(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }
}

/// Why there is no session, or no stream on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No route leads to the node now.
    #[error("no route to the node")]
    Unreachable,
    /// The handshake failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session ended.
    #[error("the session ended: {0}")]
    Ended(#[from] quinn::ConnectionError),
    /// The stream ended.
    #[error("the stream ended: {0}")]
    Stream(#[from] quinn::WriteError),
    /// The stream ended.
    #[error("the stream ended: {0}")]
    Read(#[from] quinn::ReadError),
    /// A throughput run ended and the receiver confirmed no byte.
    #[error("the node confirmed no byte")]
    NothingConfirmed,
    /// Too many sessions.
    #[error("{MAX_SESSIONS} sessions are open")]
    TooMany,
    /// The node is this one.
    #[error("the node is this one itself")]
    Ourselves,
    /// This node hasn't heard the mesh's signers for too long.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// The node's policy denies it.
    #[error("denied by the rule `{rule}` of that node's policy")]
    Denied {
        /// The rule.
        rule: String,
    },
}

#[derive(Default)]
struct Entry {
    /// Oldest first. One more than [`KEPT`] while the oldest has its grace.
    sessions: VecDeque<Session>,
    measured: Measured,
    /// Held while someone opens a session, so that others wait for that one.
    opening: Arc<AsyncMutex<()>>,
}

impl Entry {
    /// The session that streams are opened on: the newest. Of two that both sides opened at the same time, on both sides the one that the
    /// lower mesh address opened.
    fn current(&self, us: MeshAddress) -> Option<&Session> {
        let mut open = self.sessions.iter().rev().filter(|session| session.is_open());
        let newest = open.next()?;
        let ours_stays = us.0 < newest.member.address.0;
        let other = open.next().filter(|other| newest.is_simultaneous(other));
        Some(other.filter(|other| other.opened_by_us() == ours_stays).unwrap_or(newest))
    }
}

/// Forgets what has ended; the number of sessions left.
fn prune(entries: &mut HashMap<NodeId, Entry>) -> usize {
    entries.retain(|_, entry| {
        entry.sessions.retain(Session::is_open);
        Arc::strong_count(&entry.opening) > 1 || !entry.sessions.is_empty()
    });
    entries.values().map(|entry| entry.sessions.len()).sum()
}

/// All sessions.
pub(crate) struct Sessions {
    endpoints: Arc<Endpoints>,
    entries: Mutex<HashMap<NodeId, Entry>>,
    /// Why there are none, if there may be none.
    stale: Mutex<Option<StaleError>>,
    /// New sessions, for the task that accepts their streams.
    opened: mpsc::Sender<Session>,
    pub(crate) punches: Punches,
}

impl Sessions {
    /// The receiver gives every session as it opens, whoever opened it.
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> (Self, mpsc::Receiver<Session>) {
        let (opened, sessions) = mpsc::channel(MAX_SESSIONS);
        let stale = Mutex::default();
        (Self { endpoints, entries: Mutex::default(), stale, opened, punches: Punches::default() }, sessions)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<NodeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stale(&self) -> MutexGuard<'_, Option<StaleError>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With `Some` there are no sessions, and none is made, until it is `None` again. What it was before.
    pub(crate) fn set_stale(&self, stale: Option<StaleError>) -> Option<StaleError> {
        let before = std::mem::replace(&mut *self.stale(), stale);
        if let Some(stale) = stale {
            let reason = stale.to_string();
            let entries = self.entries();
            for session in entries.values().flat_map(|entry| &entry.sessions) {
                session.connection.close(CLOSE_STALE.into(), reason.as_bytes());
            }
        }
        before
    }

    /// Whether the node may accept anything.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale().is_some()
    }

    /// The nodes that sessions are open with.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        self.entries().keys().copied().collect()
    }

    /// Ends all sessions with a node.
    pub(crate) fn end(&self, node: &NodeId, code: u32, reason: &[u8]) {
        if let Some(entry) = self.entries().get(node) {
            for session in &entry.sessions {
                session.connection.close(code.into(), reason);
            }
        }
    }

    /// Every open session, also several with one peer.
    pub(crate) fn every(&self) -> Vec<Session> {
        let entries = self.entries();
        let sessions = entries.values().flat_map(|entry| &entry.sessions);
        sessions.filter(|session| session.is_open()).cloned().collect()
    }

    /// Open sessions, the current one with each peer.
    pub(crate) fn all(&self) -> Vec<Session> {
        let us = self.endpoints.plane().me();
        let mut all: Vec<_> =
            self.entries().values().filter_map(|entry| entry.current(us).cloned()).collect();
        all.sort_by_key(|session| session.member.node_id);
        all
    }

    /// The open session with a node, the current one if there are several.
    pub(crate) fn existing(&self, node: &NodeId) -> Option<Session> {
        self.entries().get(node)?.current(self.endpoints.plane().me()).cloned()
    }

    /// Whether streams to the session's peer are opened on it.
    pub(crate) fn is_current(&self, session: &Session) -> bool {
        self.existing(&session.member.node_id).is_some_and(|current| current.is(session))
    }

    /// The session with a node, opened if there is none.
    pub(crate) async fn get(&self, node: NodeId) -> Result<Session, SessionError> {
        if let Some(stale) = *self.stale() {
            return Err(stale.into());
        }
        if let Some(session) = self.existing(&node) {
            return Ok(session);
        }
        let opening = {
            let mut entries = self.entries();
            if prune(&mut entries) >= MAX_SESSIONS || entries.len() >= MAX_SESSIONS {
                return Err(SessionError::TooMany);
            }
            entries.entry(node).or_default().opening.clone()
        };
        let _alone = opening.lock().await;
        if let Some(session) = self.existing(&node) {
            return Ok(session);
        }
        let mut attempt = 1;
        loop {
            let address = self.route_to(&node).await.ok_or(SessionError::Unreachable)?;
            match self.endpoints.open_session(node, address).await {
                Ok((connection, member)) => {
                    let session = Session::new(connection, member);
                    return if self.keep(session.clone()).await {
                        Ok(session)
                    } else {
                        Err(SessionError::TooMany)
                    };
                }
                Err(ConnectError::TimedOut | ConnectError::Connection(quinn::ConnectionError::TimedOut))
                    if attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The node's mesh address once a route leads there; a moment is given for one to appear.
    async fn route_to(&self, node: &NodeId) -> Option<MeshAddress> {
        let address = self.endpoints.address_of(node);
        let until = Instant::now() + ROUTE_WAIT;
        loop {
            if self.endpoints.plane().table().lookup(&address).is_some() {
                return Some(address);
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(ROUTE_POLL).await;
        }
    }

    /// Keeps a new session; `false` when there are too many, and it is closed. New streams go over it. The one before goes on, since
    /// the peer may have opened either at the same moment; those before that end.
    pub(crate) async fn keep(&self, session: Session) -> bool {
        let kept = {
            let mut entries = self.entries();
            let room = prune(&mut entries) < MAX_SESSIONS;
            if room {
                let entry = entries.entry(session.member.node_id).or_default();
                entry.sessions.push_back(session.clone());
                retire(&mut entry.sessions);
            }
            room
        };
        // What came after the handshake had looked, and before the session was among those that are ended.
        if self.endpoints.tls().member(&session.connection).is_err() {
            return true;
        }
        if let Some(stale) = *self.stale() {
            session.connection.close(CLOSE_STALE.into(), stale.to_string().as_bytes());
        }
        if kept {
            let _ = self.opened.send(session).await;
        } else {
            session.connection.close(CLOSE_TOO_MANY.into(), b"too many sessions");
        }
        kept
    }

    /// Ends every session.
    pub(crate) fn close_all(&self, code: u32, why: &[u8]) {
        for session in self.entries().values().flat_map(|entry| &entry.sessions) {
            session.connection.close(code.into(), why);
        }
    }

    /// Keeps what was measured of the path to a node.
    pub(crate) fn note(&self, node: NodeId, measured: Measured) {
        if let Some(entry) = self.entries().get_mut(&node) {
            entry.measured = measured;
        }
    }

    /// What was measured of the path to a node, with its session.
    pub(crate) fn measured(&self, node: &NodeId) -> Option<(Session, Measured)> {
        let session = self.existing(node)?;
        Some((session, self.entries().get(node)?.measured))
    }

    /// Opens a stream for a purpose.
    pub(crate) async fn open_stream(
        &self,
        node: NodeId,
        opening: &Opening,
    ) -> Result<(quinn::SendStream, quinn::RecvStream), SessionError> {
        let session = self.get(node).await?;
        let (mut send, receive) = session.connection.open_bi().await?;
        write_opening(&mut send, opening).await?;
        session.began.notify_one();
        Ok((send, receive))
    }
}

/// Closes the oldest of a peer's sessions if there are too many: at once if the next has come within its grace, else after it.
fn retire(sessions: &mut VecDeque<Session>) {
    while sessions.len() > KEPT + 1 {
        let Some(oldest) = sessions.pop_front() else { return };
        oldest.connection.close(CLOSE_REPLACED.into(), b"replaced");
    }
    if sessions.len() > KEPT
        && let Some(oldest) = sessions.front().map(|session| session.connection.clone())
    {
        tokio::spawn(async move {
            if tokio::time::timeout(GRACE, oldest.closed()).await.is_err() {
                oldest.close(CLOSE_REPLACED.into(), b"replaced");
            }
        });
    }
}

/// How long a node waits for a peer's streams to finish when it leaves.
pub(crate) const FAREWELL: Duration = Duration::from_millis(500);

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;

    use super::*;
    use crate::api::Control;
    use crate::config::Config;
    use crate::{JoinOptions, Node, UnixMillis, create_mesh, join};

    pub(in crate::node) async fn build(home: &Path) -> Node {
        let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let config = Config { listen, multicast: false, direct: false, ..Config::default() };
        Node::builder().home(home).config(config).build().await.unwrap()
    }

    pub(in crate::node) async fn pair(dir: &Path) -> (Node, Node) {
        let homes = ["alice", "bob"].map(|name| dir.join(name));
        let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
        create_mesh(&homes[0], &mesh, &name, None, UnixMillis::now()).unwrap();
        let alice = build(&homes[0]).await;
        let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
        join(JoinOptions::new(homes[1].clone(), ticket, "bob".parse().unwrap())).await.unwrap();
        (alice, build(&homes[1]).await)
    }

    /// Open sessions with a peer.
    fn open(node: &Node, peer: &NodeId) -> usize {
        let mut entries = node.inner.sessions.entries();
        prune(&mut entries);
        entries.get(peer).map_or(0, |entry| entry.sessions.len())
    }

    #[tokio::test]
    async fn a_peer_that_opens_many_sessions_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, bob) = pair(dir.path()).await;
        let (me, peer) = (alice.member().node_id, bob.member().node_id);
        let sessions = &alice.inner.sessions;
        let address = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Some(address) = sessions.route_to(&peer).await {
                    return address;
                }
            }
        });
        let address = address.await.unwrap();
        let mut all = Vec::new();
        for _ in 0..6 {
            let (connection, member) = sessions.endpoints.open_session(peer, address).await.unwrap();
            let session = Session::new(connection, member);
            assert!(sessions.keep(session.clone()).await);
            all.push(session);
            assert!(open(&alice, &peer) <= KEPT + 1);
        }
        let newest = all.last().unwrap();
        assert!(sessions.is_current(newest) && !sessions.is_current(&all[4]));
        assert_eq!(sessions.all().len(), 1, "one a peer is told");
        // Both sides close those that were replaced within their grace, and only those.
        for replaced in &all[..3] {
            tokio::time::timeout(Duration::from_secs(5), replaced.connection.closed()).await.unwrap();
        }
        assert!(all[4..].iter().all(Session::is_open));
        assert!(open(&bob, &me) <= KEPT + 1);
        sessions.open_stream(peer, &Opening::Clock).await.unwrap().1.read_to_end(8).await.unwrap();
        // When the newest ends, the one before it serves.
        newest.connection.close(0_u32.into(), b"");
        assert!(sessions.is_current(&all[4]));
        // The third last is given its time, then it ends too.
        tokio::time::timeout(GRACE * 2, all[3].connection.closed()).await.unwrap();
        assert!(all[4].is_open());
        bob.shutdown().await;
        alice.shutdown().await;
    }

    #[tokio::test]
    async fn of_two_sessions_opened_at_the_same_time_both_sides_use_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, bob) = pair(dir.path()).await;
        let ids = [&alice, &bob].map(|node| node.member().node_id);
        let (of_alice, of_bob) = (&alice.inner.sessions, &bob.inner.sessions);
        let open = async |sessions: &Sessions, peer| {
            let address = loop {
                if let Some(address) = sessions.route_to(&peer).await {
                    break address;
                }
            };
            let (connection, member) = sessions.endpoints.open_session(peer, address).await.unwrap();
            assert!(sessions.keep(Session::new(connection, member)).await);
        };
        // The nodes' own tasks open sessions too: they wait meanwhile, and take these.
        let alone = async |sessions: &Sessions, peer| {
            let opening = sessions.entries().entry(peer).or_default().opening.clone();
            let alone = opening.lock_owned().await;
            sessions.end(&peer, 0, b"alone");
            alone
        };
        let both = |sessions: &Sessions, peer| {
            let entries = sessions.entries();
            let open: Vec<_> = entries.get(&peer)?.sessions.iter().filter(|s| s.is_open()).cloned().collect();
            <[Session; 2]>::try_from(open).ok()
        };
        let test = async {
            let _alone = tokio::join!(alone(of_alice, ids[1]), alone(of_bob, ids[0]));
            loop {
                tokio::join!(open(of_alice, ids[1]), open(of_bob, ids[0]));
                let (at_alice, at_bob) = loop {
                    if let Some(both) = both(of_alice, ids[1]).zip(both(of_bob, ids[0])) {
                        break both;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                };
                let at_once = |[one, other]: &[Session; 2]| one.is_simultaneous(other);
                if at_once(&at_alice) && at_once(&at_bob) {
                    return (at_alice, at_bob);
                }
                // This machine was busy meanwhile.
                for session in at_alice.iter().chain(&at_bob) {
                    session.connection.close(0_u32.into(), b"again");
                }
            }
        };
        let (at_alice, _) = tokio::time::timeout(Duration::from_secs(40), test).await.unwrap();
        let chosen = [of_alice.existing(&ids[1]), of_bob.existing(&ids[0])].map(Option::unwrap);
        let opened_by_us = chosen.each_ref().map(Session::opened_by_us);
        let lower = alice.member().address.0 < bob.member().address.0;
        assert_eq!(opened_by_us, [lower, !lower]);
        // Streams of both sides pass, and the other session serves those that it has, and all when the first ends.
        let pass = async |sessions: &Sessions, peer| {
            let (_send, mut receive) = sessions.open_stream(peer, &Opening::Clock).await.unwrap();
            receive.read_to_end(8).await.unwrap();
        };
        tokio::join!(pass(of_alice, ids[1]), pass(of_bob, ids[0]));
        assert!(at_alice.iter().all(Session::is_open));
        chosen[0].connection.close(0_u32.into(), b"");
        pass(of_alice, ids[1]).await;
        bob.shutdown().await;
        alice.shutdown().await;
    }
}
