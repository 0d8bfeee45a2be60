//! Several issuers, renewal by any of them, and how long a node stays enrolled.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshara_identity::home::{self, Identity};
use meshara_identity::issuer::{
    Asking, Enrolled, Gate, Issuance, Record, RecordError, RoleChange, RolesError,
};
use meshara_identity::*;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

struct Mesh {
    dir: TempDir,
    alice: Identity,
    issuer: Issuer,
}

impl Mesh {
    fn with(lives: Lives) -> Self {
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("alice");
        let (mesh, name) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let alice = create_mesh_with(&home, &mesh, &name, lives, None, NOW).unwrap();
        let issuer = home::open_issuer(&home, alice.membership.anchors(), None).unwrap().unwrap();
        Self { dir, alice, issuer }
    }

    fn new() -> Self {
        Self::with(Lives::default())
    }

    fn join_as(&self, name: &str, roles: &[RoleName], now: UnixMillis) -> Identity {
        let ticket = self.issuer.invite_as(roles, HOUR, 1, Vec::new(), now).unwrap().ticket;
        let home = self.dir.path().join(name);
        let (client, node, routing) =
            home::begin_join(&home, ticket, name.parse().unwrap(), None, now).unwrap();
        let reply = self.issuer.handle_join(client.request(), now).reply;
        home::finish(&home, node, routing, client.open_reply(&reply, now).unwrap(), None).unwrap()
    }

    fn join(&self, name: &str) -> Identity {
        self.join_as(name, &[], NOW)
    }

    /// What the holder of the root does to make a member an issuer.
    fn grant(&self, member: &Identity, now: UnixMillis) -> (IssuerKey, IssuerGrant) {
        let root = home::load_root(&self.dir.path().join("alice"), None).unwrap();
        let node = member.node.node_id();
        let offer = GrantOffer::new("lab".parse().unwrap(), node, 1, self.issuer.lives(), now);
        let key = IssuerKey::generate().unwrap();
        let grant = offer.sign(key.ca_certificate(&offer).unwrap(), &root).unwrap();
        (key, grant)
    }

    /// Makes a member an issuer, and alice know of it.
    fn second(&self, name: &str, member: &Identity) -> Issuer {
        let (key, grant) = self.grant(member, NOW);
        let anchors = member.membership.anchors().merged(std::slice::from_ref(&grant), NOW).unwrap().unwrap();
        let home = self.dir.path().join(name);
        let made = home::become_issuer(&home, key, grant, anchors.clone(), None).unwrap();
        self.issuer.set_anchors(Arc::new(anchors)).unwrap();
        made
    }
}

fn request(of: &Identity, now: UnixMillis) -> RenewClient {
    RenewClient::new(&of.membership, &of.node, &of.routing, now).unwrap()
}

fn renewed(of: &Identity, by: &Issuer, now: UnixMillis) -> Result<Membership, JoinError> {
    let client = request(of, now);
    client.open_reply(&by.renew(client.request(), Some(of.node.node_id()), now).reply, now)
}

fn refused(refusal: Refusal) -> JoinError {
    JoinError::Refused { refusal, authentic: false }
}

#[test]
fn any_issuer_renews_what_another_issued() {
    let mesh = Mesh::new();
    let (bob, carol) = (mesh.join("bob"), mesh.join_as("carol", &["db".parse().unwrap()], NOW));
    let second = mesh.second("bob", &bob);
    // Alice is gone. Carol doesn't know of bob's grant before his reply.
    let later = NOW.plus(DAY / 2);
    let first = carol.membership.member();
    let next = renewed(&carol, &second, later).unwrap();
    let member = next.member();
    assert_eq!((&member.name, member.node_id), (&first.name, first.node_id));
    assert_ne!(member.serial, first.serial);
    assert_eq!(member.enrolled, first.enrolled, "name, roles and enrolment are what they were");
    assert_eq!(member.enrolled.roles, ["db".parse().unwrap()]);
    assert_eq!(next.anchors().issuer_of(next.leaf_der()), Some(bob.node.node_id()));
    assert_eq!(next.anchors().grants().len(), 2);
    // And alice renews what bob issued.
    home::store_membership(&mesh.dir.path().join("carol"), carol.node.node_id(), &next, None).unwrap();
    let carol = home::load(&mesh.dir.path().join("carol"), None).unwrap();
    let back = renewed(&carol, &mesh.issuer, later).unwrap();
    assert_eq!(back.anchors().issuer_of(back.leaf_der()), Some(mesh.alice.node.node_id()));
}

#[test]
fn leaves_live_an_hour_once_a_second_issuer_is_there() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    assert_eq!(bob.membership.member().life(), DAY);
    let second = mesh.second("bob", &bob);
    for issuer in [&mesh.issuer, &second] {
        assert_eq!(issuer.leaf_life(NOW), HOUR);
        assert_eq!(renewed(&bob, issuer, NOW).unwrap().member().life(), HOUR);
    }
    // A life that was set holds however many there are, and for every issuer.
    let minute = Duration::from_secs(60);
    let mesh = Mesh::with(Lives::new(Some(minute), 2 * DAY).unwrap());
    let bob = mesh.join("bob");
    let second = mesh.second("bob", &bob);
    for made in [bob.membership, renewed(&mesh.alice, &second, NOW).unwrap()] {
        assert_eq!(made.member().life(), minute);
        assert_eq!(made.member().enrolled.until, NOW.plus(2 * DAY));
    }
}

#[test]
fn an_enrolment_is_extended_by_who_is_heard_of_and_ends_otherwise() {
    let mesh = Mesh::with(Lives::unlimited(None, 10 * DAY));
    let mut bob = mesh.join("bob");
    let home = mesh.dir.path().join("bob");
    let until = NOW.plus(10 * DAY);
    assert_eq!(bob.membership.member().enrolled, Enrolled { roles: Vec::new(), from: NOW, until });
    let early = renewed(&bob, &mesh.issuer, NOW.plus(4 * DAY)).unwrap();
    assert_eq!(early.member().enrolled.until, until);
    let asleep = NOW.plus(9 * DAY);
    let late = renewed(&bob, &mesh.issuer, asleep).unwrap();
    assert_eq!(
        late.member().enrolled,
        Enrolled { roles: Vec::new(), from: NOW, until: asleep.plus(10 * DAY) }
    );
    // The issuer remembers that, although the leaf that is shown says less.
    let at = NOW.plus(12 * DAY);
    assert_eq!(renewed(&bob, &mesh.issuer, at).unwrap().member().enrolled.until, asleep.plus(10 * DAY));

    let gone = asleep.plus(10 * DAY);
    let ended = refused(Refusal::EnrolmentEnded { at: gone });
    assert_eq!(renewed(&bob, &mesh.issuer, gone).unwrap_err(), ended);
    home::renew(&home, &mut bob, late, None).unwrap();
    assert_eq!(renewed(&bob, &mesh.issuer, gone).unwrap_err(), ended);
    // A new ticket enrols it again, under its name.
    std::fs::remove_file(home.join(home::MEMBERSHIP)).unwrap();
    assert_eq!(mesh.join_as("bob", &[], gone).membership.member().enrolled.from, gone);
}

#[test]
fn no_leaf_outlives_its_enrolment() {
    let mesh = Mesh::with(Lives::unlimited(Some(DAY), DAY / 2));
    assert_eq!(mesh.join("bob").membership.member().not_after, NOW.plus(DAY / 2));
}

#[test]
fn a_renewal_is_the_requesters_alone() {
    let mesh = Mesh::new();
    let (bob, carol) = (mesh.join("bob"), mesh.join("carol"));
    let client = request(&bob, NOW);
    let other = mesh.issuer.renew(client.request(), Some(carol.node.node_id()), NOW);
    assert_eq!(other.outcome, Err(Refusal::OtherNode));
    // Carried by another member it needs no session: the node key proves it.
    client.open_reply(&mesh.issuer.handle_carried(client.request(), NOW).reply, NOW).unwrap();
    // Carol's key with bob's leaf.
    let mixed = RenewClient::new(&bob.membership, &carol.node, &carol.routing, NOW).unwrap();
    assert_eq!(mesh.issuer.renew(mixed.request(), None, NOW).outcome, Err(Refusal::NotAMember));
    // A leaf of another mesh.
    let foreign = Mesh::new().join("bob");
    assert_eq!(renewed(&foreign, &mesh.issuer, NOW).unwrap_err(), refused(Refusal::NotAMember));
    for position in (0..client.request().len()).step_by(101) {
        let mut altered = client.request().to_vec();
        altered[position] ^= 1;
        assert!(mesh.issuer.renew(&altered, None, NOW).outcome.is_err(), "byte {position}");
    }
}

#[test]
fn two_issuers_know_one_name_for_one_node() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    let second = mesh.second("bob", &bob);
    let carol = mesh.join("carol");
    renewed(&carol, &second, NOW).unwrap();
    // Bob has heard of carol, so nobody else gets that name from him.
    let ticket = second.invite(HOUR, 1, Vec::new(), NOW).unwrap().ticket;
    let (client, ..) =
        home::begin_join(&mesh.dir.path().join("x"), ticket, "carol".parse().unwrap(), None, NOW).unwrap();
    let taken = Refusal::NameTaken { name: "carol".parse().unwrap() };
    assert_eq!(second.handle_join(client.request(), NOW).outcome, Err(taken));
}

#[test]
fn what_an_interrupted_grant_leaves_is_no_issuer() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    let home = mesh.dir.path().join("bob");
    let (key, grant) = mesh.grant(&bob, NOW);
    let held = bob.membership.anchors();
    let anchors = held.merged(std::slice::from_ref(&grant), NOW).unwrap().unwrap();
    drop(home::become_issuer(&home, key, grant, anchors, None).unwrap());
    assert!(home::open_issuer(&home, held, None).unwrap().is_none(), "the membership doesn't hold the grant");
    // The next grant writes over it, and counts once the membership holds it.
    let (key, grant) = mesh.grant(&bob, NOW);
    let anchors = held.merged(std::slice::from_ref(&grant), NOW).unwrap().unwrap();
    drop(home::become_issuer(&home, key, grant, anchors.clone(), None).unwrap());
    assert!(home::open_issuer(&home, &anchors, None).unwrap().is_some());
}

#[test]
fn grants_are_merged_once_and_only_the_roots() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    let held = bob.membership.anchors();
    let (_, grant) = mesh.grant(&bob, NOW);
    let merged = held.merged(&[grant.clone(), grant.clone()], NOW).unwrap().unwrap();
    assert_eq!(merged.grants().len(), 2);
    let mut issuers = vec![mesh.alice.node.node_id(), bob.node.node_id()];
    issuers.sort();
    assert_eq!(merged.issuers(NOW), issuers);
    assert_eq!(merged.issuers(NOW.plus(DAY * 365 * 4)), []);
    assert!(merged.merged(&[grant], NOW).unwrap().is_none());
    let foreign = Mesh::new();
    let (_, theirs) = foreign.grant(&foreign.join("bob"), NOW);
    assert_eq!(held.merged(&[theirs], NOW).unwrap_err(), TrustError::BadSignature { number: 1 });
    // Sixteen fit, and those that have ended make room.
    let root = home::load_root(&mesh.dir.path().join("alice"), None).unwrap();
    let make = |number, now| {
        let offer =
            GrantOffer::new("lab".parse().unwrap(), bob.node.node_id(), number, Lives::default(), now);
        let key = IssuerKey::generate().unwrap();
        offer.sign(key.ca_certificate(&offer).unwrap(), &root).unwrap()
    };
    let many: Vec<_> = (2..=16).map(|number| make(number, NOW)).collect();
    let full = held.merged(&many, NOW).unwrap().unwrap();
    let next = make(17, NOW);
    assert_eq!(full.merged(&[next], NOW).unwrap_err(), TrustError::TooManyGrants(17));
    let later = NOW.plus(DAY * 365 * 4);
    assert_eq!(full.merged(&[make(18, later)], later).unwrap().unwrap().grants().len(), 16);
}

#[derive(Debug, Default)]
struct Ledger(Mutex<Vec<(String, bool)>>);

impl Record for Ledger {
    fn record(&self, issuance: &Issuance<'_>) -> Result<Vec<u8>, RecordError> {
        let name = issuance.member.name.to_string();
        if name == "mallory" {
            return Err(RecordError("full".to_owned()));
        }
        self.0.lock().unwrap().push((name, issuance.enrolment.is_some()));
        Ok(vec![9])
    }

    fn record_roles(&self, _: &NodeId, _: &RoleChange) -> Result<(), RecordError> {
        Ok(())
    }
}

impl Gate for Ledger {
    fn admit(&self, asking: &Asking<'_>) -> Result<(), Refusal> {
        if asking.name.as_str() == "eve" { Err(Refusal::Revoked) } else { Ok(()) }
    }

    fn count(&self, _: &NodeId, _: UnixMillis) -> Result<(), Refusal> {
        Ok(())
    }

    fn distrusts(&self, _: &NodeId) -> bool {
        false
    }
}

#[test]
fn nothing_leaves_that_is_not_recorded_and_nobody_passes_the_gate() {
    let mesh = Mesh::new();
    let ledger = Arc::new(Ledger::default());
    mesh.issuer.record_with(ledger.clone());
    mesh.issuer.guard_with(ledger.clone());
    let bob = mesh.join("bob");
    assert_eq!(bob.membership.promise(), [9]);
    assert_eq!(renewed(&bob, &mesh.issuer, NOW).unwrap().promise(), [9]);
    let seen = || ledger.0.lock().unwrap().clone();
    assert_eq!(seen(), [("bob".to_owned(), true), ("bob".to_owned(), false)]);
    for (name, refusal) in [("mallory", Refusal::Internal), ("eve", Refusal::Revoked)] {
        let ticket = mesh.issuer.invite(HOUR, 1, Vec::new(), NOW).unwrap().ticket;
        let home = mesh.dir.path().join(name);
        let (client, ..) = home::begin_join(&home, ticket, name.parse().unwrap(), None, NOW).unwrap();
        assert_eq!(mesh.issuer.handle_join(client.request(), NOW).outcome, Err(refusal));
    }
    assert_eq!(seen().len(), 2);
}

/// Fails to record while it is told to, and remembers whom it was told to distrust.
#[derive(Debug, Default)]
struct Faulty {
    fails: AtomicBool,
    entries: Mutex<Vec<Option<Enrolled>>>,
    distrusted: Mutex<Option<NodeId>>,
    asked: Mutex<Vec<(bool, Option<UnixMillis>)>>,
    /// Changes of roles that it recorded.
    changes: Mutex<Vec<(NodeId, RoleChange)>>,
    /// Whether everybody has had too many certificates.
    spent: AtomicBool,
    /// And those that another issuer's log has.
    elsewhere: Mutex<Option<RoleChange>>,
}

impl Record for Faulty {
    fn record(&self, issuance: &Issuance<'_>) -> Result<Vec<u8>, RecordError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(RecordError("no space".to_owned()));
        }
        self.entries.lock().unwrap().push(issuance.enrolment.cloned());
        Ok(Vec::new())
    }

    fn record_roles(&self, node: &NodeId, change: &RoleChange) -> Result<(), RecordError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(RecordError("no space".to_owned()));
        }
        self.changes.lock().unwrap().push((*node, change.clone()));
        Ok(())
    }
}

impl Gate for Faulty {
    fn admit(&self, asking: &Asking<'_>) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push((asking.known, asking.enrolled));
        Ok(())
    }

    fn count(&self, _: &NodeId, _: UnixMillis) -> Result<(), Refusal> {
        Ok(())
    }

    fn distrusts(&self, issuer: &NodeId) -> bool {
        *self.distrusted.lock().unwrap() == Some(*issuer)
    }

    fn spent(&self, _: &NodeId, _: UnixMillis) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    fn roles(&self, _: &NodeId, _: UnixMillis) -> Option<RoleChange> {
        self.elsewhere.lock().unwrap().clone()
    }
}

#[test]
fn an_enrolment_that_could_not_be_recorded_is_recorded_with_the_next_leaf() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    // What a crash between decision and record leaves too: the store is ahead of the log.
    let log = Arc::new(Faulty::default());
    mesh.issuer.record_with(log.clone());
    log.fails.store(true, Ordering::Relaxed);
    let later = NOW.plus(60 * DAY);
    assert_eq!(renewed(&bob, &mesh.issuer, later).unwrap_err(), refused(Refusal::Internal));
    let ticket = mesh.issuer.invite(HOUR, 1, Vec::new(), NOW).unwrap().ticket;
    let home = mesh.dir.path().join("carol");
    let (client, ..) = home::begin_join(&home, ticket, "carol".parse().unwrap(), None, NOW).unwrap();
    assert_eq!(mesh.issuer.handle_join(client.request(), NOW).outcome, Err(Refusal::Internal));
    log.fails.store(false, Ordering::Relaxed);
    let Mesh { dir, alice, issuer } = mesh;
    drop(issuer);
    // Also over a restart.
    let issuer =
        home::open_issuer(&dir.path().join("alice"), alice.membership.anchors(), None).unwrap().unwrap();
    issuer.record_with(log.clone());
    let extended = Enrolled { roles: Vec::new(), from: NOW, until: later.plus(90 * DAY) };
    renewed(&bob, &issuer, later).unwrap();
    renewed(&bob, &issuer, later).unwrap();
    issuer.handle_join(client.request(), NOW).outcome.unwrap();
    let entries = log.entries.lock().unwrap().clone();
    let carol = Enrolled { roles: Vec::new(), from: NOW, until: NOW.plus(90 * DAY) };
    assert_eq!(entries, [Some(extended), None, Some(carol)]);
}

#[test]
fn what_a_revoked_issuer_certified_counts_for_nothing_at_another() {
    let mesh = Mesh::new();
    let (bob, carol) = (mesh.join("bob"), mesh.join("carol"));
    let second = mesh.second("bob", &bob);
    let gate = Arc::new(Faulty::default());
    mesh.issuer.guard_with(gate.clone());
    assert_eq!(mesh.issuer.leaf_life(NOW), HOUR);
    // Whoever has bob's CA key makes up what he likes: roles and an end for carol, and a node that nobody knows.
    let ticket = |roles: &[RoleName]| second.invite_as(roles, HOUR, 1, Vec::new(), NOW).unwrap().ticket;
    let at_bobs = |dir: &str, name: &str, roles: &[RoleName]| {
        let home = mesh.dir.path().join(dir);
        let (client, node, routing) =
            home::begin_join(&home, ticket(roles), name.parse().unwrap(), None, NOW).unwrap();
        let reply = second.handle_join(client.request(), NOW).reply;
        home::finish(&home, node, routing, client.open_reply(&reply, NOW).unwrap(), None).unwrap()
    };
    let stranger = at_bobs("mallory", "mallory", &[]);
    let admin: RoleName = "admin".parse().unwrap();
    let moved = mesh.dir.path().join("carol");
    std::fs::remove_file(moved.join(home::MEMBERSHIP)).unwrap();
    let risen = at_bobs("carol", "carol", std::slice::from_ref(&admin));
    assert_eq!(risen.membership.member().issuer, bob.node.node_id());
    assert_eq!(risen.membership.member().enrolled.roles, [admin]);

    *gate.distrusted.lock().unwrap() = Some(bob.node.node_id());
    assert_eq!(mesh.issuer.leaf_life(NOW), DAY, "one issuer is left");
    assert_eq!(renewed(&stranger, &mesh.issuer, NOW).unwrap_err(), refused(Refusal::IssuerRevoked));
    let back = renewed(&risen, &mesh.issuer, NOW).unwrap();
    assert_eq!(back.member().enrolled, carol.membership.member().enrolled, "what this issuer wrote down");
    let begun = Some(NOW);
    assert_eq!(*gate.asked.lock().unwrap(), [(false, begun), (true, begun)]);
}

fn set(roles: &[&str]) -> BTreeSet<RoleName> {
    roles.iter().map(|role| role.parse().unwrap()).collect()
}

fn list(roles: &[&str]) -> Vec<RoleName> {
    set(roles).into_iter().collect()
}

/// The member goes on with what it was given.
fn keep(mesh: &Mesh, name: &str, next: &Membership) -> Identity {
    let home = mesh.dir.path().join(name);
    let node = home::load(&home, None).unwrap().node.node_id();
    home::store_membership(&home, node, next, None).unwrap();
    home::load(&home, None).unwrap()
}

#[test]
fn roles_that_were_taken_stay_taken_whichever_issuer_the_member_asks() {
    let mesh = Mesh::with(Lives::unlimited(None, 10 * DAY));
    let bob = mesh.join("bob");
    let carol = mesh.join_as("carol", &list(&["db", "ops"]), NOW);
    let second = mesh.second("bob", &bob);
    let (first_log, second_gate) = (Arc::new(Faulty::default()), Arc::new(Faulty::default()));
    mesh.issuer.record_with(first_log.clone());
    mesh.issuer.guard_with(Arc::new(Faulty::default()));
    second.guard_with(second_gate.clone());
    let node = carol.node.node_id();
    let carol = keep(&mesh, "carol", &renewed(&carol, &second, NOW).unwrap());

    let (_, left) = mesh.issuer.change_roles(&node, &set(&[]), &set(&["ops"]), NOW).unwrap();
    assert_eq!(left, list(&["db"]));
    // The others can read it before she has asked for anything.
    let change = RoleChange { at: NOW, roles: list(&["db"]) };
    assert_eq!(*first_log.changes.lock().unwrap(), [(node, change.clone())]);
    *second_gate.elsewhere.lock().unwrap() = Some(change);
    // She asks bob alone, until he extends her enrolment to far beyond the one that alice changed.
    let late = NOW.plus(6 * DAY);
    let next = renewed(&carol, &second, late).unwrap();
    assert_eq!(next.member().enrolled.until, late.plus(10 * DAY));
    assert_eq!(next.member().enrolled.roles, list(&["db"]));
    // A leaf that names the role, of an issuer that hadn't heard yet and that lasts longer, brings nothing back.
    *second_gate.elsewhere.lock().unwrap() = None;
    let mut later = second.change_roles(&node, &set(&["ops"]), &set(&[]), NOW.plus(DAY)).unwrap().1;
    later.retain(|role| role.as_str() != "db");
    assert_eq!(later, list(&["ops"]), "what bob's operator says before he hears of alice's");
    let carol = keep(&mesh, "carol", &renewed(&carol, &second, late).unwrap());
    assert_eq!(carol.membership.member().enrolled.roles, list(&["db", "ops"]));
    let back = renewed(&carol, &mesh.issuer, late).unwrap();
    assert_eq!(back.member().enrolled.roles, list(&["db"]));
    assert_eq!(back.member().enrolled.until, late.plus(10 * DAY), "the longer end counts, not its roles");
    // Nor does a ticket.
    std::fs::remove_file(mesh.dir.path().join("carol").join(home::MEMBERSHIP)).unwrap();
    let again = mesh.join_as("carol", &list(&["ops"]), late);
    assert_eq!(again.membership.member().enrolled.roles, list(&["db"]));
}

#[test]
fn a_change_of_roles_that_its_log_did_not_take_is_logged_later_and_once() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    let node = bob.node.node_id();
    let log = Arc::new(Faulty::default());
    mesh.issuer.record_with(log.clone());
    log.fails.store(true, Ordering::Relaxed);
    let error = mesh.issuer.change_roles(&node, &set(&["ops"]), &set(&[]), NOW).unwrap_err();
    assert_eq!(error, RolesError::Unlogged(RecordError("no space".to_owned())));
    assert!(mesh.issuer.log_role_changes().is_err());
    let Mesh { dir, alice, issuer } = mesh;
    drop(issuer);
    log.fails.store(false, Ordering::Relaxed);
    // Also over a restart.
    let issuer =
        home::open_issuer(&dir.path().join("alice"), alice.membership.anchors(), None).unwrap().unwrap();
    issuer.record_with(log.clone());
    for _ in 0..2 {
        issuer.log_role_changes().unwrap();
    }
    // The same once more says nothing; another is later than it, though the clock went back a little.
    issuer.change_roles(&node, &set(&["ops"]), &set(&[]), NOW.plus(DAY)).unwrap();
    issuer.change_roles(&node, &set(&["db"]), &set(&[]), NOW.minus(HOUR / 60)).unwrap();
    // A clock that was a month ahead and is set right: what was said then is taken up, at today's time.
    issuer.change_roles(&node, &set(&["web"]), &set(&[]), NOW.plus(DAY * 30)).unwrap();
    for _ in 0..2 {
        issuer.change_roles(&node, &set(&[]), &set(&["db"]), NOW.plus(DAY)).unwrap();
    }
    let change = |at, roles: &[&str]| (node, RoleChange { at, roles: list(roles) });
    let expected = [
        change(NOW, &["ops"]),
        change(UnixMillis(NOW.0 + 1), &["db", "ops"]),
        change(NOW.plus(DAY * 30), &["db", "ops", "web"]),
        change(NOW.plus(DAY), &["ops", "web"]),
    ];
    assert_eq!(*log.changes.lock().unwrap(), expected);
    assert_eq!(renewed(&bob, &issuer, NOW).unwrap().member().enrolled.roles, list(&["ops", "web"]));
}

#[test]
fn a_member_that_had_too_many_certificates_costs_no_signature() {
    let mesh = Mesh::new();
    let bob = mesh.join("bob");
    let gate = Arc::new(Faulty::default());
    mesh.issuer.guard_with(gate.clone());
    let node = bob.node.node_id();
    let unread = |peer| mesh.issuer.renew(b"nobody verifies this", peer, NOW).outcome;
    assert_eq!(unread(Some(node)), Err(Refusal::UnsupportedVersion { found: b'n', supported: 1 }));
    gate.spent.store(true, Ordering::Relaxed);
    assert_eq!(unread(Some(node)), Err(Refusal::TooOften));
    // Whose request is carried is only known once it is verified.
    assert!(!matches!(unread(None), Err(Refusal::TooOften)));
}
