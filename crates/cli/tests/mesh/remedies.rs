//! What the command advises about lost files and wrong input; where the advice is a procedure, that it works.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::damage::{refused, used};
use super::world::*;

const ISSUER: &str = "restore it from a backup, without one this node cannot issue any more: move issuer.key and issuer.redb away \
                      together and it runs as a plain member until its certificate ends";
const KEYSTORE: &str = "restore it from a backup, or move keystore and membership away and join again with a new ticket under \
                        another --name: a new key cannot have the old name (the mesh's issuer cannot join: it needs the backup)";
const MEMBERSHIP: &str = "restore it from a backup, or move it away and join again with a new ticket and the same --name (on the node \
                          that made the mesh: `meshara init` again with the same --mesh and --name)";
const ROOT: &str = "move it away and restore it from the backup of `meshara root export` with `meshara root import --from FILE` (the \
                    node runs without it)";
const NO_ROOT: &str = "only the node that made the mesh has it (there, restore it from the backup of `meshara root export` with \
                       `meshara root import --from FILE`)";

#[track_caller]
fn is(found: (String, String), code: &str, names: &Path, hint: &str) {
    assert_eq!(found.0, code, "{}", found.1);
    assert!(found.1.contains(names.to_str().unwrap()), "{}", found.1);
    assert!(found.1.ends_with(&format!(" ({hint})")), "{}", found.1);
}

/// The findings of `doctor` that failed: name, detail and fix.
fn failed(home: &Path) -> Vec<(String, String, String)> {
    let output = run(home, &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.success(), report["ok"] == true);
    let text = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["level"] == "fail");
    checks.map(|check| (text(check, "name"), text(check, "detail"), text(check, "fix"))).collect()
}

#[track_caller]
fn doctor_says(home: &Path, name: &str, file: &Path, fix: &str) {
    let failed = failed(home);
    let [(found, detail, advice)] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((found.as_str(), advice.as_str()), (name, fix), "{detail}");
    assert!(detail.contains(file.to_str().unwrap()), "{detail}");
}

fn away(path: &Path) -> PathBuf {
    let to = path.with_extension("away");
    std::fs::rename(path, &to).unwrap();
    to
}

#[test]
fn each_lost_file_has_its_own_remedy_and_doctor_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let node = used(&dir);
    // A free port of our own, so that a node that happens to run here changes nothing.
    std::fs::write(node.home.join("config.toml"), "listen = '127.0.0.1:0'\n").unwrap();
    assert_eq!(failed(&node.home), []);
    for (file, check, hint) in [
        ("issuer.key", "files", ISSUER),
        ("issuer.redb", "files", ISSUER),
        ("keystore", "identity", KEYSTORE),
        ("membership", "identity", MEMBERSHIP),
    ] {
        let path = node.home.join(file);
        let kept = away(&path);
        std::fs::write(&path, [0xaa; 3000]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        is(refused(&node, file).unwrap(), "damaged_file", &path, hint);
        doctor_says(&node.home, check, &path, hint);
        std::fs::remove_file(&path).unwrap();
        if file != "membership" {
            is(refused(&node, file).unwrap(), "damaged_file", &path, hint);
            doctor_says(&node.home, check, &path, hint);
        }
        std::fs::rename(&kept, &path).unwrap();
    }
    let store = node.home.join("node.redb");
    let kept = away(&store);
    std::fs::write(&store, b"").unwrap();
    std::fs::set_permissions(&store, PermissionsExt::from_mode(0o600)).unwrap();
    let fresh = "restore it from a backup, or move it away to start with an empty outbox and inbox (the node's identity is kept \
                 elsewhere)";
    doctor_says(&node.home, "files", &store, fresh);
    is(refused(&node, "an empty store").unwrap(), "damaged_file", &store, fresh);
    std::fs::rename(&kept, &store).unwrap();

    // The node runs without the root; only the doctor and what uses the root speak of it.
    let root = node.home.join("root.key");
    std::fs::write(&root, [0xaa; 3000]).unwrap();
    doctor_says(&node.home, "files", &root, ROOT);
    let seal = dir.path().join("seal");
    std::fs::write(&seal, "battery staple").unwrap();
    let (to, seal) = (dir.path().join("backup"), seal.to_str().unwrap());
    let export = ["root", "export", "--to", to.to_str().unwrap(), "--seal-with", seal];
    is(failure(&node.home, &export), "damaged_file", &root, ROOT);
    std::fs::remove_file(&root).unwrap();
    is(failure(&node.home, &export), "io", &root, NO_ROOT);
    assert_eq!(refused(&node, "without a root"), None);
}

#[test]
fn without_both_issuer_files_the_node_runs_as_a_plain_member() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = used(&dir);
    away(&node.home.join("issuer.key"));
    away(&node.home.join("issuer.redb"));
    node.up();
    assert_eq!(failure(&node.home, &["invite"]).0, "not_issuer");
    is(failure(&node.home, &["ping", ""]), "invalid_argument", Path::new("the node's name is empty"), NODES);
}

const NODES: &str = "`meshara routes` lists the nodes; give a name or a longer prefix";

#[test]
fn a_member_without_its_keystore_joins_again_under_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let mut bob = Node::beside(&dir, "bob", &alice, &alice.ticket(1));
    bob.stop("-TERM");
    away(&bob.home.join("keystore"));
    away(&bob.home.join("membership"));
    let ticket = alice.ticket(2);
    let again = |name| ["join", ticket.as_str(), "--name", name, "--peer", alice.addr.as_str()];
    assert_eq!(failure(&bob.home, &again("bob")).0, "name_taken");
    assert_eq!(object(&bob.home, &again("robert"))["name"], "robert");
    bob.name = "robert".to_owned();
    bob.up();
}

#[test]
fn the_doctor_tells_permissions_and_newer_versions_and_leaves_a_running_node_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = used(&dir);
    std::fs::write(node.home.join("config.toml"), "listen = '127.0.0.1:0'\n").unwrap();
    for (file, level) in
        [("issuer.key", 0o644), ("issuer.redb", 0o640), ("root.key", 0o604), ("node.redb", 0o644)]
    {
        let path = node.home.join(file);
        let allow = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        allow(level);
        let failed = failed(&node.home);
        let told = failed.iter().any(|(name, detail, fix)| {
            name == "files"
                && detail.contains(path.to_str().unwrap())
                && *fix == format!("chmod 600 {}", path.display())
        });
        assert!(told, "{file}: {failed:?}");
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            level,
            "{file}: the doctor only looks"
        );
        allow(0o600);
    }
    for file in ["issuer.key", "root.key"] {
        let path = node.home.join(file);
        let good = std::fs::read(&path).unwrap();
        let mut newer = good[..good.len() - 32].to_vec();
        // Eight bytes of magic, the kind, then the version.
        newer[9] = 2;
        let check = blake3::hash(&newer);
        std::fs::write(&path, [&newer, check.as_bytes().as_slice()].concat()).unwrap();
        let failed = failed(&node.home);
        let [(name, detail, fix)] = failed.as_slice() else { panic!("{failed:?}") };
        assert_eq!(name, "files");
        assert_eq!(
            format!("{detail}; {fix}"),
            format!("{}: format version 2, this program knows up to 1; update it", path.display())
        );
        std::fs::write(&path, &good).unwrap();
    }
    node.up();
    assert_eq!(failed(&node.home), []);
}

#[test]
fn init_makes_the_issuers_lost_membership_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = used(&dir);
    let before = node.object(&["id"]);
    away(&node.home.join("membership"));
    object(&node.home, &["init", "--mesh", "lab", "--name", "alice"]);
    assert_eq!(node.object(&["id"])["node_id"], before["node_id"]);
    node.up();
    node.ticket(1);
}

#[test]
fn a_configuration_that_is_no_text_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let node = used(&dir);
    let config = node.home.join("config.toml");
    for (make, hint) in [
        (
            (|path: &Path| std::fs::write(path, b"listen = '\xff'\n").unwrap()) as fn(&Path),
            "save the file as UTF-8 text, or move it away to run with the defaults",
        ),
        (
            |path: &Path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir(path).unwrap();
            },
            "move the directory away: the configuration is a file, and not needed",
        ),
    ] {
        make(&config);
        is(refused(&node, hint).unwrap(), "invalid_config", &config, hint);
        let failed = failed(&node.home);
        let found = failed.iter().find(|(name, ..)| name == "config").unwrap();
        assert_eq!(found.2, hint);
        assert!(found.1.contains(config.to_str().unwrap()), "{}", found.1);
    }
}

#[test]
fn input_that_is_wrong_is_told_with_what_would_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    object(&home, &["init", "--mesh", "lab", "--name", "alice"]);
    let none = dir.path().join("none");
    let none_text = none.to_str().unwrap();
    let write = format!("write the passphrase into {none_text}, or name the file that holds it");
    let to = dir.path().join("backup");
    let to_text = to.to_str().unwrap();
    is(failure(&home, &["id", "--passphrase-file", none_text]), "passphrase", &none, &write);
    let unsealed = ["root", "export", "--to", to_text, "--seal-with", none_text];
    is(failure(&home, &unsealed), "passphrase", &none, &write);

    let seal = dir.path().join("seal");
    std::fs::write(&seal, "battery staple").unwrap();
    let seal = seal.to_str().unwrap();
    let export = ["root", "export", "--to", to_text, "--seal-with", seal];
    object(&home, &export);
    let another = "use another --to: a backup is never overwritten";
    is(failure(&home, &export), "already_initialised", &to, another);
    let import = ["root", "import", "--from", none_text, "--sealed-with", seal];
    is(failure(&home, &import), "io", &none, "name the backup with --from");

    let mut up = command();
    let up = up.arg("--home").arg(&home).args(["up", "--json"]).env("MESHARA_LOG", "meshara=loud");
    let hint =
        "give a level (error, warn, info, debug, trace), or several filters such as meshara=debug,warn";
    is(told(&up.output().unwrap(), "a wrong filter"), "usage", Path::new("MESHARA_LOG=meshara=loud"), hint);
}
