//! Runs a scenario file over many seeds: `cargo run -p meshara-twin --example sweep -- FILE [SEEDS] [--json]`.
//!
//! Exits 1 when an invariant broke; the output names the seed that replays it.

use std::path::PathBuf;
use std::process::ExitCode;

use meshara_twin::{Scenario, ScenarioError, run, sweep};

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let json = words.iter().position(|word| word == "--json").map(|at| words.remove(at)).is_some();
    let (file, seeds) = match words.as_slice() {
        [file] => (file, Ok(1)),
        [file, seeds] => (file, seeds.parse::<u64>()),
        _ => {
            eprintln!("usage: sweep FILE [SEEDS] [--json]");
            return ExitCode::from(2);
        }
    };
    let Ok(seeds) = seeds else {
        eprintln!("SEEDS is a number");
        return ExitCode::from(2);
    };
    match go(PathBuf::from(file), seeds, json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn go(file: PathBuf, seeds: u64, json: bool) -> Result<bool, ScenarioError> {
    let scenario = Scenario::from_file(&file)?;
    let (ok, text, object) = if seeds == 1 {
        let report = run(&scenario)?;
        (report.ok(), report.to_string(), serde_json::to_string(&report))
    } else {
        let sweep = sweep(&scenario, seeds)?;
        (sweep.ok(), sweep.to_string(), serde_json::to_string(&sweep))
    };
    match object {
        Ok(object) if json => println!("{object}"),
        _ => print!("{text}"),
    }
    Ok(ok)
}
