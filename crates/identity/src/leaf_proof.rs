//! The answer to "what is your leaf now?" on a connection that has outlived the leaf it began with: the present leaf, and a signature by
//! its key over what only the two ends of this connection can know.

use serde::{Deserialize, Serialize};

use crate::anchors::{LEAF_MAX, LeafError, Member, TrustAnchors, leaf_public};
use crate::ids::UnixMillis;
use crate::keys::{KeyError, MlDsaPublic, MlDsaSignature, verify_ml_dsa};
use crate::membership::Membership;
use crate::wire::{self, WireError};

/// Longest answer: a leaf and a signature.
pub const LEAF_PROOF_MAX: usize = LEAF_MAX + 4096;

/// What a channel binding has: as long as what it is hashed with.
pub const BINDING_LEN: usize = 32;

const DOMAIN: &[u8] = b"meshara leaf proof v1\0";

#[derive(Serialize, Deserialize)]
struct LeafProof {
    leaf_der: Vec<u8>,
    signature: MlDsaSignature,
}

/// Why an answer proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafProofError {
    /// It does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The leaf is not one of a member, now.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf's key did not sign for this connection.
    #[error("the certificate's key did not sign for this connection")]
    BadSignature,
}

/// Why no answer could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// Signing failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
}

fn message(binding: &[u8; BINDING_LEN], leaf_der: &[u8]) -> Vec<u8> {
    let leaf = blake3::derive_key("meshara 2026-11 leaf proof leaf v1", leaf_der);
    [DOMAIN, binding, &leaf].concat()
}

/// The present leaf, bound to a connection by `binding`: a value of the connection's TLS exporter, of which a nonce of the one who
/// asks and the side of the one who answers are part.
///
/// # Errors
/// [`ProveError`].
pub fn prove(membership: &Membership, binding: &[u8; BINDING_LEN]) -> Result<Vec<u8>, ProveError> {
    let leaf_der = membership.leaf_der().to_vec();
    let signature = membership.leaf_key().sign(&message(binding, &leaf_der))?;
    Ok(wire::encode(&LeafProof { leaf_der, signature })?)
}

/// Who [`prove`]d itself so. The caller compares with whom the connection began.
///
/// # Errors
/// [`LeafProofError`].
pub fn check(
    bytes: &[u8],
    anchors: &TrustAnchors,
    binding: &[u8; BINDING_LEN],
    now: UnixMillis,
) -> Result<Member, LeafProofError> {
    let LeafProof { leaf_der, signature } = wire::decode(bytes, LEAF_PROOF_MAX)?;
    let member = anchors.verify_leaf(&leaf_der, now)?;
    let key = leaf_public(&leaf_der).and_then(|key| MlDsaPublic::try_from(key.as_slice()).ok());
    let key = key.ok_or(LeafProofError::BadSignature)?;
    verify_ml_dsa(&key, &message(binding, &leaf_der), &signature)
        .map_err(|_| LeafProofError::BadSignature)?;
    Ok(member)
}

/// The leaf in an answer, DER; only [`check`] says whether it is worth anything.
pub fn leaf(bytes: &[u8]) -> Option<Vec<u8>> {
    wire::decode::<LeafProof>(bytes, LEAF_PROOF_MAX).ok().map(|proof| proof.leaf_der)
}

/// Entry for fuzzing: whether the bytes are an answer.
#[doc(hidden)]
pub fn decodes(bytes: &[u8]) -> bool {
    wire::decode::<LeafProof>(bytes, LEAF_PROOF_MAX).is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
    static FROZEN: &[u8] = include_bytes!("../tests/fixtures/leaf-proof.bin");

    #[test]
    fn a_proof_counts_on_its_connection_alone_and_while_the_leaf_does() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, alice) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let made = crate::create_mesh(dir.path(), &mesh, &alice, None, NOW).unwrap().membership;
        let proof = prove(&made, &[1; 32]).unwrap();
        let anchors = made.anchors();
        assert_eq!(check(&proof, anchors, &[1; 32], NOW).as_ref(), Ok(made.member()));
        assert_eq!(check(&proof, anchors, &[2; 32], NOW), Err(LeafProofError::BadSignature));
        let late = made.member().not_after.plus(Duration::from_secs(1));
        assert!(matches!(check(&proof, anchors, &[1; 32], late), Err(LeafProofError::Leaf(_))));
        let other = crate::create_mesh(&dir.path().join("other"), &mesh, &alice, None, NOW).unwrap();
        let foreign = check(&proof, other.membership.anchors(), &[1; 32], NOW);
        assert_eq!(foreign, Err(LeafProofError::Leaf(LeafError::UnknownIssuer)));
        assert_eq!(
            check(&[&proof[..], &[0]].concat(), anchors, &[1; 32], NOW),
            Err(LeafProofError::Wire(WireError::Malformed))
        );
    }

    #[test]
    fn the_form_is_frozen() {
        let read: LeafProof = wire::decode(FROZEN, LEAF_PROOF_MAX).unwrap();
        assert_eq!(read.leaf_der, [1, 2, 3]);
        assert_eq!(read.signature.as_bytes(), &[7; 3309]);
        assert_eq!(wire::encode(&read).unwrap(), FROZEN);
    }

    proptest::proptest! {
        #[test]
        fn round_trips(leaf_der: Vec<u8>, fill: u8) {
            let proof = LeafProof { leaf_der: leaf_der.clone(), signature: [fill; 3309].into() };
            let read: LeafProof = wire::decode(&wire::encode(&proof).unwrap(), LEAF_PROOF_MAX).unwrap();
            proptest::prop_assert_eq!(read.leaf_der, leaf_der);
            proptest::prop_assert_eq!(read.signature, proof.signature);
        }
    }
}
