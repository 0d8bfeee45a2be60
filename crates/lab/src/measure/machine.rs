//! Where and of what a report was made.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::exec;

/// The machine and the versions behind a report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Provenance {
    /// Seconds since 1970.
    pub(crate) unix_time: u64,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    /// Commit of the checkout that the lab was run from.
    pub(crate) commit: String,
    /// What the binary says of itself.
    pub(crate) meshara: String,
}

impl Provenance {
    /// Reads it; what cannot be read is empty.
    pub(crate) fn read(meshara: &Path) -> Self {
        let said = |program: &Path, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args);
            exec::succeed(command, Duration::from_secs(5)).unwrap_or_default().trim().to_owned()
        };
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        Self {
            unix_time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map(|passed| passed.as_secs())
                .unwrap_or_default(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024,
            commit: said(Path::new("git"), &["describe", "--always", "--dirty", "--exclude", "*"]),
            meshara: said(meshara, &["--version"]),
        }
    }
}

/// Resident memory in KiB and processor time in seconds of a process so far.
pub(crate) fn usage(pid: u32) -> Option<(u64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some((resident_kib(&status)?, cpu_ticks(&stat)? as f64 / TICKS_PER_SECOND))
}

/// `USER_HZ`, which Linux fixes at 100 for every architecture that runs here.
const TICKS_PER_SECOND: f64 = 100.0;

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// utime and stime, fields 14 and 15; the name before them may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_read() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t   1234 kB\n"), Some(1234));
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert!(usage(std::process::id()).is_some_and(|(kib, _)| kib > 0));
    }
}
