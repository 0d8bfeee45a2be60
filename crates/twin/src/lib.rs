//! The digital twin of Meshara: the protocol cores in virtual time on simulated links.
//!
//! [`run`] takes a [`Scenario`] and gives a [`Report`]. Nothing here reads a clock or the network, so the same scenario and
//! seed give the same trace, byte for byte. `docs/twin.md` says what is modelled and what is not.
#![forbid(unsafe_code)]

mod auth;
mod campaign;
mod check;
mod graphs;
mod mail;
mod net;
mod pings;
mod report;
mod scenario;
mod session;
mod spread;
mod topology;
mod traffic;
mod trust;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use crate::check::MessageCounts;
pub use crate::report::{Percentiles, Report, Sample, Series, Sweep};
pub use crate::scenario::{
    Action, Campaign, Certificates, Fault, FaultKind, Inclusion, LinkModel, Messages, Neighbours, Pings,
    Scenario, ScenarioError, Topology, Trust,
};
pub use crate::spread::SpreadReport;
pub use crate::traffic::Traffic;
use crate::world::World;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Virtual time, seconds.
    pub virtual_s: f64,
    /// Where it ends at the latest.
    pub duration_s: f64,
    /// Faults of the campaign that are measured.
    pub faults: usize,
    /// All of them.
    pub of_faults: usize,
}

/// Who looks on while a scenario runs.
#[derive(Default)]
pub struct Observer<'a> {
    /// Gets the trace, one event a line: nanoseconds, node, kind, detail.
    pub trace: Option<&'a mut dyn std::io::Write>,
    /// Is called now and then.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// How many threads take part; 0 for one on each core. The outcome doesn't depend on it.
    pub threads: usize,
}

impl std::fmt::Debug for Observer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("trace", &self.trace.is_some()).finish_non_exhaustive()
    }
}

/// Runs a scenario to its end.
///
/// # Errors
/// The scenario makes no sense (a topology without nodes, a fault on a node that doesn't exist). A broken invariant is no
/// error but stands in [`Report::violations`].
pub fn run(scenario: &Scenario) -> Result<Report, ScenarioError> {
    run_observed(scenario, Observer::default())
}

/// As [`run`], while someone looks on.
///
/// # Errors
/// As [`run`]; failures to write the trace are [`ScenarioError::Trace`].
pub fn run_observed(scenario: &Scenario, observer: Observer<'_>) -> Result<Report, ScenarioError> {
    let started = Instant::now();
    let mut world = World::new(scenario, observer)?;
    campaign::drive(&mut world, scenario);
    let mut report = world.report(scenario);
    // The only thing that differs from run to run; no decision depends on it.
    report.wall_s = started.elapsed().as_secs_f64();
    match world.trace_error {
        Some(error) => Err(ScenarioError::Trace(error.to_string())),
        None => Ok(report),
    }
}

/// Runs a scenario once for each of `count` seeds, from the scenario's own upwards, on every core. `done` hears how many
/// runs are over.
///
/// # Errors
/// As [`run`].
pub fn sweep(scenario: &Scenario, count: u64, done: &(dyn Fn(u64) + Sync)) -> Result<Sweep, ScenarioError> {
    let started = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, over) = (AtomicU64::new(0), AtomicU64::new(0));
    // By seed: what comes out doesn't depend on which worker was faster.
    let reports: Mutex<BTreeMap<u64, Result<Report, ScenarioError>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let seed = scenario.seed.wrapping_add(at);
                    let scenario = Scenario { seed, ..scenario.clone() };
                    let observer = Observer { threads: 1, ..Observer::default() };
                    let report = run_observed(&scenario, observer);
                    reports.lock().unwrap_or_else(PoisonError::into_inner).insert(at, report);
                    done(over.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    let reports: Vec<Report> = reports.into_values().collect::<Result<_, _>>()?;
    let mut sweep = Sweep::of(reports.into_iter());
    sweep.wall_s = started.elapsed().as_secs_f64();
    Ok(sweep)
}

/// Seconds as a duration; negative and absurd values become zero.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Milliseconds as a duration.
fn millis(millis: f64) -> Duration {
    seconds(millis / 1000.0)
}
