//! Programs of other users: denied, unless registered. Runs this very file as another user, for which the test must be root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use meshara_workload::{Lives, Registration};

/// A user that owns nothing (`nobody` of Debian).
const OTHER: u32 = 65534;
/// Tells the helper where the socket is.
const ENDPOINT: &str = "MESHARA_TEST_ENDPOINT";

/// What the program that runs as another user does.
#[tokio::test]
async fn helper() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let client = spiffe::WorkloadApiClient::connect_to(endpoint).await.unwrap();
    match soon(client.fetch_x509_svid()).await {
        Ok(svid) => println!("<{}>", svid.spiffe_id()),
        Err(error) => println!("<{error}>"),
    }
}

/// Copies this program to where every user may run it.
fn program(api: &Api, name: &str) -> PathBuf {
    let path = api.shared().join(name);
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    open_to_all(&path, 0o755);
    path
}

/// What `program` is told as another user.
async fn told(api: &Api, program: &Path) -> String {
    let mut command = Command::new(program);
    command.args(["--exact", "helper", "--nocapture"]).env(ENDPOINT, api.endpoint());
    command.uid(OTHER).gid(OTHER).current_dir("/");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let (_, rest) = text.split_once('<').unwrap_or_else(|| panic!("{text}"));
    rest.split_once('>').unwrap().0.to_owned()
}

#[tokio::test]
async fn another_user_gets_what_is_registered_and_nothing_else() {
    if own_uid() != 0 {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        println!("skipped: only root can run a program as another user");
        return;
    }
    let api = api(Lives::default(), 0);
    let (db, other) = (program(&api, "db"), program(&api, "other"));
    assert_eq!(told(&api, &db).await, "no identity issued");

    let by_exe = Registration { uid: None, exe: Some(db.clone()) };
    api.workloads.register("db".parse().unwrap(), by_exe).unwrap();
    assert_eq!(told(&api, &db).await, "spiffe://lab/workload/alice/db");
    assert_eq!(told(&api, &other).await, "no identity issued", "the same bytes in another file");

    let by_both = Registration { uid: Some(OTHER - 1), exe: Some(db.clone()) };
    api.workloads.register("db".parse().unwrap(), by_both).unwrap();
    assert_eq!(told(&api, &db).await, "no identity issued", "another user's");

    let by_uid = Registration { uid: Some(OTHER), exe: None };
    api.workloads.register("nobody".parse().unwrap(), by_uid).unwrap();
    assert_eq!(told(&api, &other).await, "spiffe://lab/workload/alice/nobody");

    // A file that takes the place of the registered one is another file.
    let by_exe = Registration { uid: None, exe: Some(other.clone()) };
    api.workloads.unregister(&"nobody".parse().unwrap()).unwrap();
    api.workloads.register("other".parse().unwrap(), by_exe).unwrap();
    assert_eq!(told(&api, &other).await, "spiffe://lab/workload/alice/other");
    std::fs::remove_file(&other).unwrap();
    assert_eq!(told(&api, &db).await, "no identity issued");
}
