//! Runs a world through its scenario: starts, breaks, measures, repairs, checks.

use std::time::Duration;

use rand::Rng;

use crate::scenario::{Action, Campaign, FaultKind, Scenario};
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
/// Compare routes with an independent computation after every this many faults.
const CHECK_EVERY: usize = 10;
/// Changes of cost may be under way: look this often, this far apart.
const LOOKS: usize = 6;
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
    match &scenario.campaign {
        Some(campaign) => run_campaign(world, campaign, end),
        None => run_quietly(world, end),
    }
    if scenario.messages.is_some() {
        world.stop_messages(world.now);
        let last = world.now + LAST_MESSAGES;
        world.run_until(last);
        let all_run = (0..world.size()).all(|at| world.runs(at));
        let pending = world.check.pending();
        if all_run && pending > 0 && world.whole() {
            world.check.violation(world.now, &format!("{pending} messages are not acknowledged 15 s later"));
        }
    }
}

/// Runs to the end, and checks routes whenever it has been quiet long enough.
fn run_quietly(world: &mut World<'_>, end: Duration) {
    while world.now < end {
        let next = (world.now + Duration::from_secs(1)).min(end);
        world.run_until(next);
        if world.check.quiet(world.now) && world.now + LOOK_AGAIN * 6 < end {
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
    for _ in 0..LOOKS {
        match world.routes_are_shortest() {
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

fn run_campaign(world: &mut World<'_>, campaign: &Campaign, end: Duration) {
    for trial in 0..campaign.count {
        if world.now >= end {
            world.heal.out_of_time = (campaign.count - trial) as u64;
            return;
        }
        one_trial(world, campaign);
        world.progress.faults = trial + 1;
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
fn one_trial(world: &mut World<'_>, campaign: &Campaign) {
    let Some((from, to)) = choose_ends(world, campaign) else {
        world.heal.no_alternate += 1;
        return;
    };
    let pinger = world.start_pings(from, to, Duration::from_millis(10));
    let warm = world.now + WARM_UP + Duration::from_micros(world.rng.random_range(0..500_000));
    world.run_until(warm);
    let Some((fault, repair)) = choose_fault(world, campaign.fault, from, to) else {
        world.heal.no_alternate += 1;
        stop_pings(world, pinger);
        return;
    };
    if let Some(pings) = world.pingers.get_mut(pinger) {
        pings.restart(world.now);
    }
    world.apply(&fault);
    let hold = world.now + seconds(campaign.hold_s);
    world.run_until(hold);
    let now = world.now;
    if let Some(pings) = world.pingers.get(pinger) {
        if pings.silent_for(now) > Duration::from_millis(500) {
            world.heal.not_healed += 1;
        } else {
            world.heal.gaps_ms.push(pings.longest_gap(now).as_secs_f64() * 1000.0);
        }
    }
    world.apply(&repair);
    match until_whole(world, REPAIR) {
        Some(after) => world.heal.rejoin_ms.push(after.as_secs_f64() * 1000.0),
        None => world.check.violation(world.now, &format!("not whole 10 s after {repair:?}")),
    }
    stop_pings(world, pinger);
}

fn stop_pings(world: &mut World<'_>, pinger: usize) {
    if let Some(pings) = world.pingers.get_mut(pinger) {
        pings.on = false;
    }
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

/// A fault on the present path, after which there is still a way round, and its repair.
fn choose_fault(world: &mut World<'_>, kind: FaultKind, from: usize, to: usize) -> Option<(Action, Action)> {
    let path = world.path(from, to)?;
    let kind = match kind {
        FaultKind::Any => {
            let kinds = [FaultKind::Stop, FaultKind::Crash, FaultKind::Cut, FaultKind::OneWay];
            kinds.get(world.rng.random_range(0..kinds.len())).copied()?
        }
        kind => kind,
    };
    for _ in 0..path.len() * 4 {
        let at = world.rng.random_range(1..path.len());
        let (before, node) = (*path.get(at - 1)?, *path.get(at)?);
        match kind {
            FaultKind::Stop if node != to && world.connected(from, to, Some(node)) => {
                return Some((Action::Stop { node }, Action::Resume { node }));
            }
            FaultKind::Crash if node != to && world.connected(from, to, Some(node)) => {
                return Some((Action::Crash { node }, Action::Start { node }));
            }
            FaultKind::Cut | FaultKind::OneWay => {
                let (a, b) = (before, node);
                let (fault, repair) = (Action::Cut { a, b }, Action::Restore { a, b });
                if world.way_round(a, b, from, to) {
                    let one_way = kind == FaultKind::OneWay;
                    return Some((if one_way { Action::CutOneWay { a, b } } else { fault }, repair));
                }
            }
            _ => {}
        }
    }
    None
}
