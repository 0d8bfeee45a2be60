//! The library as applications use it: two nodes in this process, on loopback.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use meshara::Node;
use meshara::api::{Control, Received};

use common::{build, config, first, joined, reached, soon};

#[path = "../common/mod.rs"]
mod common;

/// A mesh of two, with routes both ways.
async fn pair(dir: &Path) -> (Node, Node) {
    let alice = first(dir, config()).await;
    let mut events = alice.events();
    let bob = build(&joined(&alice, dir, "bob").await, config()).await;
    reached(&mut events, bob.member().node_id).await;
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
    soon(async {
        while written < ALL {
            match tokio::time::timeout(Duration::from_secs(2), stream.send.write(&chunk)).await {
                Ok(wrote) => written += wrote.unwrap(),
                Err(_) => break,
            }
        }
    })
    .await;
    assert!(written < 64 << 20, "{written} bytes were taken for a peer that reads none");
    assert!(written > 0);

    // Everything else between the two goes on.
    alice.send(to, "still here", Duration::from_secs(5)).await.unwrap();
    assert_eq!(bob.receive().await.unwrap().len(), 1);

    // And so does the stream, once its peer reads.
    let mut stalled = soon(bob.accept_stream()).await.unwrap();
    let rest = async {
        stream.send.write_all(&chunk).await.unwrap();
        stream.send.finish().unwrap();
    };
    let (bytes, ()) = soon(async { tokio::join!(stalled.receive.read_to_end(ALL), rest) }).await;
    assert_eq!(bytes.unwrap().len(), written + chunk.len());
    bob.shutdown().await;
    alice.shutdown().await;
}

/// Begins a call and gives it up at once, unless it ends first.
async fn glimpse<T>(call: impl Future<Output = T>) -> Option<T> {
    let mut call = std::pin::pin!(call);
    std::future::poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = pair(dir.path()).await;
    let to = bob.member().node_id;
    let mut received = Vec::new();
    for n in 0..20 {
        alice.send(to, n.to_string(), Duration::from_secs(5)).await.unwrap();
        received.extend(glimpse(bob.receive()).await.into_iter().flat_map(Result::unwrap));
        // The store answers the call that has gone.
        bob.control().unread().await.unwrap();
    }
    received.extend(bob.receive().await.unwrap());
    let texts: Vec<_> = received.iter().map(|row| String::from_utf8(row.body.to_vec()).unwrap()).collect();
    assert_eq!(texts, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(bob.receive().await.unwrap().is_empty());
    assert_eq!(bob.control().status().await.unwrap().unread, 0, "their places in the inbox are free");

    // The same at the control API: a request that is given up is carried out all the same.
    alice.send(to, "last", Duration::from_secs(5)).await.unwrap();
    let last = bob.control().unread().await.unwrap().iter().map(Received::reference).collect();
    glimpse(bob.control().consume(last)).await;
    let freed = async {
        while bob.control().status().await.unwrap().unread != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), freed).await.unwrap();
    assert!(bob.control().unread().await.unwrap().is_empty());

    // What was read stays read when the node goes down in order.
    alice.send(to, "read", Duration::from_secs(5)).await.unwrap();
    assert_eq!(bob.receive().await.unwrap().len(), 1);
    bob.shutdown().await;
    let bob = build(&dir.path().join("bob"), config()).await;
    assert!(bob.receive().await.unwrap().is_empty());
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
