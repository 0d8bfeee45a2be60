//! JWT-SVIDs in compact serialization: ours with ES256 and nothing else, those of other trust domains with what JWT-SVID allows.

use data_encoding::BASE64URL_NOPAD;
use meshara_identity::{KeyError, UnixMillis};
use serde_json::{Map, Value, json};

use crate::bundle::{Bundle, key_id};
use crate::federation::{ALGORITHMS, Federation};
use crate::id::member_of;
use crate::keys::{P256Key, P256Signature, verify};

/// How far the validating node's clock may be behind or ahead of the signing issuer's.
const LEEWAY_SECONDS: u64 = 60;

/// Longest token that is looked at; ours have some 500 bytes.
pub(crate) const TOKEN_MAX: usize = 16 * 1024;

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TokenError {
    #[error("the token is not a JWS in compact serialization")]
    Malformed,
    #[error("the token's trust domain doesn't sign with this algorithm")]
    Algorithm,
    #[error("the token's header has another type than JWT or JOSE, or a critical extension")]
    Header,
    #[error("no key of its trust domain signed the token")]
    Signature,
    #[error("the token's subject is no SPIFFE ID of a known trust domain")]
    Subject,
    #[error("the token is not for this audience")]
    Audience,
    #[error("the token has ended, or has no end")]
    Expired,
    #[error("the token does not count yet")]
    NotYetValid,
}

/// Signs a token for `subject`.
pub(crate) fn sign(
    key: &P256Key,
    subject: &str,
    audience: &[String],
    now: UnixMillis,
    not_after: UnixMillis,
) -> Result<String, KeyError> {
    let header = json!({ "alg": "ES256", "kid": key_id(key.public()), "typ": "JWT" });
    let claims = json!({ "sub": subject, "aud": audience, "iat": now.seconds(), "exp": not_after.seconds() });
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
}

/// Validates a token for `audience` (JWT-SVID, appendix A) under the keys of its subject's trust domain; gives its subject and claims.
pub(crate) fn validate(
    token: &str,
    audience: &str,
    own: &Bundle,
    others: &Federation,
    now: UnixMillis,
) -> Result<(String, Map<String, Value>), TokenError> {
    if token.len() > TOKEN_MAX {
        return Err(TokenError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header = object(header)?;
    // Before anything else is believed (JWT-SVID, 4).
    let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
    if !ALGORITHMS.contains(&algorithm) {
        return Err(TokenError::Algorithm);
    }
    let typed = header.get("typ").is_none_or(|typ| matches!(typ.as_str(), Some("JWT" | "JOSE")));
    if !typed || header.contains_key("crit") {
        return Err(TokenError::Header);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().ok_or(TokenError::Header)?),
    };
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| TokenError::Malformed)?;
    let claims = object(claims)?;
    let subject = claims.get("sub").and_then(Value::as_str).ok_or(TokenError::Subject)?.to_owned();
    // Nothing but whose keys count follows from a claim before its signature is checked.
    let domain = member_of(&subject).ok_or(TokenError::Subject)?;
    let genuine = if domain == own.mesh().as_str() {
        if algorithm != "ES256" {
            return Err(TokenError::Algorithm);
        }
        let signature = P256Signature::try_from(signature.as_slice()).map_err(|_| TokenError::Signature)?;
        let mut keys = own.jwt_keys(kid, now).into_iter();
        keys.any(|key| verify(key, signed.as_bytes(), &signature).is_ok())
    } else {
        let bundle = others.get(domain).ok_or(TokenError::Subject)?;
        bundle.verifies(kid, algorithm, signed.as_bytes(), &signature)
    };
    if !genuine {
        return Err(TokenError::Signature);
    }
    let named = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    };
    if !named {
        return Err(TokenError::Audience);
    }
    let expires = claims.get("exp").and_then(date).ok_or(TokenError::Expired)?;
    if expires.saturating_add(LEEWAY_SECONDS) <= now.seconds() {
        return Err(TokenError::Expired);
    }
    match claims.get("nbf") {
        None => {}
        Some(begins) if date(begins).is_some_and(|begins| begins <= now.seconds() + LEEWAY_SECONDS) => {}
        Some(_) => return Err(TokenError::NotYetValid),
    }
    Ok((subject, claims))
}

/// A NumericDate (RFC 7519, 2) in whole seconds.
fn date(value: &Value) -> Option<u64> {
    match value.as_f64() {
        // Above 2^53 seconds no fraction matters, and nobody means it.
        Some(fraction) if (0.0..9e15).contains(&fraction) => Some(value.as_u64().unwrap_or(fraction as u64)),
        _ => None,
    }
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}
