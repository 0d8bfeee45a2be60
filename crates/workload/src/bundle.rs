//! The trust bundle: the workload roots of all issuers of the mesh, as SPIFFE clients want them.

use std::collections::BTreeMap;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use meshara_identity::{MeshName, NodeId, TrustAnchors, UnixMillis};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde_json::{Value, json};

use crate::check;
use crate::id::trust_domain;
use crate::keys::P256Public;
use crate::roots::{Root, RootsError, SignedRoots};

/// How soon consumers of the bundle should look again, seconds. A new root is published a day before it signs anything
/// ([`crate::authority`]), so an hour leaves room for many failures.
pub const REFRESH_HINT: u64 = 3600;

/// What is known of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    signed: SignedRoots,
    /// X.509 keys of its roots, in their order.
    keys: Vec<P256Public>,
}

/// The roots of all issuers that this node has heard of, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    mesh: MeshName,
    issuers: BTreeMap<NodeId, Known>,
}

impl Bundle {
    /// An empty bundle: nothing is trusted.
    pub fn new(mesh: MeshName) -> Self {
        Self { mesh, issuers: BTreeMap::new() }
    }

    /// Takes what an issuer says of its roots; whether it is new. As many issuers fit as have grants.
    ///
    /// # Errors
    /// [`RootsError`]; the bundle is as before then.
    pub fn accept(
        &mut self,
        anchors: &TrustAnchors,
        signed: SignedRoots,
        now: UnixMillis,
    ) -> Result<bool, RootsError> {
        let (issuer, number) = (signed.statement.issuer, signed.statement.number);
        if let Some(known) = self.issuers.get(&issuer) {
            let held = known.signed.statement.number;
            if known.signed.statement == signed.statement {
                return Ok(false);
            }
            if number < held {
                return Err(RootsError::Stale { issuer, found: number, held });
            }
        }
        let keys = signed.verify(anchors, now)?;
        match self.issuers.get(&issuer) {
            Some(known) if known.signed.statement.number == number => {
                Err(RootsError::Contradiction { issuer, number })
            }
            _ => {
                self.issuers.insert(issuer, Known { signed, keys });
                Ok(true)
            }
        }
    }

    /// Keeps only what is said by issuers that `counts` is true of; whether anything went.
    pub fn retain(&mut self, counts: impl Fn(&NodeId) -> bool) -> bool {
        let before = self.issuers.len();
        self.issuers.retain(|issuer, _| counts(issuer));
        self.issuers.len() < before
    }

    /// The statements held, by issuer.
    pub fn statements(&self) -> impl Iterator<Item = &SignedRoots> {
        self.issuers.values().map(|known| &known.signed)
    }

    /// Whether there is a root to trust.
    pub fn is_empty_at(&self, now: UnixMillis) -> bool {
        self.valid(now).next().is_none()
    }

    /// The roots that count now, with their X.509 keys, in a stable order.
    fn valid(&self, now: UnixMillis) -> impl Iterator<Item = (&Root, &P256Public)> {
        let all =
            self.issuers.values().flat_map(|known| known.signed.statement.roots.iter().zip(&known.keys));
        all.filter(move |(root, _)| root.is_valid_at(now))
    }

    /// The signing certificates, DER, one after the other.
    pub fn x509_der(&self, now: UnixMillis) -> Vec<u8> {
        self.valid(now).flat_map(|(root, _)| root.ca_der.iter().copied()).collect()
    }

    /// JWK set of the keys that sign JWT-SVIDs (JWT-SVID, 6.1).
    pub fn jwks(&self, now: UnixMillis) -> Vec<u8> {
        let keys: Vec<_> = self.valid(now).map(|(root, _)| jwt_jwk(root)).collect();
        json!({ "keys": keys }).to_string().into_bytes()
    }

    /// The SPIFFE bundle, for other trust domains (SPIFFE_Trust_Domain_and_Bundle, 4).
    pub fn spiffe_json(&self, sequence: u64, now: UnixMillis) -> Value {
        let mut keys = Vec::new();
        for (root, key) in self.valid(now) {
            let mut x509 = jwk("x509-svid", key);
            insert(&mut x509, "x5c", json!([BASE64.encode(&root.ca_der)]));
            keys.push(x509);
            keys.push(jwt_jwk(root));
        }
        json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": REFRESH_HINT })
    }

    /// Keys that may have signed a token: the one that it names, else all.
    pub(crate) fn jwt_keys(&self, kid: Option<&str>, now: UnixMillis) -> Vec<&P256Public> {
        let keys = self.valid(now).map(|(root, _)| &root.jwt_key);
        keys.filter(|key| kid.is_none_or(|kid| key_id(key) == kid)).collect()
    }

    /// When a leaf ends, if it is `id`'s, for `key`, under one of the roots.
    pub(crate) fn leaf_end(
        &self,
        der: &[u8],
        id: &str,
        key: &P256Public,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let certificates: Vec<CertificateDer<'_>> =
            self.valid(now).map(|(root, _)| CertificateDer::from(root.ca_der.as_slice())).collect();
        let anchors: Vec<TrustAnchor<'_>> =
            certificates.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
        check::leaf_end(der, id, key, &anchors, now)
    }

    /// What the bundle is filed under.
    pub fn trust_domain(&self) -> String {
        trust_domain(&self.mesh)
    }

    /// Whose bundle it is.
    pub(crate) fn mesh(&self) -> &MeshName {
        &self.mesh
    }
}

/// A key's name in tokens: its thumbprint (RFC 7638).
pub(crate) fn key_id(key: &P256Public) -> String {
    let (x, y) = coordinates(key);
    // Members in the order of their names, without spaces (RFC 7638, 3.2 and 3.3).
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
    BASE64URL_NOPAD.encode(digest.as_ref())
}

fn jwt_jwk(root: &Root) -> Value {
    let mut jwk = jwk("jwt-svid", &root.jwt_key);
    insert(&mut jwk, "kid", Value::String(key_id(&root.jwt_key)));
    jwk
}

fn jwk(usage: &str, key: &P256Public) -> Value {
    let (x, y) = coordinates(key);
    json!({ "kty": "EC", "use": usage, "crv": "P-256", "x": x, "y": y })
}

fn insert(jwk: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = jwk {
        members.insert(name.to_owned(), value);
    }
}

fn coordinates(key: &P256Public) -> (String, String) {
    let [_, coordinates @ ..] = key.as_bytes();
    let (x, y) = coordinates.split_at(32);
    (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprints_are_frozen() {
        let mut point = [7; 65];
        point[0] = 4;
        // Computed with Python: hashlib.sha256 over the canonical JWK, urlsafe base64 without padding.
        assert_eq!(key_id(&point.into()), include_str!("../tests/fixtures/thumbprint.txt").trim());
    }
}
