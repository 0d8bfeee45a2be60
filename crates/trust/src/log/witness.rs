//! Witnesses (C2SP tlog-cosignature, `cosignature/v1`): members whose cosignatures on a checkpoint say that they saw the log grow
//! and never change. Here they are counted; [`cosign`](super::cosign) is what they do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshara_identity::issuer::CLOCK_SKEW_MAX;
use meshara_identity::{MeshName, NodeId, NodeName, UnixMillis, verify_routing};

use super::note::{BadKeyName, KeyId, KeyName, Note, NoteSignature, SIGNATURES_MAX};

/// Kind of a timestamped Ed25519 cosignature (signed-note).
pub(super) const COSIGNATURE: &[u8] = &[0x04];

/// Most keys of witnesses that a policy has; a note has no room for more signatures.
pub const WITNESSES_MAX: usize = SIGNATURES_MAX - 2;

/// How far ahead of a verifier's clock a cosignature may be: as far as members' clocks may differ.
pub const FUTURE_MAX: Duration = CLOCK_SKEW_MAX;

/// Why a set of witnesses isn't one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// More than [`WITNESSES_MAX`].
    #[error("at most {WITNESSES_MAX} witness keys")]
    TooMany,
    /// One key is listed under two nodes, or twice: it could be counted twice.
    #[error("two witnesses have the same key")]
    SharedKey,
    /// More are asked for than there are nodes.
    #[error("{threshold} witnesses are asked for, of {nodes}")]
    Unreachable {
        /// How many must sign.
        threshold: usize,
        /// Distinct nodes.
        nodes: usize,
    },
}

/// Why cosignatures don't suffice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// Fewer distinct witnesses than asked for.
    #[error("{found} of {needed} witnesses cosigned")]
    TooFew {
        /// Distinct witnesses that cosigned.
        found: usize,
        /// How many must.
        needed: usize,
    },
    /// A known witness's cosignature doesn't verify.
    #[error("the cosignature of {0} doesn't verify")]
    BadSignature(String),
    /// A cosignature is from a time to come.
    #[error(
        "the cosignature of {name} is from {at}, ahead of this machine's clock ({now}): set the clock that is wrong"
    )]
    Future {
        /// The witness.
        name: String,
        /// Its time.
        at: UnixMillis,
        /// The verifier's clock.
        now: UnixMillis,
    },
}

/// A key of a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    node: NodeId,
    name: KeyName,
    key: [u8; 32],
}

impl Witness {
    /// The member `node`, called `name` in `mesh`, which cosigns with the Ed25519 key `key`.
    pub fn new(mesh: &MeshName, node: NodeId, name: &NodeName, key: [u8; 32]) -> Result<Self, BadKeyName> {
        Ok(Self { node, name: witness_name(mesh, name)?, key })
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The name in its signature lines.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    pub(super) fn id(&self) -> KeyId {
        KeyId::of(&self.name, COSIGNATURE, &self.key)
    }
}

/// One witness of each key: nodes that share one are one witness, the first of them. So two of them can neither count twice nor, by
/// [`PolicyError::SharedKey`], keep the others' lines from counting.
pub fn one_of_each_key(mut witnesses: Vec<Witness>) -> Vec<Witness> {
    let mut keys = BTreeSet::new();
    witnesses.retain(|witness| keys.insert(witness.key));
    witnesses
}

/// `<mesh>.mesh/witness/<name>`.
pub(super) fn witness_name(mesh: &MeshName, name: &NodeName) -> Result<KeyName, BadKeyName> {
    KeyName::new(&format!("{mesh}.mesh/witness/{name}"))
}

/// Who may witness, and how many distinct nodes must. The issuer whose log it is has no place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WitnessPolicy {
    threshold: usize,
    witnesses: Vec<Witness>,
}

impl WitnessPolicy {
    /// `threshold` of the nodes behind `witnesses`. A node may have several keys (an old and a new one) and counts once.
    pub fn new(threshold: usize, witnesses: Vec<Witness>) -> Result<Self, PolicyError> {
        if witnesses.len() > WITNESSES_MAX {
            return Err(PolicyError::TooMany);
        }
        let keys: BTreeSet<_> = witnesses.iter().map(|witness| witness.key).collect();
        if keys.len() < witnesses.len() {
            return Err(PolicyError::SharedKey);
        }
        let nodes = witnesses.iter().map(|witness| witness.node).collect::<BTreeSet<_>>().len();
        if threshold > nodes {
            return Err(PolicyError::Unreachable { threshold, nodes });
        }
        Ok(Self { threshold, witnesses })
    }

    /// How many distinct nodes must have cosigned.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The distinct nodes that cosigned, with the newest time that each names. Lines of keys that aren't in the policy are ignored.
    pub fn cosigned(
        &self,
        note: &Note,
        now: UnixMillis,
    ) -> Result<BTreeMap<NodeId, UnixMillis>, WitnessError> {
        let mut seen = BTreeMap::new();
        for witness in &self.witnesses {
            for bytes in note.by(&witness.name, witness.id()) {
                let at = verify(&witness.key, note.text(), bytes)
                    .ok_or_else(|| WitnessError::BadSignature(witness.name.to_string()))?;
                if at > now.plus(FUTURE_MAX) {
                    return Err(WitnessError::Future { name: witness.name.to_string(), at, now });
                }
                let newest = seen.entry(witness.node).or_insert(at);
                *newest = (*newest).max(at);
            }
        }
        Ok(seen)
    }

    /// The lines of this policy's witnesses.
    pub(super) fn lines(&self, note: &Note) -> Vec<NoteSignature> {
        let ours = |line: &&NoteSignature| {
            self.witnesses.iter().any(|witness| witness.name == line.name && witness.id() == line.key)
        };
        note.signatures.iter().filter(ours).cloned().collect()
    }

    /// The distinct nodes that cosigned, when they suffice.
    pub fn require(
        &self,
        note: &Note,
        now: UnixMillis,
    ) -> Result<BTreeMap<NodeId, UnixMillis>, WitnessError> {
        let seen = self.cosigned(note, now)?;
        if seen.len() < self.threshold {
            return Err(WitnessError::TooFew { found: seen.len(), needed: self.threshold });
        }
        Ok(seen)
    }
}

/// What a witness signs: the time in seconds, and the checkpoint.
pub(super) fn message(seconds: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes()
}

/// Time of a good cosignature.
fn verify(key: &[u8; 32], text: &str, bytes: &[u8]) -> Option<UnixMillis> {
    let (seconds, signature) = bytes.split_first_chunk::<8>()?;
    let seconds = u64::from_be_bytes(*seconds);
    verify_routing(key, &message(seconds, text), signature.try_into().ok()?).ok()?;
    seconds.checked_mul(1000).map(UnixMillis)
}

#[cfg(test)]
#[path = "witness_tests.rs"]
pub(crate) mod tests;
