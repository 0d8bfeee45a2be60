//! The newcomer's side of joining: finds a member, checks that it belongs to the ticket's mesh, and asks for a certificate.
//!
//! Needs no running node. The same request may reach the issuer several times and by several members; it counts once.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::home::{self, HomeError};
use meshara_identity::join::REPLY_MAX;
use meshara_identity::membership::MESH_INFO_MAX;
use meshara_identity::{
    JoinClient, LeafError, MeshInfo, MeshInfoError, NodeName, Passphrase, Ticket, TicketError, UnixMillis,
    WireError,
};
use meshara_transport::{quic, tls};
use quinn::{ClientConfig, Endpoint};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::PeerAddr;
use crate::frames::{FrameReadError, read_frame, write_frame};
use crate::node::{JOIN_VERSION, remember_peers, remember_ticket};
use crate::store::{Store, StoreError};

/// How long members are tried.
const TRY_FOR: Duration = Duration::from_secs(20);
/// One attempt with one member: its issuer may be several hops away and write to disk.
const ATTEMPT: Duration = Duration::from_secs(9);
/// Between rounds over all members.
const PAUSE: Duration = Duration::from_millis(300);
/// Members tried at once.
const MAX_MEMBERS: usize = 64;

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
}

impl JoinOptions {
    /// Options without further members and passphrase.
    pub fn new(home: PathBuf, ticket: String, name: NodeName) -> Self {
        Self { home, ticket, name, peers: Vec::new(), passphrase: None }
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

/// Why joining failed. Nothing in the home was overwritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The ticket's text is wrong.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The home can't take the identity.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The mesh, or a member that can't be proved to speak for it, refused.
    #[error(transparent)]
    Join(#[from] meshara_identity::JoinError),
    /// No socket.
    #[error("can't open a UDP socket: {0}")]
    Socket(std::io::Error),
    /// The ticket names no address and no peer was given.
    #[error("the ticket names no address")]
    NoAddress,
    /// This machine's clock and the mesh's contradict each other.
    #[error(transparent)]
    Clock(LeafError),
    /// Nobody answered in time.
    #[error("no member could help within {} s; last: {last}", TRY_FOR.as_secs())]
    NoMember {
        /// The last failure.
        last: MemberError,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The peers could not be remembered.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an attempt with one member failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// No answer.
    #[error("{0}: no answer")]
    Silent(SocketAddr),
    /// The name has no address.
    #[error("{0}: the name does not resolve")]
    Name(PeerAddr),
    /// The connection failed.
    #[error("{0}: {1}")]
    Connection(SocketAddr, quinn::ConnectionError),
    /// The address can't be dialled.
    #[error("{0}: {1}")]
    Dial(SocketAddr, quinn::ConnectError),
    /// The stream broke.
    #[error("{0}: {1}")]
    Read(SocketAddr, FrameReadError),
    /// The stream broke.
    #[error("{0}: {1}")]
    Write(SocketAddr, quinn::WriteError),
    /// What the member says of its mesh doesn't decode.
    #[error("{0}: {1}")]
    Wire(SocketAddr, WireError),
    /// Not a member of the ticket's mesh.
    #[error("{0}: {1}")]
    NotMember(SocketAddr, MeshInfoError),
    /// The member shows no certificate.
    #[error("{0}: no certificate")]
    NoCertificate(SocketAddr),
    /// The member reaches no issuer.
    #[error("{0}: this member reaches no issuer now")]
    NoIssuer(SocketAddr),
}

impl MemberError {
    /// Whether somebody answered, only not as hoped.
    fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Read(..)
                | Self::Wire(..)
                | Self::NotMember(..)
                | Self::NoCertificate(_)
                | Self::NoIssuer(_)
        )
    }
}

fn answered(last: &Option<MemberError>) -> bool {
    last.as_ref().is_some_and(MemberError::is_an_answer)
}

/// Joins a mesh: tries members for up to 20 s.
///
/// # Errors
/// [`JoinError`]; a refusal by the issuer ends the attempt at once and consumes no use of the ticket.
pub async fn join(options: JoinOptions) -> Result<JoinOutcome, JoinError> {
    let JoinOptions { home, ticket, name, peers, passphrase } = options;
    let ticket: Ticket = ticket.trim().parse()?;
    if ticket.addrs().is_empty() && peers.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let addrs = ticket.addrs().to_vec();
    let (client, node, routing) =
        home::begin_join(&home, ticket, name, passphrase.as_ref(), UnixMillis::now())?;
    let client = Arc::new(client);
    let endpoint = endpoint().map_err(JoinError::Socket)?;
    let resolve = |peer: PeerAddr| async move { peer.resolve().await };
    let (reply, via) = ask(&endpoint, &client, &addrs, &peers, resolve, TRY_FOR).await?;
    endpoint.close(0_u32.into(), b"joined");
    let membership = client.open_reply(&reply, UnixMillis::now())?;
    // First, since a home that joined and forgot whom to dial could be alone.
    let (store, _) = Store::open(&home.join(crate::store::FILE))?;
    remember_peers(&store, &peers).await?;
    remember_ticket(&store, via, &addrs).await?;
    store.close().await;
    let identity = home::finish(&home, node, routing, membership, passphrase.as_ref())?;
    Ok(JoinOutcome { identity, via })
}

fn endpoint() -> std::io::Result<Endpoint> {
    let any = |ip: std::net::IpAddr| Endpoint::client(SocketAddr::new(ip, 0));
    any(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| any(Ipv4Addr::UNSPECIFIED.into()))
}

/// What a task of a round brings.
enum Step {
    /// A name was looked up.
    Resolved(PeerAddr, std::io::Result<Vec<SocketAddr>>),
    /// A member was tried.
    Tried(SocketAddr, Result<Vec<u8>, MemberError>),
}

/// What the members said so far.
#[derive(Default)]
struct Heard {
    /// A refusal that no key proves: another member may know better.
    doubtful: Option<meshara_identity::JoinError>,
    /// A member whose certificate isn't valid by this machine's clock. One alone tells little: anybody may show an ended one.
    clock: Option<LeafError>,
    /// A member answered whose certificate is good, or that was not let finish: the clock isn't all that is wrong.
    others: bool,
    /// The last failure of any round.
    last: Option<MemberError>,
}

impl Heard {
    /// Takes a reply; whether it ends the search.
    fn replied(&mut self, client: &JoinClient, reply: &[u8]) -> bool {
        use meshara_identity::JoinError as Reply;
        match client.open_reply(reply, UnixMillis::now()) {
            Err(
                error @ (Reply::Refused { authentic: false, .. } | Reply::NotAuthentic | Reply::OtherRequest),
            ) => {
                self.doubtful = Some(error);
                false
            }
            _ => true,
        }
    }

    fn failed(&mut self, error: MemberError) {
        match error {
            MemberError::NotMember(
                _,
                MeshInfoError::Leaf(error @ (LeafError::Expired { .. } | LeafError::NotYetValid { .. })),
            ) => self.clock = Some(error),
            error => {
                self.others |= matches!(error, MemberError::NoIssuer(_) | MemberError::Read(..));
                // What a member said tells more than another's silence.
                if error.is_an_answer() || !answered(&self.last) {
                    self.last = Some(error);
                }
            }
        }
    }

    /// Ends a round over all members: why a further one would bring nothing else.
    fn end_round(&mut self) -> Result<(), JoinError> {
        if let Some(error) = self.doubtful.take() {
            return Err(error.into());
        }
        match self.clock.take() {
            Some(error) if !std::mem::take(&mut self.others) => Err(JoinError::Clock(error)),
            _ => Ok(()),
        }
    }
}

/// Asks all members at once, round after round, until one gives an answer that counts. `resolve` gives a name's addresses.
async fn ask<F>(
    endpoint: &Endpoint,
    client: &Arc<JoinClient>,
    addrs: &[SocketAddr],
    peers: &[PeerAddr],
    resolve: impl Fn(PeerAddr) -> F,
    limit: Duration,
) -> Result<(Vec<u8>, SocketAddr), JoinError>
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
                    if heard.replied(client, &reply) {
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
) -> Result<Vec<u8>, MemberError> {
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
    send.write_all(&[JOIN_VERSION]).await.map_err(write)?;
    let read = |error| MemberError::Read(to, error);
    let info = read_frame(&mut receive, MESH_INFO_MAX).await.map_err(read)?;
    let info = MeshInfo::decode(&info).map_err(|error| MemberError::Wire(to, error))?;
    let leaf = tls::peer_leaf(&connection).ok_or(MemberError::NoCertificate(to))?;
    info.check(client.ticket(), &leaf, UnixMillis::now())
        .map_err(|error| MemberError::NotMember(to, error))?;
    write_frame(&mut send, client.request()).await.map_err(write)?;
    let _ = send.finish();
    let reply = read_frame(&mut receive, REPLY_MAX).await.map_err(read)?;
    connection.close(0_u32.into(), b"thanks");
    if reply.is_empty() { Err(MemberError::NoIssuer(to)) } else { Ok(reply) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    fn ended() -> LeafError {
        LeafError::Expired { not_after: UnixMillis(1), now: UnixMillis(2) }
    }

    fn shows_an_ended_certificate() -> MemberError {
        MemberError::NotMember(MEMBER, MeshInfoError::Leaf(ended()))
    }

    #[test]
    fn an_ended_certificate_counts_only_when_no_other_member_answers() {
        let mut heard = Heard::default();
        heard.failed(shows_an_ended_certificate());
        heard.failed(MemberError::NoIssuer(MEMBER));
        assert!(heard.end_round().is_ok(), "the other member's certificate was good");

        heard.failed(shows_an_ended_certificate());
        heard.failed(MemberError::Silent(MEMBER));
        assert!(matches!(heard.end_round(), Err(JoinError::Clock(error)) if error == ended()));
    }

    #[test]
    fn a_members_refusal_outweighs_anothers_ended_certificate() {
        let mut heard = Heard::default();
        heard.failed(shows_an_ended_certificate());
        heard.doubtful = Some(meshara_identity::JoinError::NotAuthentic);
        assert!(matches!(heard.end_round(), Err(JoinError::Join(meshara_identity::JoinError::NotAuthentic))));
    }

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
        let asked = ask(&endpoint, &client, &[], &peers, |_| std::future::pending(), limit);
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
