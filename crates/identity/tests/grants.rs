//! Grants of issuers by a root of several signers: who counts, what survives a change of the root, what newcomers believe.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may stop at the first surprise")]

use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::quorum::{APPROVALS_MAX, Approval, ApprovalError, Approvals, Quorum, Signer};
use meshara_identity::root::Purpose;
use meshara_identity::root_document::{RootDocument, SignedRoot, StandingGrants};
use meshara_identity::sealed::{self, FileKind};
use meshara_identity::*;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A mesh whose founder may hand over to others.
struct Mesh {
    dir: TempDir,
    alice: Identity,
    founder: RootKey,
    keys: Vec<RootKey>,
}

impl Mesh {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("alice");
        let (mesh, name) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let alice = create_mesh(&home, &mesh, &name, None, NOW).unwrap();
        let founder = home::load_root(&home, None).unwrap();
        Self { dir, alice, founder, keys: (0..4).map(|_| RootKey::generate().unwrap()).collect() }
    }

    fn id(&self) -> MeshId {
        self.founder.public().fingerprint()
    }

    fn quorum(&self, threshold: u8, signers: &[(&str, usize)]) -> Quorum {
        let signer = |(name, key): &(&str, usize)| Signer {
            name: name.parse().unwrap(),
            key: self.keys[*key].public().clone(),
        };
        Quorum::new(threshold, signers.iter().map(signer).collect()).unwrap()
    }

    fn first(&self) -> RootDocument {
        let authority = self.quorum(1, &[("anna", 0)]);
        RootDocument::founding(&self.founder, "founder".parse().unwrap(), authority, NOW, YEAR).unwrap()
    }

    fn sign(&self, document: RootDocument, founder: bool, keys: &[usize]) -> SignedRoot {
        let mut signed = SignedRoot::new(document);
        if founder {
            signed.approve(&self.founder).unwrap();
        }
        keys.iter().for_each(|key| signed.approve(&self.keys[*key]).unwrap());
        signed
    }

    /// The founder's version, and one of two of anna, bert, cora, which names what stands in `anchors`.
    fn handed_over(&self, anchors: &TrustAnchors) -> Vec<SignedRoot> {
        let first = self.first();
        let root = self.quorum(2, &[("anna", 0), ("bert", 1), ("cora", 2)]);
        let grants = Some(anchors.standing(NOW));
        let second = RootDocument { root, grants, ..first.following(NOW, YEAR) };
        vec![self.sign(first, true, &[]), self.sign(second, true, &[0, 1])]
    }

    fn offer(number: u64, issuer: NodeId, now: UnixMillis) -> GrantOffer {
        GrantOffer::new("lab".parse().unwrap(), issuer, number, Lives::default(), now)
    }

    fn founders(&self, number: u64, issuer: NodeId) -> IssuerGrant {
        let offer = Self::offer(number, issuer, NOW);
        let key = IssuerKey::generate().unwrap();
        offer.sign(key.ca_certificate(&offer).unwrap(), &self.founder).unwrap()
    }

    fn grant(&self, number: u64, issuer: NodeId, mesh: MeshId, keys: &[usize]) -> IssuerGrant {
        let offer = Self::offer(number, issuer, NOW);
        let key = IssuerKey::generate().unwrap();
        self.approved(&offer, &key, mesh, keys)
    }

    fn approved(&self, offer: &GrantOffer, key: &IssuerKey, mesh: MeshId, keys: &[usize]) -> IssuerGrant {
        let statement = offer.statement(key.ca_certificate(offer).unwrap(), Some(mesh)).unwrap();
        let bytes = statement.encode().unwrap();
        let mut approvals = Approvals::default();
        for key in keys {
            let approval = Approval::sign(&self.keys[*key], Purpose::IssuerGrant, &bytes).unwrap();
            assert!(approvals.add(approval));
        }
        IssuerGrant::approved(statement, approvals).unwrap()
    }
}

/// Approvals that nobody verifies: as many as there is room for.
fn padded(approvals: &Approvals, purpose: Purpose, statement: &[u8]) -> Approvals {
    let mut padded = approvals.clone();
    while padded.iter().count() < APPROVALS_MAX {
        let stranger = RootKey::generate().unwrap();
        assert!(padded.add(Approval::sign(&stranger, purpose, statement).unwrap()));
    }
    padded
}

const BOB: NodeId = NodeId([2; 32]);
const CAROL: NodeId = NodeId([3; 32]);

#[test]
fn a_quorum_grants_and_the_retired_founder_does_no_more() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let stolen = mesh.founders(1, BOB);
    assert!(before.merged(std::slice::from_ref(&stolen), NOW).unwrap().is_some(), "the founder is root");
    let held = before.with_roots(&mesh.handed_over(before)).unwrap().unwrap();
    assert_eq!(held.issuers(NOW), before.issuers(NOW), "who issued goes on");
    // A thief of the retired key; too few; one twice; a signer's two meshes.
    let others = [
        stolen,
        mesh.grant(2, BOB, mesh.id(), &[]),
        mesh.grant(2, BOB, mesh.id(), &[0]),
        mesh.grant(2, BOB, mesh.id(), &[0, 3]),
        mesh.grant(2, BOB, MeshId([9; 32]), &[0, 1]),
    ];
    for other in others {
        assert!(held.merged(&[other], NOW).unwrap().is_none());
    }
    let good = mesh.grant(2, BOB, mesh.id(), &[1, 2]);
    let granted = held.merged(std::slice::from_ref(&good), NOW).unwrap().unwrap();
    assert!(granted.counts(&good) && granted.issuers(NOW).contains(&BOB));
    // Before this node has heard of the new root it takes it for nothing; no error, since an honest neighbour may be ahead.
    assert!(before.merged(&[good], NOW).unwrap().is_none());
    // A forged approval by a signer is an error.
    let mut bytes = mesh.grant(3, CAROL, mesh.id(), &[0, 1]).encode().unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = IssuerGrant::decode(&bytes).unwrap();
    assert_eq!(granted.merged(&[forged], NOW).unwrap_err(), TrustError::BadSignature { number: 3 });
    // An older number of the same issuer is a replay.
    let older = mesh.grant(1, BOB, mesh.id(), &[0, 1]);
    assert!(granted.merged(&[older], NOW).unwrap().is_none());
    // Under a root that has ended nothing new counts; what is held does.
    let ended = NOW.plus(YEAR + Duration::from_secs(1));
    let late = mesh.grant(3, CAROL, mesh.id(), &[0, 1]);
    assert!(granted.merged(&[late], ended).unwrap().is_none());
    assert!(granted.issuers(ended).contains(&BOB));
}

#[test]
fn one_signer_with_two_keys_is_one() {
    let mesh = Mesh::new();
    let first = mesh.first();
    let root = mesh.quorum(2, &[("anna", 0), ("anna", 1), ("bert", 2)]);
    let grants = Some(StandingGrants::default());
    let document = RootDocument { root, grants, ..first.following(NOW, YEAR) };
    let few = |found| ApprovalError::NotEnough { found, needed: 2 };
    assert_eq!(mesh.grant(2, BOB, mesh.id(), &[0, 1]).check_under(&document), Err(few(1)));
    assert_eq!(mesh.grant(2, BOB, mesh.id(), &[0, 1, 2]).check_under(&document), Ok(()));
}

#[test]
fn what_a_new_root_does_not_name_counts_no_more() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let mut roots = mesh.handed_over(before);
    let held = before.with_roots(&roots).unwrap().unwrap();
    let bobs = mesh.grant(2, BOB, mesh.id(), &[0, 1]);
    let carols = mesh.grant(3, CAROL, mesh.id(), &[0, 2]);
    let held = held.merged(&[bobs.clone(), carols.clone()], NOW).unwrap().unwrap();
    // The third root is other people, and names alice's and bob's grants.
    let root = mesh.quorum(2, &[("bert", 1), ("dora", 3)]);
    let names: Vec<_> = held.standing(NOW).into();
    let named = names.into_iter().filter(|name| name.issuer != CAROL).collect::<Vec<_>>();
    let grants = Some(StandingGrants::try_from(named).unwrap());
    let third = RootDocument { root, grants, ..roots[1].document.following(NOW, YEAR) };
    roots.push(mesh.sign(third, false, &[0, 1, 3]));
    let now = held.with_roots(&roots).unwrap().unwrap();
    assert!(now.counts(&bobs) && !now.counts(&carols));
    assert_eq!(now.grants().len(), 3, "it stays in the list, and counts for nothing");
    assert!(!now.issuers(NOW).contains(&CAROL));
    // Signers of the root before sign nothing any more; nor does an old version bring anything back.
    let replayed = mesh.grant(4, CAROL, mesh.id(), &[0, 2]);
    assert!(now.merged(&[replayed], NOW).unwrap().is_none());
    assert!(now.with_roots(&roots[..2]).unwrap().is_none());
    // Whoever joins now is told the same, from the mesh's id down.
    let info = MeshInfo::decode(&MeshInfo::of(&now).encode().unwrap()).unwrap();
    let told = info.anchors().unwrap();
    assert!(told.counts(&bobs) && !told.counts(&carols));
    assert_eq!(told.roots(), now.roots());
    // One that keeps to the second version may learn both.
    let learnt = held.joined(&told, NOW).unwrap().unwrap();
    assert_eq!(learnt.issuers(NOW), now.issuers(NOW));
}

#[test]
fn a_name_in_a_root_document_does_not_stand_for_its_signers() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let mut roots = mesh.handed_over(before);
    let held = before.with_roots(&roots).unwrap().unwrap();
    let bobs = mesh.grant(2, BOB, mesh.id(), &[0, 1]);
    let held = held.merged(std::slice::from_ref(&bobs), NOW).unwrap().unwrap();
    // Who prepares the third version puts grants into it that nobody signed, or too few, or a stranger, or another mesh's signers.
    let smuggled = [
        mesh.grant(7, CAROL, mesh.id(), &[]),
        mesh.grant(7, CAROL, mesh.id(), &[0]),
        mesh.grant(7, CAROL, mesh.id(), &[3]),
        mesh.grant(7, CAROL, MeshId([9; 32]), &[0, 1]),
        mesh.grant(3, BOB, mesh.id(), &[]),
        // A thief of the founder's key, which is retired.
        mesh.founders(7, CAROL),
    ];
    for grant in smuggled {
        let mut names: Vec<_> = held.standing(NOW).into();
        names.push(grant.statement.name().unwrap());
        names.sort_unstable();
        let grants = Some(StandingGrants::try_from(names).unwrap());
        let third = RootDocument { grants, ..roots[1].document.following(NOW, YEAR) };
        roots.truncate(2);
        roots.push(mesh.sign(third, false, &[1, 2]));
        let now = held.with_roots(&roots).unwrap().unwrap();
        assert!(now.counts(&bobs), "what its signers signed goes on");
        assert!(now.merged(std::slice::from_ref(&grant), NOW).unwrap().is_none());
        // A newcomer is no more easily fooled.
        let all = [now.grants(), std::slice::from_ref(&grant)].concat();
        let root = mesh.founder.public().clone();
        match TrustAnchors::under(root, now.mesh().clone(), now.roots().clone(), all) {
            Ok(told) => assert!(!told.counts(&grant)),
            Err(error) => assert!(matches!(error, TrustError::NotApproved { .. }), "{error}"),
        }
    }
}

#[test]
fn approvals_that_nobody_verified_are_not_kept() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let mut roots = mesh.handed_over(before);
    // More approvals than are needed, too: cora's, and the founder's of a version that the quorum signs.
    let third = roots[1].document.following(NOW, YEAR);
    roots.push(mesh.sign(third, true, &[0, 1, 2]));
    let fat: Vec<_> = roots
        .iter()
        .map(|signed| {
            let statement = signed.document.encode().unwrap();
            let approvals = padded(&signed.approvals, Purpose::RootDocument, &statement);
            SignedRoot { document: signed.document.clone(), approvals }
        })
        .collect();
    let held = before.with_roots(&fat).unwrap().unwrap();
    let counts: Vec<_> = held.roots().versions().iter().map(|kept| kept.approvals.iter().count()).collect();
    // The founder's; the founder's and two of the quorum; two of the quorum.
    assert_eq!(counts, [1, 3, 2]);
    let slim = mesh.grant(2, BOB, mesh.id(), &[0, 2]);
    let statement = slim.statement.encode().unwrap();
    let mut approvals = Approvals::default();
    for key in [0, 1, 2] {
        let approval = Approval::sign(&mesh.keys[key], Purpose::IssuerGrant, &statement).unwrap();
        assert!(approvals.add(approval));
    }
    let approvals = padded(&approvals, Purpose::IssuerGrant, &statement);
    // So fat a grant can't be made here, but a member may serve it.
    let fat_grant = fattened(&slim, &approvals);
    let granted = held.merged(&[fat_grant], NOW).unwrap().unwrap();
    assert!(granted.counts(&slim));
    let kept = granted.in_force().find(|grant| grant.statement == slim.statement).unwrap();
    assert_eq!(kept.encode().unwrap().len(), slim.encode().unwrap().len());
    // What a newcomer is shown it keeps as short, and what it keeps is proof enough for the next one.
    let told = MeshInfo::of(&granted).encode().unwrap();
    let again = MeshInfo::of(&MeshInfo::decode(&told).unwrap().anchors().unwrap());
    assert_eq!(again.encode().unwrap(), told);
    let (root, name) = (granted.root().clone(), granted.mesh().clone());
    let chain = RootChain::verify(&mesh.id(), fat).unwrap();
    let fat = vec![before.grants()[0].clone(), fattened(&slim, &approvals)];
    let newcomer = TrustAnchors::under(root, name, chain, fat).unwrap();
    assert_eq!(MeshInfo::of(&newcomer).encode().unwrap().len(), told.len());
}

#[test]
fn a_home_loads_whatever_its_grants_are_worth_by_now() {
    let mesh = Mesh::new();
    let alices = mesh.dir.path().join("alice");
    let path = alices.join(home::MEMBERSHIP);
    let before = mesh.alice.membership.anchors();
    let roots = mesh.handed_over(before);
    let rooted = before.with_roots(&roots).unwrap().unwrap();
    let bobs = mesh.grant(2, BOB, mesh.id(), &[0, 1]);
    let granted = rooted.merged(std::slice::from_ref(&bobs), NOW).unwrap().unwrap();
    // Other people, who name bob's grant or don't.
    let root = mesh.quorum(2, &[("cora", 2), ("dora", 3)]);
    for (grants, names_it) in [(before.standing(NOW), false), (granted.standing(NOW), true)] {
        let third = RootDocument {
            root: root.clone(),
            grants: Some(grants),
            ..roots[1].document.following(NOW, YEAR)
        };
        let third = mesh.sign(third, false, &[0, 1, 2, 3]);
        let anchors = granted.with_roots(&[third]).unwrap().unwrap();
        assert_eq!(anchors.counts(&bobs), names_it);
        let member = mesh.alice.membership.under(anchors).unwrap();
        home::store_membership(&alices, mesh.alice.node.node_id(), &member, None).unwrap();
        // An earlier program took it by its name alone, with signatures that nobody made.
        let mut content = sealed::read(&path, FileKind::Membership, None).unwrap().to_vec();
        let good = bobs.encode().unwrap();
        let at = content.windows(good.len() - 1).position(|bytes| *bytes == good[1..]).unwrap();
        content[at + good.len() - 2] ^= 1;
        sealed::replace(&path, FileKind::Membership, &content, None).unwrap();
        let loaded = home::load(&alices, None).unwrap().membership;
        let held = loaded.anchors();
        assert!(!held.counts(&bobs) && held.counts(&before.grants()[0]));
        assert_eq!(held.roots().version(), 3);
        assert!(loaded.valid_at(NOW).is_ok(), "its own certificate is another issuer's");
        // It goes on as it is, and nobody is told of what can't be proved.
        home::store_membership(&alices, mesh.alice.node.node_id(), &loaded, None).unwrap();
        let told = MeshInfo::decode(&loaded.mesh_info().encode().unwrap()).unwrap().anchors().unwrap();
        assert_eq!((told.grants().len(), held.told().len(), held.grants().len()), (1, 1, 2));
        // Nor does it stand in the way of a renewal, which joins what was held before with what is held now.
        assert!(held.joined(held, NOW).unwrap().is_none());
        // A neighbour has it with its signatures.
        let healed = held.merged(std::slice::from_ref(&bobs), NOW).unwrap();
        assert_eq!(healed.is_some_and(|healed| healed.counts(&bobs) && healed.grants().len() == 2), names_it);
    }
}

#[test]
fn what_a_node_walked_itself_goes_before_what_a_member_showed() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let mut roots = mesh.handed_over(before);
    let held = before.with_roots(&roots).unwrap().unwrap();
    let bobs = mesh.grant(2, BOB, mesh.id(), &[0, 1]);
    // One version 3 was signed and refused where bob's grant was known; another one names it.
    let given_up = mesh.sign(roots[1].document.following(NOW, YEAR), false, &[0, 1]);
    let root = mesh.quorum(2, &[("cora", 2), ("dora", 3)]);
    let granted = held.merged(std::slice::from_ref(&bobs), NOW).unwrap().unwrap();
    let grants = Some(granted.standing(NOW));
    let third = RootDocument { root: root.clone(), grants, ..roots[1].document.following(NOW, YEAR) };
    roots.push(mesh.sign(third.clone(), false, &[1, 2, 3]));
    let misled = held.with_roots(std::slice::from_ref(&given_up)).unwrap().unwrap();
    assert!(misled.with_roots(&roots).unwrap().is_none(), "it has a version 3");
    assert!(misled.going_by(&roots[..2]).unwrap().is_none(), "what it walked is older");
    let right = misled.going_by(&roots).unwrap().unwrap();
    assert_eq!(right.roots().newest(), Some(&third));
    assert!(right.going_by(&roots).unwrap().is_none(), "once is enough");
    assert!(right.with_roots(&[given_up]).unwrap().is_none());
    // An honest member may show more than this node has walked.
    let fourth = mesh.sign(third.following(NOW, YEAR), false, &[2, 3]);
    let ahead = right.with_roots(std::slice::from_ref(&fourth)).unwrap().unwrap();
    assert!(ahead.going_by(&roots).unwrap().is_none());
    roots.push(fourth);
    assert!(ahead.going_by(&roots).unwrap().is_none());
    // What nobody could walk to isn't taken from a member, whoever signed it.
    let at = |document: RootDocument| {
        let signed = mesh.sign(document, false, &[2, 3]);
        right.with_roots(&[signed]).err()
    };
    let impossible = |version| Some(TrustError::Roots(ChainError::Impossible { version }));
    let next = third.following(NOW, YEAR);
    assert_eq!(at(RootDocument { version: 1000, ..next.clone() }), impossible(1000));
    assert_eq!(at(RootDocument { grants: None, ..next.clone() }), impossible(4));
    assert_eq!(at(third.following(NOW, YEAR * 4)), impossible(4));
    assert_eq!(at(next), None);
}

/// The grant as if it carried these approvals.
fn fattened(grant: &IssuerGrant, approvals: &Approvals) -> IssuerGrant {
    let statement = postcard::to_allocvec(&grant.statement).unwrap();
    let bytes = [&statement[..], &postcard::to_allocvec(approvals).unwrap()].concat();
    postcard::from_bytes(&bytes).unwrap()
}

#[test]
fn certificates_of_a_dropped_issuer_are_refused_and_its_own_is_still_shown() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let mut roots = mesh.handed_over(before);
    let leaf = mesh.alice.membership.leaf_der();
    let held = before.with_roots(&roots).unwrap().unwrap();
    assert!(held.verify_leaf(leaf, NOW).is_ok());
    let grants = Some(StandingGrants::default());
    let third = RootDocument { grants, ..roots[1].document.following(NOW, YEAR) };
    roots.push(mesh.sign(third, false, &[1, 2]));
    let now = before.with_roots(&roots).unwrap().unwrap();
    assert_eq!(now.verify_leaf(leaf, NOW).unwrap_err(), LeafError::IssuerDropped);
    let member = mesh.alice.membership.under(now).unwrap();
    assert_eq!(member.valid_at(NOW), Err(LeafError::IssuerDropped));
    // It is loaded as it was stored.
    let home = mesh.dir.path().join("alice");
    home::store_membership(&home, mesh.alice.node.node_id(), &member, None).unwrap();
    let loaded = home::load(&home, None).unwrap();
    assert_eq!(loaded.membership.valid_at(NOW), Err(LeafError::IssuerDropped));
    assert_eq!(loaded.membership.anchors().roots().version(), 3);
}

#[test]
fn chains_that_do_not_descend_from_the_founder_are_refused() {
    let mesh = Mesh::new();
    let before = mesh.alice.membership.anchors();
    let roots = mesh.handed_over(before);
    let verify =
        |roots: &[SignedRoot]| RootChain::verify(&mesh.id(), roots.to_vec()).map(|chain| chain.version());
    assert_eq!(verify(&roots), Ok(2));
    assert_eq!(verify(&roots[1..]), Err(ChainError::NotFounder));
    assert_eq!(RootChain::verify(&MeshId([1; 32]), roots.clone()), Err(ChainError::WrongMesh { version: 1 }));
    let few = |found, needed| ApprovalError::NotEnough { found, needed };
    let usurped = mesh.sign(roots[1].document.clone(), false, &[0, 1]);
    let error = ChainError::NotApproved { version: 2, error: few(0, 1) };
    assert_eq!(verify(&[roots[0].clone(), usurped]), Err(error));
    let alone = mesh.sign(roots[1].document.clone(), true, &[0]);
    let error = ChainError::NotApproved { version: 2, error: few(1, 2) };
    assert_eq!(verify(&[roots[0].clone(), alone]), Err(error));
    let many = vec![roots[0].clone(); 70];
    assert_eq!(verify(&many), Err(ChainError::NotLater { held: 1, found: 1 }));

    // Versions whose root signers stay are left out, and the descent is proved all the same.
    let mut all = roots;
    for _ in 0..100 {
        let last = all.last().unwrap().document.clone();
        all.push(mesh.sign(last.following(NOW, YEAR), false, &[0, 1]));
    }
    let chain = RootChain::verify(&mesh.id(), all).unwrap();
    assert_eq!((chain.versions().len(), chain.version()), (3, 102));
    assert_eq!(RootChain::verify(&mesh.id(), chain.versions().to_vec()), Ok(chain));
}

#[test]
fn a_newcomer_judges_a_quorums_issuer_by_what_the_member_shows() {
    let mesh = Mesh::new();
    let alices = mesh.dir.path().join("alice");
    let before = mesh.alice.membership.anchors();
    let roots = mesh.handed_over(before);
    // Bob joins, and the quorum makes him an issuer: his key waited in his home.
    let issuer = home::open_issuer(&alices, before, None).unwrap().unwrap();
    let hour = Duration::from_secs(3600);
    let ticket = issuer.invite(hour, 2, Vec::new(), NOW).unwrap().ticket;
    let home = mesh.dir.path().join("bob");
    let (client, node, routing) = home::begin_join(&home, ticket, "bob".parse().unwrap(), None, NOW).unwrap();
    let reply = issuer.handle_join(client.request(), NOW).reply;
    let bob = home::finish(&home, node, routing, client.open_reply(&reply, NOW).unwrap(), None).unwrap();
    assert!(home::load_pending_issuer(&home, None).unwrap().is_none());
    let key = home::pending_issuer(&home, None).unwrap();
    let offer = Mesh::offer(2, bob.node.node_id(), NOW);
    let again = home::pending_issuer(&home, None).unwrap();
    assert_eq!(again.public_key().as_ref(), key.public_key().as_ref(), "the same until it is used");
    let grant = mesh.approved(&offer, &key, mesh.id(), &[0, 2]);
    let rooted = bob.membership.anchors().with_roots(&roots).unwrap().unwrap();
    let anchors = rooted.merged(std::slice::from_ref(&grant), NOW).unwrap().unwrap();
    let second = home::become_issuer(&home, key, grant.clone(), anchors.clone(), None).unwrap();
    // Until the membership holds the grant a restart begins again.
    assert!(home::open_issuer(&home, &rooted, None).unwrap().is_none());
    assert!(home::open_issuer(&home, &anchors, None).is_err(), "the store is open in this process");
    home::end_pending_issuer(&home).unwrap();
    home::end_pending_issuer(&home).unwrap();
    assert!(home::load_pending_issuer(&home, None).unwrap().is_none());

    let ticket = second.invite(hour, 1, Vec::new(), NOW).unwrap().ticket;
    let home = mesh.dir.path().join("carol");
    let (client, ..) = home::begin_join(&home, ticket, "carol".parse().unwrap(), None, NOW).unwrap();
    let reply = second.handle_join(client.request(), NOW).reply;
    // Without the root documents nobody believes bob.
    let refused = client.open_reply(&reply, NOW).unwrap_err();
    assert_eq!(refused, JoinError::Trust(TrustError::NotApproved { number: 2, found: 0, needed: 1 }));
    let carol = client.open_reply_from(&reply, &MeshInfo::of(&anchors), NOW).unwrap();
    assert_eq!(carol.member().issuer, bob.node.node_id());
    assert!(anchors.verify_leaf(carol.leaf_der(), NOW).is_ok());
    // A member of another mesh carried it.
    let other = Mesh::new();
    let info = MeshInfo::of(other.alice.membership.anchors());
    assert_eq!(client.open_reply_from(&reply, &info, NOW).unwrap_err(), JoinError::WrongRoot);
}
