//! A healthy mesh, idle and loaded, watched for suspicions and gaps that nothing but the machine explains.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::context::Context;
use crate::measure::stall::{Stall, Ticker};
use crate::mesh::form::Mesh;
use crate::mesh::ping::{INTERVAL, PingRun};
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, number};

/// One slice: pings for this long, then a look at the counters.
const SLICE: Duration = Duration::from_secs(20);

/// A gap above this counts, unless the machine stood still meanwhile for that long.
const GAP_MS: f64 = 400.0;

/// One phase.
#[derive(Debug, Clone, Serialize)]
struct Phase {
    name: &'static str,
    minutes: f64,
    pings_sent: u64,
    pings_lost: u64,
    longest_gap_ms: f64,
    /// Gaps above the limit that no stall of the machine explains: time, length.
    gaps: Vec<(f64, f64)>,
    stalls: Vec<Stall>,
    /// Growth of every counter that speaks of suspicion or death, summed over nodes.
    events: BTreeMap<String, f64>,
}

/// `meshara-lab false-suspicion`: half of the time idle, half loaded.
pub(crate) fn command(context: &Context, topology: Topology, minutes: f64) -> Result<()> {
    let (mesh, _) = context.mesh(topology, Medium::Veth)?;
    let slices = ((minutes * 30.0 / SLICE.as_secs_f64()).round() as usize).max(1);
    let phases =
        [phase(context, &mesh, "idle", slices, false)?, phase(context, &mesh, "loaded", slices, true)?];
    let mut table = Table::new(&[
        "phase",
        "minutes",
        "pings",
        "lost",
        "longest gap ms",
        "gaps > 400 ms",
        "stalls",
        "longest stall",
    ]);
    for phase in &phases {
        let longest = phase.stalls.iter().map(|stall| stall.length_ms).fold(0.0, f64::max);
        table.row(vec![
            phase.name.into(),
            number(Some(phase.minutes)),
            phase.pings_sent.to_string(),
            phase.pings_lost.to_string(),
            number(Some(phase.longest_gap_ms)),
            phase.gaps.len().to_string(),
            phase.stalls.len().to_string(),
            number(Some(longest)),
        ]);
    }
    println!("{}", table.render());
    for phase in &phases {
        println!("{}: {:?}", phase.name, phase.events);
    }
    context.write("false-suspicion", &phases)?;
    context.clear(mesh);
    let dead =
        |phase: &Phase| phase.events.iter().any(|(name, count)| name.contains("death") && *count > 0.0);
    if phases.iter().any(|phase| !phase.gaps.is_empty() || dead(phase)) {
        bail!("a healthy mesh lost links or pings");
    }
    Ok(())
}

fn phase(context: &Context, mesh: &Mesh, name: &'static str, slices: usize, loaded: bool) -> Result<Phase> {
    let (from, to) = mesh.ends()?;
    let ticker = Ticker::start(context.start);
    let before = events(mesh);
    let begun = context.now();
    let mut phase = Phase {
        name,
        minutes: 0.0,
        pings_sent: 0,
        pings_lost: 0,
        longest_gap_ms: 0.0,
        gaps: Vec::new(),
        stalls: Vec::new(),
        events: BTreeMap::new(),
    };
    for _ in 0..slices {
        let count = u32::try_from(SLICE.as_millis() / INTERVAL.as_millis())?;
        let run = PingRun::start(from, &to.name, count, context.start)?;
        if loaded {
            // A bench from the other end loads every link of the path; its own result does not matter here.
            let seconds = format!("{}s", SLICE.as_secs() - 2);
            to.run(&["bench", &from.name, "--duration", &seconds])?;
        }
        let pings = run.finish()?;
        phase.pings_sent += pings.summary.sent;
        phase.pings_lost += pings.summary.sent - pings.summary.received;
        for pair in pings.replies.windows(2) {
            let [earlier, later] = *pair else { continue };
            let gap = later - earlier;
            phase.longest_gap_ms = phase.longest_gap_ms.max(gap);
            let stood_still: f64 = ticker.between(earlier, later).iter().map(|stall| stall.length_ms).sum();
            if gap - stood_still > GAP_MS {
                println!("{name}: a gap of {gap:.0} ms at {earlier:.0} ms");
                phase.gaps.push((earlier, gap));
            }
        }
    }
    phase.minutes = (context.now() - begun) / 60_000.0;
    phase.stalls = ticker.all();
    for (name, count) in events(mesh) {
        phase.events.insert(name.clone(), count - before.get(&name).copied().unwrap_or_default());
    }
    Ok(phase)
}

/// Every counter of every node that speaks of suspicion or death.
fn events(mesh: &Mesh) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for metrics in mesh.nodes.iter().filter_map(|node| node.metrics().ok()) {
        for (name, value) in samples(&metrics) {
            let lower = name.to_ascii_lowercase();
            if ["suspicion", "death", "recover", "stall"].iter().any(|word| lower.contains(word)) {
                *sums.entry(name.to_owned()).or_default() += value;
            }
        }
    }
    sums
}

/// Samples of a Prometheus text: name with labels, value.
fn samples(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text_gives_samples() {
        let text =
            "# HELP a b\n# TYPE links_suspect counter\nlinks_suspect_total{kind=\"x y\"} 3\nother 1.5\nbad\n";
        let found: Vec<_> = samples(text).collect();
        assert_eq!(found, [("links_suspect_total{kind=\"x y\"}", 3.0), ("other", 1.5)]);
    }
}
