//! Frozen messages of version 1, and round trips.
//!
//! ML-DSA signs with randomness, so the fixtures were made once and are only read since. A change that cannot read them needs a new
//! version. For that, `MESHARA_FREEZE=1 cargo test -p meshara-identity frozen` writes what the tests make anew over the fixtures.

use std::path::Path;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::message::*;
use crate::anchors::TrustAnchors;
use crate::grant::{GrantOffer, IssuerGrant, IssuerKey};
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::{AttestationKind, Enrolled, Evidence, KINDS_MAX};
use crate::keys::{LeafKey, NodeKey, RoutingKey};
use crate::leaf::LeafSubject;
use crate::lives::{ENROLMENT_LIFE, Lives};
use crate::membership::{Membership, MeshInfo};
use crate::names::NodeName;
use crate::quorum::{Approval, Approvals, Quorum, Signer};
use crate::root::{Purpose, RootKey};
use crate::root_chain::RootChain;
use crate::root_document::{RootDocument, SignedRoot, StandingGrants};
use crate::wire::WireError;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
const JOIN_KEY: [u8; 32] = [0x4a; 32];
const DAY: Duration = Duration::from_secs(24 * 3600);

static REQUEST: &[u8] = include_bytes!("../../tests/fixtures/join-request.bin");
static ATTESTED: &[u8] = include_bytes!("../../tests/fixtures/join-attested.bin");
static RENEWAL: &[u8] = include_bytes!("../../tests/fixtures/renew-request.bin");
static ACCEPTED: &[u8] = include_bytes!("../../tests/fixtures/join-accepted.bin");
static LOGGED: &[u8] = include_bytes!("../../tests/fixtures/join-logged.bin");
static REFUSED: &[u8] = include_bytes!("../../tests/fixtures/join-refused.bin");
static GRANT: &[u8] = include_bytes!("../../tests/fixtures/grant.bin");
/// Of version 1, which is only read any more.
static GRANT_1: &[u8] = include_bytes!("../../tests/fixtures/grant-1.bin");
static OFFER: &[u8] = include_bytes!("../../tests/fixtures/grant-offer.bin");
/// As version 1 of grants and leaves made them.
static MESH_INFO_1: &[u8] = include_bytes!("../../tests/fixtures/mesh-info-1.bin");
static ACCEPTED_1: &[u8] = include_bytes!("../../tests/fixtures/join-accepted-1.bin");
static GRANT_3: &[u8] = include_bytes!("../../tests/fixtures/grant-3.bin");
static MESH_INFO_2: &[u8] = include_bytes!("../../tests/fixtures/mesh-info-2.bin");
static MESH_INFO: &[u8] = include_bytes!("../../tests/fixtures/mesh-info.bin");

struct Keys {
    node: NodeKey,
    leaf: LeafKey,
    routing: RoutingKey,
    root: RootKey,
    issuer: IssuerKey,
}

fn keys() -> Keys {
    let seed = |byte| Zeroizing::new([byte; 32]);
    Keys {
        node: NodeKey::from_seed(seed(1)).unwrap(),
        leaf: LeafKey::from_seed(seed(2)).unwrap(),
        routing: RoutingKey::from_seed(seed(3)).unwrap(),
        root: RootKey::from_seeds(&Zeroizing::new([[4; 32], [5; 32]])).unwrap(),
        issuer: IssuerKey::from_seed(seed(6)).unwrap(),
    }
}

fn bob() -> NodeName {
    "bob".parse().unwrap()
}

fn join_body(keys: &Keys) -> JoinBody {
    JoinBody {
        ticket_id: [7; 16],
        ticket_hash: [8; 32],
        name: bob(),
        claim: claim(keys, [9; 32], NOW),
        evidence: Vec::new(),
    }
}

fn attested_body(keys: &Keys) -> JoinBody {
    let evidence = vec![Evidence { kind: AttestationKind(300), bytes: vec![14; 6] }];
    JoinBody { evidence, ..join_body(keys) }
}

fn claim(keys: &Keys, nonce: [u8; 32], time: UnixMillis) -> Claim {
    Claim {
        node_public: keys.node.public_key().clone(),
        leaf_public: keys.leaf.public_key().clone(),
        routing_key: keys.routing.public_key(),
        nonce,
        time,
    }
}

fn renew_body(keys: &Keys) -> RenewBody {
    RenewBody { claim: claim(keys, [10; 32], NOW), leaf_der: vec![13; 5] }
}

fn offer() -> GrantOffer {
    let lives = Lives::unlimited(Some(Duration::from_secs(1800)), DAY * 30);
    GrantOffer::new("lab".parse().unwrap(), NodeId([11; 32]), 1, lives, NOW)
}

/// Every message by the name of its fixture, made now.
fn made() -> [(&'static str, Vec<u8>); 11] {
    let keys = keys();
    let signers = (&keys.node, &keys.leaf, &keys.routing);
    let request = encode_join(&join_body(&keys), signers, &JOIN_KEY).unwrap();
    let attested = encode_join(&attested_body(&keys), signers, &JOIN_KEY).unwrap();
    let renewal = encode_renew(&renew_body(&keys), signers).unwrap();

    let offer = offer();
    let grant = offer.sign(keys.issuer.ca_certificate(&offer).unwrap(), &keys.root).unwrap();
    let enrolled = Enrolled { roles: vec!["db".parse().unwrap()], from: NOW, until: NOW.plus(DAY * 90) };
    let subject = LeafSubject {
        name: &bob(),
        node_id: keys.node.node_id(),
        routing_key: keys.routing.public_key(),
        leaf_public: keys.leaf.public_key(),
        enrolled: &enrolled,
    };
    let leaf = keys.issuer.issue(&grant.statement, &subject, DAY, NOW).unwrap();
    let issued = Issued {
        root: keys.root.public().clone(),
        mesh: "lab".parse().unwrap(),
        grants: vec![grant.clone()],
        leaf_der: leaf.der.clone(),
        issuer_time: NOW,
    };
    let accepted = Outcome::Issued(Box::new(issued.clone()));
    // All replies answer the frozen request, so that those of version 1 still do.
    let accepted = encode_reply(REQUEST, accepted, Some(&JOIN_KEY)).unwrap();
    let logged = Outcome::Logged(Box::new(issued.clone()), vec![12; 3]);
    let logged = encode_reply(REQUEST, logged, Some(&JOIN_KEY)).unwrap();
    let refused = Outcome::Refused(Refusal::NameTaken { name: bob() });
    let refused = encode_reply(REQUEST, refused, Some(&JOIN_KEY)).unwrap();
    let anchors = TrustAnchors::new(issued.root, issued.mesh, issued.grants).unwrap();
    let membership = Membership::new(anchors, leaf.der, keys.leaf).unwrap();
    let (roots, signed) = by_signers();
    let (root, mesh) = (keys.root.public().clone(), offer.mesh.clone());
    let chain = RootChain::verify(&root.fingerprint(), roots).unwrap();
    let rooted = TrustAnchors::under(root, mesh, chain, vec![grant.clone(), signed.clone()]).unwrap();
    [
        ("join-request.bin", request),
        ("join-attested.bin", attested),
        ("renew-request.bin", renewal),
        ("join-accepted.bin", accepted),
        ("join-logged.bin", logged),
        ("join-refused.bin", refused),
        ("grant.bin", grant.encode().unwrap()),
        ("grant-offer.bin", offer.encode().unwrap()),
        ("mesh-info.bin", membership.mesh_info().encode().unwrap()),
        ("grant-3.bin", signed.encode().unwrap()),
        ("mesh-info-2.bin", MeshInfo::of(&rooted).encode().unwrap()),
    ]
}

/// A root of two who must both sign, after the founder's, which names the founder's grant; and a grant by the two.
fn by_signers() -> (Vec<SignedRoot>, IssuerGrant) {
    let keys = keys();
    let two: Vec<RootKey> = [[20, 21], [22, 23]]
        .map(|[a, b]| RootKey::from_seeds(&Zeroizing::new([[a; 32], [b; 32]])).unwrap())
        .into();
    let signer =
        |name: &str, key: &RootKey| Signer { name: name.parse().unwrap(), key: key.public().clone() };
    let quorum = Quorum::new(2, vec![signer("anna", &two[0]), signer("bert", &two[1])]).unwrap();
    let name = "founder".parse().unwrap();
    let first = RootDocument::founding(&keys.root, name, quorum.clone(), NOW, DAY * 365).unwrap();
    let offer = offer();
    let founders = offer.statement(keys.issuer.ca_certificate(&offer).unwrap(), None).unwrap();
    let names = StandingGrants::try_from(vec![founders.name().unwrap()]).unwrap();
    let second = RootDocument { root: quorum, grants: Some(names), ..first.following(NOW, DAY * 365) };
    let mut roots = [SignedRoot::new(first), SignedRoot::new(second)];
    roots.iter_mut().for_each(|root| root.approve(&keys.root).unwrap());
    two.iter().for_each(|key| roots[1].approve(key).unwrap());
    let offer = GrantOffer { number: 2, ..offer };
    let mesh_id = keys.root.public().fingerprint();
    let statement = offer.statement(keys.issuer.ca_certificate(&offer).unwrap(), Some(mesh_id)).unwrap();
    let mut approvals = Approvals::default();
    for key in &two {
        let approval = Approval::sign(key, Purpose::IssuerGrant, &statement.encode().unwrap()).unwrap();
        assert!(approvals.add(approval));
    }
    (roots.into(), IssuerGrant::approved(statement, approvals).unwrap())
}

#[test]
fn frozen_grants_of_several_signers_are_read() {
    let grant = IssuerGrant::decode(GRANT_3).unwrap();
    assert_eq!((grant.statement.version, grant.encode().unwrap()), (3, GRANT_3.to_vec()));
    assert!(!grant.is_signed_by(keys().root.public()));
    let info = MeshInfo::decode(MESH_INFO_2).unwrap();
    assert_eq!(info.encode().unwrap(), MESH_INFO_2);
    let anchors = info.anchors().unwrap();
    assert_eq!((anchors.roots().version(), anchors.grants().len()), (2, 2));
    assert!(anchors.counts(&grant));
    for bytes in [GRANT_3, MESH_INFO_2] {
        assert!(MeshInfo::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(IssuerGrant::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(MeshInfo::decode(&[bytes, &[0]].concat()).is_err());
        assert!(IssuerGrant::decode(&[bytes, &[0]].concat()).is_err());
    }
    // Without its documents the info is of version 1; of version 2 it has some.
    let bare = [&[2], &MESH_INFO[1..], &[0]].concat();
    assert_eq!(MeshInfo::decode(&bare), Err(WireError::Malformed));
}

#[test]
fn what_is_made_has_the_length_of_what_is_frozen() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, bytes) in made() {
        if std::env::var_os("MESHARA_FREEZE").is_some() {
            std::fs::write(directory.join(name), &bytes).unwrap();
        }
        let frozen = std::fs::read(directory.join(name)).unwrap();
        assert_eq!(bytes.len(), frozen.len(), "{name}");
    }
}

#[test]
fn frozen_requests_are_read_and_proved() {
    let keys = keys();
    let request = decode_join(REQUEST).unwrap();
    assert_eq!(request.body, join_body(&keys));
    assert!(request.is_authenticated_by(&JOIN_KEY));
    assert!(!request.is_authenticated_by(&[0; 32]));
    assert!(request.is_proved(&request.body.claim));
    let attested = decode_join(ATTESTED).unwrap();
    assert_eq!(attested.body, attested_body(&keys));
    assert!(attested.is_authenticated_by(&JOIN_KEY) && attested.is_proved(&attested.body.claim));
    let renewal = decode_renew(RENEWAL).unwrap();
    assert_eq!(renewal.body, renew_body(&keys));
    assert!(is_renewal(RENEWAL) && !is_renewal(REQUEST));
    assert!(renewal.is_proved(&renewal.body.claim));
    // One kind never passes for the other.
    assert_eq!(decode_renew(REQUEST).unwrap_err(), WireError::Malformed);
    assert_eq!(decode_join(RENEWAL).unwrap_err(), WireError::Malformed);
}

#[test]
fn a_proof_by_another_key_does_not_count() {
    let keys = keys();
    let other = NodeKey::generate().unwrap();
    for signers in [
        (&other, &keys.leaf, &keys.routing),
        (&keys.node, &LeafKey::generate().unwrap(), &keys.routing),
        (&keys.node, &keys.leaf, &RoutingKey::generate().unwrap()),
    ] {
        let bytes = encode_join(&join_body(&keys), signers, &JOIN_KEY).unwrap();
        let request = decode_join(&bytes).unwrap();
        assert!(request.is_authenticated_by(&JOIN_KEY));
        assert!(!request.is_proved(&request.body.claim));
    }
}

#[test]
fn frozen_replies_are_read() {
    let read = |reply, key| decode_reply(reply, REQUEST, key).unwrap().unwrap();
    let (outcome, authenticity) = read(ACCEPTED, Some(&JOIN_KEY));
    assert_eq!(authenticity, Authenticity::Good);
    let Outcome::Issued(issued) = outcome else { panic!("refused") };
    assert_eq!(issued.root, *keys().root.public());
    let anchors = TrustAnchors::new(issued.root, issued.mesh, issued.grants).unwrap();
    let member = anchors.verify_leaf(&issued.leaf_der, NOW.plus(Duration::from_secs(3600))).unwrap();
    assert_eq!((member.name.clone(), member.node_id), (bob(), keys().node.node_id()));
    assert_eq!((member.enrolled.from, member.enrolled.until), (NOW, NOW.plus(DAY * 90)));
    assert_eq!(member.enrolled.roles, ["db".parse().unwrap()]);
    assert_eq!((member.issued_at(), member.life()), (NOW, DAY));
    let (outcome, _) = read(LOGGED, Some(&JOIN_KEY));
    assert!(matches!(outcome, Outcome::Logged(_, promise) if promise == [12; 3]));

    let refusal = Outcome::Refused(Refusal::NameTaken { name: bob() });
    assert_eq!(read(REFUSED, Some(&JOIN_KEY)), (refusal.clone(), Authenticity::Good));
    assert_eq!(read(REFUSED, Some(&[0; 32])), (refusal.clone(), Authenticity::Bad));
    assert_eq!(read(REFUSED, None), (refusal, Authenticity::Bad));
    assert_eq!(decode_reply(REFUSED, RENEWAL, Some(&JOIN_KEY)), Ok(None));
    assert_eq!(decode_reply(&[REFUSED, &[0]].concat(), REQUEST, None), Err(WireError::Malformed));
}

#[test]
fn frozen_grants_are_read() {
    let grant = IssuerGrant::decode(GRANT).unwrap();
    assert!(grant.is_signed_by(keys().root.public()));
    assert_eq!(grant.encode().unwrap(), GRANT);
    assert_eq!(MeshInfo::decode(MESH_INFO).unwrap().encode().unwrap(), MESH_INFO);
    for bytes in [GRANT, MESH_INFO] {
        assert_eq!(MeshInfo::decode(&bytes[..bytes.len() - 1]), Err(WireError::Malformed));
        assert_eq!(MeshInfo::decode(&[bytes, &[0]].concat()), Err(WireError::Malformed));
        let newer = [&[3], &bytes[1..]].concat();
        let error = WireError::UnsupportedVersion { found: 3, supported: 2 };
        assert_eq!(MeshInfo::decode(&newer), Err(error));
    }
}

#[test]
fn grants_and_leaves_of_version_1_still_count() {
    let grant = IssuerGrant::decode(GRANT_1).unwrap();
    assert!(grant.is_signed_by(keys().root.public()));
    assert_eq!((grant.statement.version, grant.statement.lives), (1, Lives::default()));
    assert_eq!(grant.encode().unwrap(), GRANT_1);
    let info = MeshInfo::decode(MESH_INFO_1).unwrap();
    assert_eq!(info.encode().unwrap(), MESH_INFO_1);
    let (outcome, _) = decode_reply(ACCEPTED_1, REQUEST, Some(&JOIN_KEY)).unwrap().unwrap();
    let Outcome::Issued(issued) = outcome else { panic!("refused") };
    let anchors = TrustAnchors::new(issued.root, issued.mesh, issued.grants).unwrap();
    let member = anchors.verify_leaf(&issued.leaf_der, NOW.plus(Duration::from_secs(3600))).unwrap();
    assert_eq!(member.enrolled, Enrolled { roles: Vec::new(), from: NOW, until: NOW.plus(ENROLMENT_LIFE) });
}

#[test]
fn the_root_signs_only_the_ca_that_it_offered() {
    let (keys, offer) = (keys(), offer());
    assert_eq!(GrantOffer::decode(OFFER), Ok(offer.clone()));
    let good = keys.issuer.ca_certificate(&offer).unwrap();
    assert!(offer.sign(good.clone(), &keys.root).unwrap().is_signed_by(keys.root.public()));
    let others = [
        GrantOffer { number: 2, ..offer.clone() },
        GrantOffer { issuer: NodeId([12; 32]), ..offer.clone() },
        GrantOffer { mesh: "other".parse().unwrap(), ..offer.clone() },
        GrantOffer { not_after: offer.not_after.plus(DAY), ..offer.clone() },
        GrantOffer { not_before: offer.not_before.minus(DAY), ..offer.clone() },
    ];
    for other in others {
        let ca = keys.issuer.ca_certificate(&other).unwrap();
        assert!(offer.sign(ca, &keys.root).is_err(), "{other:?}");
    }
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let leaf = {
        let issued = match decode_reply(ACCEPTED, REQUEST, Some(&JOIN_KEY)).unwrap().unwrap().0 {
            Outcome::Issued(issued) => issued,
            other => panic!("{other:?}"),
        };
        issued.leaf_der
    };
    for bad in [unsigned, leaf, [&good[..], &[0]].concat(), Vec::new()] {
        assert!(offer.sign(bad, &keys.root).is_err());
    }
}

#[test]
fn a_second_spelling_is_malformed() {
    // The length of the name, 3, written as a varint of two bytes.
    let position = 2 + 16 + 32;
    assert_eq!(REQUEST[position], 3);
    let longer = [&REQUEST[..position], &[0x83, 0x00], &REQUEST[position + 1..]].concat();
    assert_eq!(decode_join(&longer).unwrap_err(), WireError::Malformed);
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        (any::<u8>(), any::<u8>())
            .prop_map(|(found, supported)| Refusal::UnsupportedVersion { found, supported }),
        Just(Refusal::Malformed),
        Just(Refusal::UnknownTicket),
        (any::<u64>(), any::<u64>()).prop_map(|(issuer, newcomer)| Refusal::ClockSkew {
            issuer: UnixMillis(issuer),
            newcomer: UnixMillis(newcomer)
        }),
        any::<u64>().prop_map(|at| Refusal::TicketExpired { at: UnixMillis(at) }),
        "[a-z0-9]{1,63}".prop_map(|name| Refusal::NameTaken { name: name.parse().unwrap() }),
        Just(Refusal::Internal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn requests_round_trip(ticket_id: [u8; 16], ticket_hash: [u8; 32], name in "[a-z0-9]{1,63}",
                           nonce: [u8; 32], time: u64, key: [u8; 32],
                           shown in btree_map(any::<u16>(), vec(any::<u8>(), 0..99), 0..=KINDS_MAX)) {
        let keys = keys();
        let claim = claim(&keys, nonce, UnixMillis(time));
        let shown = shown.into_iter();
        let evidence = shown.map(|(kind, bytes)| Evidence { kind: AttestationKind(kind), bytes }).collect();
        let body = JoinBody { ticket_id, ticket_hash, name: name.parse().unwrap(), claim, evidence };
        let bytes = encode_join(&body, (&keys.node, &keys.leaf, &keys.routing), &key).unwrap();
        prop_assert!(bytes.len() <= REQUEST_MAX);
        let read = decode_join(&bytes).unwrap();
        prop_assert_eq!(&read.body, &body);
        prop_assert!(read.is_authenticated_by(&key) && read.is_proved(&body.claim));
    }
}

proptest! {
    #[test]
    fn replies_round_trip(refusal in refusal(), request: Vec<u8>, key: Option<[u8; 32]>) {
        let outcome = Outcome::Refused(refusal);
        let bytes = encode_reply(&request, outcome.clone(), key.as_ref()).unwrap();
        let authenticity = if key.is_some() { Authenticity::Good } else { Authenticity::Absent };
        prop_assert_eq!(decode_reply(&bytes, &request, key.as_ref()), Ok(Some((outcome, authenticity))));
    }

    #[test]
    fn garbage_is_refused(bytes: Vec<u8>, position in 0..REQUEST.len(), bit in 0_u8..8) {
        prop_assert!(decode_join(&bytes).is_err());
        prop_assert!(decode_renew(&bytes).is_err());
        prop_assert!(decode_reply(&bytes, REQUEST, None).is_err());
        prop_assert!(MeshInfo::decode(&bytes).is_err());
        let mut altered = REQUEST.to_vec();
        altered[position] ^= 1 << bit;
        prop_assert!(!decode_join(&altered).is_ok_and(|request| request.is_authenticated_by(&JOIN_KEY)));
    }
}
