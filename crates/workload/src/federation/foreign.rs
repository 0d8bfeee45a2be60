//! The bundle of a foreign trust domain, as its SPIFFE bundle document says (SPIFFE_Trust_Domain_and_Bundle, 4).

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};

use super::jwk::{self, JwtKey, Read};
use crate::check;
use crate::id::TrustDomain;

/// Longest document that is taken: dozens of certificates. It fits one record of a node's store.
pub const DOCUMENT_MAX: usize = 60 * 1024;

/// What a foreign trust domain says about its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignBundle {
    domain: TrustDomain,
    document: String,
    sequence: Option<u64>,
    refresh_hint: Option<u64>,
    /// DER.
    x509: Vec<Vec<u8>>,
    jwt: Vec<(String, JwtKey)>,
    /// The token keys as they came, also those of kinds that aren't known here.
    jwks: Vec<Map<String, Value>>,
}

/// Why a document is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Above [`DOCUMENT_MAX`].
    #[error("the bundle is larger than 60 KiB")]
    TooLarge,
    /// No JSON object.
    #[error("the bundle is not a JSON object")]
    NotJson,
    /// No array `keys` of objects.
    #[error("the bundle has no list of keys")]
    NoKeys,
    /// An entry for X.509-SVIDs without exactly one signing certificate.
    #[error("key {0} of the bundle is for X.509-SVIDs and holds no signing certificate")]
    BadX509(usize),
    /// An entry for JWT-SVIDs without a name or a key.
    #[error("key {0} of the bundle is for JWT-SVIDs and holds no named key")]
    BadJwt(usize),
    /// A member with a wrong kind of value.
    #[error("`{0}` of the bundle is no whole number")]
    BadNumber(&'static str),
}

impl ForeignBundle {
    /// Reads a bundle document of `domain`. Keys for unknown uses and of unknown kinds are left out, as the specification has it; one of a
    /// known use that can't be used fails the whole.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        if document.len() > DOCUMENT_MAX {
            return Err(BundleError::TooLarge);
        }
        let text = std::str::from_utf8(document).map_err(|_| BundleError::NotJson)?;
        let Ok(Value::Object(members)) = serde_json::from_str(text) else { return Err(BundleError::NotJson) };
        let number = |name: &'static str| match members.get(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or(BundleError::BadNumber(name)),
        };
        let (sequence, refresh_hint) = (number("spiffe_sequence")?, number("spiffe_refresh_hint")?);
        let Some(Value::Array(keys)) = members.get("keys") else { return Err(BundleError::NoKeys) };
        let mut bundle = Self {
            domain,
            document: text.to_owned(),
            sequence,
            refresh_hint,
            x509: Vec::new(),
            jwt: Vec::new(),
            jwks: Vec::new(),
        };
        for (place, key) in keys.iter().enumerate() {
            let Value::Object(jwk) = key else { return Err(BundleError::NoKeys) };
            match jwk.get("use").and_then(Value::as_str) {
                Some("x509-svid") => bundle.x509.push(authority(jwk).ok_or(BundleError::BadX509(place))?),
                Some("jwt-svid") => bundle.token_key(jwk).ok_or(BundleError::BadJwt(place))?,
                _ => {}
            }
        }
        Ok(bundle)
    }

    fn token_key(&mut self, jwk: &Map<String, Value>) -> Option<()> {
        let kid = jwk.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty())?;
        match jwk::read(jwk) {
            Read::Key(key) => self.jwt.push((kid.to_owned(), key)),
            Read::Unknown => {}
            Read::Bad => return None,
        }
        self.jwks.push(jwk.clone());
        Some(())
    }

    /// Whose it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The document as it came.
    pub fn document(&self) -> &str {
        &self.document
    }

    /// Higher with each change, if the trust domain counts.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How soon to look again, seconds, if the trust domain says.
    pub fn refresh_hint(&self) -> Option<u64> {
        self.refresh_hint
    }

    /// How many keys there are for X.509-SVIDs, and for tokens.
    pub fn counts(&self) -> (usize, usize) {
        (self.x509.len(), self.jwks.len())
    }

    /// The signing certificates.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = CertificateDer<'_>> {
        self.x509.iter().map(|der| CertificateDer::from(der.as_slice()))
    }

    /// The signing certificates, DER, one after the other.
    pub fn x509_der(&self) -> Vec<u8> {
        self.x509.concat()
    }

    /// JWK set of the keys that sign JWT-SVIDs.
    pub fn jwks(&self) -> Vec<u8> {
        json!({ "keys": self.jwks }).to_string().into_bytes()
    }

    /// Whether a key of this trust domain made a token's signature: the one that it names, else any.
    pub(crate) fn verifies(
        &self,
        kid: Option<&str>,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let mut keys = self.jwt.iter().filter(|(name, _)| kid.is_none_or(|kid| kid == name));
        keys.any(|(_, key)| key.verifies(algorithm, message, signature))
    }
}

/// The signing certificate of an entry: exactly one, standard base64 (RFC 7517, 4.7).
fn authority(jwk: &Map<String, Value>) -> Option<Vec<u8>> {
    let [Value::String(only)] = jwk.get("x5c")?.as_array()?.as_slice() else { return None };
    let der = BASE64.decode(only.as_bytes()).ok()?;
    check::is_authority(&der).then_some(der)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(document: &str) -> Result<ForeignBundle, BundleError> {
        ForeignBundle::parse("example.org".parse().unwrap(), document.as_bytes())
    }

    #[test]
    fn what_is_no_bundle_is_named() {
        assert_eq!(parse("x"), Err(BundleError::NotJson));
        assert_eq!(parse("[]"), Err(BundleError::NotJson));
        assert_eq!(parse("{}"), Err(BundleError::NoKeys));
        assert_eq!(parse(r#"{"keys":[1]}"#), Err(BundleError::NoKeys));
        assert_eq!(
            parse(r#"{"keys":[],"spiffe_sequence":-1}"#),
            Err(BundleError::BadNumber("spiffe_sequence"))
        );
        let unknown = r#"{"use":"wit-svid","kty":"EC"}"#;
        for x5c in ["", r#","x5c":[]"#, r#","x5c":["AA==","AA=="]"#, r#","x5c":["AA=="]"#] {
            let document = format!(r#"{{"keys":[{unknown},{{"use":"x509-svid","kty":"EC"{x5c}}}]}}"#);
            assert_eq!(parse(&document), Err(BundleError::BadX509(1)), "{document}");
        }
        for key in [r#""kty":"OKP""#, r#""kty":"EC","kid":"a""#, r#""kty":"OKP","kid":"""#] {
            let document = format!(r#"{{"keys":[{{"use":"jwt-svid",{key}}}]}}"#);
            assert_eq!(parse(&document), Err(BundleError::BadJwt(0)), "{document}");
        }
        assert_eq!(parse(&" ".repeat(DOCUMENT_MAX + 1)), Err(BundleError::TooLarge));
        // Nothing is trusted: a trust domain may take all its keys back.
        let empty = parse(r#"{"keys":[],"spiffe_sequence":7,"spiffe_refresh_hint":60,"odd":1}"#).unwrap();
        assert_eq!((empty.counts(), empty.sequence(), empty.refresh_hint()), ((0, 0), Some(7), Some(60)));
        let odd = parse(r#"{"keys":[{"use":"jwt-svid","kty":"OKP","kid":"a"}]}"#).unwrap();
        assert_eq!(odd.counts(), (0, 1), "programs may know it");
        assert!(!odd.verifies(Some("a"), "ES256", b"", b""));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text: String, bytes: Vec<u8>) {
            let domain = || "example.org".parse().unwrap();
            let _ = ForeignBundle::parse(domain(), &bytes);
            let nested = json!({ "keys": [{ "use": "x509-svid", "x5c": [BASE64.encode(&bytes)] }, { "use": text }] });
            let _ = ForeignBundle::parse(domain(), nested.to_string().as_bytes());
        }
    }
}
