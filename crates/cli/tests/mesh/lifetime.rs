//! `up` from start to end: locks, signals, passphrases, versions.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::world::*;

/// `up` ends within this after SIGTERM.
const END: Duration = Duration::from_secs(5);
/// `up` answers `status` within this.
const START: Duration = Duration::from_secs(15);
/// A resumed or restarted node is routed again within this.
const REJOIN: Duration = Duration::from_secs(3);

#[test]
fn up_answers_and_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::at(&dir, "alice");
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice"]);
    let start = Instant::now();
    alice.up();
    assert!(start.elapsed() < START);
    let status = alice.status();
    has(
        &status,
        &[
            "node_id",
            "name",
            "mesh",
            "spiffe_id",
            "mesh_address",
            "version",
            "uptime_s",
            "listen",
            "neighbours",
            "nodes_known",
            "sessions",
        ],
    );
    assert_eq!(status["listen"][0], alice.addr.as_str());
    assert_eq!(status["spiffe_id"], "spiffe://lab/node/alice");
    assert!(status["mesh_address"].as_str().unwrap().starts_with("fd"));
    for count in ["neighbours", "nodes_known", "sessions"] {
        assert_eq!(status[count], 0, "{count}");
    }
    for signal in ["-TERM", "-INT", "-HUP"] {
        let (took, ended) = alice.stop(signal);
        assert!(took < END, "{signal}: {took:?}");
        assert!(ended.success(), "{signal}: {ended}");
        assert_eq!(alice.failure(&["status"]).0, "not_running");
        alice.up();
    }
}

#[test]
fn up_ends_in_time_whatever_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["a", "b", "c"]);
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    nodes[2].object(&["serve", "x", "--tcp", &target.local_addr().unwrap().to_string()]);
    let mut connect = nodes[0].follow(&["connect", "c/x"]);
    let listen = connect.next()["listening"]["listen"].as_str().unwrap().to_owned();
    let _client = std::net::TcpStream::connect(listen).unwrap();
    let _server = target.accept().unwrap();
    let mut recv = nodes[0].follow(&["recv", "--follow"]);
    let mut ping = nodes[0].follow(&["ping", "c", "--count", "100000", "--interval", "10ms"]);
    ping.next();
    let mut bench = nodes[0].follow(&["bench", "c", "--duration", "60s"]);
    let mut send = nodes[0].follow(&["send", "c", "hello"]);
    assert!(send.child.wait().unwrap().success());
    for node in [0, 1, 2] {
        let (took, ended) = nodes[node].stop("-TERM");
        assert!(took < END && ended.success(), "node {node}: {took:?}, {ended}");
    }
    // Whoever waited for the node learns that it has gone.
    for follower in [&mut connect, &mut recv, &mut ping, &mut bench] {
        let ended = until("the command ends", || follower.child.try_wait().unwrap());
        assert!(ended.code().is_some());
    }
}

#[test]
fn a_signal_while_the_node_starts_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::at(&dir, "alice");
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice"]);
    for wait in [0, 5, 10, 20, 40, 80, 160] {
        let mut child = alice.up_command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let start = Instant::now();
        std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
        assert!(start.elapsed() < END, "after {wait} ms: {:?}", start.elapsed());
    }
}

#[test]
fn a_second_node_on_a_home_ends_at_once_and_disturbs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let start = Instant::now();
    let (code, text) = alice.failure(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, "already_running", "{text}");
    assert!(text.contains(alice.home.to_str().unwrap()), "{text}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(alice.status()["name"], "alice");
    let (code, _) = failure(&dir.path().join("none"), &["up"]);
    assert_eq!(code, "not_initialised");
}

#[test]
fn what_a_killed_node_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::first(&dir, "alice");
    let id = alice.id();
    alice.stop("-KILL");
    assert!(alice.home.join("control.sock").exists() && alice.home.join("lock").exists());
    let start = Instant::now();
    assert_eq!(alice.id(), id);
    assert!(start.elapsed() < Duration::from_secs(1), "id took {:?}", start.elapsed());
    assert_eq!(alice.failure(&["status"]).0, "not_running");
    alice.up();
    assert_eq!(alice.id(), id);
}

#[test]
fn id_answers_at_once_while_the_node_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    alice.signal("-STOP");
    let start = Instant::now();
    let id = alice.object(&["id"]);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(keys(&id), ["mesh", "name", "node_id"]);
    alice.signal("-CONT");
}

#[test]
fn a_taken_port_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::at(&dir, "alice");
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice"]);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, text) = alice.failure(&["up", "--listen", &addr]);
    assert_eq!(code, "address_in_use", "{text}");
    assert!(text.contains(&addr), "{text}");
    assert_eq!(alice.failure(&["up", "--listen", "192.0.2.1:7"]).0, "io");
    assert_eq!(alice.failure(&["up", "--listen", "nonsense"]).0, "usage");
    assert_eq!(alice.failure(&["up", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2"]).0, "usage");
}

#[test]
fn passphrases_come_from_a_file_named_by_flag_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (dir.path().join("right"), dir.path().join("wrong"));
    std::fs::write(&right, "correct horse\n").unwrap();
    std::fs::write(&wrong, "battery staple\n").unwrap();
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    let mut alice = Node::at(&dir, "alice");
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice", "--passphrase-file", right]);
    for args in [&["up"][..], &["id"], &["up", "--passphrase-file", wrong]] {
        let (code, text) = alice.failure(args);
        assert_eq!(code, "passphrase", "{args:?}: {text}");
        assert!(text.contains("--passphrase-file"), "{text}");
    }
    let (code, text) = alice.failure(&["up", "--passphrase-file", "/nonexistent"]);
    assert!(text.contains("/nonexistent"), "{code}: {text}");
    alice.up_with(|command| command.env("MESHARA_PASSPHRASE_FILE", right));
    // The running node needs no passphrase again.
    alice.object(&["id"]);
    let ticket = alice.ticket(1);
    let bob = dir.path().join("bob");
    let joined =
        object(&bob, &["join", &ticket, "--name", "bob", "--peer", &alice.addr, "--passphrase-file", right]);
    assert_eq!(joined["sealed"], true);
    assert_eq!(failure(&bob, &["id"]).0, "passphrase");
    object(&bob, &["id", "--passphrase-file", right]);
}

#[test]
fn a_stopped_node_is_routed_again_soon_after_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = line(&dir, &["a", "b", "c"]);
    nodes[1].signal("-STOP");
    until("the stopped node is missed", || (nodes[0].status()["nodes_known"] == 0).then_some(()));
    for round in 0..2 {
        let start = Instant::now();
        if round == 0 {
            nodes[1].signal("-CONT");
        } else {
            nodes[1].stop("-KILL");
            until("the killed node is missed", || (nodes[0].status()["nodes_known"] == 0).then_some(()));
            nodes[1].up();
        }
        let start = if round == 0 { start } else { Instant::now() };
        nodes[0].knows(2);
        nodes[2].knows(2);
        assert!(start.elapsed() < REJOIN, "round {round}: {:?}", start.elapsed());
    }
}

#[test]
fn metrics_health_and_readiness_are_served() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let alice = Node::first(&dir, "alice");
    let get = |path: &str| {
        let mut socket = std::os::unix::net::UnixStream::connect(alice.home.join("control.sock")).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/health", "/ready"] {
        assert!(get(path).starts_with("HTTP/1.1 200"), "{path}: {}", get(path));
    }
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("# TYPE meshara_"), "{metrics}");
    assert!(get("/nonsense").starts_with("HTTP/1.1 404"));
    let mode = std::fs::metadata(alice.home.join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_doctor_compares_clocks_with_the_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(&dir, &["a", "b", "c"]);
    let output = nodes[1].run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let of =
        |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{report}"));
    assert_eq!(of("clock")["level"], "ok", "{report}");
    assert!(of("clock")["detail"].as_str().unwrap().contains("2 neighbours"), "{report}");
    for name in ["node", "home", "identity", "port", "peer", "certificate"] {
        assert_eq!(of(name)["level"], "ok", "{name}: {report}");
    }
}
