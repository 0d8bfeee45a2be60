//! Leaf certificates: what goes in, and issuing one.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    PKCS_ML_DSA_65, SanType, date_time_ymd,
};

use crate::grant::GrantStatement;
use crate::ids::{NodeId, UnixMillis};
use crate::keys::{KeyError, MlDsaPublic, random};
use crate::names::{NodeName, SpiffeId};

/// Life of a leaf: 7 days, until rotation makes hours bearable. A machine that slept over a long weekend still works.
pub const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far a certificate is dated back: clocks of members may differ by this much.
pub(crate) const BACKDATE: Duration = Duration::from_secs(10 * 60);

/// Our private extension, from a random UUID under the arc that Microsoft gives away for this.
pub(crate) const EXTENSION_ARCS: &[u64] =
    &[1, 2, 840, 113_556, 1, 8000, 2554, 31102, 14517, 36900, 16917, 47623, 10_674_973, 13_632_586];

/// [`EXTENSION_ARCS`] in DER.
pub(crate) const EXTENSION_DER: &[u8] = &[
    42, 134, 72, 134, 247, 20, 1, 190, 64, 147, 122, 129, 242, 126, 241, 53, 130, 160, 36, 129, 132, 21, 130,
    244, 7, 133, 139, 198, 29, 134, 192, 136, 74,
];

/// DER header of the extension's value: OCTET STRING of 65 bytes (version, NodeId, routing key).
pub(crate) const EXTENSION_HEAD: [u8; 3] = [0x04, 65, crate::wire::VERSION];

/// Last moment a certificate of ours may name: the end of the year 2999 (GeneralizedTime has four digits of year).
const CALENDAR_END: UnixMillis = UnixMillis(32_503_680_000_000);

/// Why a certificate was not issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate could not be encoded.
    #[error("the certificate could not be encoded")]
    Encoding,
    /// The issuer's grant does not cover this time.
    #[error(
        "the issuer's grant is not valid at {now}: check this machine's clock, or renew the grant with the root key"
    )]
    GrantNotValid {
        /// This machine's clock.
        now: UnixMillis,
    },
    /// The clock shows a time that a certificate cannot name.
    #[error("this machine's clock shows a time no certificate can name: set the clock")]
    Clock,
}

/// Whom a leaf is for.
pub(crate) struct LeafSubject<'a> {
    pub(crate) name: &'a NodeName,
    pub(crate) node_id: NodeId,
    pub(crate) routing_key: [u8; 32],
    pub(crate) leaf_public: &'a MlDsaPublic,
}

/// A leaf as it was issued.
pub(crate) struct IssuedLeaf {
    pub(crate) der: Vec<u8>,
    pub(crate) serial: [u8; 16],
    pub(crate) not_after: UnixMillis,
}

/// A random positive serial of 16 bytes (RFC 5280, 4.1.2.2 allows 20), never starting with a zero byte.
pub(crate) fn fresh_serial() -> Result<[u8; 16], KeyError> {
    let mut serial = *random::<16>()?;
    let [first, ..] = &mut serial;
    *first = (*first & 0x7f) | 0x40;
    Ok(serial)
}

/// Sets both dates, in whole seconds as X.509 has them.
pub(crate) fn set_dates(
    params: &mut CertificateParams,
    not_before: UnixMillis,
    not_after: UnixMillis,
) -> Result<(), IssueError> {
    // The calendar type panics on overflow, hence the limit.
    if not_after > CALENDAR_END || not_before > not_after {
        return Err(IssueError::Clock);
    }
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before.seconds());
    params.not_after = epoch + Duration::from_secs(not_after.seconds());
    Ok(())
}

/// Issues a leaf that is valid from [`BACKDATE`] ago for [`LEAF_LIFE`], at most as long as the grant.
pub(crate) fn issue(
    grant: &GrantStatement,
    issuer: &rcgen::Issuer<'_, impl rcgen::SigningKey>,
    subject: &LeafSubject<'_>,
    now: UnixMillis,
) -> Result<IssuedLeaf, IssueError> {
    if now < grant.not_before || now > grant.not_after {
        return Err(IssueError::GrantNotValid { now });
    }
    let not_after = now.plus(LEAF_LIFE).min(grant.not_after);
    let serial = fresh_serial()?;

    let mut params = CertificateParams::default();
    set_dates(&mut params, now.minus(BACKDATE), not_after)?;
    params.serial_number = Some(serial.to_vec().into());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    let spiffe = SpiffeId::node(&grant.mesh, subject.name).to_string();
    params.subject_alt_names =
        vec![SanType::URI(Ia5String::try_from(spiffe).map_err(|_| IssueError::Encoding)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;

    let mut content = EXTENSION_HEAD.to_vec();
    content.extend_from_slice(&subject.node_id.0);
    content.extend_from_slice(&subject.routing_key);
    params.custom_extensions = vec![CustomExtension::from_oid_content(EXTENSION_ARCS, content)];

    let certificate =
        params.signed_by(&SubjectKey(subject.leaf_public), issuer).map_err(|_| IssueError::Encoding)?;
    Ok(IssuedLeaf { der: certificate.der().to_vec(), serial, not_after })
}

/// The requester's public key, as rcgen wants it.
struct SubjectKey<'a>(&'a MlDsaPublic);

impl rcgen::PublicKeyData for SubjectKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ML_DSA_65
    }
}
