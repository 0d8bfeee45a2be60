//! What an issuer says about the P-256 keys that it signs workloads' identities with. A classical verifier can't check a hybrid chain, so the
//! roots are trusted because an issuer that the mesh root granted states them.

use meshara_identity::keys::{MlDsaSignature, verify_ml_dsa};
use meshara_identity::{
    Issuer, KeyError, MeshId, MeshName, NodeId, TrustAnchors, UnixMillis, WireError, wire as encoding,
};
use serde::{Deserialize, Serialize};

use crate::check;
use crate::id;
use crate::keys::P256Public;

/// Longest encoded [`SignedRoots`]: an ML-DSA-65 signature of 3.3 KB and [`ROOTS_MAX`] roots of 0.8 KB, with room.
pub const ROOTS_BYTES_MAX: usize = 16 * 1024;

/// Most roots of one issuer at a time: the one in use, its successor, and two that haven't ended.
pub const ROOTS_MAX: usize = 4;

/// What the issuer's CA key signs begins with this: no certificate and no other statement does.
const DOMAIN: &[u8] = b"meshara workload roots v1\0";

/// Public halves of one root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Position in the issuer's history.
    pub number: u64,
    /// Self-signed signing certificate for X.509-SVIDs.
    pub ca_der: Vec<u8>,
    /// Key that signs JWT-SVIDs.
    pub jwt_key: P256Public,
    /// Both count from here…
    pub not_before: UnixMillis,
    /// …to here.
    pub not_after: UnixMillis,
}

/// Which roots an issuer has now; all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsStatement {
    /// The mesh.
    pub mesh: MeshId,
    /// Who says it.
    pub issuer: NodeId,
    /// Higher with each change; the highest counts.
    pub number: u64,
    /// The roots, at most [`ROOTS_MAX`].
    pub roots: Vec<Root>,
}

/// A [`RootsStatement`] signed with the issuer's CA key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoots {
    /// What the issuer says.
    pub statement: RootsStatement,
    signature: MlDsaSignature,
}

/// Why a statement about roots was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// It does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Of another mesh.
    #[error("the statement is about the workload roots of another mesh")]
    WrongMesh,
    /// The issuer it names is none of this mesh, or did not sign it.
    #[error("the statement about workload roots is not signed by issuer {issuer} of this mesh")]
    NotSigned {
        /// Whom it names.
        issuer: NodeId,
    },
    /// The issuer is revoked.
    #[error("the statement about workload roots is of issuer {issuer}, which is revoked")]
    Revoked {
        /// Whom it names.
        issuer: NodeId,
    },
    /// A root that no SPIFFE verifier takes, or too many of them.
    #[error("the statement of issuer {issuer} has an unusable workload root")]
    BadRoot {
        /// Who says it.
        issuer: NodeId,
    },
    /// Older than what is held.
    #[error("the statement of issuer {issuer} has number {found}, and {held} is held")]
    Stale {
        /// Who says it.
        issuer: NodeId,
        /// Its number.
        found: u64,
        /// The number held.
        held: u64,
    },
    /// Two contents of one number.
    #[error("issuer {issuer} contradicts itself about its workload roots, number {number}")]
    Contradiction {
        /// Who says both.
        issuer: NodeId,
        /// The number of both.
        number: u64,
    },
}

impl SignedRoots {
    /// Signs a statement; `statement.issuer` is the issuer's own NodeId.
    pub fn sign(statement: RootsStatement, issuer: &Issuer) -> Result<Self, RootsSignError> {
        let bytes = encoding::encode(&statement)?;
        Ok(Self { signature: issuer.sign_statement(DOMAIN, &bytes)?, statement })
    }

    /// Version byte and postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encoding::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form; `verify` checks it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        encoding::decode(bytes, ROOTS_BYTES_MAX)
    }

    /// Checks signature and content; gives the X.509 key of each root.
    pub(crate) fn verify(
        &self,
        anchors: &TrustAnchors,
        now: UnixMillis,
    ) -> Result<Vec<P256Public>, RootsError> {
        let RootsStatement { mesh, issuer, roots, .. } = &self.statement;
        if *mesh != anchors.mesh_id() {
            return Err(RootsError::WrongMesh);
        }
        let message = [DOMAIN, &encoding::encode(&self.statement)?].concat();
        let mut grants = anchors.in_force().map(|grant| (grant, &grant.statement));
        let signed = grants.any(|(grant, statement)| {
            statement.issuer == *issuer
                && statement.holds_at(now)
                && grant.ca_public().is_some_and(|key| verify_ml_dsa(&key, &message, &self.signature).is_ok())
        });
        if !signed {
            return Err(RootsError::NotSigned { issuer: *issuer });
        }
        if roots.len() > ROOTS_MAX {
            return Err(RootsError::BadRoot { issuer: *issuer });
        }
        roots
            .iter()
            .map(|root| root.key(anchors.mesh()))
            .collect::<Option<_>>()
            .ok_or(RootsError::BadRoot { issuer: *issuer })
    }
}

impl Root {
    /// The X.509 key; `None` when the certificate isn't a signing certificate of this mesh, or the JWT key is no point.
    fn key(&self, mesh: &MeshName) -> Option<P256Public> {
        let uncompressed = self.jwt_key.as_ref().first() == Some(&4);
        let key = check::signing_key(&self.ca_der, &id::trust_domain(mesh), self.not_before, self.not_after);
        key.filter(|_| uncompressed)
    }

    /// Whether it counts at `now`.
    pub(crate) fn is_valid_at(&self, now: UnixMillis) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// Why a statement was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootsSignError {
    /// It does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}
