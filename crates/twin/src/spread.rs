//! How fast revocation snapshots reach everybody, and that nobody goes back to an older one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::Percentiles;

/// Everybody who is connected with the signer holds a new snapshot this long after it was signed, if nothing breaks meanwhile: the bar.
const WITHIN: Duration = Duration::from_secs(2);
/// And this long after the last fault or repair, if something did: a lost neighbour is dialled again 1.5 s after an attempt that took as long.
const AFTER_FAULT: Duration = Duration::from_secs(5);

/// Times until snapshots were held, ms.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct SpreadReport {
    /// Snapshots signed.
    pub published: u64,
    /// From signing to one node's holding it; each snapshot and each node once.
    pub node_ms: Option<Percentiles>,
    /// From signing until every node held it, of snapshots during which nothing broke.
    pub all_ms: Option<Percentiles>,
    /// From the last fault or repair until every node that missed something held the newest; each fault or repair once.
    pub healed_ms: Option<Percentiles>,
    /// The values behind `all_ms`.
    #[serde(skip)]
    pub(crate) all: Vec<f64>,
    /// The values behind `healed_ms`.
    #[serde(skip)]
    pub(crate) healed: Vec<f64>,
}

/// What one node holds.
#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    /// Number of the snapshot.
    number: u64,
    /// Version of the root document.
    root: u64,
    /// What its disk has of both.
    kept: (u64, u64),
    /// Revoked: nobody owes it anything.
    out: bool,
}

/// What all hold, and what was signed when.
#[derive(Debug)]
pub(crate) struct Spread {
    nodes: Vec<Holds>,
    /// When number 1, 2, … was signed.
    published: Vec<Duration>,
    /// The last fault or repair.
    disturbed: Duration,
    node_ms: Vec<f64>,
    /// By number: the slowest node, and whether something broke before it held it.
    slowest: BTreeMap<u64, (Duration, bool)>,
    /// By fault or repair: the slowest node after it.
    healed: BTreeMap<Duration, Duration>,
}

impl Spread {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes: vec![Holds::default(); nodes],
            published: Vec::new(),
            disturbed: Duration::ZERO,
            node_ms: Vec::new(),
            slowest: BTreeMap::new(),
            healed: BTreeMap::new(),
        }
    }

    fn newest(&self) -> u64 {
        self.published.len() as u64
    }

    /// When the clock for a number began to run, and whether a fault set it back.
    fn since(&self, number: u64) -> Option<(Duration, bool)> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        let published = *self.published.get(at)?;
        Some((published.max(self.disturbed), self.disturbed > published))
    }

    /// A snapshot was signed. `Err` if it isn't the next one.
    pub(crate) fn published(&mut self, now: Duration, number: u64) -> Result<(), String> {
        if number != self.newest() + 1 {
            return Err(format!("snapshot {number} was signed after {}", self.newest()));
        }
        self.published.push(now);
        Ok(())
    }

    /// A fault or repair.
    pub(crate) fn disturb(&mut self, now: Duration) {
        self.disturbed = now;
    }

    /// A node was revoked.
    pub(crate) fn out(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.out = true;
        }
    }

    /// A node's process starts with what its disk has.
    pub(crate) fn started(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            (node.number, node.root) = node.kept;
        }
    }

    /// A node's disk has this.
    pub(crate) fn kept(&mut self, at: usize, number: u64, root: u64) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.kept = (number, root);
        }
    }

    /// A node goes by this from now on.
    pub(crate) fn held(&mut self, now: Duration, at: usize, number: u64, root: u64) -> Result<(), String> {
        let Some(before) = self.nodes.get(at).copied() else { return Ok(()) };
        if number < before.number || root < before.root {
            return Err(format!(
                "node {at} went back from snapshot {} and root {} to {number} and {root}",
                before.number, before.root
            ));
        }
        if number > self.newest() {
            return Err(format!("node {at} holds snapshot {number}, which nobody signed"));
        }
        let mut late = Ok(());
        for number in (before.number + 1..=number).filter(|_| !before.out) {
            let Some((since, set_back)) = self.since(number) else { continue };
            let took = now.saturating_sub(since);
            if took > limit(set_back) {
                late = Err(format!("node {at} held snapshot {number} only after {} ms", took.as_millis()));
            }
            let slowest = self.slowest.entry(number).or_default();
            *slowest = (slowest.0.max(took), slowest.1 || set_back);
            if set_back {
                let slowest = self.healed.entry(self.disturbed).or_default();
                *slowest = (*slowest).max(took);
            } else {
                self.node_ms.push(in_ms(took));
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            (node.number, node.root) = (number, root);
        }
        late
    }

    /// A node that is connected with the signer and lacks the newest for too long.
    pub(crate) fn overdue(&self, now: Duration, connected: impl Fn(usize) -> bool) -> Option<String> {
        self.nodes.iter().enumerate().find_map(|(at, node)| {
            let (since, set_back) = self.since(node.number + 1)?;
            let late = now.saturating_sub(since) > limit(set_back);
            (late && !node.out && connected(at)).then(|| {
                format!("node {at} lacks snapshot {} for {} ms", node.number + 1, (now - since).as_millis())
            })
        })
    }

    pub(crate) fn report(&self) -> SpreadReport {
        let whole = self.slowest.values().filter(|(_, set_back)| !set_back);
        let all: Vec<f64> = whole.map(|(slowest, _)| in_ms(*slowest)).collect();
        let healed: Vec<f64> = self.healed.values().map(|slowest| in_ms(*slowest)).collect();
        SpreadReport {
            published: self.newest(),
            node_ms: Percentiles::of(&self.node_ms),
            all_ms: Percentiles::of(&all),
            healed_ms: Percentiles::of(&healed),
            all,
            healed,
        }
    }
}

fn limit(set_back: bool) -> Duration {
    if set_back { AFTER_FAULT } else { WITHIN }
}

fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn going_back_being_late_and_making_up_numbers_are_noticed() {
        let mut spread = Spread::new(3);
        assert_eq!(spread.published(MS(1000), 1), Ok(()));
        assert!(spread.published(MS(1000), 3).is_err(), "numbers follow each other");
        assert_eq!(spread.held(MS(1000), 0, 1, 1), Ok(()));
        assert_eq!(spread.held(MS(1200), 1, 1, 1), Ok(()));
        assert!(spread.held(MS(1200), 1, 2, 1).unwrap_err().contains("nobody signed"));
        assert!(spread.held(MS(1300), 1, 0, 1).unwrap_err().contains("went back"));
        assert!(spread.held(MS(1300), 1, 1, 0).unwrap_err().contains("went back"));
        assert_eq!(spread.overdue(MS(2900), |_| true), None);
        assert!(spread.overdue(MS(3100), |_| true).unwrap().contains("node 2 lacks"));
        assert_eq!(spread.overdue(MS(3100), |at| at != 2), None, "who isn't connected is owed nothing");
        assert!(spread.held(MS(3200), 2, 1, 1).unwrap_err().contains("only after"));
        let report = spread.report();
        assert_eq!((report.published, report.node_ms.unwrap().n), (1, 3));
        assert_eq!((report.all, report.healed.len()), (vec![2200.0], 0));
    }

    #[test]
    fn a_fault_starts_the_clock_anew_and_a_crash_falls_back_to_the_disk_alone() {
        let mut spread = Spread::new(2);
        spread.published(MS(0), 1).unwrap();
        spread.held(MS(0), 0, 1, 1).unwrap();
        spread.disturb(MS(1500));
        assert_eq!(spread.overdue(MS(6400), |_| true), None);
        assert_eq!(spread.held(MS(2500), 1, 1, 1), Ok(()));
        assert_eq!((spread.report().healed, spread.report().all.len()), (vec![1000.0], 0));
        // Its disk has nothing yet: after a crash it may begin anew. Later it may not.
        spread.started(1);
        assert_eq!(spread.held(MS(2600), 1, 0, 0), Ok(()));
        spread.held(MS(2700), 1, 1, 1).unwrap();
        spread.kept(1, 1, 1);
        spread.started(1);
        assert!(spread.held(MS(2800), 1, 0, 0).is_err());
        spread.out(1);
        spread.published(MS(9000), 2).unwrap();
        assert!(
            spread.overdue(MS(60_000), |_| true).unwrap().contains("node 0"),
            "the revoked one isn't named"
        );
    }
}
