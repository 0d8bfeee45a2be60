//! The root document: TUF's root rules, and signing by file.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::sync::OnceLock;
use std::time::Duration;

use common::*;
use meshara_identity::grant::GrantStatement;
use meshara_identity::lives::LivesError;
use meshara_identity::root_chain::CHAIN_BYTES_MAX;
use meshara_identity::{
    ChainError, GrantOffer, IssuerGrant, IssuerKey, Lives, MeshId, RootChain, UnixMillis,
};
use meshara_trust::gossip::{Gossip, Moment, Stored};
use meshara_trust::revocation::Revocations;
use meshara_trust::root::*;
use meshara_trust::sets::*;
use proptest::prelude::*;

const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

fn mesh() -> MeshId {
    key(0).public().fingerprint()
}

fn founding() -> RootDocument {
    let authority = quorum(1, &[("alice", 4)]);
    RootDocument::founding(key(0), "alice".parse().unwrap(), authority, NOW, LIFE).unwrap()
}

fn signed(document: RootDocument, keys: &[usize]) -> SignedRoot {
    let mut signed = SignedRoot::new(document);
    for number in keys {
        signed.approve(key(*number)).unwrap();
    }
    signed
}

fn trusted() -> TrustedRoot {
    TrustedRoot::first(&mesh(), signed(founding(), &[0]), NOW).unwrap()
}

/// The version after `document`, with other root signers.
fn next(document: &RootDocument, root: Quorum) -> RootDocument {
    RootDocument { version: document.version + 1, root, ..document.clone() }
}

/// Grants by issuer and number, in order.
fn standing(names: &[(u8, u64)]) -> StandingGrants {
    let name = |(issuer, number): &(u8, u64)| StandingGrant {
        issuer: node(*issuer),
        number: *number,
        hash: [*issuer; 32],
    };
    StandingGrants::try_from(names.iter().map(name).collect::<Vec<_>>()).unwrap()
}

fn three() -> Quorum {
    quorum(2, &[("alice", 1), ("bob", 2), ("carol", 3)])
}

#[test]
fn a_root_moves_from_the_founder_to_a_quorum_and_on() {
    let mut root = trusted();
    let two = next(&founding(), three());
    assert_eq!(root.advance(signed(two.clone(), &[0, 1, 2]), NOW), Ok(Advanced::Yes));
    assert_eq!(root.advance(signed(two.clone(), &[0, 1, 2]), NOW), Ok(Advanced::Same));
    let third = next(&two, quorum(2, &[("bob", 2), ("carol", 3), ("dave", 5)]));
    assert_eq!(root.advance(signed(third.clone(), &[2, 3]), NOW), Ok(Advanced::Yes));
    assert_eq!(root.document(), &third);
    // The whole descent is checked again by whoever has only the mesh's id.
    let chain = [signed(founding(), &[0]), signed(two, &[0, 1, 2]), signed(third.clone(), &[2, 3])];
    let walked = TrustedRoot::walk(&mesh(), chain.clone(), NOW.plus(LIFE * 2)).unwrap();
    assert_eq!(walked.document(), &third);
    let [first, _, last] = chain;
    let gap = TrustedRoot::walk(&mesh(), [first, last], NOW).unwrap_err();
    assert_eq!(gap, RootError::Gap { held: 1, found: 3 });
}

#[test]
fn both_quorums_must_sign_and_nobody_counts_twice() {
    let few = |found| ApprovalError::NotEnough { found, needed: 2 };
    let mut root = trusted();
    let two = next(&founding(), three());
    let none = ApprovalError::NotEnough { found: 0, needed: 1 };
    assert_eq!(root.advance(signed(two.clone(), &[1, 2, 3]), NOW), Err(RootError::OldQuorum(none)));
    assert_eq!(root.advance(signed(two.clone(), &[0]), NOW), Err(RootError::NewQuorum(few(0))));
    assert_eq!(root.advance(signed(two.clone(), &[0, 1]), NOW), Err(RootError::NewQuorum(few(1))));
    assert_eq!(root.advance(signed(two.clone(), &[0, 1, 2]), NOW), Ok(Advanced::Yes));
    // Bob brings a second key of his own; it makes no second signer, neither of the old nor of the new root.
    let third = next(&two, quorum(2, &[("bob", 2), ("bob", 5), ("carol", 3)]));
    assert_eq!(root.advance(signed(third.clone(), &[2, 5]), NOW), Err(RootError::OldQuorum(few(1))));
    assert_eq!(root.advance(signed(third.clone(), &[1, 2, 5]), NOW), Err(RootError::NewQuorum(few(1))));
    assert_eq!(root.advance(signed(third, &[2, 3]), NOW), Ok(Advanced::Yes));
}

#[test]
fn rollback_freeze_and_other_tricks_are_refused() {
    let mut root = trusted();
    let two = next(&founding(), three());
    root.advance(signed(two.clone(), &[0, 1, 2]), NOW).unwrap();
    let mut advance =
        |document: RootDocument, keys: &[usize]| root.advance(signed(document, keys), NOW).unwrap_err();
    assert_eq!(advance(founding(), &[0]), RootError::Rollback { held: 2, found: 1 });
    let jump = RootDocument { version: 4, ..two.clone() };
    assert_eq!(advance(jump, &[1, 2]), RootError::Gap { held: 2, found: 4 });
    let other = RootDocument { issued_at: UnixMillis(NOW.0 + 1), ..two.clone() };
    assert_eq!(advance(other.clone(), &[1, 2]), RootError::Fork { version: 2 });
    let unproven = ApprovalError::NotEnough { found: 1, needed: 2 };
    assert_eq!(advance(other, &[1]), RootError::NewQuorum(unproven));
    let foreign = RootDocument { mesh: MeshId([1; 32]), version: 3, ..two.clone() };
    assert_eq!(advance(foreign, &[1, 2]), RootError::WrongMesh);
    let (issued_at, expires_at) = (NOW, NOW.plus(ROOT_LIFE_MAX + Duration::from_millis(1)));
    let eternal = RootDocument { version: 3, expires_at, ..two.clone() };
    assert_eq!(advance(eternal, &[1, 2]), RootError::BadDates { issued_at, expires_at });
    let ended = RootDocument { version: 3, expires_at: NOW, ..two.clone() };
    assert_eq!(advance(ended, &[1, 2]), RootError::BadDates { issued_at, expires_at: NOW });
    // Who is kept at an old version stops at its end.
    let end = two.expires_at;
    assert!(root.valid_at(end).is_ok());
    let after = end.plus(Duration::from_millis(1));
    assert_eq!(root.valid_at(after).unwrap_err(), RootError::Expired { expires_at: end, now: after });

    let claim =
        |document, keys: &[usize]| TrustedRoot::first(&mesh(), signed(document, keys), NOW).unwrap_err();
    let usurper = RootDocument { root: quorum(1, &[("mallory", 6)]), ..founding() };
    assert_eq!(claim(usurper, &[6]), RootError::NotFounder);
    let companion = RootDocument { root: quorum(1, &[("alice", 0), ("mallory", 6)]), ..founding() };
    assert_eq!(claim(companion, &[0]), RootError::NotFounder);
    let unsigned = ApprovalError::NotEnough { found: 0, needed: 1 };
    assert_eq!(claim(founding(), &[]), RootError::NewQuorum(unsigned));
}

/// With approvals of strangers, as many as there is room for.
fn padded(mut signed: SignedRoot) -> SignedRoot {
    let statement = signed.document.encode().unwrap();
    while signed.approvals.iter().count() < APPROVALS_MAX {
        let stranger = meshara_identity::RootKey::generate().unwrap();
        let approval = Approval::sign(&stranger, meshara_identity::root::Purpose::RootDocument, &statement);
        assert!(signed.approvals.add(approval.unwrap()));
    }
    signed
}

#[test]
fn approvals_that_nobody_needs_are_not_kept() {
    let mut root = TrustedRoot::first(&mesh(), padded(signed(founding(), &[0])), NOW).unwrap();
    assert_eq!(root.signed().approvals.iter().count(), 1);
    let two = next(&founding(), three());
    root.advance(padded(signed(two.clone(), &[0, 1, 2, 3])), NOW).unwrap();
    assert_eq!(root.signed().approvals.iter().count(), 3, "the founder's and two of three");
    let third = next(&two, quorum(2, &[("bob", 2), ("carol", 3), ("dave", 5)]));
    root.advance(padded(signed(third, &[1, 2, 3, 5])), NOW).unwrap();
    assert_eq!(root.signed().approvals.iter().count(), 2, "bob's and carol's count for both");
    // What is left proves the descent to the next one.
    let kept = root.signed().clone();
    let before = [signed(founding(), &[0]), signed(two, &[0, 1, 2])];
    let walked = TrustedRoot::walk(&mesh(), before.into_iter().chain([kept.clone()]), NOW).unwrap();
    assert_eq!(walked.signed(), &kept);
}

#[test]
fn what_is_stored_and_passed_on_of_the_root_is_no_longer_than_it_must_be() {
    let stored = Stored { roots: vec![padded(signed(founding(), &[0]))], ..Stored::default() };
    let mut gossip = Gossip::new(mesh(), LIFE, stored, NOW).unwrap();
    let now = Moment { elapsed: Duration::ZERO, clock: NOW };
    let two = next(&founding(), three());
    gossip.publish_root(now, padded(signed(two, &[0, 1, 2, 3]))).unwrap();
    let approvals = |signed: &SignedRoot| signed.approvals.iter().count();
    assert_eq!(gossip.versions().iter().map(approvals).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_board_changes_until_newcomers_could_not_be_shown_more_and_then_keeps_its_signers() {
    // Twelve signers with two keys each, of root and authority, and each year another threshold.
    let keys: Vec<_> = (0..24).map(|_| meshara_identity::RootKey::generate().unwrap()).collect();
    let board = |threshold| {
        let signer = |(at, key): (usize, &meshara_identity::RootKey)| Signer {
            name: format!("member-{}", at / 2).parse().unwrap(),
            key: key.public().clone(),
        };
        Quorum::new(threshold, keys.iter().enumerate().map(signer).collect()).unwrap()
    };
    let approved = |document: RootDocument, by: usize| {
        let mut signed = SignedRoot::new(document);
        keys.iter().step_by(2).take(by).for_each(|key| signed.approve(key).unwrap());
        signed
    };
    let mut root = trusted();
    let mut versions = vec![root.signed().clone()];
    let refused = loop {
        let threshold = 1 + u8::try_from(versions.len() % 2).unwrap();
        let grants = Some(standing(&[(1, 1)]));
        let document =
            RootDocument { authority: board(1), grants, ..next(root.document(), board(threshold)) };
        let mut signed = approved(document.clone(), 2);
        if versions.len() == 1 {
            signed.approve(key(0)).unwrap();
        }
        match root.could_follow(&document, NOW) {
            Ok(()) => assert_eq!(root.advance(signed.clone(), NOW), Ok(Advanced::Yes)),
            Err(RootError::NoRoom(error)) => {
                assert_eq!(root.advance(signed.clone(), NOW), Err(RootError::NoRoom(error.clone())));
                break (signed, error);
            }
            Err(error) => panic!("{error}"),
        }
        versions.push(root.signed().clone());
    };
    assert!(matches!(refused.1, ChainError::TooLarge { max: CHAIN_BYTES_MAX, .. }), "{}", refused.1);
    assert!((30..64).contains(&versions.len()), "{}", versions.len());
    // All that was taken is held, shown and stored; and what was refused is refused by newcomers too.
    let chain = RootChain::verify(&mesh(), versions.clone()).unwrap();
    assert_eq!(chain.versions().len(), versions.len());
    let longer = [&versions[..], &[refused.0]].concat();
    assert_eq!(RootChain::verify(&mesh(), longer.clone()), Err(refused.1));
    let bytes: usize = chain.versions().iter().map(|signed| signed.encode().unwrap().len()).sum();
    assert!(bytes <= CHAIN_BYTES_MAX);
    // The same signers go on, since their newest version takes the place of the one before.
    for _ in 0..3 {
        let after = approved(root.document().following(NOW, LIFE), 2);
        assert_eq!(root.advance(after, NOW), Ok(Advanced::Yes));
    }
    // A home that took more once loads.
    let stored = Stored { roots: longer, ..Stored::default() };
    assert!(Gossip::new(mesh(), LIFE, stored, NOW).is_ok());
}

#[test]
fn phases_rise_one_at_a_time_and_the_last_retires_the_founder() {
    let mut root = trusted();
    let at = |version, phase, root| RootDocument { version, phase, root, ..founding() };
    let alone = || quorum(1, &[("alice", 0)]);
    let jump = root.advance(signed(at(2, Phase::Shared, alone()), &[0]), NOW).unwrap_err();
    assert_eq!(jump, RootError::BadPhase { held: Phase::Founder, found: Phase::Shared });
    root.advance(signed(at(2, Phase::Logged, alone()), &[0]), NOW).unwrap();
    // A phase of several issuers says which.
    for few in [standing(&[]), standing(&[(1, 1)]), standing(&[(1, 1), (1, 2)])] {
        let found = few.issuers();
        let few = RootDocument { grants: Some(few), ..at(3, Phase::Shared, alone()) };
        assert_eq!(root.advance(signed(few, &[0]), NOW), Err(RootError::FewIssuers { found }));
    }
    let at = |version, phase, root| RootDocument {
        grants: Some(standing(&[(1, 1), (2, 1)])),
        ..at(version, phase, root)
    };
    root.advance(signed(at(3, Phase::Shared, alone()), &[0]), NOW).unwrap();
    let silent = RootDocument { grants: None, ..at(4, Phase::Shared, alone()) };
    assert_eq!(root.advance(signed(silent, &[0]), NOW), Err(RootError::NamesNoGrants));
    let back = root.advance(signed(at(4, Phase::Logged, alone()), &[0]), NOW).unwrap_err();
    assert_eq!(back, RootError::BadPhase { held: Phase::Shared, found: Phase::Logged });
    let kept = quorum(2, &[("alice", 0), ("bob", 2)]);
    for root_quorum in [alone(), kept] {
        let refused = root.advance(signed(at(4, Phase::Quorum, root_quorum), &[0, 2]), NOW);
        assert_eq!(refused, Err(RootError::FounderNotRetired));
    }
    let speaks = RootDocument { authority: alone(), ..at(4, Phase::Quorum, three()) };
    let refused = root.advance(signed(speaks, &[0, 1, 2]), NOW);
    assert_eq!(refused, Err(RootError::FounderNotRetired), "it is of the authority still");
    let all = quorum(2, &[("alice", 1), ("bob", 2)]);
    let refused = root.advance(signed(at(4, Phase::Quorum, all), &[0, 1, 2]), NOW);
    assert_eq!(refused, Err(RootError::NoSpareSigner { signers: 2, threshold: 2 }));
    let done = signed(at(4, Phase::Quorum, three()), &[0, 1, 2]);
    assert_eq!(root.advance(done, NOW), Ok(Advanced::Yes));
}

#[test]
fn phases_that_were_entered_before_versions_named_grants_stand() {
    let at = |version, phase, root| RootDocument { version, phase, root, ..founding() };
    let alone = || quorum(1, &[("alice", 0)]);
    let all = || quorum(2, &[("alice", 1), ("bob", 2)]);
    let chain = [
        signed(founding(), &[0]),
        signed(at(2, Phase::Logged, alone()), &[0]),
        signed(at(3, Phase::Shared, alone()), &[0]),
        signed(at(4, Phase::Quorum, all()), &[0, 1, 2]),
    ];
    let held = TrustedRoot::walk(&mesh(), chain[..2].iter().cloned(), NOW).unwrap();
    // Nobody proposes such a version any more.
    assert_eq!(held.could_follow(&chain[2].document, NOW), Err(RootError::NamesNoGrants));
    let mut root = TrustedRoot::walk(&mesh(), chain.clone(), NOW).unwrap();
    assert_eq!(root.document().phase, Phase::Quorum);
    // So does a node start that stored them.
    let stored = Stored { roots: chain.to_vec(), ..Stored::default() };
    assert_eq!(Gossip::new(mesh(), LIFE, stored, NOW).unwrap().versions().len(), 4);
    // It goes on with names.
    let next = RootDocument { grants: Some(standing(&[(1, 1)])), ..at(5, Phase::Quorum, all()) };
    assert_eq!(root.advance(signed(next, &[1, 2]), NOW), Ok(Advanced::Yes));
}

#[test]
fn signatures_come_back_by_file() {
    let two = next(&founding(), three());
    let file = StatementFile::root(&two).unwrap();
    let carried = StatementFile::decode(&file.encode().unwrap()).unwrap();
    assert_eq!(carried.statement(), Ok(Statement::Root(Box::new(two.clone()))));
    let mut signed = SignedRoot::new(two.clone());
    for number in [0, 1, 2] {
        let bytes = carried.sign(key(number)).unwrap().encode().unwrap();
        let back = DetachedSignature::decode(&bytes).unwrap();
        let (old, new) = (founding().root, two.root.clone());
        file.join(back.clone(), &[&old, &new], &mut signed.approvals).unwrap();
        // The same signature again is the same signer.
        file.join(back, &[&old, &new], &mut signed.approvals).unwrap();
    }
    assert_eq!(signed.approvals.iter().count(), 3);
    assert_eq!(trusted().advance(signed, NOW), Ok(Advanced::Yes));

    let mut approvals = Approvals::default();
    let stranger = file.sign(key(6)).unwrap();
    let unknown = OfflineError::UnknownKey { key: KeyId::of(key(6).public()) };
    assert_eq!(file.join(stranger, &[&three()], &mut approvals), Err(unknown));
    let other = StatementFile::root(&founding()).unwrap().sign(key(1)).unwrap();
    assert_eq!(file.join(other, &[&three()], &mut approvals), Err(OfflineError::OtherStatement));
    let not = DetachedSignature::decode(&file.encode().unwrap()).unwrap_err();
    assert_eq!(not, OfflineError::NotThis { expected: "signature" });

    // An altered statement keeps none of its signatures.
    let longer = RootDocument { expires_at: UnixMillis(two.expires_at.0 + 1), ..two.clone() };
    let altered = StatementFile::root(&longer).unwrap();
    let signature = file.sign(key(1)).unwrap();
    assert_eq!(altered.join(signature, &[&three()], &mut approvals), Err(OfflineError::OtherStatement));

    // A set is signed in the same way, with its whole content in the file.
    let body = Revocations::default().encode().unwrap();
    let made = set(None, SetKind::Revocations, body.clone(), NOW, &[]);
    let file = StatementFile::set(&made.signed.head, body.clone()).unwrap();
    let head = made.signed.head.clone();
    assert_eq!(file.statement(), Ok(Statement::Revocations(head, Box::default())));
    let mut approvals = Approvals::default();
    file.join(file.sign(key(1)).unwrap(), &[&three()], &mut approvals).unwrap();
    let statement = made.signed.head.encode().unwrap();
    let names = three().approvers(SetKind::Revocations.purpose(), &statement, &approvals).unwrap().len();
    assert_eq!(names, 1);
    // Another body, none, and one that nobody can read: nothing is signed.
    let mut other = Revocations::default();
    other.revoke(node(1), NOW, "laptop stolen".parse().unwrap()).unwrap();
    for wrong in [other.encode().unwrap(), Vec::new()] {
        let file = StatementFile::set(&made.signed.head, wrong).unwrap();
        assert_eq!(file.sign(key(1)).unwrap_err(), OfflineError::WrongStatement);
        assert_eq!(StatementFile::decode(&file.encode().unwrap()), Err(OfflineError::WrongStatement));
    }
    let odd = set(None, SetKind::Policy, b"rules".to_vec(), NOW, &[]);
    let file = StatementFile::set(&odd.signed.head, b"rules".to_vec()).unwrap();
    assert!(matches!(file.sign(key(1)), Err(OfflineError::Policy(_))));
}

/// A grant for several signers.
fn grant(number: u64, mesh: MeshId) -> GrantStatement {
    static CA: OnceLock<IssuerKey> = OnceLock::new();
    let ca = CA.get_or_init(|| IssuerKey::from_seed(zeroize::Zeroizing::new([9; 32])).unwrap());
    let offer = GrantOffer::new("lab".parse().unwrap(), node(1), number, Lives::default(), NOW);
    offer.statement(ca.ca_certificate(&offer).unwrap(), Some(mesh)).unwrap()
}

#[test]
fn grants_are_signed_by_file_and_counted_by_quorum() {
    let statement = grant(1, mesh());
    let file = StatementFile::grant(&statement).unwrap();
    let carried = StatementFile::decode(&file.encode().unwrap()).unwrap();
    let read = carried.statement().unwrap();
    assert_eq!((read.word(), read.number(), read.mesh()), ("grant", 1, mesh()));
    assert_eq!(read, Statement::Grant(Box::new(statement.clone())));
    let document = RootDocument { grants: Some(standing(&[])), ..next(&founding(), three()) };
    let made = |keys: &[usize]| {
        let mut approvals = Approvals::default();
        for number in keys {
            let signature = carried.sign(key(*number)).unwrap();
            // Twice is once.
            file.join(signature.clone(), &[&three()], &mut approvals).unwrap();
            file.join(signature, &[&three()], &mut approvals).unwrap();
        }
        IssuerGrant::approved(statement.clone(), approvals).unwrap()
    };
    let few = |found| Err(ApprovalError::NotEnough { found, needed: 2 });
    assert_eq!(made(&[]).check_under(&document), few(0));
    assert_eq!(made(&[1]).check_under(&document), few(1));
    assert_eq!(made(&[1, 3]).check_under(&document), Ok(()));
    // Two keys of one signer are one signer.
    let both = quorum(2, &[("alice", 1), ("alice", 2), ("bob", 3)]);
    let twofold = RootDocument { root: both, ..document.clone() };
    assert_eq!(made(&[1, 2]).check_under(&twofold), few(1));
    assert_eq!(made(&[1, 2, 3]).check_under(&twofold), Ok(()));
    // Signers of another root, also if it names the grant: a name is no signature.
    let later = RootDocument { root: quorum(2, &[("alice", 1), ("dave", 5)]), ..document.clone() };
    assert_eq!(made(&[1, 3]).check_under(&later), few(1));
    let named = StandingGrants::try_from(vec![statement.name().unwrap()]).unwrap();
    let naming = RootDocument { grants: Some(named), ..later.clone() };
    assert!(made(&[1, 3]).is_named_in(&naming) && !made(&[1, 3]).is_named_in(&later));
    assert_eq!(made(&[1, 3]).check_under(&naming), few(1));
    // A signer of two meshes signs for the one that it was asked for.
    let elsewhere = RootDocument { mesh: MeshId([1; 32]), ..document };
    assert_eq!(made(&[1, 3]).check_under(&elsewhere), few(0));
    // A CA certificate that isn't what the statement says is not signed.
    let mut other = statement.clone();
    other.issuer = node(2);
    let refused = StatementFile::grant(&other).unwrap().sign(key(1)).unwrap_err();
    assert_eq!(refused, OfflineError::Wire(meshara_identity::WireError::Malformed));

    // Nor one under which a certificate would outlast its revocation by years.
    let day = Duration::from_secs(24 * 3600);
    let long = [Lives::unlimited(Some(day * 1095), day * 90), Lives::unlimited(None, day * 36500)];
    for (lives, refused) in long.into_iter().zip([LivesError::Leaf, LivesError::Enrolment]) {
        let lasting = GrantStatement { lives, ..statement.clone() };
        let file = StatementFile::grant(&lasting).unwrap();
        assert_eq!(file.sign(key(1)).unwrap_err(), OfflineError::Lives(refused));
        assert_eq!(StatementFile::decode(&file.encode().unwrap()), Err(OfflineError::Lives(refused)));
    }

    // No key signs two grants of one number, but in place of one that was given up; nor an older one.
    let (mut journal, id) = (Journal::default(), KeyId::of(key(1).public()));
    let note = |journal: &mut Journal, statement: &GrantStatement, instead| {
        journal.note(id, &StatementFile::grant(statement).unwrap(), instead)
    };
    assert_eq!(note(&mut journal, &statement, false), Ok(true));
    assert_eq!(note(&mut journal, &statement, false), Ok(false));
    let other = grant(1, MeshId([1; 32]));
    let contradiction = JournalError::Contradiction { word: "grant", number: 1 };
    assert_eq!(note(&mut journal, &other, false), Err(contradiction));
    assert_eq!(note(&mut journal, &other, true), Ok(true));
    assert_eq!(note(&mut journal, &grant(3, mesh()), false), Ok(true));
    let older = JournalError::Older { word: "grant", number: 2, signed: 3 };
    assert_eq!(note(&mut journal, &grant(2, mesh()), true), Err(older));
}

/// A statement about revocations with this number, after the one before.
fn snapshot(number: u64, before: Option<&StatementFile>, at: u64) -> StatementFile {
    let body = Revocations::default().encode().unwrap();
    let previous = before.map(|file| match file.statement().unwrap() {
        Statement::Revocations(head, _) => head,
        other => panic!("{other:?}"),
    });
    let at = UnixMillis(NOW.0 + at);
    let mut head = SetHead::following(previous.as_ref(), SetKind::Revocations, mesh(), at, &body).unwrap();
    head.number = number;
    StatementFile::set(&head, body).unwrap()
}

#[test]
fn a_key_never_signs_two_contents_of_one_number() {
    let mut journal = Journal::default();
    let id = KeyId::of(key(1).public());
    let (word, revocations) = ("revocations", SetKind::Revocations.purpose());
    assert_eq!(journal.highest(id, revocations), 0);
    let first = snapshot(1, None, 0);
    assert_eq!(journal.note(id, &first, false), Ok(true));
    assert_eq!(journal.note(id, &first, false), Ok(false));
    let other = JournalError::Contradiction { word, number: 1 };
    assert_eq!(journal.note(id, &snapshot(1, None, 1), true), Err(other));
    // Another key of the same machine is another signer.
    assert_eq!(journal.note(KeyId::of(key(2).public()), &snapshot(1, None, 1), false), Ok(true));
    // What follows something else than was signed has to skip a number.
    let elsewhere = JournalError::OtherPredecessor { word, number: 2 };
    assert_eq!(journal.note(id, &snapshot(2, Some(&snapshot(1, None, 1)), 2), false), Err(elsewhere));
    assert_eq!(journal.note(id, &snapshot(3, Some(&snapshot(1, None, 1)), 2), false), Ok(true));
    let older = JournalError::Older { word, number: 2, signed: 3 };
    assert_eq!(journal.note(id, &snapshot(2, Some(&first), 2), false), Err(older));
    assert_eq!(journal.highest(id, revocations), 3);

    // Versions of the root document can't skip: one that was given up is replaced, when the signer says so.
    let two = StatementFile::root(&next(&founding(), three())).unwrap();
    let longer = RootDocument { expires_at: UnixMillis(NOW.0 + 1), ..next(&founding(), three()) };
    let instead = StatementFile::root(&longer).unwrap();
    assert_eq!(journal.note(id, &two, false), Ok(true));
    let other = JournalError::Contradiction { word: "root", number: 2 };
    assert_eq!(journal.note(id, &instead, false), Err(other.clone()));
    assert_eq!(journal.note(id, &instead, true), Ok(true));
    assert_eq!(journal.note(id, &two, false), Err(other));

    let bytes = journal.encode().unwrap();
    assert_eq!(Journal::decode(&bytes), Ok(journal));
    assert!(Journal::decode(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn who_proposes_is_told_what_would_be_refused() {
    let root = trusted();
    let good = RootDocument { grants: Some(standing(&[])), ..next(&founding(), three()) };
    assert_eq!(root.could_follow(&good, NOW), Ok(()));
    let after = good.following(NOW, LIFE);
    assert_eq!((after.version, after.life()), (3, LIFE));
    assert_eq!(root.could_follow(&after, NOW), Err(RootError::Gap { held: 1, found: 3 }));
    assert_eq!(root.could_follow(&founding(), NOW), Err(RootError::Rollback { held: 1, found: 1 }));
    let foreign = RootDocument { mesh: MeshId([1; 32]), ..good.clone() };
    assert_eq!(root.could_follow(&foreign, NOW), Err(RootError::WrongMesh));
    let jump = RootDocument { phase: Phase::Shared, ..good };
    let refused = RootError::BadPhase { held: Phase::Founder, found: Phase::Shared };
    assert_eq!(root.could_follow(&jump, NOW), Err(refused));
    assert_eq!(Phase::Shared.next(), Some(Phase::Quorum));
    assert_eq!(Phase::Quorum.next(), None);
}

#[test]
fn public_keys_and_chains_are_read_as_written() {
    let bytes = encode_public_key(key(1).public()).unwrap();
    assert_eq!(decode_public_key(&bytes).as_ref(), Ok(key(1).public()));
    let wrong = OfflineError::NotThis { expected: "public key" };
    assert_eq!(decode_public_key(b"MESHARA-SIGNATURE\n"), Err(wrong));
    assert!(decode_public_key(&[&bytes[..], &[0]].concat()).is_err());
    let chain = vec![signed(founding(), &[0]), signed(next(&founding(), three()), &[0, 1, 2])];
    let bytes = encode_chain(&chain).unwrap();
    assert_eq!(decode_chain_with(&bytes), Ok((chain.clone(), None)));
    assert!(decode_chain(&[&bytes[..], &[0]].concat()).is_err());
    // With the grants that stand.
    let names = standing(&[(1, 1), (2, 1)]);
    let with = encode_chain_with(&chain, &names).unwrap();
    assert_eq!(decode_chain_with(&with), Ok((chain.clone(), Some(names))));
    assert_eq!(decode_chain(&with), Ok(chain));
    assert!(decode_chain(&[&with[..], &[0]].concat()).is_err());
    let wrong = OfflineError::NotThis { expected: "root documents" };
    assert_eq!(decode_chain(&encode_public_key(key(1).public()).unwrap()), Err(wrong));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn documents_round_trip(
        version: u64,
        issued: u32,
        threshold in 1u8..4,
        life: u32,
        phase in 0..4usize,
        names in prop::option::of(prop::collection::btree_set((any::<u8>(), any::<u64>()), 0..=16)),
    ) {
        let root = quorum(threshold, &[("alice", 1), ("bob", 2), ("carol", 3)]);
        let document = RootDocument {
            version,
            issued_at: UnixMillis(issued.into()),
            expires_at: UnixMillis(life.into()),
            root,
            phase: [Phase::Founder, Phase::Logged, Phase::Shared, Phase::Quorum][phase],
            grants: names.map(|names| standing(&names.into_iter().collect::<Vec<_>>())),
            ..founding()
        };
        let bytes = document.encode().unwrap();
        prop_assert_eq!(RootDocument::decode(&bytes), Ok(document));
        prop_assert!(RootDocument::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    /// No bit of an approved version can be changed.
    #[test]
    fn every_change_is_found(at: u16, bit in 0u8..8) {
        let two = signed(next(&founding(), three()), &[0, 1, 2]);
        let mut bytes = two.encode().unwrap();
        let position = usize::from(at) % bytes.len();
        bytes[position] ^= 1 << bit;
        if let Ok(changed) = SignedRoot::decode(&bytes) {
            prop_assert!(trusted().advance(changed, NOW).is_err());
        }
    }
}
