//! Policy: files, decisions, explanations, and evidence that only takes away.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::time::Duration;

use common::*;
use meshara_identity::{RoleName, UnixMillis};
use meshara_trust::policy::*;
use meshara_trust::sets::*;
use proptest::prelude::*;

fn asked(kind: TargetKind, name: &str, port: u16) -> Asked<'_> {
    Asked { kind, name, port }
}

fn decide<'a>(policy: &'a Compiled, name: &str, roles: &[RoleName], asked: &Asked<'_>) -> Decision<'a> {
    let spiffe_id = format!("spiffe://lab/node/{name}");
    policy.decide(&Caller { name, spiffe_id: &spiffe_id, roles }, asked, NOW)
}

#[test]
fn the_starter_policy_lets_members_use_what_is_offered_and_control_nobody() {
    let policy = parse(STARTER).unwrap();
    let allowed = |kind, name: &str, port| decide(&policy, "bob", &[], &asked(kind, name, port));
    for call in ["ping", "trace", "bench", "message"] {
        assert!(allowed(TargetKind::Mesh, &format!("alice/{call}"), 0).allowed, "{call}");
    }
    assert_eq!(allowed(TargetKind::Service, "alice/ssh", 0).rule, "services");
    assert!(allowed(TargetKind::File, "alice/report.pdf", 0).allowed);
    assert!(allowed(TargetKind::Tun, "alice/tcp", 22).allowed);
    assert_eq!(allowed(TargetKind::Control, "alice/invite", 0), Decision::DEFAULT);
    assert_eq!(allowed(TargetKind::Topic, "news", 0), Decision::DEFAULT);
    assert_eq!(allowed(TargetKind::Mesh, "alice/shutdown", 0), Decision::DEFAULT);
    assert_eq!(allowed(TargetKind::Service, &"x".repeat(300), 0), Decision::DEFAULT);
}

const EXAMPLE: &str = r#"version = 1

[[rule]]
name = "db"
effect = "allow"
from = ["web-*", "role:ops", "spiffe://lab/node/x*"]
to = ["service:db/*", "tun:db/tcp:5432", "tun:*/tcp:8000-8100"]

[[rule]]
name = "no-backup"
effect = "deny"
from = "web-9"
to = "service:db/backup"

[[rule]]
name = "nightly"
effect = "allow"
from = "*"
to = "service:*/backup"
days = ["sat", "sun"]
hours = "22:00-06:00"
rate = "10/min"
burst = 2
"#;

#[test]
fn rules_match_callers_targets_ports_and_times() {
    let policy = parse(EXAMPLE).unwrap();
    let ops: Vec<RoleName> = vec!["ops".parse().unwrap()];
    let by = |name: &str, roles: &[RoleName], kind, target, port| {
        let decision = decide(&policy, name, roles, &asked(kind, target, port));
        (decision.allowed, decision.rule.to_owned())
    };
    let (allow, default) = ((true, "db".to_owned()), (false, "default".to_owned()));
    assert_eq!(by("web-1", &[], TargetKind::Service, "db/postgres", 0), allow);
    assert_eq!(by("alice", &ops, TargetKind::Service, "db/postgres", 0), allow);
    assert_eq!(by("xena", &[], TargetKind::Service, "db/postgres", 0), allow);
    assert_eq!(by("alice", &[], TargetKind::Service, "db/postgres", 0), default);
    assert_eq!(by("web-1", &[], TargetKind::Topic, "db/postgres", 0), default);
    assert_eq!(by("web-1", &[], TargetKind::Tun, "db/tcp", 5432), allow);
    assert_eq!(by("web-1", &[], TargetKind::Tun, "db/tcp", 5433), default);
    assert_eq!(by("web-1", &[], TargetKind::Tun, "any/tcp", 8100), allow);
    assert_eq!(by("web-1", &[], TargetKind::Tun, "any/udp", 8100), default);
    let denied = (false, "no-backup".to_owned());
    assert_eq!(by("web-9", &[], TargetKind::Service, "db/backup", 0), denied);
    // NOW is a Wednesday; three days and twelve hours later it is Saturday night.
    assert_eq!(NOW.to_string(), "2026-11-18 11:06:40 UTC");
    let night = NOW.plus(Duration::from_secs(3 * 86_400 + 12 * 3600));
    let caller = Caller { name: "zoe", spiffe_id: "spiffe://lab/node/zoe", roles: &[] };
    let backup = asked(TargetKind::Service, "nas/backup", 0);
    assert!(!policy.decide(&caller, &backup, NOW).allowed);
    let decision = policy.decide(&caller, &backup, night);
    assert_eq!((decision.allowed, decision.rule, decision.index), (true, "nightly", Some(2)));
    let mut table = RateTable::new();
    let mut admit = || table.admit(&node(1), &decision, night);
    assert_eq!([admit(), admit(), admit()], [true, true, false]);

    let explanation = policy.policy().explain(&caller, &backup, NOW);
    let why: Vec<_> =
        explanation.looked.iter().map(|looked| (looked.rule.name.as_str(), looked.why)).collect();
    let expected = [("db", Why::OtherCaller), ("no-backup", Why::OtherCaller), ("nightly", Why::OtherTime)];
    assert_eq!(why, expected);
    let target = asked(TargetKind::Topic, "x", 0);
    let web = Caller { name: "web-9", spiffe_id: "spiffe://lab/node/web-9", roles: &[] };
    let why = policy.policy().explain(&web, &target, NOW).looked.iter().map(|l| l.why).collect::<Vec<_>>();
    assert_eq!(why, [Why::OtherTarget; 3]);
}

#[test]
fn errors_name_line_and_rule() {
    let change = |from: &str, to: &str| {
        assert!(EXAMPLE.contains(from), "{from}");
        parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err()
    };
    let expect = |error: PolicyTextError, line: usize, rule: Option<&str>, text: &str| {
        assert_eq!((error.line, error.rule.as_deref()), (line, rule), "{error}");
        assert!(error.problem.to_string().contains(text), "{error}");
    };
    expect(change("version = 1", "version = 2"), 1, None, "version 2, this program knows 1");
    expect(change("version = 1\n", ""), 1, None, "missing field `version`");
    expect(
        change("\"allow\"", "\"permit\""),
        5,
        Some("db"),
        "effect is \"allow\" or \"deny\", found \"permit\"",
    );
    expect(change("\"web-*\"", "\"web *\""), 6, Some("db"), "`from`: a pattern has printable ASCII");
    expect(change("role:ops", "role:Ops"), 6, Some("db"), "Ops is not a role");
    expect(change("service:db/*", "db/*"), 7, Some("db"), "`to`: \"db/*\" has no kind");
    expect(change("8000-8100", "8100-8000"), 7, Some("db"), "are no ports");
    expect(change(":5432", ":0"), 7, Some("db"), "are no ports");
    expect(change("\"web-9\"", "9"), 12, Some("no-backup"), "`from` is a text or a list of texts");
    expect(change("name = \"no-backup\"", "name = \"No\""), 10, Some("No"), "a name has only a-z");
    expect(change("name = \"no-backup\"\n", ""), 9, None, "missing field `name`");
    expect(change("\"nightly\"", "\"db\""), 16, Some("db"), "the name db is taken");
    expect(change("\"nightly\"", "\"default\""), 16, Some("default"), "the name default is taken");
    expect(change("days = [\"sat\"", "days = [\"sunday\""), 20, Some("nightly"), "found \"sunday\"");
    expect(change("22:00-06:00", "22-6"), 21, Some("nightly"), "hours read HH:MM-HH:MM");
    expect(change("10/min", "10/day"), 22, Some("nightly"), "a rate reads");
    expect(change("burst = 2", "burst = 0"), 23, Some("nightly"), "a burst is");
    expect(change("rate = \"10/min\"\n", ""), 22, Some("nightly"), "`burst` needs a `rate`");
    expect(change("burst = 2", "brust = 2"), 23, Some("nightly"), "unknown field `brust`");
    expect(
        change("effect = \"deny\"", "effect = \"deny\"\nrate = \"1/s\""),
        10,
        Some("no-backup"),
        "no rate",
    );
    expect(change("to = \"service:db/backup\"", "to = []"), 10, Some("no-backup"), "1 to 64 callers");
    expect(change("to = \"service:db/backup\"", "to = \"service:db/backup"), 13, Some("no-backup"), "");
}

#[test]
fn a_policy_that_could_not_decide_in_time_is_refused() {
    let rule = |number: usize, from: String, to: String, more: &str| {
        format!(
            "[[rule]]\nname = \"r{number}\"\neffect = \"allow\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n"
        )
    };
    let file = |rules: Vec<String>| parse(&format!("version = 1\n{}", rules.concat())).map(drop);
    let broad = |count| (0..count).map(|n| rule(n, format!("*{n}*"), "topic:x".into(), "")).collect();
    assert_eq!(file(broad(BROAD_MAX)), Ok(()));
    assert_eq!(file(broad(BROAD_MAX + 1)).unwrap_err().problem, PolicyError::TooBroad(String::new()).into());
    let times = |count: usize| {
        let hours = |n: usize| format!("hours = \"{:02}:{:02}-24:00\"", n / 60, n % 60);
        (0..count).map(|n| rule(n, "*".into(), "topic:x".into(), &hours(n))).collect()
    };
    assert_eq!(file(times(WINDOWS_MAX)), Ok(()));
    let many = PolicyError::TooManyWindows(WINDOWS_MAX + 1);
    assert_eq!(file(times(WINDOWS_MAX + 1)).unwrap_err().problem, many.into());
    let ports = |count: usize| (1..=count).map(|n| rule(n, "*".into(), format!("tun:*:{n}"), "")).collect();
    assert_eq!(file(ports(PORT_RANGES_MAX)), Ok(()));
    let many = PolicyError::TooManyPorts { pattern: "*".parse().unwrap(), count: PORT_RANGES_MAX + 1 };
    assert_eq!(file(ports(PORT_RANGES_MAX + 1)).unwrap_err().problem, many.into());
}

#[test]
fn a_policy_travels_as_a_numbered_set() {
    let quorum = quorum(1, &[("alice", 0)]);
    let mesh = key(0).public().fingerprint();
    let mut holder: Holder<Compiled> = Holder::new(mesh, SILENCE_LIMIT);
    let body = parse(EXAMPLE).unwrap().policy().encode().unwrap();
    let one = set(None, SetKind::Policy, body, NOW, &[0]);
    let starter = parse(STARTER).unwrap().policy().encode().unwrap();
    let two = set(Some(&one), SetKind::Policy, starter, NOW, &[0]);
    assert_eq!(holder.offer(one.clone(), &quorum), Ok(Offered::Accepted));
    assert_eq!(holder.offer(two, &quorum), Ok(Offered::Accepted));
    // Rolled back it is not.
    assert_eq!(holder.offer(one, &quorum), Ok(Offered::Stale { held: 2 }));
    assert_eq!(holder.unconfirmed().unwrap().policy().rules().len(), 4);
}

// ---- random rules and requests ----

/// Few letters, so that much matches.
fn pattern() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{1,3}", "[ab]{1,2}\\*", "\\*[ab]{0,2}", "[ab]{0,2}\\*[ab]{0,2}", "\\*[ab]\\*"]
}

fn who() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => pattern(),
        1 => "role:[xy]",
        1 => pattern().prop_map(|glob| format!("spiffe://lab/node/{glob}")),
    ]
}

fn target() -> impl Strategy<Value = String> {
    let ports = prop_oneof![
        Just(String::new()),
        (1u16..5).prop_map(|port| format!(":{port}")),
        (1u16..5, 0u16..4).prop_map(|(first, more)| format!(":{first}-{}", first + more)),
    ];
    prop_oneof![
        2 => pattern().prop_map(|glob| format!("service:{glob}")),
        1 => pattern().prop_map(|glob| format!("topic:{glob}")),
        1 => (pattern(), ports).prop_map(|(glob, ports)| format!("tun:{glob}{ports}")),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let windows = prop_oneof![
        4 => Just(None::<Window>),
        1 => (1u8..128, 0u16..24, 1u16..=24).prop_map(|(days, start, end)| {
            Window::try_from((days, start * 60, end * 60)).ok()
        }),
    ];
    let lists = (proptest::collection::vec(who(), 1..4), proptest::collection::vec(target(), 1..4));
    let rates = prop_oneof![
        2 => Just(None::<Rate>),
        1 => (1u32..100, prop_oneof![Just(1u32), Just(60), Just(3600)], 1u32..100)
            .prop_map(|parts| Rate::try_from(parts).ok()),
    ];
    (prop_oneof![1 => Just(Effect::Deny), 3 => Just(Effect::Allow)], lists, windows, rates).prop_map(
        |(effect, (from, to), when, rate)| Rule {
            name: "x".parse().unwrap(),
            effect,
            from: from.iter().map(|text| text.parse().unwrap()).collect(),
            to: to.iter().map(|text| text.parse().unwrap()).collect(),
            when,
            rate: rate.filter(|_| effect == Effect::Allow),
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    proptest::collection::vec(rule(), 0..100).prop_map(|mut rules| {
        for (number, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("r{number}").parse().unwrap();
        }
        Policy::new(rules).unwrap()
    })
}

fn request() -> impl Strategy<Value = (String, Vec<RoleName>, TargetKind, String, u16, UnixMillis)> {
    let roles = proptest::collection::vec(prop_oneof![Just("x"), Just("y"), Just("z")], 0..3)
        .prop_map(|roles| roles.iter().map(|role| role.parse().unwrap()).collect::<Vec<RoleName>>());
    let kinds = prop_oneof![Just(TargetKind::Service), Just(TargetKind::Topic), Just(TargetKind::Tun)];
    let time = (0u64..14 * 24 * 60).prop_map(|minutes| NOW.plus(Duration::from_secs(minutes * 60)));
    ("[ab]{1,4}", roles, kinds, "[ab]{1,4}", 0u16..9, time)
}

/// Patterns as the documentation says it, by recursion.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        Some((letter, rest)) => name.first() == Some(letter) && matches(rest, &name[1..]),
    }
}

/// Windows as the documentation says it: minute by minute of the week.
fn holds(window: Window, now: UnixMillis) -> bool {
    let (days, start, end): (u8, u16, u16) = window.into();
    let length = if start < end { end - start } else { end + 1440 - start };
    // 2026-11-16, a Monday.
    let minute = (now.0 - 1_794_787_200_000) / 60_000 % (7 * 1440);
    (0..7u64).filter(|day| (days >> day) & 1 == 1).any(|day| {
        (0..u64::from(length)).any(|offset| (day * 1440 + u64::from(start) + offset) % (7 * 1440) == minute)
    })
}

/// What the documentation says a policy decides, written again without the code under test.
fn reference(policy: &Policy, caller: &Caller<'_>, asked: &Asked<'_>, now: UnixMillis) -> (bool, String) {
    let glob = |glob: &Glob, name: &str| matches(glob.as_str().as_bytes(), name.as_bytes());
    let matching: Vec<&Rule> = policy
        .rules()
        .iter()
        .filter(|rule| {
            rule.from.iter().any(|who| match who {
                Who::Name(pattern) => glob(pattern, caller.name),
                Who::Spiffe(pattern) => glob(pattern, caller.spiffe_id),
                Who::Role(role) => caller.roles.contains(role),
            })
        })
        .filter(|rule| {
            rule.to.iter().any(|target| {
                let (first, last): (u16, u16) = target.ports.into();
                target.kind == asked.kind
                    && glob(&target.name, asked.name)
                    && first <= asked.port
                    && asked.port <= last
            })
        })
        .filter(|rule| rule.when.is_none_or(|window| holds(window, now)))
        .collect();
    let first = |effect| matching.iter().find(|rule| rule.effect == effect);
    match first(Effect::Deny).or_else(|| first(Effect::Allow)) {
        Some(rule) => (rule.effect == Effect::Allow, rule.name.to_string()),
        None => (false, "default".to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The compiled form and the explanation decide as the reference does.
    #[test]
    fn three_ways_decide_alike(policy in policy(), requests in proptest::collection::vec(request(), 1..40)) {
        let compiled = Compiled::new(policy.clone());
        prop_assume!(compiled.is_ok());
        let compiled = compiled.unwrap();
        for (name, roles, kind, target, port, now) in requests {
            let spiffe_id = format!("spiffe://lab/node/{name}");
            let caller = Caller { name: &name, spiffe_id: &spiffe_id, roles: &roles };
            let asked = asked(kind, &target, port);
            let decision = compiled.decide(&caller, &asked, now);
            let expected = reference(&policy, &caller, &asked, now);
            prop_assert_eq!((decision.allowed, decision.rule.to_owned()), expected);
            prop_assert_eq!(policy.explain(&caller, &asked, now).decision, decision);
        }
    }

    #[test]
    fn policies_round_trip(policy in policy()) {
        let bytes = policy.encode().unwrap();
        if Compiled::new(policy.clone()).is_ok() {
            let text = write(&policy);
            prop_assert_eq!(parse(&text).map(|read| read.policy().clone()), Ok(policy.clone()), "{}", text);
        }
        prop_assert_eq!(Policy::decode(&bytes), Ok(policy));
        prop_assert!(Policy::decode(&[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(Policy::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    /// Evidence never allows what policy denies, and more evidence never allows what less denied.
    #[test]
    fn evidence_only_takes_away(
        misdeeds in proptest::collection::vec((0u64..2000, 0u8..10, any::<bool>()), 0..30),
        allowed: bool,
        bench: bool,
    ) {
        let mut misdeeds = misdeeds;
        misdeeds.sort_unstable();
        let (mut less, mut more) = (Ladder::new(), Ladder::new());
        let kind = if bench { "a/bench" } else { "a/ping" };
        let requests = [asked(TargetKind::Mesh, kind, 0), asked(TargetKind::Service, "a/x", 0)];
        let decision = Decision { allowed, rule: "x", index: Some(0), rate: None, limit: None };
        let check = |less: &Ladder, more: &Ladder, now: UnixMillis| -> Result<(), TestCaseError> {
            for request in &requests {
                let with_less = less.reduce(decision, &node(1), request, now);
                let with_more = more.reduce(decision, &node(1), request, now);
                prop_assert!(decision.allowed || !with_less.allowed);
                prop_assert!(with_less.allowed || !with_more.allowed, "more evidence gave a right back");
                prop_assert!(!with_more.allowed || with_less.limit.is_none() || with_more.limit.is_some());
            }
            Ok(())
        };
        let last = misdeeds.last().map_or(0, |(at, ..)| *at);
        let mut next = misdeeds.iter().peekable();
        for second in (0..last + 25_000).step_by(7) {
            while let Some((at, kind, both)) = next.next_if(|(at, ..)| *at <= second) {
                let evidence = if *kind == 0 { Evidence::Equivocation } else { Evidence::Flooding };
                let now = NOW.plus(Duration::from_secs(*at));
                more.report(node(1), evidence, now);
                if *both {
                    less.report(node(1), evidence, now);
                }
            }
            check(&less, &more, NOW.plus(Duration::from_secs(second)))?;
        }
        let end = NOW.plus(Duration::from_secs(last + 24_000));
        prop_assert_eq!(more.restriction(&node(1), end), None, "everything ends");
    }
}
