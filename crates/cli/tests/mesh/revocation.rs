//! `trust revoke` and `policy`, among processes of their own.

use std::time::{Duration, Instant};

use super::world::*;

#[test]
fn a_revoked_node_is_out_and_a_policy_is_kept_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob", "carol", "dave"]);
    let carol = nodes[2].id();
    assert_eq!(nodes[1].failure(&["trust", "revoke", "carol", "--reason", "x"]).0, "not_authority");
    assert_eq!(nodes[0].failure(&["trust", "revoke", "nobody", "--reason", "x"]).0, "unknown_node");
    assert_eq!(nodes[0].failure(&["trust", "revoke", "alice", "--reason", "x"]).0, "invalid_argument");
    let long = "x".repeat(201);
    assert_eq!(nodes[0].failure(&["trust", "revoke", "carol", "--reason", &long]).0, "invalid_argument");
    assert_eq!(nodes[1].object(&["trust", "status"])["revocations"], 0);

    let start = Instant::now();
    let revoked = nodes[0].object(&["trust", "revoke", "carol", "--reason", "laptop stolen"]);
    assert_eq!(keys(&revoked), ["node_id", "number"]);
    assert_eq!((&revoked["number"], revoked["node_id"].as_str()), (&1.into(), Some(carol.as_str())));
    // dave, who is behind carol, is cut off with her.
    for node in &nodes[..2] {
        node.knows(1);
        assert_eq!(node.object(&["trust", "status"])["revocations"], 1);
        assert!(node.lines(&["peers"]).iter().all(|peer| peer["node_id"] != carol.as_str()));
    }
    println!("out of two nodes' routes {:?} after the command began", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(nodes[0].failure(&["trust", "revoke", &carol, "--reason", "x"]).0, "invalid_argument");
    // She does not come back, neither by a new life nor as a newcomer.
    nodes[2].stop("-KILL");
    nodes[2].up();
    let joined = dir.path().join("again");
    std::fs::create_dir(&joined).unwrap();
    std::fs::copy(nodes[2].home.join("keystore"), joined.join("keystore")).unwrap();
    let ticket = nodes[0].ticket(1);
    let (code, text) = failure(&joined, &["join", &ticket, "--name", "carol", "--peer", &nodes[0].addr]);
    assert_eq!(code, "join_refused", "{text}");
    assert_eq!(nodes[1].status()["neighbours"], 1);
    // A node that restarts still knows.
    nodes[1].stop("-KILL");
    nodes[1].up();
    assert_eq!(nodes[1].object(&["trust", "status"])["revocations"], 1);
    nodes[1].knows(1);

    // Policy: shown as it is taken, applied by the node with the root, kept by the others.
    let shown = nodes[0].object(&["policy", "show"]);
    assert_eq!(keys(&shown), ["issued_at", "number", "rules", "text"]);
    let file = dir.path().join("policy.toml");
    let deny =
        "\n[[rule]]\nname = \"no-pings\"\neffect = \"deny\"\nfrom = \"alice\"\nto = \"mesh:bob/ping\"\n";
    std::fs::write(&file, format!("{}{deny}", shown["text"].as_str().unwrap())).unwrap();
    let path = file.to_str().unwrap();
    let dry = nodes[0].object(&["policy", "apply", path, "--dry-run"]);
    assert_eq!(
        (&dry["number"], &dry["added"], &dry["removed"]),
        (&1.into(), &serde_json::json!(["no-pings"]), &serde_json::json!([]))
    );
    let allowed = nodes[0].object(&["policy", "check", "alice", "mesh:bob/ping"]);
    assert_eq!(allowed, serde_json::json!({"allowed": true, "rule": "members"}));
    assert_eq!(nodes[0].object(&["policy", "apply", path])["number"], 1);
    until("bob holds the policy", || (nodes[1].object(&["policy", "show"])["number"] == 1).then_some(()));
    let denied = nodes[1].object(&["policy", "check", "alice", "mesh:bob/ping"]);
    assert_eq!(denied, serde_json::json!({"allowed": false, "rule": "no-pings"}));
    let (code, text) = nodes[0].failure(&["ping", "bob", "--count", "2"]);
    assert_eq!(code, "denied");
    assert!(text.contains("no-pings"), "{text}");
    assert!(nodes[1].run(&["ping", "alice", "--count", "2"]).status.success());
    std::fs::write(
        &file,
        "version = 1\n[[rule]]\nname = \"x\"\neffect = \"maybe\"\nfrom = \"*\"\nto = \"tun:*\"\n",
    )
    .unwrap();
    let (code, text) = nodes[0].failure(&["policy", "apply", path]);
    assert_eq!(code, "invalid_argument");
    assert!(text.contains(path) && text.contains("line 4"), "{text}");
}
