//! Certificates of 20 seconds, renewed under load, also when the node that made the mesh is gone.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::world::*;

/// A node with this certificate.
fn serial(node: &Node) -> String {
    let status = node.object(&["trust", "status"]);
    assert_eq!(status["valid"], true, "{}: {status}", node.name);
    status["certificate"]["serial"].as_str().unwrap().to_owned()
}

/// A mesh whose certificates live for 20 s: alice and a member beside her.
fn mesh(dir: &tempfile::TempDir) -> (Node, Node) {
    let mut alice = Node::at(dir, "alice");
    let made = object(&alice.home, &["init", "--mesh", "lab", "--name", "alice", "--leaf-life", "20s"]);
    assert_eq!(made["leaf_life_s"], 20);
    assert_eq!(made["warnings"].as_array().unwrap().len(), 1);
    alice.up();
    let bob = Node::beside(dir, "bob", &alice, &alice.ticket(1));
    bob.knows(1);
    (alice, bob)
}

#[test]
fn lives_have_limits() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, life) in [("--leaf-life", "19s"), ("--leaf-life", "25h"), ("--enrolment", "1h")] {
        let args = ["init", "--mesh", "lab", "--name", "alice", flag, life];
        assert_eq!(failure(&dir.path().join("none"), &args).0, "invalid_argument", "{flag} {life}");
    }
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_stream_runs_through_two_renewals_of_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, bob) = mesh(&dir);
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    alice.object(&["serve", "echo", "--tcp", &echo.local_addr().unwrap().to_string()]);
    std::thread::spawn(move || {
        let (mut stream, _) = echo.accept().unwrap();
        let mut bytes = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..read]).unwrap();
        }
    });
    let mut connect = bob.follow(&["connect", "alice/echo"]);
    let listen = connect.next()["listening"]["listen"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();

    let (mut seen, start) = ([BTreeSet::new(), BTreeSet::new()], Instant::now());
    let mut count = 0_u64;
    // Three certificates each: 20 s and half of the third's life at the latest; at least as long as the first one would have lasted.
    while seen.iter().any(|serials| serials.len() < 3) || start.elapsed() < Duration::from_secs(24) {
        assert!(start.elapsed() < Duration::from_secs(60), "{seen:?}");
        for (node, serials) in [&alice, &bob].into_iter().zip(&mut seen) {
            serials.insert(serial(node));
        }
        let until = Instant::now() + Duration::from_millis(500);
        while Instant::now() < until {
            count += 1;
            stream.write_all(&count.to_be_bytes()).unwrap();
            let mut back = [0; 8];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(u64::from_be_bytes(back), count);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // The link was not made anew either.
    for node in [&alice, &bob] {
        let log = std::fs::read_to_string(node.home.join("stderr")).unwrap();
        assert!(log.contains("link up") && !log.contains("link down"), "{log}");
    }
}

#[test]
fn a_second_issuer_carries_the_mesh_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut alice, bob) = mesh(&dir);
    let carol = Node::beside(&dir, "carol", &bob, &alice.ticket(1));
    carol.knows(2);
    let mut dave = Node::beside(&dir, "dave", &bob, &alice.ticket(1));
    dave.knows(3);
    dave.stop("-TERM");

    assert_eq!(bob.failure(&["trust", "issuer", "add", "carol"]).0, "not_issuer");
    assert_eq!(bob.failure(&["invite"]).0, "not_issuer");
    let added = alice.object(&["trust", "issuer", "add", "bob"]);
    assert_eq!((added["name"].as_str(), added["node_id"].as_str()), (Some("bob"), Some(&*bob.id())));
    assert_eq!(alice.failure(&["trust", "issuer", "add", "bob"]).0, "already_initialised");
    // Everybody learns of it, before anybody needs it.
    for node in [&alice, &bob, &carol] {
        until("the grant arrives", || {
            let status = node.object(&["trust", "status"]);
            (status["issuers"].as_array().unwrap().len() == 2).then_some(())
        });
    }
    let status = carol.object(&["trust", "status"]);
    has(&status, &["phase", "roots", "issuers", "log", "certificate", "revocations"]);
    has(&status["log"], &["size", "head", "witnesses"]);
    has(&status["certificate"], &["serial", "not_before", "not_after", "renews_at"]);
    assert_eq!(status["leaf_life_s"], 20);

    // The founder goes. Certificates of hers end within 20 s.
    alice.stop("-TERM");
    until("carol's certificate is bob's", || {
        let status = carol.object(&["trust", "status"]);
        (status["certificate"]["issuer_name"] == "bob" && status["valid"] == true).then_some(())
    });
    // Bob admits newcomers.
    let erin = Node::beside(&dir, "erin", &carol, &bob.ticket(1));
    erin.knows(2);
    // Dave, who slept since before bob issued, finds back: no certificate that he sees is from an issuer that he knows.
    std::thread::sleep(Duration::from_secs(21));
    dave.up();
    dave.knows(3);
    let status = dave.object(&["trust", "status"]);
    assert_eq!((status["valid"].as_bool(), status["issuers"].as_array().unwrap().len()), (Some(true), 2));
    assert_eq!(status["certificate"]["issuer_name"], "bob");
    // After a restart bob is still an issuer.
    let ids = [bob.id(), carol.id()];
    let mut bob = bob;
    bob.stop("-KILL");
    bob.up();
    bob.knows(3);
    assert_eq!(ids, [bob.id(), carol.id()]);
    assert!(bob.ticket(1).starts_with("meshara1"));
    // And the founder comes back by herself.
    alice.up();
    alice.knows(4);
}

#[test]
fn a_certificate_is_renewed_when_asked_and_its_proof_follows() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let bob = Node::beside(&dir, "bob", &alice, &alice.ticket(1));
    bob.knows(1);
    let before = serial(&bob);
    let renewed = bob.object(&["trust", "renew"]);
    has(&renewed, &["serial", "not_before", "not_after", "renews_at", "issuer", "issuer_name", "witnesses"]);
    assert_ne!(renewed["serial"], before);
    assert_eq!(
        (renewed["serial"].as_str(), renewed["issuer_name"].as_str()),
        (Some(&*serial(&bob)), Some("alice"))
    );
    // Bob himself is the only witness there can be.
    until("the proof of the new certificate has its witness", || {
        (bob.object(&["trust", "status"])["certificate"]["witnesses"] == 1).then_some(())
    });
    alice.stop("-TERM");
    assert_eq!(bob.failure(&["trust", "renew"]).0, "unreachable");
    assert_eq!(serial(&bob), renewed["serial"], "the certificate in use stays");
}
