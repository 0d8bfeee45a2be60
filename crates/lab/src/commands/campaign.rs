//! Every figure of the lab, one part after the other, unattended: each part is a run of this program with a time budget.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::exec;
use crate::measure::machine::Provenance;
use crate::report::Table;
use crate::run::PART;

/// After SIGTERM a part removes its namespaces; a mesh of fifty nodes takes a few seconds.
const CLEANUP: Duration = Duration::from_secs(30);

/// A part: name, arguments, and its longest time in seconds.
type Part = (&'static str, &'static [&'static str], u64);

/// In the order of importance, so that a campaign that is cut short has what matters most. All take about 50 minutes together; the
/// budgets leave each a quarter more, but at least half a minute.
const PARTS: [Part; 20] = [
    ("substrate", &["substrate"], 60),
    ("heal-sigstop", &["heal", "--kind", "sigstop", "--budget", "360"], 420),
    ("heal-sigkill", &["heal", "--kind", "sigkill", "--budget", "360"], 420),
    ("heal-link-down", &["heal", "--kind", "link-down", "--budget", "360"], 420),
    ("heal-one-way", &["heal", "--kind", "one-way", "--budget", "360"], 420),
    ("heal-restart", &["heal", "--kind", "restart", "--budget", "300"], 360),
    ("revoke", &["revoke"], 240),
    ("issue", &["issue"], 240),
    ("rotate", &["rotate", "--minutes", "2"], 180),
    ("iperf", &["iperf", "--rounds", "3", "--seconds", "4"], 80),
    ("tun", &["tun", "--rounds", "3", "--seconds", "4"], 90),
    ("throughput", &["throughput", "--rounds", "2", "--seconds", "2"], 180),
    ("tiers", &["tiers", "--seconds", "2"], 380),
    ("idle", &["idle", "--nodes", "50", "--seconds", "30"], 100),
    ("wake", &["wake", "--away", "5", "--away", "75"], 140),
    ("change", &["change", "--count", "4"], 80),
    ("nat", &["nat"], 90),
    ("lan", &["lan"], 50),
    ("garbage", &["garbage"], 80),
    ("false-suspicion", &["false-suspicion", "--minutes", "3"], 240),
];

/// How a part went.
#[derive(Debug, Clone, Serialize)]
struct Ran {
    name: &'static str,
    seconds: f64,
    budget_s: u64,
    /// What is wrong: bars missed by too much, faults not healed, or the time was over.
    error: Option<String>,
    #[serde(skip)]
    tables: String,
}

/// `meshara-lab all`: JSON and output of each part, and one readable summary, in `dir`.
pub(crate) fn command(dir: &Path, meshara: &Path, seed: u64, only: &[String]) -> Result<()> {
    for name in only {
        ensure!(PARTS.iter().any(|part| part.0 == name), "there is no part `{name}`: {}", names());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let begun = Instant::now();
    let mut all = Vec::new();
    for part in PARTS.iter().filter(|part| only.is_empty() || only.iter().any(|name| name == part.0)) {
        println!("\n== {} (at most {} s)", part.0, part.2);
        let ran = run(part, dir, meshara, seed)?;
        println!(
            "== {}: {:.0} s{}",
            part.0,
            ran.seconds,
            ran.error.as_deref().map(|error| format!(", {error}")).unwrap_or_default()
        );
        all.push(ran);
        summarise(dir, meshara, seed, begun.elapsed(), &all)?;
    }
    println!("\nsummary: {}", dir.join("summary.md").display());
    let failed: Vec<_> = all.iter().filter(|ran| ran.error.is_some()).map(|ran| ran.name).collect();
    if !failed.is_empty() {
        bail!("not as expected: {}", failed.join(", "));
    }
    Ok(())
}

fn names() -> String {
    PARTS.map(|part| part.0).join(", ")
}

/// Runs a part, shows what it says and keeps it.
fn run(part: &Part, dir: &Path, meshara: &Path, seed: u64) -> Result<Ran> {
    let (name, args, budget_s) = *part;
    let said = dir.join(format!("{name}.txt"));
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env(PART, "1")
        .args(args)
        .args(["--seed", &seed.to_string()])
        .arg("--meshara")
        .arg(meshara)
        .arg("--report")
        .arg(dir.join(format!("{name}.json")));
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut reader = tee(&mut child, &said)?;
    let status = match exec::wait(&mut child, Duration::from_secs(budget_s))? {
        Some(status) => Some(status),
        None => {
            stop(&mut child)?;
            None
        }
    };
    let errors = reader.join();
    let error = match status {
        Some(status) if status.success() => None,
        Some(status) if errors.is_empty() => Some(status.to_string()),
        Some(_) => Some(errors),
        None => Some(format!("not over after {budget_s} s")),
    };
    let tables = tables(&fs::read_to_string(&said).unwrap_or_default());
    Ok(Ran { name, seconds: begun.elapsed().as_secs_f64(), budget_s, error, tables })
}

/// Lets a part clean up, then makes sure that it is gone.
fn stop(child: &mut Child) -> Result<()> {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if exec::wait(child, CLEANUP)?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// Threads that show and keep the output of a part.
struct Tee {
    output: Option<std::thread::JoinHandle<()>>,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Tee {
    /// Waits for the end of both; what came on standard error.
    fn join(&mut self) -> String {
        let _ = self.output.take().map(std::thread::JoinHandle::join);
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        errors.trim().trim_start_matches("error: ").replace('\n', "; ")
    }
}

fn tee(child: &mut Child, into: &PathBuf) -> Result<Tee> {
    let mut file = File::create(into).with_context(|| format!("cannot create {}", into.display()))?;
    let output = child.stdout.take().context("no output")?;
    let errors = child.stderr.take().context("no error output")?;
    let output = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            let _ = writeln!(file, "{line}");
        }
    });
    let errors = std::thread::spawn(move || {
        BufReader::new(errors).lines().map_while(Result::ok).fold(String::new(), |all, line| {
            eprintln!("{line}");
            all + &line + "\n"
        })
    });
    Ok(Tee { output: Some(output), errors: Some(errors) })
}

/// The tables within an output, a blank line between two.
fn tables(said: &str) -> String {
    let mut found = String::new();
    let mut inside = false;
    for line in said.lines() {
        let table = line.starts_with('|');
        if table {
            found += line;
            found.push('\n');
        } else if inside {
            found.push('\n');
        }
        inside = table;
    }
    found
}

fn summarise(dir: &Path, meshara: &Path, seed: u64, passed: Duration, all: &[Ran]) -> Result<()> {
    let machine = Provenance::read(meshara);
    let mut text = format!(
        "# Figures of the lab\n\n{} · commit {} · {} cores, {} · {} MiB · Linux {} · seed {seed} · {:.0} min\n\n",
        machine.meshara,
        machine.commit,
        machine.cores,
        machine.cpu,
        machine.memory_mib,
        machine.kernel,
        passed.as_secs_f64() / 60.0
    );
    let mut table = Table::new(&["part", "seconds", "budget", "not as expected"]);
    for ran in all {
        table.row(vec![
            ran.name.into(),
            format!("{:.0}", ran.seconds),
            ran.budget_s.to_string(),
            ran.error.clone().unwrap_or_default(),
        ]);
    }
    text += &table.render();
    for ran in all {
        text += &format!("\n## {}\n\n{}", ran.name, ran.tables);
        if let Some(error) = &ran.error {
            text += &format!("\nNot as expected: {error}\n");
        }
    }
    let path = dir.join("summary.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let json = serde_json::to_string_pretty(all)?;
    fs::write(dir.join("summary.json"), json + "\n").context("cannot write summary.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn every_part_is_a_command_and_all_fit_into_seventy_five_minutes() {
        for (name, args, _) in PARTS {
            let words = ["meshara-lab"].into_iter().chain(args.iter().copied());
            assert!(Cli::try_parse_from(words).is_ok(), "{name}");
        }
        let sum: u64 = PARTS.iter().map(|part| part.2).sum();
        assert!(sum <= 4500, "{sum}");
    }

    #[test]
    fn tables_are_found_within_other_output() {
        assert_eq!(tables("x\n| a |\n|---|\ny\nz\n| b |\n"), "| a |\n|---|\n\n| b |\n");
    }
}
