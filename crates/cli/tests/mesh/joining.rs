//! Tickets and joining.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::world::*;

/// `join` tries members for 20 s and ends within 25 s.
const JOIN_END: Duration = Duration::from_secs(25);

#[test]
fn refused_joins_say_why_and_consume_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(1);
    let attempt = |home: &str, ticket: &str, name: &str| {
        failure(&dir.path().join(home), &["join", ticket, "--name", name, "--peer", &alice.addr])
    };
    let (code, text) = attempt("x", &ticket, "alice");
    assert_eq!(code, "name_taken", "{text}");
    assert_eq!(attempt("x", "meshara1nonsense", "x").0, "invalid_ticket");
    assert_eq!(attempt("x", "", "x").0, "invalid_ticket");
    assert_eq!(attempt("x", &ticket[..ticket.len() - 1], "x").0, "invalid_ticket");
    assert_eq!(attempt("x", &ticket.to_uppercase(), "x").0, "invalid_ticket");
    assert_eq!(attempt("x", &format!(" {ticket}"), "x").0, "invalid_ticket");
    assert_eq!(attempt("x", &format!("{ticket}\n"), "x").0, "invalid_ticket");
    assert_eq!(attempt("x", &format!("{ticket}q"), "x").0, "invalid_ticket");
    assert!(!dir.path().join("x/membership").exists());

    let bob = Node::beside(&dir, "bob", &alice, &ticket);
    let (code, text) = attempt("y", &ticket, "carol");
    assert_eq!(code, "ticket_used", "{text}");
    let (code, text) = bob.failure(&["join", &ticket, "--name", "bob", "--peer", &alice.addr]);
    assert_eq!(code, "already_initialised", "{text}");
}

#[test]
fn every_character_of_a_ticket_is_authenticated() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(1);
    let home = dir.path().join("x");
    for place in 0..ticket.len() {
        let mut altered = ticket.clone().into_bytes();
        altered[place] = if altered[place] == b'q' { b'p' } else { b'q' };
        let altered = String::from_utf8(altered).unwrap();
        let (code, text) = failure(&home, &["join", &altered, "--name", "x", "--peer", &alice.addr]);
        assert_eq!(code, "invalid_ticket", "character {place}: {text}");
    }
    Node::beside(&dir, "bob", &alice, &ticket);
}

#[test]
fn a_ticket_of_one_second_lives_for_one_second() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let invite = alice.object(&["invite", "--ttl", "1s"]);
    assert_eq!(keys(&invite), ["expires_at", "ticket", "uses"]);
    assert_eq!(invite["uses"], 1);
    let start = Instant::now();
    let ticket = invite["ticket"].as_str().unwrap();
    // Its addresses come from the ticket: no --peer.
    let good = dir.path().join("good");
    if run(&good, &["join", ticket, "--name", "good"]).status.success() {
        assert!(start.elapsed() < Duration::from_secs(3));
    }
    std::thread::sleep(Duration::from_millis(1050).saturating_sub(start.elapsed()));
    let (code, text) = failure(&dir.path().join("late"), &["join", ticket, "--name", "late"]);
    assert!(["ticket_expired", "ticket_used"].contains(&code.as_str()), "{code}: {text}");
    let unused = alice.object(&["invite", "--ttl", "1s", "--uses", "5"]);
    std::thread::sleep(Duration::from_millis(1050));
    let unused = unused["ticket"].as_str().unwrap();
    assert_eq!(failure(&dir.path().join("late"), &["join", unused, "--name", "late"]).0, "ticket_expired");
}

#[test]
fn the_human_form_of_an_invitation_ends_with_the_ticket_alone() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let output = alice.run(&["invite"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let ticket = text.lines().last().unwrap();
    assert!(ticket.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{ticket}");
    object(&dir.path().join("bob"), &["join", ticket, "--name", "bob"]);
    for wrong in [&["invite", "--ttl", "0s"][..], &["invite", "--uses", "0"]] {
        assert_eq!(alice.failure(wrong).0, "usage", "{wrong:?}");
    }
}

#[test]
fn twenty_wrong_joins_a_second_lock_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(1);
    // One home a worker: their keystores are made once, so that the rate is the network's.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let refused = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (dir, alice, ticket, stop, refused) = (&dir, &alice, &ticket, &stop, &refused);
            scope.spawn(move || {
                let home = dir.path().join(format!("wrong{worker}"));
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (code, text) =
                        failure(&home, &["join", ticket, "--name", "alice", "--peer", &alice.addr]);
                    assert_eq!(code, "name_taken", "{text}");
                    refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        until("sixty refusals", || (refused.load(std::sync::atomic::Ordering::Relaxed) >= 60).then_some(()));
        println!("60 refusals in {:?}", start.elapsed());
        let home = dir.path().join("right");
        object(&home, &["join", ticket.as_str(), "--name", "bob", "--peer", &alice.addr]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(alice.status()["name"], "alice");
}

#[test]
fn a_join_that_reaches_nobody_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(1);
    alice.stop("-KILL");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let start = Instant::now();
    let args = ["join", &ticket, "--name", "bob", "--peer", &silent, "--peer", "nowhere.invalid:1"];
    let (code, text) = failure(&dir.path().join("bob"), &args);
    assert_eq!(code, "timeout", "{text}");
    assert!(text.contains("--peer"), "{text}");
    assert!(start.elapsed() < JOIN_END, "{:?}", start.elapsed());
    // The keystore stays; the next attempt uses it, and nothing claims to be a member.
    assert_eq!(failure(&dir.path().join("bob"), &["id"]).0, "not_initialised");
    alice.up();
    object(&dir.path().join("bob"), &["join", &ticket, "--name", "bob", "--peer", &alice.addr]);
}

#[test]
fn a_ticket_of_another_mesh_is_refused_and_says_so() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (alice, other) = (Node::first(&one, "alice"), Node::first(&two, "other"));
    // The ticket's own addresses lead to alice.
    let ticket = alice.ticket(2);
    object(&one.path().join("bob"), &["join", &ticket, "--name", "bob", "--peer", &other.addr]);
    // Where only a foreign mesh answers, the error says so.
    let mut alice = alice;
    alice.stop("-KILL");
    let start = Instant::now();
    let args = ["join", &ticket, "--name", "carol", "--peer", &other.addr];
    let (code, text) = failure(&one.path().join("carol"), &args);
    assert_eq!(code, "join_refused", "{text}");
    assert!(text.contains("another mesh"), "{text}");
    assert!(start.elapsed() < JOIN_END, "{:?}", start.elapsed());
}

#[test]
fn a_member_that_reaches_no_issuer_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob"]);
    let ticket = nodes[0].ticket(1);
    nodes[0].stop("-KILL");
    let start = Instant::now();
    let args = ["join", &ticket, "--name", "carol", "--peer", &nodes[1].addr];
    let (code, text) = failure(&dir.path().join("carol"), &args);
    assert_eq!(code, "unreachable", "{text}");
    assert!(text.contains("no issuer"), "{text}");
    assert!(start.elapsed() < JOIN_END, "{:?}", start.elapsed());
}

#[test]
fn join_remembers_its_peers_for_up() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["a", "b", "c"]);
    // c was told of b by `join --peer` alone, and joined through it although only a issues.
    let peers = nodes[2].lines(&["peers"]);
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0]["name"], "b");
    let (code, text) = nodes[1].failure(&["invite"]);
    assert_eq!(code, "not_issuer", "{text}");
}
