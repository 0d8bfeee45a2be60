//! Public keys that sign other trust domains' tokens, with the algorithms that JWT-SVID allows (JWT-SVID, 3.1).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

/// The algorithms that tokens may be signed with.
pub(crate) const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

/// A key that verifies tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JwtKey {
    Ec { curve: Curve, point: Vec<u8> },
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// What a JWK is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Key(JwtKey),
    /// A kind of key that isn't known here; others may know it.
    Unknown,
    /// A known kind, and no key of it.
    Bad,
}

/// Reads the key of a JWK (RFC 7518, 6.2.1 and 6.3.1).
pub(super) fn read(jwk: &Map<String, Value>) -> Read {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let number = |name: &str| text(name).and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
    let key = match (text("kty"), text("crv")) {
        (Some("EC"), Some(curve)) => {
            let (curve, length) = match curve {
                "P-256" => (Curve::P256, 32),
                "P-384" => (Curve::P384, 48),
                "P-521" => (Curve::P521, 66),
                _ => return Read::Unknown,
            };
            let coordinate = |name| number(name).filter(|bytes| bytes.len() == length);
            // An uncompressed point (SEC 1, 2.3.3).
            let point = |x: Vec<u8>, y: Vec<u8>| [&[4], x.as_slice(), y.as_slice()].concat();
            coordinate("x").zip(coordinate("y")).map(|(x, y)| JwtKey::Ec { curve, point: point(x, y) })
        }
        (Some("EC"), None) => None,
        (Some("RSA"), _) => number("n").zip(number("e")).map(|(n, e)| JwtKey::Rsa { n, e }),
        _ => return Read::Unknown,
    };
    key.map_or(Read::Bad, Read::Key)
}

impl JwtKey {
    /// Whether this key made `signature` over `message` with `algorithm`. A key is good for its own kind of algorithm only.
    pub(super) fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ec { curve, point } => {
                let algorithm = match (curve, algorithm) {
                    (Curve::P256, "ES256") => &ECDSA_P256_SHA256_FIXED,
                    (Curve::P384, "ES384") => &ECDSA_P384_SHA384_FIXED,
                    (Curve::P521, "ES512") => &ECDSA_P521_SHA512_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()
            }
            Self::Rsa { n, e } => {
                let parameters = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
    };
    use serde_json::json;
    use x509_parser::prelude::FromDer;
    use x509_parser::public_key::RSAPublicKey;

    use super::*;

    fn key(jwk: Value) -> Read {
        read(jwk.as_object().unwrap())
    }

    #[test]
    fn keys_verify_with_their_own_algorithms_only() {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(48);
        let jwk = json!({ "kty": "EC", "crv": "P-384", "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y) });
        let Read::Key(ec) = key(jwk) else { panic!() };
        let signature = pair.sign(&random, b"x").unwrap();
        assert!(ec.verifies("ES384", b"x", signature.as_ref()));
        assert!(!ec.verifies("ES384", b"y", signature.as_ref()));
        assert!(!ec.verifies("ES256", b"x", signature.as_ref()));
        assert!(!ec.verifies("RS256", b"x", signature.as_ref()));
        assert!(!ec.verifies("none", b"x", &[]));

        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let (_, public) = RSAPublicKey::from_der(pair.public_key().as_ref()).unwrap();
        let big = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes.strip_prefix(&[0]).unwrap_or(bytes));
        let jwk = json!({ "kty": "RSA", "n": big(public.modulus), "e": big(public.exponent) });
        let Read::Key(rsa) = key(jwk) else { panic!() };
        for (name, padding) in [
            ("RS256", &RSA_PKCS1_SHA256 as &dyn aws_lc_rs::signature::RsaEncoding),
            ("PS512", &RSA_PSS_SHA512),
        ] {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &random, b"x", &mut signature).unwrap();
            let held: Vec<_> =
                ALGORITHMS.into_iter().filter(|one| rsa.verifies(one, b"x", &signature)).collect();
            assert_eq!(held, [name]);
        }
    }

    #[test]
    fn odd_keys_are_told_from_unknown_ones() {
        assert_eq!(key(json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" })), Read::Unknown);
        assert_eq!(key(json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" })), Read::Unknown);
        assert_eq!(key(json!({ "use": "jwt-svid" })), Read::Unknown);
        assert_eq!(key(json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" })), Read::Bad);
        assert_eq!(key(json!({ "kty": "EC" })), Read::Bad);
        assert_eq!(key(json!({ "kty": "RSA", "n": "AQAB" })), Read::Bad);
    }
}
