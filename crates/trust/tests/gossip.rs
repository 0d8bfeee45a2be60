//! Sets among many nodes in virtual time: loss of links, partitions, silent and lying neighbours, and what nobody honest sends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use meshara_identity::UnixMillis;
use meshara_trust::gossip::*;
use meshara_trust::policy::Compiled;
use meshara_trust::revocation::Revocations;
use meshara_trust::root::*;
use meshara_trust::sets::*;
use proptest::prelude::*;

const KIND: SetKind = SetKind::Revocations;

/// A snapshot that revokes these nodes.
fn revoking(nodes: &[u8]) -> Vec<u8> {
    let mut revocations = Revocations::default();
    for number in nodes {
        revocations.revoke(node(*number), NOW, "laptop stolen".parse().unwrap()).unwrap();
    }
    revocations.encode().unwrap()
}

const LIMIT: Duration = Duration::from_secs(3600);
/// One way between any two neighbours.
const LATENCY: Duration = Duration::from_millis(20);

fn founding() -> SignedRoot {
    let document = RootDocument::founding(
        key(0),
        "founder".parse().unwrap(),
        quorum(1, &[("founder", 0)]),
        NOW,
        Duration::from_secs(1000 * 24 * 3600),
    );
    let mut signed = SignedRoot::new(document.unwrap());
    signed.approve(key(0)).unwrap();
    signed
}

struct Node {
    gossip: Gossip,
    changes: Vec<Change>,
    /// Sets that came as messages.
    received: usize,
}

/// What a node does instead of what it should.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Tells what it has and answers nothing.
    Silent,
    /// Tells that it has the highest number of all and answers nothing.
    Boasting,
}

struct World {
    now: Duration,
    nodes: Vec<Node>,
    manners: Vec<Manner>,
    links: BTreeSet<(usize, usize)>,
    wire: VecDeque<(Duration, usize, usize, Arc<[u8]>)>,
    bytes: usize,
}

impl World {
    fn new(nodes: usize) -> Self {
        let mesh = key(0).public().fingerprint();
        let node = || Node {
            gossip: Gossip::new(mesh, LIMIT, Stored::default(), NOW).unwrap(),
            changes: Vec::new(),
            received: 0,
        };
        let mut world = Self {
            now: Duration::ZERO,
            nodes: (0..nodes).map(|_| node()).collect(),
            manners: vec![Manner::Honest; nodes],
            links: BTreeSet::new(),
            wire: VecDeque::new(),
            bytes: 0,
        };
        let moment = world.moment();
        world.nodes[0].gossip.publish_root(moment, founding()).unwrap();
        world.drain(0);
        world
    }

    fn moment(&self) -> Moment {
        Moment { elapsed: self.now, clock: NOW.plus(self.now) }
    }

    fn link(&mut self, a: usize, b: usize) {
        if a == b || !self.links.insert((a.min(b), a.max(b))) {
            return;
        }
        for (at, other) in [(a, b), (b, a)] {
            let moment = self.moment();
            self.nodes[at].gossip.peer_up(moment, Peer(other as u64));
            self.drain(at);
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.wire.retain(|(_, from, to, _)| (*from, *to) != (a, b) && (*from, *to) != (b, a));
            for (at, other) in [(a, b), (b, a)] {
                let moment = self.moment();
                self.nodes[at].gossip.peer_down(moment, Peer(other as u64));
                self.drain(at);
            }
        }
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].gossip.poll_output() {
            match output {
                Output::Changed(change) => self.nodes[at].changes.push(change),
                Output::Send { to: Peer(to), message } => {
                    let (to, decoded) = (to as usize, Message::decode(&message).unwrap());
                    let answer = matches!(decoded, Message::Root(_) | Message::Set(_));
                    let message = match (self.manners[at], decoded) {
                        (Manner::Silent | Manner::Boasting, _) if answer => continue,
                        (Manner::Boasting, Message::Have(have)) => {
                            let most = HeadRef { number: 1000, hash: SetHash([9; 32]) };
                            let have = Have { revocations: most, policy: most, ..have };
                            Message::Have(have).encode().unwrap().into()
                        }
                        _ => message,
                    };
                    self.bytes += message.len();
                    if self.links.contains(&(at.min(to), at.max(to))) {
                        self.wire.push_back((self.now + LATENCY, at, to, message));
                    }
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timers = (0..self.nodes.len())
                .filter_map(|at| Some((self.nodes[at].gossip.poll_timeout()?.max(self.now), at)));
            let timer = timers.min();
            let due = self.wire.front().map(|(at, ..)| *at);
            let next = timer.map(|(at, _)| at).into_iter().chain(due).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            let at = if due == Some(next) {
                let (_, from, to, bytes) = self.wire.pop_front().unwrap();
                let gossip = &mut self.nodes[to].gossip;
                assert!(bytes.len() <= gossip.limit(Peer(from as u64)));
                self.nodes[to].received += usize::from(bytes[1] == 4);
                let moment = self.moment();
                self.nodes[to].gossip.handle_message(moment, Peer(from as u64), &bytes).unwrap();
                to
            } else {
                let (moment, at) = (self.moment(), timer.unwrap().1);
                let before = self.nodes[at].gossip.poll_timeout();
                self.nodes[at].gossip.handle_timeout(moment);
                assert_ne!(self.nodes[at].gossip.poll_timeout(), before, "a timer that goes on for ever");
                at
            };
            self.drain(at);
        }
        self.now = end;
    }

    fn publish(&mut self, set: SignedSet) {
        let moment = self.moment();
        self.nodes[0].gossip.publish_set(moment, set).unwrap();
        self.drain(0);
    }

    fn confirm(&mut self) {
        let moment = self.moment();
        let signed = self.nodes[0].gossip.freshness(moment.clock).sign(key(0)).unwrap();
        self.nodes[0].gossip.publish_freshness(moment, signed).unwrap();
        self.drain(0);
    }

    fn number(&self, at: usize, kind: SetKind) -> u64 {
        self.nodes[at].gossip.have().item(Item::of(kind)).number
    }
}

fn line(world: &mut World) {
    for at in 1..world.nodes.len() {
        world.link(at - 1, at);
    }
}

#[test]
fn a_set_reaches_a_line_of_ten_and_crosses_each_link_once() {
    let mut world = World::new(10);
    line(&mut world);
    world.run(Duration::from_secs(2));
    assert!(world.nodes.iter().all(|node| node.gossip.have().root == 1));
    let one = set(None, KIND, revoking(&[1]), NOW, &[0]);
    world.publish(one.clone());
    // Told, asked, answered: three trips of 20 ms a hop.
    world.run(LATENCY * 3 * 9);
    assert!((0..10).all(|at| world.number(at, KIND) == 1));
    assert!(world.nodes.iter().skip(1).all(|node| node.received == 1));
    assert!(world.nodes[9].gossip.revocations().unconfirmed().unwrap().contains(&node(1)));
    // And a freshness statement, which says that there is none newer.
    assert_eq!(world.nodes[9].gossip.confirmed(), None);
    world.confirm();
    world.run(LATENCY * 9);
    let clock = world.moment().clock;
    assert!(world.nodes.iter().all(|node| node.gossip.current(clock).is_ok()));
    let late = clock.plus(LIMIT + Duration::from_secs(1));
    assert!(world.nodes.iter().all(|node| node.gossip.current(late).is_err()));
    // Quiet: nothing more is sent.
    let bytes = world.bytes;
    world.run(Duration::from_secs(600));
    assert_eq!(world.bytes, bytes);
    assert!(world.nodes.iter().all(|node| node.gossip.poll_timeout().is_none()));
}

#[test]
fn who_hears_no_root_document_or_no_word_on_the_policy_is_not_current() {
    let mesh = key(0).public().fingerprint();
    let mut gossip = Gossip::new(mesh, LIMIT, Stored::default(), NOW).unwrap();
    let stale = Err(StaleError { confirmed: None, limit: LIMIT });
    assert_eq!(gossip.current(NOW), stale);
    let moment = Moment { elapsed: Duration::ZERO, clock: NOW };
    gossip.publish_root(moment, founding()).unwrap();
    assert_eq!(gossip.current(NOW), stale);
    assert!(!gossip.knows_policy());
    // There is a policy that this node's neighbours keep from it; with revocations they are generous.
    let policy = HeadRef { number: 1, hash: SetHash([1; 32]) };
    let word = Freshness { mesh, at: NOW, revocations: HeadRef::NONE, policy }.sign(key(0)).unwrap();
    gossip.publish_freshness(moment, word).unwrap();
    assert_eq!(gossip.current(NOW), stale);
    assert!(!gossip.knows_policy());
    // Elsewhere there is none, and that is known.
    let mut gossip = Gossip::new(mesh, LIMIT, Stored::default(), NOW).unwrap();
    gossip.publish_root(moment, founding()).unwrap();
    let word = gossip.freshness(NOW).sign(key(0)).unwrap();
    gossip.publish_freshness(moment, word).unwrap();
    assert_eq!(gossip.current(NOW), Ok(()));
    assert!(gossip.knows_policy());
}

#[test]
fn a_healed_partition_learns_within_three_trips_and_newcomers_learn_all() {
    let mut world = World::new(6);
    line(&mut world);
    world.run(Duration::from_secs(1));
    world.cut(2, 3);
    let one = set(None, KIND, revoking(&[1]), NOW, &[0]);
    let two = set(Some(&one), KIND, revoking(&[1, 2]), NOW, &[0]);
    let policy = meshara_trust::policy::parse(meshara_trust::policy::STARTER).unwrap();
    let policy = set(None, SetKind::Policy, policy.policy().encode().unwrap(), NOW, &[0]);
    for set in [one, two, policy] {
        world.publish(set);
        world.run(Duration::from_secs(5));
    }
    world.confirm();
    world.run(Duration::from_secs(5));
    assert_eq!([world.number(2, KIND), world.number(3, KIND)], [2, 0]);
    world.link(2, 3);
    world.run(LATENCY * 3);
    assert_eq!([world.number(3, KIND), world.number(3, SetKind::Policy)], [2, 1]);
    assert!(world.nodes[3].gossip.confirmed().is_some(), "statements are told on a new link");
    world.run(LATENCY * 6);
    assert!(world.nodes.iter().all(|node| node.gossip.confirmed().is_some()));
    // One that knows nothing at all learns the root document first, then everything.
    let mesh = key(0).public().fingerprint();
    world.nodes[5].gossip = Gossip::new(mesh, LIMIT, Stored::default(), NOW).unwrap();
    world.links.remove(&(4, 5));
    let moment = world.moment();
    world.nodes[4].gossip.peer_down(moment, Peer(5));
    world.link(4, 5);
    world.run(LATENCY * 8);
    assert_eq!([world.number(5, KIND), world.number(5, SetKind::Policy)], [2, 1]);
    assert!(world.nodes[5].gossip.confirmed().is_some());
}

#[test]
fn a_visitor_is_told_who_is_revoked_once_and_not_the_policy() {
    let mut world = World::new(2);
    let policy = meshara_trust::policy::parse(meshara_trust::policy::STARTER).unwrap();
    let policy = set(None, SetKind::Policy, policy.policy().encode().unwrap(), NOW, &[0]);
    world.publish(set(None, KIND, revoking(&[1]), NOW, &[0]));
    world.publish(policy);
    world.confirm();
    // It knows nothing at all; both gossip states are driven by hand.
    let (moment, member) = (world.moment(), Peer(7));
    let mut wire: VecDeque<Vec<u8>> = world.nodes[0].gossip.greet().unwrap().into();
    let mut visit = Visit::default();
    let mut sent = wire.len();
    world.nodes[1].gossip.peer_up(moment, member);
    assert!(!world.nodes[1].gossip.has_all_of(member), "nothing was heard yet");
    while let Some(message) = wire.pop_front() {
        assert!(message.len() <= world.nodes[1].gossip.limit(member));
        world.nodes[1].gossip.handle_message(moment, member, &message).unwrap();
        while let Some(output) = world.nodes[1].gossip.poll_output() {
            let Output::Send { message, .. } = output else { continue };
            let answers = world.nodes[0].gossip.answer(&mut visit, &message).unwrap();
            sent += answers.len();
            wire.extend(answers.iter().map(|answer| answer.to_vec()));
        }
        assert_eq!(world.nodes[1].gossip.has_all_of(member), wire.is_empty());
    }
    assert_eq!([world.number(1, KIND), world.number(1, SetKind::Policy)], [1, 0]);
    assert_eq!(world.nodes[1].gossip.have().root, 1);
    assert_eq!(sent, 4, "the founder's word, what there is, the root, the snapshot");
    // What was given isn't given again, the policy never, and what a visitor says changes nothing.
    for item in [Item::Root, Item::Revocations, Item::Policy, Item::Statements] {
        let want = Message::Want { item, above: 0 }.encode().unwrap();
        assert!(world.nodes[0].gossip.answer(&mut visit, &want).unwrap().is_empty());
    }
    let before = world.nodes[0].gossip.have();
    let next = set(None, KIND, revoking(&[1, 2]), NOW, &[0]);
    let told = Message::Set(next).encode().unwrap();
    assert!(world.nodes[0].gossip.answer(&mut visit, &told).unwrap().is_empty());
    assert_eq!(world.nodes[0].gossip.have(), before);
    assert_eq!(
        world.nodes[0].gossip.answer(&mut visit, b"x").unwrap_err(),
        meshara_identity::WireError::Malformed
    );
}

#[test]
fn after_a_rotation_the_set_held_gets_new_approvals_everywhere() {
    let mut world = World::new(6);
    line(&mut world);
    world.run(Duration::from_secs(1));
    // 5 is away meanwhile.
    world.cut(4, 5);
    let one = set(None, KIND, revoking(&[1]), NOW, &[0]);
    world.publish(one.clone());
    world.run(Duration::from_secs(1));
    let document = RootDocument {
        authority: quorum(1, &[("bob", 1)]),
        ..founding().document.following(NOW, Duration::from_secs(1000 * 24 * 3600))
    };
    let mut rotated = SignedRoot::new(document.clone());
    rotated.approve(key(0)).unwrap();
    let moment = world.moment();
    world.nodes[0].gossip.publish_root(moment, rotated).unwrap();
    world.drain(0);
    world.run(Duration::from_secs(5));
    let approved = |world: &World, at: usize| {
        let gossip = &world.nodes[at].gossip;
        gossip.have().root == 2 && gossip.revocations().is_approved(&document.authority)
    };
    // They know the new signers, hold what the old ones approved, and nobody can give more yet.
    assert!((0..5).all(|at| world.number(at, KIND) == 1 && !approved(&world, at)));
    let mut again = one;
    again.signed.approve(key(1)).unwrap();
    let moment = world.moment();
    assert_eq!(world.nodes[2].gossip.publish_set(moment, again).unwrap(), Offered::Reapproved);
    world.drain(2);
    world.run(LATENCY * 3 * 3);
    assert!((0..5).all(|at| approved(&world, at)));
    // Who was away learns the signers and the set that they approved.
    world.link(4, 5);
    world.run(LATENCY * 8);
    assert!(approved(&world, 5) && world.number(5, KIND) == 1);
    let bytes = world.bytes;
    world.run(Duration::from_secs(600));
    assert_eq!(world.bytes, bytes);
    assert!(world.nodes.iter().all(|node| node.gossip.poll_timeout().is_none()));
}

#[test]
fn silent_and_boasting_neighbours_delay_little() {
    let mut world = World::new(6);
    // 5 hears of the set through four neighbours, of which only one answers.
    for at in 1..5 {
        world.link(0, at);
        world.link(at, 5);
    }
    world.run(Duration::from_secs(2));
    world.manners[1] = Manner::Silent;
    world.manners[2] = Manner::Boasting;
    world.publish(set(None, KIND, revoking(&[1]), NOW, &[0]));
    world.run(Duration::from_millis(1700));
    assert_eq!(world.number(5, KIND), 1);
    // Those who never answer are given up, and what comes later comes all the same.
    world.run(Duration::from_secs(120));
    let one = world.nodes[0].gossip.set(KIND).unwrap().clone();
    world.publish(set(Some(&one), KIND, revoking(&[1, 2]), NOW, &[0]));
    world.run(Duration::from_millis(1200));
    assert_eq!(world.number(5, KIND), 2);
}

#[test]
fn fifty_nodes_with_eight_neighbours_each_hear_in_a_few_trips_and_load_it_once() {
    let mut world = World::new(50);
    for at in 0..50 {
        for step in [1, 7, 12, 19] {
            world.link(at, (at + step) % 50);
        }
    }
    world.run(Duration::from_secs(5));
    let start = world.now;
    world.publish(set(None, KIND, revoking(&[1]), NOW, &[0]));
    world.confirm();
    while (0..50).any(|at| world.number(at, KIND) == 0) {
        world.run(LATENCY);
        assert!(world.now - start <= LATENCY * 3 * 4, "{:?}", world.now - start);
    }
    world.run(Duration::from_secs(5));
    assert!(world.nodes.iter().skip(1).all(|node| node.received == 1));
    assert!(world.nodes.iter().all(|node| node.gossip.confirmed().is_some()));
}

#[test]
fn what_was_stored_is_held_again_and_a_stale_set_is_ignored() {
    let mut world = World::new(2);
    line(&mut world);
    let one = set(None, KIND, revoking(&[1]), NOW, &[0]);
    let two = set(Some(&one), KIND, revoking(&[1, 2]), NOW, &[0]);
    world.publish(one.clone());
    world.publish(two.clone());
    world.confirm();
    world.run(Duration::from_secs(1));
    let gossip = &world.nodes[1].gossip;
    let stored = Stored {
        roots: gossip.versions().to_vec(),
        revocations: gossip.set(KIND).cloned(),
        policy: None,
        statements: gossip.revocations().statements().cloned().collect(),
    };
    let mesh = key(0).public().fingerprint();
    let mut again = Gossip::new(mesh, LIMIT, stored, NOW).unwrap();
    assert_eq!(again.have(), gossip.have());
    assert_eq!(again.confirmed(), gossip.confirmed());
    // A neighbour replays the snapshot before.
    let moment = world.moment();
    again.peer_up(moment, Peer(7));
    while again.poll_output().is_some() {}
    let replayed = Message::Set(one).encode().unwrap();
    assert_eq!(again.handle_message(moment, Peer(7), &replayed), Ok(()));
    assert!(again.poll_output().is_none());
    assert_eq!(again.have().revocations.number, 2);
    assert!(again.revocations().unconfirmed().unwrap().contains(&node(2)));
}

#[test]
fn what_nobody_honest_sends_ends_the_link() {
    let mut world = World::new(2);
    line(&mut world);
    world.run(Duration::from_secs(1));
    let moment = world.moment();
    let good = set(None, KIND, revoking(&[1]), NOW, &[0]);
    let mut tell = |message: &Message| {
        let bytes = message.encode().unwrap();
        world.nodes[1].gossip.handle_message(moment, Peer(0), &bytes)
    };
    // Changed behind the signature.
    let mut changed = good.clone();
    changed.signed.head.issued_at = UnixMillis(5);
    assert!(matches!(
        tell(&Message::Set(changed)),
        Err(Misbehaviour::Statement(GossipError::Revocations(_)))
    ));
    // By nobody who signs: an honest neighbour may go by another root document.
    let stranger = set(None, KIND, revoking(&[2]), NOW, &[3]);
    assert_eq!(tell(&Message::Set(stranger)), Ok(()));
    // A root document that isn't the founder's.
    let document = RootDocument::founding(
        key(3),
        "founder".parse().unwrap(),
        quorum(1, &[("founder", 3)]),
        NOW,
        Duration::from_secs(3600),
    );
    let mut foreign = SignedRoot::new(document.unwrap());
    foreign.approve(key(3)).unwrap();
    let foreign = tell(&Message::Root(Box::new(foreign)));
    assert_eq!(foreign, Err(Misbehaviour::Statement(GossipError::Root(RootError::WrongMesh))));
    // Evidence of nothing.
    let claim = Claim::Head(good.signed.clone());
    let nothing = ForkEvidence { one: claim.clone(), other: claim };
    let nothing = tell(&Message::Evidence(Box::new(nothing)));
    assert_eq!(nothing, Err(Misbehaviour::Evidence(EvidenceError::NoContradiction)));
    assert!(matches!(
        world.nodes[1].gossip.handle_message(moment, Peer(0), b"x"),
        Err(Misbehaviour::Wire(_))
    ));
    assert_eq!(world.number(1, KIND), 0);
    // A neighbour that isn't asked may send no large message; one that is, may.
    let asked =
        Message::Have(Have { revocations: HeadRef { number: 9, hash: SetHash([1; 32]) }, ..Have::NOTHING });
    assert_eq!(world.nodes[1].gossip.limit(Peer(0)), MESSAGE_MAX);
    world.nodes[1].gossip.handle_message(moment, Peer(0), &asked.encode().unwrap()).unwrap();
    assert_eq!(world.nodes[1].gossip.limit(Peer(0)), SET_MESSAGE_MAX);
}

#[test]
fn two_sets_of_one_number_become_evidence_that_everybody_holds() {
    let mut world = World::new(4);
    world.link(0, 1);
    world.link(2, 3);
    // The other half of the mesh knows the root too.
    let moment = world.moment();
    world.nodes[2].gossip.publish_root(moment, founding()).unwrap();
    world.drain(2);
    world.publish(set(None, KIND, revoking(&[1]), NOW, &[0]));
    let other = set(None, KIND, revoking(&[2]), NOW, &[0]);
    world.nodes[2].gossip.publish_set(moment, other).unwrap();
    world.drain(2);
    world.run(Duration::from_secs(1));
    assert_eq!([world.number(1, KIND), world.number(3, KIND)], [1, 1]);
    world.link(1, 2);
    world.run(Duration::from_secs(1));
    let fork = Fork { kind: KIND, number: 1, signers: vec!["founder".parse().unwrap()] };
    for node in &world.nodes {
        assert_eq!(node.changes.iter().filter(|change| **change == Change::Fork(fork.clone())).count(), 1);
        assert_eq!(node.gossip.evidence().count(), 1);
    }
    // What was held is still held, on both sides.
    let held = |at: usize| world.nodes[at].gossip.revocations().unconfirmed().unwrap();
    assert!(held(1).contains(&node(1)) && held(3).contains(&node(2)));
}

#[test]
fn a_policy_can_be_replaced_and_not_rolled_back() {
    let mut world = World::new(3);
    line(&mut world);
    let body = |text: &str| meshara_trust::policy::parse(text).unwrap().policy().encode().unwrap();
    let strict = "version = 1\n[[rule]]\nname = \"none\"\neffect = \"deny\"\nfrom = \"*\"\nto = \"mesh:*\"\n";
    let one = set(None, SetKind::Policy, body(meshara_trust::policy::STARTER), NOW, &[0]);
    let two = set(Some(&one), SetKind::Policy, body(strict), NOW, &[0]);
    world.publish(one.clone());
    world.publish(two);
    world.run(Duration::from_secs(1));
    let rules = |world: &World, at: usize| -> Vec<String> {
        let held: &Compiled = world.nodes[at].gossip.policy().unconfirmed().unwrap();
        held.policy().rules().iter().map(|rule| rule.name.to_string()).collect()
    };
    assert_eq!(rules(&world, 2), ["none"]);
    let moment = world.moment();
    let replayed = Message::Set(one).encode().unwrap();
    assert_eq!(world.nodes[2].gossip.handle_message(moment, Peer(1), &replayed), Ok(()));
    assert_eq!(rules(&world, 2), ["none"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever links come and go, and whatever some neighbours do: who is connected through honest nodes holds the newest in the end.
    #[test]
    fn all_that_are_connected_agree(
        changes in proptest::collection::vec((0usize..8, 0usize..8, any::<bool>(), 0u64..400), 0..40),
        manners in proptest::collection::vec(0u8..6, 8),
        sets in 1usize..5,
    ) {
        let mut world = World::new(8);
        for (at, manner) in manners.iter().enumerate().skip(1) {
            world.manners[at] = match manner { 0 => Manner::Silent, 1 => Manner::Boasting, _ => Manner::Honest };
        }
        let mut last: Option<SignedSet> = None;
        let mut nodes = vec![];
        for (step, (a, b, up, wait)) in changes.iter().enumerate() {
            if *up { world.link(*a, *b) } else { world.cut(*a, *b) }
            if step % 8 == 3 && nodes.len() < sets {
                nodes.push(nodes.len() as u8 + 1);
                let next = set(last.as_ref(), KIND, revoking(&nodes), NOW, &[0]);
                world.publish(next.clone());
                last = Some(next);
            }
            world.run(Duration::from_millis(*wait));
        }
        world.run(Duration::from_secs(300));
        // Those that 0 reaches over honest nodes.
        let mut reached = BTreeSet::from([0]);
        let mut next = vec![0];
        let mut neighbours: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (a, b) in &world.links {
            neighbours.entry(*a).or_default().push(*b);
            neighbours.entry(*b).or_default().push(*a);
        }
        while let Some(at) = next.pop() {
            for other in neighbours.get(&at).into_iter().flatten() {
                if world.manners[at] == Manner::Honest && reached.insert(*other) {
                    next.push(*other);
                }
            }
        }
        let newest = world.number(0, KIND);
        for at in reached {
            prop_assert_eq!(world.number(at, KIND), newest, "at {}", at);
        }
    }
}
