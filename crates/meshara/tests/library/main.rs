//! The library as applications use it: two nodes in this process, on loopback.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use meshara::api::Control;
use meshara::config::Config;
use meshara::{Event, JoinOptions, Node, UnixMillis, create_mesh, join};

async fn build(home: &Path) -> Node {
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let config = Config { listen, multicast: false, ..Config::default() };
    Node::builder().home(home).config(config).build().await.unwrap()
}

/// A mesh of two, with routes both ways.
async fn pair(dir: &Path) -> (Node, Node) {
    let (first, second) = (dir.join("alice"), dir.join("bob"));
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    create_mesh(&first, &mesh, &name, None, UnixMillis::now()).unwrap();
    let alice = build(&first).await;
    let mut events = alice.events();
    let ticket = alice.control().invite(Duration::from_secs(60), 1).await.unwrap().ticket;
    join(JoinOptions::new(second.clone(), ticket, "bob".parse().unwrap())).await.unwrap();
    let bob = build(&second).await;
    let to = bob.member().node_id;
    let found = async { while events.recv().await.unwrap() != Event::NodeReachable(to) {} };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap();
    (alice, bob)
}

#[tokio::test]
async fn a_peer_that_does_not_read_slows_its_stream_and_nothing_else() {
    /// More than one stream may hold unread.
    const ALL: usize = 256 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = pair(dir.path()).await;
    let to = bob.member().node_id;
    let mut stream = alice.open_stream(to, "stalled").await.unwrap();
    let chunk = vec![7; 64 << 10];
    let mut written = 0;
    // The writer comes to a stand: what is not read stays bounded on both sides.
    while written < ALL {
        match tokio::time::timeout(Duration::from_secs(2), stream.send.write(&chunk)).await {
            Ok(wrote) => written += wrote.unwrap(),
            Err(_) => break,
        }
    }
    assert!(written < 64 << 20, "{written} bytes were taken for a peer that reads none");
    assert!(written > 0);

    // Everything else between the two goes on.
    alice.send(to, "still here", Duration::from_secs(5)).await.unwrap();
    assert_eq!(bob.receive().await.unwrap().len(), 1);

    // And so does the stream, once its peer reads.
    let mut stalled = bob.accept_stream().await.unwrap();
    let rest = async {
        stream.send.write_all(&chunk).await.unwrap();
        stream.send.finish().unwrap();
    };
    let (bytes, ()) = tokio::join!(stalled.receive.read_to_end(ALL), rest);
    assert_eq!(bytes.unwrap().len(), written + chunk.len());
    bob.shutdown().await;
    alice.shutdown().await;
}

#[tokio::test]
async fn applications_open_streams_by_name_and_see_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = pair(dir.path()).await;
    let opened = alice.open_stream(bob.member().node_id, "chat/1").await.unwrap();
    assert_eq!(opened.peer.name, bob.member().name);
    let accepted = bob.accept_stream().await.unwrap();
    assert_eq!((accepted.peer.node_id, accepted.protocol.as_str()), (alice.member().node_id, "chat/1"));
    assert_eq!(bob.resolve("alice").unwrap(), alice.member().node_id);
    let long = "x".repeat(64);
    let mut refused = alice.open_stream(bob.member().node_id, &long).await.unwrap();
    assert!(refused.receive.read_to_end(1).await.is_err(), "a name that no peer takes");
    bob.shutdown().await;
    alice.shutdown().await;
}
