//! Numbered sets: who must approve, which set wins, what is evidence, and when silence ends acceptance.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::time::Duration;

use common::*;
use meshara_identity::root::Purpose;
use meshara_identity::{UnixMillis, WireError};
use meshara_trust::revocation::{RevocationError, Revocations};
use meshara_trust::sets::*;
use proptest::prelude::*;

type Revoked = Holder<Revocations>;

const KIND: SetKind = SetKind::Revocations;

fn holder() -> Revoked {
    Holder::new(key(0).public().fingerprint(), SILENCE_LIMIT)
}

fn revoking(nodes: &[u8]) -> Vec<u8> {
    let mut revocations = Revocations::default();
    for number in nodes {
        revocations.revoke(node(*number), NOW, "lost".parse().unwrap()).unwrap();
    }
    revocations.encode().unwrap()
}

fn fresh(key_number: usize, at: UnixMillis, newest: HeadRef) -> SignedFreshness {
    let mesh = key(0).public().fingerprint();
    Freshness { mesh, at, revocations: newest, policy: HeadRef::NONE }.sign(key(key_number)).unwrap()
}

#[test]
fn a_signer_counts_once_whatever_keys() {
    let approve = |numbers: &[usize]| {
        let mut approvals = Approvals::default();
        for number in numbers {
            assert!(approvals.add(Approval::sign(key(*number), Purpose::Policy, b"x").unwrap()));
        }
        approvals
    };
    // Alice has two keys: both together are one signer.
    let two = quorum(2, &[("alice", 0), ("alice", 1), ("bob", 2)]);
    let check =
        |numbers: &[usize]| two.check(Purpose::Policy, b"x", &approve(numbers)).map(|names| names.len());
    assert_eq!(check(&[0, 1]), Err(ApprovalError::NotEnough { found: 1, needed: 2 }));
    assert_eq!(check(&[0, 0]), Err(ApprovalError::NotEnough { found: 1, needed: 2 }));
    assert_eq!(check(&[0, 5]), Err(ApprovalError::NotEnough { found: 1, needed: 2 }));
    assert_eq!(check(&[1, 2]), Ok(2));
    let other = two.check(Purpose::Revocations, b"x", &approve(&[0, 2]));
    assert!(matches!(other, Err(ApprovalError::BadSignature { .. })), "{other:?}");

    let signers = |list: &[(&str, usize)]| list.iter().map(|(name, n)| signer(name, *n)).collect::<Vec<_>>();
    assert_eq!(
        Quorum::new(1, signers(&[("alice", 0), ("bob", 0)])).unwrap_err(),
        QuorumError::SharedKey { first: "alice".parse().unwrap(), second: "bob".parse().unwrap() }
    );
    assert_eq!(
        Quorum::new(2, signers(&[("alice", 0), ("alice", 1)])).unwrap_err(),
        QuorumError::Unreachable { threshold: 2, signers: 1 }
    );
    assert_eq!(Quorum::new(0, signers(&[("alice", 0)])).unwrap_err(), QuorumError::NoThreshold);
}

#[test]
fn the_higher_number_wins_and_a_lower_one_is_stale() {
    let quorum = quorum(2, &[("alice", 0), ("bob", 1), ("carol", 2)]);
    let mut holder = holder();
    let one = set(None, KIND, revoking(&[1]), NOW, &[0, 1]);
    let two = set(Some(&one), KIND, revoking(&[1, 2]), NOW, &[1, 2]);
    let three = set(Some(&two), KIND, revoking(&[1, 2, 3]), NOW, &[0, 2]);
    assert_eq!(holder.newest(), HeadRef::NONE);
    assert_eq!(holder.offer(one.clone(), &quorum), Ok(Offered::Accepted));
    assert_eq!(holder.offer(one.clone(), &quorum), Ok(Offered::Same));
    // The one between was missed.
    assert_eq!(holder.offer(three.clone(), &quorum), Ok(Offered::Accepted));
    assert_eq!(holder.offer(one, &quorum), Ok(Offered::Stale { held: 3 }));
    assert_eq!(holder.offer(two, &quorum), Ok(Offered::Stale { held: 3 }));
    assert_eq!(holder.newest().number, 3);
    assert!(holder.unconfirmed().unwrap().contains(&node(2)));
    assert_eq!(holder.set(), Some(&three));
}

#[test]
fn what_is_not_right_is_refused_exactly() {
    let quorum = quorum(2, &[("alice", 0), ("bob", 1)]);
    let good = set(None, KIND, revoking(&[1]), NOW, &[0, 1]);
    let offer = |set: SignedSet| holder().offer(set, &quorum).unwrap_err();
    let few = set(None, KIND, revoking(&[1]), NOW, &[0, 3]);
    assert_eq!(offer(few), OfferError::Approval(ApprovalError::NotEnough { found: 1, needed: 2 }));
    let mut changed = good.clone();
    changed.signed.head.issued_at = UnixMillis(5);
    assert!(matches!(offer(changed), OfferError::Approval(ApprovalError::BadSignature { .. })));
    let policy = set(None, SetKind::Policy, revoking(&[1]), NOW, &[0, 1]);
    assert_eq!(offer(policy), OfferError::WrongKind);
    let mut foreign = good.clone();
    foreign.signed.head.mesh.0[0] ^= 1;
    assert_eq!(offer(foreign), OfferError::WrongMesh);
    let swapped = SignedSet { body: revoking(&[2]), ..good.clone() };
    assert_eq!(offer(swapped.clone()), OfferError::WrongBody);
    assert_eq!(SignedSet::decode(&swapped.encode().unwrap()), Err(WireError::Malformed));
    let mut zero = good.clone();
    zero.signed.head.number = 0;
    assert_eq!(offer(zero), OfferError::BadChain { number: 0 });
    let mut skipped = good.clone();
    skipped.signed.head.number = 2;
    assert_eq!(offer(skipped), OfferError::BadChain { number: 2 });
    // A clock that is wrong hides no revocation.
    let future = set(None, KIND, revoking(&[1]), NOW.plus(SILENCE_LIMIT), &[0, 1]);
    assert_eq!(holder().offer(future, &quorum), Ok(Offered::Accepted));
    let garbage = set(None, KIND, b"\x01garbage".to_vec(), NOW, &[0, 1]);
    assert_eq!(offer(garbage), OfferError::Body(RevocationError::Wire(WireError::Malformed)));
}

#[test]
fn a_revoked_node_does_not_come_back_by_being_left_out() {
    let quorum = quorum(1, &[("alice", 0)]);
    let mut holder = holder();
    let one = set(None, KIND, revoking(&[1, 2]), NOW, &[0]);
    holder.offer(one.clone(), &quorum).unwrap();
    let dropping = set(Some(&one), KIND, revoking(&[2]), NOW, &[0]);
    let refused = OfferError::Body(RevocationError::Dropped { node: node(1) });
    assert_eq!(holder.offer(dropping, &quorum), Err(refused));
    let mut next: Revocations = body(&revoking(&[1, 2]));
    let later = NOW.plus(Duration::from_secs(1));
    next.reinstate(node(1), later, "found again".parse().unwrap()).unwrap();
    let two = set(Some(&one), KIND, next.encode().unwrap(), later, &[0]);
    assert_eq!(holder.offer(two, &quorum), Ok(Offered::Accepted));
    assert!(!holder.unconfirmed().unwrap().contains(&node(1)));
}

#[test]
fn two_sets_of_one_number_are_evidence_that_anybody_can_check() {
    let quorum = quorum(2, &[("alice", 0), ("bob", 1), ("carol", 2)]);
    let mesh = key(0).public().fingerprint();
    let one = set(None, KIND, revoking(&[1]), NOW, &[0, 1]);
    let other = set(None, KIND, revoking(&[2]), NOW, &[1, 2]);
    let mut holder = holder();
    holder.offer(one.clone(), &quorum).unwrap();
    let Ok(Offered::Fork(evidence)) = holder.offer(other.clone(), &quorum) else { panic!() };
    assert!(holder.unconfirmed().unwrap().contains(&node(1)), "what was held is still held");
    let sent = ForkEvidence::decode(&evidence.encode().unwrap()).unwrap();
    let bob = vec!["bob".parse().unwrap()];
    assert_eq!(sent.verify(&mesh, &quorum), Ok(Fork { kind: KIND, number: 1, signers: bob.clone() }));

    // A successor that names another predecessor is evidence too.
    let second = set(Some(&other), KIND, revoking(&[2, 3]), NOW, &[1, 2]);
    let Ok(Offered::Fork(evidence)) = holder.offer(second.clone(), &quorum) else { panic!() };
    assert_eq!(
        evidence.verify(&mesh, &quorum).unwrap(),
        Fork { kind: KIND, number: 1, signers: bob.clone() }
    );

    // So is a statement of freshness.
    let said = fresh(1, NOW, HeadRef::of(&other.signed.head).unwrap());
    let Ok(Heard::Fork(evidence)) = holder.hear(&said, &quorum, NOW) else { panic!() };
    assert_eq!(evidence.verify(&mesh, &quorum).unwrap().signers, bob);
    // Carol didn't sign what is held: she may just be on the other side.
    let said = fresh(2, NOW, HeadRef::of(&other.signed.head).unwrap());
    assert_eq!(holder.hear(&said, &quorum, NOW), Ok(Heard::Other { number: 1 }));

    // A set beyond the fork, whose predecessor nobody holds, heals it.
    let mut joined: Revocations = body(&revoking(&[1, 2, 3]));
    joined.revoke(node(4), NOW, "x".parse().unwrap()).unwrap();
    let third = set(Some(&second), KIND, joined.encode().unwrap(), NOW, &[0, 1]);
    assert_eq!(holder.offer(third, &quorum), Ok(Offered::Accepted));

    // Neither agreement nor a stranger's paper nor another mesh proves anything.
    let claim = |set: &SignedSet| Claim::Head(set.signed.clone());
    let verify = |one: &SignedSet, other: &SignedSet| {
        ForkEvidence { one: claim(one), other: claim(other) }.verify(&mesh, &quorum)
    };
    assert_eq!(verify(&one, &one), Err(EvidenceError::NoContradiction));
    let forged = set(None, KIND, revoking(&[3]), NOW, &[5]);
    assert_eq!(verify(&one, &forged), Err(EvidenceError::NobodySignedBoth));
    let half = set(None, KIND, revoking(&[3]), NOW, &[2]);
    assert_eq!(verify(&one, &half), Err(EvidenceError::NobodySignedBoth));
    let foreign = meshara_identity::MeshId([9; 32]);
    let wrong = ForkEvidence { one: claim(&one), other: claim(&other) }.verify(&foreign, &quorum);
    assert_eq!(wrong, Err(EvidenceError::WrongMesh));
}

#[test]
fn silence_ends_acceptance() {
    let quorum = quorum(2, &[("alice", 0), ("alice", 3), ("bob", 1), ("carol", 2)]);
    let mut holder = holder();
    let stale = |confirmed| StaleError { confirmed, limit: SILENCE_LIMIT };
    assert_eq!(holder.current(&quorum, NOW).unwrap_err(), stale(None));
    let one = set(None, KIND, revoking(&[1]), NOW, &[0, 1]);
    let reference = HeadRef::of(&one.signed.head).unwrap();
    holder.offer(one, &quorum).unwrap();
    assert_eq!(holder.hear(&fresh(0, NOW, reference), &quorum, NOW), Ok(Heard::Newest));
    // One signer is not enough, with whatever key.
    let later = NOW.plus(Duration::from_secs(60));
    assert_eq!(holder.hear(&fresh(3, later, reference), &quorum, later), Ok(Heard::Newest));
    assert_eq!(holder.current(&quorum, later).unwrap_err(), stale(None));
    assert_eq!(holder.hear(&fresh(1, NOW, reference), &quorum, later), Ok(Heard::Newest));
    assert!(holder.current(&quorum, later).unwrap().unwrap().contains(&node(1)));
    // The second newest word counts.
    assert!(holder.current(&quorum, NOW.plus(SILENCE_LIMIT)).is_ok());
    let after = NOW.plus(SILENCE_LIMIT + Duration::from_millis(1));
    assert_eq!(holder.current(&quorum, after).unwrap_err(), stale(Some(NOW)));
    // An old word, a stranger's word and a word from the future change nothing.
    assert_eq!(holder.hear(&fresh(1, NOW, reference), &quorum, after), Ok(Heard::Known));
    let stranger = holder.hear(&fresh(6, after, reference), &quorum, after);
    assert_eq!(stranger, Err(HearError::Approval(ApprovalError::NotEnough { found: 0, needed: 1 })));
    let ahead = after.plus(SKEW_MAX).plus(Duration::from_millis(1));
    let future = holder.hear(&fresh(1, ahead, reference), &quorum, after);
    assert_eq!(future, Err(HearError::FromTheFuture { at: ahead, now: after }));
    // Who says that there is a newer one confirms nothing.
    let unknown = HeadRef { number: 2, hash: SetHash([7; 32]) };
    assert_eq!(holder.hear(&fresh(1, after, unknown), &quorum, after), Ok(Heard::Behind { number: 2 }));
    assert_eq!(holder.wanted(), Some(2));
    assert!(holder.current(&quorum, after).is_err());
    assert_eq!(holder.hear(&fresh(2, after, reference), &quorum, after), Ok(Heard::Newest));
    assert_eq!(holder.confirmed(&quorum), Some(later));
}

#[test]
fn new_signers_approve_what_is_held_and_a_stored_set_outlives_its_signers() {
    let (before, after) = (quorum(1, &[("alice", 0)]), quorum(2, &[("bob", 1), ("carol", 2)]));
    let mesh = key(0).public().fingerprint();
    let one = set(None, KIND, revoking(&[1]), NOW, &[0]);
    let mut held = holder();
    held.offer(one.clone(), &before).unwrap();
    assert!(held.is_approved(&before) && !held.is_approved(&after));
    // A restart after the change: what is revoked stays revoked.
    let same = Revoked::restored(mesh, SILENCE_LIMIT, one.clone(), Some(&before)).unwrap();
    assert!(same.is_approved(&before));
    let mut again = Revoked::restored(mesh, SILENCE_LIMIT, one.clone(), Some(&after)).unwrap();
    assert!(again.unconfirmed().unwrap().contains(&node(1)) && !again.is_approved(&before));
    let refused = holder().offer(one.clone(), &after);
    assert_eq!(refused, Err(OfferError::Approval(ApprovalError::NotEnough { found: 0, needed: 2 })));
    // The same head with the approvals of the new signers; one is not enough.
    let mut approved = one.clone();
    approved.signed.approve(key(1)).unwrap();
    let few = OfferError::Approval(ApprovalError::NotEnough { found: 1, needed: 2 });
    assert_eq!(again.offer(approved.clone(), &after), Err(few));
    approved.signed.approve(key(2)).unwrap();
    assert_eq!(again.offer(approved.clone(), &after), Ok(Offered::Reapproved));
    assert_eq!(again.offer(approved.clone(), &after), Ok(Offered::Same));
    assert_eq!(again.offer(one, &after), Ok(Offered::Same));
    // Of the signers before nothing is kept.
    let mut kept = approved.clone();
    kept.signed.approvals.retain(|approval| approval.key() != KeyId::of(key(0).public()));
    assert_eq!(again.set(), Some(&kept));
    assert_eq!(holder().offer(approved, &after), Ok(Offered::Accepted));
    // What the new signers say in contradiction is evidence under their names.
    let other = set(None, KIND, revoking(&[2]), NOW, &[1, 2]);
    let Ok(Offered::Fork(evidence)) = again.offer(other, &after) else { panic!() };
    assert_eq!(evidence.verify(&mesh, &after).unwrap().signers.len(), 2);
}

#[test]
fn an_approval_that_nobody_verified_is_not_kept() {
    let (before, after) = (quorum(1, &[("alice", 0)]), quorum(1, &[("bob", 1)]));
    let good = set(None, KIND, revoking(&[1]), NOW, &[0]);
    // A member adds what pretends to be bob's approval; nobody asks bob yet.
    let other = set(None, KIND, revoking(&[2]), NOW, &[1]);
    let mut junk = good.clone();
    assert!(junk.signed.approvals.add(other.signed.approvals.iter().next().unwrap().clone()));
    let mut holder = holder();
    assert_eq!(holder.offer(junk.clone(), &before), Ok(Offered::Accepted));
    assert_eq!(holder.set(), Some(&good));
    // Nor does a stored one count.
    let mesh = key(0).public().fingerprint();
    let again = Revoked::restored(mesh, SILENCE_LIMIT, junk, Some(&after)).unwrap();
    assert!(!again.is_approved(&after));
}

#[test]
fn nobody_uses_up_the_numbers() {
    let quorum = quorum(1, &[("alice", 0)]);
    let numbered = |number| {
        let one = set(None, KIND, revoking(&[1]), NOW, &[]);
        let head = SetHead { number, previous: SetHash([1; 32]), ..one.signed.head };
        let mut signed = SignedHead::new(head);
        signed.approve(key(0)).unwrap();
        SignedSet { signed, body: one.body }
    };
    let far = |held, number| Err(OfferError::TooFar { held, number });
    let (jump, first) = (1 << 24, 1 << 48);
    // A newcomer takes what the mesh has come to.
    assert_eq!(holder().offer(numbered(u64::MAX), &quorum), far(0, u64::MAX));
    assert_eq!(holder().offer(numbered(first + 1), &quorum), far(0, first + 1));
    assert_eq!(holder().offer(numbered(first), &quorum), Ok(Offered::Accepted));
    // Who heard of none, or holds one, takes what may come next.
    let mut member = holder();
    assert_eq!(member.hear(&fresh(0, NOW, HeadRef::NONE), &quorum, NOW), Ok(Heard::Newest));
    assert_eq!(member.offer(numbered(jump + 1), &quorum), far(0, jump + 1));
    assert_eq!(member.offer(numbered(jump), &quorum), Ok(Offered::Accepted));
    assert_eq!(member.offer(numbered(2 * jump + 1), &quorum), far(jump, 2 * jump + 1));
    assert_eq!(member.offer(numbered(2 * jump), &quorum), Ok(Offered::Accepted));
}

#[test]
fn a_replaced_key_confirms_nothing() {
    let (before, after) = (quorum(1, &[("bob", 1)]), quorum(1, &[("bob", 2)]));
    let mut holder = holder();
    let ahead = NOW.plus(SKEW_MAX);
    assert_eq!(holder.hear(&fresh(1, ahead, HeadRef::NONE), &before, NOW), Ok(Heard::Newest));
    assert_eq!(holder.confirmed(&before), Some(ahead));
    assert_eq!(holder.confirmed(&after), None);
    // Nor does it outshout bob's new key.
    holder.signers_changed(&after);
    assert_eq!(holder.hear(&fresh(2, NOW, HeadRef::NONE), &after, NOW), Ok(Heard::Newest));
    assert_eq!(holder.confirmed(&after), Some(NOW));
}

#[test]
fn a_hundred_thousand_revocations_fit_and_one_more_does_not() {
    let id = |number: usize| {
        let mut id = [7; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        meshara_identity::NodeId(id)
    };
    let mut revocations = Revocations::default();
    for number in 0..meshara_trust::revocation::REVOKED_MAX {
        revocations.revoke(id(number), NOW, "left with the machine of another".parse().unwrap()).unwrap();
    }
    let more = revocations.revoke(id(usize::MAX), NOW, "".parse().unwrap());
    assert_eq!(more, Err(RevocationError::TooMany(100_001)));
    let read: Revocations = body(&revocations.encode().unwrap());
    assert_eq!(read, revocations);
    let peers = [id(5), id(usize::MAX), id(6)];
    assert_eq!(read.newly_revoked(None, &peers), [id(5), id(6)]);
    let mut before = Revocations::default();
    before.revoke(id(5), NOW, "".parse().unwrap()).unwrap();
    assert_eq!(read.newly_revoked(Some(&before), &peers), [id(6)]);
    assert_eq!(read.newly_revoked(Some(&read), &peers), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever order, repetition and loss: the highest number offered is held, and it never falls.
    #[test]
    fn the_number_never_falls(order in proptest::collection::vec(0usize..6, 1..20)) {
        let quorum = quorum(1, &[("alice", 0)]);
        let mut chain: Vec<SignedSet> = Vec::new();
        for last in 1..=6 {
            let nodes: Vec<u8> = (1..=last).collect();
            chain.push(set(chain.last(), KIND, revoking(&nodes), NOW, &[0]));
        }
        let mut holder = holder();
        let mut highest = 0;
        for at in order {
            let offered = holder.offer(chain[at].clone(), &quorum).unwrap();
            let number = at as u64 + 1;
            prop_assert_eq!(offered == Offered::Accepted, number > highest);
            highest = highest.max(number);
            prop_assert_eq!(holder.newest().number, highest);
        }
    }

    #[test]
    fn sets_round_trip_and_every_change_is_found(nodes in proptest::collection::btree_set(any::<u8>(), 0..20), at: u16) {
        let nodes: Vec<u8> = nodes.into_iter().collect();
        let set = set(None, KIND, revoking(&nodes), NOW, &[0]);
        let bytes = set.encode().unwrap();
        prop_assert_eq!(SignedSet::decode(&bytes), Ok(set));
        let quorum = quorum(1, &[("alice", 0)]);
        let mut bad = bytes.clone();
        let position = usize::from(at) % bad.len();
        bad[position] ^= 1;
        if let Ok(changed) = SignedSet::decode(&bad) {
            prop_assert!(holder().offer(changed, &quorum).is_err());
        }
        prop_assert!(SignedSet::decode(&[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(SignedSet::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
