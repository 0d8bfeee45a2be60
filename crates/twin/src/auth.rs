//! Signatures in the twin: a BLAKE3 keyed hash instead of Ed25519, a short text instead of a certificate.
//!
//! The "public" key is the secret, so this proves nothing to outsiders; inside one process it refuses exactly what a real
//! signature would refuse (another key, a changed byte) at a hundredth of the cost. What it does not show is the time that
//! real signatures take: about 30 µs to make and 60 µs to check, small against any link's delay.

use std::time::Duration;

use meshara_identity::{MeshAddress, MeshId, NodeId};
use meshara_overlay::{Authenticator, Member, MemberError};

const MESH: MeshId = MeshId([7; 32]);

pub(crate) fn node_id(at: usize) -> NodeId {
    NodeId(*blake3::hash(&(at as u64).to_be_bytes()).as_bytes())
}

pub(crate) fn address(node: &NodeId) -> MeshAddress {
    MeshAddress::derive(&MESH, node)
}

/// What a node of the twin shows as its certificate.
pub(crate) fn member_body(at: usize) -> Vec<u8> {
    let node = node_id(at);
    [&node.0[..], &routing_key(&node), format!("n{at}").as_bytes()].concat()
}

fn routing_key(node: &NodeId) -> [u8; 32] {
    *blake3::hash(&node.0).as_bytes()
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    blake3::Hasher::new_keyed(key).update(message).finalize_xof().fill(&mut out);
    out
}

/// Signs as one node, checks all.
pub(crate) struct TwinAuth {
    key: [u8; 32],
}

impl TwinAuth {
    pub(crate) fn of(node: &NodeId) -> Self {
        Self { key: routing_key(node) }
    }
}

impl Authenticator for TwinAuth {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        mac(&self.key, message)
    }

    fn verify(&self, routing_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        mac(routing_key, message) == *signature
    }

    fn member(&self, origin: &NodeId, body: &[u8]) -> Result<Member, MemberError> {
        let (id, rest) = body.split_first_chunk::<32>().ok_or(MemberError::Malformed)?;
        let (key, name) = rest.split_first_chunk::<32>().ok_or(MemberError::Malformed)?;
        if *id != origin.0 {
            return Err(MemberError::WrongNode);
        }
        if *key != routing_key(origin) {
            return Err(MemberError::Untrusted);
        }
        let name = std::str::from_utf8(name).map_err(|_| MemberError::Malformed)?.to_owned();
        Ok(Member { name, routing_key: *key, expires_in: Duration::from_secs(86_400) })
    }

    fn address(&self, node: &NodeId) -> MeshAddress {
        address(node)
    }
}
