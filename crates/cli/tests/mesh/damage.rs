//! Damaged files in the home: an error that names the file and the remedy, and never a panic.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::world::*;

/// Runs `up` on a home that it should refuse; its error, or none when it started (and is ended again).
pub(super) fn refused(node: &Node, what: &str) -> Option<(String, String)> {
    let mut child = node.up_command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let started = loop {
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        if run(&node.home, &["status"]).status.success() {
            break true;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: neither up nor refused");
        std::thread::sleep(Duration::from_millis(10));
    };
    if started {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{what}: {said}");
    (!started).then(|| told(&output, what))
}

const FILES: [&str; 5] = ["keystore", "membership", "issuer.key", "issuer.redb", "node.redb"];

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// A home that has been used.
pub(super) fn used(dir: &tempfile::TempDir) -> Node {
    let mut node = Node::first(dir, "alice");
    node.ticket(3);
    node.object(&["serve", "ssh", "--tcp", "127.0.0.1:22"]);
    node.stop("-TERM");
    node
}

#[test]
fn every_damaged_file_is_named_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let node = used(&dir);
    for file in FILES {
        let path = node.home.join(file);
        let good = std::fs::read(&path).unwrap();
        let named = |what: &str, expected: &str| {
            let what = format!("{file}, {what}");
            let (code, text) = refused(&node, &what).unwrap_or_else(|| panic!("{what}: the node started"));
            assert_eq!(code, expected, "{what}: {text}");
            assert!(text.contains(path.to_str().unwrap()), "{what}: {text}");
            assert!(!text.ends_with("()"), "{what}: no remedy in {text}");
        };
        write(&path, b"");
        named("empty", "damaged_file");
        write(&path, &good[..good.len() / 2]);
        named("half", "damaged_file");
        write(&path, &[0xaa; 3000]);
        named("garbage", "damaged_file");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (code, text) = refused(&node, file).unwrap();
        assert!(text.contains(file), "{file} as a directory: {code} {text}");
        std::fs::remove_dir(&path).unwrap();
        write(&path, &good);
        if file != "node.redb" {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            named("readable by others", "permission_denied");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(refused(&node, "intact again"), None);
}

#[test]
fn a_flipped_bit_is_named_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let node = used(&dir);
    for file in FILES {
        let path = node.home.join(file);
        let good = std::fs::read(&path).unwrap();
        for part in 0..4 {
            let place = good.len() * part / 4 + part * 7;
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            write(&path, &bad);
            let what = format!("{file}, byte {place}");
            let result = refused(&node, &what);
            // A database has pages that nothing uses.
            assert!(result.is_some() || file.ends_with(".redb"), "{what}: the node started");
            if let Some((code, text)) = result {
                assert!(["damaged_file", "newer_version"].contains(&code.as_str()), "{what}: {code} {text}");
                assert!(text.contains(path.to_str().unwrap()), "{what}: {text}");
            }
        }
        write(&path, &good);
    }
    assert_eq!(refused(&node, "intact again"), None);
}

#[test]
fn files_of_a_newer_version_are_told_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let node = used(&dir);
    for file in ["keystore", "membership", "issuer.key"] {
        let path = node.home.join(file);
        let good = std::fs::read(&path).unwrap();
        let mut newer = good[..good.len() - 32].to_vec();
        // Eight bytes of magic, the kind, then the version.
        newer[9] = 2;
        let check = blake3::hash(&newer);
        write(&path, &[&newer, check.as_bytes().as_slice()].concat());
        let (code, text) = refused(&node, file).unwrap();
        assert_eq!(code, "newer_version", "{file}: {text}");
        assert!(text.contains(path.to_str().unwrap()) && text.contains("update"), "{file}: {text}");
        write(&path, &good);
    }
    // The same for the one question that needs no node.
    assert_eq!(node.object(&["id"])["name"], "alice");
}

#[test]
fn what_stands_in_the_place_of_socket_lock_or_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = used(&dir);
    for (file, content, code) in
        [("control.sock", "precious", "io"), ("config.toml", "peers = 3", "invalid_config")]
    {
        let path = node.home.join(file);
        // An ordered end leaves a socket behind or not; either way it is not what stands here now.
        drop(std::fs::remove_file(&path));
        write(&path, content.as_bytes());
        let (found, text) = refused(&node, file).unwrap();
        assert_eq!(found, code, "{text}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(refused(&node, "intact again"), None);
}
