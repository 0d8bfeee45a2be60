//! Whom this node trusts, and the check of a peer's leaf certificate.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::grant::{GRANT_STATEMENT_MAX, GRANTS_MAX, GrantOffer, GrantStatement, IssuerGrant};
use crate::ids::{MeshAddress, MeshId, NodeId, UnixMillis};
use crate::issuer::Enrolled;
use crate::keys::{MlDsaPublic, MlDsaSignature, verify_ml_dsa};
use crate::leaf::{BACKDATE, EXTENSION_DER, Extension};
use crate::lives::ENROLMENT_LIFE;
use crate::names::{MeshName, NodeName, SpiffeId};
use crate::quorum::{ApprovalError, Quorum};
use crate::root::RootPublic;
use crate::root_chain::{ChainError, RootChain};
use crate::root_document::{SignedRoot, StandingGrants};

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
    /// A grant with a signature that doesn't verify under both algorithms of its signer's keys.
    #[error("grant {number} is not signed by this mesh's root")]
    BadSignature {
        /// The grant's number.
        number: u64,
    },
    /// A grant that no root document known here names or approves.
    #[error("grant {number} is signed by {found} of the {needed} root signers that are needed")]
    NotApproved {
        /// The grant's number.
        number: u64,
        /// Distinct signers that the newest root document counts.
        found: usize,
        /// How many it needs.
        needed: usize,
    },
    /// The root documents that came with the grants.
    #[error(transparent)]
    Roots(#[from] ChainError),
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
    /// The issuer's grant stood under an earlier root of the mesh, and not under the present one.
    #[error(
        "the mesh's present root does not stand behind the issuer: the node needs a certificate of another one"
    )]
    IssuerDropped,
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
    /// The node that issued the certificate.
    pub issuer: NodeId,
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
    /// Its roles, and how long it belongs to the mesh.
    pub enrolled: Enrolled,
}

impl Member {
    /// When the certificate was issued: its beginning is dated back.
    pub fn issued_at(&self) -> UnixMillis {
        self.not_before.plus(BACKDATE)
    }

    /// For how long the certificate was issued.
    pub fn life(&self) -> Duration {
        Duration::from_millis(self.not_after.0.saturating_sub(self.issued_at().0))
    }
}

/// The root of a mesh and its granted issuers.
///
/// The founder's key alone signs grants until a root document says otherwise. From then on a grant counts if the newest document's root
/// signers approve it, or if those of an earlier document approved it and all documents since name it. One that only those approved is kept,
/// and counts for nothing.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    root: RootPublic,
    mesh_id: MeshId,
    mesh: MeshName,
    roots: RootChain,
    grants: Vec<Held>,
    issued: Vec<IssuerGrant>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// What is known of a grant beside it.
#[derive(Debug, Clone, Copy)]
struct Held {
    counts: bool,
    /// Whether signers of some root known here approved it. What isn't proved counts for nothing, and nobody is told of it.
    proved: bool,
}

/// What is kept whatever it is worth by now: this node may have a certificate of its.
impl From<Result<Weighed<'_>, TrustError>> for Held {
    fn from(weighed: Result<Weighed<'_>, TrustError>) -> Self {
        Self { counts: weighed.as_ref().is_ok_and(|weighed| weighed.counts), proved: weighed.is_ok() }
    }
}

/// A grant that some root approved.
#[derive(Debug, Clone, Copy)]
struct Weighed<'a> {
    /// Whether the present root stands behind it.
    counts: bool,
    /// Who verified its approvals; the founder's key alone has none.
    approved_by: Option<&'a Quorum>,
}

impl Weighed<'_> {
    /// The grant as it is kept: with the approvals that suffice, whatever others a member put beside them.
    fn slim(self, grant: IssuerGrant) -> IssuerGrant {
        match self.approved_by {
            Some(root) => grant.with_sufficient(root),
            None => grant,
        }
    }
}

impl TrustAnchors {
    /// Checks signatures of each grant, its mesh and its CA certificate, in a mesh whose founder is root alone.
    pub fn new(root: RootPublic, mesh: MeshName, grants: Vec<IssuerGrant>) -> Result<Self, TrustError> {
        Self::under(root, mesh, RootChain::default(), grants)
    }

    /// As [`new`](Self::new), in a mesh whose root has come as far as `roots` says.
    pub fn under(
        root: RootPublic,
        mesh: MeshName,
        roots: RootChain,
        grants: Vec<IssuerGrant>,
    ) -> Result<Self, TrustError> {
        let mut made = Self::without_grants(root, mesh, roots, grants.len())?;
        for grant in grants {
            let weighed = made.weigh(&grant)?;
            let (held, grant) = (Held::from(Ok(weighed)), weighed.slim(grant));
            made.push(grant, held)?;
        }
        Ok(made)
    }

    /// As [`under`](Self::under), from what this node itself stored: a grant that it took once and that nothing proves by now counts for
    /// nothing, and is no reason not to start.
    pub(crate) fn restored(
        root: RootPublic,
        mesh: MeshName,
        roots: RootChain,
        grants: Vec<IssuerGrant>,
    ) -> Result<Self, TrustError> {
        let mut made = Self::without_grants(root, mesh, roots, grants.len())?;
        for grant in grants {
            let weighed = made.weigh(&grant);
            let slim = weighed.as_ref().map_or_else(|_| grant.clone(), |weighed| weighed.slim(grant.clone()));
            let held = Held::from(weighed);
            made.push(slim, held)?;
        }
        Ok(made)
    }

    /// To be filled with so many grants.
    fn without_grants(
        root: RootPublic,
        mesh: MeshName,
        roots: RootChain,
        grants: usize,
    ) -> Result<Self, TrustError> {
        match grants {
            0 => return Err(TrustError::NoGrants),
            many if many > GRANTS_MAX => return Err(TrustError::TooManyGrants(many)),
            _ => {}
        }
        let mesh_id = root.fingerprint();
        Ok(Self { root, mesh_id, mesh, roots, grants: Vec::new(), issued: Vec::new(), anchors: Vec::new() })
    }

    fn push(&mut self, grant: IssuerGrant, held: Held) -> Result<(), TrustError> {
        self.anchors.push(anchor(&self.mesh, &grant)?);
        self.issued.push(grant);
        self.grants.push(held);
        Ok(())
    }

    /// What a grant is worth under the root documents known here.
    fn weigh(&self, grant: &IssuerGrant) -> Result<Weighed<'_>, TrustError> {
        let number = grant.statement.number;
        let bad = TrustError::BadSignature { number };
        let Some(newest) = self.roots.newest() else {
            return match grant.is_founders() {
                true if grant.is_signed_by(&self.root) => Ok(Weighed { counts: true, approved_by: None }),
                true => Err(bad),
                // By signers of a root document that isn't known here yet.
                false => Err(TrustError::NotApproved { number, found: 0, needed: 1 }),
            };
        };
        // What was written before documents named grants says nothing against the founder's.
        let founders = grant.is_founders() && grant.is_signed_by(&self.root);
        if newest.grants.is_none() && founders {
            return Ok(Weighed { counts: true, approved_by: None });
        }
        let refused = match grant.check_under(newest) {
            Ok(()) => return Ok(Weighed { counts: true, approved_by: Some(&newest.root) }),
            Err(ApprovalError::BadSignature { .. }) => bad,
            Err(ApprovalError::NotEnough { found, needed }) => {
                TrustError::NotApproved { number, found, needed }
            }
        };
        // A name keeps in force what its signers put in force, as long as every version after theirs says so: not what was signed with
        // keys that were retired by then. The first version of each root is kept, so the signers of every grant that ever counted are known.
        let mut kept = grant.is_named_in(newest);
        for earlier in self.roots.versions().iter().rev().skip(1).map(|signed| &signed.document) {
            if grant.check_under(earlier).is_ok() {
                return Ok(Weighed { counts: kept, approved_by: Some(&earlier.root) });
            }
            kept &= earlier.grants.is_none() || grant.is_named_in(earlier);
        }
        Err(refused)
    }

    /// With the versions of the root document among `versions` that are later than what it knows; `None` when there are none. Grants are
    /// weighed anew.
    ///
    /// # Errors
    /// [`TrustError::Roots`]: a version that doesn't follow.
    pub fn with_roots(&self, versions: &[SignedRoot]) -> Result<Option<Self>, TrustError> {
        let roots = self.roots.extended(&self.mesh_id, versions)?;
        Ok(roots.map(|roots| self.weighed_by(roots)))
    }

    /// As [`with_roots`](Self::with_roots), by all versions from the first on, which this node took one after the other. Once they reach as
    /// far as what a member showed, they alone say what the root is: where it was another version of the same number, that is given up.
    ///
    /// # Errors
    /// [`TrustError::Roots`]: a version that doesn't follow.
    pub fn going_by(&self, versions: &[SignedRoot]) -> Result<Option<Self>, TrustError> {
        let roots = self.roots.going_by(&self.mesh_id, versions)?;
        Ok(roots.map(|roots| self.weighed_by(roots)))
    }

    fn weighed_by(&self, roots: RootChain) -> Self {
        let mut made = Self { roots, ..self.clone() };
        // What counted once stays in the list, whatever it counts for now.
        made.grants = made.issued.iter().map(|grant| Held::from(made.weigh(grant))).collect();
        made
    }

    /// With the root documents of `other` if they are later, then its grants; `None` when that changes nothing.
    ///
    /// # Errors
    /// As [`with_roots`](Self::with_roots) and [`merged`](Self::merged).
    pub fn joined(&self, other: &Self, now: UnixMillis) -> Result<Option<Self>, TrustError> {
        let rooted = self.with_roots(other.roots.versions())?;
        let merged = rooted.as_ref().unwrap_or(self).merged(&other.told(), now)?;
        Ok(merged.or(rooted))
    }

    /// With the grants of `others` that it lacks, that count and have not ended; `None` when there are none. Of one issuer a lower number
    /// than the highest held is a replay, and stays out. Held ones that have ended or count no more make room.
    ///
    /// # Errors
    /// [`TrustError`]: a grant that is forged or for another mesh, or more than [`GRANTS_MAX`].
    pub fn merged(&self, others: &[IssuerGrant], now: UnixMillis) -> Result<Option<Self>, TrustError> {
        let mut merged = self.clone();
        // Under a root that has ended nothing new counts.
        let ended = merged.roots.newest().is_some_and(|document| document.expires_at < now);
        for grant in others {
            let GrantStatement { issuer, number, not_after, .. } = grant.statement;
            let newer =
                |held: &IssuerGrant| held.statement.issuer == issuer && held.statement.number >= number;
            // The same with better signatures is none that is held.
            let mut held = merged.issued.iter().zip(&merged.grants);
            let unproved = held.position(|(held, known)| !known.proved && held.statement == grant.statement);
            // Of two with one number the root has contradicted itself; the first stays.
            if ended || not_after < now || unproved.is_none() && merged.issued.iter().any(newer) {
                continue;
            }
            let grant = match merged.weigh(grant) {
                Ok(weighed) if weighed.counts => weighed.slim(grant.clone()),
                // A neighbour may know another root document than this node.
                Ok(_) | Err(TrustError::NotApproved { .. }) => continue,
                Err(error) => return Err(error),
            };
            if let Some(at) = unproved {
                merged.remove(at);
            }
            if merged.issued.len() >= GRANTS_MAX {
                let room = merged.issued.iter().zip(&merged.grants);
                let room = room.map(|(held, weight)| held.statement.not_after < now || !weight.counts);
                let at =
                    room.clone().position(|free| free).ok_or(TrustError::TooManyGrants(GRANTS_MAX + 1))?;
                merged.remove(at);
            }
            merged.push(grant, Held { counts: true, proved: true })?;
        }
        Ok((merged.issued != self.issued).then_some(merged))
    }

    fn remove(&mut self, at: usize) {
        self.issued.remove(at);
        self.grants.remove(at);
        self.anchors.remove(at);
    }

    /// Whether this grant is held and counts.
    pub fn counts(&self, grant: &IssuerGrant) -> bool {
        self.in_force().any(|held| held.statement == grant.statement)
    }

    /// The grants that count, whether or not they have ended.
    pub fn in_force(&self) -> impl Iterator<Item = &IssuerGrant> {
        self.issued.iter().zip(&self.grants).filter(|(_, held)| held.counts).map(|(grant, _)| grant)
    }

    /// How the next root document names the grants that count and have not ended.
    pub fn standing(&self, now: UnixMillis) -> StandingGrants {
        let holding = self.in_force().filter(|grant| grant.statement.not_after >= now);
        let mut names: Vec<_> = holding.filter_map(|grant| grant.statement.name().ok()).collect();
        names.sort_unstable();
        names.dedup_by(|a, b| (a.issuer, a.number) == (b.issuer, b.number));
        StandingGrants::try_from(names).unwrap_or_default()
    }

    /// The root documents by which grants are judged.
    pub fn roots(&self) -> &RootChain {
        &self.roots
    }

    /// Who may issue at `now`, each once.
    pub fn issuers(&self, now: UnixMillis) -> Vec<NodeId> {
        let holding = self.in_force().filter(|grant| grant.statement.holds_at(now));
        let mut issuers: Vec<NodeId> = holding.map(|grant| grant.statement.issuer).collect();
        issuers.sort_unstable();
        issuers.dedup();
        issuers
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

    /// The grants, also those that count no more, and those that an earlier program took and nothing proves.
    pub fn grants(&self) -> &[IssuerGrant] {
        &self.issued
    }

    /// Those that others may be told of, since they can verify them under the same root documents.
    pub fn told(&self) -> Vec<IssuerGrant> {
        let proved = self.issued.iter().zip(&self.grants).filter(|(_, held)| held.proved);
        proved.map(|(grant, _)| grant.clone()).collect()
    }

    /// Verifies a leaf at `now`: signature of a granted issuer, dates, purpose, SPIFFE ID and our extension.
    pub fn verify_leaf(&self, der: &[u8], now: UnixMillis) -> Result<Member, LeafError> {
        self.verify(der, now, |held| held.counts)
    }

    fn verify(
        &self,
        der: &[u8],
        now: UnixMillis,
        counts: impl Fn(Held) -> bool,
    ) -> Result<Member, LeafError> {
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
        let (issuer, held) = self.grant_of(path.anchor()).ok_or(LeafError::UnknownIssuer)?;
        if !counts(held) {
            return Err(LeafError::IssuerDropped);
        }
        if now < issuer.not_before || now > issuer.not_after {
            return Err(LeafError::IssuerNotValid { now });
        }
        // Only now, with the issuer's signature verified, is the rest of the certificate looked at.
        self.read_member(der, issuer.issuer)
    }

    /// The node whose CA key signed a leaf, whatever its dates.
    pub fn issuer_of(&self, der: &[u8]) -> Option<NodeId> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let signed = certificate.issuer().as_raw();
        let named = |grant: &&IssuerGrant| {
            X509Certificate::from_der(&grant.statement.ca_der)
                .is_ok_and(|(_, ca)| ca.subject().as_raw() == signed)
        };
        self.issued.iter().find(named).map(|grant| grant.statement.issuer)
    }

    /// Reads a leaf without regard to today's date and root: verifies it at its own beginning, also if its issuer was dropped since.
    ///
    /// For showing this node's own identity and for renewing it after its end, never for a peer.
    pub fn inspect_leaf(&self, der: &[u8]) -> Result<Member, LeafError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Malformed)?;
        let seconds = certificate.validity().not_before.timestamp();
        let seconds = u64::try_from(seconds).map_err(|_| LeafError::Malformed)?;
        self.verify(der, UnixMillis(seconds.saturating_mul(1000)), |_| true)
    }

    fn grant_of(&self, anchor: &TrustAnchor<'_>) -> Option<(&GrantStatement, Held)> {
        let same = |ours: &TrustAnchor<'_>| {
            ours.subject_public_key_info == anchor.subject_public_key_info && ours.subject == anchor.subject
        };
        let position = self.anchors.iter().position(same)?;
        Some((&self.issued.get(position)?.statement, *self.grants.get(position)?))
    }

    fn read_member(&self, der: &[u8], issuer: NodeId) -> Result<Member, LeafError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Malformed)?;
        if !rest.is_empty() {
            return Err(LeafError::Malformed);
        }
        check_purpose(&certificate)?;
        let spiffe_id = spiffe_id(&certificate)?;
        if *spiffe_id.mesh() != self.mesh {
            return Err(LeafError::WrongMesh { found: spiffe_id.mesh().clone() });
        }
        let Extension { node_id, routing_key, enrolled } = read_extension(&certificate)?;
        let millis = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).map_err(|_| LeafError::Malformed)?;
            Ok(UnixMillis(seconds.saturating_mul(1000)))
        };
        let not_before = millis(certificate.validity().not_before)?;
        let begins = not_before.plus(BACKDATE);
        // Certificates of version 1 name no enrolment: it is as long as the default.
        let enrolled = enrolled.unwrap_or_else(|| Enrolled {
            roles: Vec::new(),
            from: begins,
            until: begins.plus(ENROLMENT_LIFE),
        });
        Ok(Member {
            node_id,
            issuer,
            name: spiffe_id.name().clone(),
            spiffe_id,
            address: MeshAddress::derive(&self.mesh_id, &node_id),
            routing_key,
            not_before,
            not_after: millis(certificate.validity().not_after)?,
            serial: certificate.raw_serial().to_vec(),
            enrolled,
        })
    }
}

/// Checks a grant's mesh and CA certificate. Who signed it was checked before.
fn anchor(mesh: &MeshName, grant: &IssuerGrant) -> Result<TrustAnchor<'static>, TrustError> {
    let statement = &grant.statement;
    let number = statement.number;
    if statement.mesh != *mesh {
        return Err(TrustError::WrongMesh { number, found: statement.mesh.clone() });
    }
    // One by one they fit into what is told of the mesh.
    let fits = statement.encode().is_ok_and(|bytes| bytes.len() <= GRANT_STATEMENT_MAX);
    if !statement.is_known() || !fits {
        return Err(TrustError::BadGrant { number });
    }
    anchor_from_trusted_cert(&CertificateDer::from(statement.ca_der.as_slice()))
        .map(|anchor| anchor.to_owned())
        .map_err(|_| TrustError::BadGrant { number })
}

/// Whether a certificate is the CA's that `offer` asks for, under this name, and signed by its own key.
pub(crate) fn is_ca_of(der: &[u8], name: &str, offer: &GrantOffer) -> bool {
    let Ok((&[], certificate)) = X509Certificate::from_der(der) else { return false };
    let mut subjects = certificate.subject().iter_common_name();
    let named = subjects.next().and_then(|subject| subject.as_str().ok()) == Some(name)
        && subjects.next().is_none()
        && certificate.subject().as_raw() == certificate.issuer().as_raw();
    let authority = certificate.basic_constraints().ok().flatten();
    let authority =
        authority.is_some_and(|basic| basic.value.ca && basic.value.path_len_constraint == Some(0));
    let seconds = |time: UnixMillis| i64::try_from(time.seconds()).ok();
    let validity = certificate.validity();
    let dated = Some(validity.not_before.timestamp()) == seconds(offer.not_before)
        && Some(validity.not_after.timestamp()) == seconds(offer.not_after);
    let subject_key = certificate.public_key();
    let key = MlDsaPublic::try_from(&*subject_key.subject_public_key.data).ok();
    let signature = MlDsaSignature::try_from(&*certificate.signature_value.data).ok();
    let signed = subject_key.algorithm.algorithm.as_bytes() == ML_DSA_65_OID
        && key.zip(signature).is_some_and(|(key, signature)| {
            verify_ml_dsa(&key, certificate.tbs_certificate.as_ref(), &signature).is_ok()
        });
    named && authority && dated && signed
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

fn read_extension(certificate: &X509Certificate<'_>) -> Result<Extension, LeafError> {
    let mut found =
        certificate.iter_extensions().filter(|extension| extension.oid.as_bytes() == EXTENSION_DER);
    let (Some(extension), None) = (found.next(), found.next()) else {
        return Err(LeafError::Malformed);
    };
    Extension::decode(extension.value).ok_or(LeafError::Malformed)
}
