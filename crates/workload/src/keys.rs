//! ECDSA keys on P-256, which every TLS library and JWT library can check.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    KeyPair, UnparsedPublicKey,
};
use meshara_identity::keys::BadSignature;
use meshara_identity::{FixedBytes, KeyError};
use rcgen::PKCS_ECDSA_P256_SHA256;
use zeroize::Zeroizing;

/// An uncompressed point: 0x04, then both coordinates (SEC 1, 2.3.3).
pub type P256Public = FixedBytes<65>;
/// R and S, 32 bytes each, as JWS has them (RFC 7518, 3.4).
pub type P256Signature = FixedBytes<64>;

/// An ECDSA key pair with its PKCS#8 form.
pub struct P256Key {
    pkcs8: Zeroizing<Vec<u8>>,
    /// Signs with DER, as X.509 has it.
    der: EcdsaKeyPair,
    /// The same key; signs with R and S.
    fixed: EcdsaKeyPair,
    public: P256Public,
}

impl P256Key {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Random)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Rejected)?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// The key of a PKCS#8 document.
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let pair = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8).map_err(|_| KeyError::Rejected);
        let (der, fixed) = (pair(&ECDSA_P256_SHA256_ASN1_SIGNING)?, pair(&ECDSA_P256_SHA256_FIXED_SIGNING)?);
        let public = P256Public::try_from(der.public_key().as_ref()).map_err(|_| KeyError::Rejected)?;
        Ok(Self { pkcs8, der, fixed, public })
    }

    /// The secret, PKCS#8 DER: for the workload itself, or a sealed file.
    pub fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// Public half.
    pub fn public(&self) -> &P256Public {
        &self.public
    }

    /// Signs `message` as JWS wants it; the caller puts a domain in front of what is no JWS.
    pub fn sign(&self, message: &[u8]) -> Result<P256Signature, KeyError> {
        let signature = self.fixed.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Signing)?;
        P256Signature::try_from(signature.as_ref()).map_err(|_| KeyError::Signing)
    }
}

impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("P256Key(secret)")
    }
}

/// Verifies what [`P256Key::sign`] made.
pub fn verify(public: &P256Public, message: &[u8], signature: &P256Signature) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public.as_ref())
        .verify(message, signature.as_ref())
        .map_err(|_| BadSignature)
}

/// Signs certificates.
pub(crate) struct CaSigner<'a>(pub(crate) &'a P256Key);

impl rcgen::PublicKeyData for CaSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public.as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CaSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature =
            self.0.der.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// The key that a certificate is for.
pub(crate) struct Subject<'a>(pub(crate) &'a P256Public);

impl rcgen::PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_again_and_not_printed() {
        let key = P256Key::generate().unwrap();
        let again = P256Key::from_pkcs8(key.pkcs8().clone()).unwrap();
        assert_eq!(key.public(), again.public());
        let signature = again.sign(b"x").unwrap();
        assert_eq!(verify(key.public(), b"x", &signature), Ok(()));
        assert_eq!(verify(key.public(), b"y", &signature), Err(BadSignature));
        assert_eq!(format!("{key:?}"), "P256Key(secret)");
        assert_eq!(P256Key::from_pkcs8(Zeroizing::new(vec![0; 32])).unwrap_err(), KeyError::Rejected);
    }
}
