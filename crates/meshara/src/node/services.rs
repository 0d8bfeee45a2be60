//! TCP services that this node offers to the mesh, and local listeners for services of others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshara_identity::{NodeId, NodeName};
use quinn::{RecvStream, SendStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::pipe::{self, RESET};
use super::sessions::{SessionError, Sessions};
use super::streams::{MAX_NAME, Opening};
use crate::api::{ConnectEvent, ConnectionFailure, ConnectionInfo, ServiceInfo};

/// Services that one node offers; a bound on the store and on what a listing shows.
pub(crate) const MAX_SERVICES: usize = 1024;
/// Connections carried at once for one listener or service; each holds up to 512 KiB in buffers.
const MAX_CONNECTIONS: usize = 1024;
/// A service's target must accept within this, or the far side hears that it didn't.
const TARGET_TIMEOUT: Duration = Duration::from_secs(10);

/// First byte of the answer to a service's opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Open = 0,
    Unknown = 1,
    Refused = 2,
    Busy = 3,
    /// The policy denies it; a byte of length and the rule's name follow.
    Denied = 4,
}

/// Why a connection to a remote service failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// No session with the node.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The node offers no service of this name.
    #[error("the node offers no such service")]
    Unknown,
    /// The service's target refuses connections.
    #[error("the service's target on that node refuses connections")]
    TargetRefused,
    /// The service carries as many connections as it may.
    #[error("the service carries {MAX_CONNECTIONS} connections already")]
    Busy,
    /// The node's policy denies it.
    #[error("denied by the rule `{rule}` of that node's policy")]
    Denied {
        /// The rule.
        rule: String,
    },
    /// The stream broke before the answer.
    #[error("the stream ended before the service answered")]
    Broken,
}

struct Offered {
    tcp: String,
    open: Arc<AtomicU64>,
    places: Arc<Semaphore>,
}

/// The services that this node offers.
#[derive(Default)]
pub(crate) struct Services(Mutex<BTreeMap<String, Offered>>);

impl Services {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Offered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a service; `false` when there are too many. Connections of an earlier target go on.
    pub(crate) fn add(&self, name: String, tcp: String) -> bool {
        let mut services = self.lock();
        if services.len() >= MAX_SERVICES && !services.contains_key(&name) {
            return false;
        }
        let offered =
            Offered { tcp, open: Arc::default(), places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
        services.insert(name, offered);
        true
    }

    pub(crate) fn remove(&self, name: &str) -> Option<ServiceInfo> {
        self.lock().remove(name).map(|offered| info(name, &offered))
    }

    pub(crate) fn get(&self, name: &str) -> Option<ServiceInfo> {
        self.lock().get(name).map(|offered| info(name, offered))
    }

    pub(crate) fn list(&self) -> Vec<ServiceInfo> {
        self.lock().iter().map(|(name, offered)| info(name, offered)).collect()
    }

    /// Serves one stream that a peer opened for a service, until `denied` at most.
    pub(crate) async fn serve(
        &self,
        name: &str,
        mut send: SendStream,
        mut receive: RecvStream,
        denied: impl Future<Output = ()>,
    ) {
        let target = self.lock().get(name).map(|offered| {
            (offered.tcp.clone(), offered.open.clone(), offered.places.clone().try_acquire_owned())
        });
        let (answer, connection) = match target {
            None => (Answer::Unknown, None),
            Some((_, _, Err(_))) => (Answer::Busy, None),
            Some((tcp, open, Ok(place))) => {
                match tokio::time::timeout(TARGET_TIMEOUT, TcpStream::connect(&tcp)).await {
                    Ok(Ok(stream)) => (Answer::Open, Some((stream, open, place))),
                    _ => (Answer::Refused, None),
                }
            }
        };
        if send.write_all(&[answer as u8]).await.is_err() {
            return;
        }
        if let Some((stream, open, _place)) = connection {
            open.fetch_add(1, Relaxed);
            pipe::carry_until(stream, send, receive, denied).await;
            open.fetch_sub(1, Relaxed);
        } else {
            let _ = send.finish();
            let _ = receive.stop(RESET);
            let _ = send.stopped().await;
        }
    }
}

/// Tells a peer which rule denied its stream.
pub(crate) async fn deny(mut send: SendStream, mut receive: RecvStream, rule: &str) {
    let mut answer = vec![Answer::Denied as u8];
    append_rule(&mut answer, rule);
    if send.write_all(&answer).await.is_ok() {
        let _ = send.finish();
        let _ = receive.stop(RESET);
        let _ = send.stopped().await;
    }
}

/// A rule's name, after its length. Names are at most 63 bytes.
pub(super) fn append_rule(out: &mut Vec<u8>, rule: &str) {
    let name = rule.as_bytes().get(..MAX_NAME).unwrap_or(rule.as_bytes());
    out.push(u8::try_from(name.len()).unwrap_or_default());
    out.extend_from_slice(name);
}

/// Reads what [`append_rule`] writes; what can't be a rule's name is none.
pub(super) fn rule_of(bytes: &[u8]) -> Option<String> {
    let (len, rest) = bytes.split_first()?;
    let name = std::str::from_utf8(rest.get(..usize::from(*len))?).ok()?;
    name.parse::<NodeName>().ok().map(|name| name.to_string())
}

/// Reads a rule's name from a stream.
pub(super) async fn read_rule(receive: &mut RecvStream) -> Option<String> {
    let mut len = [0];
    receive.read_exact(&mut len).await.ok()?;
    let [count] = len;
    let mut bytes = vec![count];
    bytes.resize(1 + usize::from(count), 0);
    receive.read_exact(bytes.get_mut(1..)?).await.ok()?;
    rule_of(&bytes)
}

fn info(name: &str, offered: &Offered) -> ServiceInfo {
    ServiceInfo { name: name.to_owned(), tcp: offered.tcp.clone(), connections: offered.open.load(Relaxed) }
}

/// Opens a connection to a service of another node.
pub(crate) async fn open(
    sessions: &Sessions,
    node: NodeId,
    service: &str,
) -> Result<(SendStream, RecvStream), ServiceError> {
    let (send, mut receive) = sessions.open_stream(node, &Opening::Service(service.to_owned())).await?;
    let mut answer = [0];
    receive.read_exact(&mut answer).await.map_err(|_| ServiceError::Broken)?;
    match answer {
        [0] => Ok((send, receive)),
        [1] => Err(ServiceError::Unknown),
        [2] => Err(ServiceError::TargetRefused),
        [3] => Err(ServiceError::Busy),
        [4] => match read_rule(&mut receive).await {
            Some(rule) => Err(ServiceError::Denied { rule }),
            None => Err(ServiceError::Broken),
        },
        _ => Err(ServiceError::Broken),
    }
}

/// Accepts TCP connections and carries each to a service of another node, until nobody takes the events any more.
pub(crate) async fn listen(
    sessions: Arc<Sessions>,
    listener: TcpListener,
    node: NodeId,
    service: String,
    events: mpsc::Sender<crate::api::Result<ConnectEvent>>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = events.closed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, client)) = accepted else {
            // Out of file descriptors or memory: wait for connections to end rather than spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (sessions, service, events) = (sessions.clone(), service.clone(), events.clone());
        connections.spawn(async move {
            let _place = place;
            let client = client.to_string();
            match open(&sessions, node, &service).await {
                Ok((send, receive)) => {
                    let opened = ConnectionInfo { client: client.clone(), tx_bytes: 0, rx_bytes: 0 };
                    let _ = events.try_send(Ok(ConnectEvent::Opened(opened)));
                    let carried = pipe::carry(tcp, send, receive).await;
                    let closed =
                        ConnectionInfo { client, tx_bytes: carried.from_tcp, rx_bytes: carried.to_tcp };
                    let _ = events.try_send(Ok(ConnectEvent::Closed(closed)));
                }
                Err(error) => {
                    let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                    let failure = ConnectionFailure { client, reason: error.to_string() };
                    let _ = events.try_send(Ok(ConnectEvent::Failed(failure)));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_travel_after_their_length_and_nothing_else_passes_for_one() {
        let mut bytes = Vec::new();
        append_rule(&mut bytes, "no-pings");
        assert_eq!(bytes, b"\x08no-pings");
        assert_eq!(rule_of(&bytes).as_deref(), Some("no-pings"));
        for bad in [&b""[..], b"\x00", b"\x09no-pings", b"\x02\x1b[", b"\x02\xff\xff"] {
            assert_eq!(rule_of(bad), None, "{bad:?}");
        }
    }
}
