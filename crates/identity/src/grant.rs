//! Issuers: X.509 certification authorities that a root-signed grant makes trusted.

use std::fmt;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose, PKCS_ML_DSA_65};
use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, UnixMillis};
use crate::keys::{KeyError, MlDsaKey, MlDsaPublic, Seed};
use crate::leaf::{self, IssueError, IssuedLeaf, LeafSubject};
use crate::names::MeshName;
use crate::root::{HybridSignature, Purpose, RootKey, RootPublic};
use crate::wire::{self, WireError};

/// How long an issuer stays granted: three years, as intermediates of private CAs usually are; the root is offline
/// by then and has to be fetched for the next grant.
pub const GRANT_LIFE: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// Longest encoded grant. An ML-DSA-65 CA certificate is 5.6 KB and the two signatures 3.4 KB.
pub const GRANT_MAX: usize = 16 * 1024;

/// Most grants a mesh may have at a time: a few issuers and their predecessors. Keeps `MeshInfo` under 256 KiB.
pub const GRANTS_MAX: usize = 16;

/// The root's statement that a CA certificate may issue leaves for a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A [`GrantStatement`] signed by the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerGrant {
    /// What the root says.
    pub statement: GrantStatement,
    signature: HybridSignature,
}

impl IssuerGrant {
    /// Whether both signatures of `root` are good.
    pub fn is_signed_by(&self, root: &RootPublic) -> bool {
        wire::encode(&self.statement)
            .is_ok_and(|bytes| root.verify(Purpose::IssuerGrant, &bytes, &self.signature).is_ok())
    }

    /// Encoded form: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. The signature is checked by [`TrustAnchors`](crate::TrustAnchors).
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

    /// Makes the CA certificate of this key and lets the root sign a grant for it.
    pub fn grant(
        &self,
        root: &RootKey,
        mesh: &MeshName,
        issuer: NodeId,
        number: u64,
        now: UnixMillis,
    ) -> Result<IssuerGrant, IssueError> {
        // Certificates count whole seconds: a grant that began within one would not cover a leaf made at once.
        let not_before = UnixMillis(now.minus(leaf::BACKDATE).seconds().saturating_mul(1000));
        let not_after = now.plus(GRANT_LIFE);
        let mut params = ca_params(mesh, issuer, number);
        leaf::set_dates(&mut params, not_before, not_after)?;
        params.serial_number = Some(leaf::fresh_serial()?.to_vec().into());
        let certificate = params.self_signed(&CaSigner(&self.0)).map_err(|_| IssueError::Encoding)?;
        let statement = GrantStatement {
            version: wire::VERSION,
            number,
            mesh: mesh.clone(),
            issuer,
            ca_der: certificate.der().to_vec(),
            not_before,
            not_after,
        };
        let bytes = wire::encode(&statement).map_err(|_| IssueError::Encoding)?;
        Ok(IssuerGrant { signature: root.sign(Purpose::IssuerGrant, &bytes)?, statement })
    }

    /// Issues a leaf under `grant`, which must be this key's.
    pub(crate) fn issue(
        &self,
        grant: &GrantStatement,
        subject: &LeafSubject<'_>,
        now: UnixMillis,
    ) -> Result<IssuedLeaf, IssueError> {
        let params = ca_params(&grant.mesh, grant.issuer, grant.number);
        let issuer = rcgen::Issuer::new(params, CaSigner(&self.0));
        leaf::issue(grant, &issuer, subject, now)
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuerKey(secret)")
    }
}

/// What a CA certificate says apart from its dates; the same again at each issuance, because a leaf names its issuer.
fn ca_params(mesh: &MeshName, issuer: NodeId, number: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let subject = format!("{mesh} issuer {} {number}", issuer.short());
    params.distinguished_name.push(DnType::CommonName, subject);
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
