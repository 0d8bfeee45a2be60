//! Breaks the node or link that carries the traffic, again and again, and measures how long nothing comes through.

mod report;

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::report::MeshReport;
pub(crate) use self::report::{Sample, Series, table};
use crate::context::Context;
use crate::measure::heartbeat::{Echo, Heartbeat};
use crate::measure::stall::Ticker;
use crate::measure::stats::longest_gap;
use crate::measure::stream::{self, Outcome, Receiver};
use crate::mesh::fault::{Fault, HOLD, Kind};
use crate::mesh::form::{Mesh, WHOLE_WAIT};
use crate::mesh::ping::PingRun;
use crate::mesh::tunnel::Tunnel;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::net::wire::WireConfig;

/// Time before a fault, at random between these, so that no timer of a node is met in step.
const LEAD_MS: std::ops::Range<u64> = 100..300;

/// Time after a fault was undone, to see what its return does.
const TAIL: Duration = Duration::from_millis(500);

/// The bar speaks of paths up to this long.
const MAX_HOPS: usize = 4;

/// Wait for a path of at most that many hops. Where links have no delay, a longer path costs hardly more and may stay in use.
const PATH_WAIT: Duration = Duration::from_millis(600);

/// More pings than any mesh of the lab lives for (2.7 hours); the run ends with its mesh.
const PINGS: u32 = 1_000_000;

/// Without a reply in this last part of the fault it was not healed.
const LAST_PART_MS: f64 = 300.0;

/// How long the output of the ping command may take to reach the lab.
const LINE_WAIT: Duration = Duration::from_millis(30);

/// Size of the stream that crosses the dying node.
const STREAM_BYTES: u64 = 100_000_000;

/// The fault strikes when this much of the stream has come.
const STREAM_STRIKE: u64 = STREAM_BYTES * 3 / 10;

/// Faults that may fail in a row before the run is given up: something other than a fault is broken then.
const MAX_ERRORS: usize = 3;

/// Local ports of the heartbeat and the stream: service and listener.
const BEAT_PORTS: (u16, u16) = (7001, 7101);
const STREAM_PORTS: (u16, u16) = (7002, 7102);

/// A shape and the round trip of each of its links.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Site {
    name: String,
    shape: String,
    /// None: veth pairs, without delay.
    rtt: Option<Duration>,
}

impl FromStr for Site {
    type Err = anyhow::Error;

    /// `SHAPE` or `SHAPE@MS`.
    fn from_str(text: &str) -> Result<Self> {
        let (shape, rtt) = match text.split_once('@') {
            None => (text, None),
            Some((shape, ms)) => {
                let ms: f64 =
                    ms.parse().with_context(|| format!("`{text}`: `{ms}` is no round trip in ms"))?;
                ensure!((0.0..10_000.0).contains(&ms), "`{text}`: a round trip of 0 to 10,000 ms");
                (shape, Some(Duration::from_secs_f64(ms / 1e3)))
            }
        };
        Topology::parse(shape, 0)?;
        Ok(Self { name: text.to_owned(), shape: shape.to_owned(), rtt })
    }
}

/// How faults are dealt out.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Meshes are formed on these in turn.
    pub(crate) sites: Vec<Site>,
    pub(crate) kinds: Vec<Kind>,
    /// Faults of each kind.
    pub(crate) count: usize,
    /// Faults on one mesh; then it is formed anew.
    pub(crate) per_mesh: usize,
    /// Of each link.
    pub(crate) loss: f64,
    /// Of each link.
    pub(crate) jitter: Duration,
    /// Whether a stream crosses a dying node, once on each site for each kind.
    pub(crate) stream: bool,
    /// Time for each kind; a fault that has begun is measured to its end.
    pub(crate) budget: Option<Duration>,
}

impl Plan {
    fn medium(&self, site: &Site) -> Medium {
        if site.rtt.is_none() && self.loss == 0.0 && self.jitter.is_zero() {
            return Medium::Veth;
        }
        let rtt = site.rtt.unwrap_or_default();
        Medium::Wire(WireConfig { jitter: self.jitter, ..WireConfig::new(rtt, self.loss) })
    }
}

/// Measures one series, mesh after mesh. `note` is called after each mesh with what there is so far.
pub(crate) fn series(
    context: &Context,
    plan: &Plan,
    kind: Kind,
    mut note: impl FnMut(&Series) -> Result<()>,
) -> Result<Series> {
    let mut series = Series::new(kind);
    let begun = Instant::now();
    let over = || plan.budget.is_some_and(|budget| begun.elapsed() >= budget);
    let mut rng = SmallRng::seed_from_u64(context.seed ^ kind as u64);
    let mut failed_in_a_row = 0;
    for number in 0.. {
        let left = plan.count.saturating_sub(series.samples.len() + series.errors.len());
        if left == 0 || over() || failed_in_a_row >= MAX_ERRORS {
            break;
        }
        let site = plan.sites.get(number % plan.sites.len().max(1)).context("no topology")?;
        // A random shape is another one each time.
        let topology = Topology::parse(&site.shape, context.seed.wrapping_add(number as u64))?;
        let (mut mesh, formed) = context.mesh(topology, plan.medium(site))?;
        let ticker = Ticker::start(context.start);
        let mut trial =
            Trial { context, mesh: &mut mesh, site, number, kind, ticker: &ticker, rng: &mut rng };
        let mut report = MeshReport { topology: site.name.clone(), formed, stream: None, beats_broken: 0 };
        for outcome in trial.faults(left.min(plan.per_mesh), &mut report.beats_broken, &over)? {
            match outcome {
                Ok(sample) => {
                    failed_in_a_row = 0;
                    series.samples.push(sample);
                }
                Err(error) => {
                    failed_in_a_row += 1;
                    series.errors.push(format!("{}: {error:#}", site.name));
                }
            }
        }
        if plan.stream && number < plan.sites.len() {
            match trial.strike_stream() {
                Ok(outcome) => report.stream = Some(outcome),
                Err(error) => series.errors.push(format!("{}: stream: {error:#}", site.name)),
            }
        }
        series.meshes.push(report);
        drop(ticker);
        context.clear(mesh);
        series.sum_up();
        note(&series)?;
    }
    Ok(series)
}

/// Faults on one mesh.
struct Trial<'a> {
    context: &'a Context,
    mesh: &'a mut Mesh,
    site: &'a Site,
    number: usize,
    kind: Kind,
    ticker: &'a Ticker,
    rng: &'a mut SmallRng,
}

impl Trial<'_> {
    fn faults(
        &mut self,
        count: usize,
        broken: &mut u64,
        over: &dyn Fn() -> bool,
    ) -> Result<Vec<Result<Sample>>> {
        let (from, to) = self.mesh.ends()?;
        let _echo = Echo::start(&to.host, BEAT_PORTS.0)?;
        let tunnel = Tunnel::open(from, to, "beat", BEAT_PORTS.0, BEAT_PORTS.1)?;
        let heart = Heartbeat::start(&from.host, tunnel.address, self.context.start)?;
        let pings = PingRun::start(from, &to.name, PINGS, self.context.start)?;
        pings.flowing(Duration::from_secs(5))?;
        let mut outcomes = Vec::new();
        for number in 0..count {
            if over() {
                break;
            }
            let outcome = self.fault(&heart, &pings);
            let said = match &outcome {
                Ok(sample) => sample.line(),
                Err(error) => format!("not measured: {error:#}"),
            };
            println!("{} {}/{count} on {}: {said}", self.kind.name(), number + 1, self.site.name);
            outcomes.push(outcome);
        }
        *broken = heart.broken();
        Ok(outcomes)
    }

    /// Waits until the mesh is whole and its path short; the path.
    fn ready(&self) -> Result<Vec<usize>> {
        if let Err(amiss) = self.mesh.wait_whole(Instant::now(), WHOLE_WAIT) {
            bail!("the mesh is not whole before the fault: {amiss}");
        }
        let begun = Instant::now();
        loop {
            let path = self.mesh.path();
            let short = path.as_ref().is_ok_and(|path| path.len() <= MAX_HOPS + 1);
            if short || begun.elapsed() > PATH_WAIT {
                return path;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn fault(&mut self, heart: &Heartbeat, pings: &PingRun) -> Result<Sample> {
        let path = self.ready()?;
        let fault = Fault::plan(self.kind, self.mesh, &path, self.rng)?;
        let now = || self.context.now();
        std::thread::sleep(Duration::from_millis(self.rng.random_range(LEAD_MS)));
        let begun = now();
        fault.inject(self.mesh)?;
        let injected = now();
        // A restarted node comes back by itself; any other fault lasts for a while.
        let restart = self.kind == Kind::Restart;
        if !restart {
            std::thread::sleep(HOLD);
        }
        let (undone, since) = (now(), Instant::now());
        fault.undo(self.mesh)?;
        fault.settle(self.mesh)?;
        let whole = self.mesh.wait_whole(since, WHOLE_WAIT);
        let least = if restart { HOLD } else { TAIL };
        std::thread::sleep(least.saturating_sub(since.elapsed()));
        let end = now();
        std::thread::sleep(LINE_WAIT);
        let (replies, beats) = (pings.replies(), heart.since(begun - 1000.0));
        let healed_by = if restart { end } else { undone };
        let (routed_ms, links_ms, amiss) = match whole {
            Ok(whole) => (Some(whole.routed_ms), Some(whole.links_ms), None),
            Err(amiss) => (None, None, Some(amiss)),
        };
        Ok(Sample {
            topology: self.site.name.clone(),
            mesh: self.number,
            target: fault.target(),
            path,
            at_ms: begun,
            injecting_ms: injected - begun,
            gap_ms: longest_gap(&replies, begun, healed_by),
            healed: replies.iter().any(|time| (healed_by - LAST_PART_MS..healed_by).contains(time)),
            return_gap_ms: longest_gap(&replies, undone, end),
            beat_gap_ms: longest_gap(&beats, begun, healed_by),
            beat_return_gap_ms: longest_gap(&beats, undone, end),
            stalls: self.ticker.between(begun, end),
            routed_ms,
            links_ms,
            amiss,
        })
    }

    /// Sends a long stream, breaks the path when a part has come, and compares what arrives.
    fn strike_stream(&mut self) -> Result<Outcome> {
        let path = self.ready()?;
        let fault = Fault::plan(self.kind, self.mesh, &path, self.rng)?;
        let (from, to) = self.mesh.ends()?;
        let receiver = Receiver::listen(&to.host, STREAM_PORTS.0, STREAM_BYTES, self.context.seed)?;
        let tunnel = Tunnel::open(from, to, "stream", STREAM_PORTS.0, STREAM_PORTS.1)?;
        stream::send(&from.host, tunnel.address, STREAM_BYTES, self.context.seed)?;
        let begun = Instant::now();
        while receiver.received() < STREAM_STRIKE {
            if begun.elapsed() > Duration::from_secs(20) {
                bail!("only {} bytes came within 20 s, before any fault", receiver.received());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        fault.inject(self.mesh)?;
        std::thread::sleep(HOLD);
        fault.undo(self.mesh)?;
        let outcome = receiver.outcome(Duration::from_secs(60));
        fault.settle(self.mesh)?;
        println!(
            "{} during a stream at {} on {}: {} of {STREAM_BYTES} bytes, {}, {:.2} s, longest stall {:.0} ms",
            self.kind.name(),
            fault.target(),
            self.site.name,
            outcome.bytes,
            if outcome.bytes_equal { "equal" } else { "NOT EQUAL" },
            outcome.seconds,
            outcome.longest_stall_ms,
        );
        Ok(outcome)
    }
}

/// `meshara-lab heal`.
pub(crate) fn command(context: &Context, plan: &Plan) -> Result<()> {
    ensure!(plan.per_mesh > 0, "--per-mesh: at least 1");
    let mut all = Vec::new();
    for kind in &plan.kinds {
        let series = series(context, plan, *kind, |so_far| {
            let with: Vec<_> = all.iter().chain([so_far]).collect();
            context.write("heal", &with)
        })?;
        all.push(series);
    }
    println!("\n{}", table(&all));
    let failures: Vec<_> = all.iter().flat_map(Series::failures).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_a_shape_and_its_round_trip() {
        let site: Site = "ring-8@5".parse().unwrap();
        assert_eq!((site.shape.as_str(), site.rtt), ("ring-8", Some(Duration::from_millis(5))));
        assert_eq!("ladder".parse::<Site>().unwrap().rtt, None);
        for wrong in ["circle", "ring-8@", "ring-8@-1", "ring-8@x"] {
            assert!(wrong.parse::<Site>().is_err(), "{wrong}");
        }
    }
}
