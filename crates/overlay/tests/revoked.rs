//! A revoked node: its links close, it vanishes from routes, and whoever doesn't know yet can't bring it back.

#[allow(unreachable_pub)]
mod world;

use meshara_overlay::{CloseReason, Event};
use world::{World, ladder, ms, node_id, ring};

fn routed(world: &World, at: usize, to: usize) -> bool {
    world.core(at).routes().any(|route| route.node == node_id(to))
}

#[test]
fn a_revoked_node_vanishes_from_routes_and_traffic_goes_round_it() {
    for seed in 0..10 {
        let mut world = World::new(seed, 10, &ladder(5, 2));
        world.run(ms(4000));
        assert!(world.whole(), "seed {seed}");
        world.ping(0, 4);
        world.run(ms(500));
        let path = world.path(0, 4).unwrap();
        let victim = path[1 + seed as usize % (path.len() - 2)];
        // The news comes to each a little later than to the one before it.
        for at in (0..10).filter(|at| *at != victim) {
            world.revoke(at, victim);
            world.run(ms(20));
        }
        world.run(ms(500));
        for at in (0..10).filter(|at| *at != victim) {
            assert!(!routed(&world, at, victim) && !world.knows_of(at, victim), "seed {seed} at {at}");
            for to in (0..10).filter(|to| *to != victim && *to != at) {
                assert!(!world.path(at, to).unwrap().contains(&victim), "seed {seed}");
            }
        }
        assert!(world.longest_gap() <= ms(400), "gap {:?} seed {seed}", world.longest_gap());
        let closed = |event: &Event| matches!(event, Event::LinkDown { reason: Some(CloseReason::Revoked), node, .. } if *node == node_id(victim));
        assert!(world.count_events(None, closed) > 0);
        // It stays out, whatever it goes on to send, and its neighbours don't call it.
        world.clear_events();
        world.run(ms(60_000));
        for at in (0..10).filter(|at| *at != victim) {
            assert!(!world.knows_of(at, victim), "seed {seed}: back at {at}");
        }
    }
}

#[test]
fn a_neighbour_that_does_not_know_yet_brings_nobody_back() {
    let mut world = World::new(3, 5, &ring(5, 2));
    world.run(ms(4000));
    // 2 is revoked; only 0, which is no neighbour of it, knows.
    world.revoke(0, 2);
    world.run(ms(100_000));
    assert!(!world.knows_of(0, 2) && !routed(&world, 0, 2));
    // The others still go by it, and everything else goes on.
    assert!(routed(&world, 4, 2) && routed(&world, 0, 1) && routed(&world, 0, 3));
    for at in [1, 3, 4] {
        world.revoke(at, 2);
    }
    world.run(ms(2000));
    assert!(!routed(&world, 4, 2) && routed(&world, 1, 3));
}
