//! Whom this node trusts, and the check of a peer's leaf certificate.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::grant::{GRANTS_MAX, GrantStatement, IssuerGrant};
use crate::ids::{MeshAddress, MeshId, NodeId, UnixMillis};
use crate::leaf::{EXTENSION_DER, EXTENSION_HEAD};
use crate::names::{MeshName, NodeName, SpiffeId};
use crate::root::RootPublic;
use crate::wire::VERSION;

/// Longest leaf that is looked at; ours have 5.6 KB.
pub const LEAF_MAX: usize = 16 * 1024;

/// DER of the ML-DSA-65 OID 2.16.840.1.101.3.4.3.18 (NIST CSOR, RFC 9881).
const ML_DSA_65_OID: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12];

/// Why a set of grants makes no trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No grant at all.
    #[error("the mesh has no issuer")]
    NoGrants,
    /// More than [`GRANTS_MAX`].
    #[error("{0} grants where at most 16 are allowed")]
    TooManyGrants(usize),
    /// A grant without two good signatures of the root.
    #[error("grant {number} is not signed by this mesh's root")]
    BadSignature {
        /// The grant's number.
        number: u64,
    },
    /// A grant for another mesh.
    #[error("grant {number} is for mesh {found}")]
    WrongMesh {
        /// The grant's number.
        number: u64,
        /// The mesh it names.
        found: MeshName,
    },
    /// A signed grant that this program cannot use.
    #[error("grant {number} holds no usable CA certificate or has another version")]
    BadGrant {
        /// The grant's number.
        number: u64,
    },
}

/// Why a leaf certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// Past its end.
    #[error(
        "the certificate ended at {not_after} and this machine's clock shows {now}: renew the certificate, or set the \
         clock (on both machines) if that date is wrong"
    )]
    Expired {
        /// End of the certificate.
        not_after: UnixMillis,
        /// Time of the check.
        now: UnixMillis,
    },
    /// Before its beginning.
    #[error(
        "the certificate begins at {not_before} and this machine's clock shows {now}: set the clock (on both machines)"
    )]
    NotYetValid {
        /// Beginning of the certificate.
        not_before: UnixMillis,
        /// Time of the check.
        now: UnixMillis,
    },
    /// No issuer of this mesh signed it.
    #[error("no issuer of this mesh signed the certificate")]
    UnknownIssuer,
    /// The issuer's grant does not cover this time.
    #[error(
        "the issuer's grant is not valid at {now}: check the clock, or renew the grant with the root key"
    )]
    IssuerNotValid {
        /// Time of the check.
        now: UnixMillis,
    },
    /// Its SPIFFE ID belongs to another mesh.
    #[error("the certificate is for mesh {found}")]
    WrongMesh {
        /// The mesh it names.
        found: MeshName,
    },
    /// Not exactly one SPIFFE ID of a node, equal to the subject.
    #[error("the certificate does not have exactly one SPIFFE ID of a node")]
    BadSpiffeId,
    /// May not be used for both TLS client and server, or has a key that is not ML-DSA-65.
    #[error("the certificate is for another purpose or another kind of key")]
    BadPurpose,
    /// Not a certificate, or without our extension.
    #[error("the certificate is malformed")]
    Malformed,
}

/// What a valid leaf proves about its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Its mesh address.
    pub address: MeshAddress,
    /// Ed25519 key that may sign its routing records.
    pub routing_key: [u8; 32],
    /// Beginning of the certificate.
    pub not_before: UnixMillis,
    /// End of the certificate.
    pub not_after: UnixMillis,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
}

/// The root of a mesh and its granted issuers.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    root: RootPublic,
    mesh_id: MeshId,
    mesh: MeshName,
    grants: Vec<IssuerGrant>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustAnchors {
    /// Checks both signatures of each grant, its mesh and its CA certificate.
    pub fn new(root: RootPublic, mesh: MeshName, grants: Vec<IssuerGrant>) -> Result<Self, TrustError> {
        match grants.len() {
            0 => return Err(TrustError::NoGrants),
            many if many > GRANTS_MAX => return Err(TrustError::TooManyGrants(many)),
            _ => {}
        }
        let anchors = grants
            .iter()
            .map(|grant| {
                let statement = &grant.statement;
                let number = statement.number;
                if !grant.is_signed_by(&root) {
                    return Err(TrustError::BadSignature { number });
                }
                if statement.mesh != mesh {
                    return Err(TrustError::WrongMesh { number, found: statement.mesh.clone() });
                }
                if statement.version != VERSION {
                    return Err(TrustError::BadGrant { number });
                }
                anchor_from_trusted_cert(&CertificateDer::from(statement.ca_der.as_slice()))
                    .map(|anchor| anchor.to_owned())
                    .map_err(|_| TrustError::BadGrant { number })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { mesh_id: root.fingerprint(), root, mesh, grants, anchors })
    }

    /// The mesh's root.
    pub fn root(&self) -> &RootPublic {
        &self.root
    }

    /// The root's fingerprint.
    pub fn mesh_id(&self) -> MeshId {
        self.mesh_id
    }

    /// The mesh's name.
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// The grants, all verified.
    pub fn grants(&self) -> &[IssuerGrant] {
        &self.grants
    }

    /// Verifies a leaf at `now`: signature of a granted issuer, dates, purpose, SPIFFE ID and our extension.
    pub fn verify_leaf(&self, der: &[u8], now: UnixMillis) -> Result<Member, LeafError> {
        if der.len() > LEAF_MAX {
            return Err(LeafError::Malformed);
        }
        let certificate = CertificateDer::from(der);
        let leaf = EndEntityCert::try_from(&certificate).map_err(|_| LeafError::Malformed)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.seconds()));
        let path = leaf
            .verify_for_usage(
                &[webpki::aws_lc_rs::ML_DSA_65],
                &self.anchors,
                &[],
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| leaf_error(&error, now))?;
        let issuer = self.grant_of(path.anchor()).ok_or(LeafError::UnknownIssuer)?;
        if now < issuer.not_before || now > issuer.not_after {
            return Err(LeafError::IssuerNotValid { now });
        }
        // Only now, with the issuer's signature verified, is the rest of the certificate looked at.
        self.read_member(der)
    }

    /// Reads a leaf without regard to today's date: verifies it at its own beginning.
    ///
    /// For showing this node's own identity and for renewing it after its end, never for a peer.
    pub fn inspect_leaf(&self, der: &[u8]) -> Result<Member, LeafError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Malformed)?;
        let seconds = certificate.validity().not_before.timestamp();
        let seconds = u64::try_from(seconds).map_err(|_| LeafError::Malformed)?;
        self.verify_leaf(der, UnixMillis(seconds.saturating_mul(1000)))
    }

    fn grant_of(&self, anchor: &TrustAnchor<'_>) -> Option<&GrantStatement> {
        let same = |ours: &TrustAnchor<'_>| {
            ours.subject_public_key_info == anchor.subject_public_key_info && ours.subject == anchor.subject
        };
        let position = self.anchors.iter().position(same)?;
        self.grants.get(position).map(|grant| &grant.statement)
    }

    fn read_member(&self, der: &[u8]) -> Result<Member, LeafError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Malformed)?;
        if !rest.is_empty() {
            return Err(LeafError::Malformed);
        }
        check_purpose(&certificate)?;
        let spiffe_id = spiffe_id(&certificate)?;
        if *spiffe_id.mesh() != self.mesh {
            return Err(LeafError::WrongMesh { found: spiffe_id.mesh().clone() });
        }
        let (node_id, routing_key) = read_extension(&certificate)?;
        let millis = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).map_err(|_| LeafError::Malformed)?;
            Ok(UnixMillis(seconds.saturating_mul(1000)))
        };
        Ok(Member {
            node_id,
            name: spiffe_id.name().clone(),
            spiffe_id,
            address: MeshAddress::derive(&self.mesh_id, &node_id),
            routing_key,
            not_before: millis(certificate.validity().not_before)?,
            not_after: millis(certificate.validity().not_after)?,
            serial: certificate.raw_serial().to_vec(),
        })
    }
}

/// The raw ML-DSA-65 public key of a certificate that was verified before.
pub(crate) fn leaf_public(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn leaf_error(error: &webpki::Error, now: UnixMillis) -> LeafError {
    let millis = |time: &UnixTime| UnixMillis(time.as_secs().saturating_mul(1000));
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            LeafError::Expired { not_after: millis(not_after), now }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            LeafError::NotYetValid { not_before: millis(not_before), now }
        }
        // Any signature that is not ML-DSA-65 of a granted issuer means the same: not from this mesh.
        webpki::Error::UnknownIssuer
        | webpki::Error::InvalidSignatureForPublicKey
        | webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => LeafError::UnknownIssuer,
        webpki::Error::RequiredEkuNotFoundContext(_)
        | webpki::Error::EmptyEkuExtension
        | webpki::Error::CaUsedAsEndEntity => LeafError::BadPurpose,
        _ => LeafError::Malformed,
    }
}

fn check_purpose(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let usage = certificate.extended_key_usage().map_err(|_| LeafError::Malformed)?;
    let both = usage.is_some_and(|usage| usage.value.client_auth && usage.value.server_auth);
    let key = certificate.public_key().algorithm.algorithm.as_bytes() == ML_DSA_65_OID;
    if both && key { Ok(()) } else { Err(LeafError::BadPurpose) }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    let names = certificate.subject_alternative_name().map_err(|_| LeafError::Malformed)?;
    let names = names.ok_or(LeafError::BadSpiffeId)?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(LeafError::BadSpiffeId);
    };
    let id: SpiffeId = uri.parse().map_err(|_| LeafError::BadSpiffeId)?;
    let mut subjects = certificate.subject().iter_common_name();
    let subject = subjects.next().and_then(|subject| subject.as_str().ok());
    if subject == Some(id.name().as_str()) && subjects.next().is_none() {
        Ok(id)
    } else {
        Err(LeafError::BadSpiffeId)
    }
}

fn read_extension(certificate: &X509Certificate<'_>) -> Result<(NodeId, [u8; 32]), LeafError> {
    let mut found =
        certificate.iter_extensions().filter(|extension| extension.oid.as_bytes() == EXTENSION_DER);
    let (Some(extension), None) = (found.next(), found.next()) else {
        return Err(LeafError::Malformed);
    };
    let content = extension.value.strip_prefix(&EXTENSION_HEAD).ok_or(LeafError::Malformed)?;
    let (node, routing) = content.split_at_checked(32).ok_or(LeafError::Malformed)?;
    let node = node.try_into().map_err(|_| LeafError::Malformed)?;
    let routing = routing.try_into().map_err(|_| LeafError::Malformed)?;
    Ok((NodeId(node), routing))
}
