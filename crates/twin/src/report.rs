//! What a run found: for people as a table, for programs as JSON.

use std::fmt;

use serde::Serialize;

use crate::check::MessageCounts;
use crate::scenario::Scenario;
use crate::world::World;

/// Silences of pings across faults.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Heal {
    /// The longest time without a reply, one for each fault, ms.
    pub gaps_ms: Vec<f64>,
    /// From repair to a whole mesh, one for each fault, ms (looked at every 50 ms).
    pub rejoin_ms: Vec<f64>,
    /// Faults after which pings did not come back while they lasted, although there was a way round.
    pub not_healed: u64,
    /// Trials without a pair or a fault that leaves a way round.
    pub no_alternate: u64,
    /// Trials that the scenario's duration had no room for.
    pub out_of_time: u64,
}

/// The `percent`th percentile (nearest rank), if there is any value.
fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Percentiles of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many values.
    pub n: usize,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Percentiles {
    fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            n: values.len(),
            p50: percentile(values, 50)?,
            p95: percentile(values, 95)?,
            p99: percentile(values, 99)?,
            max: percentile(values, 100)?,
        })
    }
}

/// The report of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// The seed that replays it.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Links at the end.
    pub links: usize,
    /// Virtual time, seconds.
    pub virtual_s: f64,
    /// Real time, seconds. The only field that differs from run to run.
    pub wall_s: f64,
    /// Events delivered.
    pub events: u64,
    /// When the mesh was whole for the first time, ms.
    pub whole_after_ms: Option<f64>,
    /// Heal time over all faults of the campaign, ms.
    pub heal_ms: Option<Percentiles>,
    /// Time from repair to a whole mesh, ms.
    pub rejoin_ms: Option<Percentiles>,
    /// The raw values and what could not be measured.
    pub heal: Heal,
    /// Pings sent and answered.
    pub pings: (u64, u64),
    /// Messages.
    pub messages: MessageCounts,
    /// Links that turned suspect.
    pub suspicions: u64,
    /// Links declared dead.
    pub deaths: u64,
    /// Frames that came to a node twice, soon after a fault.
    pub transient_loops: u64,
    /// BLAKE3 of the trace.
    pub trace: String,
    /// Broken invariants, the first twenty.
    pub violations: Vec<String>,
}

impl Report {
    /// Whether every invariant held.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.violations.is_empty()
    }
}

impl World<'_> {
    pub(crate) fn report(&mut self, scenario: &Scenario) -> Report {
        let (trace, events) = self.trace_hash();
        let (suspicions, deaths) = self.counters();
        let pings = self.pingers.iter().fold((0, 0), |(sent, back), p| (sent + p.sent, back + p.received));
        Report {
            name: scenario.name.clone(),
            seed: scenario.seed,
            nodes: self.size(),
            links: self.links(),
            virtual_s: self.now.as_secs_f64(),
            wall_s: 0.0,
            events,
            whole_after_ms: self.whole_after.map(|after| after.as_secs_f64() * 1000.0),
            heal_ms: Percentiles::of(&self.heal.gaps_ms),
            rejoin_ms: Percentiles::of(&self.heal.rejoin_ms),
            heal: self.heal.clone(),
            pings,
            messages: self.check.counts,
            suspicions,
            deaths,
            transient_loops: self.check.transient_loops,
            trace,
            violations: self.check.violations.clone(),
        }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, p50, p95, p99, max } = self;
        write!(f, "p50 {p50:.0} ms   p95 {p95:.0} ms   p99 {p99:.0} ms   max {max:.0} ms   N {n}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "{name:<12} {value}");
        row(f, "scenario", format!("{} (seed {})", self.name, self.seed))?;
        row(f, "mesh", format!("{} nodes, {} links", self.nodes, self.links))?;
        let speed = self.virtual_s / self.wall_s.max(1e-9);
        row(
            f,
            "time",
            format!(
                "{:.1} s simulated in {:.1} s ({speed:.1} x real time), {} events",
                self.virtual_s, self.wall_s, self.events
            ),
        )?;
        let whole = self.whole_after_ms.map_or_else(|| "never".into(), |ms| format!("after {ms:.0} ms"));
        row(f, "whole", whole)?;
        if let Some(heal) = self.heal_ms {
            row(f, "heal", heal.to_string())?;
        }
        if let Some(rejoin) = self.rejoin_ms {
            row(f, "rejoin", rejoin.to_string())?;
        }
        let Heal { not_healed, no_alternate, out_of_time, .. } = self.heal;
        if not_healed + no_alternate + out_of_time > 0 {
            row(
                f,
                "not measured",
                format!(
                    "{not_healed} not healed, {no_alternate} without a way round, {out_of_time} out of time"
                ),
            )?;
        }
        if self.pings.0 > 0 {
            row(f, "pings", format!("{} sent, {} answered", self.pings.0, self.pings.1))?;
        }
        if self.messages.submitted > 0 {
            let MessageCounts { submitted, delivered, acked, refused } = self.messages;
            row(
                f,
                "messages",
                format!(
                    "{submitted} submitted, {delivered} delivered, {acked} acknowledged, {refused} refused"
                ),
            )?;
        }
        row(
            f,
            "links",
            format!(
                "{} suspicions, {} deaths, {} transient loops",
                self.suspicions, self.deaths, self.transient_loops
            ),
        )?;
        row(f, "trace", self.trace.clone())?;
        if self.violations.is_empty() {
            return row(f, "invariants", "held".into());
        }
        row(f, "invariants", format!("BROKEN; replay with seed {}", self.seed))?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

/// The reports of many seeds, together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sweep {
    /// Runs.
    pub runs: u64,
    /// Virtual time of all, seconds.
    pub virtual_s: f64,
    /// Real time of all, seconds.
    pub wall_s: f64,
    /// Heal times of all, ms.
    pub gaps_ms: Vec<f64>,
    /// Faults that did not heal while they lasted.
    pub not_healed: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Seeds whose invariants broke, with the first violation.
    pub failures: Vec<(u64, String)>,
}

impl Sweep {
    pub(crate) fn add(&mut self, report: Report) {
        self.runs += 1;
        self.virtual_s += report.virtual_s;
        self.wall_s += report.wall_s;
        self.gaps_ms.extend(&report.heal.gaps_ms);
        self.not_healed += report.heal.not_healed;
        self.acked += report.messages.acked;
        if let Some(first) = report.violations.into_iter().next() {
            self.failures.push((report.seed, first));
        }
    }

    /// Heal time over all runs, ms.
    #[must_use]
    pub fn heal_ms(&self) -> Option<Percentiles> {
        Percentiles::of(&self.gaps_ms)
    }

    /// Whether every invariant held in every run.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {:.0} s simulated in {:.1} s", self.runs, self.virtual_s, self.wall_s)?;
        if let Some(heal) = self.heal_ms() {
            writeln!(f, "heal         {heal}   not healed {}", self.not_healed)?;
        }
        if self.acked > 0 {
            writeln!(f, "messages     {} acknowledged", self.acked)?;
        }
        for (seed, violation) in &self.failures {
            writeln!(f, "BROKEN       seed {seed}: {violation}")?;
        }
        if self.ok() { writeln!(f, "invariants   held") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let p = Percentiles::of(&values).unwrap();
        assert_eq!((p.n, p.p50, p.p95, p.p99, p.max), (100, 50.0, 95.0, 99.0, 100.0));
        assert_eq!(Percentiles::of(&[]), None);
        assert_eq!(Percentiles::of(&[7.0]).unwrap().p50, 7.0);
    }
}
