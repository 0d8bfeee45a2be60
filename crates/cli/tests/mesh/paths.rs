//! `ping`, `trace`, `peers`, `routes`, `bench`, and what they say.

use std::time::{Duration, Instant};

use super::world::*;

#[test]
fn a_line_of_four_is_seen_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob", "carol", "dave"]);
    let alice = &nodes[0];

    let peers = alice.lines(&["peers"]);
    assert_eq!(peers.len(), 1);
    has(
        &peers[0],
        &[
            "node_id", "name", "addr", "state", "rtt_ms", "loss", "kex", "auth", "since_s", "tx_bytes",
            "rx_bytes",
        ],
    );
    assert_eq!((&peers[0]["name"], &peers[0]["state"]), (&"bob".into(), &"up".into()));
    assert_eq!((&peers[0]["kex"], &peers[0]["auth"]), (&"X25519MLKEM768".into(), &"ML-DSA-65".into()));
    assert_eq!(peers[0]["addr"], nodes[1].addr.as_str());

    let routes = alice.lines(&["routes"]);
    assert_eq!(routes.len(), 3);
    for (route, node) in routes.iter().zip(&nodes[1..]) {
        has(route, &["dest", "name", "next_hop", "hops", "metric_ms", "alternates"]);
        assert_eq!((&route["name"], &route["dest"]), (&node.name.as_str().into(), &node.id().into()));
        assert_eq!(route["next_hop"], nodes[1].id());
    }
    assert_eq!(routes.iter().map(|route| route["hops"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);

    let trace = alice.object(&["trace", "dave"]);
    let names: Vec<_> = trace["hops"].as_array().unwrap().iter().map(|hop| hop["name"].clone()).collect();
    assert_eq!(names, ["bob", "carol", "dave"]);
    for hop in trace["hops"].as_array().unwrap() {
        assert_eq!(keys(hop), ["name", "node_id", "rtt_ms"]);
    }

    let bench = alice.object(&["bench", "dave", "--duration", "500ms", "--streams", "2"]);
    assert_eq!(keys(&bench), ["duration_s", "gbit_s", "hops", "path", "streams"]);
    assert_eq!(
        (&bench["path"], &bench["hops"], &bench["streams"]),
        (&"relayed".into(), &3.into(), &2.into())
    );
    assert!(bench["gbit_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_neighbour_that_died_is_down_until_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob", "carol"]);
    let peers = |node: &Node| node.lines(&["peers"]);
    let state = |node: &Node, name: &str| {
        let found = peers(node).into_iter().find(|peer| peer["name"] == name);
        found.map(|peer| peer["state"].as_str().unwrap().to_owned())
    };
    let fields = peers(&nodes[0]).remove(0);
    // Frozen, then killed: what the neighbour notices by silence, and what it goes on to show.
    nodes[1].signal("-STOP");
    until("alice sees bob down", || (state(&nodes[0], "bob")? == "down").then_some(()));
    nodes[1].stop("-KILL");
    let shown = peers(&nodes[0]);
    assert_eq!(shown.len(), 1, "{shown:?}");
    let bob = &shown[0];
    assert_eq!(keys(bob), keys(&fields));
    assert_eq!((&bob["state"], &bob["addr"]), (&"down".into(), &nodes[1].addr.as_str().into()));
    assert_eq!(bob["node_id"], fields["node_id"]);
    assert!(bob["rtt_ms"].is_null() && bob["mtu"].is_null(), "{bob}");
    assert!(bob["since_s"].as_u64().unwrap() < 60, "{bob}");
    assert_eq!(nodes[0].status()["neighbours"], 0);
    let human = nodes[0].run(&["peers"]);
    assert!(String::from_utf8_lossy(&human.stdout).contains("down"), "{human:?}");

    nodes[1].up();
    until("bob is back", || (state(&nodes[0], "bob")? == "up").then_some(()));
    assert_eq!((peers(&nodes[0]).len(), &nodes[0].status()["neighbours"]), (1, &1.into()));
    // Who leaves in order is not down but gone.
    until("carol is back", || (state(&nodes[1], "carol")? == "up").then_some(()));
    nodes[2].stop("-TERM");
    until("carol is gone", || state(&nodes[1], "carol").is_none().then_some(()));
}

#[test]
fn a_throughput_run_to_a_node_that_is_gone_ends_soon_after_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob"]);
    nodes[0].object(&["bench", "bob", "--duration", "200ms"]);
    nodes[1].signal("-STOP");
    let start = Instant::now();
    let (code, _) = nodes[0].failure(&["bench", "bob", "--duration", "1s"]);
    let took = start.elapsed();
    nodes[1].signal("-CONT");
    assert!(["unreachable", "timeout"].contains(&code.as_str()), "{code}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn pings_are_sent_on_time_and_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob", "carol"]);
    let start = Instant::now();
    let lines = nodes[0].lines(&["ping", "carol", "--count", "50", "--interval", "20ms"]);
    let took = start.elapsed();
    let (summary, replies) = lines.split_last().unwrap();
    let summary = &summary["summary"];
    assert_eq!(keys(summary), ["longest_gap_ms", "p50_ms", "p99_ms", "received", "sent"]);
    assert_eq!(summary["sent"], 50);
    assert_eq!(summary["received"], replies.len());
    assert!(replies.len() >= 45, "{summary}");
    for reply in replies {
        assert_eq!(keys(reply), ["hops", "rtt_ms", "seq"]);
        assert_eq!(reply["hops"], 2);
    }
    // 49 intervals, then at most a second.
    assert!(took >= Duration::from_millis(980), "{took:?}");
    assert!(took < Duration::from_millis(980 + 1000 + 500), "{took:?}");
    let human = nodes[0].run(&["ping", "carol", "--count", "2", "--interval", "10ms"]);
    assert!(human.status.success() && String::from_utf8_lossy(&human.stdout).contains("2 sent"), "{human:?}");
}

#[test]
fn silence_counts_in_the_longest_gap_and_in_the_exit() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob"]);
    // All along: no reply at all.
    nodes[1].signal("-STOP");
    let start = Instant::now();
    let output = nodes[0].run(&["ping", "bob", "--count", "20", "--interval", "10ms", "--json"]);
    let took = start.elapsed();
    assert!(!output.status.success());
    let last = String::from_utf8(output.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    let summary = &summary["summary"];
    assert_eq!((&summary["sent"], &summary["received"]), (&20.into(), &0.into()));
    assert!(summary["p50_ms"].is_null(), "{summary}");
    assert!(summary["longest_gap_ms"].as_f64().unwrap() >= 190.0, "{summary}");
    assert!(took < Duration::from_millis(190 + 1000 + 500), "{took:?}");
    nodes[1].signal("-CONT");
    nodes[0].knows(1);

    // Before the first reply and after the last.
    let mut ping = nodes[0].follow(&["ping", "bob", "--count", "200", "--interval", "10ms"]);
    for _ in 0..20 {
        ping.next();
    }
    nodes[1].signal("-STOP");
    let summary = loop {
        let line = ping.next();
        if line.get("summary").is_some() {
            break line["summary"].clone();
        }
    };
    nodes[1].signal("-CONT");
    assert!(ping.child.wait().unwrap().success());
    assert_eq!(summary["sent"], 200);
    assert!(summary["longest_gap_ms"].as_f64().unwrap() >= 1000.0, "{summary}");
}

#[test]
fn global_options_stand_on_either_side() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let home = alice.home.to_str().unwrap();
    for args in [
        ["--home", home, "--json", "status"],
        ["--json", "status", "--home", home],
        ["status", "--json", "--home", home],
        ["--home", home, "status", "--json"],
    ] {
        let output = command().args(args).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["name"], "alice");
    }
}

#[test]
fn ambiguous_prefixes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // Two of seventeen ids share their first digit.
    let alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(40);
    let mut nodes = vec![alice];
    let pair = loop {
        let ids: Vec<String> = nodes.iter().map(Node::id).collect();
        let digit = |id: &String| id.as_bytes()[0];
        let twice = ids.iter().find(|id| ids.iter().filter(|other| digit(other) == digit(id)).count() > 1);
        if let Some(id) = twice {
            break id[..1].to_owned();
        }
        let name = format!("n{}", nodes.len());
        let node = Node::beside(&dir, &name, &nodes[0], &ticket);
        node.knows(nodes.len() as u64);
        nodes.push(node);
    };
    nodes[0].knows(nodes.len() as u64 - 1);
    let (code, text) = nodes[0].failure(&["trace", &pair]);
    assert_eq!(code, "ambiguous_node", "{text}");
}
