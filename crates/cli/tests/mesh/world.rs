//! Homes, nodes and commands. Nodes end with the test: dropped ones are killed, and so are those of a test that dies.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A machine under load gets this much longer for what is no promise of the product.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until `look` gives something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The command without its node's environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshara"));
    command.env_remove("MESHARA_HOME").env_remove("MESHARA_PASSPHRASE_FILE").env_remove("MESHARA_LOG");
    command.stdin(Stdio::null());
    command
}

pub(crate) fn run(home: &Path, args: &[&str]) -> Output {
    command().arg("--home").arg(home).args(args).output().unwrap()
}

/// Runs a command with `--json` that must succeed; every line of its output.
pub(crate) fn lines(home: &Path, args: &[&str]) -> Vec<Value> {
    let output = run(home, &[args, &["--json"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {told}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The one object of a command that must succeed.
pub(crate) fn object(home: &Path, args: &[&str]) -> Value {
    let mut lines = lines(home, args);
    assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
    lines.remove(0)
}

/// Code and message of a command that must fail with exactly one error on stderr and nothing on stdout.
pub(crate) fn failure(home: &Path, args: &[&str]) -> (String, String) {
    told(&run(home, &[args, &["--json"]].concat()), args)
}

pub(crate) fn told(output: &Output, what: impl std::fmt::Debug) -> (String, String) {
    assert!(!output.status.success(), "{what:?} succeeded: {output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let last = text.lines().last().unwrap_or_else(|| panic!("{what:?} failed without a word"));
    let error: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{what:?}: {text}"));
    let error = error["error"].as_object().unwrap();
    let keys: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "hint", "message"], "{what:?}");
    let part = |key: &str| error[key].as_str().unwrap().to_owned();
    assert!(!part("message").is_empty() && !text.contains("panicked"), "{what:?}: {text}");
    (part("code"), format!("{} ({})", part("message"), part("hint")))
}

/// The names of an object's members, in alphabetical order.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Checks that an object has at least these members.
pub(crate) fn has(value: &Value, names: &[&str]) {
    let missing: Vec<_> = names.iter().filter(|name| value.get(name).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} missing in {value}");
}

/// A home and perhaps the node that runs on it.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) addr: String,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn at(dir: &TempDir, name: &str) -> Self {
        let home = dir.path().join(name);
        let addr = "127.0.0.1:0".to_owned();
        Self { name: name.to_owned(), home, addr, child: None }
    }

    /// The first node of a mesh, running.
    pub(crate) fn first(dir: &TempDir, name: &str) -> Self {
        let mut node = Self::at(dir, name);
        object(&node.home, &["init", "--mesh", "lab", "--name", name]);
        node.up();
        node
    }

    /// A node that joins through `via` and keeps a link with it, running.
    pub(crate) fn beside(dir: &TempDir, name: &str, via: &Self, ticket: &str) -> Self {
        let mut node = Self::at(dir, name);
        let joined = object(&node.home, &["join", ticket, "--name", name, "--peer", &via.addr]);
        assert_eq!(joined["name"], name);
        node.up();
        node
    }

    pub(crate) fn up_command(&self) -> Command {
        let mut command = command();
        command.arg("--home").arg(&self.home).args(["up", "--json", "--listen", &self.addr]);
        command.args(["--with-parent", &std::process::id().to_string()]);
        // Only links that the test asked for, and sessions on the overlay: the path is what the test says.
        command.args(["--no-multicast", "--no-auto", "--no-direct"]);
        command
    }

    /// Runs the node and waits until it says that it is up.
    pub(crate) fn up(&mut self) {
        self.up_with(|command| command);
    }

    pub(crate) fn up_with(&mut self, change: impl FnOnce(&mut Command) -> &mut Command) {
        assert!(self.child.is_none());
        let mut command = self.up_command();
        // What it says stays in the home (whose `log` is the issuer's), where a failing test's reader finds it.
        std::fs::create_dir_all(&self.home).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.home.join("stderr")).unwrap();
        change(&mut command);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let log = std::fs::read_to_string(self.home.join("stderr")).unwrap_or_default();
            panic!("{} is not up: {line:?}\n{log}", self.name)
        });
        assert_eq!(said["name"], self.name.as_str());
        said["listen"][0].as_str().unwrap().clone_into(&mut self.addr);
        self.status();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a signal and waits for the end; how long it took.
    pub(crate) fn stop(&mut self, signal: &str) -> (Duration, std::process::ExitStatus) {
        let start = Instant::now();
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        let status = child.wait().unwrap();
        (start.elapsed(), status)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        run(&self.home, args)
    }

    pub(crate) fn lines(&self, args: &[&str]) -> Vec<Value> {
        lines(&self.home, args)
    }

    pub(crate) fn object(&self, args: &[&str]) -> Value {
        object(&self.home, args)
    }

    pub(crate) fn failure(&self, args: &[&str]) -> (String, String) {
        failure(&self.home, args)
    }

    pub(crate) fn status(&self) -> Value {
        self.object(&["status"])
    }

    pub(crate) fn id(&self) -> String {
        self.object(&["id"])["node_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn ticket(&self, uses: u32) -> String {
        let invite = self.object(&["invite", "--ttl", "1h", "--uses", &uses.to_string()]);
        invite["ticket"].as_str().unwrap().to_owned()
    }

    /// Waits until so many other nodes are routable.
    pub(crate) fn knows(&self, nodes: u64) {
        until(&format!("{} routes to {nodes}", self.name), || {
            (self.status()["nodes_known"] == nodes).then_some(())
        });
    }

    /// Runs a command with text on its stdin.
    pub(crate) fn with_stdin(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = command();
        command.arg("--home").arg(&self.home).args(args).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// A command that goes on, and its lines as they come.
    pub(crate) fn follow(&self, args: &[&str]) -> Follower {
        let mut command = command();
        command.arg("--home").arg(&self.home).args(args).arg("--json");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follower { child, lines }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A command that goes on; it ends when dropped.
pub(crate) struct Follower {
    pub(crate) child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Follower {
    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("ended: {line:?}"))
    }

    pub(crate) fn interrupt(mut self) -> std::process::ExitStatus {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Nodes in a line; each but the first joined through the one before it, over the mesh.
pub(crate) fn line(dir: &TempDir, names: &[&str]) -> Vec<Node> {
    let mut nodes = vec![Node::first(dir, names[0])];
    let ticket = nodes[0].ticket(u32::try_from(names.len()).unwrap());
    for name in &names[1..] {
        let before = nodes.last().unwrap();
        before.knows(nodes.len() as u64 - 1);
        let next = Node::beside(dir, name, before, &ticket);
        nodes.push(next);
    }
    for node in &nodes {
        node.knows(names.len() as u64 - 1);
    }
    nodes
}
