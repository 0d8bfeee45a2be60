//! Members renew while they run, live connections are checked again, and who has no certificate is silent until it has another.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use meshara::api::{Control, IssuerRequest, TrustControl};
use meshara::{Node, NodeId, UnixMillis};
use meshara_identity::home;
use meshara_transport::tls::{self, Expect, Tls};
use quinn::Endpoint;

use common::{build, config, first_with, joined, reached, soon};

mod common;

/// Long enough for a machine under load to renew in, short enough to wait for.
const LIFE: Duration = Duration::from_secs(6);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Alice, who makes a mesh whose certificates live this long, running.
/// The end of the certificate that the node shows to whoever dials it now.
async fn shown(tls: &Tls, node: &Node) -> UnixMillis {
    let endpoint = Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = tls.client_config(tls::ALPN_LINK, Expect::Node(node.member().node_id));
    let connection = soon(endpoint.connect_with(config, node.local_addr(), tls::SERVER_NAME).unwrap()).await;
    tls.member(&connection.unwrap()).unwrap().not_after
}

async fn serial(node: &Node) -> String {
    node.control().trust_status().await.unwrap().certificate.serial
}

/// Waits until the node has another certificate than this.
async fn renewed(node: &Node, before: &str) -> String {
    soon(async {
        loop {
            let now = serial(node).await;
            if now != before {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// Waits until the node has so many neighbours.
async fn neighbours(node: &Node, count: u64) {
    soon(async {
        while node.control().status().await.unwrap().neighbours != count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

async fn echo(stream: &mut meshara::Stream, other: &mut meshara::Stream) {
    stream.send.write_all(b"x").await.unwrap();
    let mut byte = [0];
    soon(other.receive.read_exact(&mut byte)).await.unwrap();
    assert_eq!(&byte, b"x");
}

#[tokio::test]
async fn members_renew_and_nothing_that_lives_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first_with(dir.path(), LIFE).await;
    let bob_home = joined(&alice, dir.path(), "bob").await;
    let bob = build(&bob_home, config()).await;
    let mut events = bob.events();
    let to = alice.member().node_id;
    if bob.control().status().await.unwrap().nodes_known == 0 {
        reached(&mut events, to).await;
    }
    let mut stream = bob.open_stream(to, "app").await.unwrap();
    stream.send.write_all(b"!").await.unwrap();
    let mut other = soon(alice.accept_stream()).await.unwrap();
    other.receive.read_exact(&mut [0]).await.unwrap();
    let start = Instant::now();
    let (mut of_alice, mut of_bob) = (serial(&alice).await, serial(&bob).await);
    for _ in 0..2 {
        of_alice = renewed(&alice, &of_alice).await;
        of_bob = renewed(&bob, &of_bob).await;
        echo(&mut stream, &mut other).await;
    }
    // The certificates that everything began with are over.
    while start.elapsed() < LIFE + Duration::from_secs(1) {
        echo(&mut stream, &mut other).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, meshara::Event::LinkDown { .. }), "{event:?}");
    }
    // What is shown in new handshakes is what the home holds.
    let kept = home::load(&bob_home, None).unwrap().membership.member().clone();
    assert!(kept.not_after > bob.member().not_after);
    assert_eq!(kept.enrolled, bob.member().enrolled);
    let shown = shown(&common::tls(&dir.path().join("alice")), &bob).await;
    assert!(shown >= kept.not_after, "{shown}");
    bob.shutdown().await;
    alice.shutdown().await;
}

#[tokio::test]
async fn without_an_issuer_members_fall_silent_and_come_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first_with(dir.path(), LIFE).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    neighbours(&bob, 2).await;
    let alice_at = alice.local_addr();
    alice.shutdown().await;
    // Bob and carol still see each other, until their certificates end.
    let valid = async |node: &Node| node.control().trust_status().await.unwrap().valid;
    assert!(valid(&bob).await && valid(&carol).await);
    for node in [&bob, &carol] {
        neighbours(node, 0).await;
    }
    soon(async {
        while valid(&bob).await || valid(&carol).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let error = bob.send(carol.member().node_id, "anyone?", Duration::from_secs(1)).await;
    assert!(error.is_err(), "a node without a certificate talks");

    let config = meshara::config::Config { listen: Some(alice_at), ..config() };
    let alice = build(&dir.path().join("alice"), config).await;
    for node in [&bob, &carol, &alice] {
        neighbours(node, 2).await;
    }
    assert!(valid(&bob).await && valid(&carol).await);
    bob.send(carol.member().node_id, "here", Duration::from_secs(20)).await.unwrap();
    for node in [bob, carol, alice] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn another_issuer_takes_over_and_everybody_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first_with(dir.path(), LIFE).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    neighbours(&bob, 2).await;
    let error = carol.control().trust_issuer_add(IssuerRequest::new("bob")).await.unwrap_err();
    assert_eq!(error.code, meshara::api::ErrorCode::NotIssuer);
    let added = alice.control().trust_issuer_add(IssuerRequest::new("bob")).await.unwrap();
    assert_eq!((added.name.as_str(), added.number), ("bob", 1));
    let issuers = async |node: &Node| node.control().trust_status().await.unwrap().issuers;
    soon(async {
        while issuers(&carol).await.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    alice.shutdown().await;
    let by_bob = async |node: &Node| {
        soon(async {
            while node.control().trust_status().await.unwrap().certificate.issuer_name != "bob" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    };
    by_bob(&carol).await;
    by_bob(&bob).await;
    // A newcomer that bob admits, and that knows both grants from the start.
    let dave = build(&joined(&bob, dir.path(), "dave").await, config()).await;
    neighbours(&dave, 2).await;
    assert_eq!(issuers(&dave).await.len(), 2);
    let to: NodeId = carol.member().node_id;
    dave.send(to, "hello", Duration::from_secs(20)).await.unwrap();
    // A name that alice gave away is not free at bob's.
    let ticket = bob.control().invite(DAY, 1).await.unwrap().ticket;
    let taken = meshara::JoinOptions::new(dir.path().join("x"), ticket, "carol".parse().unwrap());
    let error = meshara::join(taken).await.unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    for node in [dave, bob, carol] {
        node.shutdown().await;
    }
}
