//! Links between two real endpoints on loopback: what becomes of those that nobody wants, and of those whose other end was killed.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::UnixMillis;
use meshara_identity::home::Identity;
use meshara_overlay::LinkKind;
use meshara_transport::Accepted;
use meshara_transport::tls::Expect;
use quinn::ConnectionError;

use common::{Mesh, endpoints};

mod common;

/// Both ends must know within this.
const AT_ONCE: Duration = Duration::from_secs(2);
const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
    let Mesh { alice, bob, .. } = Mesh::new(UnixMillis::now());
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
    let Mesh { alice, bob, .. } = Mesh::new(UnixMillis::now());
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
