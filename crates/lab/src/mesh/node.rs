//! One real node: its home, its process, and its command line.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::api;
use crate::exec;
use crate::net::namespace::Namespace;

/// `up` promises an answer to `status` within 15 s.
const UP_WAIT: Duration = Duration::from_secs(15);

/// Longest command: `join` promises to end within 25 s.
const COMMAND_WAIT: Duration = Duration::from_secs(30);

/// `up` promises to end within 5 s of SIGTERM.
const STOP_WAIT: Duration = Duration::from_secs(6);

/// Longest silence of a node that is doing what it was asked.
const POST_WAIT: Duration = Duration::from_secs(10);

/// Time between two looks at a node that is starting; an answer costs it well under a millisecond.
const POLL: Duration = Duration::from_millis(20);

/// A node of the lab.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) host: Namespace,
    pub(crate) home: PathBuf,
    meshara: PathBuf,
    /// Arguments of `up`, after the subcommand.
    flags: Vec<String>,
    process: Option<Child>,
}

impl Node {
    /// A node that was never started; its home and log lie in `dir`.
    pub(crate) fn new(name: &str, host: &Namespace, dir: &Path, meshara: &Path, flags: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            host: host.clone(),
            home: dir.join(name),
            meshara: meshara.to_owned(),
            flags,
            process: None,
        }
    }

    /// A command of the binary on this home, in this host, with `--json`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(&self.meshara.to_string_lossy());
        command.arg("--home").arg(&self.home).arg("--json").args(args);
        command
    }

    /// Runs a command that prints one object.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let output = exec::succeed(self.command(args), COMMAND_WAIT)?;
        serde_json::from_str(&output).with_context(|| {
            format!("{}: `meshara {}` did not print one JSON object: {output}", self.name, args.join(" "))
        })
    }

    /// Runs a command whose output does not matter.
    pub(crate) fn run(&self, args: &[&str]) -> Result<()> {
        exec::succeed(self.command(args), COMMAND_WAIT).with_context(|| self.name.clone()).map(drop)
    }

    /// Asks the running node.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        api::get_json(&self.home.join("control.sock"), path).with_context(|| self.name.clone())
    }

    /// Asks the running node to do something that answers with one object.
    pub(crate) fn post(&self, path: &str, request: &Value) -> Result<Value> {
        let text = self.post_lines(path, request, Duration::ZERO)?;
        serde_json::from_str(&text).with_context(|| format!("{}: POST {path}: not JSON", self.name))
    }

    /// Asks the running node to do something that lasts at least so long; its answer, JSON a line.
    pub(crate) fn post_lines(&self, path: &str, request: &Value, lasts: Duration) -> Result<String> {
        api::post(&self.home.join("control.sock"), path, request, lasts + POST_WAIT)
            .with_context(|| self.name.clone())
    }

    /// Writes `config.toml`, which the next start reads.
    pub(crate) fn configure(&self, config: &str) -> Result<()> {
        let path = self.home.join("config.toml");
        std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The node's metrics.
    pub(crate) fn metrics(&self) -> Result<String> {
        api::get(&self.home.join("control.sock"), "/metrics").with_context(|| self.name.clone())
    }

    /// Where the node's output goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.home.with_extension("log")
    }

    /// Starts the process.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.host.command(&self.meshara.to_string_lossy());
        command.arg("--home").arg(&self.home).arg("up").args(&self.flags);
        self.process =
            Some(spawn_logged(command, log).with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Starts the process and waits until it answers.
    pub(crate) fn up(&mut self) -> Result<()> {
        self.start()?;
        self.answers()
    }

    /// Waits until the node answers.
    pub(crate) fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + UP_WAIT;
        loop {
            let Err(error) = self.get("/v1/status") else { return Ok(()) };
            if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten())
            {
                bail!("{} ended ({status}) instead of running: {}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} did not answer within {UP_WAIT:?} ({error:#}): {}", self.name, self.last_words());
            }
            thread::sleep(POLL);
        }
    }

    /// The end of the log.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Child::id).with_context(|| format!("{} does not run", self.name))
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for a process that was told to end; kills it when it does not. Whether it ended by itself.
    pub(crate) fn reap(&mut self) -> Result<bool> {
        let Some(mut process) = self.process.take() else { return Ok(true) };
        let ended = exec::wait(&mut process, STOP_WAIT)?.is_some();
        if !ended {
            process.kill()?;
            process.wait()?;
        }
        Ok(ended)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn spawn_logged(mut command: Command, log: File) -> Result<Child> {
    let errors = log.try_clone()?;
    Ok(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn()?)
}
