//! The profile for CI: a few faults of each kind on two topologies, within three minutes.

use anyhow::{Result, bail};

use super::heal::{self, Series};
use crate::context::Context;
use crate::mesh::fault::Kind;
use crate::net::link::Medium;
use crate::net::topology::Topology;

/// Faults of each kind on each topology; the time of the profile is proportional to it.
const COUNT: usize = 2;

/// A CI machine stands still at times, so single gaps prove nothing; half of them all above this do. The bar itself (200 ms)
/// is measured by `heal` on a quiet machine.
const MEDIAN_MS: f64 = 400.0;

/// `meshara-lab short`.
pub(crate) fn command(context: &Context) -> Result<()> {
    let mut all = Vec::new();
    for shape in ["ladder", "ring-6"] {
        let topology = Topology::parse(shape, context.seed)?;
        for kind in Kind::ALL {
            // One stream is enough to prove that bytes survive; the kinds differ in the same machinery.
            let with_stream = shape == "ladder" && kind == Kind::Sigstop;
            all.push(heal::series(context, &topology, Medium::Veth, kind, COUNT, with_stream)?);
        }
    }
    println!("\n{}", heal::table(&all));
    context.write("short", &all)?;
    let mut failures: Vec<_> = all.iter().flat_map(Series::failures).collect();
    let gaps = all.iter().filter_map(|series| series.gap.map(|gap| gap.p50));
    if let Some(median) = crate::measure::stats::median(gaps).filter(|median| *median > MEDIAN_MS) {
        failures.push(format!("the median gap is {median:.0} ms, above {MEDIAN_MS} ms"));
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
