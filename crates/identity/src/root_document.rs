//! A version of the root document: who signs for the mesh, and which grants of issuers stand under these signers. Its rules of succession
//! are elsewhere.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::grant::GRANTS_MAX;
use crate::ids::{MeshId, NodeId, UnixMillis};
use crate::keys::KeyError;
use crate::names::NodeName;
use crate::quorum::{self, APPROVALS_MAX, Approval, Approvals, Quorum, QuorumError, SIGNERS_MAX, Signer};
use crate::root::{Purpose, RootKey};
use crate::wire::{self, WireError};

/// Longest life of a version: as a grant's, three years. Less is better where signers meet more often.
pub const ROOT_LIFE_MAX: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// Longest encoded version: 16 names of grants (74 bytes each), two quorums of keys (2.1 KB each) and the approvals of two (3.4 KB each).
pub const ROOT_MAX: usize = 2560 + 2 * SIGNERS_MAX * 2200 + APPROVALS_MAX * 3500;

/// How far the mesh has left its founder behind. It only rises, one step a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// The founder's key signs for everything.
    Founder,
    /// Nodes join by ticket, and their certificates are logged.
    Logged,
    /// Several issuers and witnesses.
    Shared,
    /// The root is a quorum, and the founder's key is retired.
    Quorum,
}

impl Phase {
    /// The phase after this one; `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Founder => Some(Self::Logged),
            Self::Logged => Some(Self::Shared),
            Self::Shared => Some(Self::Quorum),
            Self::Quorum => None,
        }
    }
}

impl Phase {
    /// The phase with this number.
    fn numbered(number: u8) -> Option<Self> {
        [Self::Founder, Self::Logged, Self::Shared, Self::Quorum]
            .into_iter()
            .find(|phase| *phase as u8 == number)
    }
}

/// Beside the phase in its byte: names of grants follow. Versions of the document that were written before there were any lack it.
const NAMES_GRANTS: u8 = 4;

/// Names one grant by what it says, not by who signed it: the document's signers vouch for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StandingGrant {
    /// The node that may issue.
    pub issuer: NodeId,
    /// The grant's number.
    pub number: u64,
    /// Hash of its statement.
    pub hash: [u8; 32],
}

/// The grants that stand under a version of the root document, whoever signed them: at most [`GRANTS_MAX`], sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<StandingGrant>", into = "Vec<StandingGrant>")]
pub struct StandingGrants(Vec<StandingGrant>);

/// A list of grants that isn't one: too long, out of order, or with a grant twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {GRANTS_MAX} grants, or not in their order")]
pub struct StandingError;

impl TryFrom<Vec<StandingGrant>> for StandingGrants {
    type Error = StandingError;

    fn try_from(list: Vec<StandingGrant>) -> Result<Self, StandingError> {
        let ordered = list.is_sorted_by(|a, b| (a.issuer, a.number) < (b.issuer, b.number));
        if ordered && list.len() <= GRANTS_MAX { Ok(Self(list)) } else { Err(StandingError) }
    }
}

impl From<StandingGrants> for Vec<StandingGrant> {
    fn from(grants: StandingGrants) -> Self {
        grants.0
    }
}

impl StandingGrants {
    /// The names, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &StandingGrant> {
        self.0.iter()
    }

    /// How many nodes may issue by them.
    pub fn issuers(&self) -> usize {
        self.0.iter().map(|grant| grant.issuer).collect::<BTreeSet<_>>().len()
    }
}

/// Who signs for the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDocument {
    /// The mesh: the fingerprint of its founder's key, for ever.
    pub mesh: MeshId,
    /// From 1, rising by one.
    pub version: u64,
    /// When it was written.
    pub issued_at: UnixMillis,
    /// From then on nothing that these signers sign counts, but for the next version.
    pub expires_at: UnixMillis,
    /// How far the mesh has come.
    pub phase: Phase,
    /// Who signs the next version, and grants of issuers.
    pub root: Quorum,
    /// Who signs revocations, policy and freshness.
    pub authority: Quorum,
    /// The grants that stand whoever signed them: those that stood when it was written. Beside them only what `root` signs counts. `None` in
    /// versions that were written before documents named grants: then what the founder signed goes on counting.
    pub grants: Option<StandingGrants>,
}

/// The fields in order; the names of grants only where there are some, so that what was signed before stays as it was.
impl Serialize for RootDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = if self.grants.is_some() { NAMES_GRANTS } else { 0 };
        let mut fields = serializer.serialize_tuple(7 + usize::from(self.grants.is_some()))?;
        fields.serialize_element(&self.mesh)?;
        fields.serialize_element(&self.version)?;
        fields.serialize_element(&self.issued_at)?;
        fields.serialize_element(&self.expires_at)?;
        fields.serialize_element(&(self.phase as u8 | named))?;
        fields.serialize_element(&self.root)?;
        fields.serialize_element(&self.authority)?;
        if let Some(grants) = &self.grants {
            fields.serialize_element(grants)?;
        }
        fields.end()
    }
}

impl<'de> Deserialize<'de> for RootDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(fields: &mut A) -> Result<T, A::Error> {
            fields.next_element()?.ok_or_else(|| A::Error::custom("a field is missing"))
        }

        impl<'de> Visitor<'de> for Fields {
            type Value = RootDocument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a root document")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<RootDocument, A::Error> {
                let (mesh, version) = (next(&mut fields)?, next(&mut fields)?);
                let (issued_at, expires_at) = (next(&mut fields)?, next(&mut fields)?);
                let phase: u8 = next(&mut fields)?;
                let named = phase & NAMES_GRANTS != 0;
                let phase = Phase::numbered(phase & !NAMES_GRANTS);
                Ok(RootDocument {
                    mesh,
                    version,
                    issued_at,
                    expires_at,
                    phase: phase.ok_or_else(|| A::Error::custom("no such phase"))?,
                    root: next(&mut fields)?,
                    authority: next(&mut fields)?,
                    grants: if named { Some(next(&mut fields)?) } else { None },
                })
            }
        }

        deserializer.deserialize_tuple(8, Fields)
    }
}

impl RootDocument {
    /// Version 1: the founder alone is root, with the first authority.
    pub fn founding(
        founder: &RootKey,
        name: NodeName,
        authority: Quorum,
        issued_at: UnixMillis,
        life: Duration,
    ) -> Result<Self, QuorumError> {
        let key = founder.public().clone();
        Ok(Self {
            mesh: key.fingerprint(),
            version: 1,
            issued_at,
            expires_at: issued_at.plus(life),
            phase: Phase::Founder,
            root: Quorum::new(1, vec![Signer { name, key }])?,
            authority,
            grants: None,
        })
    }

    /// The next version, which says the same until something is changed in it: written now, for `life`.
    pub fn following(&self, issued_at: UnixMillis, life: Duration) -> Self {
        let (version, expires_at) = (self.version.saturating_add(1), issued_at.plus(life));
        Self { version, issued_at, expires_at, ..self.clone() }
    }

    /// Whether the key that the mesh is named after is its only root key: then what the founder signs needs nobody else.
    pub fn is_founders_alone(&self) -> bool {
        self.root.signers().all(|signer| signer.key.fingerprint() == self.mesh)
    }

    /// For how long it was written.
    pub fn life(&self) -> Duration {
        self.issued_at.distance(self.expires_at)
    }

    /// What signers sign: a version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, ROOT_MAX)
    }
}

/// A version and its approvals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoot {
    /// What is approved.
    pub document: RootDocument,
    /// By whom.
    pub approvals: Approvals,
}

impl SignedRoot {
    /// A version that nobody has approved yet.
    pub fn new(document: RootDocument) -> Self {
        Self { document, approvals: Approvals::default() }
    }

    /// Adds the approval of `key`.
    pub fn approve(&mut self, key: &RootKey) -> Result<(), KeyError> {
        let statement = self.document.encode().map_err(|_| KeyError::Signing)?;
        let approval = Approval::sign(key, Purpose::RootDocument, &statement)?;
        if self.approvals.add(approval) { Ok(()) } else { Err(KeyError::Signing) }
    }

    /// With no more approvals than its own root needs, and the one before it. Both must have verified them.
    #[must_use]
    pub fn with_sufficient(self, before: Option<&Quorum>) -> Self {
        let Self { document, approvals } = self;
        let quorums: Vec<_> = before.into_iter().chain([&document.root]).collect();
        let approvals = quorum::sufficient(&quorums, &approvals);
        Self { document, approvals }
    }

    /// A version byte, then postcard.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads [`encode`](Self::encode)'s form. Nothing is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(bytes, ROOT_MAX)
    }
}
