//! The side that asks for a certificate: a newcomer with a ticket, or a member that renews.

use zeroize::Zeroizing;

use crate::anchors::{LeafError, TrustAnchors, TrustError};
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::Evidence;
use crate::join::message::{
    self, Authenticity, Claim, EncodeError, Issued, JoinBody, Outcome, Refusal, RenewBody,
};
use crate::keys::{KeyError, LeafKey, NodeKey, RoutingKey};
use crate::membership::{Membership, MembershipError, MeshInfo};
use crate::names::NodeName;
use crate::root::RootPublic;
use crate::ticket::Ticket;
use crate::wire::WireError;

/// Why no membership came out of a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The message does not encode or decode.
    #[error("the reply cannot be read: {0}")]
    Wire(#[from] WireError),
    /// An answer to another request.
    #[error("the reply answers another request")]
    OtherRequest,
    /// The reply was not made by the ticket's issuer, or was altered on the way.
    #[error("the reply is not authentic: try another member")]
    NotAuthentic,
    /// The issuer said no.
    #[error("{refusal}")]
    Refused {
        /// Its reason.
        refusal: Refusal,
        /// Whether it is proved that the issuer said so; if not, the carrying member may have made it up: try another.
        authentic: bool,
    },
    /// The reply has another root than the ticket.
    #[error("the reply belongs to another mesh than the ticket")]
    WrongRoot,
    /// The reply's grants make no trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The issued leaf does not verify here.
    #[error("{error}; the issuer's clock showed {issuer_time}")]
    Leaf {
        /// Why.
        error: LeafError,
        /// When it was issued.
        issuer_time: UnixMillis,
    },
    /// The issued leaf is for another node, name or key.
    #[error("the issued certificate is not what was asked for")]
    WrongLeaf,
}

impl From<EncodeError> for JoinError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Key(error) => Self::Key(error),
            EncodeError::Wire(error) => Self::Wire(error),
        }
    }
}

/// What both kinds of request have in common.
#[derive(Debug)]
struct Asked {
    request: Vec<u8>,
    name: NodeName,
    node_id: NodeId,
    routing_key: [u8; 32],
    leaf_key: LeafKey,
}

impl Asked {
    /// `held` is what this node trusted before: it may know issuers that the one that answers doesn't know yet.
    fn accept(
        &self,
        issued: Issued,
        promise: Vec<u8>,
        root: &RootPublic,
        held: Option<&TrustAnchors>,
        now: UnixMillis,
    ) -> Result<Membership, JoinError> {
        if issued.root != *root || held.is_some_and(|held| *held.mesh() != issued.mesh) {
            return Err(JoinError::WrongRoot);
        }
        let anchors = match held {
            Some(held) => held.merged(&issued.grants, now)?.unwrap_or_else(|| held.clone()),
            None => TrustAnchors::new(issued.root, issued.mesh, issued.grants)?,
        };
        let issuer_time = issued.issuer_time;
        let member = anchors
            .verify_leaf(&issued.leaf_der, now)
            .map_err(|error| JoinError::Leaf { error, issuer_time })?;
        let same = member.node_id == self.node_id
            && member.name == self.name
            && member.routing_key == self.routing_key;
        if !same {
            return Err(JoinError::WrongLeaf);
        }
        let leaf_key = LeafKey::from_seed(self.leaf_key.seed().clone())?;
        let made = Membership::new(anchors, issued.leaf_der, leaf_key).map_err(|error| match error {
            MembershipError::Trust(error) => JoinError::Trust(error),
            MembershipError::Leaf(error) => JoinError::Leaf { error, issuer_time },
            MembershipError::Key(error) => JoinError::Key(error),
            _ => JoinError::WrongLeaf,
        })?;
        Ok(made.with_promise(promise))
    }
}

/// A newcomer with a ticket. The same request may be sent any number of times, to any number of members.
#[derive(Debug)]
pub struct JoinClient {
    asked: Asked,
    ticket: Ticket,
    join_key: Zeroizing<[u8; 32]>,
}

impl JoinClient {
    /// Makes the request, with a fresh leaf key.
    pub fn new(
        ticket: Ticket,
        name: NodeName,
        node: &NodeKey,
        routing: &RoutingKey,
        now: UnixMillis,
    ) -> Result<Self, JoinError> {
        Self::with_evidence(ticket, name, (node, routing), Vec::new(), now)
    }

    /// As [`JoinClient::new`], with evidence for what the ticket asks beside itself: at most [`KINDS_MAX`](crate::issuer::KINDS_MAX)
    /// kinds, each once. What the issuer can't read it calls malformed.
    pub fn with_evidence(
        ticket: Ticket,
        name: NodeName,
        (node, routing): (&NodeKey, &RoutingKey),
        mut evidence: Vec<Evidence>,
        now: UnixMillis,
    ) -> Result<Self, JoinError> {
        evidence.sort_by_key(|one| one.kind);
        let leaf_key = LeafKey::generate()?;
        let join_key = ticket.join_key();
        let body = JoinBody {
            ticket_id: ticket.id(),
            ticket_hash: ticket.hash(),
            name: name.clone(),
            claim: Claim::new(node, &leaf_key, routing, now)?,
            evidence,
        };
        let request = message::encode_join(&body, (node, &leaf_key, routing), &join_key)?;
        let asked =
            Asked { request, name, node_id: node.node_id(), routing_key: routing.public_key(), leaf_key };
        Ok(Self { asked, ticket, join_key })
    }

    /// The request, at most [`REQUEST_MAX`](crate::join::REQUEST_MAX) bytes; nothing in it is secret.
    pub fn request(&self) -> &[u8] {
        &self.asked.request
    }

    /// The ticket.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Checks a reply: made by the ticket's issuer for this request, root as the ticket says, leaf as asked. In a mesh whose founder is root
    /// alone; see [`open_reply_from`](Self::open_reply_from).
    pub fn open_reply(&self, reply: &[u8], now: UnixMillis) -> Result<Membership, JoinError> {
        self.open(reply, None, now)
    }

    /// As [`open_reply`](Self::open_reply). `info` is what the member that carried the reply says of the mesh; of it the root documents are
    /// used, by which the reply's grants are judged.
    pub fn open_reply_from(
        &self,
        reply: &[u8],
        info: &MeshInfo,
        now: UnixMillis,
    ) -> Result<Membership, JoinError> {
        self.open(reply, Some(info), now)
    }

    fn open(&self, reply: &[u8], info: Option<&MeshInfo>, now: UnixMillis) -> Result<Membership, JoinError> {
        let (outcome, authenticity) =
            message::decode_reply(reply, &self.asked.request, Some(&self.join_key))?
                .ok_or(JoinError::OtherRequest)?;
        match (outcome, authenticity) {
            (Outcome::Issued(issued), Authenticity::Good) => self.accept(*issued, Vec::new(), info, now),
            (Outcome::Logged(issued, promise), Authenticity::Good) => {
                self.accept(*issued, promise, info, now)
            }
            (Outcome::Refused(refusal), Authenticity::Good) => {
                Err(JoinError::Refused { refusal, authentic: true })
            }
            (Outcome::Refused(refusal), Authenticity::Absent) if refusal.may_be_plain() => {
                Err(JoinError::Refused { refusal, authentic: false })
            }
            _ => Err(JoinError::NotAuthentic),
        }
    }

    fn accept(
        &self,
        issued: Issued,
        promise: Vec<u8>,
        info: Option<&MeshInfo>,
        now: UnixMillis,
    ) -> Result<Membership, JoinError> {
        if issued.root.fingerprint() != self.ticket.mesh_id() || issued.mesh != *self.ticket.mesh() {
            return Err(JoinError::WrongRoot);
        }
        let root = issued.root.clone();
        let held = info.map(MeshInfo::anchors).transpose()?;
        if held.as_ref().is_some_and(|held| *held.root() != root) {
            return Err(JoinError::WrongRoot);
        }
        self.asked.accept(issued, promise, &root, held.as_ref(), now)
    }
}

/// A member that asks for its next certificate.
#[derive(Debug)]
pub struct RenewClient {
    asked: Asked,
    held: TrustAnchors,
}

impl RenewClient {
    /// Makes the request, with a fresh leaf key.
    pub fn new(
        membership: &Membership,
        node: &NodeKey,
        routing: &RoutingKey,
        now: UnixMillis,
    ) -> Result<Self, JoinError> {
        let leaf_key = LeafKey::generate()?;
        let claim = Claim::new(node, &leaf_key, routing, now)?;
        let body = RenewBody { claim, leaf_der: membership.leaf_der().to_vec() };
        let request = message::encode_renew(&body, (node, &leaf_key, routing))?;
        let asked = Asked {
            request,
            name: membership.member().name.clone(),
            node_id: node.node_id(),
            routing_key: routing.public_key(),
            leaf_key,
        };
        Ok(Self { asked, held: membership.anchors().clone() })
    }

    /// The request.
    pub fn request(&self) -> &[u8] {
        &self.asked.request
    }

    /// Checks a reply. It needs no MAC: the root is the one held, and proves grants and leaf.
    pub fn open_reply(&self, reply: &[u8], now: UnixMillis) -> Result<Membership, JoinError> {
        let (outcome, _) =
            message::decode_reply(reply, &self.asked.request, None)?.ok_or(JoinError::OtherRequest)?;
        let accept = |issued: Issued, promise| {
            self.asked.accept(issued, promise, self.held.root(), Some(&self.held), now)
        };
        match outcome {
            Outcome::Issued(issued) => accept(*issued, Vec::new()),
            Outcome::Logged(issued, promise) => accept(*issued, promise),
            Outcome::Refused(refusal) => Err(JoinError::Refused { refusal, authentic: false }),
        }
    }
}
