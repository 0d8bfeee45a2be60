//! Which neighbours count as lost, for how long, and how many.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[allow(unreachable_pub)]
#[allow(unused_imports)]
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use meshara_overlay::control::{Aged, Message};
use meshara_overlay::probe::Probe;
use meshara_overlay::record::{Kind, LinkState, Record};
use meshara_overlay::{
    Authenticator, Config, Core, Identity, KnownNode, KnownOrigin, LinkDownReason, LinkId, LinkKind,
    LinkPeer, Phase,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use world::{TestAuth, address_of, member_body, ms, node_id};

fn core() -> Core {
    let us = node_id(0);
    let identity = Identity { node: us, address: address_of(&us) };
    let config = Config { auto_neighbours: false, ..Config::default() };
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut core = Core::new(config, identity, Box::new(TestAuth::of(&us)), rng, ms(0), 1000);
    core.set_member(ms(0), member_body(&us, "us")).unwrap();
    core
}

fn socket(at: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(at).unwrap()], 7000))
}

/// A link on which probes don't pass yet.
fn link(core: &mut Core, now: Duration, id: u32, at: usize) {
    let node = node_id(at);
    let peer = LinkPeer {
        node,
        address: address_of(&node),
        dialled_by_us: false,
        kind: LinkKind::Routing,
        mtu: 1400,
        rtt: Some(ms(4)),
        remote: Some(socket(at)),
    };
    core.link_up(now, LinkId(id), peer);
}

fn confirm(core: &mut Core, now: Duration, id: u32) {
    let probe = Probe { active: false, deaf: false, interval_ms: 500, seq: 1, echo: 1, hold_us: 0, loss: 0 };
    core.handle_probe(now, LinkId(id), &probe.encode()).unwrap();
}

fn tell(core: &mut Core, now: Duration, id: u32, at: usize, kind: Kind, sequence: u64, body: &[u8]) {
    let auth = TestAuth::of(&node_id(at));
    let record = Record::sign(kind, node_id(at), sequence, body, |message| auth.sign(message)).unwrap();
    let message = Message::Records(vec![Aged { age_s: 0, record }]);
    core.handle_control(now, LinkId(id), &message.encode()).unwrap();
}

/// Lets time pass.
fn run(core: &mut Core, now: &mut Duration, span: Duration) {
    let end = *now + span;
    loop {
        while core.poll_output().is_some() {}
        let Some(next) = core.poll_timeout().filter(|next| *next <= end) else { break };
        *now = next.max(*now);
        core.handle_timeout(*now);
    }
    *now = end;
}

fn lost(core: &Core) -> Vec<(Option<SocketAddr>, Option<String>, Duration)> {
    core.lost_neighbours().map(|lost| (lost.addr, lost.name, lost.since)).collect()
}

#[test]
fn a_silent_neighbour_is_lost_until_it_is_back() {
    let mut core = core();
    let mut now = ms(0);
    link(&mut core, now, 1, 1);
    confirm(&mut core, now, 1);
    tell(&mut core, now, 1, 1, Kind::Member, 1, &member_body(&node_id(1), "n1"));
    core.link_moved(now, LinkId(1), socket(9));
    run(&mut core, &mut now, ms(1500));
    assert_eq!(core.neighbours().next().unwrap().phase, Phase::Suspect);
    assert_eq!(lost(&core), [], "suspect isn't lost");
    run(&mut core, &mut now, ms(3000));
    assert_eq!(core.neighbours().count(), 0);
    let [(addr, name, since)] = &lost(&core)[..] else { panic!("{:?}", lost(&core)) };
    assert_eq!((addr, name.as_deref()), (&Some(socket(9)), Some("n1")));
    assert!(*since > ms(1500) && *since < ms(4000), "{since:?}");
    // A new link counts once probes pass; one that never works changes nothing.
    let before = lost(&core);
    link(&mut core, now, 2, 1);
    run(&mut core, &mut now, ms(5000));
    assert_eq!((core.neighbours().count(), lost(&core)), (0, before.clone()));
    link(&mut core, now, 3, 1);
    assert_eq!(lost(&core), before);
    confirm(&mut core, now, 3);
    assert_eq!(lost(&core), []);
}

#[test]
fn of_two_links_the_last_that_worked_counts() {
    let mut core = core();
    let now = ms(0);
    link(&mut core, now, 1, 1);
    confirm(&mut core, now, 1);
    link(&mut core, now, 2, 1);
    confirm(&mut core, now, 2);
    core.link_down(now, LinkId(1), LinkDownReason::Closed);
    assert_eq!(lost(&core), []);
    // A third one that doesn't work is no neighbour.
    link(&mut core, now, 3, 1);
    core.link_down(now, LinkId(2), LinkDownReason::Closed);
    assert_eq!(lost(&core).len(), 1);
    confirm(&mut core, now, 3);
    assert_eq!(lost(&core), []);
}

#[test]
fn who_is_parted_with_in_order_is_not_lost() {
    for reason in [LinkDownReason::Left, LinkDownReason::Redundant, LinkDownReason::Refused] {
        let mut core = core();
        let now = ms(0);
        link(&mut core, now, 1, 1);
        confirm(&mut core, now, 1);
        core.link_down(now, LinkId(1), reason);
        assert_eq!(lost(&core), [], "{reason:?}");
    }
    // Nor is one that says goodbye to others later.
    let mut core = core();
    let mut now = ms(0);
    for id in [1, 2] {
        link(&mut core, now, id, id as usize);
        confirm(&mut core, now, id);
    }
    tell(&mut core, now, 2, 1, Kind::Member, 1, &member_body(&node_id(1), "n1"));
    core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
    assert_eq!(lost(&core).len(), 1);
    let goodbye = LinkState { leaving: true, neighbours: vec![] };
    tell(&mut core, now, 2, 1, Kind::LinkState, 2, &goodbye.encode());
    assert_eq!(lost(&core), []);
    run(&mut core, &mut now, ms(2000));
    tell(&mut core, now, 2, 1, Kind::LinkState, 3, &LinkState::default().encode());
    assert_eq!(lost(&core), [], "it is somebody else's neighbour now");
}

#[test]
fn the_lost_are_shown_as_long_as_they_are_dialled_and_bounded() {
    let mut core = core();
    let mut now = ms(0);
    let known =
        KnownNode { node: Some(node_id(200)), addrs: vec![socket(200)], origin: KnownOrigin::Configured };
    core.add_known(now, known);
    for at in 100..=240 {
        link(&mut core, now, at as u32, at);
        confirm(&mut core, now, at as u32);
        core.link_down(now, LinkId(at as u32), LinkDownReason::TimedOut);
        run(&mut core, &mut now, ms(10));
    }
    let shown = lost(&core);
    assert_eq!(shown.len(), 128);
    assert!(!shown.iter().any(|(addr, ..)| *addr == Some(socket(112))), "the first make room");
    run(&mut core, &mut now, Config::default().redial_give_up + ms(2000));
    let shown: Vec<_> = core.lost_neighbours().map(|lost| lost.node).collect();
    assert_eq!(shown, [node_id(200)], "who is configured is wanted for ever");
}
