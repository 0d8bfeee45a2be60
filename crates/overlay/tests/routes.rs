//! Tables of whole meshes: shortest, consistent, and without loops whatever the flags.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::needless_range_loop)]

#[allow(unreachable_pub)]
mod world;

use std::collections::BTreeMap;

use meshara_overlay::NodeId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use world::{World, ms, node_id};

fn random_mesh(seed: u64) -> (usize, Vec<(usize, usize, u64)>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = rng.random_range(6..14);
    let mut edges: BTreeMap<(usize, usize), u64> =
        (1..n).map(|at| ((rng.random_range(0..at), at), rng.random_range(1..20))).collect();
    for _ in 0..n {
        let (a, b) = (rng.random_range(0..n), rng.random_range(0..n));
        if a < b {
            edges.entry((a, b)).or_insert_with(|| rng.random_range(1..20));
        }
    }
    (n, edges.into_iter().map(|((a, b), latency)| (a, b, latency)).collect())
}

#[test]
fn routes_are_the_shortest_by_advertised_cost_and_paths_follow_them() {
    for seed in 0..12 {
        let (n, edges) = random_mesh(seed);
        let mut world = World::new(seed, n, &edges);
        world.run(ms(8000));
        let index: BTreeMap<NodeId, usize> = (0..n).map(|at| (node_id(at), at)).collect();
        let mut dist = vec![vec![u64::from(u32::MAX); n]; n];
        let mut told = BTreeMap::new();
        for at in 0..n {
            dist[at][at] = 0;
            for neighbour in world.core(at).neighbours() {
                told.insert((at, index[&neighbour.node]), u64::from(neighbour.cost_us.unwrap()));
            }
        }
        for ((a, b), cost) in &told {
            dist[*a][*b] = (*cost).max(told[&(*b, *a)]);
        }
        for k in 0..n {
            for a in 0..n {
                for b in 0..n {
                    dist[a][b] = dist[a][b].min(dist[a][k] + dist[k][b]);
                }
            }
        }
        for a in 0..n {
            let routes: BTreeMap<usize, _> =
                world.core(a).routes().map(|route| (index[&route.node], route.clone())).collect();
            assert_eq!(routes.len(), n - 1, "seed {seed}");
            for (b, route) in routes {
                assert_eq!(u64::from(route.metric_us), dist[a][b], "seed {seed} {a} to {b}");
                let path = world.path(a, b).unwrap();
                assert_eq!(path.len(), usize::from(route.hops) + 1, "seed {seed} {a} to {b}: {path:?}");
                let other_ways = world.core(a).neighbours().count() - 1;
                assert!(route.alternates.as_slice().len() <= other_ways.min(3));
            }
        }
    }
}

#[test]
fn frames_end_whatever_the_flags() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for seed in 0..6 {
        let (n, edges) = random_mesh(seed);
        let mut world = World::new(seed, n, &edges);
        world.run(ms(5000));
        let mut arrived = 0;
        for _ in 0..2000 {
            let (a, b) = (rng.random_range(0..n), rng.random_range(0..n));
            // The flags may differ at every step; `walk` ends within the TTL and never goes straight back.
            arrived += usize::from(world.walk(a, b, || rng.random_bool(0.8)).is_some());
            assert!(world.walk(a, b, || true).is_some());
            assert_eq!(world.walk(a, b, || false).is_some(), a == b);
        }
        assert!(arrived > 1000, "seed {seed}: {arrived} of 2000");
    }
}
