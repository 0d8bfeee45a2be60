//! Debug forms of the messages that carry secrets: their sizes alone.

use std::fmt;

use crate::pb;

impl fmt::Debug for pb::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid", &self.x509_svid.len())
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest").field("audience", &self.audience).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_a_secret() {
        let secret = "c2VjcmV0";
        let bytes = || bytes::Bytes::from_static(b"c2VjcmV0");
        let x509 = pb::X509svid { x509_svid_key: bytes(), ..Default::default() };
        let x509 = pb::X509svidResponse { svids: vec![x509], ..Default::default() };
        let jwt =
            pb::JwtsvidResponse { svids: vec![pb::Jwtsvid { svid: secret.into(), ..Default::default() }] };
        let validate = pb::ValidateJwtsvidRequest { svid: secret.into(), ..Default::default() };
        let key = format!("{:?}", bytes());
        for text in [format!("{x509:?}"), format!("{jwt:?}"), format!("{validate:?}")] {
            assert!(!text.contains(secret) && !text.contains(&key), "{text}");
        }
    }
}
