//! Signed sets in the twin: how fast a revocation is everywhere, what a partition, a replay and another authority do to it.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use meshara_twin::{
    Action, Certificates, Fault, Inclusion, LinkModel, Report, Scenario, ScenarioError, Topology, Trust, run,
    sweep,
};

const SIGNED: Option<Trust> = Some(Trust { authority: 0, every_s: None });

fn at(at_s: f64, action: Action) -> Fault {
    Fault { at_s, action }
}

fn held(scenario: &Scenario) -> Report {
    let report = run(scenario).unwrap();
    assert!(report.ok(), "seed {}: {:?}", report.seed, report.violations);
    report
}

#[test]
fn a_revocation_is_everywhere_within_the_bar_at_five_percent_loss_and_the_trace_repeats() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/trust.toml");
    let scenario = Scenario::from_file(&path).unwrap();
    let report = held(&scenario);
    let trust = report.trust.clone().unwrap();
    assert!(trust.published >= 20, "{trust:?}");
    let (each, all) = (trust.node_ms.unwrap(), trust.all_ms.unwrap());
    assert!(each.n > 800 && all.n >= 15, "{trust:?}");
    assert!(all.max <= 2000.0, "{all}");
    // Signatures have random bytes, and nothing depends on them.
    assert_eq!(held(&scenario).trace, report.trace);
}

#[test]
fn a_healed_partition_hears_of_it() {
    let link = LinkModel { latency_ms: 10.0, jitter_ms: 1.0, loss: 0.05, bandwidth_mbit: 100.0 };
    let mut healed = Vec::new();
    for seed in 0..20 {
        // A ladder of eight rungs, cut across both rails.
        let cut = |at_s, a, b| at(at_s, Action::Cut { a, b });
        let restore = |at_s, a, b| at(at_s, Action::Restore { a, b });
        let faults = vec![
            cut(5.0, 3, 4),
            cut(5.0, 11, 12),
            at(8.0, Action::Revoke { node: None }),
            restore(15.0, 3, 4),
            restore(15.0, 11, 12),
        ];
        let scenario = Scenario {
            seed,
            link,
            faults,
            trust: SIGNED,
            duration_s: 22.0,
            ..Scenario::new(Topology::Ladder { length: 8 })
        };
        let report = held(&scenario);
        let after = report.trust.unwrap().healed_ms.unwrap();
        healed.push(after.max);
    }
    healed.sort_by(f64::total_cmp);
    assert!(healed.len() == 20 && healed[19] <= 2000.0, "{healed:?}");
}

/// However long it lasted, and though one link alone ends it.
#[test]
fn after_a_long_partition_the_bar_holds_too() {
    let link = LinkModel { latency_ms: 10.0, jitter_ms: 1.0, loss: 0.05, bandwidth_mbit: 100.0 };
    for (away_s, seeds) in [(100.0, 0..20), (590.0, 20..26)] {
        let mut healed = Vec::new();
        for seed in seeds {
            let faults = vec![
                at(5.0, Action::Cut { a: 3, b: 4 }),
                at(8.0, Action::Revoke { node: None }),
                // At any place in the time between two dials.
                at(
                    5.0 + away_s + f64::from(u32::try_from(seed).unwrap()) * 0.09,
                    Action::Restore { a: 3, b: 4 },
                ),
            ];
            let report = held(&Scenario {
                seed,
                link,
                faults,
                trust: SIGNED,
                duration_s: away_s + 12.0,
                ..Scenario::new(Topology::Line { nodes: 8 })
            });
            healed.push(report.trust.unwrap().healed_ms.unwrap().max);
        }
        healed.sort_by(f64::total_cmp);
        assert!(healed.iter().all(|ms| *ms <= 2000.0), "after {away_s} s: {healed:?}");
    }
}

/// Half of a mesh is away: what its other half spends on looking for it is bounded.
#[test]
fn looking_for_those_who_are_away_costs_a_few_dials_a_second() {
    let nodes = 40;
    let away = || (nodes / 2..nodes).map(|node| Action::Isolate { node });
    let run_for = |duration_s| {
        let faults = away().map(|action| at(10.0, action)).collect();
        let topology = Topology::BarabasiAlbert { nodes, links: 4 };
        held(&Scenario { faults, duration_s, ..Scenario::new(topology) })
    };
    // Between the 30th second of the faults and the 70th.
    let dials = run_for(80.0).dials - run_for(40.0).dials;
    let rate = dials as f64 / 40.0 / nodes as f64;
    println!("{rate} dials a second and node");
    assert!(rate <= 9.0, "{rate}");
}

#[test]
fn a_stale_snapshot_and_an_older_authority_change_nothing() {
    let faults = vec![
        at(3.0, Action::Revoke { node: None }),
        at(5.0, Action::Crash { node: 5 }),
        // From here on another key signs: node 5 knows of neither.
        at(6.0, Action::Rotate),
        at(7.0, Action::Revoke { node: None }),
        at(9.0, Action::Replay { node: 3 }),
        at(10.0, Action::Start { node: 5 }),
        at(16.0, Action::Replay { node: 4 }),
        at(17.0, Action::Revoke { node: None }),
    ];
    let report = held(&Scenario {
        faults,
        trust: SIGNED,
        duration_s: 22.0,
        ..Scenario::new(Topology::Ring { nodes: 8 })
    });
    let trust = report.trust.unwrap();
    assert_eq!((trust.published, trust.all_ms.unwrap().n, trust.healed_ms.unwrap().n), (3, 2, 1));
}

#[test]
fn a_revoked_node_is_cut_off_and_the_rest_stays_whole() {
    let faults = vec![at(5.0, Action::Revoke { node: Some(3) }), at(12.0, Action::Crash { node: 0 })];
    let scenario =
        Scenario { faults, trust: SIGNED, duration_s: 30.0, ..Scenario::new(Topology::Ladder { length: 4 }) };
    // Eight nodes with ten links; two of them led to the revoked one, two to the crashed one: both are corners.
    let report = held(&scenario);
    assert_eq!(report.links, 6, "{report}");
}

#[test]
fn many_seeds_of_chaos_with_revocations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/chaos.toml");
    let scenario = Scenario::from_file(&path).unwrap();
    let sweep = sweep(&scenario, 4, &|_| ()).unwrap();
    assert!(sweep.ok(), "{:?}", sweep.failures);
    assert!(sweep.revoked_ms.is_some_and(|times| times.max <= 2000.0), "{sweep}");
}

#[test]
fn certificates_cost_what_is_counted() {
    let scenario = |certificates| Scenario {
        certificates,
        duration_s: 120.0,
        count_from_s: 20.0,
        ..Scenario::new(Topology::Ring { nodes: 6 })
    };
    let plan = Certificates { life_s: 40.0, bytes: 5600, refresh_s: 1800.0, inclusion: None };
    let (without, with) = (held(&scenario(None)), held(&scenario(Some(plan))));
    assert_eq!(without.traffic.member, 0, "nothing is renewed or refreshed");
    // Five renewals in 100 s of each of six nodes, once or twice over each of six links.
    let floods = with.traffic.member / 5_700;
    assert!((5 * 6 * 5..=6 * 6 * 12).contains(&floods), "{floods}");
    assert_eq!(with.traffic.seconds, 100.0);
}

#[test]
fn proofs_take_the_place_of_certificates() {
    let scenario = |inclusion| Scenario {
        certificates: Some(Certificates { life_s: 300.0, bytes: 5600, refresh_s: 1800.0, inclusion }),
        duration_s: 900.0,
        count_from_s: 300.0,
        ..Scenario::new(Topology::Ladder { length: 8 })
    };
    let plan = Inclusion { issuers: 2, path: 28, head_bytes: 5400, statement_bytes: 5400 };
    let (certificates, proofs) = (held(&scenario(None)), held(&scenario(Some(plan))));
    assert_eq!(certificates.traffic.heads, 0);
    // 24 heads of each of two issuers in ten minutes, each once to each of fifteen others, and a little for announcements.
    let heads = proofs.traffic.heads / 5_500;
    assert!((46 * 15..=53 * 15).contains(&heads), "{heads}");
    let share = proofs.traffic.member as f64 / certificates.traffic.member as f64;
    assert!((0.15..0.3).contains(&share), "{share}");
}

#[test]
fn who_starts_together_with_others_believes_heads_of_witnesses_that_it_does_not_know_yet() {
    // Two sites of eight, a ladder each, two slow links between them. The site without issuers starts again at once, and its nodes know each other
    // by their certificates before heads come from the other site, whose records are proofs under them.
    let site = || (4..8).chain(12..16);
    let slow = LinkModel { latency_ms: 80.0, ..LinkModel::default() };
    let inclusion = Some(Inclusion { issuers: 2, path: 28, head_bytes: 5400, statement_bytes: 5400 });
    for seed in 0..5 {
        let between = [(3, 4), (11, 12)].map(|(a, b)| at(1.0, Action::Change { a, b, link: slow }));
        let crash = site().map(|node| at(700.0, Action::Crash { node }));
        let start = site().map(|node| at(701.0, Action::Start { node }));
        // Routes are compared with what all nodes advertise, from a few seconds after the start.
        held(&Scenario {
            seed,
            faults: between.into_iter().chain(crash).chain(start).collect(),
            certificates: Some(Certificates { life_s: 300.0, bytes: 5600, refresh_s: 1800.0, inclusion }),
            duration_s: 720.0,
            ..Scenario::new(Topology::Ladder { length: 8 })
        });
    }
}

#[test]
fn senseless_plans_are_refused() {
    let ring = || Scenario::new(Topology::Ring { nodes: 4 });
    let refused = |scenario: Scenario| run(&scenario).unwrap_err();
    let faults = vec![at(1.0, Action::Revoke { node: None })];
    assert!(matches!(refused(Scenario { faults, ..ring() }), ScenarioError::OutOfRange(_)), "nobody signs");
    let faults = vec![at(1.0, Action::Revoke { node: Some(0) })];
    assert!(matches!(refused(Scenario { faults, trust: SIGNED, ..ring() }), ScenarioError::OutOfRange(_)));
    let faults = vec![at(1.0, Action::Revoke { node: Some(9) })];
    assert_eq!(refused(Scenario { faults, trust: SIGNED, ..ring() }), ScenarioError::NoSuchNode(9));
    let trust = Some(Trust { authority: 4, every_s: None });
    assert_eq!(refused(Scenario { trust, ..ring() }), ScenarioError::NoSuchNode(4));
    let trust = Some(Trust { authority: 0, every_s: Some(0.0) });
    assert!(matches!(refused(Scenario { trust, ..ring() }), ScenarioError::OutOfRange(_)));
    let certificates = Some(Certificates { life_s: 1.0, bytes: 10, refresh_s: 1800.0, inclusion: None });
    assert!(matches!(refused(Scenario { certificates, ..ring() }), ScenarioError::OutOfRange(_)));
    let long = Inclusion { issuers: 1, path: 33, head_bytes: 1, statement_bytes: 1 };
    for inclusion in [long, Inclusion { path: 1, issuers: 5, ..long }] {
        let plan = Certificates { life_s: 60.0, bytes: 10, refresh_s: 1800.0, inclusion: Some(inclusion) };
        let scenario = Scenario { certificates: Some(plan), ..ring() };
        assert!(matches!(refused(scenario), ScenarioError::OutOfRange(_)));
    }
}
