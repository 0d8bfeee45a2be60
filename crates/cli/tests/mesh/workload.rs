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
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh/workload.py");
    let output = Command::new(python).arg(script).args(nodes.iter().map(endpoint)).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!({
        "ids": ["spiffe://lab/workload/alice", "spiffe://lab/workload/bob"],
        "roots": 1,
    });
    assert_eq!(said, expected);
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
