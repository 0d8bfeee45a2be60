//! Nodes that are revoked: how soon every node knows and has cut them off, and how soon one that was cut off meanwhile.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::measure::stall::ms;
use crate::measure::stats::Summary;
use crate::mesh::fault::{Fault, Kind};
use crate::mesh::form::Mesh;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, cells};

/// What is to be reached.
const BAR_MS: f64 = 2000.0;

/// Longest wait for a node to know: long enough to tell a slow one from none.
const WAIT: Duration = Duration::from_secs(20);

/// Between two looks at all nodes.
const POLL: Duration = Duration::from_millis(5);

/// How long a node is cut off: longer than its neighbours need to give it up.
const AWAY: Duration = Duration::from_secs(4);

/// What was measured, each from the request at the node with the root (or from the heal) to the first look that found it.
#[derive(Debug, Clone, Default, Serialize)]
struct Revoked {
    nodes: usize,
    /// A node holds the snapshot, and neither lists the revoked one as a neighbour nor routes to it.
    out_ms: Vec<f64>,
    /// The same of a node that was cut off, from the heal.
    healed_ms: Vec<f64>,
    failures: Vec<String>,
}

/// `meshara-lab revoke`.
pub(crate) fn command(context: &Context, nodes: usize, count: usize, heals: usize) -> Result<()> {
    let topology = Topology::parse(&format!("random-{nodes}"), context.seed)?;
    let (mut mesh, _) = context.mesh(topology, Medium::Veth)?;
    let mut rng = SmallRng::seed_from_u64(context.seed);
    let mut found = Revoked { nodes, ..Revoked::default() };
    let measured = measure(&mut mesh, &mut rng, (count, heals), &mut found);
    context.clear(mesh);
    context.write("revoke", &found)?;
    measured?;
    let mut table = Table::new(&["ms", "p50", "p95", "p99", "max"]);
    for (name, values) in [("out everywhere", &found.out_ms), ("after a heal", &found.healed_ms)] {
        let mut row = vec![name.to_owned()];
        row.extend(cells(Summary::of(values.iter().copied())));
        table.row(row);
    }
    println!("\n{}", table.render());
    let late = [&found.out_ms, &found.healed_ms].into_iter().flatten().filter(|ms| **ms > BAR_MS).count();
    if late > 0 || !found.failures.is_empty() {
        bail!("{late} later than {BAR_MS} ms; {}", found.failures.join("; "));
    }
    Ok(())
}

fn measure(
    mesh: &mut Mesh,
    rng: &mut SmallRng,
    (count, heals): (usize, usize),
    found: &mut Revoked,
) -> Result<()> {
    let mut gone = BTreeSet::new();
    for round in 0..count + heals {
        let victim = choose(mesh, rng, &gone, None)?;
        let away = (round >= count).then(|| choose(mesh, rng, &gone, Some(victim))).transpose()?;
        let id = id_of(mesh, victim)?;
        let fault = away.map(|node| Fault::Node { kind: Kind::Blackhole, node });
        if let Some(fault) = &fault {
            fault.inject(mesh)?;
            thread::sleep(AWAY);
        }
        gone.insert(victim);
        let begun = Instant::now();
        let request = json!({ "node": id, "reason": "the lab's dice" });
        let answer = mesh.node(0)?.post("/v1/trust/revocations", &request)?;
        let number = answer.get("number").and_then(Value::as_u64).context("no number")?;
        let others: Vec<usize> =
            (0..mesh.nodes.len()).filter(|node| !gone.contains(node) && Some(*node) != away).collect();
        let (times, missing) = wait_out(mesh, &others, &id, number, begun);
        println!("n{victim} is out of {} nodes, the last after {:.0} ms", times.len(), last(&times));
        found.out_ms.extend(times);
        found.failures.extend(missing);
        if let Some((fault, node)) = fault.zip(away) {
            let begun = Instant::now();
            fault.undo(mesh)?;
            let (times, missing) = wait_out(mesh, &[node], &id, number, begun);
            println!("n{node} knows {:.0} ms after its heal", last(&times));
            found.healed_ms.extend(times);
            found.failures.extend(missing);
        }
    }
    Ok(())
}

fn last(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

/// Waits until the revoked node is out of all these; when it was of each, and which never came.
fn wait_out(mesh: &Mesh, nodes: &[usize], id: &str, number: u64, begun: Instant) -> (Vec<f64>, Vec<String>) {
    let mut waiting: BTreeSet<usize> = nodes.iter().copied().collect();
    let mut times = Vec::new();
    while !waiting.is_empty() && begun.elapsed() < WAIT {
        waiting.retain(|node| {
            let out = is_out(mesh, *node, id, number).unwrap_or(false);
            if out {
                times.push(ms(begun.elapsed()));
            }
            !out
        });
        thread::sleep(POLL);
    }
    let missing = waiting.iter().map(|node| format!("n{node} never learned of revocation {number}"));
    (times, missing.collect())
}

fn is_out(mesh: &Mesh, node: usize, id: &str, number: u64) -> Result<bool> {
    let node = mesh.node(node)?;
    let knows = node.get("/v1/trust")?.get("revocations").and_then(Value::as_u64) >= Some(number);
    if !knows {
        return Ok(false);
    }
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

/// A node, not the one with the root, without which those that are left are still connected.
fn choose(mesh: &Mesh, rng: &mut SmallRng, gone: &BTreeSet<usize>, also: Option<usize>) -> Result<usize> {
    let without = |node: usize| gone.iter().copied().chain(also).chain([node]).collect::<BTreeSet<_>>();
    let edges = &mesh.network.topology.edges;
    let able: Vec<usize> = (1..mesh.nodes.len())
        .filter(|node| !gone.contains(node) && Some(*node) != also)
        .filter(|node| is_connected(edges, mesh.nodes.len(), &without(*node)))
        .collect();
    able.get(rng.random_range(0..able.len().max(1)))
        .copied()
        .context("every node is needed to connect the others")
}

/// Whether all nodes but these reach each other.
fn is_connected(edges: &[(usize, usize)], nodes: usize, without: &BTreeSet<usize>) -> bool {
    let mut reached = BTreeSet::from([0]);
    let mut next = vec![0];
    while let Some(at) = next.pop() {
        for &(a, b) in edges.iter().filter(|(a, b)| *a == at || *b == at) {
            let other = if a == at { b } else { a };
            if !without.contains(&other) && reached.insert(other) {
                next.push(other);
            }
        }
    }
    reached.len() + without.len() == nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_between_two_halves_is_needed() {
        let line = [(0, 1), (1, 2), (2, 3)];
        assert!(is_connected(&line, 4, &BTreeSet::from([3])));
        assert!(!is_connected(&line, 4, &BTreeSet::from([2])));
        assert!(is_connected(&line, 4, &BTreeSet::from([2, 3])));
    }
}
