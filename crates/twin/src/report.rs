//! What a run found: for people as a table, for programs as JSON.

use std::fmt;

use serde::Serialize;

use crate::check::MessageCounts;
use crate::scenario::Scenario;
use crate::spread::SpreadReport;
use crate::traffic::Traffic;
use crate::world::World;

/// One fault; the fields are those of the lab's report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// What was hit: a node, a link, a direction.
    pub target: String,
    /// Nodes on the path before.
    pub path: Vec<usize>,
    /// When, ms of virtual time.
    pub at_ms: f64,
    /// Longest time without a ping's reply while broken, ms.
    pub gap_ms: f64,
    /// Whether replies came in the last half second of the fault.
    pub healed: bool,
    /// Longest time without a reply after it was undone, ms.
    pub return_gap_ms: f64,
    /// From undoing it to a whole mesh, ms (looked at every 50 ms); none if it did not become whole.
    pub whole_ms: Option<f64>,
}

/// All faults of a campaign; the fields are those of the lab's report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// The topology's name, as the lab has it.
    pub topology: String,
    /// The kind's name, as the lab has it.
    pub kind: String,
    /// One for each fault.
    pub samples: Vec<Sample>,
    /// Of the gaps while broken.
    pub gap: Option<Percentiles>,
    /// Of the gaps after that.
    pub return_gap: Option<Percentiles>,
    /// Faults after which pings did not come back while they lasted, although there was a way round.
    pub not_healed: usize,
    /// Faults after which the mesh did not become whole.
    pub not_whole: usize,
    /// Trials without a pair or a fault that leaves a way round.
    pub no_alternate: usize,
    /// Trials that the scenario's duration had no room for.
    pub out_of_time: usize,
}

impl Series {
    /// Fills what follows from the samples.
    pub(crate) fn finish(&mut self) {
        let of =
            |value: fn(&Sample) -> f64| Percentiles::of(&self.samples.iter().map(value).collect::<Vec<_>>());
        (self.gap, self.return_gap) = (of(|sample| sample.gap_ms), of(|sample| sample.return_gap_ms));
        self.not_healed = self.samples.iter().filter(|sample| !sample.healed).count();
        self.not_whole = self.samples.iter().filter(|sample| sample.whole_ms.is_none()).count();
    }
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
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            n: values.len(),
            p50: percentile(values, 50)?,
            p95: percentile(values, 95)?,
            p99: percentile(values, 99)?,
            max: percentile(values, 100)?,
        })
    }
}

/// Grows when fields are renamed, retyped or removed.
const SCHEMA: u32 = 1;

/// The report of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
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
    /// Heal time over all faults of all campaigns, ms: the longest time without a ping's reply.
    pub heal_ms: Option<Percentiles>,
    /// Time from repair to a whole mesh, ms.
    pub rejoin_ms: Option<Percentiles>,
    /// The campaigns, one after the other.
    pub results: Vec<Series>,
    /// Pings sent and answered.
    pub pings: (u64, u64),
    /// Messages.
    pub messages: MessageCounts,
    /// Revocations, where somebody signs some.
    pub trust: Option<SpreadReport>,
    /// Bytes that all nodes sent, by kind.
    pub traffic: Traffic,
    /// Dials of all nodes.
    pub dials: u64,
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
        let (suspicions, deaths, dials) = self.counters();
        let pings = self.pingers().iter().fold((0, 0), |(sent, back), p| (sent + p.sent, back + p.received));
        let samples = || self.results.iter().flat_map(|series| &series.samples);
        let gaps: Vec<f64> = samples().map(|sample| sample.gap_ms).collect();
        let rejoins: Vec<f64> = samples().filter_map(|sample| sample.whole_ms).collect();
        Report {
            schema: SCHEMA,
            name: scenario.name.clone(),
            seed: scenario.seed,
            nodes: self.size(),
            links: self.links(),
            virtual_s: self.now.as_secs_f64(),
            wall_s: 0.0,
            events,
            whole_after_ms: self.whole_after.map(|after| after.as_secs_f64() * 1000.0),
            heal_ms: Percentiles::of(&gaps),
            rejoin_ms: Percentiles::of(&rejoins),
            results: self.results.clone(),
            pings,
            messages: self.check.counts,
            trust: self.spread.as_ref().map(crate::spread::Spread::report),
            traffic: Traffic {
                seconds: (self.now.as_secs_f64() - scenario.count_from_s).max(0.0),
                ..self.traffic
            },
            dials,
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
        for series in &self.results {
            if let Some(gap) = series.gap {
                row(f, &series.kind, gap.to_string())?;
            }
            let Series { not_healed, not_whole, no_alternate, out_of_time, .. } = series;
            if not_healed + not_whole + no_alternate + out_of_time > 0 {
                let text = format!(
                    "{not_healed} not healed, {not_whole} not whole again, {no_alternate} without a way round, {out_of_time} out of time"
                );
                row(f, "", text)?;
            }
        }
        if let Some(heal) = self.heal_ms.filter(|_| self.results.len() > 1) {
            row(f, "heal", heal.to_string())?;
        }
        if let Some(rejoin) = self.rejoin_ms {
            row(f, "rejoin", rejoin.to_string())?;
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
        if let Some(trust) = &self.trust {
            row(f, "revocations", format!("{} signed", trust.published))?;
            for (what, times) in
                [("each node", trust.node_ms), ("all nodes", trust.all_ms), ("after fault", trust.healed_ms)]
            {
                times.map_or(Ok(()), |times| row(f, what, times.to_string()))?;
            }
        }
        let hourly = |bytes| self.traffic.per_node_hour(bytes) / 1e6;
        let Traffic { probes, member, addresses, link_state, compare, heads, trust, frames, .. } =
            self.traffic;
        let shares = format!(
            "{:.2} MB a node and hour: certificates {:.2}, links {:.2}, addresses {:.2}, comparing {:.2}, heads {:.2}",
            self.traffic.records_per_node_hour() / 1e6,
            hourly(member),
            hourly(link_state),
            hourly(addresses),
            hourly(compare),
            hourly(heads),
        );
        row(f, "records", shares)?;
        let others = [hourly(probes), hourly(trust), hourly(frames)];
        let [probes, trust, frames] = others;
        row(f, "others", format!("probes {probes:.2}, signed sets {trust:.2}, frames {frames:.2} MB"))?;
        row(
            f,
            "links",
            format!(
                "{} dials, {} suspicions, {} deaths, {} transient loops",
                self.dials, self.suspicions, self.deaths, self.transient_loops
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
    /// Real time, seconds.
    pub wall_s: f64,
    /// Heal time over all faults of all runs, ms.
    pub heal_ms: Option<Percentiles>,
    /// Heal times of all, ms.
    pub gaps_ms: Vec<f64>,
    /// Faults that did not heal while they lasted.
    pub not_healed: usize,
    /// Messages acknowledged.
    pub acked: u64,
    /// From signing a revocation until every node held it, where nothing broke meanwhile, ms.
    pub revoked_ms: Option<Percentiles>,
    /// From a fault or repair until every node held the newest revocations, ms.
    pub healed_ms: Option<Percentiles>,
    /// Seeds whose invariants broke, with the first violation.
    pub failures: Vec<(u64, String)>,
}

impl Sweep {
    pub(crate) fn of(reports: impl Iterator<Item = Report>) -> Self {
        let mut sweep = Self::default();
        let (mut revoked, mut healed) = (Vec::new(), Vec::new());
        for report in reports {
            sweep.runs += 1;
            sweep.virtual_s += report.virtual_s;
            sweep.acked += report.messages.acked;
            if let Some(trust) = &report.trust {
                revoked.extend(&trust.all);
                healed.extend(&trust.healed);
            }
            for series in &report.results {
                sweep.gaps_ms.extend(series.samples.iter().map(|sample| sample.gap_ms));
                sweep.not_healed += series.not_healed;
            }
            if let Some(first) = report.violations.into_iter().next() {
                sweep.failures.push((report.seed, first));
            }
        }
        sweep.heal_ms = Percentiles::of(&sweep.gaps_ms);
        (sweep.revoked_ms, sweep.healed_ms) = (Percentiles::of(&revoked), Percentiles::of(&healed));
        sweep
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
        if let Some(heal) = self.heal_ms {
            writeln!(f, "heal         {heal}   not healed {}", self.not_healed)?;
        }
        if self.acked > 0 {
            writeln!(f, "messages     {} acknowledged", self.acked)?;
        }
        for (what, times) in [("revoked     ", self.revoked_ms), ("after fault ", self.healed_ms)] {
            times.map_or(Ok(()), |times| writeln!(f, "{what} {times}"))?;
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
