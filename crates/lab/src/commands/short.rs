//! The profile for CI: a few faults of each kind on two topologies, then certificates that are renewed under load and nodes that are revoked,
//! within three minutes and a half.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::heal::{self, Plan, Series};
use super::revoke::{self, Revoked};
use super::rotate::{self, Rotated};
use crate::context::Context;
use crate::mesh::fault::Kind;

/// Faults of each kind, two on each topology; the time of the profile is proportional to it.
const COUNT: usize = 4;

/// A CI machine stands still at times, so single gaps prove nothing; half of them all above this do. The bar itself (200 ms)
/// is measured by `heal` on a quiet machine.
const MEDIAN_MS: f64 = 400.0;

/// The shortest life of a certificate, and a little less than that under load: every node renews, and the first certificates come near their
/// end while streams go on.
const ROTATION: rotate::Plan = rotate::Plan {
    life: Duration::from_secs(20),
    lasts: Duration::from_secs(17),
    rate: 100.0,
    // A CI machine may be slow; it may not lose anything.
    least_share: 0.5,
    kills: false,
};

/// Nodes of that mesh, and how many are revoked, none of them issuers: plainly, and while it is in two.
const SHAPE: &str = "random-8";
const REVOKED: (usize, usize) = (1, 1);

/// Nodes may be slow to hear of a revocation on a CI machine, but all must. The bar itself (2 s) is measured by `revoke`.
const HEARD_MS: f64 = 10_000.0;

#[derive(Serialize)]
struct Found {
    heal: Vec<Series>,
    rotate: Rotated,
    revoke: Revoked,
}

/// `meshara-lab short`.
pub(crate) fn command(context: &Context) -> Result<()> {
    let mut plan = Plan {
        sites: vec!["ladder".parse()?, "ring-6".parse()?],
        kinds: Kind::ALL.to_vec(),
        count: COUNT,
        per_mesh: COUNT / 2,
        loss: 0.0,
        jitter: Duration::ZERO,
        stream: false,
        budget: None,
    };
    let mut all = Vec::new();
    for kind in Kind::ALL {
        // One kind is enough to prove that the bytes of a stream survive; the kinds differ in the same machinery.
        plan.stream = kind == Kind::Sigstop;
        all.push(heal::series(context, &plan, kind, |_| Ok(()))?);
    }
    let (rotated, revoked) = trust(context)?;
    for table in [heal::table(&all), rotated.table().render(), revoked.table().render()] {
        println!("\n{table}");
    }
    let mut failures: Vec<_> = all.iter().flat_map(Series::failures).collect();
    let gaps = all.iter().filter_map(Series::median_gap);
    if let Some(median) = crate::measure::stats::median(gaps).filter(|median| *median > MEDIAN_MS) {
        failures.push(format!("the median gap is {median:.0} ms, above {MEDIAN_MS} ms"));
    }
    failures.extend(rotated.failures().iter().chain(revoked.failures()).cloned());
    failures.extend(revoked.beyond(HEARD_MS));
    context.write("short", &Found { heal: all, rotate: rotated, revoke: revoked })?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

/// Rotation and revocation on one mesh, one after the other.
fn trust(context: &Context) -> Result<(Rotated, Revoked)> {
    let mut mesh = rotate::form(context, SHAPE, &ROTATION)?;
    let (rotated, measured) = rotate::measure(context, &mut mesh, &ROTATION);
    let (revoked, done) = match measured {
        Ok(()) => revoke::measure(context, &mesh, rotated.issuers(), REVOKED.0, REVOKED.1),
        Err(error) => (Revoked::default(), Err(error)),
    };
    context.clear(mesh);
    done?;
    Ok((rotated, revoked))
}
