//! The issuer's log from the command line, and an issuer that is killed again and again while it issues.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use meshara_identity::home;
use meshara_trust::log::{DiskFiles, Entry, Hash, Tiles};
use serde_json::Value;

use super::world::*;

/// What `trust audit --json` says, and whether it ended well.
fn audit(node: &Node) -> (bool, Value) {
    let output = node.run(&["trust", "audit", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.success(), value)
}

/// Waits until an audit counts so many witnesses; what it says then.
fn audited(node: &Node, witnesses: u64) -> Value {
    until("the audit counts its witnesses", || {
        let (ok, value) = audit(node);
        assert_eq!(value["ok"], ok, "{value}");
        (value["witnesses"] == witnesses).then_some(value)
    })
}

#[test]
fn audit_export_and_offline_audit_agree() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["alice", "bob", "carol"]);
    for node in &nodes {
        let info = audited(node, 2);
        has(&info, &["ok", "entries", "certificates", "witnesses", "problems", "mesh_id", "logs"]);
        assert_eq!(
            (&info["ok"], &info["problems"]),
            (&Value::Bool(true), &Value::Array(Vec::new())),
            "{info}"
        );
        assert!(info["certificates"].as_u64().unwrap() >= 3, "{info}");
    }
    let log = nodes[0].object(&["trust", "status"])["log"].clone();
    assert_eq!(keys(&log), ["head", "size", "witnesses"]);
    assert!(log["size"].as_u64().unwrap() >= 6 && log["head"].is_string(), "{log}");

    let bundle = dir.path().join("bundle");
    let bundle_text = bundle.to_str().unwrap();
    let exported = nodes[2].object(&["trust", "log", "export", bundle_text]);
    assert_eq!(exported["logs"], 1);
    let (code, text) = nodes[2].failure(&["trust", "log", "export", bundle_text]);
    assert_eq!(code, "invalid_argument", "{text}");
    // Anywhere, without a node.
    let nowhere = dir.path().join("nowhere");
    let offline = object(&nowhere, &["trust", "audit", "--offline", bundle_text, "--witnesses", "2"]);
    assert_eq!((&offline["ok"], &offline["witnesses"]), (&Value::Bool(true), &Value::from(2)), "{offline}");
    assert_eq!(offline["mesh_id"], exported["mesh_id"]);
    let strict = run(&nowhere, &["trust", "audit", "--offline", bundle_text, "--witnesses", "3", "--json"]);
    let strict_info: Value = serde_json::from_slice(&strict.stdout).unwrap();
    assert!(!strict.status.success() && strict_info["ok"] == false, "{strict_info}");
    let (code, text) = failure(&nowhere, &["trust", "audit", "--offline", "/nonexistent"]);
    assert_eq!(code, "not_found", "{text}");
}

/// SHA-256 of every certificate in the log of a home, as published.
fn logged(home: &Path) -> BTreeSet<Hash> {
    let directory = home.join("log");
    let note = std::fs::read_to_string(directory.join("checkpoint")).unwrap();
    let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    let files = DiskFiles::read_only(&directory);
    let tiles = Tiles::new(&files, size);
    let entries = (0..size).map(|index| Entry::decode(&tiles.entry(index).unwrap()).unwrap());
    let leaf = |entry| match entry {
        Entry::Certificate(certificate) => Some(certificate.leaf),
        _ => None,
    };
    entries.filter_map(leaf).collect()
}

#[test]
fn an_issuer_killed_at_any_moment_never_forks_and_logged_all_that_it_gave_out() {
    /// How often it is killed; each time after so many joins, and a moment that differs.
    const KILLS: u32 = 5;
    const JOINS: u32 = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(1000);
    // A witness that remembers every head that was signed.
    let bob = Node::beside(&dir, "bob", &alice, &ticket);
    audited(&alice, 1);
    let (stop, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let given: Mutex<Vec<Hash>> = Mutex::default();
    let addr = alice.addr.clone();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (dir, ticket, addr, stop, done, given) = (&dir, &ticket, &addr, &stop, &done, &given);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("n{worker}-{number}");
                    let home = dir.path().join(&name);
                    // One that meets a killed issuer tries again for 20 s; if it fails all the same, it got nothing.
                    if run(&home, &["join", ticket, "--name", &name, "--peer", addr]).status.success() {
                        let leaf = Hash::of(home::load(&home, None).unwrap().membership.leaf_der());
                        given.lock().unwrap().push(leaf);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for kill in 0..KILLS {
            let before = done.load(Ordering::Relaxed);
            until("joins go on", || (done.load(Ordering::Relaxed) >= before + JOINS).then_some(()));
            std::thread::sleep(Duration::from_millis(u64::from(kill * 37 % 90)));
            alice.stop("-KILL");
            alice.up();
        }
        stop.store(true, Ordering::Relaxed);
    });
    alice.knows(1);
    for node in [&alice, &bob] {
        let info = audited(node, 1);
        assert_eq!(info["ok"], true, "{info}");
    }
    let given = given.into_inner().unwrap();
    assert!(given.len() >= (KILLS * JOINS) as usize);
    // The last ones are published half a second after they were given out.
    let logged = until("all that was given out is in the log", || {
        let logged = logged(&alice.home);
        given.iter().all(|leaf| logged.contains(leaf)).then_some(logged)
    });
    println!("{} certificates given out, {} logged, {KILLS} kills", given.len(), logged.len());
}
