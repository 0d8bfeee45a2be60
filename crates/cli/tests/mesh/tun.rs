//! `up --tun` where it can't be: everything else works. What the interface carries is the lab's to show (`meshara-lab tun`).

use std::process::Command;

use super::world::*;

/// The command without the capability to make a device, whoever runs the test.
fn unable(command: &mut Command) {
    if rustix::process::geteuid().is_root() {
        let mut unable = Command::new("setpriv");
        unable.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        unable.arg(command.get_program()).args(command.get_args());
        *command = unable;
    }
}

#[test]
fn without_the_capability_a_node_says_so_and_does_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::at(&dir, "alice");
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice"]);
    alice.up_with(|command| {
        unable(command.arg("--tun"));
        command
    });
    let status = alice.status();
    assert!(status["tun"].is_null(), "{status}");
    let log = std::fs::read_to_string(alice.home.join("stderr")).unwrap();
    let told = log.contains("CAP_NET_ADMIN") || log.contains("/dev/net/tun");
    assert!(told && log.contains("everything else works"), "{log}");
    let bob = Node::beside(&dir, "bob", &alice, &alice.ticket(1));
    bob.knows(1);
    assert_eq!(bob.lines(&["ping", "alice", "--count", "1"]).len(), 2);
}

/// The command in a network of its own, where everybody may make devices.
fn alone(command: &mut Command) {
    let mut alone = Command::new("unshare");
    alone.args(["--net", "--map-root-user", "sh", "-c", "ip link set lo up && exec \"$@\"", "alone"]);
    alone.arg(command.get_program()).args(command.get_args());
    *command = alone;
}

#[test]
fn the_interface_is_up_and_its_address_is_no_way_to_reach_the_node() {
    let mut allowed = Command::new("unshare");
    allowed.args(["--net", "--map-root-user", "test", "-c", "/dev/net/tun"]);
    if !allowed.status().is_ok_and(|status| status.success()) {
        eprintln!("not run: this system lets nobody have a network of their own");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut alice = Node::at(&dir, "alice");
    alice.addr = "[::]:0".to_owned();
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice"]);
    alice.up_with(|command| {
        alone(command.arg("--tun=mesh7"));
        command
    });
    let status = alice.status();
    let address = &status["mesh_address"];
    assert_eq!(status["tun"], serde_json::json!({ "name": "mesh7", "address": address, "mtu": 1325 }));
    let log = || std::fs::read_to_string(alice.home.join("stderr")).unwrap();
    // The addresses that the node tells others of are those that appeared. The kernel lists an interface's link-local one last.
    let appeared = until("its addresses", || {
        let lines: Vec<_> =
            log().lines().filter(|line| line.contains("address appeared")).map(str::to_owned).collect();
        lines.iter().any(|line| line.contains("addr=fe80::")).then_some(lines)
    });
    assert!(!appeared.iter().any(|line| line.contains(address.as_str().unwrap())), "{appeared:?}");
}

#[test]
fn an_interface_has_a_name_that_interfaces_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(&dir, "alice");
    object(&node.home, &["init", "--mesh", "lab", "--name", "alice"]);
    for bad in ["--tun=a/b", "--tun=sixteen-letters-"] {
        let mut up = node.up_command();
        assert_eq!(told(&up.arg(bad).output().unwrap(), bad).0, "usage");
    }
    std::fs::write(node.home.join("config.toml"), "tun = 'a b'\n").unwrap();
    let (code, text) = told(&node.up_command().output().unwrap(), "config.toml");
    assert_eq!(code, "invalid_config");
    assert!(text.contains("config.toml:1:7"), "{text}");
}
