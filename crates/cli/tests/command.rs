//! The command without a running node: usage, errors, help, files.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn meshara(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshara"))
        .args(args)
        .env_remove("MESHARA_HOME")
        .env_remove("MESHARA_PASSPHRASE_FILE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn at(home: &Path, args: &[&str]) -> Output {
    meshara(&[&["--home", home.to_str().unwrap()], args].concat())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The error on stderr, which is one line of JSON and all there is.
fn error(output: &Output) -> Value {
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value.as_object().unwrap().len(), 1);
    assert_eq!(value["error"].as_object().unwrap().len(), 3);
    value["error"].clone()
}

#[test]
fn usage_errors_are_words_or_json() {
    let words = meshara(&["ping"]);
    assert_eq!(words.status.code(), Some(2));
    assert!(String::from_utf8(words.stderr).unwrap().contains("<NODE>"));
    for line in [
        &["ping", "--json"][..],
        &["--json", "ping"],
        &["--json", "nonsense"],
        &["--json"],
        &["ping", "x", "--count", "0", "--json"],
        &["invite", "--ttl", "10", "--json"],
        &["connect", "alice", "--json"],
        &["serve", "ssh", "--json"],
        &["serve", "--list", "--remove", "x", "--json"],
        &["init", "--mesh", "No", "--name", "x", "--json"],
        &["up", "--peer", "nowhere", "--json"],
    ] {
        let output = meshara(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert_eq!(error(&output)["code"], "usage", "{line:?}");
        assert_eq!(stdout(&output), "");
    }
    // Behind `--` it is text to send, not an option.
    let output = meshara(&["send", "x", "y", "z", "--", "--json"]);
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "));
}

#[test]
fn without_a_node_every_question_says_so() {
    let home = tempfile::tempdir().unwrap();
    for line in [
        &["status"][..],
        &["peers"],
        &["routes"],
        &["invite"],
        &["ping", "bob"],
        &["trace", "bob"],
        &["send", "bob", "hello"],
        &["recv"],
        &["recv", "--follow"],
        &["serve", "ssh", "--tcp", "127.0.0.1:22"],
        &["serve", "--list"],
        &["serve", "--remove", "ssh"],
        &["connect", "bob/ssh", "--listen", "127.0.0.1:0"],
        &["bench", "bob"],
    ] {
        let output = at(home.path(), &[line, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        let error = error(&output);
        assert_eq!(error["code"], "not_running", "{line:?}");
        assert!(error["message"].as_str().unwrap().contains("control.sock"), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("meshara up"), "{error}");
    }
    let words = String::from_utf8(at(home.path(), &["status"]).stderr).unwrap();
    assert!(words.starts_with("error: no node is running on "), "{words}");
    assert!(words.contains("\nhint: "), "{words}");
    assert!(!words.contains('\x1b'), "colour without a terminal: {words}");
}

#[test]
fn home_comes_from_the_environment_and_the_flag_wins() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshara"));
        let output = command.args(args).env("MESHARA_HOME", one.path()).output().unwrap();
        error(&output)["message"].as_str().unwrap().to_owned()
    };
    let (one_text, two_text) = (one.path().to_str().unwrap(), two.path().to_str().unwrap());
    assert!(run(&["status", "--json"]).contains(one_text));
    assert!(run(&["status", "--json", "--home", two_text]).contains(two_text));
    assert!(run(&["--home", two_text, "status", "--json"]).contains(two_text));
}

#[test]
fn help_has_examples_for_every_command() {
    let help = stdout(&meshara(&["--help"]));
    for command in [
        "init",
        "up",
        "invite",
        "join",
        "status",
        "peers",
        "routes",
        "id",
        "ping",
        "trace",
        "send",
        "recv",
        "serve",
        "connect",
        "bench",
        "doctor",
        "root",
        "twin",
        "demo",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing in\n{help}");
        let output = meshara(&[command, "--help"]);
        assert!(output.status.success());
        assert!(
            stdout(&output).contains("Examples:\n  meshara") || stdout(&output).contains("Examples:\n  "),
            "{command}"
        );
    }
    assert!(stdout(&meshara(&["--version"])).starts_with("meshara "));
}

#[test]
fn completions_and_manual_pages_are_generated() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = meshara(&["completions", shell]);
        assert!(output.status.success());
        assert!(stdout(&output).contains("longest") || stdout(&output).contains("meshara"), "{shell}");
    }
    assert!(stdout(&meshara(&["man"])).contains(".TH meshara 1"));
    let dir = tempfile::tempdir().unwrap();
    assert!(meshara(&["man", "--dir", dir.path().to_str().unwrap()]).status.success());
    for page in ["meshara.1", "meshara-ping.1", "meshara-root-export.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    for line in [&["completions", "bash"][..], &["man"], &["--help"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshara"))
            .args(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked"), "{line:?}: {said}");
    }
}

#[test]
fn init_makes_an_identity_once() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    let made = at(&home, &["init", "--mesh", "lab", "--name", "alice", "--json"]);
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(
        (&made["name"], &made["mesh"], &made["sealed"]),
        (&"alice".into(), &"lab".into(), &false.into())
    );
    assert_eq!(made["spiffe_id"], "spiffe://lab/node/alice");
    assert_eq!(std::fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(home.join("keystore")).unwrap().permissions().mode() & 0o777, 0o600);

    let id: Value = serde_json::from_slice(&at(&home, &["id", "--json"]).stdout).unwrap();
    assert_eq!(id["node_id"], made["node_id"]);

    let again = at(&home, &["init", "--mesh", "lab", "--name", "bob", "--json"]);
    assert_eq!(error(&again)["code"], "already_initialised");
    let id: Value = serde_json::from_slice(&at(&home, &["id", "--json"]).stdout).unwrap();
    assert_eq!((&id["node_id"], &id["name"]), (&made["node_id"], &"alice".into()));
}

#[test]
fn init_says_whether_the_keystore_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let plain = at(&dir.path().join("a"), &["init", "--mesh", "lab", "--name", "a"]);
    assert!(stdout(&plain).contains("unsealed, mode 0600"), "{plain:?}");
    let file = dir.path().join("passphrase");
    std::fs::write(&file, "correct horse\n").unwrap();
    let file = file.to_str().unwrap();
    let home = dir.path().join("b");
    let sealed = at(&home, &["init", "--mesh", "lab", "--name", "b", "--passphrase-file", file]);
    assert!(stdout(&sealed).contains("sealed;"), "{sealed:?}");
    assert_eq!(error(&at(&home, &["id", "--json"]))["code"], "passphrase");
    assert!(at(&home, &["id", "--passphrase-file", file]).status.success());
}

#[test]
fn damage_is_named_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    assert!(at(dir.path(), &["init", "--mesh", "lab", "--name", "a"]).status.success());
    let keystore = dir.path().join("keystore");
    let mut bytes = std::fs::read(&keystore).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&keystore, bytes).unwrap();
    let error = error(&at(dir.path(), &["id", "--json"]));
    assert_eq!(error["code"], "damaged_file");
    assert!(error["message"].as_str().unwrap().contains("keystore"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("backup"), "{error}");
    let report = at(dir.path(), &["doctor", "--json"]);
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["ok"], false);
}

#[test]
fn a_wrong_configuration_is_named_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), "auto = true\npeer = []\n").unwrap();
    let error = error(&at(dir.path(), &["up", "--json"]));
    assert_eq!(error["code"], "invalid_config");
    assert!(error["message"].as_str().unwrap().contains("config.toml:2:1: unknown field `peer`"), "{error}");
}

#[test]
fn the_root_is_exported_sealed_and_never_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    assert!(at(&home, &["init", "--mesh", "lab", "--name", "a"]).status.success());
    let backup = dir.path().join("root.backup");
    let backup_text = backup.to_str().unwrap();
    let unsealed = at(&home, &["root", "export", "--to", backup_text, "--json"]);
    assert_eq!(error(&unsealed)["code"], "usage");
    assert!(!backup.exists());
    let passphrase = dir.path().join("p");
    std::fs::write(&passphrase, "battery staple").unwrap();
    let seal = ["root", "export", "--to", backup_text, "--seal-with", passphrase.to_str().unwrap(), "--json"];
    let exported = at(&home, &seal);
    assert!(exported.status.success(), "{exported:?}");
    let first = std::fs::read(&backup).unwrap();
    assert_eq!(error(&at(&home, &seal))["code"], "already_initialised");
    assert_eq!(std::fs::read(&backup).unwrap(), first);

    // The backup gives a new home the same root, once, and only with its passphrase.
    let new = dir.path().join("new");
    let import = |passphrase: &Path| {
        let passphrase = passphrase.to_str().unwrap();
        at(&new, &["root", "import", "--from", backup_text, "--sealed-with", passphrase, "--json"])
    };
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "wrong").unwrap();
    assert_eq!(error(&import(&wrong))["code"], "passphrase");
    let imported = import(&passphrase);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(error(&import(&passphrase))["code"], "already_initialised");
    assert!(at(&new, &["init", "--mesh", "lab", "--name", "a"]).status.success());
    assert_eq!(std::fs::read(new.join("root.key")).unwrap(), std::fs::read(home.join("root.key")).unwrap());
    assert_eq!(
        error(&at(&new, &["init", "--mesh", "lab", "--name", "a", "--json"]))["code"],
        "already_initialised"
    );
}

#[test]
fn a_message_above_the_limit_is_refused_before_anything_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let large = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(large.path(), vec![0; (1 << 20) + 1]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_meshara"))
        .args(["send", "bob", "-", "--json", "--home", home.path().to_str().unwrap()])
        .stdin(std::fs::File::open(large.path()).unwrap())
        .output()
        .unwrap();
    assert_eq!(error(&output)["code"], "too_large");
}

#[test]
fn doctor_looks_at_a_home_without_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    assert!(at(&home, &["init", "--mesh", "lab", "--name", "a"]).status.success());
    // A free port of our own, so that a node that happens to run here changes nothing.
    std::fs::write(home.join("config.toml"), "listen = '127.0.0.1:0'\npeers = ['127.0.0.1:9']\n").unwrap();
    let output = at(&home, &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let level = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap()["level"].as_str().unwrap().to_owned()
    };
    for (name, expected) in [
        ("node", "warn"),
        ("home", "ok"),
        ("identity", "ok"),
        ("clock", "ok"),
        ("port", "ok"),
        ("peer", "ok"),
    ] {
        assert_eq!(level(name), expected, "{name} in {report}");
    }
    std::fs::set_permissions(home.join("keystore"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = at(&home, &["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("chmod 600"), "{}", stdout(&output));
}
