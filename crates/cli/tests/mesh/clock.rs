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
fn after_a_week_the_issuer_has_renewed_itself_and_a_member_joins_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(object) = shift(&dir) else {
        println!("skipped: no C compiler to build the clock's shift with");
        return;
    };
    let week = (8 * 24 * 3600).to_string();
    let later = |command: &mut Command| {
        command.env("LD_PRELOAD", &object).env("SHIFT_CLOCK_BY", &week);
    };
    let certificate = |home: &std::path::Path| {
        let mut doctor = command();
        later(&mut doctor);
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

    let found = certificate(&alice.home);
    assert_eq!(found["level"], "fail", "{found}");
    assert!(found["fix"].as_str().unwrap().contains("`meshara up`"), "{found}");
    alice.up_with(|command| {
        later(command);
        command
    });
    assert_eq!(certificate(&alice.home)["level"], "ok");

    // A member is told what to do, and that works.
    let remedy = "move the file `membership` out of the home, then `meshara join` with a new ticket and the same --name";
    let mut up = bob.up_command();
    later(&mut up);
    let (code, text) = told(&up.output().unwrap(), "ended");
    assert_eq!(code, "join_refused", "{text}");
    assert!(text.contains(remedy), "{text}");
    let found = certificate(&bob.home);
    assert_eq!(found["level"], "fail", "{found}");
    assert!(found["fix"].as_str().unwrap().contains(remedy), "{found}");
    std::fs::rename(bob.home.join("membership"), dir.path().join("membership")).unwrap();
    let mut join = command();
    later(&mut join);
    join.arg("--home").arg(&bob.home).args([
        "join",
        &alice.ticket(1),
        "--name",
        "bob",
        "--peer",
        &alice.addr,
    ]);
    let joined = join.output().unwrap();
    assert!(joined.status.success(), "{joined:?}");
    bob.up_with(|command| {
        later(command);
        command
    });
    bob.knows(1);
    assert_eq!(bob.id(), id);
}
