//! What a neighbour may say: forged, replayed, oversized and greedy records, and the exact answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[allow(unreachable_pub)]
mod world;

use std::time::Duration;

use meshara_overlay::control::{Aged, Message, SummaryEntry};
use meshara_overlay::probe::Probe;
use meshara_overlay::record::{Kind, LinkState, Neighbour, Record, encode_addresses};
use meshara_overlay::{
    Authenticator, CloseReason, Config, ControlError, Core, Identity, LinkDownReason, LinkId, LinkKind,
    LinkPeer, MemberError, NodeId, Output, ProbeError,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use world::{TestAuth, address_of, member_body, ms, node_id};

const LINK: LinkId = LinkId(1);
const OTHER: LinkId = LinkId(2);

/// A core (node 0) with links to nodes 1 and 2, whom the test plays.
struct Played {
    core: Core,
    now: Duration,
    seq: u32,
}

impl Played {
    fn new() -> Self {
        let us = node_id(0);
        let identity = Identity { node: us, address: address_of(&us) };
        let config = Config { auto_neighbours: false, ..Config::default() };
        let rng = ChaCha8Rng::seed_from_u64(1);
        let mut core = Core::new(config, identity, Box::new(TestAuth::of(&us)), rng, ms(0), 1000);
        core.set_member(ms(0), member_body(&us, "us")).unwrap();
        let mut played = Self { core, now: ms(0), seq: 0 };
        played.up(LINK, 1, LinkKind::Routing);
        played.up(OTHER, 2, LinkKind::Routing);
        played
    }

    fn up(&mut self, link: LinkId, peer: usize, kind: LinkKind) {
        let node = node_id(peer);
        let address = address_of(&node);
        let peer =
            LinkPeer { node, address, dialled_by_us: true, kind, mtu: 1400, rtt: Some(ms(4)), remote: None };
        self.core.link_up(self.now, link, peer);
        self.beat();
        self.outputs();
    }

    /// Both peers send a probe that echoes our first one.
    fn beat(&mut self) {
        self.seq += 1;
        let probe = Probe {
            active: false,
            deaf: false,
            interval_ms: 500,
            seq: self.seq,
            echo: 1,
            hold_us: 0,
            loss: 0,
        };
        for link in [LINK, OTHER] {
            let _ = self.core.handle_probe(self.now, link, &probe.encode());
        }
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    fn send(&mut self, records: Vec<Record>) -> Result<(), ControlError> {
        let records = records.into_iter().map(|record| Aged { age_s: 0, record }).collect();
        self.core.handle_control(self.now, LINK, &Message::Records(records).encode())
    }

    /// Routes are computed at most every 10 ms.
    fn settle(&mut self) {
        self.now += ms(10);
        self.core.handle_timeout(self.now);
    }

    /// The records that go out on a link.
    fn flooded(&mut self, on: LinkId) -> Vec<Record> {
        let mut records = Vec::new();
        for output in self.outputs() {
            if let Output::Control { link, bytes } = output
                && link == on
                && let Message::Records(part) = Message::decode(&bytes).unwrap()
            {
                records.extend(part.into_iter().map(|aged| aged.record));
            }
        }
        records
    }

    fn reachable(&self, at: usize) -> bool {
        self.core.routes().any(|route| route.node == node_id(at))
    }
}

fn signed(at: usize, by: usize, kind: Kind, sequence: u64, body: &[u8]) -> Record {
    let auth = TestAuth::of(&node_id(by));
    Record::sign(kind, node_id(at), sequence, body, |message| auth.sign(message)).unwrap()
}

fn member(at: usize) -> Record {
    signed(at, at, Kind::Member, 1, &member_body(&node_id(at), &format!("n{at}")))
}

fn links(at: usize, sequence: u64, to: &[(usize, u32)]) -> Record {
    let mut neighbours: Vec<Neighbour> = to
        .iter()
        .map(|(to, cost)| Neighbour { node: node_id(*to), cost: *cost, loss: 0, mtu: 1400, suspect: false })
        .collect();
    neighbours.sort_unstable_by_key(|n| n.node);
    signed(at, at, Kind::LinkState, sequence, &LinkState { leaving: false, neighbours }.encode())
}

#[test]
fn honest_records_make_routes_and_are_flooded_to_the_others_once() {
    let mut p = Played::new();
    let records = vec![member(1), member(3), links(1, 1, &[(0, 10), (3, 10)]), links(3, 1, &[(1, 10)])];
    p.send(records.clone()).unwrap();
    p.settle();
    assert!(p.reachable(1) && p.reachable(3));
    let mut flooded = p.flooded(OTHER);
    flooded.retain(|record| record.origin != node_id(0));
    assert_eq!(flooded, records);
    p.send(records).unwrap();
    assert!(p.flooded(OTHER).is_empty());
    assert_eq!(p.core.metrics().duplicates, 4);
}

#[test]
fn forgeries_are_refused_exactly() {
    let mut p = Played::new();
    p.send(vec![member(1), member(3)]).unwrap();
    p.flooded(OTHER);
    let forged = signed(1, 3, Kind::LinkState, 1, &LinkState::default().encode());
    assert_eq!(p.send(vec![forged]), Err(ControlError::BadSignature));
    // Of another node it may be the neighbour's true belief: that node may have told two keys.
    let forged = signed(3, 1, Kind::LinkState, 1, &LinkState::default().encode());
    assert_eq!(p.send(vec![forged]), Ok(()));
    assert_eq!(p.core.metrics().ignored, 1);
    let stolen = signed(4, 1, Kind::Member, 1, &member_body(&node_id(1), "n1"));
    assert_eq!(p.send(vec![stolen]), Err(ControlError::BadMember(MemberError::WrongNode)));
    let stranger = signed(4, 4, Kind::Member, 1, &member_body(&node_id(4), "stranger"));
    assert_eq!(p.send(vec![stranger]), Err(ControlError::BadMember(MemberError::Untrusted)));
    let unsigned = signed(4, 1, Kind::Member, 1, &member_body(&node_id(4), "n4"));
    assert_eq!(p.send(vec![unsigned]), Err(ControlError::BadSignature));
    assert_eq!(p.core.metrics().forged, 4);
    // Another clock or an unknown member is no crime.
    let expired = signed(4, 4, Kind::Member, 1, &member_body(&node_id(4), "expired"));
    assert_eq!(p.send(vec![expired, links(5, 1, &[])]), Ok(()));
    assert_eq!(p.core.metrics().ignored, 3);
    assert!(p.flooded(OTHER).is_empty());
    assert!(p.core.node(&node_id(4)).is_none() && p.core.node(&node_id(5)).is_none());
}

#[test]
fn a_changed_bit_anywhere_changes_nothing_but_the_verdict() {
    let mut p = Played::new();
    p.send(vec![member(1)]).unwrap();
    let good = links(1, 5, &[(3, 10)]);
    for at in 0..good.bytes().len() {
        let mut bytes = good.bytes().to_vec();
        bytes[at] ^= 1;
        let Ok(record) = Record::decode(&bytes) else { continue };
        let origin = record.origin;
        let result = p.send(vec![record]);
        // A changed origin is an unknown node's record: ignored. Everything else is a forgery.
        let expected = if origin == node_id(1) { Err(ControlError::BadSignature) } else { Ok(()) };
        assert_eq!(result, expected, "byte {at}");
    }
    assert_eq!(p.send(vec![good]), Ok(()));
}

/// A key of node 3: it may have many.
fn key(number: u8) -> TestAuth {
    TestAuth { key: [number; 32], ..TestAuth::of(&node_id(3)) }
}

/// Version 5 of node 3's member record, with a key of its choice.
fn of_three(number: u8) -> Record {
    let auth = key(number);
    let body = [&node_id(3).0[..], &auth.key, b"n3"].concat();
    Record::sign(Kind::Member, node_id(3), 5, &body, |message| auth.sign(message)).unwrap()
}

/// Two keys of it: the version with the second one stands.
fn two_keys() -> (u8, u8) {
    if of_three(1).tie() < of_three(2).tie() { (1, 2) } else { (2, 1) }
}

fn key_of_three(p: &Played) -> [u8; 32] {
    p.core.node(&node_id(3)).unwrap().routing_key.unwrap()
}

#[test]
fn a_node_that_tells_two_keys_sets_nobody_against_each_other() {
    let (low, high) = two_keys();
    for (held, other) in [(low, high), (high, low)] {
        let mut p = Played::new();
        send_aged(&mut p, OTHER, 0, &[of_three(held)]);
        // What a neighbour that holds the other version passes on honestly.
        let auth = key(other);
        let body = LinkState::default().encode();
        let state = Record::sign(Kind::LinkState, node_id(3), 1, &body, |message| auth.sign(message));
        assert_eq!(p.send(vec![state.unwrap()]), Ok(()));
        assert_eq!((p.core.metrics().ignored, p.core.metrics().forged), (1, 0));
    }
}

#[test]
fn of_two_versions_with_one_sequence_the_same_one_stands_everywhere() {
    let (low, high) = two_keys();
    let (first, second) = (of_three(low), of_three(high));
    for orders in [[&first, &second], [&second, &first]] {
        let mut p = Played::new();
        p.flooded(OTHER);
        let mut told = Vec::new();
        for record in orders.into_iter().chain(orders).chain(orders) {
            p.send(vec![record.clone()]).unwrap();
            p.settle();
            told.extend(p.flooded(OTHER).into_iter().filter(|record| record.origin == node_id(3)));
        }
        assert_eq!(key_of_three(&p), [high; 32]);
        let expected =
            if *orders[0] == first { vec![first.clone(), second.clone()] } else { vec![second.clone()] };
        assert_eq!(told, expected, "each at most once");
    }
}

fn digest(p: &mut Played, link: u32) -> [u8; 32] {
    p.core.link_up(p.now, LinkId(link), plain(7, LinkKind::Routing, 1400));
    let told = p.outputs().into_iter().find_map(|output| match output {
        Output::Control { bytes, .. } => match Message::decode(&bytes).unwrap() {
            Message::Digest(digest) => Some(digest),
            _ => None,
        },
        _ => None,
    });
    told.unwrap()
}

/// What a node asks for that hears of this version.
fn asked(p: &mut Played, record: &Record) -> Vec<(NodeId, Kind)> {
    p.outputs();
    let Record { origin, kind, sequence, .. } = record.clone();
    let entry = SummaryEntry { origin, kind, sequence, tie: record.tie() };
    p.core.handle_control(p.now, OTHER, &Message::Summary(vec![entry]).encode()).unwrap();
    let requests = p.outputs().into_iter().filter_map(|output| match output {
        Output::Control { link: OTHER, bytes } => match Message::decode(&bytes).unwrap() {
            Message::Request(wanted) => Some(wanted),
            _ => None,
        },
        _ => None,
    });
    requests.flatten().collect()
}

#[test]
fn the_comparison_of_databases_finds_two_versions_with_one_sequence() {
    let (low, high) = two_keys();
    let [mut a, mut b] = [Played::new(), Played::new()];
    a.send(vec![of_three(low)]).unwrap();
    b.send(vec![of_three(high)]).unwrap();
    assert_ne!(digest(&mut a, 50), digest(&mut b, 50));
    assert_eq!(asked(&mut b, &of_three(low)), []);
    assert_eq!(asked(&mut a, &of_three(high)), [(node_id(3), Kind::Member)]);
    a.send(vec![of_three(high)]).unwrap();
    assert_eq!(digest(&mut a, 51), digest(&mut b, 51));
    assert_eq!(asked(&mut a, &of_three(high)), []);
    assert_eq!([key_of_three(&a), key_of_three(&b)], [[high; 32]; 2]);
}

#[test]
fn an_own_record_of_an_earlier_life_with_the_same_sequence_is_overtaken() {
    let mut p = Played::new();
    p.settle();
    let own = p.flooded(LINK).into_iter().rfind(|record| record.kind == Kind::LinkState).unwrap();
    let earlier = (1..200).map(|cost| links(0, own.sequence, &[(7, cost)]));
    let earlier = earlier.into_iter().find(|record| record.tie() > own.tie()).unwrap();
    p.send(vec![earlier]).unwrap();
    p.settle();
    p.settle();
    let newest = p.flooded(LINK).into_iter().rfind(|record| record.kind == Kind::LinkState).unwrap();
    assert_eq!((newest.sequence, newest.body()), (own.sequence + 1, own.body()));
}

#[test]
fn a_zero_cost_claim_gains_nothing() {
    let mut p = Played::new();
    let everyone: Vec<(usize, u32)> = [0, 2, 3, 4, 5].map(|to| (to, 0)).to_vec();
    p.send(vec![member(1), member(2), member(3), links(1, 1, &everyone)]).unwrap();
    // 3 is a neighbour of 2 only, at an honest price.
    p.send(vec![links(2, 1, &[(0, 3000), (3, 3000)]), links(3, 1, &[(2, 3000)])]).unwrap();
    p.settle();
    let route = p.core.routes().find(|route| route.node == node_id(3)).unwrap();
    assert_eq!(route.primary, OTHER);
    let to_two = p.core.routes().find(|route| route.node == node_id(2)).unwrap();
    assert_eq!(to_two.primary, OTHER);
    assert!(!p.reachable(4) && !p.reachable(5));
    let to_one = p.core.routes().find(|route| route.node == node_id(1)).unwrap();
    assert!(to_one.metric_us >= 500, "our own cost of the link counts, not its zero");
}

#[test]
fn own_records_from_an_earlier_life_are_overtaken() {
    let mut p = Played::new();
    p.flooded(LINK);
    let sequence = 9_999_999;
    p.send(vec![links(0, sequence, &[(7, 10)])]).unwrap();
    p.now += ms(10);
    p.core.handle_timeout(p.now);
    let newest = p.flooded(LINK).into_iter().rfind(|record| record.kind == Kind::LinkState).unwrap();
    assert_eq!(newest.sequence, sequence + 1);
    let state = LinkState::decode(&node_id(0), newest.body()).unwrap();
    assert!(state.neighbours.iter().all(|n| n.node != node_id(7)));
    // One that we never signed overtakes nothing.
    let forged = signed(0, 1, Kind::LinkState, sequence + 100, &LinkState::default().encode());
    p.send(vec![forged]).unwrap();
    p.now += ms(20);
    p.core.handle_timeout(p.now);
    assert!(p.flooded(LINK).is_empty());
    assert_eq!(p.core.metrics().overtaken, 1);
}

#[test]
fn replays_of_expired_records_stay_dead() {
    let mut p = Played::new();
    p.send(vec![member(3), links(3, 4, &[])]).unwrap();
    assert!(p.core.node(&node_id(3)).is_some());
    for _ in 0..4000 {
        p.now += Duration::from_secs(1);
        p.beat();
        p.core.handle_timeout(p.now);
        p.outputs();
        if p.core.node(&node_id(3)).is_some_and(|node| node.member.is_none()) {
            break;
        }
    }
    assert!((3600..3620).contains(&p.now.as_secs()), "expired after {:?}", p.now);
    p.up(LINK, 1, LinkKind::Routing);
    p.send(vec![member(3), links(3, 4, &[])]).unwrap();
    assert!(p.core.node(&node_id(3)).unwrap().member.is_none());
    // And one that says itself that it is too old is not taken either.
    let aged = Aged { age_s: 3600, record: member(6) };
    p.core.handle_control(p.now, LINK, &Message::Records(vec![aged]).encode()).unwrap();
    assert!(p.core.node(&node_id(6)).is_none());
}

#[test]
fn a_node_that_changes_too_often_is_slowed_and_its_newest_word_counts() {
    let mut p = Played::new();
    p.send(vec![member(3)]).unwrap();
    for sequence in 1..=500 {
        p.send(vec![links(3, sequence, &[(1, 10)])]).unwrap();
    }
    let at_once = p.flooded(OTHER).len();
    assert!((20..=40).contains(&at_once), "{at_once} at once");
    assert!(p.core.metrics().shed > 400);
    let mut newest = 0;
    for _ in 0..10 {
        p.now += ms(200);
        p.beat();
        p.core.handle_timeout(p.now);
        newest = p
            .flooded(OTHER)
            .iter()
            .filter(|record| record.origin == node_id(3))
            .map(|record| record.sequence)
            .max()
            .unwrap_or(newest)
            .max(newest);
    }
    assert_eq!(newest, 500);
}

#[test]
fn requests_are_answered_in_order_and_bounded() {
    let mut p = Played::new();
    p.send(vec![member(3), links(3, 1, &[])]).unwrap();
    p.outputs();
    let wanted = Message::Request(vec![(node_id(3), Kind::Member), (node_id(3), Kind::LinkState)]).encode();
    p.core.handle_control(p.now, OTHER, &wanted).unwrap();
    let kinds: Vec<Kind> = p.flooded(OTHER).into_iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [Kind::Member, Kind::LinkState]);
    let ids =
        (0..512_u16).map(|at| (NodeId([at.to_be_bytes(); 16].concat().try_into().unwrap()), Kind::Member));
    let many = Message::Request(ids.collect()).encode();
    let refused = (0..1000).find_map(|_| p.core.handle_control(p.now, OTHER, &many).err());
    assert_eq!(refused, Some(ControlError::TooManyRequests));
}

#[test]
fn a_different_digest_is_answered_with_a_summary_once_a_second() {
    let mut p = Played::new();
    p.outputs();
    let digest = Message::Digest([9; 32]).encode();
    let summaries = |p: &mut Played| {
        p.core.handle_control(p.now, LINK, &digest).unwrap();
        p.outputs().iter().filter(|output| matches!(output, Output::Control { .. })).count()
    };
    assert_eq!(summaries(&mut p), 1);
    assert_eq!(summaries(&mut p), 0);
}

#[test]
fn probes_and_control_on_wrong_links_are_refused_exactly() {
    let mut p = Played::new();
    let before = p.core.metrics().bad_probes;
    let probe =
        Probe { active: false, deaf: false, interval_ms: 50, seq: 9, echo: 1000, hold_us: 0, loss: 0 };
    assert_eq!(p.core.handle_probe(p.now, LINK, &probe.encode()), Err(ProbeError::EchoFromFuture));
    assert_eq!(p.core.handle_probe(p.now, LinkId(9), &probe.encode()), Err(ProbeError::UnknownLink));
    assert_eq!(p.core.handle_probe(p.now, LINK, &[]), Err(ProbeError::Length));
    assert_eq!(p.core.handle_control(p.now, LinkId(9), &[1, 4]), Err(ControlError::UnknownLink));
    p.up(LinkId(3), 5, LinkKind::Direct);
    assert_eq!(p.core.handle_control(p.now, LinkId(3), &[1, 4]), Err(ControlError::DirectLink));
    assert_eq!(p.core.handle_control(p.now, LINK, &[1, 4]), Err(ControlError::Truncated));
    assert_eq!(p.core.metrics().bad_probes, before + 3);
}

#[test]
fn a_storm_of_news_is_passed_on_together_and_a_little_at_once() {
    let mut p = Played::new();
    p.outputs();
    let mut messages = 0;
    let mut seen = Vec::new();
    for at in 10..110 {
        p.send(vec![member(at)]).unwrap();
        let now = p.flooded(OTHER);
        // One failure makes a handful of records: those pass without delay.
        assert!(at >= 40 || now.len() == 1, "record {at} waits");
        messages += usize::from(!now.is_empty());
        seen.extend(now);
    }
    // Of two versions that wait, the newer one alone goes on.
    p.send(vec![links(109, 1, &[(108, 1000)]), links(109, 2, &[(107, 1000)])]).unwrap();
    assert!(p.flooded(OTHER).is_empty());
    assert!(p.core.poll_timeout().is_some_and(|due| due <= p.now + ms(10)));
    p.settle();
    seen.extend(p.flooded(OTHER));
    assert!(messages < 40, "{messages} messages");
    let members = seen.iter().filter(|record| record.kind == Kind::Member && record.origin != node_id(0));
    assert_eq!(members.count(), 100);
    let links: Vec<u64> = seen
        .iter()
        .filter(|record| record.kind == Kind::LinkState && record.origin == node_id(109))
        .map(|record| record.sequence)
        .collect();
    assert_eq!(links, [2]);
}

/// Lets time pass; the links live on.
fn pass(p: &mut Played, seconds: u64) {
    for _ in 0..seconds {
        p.now += Duration::from_secs(1);
        p.beat();
        p.core.handle_timeout(p.now);
        p.outputs();
    }
}

fn send_aged(p: &mut Played, link: LinkId, age_s: u16, records: &[Record]) {
    let records = records.iter().map(|record| Aged { age_s, record: record.clone() }).collect();
    p.core.handle_control(p.now, link, &Message::Records(records).encode()).unwrap();
}

#[test]
fn a_false_age_is_repaired_by_an_honest_copy() {
    let mut p = Played::new();
    p.send(vec![member(1), links(1, 1, &[(0, 10), (3, 10)])]).unwrap();
    let of_three = [member(3), links(3, 1, &[(1, 10)])];
    send_aged(&mut p, LINK, 3595, &of_three);
    p.settle();
    assert!(p.reachable(3));
    p.outputs();
    // An honest copy of the same version at once: it counts, and is passed on with its age.
    send_aged(&mut p, OTHER, 1, &of_three);
    p.settle();
    let passed: Vec<Kind> = p.flooded(LINK).into_iter().map(|record| record.kind).collect();
    assert_eq!(passed, [Kind::Member, Kind::LinkState]);
    send_aged(&mut p, OTHER, 0, &of_three);
    p.settle();
    assert!(p.flooded(LINK).is_empty(), "once is enough");
    pass(&mut p, 60);
    assert!(p.reachable(3), "it lives as long as its true age lets it");
}

#[test]
fn a_record_that_expired_by_a_false_age_is_asked_for_and_revived() {
    let mut p = Played::new();
    p.send(vec![member(1), links(1, 1, &[(0, 10), (3, 10)])]).unwrap();
    let of_three = [member(3), links(3, 1, &[(1, 10)])];
    send_aged(&mut p, LINK, 3599, &of_three);
    pass(&mut p, 20);
    assert!(!p.reachable(3), "the lie worked");
    let entries = of_three
        .iter()
        .map(|r| SummaryEntry { origin: r.origin, kind: r.kind, sequence: r.sequence, tie: r.tie() })
        .collect();
    p.up(OTHER, 2, LinkKind::Routing);
    p.core.handle_control(p.now, OTHER, &Message::Summary(entries).encode()).unwrap();
    let asked = p.outputs().into_iter().find_map(|output| match output {
        Output::Control { link: OTHER, bytes } => match Message::decode(&bytes).unwrap() {
            Message::Request(wanted) => Some(wanted),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(asked, Some(vec![(node_id(3), Kind::Member), (node_id(3), Kind::LinkState)]));
    send_aged(&mut p, OTHER, 21, &of_three);
    p.settle();
    p.up(LINK, 1, LinkKind::Routing);
    p.settle();
    assert!(p.reachable(3));
}

#[test]
fn a_low_age_does_not_stretch_a_life() {
    let mut p = Played::new();
    p.send(vec![member(3)]).unwrap();
    for _ in 0..3700 {
        pass(&mut p, 1);
        send_aged(&mut p, LINK, 0, &[member(3)]);
        if p.core.metrics().expired > 0 {
            break;
        }
    }
    assert!((3600..3620).contains(&p.now.as_secs()), "expired after {:?}", p.now);
    assert!(p.core.node(&node_id(3)).unwrap().member.is_none());
}

#[test]
fn a_neighbour_whose_clock_was_ahead_is_shown_what_it_must_overtake() {
    let mut p = Played::new();
    let ahead = signed(1, 1, Kind::Member, 9000, &member_body(&node_id(1), "n1"));
    p.send(vec![ahead.clone()]).unwrap();
    pass(&mut p, 3620);
    p.up(LINK, 1, LinkKind::Routing);
    p.send(vec![member(1)]).unwrap();
    assert_eq!(p.flooded(LINK), [ahead]);
    // Others don't need to know.
    p.up(OTHER, 2, LinkKind::Routing);
    send_aged(&mut p, OTHER, 0, &[member(1)]);
    assert!(p.flooded(OTHER).is_empty());
}

fn plain(at: usize, kind: LinkKind, mtu: u16) -> LinkPeer {
    let node = node_id(at);
    LinkPeer {
        node,
        address: address_of(&node),
        dialled_by_us: true,
        kind,
        mtu,
        rtt: Some(ms(4)),
        remote: None,
    }
}

fn closed(p: &mut Played) -> Vec<(LinkId, CloseReason)> {
    let close = |output| match output {
        Output::CloseLink { link, reason } => Some((link, reason)),
        _ => None,
    };
    p.outputs().into_iter().filter_map(close).collect()
}

#[test]
fn one_node_and_direct_links_take_a_bounded_number_of_places() {
    let mut p = Played::new();
    for link in 10..20 {
        let kind = if link % 2 == 0 { LinkKind::Routing } else { LinkKind::Direct };
        p.core.link_up(p.now, LinkId(link), plain(5, kind, 1400));
    }
    let refused: Vec<_> = (14..20).map(|link| (LinkId(link), CloseReason::Duplicate)).collect();
    assert_eq!(closed(&mut p), refused);
    // The two of node 5 count.
    for link in 100..300 {
        let at = usize::try_from(link).unwrap();
        p.core.link_up(p.now, LinkId(link), plain(at, LinkKind::Direct, 1400));
    }
    let refused: Vec<_> = (226..300).map(|link| (LinkId(link), CloseReason::Full)).collect();
    assert_eq!(closed(&mut p), refused);
    // Routing has its own places.
    p.core.link_up(p.now, LinkId(400), plain(6, LinkKind::Routing, 1400));
    assert!(closed(&mut p).is_empty());
}

/// What we tell of node 1.
fn told_of_one(p: &mut Played) -> Option<Neighbour> {
    p.settle();
    let newest = p.flooded(OTHER).into_iter().rfind(|record| record.kind == Kind::LinkState)?;
    let state = LinkState::decode(&node_id(0), newest.body()).unwrap();
    state.neighbours.into_iter().find(|neighbour| neighbour.node == node_id(1))
}

#[test]
fn of_two_links_to_a_node_the_smaller_mtu_is_told() {
    let mut p = Played::new();
    p.settle();
    p.outputs();
    // A dearer link with less room beside the first: it is newer, so it carries the traffic.
    let worse = LinkPeer { rtt: Some(ms(90)), ..plain(1, LinkKind::Routing, 1200) };
    p.core.link_up(p.now, LinkId(3), worse);
    p.now += ms(90);
    let probe = Probe { active: false, deaf: false, interval_ms: 500, seq: 1, echo: 1, hold_us: 0, loss: 0 };
    p.core.handle_probe(p.now, LinkId(3), &probe.encode()).unwrap();
    assert_eq!(told_of_one(&mut p).unwrap().mtu, 1200);
    p.core.link_down(p.now, LinkId(3), LinkDownReason::Closed);
    assert_eq!(told_of_one(&mut p).unwrap().mtu, 1400);
}

#[test]
fn after_sleep_only_routing_links_are_dialled_anew() {
    let mut p = Played::new();
    p.up(LinkId(3), 5, LinkKind::Direct);
    let probe = Probe { active: false, deaf: false, interval_ms: 500, seq: 1, echo: 1, hold_us: 0, loss: 0 };
    p.core.handle_probe(p.now, LinkId(3), &probe.encode()).unwrap();
    // Everyone's address is known.
    let address = |at: u8| {
        let body = encode_addresses(&[std::net::SocketAddr::from(([10, 0, 0, at], 7000))]);
        signed(usize::from(at), usize::from(at), Kind::Addresses, 1, &body)
    };
    p.send(vec![member(1), member(5), address(1), address(5)]).unwrap();
    p.core.network_changed(p.now);
    let mut dialled = Vec::new();
    for _ in 0..40 {
        p.now += ms(10);
        p.core.handle_timeout(p.now);
        for output in p.outputs() {
            if let Output::Dial { target, .. } = output {
                dialled.extend(target.node);
            }
        }
    }
    assert!(dialled.contains(&node_id(1)), "{dialled:?}");
    assert!(!dialled.contains(&node_id(5)), "{dialled:?}");
    assert!(p.core.metrics().suspicions >= 2);
}

#[test]
fn small_changes_of_cost_are_told_when_they_last() {
    let mut p = Played::new();
    let mut told = Vec::new();
    let mut seq = 0;
    for _ in 0..80 {
        p.now += ms(500);
        p.core.handle_timeout(p.now);
        for output in p.outputs() {
            match output {
                Output::Probe { link: LINK, bytes } => seq = Probe::decode(&bytes).unwrap().seq,
                Output::Control { link: OTHER, bytes } => {
                    let Message::Records(records) = Message::decode(&bytes).unwrap() else { continue };
                    for aged in records.iter().filter(|aged| aged.record.kind == Kind::LinkState) {
                        let state = LinkState::decode(&node_id(0), aged.record.body()).unwrap();
                        let of_one = state.neighbours.iter().find(|n| n.node == node_id(1));
                        told.extend(of_one.map(|n| (p.now.as_secs(), n.cost)));
                    }
                }
                _ => {}
            }
        }
        p.now += ms(3);
        let probe =
            Probe { active: false, deaf: false, interval_ms: 500, seq, echo: seq, hold_us: 0, loss: 0 };
        for link in [LINK, OTHER] {
            let _ = p.core.handle_probe(p.now, link, &probe.encode());
        }
    }
    told.dedup_by_key(|(_, cost)| *cost);
    // The path's 3 ms make 2 ms cost. On the way there a large change is told soon, the small rest after half a minute.
    let [(_, first), (soon, large), (later, small)] = told[..] else { panic!("{told:?}") };
    assert!(soon <= 10 && large < 1800 && (30..=33).contains(&(later - soon)), "{told:?}");
    assert_eq!((first, small), (500, 1999));
}
