//! The newcomer's side of joining: finds a member, checks that it belongs to the ticket's mesh, and asks for a certificate.
//!
//! Needs no running node. The same request may reach the issuer several times and by several members; it counts once.

mod error;
mod heard;

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::home;
use meshara_identity::join::REPLY_MAX;
use meshara_identity::membership::MESH_INFO_MAX;
use meshara_identity::{JoinClient, MeshInfo, NodeId, NodeName, Passphrase, Refusal, Ticket, UnixMillis};
use meshara_transport::{quic, tls};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::error::{JoinError, MemberError};
use self::heard::Heard;
use crate::config::PeerAddr;
use crate::frames::{read_frame, write_frame};
use crate::node::{JOIN_VERSION, remember_peers, remember_ticket};
use crate::store::Store;

/// How long members are tried.
const TRY_FOR: Duration = Duration::from_secs(20);
/// One attempt with one member: its issuer may be several hops away and write to disk.
const ATTEMPT: Duration = Duration::from_secs(9);
/// Between rounds over all members.
const PAUSE: Duration = Duration::from_millis(300);
/// Members tried at once.
const MAX_MEMBERS: usize = 64;

/// Between two questions whether an operator has approved: he looks at the newcomer's id first, so seconds don't matter.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What to join with.
#[derive(Debug)]
#[non_exhaustive]
pub struct JoinOptions {
    /// The new node's home. Its keystore is made if there is none.
    pub home: PathBuf,
    /// The ticket's text.
    pub ticket: String,
    /// The name to ask for.
    pub name: NodeName,
    /// Members to try beside those in the ticket; remembered for `up`.
    pub peers: Vec<PeerAddr>,
    /// Seals the new files.
    pub passphrase: Option<Passphrase>,
    /// How long to wait for an operator's approval, if the ticket asks for one.
    pub wait: Duration,
    /// Called once when the node begins to wait for it, with its NodeId.
    pub waiting: fn(&NodeId),
}

impl JoinOptions {
    /// Options without further members and passphrase.
    pub fn new(home: PathBuf, ticket: String, name: NodeName) -> Self {
        Self {
            home,
            ticket,
            name,
            peers: Vec::new(),
            passphrase: None,
            wait: Duration::ZERO,
            waiting: |_| {},
        }
    }
}

/// A completed join.
#[derive(Debug)]
#[non_exhaustive]
pub struct JoinOutcome {
    /// The new identity, also written to the home.
    pub identity: meshara_identity::Identity,
    /// The member that carried the request.
    pub via: SocketAddr,
}

/// Joins a mesh: tries members for up to 20 s.
///
/// # Errors
/// [`JoinError`]; a refusal by the issuer ends the attempt at once and consumes no use of the ticket.
pub async fn join(options: JoinOptions) -> Result<JoinOutcome, JoinError> {
    let JoinOptions { home, ticket, name, peers, passphrase, wait, waiting } = options;
    let ticket: Ticket = ticket.parse()?;
    if ticket.addrs().is_empty() && peers.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let addrs = ticket.addrs().to_vec();
    let endpoint = endpoint().map_err(JoinError::Socket)?;
    let resolve = |peer: PeerAddr| async move { peer.resolve().await };
    let until = Instant::now() + wait;
    let mut told = false;
    let (membership, node, routing, via) = loop {
        // Made anew for each round: a request tells the time, and counts for ten minutes.
        let (client, node, routing) =
            home::begin_join(&home, ticket.clone(), name.clone(), passphrase.as_ref(), UnixMillis::now())?;
        let client = Arc::new(client);
        let ((reply, info), via) = ask_all(&endpoint, &client, &addrs, &peers, resolve, TRY_FOR).await?;
        match client.open_reply_from(&reply, &info, UnixMillis::now()) {
            Ok(membership) => break (membership, node, routing, via),
            Err(meshara_identity::JoinError::Refused {
                refusal: Refusal::AwaitingApproval,
                authentic: true,
            }) if Instant::now() + ASK_AGAIN < until => {
                if !std::mem::replace(&mut told, true) {
                    waiting(&node.node_id());
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    endpoint.close(0_u32.into(), b"joined");
    // First, since a home that joined and forgot whom to dial could be alone.
    let (store, _) = Store::open(&home.join(crate::store::FILE))?;
    remember_peers(&store, &peers).await?;
    remember_ticket(&store, via, &addrs).await?;
    store.close().await;
    let identity = home::finish(&home, node, routing, membership, passphrase.as_ref())?;
    Ok(JoinOutcome { identity, via })
}

pub(crate) fn endpoint() -> std::io::Result<Endpoint> {
    let any = |ip: std::net::IpAddr| Endpoint::client(SocketAddr::new(ip, 0));
    any(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| any(Ipv4Addr::UNSPECIFIED.into()))
}

/// A reply, and what the member that carried it says of the mesh.
type Answered = (Vec<u8>, MeshInfo);

/// What a task of a round brings.
enum Step {
    /// A name was looked up.
    Resolved(PeerAddr, std::io::Result<Vec<SocketAddr>>),
    /// A member was tried.
    Tried(SocketAddr, Result<Answered, MemberError>),
}

/// Asks all members at once, round after round, until one gives an answer that counts. `resolve` gives a name's addresses.
async fn ask_all<F>(
    endpoint: &Endpoint,
    client: &Arc<JoinClient>,
    addrs: &[SocketAddr],
    peers: &[PeerAddr],
    resolve: impl Fn(PeerAddr) -> F,
    limit: Duration,
) -> Result<(Answered, SocketAddr), JoinError>
where
    F: Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static,
{
    let deadline = Instant::now() + limit;
    let mut heard = Heard::default();
    let mut config = tls::join_client_config()?;
    config.transport_config(Arc::new(quic::link_transport()));
    loop {
        let mut seen = HashSet::new();
        let mut steps = JoinSet::new();
        let mut try_member = |steps: &mut JoinSet<Step>, member: SocketAddr| {
            if seen.len() >= MAX_MEMBERS || !seen.insert(member) {
                return;
            }
            let (endpoint, client, config) = (endpoint.clone(), client.clone(), config.clone());
            steps.spawn(async move {
                let attempt = attempt(&endpoint, config, &client, member);
                let result = tokio::time::timeout(ATTEMPT, attempt).await;
                Step::Tried(member, result.unwrap_or(Err(MemberError::Silent(member))))
            });
        };
        let (literals, names): (Vec<_>, Vec<_>) = peers.iter().partition(|peer| peer.literal().is_some());
        let literals = literals.into_iter().filter_map(PeerAddr::literal);
        literals.chain(addrs.iter().copied()).for_each(|member| try_member(&mut steps, member));
        for name in names.into_iter().take(MAX_MEMBERS) {
            let (name, resolving) = (name.clone(), resolve(name.clone()));
            steps.spawn(async move { Step::Resolved(name, resolving.await) });
        }
        while let Ok(Some(step)) = tokio::time::timeout_at(deadline, steps.join_next()).await {
            match step {
                Ok(Step::Resolved(_, Ok(found))) => {
                    found.into_iter().for_each(|member| try_member(&mut steps, member));
                }
                Ok(Step::Resolved(name, Err(_))) => heard.failed(MemberError::Name(name)),
                Ok(Step::Tried(member, Ok(reply))) => {
                    if heard.replied(client, &reply.0, &reply.1) {
                        return Ok((reply, member));
                    }
                }
                Ok(Step::Tried(_, Err(error))) => heard.failed(error),
                Err(_) => {}
            }
        }
        heard.end_round()?;
        if Instant::now() + PAUSE >= deadline {
            let silent = || {
                let any = || SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                MemberError::Silent(addrs.first().copied().unwrap_or_else(any))
            };
            return Err(JoinError::NoMember { last: heard.last.unwrap_or_else(silent) });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One exchange with one member.
async fn attempt(
    endpoint: &Endpoint,
    config: ClientConfig,
    client: &JoinClient,
    to: SocketAddr,
) -> Result<Answered, MemberError> {
    let meeting = meet(endpoint, config, to, JOIN_VERSION).await?;
    meeting
        .info
        .check(client.ticket(), &meeting.leaf, UnixMillis::now())
        .map_err(|error| MemberError::NotMember(to, error))?;
    let info = meeting.info.clone();
    Ok((ask(meeting, client.request()).await?, info))
}

/// A member met on the channel of newcomers, which proved no more yet than that it has the key of its certificate.
pub(crate) struct Meeting {
    pub(crate) to: SocketAddr,
    /// What it says of its mesh.
    pub(crate) info: MeshInfo,
    /// Its certificate.
    pub(crate) leaf: Vec<u8>,
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
}

/// Meets whoever is at an address, for the exchange that begins with this byte.
pub(crate) async fn meet(
    endpoint: &Endpoint,
    config: ClientConfig,
    to: SocketAddr,
    exchange: u8,
) -> Result<Meeting, MemberError> {
    let native = match (endpoint.local_addr(), to) {
        (Ok(SocketAddr::V6(_)), SocketAddr::V4(v4)) => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
        }
        _ => to,
    };
    let connecting = endpoint
        .connect_with(config, native, tls::SERVER_NAME)
        .map_err(|error| MemberError::Dial(to, error))?;
    let lost = |error| MemberError::Connection(to, error);
    let connection = connecting.await.map_err(lost)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
    let write = |error| MemberError::Write(to, error);
    send.write_all(&[exchange]).await.map_err(write)?;
    let read = |error| MemberError::Read(to, error);
    let info = read_frame(&mut receive, MESH_INFO_MAX).await.map_err(read)?;
    let info = MeshInfo::decode(&info).map_err(|error| MemberError::Wire(to, error))?;
    let leaf = tls::peer_leaf(&connection).ok_or(MemberError::NoCertificate(to))?;
    Ok(Meeting { to, info, leaf, connection, send, receive })
}

/// Has a member that was checked carry a request to an issuer; the reply.
pub(crate) async fn ask(meeting: Meeting, request: &[u8]) -> Result<Vec<u8>, MemberError> {
    let Meeting { to, connection, mut send, mut receive, .. } = meeting;
    write_frame(&mut send, request).await.map_err(|error| MemberError::Write(to, error))?;
    let _ = send.finish();
    let reply = read_frame(&mut receive, REPLY_MAX).await.map_err(|error| MemberError::Read(to, error))?;
    connection.close(0_u32.into(), b"thanks");
    if reply.is_empty() { Err(MemberError::NoIssuer(to)) } else { Ok(reply) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_never_resolves_delays_neither_addresses_nor_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixMillis::now();
        let (mesh, alice) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let first = meshara_identity::create_mesh(&dir.path().join("a"), &mesh, &alice, None, now).unwrap();
        let anchors = first.membership.anchors();
        let issuer = home::open_issuer(&dir.path().join("a"), anchors, None).unwrap().unwrap();
        let ticket = issuer.invite(Duration::from_secs(60), 1, Vec::new(), now).unwrap().ticket;
        let bob = "bob".parse().unwrap();
        let (client, ..) = home::begin_join(&dir.path().join("b"), ticket, bob, None, now).unwrap();
        let client = Arc::new(client);

        let member = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let peers = ["dead.example:1".parse().unwrap(), member.local_addr().unwrap().into()];
        let endpoint = endpoint().unwrap();
        let (start, limit) = (Instant::now(), Duration::from_secs(1));
        let asked = ask_all(&endpoint, &client, &[], &peers, |_| std::future::pending(), limit);
        let mut heard = [0; 2048];
        let (asked, tried) = tokio::join!(asked, async {
            member.recv_from(&mut heard).await.unwrap();
            start.elapsed()
        });
        assert!(tried < limit, "{tried:?}");
        assert!(matches!(asked, Err(JoinError::NoMember { .. })), "{asked:?}");
        assert!(start.elapsed() < 3 * limit, "{:?}", start.elapsed());
    }
}
