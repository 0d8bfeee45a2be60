//! Wire form of join and renewal requests and their replies. See `docs/identity.md`, "Joining".

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::grant::{GRANTS_BYTES_MAX, IssuerGrant};
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::{EVIDENCE_MAX, Evidence, KINDS_MAX};
use crate::keys::{
    Ed25519Signature, KeyError, LeafKey, MlDsaPublic, MlDsaSignature, NodeKey, RoutingKey, random,
    verify_ml_dsa, verify_routing,
};
use crate::names::{MeshName, NodeName};
use crate::root::RootPublic;
use crate::wire::{self, VERSION, WireError};

/// Longest request; joins have 10.7 KB (two public keys and two signatures of ML-DSA-65), renewals the present leaf besides: 17 KB.
pub const REQUEST_MAX: usize = 24 * 1024;

/// Longest reply: the mesh's root and name, all grants, a leaf (16 KiB at most) and the log's promise.
pub const REPLY_MAX: usize = GRANTS_BYTES_MAX + 64 * 1024;

const KIND_JOIN: u8 = 1;
const KIND_REPLY: u8 = 3;
/// 2 was a renewal without the present leaf, which no program ever sent.
const KIND_RENEW: u8 = 4;
/// A join with evidence for what the ticket asks beside itself.
const KIND_ATTESTED_JOIN: u8 = 5;

const MAC_LEN: usize = 32;
const JOIN_DOMAIN: &[u8] = b"meshara join request v1\0";
const ATTESTED_JOIN_DOMAIN: &[u8] = b"meshara attested join request v1\0";
const RENEW_DOMAIN: &[u8] = b"meshara renew request v2\0";

/// Why an issuer says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request has another version.
    #[error(
        "the issuer knows version {supported} of the join protocol, this program sent {found}: update the older side"
    )]
    UnsupportedVersion {
        /// Version of the request.
        found: u8,
        /// Version of the issuer.
        supported: u8,
    },
    /// The request does not decode.
    #[error("the issuer could not read the request: try again, then update the older side")]
    Malformed,
    /// No such ticket.
    #[error("the issuer does not know this ticket: ask for a new one")]
    UnknownTicket,
    /// The request is not authenticated by the ticket.
    #[error("the ticket does not match: copy the whole ticket again")]
    BadMac,
    /// The clocks differ too much.
    #[error(
        "the clocks differ too much: the issuer's shows {issuer}, this machine's {newcomer}: set the clock"
    )]
    ClockSkew {
        /// The issuer's clock.
        issuer: UnixMillis,
        /// The requester's clock.
        newcomer: UnixMillis,
    },
    /// A key was not proved.
    #[error("the request does not prove its keys")]
    BadProof,
    /// The ticket ended.
    #[error("the ticket ended at {at}: ask for a new one")]
    TicketExpired {
        /// Its end.
        at: UnixMillis,
    },
    /// All uses are consumed by other nodes.
    #[error("the ticket is used up: ask for a new one")]
    TicketUsed,
    /// Another node has this name.
    #[error("the name {name} is taken: choose another --name")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// This node has another name.
    #[error("this node is known as {name}: join with --name {name}")]
    AlreadyNamed {
        /// Its name.
        name: NodeName,
    },
    /// Renewal by a node that shows no certificate of this mesh for itself.
    #[error("the issuer does not know this node: join with a ticket")]
    NotAMember,
    /// The issuer has as many members as it can hold.
    #[error("the mesh is full")]
    Full,
    /// The issuer could not write or sign.
    #[error("the issuer failed: see its log")]
    Internal,
    /// The enrolment has ended: the node was away for too long.
    #[error("this node's enrolment ended at {at}: join again with a new ticket")]
    EnrolmentEnded {
        /// When.
        at: UnixMillis,
    },
    /// The session in which a renewal came is another node's.
    #[error("the request is another node's than the session in which it came")]
    OtherNode,
    /// The mesh revoked this node.
    #[error("this node is revoked")]
    Revoked,
    /// The ticket asks for an operator's approval, which has not been given yet. The same ticket may be used again.
    #[error("an operator has to approve this node first: `meshara trust requests` where the ticket was made")]
    AwaitingApproval,
    /// An operator said no.
    #[error("the operator declined")]
    Declined,
    /// The ticket is for listed nodes, and this one isn't on the issuer's list under this name.
    #[error("this node is not on the issuer's list: `meshara trust allowed add NODEID` there")]
    NotListed,
    /// The ticket asks for a kind of attestation that the issuer doesn't know, or the request's evidence for it is missing or wrong.
    #[error("the issuer can't judge attestation of kind {kind}: update it")]
    UnknownAttestation {
        /// The kind's number.
        kind: u16,
    },
    /// The mesh revoked whoever issued the certificate that is shown, and this issuer never enrolled the node itself.
    #[error(
        "the issuer of this node's certificate was revoked, and this one never enrolled it: join again with a new ticket"
    )]
    IssuerRevoked,
    /// This node asks again and again.
    #[error("this node asked for certificates too often: wait a minute")]
    TooOften,
}

impl Refusal {
    /// Whether an unauthenticated reply may say this: the issuer cannot authenticate it, and believing it does no
    /// harm beyond trying elsewhere.
    pub(crate) fn may_be_plain(&self) -> bool {
        matches!(self, Self::UnsupportedVersion { .. } | Self::Malformed | Self::UnknownTicket)
    }
}

/// The keys a request claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) node_public: MlDsaPublic,
    pub(crate) leaf_public: MlDsaPublic,
    pub(crate) routing_key: [u8; 32],
    pub(crate) nonce: [u8; 32],
    pub(crate) time: UnixMillis,
}

impl Claim {
    pub(crate) fn new(
        node: &NodeKey,
        leaf: &LeafKey,
        routing: &RoutingKey,
        now: UnixMillis,
    ) -> Result<Self, KeyError> {
        Ok(Self {
            node_public: node.public_key().clone(),
            leaf_public: leaf.public_key().clone(),
            routing_key: routing.public_key(),
            nonce: *random()?,
            time: now,
        })
    }

    pub(crate) fn node_id(&self) -> NodeId {
        NodeId::of_public_key(&self.node_public)
    }
}

/// A join request's fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinBody {
    pub(crate) ticket_id: [u8; 16],
    pub(crate) ticket_hash: [u8; 32],
    pub(crate) name: NodeName,
    pub(crate) claim: Claim,
    /// For what the ticket asks beside itself; it follows the other fields, in a request of a kind of its own.
    #[serde(skip)]
    pub(crate) evidence: Vec<Evidence>,
}

/// A renewal request's fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RenewBody {
    pub(crate) claim: Claim,
    /// The present leaf, which any issuer of the mesh may have issued. It may have ended.
    pub(crate) leaf_der: Vec<u8>,
}

/// Signatures over all before them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proofs {
    node: MlDsaSignature,
    leaf: MlDsaSignature,
    routing: Ed25519Signature,
}

/// A decoded request; nothing of it is proved yet.
#[derive(Debug)]
pub(crate) struct Request<'a, B> {
    pub(crate) body: B,
    proofs: Proofs,
    signed: &'a [u8],
    domain: &'static [u8],
    mac: Option<(&'a [u8], &'a [u8; MAC_LEN])>,
}

fn signed_message(domain: &[u8], signed: &[u8]) -> Vec<u8> {
    [domain, signed].concat()
}

fn with_proofs<B: Serialize>(
    kind: u8,
    domain: &[u8],
    body: &B,
    keys: (&NodeKey, &LeafKey, &RoutingKey),
) -> Result<Vec<u8>, EncodeError> {
    let signed = wire::append(vec![VERSION, kind], body)?;
    let message = signed_message(domain, &signed);
    let (node, leaf, routing) = keys;
    let proofs = Proofs {
        node: node.sign(&message)?,
        leaf: leaf.sign(&message)?,
        routing: routing.sign(&message).into(),
    };
    Ok(wire::append(signed, &proofs)?)
}

/// Why a message could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Signing failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A join request, signed and authenticated.
pub(crate) fn encode_join(
    body: &JoinBody,
    keys: (&NodeKey, &LeafKey, &RoutingKey),
    join_key: &[u8; 32],
) -> Result<Vec<u8>, EncodeError> {
    let mut request = if body.evidence.is_empty() {
        with_proofs(KIND_JOIN, JOIN_DOMAIN, body, keys)?
    } else {
        with_proofs(KIND_ATTESTED_JOIN, ATTESTED_JOIN_DOMAIN, &(body, &body.evidence), keys)?
    };
    let mac = request_mac(join_key, &request);
    request.extend_from_slice(mac.as_bytes());
    Ok(request)
}

/// A renewal request, signed.
pub(crate) fn encode_renew(
    body: &RenewBody,
    keys: (&NodeKey, &LeafKey, &RoutingKey),
) -> Result<Vec<u8>, EncodeError> {
    with_proofs(KIND_RENEW, RENEW_DOMAIN, body, keys)
}

pub(crate) fn decode_join(bytes: &[u8]) -> Result<Request<'_, JoinBody>, WireError> {
    let (authenticated, mac) = match wire::check_version(bytes, REQUEST_MAX) {
        Ok(_) => bytes.split_last_chunk::<MAC_LEN>().ok_or(WireError::Malformed)?,
        Err(error) => return Err(error),
    };
    let mut request = if authenticated.get(1) == Some(&KIND_ATTESTED_JOIN) {
        let request: Request<'_, (JoinBody, Vec<Evidence>)> =
            decode_request(authenticated, KIND_ATTESTED_JOIN, ATTESTED_JOIN_DOMAIN)?;
        let Request { body: (body, evidence), proofs, signed, domain, mac } = request;
        let sound = (1..=KINDS_MAX).contains(&evidence.len())
            && evidence.is_sorted_by(|a, b| a.kind < b.kind)
            && evidence.iter().all(|one| one.bytes.len() <= EVIDENCE_MAX);
        if !sound {
            return Err(WireError::Malformed);
        }
        Request { body: JoinBody { evidence, ..body }, proofs, signed, domain, mac }
    } else {
        decode_request(authenticated, KIND_JOIN, JOIN_DOMAIN)?
    };
    request.mac = Some((authenticated, mac));
    Ok(request)
}

/// Whether this claims to be a renewal request.
pub(crate) fn is_renewal(bytes: &[u8]) -> bool {
    bytes.get(1) == Some(&KIND_RENEW)
}

pub(crate) fn decode_renew(bytes: &[u8]) -> Result<Request<'_, RenewBody>, WireError> {
    decode_request(bytes, KIND_RENEW, RENEW_DOMAIN)
}

fn decode_request<'a, B: Serialize + serde::de::DeserializeOwned>(
    bytes: &'a [u8],
    kind: u8,
    domain: &'static [u8],
) -> Result<Request<'a, B>, WireError> {
    let rest = wire::check_version(bytes, REQUEST_MAX)?;
    let rest = rest.strip_prefix(&[kind]).ok_or(WireError::Malformed)?;
    let (body, rest) = wire::take::<B>(rest)?;
    let signed = bytes.get(..bytes.len() - rest.len()).ok_or(WireError::Malformed)?;
    let (proofs, rest) = wire::take::<Proofs>(rest)?;
    if !rest.is_empty() {
        return Err(WireError::Malformed);
    }
    Ok(Request { body, proofs, signed, domain, mac: None })
}

impl<B> Request<'_, B> {
    /// Whether the holder of `join_key` made this request.
    pub(crate) fn is_authenticated_by(&self, join_key: &[u8; 32]) -> bool {
        self.mac.is_some_and(|(message, mac)| {
            bool::from(request_mac(join_key, message).as_bytes().as_slice().ct_eq(mac.as_slice()))
        })
    }

    /// Whether all three keys of `claim` signed this request.
    pub(crate) fn is_proved(&self, claim: &Claim) -> bool {
        let message = signed_message(self.domain, self.signed);
        verify_routing(&claim.routing_key, &message, self.proofs.routing.as_bytes()).is_ok()
            && verify_ml_dsa(&claim.node_public, &message, &self.proofs.node).is_ok()
            && verify_ml_dsa(&claim.leaf_public, &message, &self.proofs.leaf).is_ok()
    }
}

fn keyed(context: &str, join_key: &[u8; 32], message: &[u8]) -> blake3::Hash {
    let key = Zeroizing::new(blake3::derive_key(context, join_key));
    blake3::keyed_hash(&key, message)
}

fn request_mac(join_key: &[u8; 32], message: &[u8]) -> blake3::Hash {
    keyed("meshara 2026-11 join request mac v1", join_key, message)
}

fn reply_mac(join_key: &[u8; 32], message: &[u8]) -> blake3::Hash {
    keyed("meshara 2026-11 join reply mac v1", join_key, message)
}

/// What an accepted node is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Issued {
    pub(crate) root: RootPublic,
    pub(crate) mesh: MeshName,
    pub(crate) grants: Vec<IssuerGrant>,
    pub(crate) leaf_der: Vec<u8>,
    pub(crate) issuer_time: UnixMillis,
}

/// The issuer's decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Issued(Box<Issued>),
    Refused(Refusal),
    /// Issued, with the promise of the issuer's log that the leaf is in it; what that is, only the log's readers know.
    Logged(Box<Issued>, Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ReplyBody {
    request: [u8; 32],
    outcome: Outcome,
}

fn request_hash(request: &[u8]) -> [u8; 32] {
    blake3::derive_key("meshara 2026-11 join request hash v1", request)
}

/// A reply to `request`, authenticated when the ticket's key is known.
pub(crate) fn encode_reply(
    request: &[u8],
    outcome: Outcome,
    join_key: Option<&[u8; 32]>,
) -> Result<Vec<u8>, WireError> {
    let body = ReplyBody { request: request_hash(request), outcome };
    let mut reply = wire::append(vec![VERSION, KIND_REPLY], &body)?;
    reply.push(u8::from(join_key.is_some()));
    if let Some(join_key) = join_key {
        let mac = reply_mac(join_key, &reply);
        reply.extend_from_slice(mac.as_bytes());
    }
    Ok(reply)
}

/// What a reply refuses with; unproved, so it says only whether another issuer is worth asking. `None` when it refuses nothing.
pub fn refusal_in(reply: &[u8]) -> Option<Refusal> {
    let rest = wire::check_version(reply, REPLY_MAX).ok()?.strip_prefix(&[KIND_REPLY])?;
    match wire::take::<ReplyBody>(rest).ok()?.0.outcome {
        Outcome::Refused(refusal) => Some(refusal),
        _ => None,
    }
}

/// How far a reply can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authenticity {
    /// The MAC is good.
    Good,
    /// There is none.
    Absent,
    /// The MAC is wrong.
    Bad,
}

/// A decoded reply: what it answers, what it says, whether it is authentic under `join_key`.
pub(crate) fn decode_reply(
    bytes: &[u8],
    request: &[u8],
    join_key: Option<&[u8; 32]>,
) -> Result<Option<(Outcome, Authenticity)>, WireError> {
    let rest = wire::check_version(bytes, REPLY_MAX)?;
    let rest = rest.strip_prefix(&[KIND_REPLY]).ok_or(WireError::Malformed)?;
    let (body, rest) = wire::take::<ReplyBody>(rest)?;
    let authenticity = match rest {
        [0] => Authenticity::Absent,
        [1, mac @ ..] if mac.len() == MAC_LEN => {
            let message = bytes.get(..bytes.len() - MAC_LEN).ok_or(WireError::Malformed)?;
            let good = join_key
                .is_some_and(|key| bool::from(reply_mac(key, message).as_bytes().as_slice().ct_eq(mac)));
            if good { Authenticity::Good } else { Authenticity::Bad }
        }
        _ => return Err(WireError::Malformed),
    };
    Ok((body.request == request_hash(request)).then_some((body.outcome, authenticity)))
}
