//! Whole runs: the same seed gives the same trace, faults heal, what must fail fails, files say what is wrong with them.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use meshara_twin::{
    Action, Campaign, Fault, FaultKind, LinkModel, Messages, Neighbours, Observer, Pings, Report, Scenario,
    ScenarioError, Topology, run, run_observed, sweep,
};

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn campaign(fault: FaultKind, count: usize) -> Campaign {
    Campaign { fault, count, ends: Some((0, 4)), hold_s: 2.5 }
}

fn held(scenario: &Scenario) -> Report {
    let report = run(scenario).unwrap();
    assert!(report.ok(), "seed {}: {:?}", report.seed, report.violations);
    report
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    let mut scenario = Scenario::from_file(&scenarios().join("chaos.toml")).unwrap();
    scenario.campaigns.truncate(1);
    let (first, report) = traced(&scenario, 1);
    assert!(first.len() > 100_000);
    assert_eq!(report.trace, blake3::hash(&first).to_hex().to_string());
    assert!(traced(&scenario, 1).0 == first, "the same seed");
    scenario.seed += 1;
    assert!(traced(&scenario, 1).0 != first, "another seed");
}

/// Neighbours that are chosen have links which only dials make: the first slices must be short enough for them too.
#[test]
fn time_goes_on_where_dials_make_the_links() {
    for seed in 0..8 {
        let scenario = Scenario {
            seed,
            neighbours: Neighbours::Auto,
            pings: vec![Pings { from: 0, to: 4, every_ms: 10.0 }],
            messages: Some(Messages { pairs: 4, per_second: 20.0, bytes: 100 }),
            duration_s: 10.0,
            ..Scenario::new(Topology::Line { nodes: 5 })
        };
        let (trace, report) = traced(&scenario, 1);
        assert!(report.ok() && report.messages.acked > 500, "{report}");
        let trace = String::from_utf8(trace).unwrap();
        let times = trace.lines().map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap());
        assert!(times.is_sorted(), "seed {seed}");
    }
}

fn traced(scenario: &Scenario, threads: usize) -> (Vec<u8>, Report) {
    let mut out = Vec::new();
    let observer = Observer { trace: Some(&mut out), threads, ..Observer::default() };
    let report = run_observed(scenario, observer).unwrap();
    (out, report)
}

#[test]
fn every_kind_of_fault_heals_within_the_bar() {
    let kinds = [
        FaultKind::Sigstop,
        FaultKind::Sigkill,
        FaultKind::LinkDown,
        FaultKind::Cut,
        FaultKind::OneWay,
        FaultKind::Blackhole,
        FaultKind::Restart,
    ];
    let campaigns = kinds.map(|kind| campaign(kind, 6)).to_vec();
    let report =
        held(&Scenario { campaigns, duration_s: 600.0, ..Scenario::new(Topology::Ladder { length: 5 }) });
    assert_eq!(report.results.len(), kinds.len());
    for series in &report.results {
        assert_eq!((series.samples.len(), series.not_healed, series.not_whole), (6, 0, 0), "{series:?}");
        let (gap, back) = (series.gap.unwrap(), series.return_gap.unwrap());
        assert!(gap.max <= 400.0 && back.max <= 400.0, "{}: {gap} / {back}", series.kind);
        // A silent failure can't be seen sooner than a link may be suspected.
        let silent = !matches!(series.kind.as_str(), "link-down" | "restart");
        assert!(!silent || gap.p50 >= 100.0, "{}: {gap}", series.kind);
    }
}

#[test]
fn four_rough_worlds_keep_every_invariant() {
    let scenario = Scenario::from_file(&scenarios().join("chaos.toml")).unwrap();
    let sweep = sweep(&scenario, 4, &|_| ()).unwrap();
    assert!(sweep.ok(), "{:?}", sweep.failures);
    assert!(sweep.runs == 4 && sweep.acked > 10_000 && sweep.not_healed == 0, "{sweep}");
}

#[test]
fn a_mesh_of_any_shape_becomes_whole_and_finds_shortest_paths() {
    for topology in [
        Topology::Line { nodes: 6 },
        Topology::Ring { nodes: 7 },
        Topology::Grid { width: 4, height: 3 },
        Topology::Geometric { nodes: 20, radius: 0.3 },
        Topology::BarabasiAlbert { nodes: 20, links: 2 },
    ] {
        let report = held(&Scenario { duration_s: 20.0, ..Scenario::new(topology) });
        assert!(report.whole_after_ms.is_some_and(|ms| ms <= 2000.0), "{report}");
        assert_eq!(report.deaths, 0);
    }
    let chosen = held(&Scenario {
        neighbours: Neighbours::Auto,
        duration_s: 60.0,
        ..Scenario::new(Topology::Line { nodes: 24 })
    });
    assert!(chosen.whole_after_ms.is_some_and(|ms| ms <= 20_000.0), "{chosen}");
}

#[test]
fn what_cannot_hold_is_reported_with_its_seed() {
    let dead = LinkModel { loss: 1.0, ..LinkModel::default() };
    let report =
        run(&Scenario { link: dead, seed: 77, ..Scenario::new(Topology::Line { nodes: 2 }) }).unwrap();
    assert!(report.violations[0].ends_with("the mesh is not whole after its start"), "{report}");
    assert!(report.to_string().contains("BROKEN; replay with seed 77"), "{report}");
    assert!(!report.ok());
}

#[test]
fn a_line_has_no_way_round() {
    let scenario = Scenario {
        campaigns: vec![campaign(FaultKind::Sigstop, 2)],
        ..Scenario::new(Topology::Line { nodes: 5 })
    };
    let series = &held(&scenario).results[0];
    assert_eq!((series.samples.len(), series.no_alternate), (0, 2));
}

#[test]
fn messages_survive_crashes_and_wait_for_a_partition_to_end() {
    let at = |at_s: f64, action: Action| Fault { at_s, action };
    let faults = vec![
        at(5.0, Action::Crash { node: 2 }),
        at(8.0, Action::Start { node: 2 }),
        at(10.0, Action::Cut { a: 1, b: 2 }),
        at(14.0, Action::Restore { a: 1, b: 2 }),
        at(16.0, Action::Leave { node: 3 }),
        at(18.0, Action::Start { node: 3 }),
    ];
    let messages = Some(Messages { pairs: 6, per_second: 20.0, bytes: 300 });
    let pings = vec![Pings { from: 0, to: 3, every_ms: 10.0 }];
    let line = Scenario { faults, messages, pings, ..Scenario::new(Topology::Line { nodes: 4 }) };
    let report = held(&line);
    assert!(report.messages.acked > 5000, "{report}");
    assert!(report.pings.1 < report.pings.0 && report.pings.1 > report.pings.0 / 2, "{report}");
    // What is cut off for good can't be acknowledged, and that is nobody's fault.
    let forever = vec![at(5.0, Action::Cut { a: 1, b: 2 })];
    let report = held(&Scenario { faults: forever, ..line });
    assert!(report.messages.acked < report.messages.submitted, "{report}");
}

#[test]
fn graphs_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    put("g.json", r#"{"nodes": 3, "edges": [{"a": 0, "b": 1, "latency_ms": 1}, {"a": 1, "b": 2}]}"#);
    put(
        "g.graphml",
        r#"<graphml><key id="k" for="edge" attr.name="latency_ms"/><graph>
           <node id="a"/><node id="b"/><node id="c"/>
           <edge source="a" target="b"><data key="k">1</data></edge><edge source="b" target="c"/>
           </graph></graphml>"#,
    );
    let mut traces = Vec::new();
    for graph in ["g.json", "g.graphml"] {
        put("s.toml", &format!("duration_s = 5.0\ntopology = {{ kind = \"file\", path = \"{graph}\" }}\n"));
        let scenario = Scenario::from_file(&folder.path().join("s.toml")).unwrap();
        assert_eq!(scenario.name, "s");
        let report = held(&scenario);
        assert_eq!((report.nodes, report.links), (3, 2));
        traces.push(report.trace);
    }
    assert_eq!(traces[0], traces[1], "the same graph, whatever the form");
}

#[test]
fn scenarios_that_make_no_sense_are_refused_exactly() {
    let ring = || Scenario::new(Topology::Ring { nodes: 4 });
    let fault = |action| vec![Fault { at_s: 1.0, action }];
    let refused = |scenario: Scenario| run(&scenario).unwrap_err();
    assert_eq!(
        refused(Scenario { faults: fault(Action::Stop { node: 9 }), ..ring() }),
        ScenarioError::NoSuchNode(9)
    );
    assert_eq!(
        refused(Scenario { faults: fault(Action::Cut { a: 0, b: 2 }), ..ring() }),
        ScenarioError::NoSuchLink(0, 2)
    );
    // What a fault makes of a link is held to the same as what it was.
    let good = LinkModel::default();
    for link in [
        LinkModel { bandwidth_mbit: 0.0, ..good },
        LinkModel { bandwidth_mbit: f64::NAN, ..good },
        LinkModel { latency_ms: 1e-9, ..good },
        LinkModel { latency_ms: 1e300, ..good },
        LinkModel { latency_ms: -1.0, ..good },
        LinkModel { jitter_ms: 1e300, ..good },
        LinkModel { loss: 1.1, ..good },
    ] {
        let why = ScenarioError::OutOfRange(
            "a link has a latency from 0.01 ms to 60 s, jitter from 0 to 60 s, loss from 0 to 1, a bandwidth from 0.001 Mbit/s",
        );
        let change = Scenario { faults: fault(Action::Change { a: 0, b: 1, link }), ..ring() };
        assert_eq!(refused(change), why, "{link:?}");
        assert_eq!(refused(Scenario { link, ..ring() }), why, "{link:?}");
    }
    let extreme = LinkModel { latency_ms: 0.01, jitter_ms: 59_999.0, loss: 1.0, bandwidth_mbit: 0.001 };
    let faults = fault(Action::Change { a: 0, b: 1, link: extreme });
    assert!(held(&Scenario { faults, duration_s: 5.0, ..ring() }).whole_after_ms.is_some());
    let ends = Campaign { ends: Some((0, 4)), ..campaign(FaultKind::Cut, 1) };
    assert_eq!(refused(Scenario { campaigns: vec![ends], ..ring() }), ScenarioError::NoSuchNode(4));
    for scenario in [
        Scenario::new(Topology::Line { nodes: 1 }),
        Scenario { link: LinkModel { bandwidth_mbit: 0.0, ..LinkModel::default() }, ..ring() },
        Scenario { pings: vec![Pings { from: 1, to: 1, every_ms: 10.0 }], ..ring() },
        Scenario { messages: Some(Messages { pairs: 1, per_second: 0.0, bytes: 1 }), ..ring() },
    ] {
        assert!(matches!(refused(scenario), ScenarioError::OutOfRange(_)));
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        Scenario::from_file(&path).and_then(|scenario| run(&scenario).map(drop)).unwrap_err()
    };
    for text in [
        "",
        "topology = 3",
        "topology = { kind = \"circle\" }",
        "nonsense = 1\ntopology = { kind = \"line\", nodes = 2 }",
    ] {
        let ScenarioError::Malformed { path: named, reason } = read(text) else { panic!("{text}") };
        assert!(named == path && !reason.is_empty());
    }
    let missing = folder.path().join("none.json");
    let error = Scenario::from_file(&missing).unwrap_err();
    assert!(matches!(&error, ScenarioError::Read { path, .. } if *path == missing), "{error}");
    assert!(error.to_string().contains("none.json"));
}
