//! Leaf certificates: what goes in, and issuing one.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    PKCS_ML_DSA_65, SanType, date_time_ymd,
};

use crate::grant::GrantStatement;
use crate::ids::{NodeId, UnixMillis};
use crate::issuer::Enrolled;
use crate::keys::{KeyError, MlDsaPublic, random};
use crate::names::{NodeName, RoleName, SpiffeId};

/// How far a certificate is dated back: clocks of members may differ by this much.
pub const BACKDATE: Duration = Duration::from_secs(10 * 60);

/// Our private extension, from a random UUID under the arc that Microsoft gives away for this.
pub(crate) const EXTENSION_ARCS: &[u64] =
    &[1, 2, 840, 113_556, 1, 8000, 2554, 31102, 14517, 36900, 16917, 47623, 10_674_973, 13_632_586];

/// [`EXTENSION_ARCS`] in DER.
pub(crate) const EXTENSION_DER: &[u8] = &[
    42, 134, 72, 134, 247, 20, 1, 190, 64, 147, 122, 129, 242, 126, 241, 53, 130, 160, 36, 129, 132, 21, 130,
    244, 7, 133, 139, 198, 29, 134, 192, 136, 74,
];

/// Version of the extension that names the enrolment too.
const EXTENSION_VERSION: u8 = 2;

/// The version before: NodeId and routing key alone.
const EXTENSION_VERSION_1: u8 = 1;

/// Most roles of a node: a role is a job, and nobody has more jobs than this; it bounds certificates and log entries.
pub const ROLES_MAX: usize = 16;

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
    /// More than [`ROLES_MAX`] roles, or not sorted.
    #[error("a node has at most 16 roles, sorted, each once")]
    Roles,
}

/// Whom a leaf is for.
pub(crate) struct LeafSubject<'a> {
    pub(crate) name: &'a NodeName,
    pub(crate) node_id: NodeId,
    pub(crate) routing_key: [u8; 32],
    pub(crate) leaf_public: &'a MlDsaPublic,
    pub(crate) enrolled: &'a Enrolled,
}

/// A leaf as it was issued.
pub(crate) struct IssuedLeaf {
    pub(crate) der: Vec<u8>,
    pub(crate) serial: [u8; 16],
    pub(crate) not_after: UnixMillis,
}

/// A random positive serial of 16 bytes (RFC 5280, 4.1.2.2 allows 20), never starting with a zero byte.
pub fn fresh_serial() -> Result<[u8; 16], KeyError> {
    let mut serial = *random::<16>()?;
    let [first, ..] = &mut serial;
    *first = (*first & 0x7f) | 0x40;
    Ok(serial)
}

/// Sets both dates, in whole seconds as X.509 has them.
pub fn set_dates(
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

/// Issues a leaf that is valid from [`BACKDATE`] ago for `life`, at most as long as the grant and the enrolment.
pub(crate) fn issue(
    grant: &GrantStatement,
    issuer: &rcgen::Issuer<'_, impl rcgen::SigningKey>,
    subject: &LeafSubject<'_>,
    life: Duration,
    now: UnixMillis,
) -> Result<IssuedLeaf, IssueError> {
    if now < grant.not_before || now > grant.not_after {
        return Err(IssueError::GrantNotValid { now });
    }
    let not_after = now.plus(life).min(grant.not_after).min(subject.enrolled.until);
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

    let extension = Extension {
        node_id: subject.node_id,
        routing_key: subject.routing_key,
        enrolled: Some(subject.enrolled.clone()),
    };
    let content = extension.encode().ok_or(IssueError::Roles)?;
    params.custom_extensions = vec![CustomExtension::from_oid_content(EXTENSION_ARCS, content)];

    let certificate =
        params.signed_by(&SubjectKey(subject.leaf_public), issuer).map_err(|_| IssueError::Encoding)?;
    Ok(IssuedLeaf { der: certificate.der().to_vec(), serial, not_after })
}

/// What our extension says: an OCTET STRING of version, NodeId, routing key and, from version 2 on, beginning and end of the enrolment (Unix
/// milliseconds, big-endian), the number of roles and each role after its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) node_id: NodeId,
    pub(crate) routing_key: [u8; 32],
    /// `None` in version 1.
    pub(crate) enrolled: Option<Enrolled>,
}

impl Extension {
    /// The DER of the value; `None` when the roles are too many, or not sorted.
    fn encode(&self) -> Option<Vec<u8>> {
        let mut content = vec![EXTENSION_VERSION];
        content.extend_from_slice(&self.node_id.0);
        content.extend_from_slice(&self.routing_key);
        let enrolled = self.enrolled.as_ref()?;
        content.extend_from_slice(&enrolled.from.0.to_be_bytes());
        content.extend_from_slice(&enrolled.until.0.to_be_bytes());
        if !roles_are_canonical(&enrolled.roles) {
            return None;
        }
        content.push(u8::try_from(enrolled.roles.len()).ok()?);
        for role in &enrolled.roles {
            content.push(u8::try_from(role.as_str().len()).ok()?);
            content.extend_from_slice(role.as_str().as_bytes());
        }
        // DER, X.690 8.1.3: the shortest form of the length.
        let length = u16::try_from(content.len()).ok()?;
        let [high, low] = length.to_be_bytes();
        let mut der = vec![0x04];
        match length {
            0..=127 => der.push(low),
            128..=255 => der.extend([0x81, low]),
            _ => der.extend([0x82, high, low]),
        }
        der.append(&mut content);
        Some(der)
    }

    /// Reads [`encode`](Self::encode)'s form, or that of version 1, and no other.
    pub(crate) fn decode(der: &[u8]) -> Option<Self> {
        let content = octets(der)?;
        let (version, rest) = content.split_first()?;
        let (node, rest) = rest.split_first_chunk::<32>()?;
        let (routing_key, rest) = rest.split_first_chunk::<32>()?;
        let (node_id, routing_key) = (NodeId(*node), *routing_key);
        match *version {
            EXTENSION_VERSION_1 if rest.is_empty() => Some(Self { node_id, routing_key, enrolled: None }),
            EXTENSION_VERSION => {
                let (from, rest) = rest.split_first_chunk::<8>()?;
                let (until, rest) = rest.split_first_chunk::<8>()?;
                let (count, mut rest) = rest.split_first()?;
                let mut roles: Vec<RoleName> = Vec::new();
                for _ in 0..*count {
                    let (length, tail) = rest.split_first()?;
                    let (role, tail) = tail.split_at_checked(usize::from(*length))?;
                    roles.push(std::str::from_utf8(role).ok()?.parse().ok()?);
                    rest = tail;
                }
                if !rest.is_empty() || !roles_are_canonical(&roles) {
                    return None;
                }
                let (from, until) = (u64::from_be_bytes(*from), u64::from_be_bytes(*until));
                let enrolled = Enrolled { roles, from: UnixMillis(from), until: UnixMillis(until) };
                Some(Self { node_id, routing_key, enrolled: Some(enrolled) })
            }
            _ => None,
        }
    }
}

/// The content of a DER OCTET STRING that is all of `der`, its length in the shortest form.
fn octets(der: &[u8]) -> Option<&[u8]> {
    let (length, content) = match der.strip_prefix(&[0x04])? {
        [0x81, length, content @ ..] if *length > 127 => (usize::from(*length), content),
        [0x82, high, low, content @ ..] if *high > 0 => {
            (usize::from(u16::from_be_bytes([*high, *low])), content)
        }
        [length, content @ ..] if *length <= 127 => (usize::from(*length), content),
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

/// Whether roles are few, sorted, each once.
pub(crate) fn roles_are_canonical(roles: &[RoleName]) -> bool {
    roles.len() <= ROLES_MAX && roles.is_sorted_by(|a, b| a < b)
}

/// Entry for fuzzing: reads the extension of a certificate; whether it is one.
#[doc(hidden)]
pub fn extension_decodes(der: &[u8]) -> bool {
    Extension::decode(der).is_some_and(|extension| {
        assert!(extension.enrolled.is_none() || extension.encode().as_deref() == Some(der));
        true
    })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static FROZEN_1: &[u8] = include_bytes!("../tests/fixtures/extension-1.bin");
    static FROZEN_2: &[u8] = include_bytes!("../tests/fixtures/extension-2.bin");

    fn extension(roles: &[&str]) -> Extension {
        let mut roles: Vec<RoleName> = roles.iter().map(|role| role.parse().unwrap()).collect();
        roles.sort();
        let enrolled = Enrolled { roles, from: UnixMillis(3), until: UnixMillis(0x0102_0304_0506_0708) };
        Extension { node_id: NodeId([1; 32]), routing_key: [2; 32], enrolled: Some(enrolled) }
    }

    #[test]
    fn the_forms_are_frozen() {
        let extension = extension(&["db", "web"]);
        assert_eq!(extension.encode().unwrap(), FROZEN_2);
        assert_eq!(Extension::decode(FROZEN_2), Some(extension.clone()));
        assert_eq!(Extension::decode(FROZEN_1), Some(Extension { enrolled: None, ..extension }));
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = extension(&["db"]).encode().unwrap();
        let content = &good[2..];
        let with = |head: &[u8], content: &[u8]| [head, content].concat();
        let length = u8::try_from(content.len()).unwrap();
        for bad in [
            with(&[0x04, 0x81, length], content),
            with(&[0x04, 0x82, 0, length], content),
            with(&[0x05, length], content),
            with(&[0x04, length - 1], &content[..content.len() - 1]),
            with(&[0x04, length + 1], &with(content, &[0])),
            with(&good, &[0]),
            with(&[0x04, length], &with(&[3], &content[1..])),
            with(&[0x04, length], &with(&[1], &content[1..])),
            Vec::new(),
        ] {
            assert_eq!(Extension::decode(&bad), None, "{bad:?}");
        }
        let twice = Extension { enrolled: None, ..extension(&[]) };
        assert_eq!(twice.encode(), None, "version 1 is only read");
    }

    proptest! {
        #[test]
        fn round_trips(from: u64, until: u64, roles in prop::collection::btree_set("[a-z]{1,63}", 0..=ROLES_MAX)) {
            let roles = roles.iter().map(|role| role.parse().unwrap()).collect();
            let enrolled = Enrolled { roles, from: UnixMillis(from), until: UnixMillis(until) };
            let extension = Extension { enrolled: Some(enrolled), ..extension(&[]) };
            prop_assert_eq!(Extension::decode(&extension.encode().unwrap()), Some(extension));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            extension_decodes(&bytes);
        }
    }
}
