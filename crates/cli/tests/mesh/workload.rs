//! Programs on the nodes of a mesh: a SPIFFE client in Python that no one here wrote, and the commands about workloads.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::world::*;

/// The package and its version: what it does shouldn't change under the test.
const PACKAGE: &str = "spiffe==0.3.2";

/// A Python that has the package; `None` where there is no Python to make one with. CI must have it.
fn python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("venv-{PACKAGE}"));
    let python = venv.join("bin/python");
    let has = |python: &Path| {
        Command::new(python)
            .args(["-c", "import spiffe"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if has(&python) {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).output();
    if !made.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI must have python3 with venv");
        return None;
    }
    let installed =
        Command::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE]).output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    assert!(has(&python));
    Some(python)
}

fn endpoint(node: &Node) -> String {
    format!("unix://{}", node.home.join("workload.sock").display())
}

/// Runs the script; what it prints.
fn told_by(python: &Path, nodes: &[&Node]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh/workload.py");
    let endpoints = nodes.iter().map(|node| endpoint(node));
    let output = Command::new(python).arg(script).args(endpoints).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.trim().to_owned()
}

/// The two programs verify each other; how many trust domains the first knows.
fn trust_each_other(python: &Path, nodes: [(&Node, &str); 2]) -> u64 {
    let said = told_by(python, &nodes.map(|(node, _)| node));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["ids"], serde_json::json!(nodes.map(|(_, id)| id)));
    said["domains"].as_u64().unwrap()
}

#[test]
fn python_programs_on_two_nodes_trust_each_other() {
    let Some(python) = python() else {
        println!("skipped: no python3 with venv on this machine");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // Bob issues nothing: what his programs get comes from alice.
    let nodes = line(&dir, &["alice", "bob"]);
    until("bob knows the roots", || nodes[1].run(&["trust", "bundle"]).status.success().then_some(()));
    let ids = ["spiffe://lab/workload/alice", "spiffe://lab/workload/bob"];
    assert_eq!(trust_each_other(&python, [(&nodes[0], ids[0]), (&nodes[1], ids[1])]), 1);
}

/// How many keys for certificates a node's bundle has.
fn roots(node: &Node) -> usize {
    let output = node.run(&["trust", "bundle"]);
    let bundle: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let keys = bundle["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().filter(|key| key["use"] == "x509-svid").count()
}

#[test]
fn a_revoked_issuer_takes_its_roots_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["alice", "bob"]);
    let carol = Node::beside(&dir, "carol", &nodes[0], &nodes[0].ticket(1));
    nodes.push(carol);
    nodes[0].knows(2);
    nodes[0].object(&["trust", "issuer", "add", "bob"]);
    for node in &nodes {
        until("everybody knows both roots", || (roots(node) == 2).then_some(()));
    }
    nodes[0].object(&["trust", "revoke", "bob", "--reason", "stolen"]);
    for node in [&nodes[0], &nodes[2]] {
        until("the roots went", || (roots(node) == 1).then_some(()));
    }
    if let Some(python) = python() {
        assert_eq!(told_by(&python, &[&nodes[2]]), "spiffe://lab/workload/carol");
    }
    // Nor are they back in the next life.
    nodes[2].stop("-TERM");
    nodes[2].up();
    assert_eq!(roots(&nodes[2]), 1);
}

#[test]
fn two_meshes_federate() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let mut paula = Node::at(&dir, "paula");
    object(&paula.home, &["init", "--mesh", "prod", "--name", "paula"]);
    paula.up_with(|command| command.args(["--bundle-endpoint", "127.0.0.1:0"]));
    let addr = until("paula says where", || {
        let log = std::fs::read_to_string(paula.home.join("stderr")).unwrap();
        let (_, rest) = log.split_once("serving the trust bundle addr=")?;
        Some(rest.split_whitespace().next()?.to_owned())
    });
    let file = dir.path().join("prod.json");
    std::fs::write(&file, paula.run(&["trust", "bundle"]).stdout).unwrap();
    let (file, url) = (file.to_str().unwrap(), format!("https://{addr}/"));
    let add = |id: &str| {
        ["trust", "bundle", "add", "prod", "--file", file, "--url", &url, "--endpoint-id", id]
            .map(str::to_owned)
    };
    let held = |alice: &Node| {
        let mut all = alice.lines(&["trust", "bundle", "list"]);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    };

    // Somebody else at the endpoint changes nothing.
    let wrong = add("spiffe://prod/workload/mallory");
    alice.object(&wrong.each_ref().map(String::as_str));
    let error = until("the endpoint was asked", || held(&alice)["last_error"].as_str().map(str::to_owned));
    assert!(error.contains("prove"), "{error}");
    assert_eq!(held(&alice)["fetched_at"], serde_json::Value::Null);

    let right = add("spiffe://prod/workload/paula");
    let added = alice.object(&right.each_ref().map(String::as_str));
    let names = [
        "endpoint_id",
        "fetched_at",
        "jwt_authorities",
        "last_error",
        "sequence",
        "trust_domain",
        "url",
        "x509_authorities",
    ];
    assert_eq!(keys(&added), names);
    assert_eq!((&added["x509_authorities"], &added["jwt_authorities"]), (&1.into(), &1.into()));
    let fetched =
        until("the bundle was fetched", || held(&alice)["fetched_at"].is_string().then(|| held(&alice)));
    assert_eq!(fetched["last_error"], serde_json::Value::Null);
    assert_eq!(fetched["sequence"], added["sequence"]);

    if let Some(python) = python() {
        let ours = dir.path().join("lab.json");
        std::fs::write(&ours, alice.run(&["trust", "bundle"]).stdout).unwrap();
        paula.object(&["trust", "bundle", "add", "lab", "--file", ours.to_str().unwrap()]);
        let ids = ["spiffe://lab/workload/alice", "spiffe://prod/workload/paula"];
        assert_eq!(trust_each_other(&python, [(&alice, ids[0]), (&paula, ids[1])]), 2);
    }
    // It is there in the node's next life.
    alice.stop("-TERM");
    alice.up();
    assert_eq!(held(&alice)["endpoint_id"], "spiffe://prod/workload/paula");
    alice.object(&["trust", "bundle", "remove", "prod"]);
    assert_eq!(alice.lines(&["trust", "bundle", "list"]).len(), 0);
    assert_eq!(alice.failure(&["trust", "bundle", "remove", "prod"]).0, "unknown_trust_domain");
    assert_eq!(alice.failure(&["trust", "bundle", "add", "lab", "--file", file]).0, "invalid_argument");
    assert_eq!(alice.failure(&["trust", "bundle", "add", "prod"]).0, "usage");
    let http = ["trust", "bundle", "add", "prod", "--url", "http://127.0.0.1/"];
    assert_eq!(alice.failure(&http).0, "invalid_argument");
    // Without a first bundle the endpoint must prove its host's name to the web's authorities: this one doesn't.
    assert_eq!(alice.failure(&["trust", "bundle", "add", "prod", "--url", &url]).0, "unreachable");
}

#[test]
fn workloads_are_registered_listed_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let db = alice.object(&["trust", "workload", "add", "db", "--uid", "4242"]);
    let expected = serde_json::json!({
        "name": "db", "spiffe_id": "spiffe://lab/workload/alice/db", "uid": 4242, "exe": null,
    });
    assert_eq!(db, expected);
    let exe = std::env::current_exe().unwrap();
    let web = alice.object(&["trust", "workload", "add", "web", "--exe", exe.to_str().unwrap()]);
    assert_eq!(web["exe"], exe.canonicalize().unwrap().to_str().unwrap());

    // They are there in the node's next life.
    alice.stop("-TERM");
    alice.up();
    assert_eq!(alice.lines(&["trust", "workload", "list"]), [db.clone(), web]);
    assert_eq!(alice.object(&["trust", "workload", "remove", "db"]), db);
    assert_eq!(alice.failure(&["trust", "workload", "remove", "db"]).0, "unknown_workload");
    assert_eq!(alice.failure(&["trust", "workload", "add", "x"]).0, "usage");
    assert_eq!(alice.lines(&["trust", "workload", "list"]).len(), 1);
    let told = alice.run(&["trust", "workload", "add", "db", "--uid", "4242"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("chmod o+x"), "{told:?}");
}

#[test]
fn the_bundle_is_for_other_trust_domains() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let bundle = alice.object(&["trust", "bundle"]);
    let keys = bundle["keys"].as_array().unwrap();
    let uses: Vec<_> = keys.iter().map(|key| key["use"].as_str().unwrap()).collect();
    assert_eq!(uses, ["x509-svid", "jwt-svid"]);
    assert_eq!(keys[0]["x5c"].as_array().unwrap().len(), 1);
    assert!(keys[0].get("kid").is_none() && keys[1]["kid"].is_string());
    for key in keys {
        assert_eq!((key["kty"].as_str(), key["crv"].as_str()), (Some("EC"), Some("P-256")));
    }
    has(&bundle, &["spiffe_sequence", "spiffe_refresh_hint"]);
    // The same content has the same number, also in another life.
    alice.stop("-TERM");
    alice.up();
    assert_eq!(alice.object(&["trust", "bundle"]), bundle);
}
