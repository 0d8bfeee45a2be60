//! `meshara twin`: the digital twin.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::{Args, Subcommand};
use meshara::api::{ApiError, ErrorCode};
use meshara_twin::{Observer, Progress as Far, Report, Scenario, ScenarioError, run_observed, sweep};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Progress};

/// Width of the progress bar: fits beside its numbers on a narrow terminal.
const BAR: usize = 30;

/// Rehearse in the digital twin
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara twin run scenario.toml")]
pub(crate) struct TwinArgs {
    #[command(subcommand)]
    command: TwinCommand,
}

#[derive(Debug, Subcommand)]
enum TwinCommand {
    /// Run a scenario in virtual time and report how the mesh healed
    #[command(after_help = "Exits 1 when an invariant broke; the seed that is printed replays it.

Examples:
  meshara twin run scenario.toml
  meshara twin run scenario.toml --seed 7 --trace trace.txt --json
  meshara twin run scenario.toml --seeds 300")]
    Run(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The scenario, TOML or JSON (docs/twin.md)
    file: PathBuf,
    /// Seed of all randomness [default: the scenario's]
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many seeds, from the seed upwards, on every core
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: Option<u64>,
    /// Write every event to this file, one a line
    #[arg(long, value_name = "OUT", conflicts_with = "seeds")]
    trace: Option<PathBuf>,
}

pub(crate) fn run(args: TwinArgs, context: &Context) -> Result<(), Failure> {
    let TwinCommand::Run(args) = args.command;
    let mut scenario = Scenario::from_file(&args.file).map_err(failure)?;
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    match args.seeds {
        Some(count) => many(context, &scenario, count),
        None => one(context, &scenario, args.trace.as_deref()),
    }
}

fn one(context: &Context, scenario: &Scenario, trace: Option<&Path>) -> Result<(), Failure> {
    let mut progress = Progress::new(!context.json);
    let mut tell = |far: Far| {
        let share = if far.of_faults > 0 {
            far.faults as f64 / far.of_faults as f64
        } else {
            far.virtual_s / far.duration_s
        };
        let faults = if far.of_faults > 0 {
            format!(", {}/{} faults", far.faults, far.of_faults)
        } else {
            String::new()
        };
        progress.show(&format!("{} {:.1} s simulated{faults}", bar(share), far.virtual_s));
    };
    let report = match trace {
        None => run_observed(scenario, Observer { progress: Some(&mut tell), ..Observer::default() })
            .map_err(failure)?,
        Some(path) => traced(scenario, path, &mut tell)?,
    };
    progress.clear();
    if context.json {
        output::json(&report)?;
    } else {
        output::line(report.to_string().trim_end())?;
    }
    match report.violations.first() {
        None => Ok(()),
        Some(first) => Err(broken(report.seed, first)),
    }
}

fn traced(scenario: &Scenario, path: &Path, tell: &mut dyn FnMut(Far)) -> Result<Report, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::from(ApiError::new(ErrorCode::Io, format!("cannot write {}: {error}", path.display())))
    };
    let mut out = BufWriter::new(File::create(path).map_err(cannot)?);
    let report = run_observed(scenario, Observer { trace: Some(&mut out), progress: Some(tell), threads: 0 })
        .map_err(failure)?;
    out.flush().map_err(cannot)?;
    Ok(report)
}

fn many(context: &Context, scenario: &Scenario, count: u64) -> Result<(), Failure> {
    let progress = Mutex::new(Progress::new(!context.json));
    let done = |runs: u64| {
        if let Ok(mut progress) = progress.lock() {
            progress.show(&format!("{} {runs}/{count} seeds", bar(runs as f64 / count as f64)));
        }
    };
    let found = sweep(scenario, count, &done).map_err(failure)?;
    drop(progress);
    if context.json {
        output::json(&found)?;
    } else {
        output::line(found.to_string().trim_end())?;
    }
    match found.failures.first() {
        None => Ok(()),
        Some((seed, first)) => Err(broken(*seed, first)),
    }
}

fn bar(share: f64) -> String {
    let full = ((share.clamp(0.0, 1.0) * BAR as f64) as usize).min(BAR);
    format!("[{}{}]", "#".repeat(full), " ".repeat(BAR - full))
}

fn broken(seed: u64, what: &str) -> Failure {
    ApiError::new(ErrorCode::Internal, format!("an invariant broke with seed {seed}: {what}"))
        .hint(format!("replay it with --seed {seed} --trace FILE"))
        .into()
}

fn failure(error: ScenarioError) -> Failure {
    let code = match error {
        ScenarioError::Read { .. } | ScenarioError::Trace(_) => ErrorCode::Io,
        _ => ErrorCode::InvalidArgument,
    };
    ApiError::new(code, error.to_string()).hint("docs/twin.md describes scenarios").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_stays_within_its_ends() {
        assert_eq!(
            [bar(-1.0), bar(f64::NAN)],
            [format!("[{}]", " ".repeat(BAR)), format!("[{}]", " ".repeat(BAR))]
        );
        assert_eq!(
            [bar(1.0), bar(7.0)],
            [format!("[{}]", "#".repeat(BAR)), format!("[{}]", "#".repeat(BAR))]
        );
    }
}
