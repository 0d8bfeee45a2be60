//! The node that issues: makes tickets, answers join and renewal requests. Its state is durable before it answers.

mod attestation;
mod record;
mod roles;
mod store;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use zeroize::Zeroize;

pub use attestation::{
    APPLICANTS_MAX, Allowed, Applicant, Application, ApplicationId, AttestationKind, Attestor, EVIDENCE_MAX,
    Evidence, KINDS_MAX, LISTED_MAX, Unattested, Verdict,
};
pub use record::{Enrolled, Issuance, Record, RecordError, RoleChange};
pub use roles::RolesError;
pub use store::StoreError;
use store::{Store, TicketRecord, Txn};

use crate::anchors::TrustAnchors;
use crate::grant::{GrantOffer, IssuerGrant, IssuerKey};
use crate::ids::{NodeId, UnixMillis};
use crate::join::Refusal;
use crate::join::message::{self, Claim, Issued, JoinBody, Outcome, RenewBody, Request};
use crate::keys::{KeyError, MlDsaPublic, MlDsaSignature};
use crate::leaf::{BACKDATE, IssueError, LeafSubject, ROLES_MAX, roles_are_canonical};
use crate::lives::Lives;
use crate::names::{NodeName, RoleName};
use crate::ticket::{NewTicketError, Ticket};
use crate::wire::WireError;

/// How far a requester's clock may be off: as much as leaves are backdated, so an issued leaf works at once.
pub const CLOCK_SKEW_MAX: Duration = BACKDATE;

/// How long after a ticket's end a node that joined with it may still fetch a reply that it lost.
pub const RETRY_GRACE: Duration = Duration::from_secs(10 * 60);

/// How long an ended ticket is remembered, so that its holder is told "ended" rather than "unknown"; only [`RETRY_GRACE`] when
/// [`TICKETS_MAX`] is reached.
const KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most tickets that are remembered at a time; 1 MB of store.
pub const TICKETS_MAX: u64 = 4096;

/// Most members: ten times the size that Meshara aims at; 20 MB of store.
pub const MEMBERS_MAX: u64 = 100_000;

/// Why the issuer failed (as opposed to refused).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A ticket could not be made.
    #[error(transparent)]
    Ticket(#[from] NewTicketError),
    /// A message does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The grant is not this key's or not this mesh's.
    #[error(
        "the issuer's grant does not belong to its key and mesh: restore issuer.key and membership together"
    )]
    WrongGrant,
    /// Roles that a certificate can't name.
    #[error("a ticket gives at most 16 roles, each once")]
    Roles,
    /// [`LISTED_MAX`] is reached.
    #[error("10000 nodes are on the list: take some off first")]
    TooManyListed,
    /// A ticket asks for too many kinds of attestation, or for one twice.
    #[error("a ticket asks for at most 4 kinds of attestation, each once")]
    Kinds,
    /// A ticket needs at least one use and a life.
    #[error("a ticket needs at least one use and a time to live above zero")]
    EmptyTicket,
    /// [`TICKETS_MAX`] is reached.
    #[error("4096 tickets have not ended: wait until some have, or give tickets more uses")]
    TooManyTickets,
    /// The name belongs to another node, or the node to another name.
    #[error("the name is taken")]
    NameTaken,
    /// What was issued could not be recorded, so it was not given out.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A ticket that was just made.
#[derive(Debug, Clone)]
pub struct Invite {
    /// What to hand to the newcomer.
    pub ticket: Ticket,
    /// Its end.
    pub expires_at: UnixMillis,
    /// How many nodes may join with it.
    pub uses: u32,
}

/// Who was given a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its name.
    pub name: NodeName,
    /// The node.
    pub node_id: NodeId,
    /// End of the certificate.
    pub not_after: UnixMillis,
}

/// The answer to a request: what to send back, and what to log.
#[derive(Debug)]
pub struct Answer {
    /// For the requester, at most [`REPLY_MAX`](crate::join::REPLY_MAX) bytes. Always something, also when refused.
    pub reply: Vec<u8>,
    /// What was decided.
    pub outcome: Result<Admitted, Refusal>,
    /// Why the issuer failed, when the refusal is [`Refusal::Internal`].
    pub fault: Option<IssuerError>,
    /// Whether a member asked for its next certificate, not a newcomer for its first.
    pub renewal: bool,
    /// Who was refused to join, and under which name, as the request says: nothing of it is proved. `None` where nothing reads.
    pub refused: Option<(NodeId, NodeName)>,
    /// Whose renewal was refused, as the request says.
    pub refused_renewal: Option<NodeId>,
}

/// No certificate: refused, or failed.
#[derive(Debug)]
enum Denied {
    Refused(Refusal),
    Failed(IssuerError),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E: Into<IssuerError>> From<E> for Denied {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Whose certificate a [`Gate`] decides on. The node has proved its key.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The name that the certificate is to have.
    pub name: &'a NodeName,
    /// Since when the node is enrolled, as the certificate that it shows says; `None` of a newcomer.
    pub enrolled: Option<UnixMillis>,
    /// Whether this issuer's own store has the node under this name.
    pub known: bool,
    /// When.
    pub now: UnixMillis,
}

/// Who may have a certificate, beside what the issuer itself knows.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Asked before each certificate, of a newcomer and of a member. Blocks shortly at most.
    ///
    /// # Errors
    /// Why not: it is what the node hears.
    fn admit(&self, asking: &Asking<'_>) -> Result<(), Refusal>;

    /// Asked last, of a node that is to have a certificate now: whether it hasn't had too many of late. Refused requests don't count.
    ///
    /// # Errors
    /// [`Refusal::TooOften`].
    fn count(&self, node: &NodeId, now: UnixMillis) -> Result<(), Refusal>;

    /// Whether [`count`](Self::count) would refuse this node. Asked before a request is looked at whose sender was proved already, so that one
    /// who asks without end costs no signatures.
    fn spent(&self, node: &NodeId, now: UnixMillis) -> bool {
        let _ = (node, now);
        false
    }

    /// Whether what another issuer certified counts for nothing any more, since the mesh revoked it.
    fn distrusts(&self, issuer: &NodeId) -> bool;

    /// What an operator said last of a node's roles at another issuer, as that one's log says. Nothing where there are no others.
    fn roles(&self, node: &NodeId, now: UnixMillis) -> Option<RoleChange> {
        let _ = (node, now);
        None
    }
}

/// The CA key with its grant and its state. Methods take `&self`; writers queue inside the store.
#[derive(Debug)]
pub struct Issuer {
    key: IssuerKey,
    grant: RwLock<Arc<IssuerGrant>>,
    anchors: RwLock<Arc<TrustAnchors>>,
    store: Store,
    attestors: attestation::Attestors,
    record: OnceLock<Arc<dyn Record>>,
    gate: OnceLock<Arc<dyn Gate>>,
    /// Whether changes of roles may be in no log yet.
    unlogged_roles: AtomicBool,
    /// Held while they are logged.
    logging_roles: Mutex<()>,
}

/// A decision to issue.
struct Decision<'a> {
    name: &'a NodeName,
    claim: &'a Claim,
    enrolled: &'a Enrolled,
    /// Whether the enrolment begins, or is another one than before.
    changed: bool,
}

/// What is given to a node: its leaf, and what the log says about it.
struct Given {
    leaf_der: Vec<u8>,
    promise: Vec<u8>,
}

impl Issuer {
    /// Makes a new, empty state file; fails when it exists.
    pub fn create(
        path: &Path,
        key: IssuerKey,
        grant: IssuerGrant,
        anchors: TrustAnchors,
    ) -> Result<Self, IssuerError> {
        check_grant(&key, &grant, &anchors)?;
        let store = Store::create(path, &anchors.mesh_id())?;
        Ok(Self::with(key, grant, anchors, store))
    }

    /// Opens the state file, checking all of it. One process at a time can.
    pub fn open(
        path: &Path,
        key: IssuerKey,
        grant: IssuerGrant,
        anchors: TrustAnchors,
    ) -> Result<Self, IssuerError> {
        check_grant(&key, &grant, &anchors)?;
        let store = Store::open(path, &anchors.mesh_id())?;
        Ok(Self::with(key, grant, anchors, store))
    }

    fn with(key: IssuerKey, grant: IssuerGrant, anchors: TrustAnchors, store: Store) -> Self {
        let (grant, anchors) = (RwLock::new(Arc::new(grant)), RwLock::new(Arc::new(anchors)));
        let attestors = attestation::Attestors::default();
        Self {
            key,
            grant,
            anchors,
            store,
            attestors,
            record: OnceLock::new(),
            gate: OnceLock::new(),
            unlogged_roles: AtomicBool::new(true),
            logging_roles: Mutex::default(),
        }
    }

    /// Whom this issuer trusts, now.
    pub fn anchors(&self) -> Arc<TrustAnchors> {
        self.anchors.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// There are other issuers from now on.
    ///
    /// # Errors
    /// [`IssuerError::WrongGrant`]: this issuer's own grant is not among theirs.
    pub fn set_anchors(&self, anchors: Arc<TrustAnchors>) -> Result<(), IssuerError> {
        check_grant(&self.key, &self.grant(), &anchors)?;
        *self.anchors.write().unwrap_or_else(PoisonError::into_inner) = anchors;
        Ok(())
    }

    /// From now on this is asked before each certificate. Only the first call counts.
    pub fn guard_with(&self, gate: Arc<dyn Gate>) {
        let _ = self.gate.set(gate);
    }

    /// How long what it issues lasts.
    pub fn lives(&self) -> Lives {
        self.grant().statement.lives
    }

    /// The life of a leaf that is issued at `now`.
    pub fn leaf_life(&self, now: UnixMillis) -> Duration {
        let issuers = self.anchors().issuers(now);
        self.lives().leaf(issuers.iter().filter(|issuer| !self.distrusts(issuer)).count())
    }

    /// From now on everything that is issued is recorded there before it leaves. Until then (while a mesh is made) nothing is, so whoever
    /// runs an issuer says this first. Only the first call counts.
    pub fn record_with(&self, record: Arc<dyn Record>) {
        let _ = self.record.set(record);
    }

    /// The root's grant for this issuer.
    pub fn grant(&self) -> Arc<IssuerGrant> {
        self.grant.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the root lets it issue at `now`: its grant counts under `anchors`, and holds.
    pub fn is_granted(&self, anchors: &TrustAnchors, now: UnixMillis) -> bool {
        let grant = self.grant();
        grant.statement.holds_at(now) && anchors.counts(&grant)
    }

    /// The CA certificate for its next grant: the same key, as what it signed before has to stand.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub fn ca_certificate(&self, offer: &GrantOffer) -> Result<Vec<u8>, IssueError> {
        self.key.ca_certificate(offer)
    }

    /// Whether a grant is for the key of this issuer.
    pub fn has_key_of(&self, grant: &IssuerGrant) -> bool {
        let ca_key = crate::anchors::leaf_public(&grant.statement.ca_der);
        ca_key.as_deref() == Some(self.key.public_key().as_ref())
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.key.seed()
    }

    /// Goes by another grant, for the same key, that `anchors` hold. See [`crate::home::regrant_issuer`].
    pub(crate) fn regrant(&self, grant: IssuerGrant, anchors: Arc<TrustAnchors>) -> Result<(), IssuerError> {
        check_grant(&self.key, &grant, &anchors)?;
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grant);
        *self.anchors.write().unwrap_or_else(PoisonError::into_inner) = anchors;
        Ok(())
    }

    /// Signs a statement of this issuer with its CA key. `domain` ends with a zero byte; no certificate begins so.
    pub fn sign_statement(&self, domain: &[u8], statement: &[u8]) -> Result<MlDsaSignature, KeyError> {
        self.key.sign(&[domain, statement].concat())
    }

    /// When its grant ends: no leaf of its lasts longer.
    pub(crate) fn grant_end(&self) -> UnixMillis {
        self.grant().statement.not_after
    }

    /// Makes a ticket that lasts `ttl` from `now` for `uses` nodes; it is durable when this returns.
    pub fn invite(
        &self,
        ttl: Duration,
        uses: u32,
        addrs: Vec<SocketAddr>,
        now: UnixMillis,
    ) -> Result<Invite, IssuerError> {
        self.invite_as(&[], ttl, uses, addrs, now)
    }

    /// As [`invite`](Self::invite); who joins with the ticket has these roles (sorted, each once).
    pub fn invite_as(
        &self,
        roles: &[RoleName],
        ttl: Duration,
        uses: u32,
        addrs: Vec<SocketAddr>,
        now: UnixMillis,
    ) -> Result<Invite, IssuerError> {
        self.invite_attested(roles, &[], ttl, uses, addrs, now)
    }

    /// As [`invite_as`](Self::invite_as); who joins with the ticket is attested by these kinds besides (sorted, each once, at most
    /// [`KINDS_MAX`]).
    pub fn invite_attested(
        &self,
        roles: &[RoleName],
        kinds: &[AttestationKind],
        ttl: Duration,
        uses: u32,
        addrs: Vec<SocketAddr>,
        now: UnixMillis,
    ) -> Result<Invite, IssuerError> {
        if ttl.as_millis() == 0 || uses == 0 {
            return Err(IssuerError::EmptyTicket);
        }
        if !roles_are_canonical(roles) {
            return Err(IssuerError::Roles);
        }
        if kinds.len() > KINDS_MAX || !kinds.is_sorted_by(|a, b| a < b) {
            return Err(IssuerError::Kinds);
        }
        let expires_at = now.plus(ttl);
        let anchors = self.anchors();
        let ticket = Ticket::new(anchors.mesh().clone(), anchors.mesh_id(), expires_at, uses, addrs)?;
        let mut record =
            TicketRecord { hash: ticket.hash(), join_key: *ticket.join_key(), expires_at, uses, used: 0 };
        let txn = self.store.begin()?;
        txn.prune_tickets(now.minus(KEEP_ENDED))?;
        if txn.ticket_count()? >= TICKETS_MAX {
            txn.prune_tickets(now.minus(RETRY_GRACE))?;
        }
        if txn.ticket_count()? >= TICKETS_MAX {
            return Err(IssuerError::TooManyTickets);
        }
        txn.put_ticket(&ticket.id(), &record)?;
        if !roles.is_empty() {
            txn.put_ticket_roles(&ticket.id(), roles)?;
        }
        if !kinds.is_empty() {
            txn.put_ticket_kinds(&ticket.id(), kinds)?;
        }
        record.join_key.zeroize();
        txn.commit()?;
        Ok(Invite { ticket, expires_at, uses })
    }

    /// Issues a leaf, the first one or a fresh one, for the node that holds the issuer itself. `held` is what its present leaf says of its
    /// enrolment.
    pub fn enrol_self(
        &self,
        name: &NodeName,
        node_id: NodeId,
        routing_key: [u8; 32],
        leaf_public: &MlDsaPublic,
        held: Option<&Enrolled>,
        now: UnixMillis,
    ) -> Result<Vec<u8>, IssuerError> {
        let txn = self.store.begin()?;
        let free = txn.name_owner(name)?.is_none_or(|owner| owner == node_id)
            && txn.node_name(&node_id)?.is_none_or(|known| known == *name);
        if !free {
            return Err(IssuerError::NameTaken);
        }
        txn.put_member(name, &node_id)?;
        let stored = txn.enrolment(&node_id)?;
        let enrolled = match newest(held, stored.as_ref()) {
            Some(known) if known.until > now => self.extended(known, now),
            // An issuer's own right is its grant: one that was away for long enrols itself again.
            known => self.enrolled(known.map(|known| known.roles).unwrap_or_default(), now),
        };
        let enrolled = self.with_roles(&txn, &node_id, enrolled, now)?;
        let subject = LeafSubject { name, node_id, routing_key, leaf_public, enrolled: &enrolled };
        Ok(self.give(txn, &subject, stored.as_ref() != Some(&enrolled), now)?.0.leaf_der)
    }

    /// Answers a join request. A refusal writes nothing; an acceptance is durable when this returns.
    pub fn handle_join(&self, bytes: &[u8], now: UnixMillis) -> Answer {
        let mut join_key = None;
        let result = self.join(bytes, now, &mut join_key);
        let answer = self.answer(bytes, result, join_key.as_ref(), now);
        join_key.zeroize();
        answer
    }

    /// Answers a renewal request of a member. `peer` is who sent it, where that was proved; a request that is carried proves it by itself.
    pub fn renew(&self, bytes: &[u8], peer: Option<NodeId>, now: UnixMillis) -> Answer {
        let result = self.renewal(bytes, peer, now);
        self.answer(bytes, result, None, now)
    }

    /// Answers a join or renewal request that another member carries.
    pub fn handle_carried(&self, bytes: &[u8], now: UnixMillis) -> Answer {
        if message::is_renewal(bytes) { self.renew(bytes, None, now) } else { self.handle_join(bytes, now) }
    }

    /// Lets go of a node whose enrolment was ended: its name is free. Whether it was a member.
    ///
    /// # Errors
    /// [`IssuerError::Store`].
    pub fn release(&self, node: &NodeId) -> Result<bool, IssuerError> {
        let txn = self.store.begin()?;
        let known = txn.remove_member(node)?;
        if known {
            txn.commit()?;
        }
        Ok(known)
    }

    /// Names and ids of all members.
    pub fn members(&self) -> Result<Vec<(NodeName, NodeId)>, IssuerError> {
        Ok(self.store.members()?)
    }

    fn join(
        &self,
        bytes: &[u8],
        now: UnixMillis,
        join_key: &mut Option<[u8; 32]>,
    ) -> Result<(Admitted, Given), Denied> {
        let request = message::decode_join(bytes).map_err(refusal_of)?;
        let JoinBody { ticket_id, ticket_hash, name, claim, evidence } = &request.body;
        let known = self.store.ticket(ticket_id)?.ok_or(Refusal::UnknownTicket)?;
        *join_key = Some(known.join_key);
        if !request.is_authenticated_by(&known.join_key) || *ticket_hash != known.hash {
            return Err(Refusal::BadMac.into());
        }
        check_claim(&request, claim, now)?;

        let node_id = claim.node_id();
        let known = self.store.knows(&node_id, name)?;
        self.admits(&Asking { node: &node_id, name, enrolled: None, known, now })?;
        let txn = self.store.begin()?;
        // Read again: another request may have used the ticket meanwhile.
        let mut ticket = txn.ticket(ticket_id)?.ok_or(Refusal::UnknownTicket)?;
        let repeated = txn.has_used(ticket_id, &node_id)?;
        let end = if repeated { ticket.expires_at.plus(RETRY_GRACE) } else { ticket.expires_at };
        if now >= end {
            return Err(Refusal::TicketExpired { at: ticket.expires_at }.into());
        }
        check_name(&txn, name, &node_id)?;
        let mut roles = txn.ticket_roles(ticket_id)?;
        if !repeated {
            let judged = self.attestors.judge(
                &txn.ticket_kinds(ticket_id)?,
                evidence,
                (node_id, name, ticket_id),
                (&txn, now),
            );
            match judged {
                Ok(more) => roles.extend(more),
                Err(Unattested::Waits) => {
                    // Who waits is remembered, and nothing of the ticket is used. Who asks again costs no write.
                    if txn.is_written() {
                        txn.commit()?;
                    }
                    return Err(Refusal::AwaitingApproval.into());
                }
                Err(Unattested::Refused(refusal)) => return Err(refusal.into()),
                Err(Unattested::Failed(error)) => return Err(error.into()),
            }
            if ticket.used >= ticket.uses {
                return Err(Refusal::TicketUsed.into());
            }
            ticket.used += 1;
            txn.put_ticket(ticket_id, &ticket)?;
            txn.put_use(ticket_id, &node_id, now)?;
            txn.remove_applied(&node_id)?;
        }
        txn.put_member(name, &node_id)?;
        let enrolled = match txn.enrolment(&node_id)?.filter(|_| repeated) {
            Some(stored) => stored,
            None => self.enrolled(canonical(roles)?, now),
        };
        // No ticket undoes what an operator said of this very node.
        let enrolled = self.with_roles(&txn, &node_id, enrolled, now)?;
        let changed = txn.enrolment(&node_id)?.as_ref() != Some(&enrolled);
        self.admit(txn, &Decision { name, claim, enrolled: &enrolled, changed }, now)
    }

    fn renewal(
        &self,
        bytes: &[u8],
        peer: Option<NodeId>,
        now: UnixMillis,
    ) -> Result<(Admitted, Given), Denied> {
        if peer.is_some_and(|peer| self.gate.get().is_some_and(|gate| gate.spent(&peer, now))) {
            return Err(Refusal::TooOften.into());
        }
        let request = message::decode_renew(bytes).map_err(refusal_of)?;
        let RenewBody { claim, leaf_der } = &request.body;
        let node_id = claim.node_id();
        if peer.is_some_and(|peer| peer != node_id) {
            return Err(Refusal::OtherNode.into());
        }
        check_claim(&request, claim, now)?;
        // Any issuer of the mesh may have issued it, and it may have ended; the node key proves whose it is.
        let held = self.anchors().inspect_leaf(leaf_der).map_err(|_| Refusal::NotAMember)?;
        if held.node_id != node_id {
            return Err(Refusal::NotAMember.into());
        }
        let (known, enrolled) = (self.store.knows(&node_id, &held.name)?, Some(held.enrolled.from));
        self.admits(&Asking { node: &node_id, name: &held.name, enrolled, known, now })?;
        let txn = self.store.begin()?;
        check_name(&txn, &held.name, &node_id)?;
        let stored = txn.enrolment(&node_id)?;
        // Of what a revoked issuer certified, name, roles and end may all be made up: then only what this one wrote down itself counts.
        let shown = Some(&held.enrolled).filter(|_| !self.distrusts(&held.issuer));
        let known = newest(shown, stored.as_ref()).ok_or(Refusal::IssuerRevoked)?;
        if known.until <= now {
            return Err(Refusal::EnrolmentEnded { at: known.until }.into());
        }
        let enrolled = self.with_roles(&txn, &node_id, self.extended(known, now), now)?;
        txn.put_member(&held.name, &node_id)?;
        let changed = stored.as_ref() != Some(&enrolled);
        self.admit(txn, &Decision { name: &held.name, claim, enrolled: &enrolled, changed }, now)
    }

    /// Whether the gate lets it pass.
    fn admits(&self, asking: &Asking<'_>) -> Result<(), Refusal> {
        self.gate.get().map_or(Ok(()), |gate| gate.admit(asking))
    }

    fn distrusts(&self, issuer: &NodeId) -> bool {
        self.gate.get().is_some_and(|gate| gate.distrusts(issuer))
    }

    /// An enrolment that begins now.
    fn enrolled(&self, roles: Vec<RoleName>, now: UnixMillis) -> Enrolled {
        Enrolled { roles, from: now, until: now.plus(self.lives().enrolment()) }
    }

    /// The enrolment of a node that is heard of: extended when less than half of one is left.
    fn extended(&self, known: Enrolled, now: UnixMillis) -> Enrolled {
        let life = self.lives().enrolment();
        let until =
            if known.until < now.plus(life / 2) && known.until > now { now.plus(life) } else { known.until };
        Enrolled { until, ..known }
    }

    /// Issues, commits, records: what the reply says is on the disk, and in the log.
    fn admit(&self, txn: Txn, decision: &Decision<'_>, now: UnixMillis) -> Result<(Admitted, Given), Denied> {
        let Decision { name, claim, enrolled, changed } = *decision;
        let node_id = claim.node_id();
        self.gate.get().map_or(Ok(()), |gate| gate.count(&node_id, now))?;
        let subject = LeafSubject {
            name,
            node_id,
            routing_key: claim.routing_key,
            leaf_public: &claim.leaf_public,
            enrolled,
        };
        let (given, not_after) = self.give(txn, &subject, changed, now)?;
        Ok((Admitted { name: name.clone(), node_id, not_after }, given))
    }

    /// Issues, commits, records: the only way by which a leaf leaves. `changed`: whether the enrolment begins, or is another than before.
    ///
    /// After a crash in between, the store knows a name that the log doesn't, and that this is so: the node's next leaf takes the enrolment
    /// along. The other way round, the log could name two owners.
    fn give(
        &self,
        txn: Txn,
        subject: &LeafSubject<'_>,
        changed: bool,
        now: UnixMillis,
    ) -> Result<(Given, UnixMillis), IssuerError> {
        let node = &subject.node_id;
        let unlogged = txn.is_unlogged(node)?;
        if changed && !unlogged {
            txn.put_unlogged(node)?;
        }
        txn.put_enrolment(node, subject.enrolled)?;
        let (leaf, not_after) = self.issue(&txn, subject, now)?;
        txn.commit()?;
        let enrolment = (changed || unlogged).then_some(subject.enrolled);
        let given = self.recorded(leaf, enrolment, now)?;
        if enrolment.is_some() {
            // A store that fails here keeps the mark: the enrolment is logged once more, which says the same.
            let _ = self.store.logged(node);
        }
        Ok((given, not_after))
    }

    /// Records a leaf whose decision is on the disk.
    fn recorded(
        &self,
        leaf_der: Vec<u8>,
        enrolment: Option<&Enrolled>,
        now: UnixMillis,
    ) -> Result<Given, IssuerError> {
        let Some(record) = self.record.get() else { return Ok(Given { leaf_der, promise: Vec::new() }) };
        let member =
            self.anchors().inspect_leaf(&leaf_der).map_err(|error| RecordError(error.to_string()))?;
        let promise = record.record(&Issuance { member: &member, leaf_der: &leaf_der, enrolment, now })?;
        Ok(Given { leaf_der, promise })
    }

    fn issue(
        &self,
        txn: &Txn,
        subject: &LeafSubject<'_>,
        now: UnixMillis,
    ) -> Result<(Vec<u8>, UnixMillis), IssuerError> {
        let leaf = self.key.issue(&self.grant().statement, subject, self.leaf_life(now), now)?;
        txn.put_serial(&leaf.serial, leaf.not_after, &subject.node_id, now)?;
        Ok((leaf.der, leaf.not_after))
    }

    fn answer(
        &self,
        request: &[u8],
        result: Result<(Admitted, Given), Denied>,
        join_key: Option<&[u8; 32]>,
        now: UnixMillis,
    ) -> Answer {
        let (outcome, said, mut fault) = match result {
            Ok((admitted, Given { leaf_der, promise })) => {
                let anchors = self.anchors();
                let issued = Box::new(Issued {
                    root: anchors.root().clone(),
                    mesh: anchors.mesh().clone(),
                    grants: anchors.told(),
                    leaf_der,
                    issuer_time: now,
                });
                let said = if promise.is_empty() {
                    Outcome::Issued(issued)
                } else {
                    Outcome::Logged(issued, promise)
                };
                (Ok(admitted), said, None)
            }
            Err(Denied::Refused(refusal)) => (Err(refusal.clone()), Outcome::Refused(refusal), None),
            Err(Denied::Failed(error)) => {
                (Err(Refusal::Internal), Outcome::Refused(Refusal::Internal), Some(error))
            }
        };
        let reply = message::encode_reply(request, said, join_key).unwrap_or_else(|error| {
            fault = Some(error.into());
            Vec::new()
        });
        let renewal = message::is_renewal(request);
        let refused = (outcome.is_err() && !renewal).then(|| message::decode_join(request).ok()).flatten();
        let refused = refused.map(|request| (request.body.claim.node_id(), request.body.name));
        let refused_renewal =
            (outcome.is_err() && renewal).then(|| message::decode_renew(request).ok()).flatten();
        let refused_renewal = refused_renewal.map(|request| request.body.claim.node_id());
        Answer { reply, outcome, fault, renewal, refused, refused_renewal }
    }
}

/// Of what a leaf says and what is stored, the enrolment that began later: the node joined once more since. Its end is the later one of both,
/// since another issuer may have extended it, or this one; which lasts longer says nothing of its roles.
fn newest(held: Option<&Enrolled>, stored: Option<&Enrolled>) -> Option<Enrolled> {
    match (held, stored) {
        (Some(held), Some(stored)) => {
            let newest = if held.from > stored.from { held } else { stored };
            Some(Enrolled { until: held.until.max(stored.until), ..newest.clone() })
        }
        (held, stored) => held.or(stored).cloned(),
    }
}

/// Roles that came by several ways, sorted, each once. A rule may deny by any of them, so none is left out.
fn canonical(mut roles: Vec<RoleName>) -> Result<Vec<RoleName>, IssuerError> {
    roles.sort();
    roles.dedup();
    if roles.len() <= ROLES_MAX { Ok(roles) } else { Err(IssuerError::Roles) }
}

/// Whether the name is this node's, or free, and there is room.
fn check_name(txn: &Txn, name: &NodeName, node_id: &NodeId) -> Result<(), Denied> {
    match txn.node_name(node_id)? {
        Some(known) if known != *name => Err(Refusal::AlreadyNamed { name: known }.into()),
        Some(_) => Ok(()),
        None if txn.name_owner(name)?.is_some() => Err(Refusal::NameTaken { name: name.clone() }.into()),
        None if txn.member_count()? >= MEMBERS_MAX => Err(Refusal::Full.into()),
        None => Ok(()),
    }
}

fn check_grant(key: &IssuerKey, grant: &IssuerGrant, anchors: &TrustAnchors) -> Result<(), IssuerError> {
    let ca_key = crate::anchors::leaf_public(&grant.statement.ca_der);
    // Another set of approvals is the same grant.
    let held = anchors.grants().iter().any(|held| held.statement == grant.statement);
    let right = held && ca_key.as_deref() == Some(key.public_key().as_ref());
    if right { Ok(()) } else { Err(IssuerError::WrongGrant) }
}

fn check_claim<B>(request: &Request<'_, B>, claim: &Claim, now: UnixMillis) -> Result<(), Refusal> {
    if now.distance(claim.time) > CLOCK_SKEW_MAX {
        return Err(Refusal::ClockSkew { issuer: now, newcomer: claim.time });
    }
    if request.is_proved(claim) { Ok(()) } else { Err(Refusal::BadProof) }
}

fn refusal_of(error: WireError) -> Refusal {
    match error {
        WireError::UnsupportedVersion { found, supported } => {
            Refusal::UnsupportedVersion { found, supported }
        }
        WireError::TooLarge { .. } | WireError::Malformed => Refusal::Malformed,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

    #[test]
    fn who_asks_again_while_it_waits_costs_no_write() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, alice) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let identity = crate::create_mesh(dir.path(), &mesh, &alice, None, NOW).unwrap();
        let issuer =
            crate::home::open_issuer(dir.path(), identity.membership.anchors(), None).unwrap().unwrap();
        let ttl = Duration::from_secs(60);
        let ticket = issuer
            .invite_attested(&[], &[AttestationKind::APPROVAL], ttl, 1, Vec::new(), NOW)
            .unwrap()
            .ticket;
        let (node, routing) = (crate::NodeKey::generate().unwrap(), crate::RoutingKey::generate().unwrap());
        let bob: NodeName = "bob".parse().unwrap();
        let client = crate::JoinClient::new(ticket, bob, &node, &routing, NOW).unwrap();
        let ask = || {
            assert_eq!(issuer.handle_join(client.request(), NOW).outcome, Err(Refusal::AwaitingApproval));
            std::fs::read(dir.path().join(crate::home::ISSUER_STATE)).unwrap()
        };
        let first = ask();
        assert!(first == ask(), "the store was written again");
        assert_eq!(issuer.applications(NOW).unwrap().len(), 1);
    }

    #[test]
    fn ended_tickets_make_room_for_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, alice) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let identity = crate::create_mesh(dir.path(), &mesh, &alice, None, NOW).unwrap();
        let anchors = identity.membership.anchors();
        let issuer = crate::home::open_issuer(dir.path(), anchors, None).unwrap().unwrap();
        let ttl = Duration::from_secs(60);
        let txn = issuer.store.begin().unwrap();
        for n in 0..TICKETS_MAX {
            let record = TicketRecord {
                hash: [0; 32],
                join_key: [0; 32],
                expires_at: NOW.plus(ttl),
                uses: 1,
                used: 0,
            };
            txn.put_ticket(&u128::from(n).to_be_bytes(), &record).unwrap();
        }
        txn.commit().unwrap();
        let invite = |now| issuer.invite(ttl, 1, Vec::new(), now);
        assert_eq!(invite(NOW).unwrap_err(), IssuerError::TooManyTickets);
        // Until then a node that joined may still fetch a reply that it lost.
        let last = NOW.plus(ttl).plus(RETRY_GRACE);
        assert_eq!(invite(last).unwrap_err(), IssuerError::TooManyTickets);
        invite(UnixMillis(last.0 + 1)).unwrap();
        assert_eq!(issuer.store.begin().unwrap().ticket_count().unwrap(), 1);
    }
}
