//! Heads of issuers' logs and records that are proved under them: they come to everybody once, and a record that is ahead of its head waits.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[allow(unreachable_pub)]
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshara_overlay::control::{Aged, Message};
use meshara_overlay::probe::Probe;
use meshara_overlay::record::{Kind, Record};
use meshara_overlay::{
    Authenticator, Config, ControlError, Core, Event, HeadId, Identity, LinkId, LinkKind, LinkPeer,
    MemberError, NodeId, Output,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use world::{TestAuth, World, address_of, head_body, member_body, ms, node_id};

/// Every node has six neighbours.
fn woven(nodes: usize) -> Vec<(usize, usize, u64)> {
    (0..nodes).flat_map(|at| [1, 2, 3].map(|step| (at, (at + step) % nodes, 5))).collect()
}

fn head(size: u64) -> HeadId {
    HeadId { issuer: node_id(0), size }
}

/// Node 0 names a head of its log; the statement of its keys comes first.
fn name_head(world: &mut World, size: u64) {
    for id in [head(0), head(size)] {
        world.set_head(0, id, &head_body(&id, &[1, 2]));
    }
}

fn proved(world: &World, at: usize, other: usize) -> bool {
    world.core(at).node(&node_id(other)).is_some_and(|node| node.proved)
}

#[test]
fn a_head_comes_to_each_node_once_and_records_are_believed_under_it() {
    let mut world = World::new(1, 12, &woven(12));
    world.run(ms(5000));
    assert!(world.whole());
    world.heard = Some(Vec::new());
    name_head(&mut world, 8);
    world.run(ms(1000));
    let bodies = |world: &World| {
        let is_head = |bytes: &&Vec<u8>| bytes.get(1) == Some(&7);
        world.heard.iter().flatten().filter(is_head).count()
    };
    assert_eq!(bodies(&world), 2 * 11, "statement and head, once to each of the others");
    for at in 0..12 {
        assert_eq!(world.core(at).heads().collect::<Vec<_>>(), [head(0), head(8)], "at {at}");
        world.renew(at, &format!("proved-8-n{at}"));
    }
    world.run(ms(3000));
    assert!(world.whole());
    assert!((0..12).all(|at| (0..12).all(|other| proved(&world, at, other))));
    let waited: u64 = (0..12).map(|at| world.core(at).metrics().waited).sum();
    assert_eq!(waited, 0, "heads were everywhere before the records");
}

#[test]
fn a_newcomer_gets_heads_first_and_believes_what_is_proved_under_them() {
    let mut world = World::new(2, 8, &woven(8));
    world.kill(7);
    world.run(ms(10_000));
    name_head(&mut world, 8);
    world.run(ms(1000));
    for at in 0..7 {
        world.renew(at, &format!("proved-8-n{at}"));
    }
    world.run(ms(3000));
    world.start(7);
    world.run(ms(20_000));
    assert!(world.whole());
    assert!((0..7).all(|other| proved(&world, 7, other)));
    assert_eq!(world.core(7).metrics().waited, 0);
}

const LINK: LinkId = LinkId(1);
const OTHER: LinkId = LinkId(2);

/// One core whose neighbours are played by the test.
struct Played {
    core: Core,
    now: Duration,
    out: Vec<(LinkId, Message)>,
    taken: Vec<HeadId>,
    revoked: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl Played {
    fn new() -> Self {
        let identity = Identity { node: node_id(9), address: address_of(&node_id(9)) };
        let auth = Box::new(TestAuth::of(&node_id(9)));
        let revoked = auth.revoked.clone();
        let config = Config { auto_neighbours: false, ..Config::default() };
        let now = Duration::from_secs(1);
        let mut core = Core::new(config, identity, auth, ChaCha8Rng::from_seed([3; 32]), now, 1000);
        core.set_member(now, member_body(&node_id(9), "n9")).unwrap();
        let mut played = Self { core, now, out: Vec::new(), taken: Vec::new(), revoked };
        for (link, at) in [(LINK, 1), (OTHER, 2)] {
            played.up(link, at);
        }
        played
    }

    fn up(&mut self, link: LinkId, at: usize) {
        let peer = LinkPeer {
            node: node_id(at),
            address: address_of(&node_id(at)),
            dialled_by_us: true,
            kind: LinkKind::Routing,
            mtu: 1400,
            rtt: Some(ms(4)),
            remote: None,
        };
        self.core.link_up(self.now, link, peer);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Control { link, bytes } => self.out.push((link, Message::decode(&bytes).unwrap())),
                Output::Event(Event::HeadTaken(id)) => self.taken.push(id),
                Output::Probe { link, bytes } => self.echo(link, &bytes),
                _ => {}
            }
        }
    }

    fn hear(&mut self, link: LinkId, message: &Message) -> Result<(), ControlError> {
        self.out.clear();
        let result = self.core.handle_control(self.now, link, &message.encode());
        self.collect();
        result
    }

    fn tell(&mut self, link: LinkId, id: HeadId, body: &[u8]) {
        self.hear(link, &Message::Head { id, body: body.to_vec() }).unwrap();
    }

    /// Tells a head that node 5 witnessed.
    fn tell_good(&mut self, link: LinkId, id: HeadId) {
        self.tell(link, id, &head_body(&id, &[5]));
    }

    /// This node names heads of node 0.
    fn name_heads(&mut self) {
        for id in [head(0), head(8)] {
            self.core.set_head(self.now, id, &head_body(&id, &[5])).unwrap();
        }
    }

    /// Only time passes, and the neighbours probe.
    fn wait(&mut self, span: Duration) {
        self.out.clear();
        let end = self.now + span;
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    /// A probe of a neighbour that echoes ours.
    fn echo(&mut self, link: LinkId, bytes: &[u8]) {
        let Probe { seq, .. } = Probe::decode(bytes).unwrap();
        let probe =
            Probe { active: false, deaf: false, interval_ms: 500, seq, echo: seq, hold_us: 0, loss: 0 };
        let _ = self.core.handle_probe(self.now, link, &probe.encode());
    }

    fn wanted(&self, link: LinkId) -> Vec<HeadId> {
        let wants = self.out.iter().filter(|(to, _)| *to == link).filter_map(|(_, message)| match message {
            Message::WantHeads(ids) => Some(ids.clone()),
            _ => None,
        });
        wants.flatten().collect()
    }

    fn name(&self, at: usize) -> Option<String> {
        self.core.node(&node_id(at))?.name
    }
}

fn member(at: usize, sequence: u64, name: &str) -> Message {
    let auth = TestAuth::of(&node_id(at));
    let body = member_body(&node_id(at), name);
    let record = Record::sign(Kind::Member, node_id(at), sequence, &body, |message| auth.sign(message));
    Message::Records(vec![Aged { age_s: 0, record: record.unwrap() }])
}

#[test]
fn a_record_that_is_ahead_of_its_head_waits_and_its_sender_is_asked() {
    let mut p = Played::new();
    p.hear(LINK, &member(5, 1, "proved-8-n5")).unwrap();
    assert_eq!(p.name(5), None, "not believed");
    assert_eq!(p.wanted(LINK), [head(0), head(8)], "and not refused");
    // The answer may come in pieces; who is asked already is not asked again.
    p.hear(OTHER, &Message::Heads(vec![head(0), head(8)])).unwrap();
    assert_eq!(p.wanted(OTHER), []);
    p.tell_good(LINK, head(0));
    assert_eq!(p.name(5), None);
    p.tell_good(LINK, head(8));
    assert_eq!(p.name(5).as_deref(), Some("n5"));
    assert_eq!(p.taken, [head(0), head(8)]);
    let metrics = p.core.metrics();
    assert_eq!((metrics.waited, metrics.heads_taken, metrics.forged), (1, 2, 0));
}

#[test]
fn heads_whose_witnesses_are_unknown_are_taken_and_judged_by_their_records() {
    let mut p = Played::new();
    // Somebody is known before the head comes, as where all of a site start at once.
    p.hear(OTHER, &member(6, 1, "n6")).unwrap();
    assert_eq!(p.name(6).as_deref(), Some("n6"));
    p.hear(LINK, &Message::Heads(vec![head(0), head(8), head(9)])).unwrap();
    for size in [0, 8, 9] {
        p.tell_good(LINK, head(size));
    }
    assert_eq!(p.core.unwitnessed().collect::<Vec<_>>(), [head(8), head(9)]);
    // Under the later one.
    p.hear(LINK, &member(5, 1, "proved-9-n5")).unwrap();
    assert_eq!(p.name(5).as_deref(), Some("n5"), "believed");
    assert_eq!(p.core.unwitnessed().count(), 0);
    assert_eq!((p.core.metrics().heads_taken, p.core.metrics().heads_refused), (3, 0));
}

#[test]
fn a_head_is_dropped_when_its_witness_turns_up_and_did_not_sign_it() {
    let mut p = Played::new();
    p.hear(OTHER, &member(6, 1, "n6")).unwrap();
    p.hear(LINK, &Message::Heads(vec![head(0), head(8), head(9)])).unwrap();
    p.tell_good(LINK, head(0));
    // A line of 5 that is over another head, and one that is right.
    p.tell(LINK, head(8), &head_body(&head(7), &[5]));
    p.tell_good(LINK, head(9));
    p.hear(LINK, &member(7, 1, "proved-8-n7")).unwrap();
    p.hear(LINK, &member(5, 1, "n5")).unwrap();
    assert_eq!(p.core.heads().collect::<Vec<_>>(), [head(0), head(9)]);
    assert_eq!(p.core.unwitnessed().count(), 0);
    assert_eq!(p.core.metrics().heads_refused, 1);
    // Nor is it taken from now on.
    p.wait(ms(2100));
    p.hear(OTHER, &Message::Heads(vec![head(8)])).unwrap();
    p.tell(OTHER, head(8), &head_body(&head(7), &[5]));
    assert_eq!(p.core.heads().collect::<Vec<_>>(), [head(0), head(9)]);
    assert_eq!(p.core.metrics().heads_refused, 2);
}

#[test]
fn a_wrong_line_counts_beside_an_unknown_witness() {
    let mut p = Played::new();
    p.hear(OTHER, &member(6, 1, "n6")).unwrap();
    p.hear(LINK, &Message::Heads(vec![head(0), head(8)])).unwrap();
    p.tell_good(LINK, head(0));
    let wrong = [head_body(&head(8), &[5]), head_body(&head(7), &[6])[b"head".len()..].to_vec()].concat();
    p.tell(LINK, head(8), &wrong);
    assert_eq!(p.core.heads().collect::<Vec<_>>(), [head(0)]);
    // Without any line it is no head.
    p.hear(OTHER, &Message::Heads(vec![head(9)])).unwrap();
    p.tell(OTHER, head(9), b"head");
    assert_eq!(p.core.heads().collect::<Vec<_>>(), [head(0)]);
    assert_eq!(p.core.metrics().heads_refused, 2);
}

#[test]
fn who_does_not_answer_is_asked_again_and_what_waits_too_long_is_given_up() {
    let mut p = Played::new();
    p.hear(LINK, &member(5, 1, "proved-8-n5")).unwrap();
    p.wait(ms(2800));
    assert!(p.wanted(LINK).contains(&head(8)), "{:?}", p.out);
    p.wait(Duration::from_secs(40));
    assert!(p.core.metrics().ignored >= 1);
    // The head comes by another way: nothing waits for it any more.
    p.name_heads();
    assert_eq!(p.name(5), None);
}

#[test]
fn what_waits_is_bounded_for_each_neighbour() {
    let mut p = Played::new();
    for at in 100..300 {
        p.hear(LINK, &member(at, 1, "proved-8-x")).unwrap();
    }
    assert_eq!((p.core.metrics().waited, p.core.metrics().shed), (128, 72));
    // Another link to the same node has no places of its own.
    p.up(LinkId(3), 1);
    p.hear(LinkId(3), &member(400, 1, "proved-8-x")).unwrap();
    assert_eq!((p.core.metrics().waited, p.core.metrics().shed), (128, 73));
    for at in 100..300 {
        p.hear(OTHER, &member(at, 1, "proved-8-x")).unwrap();
    }
    assert_eq!((p.core.metrics().waited, p.core.metrics().shed), (256, 145));
}

#[test]
fn neighbours_that_fill_all_places_make_room_for_who_has_fewer() {
    let mut p = Played::new();
    for link in 10..18 {
        p.up(LinkId(link), usize::try_from(link).unwrap());
        for at in 100..228 {
            p.hear(LinkId(link), &member(at, 1, "proved-99-x")).unwrap();
        }
    }
    assert_eq!((p.core.metrics().waited, p.core.metrics().shed), (1024, 0));
    p.hear(OTHER, &member(5, 1, "proved-8-n5")).unwrap();
    assert_eq!((p.core.metrics().waited, p.core.metrics().shed), (1025, 1));
    p.tell_good(OTHER, head(0));
    p.tell_good(OTHER, head(8));
    assert_eq!(p.name(5).as_deref(), Some("n5"));
}

#[test]
fn a_made_up_record_keeps_no_true_one_from_waiting() {
    let mut p = Played::new();
    // Under a head that never was, with a key of the neighbour's: nobody can tell yet.
    let rogue = TestAuth::of(&node_id(1));
    let body = [&node_id(5).0[..], &rogue.key, b"proved-999-n5"].concat();
    let made_up = |sequence| {
        let record = Record::sign(Kind::Member, node_id(5), sequence, &body, |message| rogue.sign(message));
        Message::Records(vec![Aged { age_s: 0, record: record.unwrap() }])
    };
    p.hear(LINK, &made_up(u64::MAX)).unwrap();
    p.hear(OTHER, &member(5, 1, "proved-8-n5")).unwrap();
    // Nor does the true one take the made-up one's sender for its own.
    p.hear(LINK, &member(5, 1, "proved-8-n5")).unwrap();
    assert_eq!(p.wanted(LINK), []);
    p.tell_good(OTHER, head(0));
    p.tell_good(OTHER, head(8));
    assert_eq!(p.name(5).as_deref(), Some("n5"));
    assert_eq!(p.core.metrics().forged, 0);
}

#[test]
fn a_copy_of_what_waits_lengthens_nothing_and_turns_no_question_away() {
    let mut p = Played::new();
    p.hear(OTHER, &member(5, 1, "proved-8-n5")).unwrap();
    for _ in 0..29 {
        p.wait(ms(1000));
        p.hear(LINK, &member(5, 1, "proved-8-n5")).unwrap();
        p.hear(OTHER, &member(5, 1, "proved-8-n5")).unwrap();
    }
    let ignored = p.core.metrics().ignored;
    p.wait(ms(4000));
    assert_eq!(p.core.metrics().ignored, ignored + 2, "both are given up after 30 s");
}

#[test]
fn what_its_own_key_did_not_sign_or_is_of_another_node_does_not_wait() {
    let mut p = Played::new();
    let record = |origin: usize, by: usize| {
        let auth = TestAuth::of(&node_id(by));
        let body = member_body(&node_id(5), "proved-8-n5");
        let record = Record::sign(Kind::Member, node_id(origin), 1, &body, |message| auth.sign(message));
        Message::Records(vec![Aged { age_s: 0, record: record.unwrap() }])
    };
    assert_eq!(p.hear(LINK, &record(5, 1)), Err(ControlError::BadSignature));
    assert_eq!(p.hear(LINK, &record(6, 5)), Err(ControlError::BadMember(MemberError::WrongNode)));
    assert_eq!((p.core.metrics().waited, p.core.metrics().forged), (0, 2));
    assert_eq!(p.wanted(LINK), []);
}

#[test]
fn heads_that_were_not_asked_for_or_are_forged_change_nothing() {
    let mut p = Played::new();
    p.tell_good(LINK, head(0));
    assert_eq!(p.core.heads().count(), 0, "nobody asked");
    // Of a node that has no grant nothing is asked.
    p.hear(LINK, &Message::Heads(vec![HeadId { issuer: node_id(4), size: 3 }])).unwrap();
    assert_eq!(p.wanted(LINK), []);
    p.hear(LINK, &Message::Heads(vec![head(0), head(8)])).unwrap();
    assert_eq!(p.wanted(LINK), [head(0), head(8)]);
    // Another neighbour was not asked.
    p.tell_good(OTHER, head(0));
    assert_eq!(p.core.heads().count(), 0);
    p.tell_good(LINK, head(0));
    p.tell(LINK, head(8), b"forged");
    assert_eq!(p.core.heads().collect::<Vec<_>>(), [head(0)]);
    assert_eq!(p.core.metrics().heads_refused, 1);
    // A record under it still waits, and is not blamed on who sent it.
    p.hear(OTHER, &member(5, 1, "proved-8-n5")).unwrap();
    assert_eq!(p.name(5), None);
}

#[test]
fn a_neighbour_that_names_heads_without_end_is_asked_for_few_and_keeps_nobody_from_others() {
    let mut p = Played::new();
    let made_up = |from: u64| Message::Heads((from..from + 500).map(head).collect());
    p.hear(LINK, &made_up(1000)).unwrap();
    assert_eq!(p.wanted(LINK).len(), 34);
    p.hear(OTHER, &Message::Heads(vec![head(0), head(8)])).unwrap();
    assert_eq!(p.wanted(OTHER), [head(0), head(8)]);
    // It goes on, and answers nothing.
    let mut asked = 34;
    for round in 2..22 {
        p.hear(LINK, &made_up(1000 * round)).unwrap();
        asked += p.wanted(LINK).len();
        p.wait(ms(1000));
        asked += p.wanted(LINK).len();
    }
    assert!((100..=272 + 4 * 21).contains(&asked), "{asked}");
    p.hear(OTHER, &Message::Heads(vec![head(9)])).unwrap();
    assert!(p.wanted(OTHER).contains(&head(9)));
}

#[test]
fn the_next_one_is_asked_for_what_a_neighbour_named_first_and_does_not_send() {
    let mut p = Played::new();
    let named = Message::Heads(vec![head(0), head(8)]);
    p.hear(LINK, &named).unwrap();
    assert_eq!(p.wanted(LINK), [head(0), head(8)]);
    p.hear(OTHER, &named).unwrap();
    assert_eq!(p.wanted(OTHER), []);
    p.wait(ms(3000));
    assert_eq!((p.wanted(LINK), p.wanted(OTHER)), (vec![], vec![head(0), head(8)]));
    // The same one again only after the other one was silent too.
    p.wait(ms(2500));
    assert_eq!((p.wanted(LINK), p.wanted(OTHER)), (vec![head(0), head(8)], vec![]));
    // Who is slow has not missed its turn.
    p.tell_good(OTHER, head(0));
    p.tell_good(OTHER, head(8));
    assert_eq!(p.taken, [head(0), head(8)]);
    p.tell_good(LINK, head(8));
    assert_eq!(p.taken, [head(0), head(8)]);
}

#[test]
fn the_next_one_is_asked_at_once_when_a_head_is_refused() {
    let mut p = Played::new();
    for link in [LINK, OTHER] {
        p.hear(link, &Message::Heads(vec![head(0), head(8)])).unwrap();
    }
    p.tell_good(LINK, head(0));
    p.tell(LINK, head(8), b"forged");
    assert_eq!((p.wanted(LINK), p.wanted(OTHER)), (vec![], vec![head(8)]));
    p.tell_good(OTHER, head(8));
    assert_eq!(p.taken, [head(0), head(8)]);
}

#[test]
fn a_head_whose_lines_somebody_changed_is_had_from_another_neighbour() {
    let mut p = Played::new();
    p.hear(OTHER, &member(5, 1, "n5")).unwrap();
    for link in [LINK, OTHER] {
        p.hear(link, &Message::Heads(vec![head(0), head(8), head(9)])).unwrap();
    }
    p.tell_good(LINK, head(0));
    // Lines of somebody who isn't there, and of somebody who isn't known yet and did not sign.
    p.tell(LINK, head(8), &head_body(&head(8), &[77]));
    p.tell(LINK, head(9), &head_body(&head(8), &[6]));
    assert_eq!(p.core.unwitnessed().collect::<Vec<_>>(), [head(8), head(9)]);
    p.hear(OTHER, &member(6, 1, "n6")).unwrap();
    assert_eq!(p.wanted(OTHER), [head(9)], "at once: it was dropped");
    p.tell_good(OTHER, head(9));
    p.wait(ms(9000));
    assert_eq!(p.wanted(OTHER), []);
    p.wait(ms(3000));
    assert_eq!((p.wanted(LINK), p.wanted(OTHER)), (vec![], vec![head(8)]), "later: it counts meanwhile");
    p.tell_good(OTHER, head(8));
    assert_eq!(p.core.unwitnessed().count(), 0);
    assert_eq!(p.core.heads().collect::<Vec<_>>(), [head(0), head(8), head(9)]);
}

#[test]
fn an_issuer_may_not_name_heads_without_end() {
    let mut p = Played::new();
    for size in 0..60 {
        p.hear(LINK, &Message::Heads(vec![head(size)])).unwrap();
        p.tell_good(LINK, head(size));
    }
    assert_eq!((p.core.metrics().heads_taken, p.core.metrics().heads_refused), (34, 26));
    p.wait(ms(2100));
    p.hear(OTHER, &Message::Heads(vec![head(60)])).unwrap();
    p.tell_good(OTHER, head(60));
    assert_eq!(p.taken.last(), Some(&head(60)));
}

#[test]
fn heads_of_an_issuer_that_counts_no_more_are_dropped_though_nothing_else_is_known_of_it() {
    for at_once in [true, false] {
        let mut p = Played::new();
        p.name_heads();
        p.wait(ms(11_000));
        assert_eq!(p.core.heads().count(), 2);
        assert!(p.core.node(&node_id(0)).is_none(), "not in the database");
        p.revoked.lock().unwrap().insert(node_id(0));
        if at_once {
            p.core.review_heads();
        } else {
            // A grant that ends is told by nobody.
            p.wait(ms(12_000));
        }
        assert_eq!(p.core.heads().count(), 0);
        p.hear(LINK, &Message::Heads(vec![head(0), head(8)])).unwrap();
        assert_eq!(p.wanted(LINK), []);
    }
}

#[test]
fn heads_are_given_to_who_wants_them_and_forgotten_with_their_issuer() {
    let mut p = Played::new();
    p.name_heads();
    p.hear(LINK, &Message::WantHeads(vec![head(0), head(7), head(8)])).unwrap();
    let given: Vec<HeadId> = p
        .out
        .iter()
        .filter_map(|(to, message)| match message {
            Message::Head { id, .. } if *to == LINK => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(given, [head(0), head(8)]);
    p.core.forget_heads(&node_id(0));
    assert_eq!(p.core.heads().count(), 0);
    p.hear(LINK, &member(5, 1, "proved-8-n5")).unwrap();
    assert_eq!(p.name(5), None);
}
