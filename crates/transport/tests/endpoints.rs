//! Links between two real endpoints on loopback: what becomes of those that nobody wants, and of those whose other end was killed.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::{UnixMillis, create_mesh};
use meshara_overlay::LinkKind;
use meshara_transport::quic::CongestionControl;
use meshara_transport::tls::{Expect, Tls, TlsMaterial};
use meshara_transport::{Accepted, DataPlane, Endpoints, Wire};
use quinn::ConnectionError;

/// Both ends must know within this.
const AT_ONCE: Duration = Duration::from_secs(2);
const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn identities() -> (Identity, Identity, tempfile::TempDir) {
    let dir = tempfile::TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let now = UnixMillis::now();
    let alice = create_mesh(&a, &"lab".parse().unwrap(), &"alice".parse().unwrap(), None, now).unwrap();
    let issuer = home::open_issuer(&a, alice.membership.anchors(), None).unwrap().unwrap();
    let ticket = issuer.invite(Duration::from_secs(60), 1, vec![], now).unwrap().ticket;
    let (client, node, routing) = home::begin_join(&b, ticket, "bob".parse().unwrap(), None, now).unwrap();
    let membership = client.open_reply(&issuer.handle_join(client.request(), now).reply, now).unwrap();
    let bob = home::finish(&b, node, routing, membership, None).unwrap();
    (alice, bob, dir)
}

fn endpoints(identity: &Identity, at: SocketAddr) -> Endpoints {
    let (plane, mut events) = DataPlane::new(identity.membership.member().address, Wire::bind(at).unwrap());
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let tls = Tls::new(&TlsMaterial::new(&identity.membership).unwrap()).unwrap();
    Endpoints::new(plane, Arc::new(tls), CongestionControl::default(), &[7; 32]).unwrap()
}

/// Accepts one link and keeps it until `end` comes, on a thread of its own; gives the address at once.
fn listen(
    identity: &Arc<Identity>,
    at: SocketAddr,
    end: tokio::sync::oneshot::Receiver<()>,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let (address, listening) = std::sync::mpsc::channel();
    let identity = identity.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoints = runtime.block_on(async {
            let endpoints = endpoints(&identity, at);
            address.send(endpoints.plane().wire().local_addr().unwrap()).unwrap();
            let serve = async {
                let incoming = endpoints.next_incoming().await.unwrap();
                // A link that is dropped at once may end before it is complete here.
                if let Ok(Accepted::Link(link)) = endpoints.accept(incoming).await {
                    let hop = link.hop.clone();
                    let _streams = link.claim();
                    hop.connection().closed().await;
                }
            };
            tokio::select! { _ = serve => {}, _ = end => {} }
            endpoints
        });
        // As if killed: with the tasks gone, nothing says goodbye.
        runtime.shutdown_background();
        drop(endpoints);
    });
    (listening.recv().unwrap(), thread)
}

#[tokio::test]
async fn a_link_that_nobody_claims_ends_and_leaves_its_place() {
    let (alice, bob, _dir) = identities();
    let bob = Arc::new(bob);
    let (_end, ended) = tokio::sync::oneshot::channel();
    let (address, thread) = listen(&bob, LOCALHOST, ended);
    let endpoints = endpoints(&alice, LOCALHOST);
    let link = endpoints.dial(address, Expect::AnyMember, LinkKind::Routing).await.unwrap();
    assert_eq!(endpoints.plane().links().iter().count(), 1);
    drop(link);
    assert_eq!(endpoints.plane().links().iter().count(), 0);
    // The other end is told, so its thread ends.
    tokio::time::timeout(AT_ONCE, tokio::task::spawn_blocking(|| thread.join()))
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_killed_node_tells_when_it_is_back_that_its_old_links_are_over() {
    let (alice, bob, _dir) = identities();
    let bob = Arc::new(bob);
    let (end, ended) = tokio::sync::oneshot::channel();
    let (address, thread) = listen(&bob, LOCALHOST, ended);
    let alice = endpoints(&alice, LOCALHOST);
    let link = alice.dial(address, Expect::AnyMember, LinkKind::Routing).await.unwrap();
    end.send(()).unwrap();
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();

    let (_end, ended) = tokio::sync::oneshot::channel();
    let (again, _thread) = listen(&bob, address, ended);
    assert_eq!(again, address);
    // Alice's next packet meets a node that knows nothing of the connection.
    let connection = link.hop.connection().clone();
    let (mut sender, _receiver) = link.claim();
    sender.send(b"are you there?").await.unwrap();
    let end = tokio::time::timeout(AT_ONCE, connection.closed()).await.unwrap();
    assert!(matches!(end, ConnectionError::Reset), "{end}");
}
