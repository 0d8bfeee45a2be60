//! The node that issues: makes tickets, answers join and renewal requests. Its state is durable before it answers.

mod store;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroize;

pub use store::StoreError;
use store::{Store, TicketRecord, Txn};

use crate::anchors::TrustAnchors;
use crate::grant::{IssuerGrant, IssuerKey};
use crate::ids::{NodeId, UnixMillis};
use crate::join::Refusal;
use crate::join::message::{self, Claim, Issued, JoinBody, Outcome, Request};
use crate::keys::MlDsaPublic;
use crate::leaf::{BACKDATE, IssueError, LeafSubject};
use crate::names::NodeName;
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
    /// A ticket needs at least one use and a life.
    #[error("a ticket needs at least one use and a time to live above zero")]
    EmptyTicket,
    /// [`TICKETS_MAX`] is reached.
    #[error("4096 tickets have not ended: wait until some have, or give tickets more uses")]
    TooManyTickets,
    /// The name belongs to another node, or the node to another name.
    #[error("the name is taken")]
    NameTaken,
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

/// The CA key with its grant and its state. Methods take `&self`; writers queue inside the store.
#[derive(Debug)]
pub struct Issuer {
    key: IssuerKey,
    grant: IssuerGrant,
    anchors: TrustAnchors,
    store: Store,
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
        Ok(Self { key, grant, anchors, store })
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
        Ok(Self { key, grant, anchors, store })
    }

    /// When its grant ends: no leaf of its lasts longer.
    pub(crate) fn grant_end(&self) -> UnixMillis {
        self.grant.statement.not_after
    }

    /// Makes a ticket that lasts `ttl` from `now` for `uses` nodes; it is durable when this returns.
    pub fn invite(
        &self,
        ttl: Duration,
        uses: u32,
        addrs: Vec<SocketAddr>,
        now: UnixMillis,
    ) -> Result<Invite, IssuerError> {
        if ttl.as_millis() == 0 || uses == 0 {
            return Err(IssuerError::EmptyTicket);
        }
        let expires_at = now.plus(ttl);
        let ticket =
            Ticket::new(self.anchors.mesh().clone(), self.anchors.mesh_id(), expires_at, uses, addrs)?;
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
        record.join_key.zeroize();
        txn.commit()?;
        Ok(Invite { ticket, expires_at, uses })
    }

    /// Issues a leaf, the first one or a fresh one, for the node that holds the issuer itself.
    pub fn enrol_self(
        &self,
        name: &NodeName,
        node_id: NodeId,
        routing_key: [u8; 32],
        leaf_public: &MlDsaPublic,
        now: UnixMillis,
    ) -> Result<Vec<u8>, IssuerError> {
        let txn = self.store.begin()?;
        let free = txn.name_owner(name)?.is_none_or(|owner| owner == node_id)
            && txn.node_name(&node_id)?.is_none_or(|known| known == *name);
        if !free {
            return Err(IssuerError::NameTaken);
        }
        txn.put_member(name, &node_id)?;
        let subject = LeafSubject { name, node_id, routing_key, leaf_public };
        let (leaf, _) = self.issue(&txn, &subject, now)?;
        txn.commit()?;
        Ok(leaf)
    }

    /// Answers a join request. A refusal writes nothing; an acceptance is durable when this returns.
    pub fn handle_join(&self, bytes: &[u8], now: UnixMillis) -> Answer {
        let mut join_key = None;
        let result = self.join(bytes, now, &mut join_key);
        let answer = self.answer(bytes, result, join_key.as_ref(), now);
        join_key.zeroize();
        answer
    }

    /// Answers a renewal request of a member.
    pub fn renew(&self, bytes: &[u8], now: UnixMillis) -> Answer {
        let result = self.renewal(bytes, now);
        self.answer(bytes, result, None, now)
    }

    /// Names and ids of all members.
    pub fn members(&self) -> Result<Vec<(NodeName, NodeId)>, IssuerError> {
        Ok(self.store.members()?)
    }

    /// Whom this issuer trusts.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    fn join(
        &self,
        bytes: &[u8],
        now: UnixMillis,
        join_key: &mut Option<[u8; 32]>,
    ) -> Result<(Admitted, Vec<u8>), Denied> {
        let request = message::decode_join(bytes).map_err(refusal_of)?;
        let JoinBody { ticket_id, ticket_hash, name, claim } = &request.body;
        let known = self.store.ticket(ticket_id)?.ok_or(Refusal::UnknownTicket)?;
        *join_key = Some(known.join_key);
        if !request.is_authenticated_by(&known.join_key) || *ticket_hash != known.hash {
            return Err(Refusal::BadMac.into());
        }
        check_claim(&request, claim, now)?;

        let node_id = claim.node_id();
        let txn = self.store.begin()?;
        // Read again: another request may have used the ticket meanwhile.
        let mut ticket = txn.ticket(ticket_id)?.ok_or(Refusal::UnknownTicket)?;
        let repeated = txn.has_used(ticket_id, &node_id)?;
        let end = if repeated { ticket.expires_at.plus(RETRY_GRACE) } else { ticket.expires_at };
        if now >= end {
            return Err(Refusal::TicketExpired { at: ticket.expires_at }.into());
        }
        match txn.node_name(&node_id)? {
            Some(known) if known != *name => return Err(Refusal::AlreadyNamed { name: known }.into()),
            Some(_) => {}
            None if txn.name_owner(name)?.is_some() => {
                return Err(Refusal::NameTaken { name: name.clone() }.into());
            }
            None if txn.member_count()? >= MEMBERS_MAX => return Err(Refusal::Full.into()),
            None => {}
        }
        if !repeated {
            if ticket.used >= ticket.uses {
                return Err(Refusal::TicketUsed.into());
            }
            ticket.used += 1;
            txn.put_ticket(ticket_id, &ticket)?;
            txn.put_use(ticket_id, &node_id, now)?;
        }
        txn.put_member(name, &node_id)?;
        self.admit(txn, name, claim, now)
    }

    fn renewal(&self, bytes: &[u8], now: UnixMillis) -> Result<(Admitted, Vec<u8>), Denied> {
        let request = message::decode_renew(bytes).map_err(refusal_of)?;
        let claim = &request.body.claim;
        let name = self.store.node_name(&claim.node_id())?.ok_or(Refusal::NotAMember)?;
        check_claim(&request, claim, now)?;
        self.admit(self.store.begin()?, &name, claim, now)
    }

    /// Issues, then commits: what the reply says is on the disk.
    fn admit(
        &self,
        txn: Txn,
        name: &NodeName,
        claim: &Claim,
        now: UnixMillis,
    ) -> Result<(Admitted, Vec<u8>), Denied> {
        let node_id = claim.node_id();
        let subject =
            LeafSubject { name, node_id, routing_key: claim.routing_key, leaf_public: &claim.leaf_public };
        let (leaf, not_after) = self.issue(&txn, &subject, now)?;
        txn.commit()?;
        Ok((Admitted { name: name.clone(), node_id, not_after }, leaf))
    }

    fn issue(
        &self,
        txn: &Txn,
        subject: &LeafSubject<'_>,
        now: UnixMillis,
    ) -> Result<(Vec<u8>, UnixMillis), IssuerError> {
        let leaf = self.key.issue(&self.grant.statement, subject, now)?;
        txn.put_serial(&leaf.serial, leaf.not_after, &subject.node_id, now)?;
        Ok((leaf.der, leaf.not_after))
    }

    fn answer(
        &self,
        request: &[u8],
        result: Result<(Admitted, Vec<u8>), Denied>,
        join_key: Option<&[u8; 32]>,
        now: UnixMillis,
    ) -> Answer {
        let (outcome, said, mut fault) = match result {
            Ok((admitted, leaf_der)) => {
                let issued = Issued {
                    root: self.anchors.root().clone(),
                    mesh: self.anchors.mesh().clone(),
                    grants: self.anchors.grants().to_vec(),
                    leaf_der,
                    issuer_time: now,
                };
                (Ok(admitted), Outcome::Issued(Box::new(issued)), None)
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
        Answer { reply, outcome, fault }
    }
}

fn check_grant(key: &IssuerKey, grant: &IssuerGrant, anchors: &TrustAnchors) -> Result<(), IssuerError> {
    let ca_key = crate::anchors::leaf_public(&grant.statement.ca_der);
    let right = anchors.grants().contains(grant) && ca_key.as_deref() == Some(key.public_key().as_ref());
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
