//! Tickets that ask for more: an operator's approval, the issuer's list.

use super::world::*;

/// NodeId that `id --new` prints for a home that has joined nothing yet.
fn new_id(home: &std::path::Path) -> String {
    object(home, &["id", "--new"])["node_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_newcomer_waits_until_it_is_approved() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let invite = alice.object(&["invite", "--approve", "--role", "staff"]);
    let ticket = invite["ticket"].as_str().unwrap();
    let home = dir.path().join("bob");
    let bob = new_id(&home);
    assert_eq!(new_id(&home), bob, "the keys are made once");
    let join = |wait: &str| -> Vec<String> {
        ["join", ticket, "--name", "bob", "--peer", &alice.addr, "--wait", wait].map(str::to_owned).to_vec()
    };
    let args = join("1s");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, text) = failure(&home, &args);
    assert_eq!(code, "join_refused", "{text}");
    assert!(text.contains("approve"), "{text}");
    assert_eq!(alice.failure(&["trust", "requests", "approve", "carol"]).0, "unknown_node");

    // It waits; the operator compares the id, then approves.
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let args = join("60s");
            object(&home, &args.iter().map(String::as_str).collect::<Vec<_>>())
        });
        let asked = until("the newcomer's request", || {
            alice.lines(&["trust", "requests"]).into_iter().find(|one| one["name"] == "bob")
        });
        assert_eq!((asked["node_id"].as_str(), asked["decision"].as_str()), (Some(&*bob), Some("waiting")));
        has(&asked, &["request", "node_id", "name", "since", "decision", "ticket_roles"]);
        // Named otherwise it would have to be looked at once more, on a terminal.
        for named in [&bob[..8], "bob"] {
            assert_eq!(alice.failure(&["trust", "requests", "approve", named]).0, "usage");
        }
        let request = asked["request"].as_str().unwrap();
        let decided = alice.object(&["trust", "requests", "approve", request, "--role", "db"]);
        assert_eq!(decided["decision"], "approved");
        waiting.join().unwrap()
    });
    assert_eq!(waiting["node_id"], bob.as_str());
    assert!(alice.lines(&["trust", "requests"]).is_empty());
    assert_eq!(object(&home, &["id", "--new"])["name"], "bob", "a member's id is shown as ever");

    let other = dir.path().join("carol");
    let ticket = alice.object(&["invite", "--approve"]);
    let ticket = ticket["ticket"].as_str().unwrap();
    let join = ["join", ticket, "--name", "carol", "--peer", &alice.addr, "--wait", "1s"];
    assert_eq!(failure(&other, &join).0, "join_refused");
    alice.object(&["trust", "requests", "decline", "carol"]);
    let (code, text) = failure(&other, &join);
    assert_eq!(code, "join_refused");
    assert!(text.contains("declined"), "{text}");
}

#[test]
fn only_listed_nodes_join_with_a_ticket_for_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let invite = alice.object(&["invite", "--listed", "--uses", "5"]);
    let ticket = invite["ticket"].as_str().unwrap();
    let home = dir.path().join("bob");
    let join = ["join", ticket, "--name", "bob", "--peer", &alice.addr];
    let (code, text) = failure(&home, &join);
    assert_eq!(code, "join_refused", "{text}");
    assert!(text.contains("list"), "{text}");
    let bob = new_id(&home);
    assert_eq!(alice.failure(&["trust", "allowed", "add", "4f3a"]).0, "invalid_argument");
    alice.object(&["trust", "allowed", "add", &bob, "--name", "bob", "--role", "db"]);
    let listed = alice.object(&["trust", "allowed", "list"]);
    assert_eq!((listed["node_id"].as_str(), listed["name"].as_str()), (Some(&*bob), Some("bob")));
    object(&home, &join);
    alice.object(&["trust", "allowed", "remove", &bob]);
    assert_eq!(alice.failure(&["trust", "allowed", "remove", &bob]).0, "unknown_node");
}
