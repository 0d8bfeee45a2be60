//! What a node believes of member records that are proved, and of the heads that they lead to: real logs of real issuers, in files, without a
//! network.

use std::path::Path;

use arc_swap::ArcSwap;
use meshara_identity::{Identity, Issuer, MeshName, create_mesh, home};
use meshara_overlay::{Authenticator, Config, Core, Identity as Who, Member as Believed, MemberError};
use meshara_transport::tls::{Names, Revoked};
use meshara_trust::log::{Cosigner, Ended, Entry, Note, WitnessPolicy};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::super::own::Newest;
use super::*;
use crate::node::auth::MeshAuth;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A mesh with its issuer, and the log that it writes.
struct Mesh {
    dir: TempDir,
    alice: Identity,
    issuer: Issuer,
    own: Arc<OwnLog>,
}

/// A certificate, and its entry in the log.
struct Logged {
    member: Member,
    certificate: Certificate,
    leaf: Hash,
}

impl Mesh {
    /// Old enough for certificates that have ended.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("alice");
        let (mesh, name): (MeshName, _) = ("test".parse().unwrap(), "alice".parse().unwrap());
        let alice = create_mesh(&home, &mesh, &name, None, UnixMillis::now().minus(DAY * 10)).unwrap();
        let issuer = home::open_issuer(&home, alice.membership.anchors(), None).unwrap().unwrap();
        let own = Arc::new(OwnLog::open(&home, &issuer, &alice.membership, None).unwrap());
        issuer.record_with(own.clone());
        Self { dir, alice, issuer, own }
    }

    fn id(&self) -> NodeId {
        self.alice.membership.member().node_id
    }

    /// A node that joined at this time, in a home of its own.
    fn joined(&self, name: &str, at: UnixMillis) -> Identity {
        let home = self.dir.path().join(name);
        let ticket = self.issuer.invite(Duration::from_secs(60), 1, Vec::new(), at).unwrap().ticket;
        let (client, node, routing) =
            home::begin_join(&home, ticket, name.parse().unwrap(), None, at).unwrap();
        let reply = self.issuer.handle_join(client.request(), at).reply;
        let membership = client.open_reply(&reply, at).unwrap();
        home::finish(&home, node, routing, membership, None).unwrap()
    }

    /// Publishes what was logged, cosigned by this member and named a head: its id, and its bytes.
    fn head(&self, witness: &Identity) -> (HeadId, Vec<u8>) {
        head(&self.own, witness)
    }

    /// Where a certificate is under a head.
    fn proof(&self, of: &Logged, head: HeadId) -> ProvedKey {
        let (index, path) = self.own.inclusion(&of.leaf, head.size).unwrap();
        ProvedKey { issuer: head.issuer, size: head.size, index, path, certificate: of.certificate.clone() }
    }

    fn statement(&self) -> Vec<u8> {
        self.own.statement().encode().unwrap()
    }
}

fn logged(of: &Identity) -> Logged {
    let (member, der) = (of.membership.member().clone(), of.membership.leaf_der());
    let certificate = Certificate::of(&member, der).unwrap();
    let leaf = Hash::leaf(&Entry::Certificate(certificate.clone()).encode().unwrap());
    Logged { member, certificate, leaf }
}

fn head(own: &OwnLog, witness: &Identity) -> (HeadId, Vec<u8>) {
    let mut note = own.publish().unwrap();
    let (member, now) = (witness.membership.member(), UnixMillis::now());
    let mesh = witness.membership.anchors().mesh();
    let cosigner = Cosigner::new(mesh, &member.name, &witness.routing).unwrap();
    note.signatures.push(cosigner.cosign(own.public(), None, &note, &[], now).unwrap());
    let key = Witness::new(mesh, member.node_id, &member.name, member.routing_key).unwrap();
    own.add_cosignatures(&note, &WitnessPolicy::new(1, vec![key]).unwrap()).unwrap();
    let size = Checkpoint::parse(note.text()).unwrap().head.size;
    (HeadId { issuer: own.me, size }, own.routing_head().unwrap().encode().unwrap())
}

/// A member that judges what it is told: its overlay, and who judges for it.
struct Viewer {
    core: Core,
    auth: MeshAuth,
    logs: Arc<Logs>,
    revoked: Arc<Revoked>,
    anchors: Arc<ArcSwap<TrustAnchors>>,
}

impl Viewer {
    fn new(home: &Path, who: Identity) -> Self {
        let Identity { routing, membership, .. } = who;
        let me = membership.member().clone();
        let logs = Arc::new(Logs::open(home, &membership, &routing, None).unwrap());
        let anchors = Arc::new(ArcSwap::from_pointee(membership.anchors().clone()));
        let (revoked, names) = (Arc::<Revoked>::default(), Arc::<Names>::default());
        let auth = || {
            let key = meshara_identity::RoutingKey::from_seed(routing.seed().clone()).unwrap();
            MeshAuth::new(me.node_id, key, anchors.clone(), revoked.clone(), names.clone(), logs.clone())
        };
        let identity = Who { node: me.node_id, address: me.address };
        let rng = ChaCha8Rng::from_seed([7; 32]);
        let mut core = Core::new(Config::default(), identity, Box::new(auth()), rng, Duration::ZERO, 1);
        core.set_member(Duration::ZERO, membership.leaf_der().to_vec()).unwrap();
        Self { core, auth: auth(), logs, revoked, anchors }
    }

    fn take(&mut self, id: HeadId, body: &[u8]) -> Result<(), HeadError> {
        self.core.set_head(Duration::ZERO, id, body)
    }

    /// What the record of this node says, if it proves anything.
    fn judge(&self, of: &Logged, proof: &ProvedKey) -> Result<Believed, MemberError> {
        self.auth.member(&of.member.node_id, &proof.encode().unwrap(), &self.core.known())
    }
}

#[test]
fn a_record_is_believed_under_a_head_of_its_issuers_log_and_nowhere_else() {
    let mesh = Mesh::new();
    let now = UnixMillis::now();
    let dave = mesh.joined("dave", now.minus(DAY * 2));
    let (bob, carol) = (mesh.joined("bob", now), mesh.joined("carol", now));
    let eve = mesh.joined("eve", now.plus(DAY * 2));
    mesh.own.publish().unwrap();
    let alone = mesh.own.routing_head().unwrap().encode().unwrap();
    let (id, body) = mesh.head(&bob);
    let statement = HeadId::statement(mesh.id());
    let [dave, bob_logged, eve] = [&dave, &bob, &eve].map(logged);
    let proof = mesh.proof(&bob_logged, id);
    let mut viewer = Viewer::new(&mesh.dir.path().join("carol"), carol);

    // Without the issuer's word on its keys no head counts, and without a head no proof.
    assert_eq!(viewer.take(id, &body), Err(HeadError::LacksKeys));
    viewer.take(statement, &mesh.statement()).unwrap();
    let unknown = MemberError::UnknownHead { head: id, routing_key: bob_logged.member.routing_key };
    assert_eq!(viewer.judge(&bob_logged, &proof), Err(unknown));
    assert_eq!(viewer.take(id, &alone), Err(HeadError::Unwitnessed));
    viewer.take(id, &body).unwrap();
    let believed = viewer.judge(&bob_logged, &proof).unwrap();
    assert_eq!((believed.name.as_str(), believed.routing_key), ("bob", bob_logged.member.routing_key));
    assert!(believed.proved && believed.expires_in <= bob_logged.member.life());
    assert!(believed.expires_in > bob_logged.member.life() - Duration::from_secs(60));

    // Certificates that are in the log all the same: one that has ended, one that has not begun.
    assert_eq!(viewer.judge(&dave, &mesh.proof(&dave, id)), Err(MemberError::OutsideTime));
    assert_eq!(viewer.judge(&eve, &mesh.proof(&eve, id)), Err(MemberError::OutsideTime));
    // What is in no log: another key, in the place of bob's.
    let forged = Certificate { routing_key: [5; 32], ..proof.certificate.clone() };
    let forged = ProvedKey { certificate: forged, ..proof.clone() };
    assert_eq!(viewer.judge(&bob_logged, &forged), Err(MemberError::Unproved));
    // The record of another node.
    assert_eq!(viewer.judge(&dave, &proof), Err(MemberError::WrongNode));
    // The tree of nothing, and what is no proof.
    assert_eq!(
        viewer.judge(&bob_logged, &ProvedKey { size: 0, ..proof.clone() }),
        Err(MemberError::Malformed)
    );
    let short = &proof.encode().unwrap()[..40];
    let known = viewer.core.known();
    assert_eq!(viewer.auth.member(&bob_logged.member.node_id, short, &known), Err(MemberError::Malformed));

    // Who has no grant names no head and proves nothing, also not in its own tree.
    let ungranted = ProvedKey { issuer: bob_logged.member.node_id, ..proof.clone() };
    assert_eq!(viewer.judge(&bob_logged, &ungranted), Err(MemberError::UnknownIssuer));
    let his = HeadId { issuer: bob_logged.member.node_id, size: id.size };
    assert!(!viewer.auth.wants_head(&his));
    assert_eq!(viewer.take(his, &body), Err(HeadError::UnknownLog));
    assert_eq!(viewer.take(HeadId::statement(his.issuer), &mesh.statement()), Err(HeadError::UnknownLog));

    // A node that is revoked, and an issuer.
    viewer.revoked.replace([bob_logged.member.node_id].into());
    assert_eq!(viewer.judge(&bob_logged, &proof), Err(MemberError::Revoked));
    viewer.revoked.replace([mesh.id()].into());
    assert_eq!(viewer.judge(&bob_logged, &proof), Err(MemberError::Revoked));
    assert_eq!(viewer.take(HeadId { size: id.size + 1, ..id }, &body), Err(HeadError::UnknownLog));
    viewer.revoked.replace([].into());
    assert!(viewer.judge(&bob_logged, &proof).is_ok());
}

#[test]
fn another_meshs_log_proves_nothing_here() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let now = UnixMillis::now();
    let (bob, carol) = (mesh.joined("bob", now), mesh.joined("carol", now));
    // The same names over there.
    let their_bob = other.joined("bob", now);
    let (id, body) = mesh.head(&bob);
    let (their_id, their_body) = other.head(&their_bob);
    let theirs = logged(&their_bob);
    let proof = other.proof(&theirs, their_id);
    let mut viewer = Viewer::new(&mesh.dir.path().join("carol"), carol);

    // Under its own issuer's name.
    assert_eq!(
        viewer.take(HeadId::statement(their_id.issuer), &other.statement()),
        Err(HeadError::UnknownLog)
    );
    assert_eq!(viewer.take(their_id, &their_body), Err(HeadError::UnknownLog));
    assert_eq!(viewer.judge(&theirs, &proof), Err(MemberError::UnknownIssuer));
    // Under the name of this mesh's.
    let statement = HeadId::statement(mesh.id());
    assert_eq!(viewer.take(statement, &other.statement()), Err(HeadError::Untrusted));
    viewer.take(statement, &mesh.statement()).unwrap();
    let as_ours = HeadId { issuer: id.issuer, size: their_id.size };
    assert_eq!(viewer.take(as_ours, &their_body), Err(HeadError::Untrusted));
    viewer.take(id, &body).unwrap();
    let disguised = ProvedKey { issuer: id.issuer, size: id.size, ..proof };
    assert_eq!(viewer.judge(&theirs, &disguised), Err(MemberError::Unproved));
    // A head by another size than its own.
    assert_eq!(viewer.take(HeadId { size: id.size + 1, ..id }, &body), Err(HeadError::Untrusted));
    assert_eq!(viewer.take(HeadId { size: id.size + 1, ..id }, &body[..80]), Err(HeadError::Malformed));
}

/// Copies a directory as somebody does who restores a backup.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_log_that_forked_proves_nothing_any_more() {
    let mesh = Mesh::new();
    let now = UnixMillis::now();
    let (bob, carol) = (mesh.joined("bob", now), mesh.joined("carol", now));
    let (id, body) = mesh.head(&bob);
    let of_bob = logged(&bob);
    let proof = mesh.proof(&of_bob, id);
    // A copy of the issuer's files goes on with another past than the log itself.
    let home = mesh.dir.path().join("copy");
    copy(&mesh.dir.path().join("alice"), &home);
    let second = OwnLog::open(&home, &mesh.issuer, &mesh.alice.membership, None).unwrap();
    second.decide(Newest::Yes);
    let ended = |by| Entry::Ended(Ended { node: NodeId([1; 32]), by, at: now });
    mesh.own.append(&[ended(1)]).unwrap();
    second.append(&[ended(2)]).unwrap();
    let (next, next_body) = mesh.head(&bob);
    let (also_next, other_body) = head(&second, &bob);
    assert_eq!(next, also_next);

    let mut viewer = Viewer::new(&mesh.dir.path().join("carol"), carol);
    viewer.take(HeadId::statement(mesh.id()), &mesh.statement()).unwrap();
    for (id, body) in [(id, &body), (next, &next_body)] {
        viewer.take(id, body).unwrap();
    }
    assert!(viewer.judge(&of_bob, &proof).is_ok());
    // The node sees one past, then the other.
    let anchors = viewer.anchors.load_full();
    let other = viewer.logs.others.learn(mesh.own.statement(), &anchors).unwrap();
    let note = |body: &[u8]| -> Note { RoutingHead::decode(body).unwrap().note };
    other.mirror(|mirror| mirror.follow(&note(&next_body), &[])).unwrap();
    assert!(viewer.judge(&of_bob, &proof).is_ok());
    assert!(other.mirror(|mirror| mirror.follow(&note(&other_body), &[])).is_err());
    assert!(other.shown().fork.is_some());

    assert_eq!(viewer.judge(&of_bob, &proof), Err(MemberError::ForkedLog));
    assert!(!viewer.auth.wants_head(&id));
    viewer.core.forget_heads(&mesh.id());
    assert_eq!(viewer.take(HeadId::statement(mesh.id()), &mesh.statement()), Err(HeadError::UnknownLog));
    assert_eq!(viewer.take(next, &other_body), Err(HeadError::UnknownLog));
    // It is remembered: also by the next life of the node.
    drop((viewer, other));
    let home = mesh.dir.path().join("carol");
    let viewer = Viewer::new(&home, home::load(&home, None).unwrap());
    assert_eq!(viewer.judge(&of_bob, &proof), Err(MemberError::ForkedLog));
}
