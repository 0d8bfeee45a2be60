//! A full disk: a small file system in a mount namespace of its own.

use std::process::{Command, Stdio};

/// Runs a script with a tmpfs of `size` at `$1` and the command at `$2`; `None` when this machine allows no mount.
fn on_small_disk(size: &str, script: &str) -> Option<std::process::Output> {
    let dir = tempfile::tempdir().unwrap();
    let unshare = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c"]).stdin(Stdio::null());
        command
    };
    let flags = [["-m"], ["-rm"]].into_iter().find(|flags| {
        let probe = format!("mount -t tmpfs -o size={size} none {}", dir.path().display());
        unshare(flags).arg(probe).output().is_ok_and(|output| output.status.success())
    })?;
    let script = format!("set -u; mount -t tmpfs -o size={size} none \"$1\" || exit 99\n{script}");
    let mut command = unshare(&flags);
    command.arg(script).arg("sh").arg(dir.path()).arg(env!("CARGO_BIN_EXE_meshara"));
    Some(command.output().unwrap())
}

#[test]
fn a_full_disk_is_named_and_harms_nothing() {
    // Fills the disk, tries, makes room, tries again. The keystore must fit into what is left, the rest not.
    let script = r#"
        home="$1/home"
        dd if=/dev/zero of="$1/fill" bs=1k 2>/dev/null
        "$2" --home "$home" --json init --mesh lab --name alice; echo "init full $?"
        rm "$1/fill"
        "$2" --home "$home" --json init --mesh lab --name alice >/dev/null; echo "init free $?"
        dd if=/dev/zero of="$1/fill" bs=1k 2>/dev/null
        "$2" --home "$home" --json up --listen 127.0.0.1:0 --no-multicast; echo "up full $?"
        rm "$1/fill"
        "$2" --home "$home" --json id; echo "id $?"
    "#;
    let Some(output) = on_small_disk("8m", script) else {
        println!("skipped: this user may not mount a file system here");
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    assert!(out.contains("init full 1") && out.contains("init free 0"), "{out}\n{err}");
    assert!(out.contains("up full 1") && out.contains("id 0"), "{out}\n{err}");
    let codes: Vec<_> = err.lines().filter(|line| line.contains("\"disk_full\"")).collect();
    assert_eq!(codes.len(), 2, "{err}");
}

#[test]
fn a_node_whose_disk_fills_up_refuses_messages_and_goes_on_when_there_is_room() {
    // Without a second node the message stays in the outbox: it must be stored before anything else happens.
    let script = r#"
        home="$1/home"
        "$2" --home "$home" init --mesh lab --name alice >/dev/null
        "$2" --home "$home" up --listen 127.0.0.1:0 --no-multicast --json > "$1/up" 2>/dev/null &
        node=$!
        until "$2" --home "$home" status >/dev/null 2>&1; do sleep 0.05; done
        dd if=/dev/zero of="$1/fill" bs=1k 2>/dev/null
        n=0
        while "$2" --home "$home" --json serve s$n --tcp 127.0.0.1:22 >/dev/null; do n=$((n+1)); [ $n -lt 200 ] || break; done
        echo "services before full $n"
        "$2" --home "$home" status >/dev/null; echo "status $?"
        rm "$1/fill"
        tries=0
        until "$2" --home "$home" --json serve again --tcp 127.0.0.1:22 >/dev/null 2>&1; do
            tries=$((tries+1)); [ $tries -lt 100 ] || break; sleep 0.1
        done
        echo "tries $tries"
        kill -TERM $node; wait $node; echo "up $?"
    "#;
    let Some(output) = on_small_disk("8m", script) else {
        println!("skipped: this user may not mount a file system here");
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    assert!(err.contains("\"disk_full\""), "{out}\n{err}");
    assert!(out.contains("status 0") && out.contains("up 0"), "{out}\n{err}");
    assert!(!out.contains("tries 100"), "{out}\n{err}");
}
