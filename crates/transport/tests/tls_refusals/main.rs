//! Every refusal ends both sides at once, with the code that says why; real QUIC endpoints on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::{
    GrantOffer, Issuer, IssuerKey, LeafError, Lives, MeshInfoError, TrustAnchors, UnixMillis,
};
use meshara_transport::tls::{
    ALPN_JOIN, ALPN_LINK, ALPN_SESSION, Expect, PeerError, SERVER_NAME, Tls, TlsMaterial, alpn,
    join_client_config, peer_leaf,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use forger::Forger;
use mesh::Mesh;
use strange::{Credulous, Server, Strange};

mod forger;
#[path = "../common/mesh.rs"]
mod mesh;
mod strange;

/// Both sides must know within this.
const AT_ONCE: Duration = Duration::from_secs(1);

// QUIC transport errors of TLS alerts (RFC 9001, 4.8): 0x100 + alert.
const HANDSHAKE_FAILURE: u64 = 0x128;
const BAD_CERTIFICATE: u64 = 0x12a;
const CERTIFICATE_REVOKED: u64 = 0x12c;
const CERTIFICATE_EXPIRED: u64 = 0x12d;
const UNKNOWN_CA: u64 = 0x130;
const ACCESS_DENIED: u64 = 0x131;
const CERTIFICATE_REQUIRED: u64 = 0x174;
const NO_APPLICATION_PROTOCOL: u64 = 0x178;

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.load(Relaxed))))
    }
}

impl Clock {
    fn at(time: UnixMillis) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(time.0)))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis().try_into().unwrap(), Relaxed);
    }
}

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
/// Of certificates in a mesh with one issuer and no other setting.
const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);

fn tls(identity: &Identity, clock: &Arc<Clock>) -> Tls {
    Tls::with_time(&TlsMaterial::new(&identity.membership).unwrap(), clock.clone()).unwrap()
}

fn client_endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

/// Connects and accepts; both handshakes as they end.
async fn meet(
    client: &Endpoint,
    config: quinn::ClientConfig,
    server: &Server,
) -> (Result<Connection, ConnectionError>, Result<Connection, ConnectionError>) {
    let connecting = client.connect_with(config, server.addr(), SERVER_NAME).unwrap();
    tokio::time::timeout(AT_ONCE, async { tokio::join!(connecting, server.accept()) }).await.unwrap()
}

/// The code that a side learns, from its handshake or (a client is done first) from the connection's end.
async fn code(side: Result<Connection, ConnectionError>) -> u64 {
    let error = match side {
        Ok(connection) => tokio::time::timeout(AT_ONCE, connection.closed()).await.unwrap(),
        Err(error) => error,
    };
    match error {
        ConnectionError::TransportError(error) => error.code.into(),
        ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("no code: {other:?}"),
    }
}

/// Both sides end at once with this code.
async fn refused(config: quinn::ClientConfig, server: &Server, expected: u64) {
    let endpoint = client_endpoint();
    let (client, server) = meet(&endpoint, config, server).await;
    let (client, server) = tokio::join!(code(client), code(server));
    assert_eq!(
        (format!("{client:#x}"), format!("{server:#x}")),
        (format!("{expected:#x}"), format!("{expected:#x}"))
    );
}

#[tokio::test]
async fn members_meet_and_know_each_other() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let (alice, bob) = (tls(&mesh.alice, &clock), tls(&mesh.bob, &clock));
    let server = Server::link(tls(&mesh.alice, &clock));
    let endpoint = client_endpoint();
    for expect in [Expect::AnyMember, Expect::Node(mesh.alice.node.node_id())] {
        let (client, server) = meet(&endpoint, bob.client_config(ALPN_LINK, expect), &server).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!(&bob.expected_member(&client, expect).unwrap(), mesh.alice.membership.member());
        assert_eq!(&alice.member(&server).unwrap(), mesh.bob.membership.member());
        assert_eq!(alpn(&server).as_deref(), Some(ALPN_LINK));
    }
    let sessions = Server::new(move || alice.session_server_config());
    let (client, server) =
        meet(&endpoint, bob.client_config(ALPN_SESSION, Expect::AnyMember), &sessions).await;
    assert_eq!(alpn(&client.unwrap()).as_deref(), Some(ALPN_SESSION));
    server.unwrap();
}

#[tokio::test]
async fn a_classical_peer_is_refused() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let server = Server::link(tls(&mesh.alice, &clock));
    refused(Strange::new().member(&mesh.bob).classical().client(), &server, HANDSHAKE_FAILURE).await;
    let classical = Strange::new().member(&mesh.alice).classical().server();
    let config = tls(&mesh.bob, &clock).client_config(ALPN_LINK, Expect::AnyMember);
    refused(config, &classical, HANDSHAKE_FAILURE).await;
}

#[tokio::test]
async fn an_ed25519_peer_is_refused() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let server = Server::link(tls(&mesh.alice, &clock));
    // An honest client finds no algorithm for its key and shows no certificate; a stubborn one shows it.
    refused(Strange::new().ed25519().client(), &server, CERTIFICATE_REQUIRED).await;
    refused(Strange::new().ed25519().stubborn().client(), &server, UNKNOWN_CA).await;

    let bob = tls(&mesh.bob, &clock);
    let config = || bob.client_config(ALPN_LINK, Expect::AnyMember);
    refused(config(), &Strange::new().ed25519().server(), HANDSHAKE_FAILURE).await;
    refused(config(), &Strange::new().ed25519().stubborn().server(), UNKNOWN_CA).await;
}

#[tokio::test]
async fn a_link_needs_a_certificate_and_a_join_does_not() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let server = Server::link(tls(&mesh.alice, &clock));
    refused(Strange::new().client(), &server, CERTIFICATE_REQUIRED).await;
    // Joining offered beside a link does not let a link in, in either order.
    for both in [[ALPN_JOIN, ALPN_LINK], [ALPN_LINK, ALPN_JOIN]] {
        refused(Strange::new().alpns(&both).client(), &server, CERTIFICATE_REQUIRED).await;
    }
    refused(Strange::new().alpns(&[b"h3"]).client(), &server, NO_APPLICATION_PROTOCOL).await;
    let alice = tls(&mesh.alice, &clock);
    let sessions = Server::new(move || alice.session_server_config());
    refused(join_client_config().unwrap(), &sessions, NO_APPLICATION_PROTOCOL).await;

    let endpoint = client_endpoint();
    let (client, accepted) = meet(&endpoint, join_client_config().unwrap(), &server).await;
    let (client, accepted) = (client.unwrap(), accepted.unwrap());
    assert_eq!(alpn(&accepted).as_deref(), Some(ALPN_JOIN));
    assert_eq!(peer_leaf(&accepted), None);
    assert_eq!(peer_leaf(&client).as_deref(), Some(mesh.alice.membership.leaf_der()));
    // The connection carries data both ways.
    let (mut send, mut receive) = client.open_bi().await.unwrap();
    send.write_all(b"request").await.unwrap();
    send.finish().unwrap();
    let (mut reply, mut request) = accepted.accept_bi().await.unwrap();
    assert_eq!(request.read_to_end(16).await.unwrap(), b"request");
    reply.write_all(b"reply").await.unwrap();
    reply.finish().unwrap();
    assert_eq!(receive.read_to_end(16).await.unwrap(), b"reply");
    // Treated as a member by mistake, it is refused and both sides know.
    assert_eq!(tls(&mesh.alice, &clock).member(&accepted), Err(PeerError::NoCertificate));
    assert_eq!(code(Ok(client)).await, CERTIFICATE_REQUIRED);
}

#[tokio::test]
async fn a_join_ticket_never_opens_a_link() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let server = Server::link(tls(&mesh.alice, &clock));
    // One client that keeps its tickets: joins, then offers what it was given on the link ALPN.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_no_client_auth();
    let endpoint = client_endpoint();
    let mut with = |alpn: &[u8]| {
        config.alpn_protocols = vec![alpn.to_vec()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config.clone()).unwrap()))
    };
    for _ in 0..2 {
        let (client, accepted) = meet(&endpoint, with(ALPN_JOIN), &server).await;
        let (client, accepted) = (client.unwrap(), accepted.unwrap());
        // A byte back and forth, so that a ticket would have arrived.
        let mut stream = accepted.open_uni().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        client.accept_uni().await.unwrap();
    }
    refused(with(ALPN_LINK), &server, CERTIFICATE_REQUIRED).await;
}

#[tokio::test]
async fn a_foreign_mesh_is_refused() {
    let (mesh, foreign, clock) = (Mesh::new(NOW), Mesh::new(NOW), Clock::at(NOW));
    let server = Server::link(tls(&mesh.alice, &clock));
    refused(Strange::new().member(&foreign.bob).client(), &server, UNKNOWN_CA).await;
    let bob = tls(&foreign.bob, &clock);
    refused(bob.client_config(ALPN_LINK, Expect::AnyMember), &server, UNKNOWN_CA).await;
    let same_id = Expect::Node(mesh.alice.node.node_id());
    refused(bob.client_config(ALPN_LINK, same_id), &server, UNKNOWN_CA).await;

    // A newcomer gets through TLS, and MeshInfo tells it where it is.
    let endpoint = client_endpoint();
    let (client, _accepted) = meet(&endpoint, join_client_config().unwrap(), &server).await;
    let leaf = peer_leaf(&client.unwrap()).unwrap();
    let ticket = {
        let anchors = foreign.alice.membership.anchors();
        let issuer = home::open_issuer(&foreign.home_of_alice(), anchors, None).unwrap().unwrap();
        issuer.invite(Duration::from_secs(60), 1, vec![], NOW).unwrap().ticket
    };
    let info = mesh.alice.membership.mesh_info();
    assert_eq!(info.check(&ticket, &leaf, NOW), Err(MeshInfoError::WrongRoot));
}

#[tokio::test]
async fn the_wrong_node_is_refused() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let server = Server::link(tls(&mesh.alice, &clock));
    let expect = Expect::Node(mesh.bob.node.node_id());
    refused(tls(&mesh.bob, &clock).client_config(ALPN_LINK, expect), &server, ACCESS_DENIED).await;
}

#[tokio::test]
async fn a_wrong_spiffe_id_is_refused() {
    let forger = Forger::new();
    let clock = Clock::at(NOW);
    let good = Forger::extension();
    let (der, key) = forger.leaf(&["spiffe://lab/node/mallory"], Some(&good));
    let material = TlsMaterial {
        anchors: Arc::new(forger.anchors.clone()),
        leaf_der: der.clone(),
        leaf_pkcs8: key.pkcs8_der().unwrap(),
    };
    assert_eq!(forger.anchors.verify_leaf(&der, NOW).unwrap().name.as_str(), "mallory");
    let tls = || Tls::with_time(&material, clock.clone()).unwrap();
    let server = Server::link(tls());
    let bob = tls();
    let too_short = &good[..good.len() - 1];
    let other_version = [&[4, 65, 2], &good[3..]].concat();
    for (uris, extension, expected) in [
        (vec!["spiffe://other/node/mallory"], Some(&*good), ACCESS_DENIED),
        (vec!["spiffe://lab/node/alice"], Some(&*good), BAD_CERTIFICATE),
        (vec!["spiffe://lab/user/mallory"], Some(&*good), BAD_CERTIFICATE),
        (vec!["spiffe://lab/node/mallory", "spiffe://lab/node/alice"], Some(&*good), BAD_CERTIFICATE),
        (vec![], Some(&*good), BAD_CERTIFICATE),
        (vec!["spiffe://lab/node/mallory"], None, BAD_CERTIFICATE),
        (vec!["spiffe://lab/node/mallory"], Some(too_short), BAD_CERTIFICATE),
        (vec!["spiffe://lab/node/mallory"], Some(&*other_version), BAD_CERTIFICATE),
    ] {
        let (der, key) = forger.leaf(&uris, extension);
        let strange = || Strange::new().certificate(&der, &key.pkcs8_der().unwrap());
        refused(strange().client(), &server, expected).await;
        refused(bob.client_config(ALPN_LINK, Expect::AnyMember), &strange().server(), expected).await;
    }
}

#[tokio::test]
async fn dates_are_checked_on_both_sides() {
    let mesh = Mesh::new(NOW);
    let ended = Clock::at(NOW.plus(LEAF_LIFE).plus(Duration::from_secs(1)));
    let early = Clock::at(NOW.minus(Duration::from_secs(7200)));
    for clock in [ended, early] {
        let server = Server::link(tls(&mesh.alice, &clock));
        refused(Strange::new().member(&mesh.bob).client(), &server, CERTIFICATE_EXPIRED).await;
        let config = tls(&mesh.bob, &clock).client_config(ALPN_LINK, Expect::AnyMember);
        refused(config, &Strange::new().member(&mesh.alice).server(), CERTIFICATE_EXPIRED).await;
    }
}

/// Connects until the client holds a ticket, then lets something happen (to the clock, to alice) and resumes.
async fn resume(mesh: &Mesh, between: impl FnOnce(&Clock, &Tls)) -> (Tls, Connection, Tls, Connection) {
    let clock = Clock::at(NOW.plus(LEAF_LIFE).minus(Duration::from_secs(3600)));
    let (alice, bob) = (Arc::new(tls(&mesh.alice, &clock)), tls(&mesh.bob, &clock));
    let of_server = alice.clone();
    let server = Server::new(move || of_server.server_config());
    let endpoint = client_endpoint();
    let expect = Expect::Node(mesh.alice.node.node_id());
    let (client, accepted) = meet(&endpoint, bob.client_config(ALPN_LINK, expect), &server).await;
    let (client, accepted) = (client.unwrap(), accepted.unwrap());
    // The ticket comes before the stream's first byte.
    let mut stream = accepted.open_uni().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    client.accept_uni().await.unwrap();
    between(&clock, &alice);
    let (client, accepted) = meet(&endpoint, bob.client_config(ALPN_LINK, expect), &server).await;
    let (client, accepted) = (client.unwrap(), accepted.unwrap());
    drop(server);
    (bob, client, Arc::try_unwrap(alice).unwrap(), accepted)
}

#[tokio::test]
async fn a_resumed_connection_is_checked_again() {
    let mesh = Mesh::new(NOW);
    // A full handshake would fail at this time (see the test above): that the second connection stands proves that
    // it was resumed, and that the verifiers did not run.
    for server_checks in [true, false] {
        let (bob, client, alice, accepted) =
            resume(&mesh, |clock, _| clock.advance(Duration::from_secs(7200))).await;
        let (checking, checked, other) =
            if server_checks { (alice, accepted, client) } else { (bob, client, accepted) };
        let error = checking.member(&checked).unwrap_err();
        assert!(matches!(error, PeerError::Leaf(LeafError::Expired { .. })), "{error:?}");
        assert_eq!(code(Ok(other)).await, CERTIFICATE_EXPIRED);
    }
    let (bob, client, alice, accepted) =
        resume(&mesh, |clock, _| clock.advance(Duration::from_secs(60))).await;
    assert_eq!(&bob.member(&client).unwrap(), mesh.alice.membership.member());
    assert_eq!(&alice.member(&accepted).unwrap(), mesh.bob.membership.member());
}

#[tokio::test]
async fn a_revoked_node_is_refused_in_every_handshake_and_when_it_resumes() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let ids = [&mesh.alice, &mesh.bob].map(|identity| identity.node.node_id());
    let revoking = |identity, node| {
        let tls = tls(identity, &clock);
        assert_eq!(tls.revoked().replace([node].into()), [node]);
        tls
    };
    let config = |tls: &Tls| tls.client_config(ALPN_LINK, Expect::AnyMember);
    let server = Server::link(revoking(&mesh.alice, ids[1]));
    refused(config(&tls(&mesh.bob, &clock)), &server, CERTIFICATE_REVOKED).await;
    let server = Server::link(tls(&mesh.alice, &clock));
    refused(config(&revoking(&mesh.bob, ids[0])), &server, CERTIFICATE_REVOKED).await;
    // A ticket from before leads past the verifiers (a full handshake would end as above), and not past the check that follows.
    let (_bob, client, alice, accepted) =
        resume(&mesh, |_, alice| drop(alice.revoked().replace([ids[1]].into()))).await;
    assert_eq!(alice.member(&accepted), Err(PeerError::Revoked { node: ids[1] }));
    assert_eq!(code(Ok(client)).await, CERTIFICATE_REVOKED);
}

/// Bob with a CA key that the root granted him, and whom he gives certificates to.
struct SecondIssuer {
    anchors: Arc<TrustAnchors>,
    issuer: Issuer,
    dir: tempfile::TempDir,
}

impl SecondIssuer {
    fn of(mesh: &Mesh) -> Self {
        let root = home::load_root(&mesh.home_of_alice(), None).unwrap();
        let granted = NOW.minus(LEAF_LIFE);
        let offer =
            GrantOffer::new("lab".parse().unwrap(), mesh.bob.node.node_id(), 1, Lives::default(), granted);
        let key = IssuerKey::generate().unwrap();
        let grant = offer.sign(key.ca_certificate(&offer).unwrap(), &root).unwrap();
        let held = mesh.alice.membership.anchors();
        let anchors = held.merged(std::slice::from_ref(&grant), NOW).unwrap().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let issuer = home::become_issuer(dir.path(), key, grant, anchors.clone(), None).unwrap();
        Self { anchors: Arc::new(anchors), issuer, dir }
    }

    /// A node that nobody else knows, with a certificate for this name.
    fn certify(&self, name: &str, now: UnixMillis) -> Identity {
        let ticket = self.issuer.invite(Duration::from_secs(60), 1, vec![], now).unwrap().ticket;
        let home = self.dir.path().join(name);
        let (client, node, routing) =
            home::begin_join(&home, ticket, name.parse().unwrap(), None, now).unwrap();
        let membership =
            client.open_reply(&self.issuer.handle_join(client.request(), now).reply, now).unwrap();
        home::finish(&home, node, routing, membership, None).unwrap()
    }

    /// A member that knows both issuers.
    fn tls(&self, identity: &Identity, clock: &Arc<Clock>) -> Tls {
        let material = TlsMaterial::new(&identity.membership).unwrap();
        let material = TlsMaterial { anchors: self.anchors.clone(), ..material };
        Tls::with_time(&material, clock.clone()).unwrap()
    }
}

#[tokio::test]
async fn what_a_revoked_issuer_certified_is_refused_in_every_handshake_and_later() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let rogue = SecondIssuer::of(&mesh);
    let (bob, carol) = (mesh.bob.node.node_id(), rogue.certify("carol", NOW));
    let alice = Arc::new(rogue.tls(&mesh.alice, &clock));
    let of_server = alice.clone();
    let server = Server::new(move || of_server.server_config());
    let config =
        |identity: &Identity| rogue.tls(identity, &clock).client_config(ALPN_LINK, Expect::AnyMember);
    let endpoint = client_endpoint();
    let (client, accepted) = meet(&endpoint, config(&carol), &server).await;
    let (client, accepted) = (client.unwrap(), accepted.unwrap());
    let member = alice.member(&accepted).unwrap();
    assert_eq!((member.name.as_str(), member.issuer), ("carol", bob));

    assert_eq!(alice.revoked().replace([bob].into()), [bob]);
    assert!(alice.revoked().refuses(&member));
    assert_eq!(alice.member(&accepted), Err(PeerError::IssuerRevoked { issuer: bob }));
    assert_eq!(code(Ok(client)).await, CERTIFICATE_REVOKED);
    refused(config(&carol), &server, CERTIFICATE_REVOKED).await;
    // As a server too.
    let carols = Server::link(rogue.tls(&carol, &clock));
    refused(alice.client_config(ALPN_LINK, Expect::AnyMember), &carols, CERTIFICATE_REVOKED).await;
}

#[tokio::test]
async fn a_certificate_for_the_name_of_another_node_is_refused_and_named() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let rogue = SecondIssuer::of(&mesh);
    // Both begin their enrolment before those whose names they take.
    let early = NOW.minus(Duration::from_secs(300));
    let (alices, bobs) = (rogue.certify("alice", NOW), rogue.certify("bob", early));
    let alice = Arc::new(rogue.tls(&mesh.alice, &clock));
    let of_server = alice.clone();
    let server = Server::new(move || of_server.server_config());
    let config =
        |identity: &Identity| rogue.tls(identity, &clock).client_config(ALPN_LINK, Expect::AnyMember);
    // What the rogue's own programs think of it, nobody asks.
    let shown = |identity: &Identity| Strange::new().member(identity).client();
    // Nobody has this node's own name.
    refused(shown(&alices), &server, ACCESS_DENIED).await;
    let contested = async || tokio::time::timeout(AT_ONCE, alice.names().contested()).await.unwrap();
    let contest = contested().await;
    let ids = |identity: &Identity| identity.node.node_id();
    assert_eq!((contest.kept.node, contest.refused.node), (ids(&mesh.alice), ids(&alices)));
    assert_eq!(contest.refused.issuer, ids(&mesh.bob));
    // Bob has been here for ten minutes, so his is not taken from him by a beginning that somebody wrote.
    let endpoint = client_endpoint();
    let (_client, accepted) = meet(&endpoint, config(&mesh.bob), &server).await;
    let accepted = accepted.unwrap();
    alice.member(&accepted).unwrap();
    clock.advance(Duration::from_secs(600));
    refused(shown(&bobs), &server, ACCESS_DENIED).await;
    let contest = contested().await;
    assert_eq!((contest.kept.node, contest.kept.issuer), (ids(&mesh.bob), ids(&mesh.alice)));
    assert_eq!((contest.refused.node, contest.refused.issuer), (ids(&bobs), ids(&mesh.bob)));
    alice.member(&accepted).unwrap();
}

#[tokio::test]
async fn a_replaced_certificate_resumes_nothing() {
    let (mesh, clock) = (Mesh::new(NOW), Clock::at(NOW));
    let alice = Arc::new(tls(&mesh.alice, &clock));
    let of_server = alice.clone();
    let server = Server::new(move || of_server.server_config());
    let bob = tls(&mesh.bob, &clock);
    let expect = Expect::Node(mesh.alice.node.node_id());
    let endpoint = client_endpoint();
    let (client, accepted) = meet(&endpoint, bob.client_config(ALPN_LINK, expect), &server).await;
    let mut stream = accepted.unwrap().open_uni().await.unwrap();
    stream.write_all(b"x").await.unwrap();
    client.unwrap().accept_uni().await.unwrap();

    alice.replace(&TlsMaterial::new(&mesh.alice.membership).unwrap()).unwrap();
    clock.advance(LEAF_LIFE + Duration::from_secs(1));
    refused(bob.client_config(ALPN_LINK, expect), &server, CERTIFICATE_EXPIRED).await;
}
