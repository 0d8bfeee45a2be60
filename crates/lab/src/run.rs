//! One run of the lab: names that no other run uses, and nothing left behind however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::exec::tool;

/// Every namespace of the lab begins with this, then the process id of its run.
const PREFIX: &str = "mlab";

/// Set in the environment of a part of a campaign: it ends when the campaign does, whatever ended that.
pub(crate) const PART: &str = "MESHARA_LAB_PART";

/// Exit code after Ctrl-C, as shells expect it (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// Owns every namespace and file of this process; dropping it removes them.
#[derive(Debug)]
pub(crate) struct Run {
    prefix: String,
    dir: PathBuf,
}

impl Run {
    /// Begins: removes what killed runs left, and watches for signals.
    pub(crate) fn begin() -> Result<Self> {
        sweep_leftovers();
        let run = Self { prefix: format!("{PREFIX}{}", process::id()), dir: dir_of(process::id()) };
        fs::create_dir_all(&run.dir).with_context(|| format!("cannot create {}", run.dir.display()))?;
        watch_signals(process::id())?;
        if std::env::var_os(PART).is_some() {
            set_parent_process_death_signal(Some(Signal::TERM))?;
        }
        Ok(run)
    }

    /// The full name of a namespace of this run.
    pub(crate) fn namespace(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// Removes every namespace and file so far; the run goes on.
    pub(crate) fn clear(&self) {
        remove(process::id());
        let _ = fs::create_dir_all(&self.dir);
    }

    /// Where homes and logs live.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(process::id());
    }
}

fn dir_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("meshara-lab-{pid}"))
}

/// Ends the processes in the namespaces of a run and removes namespaces and files. Nothing here may fail: it is the last act.
pub(crate) fn remove(pid: u32) {
    let prefix = format!("{PREFIX}{pid}-");
    for name in namespaces().into_iter().filter(|name| name.starts_with(&prefix)) {
        for pid in tool(&["ip", "netns", "pids", &name]).unwrap_or_default().lines() {
            kill(pid.trim());
        }
        let _ = tool(&["ip", "netns", "del", &name]);
    }
    if std::env::var_os("MESHARA_LAB_KEEP").is_none() {
        let _ = fs::remove_dir_all(dir_of(pid));
    }
}

/// Kills a process by its id as text, also a stopped one, but never this one.
fn kill(pid: &str) {
    let Some(pid) = pid.parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw) else { return };
    if pid.as_raw_nonzero().get().unsigned_abs() != process::id() {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Removes what runs left whose process is gone.
fn sweep_leftovers() {
    let mut gone: Vec<u32> = namespaces().iter().filter_map(|name| owner(name)).collect();
    if let Ok(entries) = fs::read_dir(std::env::temp_dir()) {
        gone.extend(entries.flatten().filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("meshara-lab-")?.parse::<u32>().ok()
        }));
    }
    gone.sort_unstable();
    gone.dedup();
    for pid in gone.into_iter().filter(|pid| !alive(*pid)) {
        remove(pid);
    }
}

fn namespaces() -> Vec<String> {
    let listed = tool(&["ip", "netns", "list"]).unwrap_or_default();
    listed.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

/// The process id inside a namespace name of the lab.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Whether this process id is a running lab; ids are used again, so the name counts.
fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "meshara-lab")
}

/// Cleans up on SIGINT, SIGTERM and SIGHUP, then exits.
fn watch_signals(pid: u32) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(guard);
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        eprintln!("interrupted: removing namespaces");
        remove(pid);
        process::exit(INTERRUPTED);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_namespace_is_in_its_name() {
        assert_eq!(owner("mlab123-n4"), Some(123));
        assert_eq!(owner("mlab-n4"), None);
        assert_eq!(owner("other123-n4"), None);
    }

    #[test]
    fn a_process_of_another_name_is_no_lab() {
        assert!(!alive(1));
        assert!(!alive(u32::MAX));
    }
}
