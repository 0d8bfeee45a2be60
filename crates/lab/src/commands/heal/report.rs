//! What a series of faults came to: samples, sums, the bars that were missed, the readable tables.

use serde::Serialize;

use crate::measure::stall::Stall;
use crate::measure::stats::Summary;
use crate::measure::stream::Outcome;
use crate::mesh::fault::Kind;
use crate::mesh::form::Formed;
use crate::report::{Table, cells, number};

/// What is to be reached, in ms: pings p50 and p99, TCP p50, routed again at most.
const BARS: [(&str, f64); 4] =
    [("ping p50", 200.0), ("ping p99", 400.0), ("TCP p50", 350.0), ("routed again", 3000.0)];

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(super) topology: String,
    /// Which mesh of its series.
    pub(super) mesh: usize,
    pub(super) target: String,
    /// Nodes on the path before.
    pub(super) path: Vec<usize>,
    pub(super) at_ms: f64,
    /// How long breaking took the lab.
    pub(super) injecting_ms: f64,
    /// Longest time without a ping's reply while broken.
    pub(super) gap_ms: f64,
    pub(super) healed: bool,
    /// The same after it was undone.
    pub(super) return_gap_ms: f64,
    /// Longest time without an echo of the TCP heartbeat while broken, and after.
    pub(super) beat_gap_ms: f64,
    pub(super) beat_return_gap_ms: f64,
    /// Times within the fault at which the machine itself stood still.
    pub(super) stalls: Vec<Stall>,
    /// From undoing it until every node could route to every other, and until every link was up, too.
    pub(super) routed_ms: Option<f64>,
    pub(super) links_ms: Option<f64>,
    /// What was still not as before when the wait was over.
    pub(super) amiss: Option<String>,
}

/// A mesh of a series.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MeshReport {
    pub(super) topology: String,
    pub(super) formed: Formed,
    pub(super) stream: Option<Outcome>,
    pub(super) beats_broken: u64,
}

/// All faults of a kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    kind: Kind,
    pub(super) meshes: Vec<MeshReport>,
    pub(super) samples: Vec<Sample>,
    /// What stopped a fault from being measured.
    pub(super) errors: Vec<String>,
    /// Of all topologies together.
    gap: Option<Summary>,
    beat_gap: Option<Summary>,
    return_gap: Option<Summary>,
    routed: Option<Summary>,
    not_healed: usize,
    not_whole: usize,
    beats_broken: u64,
    /// Bars that were missed.
    missed: Vec<String>,
}

impl Series {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            meshes: Vec::new(),
            samples: Vec::new(),
            errors: Vec::new(),
            gap: None,
            beat_gap: None,
            return_gap: None,
            routed: None,
            not_healed: 0,
            not_whole: 0,
            beats_broken: 0,
            missed: Vec::new(),
        }
    }

    /// Brings the sums up to date.
    pub(super) fn sum_up(&mut self) {
        let of = |value: fn(&Sample) -> f64| Summary::of(self.samples.iter().map(value));
        self.gap = of(|sample| sample.gap_ms);
        self.beat_gap = of(|sample| sample.beat_gap_ms);
        self.return_gap = of(|sample| sample.return_gap_ms);
        self.routed = Summary::of(self.samples.iter().filter_map(|sample| sample.routed_ms));
        self.not_healed = self.samples.iter().filter(|sample| !sample.healed).count();
        self.not_whole = self.samples.iter().filter(|sample| sample.amiss.is_some()).count();
        self.beats_broken = self.meshes.iter().map(|mesh| mesh.beats_broken).sum();
        let found = [
            self.gap.map(|gap| gap.p50),
            self.gap.map(|gap| gap.p99),
            self.beat_gap.map(|gap| gap.p50),
            self.routed.map(|routed| routed.max),
        ];
        self.missed = BARS
            .iter()
            .zip(found)
            .filter_map(|((what, bar), found)| {
                found.filter(|found| found > bar).map(|found| (what, bar, found))
            })
            .map(|(what, bar, found)| format!("{}: {what} {found:.0} ms, bar {bar} ms", self.kind.name()))
            .collect();
    }

    /// The median gap.
    pub(crate) fn median_gap(&self) -> Option<f64> {
        self.gap.map(|gap| gap.p50)
    }

    /// What makes a series a failure whatever the machine: unhealed faults, broken connections, unequal bytes.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |condition: bool, what: String| {
            if condition {
                found.push(format!("{}: {what}", self.kind.name()));
            }
        };
        note(self.not_healed > 0, format!("{} not healed", self.not_healed));
        note(self.not_whole > 0, format!("{} times not whole again", self.not_whole));
        note(self.beats_broken > 0, format!("{} TCP connections broken", self.beats_broken));
        note(!self.errors.is_empty(), format!("not measured: {}", self.errors.join("; ")));
        let streams = self.meshes.iter().filter_map(|mesh| mesh.stream.as_ref());
        note(streams.filter(|stream| !stream.bytes_equal).count() > 0, "a stream's bytes differ".into());
        found
    }

    /// Sites in the order of first use.
    fn topologies(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for mesh in &self.meshes {
            if !found.contains(&mesh.topology.as_str()) {
                found.push(&mesh.topology);
            }
        }
        found
    }
}

impl Sample {
    /// For whoever watches.
    pub(super) fn line(&self) -> String {
        let stalls = match self.stalls.iter().map(|stall| stall.length_ms).fold(0.0, f64::max) {
            0.0 => String::new(),
            longest => format!(", machine stood still for {longest:.0} ms"),
        };
        let whole = match (self.routed_ms, self.links_ms, &self.amiss) {
            (Some(routed), Some(links), None) => {
                format!("routed again after {routed:.0} ms, links up after {links:.0} ms")
            }
            (_, _, amiss) => format!("NOT WHOLE: {}", amiss.as_deref().unwrap_or_default()),
        };
        let gap = if self.healed { "gap" } else { "NOT HEALED, gap" };
        format!(
            "{} of {:?}: {gap} {:.0} ms (TCP {:.0}), on return {:.0} ms (TCP {:.0}), {whole}{stalls}",
            self.target,
            self.path,
            self.gap_ms,
            self.beat_gap_ms,
            self.return_gap_ms,
            self.beat_return_gap_ms,
        )
    }
}

/// The readable tables of several series: each kind over all topologies, then each topology by itself.
pub(crate) fn table(all: &[Series]) -> String {
    let mut table = Table::new(&[
        "fault",
        "N",
        "p50",
        "p95",
        "p99",
        "max",
        "not healed",
        "TCP p50",
        "TCP p99",
        "TCP max",
        "TCP broken",
        "return p99",
        "routed again p50",
        "max",
        "streams equal",
    ]);
    let mut apart = Table::new(&["fault", "topology", "N", "p50", "p95", "p99", "max", "TCP p50"]);
    for series in all {
        let kind = series.kind.name();
        let streams: Vec<_> = series.meshes.iter().filter_map(|mesh| mesh.stream.as_ref()).collect();
        let equal = streams.iter().filter(|stream| stream.bytes_equal).count();
        let mut row = vec![kind.to_owned(), series.samples.len().to_string()];
        row.extend(cells(series.gap));
        let [beat_p50, _, beat_p99, beat_max] = cells(series.beat_gap);
        let [_, _, return_p99, _] = cells(series.return_gap);
        let [routed_p50, _, _, routed_max] = cells(series.routed);
        row.push(series.not_healed.to_string());
        row.extend([beat_p50, beat_p99, beat_max, series.beats_broken.to_string(), return_p99]);
        row.extend([routed_p50, routed_max, format!("{equal} of {}", streams.len())]);
        table.row(row);
        for topology in series.topologies() {
            let of = |value: fn(&Sample) -> f64| {
                let samples = series.samples.iter().filter(|sample| sample.topology == topology);
                Summary::of(samples.map(value))
            };
            let gap = of(|sample| sample.gap_ms);
            let mut row = vec![kind.to_owned(), topology.to_owned()];
            row.push(gap.map_or(0, |gap| gap.n).to_string());
            row.extend(cells(gap));
            row.push(number(of(|sample| sample.beat_gap_ms).map(|gap| gap.p50)));
            apart.row(row);
        }
    }
    let missed: Vec<_> = all.iter().flat_map(|series| series.missed.clone()).collect();
    let verdict = if missed.is_empty() { "every bar is met".into() } else { missed.join("\n") };
    format!(
        "longest silence in ms of pings every 10 ms, and of a TCP connection that beats every 10 ms\n\n{}\n{}\n{verdict}",
        table.render(),
        apart.render()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_that_is_missed_is_named() {
        let sample = Sample {
            topology: "ladder".into(),
            mesh: 0,
            target: "n1".into(),
            path: vec![0, 1, 2],
            at_ms: 0.0,
            injecting_ms: 0.0,
            gap_ms: 250.0,
            healed: true,
            return_gap_ms: 10.0,
            beat_gap_ms: 300.0,
            beat_return_gap_ms: 10.0,
            stalls: Vec::new(),
            routed_ms: Some(3100.0),
            links_ms: Some(3100.0),
            amiss: None,
        };
        let mut series = Series::new(Kind::Sigstop);
        series.samples.push(sample);
        series.sum_up();
        assert_eq!(
            series.missed,
            ["sigstop: ping p50 250 ms, bar 200 ms", "sigstop: routed again 3100 ms, bar 3000 ms"]
        );
        assert!(series.failures().is_empty());
        assert!(table(&[series]).contains("ping p50 250 ms"));
    }
}
