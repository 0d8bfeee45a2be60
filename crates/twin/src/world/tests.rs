//! The outcome doesn't depend on the number of threads. Here every slice is shared out, however few nodes are awake.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::World;
use crate::scenario::{Action, Campaign, Fault, FaultKind, Messages, Neighbours, Pings, Scenario, Topology};
use crate::{Observer, Report, campaign};

/// The trace, the report, and how often another thread than the first went through a node's events.
fn traced(scenario: &Scenario, threads: usize) -> (Vec<u8>, Report, u64) {
    let mut out = Vec::new();
    let observer = Observer { trace: Some(&mut out), threads, ..Observer::default() };
    let mut world = World::new(scenario, observer).unwrap();
    world.worth_a_thread = 1;
    campaign::drive(&mut world, scenario);
    let report = world.report(scenario);
    let helped = world.shared.helped.load(Ordering::Relaxed);
    drop(world);
    (out, report, helped)
}

fn the_same_on_two_and_three_threads(scenario: &Scenario) {
    let (one, report, helped) = traced(scenario, 1);
    assert!(report.ok() && report.messages.acked > 200, "{report}");
    assert_eq!(helped, 0);
    for threads in [2, 3] {
        let (more, again, helped) = traced(scenario, threads);
        assert!(helped > 1000, "{threads} threads: {helped}");
        assert!(more == one, "{threads} threads: another trace");
        assert_eq!(again.to_string(), report.to_string(), "{threads} threads");
    }
}

#[test]
fn chaos_is_the_same_on_any_number_of_threads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/chaos.toml");
    let mut scenario = Scenario::from_file(&path).unwrap();
    scenario.campaigns = vec![
        Campaign { fault: FaultKind::Any, count: 2, ends: None, hold_s: 2.0 },
        Campaign { fault: FaultKind::LinkDown, count: 1, ends: None, hold_s: 2.0 },
    ];
    the_same_on_two_and_three_threads(&scenario);
}

#[test]
fn links_that_dials_make_are_the_same_on_any_number_of_threads() {
    let at = |at_s: f64, action: Action| Fault { at_s, action };
    the_same_on_two_and_three_threads(&Scenario {
        seed: 3,
        neighbours: Neighbours::Auto,
        faults: vec![at(4.0, Action::Crash { node: 2 }), at(7.0, Action::Start { node: 2 })],
        pings: vec![Pings { from: 0, to: 4, every_ms: 10.0 }],
        messages: Some(Messages { pairs: 4, per_second: 20.0, bytes: 100 }),
        duration_s: 12.0,
        ..Scenario::new(Topology::Line { nodes: 5 })
    });
}
