//! Runs a world through its scenario: starts, breaks, measures, repairs, checks.

use std::time::Duration;

use rand::Rng;

use crate::report::{Sample, Series};
use crate::scenario::{Action, Campaign, FaultKind, Scenario, Topology};
use crate::seconds;
use crate::world::World;

/// Every world must be whole after this long.
const START: Duration = Duration::from_secs(60);
/// And again this long after a repair: a lost neighbour is redialled within 1.5 s, a dial may take as long.
const REPAIR: Duration = Duration::from_secs(10);
/// Look this often whether it is whole.
const LOOK: Duration = Duration::from_millis(50);
/// Pings run this long before a fault, so that the path's links are probed fast.
const WARM_UP: Duration = Duration::from_millis(2500);
/// Pings are sent this often, as the lab does.
const PING_EVERY: Duration = Duration::from_millis(10);
/// Without a reply in this last part of a fault it was not healed.
const LAST_PART: Duration = Duration::from_millis(500);
/// Pings go on this long after the repair, to see what the return does.
const TAIL: Duration = Duration::from_millis(1500);
/// A process that ended in good order is back after this long: what the daemon takes to open its home.
const START_AGAIN: Duration = Duration::from_millis(200);
/// Compare routes with an independent computation after every this many faults.
const CHECK_EVERY: usize = 10;
/// Look this often at each node, this far apart: it must be right once. Where links lose frames, some cost changes every half second, and
/// nearly a third of all looks find one under way: so many in a row do not.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// Messages under way at the end are given this long.
const LAST_MESSAGES: Duration = Duration::from_secs(15);

pub(crate) fn drive(world: &mut World<'_>, scenario: &Scenario) {
    let end = seconds(scenario.duration_s);
    world.check.disturb(Duration::ZERO);
    world.whole_after = until_whole(world, START.min(end));
    if world.whole_after.is_none() && scenario.faults.is_empty() {
        world.check.violation(world.now, "the mesh is not whole after its start");
    }
    world.check.disturb(world.now);
    if scenario.campaigns.is_empty() {
        run_quietly(world, end);
    }
    for campaign in &scenario.campaigns {
        let topology = scenario.topology.name();
        let mut series = Series { topology, kind: campaign.fault.name().to_owned(), ..Series::default() };
        run_campaign(world, campaign, end, &mut series);
        series.finish();
        world.results.push(series);
    }
    world.look_for_overdue();
    if scenario.messages.is_some() {
        world.stop_messages(world.now);
        let last = world.now + LAST_MESSAGES;
        world.run_until(last);
        let waiting = world.check.pending();
        let stuck: u64 = waiting
            .into_iter()
            .filter(|((from, to), _)| world.connected(*from, *to, None))
            .map(|(_, count)| count)
            .sum();
        if stuck > 0 {
            world.check.violation(world.now, &format!("{stuck} messages are not acknowledged 15 s later"));
        }
    }
}

/// Runs to the end, and checks routes whenever it has been quiet long enough.
fn run_quietly(world: &mut World<'_>, end: Duration) {
    while world.now < end {
        let next = (world.now + Duration::from_secs(1)).min(end);
        world.run_until(next);
        world.look_for_overdue();
        if world.check.quiet(world.now) && world.now + LOOK_AGAIN * LOOKS < end {
            check_routes(world);
        }
    }
}

fn until_whole(world: &mut World<'_>, within: Duration) -> Option<Duration> {
    let start = world.now;
    while world.now < start + within {
        let next = world.now + LOOK;
        world.run_until(next);
        if world.whole() {
            return Some(world.now - start);
        }
    }
    None
}

fn check_routes(world: &mut World<'_>) {
    let mut problem = String::new();
    let mut nodes = world.sample();
    for _ in 0..LOOKS {
        match world.take_shortest(&mut nodes) {
            Ok(()) => return,
            Err(what) => problem = what,
        }
        let next = world.now + LOOK_AGAIN;
        world.run_until(next);
        if !world.check.quiet(world.now) {
            return;
        }
    }
    world.check.violation(world.now, &problem);
}

fn run_campaign(world: &mut World<'_>, campaign: &Campaign, end: Duration, series: &mut Series) {
    for trial in 0..campaign.count {
        if world.now >= end {
            series.out_of_time = campaign.count - trial;
            return;
        }
        match one_trial(world, campaign) {
            Some(sample) => series.samples.push(sample),
            None => series.no_alternate += 1,
        }
        world.progress.faults += 1;
        if trial % CHECK_EVERY == CHECK_EVERY - 1 || trial + 1 == campaign.count {
            while !world.check.quiet(world.now) {
                let next = world.now + LOOK_AGAIN;
                world.run_until(next);
            }
            check_routes(world);
        }
    }
}

/// Pings between two nodes, breaks something on their path, measures the silence, repairs.
fn one_trial(world: &mut World<'_>, campaign: &Campaign) -> Option<Sample> {
    let (from, to) = choose_ends(world, campaign)?;
    let pinger = world.start_pings(from, to, PING_EVERY);
    let sample = measure(world, campaign, pinger, from, to);
    if let Some(pings) = world.pinger(pinger) {
        pings.on = false;
    }
    sample
}

fn measure(
    world: &mut World<'_>,
    campaign: &Campaign,
    pinger: usize,
    from: usize,
    to: usize,
) -> Option<Sample> {
    let warm = world.now + WARM_UP + Duration::from_micros(world.rng.random_range(0..500_000));
    world.run_until(warm);
    let path = world.path(from, to)?;
    let (target, fault, repair) = choose_fault(world, campaign.fault, &path)?;
    let broken_at = world.now;
    world.pinger(pinger)?.restart(broken_at);
    world.apply(&fault);
    if campaign.fault == FaultKind::Restart {
        // It starts again by itself; nothing is undone later.
        let started = world.now + START_AGAIN;
        world.run_until(started);
        world.apply(&repair);
    }
    world.run_until(broken_at + seconds(campaign.hold_s));
    let undone = world.now;
    let pings = world.pinger(pinger)?;
    let gap = pings.longest_gap(undone);
    let healed = pings.silent_for(undone) <= LAST_PART;
    pings.restart(undone);
    if campaign.fault != FaultKind::Restart {
        world.apply(&repair);
    }
    let whole = until_whole(world, REPAIR);
    if whole.is_none() {
        world.check.violation(world.now, &format!("not whole 10 s after {repair:?}"));
    }
    world.run_until((undone + TAIL).max(world.now));
    let now = world.now;
    let return_gap = world.pinger(pinger)?.longest_gap(now);
    Some(Sample {
        target,
        path,
        at_ms: in_ms(broken_at),
        gap_ms: in_ms(gap),
        healed,
        return_gap_ms: in_ms(return_gap),
        whole_ms: whole.map(in_ms),
    })
}

fn in_ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn choose_ends(world: &mut World<'_>, campaign: &Campaign) -> Option<(usize, usize)> {
    if campaign.ends.is_some() {
        return campaign.ends;
    }
    (0..100).find_map(|_| {
        let from = world.rng.random_range(0..world.size());
        let to = world.rng.random_range(0..world.size());
        world.path(from, to).filter(|path| path.len() > 2).map(|_| (from, to))
    })
}

/// A fault on the path, after which there is still a way round, what it hits, and its repair.
fn choose_fault(world: &mut World<'_>, kind: FaultKind, path: &[usize]) -> Option<(String, Action, Action)> {
    let (from, to) = (*path.first()?, *path.last()?);
    let kind = match kind {
        FaultKind::Any => {
            let kinds = [FaultKind::Sigstop, FaultKind::Sigkill, FaultKind::Cut, FaultKind::OneWay];
            kinds.get(world.rng.random_range(0..kinds.len())).copied()?
        }
        kind => kind,
    };
    let at_a_link = matches!(kind, FaultKind::Cut | FaultKind::LinkDown | FaultKind::OneWay);
    for _ in 0..path.len() * 4 {
        let at = world.rng.random_range(1..path.len());
        let (before, node) = (*path.get(at - 1)?, *path.get(at)?);
        if at_a_link {
            let (a, b) = if world.rng.random_bool(0.5) { (before, node) } else { (node, before) };
            if !world.way_round(a, b, from, to) {
                continue;
            }
            let (target, fault) = match kind {
                FaultKind::OneWay => (format!("n{a}→n{b}"), Action::CutOneWay { a, b }),
                FaultKind::LinkDown => (format!("n{a}–n{b}"), Action::LinkDown { a, b }),
                _ => (format!("n{a}–n{b}"), Action::Cut { a, b }),
            };
            return Some((target, fault, Action::Restore { a, b }));
        }
        if node == to || !world.connected(from, to, Some(node)) {
            continue;
        }
        let (fault, repair) = match kind {
            FaultKind::Sigkill => (Action::Crash { node }, Action::Start { node }),
            FaultKind::Blackhole => (Action::Isolate { node }, Action::Rejoin { node }),
            FaultKind::Restart => (Action::Leave { node }, Action::Start { node }),
            _ => (Action::Stop { node }, Action::Resume { node }),
        };
        return Some((format!("n{node}"), fault, repair));
    }
    None
}

impl FaultKind {
    /// The name in scenarios and reports.
    const fn name(self) -> &'static str {
        match self {
            Self::Sigstop => "sigstop",
            Self::Sigkill => "sigkill",
            Self::LinkDown => "link-down",
            Self::Cut => "cut",
            Self::OneWay => "one-way",
            Self::Blackhole => "blackhole",
            Self::Restart => "restart",
            Self::Any => "any",
        }
    }
}

impl Topology {
    /// The name in reports, which is the lab's where the lab has the shape.
    fn name(&self) -> String {
        match self {
            Self::Line { nodes } => format!("line-{nodes}"),
            Self::Ring { nodes } => format!("ring-{nodes}"),
            Self::Grid { width, height } => format!("grid-{height}x{width}"),
            Self::Ladder { length: 5 } => "ladder".to_owned(),
            Self::Ladder { length } => format!("ladder-{length}"),
            Self::Geometric { nodes, .. } => format!("geometric-{nodes}"),
            Self::BarabasiAlbert { nodes, .. } => format!("barabasi-albert-{nodes}"),
            Self::File { path } => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}
