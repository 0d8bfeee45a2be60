//! Members that missed a revocation and are refused for it: they ask why, hear it, and do what follows.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use meshara::Node;
use meshara::api::{Control, IssuerRequest, PolicyControl, RevokeRequest, TrustControl, TrustStatus};
use meshara::config::Config;
use meshara_transport::{quic, tls};
use quinn::{ConnectionError, Endpoint};

use common::{build, config, first, joined, soon};

mod common;

async fn trust(node: &Node) -> TrustStatus {
    node.control().trust_status().await.unwrap()
}

/// Waits until this holds of what the node says of its trust.
async fn until(node: &Node, holds: impl Fn(&TrustStatus) -> bool) {
    soon(async {
        while !holds(&trust(node).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn neighbours(node: &Node, count: u64) {
    soon(async {
        while node.control().status().await.unwrap().neighbours != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn revoke(authority: &Node, node: &str) {
    let request = RevokeRequest { node: node.into(), reason: "laptop stolen".into(), force: false };
    authority.control().trust_revoke(request).await.unwrap();
}

#[tokio::test]
async fn a_revoked_neighbour_of_the_signer_learns_that_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let bob = build(&home, config()).await;
    neighbours(&bob, 1).await;
    assert!(!trust(&bob).await.revoked);
    let start = Instant::now();
    revoke(&alice, "bob").await;
    until(&bob, |status| status.revoked && status.revocations == 1).await;
    println!("the revoked node knew after {:?}", start.elapsed());
    neighbours(&alice, 0).await;
    for node in [bob, alice] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_node_that_was_cut_off_together_with_its_revoked_issuer_comes_back_and_the_issuer_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let names = ["bob", "carol", "dave"];
    let mut homes = Vec::new();
    for name in names {
        homes.push(joined(&alice, dir.path(), name).await);
    }
    let bob = build(&homes[0], config()).await;
    let dave = build(&homes[2], config()).await;
    neighbours(&dave, 2).await;
    alice.control().trust_issuer_add(IssuerRequest::new("bob")).await.unwrap();
    until(&dave, |status| status.issuers.len() == 2).await;
    soon(async {
        while trust(&dave).await.certificate.issuer_name != "bob" {
            dave.control().trust_renew().await.unwrap();
        }
    })
    .await;
    // On the one side the signer, who revokes the issuer; on the other the issuer and one whom it certified.
    let places = [alice.local_addr(), bob.local_addr(), dave.local_addr()];
    let daves = dave.member().node_id;
    bob.shutdown().await;
    dave.shutdown().await;
    revoke(&alice, "bob").await;
    let alices = alice.member().node_id;
    alice.shutdown().await;
    // Everybody looks for the others where they were.
    let at = |addr| {
        let peers = places.iter().filter(|place| **place != addr).map(|place| (*place).into()).collect();
        Config { listen: Some(addr), peers, ..config() }
    };
    let bob = build(&homes[0], at(places[1])).await;
    let dave = build(&homes[2], at(places[2])).await;
    neighbours(&dave, 1).await;
    assert_eq!(trust(&dave).await.revocations, 0);

    let alice = build(&dir.path().join("alice"), at(places[0])).await;
    let carol = build(&homes[1], Config { peers: vec![alice.local_addr().into()], ..config() }).await;
    let start = Instant::now();
    until(&dave, |status| status.revocations == 1 && status.certificate.issuer_name == "alice").await;
    println!("another issuer's certificate after {:?}", start.elapsed());
    soon(async { while alice.send(daves, "welcome back", Duration::from_secs(1)).await.is_err() {} }).await;
    println!("reached after {:?}", start.elapsed());
    assert!(!trust(&dave).await.revoked);
    until(&bob, |status| status.revoked).await;
    for node in [&alice, &carol, &dave] {
        let routes = node.control().routes().await.unwrap();
        assert!(routes.iter().all(|route| route.dest != bob.member().node_id.to_string()));
    }
    assert!(bob.send(alices, "hello?", Duration::from_millis(500)).await.is_err());
    for node in [bob, dave, carol, alice] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn who_proves_no_membership_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let mut endpoint = Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut settings = tls::join_client_config().unwrap();
    settings.transport_config(std::sync::Arc::new(quic::link_transport()));
    endpoint.set_default_client_config(settings);
    for proof in [&b""[..], b"nonsense"] {
        let connecting = endpoint.connect(alice.local_addr(), tls::SERVER_NAME).unwrap();
        let connection = soon(connecting).await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let length = u32::try_from(proof.len()).unwrap().to_be_bytes();
        send.write_all(&[&[0x11], &length[..], proof].concat()).await.unwrap();
        let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else { panic!() };
        assert_eq!(close.error_code, 0x203_u32.into());
    }
    alice.shutdown().await;
}
