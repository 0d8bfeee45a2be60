//! Key pairs of a node. Secrets are 32-byte seeds, wiped when dropped and never printed.

use std::fmt;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use crate::bytes::FixedBytes;
use crate::ids::NodeId;

/// Raw ML-DSA-65 public key (FIPS 204, table 2: 1,952 bytes).
pub type MlDsaPublic = FixedBytes<1952>;
/// ML-DSA-65 signature (FIPS 204, table 2: 3,309 bytes).
pub type MlDsaSignature = FixedBytes<3309>;
/// Ed25519 signature (RFC 8032).
pub type Ed25519Signature = FixedBytes<64>;
/// The secret that a key pair is expanded from: 32 bytes for ML-DSA-65 (ξ of FIPS 204) and for Ed25519.
pub type Seed = Zeroizing<[u8; 32]>;

/// A failure of the cryptographic library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("the system's random generator failed")]
    Random,
    /// The seed gave no key.
    #[error("the key was rejected")]
    Rejected,
    /// Signing failed.
    #[error("signing failed")]
    Signing,
}

/// A signature that does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

/// An ML-DSA-65 key pair with the seed it came from.
pub struct MlDsaKey {
    seed: Seed,
    pair: PqdsaKeyPair,
    public: MlDsaPublic,
}

impl MlDsaKey {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_seed(random()?)
    }

    /// The key that this seed belongs to.
    pub fn from_seed(seed: Seed) -> Result<Self, KeyError> {
        let pair =
            PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed.as_slice()).map_err(|_| KeyError::Rejected)?;
        let public = MlDsaPublic::try_from(pair.public_key().as_ref()).map_err(|_| KeyError::Rejected)?;
        Ok(Self { seed, pair, public })
    }

    /// The secret, for a sealed file.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Raw public key.
    pub fn public(&self) -> &MlDsaPublic {
        &self.public
    }

    /// Signs `message`; the caller puts a domain in front of it.
    pub fn sign(&self, message: &[u8]) -> Result<MlDsaSignature, KeyError> {
        let mut signature = [0; 3309];
        self.pair.sign(message, &mut signature).map_err(|_| KeyError::Signing)?;
        Ok(signature.into())
    }

    pub(crate) fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| KeyError::Rejected)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }
}

/// Verifies an ML-DSA-65 signature under a raw public key.
pub fn verify_ml_dsa(
    public: &MlDsaPublic,
    message: &[u8],
    signature: &MlDsaSignature,
) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(&ML_DSA_65, public.as_ref())
        .verify(message, signature.as_ref())
        .map_err(|_| BadSignature)
}

/// Verifies a signature made by [`NodeKey::sign`].
pub fn verify_node(
    public: &MlDsaPublic,
    message: &[u8],
    signature: &MlDsaSignature,
) -> Result<(), BadSignature> {
    verify_ml_dsa(public, message, signature)
}

/// Verifies a signature made by [`RoutingKey::sign`].
pub fn verify_routing(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).map_err(|_| BadSignature)
}

/// The long-lived key of a node (ML-DSA-65). Its hash is the [`NodeId`]; it signs join and renewal requests.
pub struct NodeKey(MlDsaKey);

impl NodeKey {
    /// A new identity.
    pub fn generate() -> Result<Self, KeyError> {
        MlDsaKey::generate().map(Self)
    }

    /// The identity that this seed belongs to.
    pub fn from_seed(seed: Seed) -> Result<Self, KeyError> {
        MlDsaKey::from_seed(seed).map(Self)
    }

    /// The secret, for the keystore.
    pub fn seed(&self) -> &Seed {
        self.0.seed()
    }

    /// Hash of the public key.
    pub fn node_id(&self) -> NodeId {
        NodeId::of_public_key(self.0.public())
    }

    /// Raw public key.
    pub fn public_key(&self) -> &MlDsaPublic {
        self.0.public()
    }

    /// Signs `message`; the caller puts a domain in front of it.
    pub fn sign(&self, message: &[u8]) -> Result<MlDsaSignature, KeyError> {
        self.0.sign(message)
    }
}

/// The key of one certificate (ML-DSA-65), used by TLS; made fresh for each certificate.
pub struct LeafKey(MlDsaKey);

impl LeafKey {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        MlDsaKey::generate().map(Self)
    }

    /// The key that this seed belongs to.
    pub fn from_seed(seed: Seed) -> Result<Self, KeyError> {
        MlDsaKey::from_seed(seed).map(Self)
    }

    /// The secret, for the membership file.
    pub fn seed(&self) -> &Seed {
        self.0.seed()
    }

    /// Raw public key.
    pub fn public_key(&self) -> &MlDsaPublic {
        self.0.public()
    }

    /// Signs `message`; the caller puts a domain in front of it.
    pub fn sign(&self, message: &[u8]) -> Result<MlDsaSignature, KeyError> {
        self.0.sign(message)
    }

    /// PKCS#8 DER (seed form), as rustls loads it.
    pub fn pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.0.pkcs8()
    }
}

/// Signs short-lived routing records (Ed25519, RFC 8032); the certificate delegates to it.
pub struct RoutingKey {
    seed: Seed,
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl RoutingKey {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_seed(random()?)
    }

    /// The key that this seed belongs to.
    pub fn from_seed(seed: Seed) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeyError::Rejected)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Rejected)?;
        Ok(Self { seed, pair, public })
    }

    /// The secret, for the keystore.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// Signs `message`; the caller puts a domain in front of it.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        // Ed25519 signatures are 64 bytes (RFC 8032, 5.1.6), so the whole of it is copied.
        for (to, from) in signature.iter_mut().zip(self.pair.sign(message).as_ref()) {
            *to = *from;
        }
        signature
    }
}

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    )*};
}
redacted!(MlDsaKey, NodeKey, LeafKey, RoutingKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_give_the_same_identity_again() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_seed(key.seed().clone()).unwrap();
        assert_eq!(key.node_id(), again.node_id());
        let signature = again.sign(b"x").unwrap();
        assert_eq!(verify_node(key.public_key(), b"x", &signature), Ok(()));
        assert_eq!(verify_node(key.public_key(), b"y", &signature), Err(BadSignature));
        assert_ne!(key.node_id(), NodeKey::generate().unwrap().node_id());
    }

    #[test]
    fn routing_signatures() {
        let key = RoutingKey::from_seed(Zeroizing::new([7; 32])).unwrap();
        let signature = key.sign(b"record");
        assert_eq!(verify_routing(&key.public_key(), b"record", &signature), Ok(()));
        assert_eq!(verify_routing(&key.public_key(), b"recorD", &signature), Err(BadSignature));
        assert_eq!(verify_routing(&[0xff; 32], b"record", &signature), Err(BadSignature));
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = NodeKey::from_seed(Zeroizing::new([0x41; 32])).unwrap();
        assert_eq!(format!("{key:?}"), "NodeKey(secret)");
    }
}
