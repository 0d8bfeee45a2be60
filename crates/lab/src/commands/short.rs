//! The profile for CI: a few faults of each kind on two topologies, within three minutes.

use anyhow::{Result, bail};

use super::heal::{self, Plan, Series};
use crate::context::Context;
use crate::mesh::fault::Kind;

/// Faults of each kind, two on each topology; the time of the profile is proportional to it.
const COUNT: usize = 4;

/// A CI machine stands still at times, so single gaps prove nothing; half of them all above this do. The bar itself (200 ms)
/// is measured by `heal` on a quiet machine.
const MEDIAN_MS: f64 = 400.0;

/// `meshara-lab short`.
pub(crate) fn command(context: &Context) -> Result<()> {
    let mut plan = Plan {
        sites: vec!["ladder".parse()?, "ring-6".parse()?],
        kinds: Kind::ALL.to_vec(),
        count: COUNT,
        per_mesh: COUNT / 2,
        loss: 0.0,
        jitter: std::time::Duration::ZERO,
        stream: false,
        budget: None,
    };
    let mut all = Vec::new();
    for kind in Kind::ALL {
        // One kind is enough to prove that the bytes of a stream survive; the kinds differ in the same machinery.
        plan.stream = kind == Kind::Sigstop;
        all.push(heal::series(context, &plan, kind, |_| Ok(()))?);
    }
    println!("\n{}", heal::table(&all));
    context.write("short", &all)?;
    let mut failures: Vec<_> = all.iter().flat_map(Series::failures).collect();
    let gaps = all.iter().filter_map(Series::median_gap);
    if let Some(median) = crate::measure::stats::median(gaps).filter(|median| *median > MEDIAN_MS) {
        failures.push(format!("the median gap is {median:.0} ms, above {MEDIAN_MS} ms"));
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}
