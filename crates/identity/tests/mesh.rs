//! A mesh is made, invites, admits, refuses and renews.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use std::path::PathBuf;
use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::join::REQUEST_MAX;
use meshara_identity::*;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// With one issuer and no other setting.
const LEAF_LIFE: Duration = DAY;

struct Mesh {
    dir: TempDir,
    alice: Identity,
    issuer: Issuer,
}

impl Mesh {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("alice");
        let alice =
            create_mesh(&home, &"lab".parse().unwrap(), &"alice".parse().unwrap(), None, NOW).unwrap();
        let issuer = home::open_issuer(&home, alice.membership.anchors(), None).unwrap().unwrap();
        Self { dir, alice, issuer }
    }

    fn ticket(&self, uses: u32) -> Ticket {
        self.issuer.invite(DAY, uses, vec!["127.0.0.1:4433".parse().unwrap()], NOW).unwrap().ticket
    }

    fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

struct Node {
    name: NodeName,
    node: NodeKey,
    routing: RoutingKey,
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            name: name.parse().unwrap(),
            node: NodeKey::generate().unwrap(),
            routing: RoutingKey::generate().unwrap(),
        }
    }

    fn client(&self, ticket: &Ticket, now: UnixMillis) -> JoinClient {
        JoinClient::new(ticket.clone(), self.name.clone(), &self.node, &self.routing, now).unwrap()
    }

    fn join(&self, mesh: &Mesh, ticket: &Ticket) -> Result<Membership, JoinError> {
        self.join_at(mesh, ticket, NOW)
    }

    fn join_at(&self, mesh: &Mesh, ticket: &Ticket, now: UnixMillis) -> Result<Membership, JoinError> {
        let client = self.client(ticket, now);
        client.open_reply(&mesh.issuer.handle_join(client.request(), now).reply, now)
    }
}

fn refused(refusal: Refusal, authentic: bool) -> JoinError {
    JoinError::Refused { refusal, authentic }
}

#[test]
fn a_newcomer_becomes_a_member() {
    let mesh = Mesh::new();
    let text = mesh.ticket(1).to_string();
    let home = mesh.home("bob");
    let (client, node, routing) =
        home::begin_join(&home, text.parse().unwrap(), "bob".parse().unwrap(), None, NOW).unwrap();
    assert!(client.request().len() <= REQUEST_MAX);

    let info = MeshInfo::decode(&mesh.alice.membership.mesh_info().encode().unwrap()).unwrap();
    let met = info.check(client.ticket(), mesh.alice.membership.leaf_der(), NOW).unwrap();
    assert_eq!(met.name.as_str(), "alice");

    let answer = mesh.issuer.handle_join(client.request(), NOW);
    assert_eq!(answer.outcome.as_ref().unwrap().name.as_str(), "bob");
    let membership = client.open_reply(&answer.reply, NOW).unwrap();
    home::finish(&home, node, routing, membership, None).unwrap();

    let bob = home::load(&home, None).unwrap();
    let member = mesh.alice.membership.anchors().verify_leaf(bob.membership.leaf_der(), NOW).unwrap();
    assert_eq!(&member, bob.membership.member());
    assert_eq!(member.spiffe_id.to_string(), "spiffe://lab/node/bob");
    assert_eq!(member.node_id, bob.node.node_id());
    assert_eq!(member.routing_key, bob.routing.public_key());
    assert_eq!(member.not_after, NOW.plus(LEAF_LIFE));
    assert_eq!(member.not_before, NOW.minus(Duration::from_secs(600)));
    assert_eq!(member.address, MeshAddress::derive(&client.ticket().mesh_id(), &member.node_id));
    assert_eq!(member.serial.len(), 16);
    bob.membership.leaf_key().pkcs8_der().unwrap();

    let again = home::begin_join(&home, text.parse().unwrap(), "bob".parse().unwrap(), None, NOW);
    assert!(matches!(again.unwrap_err(), HomeError::File(FileError::AlreadyExists { .. })));
}

#[test]
fn a_repeat_consumes_nothing_and_a_second_node_is_refused() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(1);
    let (bob, carol) = (Node::new("bob"), Node::new("carol"));
    let client = bob.client(&ticket, NOW);
    // Two replies are lost; the third arrives. Then the machine starts again with a new leaf key.
    for _ in 0..2 {
        mesh.issuer.handle_join(client.request(), NOW).outcome.unwrap();
    }
    client.open_reply(&mesh.issuer.handle_join(client.request(), NOW).reply, NOW).unwrap();
    bob.join(&mesh, &ticket).unwrap();

    assert_eq!(carol.join(&mesh, &ticket).unwrap_err(), refused(Refusal::TicketUsed, true));
    let renamed = Node { name: "robert".parse().unwrap(), ..bob };
    assert_eq!(
        renamed.join(&mesh, &ticket).unwrap_err(),
        refused(Refusal::AlreadyNamed { name: "bob".parse().unwrap() }, true)
    );
}

#[test]
fn refusals_consume_no_use_and_lock_nobody_out() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(1);
    for _ in 0..20 {
        let error = Node::new("alice").join(&mesh, &ticket).unwrap_err();
        assert_eq!(error, refused(Refusal::NameTaken { name: "alice".parse().unwrap() }, true));
    }
    Node::new("bob").join(&mesh, &ticket).unwrap();
}

#[test]
fn a_ticket_lives_for_milliseconds() {
    let mesh = Mesh::new();
    let invite = mesh.issuer.invite(Duration::from_secs(1), 2, vec![], NOW).unwrap();
    assert_eq!(invite.expires_at, UnixMillis(NOW.0 + 1000));
    let bob = Node::new("bob");
    bob.join_at(&mesh, &invite.ticket, UnixMillis(NOW.0 + 999)).unwrap();
    let late = UnixMillis(NOW.0 + 1000);
    let expired = refused(Refusal::TicketExpired { at: invite.expires_at }, true);
    assert_eq!(Node::new("carol").join_at(&mesh, &invite.ticket, late).unwrap_err(), expired);
    // Bob's reply may have been lost; he may fetch it for ten more minutes.
    bob.join_at(&mesh, &invite.ticket, late).unwrap();
    let too_late = invite.expires_at.plus(Duration::from_secs(600));
    assert_eq!(bob.join_at(&mesh, &invite.ticket, too_late).unwrap_err(), expired);

    assert_eq!(mesh.issuer.invite(Duration::ZERO, 1, vec![], NOW).unwrap_err(), IssuerError::EmptyTicket);
    assert_eq!(mesh.issuer.invite(DAY, 0, vec![], NOW).unwrap_err(), IssuerError::EmptyTicket);
}

#[test]
fn state_survives_a_restart() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(1);
    Node::new("bob").join(&mesh, &ticket).unwrap();
    let home = mesh.home("alice");
    let second = home::open_issuer(&home, mesh.alice.membership.anchors(), None);
    assert!(matches!(
        second.unwrap_err(),
        HomeError::Issuer(IssuerError::Store(issuer::StoreError::InUse { .. }))
    ));
    let Mesh { dir, alice, issuer } = mesh;
    drop(issuer);
    let issuer = home::open_issuer(&home, alice.membership.anchors(), None).unwrap().unwrap();
    let mesh = Mesh { dir, alice, issuer };
    assert_eq!(Node::new("carol").join(&mesh, &ticket).unwrap_err(), refused(Refusal::TicketUsed, true));
    let taken = Node::new("bob").join(&mesh, &mesh.ticket(1)).unwrap_err();
    assert_eq!(taken, refused(Refusal::NameTaken { name: "bob".parse().unwrap() }, true));
    assert_eq!(mesh.issuer.members().unwrap().len(), 2);
}

#[test]
fn unknown_tickets_and_foreign_meshes() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let bob = Node::new("bob");
    let foreign = other.ticket(1);
    assert_eq!(bob.join(&mesh, &foreign).unwrap_err(), refused(Refusal::UnknownTicket, false));

    let info = mesh.alice.membership.mesh_info();
    assert_eq!(
        info.check(&foreign, mesh.alice.membership.leaf_der(), NOW).unwrap_err(),
        MeshInfoError::WrongRoot
    );
    // Right root, but the peer shows another mesh's certificate.
    assert_eq!(
        info.check(&mesh.ticket(1), other.alice.membership.leaf_der(), NOW).unwrap_err(),
        MeshInfoError::Leaf(LeafError::UnknownIssuer)
    );
}

#[test]
fn clocks_two_hours_off_are_told_so() {
    let mesh = Mesh::new();
    let (bob, ticket) = (Node::new("bob"), mesh.ticket(1));
    for newcomer in [NOW.minus(Duration::from_secs(7200)), NOW.plus(Duration::from_secs(7200))] {
        let client = bob.client(&ticket, newcomer);
        let answer = mesh.issuer.handle_join(client.request(), NOW);
        let refusal = Refusal::ClockSkew { issuer: NOW, newcomer };
        assert_eq!(client.open_reply(&answer.reply, newcomer).unwrap_err(), refused(refusal, true));
    }
    let leaf = mesh.alice.membership.leaf_der();
    let anchors = mesh.alice.membership.anchors();
    let early = NOW.minus(Duration::from_secs(7200));
    let not_before = NOW.minus(Duration::from_secs(600));
    let error = anchors.verify_leaf(leaf, early).unwrap_err();
    assert_eq!(error, LeafError::NotYetValid { not_before, now: early });
    assert!(error.to_string().contains("set the clock"), "{error}");
    let late = NOW.plus(LEAF_LIFE).plus(Duration::from_secs(7200));
    let error = anchors.verify_leaf(leaf, late).unwrap_err();
    assert_eq!(error, LeafError::Expired { not_after: NOW.plus(LEAF_LIFE), now: late });
    assert!(error.to_string().contains("set the clock"), "{error}");
    assert_eq!(mesh.alice.membership.valid_at(late), Err(error));
}

#[test]
fn requests_are_authentic_to_the_last_bit() {
    let mesh = Mesh::new();
    let (bob, ticket) = (Node::new("bob"), mesh.ticket(1));
    let client = bob.client(&ticket, NOW);
    let request = client.request();
    for position in (0..request.len()).step_by(97) {
        let mut altered = request.to_vec();
        altered[position] ^= 1;
        let answer = mesh.issuer.handle_join(&altered, NOW);
        assert!(answer.outcome.is_err(), "byte {position}");
        assert_eq!(client.open_reply(&answer.reply, NOW).unwrap_err(), JoinError::OtherRequest);
    }
    let outcome = |bytes: &[u8]| mesh.issuer.handle_join(bytes, NOW).outcome.unwrap_err();
    let mut mac = request.to_vec();
    *mac.last_mut().unwrap() ^= 1;
    assert_eq!(outcome(&mac), Refusal::BadMac);
    assert_eq!(outcome(&request[..request.len() - 1]), Refusal::Malformed);
    assert_eq!(outcome(&[request, &[0]].concat()), Refusal::Malformed);
    assert_eq!(outcome(&[]), Refusal::Malformed);
    assert_eq!(outcome(&vec![1; REQUEST_MAX + 1]), Refusal::Malformed);
    let newer = [&[2], &request[1..]].concat();
    assert_eq!(outcome(&newer), Refusal::UnsupportedVersion { found: 2, supported: 1 });
    mesh.issuer.handle_join(request, NOW).outcome.unwrap();
}

#[test]
fn replies_are_authentic_to_the_last_bit() {
    let mesh = Mesh::new();
    let (bob, ticket) = (Node::new("bob"), mesh.ticket(1));
    let client = bob.client(&ticket, NOW);
    let reply = mesh.issuer.handle_join(client.request(), NOW).reply;
    for position in (0..reply.len()).step_by(211).chain([reply.len() - 1, reply.len() - 33]) {
        let mut altered = reply.clone();
        altered[position] ^= 1;
        assert!(client.open_reply(&altered, NOW).is_err(), "byte {position}");
    }
    // A carrying member strips the MAC from a refusal, or makes one up.
    let taken = Node::new("alice").client(&ticket, NOW);
    let mut plain = mesh.issuer.handle_join(taken.request(), NOW).reply;
    plain.truncate(plain.len() - 33);
    plain.push(0);
    assert_eq!(taken.open_reply(&plain, NOW).unwrap_err(), JoinError::NotAuthentic);
    client.open_reply(&reply, NOW).unwrap();
}

#[test]
fn a_member_renews_also_after_its_end() {
    let mesh = Mesh::new();
    let bob = Node::new("bob");
    let membership = bob.join(&mesh, &mesh.ticket(1)).unwrap();
    for later in [NOW.plus(LEAF_LIFE / 2), NOW.plus(LEAF_LIFE * 3)] {
        let client = RenewClient::new(&membership, &bob.node, &bob.routing, later).unwrap();
        let renewed =
            client.open_reply(&mesh.issuer.renew(client.request(), None, later).reply, later).unwrap();
        assert_eq!(renewed.member().name, bob.name);
        assert_eq!(renewed.member().node_id, bob.node.node_id());
        assert_ne!(renewed.member().serial, membership.member().serial);
        assert_eq!(renewed.member().not_after, later.plus(LEAF_LIFE));
    }
    let stranger = Node::new("bob");
    let client = RenewClient::new(&membership, &stranger.node, &stranger.routing, NOW).unwrap();
    assert_eq!(mesh.issuer.renew(client.request(), None, NOW).outcome, Err(Refusal::NotAMember));
}

#[test]
fn the_issuer_renews_its_own_leaf_once_half_of_its_life_is_over() {
    let mut mesh = Mesh::new();
    let home = mesh.home("alice");
    let mut renew = |now| home::renew_issuer(&home, &mut mesh.alice, &mesh.issuer, None, now).unwrap();
    assert!(!renew(NOW.plus(LEAF_LIFE / 2)));
    assert!(!renew(NOW.minus(DAY)), "a clock before the leaf is wrong and renews nothing");
    let ended = NOW.plus(LEAF_LIFE * 3);
    assert!(renew(ended));
    assert!(!renew(ended));
    let kept = home::load(&home, None).unwrap().membership;
    assert_eq!(kept.valid_at(ended), Ok(()));
    assert_eq!(kept.member(), mesh.alice.membership.member());
    assert_eq!(kept.member().name.as_str(), "alice");
    assert_eq!(kept.member().node_id, mesh.alice.node.node_id());
}

#[test]
fn the_issuer_renews_nothing_that_would_not_last_longer() {
    let mut mesh = Mesh::new();
    let home = mesh.home("alice");
    let grant_end = mesh.alice.membership.anchors().grants()[0].statement.not_after;
    let mut renew = |now| home::renew_issuer(&home, &mut mesh.alice, &mesh.issuer, None, now).unwrap();
    assert!(renew(grant_end.minus(DAY)), "as long as the grant");
    assert!(!renew(grant_end.minus(DAY / 2)));
    assert_eq!(mesh.alice.membership.member().not_after, grant_end);
}

#[test]
fn a_member_joins_again_with_a_new_ticket_once_its_membership_is_moved_away() {
    let mesh = Mesh::new();
    let home = mesh.home("bob");
    let join = |now| {
        let ticket = mesh.issuer.invite(DAY, 1, vec![], now).unwrap().ticket;
        let (client, node, routing) = home::begin_join(&home, ticket, "bob".parse().unwrap(), None, now)?;
        let reply = mesh.issuer.handle_join(client.request(), now).reply;
        home::finish(&home, node, routing, client.open_reply(&reply, now).unwrap(), None)
    };
    let first = join(NOW).unwrap();
    let ended = NOW.plus(LEAF_LIFE * 2);
    assert!(matches!(join(ended).unwrap_err(), HomeError::File(FileError::AlreadyExists { .. })));
    std::fs::rename(home.join(home::MEMBERSHIP), home.join("membership.ended")).unwrap();
    let second = join(ended).unwrap();
    assert_eq!(second.node.node_id(), first.node.node_id());
    assert_eq!(second.membership.valid_at(ended), Ok(()));
}

#[test]
fn grants_of_another_root_make_no_trust() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let (ours, theirs) = (mesh.alice.membership.anchors(), other.alice.membership.anchors());
    let new = |root: &RootPublic, mesh: &str, grants: &[IssuerGrant]| {
        TrustAnchors::new(root.clone(), mesh.parse().unwrap(), grants.to_vec()).unwrap_err()
    };
    assert_eq!(new(ours.root(), "lab", theirs.grants()), TrustError::BadSignature { number: 1 });
    assert_eq!(new(ours.root(), "lab", &[]), TrustError::NoGrants);
    assert_eq!(
        new(ours.root(), "other", ours.grants()),
        TrustError::WrongMesh { number: 1, found: "lab".parse().unwrap() }
    );
    let many = vec![ours.grants()[0].clone(); 17];
    assert_eq!(new(ours.root(), "lab", &many), TrustError::TooManyGrants(17));
    assert_eq!(ours.verify_leaf(other.alice.membership.leaf_der(), NOW), Err(LeafError::UnknownIssuer));
}

#[test]
fn altered_leaves_are_refused() {
    let mesh = Mesh::new();
    let leaf = mesh.alice.membership.leaf_der();
    for position in (0..leaf.len()).step_by(61) {
        let mut altered = leaf.to_vec();
        altered[position] ^= 1;
        assert!(mesh.alice.membership.anchors().verify_leaf(&altered, NOW).is_err(), "byte {position}");
    }
    let anchors = mesh.alice.membership.anchors();
    assert_eq!(anchors.verify_leaf(b"", NOW), Err(LeafError::Malformed));
    assert_eq!(anchors.verify_leaf(&[leaf, &[0]].concat(), NOW), Err(LeafError::Malformed));
}
