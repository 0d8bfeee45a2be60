//! How long a decision takes with 10,000 rules of several shapes: `cargo bench -p meshara-trust --bench policy`. One JSON line a shape.
//!
//! Each request is another one (2,000 names in a shuffled order), so neither hash nor branch is warm for it alone. The bar is 5 µs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement may stop at the first surprise"
)]

use std::time::Instant;

use meshara_identity::{RoleName, UnixMillis};
use meshara_trust::policy::{Asked, BROAD_MAX, Caller, Compiled, RULES_MAX, TargetKind, parse};

/// A Wednesday at 11:06 UTC.
const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
/// Different requests.
const REQUESTS: usize = 2000;
/// Times that each is decided.
const ROUNDS: usize = 50;

struct Shape {
    name: &'static str,
    /// Caller, target and the rest of a rule by its number.
    rule: fn(usize) -> (String, String, String),
    /// Target of a request by its number.
    target: fn(usize) -> (TargetKind, String, u16),
}

fn main() {
    let shapes = [
        Shape {
            name: "exact names",
            rule: |n| (format!("node-{n}"), format!("service:db-{}/postgres", n % 500), String::new()),
            target: |n| (TargetKind::Service, format!("db-{}/postgres", n % 500), 0),
        },
        Shape {
            name: "beginnings and ends",
            rule: |n| (format!("node-{}*", n % 3000), format!("service:*/s{n}"), String::new()),
            target: |n| (TargetKind::Service, format!("db/s{n}"), 0),
        },
        Shape {
            name: "roles",
            rule: |n| (format!("role:r{}", n % 50), format!("service:db-{n}/*"), String::new()),
            target: |n| (TargetKind::Service, format!("db-{n}/x"), 0),
        },
        Shape {
            name: "every rule matches but for its time",
            rule: |n| {
                ("*".into(), "service:*".into(), format!("hours = \"{:02}:00-{:02}:30\"", n % 8, n % 8))
            },
            target: |n| (TargetKind::Service, format!("db-{n}/x"), 0),
        },
        Shape {
            name: "every rule is about the caller, none about the target",
            rule: |n| ("*".into(), format!("service:other-{n}/*"), String::new()),
            target: |n| (TargetKind::Service, format!("db-{n}/x"), 0),
        },
        Shape {
            name: "as many patterns to try as are allowed",
            rule: |n| match n % 2 {
                0 => (
                    format!("*{}*", n / 2 % BROAD_MAX),
                    format!("service:*-{}*", n / 2 % BROAD_MAX),
                    String::new(),
                ),
                _ => (
                    format!("spiffe://*{}*", n / 2 % BROAD_MAX),
                    format!("service:*{}*s", n / 2 % BROAD_MAX),
                    String::new(),
                ),
            },
            target: |n| (TargetKind::Service, format!("db-{n}/postgres"), 0),
        },
        Shape {
            name: "1,000 port ranges",
            rule: |n| ("*".into(), format!("tun:*:{}-{}", n % 1000 + 1, n % 1000 + 20), String::new()),
            target: |n| (TargetKind::Tun, format!("db-{n}/tcp"), 30_000 + (n % 5) as u16),
        },
    ];
    for shape in shapes {
        run(&shape);
    }
}

fn run(shape: &Shape) {
    let mut text = String::from("version = 1\n");
    for number in 0..RULES_MAX {
        let (from, to, more) = (shape.rule)(number);
        let effect = if number % 4 == 0 { "deny" } else { "allow" };
        text += &format!(
            "[[rule]]\nname = \"r{number}\"\neffect = \"{effect}\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n"
        );
    }
    let started = Instant::now();
    let policy = parse(&text).unwrap();
    let parsed = started.elapsed();
    let started = Instant::now();
    let policy = Compiled::new(policy.policy().clone()).unwrap();
    let compiled = started.elapsed();

    let roles: Vec<RoleName> = ["r1", "r7", "r33"].iter().map(|role| role.parse().unwrap()).collect();
    // 997 has no factor in common with the number of requests: each comes once, far from the one before it.
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| n * 997 % REQUESTS)
        .map(|n| (format!("node-{n}"), format!("spiffe://lab/node/node-{n}"), (shape.target)(n)))
        .collect();
    let mut nanos = Vec::with_capacity(REQUESTS * ROUNDS);
    let mut allowed = 0;
    for _ in 0..ROUNDS {
        for (name, spiffe_id, (kind, target, port)) in &requests {
            let caller = Caller { name, spiffe_id, roles: &roles };
            let asked = Asked { kind: *kind, name: target, port: *port };
            let started = Instant::now();
            let decision = std::hint::black_box(policy.decide(&caller, &asked, NOW));
            nanos.push(started.elapsed().as_nanos());
            allowed += usize::from(decision.allowed);
        }
    }
    nanos.sort_unstable();
    let quantile = |permille: usize| nanos[nanos.len() * permille / 1000];
    println!(
        "{{\"shape\":\"{}\",\"rules\":{RULES_MAX},\"decisions\":{},\"allowed\":{allowed},\"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{},\
         \"parse_ms\":{},\"compile_ms\":{}}}",
        shape.name,
        nanos.len(),
        quantile(500),
        quantile(990),
        quantile(999),
        parsed.as_millis(),
        compiled.as_millis()
    );
}
