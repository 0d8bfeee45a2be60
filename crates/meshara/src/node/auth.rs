//! The overlay core's view of cryptography, answered by certificates and the node's Ed25519 routing key.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use meshara_identity::{
    LeafError, MeshAddress, NodeId, RoutingKey, TrustAnchors, UnixMillis, verify_routing,
};
use meshara_overlay::auth::SIGNATURE_LEN;
use meshara_overlay::{Authenticator, Member, MemberError};
use meshara_transport::tls::{Names, Revoked};

/// Signs with the node's routing key and verifies members under the mesh's trust anchors.
pub(crate) struct MeshAuth {
    me: NodeId,
    key: RoutingKey,
    anchors: Arc<ArcSwap<TrustAnchors>>,
    revoked: Arc<Revoked>,
    names: Arc<Names>,
}

impl MeshAuth {
    pub(crate) fn new(
        me: NodeId,
        key: RoutingKey,
        anchors: Arc<ArcSwap<TrustAnchors>>,
        revoked: Arc<Revoked>,
        names: Arc<Names>,
    ) -> Self {
        Self { me, key, anchors, revoked, names }
    }
}

impl Authenticator for MeshAuth {
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.key.sign(message)
    }

    fn verify(&self, routing_key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        verify_routing(routing_key, message, signature).is_ok()
    }

    fn member(&self, origin: &NodeId, body: &[u8]) -> Result<Member, MemberError> {
        // A node that knows that it is revoked runs: it is for others to refuse it, and it may be reinstated.
        if *origin != self.me && self.revoked.contains(origin) {
            return Err(MemberError::Revoked);
        }
        let now = UnixMillis::now();
        let anchors = self.anchors.load();
        let member = anchors.verify_leaf(body, now).map_err(|error| match error {
            LeafError::Expired { .. } | LeafError::NotYetValid { .. } => MemberError::OutsideTime,
            // Its grant may be on its way here. One that names a known issuer and isn't signed by it is forged.
            LeafError::UnknownIssuer if anchors.issuer_of(body).is_none() => MemberError::UnknownIssuer,
            // Its node may not have heard of the mesh's newest root yet.
            LeafError::IssuerDropped => MemberError::UnknownIssuer,
            LeafError::UnknownIssuer | LeafError::WrongMesh { .. } => MemberError::Untrusted,
            _ => MemberError::Malformed,
        })?;
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
        })
    }

    fn revoked(&self, node: &NodeId) -> bool {
        self.revoked.contains(node)
    }

    fn address(&self, node: &NodeId) -> MeshAddress {
        MeshAddress::derive(&self.anchors.load().mesh_id(), node)
    }
}
