//! Issuers: X.509 certification authorities that a grant signed by the mesh's root makes trusted.

use std::fmt;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose, PKCS_ML_DSA_65};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeTuple};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{MeshId, NodeId, UnixMillis};
use crate::keys::{KeyError, MlDsaKey, MlDsaPublic, MlDsaSignature, Seed};
use crate::leaf::{self, IssueError, IssuedLeaf, LeafSubject};
use crate::lives::Lives;
use crate::names::MeshName;
use crate::quorum::{ApprovalError, Approvals, KeyId, Quorum, SIGNERS_MAX};
use crate::root::{HybridSignature, Purpose, RootKey, RootPublic};
use crate::root_document::{RootDocument, StandingGrant};
use crate::wire::{self, WireError};

/// How long an issuer stays granted: three years, as intermediates of private CAs usually are; the root is offline
/// by then and has to be fetched for the next grant.
pub const GRANT_LIFE: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// Longest statement of a grant: an ML-DSA-65 CA certificate is 5.6 KB.
pub const GRANT_STATEMENT_MAX: usize = 8 * 1024;

/// Longest encoded grant: its statement and the approvals of as many signers as there can be, 3.4 KB each.
pub const GRANT_MAX: usize = GRANT_STATEMENT_MAX + SIGNERS_MAX * 3500;

/// Most grants a mesh may have at a time: a few issuers and their predecessors.
pub const GRANTS_MAX: usize = 16;

/// Longest list of grants: as many as there can be, each as long as it can be.
pub const GRANTS_BYTES_MAX: usize = GRANTS_MAX * GRANT_MAX + 64;

/// Version of statements that several signers approve. It names the mesh by its id, since the signers' keys don't.
const STATEMENT_VERSION_3: u8 = 3;
/// Version of statements that the founder's key signs.
const STATEMENT_VERSION: u8 = 2;
/// The version before, which sets no lives.
const STATEMENT_VERSION_1: u8 = 1;

/// The root's statement that a CA certificate may issue leaves for a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantStatement {
    /// Version of this statement.
    pub version: u8,
    /// Position in the issuer's history; a rotated issuer gets a higher one.
    pub number: u64,
    /// The mesh it issues for.
    pub mesh: MeshName,
    /// The node that holds the CA key.
    pub issuer: NodeId,
    /// Self-signed CA certificate.
    pub ca_der: Vec<u8>,
    /// The grant holds from here…
    pub not_before: UnixMillis,
    /// …to here.
    pub not_after: UnixMillis,
    /// How long what it issues lasts. The defaults, in version 1.
    pub lives: Lives,
    /// The mesh's id, from version 3 on: a signer may sign for several meshes, of one name even. The founder's key is the id of its own.
    pub mesh_id: Option<MeshId>,
}

impl GrantStatement {
    /// Whether this program knows the statement's version.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.version, STATEMENT_VERSION_3 | STATEMENT_VERSION | STATEMENT_VERSION_1)
    }

    /// Whether several signers approve it; else the founder's key signs it.
    fn is_for_signers(&self) -> bool {
        self.version >= STATEMENT_VERSION_3
    }

    /// What signers sign: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, GRANT_STATEMENT_MAX)
    }

    /// The statement of several signers that these bytes are, if its CA certificate is what it says: for who is asked to sign it.
    pub fn proposed(bytes: &[u8]) -> Result<Self, WireError> {
        let statement = Self::decode(bytes)?;
        let Self { mesh, issuer, number, not_before, not_after, lives, .. } = statement.clone();
        let offer = GrantOffer { mesh, issuer, number, not_before, not_after, lives };
        let whole = statement.version == STATEMENT_VERSION_3 && offer.fits(&statement.ca_der);
        if whole { Ok(statement) } else { Err(WireError::Malformed) }
    }

    /// The CA's public key; `None` when its certificate isn't one of ours.
    pub fn ca_public(&self) -> Option<MlDsaPublic> {
        let key = crate::anchors::leaf_public(&self.ca_der)?;
        MlDsaPublic::try_from(key.as_slice()).ok()
    }

    /// How root documents name it.
    pub fn name(&self) -> Result<StandingGrant, WireError> {
        let hash = blake3::derive_key("meshara 2026-11 issuer grant statement v1", &self.encode()?);
        Ok(StandingGrant { issuer: self.issuer, number: self.number, hash })
    }

    /// Whether it holds at `now`.
    pub fn holds_at(&self, now: UnixMillis) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// The fields in order; the lives only from version 2 on and the mesh's id from version 3, so that what was signed before stays as it was.
impl Serialize for GrantStatement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let lives = self.version != STATEMENT_VERSION_1;
        let mut fields =
            serializer.serialize_tuple(7 + usize::from(lives) + usize::from(self.is_for_signers()))?;
        fields.serialize_element(&self.version)?;
        fields.serialize_element(&self.number)?;
        fields.serialize_element(&self.mesh)?;
        fields.serialize_element(&self.issuer)?;
        fields.serialize_element(&self.ca_der)?;
        fields.serialize_element(&self.not_before)?;
        fields.serialize_element(&self.not_after)?;
        if lives {
            fields.serialize_element(&self.lives)?;
        }
        if self.is_for_signers() {
            fields.serialize_element(&self.mesh_id.ok_or_else(|| S::Error::custom("no mesh id"))?)?;
        }
        fields.end()
    }
}

impl<'de> Deserialize<'de> for GrantStatement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(fields: &mut A) -> Result<T, A::Error> {
            fields.next_element()?.ok_or_else(|| A::Error::custom("a field is missing"))
        }

        impl<'de> Visitor<'de> for Fields {
            type Value = GrantStatement;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a grant's statement")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<GrantStatement, A::Error> {
                let version = next(&mut fields)?;
                Ok(GrantStatement {
                    version,
                    number: next(&mut fields)?,
                    mesh: next(&mut fields)?,
                    issuer: next(&mut fields)?,
                    ca_der: next(&mut fields)?,
                    not_before: next(&mut fields)?,
                    not_after: next(&mut fields)?,
                    lives: match version {
                        STATEMENT_VERSION_1 => Lives::default(),
                        _ => next(&mut fields)?,
                    },
                    mesh_id: match version {
                        STATEMENT_VERSION_1 | STATEMENT_VERSION => None,
                        _ => Some(next(&mut fields)?),
                    },
                })
            }
        }

        deserializer.deserialize_tuple(9, Fields)
    }
}

/// Who signed a grant; the statement's version says which of the two it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// The founder's key.
    Founder(HybridSignature),
    /// Signers of a root document.
    Signers(Approvals),
}

/// A [`GrantStatement`] signed by the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerGrant {
    /// What the root says.
    pub statement: GrantStatement,
    proof: Proof,
}

impl Serialize for IssuerGrant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_tuple(2)?;
        fields.serialize_element(&self.statement)?;
        match &self.proof {
            Proof::Founder(signature) => fields.serialize_element(signature)?,
            Proof::Signers(approvals) => fields.serialize_element(approvals)?,
        }
        fields.end()
    }
}

impl<'de> Deserialize<'de> for IssuerGrant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = IssuerGrant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a grant")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<IssuerGrant, A::Error> {
                let missing = || A::Error::custom("a field is missing");
                let statement: GrantStatement = fields.next_element()?.ok_or_else(missing)?;
                let proof = if statement.is_for_signers() {
                    Proof::Signers(fields.next_element()?.ok_or_else(missing)?)
                } else {
                    Proof::Founder(fields.next_element()?.ok_or_else(missing)?)
                };
                Ok(IssuerGrant { statement, proof })
            }
        }

        deserializer.deserialize_tuple(2, Fields)
    }
}

impl IssuerGrant {
    /// A grant with the approvals of signers, or of too few: [`check_under`](Self::check_under) says.
    ///
    /// # Errors
    /// [`WireError`]: a statement for the founder's key, or one too long.
    pub fn approved(statement: GrantStatement, approvals: Approvals) -> Result<Self, WireError> {
        let grant = Self { statement, proof: Proof::Signers(approvals) };
        let len = grant.encode()?.len();
        if !grant.statement.is_for_signers() {
            return Err(WireError::Malformed);
        }
        if len > GRANT_MAX {
            return Err(WireError::TooLarge { len, max: GRANT_MAX });
        }
        Ok(grant)
    }

    /// Whether the founder's key signed it, with both of its algorithms. Of a grant of several signers: no.
    pub fn is_signed_by(&self, founder: &RootPublic) -> bool {
        let Proof::Founder(signature) = &self.proof else { return false };
        let bytes = self.statement.encode();
        bytes.is_ok_and(|bytes| founder.verify(Purpose::IssuerGrant, &bytes, signature).is_ok())
    }

    /// Whether it is one of the founder's, which are judged without a root document as long as the founder is root alone.
    pub(crate) fn is_founders(&self) -> bool {
        matches!(self.proof, Proof::Founder(_))
    }

    /// Whether a version of the root document names it. That keeps a grant in force whose signers are replaced; it makes none of what nobody
    /// signed, since who signs a version sees but names.
    pub fn is_named_in(&self, document: &RootDocument) -> bool {
        let Some(grants) = &document.grants else { return false };
        self.statement.name().is_ok_and(|name| grants.iter().any(|standing| *standing == name))
    }

    /// Whether the root signers of a version of the root document approve it. Whom the version names is no matter.
    ///
    /// # Errors
    /// [`ApprovalError`]: too few of them do, or an approval by one of them doesn't verify.
    pub fn check_under(&self, document: &RootDocument) -> Result<(), ApprovalError> {
        let needed = document.root.threshold();
        let few = |found| ApprovalError::NotEnough { found, needed };
        let bytes = self.statement.encode().map_err(|_| few(0))?;
        match &self.proof {
            Proof::Signers(_) if self.statement.mesh_id != Some(document.mesh) => Err(few(0)),
            Proof::Signers(approvals) => {
                document.root.check(Purpose::IssuerGrant, &bytes, approvals).map(drop)
            }
            Proof::Founder(signature) => {
                let founder = document.root.signer_of(&KeyId(document.mesh.0)).ok_or_else(|| few(0))?;
                let verified = founder.key.verify(Purpose::IssuerGrant, &bytes, signature);
                verified.map_err(|_| ApprovalError::BadSignature { signer: founder.name.clone() })?;
                if needed == 1 { Ok(()) } else { Err(few(1)) }
            }
        }
    }

    /// With no more approvals than `root` needs, which must have verified them.
    #[must_use]
    pub(crate) fn with_sufficient(self, root: &Quorum) -> Self {
        let Self { statement, proof } = self;
        let proof = match proof {
            Proof::Signers(approvals) => Proof::Signers(root.sufficient(&approvals)),
            Proof::Founder(signature) => Proof::Founder(signature),
        };
        Self { statement, proof }
    }

    /// The CA's public key; `None` when its certificate isn't one of ours.
    pub fn ca_public(&self) -> Option<MlDsaPublic> {
        self.statement.ca_public()
    }

    /// Encoded form: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. Who signed it is checked by [`TrustAnchors`](crate::TrustAnchors).
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, GRANT_MAX)
    }
}

/// Secret key of an issuer's CA (ML-DSA-65).
pub struct IssuerKey(MlDsaKey);

impl IssuerKey {
    /// A new CA key.
    pub fn generate() -> Result<Self, KeyError> {
        MlDsaKey::generate().map(Self)
    }

    /// The key that this seed belongs to.
    pub fn from_seed(seed: Seed) -> Result<Self, KeyError> {
        MlDsaKey::from_seed(seed).map(Self)
    }

    /// The secret, for a sealed file.
    pub fn seed(&self) -> &Seed {
        self.0.seed()
    }

    /// Raw public key.
    pub fn public_key(&self) -> &MlDsaPublic {
        self.0.public()
    }

    /// Makes the CA certificate of this key and lets the root sign a grant for it, with the default lives.
    pub fn grant(
        &self,
        root: &RootKey,
        mesh: &MeshName,
        issuer: NodeId,
        number: u64,
        now: UnixMillis,
    ) -> Result<IssuerGrant, IssueError> {
        let offer = GrantOffer::new(mesh.clone(), issuer, number, Lives::default(), now);
        offer.sign(self.ca_certificate(&offer)?, root)
    }

    /// The CA certificate that `offer` asks for, signed by this key itself: that proves that its holder has it.
    pub fn ca_certificate(&self, offer: &GrantOffer) -> Result<Vec<u8>, IssueError> {
        let mut params = ca_params(&offer.mesh, offer.issuer, offer.number);
        leaf::set_dates(&mut params, offer.not_before, offer.not_after)?;
        params.serial_number = Some(leaf::fresh_serial()?.to_vec().into());
        let certificate = params.self_signed(&CaSigner(&self.0)).map_err(|_| IssueError::Encoding)?;
        Ok(certificate.der().to_vec())
    }

    /// Signs `message`; the caller puts a domain in front of it.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<MlDsaSignature, KeyError> {
        self.0.sign(message)
    }

    /// Issues a leaf under `grant`, which must be this key's.
    pub(crate) fn issue(
        &self,
        grant: &GrantStatement,
        subject: &LeafSubject<'_>,
        life: Duration,
        now: UnixMillis,
    ) -> Result<IssuedLeaf, IssueError> {
        let params = ca_params(&grant.mesh, grant.issuer, grant.number);
        let issuer = rcgen::Issuer::new(params, CaSigner(&self.0));
        leaf::issue(grant, &issuer, subject, life, now)
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerKey(secret)")
    }
}

/// What the holder of the root would sign, but for the CA certificate, which the future issuer makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantOffer {
    /// The mesh.
    pub mesh: MeshName,
    /// Who may issue.
    pub issuer: NodeId,
    /// Position in the issuer's history.
    pub number: u64,
    /// The grant would hold from here…
    pub not_before: UnixMillis,
    /// …to here.
    pub not_after: UnixMillis,
    /// How long what it issues would last.
    pub lives: Lives,
}

/// Longest encoded offer; ours have 150 bytes.
pub const OFFER_MAX: usize = 512;

impl GrantOffer {
    /// An offer that holds from a little before `now` for [`GRANT_LIFE`].
    pub fn new(mesh: MeshName, issuer: NodeId, number: u64, lives: Lives, now: UnixMillis) -> Self {
        // Certificates count whole seconds: a grant that began within one would not cover a leaf made at once.
        let not_before = UnixMillis(now.minus(leaf::BACKDATE).seconds().saturating_mul(1000));
        Self { mesh, issuer, number, not_before, not_after: now.plus(GRANT_LIFE), lives }
    }

    /// Lets the founder's key sign, if `ca_der` is a CA certificate as offered, by a key whose holder made it.
    pub fn sign(&self, ca_der: Vec<u8>, root: &RootKey) -> Result<IssuerGrant, IssueError> {
        let statement = self.statement(ca_der, None)?;
        let bytes = statement.encode().map_err(|_| IssueError::Encoding)?;
        Ok(IssuerGrant { proof: Proof::Founder(root.sign(Purpose::IssuerGrant, &bytes)?), statement })
    }

    /// What the signers of the root of `mesh_id` are to approve, if `ca_der` is a CA certificate as offered. Without an id: what the founder's
    /// key is to sign.
    pub fn statement(&self, ca_der: Vec<u8>, mesh_id: Option<MeshId>) -> Result<GrantStatement, IssueError> {
        if !self.fits(&ca_der) {
            return Err(IssueError::Encoding);
        }
        let Self { mesh, issuer, number, not_before, not_after, lives } = self.clone();
        let version = if mesh_id.is_some() { STATEMENT_VERSION_3 } else { STATEMENT_VERSION };
        let statement =
            GrantStatement { version, number, mesh, issuer, ca_der, not_before, not_after, lives, mesh_id };
        match statement.encode() {
            Ok(bytes) if bytes.len() <= GRANT_STATEMENT_MAX => Ok(statement),
            _ => Err(IssueError::Encoding),
        }
    }

    /// Whether `ca_der` is a CA certificate as offered, signed by its own key.
    fn fits(&self, ca_der: &[u8]) -> bool {
        crate::anchors::is_ca_of(ca_der, &ca_name(&self.mesh, self.issuer, self.number), self)
    }

    /// Version byte and postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, OFFER_MAX)
    }
}

/// The common name of a CA.
fn ca_name(mesh: &MeshName, issuer: NodeId, number: u64) -> String {
    format!("{mesh} issuer {} {number}", issuer.short())
}

/// What a CA certificate says apart from its dates; the same again at each issuance, because a leaf names its issuer.
fn ca_params(mesh: &MeshName, issuer: NodeId, number: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, ca_name(mesh, issuer, number));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// rcgen's own key pair cannot be loaded again for ML-DSA, so rcgen signs through this.
struct CaSigner<'a>(&'a MlDsaKey);

impl rcgen::PublicKeyData for CaSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ML_DSA_65
    }
}

impl rcgen::SigningKey for CaSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}
