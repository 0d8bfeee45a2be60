//! A network namespace: a host of the lab.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::exec::tool;

/// A namespace that exists. [`crate::run::Run`] removes it.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates it, with loopback up.
    pub(crate) fn create(name: String) -> Result<Self> {
        tool(&["ip", "netns", "add", &name])?;
        let created = Self { name };
        created.ip(&["link", "set", "lo", "up"])?;
        Ok(created)
    }

    /// The name that `ip netns` knows it by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<String> {
        tool(&[&["ip", "-n", &self.name], args].concat())
    }

    /// Runs `tc` inside.
    pub(crate) fn tc(&self, args: &[&str]) -> Result<String> {
        tool(&[&["tc", "-n", &self.name], args].concat())
    }

    /// Runs an nftables script inside, as one transaction.
    pub(crate) fn nft(&self, script: &str) -> Result<String> {
        tool(&["ip", "netns", "exec", &self.name, "nft", script])
    }

    /// Sets a kernel parameter inside.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let value = value.to_owned();
        self.within(move || std::fs::write(&path, value).with_context(|| format!("cannot write {path}")))?
    }

    /// A command that runs inside; `ip netns exec` replaces itself, so the process id is the program's.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// A thread of the lab that runs inside: its sockets belong to this host.
    pub(crate) fn spawn<T>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
    {
        let path = format!("/run/netns/{}", self.name);
        let spawned = thread::Builder::new().name(self.name.clone()).spawn(move || {
            let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {path}"))?;
            Ok(work())
        });
        spawned.context("cannot start a thread")
    }

    /// Does something short inside, and waits for it.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
    {
        self.spawn(work)?.join().map_err(|_| anyhow!("a thread in {} panicked", self.name))?
    }
}
