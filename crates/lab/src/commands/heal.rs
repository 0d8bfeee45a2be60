//! Breaks the node or link that carries the traffic, again and again, and measures how long nothing comes through.

use std::time::Duration;

use anyhow::{Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::context::Context;
use crate::measure::heartbeat::{self, Heartbeat};
use crate::measure::stall::{Stall, Ticker};
use crate::measure::stats::{Summary, longest_gap};
use crate::measure::stream::{self, Outcome, Receiver};
use crate::mesh::fault::{Fault, HOLD, Kind};
use crate::mesh::form::{Formed, Mesh, WHOLE_WAIT};
use crate::mesh::ping::PingRun;
use crate::mesh::tunnel::Tunnel;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, cells};

/// Pings before the fault: enough to know the normal state, and a random rest so that no timer of a node is met in step.
const LEAD: Duration = Duration::from_millis(500);
const LEAD_RANDOM_MS: u64 = 300;

/// Pings after the fault was undone, to see what its return does.
const TAIL: Duration = Duration::from_millis(1500);

/// Pings of a run: lead, fault and tail, and some for the time that tools take.
const PINGS: u32 = 520;

/// Without a reply in this last part of the fault it was not healed.
const LAST_PART_MS: f64 = 500.0;

/// Size of the stream that crosses the dying node.
const STREAM_BYTES: u64 = 100_000_000;

/// The fault strikes when this much of the stream has come.
const STREAM_STRIKE: u64 = STREAM_BYTES * 3 / 10;

/// Faults that may fail in a row before the run is given up: something other than a fault is broken then.
const MAX_ERRORS: usize = 3;

/// Local ports of the heartbeat and the stream: service and listener.
const BEAT_PORTS: (u16, u16) = (7001, 7101);
const STREAM_PORTS: (u16, u16) = (7002, 7102);

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    target: String,
    /// Nodes on the path before.
    path: Vec<usize>,
    at_ms: f64,
    /// How long breaking took the lab.
    injecting_ms: f64,
    /// Longest time without a ping's reply while broken.
    gap_ms: f64,
    healed: bool,
    /// The same after it was undone.
    return_gap_ms: f64,
    /// Longest time without an echo of the TCP heartbeat while broken, and after.
    beat_gap_ms: f64,
    beat_return_gap_ms: f64,
    /// Times within the gap's window at which the machine itself stood still.
    stalls: Vec<Stall>,
    /// From undoing it until the mesh was as before; none if it did not become so.
    whole_ms: Option<f64>,
    /// What was still not as before.
    amiss: Option<String>,
}

/// All faults of a kind on a topology.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) topology: String,
    pub(crate) kind: Kind,
    pub(crate) formed: Formed,
    pub(crate) samples: Vec<Sample>,
    /// What stopped a fault from being measured.
    pub(crate) errors: Vec<String>,
    pub(crate) gap: Option<Summary>,
    pub(crate) return_gap: Option<Summary>,
    pub(crate) beat_gap: Option<Summary>,
    pub(crate) not_healed: usize,
    pub(crate) not_whole: usize,
    pub(crate) beats_broken: u64,
    pub(crate) stream: Option<Outcome>,
}

impl Series {
    /// What makes a series a failure whatever the machine: unhealed faults, broken connections, unequal bytes.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |condition: bool, what: String| {
            if condition {
                found.push(format!("{} on {}: {what}", self.kind.name(), self.topology));
            }
        };
        note(self.not_healed > 0, format!("{} not healed", self.not_healed));
        note(self.not_whole > 0, format!("{} times not whole again", self.not_whole));
        note(self.beats_broken > 0, format!("{} TCP connections broken", self.beats_broken));
        note(!self.errors.is_empty(), format!("not measured: {}", self.errors.join("; ")));
        note(self.stream.as_ref().is_some_and(|s| !s.bytes_equal), "the stream's bytes differ".into());
        found
    }
}

/// Measures one series on a mesh of its own.
pub(crate) fn series(
    context: &Context,
    topology: &Topology,
    medium: Medium,
    kind: Kind,
    count: usize,
    with_stream: bool,
) -> Result<Series> {
    let (mut mesh, formed) = context.mesh(topology.clone(), medium, None)?;
    let measured = measure(context, &mut mesh, formed, kind, count, with_stream);
    context.clear(mesh);
    measured
}

fn measure(
    context: &Context,
    mesh: &mut Mesh,
    formed: Formed,
    kind: Kind,
    count: usize,
    with_stream: bool,
) -> Result<Series> {
    let (from, to) = mesh.ends()?;
    heartbeat::serve_echo(&to.host, BEAT_PORTS.0)?;
    let tunnel = Tunnel::open(from, to, "beat", BEAT_PORTS.0, BEAT_PORTS.1)?;
    let heart = Heartbeat::start(&from.host, tunnel.address, context.start)?;
    let ticker = Ticker::start(context.start);
    let mut rng = SmallRng::seed_from_u64(context.seed ^ kind as u64);
    let mut series = Series {
        topology: mesh.network.topology.name.clone(),
        kind,
        formed,
        samples: Vec::new(),
        errors: Vec::new(),
        gap: None,
        return_gap: None,
        beat_gap: None,
        not_healed: 0,
        not_whole: 0,
        beats_broken: 0,
        stream: None,
    };
    let mut errors_in_a_row = 0;
    for number in 0..count {
        match sample(context, mesh, kind, &heart, &ticker, &mut rng) {
            Ok(sample) => {
                errors_in_a_row = 0;
                println!("{}", sample.line(kind, number + 1, count));
                series.samples.push(sample);
            }
            Err(error) => {
                println!("{} {}/{count}: not measured: {error:#}", kind.name(), number + 1);
                series.errors.push(format!("{error:#}"));
                errors_in_a_row += 1;
                if errors_in_a_row == MAX_ERRORS {
                    break;
                }
            }
        }
    }
    if with_stream && errors_in_a_row == 0 {
        match strike_stream(context, mesh, kind, &mut rng) {
            Ok(outcome) => series.stream = Some(outcome),
            Err(error) => series.errors.push(format!("stream: {error:#}")),
        }
    }
    series.gap = Summary::of(series.samples.iter().map(|sample| sample.gap_ms));
    series.return_gap = Summary::of(series.samples.iter().map(|sample| sample.return_gap_ms));
    series.beat_gap = Summary::of(series.samples.iter().map(|sample| sample.beat_gap_ms));
    series.not_healed = series.samples.iter().filter(|sample| !sample.healed).count();
    series.not_whole = series.samples.iter().filter(|sample| sample.whole_ms.is_none()).count();
    series.beats_broken = heart.broken();
    Ok(series)
}

fn sample(
    context: &Context,
    mesh: &mut Mesh,
    kind: Kind,
    heart: &Heartbeat,
    ticker: &Ticker,
    rng: &mut SmallRng,
) -> Result<Sample> {
    if let Some(amiss) = mesh.wait_whole(WHOLE_WAIT) {
        bail!("the mesh is not whole before the fault: {amiss}");
    }
    let path = mesh.path()?;
    let fault = Fault::plan(kind, mesh, &path, rng)?;
    let (from, to) = mesh.ends()?;
    let pings = PingRun::start(from, &to.name, PINGS, context.start)?;
    pings.flowing(Duration::from_secs(2))?;
    std::thread::sleep(LEAD + Duration::from_millis(rng.random_range(0..LEAD_RANDOM_MS)));
    let begun = context.now();
    fault.inject(mesh)?;
    let injected = context.now();
    std::thread::sleep(HOLD);
    let undone = context.now();
    fault.undo(mesh)?;
    let settled = fault.settle(mesh);
    std::thread::sleep(TAIL.saturating_sub(Duration::from_secs_f64((context.now() - undone) / 1e3)));
    let end = context.now();
    // Pings that are still to come prove nothing more; the last replies are before `end`.
    let replies = pings.finish()?.replies;
    settled?;
    let amiss = mesh.wait_whole(WHOLE_WAIT);
    let beats = heart.since(begun - 1000.0);
    Ok(Sample {
        target: fault.target(),
        path,
        at_ms: begun,
        injecting_ms: injected - begun,
        gap_ms: longest_gap(&replies, begun, undone),
        healed: replies.iter().any(|time| (undone - LAST_PART_MS..undone).contains(time)),
        return_gap_ms: longest_gap(&replies, undone, end),
        beat_gap_ms: longest_gap(&beats, begun, undone),
        beat_return_gap_ms: longest_gap(&beats, undone, end),
        stalls: ticker.between(begun, end),
        whole_ms: amiss.is_none().then(|| context.now() - undone),
        amiss,
    })
}

impl Sample {
    fn line(&self, kind: Kind, number: usize, count: usize) -> String {
        let stalls = match self.stalls.iter().map(|stall| stall.length_ms).fold(0.0, f64::max) {
            0.0 => String::new(),
            longest => format!(", machine stood still for {longest:.0} ms"),
        };
        let whole = self.whole_ms.map_or_else(
            || format!("NOT WHOLE: {}", self.amiss.as_deref().unwrap_or_default()),
            |whole| format!("whole after {whole:.0} ms"),
        );
        let gap = if self.healed { "gap" } else { "NOT HEALED, gap" };
        format!(
            "{} {number}/{count} {}: {gap} {:.0} ms (TCP {:.0}), on return {:.0} ms (TCP {:.0}), {whole}{stalls}",
            kind.name(),
            self.target,
            self.gap_ms,
            self.beat_gap_ms,
            self.return_gap_ms,
            self.beat_return_gap_ms,
        )
    }
}

/// Sends a long stream, breaks the path when a part has come, and compares what arrives.
fn strike_stream(context: &Context, mesh: &mut Mesh, kind: Kind, rng: &mut SmallRng) -> Result<Outcome> {
    if let Some(amiss) = mesh.wait_whole(WHOLE_WAIT) {
        bail!("the mesh is not whole before the stream: {amiss}");
    }
    let path = mesh.path()?;
    let fault = Fault::plan(kind, mesh, &path, rng)?;
    let (from, to) = mesh.ends()?;
    let receiver = Receiver::listen(&to.host, STREAM_PORTS.0, STREAM_BYTES, context.seed)?;
    let tunnel = Tunnel::open(from, to, "stream", STREAM_PORTS.0, STREAM_PORTS.1)?;
    stream::send(&from.host, tunnel.address, STREAM_BYTES, context.seed)?;
    let deadline = context.now() + 20_000.0;
    while receiver.received() < STREAM_STRIKE {
        if context.now() > deadline {
            bail!("only {} bytes came within 20 s, before any fault", receiver.received());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    fault.inject(mesh)?;
    std::thread::sleep(HOLD);
    fault.undo(mesh)?;
    let outcome = receiver.outcome(Duration::from_secs(60));
    fault.settle(mesh)?;
    println!(
        "{} during a stream at {}: {} of {STREAM_BYTES} bytes, {}, {:.2} s, longest stall {:.0} ms",
        kind.name(),
        fault.target(),
        outcome.bytes,
        if outcome.bytes_equal { "equal" } else { "NOT EQUAL" },
        outcome.seconds,
        outcome.longest_stall_ms,
    );
    Ok(outcome)
}

/// The readable table of several series.
pub(crate) fn table(all: &[Series]) -> String {
    let mut table = Table::new(&[
        "fault",
        "topology",
        "N",
        "p50",
        "p95",
        "p99",
        "max",
        "not healed",
        "TCP p50",
        "TCP max",
        "TCP broken",
        "return p99",
        "stream",
    ]);
    for series in all {
        let [p50, p95, p99, max] = cells(series.gap);
        let [beat_p50, _, _, beat_max] = cells(series.beat_gap);
        let [_, _, return_p99, _] = cells(series.return_gap);
        let stream = series.stream.as_ref().map_or("–", |s| if s.bytes_equal { "equal" } else { "DIFFERS" });
        table.row(vec![
            series.kind.name().into(),
            series.topology.clone(),
            series.samples.len().to_string(),
            p50,
            p95,
            p99,
            max,
            series.not_healed.to_string(),
            beat_p50,
            beat_max,
            series.beats_broken.to_string(),
            return_p99,
            stream.into(),
        ]);
    }
    format!("longest gap in ms of pings every 10 ms\n{}", table.render())
}

/// `meshara-lab heal`.
pub(crate) fn command(
    context: &Context,
    topologies: &[Topology],
    kinds: &[Kind],
    medium: Medium,
    count: usize,
    with_stream: bool,
) -> Result<()> {
    let mut all = Vec::new();
    for topology in topologies {
        for kind in kinds {
            all.push(series(context, topology, medium, *kind, count, with_stream)?);
            context.write("heal", &all)?;
        }
    }
    println!("\n{}", table(&all));
    let failures: Vec<_> = all.iter().flat_map(Series::failures).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
