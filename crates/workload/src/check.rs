//! The checks of P-256 certificates that this node relies on.

use std::time::Duration;

use meshara_identity::UnixMillis;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::keys::P256Public;

/// The key of a signing certificate, if it is one that SPIFFE verifiers take: a CA with the key usage to sign certificates and the trust
/// domain's SPIFFE ID (X509-SVID, 3.2 and 4), a P-256 key and these dates.
pub(crate) fn signing_key(
    der: &[u8],
    trust_domain: &str,
    not_before: UnixMillis,
    not_after: UnixMillis,
) -> Option<P256Public> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let ca = certificate.basic_constraints().ok()??.value.ca;
    let signs = certificate.key_usage().ok()??.value.key_cert_sign();
    let dates = certificate.validity();
    let dated = seconds(dates.not_before) == Some(not_before.seconds())
        && seconds(dates.not_after) == Some(not_after.seconds());
    let named = single_uri(&certificate) == Some(trust_domain);
    if !(rest.is_empty() && ca && signs && dated && named) {
        return None;
    }
    public_key(&certificate)
}

/// When a leaf ends, if it is `id`'s, for `key`, and signed by one of `authorities`.
pub(crate) fn leaf_end(
    der: &[u8],
    id: &str,
    key: &P256Public,
    authorities: &[TrustAnchor<'_>],
    now: UnixMillis,
) -> Option<UnixMillis> {
    let certificate = CertificateDer::from(der);
    let leaf = EndEntityCert::try_from(&certificate).ok()?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.seconds()));
    let algorithms = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];
    leaf.verify_for_usage(algorithms, authorities, &[], time, KeyUsage::client_auth(), None, None).ok()?;
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let usage = certificate.key_usage().ok()??.value;
    let signs = usage.key_cert_sign() || usage.crl_sign() || !usage.digital_signature();
    if !rest.is_empty() || signs || single_uri(&certificate) != Some(id) {
        return None;
    }
    if public_key(&certificate).as_ref() != Some(key) {
        return None;
    }
    Some(UnixMillis(seconds(certificate.validity().not_after)?.saturating_mul(1000)))
}

/// Whether a certificate may sign others: what a foreign trust domain's bundle must hold. More is its own business.
pub(crate) fn is_authority(der: &[u8]) -> bool {
    let Ok((rest, certificate)) = X509Certificate::from_der(der) else { return false };
    let ca = certificate.basic_constraints().is_ok_and(|found| found.is_some_and(|found| found.value.ca));
    rest.is_empty() && ca && webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).is_ok()
}

/// The SPIFFE ID of a certificate that was verified otherwise.
pub(crate) fn spiffe_id(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    // Other kinds of names may be there (X509-SVID, 2); a second URI may not.
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(only), None) => Some(only.to_owned()),
        _ => None,
    }
}

fn seconds(time: x509_parser::time::ASN1Time) -> Option<u64> {
    u64::try_from(time.timestamp()).ok()
}

/// The only name of a certificate, if it has one and that is a URI.
fn single_uri<'a>(certificate: &X509Certificate<'a>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Some(*uri),
        _ => None,
    }
}

fn public_key(certificate: &X509Certificate<'_>) -> Option<P256Public> {
    P256Public::try_from(&*certificate.public_key().subject_public_key.data).ok()
}
