//! Certificates that live for half a minute, renewed again and again under load: streams must not end, messages not be lost, and the mesh must
//! not need the node that made it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::measure::heartbeat::{Echo, Heartbeat};
use crate::measure::stall::{Stall, Ticker, ms};
use crate::measure::stats::{Summary, longest_gap};
use crate::mesh::fault::{Fault, Kind};
use crate::mesh::form::{Mesh, WHOLE_WAIT};
use crate::mesh::mail::{Mail, Outcome};
use crate::mesh::tunnel::Tunnel;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, number};

/// Issuers beside the node that made the mesh.
const MORE_ISSUERS: usize = 2;

/// Local ports of the streams: service and listener.
const SERVED: u16 = 7000;
const LISTENED: u16 = 8000;

/// Time between two beats of a stream.
const BEAT: Duration = Duration::from_millis(20);

/// A stream opens a session over several hops, which takes some round trips.
const OPENS: Duration = Duration::from_secs(10);

/// Between two looks at every node's certificate; much shorter than they live.
const LOOK: Duration = Duration::from_millis(250);

/// After the end: for messages that were acknowledged, and for the killed issuer to be back.
const GRACE: Duration = Duration::from_secs(15);
const RETURN: Duration = Duration::from_secs(30);

/// An audit fetches what the node lacks, and looks again where something is a second too young.
const AUDIT: Duration = Duration::from_secs(60);

/// Gaps of streams above this are kept by themselves.
const GAP_MS: f64 = 100.0;

/// Certificates are renewed at 45 to 55 % of their life. An issuer that is dead costs 2 s before the next is asked; the rest is for a loaded
/// machine.
const RENEWS_AT: f64 = 0.55;
const RENEWS_WITHIN: Duration = Duration::from_secs(5);

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Life of certificates.
    pub(crate) life: Duration,
    pub(crate) lasts: Duration,
    /// Messages a second, all nodes together.
    pub(crate) rate: f64,
    /// Least share of that rate.
    pub(crate) least_share: f64,
    /// Kill the node that made the mesh half way, and start it again at three quarters.
    pub(crate) kills: bool,
}

/// A certificate that came into use.
#[derive(Debug, Clone, Serialize)]
struct Renewal {
    at_ms: f64,
    node: usize,
    issuer: String,
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
struct Stream {
    from: usize,
    to: usize,
    echoes: usize,
    /// Connections that ended, or that brought a wrong byte.
    dropped: u64,
    longest_gap_ms: f64,
    /// Gaps above 100 ms: time, length.
    gaps: Vec<(f64, f64)>,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Rotated {
    nodes: usize,
    life_s: f64,
    seconds: f64,
    issuers: Vec<usize>,
    /// The node that made the mesh: killed and started again.
    killed_ms: Option<f64>,
    restarted_ms: Option<f64>,
    /// From its start until it was routed, with a certificate that it got since.
    returned_ms: Option<f64>,
    renewals: Vec<Renewal>,
    streams: Vec<Stream>,
    messages: Outcome,
    /// Sums of counters of all nodes.
    counters: BTreeMap<String, f64>,
    /// Times at which the machine itself stood still.
    stalls: Vec<Stall>,
    audit: Value,
    failures: Vec<String>,
}

/// `meshara-lab rotate`.
pub(crate) fn command(
    context: &Context,
    nodes: usize,
    leaf_life_s: u64,
    minutes: f64,
    rate: f64,
) -> Result<()> {
    ensure!(nodes > MORE_ISSUERS + 2, "at least {} nodes", MORE_ISSUERS + 3);
    let plan = Plan {
        life: Duration::from_secs(leaf_life_s),
        lasts: Duration::try_from_secs_f64(minutes * 60.0)?,
        rate,
        least_share: 0.95,
        kills: true,
    };
    let mut mesh = form(context, &format!("random-{nodes}"), &plan)?;
    let (found, measured) = measure(context, &mut mesh, &plan);
    context.clear(mesh);
    context.write("rotate", &found)?;
    println!("\n{}", found.table().render());
    measured?;
    if !found.failures.is_empty() {
        bail!("{}", found.failures.join("\n"));
    }
    Ok(())
}

/// A mesh with such lives.
pub(crate) fn form(context: &Context, topology: &str, plan: &Plan) -> Result<Mesh> {
    let life = format!("{}s", plan.life.as_secs());
    let topology = Topology::parse(topology, context.seed)?;
    Ok(context.mesh_made(topology, Medium::Veth, &["--leaf-life", &life])?.0)
}

impl Rotated {
    /// What is wrong.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Who issued.
    pub(crate) fn issuers(&self) -> &[usize] {
        &self.issuers
    }

    fn renewals_of(&self, node: usize) -> Vec<f64> {
        self.renewals.iter().filter(|renewal| renewal.node == node).map(|renewal| renewal.at_ms).collect()
    }

    /// The figures for people.
    pub(crate) fn table(&self) -> Table {
        let per_node = Summary::of((0..self.nodes).map(|node| self.renewals_of(node).len() as f64));
        let least = (0..self.nodes).map(|node| self.renewals_of(node).len()).min().unwrap_or_default();
        let gap = self.streams.iter().map(|stream| stream.longest_gap_ms).fold(0.0, f64::max);
        let silence = self.messages.gaps.iter().map(|gap| gap.2).fold(0.0, f64::max);
        let stall = self.stalls.iter().map(|stall| stall.length_ms).fold(0.0, f64::max);
        let mut table = Table::new(&["rotated", ""]);
        let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
        row("seconds", number(Some(self.seconds)));
        row("certificates renewed", self.renewals.len().to_string());
        row(
            "by a node: least, median",
            format!("{least}, {}", number(per_node.map(|per_node| per_node.p50))),
        );
        row("streams", self.streams.len().to_string());
        row("streams dropped", self.dropped().to_string());
        row("longest gap of a stream, ms", number(Some(gap)));
        row("messages acknowledged", self.messages.acknowledged.to_string());
        row("a second", number(Some(self.messages.rate)));
        row("lost", self.messages.lost.to_string());
        row("doubled", self.messages.doubled.to_string());
        row("failed", self.messages.failed.to_string());
        row("acknowledged after ms, p50", number(self.messages.ack_ms.map(|ack| ack.p50)));
        row("acknowledged after ms, p99", number(self.messages.ack_ms.map(|ack| ack.p99)));
        row("acknowledged after ms, longest", number(self.messages.ack_ms.map(|ack| ack.max)));
        row("longest without a message, ms", number(Some(silence)));
        row("killed issuer back after ms", number(self.returned_ms));
        row("longest stall of the machine, ms", number(Some(stall)));
        table
    }

    fn dropped(&self) -> u64 {
        self.streams.iter().map(|stream| stream.dropped).sum()
    }

    /// Judges what was measured.
    fn judge(&mut self, plan: &Plan, begun_ms: f64, ended_ms: f64) {
        let dropped = self.dropped();
        if dropped > 0 {
            self.failures.push(format!("{dropped} streams were dropped"));
        }
        let Outcome { lost, doubled, failed, rate, .. } = self.messages;
        for (count, what) in [(lost, "lost"), (doubled, "doubled"), (failed, "not acknowledged")] {
            if count > 0 {
                self.failures.push(format!("{count} messages were {what}"));
            }
        }
        if rate < plan.rate * plan.least_share {
            self.failures.push(format!("{rate:.0} messages a second instead of {}", plan.rate));
        }
        let longest = ms(plan.life.mul_f64(RENEWS_AT) + RENEWS_WITHIN);
        for node in (0..self.nodes).filter(|node| *node != 0 || !plan.kills) {
            let gap = longest_gap(&self.renewals_of(node), begun_ms, ended_ms);
            if gap > longest {
                self.failures.push(format!("n{node} had one certificate for {:.1} s", gap / 1e3));
            }
        }
    }
}

/// A stream under way.
struct Live {
    from: usize,
    to: usize,
    heart: Heartbeat,
    _tunnel: Tunnel,
    _echo: Echo,
}

/// Runs the plan on a mesh. What was found so far, also where it could not go on.
pub(crate) fn measure(context: &Context, mesh: &mut Mesh, plan: &Plan) -> (Rotated, Result<()>) {
    let mut found =
        Rotated { nodes: mesh.nodes.len(), life_s: plan.life.as_secs_f64(), ..Rotated::default() };
    let measured = run(context, mesh, plan, &mut found);
    (found, measured)
}

fn run(context: &Context, mesh: &mut Mesh, plan: &Plan, found: &mut Rotated) -> Result<()> {
    found.issuers = add_issuers(mesh)?;
    println!("issuers: {:?}", found.issuers);
    // The node that is killed takes no part: its own streams would end with it.
    let nodes: Vec<usize> = (usize::from(plan.kills)..mesh.nodes.len()).collect();
    let streams = streams(context, mesh, &nodes)?;
    let ticker = Ticker::start(context.start);
    let mut watch = Watch::start(mesh, context.now());
    let begun_ms = context.now();
    let mail = {
        let pairs = across(&nodes, 2).map(|(from, to)| Ok((mesh.node(from)?, mesh.node(to)?)));
        let pairs = pairs.collect::<Result<Vec<_>>>()?;
        Mail::start(&pairs, plan.rate / pairs.len() as f64, plan.lasts, context.start)?
    };
    let begun = Instant::now();
    while begun.elapsed() < plan.lasts {
        let share = begun.elapsed().as_secs_f64() / plan.lasts.as_secs_f64();
        if plan.kills && share >= 0.5 && found.killed_ms.is_none() {
            println!("n0 is killed");
            found.killed_ms = Some(context.now());
            KILL.inject(mesh)?;
        }
        if share >= 0.75 && found.killed_ms.is_some() && found.restarted_ms.is_none() {
            println!("n0 starts again");
            found.restarted_ms = Some(context.now());
            KILL.undo(mesh)?;
        }
        watch.look(mesh, context.now());
        thread::sleep(LOOK);
    }
    let ended_ms = context.now();
    found.seconds = begun.elapsed().as_secs_f64();
    found.messages = mail.finish(GRACE);
    found.streams = streams.iter().map(|stream| stream.outcome(begun_ms, ended_ms)).collect();
    drop(streams);
    if let Some(restarted) = found.restarted_ms {
        found.returned_ms = returned(context, mesh, &mut watch, restarted);
        if found.returned_ms.is_none() {
            found.failures.push("the killed issuer did not come back".to_owned());
        }
    }
    found.renewals = watch.renewals;
    found.failures.append(&mut watch.failures);
    found.counters = counters(mesh);
    found.stalls = ticker.between(begun_ms, ended_ms);
    let audited = mesh.nodes.last().context("no node")?.post_lines("/v1/trust/audit", &json!({}), AUDIT)?;
    found.audit = serde_json::from_str(&audited)?;
    if found.audit.get("ok").and_then(Value::as_bool) != Some(true) {
        found.failures.push(format!("the audit of the logs: {}", found.audit));
    }
    found.judge(plan, begun_ms, ended_ms);
    Ok(())
}

/// The node that made the mesh dies and is started again.
const KILL: Fault = Fault::Node { kind: Kind::Sigkill, node: 0 };

/// Grants two further nodes the right to issue, far apart in numbers; waits until all nodes know. All issuers.
fn add_issuers(mesh: &Mesh) -> Result<Vec<usize>> {
    let count = mesh.nodes.len();
    let mut issuers = vec![0];
    for part in 1..=MORE_ISSUERS {
        let node = part * (count - 1) / MORE_ISSUERS;
        mesh.node(0)?.post("/v1/trust/issuers", &json!({ "node": mesh.node(node)?.name }))?;
        issuers.push(node);
    }
    let begun = Instant::now();
    for node in &mesh.nodes {
        let knows =
            || -> Option<usize> { Some(node.get("/v1/trust").ok()?.get("issuers")?.as_array()?.len()) };
        while knows() != Some(issuers.len()) {
            if begun.elapsed() > WHOLE_WAIT {
                bail!("{} knows {:?} of {} issuers", node.name, knows(), issuers.len());
            }
            thread::sleep(LOOK);
        }
    }
    Ok(issuers)
}

/// Each node with the one that is so many places further in this list.
fn across(nodes: &[usize], step: usize) -> impl Iterator<Item = (usize, usize)> {
    nodes.iter().copied().zip(nodes.iter().copied().cycle().skip(step))
}

fn streams(context: &Context, mesh: &Mesh, nodes: &[usize]) -> Result<Vec<Live>> {
    let mut streams = Vec::new();
    for ((from, to), port) in across(nodes, 1).zip(0_u16..) {
        let (a, b) = (mesh.node(from)?, mesh.node(to)?);
        let echo = Echo::start(&b.host, SERVED + port)?;
        let tunnel = Tunnel::open(a, b, "echo", SERVED + port, LISTENED + port)?;
        let heart = Heartbeat::every(BEAT, &a.host, tunnel.address, context.start)?;
        streams.push(Live { from, to, heart, _tunnel: tunnel, _echo: echo });
    }
    for stream in &streams {
        stream.heart.beats(OPENS).with_context(|| format!("n{} to n{}", stream.from, stream.to))?;
    }
    Ok(streams)
}

impl Live {
    fn outcome(&self, begun_ms: f64, ended_ms: f64) -> Stream {
        let echoes = self.heart.since(begun_ms);
        let long = |pair: &[f64]| match *pair {
            [earlier, later] if later - earlier > GAP_MS => Some((earlier, later - earlier)),
            _ => None,
        };
        Stream {
            from: self.from,
            to: self.to,
            echoes: echoes.len(),
            dropped: self.heart.broken(),
            longest_gap_ms: longest_gap(&echoes, begun_ms, ended_ms),
            gaps: echoes.windows(2).filter_map(long).collect(),
        }
    }
}

/// Looks at certificates.
struct Watch {
    serials: Vec<Option<String>>,
    renewals: Vec<Renewal>,
    failures: Vec<String>,
}

impl Watch {
    fn start(mesh: &Mesh, now: f64) -> Self {
        let serials = vec![None; mesh.nodes.len()];
        let mut watch = Self { serials, renewals: Vec::new(), failures: Vec::new() };
        watch.look(mesh, now);
        // Those are the certificates to begin with.
        watch.renewals.clear();
        watch
    }

    /// One look at every node that runs.
    fn look(&mut self, mesh: &Mesh, now: f64) {
        for (node, serial) in self.serials.iter_mut().enumerate() {
            let Some(status) = mesh.node(node).ok().and_then(|node| node.get("/v1/trust").ok()) else {
                continue;
            };
            let text = |key: &str| {
                let certificate = status.get("certificate");
                certificate.and_then(|it| it.get(key)?.as_str()).unwrap_or_default().to_owned()
            };
            // The killed node comes back with a certificate that has ended, as it should.
            if node != 0 && status.get("valid").and_then(Value::as_bool) != Some(true) {
                self.failures.push(format!("n{node} had no valid certificate after {now:.0} ms"));
            }
            let found = text("serial");
            if serial.as_ref() != Some(&found) {
                *serial = Some(found);
                self.renewals.push(Renewal { at_ms: now, node, issuer: text("issuer_name") });
            }
        }
    }
}

/// When the killed node was routed again with a certificate that it got since.
fn returned(context: &Context, mesh: &Mesh, watch: &mut Watch, restarted: f64) -> Option<f64> {
    let begun = Instant::now();
    while begun.elapsed() < RETURN {
        watch.look(mesh, context.now());
        let renewed = watch.renewals.iter().find(|renewal| renewal.node == 0 && renewal.at_ms > restarted);
        if let Some(renewed) = renewed.filter(|_| mesh.wait_known(Duration::ZERO).is_ok()) {
            return Some(renewed.at_ms - restarted);
        }
        thread::sleep(LOOK);
    }
    None
}

/// Counters that speak of certificates, summed over nodes that run.
fn counters(mesh: &Mesh) -> BTreeMap<String, f64> {
    const OF_INTEREST: [&str; 5] =
        ["certificate_renewals", "peers_rechecked", "peers_cut", "messages_", "overlay_deaths"];
    let mut sums = BTreeMap::new();
    for metrics in mesh.nodes.iter().filter_map(|node| node.metrics().ok()) {
        for (name, value) in metrics.lines().filter_map(|line| line.rsplit_once(' ')) {
            if OF_INTEREST.iter().any(|part| name.contains(part))
                && let Ok(value) = value.parse::<f64>()
            {
                *sums.entry(name.to_owned()).or_default() += value;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        life: Duration::from_secs(30),
        lasts: Duration::from_secs(60),
        rate: 100.0,
        least_share: 0.95,
        kills: false,
    };

    fn renewal(at_s: f64) -> Renewal {
        Renewal { at_ms: at_s * 1e3, node: 0, issuer: String::new() }
    }

    #[test]
    fn a_node_that_renews_too_late_is_named() {
        let mut found = Rotated { nodes: 1, ..Rotated::default() };
        found.messages.rate = 100.0;
        found.renewals = [10.0, 25.0, 45.0].map(renewal).to_vec();
        found.judge(&PLAN, 0.0, 60e3);
        assert!(found.failures.is_empty(), "{:?}", found.failures);
        found.renewals.pop();
        found.judge(&PLAN, 0.0, 60e3);
        assert_eq!(found.failures, ["n0 had one certificate for 35.0 s"]);
    }

    #[test]
    fn anything_lost_or_dropped_fails() {
        let mut found = Rotated {
            messages: Outcome { lost: 1, doubled: 2, failed: 3, rate: 94.0, ..Outcome::default() },
            streams: vec![Stream {
                from: 0,
                to: 1,
                echoes: 1,
                dropped: 1,
                longest_gap_ms: 0.0,
                gaps: Vec::new(),
            }],
            ..Rotated::default()
        };
        found.judge(&PLAN, 0.0, 60e3);
        assert_eq!(found.failures.len(), 5, "{:?}", found.failures);
    }

    #[test]
    fn everybody_sends_and_receives() {
        let pairs: Vec<_> = across(&[1, 2, 3], 2).collect();
        assert_eq!(pairs, [(1, 3), (2, 1), (3, 2)]);
    }
}
