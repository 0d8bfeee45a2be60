//! Nodes that are revoked: how soon every node knows and has cut them off, their live streams too, also where the mesh was in two meanwhile.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::measure::heartbeat::{Echo, Heartbeat};
use crate::measure::stall::ms;
use crate::measure::stats::Summary;
use crate::mesh::form::{Mesh, WHOLE_WAIT};
use crate::mesh::partition::{Partition, spare};
use crate::mesh::tunnel::Tunnel;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, cells};

/// What is to be reached by 99 of 100.
const BAR_MS: f64 = 2000.0;

/// Longest wait for a node to know: long enough to tell a slow one from none.
const WAIT: Duration = Duration::from_secs(20);

/// Between two looks at all nodes.
const POLL: Duration = Duration::from_millis(5);

/// How long the mesh is in two: longer than neighbours need to give each other up.
const AWAY: Duration = Duration::from_secs(4);

/// Streams of a node that is revoked, each to another node.
const STREAMS: usize = 3;

/// Partitions tried until one has a node that may be revoked.
const PLANS: usize = 50;

/// First local port of the services and listeners of those streams.
const SERVED: u16 = 7000;
const LISTENED: u16 = 8000;

/// A stream without an echo for so long is cut: a hundred beats.
const SILENT: Duration = Duration::from_secs(1);

/// A stream opens a session over several hops, which takes some round trips.
const OPENS: Duration = Duration::from_secs(10);

/// What nodes saw, in ms.
#[derive(Debug, Clone, Default, Serialize)]
struct Heard {
    /// Each node: it holds the snapshot.
    knows_ms: Vec<f64>,
    /// Each node: it holds the snapshot, and neither lists the revoked node as a neighbour nor routes to it.
    out_ms: Vec<f64>,
    /// Each live stream with the revoked node: the last echo that came.
    streams_ms: Vec<f64>,
}

/// One revocation.
#[derive(Debug, Clone, Serialize)]
struct Round {
    revoked: usize,
    number: u64,
    /// How long the request took at the node that signed it.
    signed_ms: f64,
    /// Nodes of the other side while the mesh was in two, the revoked one among them.
    apart: Vec<usize>,
    /// Those that could hear it, from the request.
    near: Heard,
    /// The other side, from the beginning of the heal.
    far: Heard,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Revoked {
    nodes: usize,
    rounds: Vec<Round>,
    failures: Vec<String>,
}

/// `meshara-lab revoke`.
pub(crate) fn command(context: &Context, nodes: usize, count: usize, heals: usize) -> Result<()> {
    let topology = Topology::parse(&format!("random-{nodes}"), context.seed)?;
    let (mesh, formed) = context.mesh(topology, Medium::Veth)?;
    println!("{nodes} processes joined in {:.1} s", formed.joining_ms / 1e3);
    let (found, measured) = measure(context, &mesh, &[], count, heals);
    context.clear(mesh);
    context.write("revoke", &found)?;
    measured?;
    println!("\n{}", found.table().render());
    let mut failures = found.failures.clone();
    failures.extend(found.beyond(BAR_MS));
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Revokes `count` nodes of a mesh, none of `spared`, and then `heals` while the mesh is in two. What was found so far, also where it could not
/// go on.
pub(crate) fn measure(
    context: &Context,
    mesh: &Mesh,
    spared: &[usize],
    count: usize,
    heals: usize,
) -> (Revoked, Result<()>) {
    let mut rng = SmallRng::seed_from_u64(context.seed);
    let mut found = Revoked { nodes: mesh.nodes.len(), ..Revoked::default() };
    let mut gone = BTreeSet::new();
    for round in 0..count + heals {
        if let Err(error) = revoke(context, mesh, &mut rng, spared, &mut gone, round >= count, &mut found) {
            return (found, Err(error));
        }
    }
    let done = stay_out(mesh, &gone, &mut found);
    (found, done)
}

impl Revoked {
    fn rows(&self) -> [(&'static str, Vec<f64>); 6] {
        let near = |part: fn(&Heard) -> &Vec<f64>| {
            self.rounds.iter().flat_map(|round| part(&round.near).clone()).collect()
        };
        let far = |part: fn(&Heard) -> &Vec<f64>| {
            self.rounds.iter().flat_map(|round| part(&round.far).clone()).collect()
        };
        [
            ("node knows", near(|heard| &heard.knows_ms)),
            ("node has cut it off", near(|heard| &heard.out_ms)),
            ("live stream cut", near(|heard| &heard.streams_ms)),
            ("after a heal: node knows", far(|heard| &heard.knows_ms)),
            ("after a heal: node has cut it off", far(|heard| &heard.out_ms)),
            ("after a heal: live stream cut", far(|heard| &heard.streams_ms)),
        ]
    }

    /// The figures for people.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(&["revoked, ms", "n", "p50", "p95", "p99", "max"]);
        for (name, values) in self.rows() {
            let mut row = vec![name.to_owned(), values.len().to_string()];
            row.extend(cells(Summary::of(values)));
            table.row(row);
        }
        table
    }

    /// What went wrong beside being late.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Where the 99th percentile is beyond a bar.
    pub(crate) fn beyond(&self, bar_ms: f64) -> Vec<String> {
        let late = |(name, values): (&str, Vec<f64>)| {
            let p99 = Summary::of(values)?.p99;
            (p99 > bar_ms).then(|| format!("{name}: p99 {p99:.0} ms is later than {bar_ms} ms"))
        };
        self.rows().into_iter().filter_map(late).collect()
    }
}

/// A stream from the node that is to be revoked, and what keeps it.
struct Live {
    to: usize,
    heart: Heartbeat,
    _tunnel: Tunnel,
    _echo: Echo,
}

fn revoke(
    context: &Context,
    mesh: &Mesh,
    rng: &mut SmallRng,
    spared: &[usize],
    gone: &mut BTreeSet<usize>,
    divided: bool,
    found: &mut Revoked,
) -> Result<()> {
    let (partition, victim) = choose(mesh, rng, spared, gone, divided)?;
    let side = partition.as_ref().map(|partition| partition.side.clone()).unwrap_or_default();
    let alive: BTreeSet<usize> =
        (0..mesh.nodes.len()).filter(|node| !gone.contains(node) && *node != victim).collect();
    // Its streams are with nodes that are on its side, so that they go on while the mesh is in two.
    let mut peers: Vec<usize> =
        alive.iter().copied().filter(|node| !divided || side.contains(node)).collect();
    peers.shuffle(rng);
    let streams = streams(context, mesh, victim, peers, found.rounds.len())?;
    let id = id_of(mesh, victim)?;
    if let Some(partition) = &partition {
        partition.begin()?;
        thread::sleep(AWAY);
        for stream in &streams {
            if stream.heart.last().is_none_or(|last| context.now() - last > ms(SILENT)) {
                found.failures.push(format!("n{victim} and n{} lost each other too early", stream.to));
            }
        }
    }

    let (begun, begun_ms) = (Instant::now(), context.now());
    let request = json!({ "node": id, "reason": "the lab's dice" });
    let answer = mesh.node(0)?.post("/v1/trust/revocations", &request)?;
    let signed_ms = ms(begun.elapsed());
    let number = answer.get("number").and_then(Value::as_u64).context("no number")?;
    gone.insert(victim);
    let of = Snapshot { mesh, id: &id, number };
    let near: Vec<usize> = alive.iter().copied().filter(|node| !side.contains(node)).collect();
    let mut round =
        Round { revoked: victim, number, signed_ms, apart: side.into_iter().collect(), ..Round::empty() };
    round.near = of.wait(&near, begun, &mut found.failures);
    let cut_from = match &partition {
        None => begun_ms,
        Some(partition) => {
            let (begun, begun_ms) = (Instant::now(), context.now());
            partition.heal()?;
            let far: Vec<usize> = alive.iter().copied().filter(|node| round.apart.contains(node)).collect();
            round.far = of.wait(&far, begun, &mut found.failures);
            begun_ms
        }
    };
    let cut = cut(context, victim, &streams, cut_from, &mut found.failures);
    match &partition {
        None => round.near.streams_ms = cut,
        Some(_) => round.far.streams_ms = cut,
    }
    let last = |heard: &Heard| heard.out_ms.iter().copied().fold(0.0, f64::max);
    println!("n{victim} is out of {} nodes, the last after {:.0} ms", near.len(), last(&round.near));
    if divided {
        println!(
            "and of {} more, the last {:.0} ms after the heal",
            round.far.out_ms.len(),
            last(&round.far)
        );
    }
    found.rounds.push(round);
    settle(mesh, gone)
}

/// Whom to revoke, and how the mesh falls in two if it does: the side that cannot hear of it has a node that may be revoked.
fn choose(
    mesh: &Mesh,
    rng: &mut SmallRng,
    spared: &[usize],
    gone: &BTreeSet<usize>,
    divided: bool,
) -> Result<(Option<Partition>, usize)> {
    if !divided {
        return Ok((None, spare(mesh, rng, gone, |node| !spared.contains(&node))?));
    }
    for _ in 0..PLANS {
        let partition = Partition::plan(mesh, gone, rng)?;
        let able = |node: usize| partition.side.contains(&node) && !spared.contains(&node);
        if let Ok(victim) = spare(mesh, rng, gone, able) {
            return Ok((Some(partition), victim));
        }
    }
    bail!("no side has a node that may be revoked")
}

impl Round {
    fn empty() -> Self {
        Self {
            revoked: 0,
            number: 0,
            signed_ms: 0.0,
            apart: Vec::new(),
            near: Heard::default(),
            far: Heard::default(),
        }
    }
}

/// Opens streams from a node to the first of these, and waits until they beat.
fn streams(
    context: &Context,
    mesh: &Mesh,
    victim: usize,
    peers: Vec<usize>,
    round: usize,
) -> Result<Vec<Live>> {
    let mut streams = Vec::new();
    for (number, to) in peers.into_iter().take(STREAMS).enumerate() {
        // Ports of their own: what an earlier round left may still be closing.
        let offset = u16::try_from(round * STREAMS + number)?;
        let (from, peer) = (mesh.node(victim)?, mesh.node(to)?);
        let echo = Echo::start(&peer.host, SERVED + offset)?;
        let service = format!("echo-{offset}");
        let tunnel = Tunnel::open(from, peer, &service, SERVED + offset, LISTENED + offset)?;
        let heart = Heartbeat::start(&from.host, tunnel.address, context.start)?;
        streams.push(Live { to, heart, _tunnel: tunnel, _echo: echo });
    }
    for stream in &streams {
        stream.heart.beats(OPENS).with_context(|| format!("n{victim} to n{}", stream.to))?;
    }
    Ok(streams)
}

/// Waits until no stream beats any more; when the last echo of each came, from a time on.
fn cut(
    context: &Context,
    victim: usize,
    streams: &[Live],
    from: f64,
    failures: &mut Vec<String>,
) -> Vec<f64> {
    let begun = Instant::now();
    let mut times = Vec::new();
    for stream in streams {
        loop {
            let last = stream.heart.last().unwrap_or(from);
            if context.now() - last > ms(SILENT) {
                times.push((last - from).max(0.0));
                break;
            }
            if begun.elapsed() > WAIT {
                failures.push(format!("n{} still talks with the revoked n{victim}", stream.to));
                break;
            }
            thread::sleep(POLL);
        }
    }
    times
}

/// A revocation, as nodes are asked for it.
struct Snapshot<'a> {
    mesh: &'a Mesh,
    id: &'a str,
    number: u64,
}

impl Snapshot<'_> {
    /// Waits until all these have cut the revoked node off; when each had, from `begun`. Names those that never did.
    fn wait(&self, nodes: &[usize], begun: Instant, failures: &mut Vec<String>) -> Heard {
        let mut waiting: BTreeSet<usize> = nodes.iter().copied().collect();
        let mut knowing = BTreeSet::new();
        let mut heard = Heard::default();
        while !waiting.is_empty() && begun.elapsed() < WAIT {
            waiting.retain(|node| {
                if !knowing.contains(node) && self.is_known(*node).unwrap_or(false) {
                    heard.knows_ms.push(ms(begun.elapsed()));
                    knowing.insert(*node);
                }
                let out = knowing.contains(node) && is_out(self.mesh, *node, self.id).unwrap_or(false);
                if out {
                    heard.out_ms.push(ms(begun.elapsed()));
                }
                !out
            });
            thread::sleep(POLL);
        }
        let word = |node: &usize| if knowing.contains(node) { "cut off" } else { "heard of" };
        failures.extend(
            waiting.iter().map(|node| format!("n{node} never {} revocation {}", word(node), self.number)),
        );
        heard
    }

    fn is_known(&self, node: usize) -> Result<bool> {
        let trust = self.mesh.node(node)?.get("/v1/trust")?;
        Ok(trust.get("revocations").and_then(Value::as_u64) >= Some(self.number))
    }
}

/// Whether a node neither lists this one as a neighbour nor routes to it.
fn is_out(mesh: &Mesh, node: usize, id: &str) -> Result<bool> {
    let node = mesh.node(node)?;
    let lists = |path: &str, key: &str| -> Result<bool> {
        let list = node.get(path)?;
        let entry = |entry: &Value| entry.get(key).and_then(Value::as_str) == Some(id);
        Ok(list.as_array().is_some_and(|list| list.iter().any(entry)))
    };
    Ok(!lists("/v1/routes", "dest")? && !lists("/v1/peers", "node_id")?)
}

fn id_of(mesh: &Mesh, node: usize) -> Result<String> {
    let id = mesh.node(node)?.get("/v1/id")?;
    Ok(id.get("node_id").and_then(Value::as_str).context("no NodeId")?.to_owned())
}

/// Waits until all that are left know exactly each other, so that the next round starts from a whole mesh.
fn settle(mesh: &Mesh, gone: &BTreeSet<usize>) -> Result<()> {
    let begun = Instant::now();
    let expected = (mesh.nodes.len() - gone.len() - 1) as u64;
    let knows = |node: usize| -> Option<u64> {
        mesh.node(node).ok()?.get("/v1/status").ok()?.get("nodes_known")?.as_u64()
    };
    loop {
        let lacking = (0..mesh.nodes.len()).filter(|node| !gone.contains(node)).find_map(|node| {
            Some(knows(node)).filter(|known| *known != Some(expected)).map(|known| (node, known))
        });
        let Some((node, known)) = lacking else { return Ok(()) };
        if begun.elapsed() > WHOLE_WAIT {
            bail!("not whole after {WHOLE_WAIT:?}: n{node} knows {known:?} of {expected} nodes");
        }
        thread::sleep(POLL * 10);
    }
}

/// Whether all that were revoked, whose processes go on trying, are still out of all others.
fn stay_out(mesh: &Mesh, gone: &BTreeSet<usize>, found: &mut Revoked) -> Result<()> {
    for victim in gone {
        let id = id_of(mesh, *victim)?;
        for node in (0..mesh.nodes.len()).filter(|node| !gone.contains(node)) {
            if !is_out(mesh, node, &id)? {
                found.failures.push(format!("the revoked n{victim} is back at n{node}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_named_by_its_99th_percentile() {
        let mut round = Round::empty();
        round.near.knows_ms = (1..=100).map(f64::from).collect();
        round.far.out_ms = vec![2500.0];
        let found = Revoked { nodes: 3, rounds: vec![round], failures: Vec::new() };
        assert_eq!(found.beyond(99.0).len(), 1);
        assert!(found.beyond(2000.0)[0].starts_with("after a heal: node has cut it off: p99 2500 ms"));
        assert!(found.beyond(2500.0).is_empty());
    }
}
