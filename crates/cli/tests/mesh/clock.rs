//! A machine whose clock is two hours off. The C library's clock is shifted by a preloaded object, built here.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::world::*;

const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, out);
    const char *by = getenv("SHIFT_CLOCK_BY");
    if (id == CLOCK_REALTIME && result == 0 && by) out->tv_sec += atol(by);
    return result;
}
"#;

/// The object to preload; `None` without a C compiler.
fn shift(dir: &tempfile::TempDir) -> Option<PathBuf> {
    let (source, object) = (dir.path().join("shift.c"), dir.path().join("shift.so"));
    std::fs::write(&source, SHIFT).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&object).arg(&source).arg("-ldl").stderr(Stdio::null());
    cc.status().is_ok_and(|status| status.success()).then_some(object)
}

#[test]
fn a_clock_two_hours_off_is_refused_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some(object) = shift(&dir) else {
        println!("skipped: no C compiler to build the clock's shift with");
        return;
    };
    let shifted = |by: i64| {
        let mut command = command();
        command.env("LD_PRELOAD", &object).env("SHIFT_CLOCK_BY", by.to_string());
        command
    };
    let alice = Node::first(&dir, "alice");
    let ticket = alice.ticket(2);
    for (by, home) in [(-7200, "behind"), (7200, "ahead")] {
        let home = dir.path().join(home);
        let mut join = shifted(by);
        join.arg("--home").arg(&home).args([
            "join",
            &ticket,
            "--name",
            "bob",
            "--peer",
            &alice.addr,
            "--json",
        ]);
        let (code, text) = told(&join.output().unwrap(), by);
        assert_eq!(code, "join_refused", "{by}: {text}");
        assert!(text.contains("clock"), "{by}: {text}");
        assert!(!home.join("membership").exists());
    }
    // A member whose clock falls back before its certificate does not start, and says why.
    let mut bob = Node::beside(&dir, "bob", &alice, &ticket);
    bob.knows(1);
    bob.stop("-TERM");
    let mut up = bob.up_command();
    up.env("LD_PRELOAD", &object).env("SHIFT_CLOCK_BY", "-7200");
    let (code, text) = told(&up.output().unwrap(), "behind");
    assert!(text.contains("clock"), "{code}: {text}");
    // One whose clock runs ahead finds that out from the doctor.
    bob.up_with(|command| command.env("LD_PRELOAD", &object).env("SHIFT_CLOCK_BY", "7200"));
    bob.knows(1);
    let mut doctor = shifted(7200);
    let output = doctor.arg("--home").arg(&bob.home).args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let clock = checks.iter().find(|check| check["name"] == "clock").unwrap();
    assert_eq!(clock["level"], "fail", "{report}");
    let detail = clock["detail"].as_str().unwrap();
    let offset: f64 = detail.split(' ').next().unwrap().parse().unwrap();
    assert!((offset + 7_200_000.0).abs() < 60_000.0, "{report}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn who_slept_comes_back_by_itself_while_it_is_enrolled() {
    let dir = tempfile::tempdir().unwrap();
    let Some(object) = shift(&dir) else {
        println!("skipped: no C compiler to build the clock's shift with");
        return;
    };
    let later = |command: &mut Command, days: u32| {
        command.env("LD_PRELOAD", &object).env("SHIFT_CLOCK_BY", (days * 24 * 3600).to_string());
    };
    let up = |node: &mut Node, days| {
        node.up_with(|command| {
            later(command, days);
            command
        });
    };
    let certificate = |home: &std::path::Path, days| {
        let mut doctor = command();
        later(&mut doctor, days);
        let output = doctor.arg("--home").arg(home).args(["doctor", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "certificate").unwrap().clone()
    };
    let mut alice = Node::first(&dir, "alice");
    let mut bob = Node::beside(&dir, "bob", &alice, &alice.ticket(1));
    let id = bob.id();
    bob.stop("-TERM");
    alice.stop("-TERM");

    // Certificates have ended; the enrolment has not.
    for home in [&alice.home, &bob.home] {
        let found = certificate(home, 8);
        assert_eq!(found["level"], "ok", "{found}");
        assert!(found["detail"].as_str().unwrap().contains("gets another as it starts"), "{found}");
    }
    // Bob waits for a member that can help, and says that he is silent.
    up(&mut bob, 8);
    let trust = bob.object(&["trust", "status"]);
    assert_eq!(trust["valid"], false, "{trust}");
    assert_eq!(certificate(&bob.home, 8)["level"], "fail");
    up(&mut alice, 8);
    bob.knows(1);
    assert_eq!(bob.object(&["trust", "status"])["valid"], true);
    assert_eq!((bob.id(), certificate(&bob.home, 8)["level"].as_str()), (id.clone(), Some("ok")));
    bob.stop("-TERM");
    alice.stop("-TERM");

    // Half a year later he isn't enrolled any more. He is told what to do, and that works.
    let remedy = "move the file `membership` out of the home, then `meshara join` with a new ticket and the same --name";
    let mut tried = bob.up_command();
    later(&mut tried, 180);
    let (code, text) = told(&tried.output().unwrap(), "ended");
    assert_eq!(code, "join_refused", "{text}");
    assert!(text.contains(remedy), "{text}");
    let found = certificate(&bob.home, 180);
    assert_eq!(found["level"], "fail", "{found}");
    assert!(found["fix"].as_str().unwrap().contains(remedy), "{found}");
    up(&mut alice, 180);
    std::fs::rename(bob.home.join("membership"), dir.path().join("membership")).unwrap();
    let mut join = command();
    later(&mut join, 180);
    let ticket = alice.ticket(1);
    join.arg("--home").arg(&bob.home).args(["join", &ticket, "--name", "bob", "--peer", &alice.addr]);
    let joined = join.output().unwrap();
    assert!(joined.status.success(), "{joined:?}");
    up(&mut bob, 180);
    bob.knows(1);
    assert_eq!(bob.id(), id);
}
