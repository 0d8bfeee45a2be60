//! What operators and issuers decide is in the audit trail, each with a line that says exactly what.

use meshara_identity::Refusal;
use serde_json::{Value, json};

use super::world::*;

/// The events of a kind in a node's trail, oldest first, from its export. Every line has number, time and hashes around it.
fn events(node: &Node, kind: &str) -> Vec<Value> {
    let output = node.run(&["trust", "audit", "--trail", "--export", "-"]);
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seq = 0;
    let events = lines.map(|line| {
        seq += 1;
        assert_eq!(keys(&line), ["at", "event", "hash", "previous", "seq", "v"]);
        assert_eq!((&line["v"], &line["seq"]), (&json!(1), &json!(seq)));
        line["event"].clone()
    });
    events.filter(|event| event["kind"] == kind).collect()
}

/// Waits until the trail has as many events of this kind as are expected, and compares them.
fn told(node: &Node, kind: &str, expected: &Value) {
    let expected = expected.as_array().unwrap();
    let found = until("the trail has the events", || {
        Some(events(node, kind)).filter(|events| events.len() >= expected.len())
    });
    assert_eq!(&found, expected);
}

#[test]
fn what_operators_decide_is_in_the_trail() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let mut bob = Node::at(&dir, "bob");
    let id = object(&bob.home, &["id", "--new"])["node_id"].as_str().unwrap().to_owned();
    let other = "cd".repeat(32);

    // Who is let in: by the issuer's list, and by an operator who looked.
    alice.object(&["trust", "allowed", "add", &other, "--name", "dave"]);
    alice.object(&["trust", "allowed", "remove", &other]);
    let ticket = alice.object(&["invite", "--approve"]);
    let ticket = ticket["ticket"].as_str().unwrap();
    let join = |wait| ["join", ticket, "--name", "bob", "--peer", &alice.addr, "--wait", wait];
    assert_eq!(failure(&bob.home, &join("1s")).0, "join_refused");
    let request = alice.object(&["trust", "requests"])["request"].as_str().unwrap().to_owned();
    alice.object(&["trust", "requests", "decline", &request]);
    alice.object(&["trust", "requests", "approve", &request]);
    object(&bob.home, &join("30s"));
    let decision = |node: &str, decision| json!({"kind": "decision", "node": node, "decision": decision});
    told(
        &alice,
        "decision",
        &json!([
            decision(&other, "listed"),
            decision(&other, "unlisted"),
            decision(&id, "declined"),
            decision(&id, "approved")
        ]),
    );

    // What it may do: what was asked for, and whether it was done.
    alice.object(&["trust", "role", "bob", "add", "ops", "db"]);
    alice.object(&["trust", "role", "bob", "remove", "ops", "never-had"]);
    let many: Vec<String> = (10..26).map(|n| format!("r{n}")).collect();
    let mut add = vec!["trust", "role", "bob", "add"];
    add.extend(many.iter().map(String::as_str));
    assert_eq!(alice.failure(&add).0, "invalid_argument");
    assert_eq!(alice.failure(&["trust", "role", &other, "add", "ops"]).0, "unknown_node");
    let roles = |node: &str, added: &[&str], removed: &[&str], outcome: Value| json!({"kind": "roles", "node": node, "added": added, "removed": removed, "outcome": outcome});
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    told(
        &alice,
        "roles",
        &json!([
            roles(&id, &["db", "ops"], &[], json!("done")),
            roles(&id, &[], &["never-had", "ops"], json!("done")),
            roles(&id, &many, &[], json!({"refused": "a node has at most 16 roles"})),
            roles(&other, &["ops"], &[], json!({"refused": "this issuer does not know the node"})),
        ]),
    );

    // Which programs have an identity there.
    bob.up();
    bob.object(&["trust", "workload", "add", "db", "--uid", "4242"]);
    bob.object(&["trust", "workload", "remove", "db"]);
    assert_eq!(bob.failure(&["trust", "workload", "remove", "db"]).0, "unknown_workload");
    let workload = |change| json!({"kind": "workload", "name": "db", "change": change});
    told(&bob, "workload", &json!([workload("registered"), workload("unregistered")]));
    assert_eq!(events(&alice, "workload"), [json!(null); 0], "what happens on bob's machine is in his trail");
}

#[test]
fn renewals_that_an_issuer_refuses_are_in_its_trail() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let bob = Node::beside(&dir, "bob", &alice, &alice.ticket(1));
    bob.knows(1);
    // More than a node may have saved up; one with a life of a day gets another one every 72 minutes then.
    let mut renewed = 0;
    let why = until("the issuer says no", || {
        let output = bob.run(&["trust", "renew", "--json"]);
        if output.status.success() {
            renewed += 1;
            return None;
        }
        let (_, said) = super::world::told(&output, "trust renew");
        said.contains(&Refusal::TooOften.to_string()).then_some(said)
    });
    assert!((1..=10).contains(&renewed), "{renewed}: {why}");
    let id = bob.id();
    let of_bob = |event: &Value| event["node"] == id.as_str();
    let refused = json!({"kind": "renewal", "node": id, "outcome": {"refused": Refusal::TooOften.to_string()}, "not_after": 0});
    let lines = until("the trail has it", || {
        let lines: Vec<Value> = events(&alice, "renewal").into_iter().filter(of_bob).collect();
        lines.last().is_some_and(|last| *last == refused).then_some(lines)
    });
    let (good, bad): (Vec<_>, Vec<_>) = lines.iter().partition(|event| event["outcome"] == "done");
    assert_eq!((good.len(), bad.iter().filter(|event| ***event != refused).count()), (renewed, 0));
    assert!(good.iter().all(|event| event["not_after"].as_u64().unwrap() > 0));
    // And bob's trail has what he got: his certificates end at whole seconds.
    let ends = |events: &[Value]| -> Vec<u64> {
        events.iter().map(|event| event["not_after"].as_u64().unwrap() / 1000).collect()
    };
    let mut own = events(&bob, "renewal");
    own.retain(|event| event["outcome"] == "done");
    let good: Vec<Value> = good.into_iter().cloned().collect();
    assert_eq!(ends(&own), ends(&good));
    assert!(own.iter().all(|event| event["node"] == id.as_str()));
}
