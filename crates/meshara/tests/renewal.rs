//! The node that issues renews its own certificate while it runs.

#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::time::Duration;

use meshara::api::Control;
use meshara::{UnixMillis, create_mesh};
use meshara_identity::{LEAF_LIFE, home};
use meshara_transport::tls::{self, Expect, Tls};
use quinn::Endpoint;

use common::{build, config, joined, reached, soon};

mod common;

/// From the mesh's making to half of the certificate's life: enough to start a node on a machine under load.
const LEFT: Duration = Duration::from_secs(8);

/// The end of the certificate that the node shows to whoever dials it now.
async fn shown(tls: &Tls, node: &meshara::Node) -> UnixMillis {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = tls.client_config(tls::ALPN_LINK, Expect::Node(node.member().node_id));
    let connection = soon(endpoint.connect_with(config, node.local_addr(), tls::SERVER_NAME).unwrap()).await;
    tls.member(&connection.unwrap()).unwrap().not_after
}

#[tokio::test]
async fn a_running_issuer_renews_its_certificate_at_half_of_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    let made = UnixMillis::now().minus(LEAF_LIFE / 2).plus(LEFT);
    create_mesh(&dir.path().join("alice"), &mesh, &name, None, made).unwrap();
    let alice = build(&dir.path().join("alice"), config()).await;
    let first = alice.member().not_after;
    assert!(first <= made.plus(LEAF_LIFE), "not renewed at the start");

    let bob_home = joined(&alice, dir.path(), "bob").await;
    let tls = common::tls(&bob_home);
    assert_eq!(shown(&tls, &alice).await, first);
    let bob = build(&bob_home, config()).await;
    let mut events = bob.events();
    reached(&mut events, alice.member().node_id).await;

    let end = soon(async {
        loop {
            let end = alice.control().status().await.unwrap().certificate_expires_at.unwrap().unix_ms();
            if end != first.0 {
                return UnixMillis(end);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let end = end.await;
    assert!(end > first.plus(LEAF_LIFE / 2).minus(Duration::from_secs(2)), "{end}");
    assert_eq!(home::load(&dir.path().join("alice"), None).unwrap().membership.member().not_after, end);
    assert_eq!(shown(&tls, &alice).await, end);
    // Nothing was interrupted.
    assert_eq!(alice.control().status().await.unwrap().neighbours, 1);
    let link = alice.control().peers().await.unwrap().remove(0);
    assert!(link.since_s >= 1, "the link was made anew: {link:?}");
    bob.send(alice.member().node_id, "hello", Duration::from_secs(10)).await.unwrap();
    bob.shutdown().await;
    alice.shutdown().await;
}
