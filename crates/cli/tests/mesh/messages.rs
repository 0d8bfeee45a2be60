//! `send` and `recv`.

use std::time::{Duration, Instant};

use super::world::*;

#[test]
fn messages_cross_three_hops_in_order_and_are_consumed_once() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob", "carol", "dave"]);
    let (alice, dave) = (&nodes[0], &nodes[3]);
    assert!(dave.lines(&["recv"]).is_empty());
    for n in 0..20 {
        let sent = alice.object(&["send", "dave", &format!("message {n}")]);
        assert_eq!(keys(&sent), ["acked_ms", "id"]);
        nodes[1].object(&["send", "dave", &format!("{n} of bob")]);
    }
    assert_eq!(dave.status()["unread"], 40);
    let received = dave.lines(&["recv"]);
    assert_eq!(received.len(), 40);
    let of = |name: &str| -> Vec<&str> {
        received.iter().filter(|m| m["from_name"] == name).map(|m| m["text"].as_str().unwrap()).collect()
    };
    assert_eq!(of("alice"), (0..20).map(|n| format!("message {n}")).collect::<Vec<_>>());
    assert_eq!(of("bob"), (0..20).map(|n| format!("{n} of bob")).collect::<Vec<_>>());
    assert_eq!(keys(&received[0]), ["from", "from_name", "id", "sent_at", "text"]);
    assert_eq!(received[0]["from"], alice.id());
    assert!(dave.lines(&["recv"]).is_empty());

    // By id and by prefix, from stdin, empty, binary.
    let id = dave.id();
    alice.object(&["send", &id, "by id"]);
    alice.object(&["send", &id[..12], "by prefix"]);
    let piped = alice.with_stdin(&["send", "dave", "-", "--json"], "from stdin\n".as_bytes());
    assert!(piped.status.success(), "{piped:?}");
    assert!(alice.with_stdin(&["send", "dave", "-"], &[0xff, 0, 0xfe]).status.success());
    let received = dave.lines(&["recv"]);
    let texts: Vec<_> = received.iter().map(|message| message["text"].as_str().unwrap_or("")).collect();
    assert_eq!(texts, ["by id", "by prefix", "from stdin\n", ""]);
    assert_eq!(received[3]["base64"], "/wD+");
    assert!(received[3].get("text").is_none());
}

#[test]
fn the_largest_message_passes_and_one_byte_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob"]);
    let largest = vec![b'x'; 1 << 20];
    let sent = nodes[0].with_stdin(&["send", "bob", "-", "--json"], &largest);
    assert!(sent.status.success(), "{sent:?}");
    assert_eq!(nodes[1].lines(&["recv"])[0]["text"].as_str().unwrap().len(), 1 << 20);
    let more = nodes[0].with_stdin(&["send", "bob", "-", "--json"], &[&largest[..], b"x"].concat());
    let (code, text) = told(&more, "a message above the limit");
    assert_eq!(code, "too_large");
    assert!(text.contains("1048576"), "{text}");
}

#[test]
fn a_follower_sees_messages_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob"]);
    nodes[0].object(&["send", "bob", "before"]);
    let mut follower = nodes[1].follow(&["recv", "--follow"]);
    assert_eq!(follower.next()["text"], "before");
    nodes[0].object(&["send", "bob", "after"]);
    assert_eq!(follower.next()["text"], "after");
    assert!(follower.interrupt().success());
    until("both are consumed", || (nodes[1].status()["unread"] == 0).then_some(()));
}

#[test]
fn wrong_destinations_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob"]);
    let (code, text) = nodes[0].failure(&["send", "nobody", "hello"]);
    assert_eq!(code, "unknown_node");
    assert!(text.contains("nobody") && text.contains("meshara routes"), "{text}");
    assert_eq!(nodes[0].failure(&["send", "alice", "hello"]).0, "invalid_argument");
    assert_eq!(nodes[0].failure(&["trace", "nobody"]).0, "unknown_node");
    assert_eq!(nodes[0].failure(&["ping", "nobody"]).0, "unknown_node");

    nodes[1].stop("-KILL");
    until("bob is missed", || (nodes[0].status()["nodes_known"] == 0).then_some(()));
    let start = Instant::now();
    let (code, text) = nodes[0].failure(&["send", "bob", "later", "--timeout", "1s"]);
    assert_eq!(code, "timeout", "{text}");
    assert!(text.contains("stays queued"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(nodes[0].status()["outbox"], 1);
    // Both are killed; what was queued arrives all the same, once.
    nodes[0].stop("-KILL");
    nodes[0].up();
    nodes[1].up();
    until("the message arrives", || {
        let received = nodes[1].lines(&["recv"]);
        (!received.is_empty())
            .then(|| assert_eq!((received.len(), &received[0]["text"]), (1, &"later".into())))
    });
    assert!(nodes[1].lines(&["recv"]).is_empty());
}

#[test]
fn an_acknowledged_message_survives_the_death_of_its_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob"]);
    nodes[0].object(&["send", "bob", "kept"]);
    nodes[1].stop("-KILL");
    nodes[1].up();
    assert_eq!(nodes[1].lines(&["recv"])[0]["text"], "kept");
}

#[test]
fn a_receiver_that_was_killed_and_restarted_is_reached_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob", "carol"]);
    // A neighbour, and a node beyond it.
    for receiver in [1, 2] {
        let name = nodes[receiver].name.clone();
        nodes[0].object(&["send", &name, "before"]);
        nodes[receiver].stop("-KILL");
        nodes[receiver].up();
        nodes[0].knows(2);
        // The sender's session is with the life that was killed. Nobody said so but the new life, when the sender spoke.
        let start = Instant::now();
        nodes[0].object(&["send", &name, "after", "--timeout", "10s"]);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
        let texts = nodes[receiver].lines(&["recv"]);
        assert_eq!(
            texts.iter().map(|m| m["text"].as_str().unwrap()).collect::<Vec<_>>(),
            ["before", "after"]
        );
    }
}
