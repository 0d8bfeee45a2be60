//! Which neighbours are shown as down, for how long, and how many.
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
    LinkPeer, Output, Phase,
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

/// A link on which probes don't pass yet.
fn link(core: &mut Core, now: Duration, id: u32, at: usize) {
    link_from(core, now, id, at, socket(at), false);
}

fn link_from(core: &mut Core, now: Duration, id: u32, at: usize, remote: SocketAddr, dialled_by_us: bool) {
    let node = node_id(at);
    let peer = LinkPeer {
        node,
        address: address_of(&node),
        dialled_by_us,
        kind: LinkKind::Routing,
        mtu: 1400,
        rtt: Some(ms(4)),
        remote: Some(remote),
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

/// Lets time pass; returns how often was dialled.
fn run(core: &mut Core, now: &mut Duration, span: Duration) -> usize {
    let end = *now + span;
    let mut dials = 0;
    loop {
        while let Some(output) = core.poll_output() {
            dials += usize::from(matches!(output, Output::Dial { .. }));
        }
        let Some(next) = core.poll_timeout().filter(|next| *next <= end) else { break };
        *now = next.max(*now);
        core.handle_timeout(*now);
    }
    *now = end;
    dials
}

const S: Duration = Duration::from_secs(1);

fn lost(core: &Core) -> Vec<(Option<SocketAddr>, Option<String>, Duration)> {
    core.lost_neighbours().map(|lost| (lost.addr, lost.name, lost.since)).collect()
}

#[test]
fn a_silent_neighbour_is_lost_until_it_is_back() {
    let mut core = core(false);
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
    let mut core = core(false);
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

fn configure(core: &mut Core, now: Duration, node: Option<usize>, at: usize) {
    let origin = KnownOrigin::Configured;
    core.add_known(now, KnownNode { node: node.map(node_id), addrs: vec![socket(at)], origin });
}

#[test]
fn who_is_parted_with_is_not_down() {
    use LinkDownReason::{Left, Local, Redundant, Refused, TimedOut};
    for reason in [Left, Redundant, Refused, Local] {
        for configured in [false, true] {
            let mut core = core(true);
            let now = ms(0);
            if configured {
                configure(&mut core, now, Some(1), 1);
            }
            link(&mut core, now, 1, 1);
            confirm(&mut core, now, 1);
            core.link_down(now, LinkId(1), reason);
            assert_eq!(lost(&core), [], "{reason:?} {configured}");
            // Nor is one that failed, came again and was parted with before the new link worked.
            link(&mut core, now, 2, 1);
            confirm(&mut core, now, 2);
            core.link_down(now, LinkId(2), TimedOut);
            assert_eq!(lost(&core).len(), 1);
            link(&mut core, now, 3, 1);
            core.link_down(now, LinkId(3), reason);
            assert_eq!(lost(&core), [], "{reason:?} {configured}");
        }
    }
}

#[test]
fn who_says_goodbye_is_not_down() {
    for goodbye_first in [false, true] {
        let mut core = core(true);
        let mut now = ms(0);
        for id in [1, 2] {
            link(&mut core, now, id, id as usize);
            confirm(&mut core, now, id);
        }
        tell(&mut core, now, 2, 1, Kind::Member, 1, &member_body(&node_id(1), "n1"));
        let goodbye = LinkState { leaving: true, neighbours: vec![] }.encode();
        if goodbye_first {
            tell(&mut core, now, 2, 1, Kind::LinkState, 2, &goodbye);
            core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
        } else {
            core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
            assert_eq!(lost(&core).len(), 1);
            tell(&mut core, now, 2, 1, Kind::LinkState, 2, &goodbye);
        }
        assert_eq!(lost(&core), []);
        run(&mut core, &mut now, ms(900));
        tell(&mut core, now, 2, 1, Kind::LinkState, 3, &LinkState::default().encode());
        assert_eq!(lost(&core), [], "it is somebody else's neighbour now");
    }
}

#[test]
fn down_as_long_as_it_is_dialled_as_lost() {
    for changes in [false, true] {
        let mut core = core(true);
        let mut now = ms(0);
        link_from(&mut core, now, 1, 1, socket(1), true);
        confirm(&mut core, now, 1);
        core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
        let shown = lost(&core);
        assert_eq!(shown.len(), 1);
        assert!(run(&mut core, &mut now, 300 * S) > 100);
        let mut end = 600 * S;
        if changes {
            // All redials start again, and go on for as long again.
            core.network_changed(now);
            end += now;
        }
        while now + 2 * S < end {
            let dials = run(&mut core, &mut now, 3 * S);
            assert!(dials > 0 || now > end, "{now:?}");
            assert!(lost(&core) == shown || now >= end, "{now:?}");
        }
        run(&mut core, &mut now, 2 * S);
        assert_eq!(lost(&core), [], "{now:?}");
    }
}

#[test]
fn a_dozen_are_dialled_within_the_bar_of_a_heal_and_a_hundred_cost_no_more_than_a_few_a_second() {
    let dials = |away: usize| {
        let (mut core, mut now) = (core(true), ms(0));
        for at in 1..=away {
            link_from(&mut core, now, at as u32, at, socket(at), true);
            confirm(&mut core, now, at as u32);
            core.link_down(now, LinkId(at as u32), LinkDownReason::TimedOut);
        }
        // The first minute, and the nine that follow.
        run(&mut core, &mut now, 10 * S);
        [90, 450].map(|seconds| run(&mut core, &mut now, seconds * S) as f64 / f64::from(seconds))
    };
    for rate in dials(12) {
        assert!(rate >= 12.0 / 1.5, "{rate} a second");
    }
    for rate in dials(100) {
        assert!((6.0..=9.5).contains(&rate), "{rate} a second");
    }
}

#[test]
fn where_nobody_dials_it_is_down_for_ten_minutes() {
    let mut core = core(false);
    let mut now = ms(0);
    link(&mut core, now, 1, 1);
    confirm(&mut core, now, 1);
    core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
    let shown = lost(&core);
    assert_eq!(run(&mut core, &mut now, 300 * S), 0);
    core.network_changed(now);
    assert_eq!(run(&mut core, &mut now, 299 * S), 0);
    assert_eq!((lost(&core), shown.len()), (shown, 1));
    assert_eq!(run(&mut core, &mut now, 3 * S), 0);
    assert_eq!(lost(&core), []);
}

#[test]
fn whoever_answers_at_a_configured_address_takes_the_place_of_who_did() {
    let mut core = core(false);
    let mut now = ms(0);
    configure(&mut core, now, None, 7);
    link_from(&mut core, now, 1, 5, socket(7), true);
    confirm(&mut core, now, 1);
    core.link_down(now, LinkId(1), LinkDownReason::TimedOut);
    run(&mut core, &mut now, 700 * S);
    assert_eq!(core.lost_neighbours().map(|lost| lost.node).collect::<Vec<_>>(), [node_id(5)]);
    link_from(&mut core, now, 2, 6, socket(7), true);
    assert_eq!(lost(&core), []);
}

#[test]
fn those_shown_are_bounded_and_who_is_configured_stays() {
    let mut core = core(false);
    let mut now = ms(0);
    configure(&mut core, now, Some(200), 200);
    for at in 100..=240 {
        link(&mut core, now, at as u32, at);
        confirm(&mut core, now, at as u32);
        core.link_down(now, LinkId(at as u32), LinkDownReason::TimedOut);
        run(&mut core, &mut now, ms(10));
    }
    let shown: Vec<_> = core.lost_neighbours().map(|lost| lost.node).collect();
    assert_eq!(shown, (113..=240).rev().map(node_id).collect::<Vec<_>>(), "those that failed last");
    run(&mut core, &mut now, Config::default().redial_give_up + ms(2000));
    let shown: Vec<_> = core.lost_neighbours().map(|lost| lost.node).collect();
    assert_eq!(shown, [node_id(200)], "who is configured is wanted for ever");
}
