//! The overlay core's view of cryptography, answered by certificates, by proofs under heads of issuers' logs, and the node's Ed25519 routing key.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use meshara_identity::{
    LeafError, MeshAddress, NodeId, RoutingKey, TrustAnchors, UnixMillis, verify_routing,
};
use meshara_overlay::auth::SIGNATURE_LEN;
use meshara_overlay::{Authenticator, HeadError, HeadId, JudgedHead, Known, Member, MemberError};
use meshara_transport::tls::{Names, Revoked};
use meshara_trust::log::{Certificate, Hash, ProvedKey, proved};

use super::trust::log::{Logs, routing};

/// Signs with the node's routing key and verifies members under the mesh's trust anchors.
pub(crate) struct MeshAuth {
    me: NodeId,
    key: RoutingKey,
    anchors: Arc<ArcSwap<TrustAnchors>>,
    revoked: Arc<Revoked>,
    names: Arc<Names>,
    logs: Arc<Logs>,
}

impl MeshAuth {
    pub(crate) fn new(
        me: NodeId,
        key: RoutingKey,
        anchors: Arc<ArcSwap<TrustAnchors>>,
        revoked: Arc<Revoked>,
        names: Arc<Names>,
        logs: Arc<Logs>,
    ) -> Self {
        Self { me, key, anchors, revoked, names, logs }
    }

    /// Who a certificate is for.
    fn certified(&self, body: &[u8], now: UnixMillis) -> Result<meshara_identity::Member, MemberError> {
        let anchors = self.anchors.load();
        anchors.verify_leaf(body, now).map_err(|error| match error {
            LeafError::Expired { .. } | LeafError::NotYetValid { .. } => MemberError::OutsideTime,
            // Its grant may be on its way here. One that names a known issuer and isn't signed by it is forged.
            LeafError::UnknownIssuer if anchors.issuer_of(body).is_none() => MemberError::UnknownIssuer,
            // Its node may not have heard of the mesh's newest root yet.
            LeafError::IssuerDropped => MemberError::UnknownIssuer,
            LeafError::UnknownIssuer | LeafError::WrongMesh { .. } => MemberError::Untrusted,
            _ => MemberError::Malformed,
        })
    }

    /// Who the entry of a certificate is for, if it is in a log that counts, under a head that is held.
    fn proved(
        &self,
        origin: &NodeId,
        body: &[u8],
        known: &Known<'_>,
        now: UnixMillis,
    ) -> Result<meshara_identity::Member, MemberError> {
        let proof = ProvedKey::decode(body).map_err(|_| MemberError::Malformed)?;
        let anchors = self.anchors.load();
        if self.revoked.contains(&proof.issuer) {
            return Err(MemberError::Revoked);
        }
        if !anchors.issuers(now).contains(&proof.issuer) {
            return Err(MemberError::UnknownIssuer);
        }
        if self.logs.is_distrusted(&proof.issuer) {
            return Err(MemberError::ForkedLog);
        }
        // The empty tree proves nothing; its place is another's.
        let head = HeadId { issuer: proof.issuer, size: proof.size };
        if proof.size == 0 {
            return Err(MemberError::Malformed);
        }
        // What waits for its head has nothing wrong with it that can be known without.
        let Certificate { node, routing_key, not_before, not_after, .. } = &proof.certificate;
        if node != origin {
            return Err(MemberError::WrongNode);
        }
        if now < *not_before || now > *not_after {
            return Err(MemberError::OutsideTime);
        }
        let unknown = MemberError::UnknownHead { head, routing_key: *routing_key };
        let root = known.root(&head).ok_or(unknown)?;
        proof.verify(&Hash(root)).map_err(|_| MemberError::Unproved)?;
        Ok(proof.certificate.member(&anchors, proof.issuer))
    }
}

impl Authenticator for MeshAuth {
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.key.sign(message)
    }

    fn verify(&self, routing_key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        verify_routing(routing_key, message, signature).is_ok()
    }

    fn member(&self, origin: &NodeId, body: &[u8], known: &Known<'_>) -> Result<Member, MemberError> {
        // Before anything is proved. A node that knows that it is revoked runs: it is for others to refuse it, and it may be reinstated.
        if *origin != self.me && self.revoked.contains(origin) {
            return Err(MemberError::Revoked);
        }
        let now = UnixMillis::now();
        let is_proof = body.first() == Some(&proved::VERSION);
        let member =
            if is_proof { self.proved(origin, body, known, now)? } else { self.certified(body, now)? };
        if member.node_id != *origin {
            return Err(MemberError::WrongNode);
        }
        if *origin != self.me && self.revoked.refuses(&member) {
            return Err(MemberError::Revoked);
        }
        self.names.admit(&member, &self.revoked, now).map_err(|_| MemberError::NameHeld)?;
        Ok(Member {
            name: member.name.to_string(),
            routing_key: member.routing_key,
            expires_in: Duration::from_millis(member.not_after.0.saturating_sub(now.0)),
            proved: is_proof,
        })
    }

    fn wants_head(&self, id: &HeadId) -> bool {
        let granted = || self.anchors.load().issuers(UnixMillis::now()).contains(&id.issuer);
        !self.revoked.contains(&id.issuer) && !self.logs.is_distrusted(&id.issuer) && granted()
    }

    fn head(&self, id: &HeadId, body: &[u8], known: &Known<'_>) -> Result<JudgedHead, HeadError> {
        if !self.wants_head(id) {
            return Err(HeadError::UnknownLog);
        }
        if id.size == 0 {
            return routing::verify_statement(&self.logs, &self.anchors.load(), id.issuer, body)
                .map(|()| JudgedHead::statement());
        }
        routing::verify_head(&self.logs, id, body, known)
    }

    fn revoked(&self, node: &NodeId) -> bool {
        self.revoked.contains(node)
    }

    fn address(&self, node: &NodeId) -> MeshAddress {
        MeshAddress::derive(&self.anchors.load().mesh_id(), node)
    }
}
