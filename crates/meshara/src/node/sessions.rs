//! The sessions of a node: one QUIC connection per peer that it talks with, opened when first needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::{Member, MeshAddress, NodeId};
use meshara_transport::{ConnectError, Endpoints};
use quinn::Connection;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::streams::{Opening, write_opening};
use super::tiers::Measured;

/// Sessions at once. Each costs some 100 KB of memory; a node that talks with more peers than this closes idle ones.
const MAX_SESSIONS: usize = 1024;
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
    /// Too many sessions.
    #[error("{MAX_SESSIONS} sessions are open")]
    TooMany,
    /// The node is this one.
    #[error("the node is this one itself")]
    Ourselves,
}

#[derive(Default)]
struct Entry {
    current: Option<Session>,
    measured: Measured,
    /// Held while someone opens a session, so that others wait for that one.
    opening: Arc<AsyncMutex<()>>,
}

/// All sessions.
pub(crate) struct Sessions {
    endpoints: Arc<Endpoints>,
    entries: Mutex<HashMap<NodeId, Entry>>,
    /// New sessions, for the task that accepts their streams.
    opened: mpsc::Sender<Session>,
}

impl Sessions {
    /// The receiver gives every session as it opens, whoever opened it.
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> (Self, mpsc::Receiver<Session>) {
        let (opened, sessions) = mpsc::channel(MAX_SESSIONS);
        (Self { endpoints, entries: Mutex::default(), opened }, sessions)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<NodeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open sessions.
    pub(crate) fn all(&self) -> Vec<Session> {
        let mut all: Vec<_> = self.entries().values().filter_map(|entry| entry.current.clone()).collect();
        all.retain(|session| session.connection.close_reason().is_none());
        all.sort_by_key(|session| session.member.node_id);
        all
    }

    /// The open session with a node.
    pub(crate) fn existing(&self, node: &NodeId) -> Option<Session> {
        let session = self.entries().get(node)?.current.clone()?;
        session.connection.close_reason().is_none().then_some(session)
    }

    /// The session with a node, opened if there is none.
    pub(crate) async fn get(&self, node: NodeId) -> Result<Session, SessionError> {
        if let Some(session) = self.existing(&node) {
            return Ok(session);
        }
        let opening = {
            let mut entries = self.entries();
            entries.retain(|_, entry| {
                Arc::strong_count(&entry.opening) > 1
                    || entry
                        .current
                        .as_ref()
                        .is_some_and(|session| session.connection.close_reason().is_none())
            });
            if entries.len() >= MAX_SESSIONS {
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
                    let session = Session { connection, member };
                    self.keep(session.clone()).await;
                    return Ok(session);
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

    /// Keeps a session that a peer opened. It takes the place of an older one, which goes on until it is idle.
    pub(crate) async fn keep(&self, session: Session) {
        self.entries().entry(session.member.node_id).or_default().current = Some(session.clone());
        let _ = self.opened.send(session).await;
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
        Ok((send, receive))
    }
}

/// How long a node waits for a peer's streams to finish when it leaves.
pub(crate) const FAREWELL: Duration = Duration::from_millis(500);
