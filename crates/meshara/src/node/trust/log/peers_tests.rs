use std::path::Path;

use meshara_identity::{Membership, home};
use meshara_transport::tls::TlsMaterial;

use super::*;
use crate::api::Control;
use crate::config::Config;
use crate::node::sessions::Session;
use crate::{JoinOptions, Node, create_mesh, join};

#[test]
fn a_young_certificate_is_asked_about_every_second_and_an_old_one_less() {
    let start = Instant::now();
    assert!(due(start, None, start, false));
    assert!(!due(start, Some(start), start + TRY / 2, false));
    assert!(due(start, Some(start), start + TRY, false));
    let later = start + GRACE;
    assert!(!due(start, Some(later), later + TRY, false));
    assert!(due(start, Some(later), later + TRY_LATER, false));
    assert!(due(start, Some(later), later + TRY, true));
}

async fn build(home: &Path, require_logged: bool) -> Node {
    let listen = Some((std::net::Ipv4Addr::LOCALHOST, 0).into());
    let config = Config { listen, multicast: false, direct: false, require_logged, ..Config::default() };
    Node::builder().home(home).config(config).build().await.unwrap()
}

/// What has to come comes soon, also on a busy machine.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.unwrap()
}

async fn session(from: &Arc<Inner>, to: NodeId) -> Session {
    soon(async {
        loop {
            if let Ok(session) = from.sessions.get(to).await {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// A certificate for the node of a home, signed by a copy of the issuer's files behind its log's back.
fn unlogged(stolen: &Path, home: &Path) -> Membership {
    let now = UnixMillis::now();
    let own = home::load(home, None).unwrap();
    let issuer = home::open_issuer(stolen, own.membership.anchors(), None).unwrap().unwrap();
    let client = meshara_identity::RenewClient::new(&own.membership, &own.node, &own.routing, now).unwrap();
    let answer = issuer.renew(client.request(), None, now);
    client.open_reply(&answer.reply, now).unwrap()
}

#[tokio::test]
async fn a_session_with_another_certificate_than_the_logged_one_is_not_let_through() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, stolen) = (dir.path().join("alice"), dir.path().join("stolen"));
    create_mesh(&alice, &"test".parse().unwrap(), &"alice".parse().unwrap(), None, UnixMillis::now())
        .unwrap();
    std::fs::create_dir_all(&stolen).unwrap();
    for file in [home::KEYSTORE, home::MEMBERSHIP, home::ISSUER_KEY, home::ISSUER_STATE] {
        std::fs::copy(alice.join(file), stolen.join(file)).unwrap();
    }
    let alice = build(&alice, false).await;
    let mut nodes = Vec::new();
    for (name, strict) in [("bob", true), ("mallory", false), ("carol", false)] {
        let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
        let home = dir.path().join(name);
        join(JoinOptions::new(home.clone(), ticket, name.parse().unwrap())).await.unwrap();
        nodes.push(build(&home, strict).await);
    }
    let [bob, mallory, carol] = <[Node; 3]>::try_from(nodes).unwrap();
    let [bob_id, mallory_id, carol_id] = [&bob, &mallory, &carol].map(|node| node.member().node_id);
    // All that mallory shows is logged: she is proved.
    let first = session(&bob.inner, mallory_id).await;
    soon(async {
        let logged = Hash::of(&peer_leaf(&first.connection).unwrap());
        let proved =
            || lock(&bob.inner.logs.attestations.peers.known).get(&logged).is_some_and(|peer| peer.proved);
        while !proved() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // From now on her handshakes show another certificate; her routing record still has the logged one.
    let material = TlsMaterial::new(&unlogged(&stolen, &dir.path().join("mallory"))).unwrap();
    mallory.inner.endpoints.tls().replace(&material).unwrap();
    // Carol goes on with such a certificate on the connection that she has.
    let of_carol = session(&bob.inner, carol_id).await;
    let other = unlogged(&stolen, &dir.path().join("carol"));
    bob.inner.logs.attestations.showed(carol_id, other.leaf_der().to_vec());
    let endpoints = &mallory.inner.endpoints;
    let (connection, _) = soon(endpoints.open_session(bob_id, endpoints.address_of(&bob_id))).await.unwrap();
    // Bob has two sessions with her now, or will have in a moment; he may be about to end older ones.
    let of_mallory = soon(async {
        loop {
            let mut open = bob.inner.sessions.every();
            open.retain(|session| session.member.node_id == mallory_id);
            let material = |session: &Session| peer_leaf(&session.connection);
            if open.last().is_some_and(|last| material(last) != peer_leaf(&first.connection))
                && open.len() >= 2
            {
                return open.split_off(open.len() - 2);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let began = Instant::now();
    let end = soon(connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = &end else { panic!("{end:?}") };
    assert_eq!(close.error_code.into_inner(), u64::from(CLOSE_UNLOGGED), "{end:?}");
    assert!(began.elapsed() >= GRACE - LOOKED, "it has its time");
    for session in of_mallory.iter().chain([&of_carol]) {
        assert_eq!(soon(session.connection.closed()).await, quinn::ConnectionError::LocallyClosed);
    }
    // Alice, who shows nothing else than what is logged, is not touched.
    assert!(session(&bob.inner, alice.member().node_id).await.connection.close_reason().is_none());
    for node in [carol, mallory, bob, alice] {
        node.shutdown().await;
    }
}

/// A session may be seen so long before it is counted here.
const LOOKED: Duration = Duration::from_secs(5);
