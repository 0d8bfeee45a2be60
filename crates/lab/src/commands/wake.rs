//! Nodes that were away for long, asleep, dead or cut off: how soon after their return they are routed again.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::context::Context;
use crate::mesh::fault::{Fault, Kind};
use crate::mesh::form::{Mesh, WHOLE_WAIT};
use crate::mesh::ping::PingRun;
use crate::net::link::Medium;
use crate::net::topology::Topology;
use crate::report::{Table, number};

/// The hub and a leaf for each kind of absence.
const SHAPE: &str = "star-6";

/// What happens to the leaves, in their order.
const KINDS: [Kind; 5] = [Kind::Sigstop, Kind::Sigkill, Kind::LinkDown, Kind::Blackhole, Kind::OneWay];

/// What is to be reached.
const BAR_MS: f64 = 3000.0;

/// Wait for a return: long enough to tell a slow one from none.
const WAIT: Duration = Duration::from_secs(40);

/// More pings than the wait is long.
const PINGS: u32 = 10_000;

/// Pause between two returns, so that each is measured by itself.
const APART: Duration = Duration::from_millis(300);

/// One return.
#[derive(Debug, Clone, Serialize)]
struct Return {
    kind: Kind,
    away_s: f64,
    /// From the end of the absence to the first reply that the hub got.
    routed_ms: Option<f64>,
    error: Option<String>,
}

/// `meshara-lab wake`: all leaves are away at once, and come back one after the other.
pub(crate) fn command(context: &Context, away: &[f64]) -> Result<()> {
    let mut returns = Vec::new();
    for seconds in away {
        let (mut mesh, _) = context.mesh(Topology::parse(SHAPE, context.seed)?, Medium::Veth)?;
        let found = measure(context, &mut mesh, Duration::try_from_secs_f64(*seconds)?);
        context.clear(mesh);
        returns.extend(found?);
        context.write("wake", &returns)?;
    }
    let mut table = Table::new(&["absence", "seconds", "routed again ms", "bar"]);
    for found in &returns {
        table.row(vec![
            found.kind.name().into(),
            number(Some(found.away_s)),
            number(found.routed_ms),
            number(Some(BAR_MS)),
        ]);
    }
    println!("\n{}", table.render());
    let late: Vec<_> = returns
        .iter()
        .filter(|found| found.routed_ms.is_none_or(|ms| ms > BAR_MS))
        .map(|found| format!("{} of {} s", found.kind.name(), found.away_s))
        .collect();
    if !late.is_empty() {
        bail!("not routed again within {BAR_MS} ms: {}", late.join(", "));
    }
    Ok(())
}

fn measure(context: &Context, mesh: &mut Mesh, away: Duration) -> Result<Vec<Return>> {
    let mut faults = Vec::new();
    for (leaf, kind) in (1..).zip(KINDS) {
        let fault = match kind {
            Kind::LinkDown | Kind::OneWay => {
                Fault::Link { kind, node: leaf, peer: 0, device: mesh.network.device(leaf, 0)? }
            }
            _ => Fault::Node { kind, node: leaf },
        };
        fault.inject(mesh)?;
        faults.push((leaf, kind, fault));
    }
    println!("away for {} s", away.as_secs_f64());
    std::thread::sleep(away);
    let mut returns = Vec::new();
    for (leaf, kind, fault) in faults {
        let pings = PingRun::start(mesh.node(0)?, &mesh.node(leaf)?.name, PINGS, context.start)?;
        std::thread::sleep(APART);
        let undone = context.now();
        fault.undo(mesh)?;
        let answered = pings.flowing(WAIT);
        let routed_ms = pings.replies().first().map(|first| first - undone);
        let error = answered.err().map(|error| format!("{error:#}"));
        println!(
            "{} for {} s: first reply {} ms after its end{}",
            kind.name(),
            away.as_secs_f64(),
            number(routed_ms),
            error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default()
        );
        returns.push(Return { kind, away_s: away.as_secs_f64(), routed_ms, error });
    }
    if let Err(amiss) = mesh.wait_whole(std::time::Instant::now(), WHOLE_WAIT) {
        println!("not whole afterwards: {amiss}");
    }
    Ok(returns)
}
