//! The mesh root: Ed25519 and ML-DSA-65 together. A statement of the root counts when both signatures verify.
//!
//! The signers of a mesh with several roots, and those of revocations and policy, have keys of the same kind.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ids::MeshId;
use crate::keys::{
    BadSignature, Ed25519Signature, KeyError, MlDsaKey, MlDsaPublic, MlDsaSignature, RoutingKey,
    verify_ml_dsa,
};

/// What the root signs about; part of what is signed, so a signature for one purpose never serves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Purpose {
    /// An [`IssuerGrant`](crate::IssuerGrant).
    IssuerGrant,
    /// A version of the root document: who signs for the mesh.
    RootDocument,
    /// The head of a revocation snapshot.
    Revocations,
    /// The head of a policy set.
    Policy,
    /// Which numbers of revocations and policy are the newest now.
    Freshness,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::IssuerGrant => b"issuer grant",
            Self::RootDocument => b"root document",
            Self::Revocations => b"revocations",
            Self::Policy => b"policy",
            Self::Freshness => b"freshness",
        }
    }
}

/// Public half of the mesh root, and of every other signer whose word needs both algorithms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPublic {
    ed25519: [u8; 32],
    ml_dsa: MlDsaPublic,
}

/// Two signatures over one statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HybridSignature {
    ed25519: Ed25519Signature,
    ml_dsa: MlDsaSignature,
}

impl RootPublic {
    /// The mesh's id: a hash over both public keys. Tickets carry it.
    pub fn fingerprint(&self) -> MeshId {
        let mut hasher = blake3::Hasher::new_derive_key("meshara 2026-11 root fingerprint v1");
        hasher.update(&self.ed25519);
        hasher.update(self.ml_dsa.as_ref());
        MeshId(*hasher.finalize().as_bytes())
    }

    /// Whether one of the two keys is also one of `other`'s: such a pair is no second signer.
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        self.ed25519 == other.ed25519 || self.ml_dsa == other.ml_dsa
    }

    /// Verifies both signatures of a statement made for `purpose`.
    pub fn verify(
        &self,
        purpose: Purpose,
        statement: &[u8],
        signature: &HybridSignature,
    ) -> Result<(), BadSignature> {
        let message = message(&self.fingerprint(), purpose, statement);
        UnparsedPublicKey::new(&ED25519, &self.ed25519)
            .verify(&message, signature.ed25519.as_ref())
            .map_err(|_| BadSignature)?;
        verify_ml_dsa(&self.ml_dsa, &message, &signature.ml_dsa)
    }
}

/// What both keys sign: domain, purpose and the pair's fingerprint, so halves of two roots never mix.
fn message(root: &MeshId, purpose: Purpose, statement: &[u8]) -> Vec<u8> {
    let mut message = b"meshara root statement v1\0".to_vec();
    message.extend_from_slice(purpose.label());
    message.push(0);
    message.extend_from_slice(&root.0);
    message.extend_from_slice(statement);
    message
}

/// Secret half of the mesh root.
pub struct RootKey {
    ed25519: RoutingKey,
    ml_dsa: MlDsaKey,
    public: RootPublic,
}

impl RootKey {
    /// A new mesh.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_parts(RoutingKey::generate()?, MlDsaKey::generate()?)
    }

    /// The root that [`RootKey::seeds`] came from: Ed25519 seed, then ML-DSA-65 seed.
    pub fn from_seeds(seeds: &Zeroizing<[[u8; 32]; 2]>) -> Result<Self, KeyError> {
        let [ed25519, ml_dsa] = **seeds;
        Self::from_parts(
            RoutingKey::from_seed(Zeroizing::new(ed25519))?,
            MlDsaKey::from_seed(Zeroizing::new(ml_dsa))?,
        )
    }

    fn from_parts(ed25519: RoutingKey, ml_dsa: MlDsaKey) -> Result<Self, KeyError> {
        let public = RootPublic { ed25519: ed25519.public_key(), ml_dsa: ml_dsa.public().clone() };
        Ok(Self { ed25519, ml_dsa, public })
    }

    /// Both secrets, for a sealed file.
    pub fn seeds(&self) -> Zeroizing<[[u8; 32]; 2]> {
        Zeroizing::new([**self.ed25519.seed(), **self.ml_dsa.seed()])
    }

    /// Public half.
    pub fn public(&self) -> &RootPublic {
        &self.public
    }

    /// Signs a statement with both keys.
    pub fn sign(&self, purpose: Purpose, statement: &[u8]) -> Result<HybridSignature, KeyError> {
        let message = message(&self.public.fingerprint(), purpose, statement);
        Ok(HybridSignature {
            ed25519: self.ed25519.sign(&message).into(),
            ml_dsa: self.ml_dsa.sign(&message)?,
        })
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_must_verify() {
        let (root, other) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
        let good = root.sign(Purpose::IssuerGrant, b"statement").unwrap();
        assert_eq!(root.public().verify(Purpose::IssuerGrant, b"statement", &good), Ok(()));
        assert_eq!(root.public().verify(Purpose::IssuerGrant, b"statemenT", &good), Err(BadSignature));
        assert_eq!(other.public().verify(Purpose::IssuerGrant, b"statement", &good), Err(BadSignature));

        let foreign = other.sign(Purpose::IssuerGrant, b"statement").unwrap();
        let only_ed = HybridSignature { ml_dsa: foreign.ml_dsa.clone(), ..good.clone() };
        let only_pq = HybridSignature { ed25519: foreign.ed25519, ..good };
        for half in [only_ed, only_pq] {
            assert_eq!(root.public().verify(Purpose::IssuerGrant, b"statement", &half), Err(BadSignature));
        }
    }

    #[test]
    fn seeds_give_the_same_root_again() {
        let root = RootKey::generate().unwrap();
        let again = RootKey::from_seeds(&root.seeds()).unwrap();
        assert_eq!(root.public(), again.public());
        assert_eq!(format!("{root:?}"), "RootKey(secret)");
    }
}
