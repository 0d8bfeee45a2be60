//! `serve` and `connect`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::world::*;

/// `connect` listens within this.
const LISTEN: Duration = Duration::from_millis(500);

/// A connection to `service` of `node` through a `connect` of `from`; the follower keeps it alive.
fn connect(from: &Node, to: &str) -> (Follower, String) {
    let mut follower = from.follow(&["connect", to, "--listen", "127.0.0.1:0"]);
    let listening = follower.next()["listening"].clone();
    has(&listening, &["listen", "node_id", "name", "service"]);
    let listen = listening["listen"].as_str().unwrap().to_owned();
    (follower, listen)
}

fn stream(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn reset(stream: &TcpStream) {
    let linger = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    linger.unwrap();
}

#[test]
fn a_service_two_hops_away_carries_bytes_half_close_and_reset() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob", "carol"]);
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = target.local_addr().unwrap().to_string();
    let served = nodes[2].object(&["serve", "echo", "--tcp", &addr]);
    assert_eq!((&served["name"], &served["tcp"]), (&"echo".into(), &addr.as_str().into()));

    let start = Instant::now();
    let (follower, listen) = connect(&nodes[0], "carol/echo");
    assert!(start.elapsed() < LISTEN + Duration::from_millis(500), "{:?}", start.elapsed());

    // A request that ends by half-close, answered after it: 3 MB each way, equal to the last byte.
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let answer: Vec<u8> = data.iter().rev().copied().collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, _) = target.accept().unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).unwrap();
            assert!(got == data, "{} bytes", got.len());
            server.write_all(&answer).unwrap();
        });
        let mut client = stream(&listen);
        client.write_all(&data).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == answer, "{} bytes", got.len());
    });

    // A reset by the server reaches the client as a reset, and the other way.
    for client_resets in [false, true] {
        let mut client = stream(&listen);
        client.write_all(b"x").unwrap();
        let (mut server, _) = target.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.read_exact(&mut [0]).unwrap();
        let mut other = if client_resets {
            reset(&client);
            drop(client);
            server
        } else {
            reset(&server);
            drop(server);
            client
        };
        let error = other.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "client resets: {client_resets}");
    }
    assert!(follower.interrupt().success());
    until("the listener has gone", || TcpStream::connect(&listen).is_err().then_some(()));
}

#[test]
fn a_service_is_registered_for_good_whether_or_not_its_target_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob"]);
    // A port that nobody listens on for now.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    nodes[1].object(&["serve", "late", "--tcp", &addr]);
    nodes[1].stop("-KILL");
    nodes[1].up();
    nodes[0].knows(1);
    let list = nodes[1].lines(&["serve", "--list"]);
    assert_eq!((list.len(), &list[0]["name"], &list[0]["tcp"]), (1, &"late".into(), &addr.as_str().into()));

    let (mut follower, listen) = connect(&nodes[0], "bob/late");
    // The target refuses: so does the tunnel, at once, and says why.
    let mut client = stream(&listen);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let failed = follower.next();
    assert!(failed.to_string().contains("refuses"), "{failed}");
    let target = TcpListener::bind(&addr).unwrap();
    let mut client = stream(&listen);
    client.write_all(b"hello").unwrap();
    let (mut server, _) = target.accept().unwrap();
    let mut got = [0; 5];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");

    let removed = nodes[1].object(&["serve", "--remove", "late"]);
    assert_eq!(removed["name"], "late");
    assert!(nodes[1].lines(&["serve", "--list"]).is_empty());
    assert_eq!(nodes[1].failure(&["serve", "--remove", "late"]).0, "unknown_service");
    let mut client = stream(&listen);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // What was open goes on.
    server.write_all(b"still here").unwrap();
}

#[test]
fn wrong_connects_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob"]);
    assert_eq!(nodes[0].failure(&["connect", "nobody/ssh"]).0, "unknown_node");
    assert_eq!(nodes[0].failure(&["connect", "bob"]).0, "usage");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, text) = nodes[0].failure(&["connect", "bob/ssh", "--listen", &addr]);
    assert_eq!(code, "address_in_use");
    assert!(text.contains(&addr), "{text}");
    assert_eq!(nodes[0].failure(&["serve", "ssh", "--tcp", "nonsense"]).0, "usage");
}
