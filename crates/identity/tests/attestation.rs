//! What tickets ask for beside themselves: an operator's approval, the issuer's list, evidence of further kinds.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::issuer::{
    APPLICANTS_MAX, Allowed, Applicant, Application, Asking, AttestationKind, Attestor, EVIDENCE_MAX,
    Evidence, Gate, Unattested, Verdict,
};
use meshara_identity::*;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct Mesh {
    _dir: TempDir,
    _alice: Identity,
    issuer: Issuer,
}

impl Mesh {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (mesh, name) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let alice = create_mesh(dir.path(), &mesh, &name, None, NOW).unwrap();
        let issuer = home::open_issuer(dir.path(), alice.membership.anchors(), None).unwrap().unwrap();
        Self { _dir: dir, _alice: alice, issuer }
    }

    fn ticket(&self, kinds: &[AttestationKind], uses: u32) -> Ticket {
        let addrs = vec!["127.0.0.1:4433".parse().unwrap()];
        self.issuer.invite_attested(&roles(&["staff"]), kinds, HOUR, uses, addrs, NOW).unwrap().ticket
    }
}

impl Mesh {
    /// What an operator decides who looks now.
    fn decide(&self, about: &Node, approved: bool, given: &[&str]) -> Option<Application> {
        let asked = self.issuer.applications(NOW).unwrap();
        let id = asked.iter().find(|one| one.node == about.node.node_id())?.id;
        self.issuer.answer_application(&id, approved, &roles(given), NOW).unwrap()
    }
}

struct Node {
    node: NodeKey,
    routing: RoutingKey,
}

impl Node {
    fn new() -> Self {
        Self { node: NodeKey::generate().unwrap(), routing: RoutingKey::generate().unwrap() }
    }

    fn join_with(
        &self,
        mesh: &Mesh,
        ticket: &Ticket,
        name: &str,
        evidence: Vec<Evidence>,
    ) -> Result<Membership, JoinError> {
        let keys = (&self.node, &self.routing);
        let client =
            JoinClient::with_evidence(ticket.clone(), name.parse().unwrap(), keys, evidence, NOW).unwrap();
        client.open_reply(&mesh.issuer.handle_join(client.request(), NOW).reply, NOW)
    }

    fn join(&self, mesh: &Mesh, ticket: &Ticket, name: &str) -> Result<Membership, JoinError> {
        self.join_with(mesh, ticket, name, Vec::new())
    }
}

fn roles(names: &[&str]) -> Vec<RoleName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn refused(refusal: Refusal) -> JoinError {
    JoinError::Refused { refusal, authentic: true }
}

#[test]
fn a_node_waits_until_an_operator_approves_it_under_its_name() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(&[AttestationKind::APPROVAL], 1);
    let (bob, carol) = (Node::new(), Node::new());
    for _ in 0..2 {
        assert_eq!(bob.join(&mesh, &ticket, "bob").unwrap_err(), refused(Refusal::AwaitingApproval));
    }
    let asked = mesh.issuer.applications(NOW).unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].node, asked[0].name.as_str()), (bob.node.node_id(), "bob"));
    assert_eq!(asked[0].decision, Verdict::Waiting);
    assert_eq!(asked[0].ticket_roles, roles(&["staff"]));
    let decided = mesh.decide(&bob, true, &["db"]).unwrap();
    assert_eq!(decided.decision, Verdict::Approved);
    // What was approved is a name for a node: neither another name nor another node.
    assert_eq!(carol.join(&mesh, &ticket, "bob").unwrap_err(), refused(Refusal::AwaitingApproval));
    let member = bob.join(&mesh, &ticket, "bob").unwrap();
    assert_eq!(member.member().enrolled.roles, roles(&["db", "staff"]));
    let left: Vec<_> = mesh.issuer.applications(NOW).unwrap().iter().map(|one| one.node).collect();
    assert_eq!(left, [carol.node.node_id()]);
    // A lost reply is fetched again without a further decision, and the ticket's only use was not spent by waiting.
    bob.join(&mesh, &ticket, "bob").unwrap();
}

/// Lets one certificate through.
#[derive(Debug, Default)]
struct One(AtomicUsize);

impl Gate for One {
    fn admit(&self, _: &Asking<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn count(&self, _: &NodeId, _: UnixMillis) -> Result<(), Refusal> {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 { Ok(()) } else { Err(Refusal::TooOften) }
    }

    fn distrusts(&self, _: &NodeId) -> bool {
        false
    }
}

#[test]
fn only_certificates_count_against_a_nodes_rate_and_one_too_many_spends_nothing() {
    let mesh = Mesh::new();
    mesh.issuer.guard_with(Arc::new(One::default()));
    let ticket = mesh.ticket(&[AttestationKind::APPROVAL], 2);
    let (bob, carol) = (Node::new(), Node::new());
    for _ in 0..20 {
        assert_eq!(bob.join(&mesh, &ticket, "bob").unwrap_err(), refused(Refusal::AwaitingApproval));
    }
    carol.join(&mesh, &ticket, "carol").unwrap_err();
    for node in [&bob, &carol] {
        mesh.decide(node, true, &[]).unwrap();
    }
    bob.join(&mesh, &ticket, "bob").unwrap();
    assert_eq!(carol.join(&mesh, &ticket, "carol").unwrap_err(), refused(Refusal::TooOften));
    assert_eq!(mesh.issuer.members().unwrap().len(), 2);
}

#[test]
fn another_name_waits_anew_and_who_was_declined_stays_out() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(&[AttestationKind::APPROVAL], 2);
    let bob = Node::new();
    bob.join(&mesh, &ticket, "bob").unwrap_err();
    mesh.decide(&bob, true, &[]).unwrap();
    assert_eq!(bob.join(&mesh, &ticket, "admin").unwrap_err(), refused(Refusal::AwaitingApproval));
    assert_eq!(mesh.issuer.applications(NOW).unwrap()[0].name.as_str(), "admin");
    mesh.decide(&bob, false, &[]).unwrap();
    assert_eq!(bob.join(&mesh, &ticket, "admin").unwrap_err(), refused(Refusal::Declined));
    assert_eq!(mesh.issuer.members().unwrap().len(), 1);
    // An ordinary ticket of the operator is a decision of its own.
    bob.join(&mesh, &mesh.ticket(&[], 1), "bob").unwrap();
}

#[test]
fn an_approval_is_for_what_was_looked_at_and_ends_with_its_ticket() {
    let mesh = Mesh::new();
    let (plain, other) =
        (mesh.ticket(&[AttestationKind::APPROVAL], 2), mesh.ticket(&[AttestationKind::APPROVAL], 2));
    let bob = Node::new();
    let waits = refused(Refusal::AwaitingApproval);
    assert_eq!(bob.join(&mesh, &plain, "laptop7").unwrap_err(), waits);
    let looked_at = mesh.issuer.applications(NOW).unwrap()[0].id;
    // Meanwhile it asks under another name, or with another ticket: the decision that comes then is for nobody.
    for (ticket, name) in [(&plain, "db"), (&other, "laptop7")] {
        assert_eq!(bob.join(&mesh, ticket, name).unwrap_err(), waits);
        assert_eq!(mesh.issuer.answer_application(&looked_at, true, &[], NOW).unwrap(), None);
        assert_eq!(bob.join(&mesh, ticket, name).unwrap_err(), waits);
    }
    bob.join(&mesh, &plain, "laptop7").unwrap_err();
    let decided = mesh.issuer.answer_application(&looked_at, true, &[], NOW).unwrap().unwrap();
    assert_eq!((decided.name.as_str(), decided.id), ("laptop7", looked_at));
    // What was approved with one ticket opens no other one.
    assert_eq!(bob.join(&mesh, &other, "laptop7").unwrap_err(), waits);
    bob.join(&mesh, &plain, "laptop7").unwrap_err();
    mesh.decide(&bob, true, &[]).unwrap();
    let after = NOW.plus(HOUR);
    assert_eq!(mesh.issuer.applications(after).unwrap(), [], "its ticket has ended");
    assert_eq!(mesh.issuer.answer_application(&looked_at, true, &[], after).unwrap(), None);
    bob.join(&mesh, &plain, "laptop7").unwrap();
}

#[test]
fn only_listed_nodes_join_with_a_ticket_for_the_list() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(&[AttestationKind::LISTED], 5);
    let (bob, carol) = (Node::new(), Node::new());
    assert_eq!(bob.join(&mesh, &ticket, "bob").unwrap_err(), refused(Refusal::NotListed));
    let listed =
        Allowed { node: bob.node.node_id(), name: Some("bob".parse().unwrap()), roles: roles(&["db"]) };
    mesh.issuer.allow(&listed).unwrap();
    assert_eq!(mesh.issuer.allowed().unwrap(), [listed]);
    assert_eq!(bob.join(&mesh, &ticket, "robert").unwrap_err(), refused(Refusal::NotListed));
    let member = bob.join(&mesh, &ticket, "bob").unwrap();
    assert_eq!(member.member().enrolled.roles, roles(&["db", "staff"]));
    assert_eq!(carol.join(&mesh, &ticket, "carol").unwrap_err(), refused(Refusal::NotListed));
    mesh.issuer.allow(&Allowed { node: carol.node.node_id(), name: None, roles: Vec::new() }).unwrap();
    assert!(mesh.issuer.disallow(&carol.node.node_id()).unwrap().is_some());
    assert_eq!(mesh.issuer.disallow(&carol.node.node_id()).unwrap(), None);
    assert_eq!(carol.join(&mesh, &ticket, "carol").unwrap_err(), refused(Refusal::NotListed));
}

/// A kind from elsewhere: the evidence is the node's own id, backwards.
#[derive(Debug)]
struct Backwards;

const BACKWARDS: AttestationKind = AttestationKind(700);

impl Attestor for Backwards {
    fn attest(&self, applicant: &Applicant<'_>) -> Result<Vec<RoleName>, Unattested> {
        let mut expected = applicant.node.0;
        expected.reverse();
        if applicant.evidence == Some(expected.as_slice()) {
            Ok(roles(&["sealed"]))
        } else {
            Err(Unattested::Refused(Refusal::NotListed))
        }
    }
}

#[test]
fn a_further_kind_is_one_attestor_more() {
    let mesh = Mesh::new();
    let ticket = mesh.ticket(&[AttestationKind::LISTED, BACKWARDS], 1);
    let bob = Node::new();
    let mut reversed = bob.node.node_id().0;
    reversed.reverse();
    let shown = || vec![Evidence { kind: BACKWARDS, bytes: reversed.to_vec() }];
    mesh.issuer.allow(&Allowed { node: bob.node.node_id(), name: None, roles: Vec::new() }).unwrap();
    let unknown = refused(Refusal::UnknownAttestation { kind: 700 });
    assert_eq!(bob.join_with(&mesh, &ticket, "bob", shown()).unwrap_err(), unknown);
    mesh.issuer.attest_with(BACKWARDS, Arc::new(Backwards));
    assert_eq!(bob.join(&mesh, &ticket, "bob").unwrap_err(), refused(Refusal::NotListed));
    let wrong = vec![Evidence { kind: BACKWARDS, bytes: vec![0; 32] }];
    assert_eq!(bob.join_with(&mesh, &ticket, "bob", wrong).unwrap_err(), refused(Refusal::NotListed));
    let member = bob.join_with(&mesh, &ticket, "bob", shown()).unwrap();
    assert_eq!(member.member().enrolled.roles, roles(&["sealed", "staff"]));
}

#[test]
fn evidence_out_of_bounds_is_malformed() {
    let mesh = Mesh::new();
    let (bob, ticket) = (Node::new(), mesh.ticket(&[], 1));
    let one = |kind, len| Evidence { kind: AttestationKind(kind), bytes: vec![7; len] };
    for evidence in [
        vec![one(1, EVIDENCE_MAX + 1)],
        vec![one(1, 0), one(1, 0)],
        (0..5).map(|kind| one(kind, 0)).collect::<Vec<_>>(),
    ] {
        let error = bob.join_with(&mesh, &ticket, "bob", evidence).unwrap_err();
        assert_eq!(error, JoinError::Refused { refusal: Refusal::Malformed, authentic: false });
    }
    // What nobody asked for does no harm.
    bob.join_with(&mesh, &ticket, "bob", vec![one(9, EVIDENCE_MAX)]).unwrap();
}

#[test]
fn who_holds_one_ticket_does_not_drive_out_those_who_wait_with_another() {
    let mesh = Mesh::new();
    let first = mesh.ticket(&[AttestationKind::APPROVAL], 1);
    let flood = mesh.ticket(&[AttestationKind::APPROVAL], 1);
    let bob = Node::new();
    bob.join(&mesh, &first, "bob").unwrap_err();
    for n in 0..70 {
        Node::new().join(&mesh, &flood, &format!("n{n}")).unwrap_err();
    }
    let asked = mesh.issuer.applications(NOW).unwrap();
    assert_eq!(asked.len(), 65);
    assert!(asked.len() < APPLICANTS_MAX);
    assert!(asked.iter().any(|one| one.node == bob.node.node_id()));
}

#[test]
fn a_ticket_asks_for_few_kinds_each_once() {
    let mesh = Mesh::new();
    let invite = |kinds: &[u16]| {
        let kinds: Vec<_> = kinds.iter().copied().map(AttestationKind).collect();
        mesh.issuer.invite_attested(&[], &kinds, HOUR, 1, Vec::new(), NOW).map(|_| ())
    };
    assert_eq!(invite(&[1, 2, 3, 4]), Ok(()));
    for wrong in [&[1, 1][..], &[2, 1], &[1, 2, 3, 4, 5]] {
        assert_eq!(invite(wrong), Err(IssuerError::Kinds), "{wrong:?}");
    }
}
