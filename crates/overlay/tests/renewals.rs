//! Renewed certificates: each node loads each once, whatever the number of its neighbours, and nobody misses one.

#[allow(unreachable_pub)]
mod world;

use std::time::Duration;

use meshara_overlay::Config;
use world::{World, ms, node_id};

/// Every node has six neighbours.
fn woven(nodes: usize) -> Vec<(usize, usize, u64)> {
    (0..nodes).flat_map(|at| [1, 2, 3].map(|step| (at, (at + step) % nodes, 5))).collect()
}

fn name_of(world: &World, at: usize, other: usize) -> Option<String> {
    world.core(at).node(&node_id(other))?.name
}

/// Messages in which a certificate with this name came.
fn loads_of(world: &World, name: &str) -> usize {
    let holds = |bytes: &&Vec<u8>| bytes.windows(name.len()).any(|part| part == name.as_bytes());
    world.heard.iter().flatten().filter(holds).count()
}

#[test]
fn a_renewed_certificate_comes_to_each_node_once() {
    let mut world = World::new(1, 12, &woven(12));
    world.run(ms(5000));
    assert!(world.whole());
    world.heard = Some(Vec::new());
    let long = "x".repeat(200);
    world.renew(4, &long);
    world.run(ms(1000));
    for at in 0..12 {
        assert_eq!(name_of(&world, at, 4).as_deref(), Some(long.as_str()), "at {at}");
    }
    assert_eq!(loads_of(&world, &long), 11, "one for each of the others");
}
#[test]
fn who_is_asked_and_dies_is_not_waited_for() {
    // 0 renews; 1 and 2 both announce it to 3; the one asked first is gone before it answers.
    for (seed, dead) in [(1, 1), (2, 2)] {
        let mut world = World::new(seed, 4, &[(0, 1, 5), (0, 2, 5), (1, 3, 40), (2, 3, 40)]);
        world.run(ms(5000));
        assert!(world.whole());
        world.renew(0, "again");
        world.run(ms(60));
        world.kill(dead);
        // The comparison of databases is the last resort: every 30 to 37 s with a random neighbour.
        world.run(ms(40_000));
        assert_eq!(name_of(&world, 3, 0).as_deref(), Some("again"), "without {dead}");
    }
}

#[test]
fn what_is_renewed_is_not_refreshed_and_what_is_not_is() {
    let (refresh, lifetime) = (Duration::from_secs(300), Duration::from_secs(600));
    let config = Config { refresh, lifetime, auto_neighbours: false, ..Config::default() };
    let mut world = World::with(3, 6, &woven(6), config);
    world.run(ms(5000));
    assert!(world.whole());
    world.renew(1, "refreshed-alone");
    world.run(ms(5000));
    world.heard = Some(Vec::new());
    for step in 0..12 {
        world.renew(0, &format!("renewal-{step:02}"));
        for _ in 0..30 {
            world.run(ms(5000));
            assert!(world.whole(), "after renewal {step}");
        }
        assert_eq!(loads_of(&world, &format!("renewal-{step:02}")), 5, "one for each of the others");
    }
    // 1 was not renewed: in half an hour it was refreshed before each end, every 360 to 440 s, and each time loaded once.
    let refreshed = loads_of(&world, "refreshed-alone");
    assert!(refreshed == 4 * 5 || refreshed == 5 * 5, "{refreshed}");
}
