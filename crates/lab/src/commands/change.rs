//! Interfaces that go down, lose their carrier, change address, vanish and appear: how soon a node notices.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::measure::stall::ms;
use crate::measure::stats::{Summary, longest_gap};
use crate::mesh::form::{Mesh, WHOLE_WAIT};
use crate::mesh::ping::PingRun;
use crate::net::link::{self, End, Medium};
use crate::net::topology::Topology;
use crate::report::{Table, cells, number};

/// Sooner than any timeout of a node (suspicion waits for at least 120 ms), so it was noticed, not timed out.
const NOTICED_MS: f64 = 100.0;

/// A link that is there again must be used within this.
const LINKED_MS: f64 = 3000.0;

/// Longest wait for a change to be noticed or mended.
const WAIT: Duration = Duration::from_secs(15);

/// Between two looks at the node.
const POLL: Duration = Duration::from_millis(2);

/// How long a change lasts: past *dead*.
const HOLD: Duration = Duration::from_millis(1500);

/// Changes on one mesh: after more of them, damping would keep the traffic off the link that changes.
const PER_MESH: usize = 2;

/// More pings than a run lasts.
const PINGS: u32 = 100_000;

/// Addresses to which the two ends of the link move.
const OTHER: [&str; 2] = ["10.99.1.1", "10.99.1.2"];

/// What changes at n0's interface towards n1. In each case the way over n2 remains.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Change {
    /// Switched off; n0 looks.
    Down,
    /// Switched off at the other end; n0 looks, and sees only that the carrier is gone.
    Carrier,
    /// Deleted and made again.
    Vanish,
    /// Gets another address; the old one goes.
    Renumber,
}

impl Change {
    const ALL: [Self; 4] = [Self::Down, Self::Carrier, Self::Vanish, Self::Renumber];

    fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Carrier => "carrier lost",
            Self::Vanish => "vanish and appear",
            Self::Renumber => "another address",
        }
    }
}

/// One change.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    change: Change,
    /// Until n0 did not take the link for good any more; none where it need not.
    noticed_ms: Option<f64>,
    /// Longest silence of pings from n0 to n1 meanwhile.
    gap_ms: f64,
    /// From its end (or, with another address, its beginning) until the link was up.
    linked_ms: Option<f64>,
}

/// `meshara-lab change`.
pub(crate) fn command(context: &Context, count: usize) -> Result<()> {
    let mut samples = Vec::new();
    for change in Change::ALL {
        for first in (0..count).step_by(PER_MESH) {
            let (mesh, _) = context.mesh(Topology::parse("ring-3", context.seed)?, Medium::Veth)?;
            let numbers = first..count.min(first + PER_MESH);
            let measured = measure(context, &mesh, change, numbers, &mut samples);
            context.clear(mesh);
            context.write("change", &samples)?;
            measured?;
        }
    }
    let mut table = Table::new(&[
        "change",
        "N",
        "noticed p50",
        "max",
        "bar",
        "ping gap p50",
        "max",
        "linked again p50",
        "max",
        "bar",
    ]);
    let mut late = Vec::new();
    for change in Change::ALL {
        let of: Vec<_> = samples.iter().filter(|sample| sample.change.name() == change.name()).collect();
        let noticed = Summary::of(of.iter().filter_map(|sample| sample.noticed_ms));
        let linked = Summary::of(of.iter().filter_map(|sample| sample.linked_ms));
        let mut row = vec![change.name().to_owned(), of.len().to_string()];
        for (summary, bar) in [
            (noticed, Some(NOTICED_MS)),
            (Summary::of(of.iter().map(|sample| sample.gap_ms)), None),
            (linked, Some(LINKED_MS)),
        ] {
            let [p50, _, _, max] = cells(summary);
            row.extend([p50, max]);
            row.extend(bar.map(|bar| number(Some(bar))));
        }
        table.row(row);
        if linked.is_none_or(|linked| linked.n < of.len() || linked.max > LINKED_MS) {
            late.push(format!("{}: not linked again in time", change.name()));
        }
        if noticed.is_some_and(|noticed| noticed.p50 > NOTICED_MS) {
            late.push(format!("{}: noticed by timeout only", change.name()));
        }
    }
    println!("\n{}", table.render());
    if !late.is_empty() {
        bail!("{}", late.join("\n"));
    }
    Ok(())
}

fn measure(
    context: &Context,
    mesh: &Mesh,
    change: Change,
    numbers: std::ops::Range<usize>,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let pings = PingRun::start(mesh.node(0)?, &mesh.node(1)?.name, PINGS, context.start)?;
    pings.flowing(Duration::from_secs(5))?;
    for number in numbers {
        if let Err(amiss) = mesh.wait_whole(Instant::now(), WHOLE_WAIT) {
            bail!("the mesh is not whole before a change: {amiss}");
        }
        std::thread::sleep(Duration::from_millis(500));
        let from = context.now();
        let (noticed_ms, linked_ms) = strike(mesh, change, number)?;
        let end = context.now();
        std::thread::sleep(Duration::from_millis(50));
        let gap_ms = longest_gap(&pings.replies(), from, end);
        println!(
            "{} {}: noticed {} ms, gap {gap_ms:.0} ms, linked again {} ms",
            change.name(),
            number + 1,
            crate::report::number(noticed_ms),
            crate::report::number(linked_ms)
        );
        samples.push(Sample { change, noticed_ms, gap_ms, linked_ms });
    }
    Ok(())
}

/// Makes the change and undoes it; when it was noticed, and when the link was up again.
fn strike(mesh: &Mesh, change: Change, number: usize) -> Result<(Option<f64>, Option<f64>)> {
    let link = mesh.network.link(0, 1)?;
    let (near, far) = (end(link.at(0))?, end(link.at(1))?);
    let (host, across) = (mesh.network.host(0)?, mesh.network.host(1)?);
    let switch = |on: &str| match change {
        Change::Carrier => across.ip(&["link", "set", "dev", &far.device, on]).map(drop),
        _ => host.ip(&["link", "set", "dev", &near.device, on]).map(drop),
    };
    let begun = Instant::now();
    match change {
        Change::Down | Change::Carrier => switch("down")?,
        Change::Vanish => host.ip(&["link", "del", "dev", &near.device]).map(drop)?,
        Change::Renumber => {
            // There and, the next time, back again.
            let moves = |old: &str, new: &str, host: &crate::net::namespace::Namespace, end: &End| {
                host.ip(&["addr", "add", &format!("{new}/30"), "dev", &end.device])?;
                host.ip(&["addr", "del", &format!("{old}/30"), "dev", &end.device])
            };
            let (near_old, far_old) = (near.address.to_string(), far.address.to_string());
            let [near_new, far_new] = OTHER;
            if number.is_multiple_of(2) {
                // The far end has both addresses, and a way back to each: only n0 moves.
                across.ip(&["addr", "replace", &format!("{far_new}/30"), "dev", &far.device])?;
                moves(&near_old, near_new, host, near)?;
                host.ip(&["route", "replace", &format!("{far_old}/32"), "dev", &near.device])?;
            } else {
                moves(near_new, &near_old, host, near)?;
            }
            // A link that goes on under another address is as good as a new one.
            std::thread::sleep(HOLD);
            return Ok((None, until(mesh, true, begun)));
        }
    }
    let noticed = until(mesh, false, begun);
    std::thread::sleep(HOLD.saturating_sub(begun.elapsed()));
    let undone = Instant::now();
    if let Change::Vanish = change {
        let (a, b) = (format!("{}/30", near.address), format!("{}/30", far.address));
        link::join(host, &near.device, &a, across, &far.device, &b)?;
    } else {
        switch("up")?;
    }
    Ok((noticed, until(mesh, true, undone)))
}

fn end(end: Option<&End>) -> Result<&End> {
    end.context("a link with one end")
}

/// Waits until n0 has n1 as a neighbour that is up, or until it has not.
fn until(mesh: &Mesh, up: bool, since: Instant) -> Option<f64> {
    let node = mesh.node(0).ok()?;
    while since.elapsed() < WAIT {
        if node.get("/v1/peers").is_ok_and(|peers| is_up(&peers, "n1") == up) {
            return Some(ms(since.elapsed()));
        }
        std::thread::sleep(POLL);
    }
    None
}

fn is_up(peers: &Value, name: &str) -> bool {
    let text = |peer: &Value, key: &str| peer.get(key).and_then(Value::as_str).map(str::to_owned);
    peers.as_array().is_some_and(|peers| {
        peers.iter().any(|peer| {
            text(peer, "name").as_deref() == Some(name) && text(peer, "state").as_deref() == Some("up")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_neighbour_is_up_by_name() {
        let peers = json!([{"name": "n1", "state": "suspect"}, {"name": "n2", "state": "up"}]);
        assert!(!is_up(&peers, "n1") && is_up(&peers, "n2") && !is_up(&json!({}), "n2"));
    }
}
