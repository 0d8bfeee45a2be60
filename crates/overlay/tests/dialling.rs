//! Whom a node dials, and what strangers on the local network can't do about it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(unreachable_pub)]
#[allow(unused_imports)]
mod world;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use meshara_overlay::control::{Aged, Message};
use meshara_overlay::probe::Probe;
use meshara_overlay::record::{Kind, MAX_ADDRESSES, Record, encode_addresses};
use meshara_overlay::{
    Authenticator, Config, Core, DialTarget, Identity, KnownNode, KnownOrigin, LinkDownReason, LinkId,
    LinkKind, LinkPeer, NodeId, Output,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use world::{TestAuth, address_of, member_body, ms, node_id};

fn core(auto_neighbours: bool) -> Core {
    let us = node_id(0);
    let identity = Identity { node: us, address: address_of(&us) };
    let config = Config { auto_neighbours, ..Config::default() };
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut core = Core::new(config, identity, Box::new(TestAuth::of(&us)), rng, ms(0), 1000);
    core.set_member(ms(0), member_body(&us, "us")).unwrap();
    core
}

fn socket(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(at).unwrap()], 7000))
}

fn known(node: Option<usize>, at: usize, origin: KnownOrigin) -> KnownNode {
    KnownNode { node: node.map(node_id), addrs: vec![socket(at)], origin }
}

fn peer(at: usize, remote: Option<SocketAddr>) -> LinkPeer {
    let node = node_id(at);
    LinkPeer {
        node,
        address: address_of(&node),
        dialled_by_us: remote.is_some(),
        kind: LinkKind::Routing,
        mtu: 1400,
        rtt: Some(ms(4)),
        remote,
    }
}

/// Lets time pass; returns what is dialled.
fn run(core: &mut Core, now: &mut Duration, span: Duration) -> Vec<DialTarget> {
    let end = *now + span;
    let mut dials = Vec::new();
    loop {
        while let Some(output) = core.poll_output() {
            if let Output::Dial { target, .. } = output {
                dials.push(target);
            }
        }
        let Some(next) = core.poll_timeout().filter(|next| *next <= end) else { break };
        *now = next.max(*now);
        core.handle_timeout(*now);
    }
    *now = end;
    dials
}

fn signed(at: usize, kind: Kind, body: &[u8]) -> Record {
    let auth = TestAuth::of(&node_id(at));
    Record::sign(kind, node_id(at), 1, body, |message| auth.sign(message)).unwrap()
}

/// The member and address records of nodes, told on a link.
fn tell(core: &mut Core, now: Duration, link: LinkId, nodes: impl Iterator<Item = usize>) {
    let mut records = Vec::new();
    for at in nodes {
        for record in [
            signed(at, Kind::Member, &member_body(&node_id(at), &format!("n{at}"))),
            signed(at, Kind::Addresses, &encode_addresses(&[socket(at)])),
        ] {
            records.push(Aged { age_s: 0, record });
        }
    }
    core.handle_control(now, link, &Message::Records(records).encode()).unwrap();
}

#[test]
fn an_announcement_binds_no_address_that_others_named() {
    for origin in [KnownOrigin::Configured, KnownOrigin::Ticket] {
        for first in [true, false] {
            let mut core = core(true);
            let mut now = ms(0);
            let spoofed = known(Some(66), 7, KnownOrigin::Multicast);
            if first {
                core.add_known(now, spoofed.clone());
            }
            core.add_known(now, known(None, 7, origin));
            core.add_known(now, spoofed);
            let dials = run(&mut core, &mut now, ms(1000));
            let any = DialTarget { node: None, addrs: vec![socket(7)] };
            assert!(dials.contains(&any), "{origin:?} {first}: {dials:?}");
        }
    }
}

#[test]
fn an_address_of_the_operator_is_for_whoever_answers_there() {
    let mut core = core(false);
    let mut now = ms(0);
    core.add_known(now, known(None, 7, KnownOrigin::Configured));
    run(&mut core, &mut now, ms(100));
    for (link, node) in [(LinkId(1), 5), (LinkId(2), 6)] {
        core.link_up(now, link, peer(node, Some(socket(7))));
        let dials = run(&mut core, &mut now, ms(2000));
        assert!(dials.is_empty(), "it has node {node}: {dials:?}");
        core.link_down(now, link, LinkDownReason::TimedOut);
        let dials = run(&mut core, &mut now, ms(2000));
        assert_eq!(dials[0], DialTarget { node: None, addrs: vec![socket(7)] });
        assert_eq!(dials[1], DialTarget { node: Some(node_id(node)), addrs: vec![socket(7)] });
    }
}

#[test]
fn announcements_hurry_nothing() {
    let mut core = core(true);
    let mut now = ms(0);
    let mut count = 0;
    for _ in 0..300 {
        core.add_known(now, known(Some(66), 7, KnownOrigin::Multicast));
        for target in run(&mut core, &mut now, ms(100)) {
            count += 1;
            core.dial_failed(now, &target);
        }
    }
    assert!((1..=4).contains(&count), "{count} dials in half a minute");
}

#[test]
fn made_up_nodes_leave_room_for_real_ones() {
    let mut core = core(true);
    let mut now = ms(0);
    core.link_up(now, LinkId(1), peer(1, None));
    tell(&mut core, now, LinkId(1), 1..9);
    for fake in 0..500 {
        core.add_known(now, known(Some(1000 + fake), 100 + fake % 100, KnownOrigin::Multicast));
    }
    let dials = run(&mut core, &mut now, ms(2000));
    let who: BTreeSet<NodeId> = dials.iter().filter_map(|target| target.node).collect();
    let real = (2..9).filter(|at| who.contains(&node_id(*at))).count();
    assert_eq!(who.len() - real, 2, "made-up ones");
    assert!(real >= 4, "{real} real ones");
}

#[test]
fn a_long_partition_ends_though_the_records_have_expired() {
    let mut core = core(true);
    let mut now = ms(0);
    core.link_up(now, LinkId(1), peer(1, Some(socket(1))));
    let probe = Probe { active: false, deaf: false, interval_ms: 500, seq: 1, echo: 1, hold_us: 0, loss: 0 };
    core.handle_probe(now, LinkId(1), &probe.encode()).unwrap();
    tell(&mut core, now, LinkId(1), 1..2);
    core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
    run(&mut core, &mut now, Duration::from_secs(3700));
    assert!(core.node(&node_id(1)).unwrap().member.is_none(), "expired");
    let dials = run(&mut core, &mut now, Duration::from_secs(180));
    assert!(dials.iter().any(|target| target.node == Some(node_id(1))), "{dials:?}");
}

#[test]
fn the_address_that_worked_last_is_dialled_first_and_old_ones_make_room() {
    let mut core = core(true);
    let mut now = ms(0);
    let more = MAX_ADDRESSES + 4;
    for (link, at) in (1..).zip((1..=more).chain([10])) {
        core.link_up(now, LinkId(link), peer(5, Some(socket(at))));
        core.link_down(now, LinkId(link), LinkDownReason::TimedOut);
    }
    let dials = run(&mut core, &mut now, ms(1000));
    let others = (1..=more).rev().filter(|at| *at != 10).take(MAX_ADDRESSES - 1);
    let addrs: Vec<_> = [10].into_iter().chain(others).map(socket).collect();
    assert_eq!(dials[0], DialTarget { node: Some(node_id(5)), addrs });
}
