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

    let before = nodes[0].ticket(4);
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
    for ticket in [before, nodes[0].ticket(1)] {
        let (code, text) = failure(&joined, &["join", &ticket, "--name", "carol", "--peer", &nodes[0].addr]);
        assert_eq!(code, "join_refused", "{text}");
    }
    assert_eq!(nodes[1].status()["neighbours"], 1);
    // What was refused is in the trail of the node that refused it.
    let trail = nodes[0].lines(&["trust", "audit", "--trail", "--export", "-"]);
    let refused = trail.iter().filter(|line| {
        let event = &line["event"];
        event["kind"] == "join" && event["name"] == "carol" && event["node"] == carol.as_str()
    });
    let refused: Vec<_> = refused.filter(|line| !line["event"]["outcome"]["refused"].is_null()).collect();
    assert_eq!(refused.len(), 2, "{trail:?}");
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
    let explained = nodes[1].object(&["policy", "check", "alice", "mesh:bob/ping", "--explain"]);
    assert_eq!((&explained["allowed"], &explained["rule"]), (&false.into(), &"no-pings".into()));
    let says = explained["rules"].as_array().unwrap().iter().find(|rule| rule["rule"] == "no-pings");
    let expected = serde_json::json!({"rule": "no-pings", "effect": "deny", "why": "matches"});
    assert_eq!(says, Some(&expected));
    let text = nodes[1].run(&["policy", "check", "alice", "mesh:bob/ping", "--explain"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("denied") && text.contains("no-pings") && text.contains("members"), "{text}");
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

    // The revocation is taken back, and she comes back by herself, with the node behind her.
    assert_eq!(nodes[1].failure(&["trust", "reinstate", &carol, "--reason", "x"]).0, "not_authority");
    let back = nodes[0].object(&["trust", "reinstate", &carol[..12], "--reason", "laptop found"]);
    assert_eq!(back, serde_json::json!({"number": 2, "node_id": carol}));
    for node in &nodes {
        node.knows(3);
    }
    until("carol has the newest snapshot", || {
        (nodes[2].object(&["trust", "status"])["revocations"] == 2).then_some(())
    });
    assert_eq!(nodes[0].failure(&["trust", "reinstate", &carol, "--reason", "x"]).0, "invalid_argument");
}

#[test]
fn revoking_an_issuer_says_what_follows_and_the_last_one_takes_force() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(2);
    let bob = Node::beside(&dir, "bob", &alice, &ticket);
    let carol = Node::beside(&dir, "carol", &alice, &ticket);
    alice.knows(2);
    let status = |node: &Node| node.object(&["trust", "status"]);
    alice.object(&["trust", "issuer", "add", "bob"]);
    until("carol knows both issuers", || {
        (status(&carol)["issuers"].as_array().unwrap().len() == 2).then_some(())
    });
    until("carol's certificate is bob's", || {
        (carol.object(&["trust", "renew"])["issuer_name"] == "bob").then_some(())
    });
    // Issuers are asked in turn. The next of bob's is the first with a role: alice shows it once she has that certificate.
    assert_eq!(carol.object(&["trust", "renew"])["issuer_name"], "alice");
    bob.object(&["trust", "role", "carol", "add", "ops"]);
    let last = carol.object(&["trust", "renew"]);
    assert_eq!((&last["issuer_name"], &last["roles"]), (&"bob".into(), &serde_json::json!(["ops"])));
    until("alice has carol's certificate", || {
        let peers = alice.lines(&["peers"]);
        peers.iter().any(|peer| peer["name"] == "carol" && peer["roles"][0] == "ops").then_some(())
    });
    let said = alice.run(&["trust", "revoke", "bob", "--reason", "laptop stolen"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("1 known member has a certificate of its"), "{said}");
    assert!(said.contains("the remaining issuer"), "{said}");
    until("carol's certificate is alice's", || {
        (status(&carol)["certificate"]["issuer_name"] == "alice").then_some(())
    });
    until("bob knows", || (status(&bob)["revoked"] == true).then_some(()));
    let text = String::from_utf8(bob.run(&["trust", "status"]).stdout).unwrap();
    assert!(text.contains("revoked: no member of the mesh talks with this node"), "{text}");

    // Carol signs for the mesh from now on. Alice is the only issuer.
    carol.object(&["trust", "key", "new", "--node"]);
    let carols = format!("carol={}", carol.home.join("authority.key.pub").display());
    let statement = dir.path().join("root-2.statement");
    let statement = statement.to_str().unwrap();
    alice.object(&["trust", "root", "rotate", "--authority", &carols, "--out", statement]);
    alice.object(&["trust", "sign", statement, "--yes"]);
    alice.object(&["trust", "publish", statement]);
    let revoke = ["trust", "revoke", "alice", "--reason", "left the team"];
    until("carol may sign", || (carol.failure(&revoke).0 == "last_issuer").then_some(()));
    assert_eq!(status(&carol)["revocations"], 1, "nothing has changed");
    let forced = carol.object(&[&revoke[..], &["--force"]].concat());
    assert_eq!(forced["number"], 2);
    assert_eq!(forced["issuer"], serde_json::json!({"members": 1, "issuers_left": 0}));
}

#[test]
fn a_role_in_the_certificate_decides() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::at(&dir, "alice");
    // The shortest life: new roles come with the next certificate.
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice", "--leaf-life", "20s"]);
    alice.up();
    let invite = alice.object(&["invite", "--ttl", "1h", "--role", "ops", "--role", "backup"]);
    let bob = Node::beside(&dir, "bob", &alice, invite["ticket"].as_str().unwrap());
    let carol = Node::beside(&dir, "carol", &alice, &alice.ticket(1));
    alice.knows(2);
    let roles = |node: &Node| node.object(&["trust", "status"])["certificate"]["roles"].clone();
    assert_eq!(roles(&bob), serde_json::json!(["backup", "ops"]));
    assert_eq!(roles(&carol), serde_json::json!([]));
    let peers = alice.lines(&["peers"]);
    let peer = peers.iter().find(|peer| peer["name"] == "bob").unwrap();
    assert_eq!(peer["roles"], serde_json::json!(["backup", "ops"]));
    assert_eq!(alice.failure(&["invite", "--role", "No role"]).0, "invalid_argument");
    assert_eq!(alice.failure(&["trust", "role", "nobody", "add", "ops"]).0, "unknown_node");
    assert_eq!(bob.failure(&["trust", "role", "carol", "add", "ops"]).0, "not_issuer");

    let file = dir.path().join("policy.toml");
    let rule =
        "version = 1\n[[rule]]\nname = \"ops\"\neffect = \"allow\"\nfrom = \"role:ops\"\nto = \"mesh:*\"\n";
    std::fs::write(&file, rule).unwrap();
    alice.object(&["policy", "apply", file.to_str().unwrap()]);
    let check = |who| alice.object(&["policy", "check", who, "mesh:alice/ping"]);
    assert_eq!(check("bob"), serde_json::json!({"allowed": true, "rule": "ops"}));
    assert_eq!(check("carol"), serde_json::json!({"allowed": false, "rule": "default"}));
    let ping = &["ping", "alice", "--count", "1"];
    assert!(bob.run(ping).status.success());
    assert_eq!(carol.failure(ping).0, "denied");
    // Over sessions that begin now and go on.
    let send = &["send", "alice", "hello"];
    assert!(bob.run(send).status.success());
    let (code, text) = carol.failure(send);
    assert_eq!(code, "denied");
    assert!(text.contains("default"), "{text}");

    let given = alice.object(&["trust", "role", "carol", "add", "ops"]);
    assert_eq!(given, serde_json::json!({"node_id": carol.id(), "name": "carol", "roles": ["ops"]}));
    let taken = alice.object(&["trust", "role", "bob", "remove", "ops", "never-had"]);
    assert_eq!(taken["roles"], serde_json::json!(["backup"]));
    for (node, expected) in [(&carol, serde_json::json!(["ops"])), (&bob, serde_json::json!(["backup"]))] {
        until("the next certificate", || (roles(node) == expected).then_some(()));
    }
    until("carol may", || carol.run(ping).status.success().then_some(()));
    until("bob may no more", || (!bob.run(ping).status.success()).then_some(()));
    assert_eq!(bob.failure(ping).0, "denied");
    assert_eq!(bob.failure(send).0, "denied");
    assert!(carol.run(send).status.success());
    // Both enrolments, and those of the changed roles, are in the log.
    let audit = alice.object(&["trust", "audit"]);
    assert_eq!(audit["ok"], true, "{audit}");
}
