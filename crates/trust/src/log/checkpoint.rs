//! Checkpoints (C2SP tlog-checkpoint): a log's name, size and root hash, signed by the log with both of its keys.

use std::fmt;

use data_encoding::BASE64;
use meshara_identity::keys::{MlDsaKey, MlDsaPublic, MlDsaSignature, Seed, verify_ml_dsa};
use meshara_identity::{KeyError, MeshName, NodeId, RoutingKey, verify_routing};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::hash::Hash;
use super::note::{BadKeyName, KeyId, KeyName, Note, NoteError, NoteSignature};
use super::proof::SIZE_MAX;

/// Kind of an Ed25519 signature in a note (signed-note).
const ED25519: &[u8] = &[0x01];
/// Kind of our ML-DSA-65 signature: the byte for unassigned kinds and a name of our own (signed-note, "0xff").
const ML_DSA_65: &[u8] = b"\xffmeshara/ml-dsa-65";

/// Why a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not a signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text isn't origin, size and root hash.
    #[error("the text of a checkpoint is origin, size and root hash")]
    Text,
    /// Another log's.
    #[error("a checkpoint of {found} where one of {expected} belongs")]
    Origin {
        /// Whose was expected.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// A signature of the log is missing.
    #[error("the checkpoint lacks the log's {0} signature")]
    Unsigned(&'static str),
    /// A signature of the log doesn't verify.
    #[error("the checkpoint's {0} signature doesn't verify")]
    BadSignature(&'static str),
}

/// Size and root hash of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeHead {
    /// Number of entries.
    pub size: u64,
    /// Root hash.
    pub root: Hash,
}

/// What a log says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: KeyName,
    /// Its tree.
    pub head: TreeHead,
}

impl Checkpoint {
    /// The note text.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.head.size, self.head.root)
    }

    /// Reads the text of a note. Extension lines are refused: we write none, and an auditor couldn't check them.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Text)?.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Text);
        };
        let origin = KeyName::new(origin).map_err(|BadKeyName| CheckpointError::Text)?;
        let size = size.parse().ok().filter(|size| *size <= SIZE_MAX).ok_or(CheckpointError::Text)?;
        let root = BASE64.decode(root.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let root = Hash(root.ok_or(CheckpointError::Text)?);
        let checkpoint = Self { origin, head: TreeHead { size, root } };
        // `+1`, `01` and their like.
        if checkpoint.text() == text { Ok(checkpoint) } else { Err(CheckpointError::Text) }
    }
}

/// Public half of a log's keys: whoever holds it can verify everything that the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPublic {
    #[serde(with = "key_name")]
    origin: KeyName,
    ed25519: [u8; 32],
    ml_dsa: MlDsaPublic,
}

/// A key name as text; a text that isn't one doesn't decode.
mod key_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::KeyName;

    pub(super) fn serialize<S: Serializer>(name: &KeyName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyName, D::Error> {
        KeyName::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl LogPublic {
    /// The log's name.
    pub fn origin(&self) -> &KeyName {
        &self.origin
    }

    /// The Ed25519 key as tools of the signed-note family take it: name, key id and key.
    pub fn vkey(&self) -> String {
        let KeyId(id) = self.ed25519_id();
        let key = [ED25519, &self.ed25519].concat();
        format!("{}+{:08x}+{}", self.origin, u32::from_be_bytes(id), BASE64.encode(&key))
    }

    fn ed25519_id(&self) -> KeyId {
        KeyId::of(&self.origin, ED25519, &self.ed25519)
    }

    fn ml_dsa_id(&self) -> KeyId {
        KeyId::of(&self.origin, ML_DSA_65, self.ml_dsa.as_ref())
    }

    /// What the note says, when it is this log's checkpoint and both of its signatures verify. Other lines are ignored.
    pub fn verify(&self, note: &Note) -> Result<Checkpoint, CheckpointError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin != self.origin {
            return Err(CheckpointError::Origin {
                expected: self.origin.to_string(),
                found: checkpoint.origin.to_string(),
            });
        }
        let message = note.text().as_bytes();
        every("Ed25519", note.by(&self.origin, self.ed25519_id()), |bytes| {
            bytes.try_into().is_ok_and(|bytes| verify_routing(&self.ed25519, message, bytes).is_ok())
        })?;
        every("ML-DSA-65", note.by(&self.origin, self.ml_dsa_id()), |bytes| {
            self.verifies_ml_dsa(message, bytes)
        })?;
        Ok(checkpoint)
    }

    /// The note with this log's own signatures alone, without those of witnesses or strangers.
    pub(super) fn only_own(&self, note: &Note) -> Note {
        let ids = [self.ed25519_id(), self.ml_dsa_id()];
        let mut note = note.clone();
        note.signatures.retain(|line| line.name == self.origin && ids.contains(&line.key));
        note
    }

    /// Whether both signatures over `message` are this log's.
    pub(super) fn verifies(&self, message: &[u8], signature: &LogSignature) -> bool {
        let (ed25519, ml_dsa) = (signature.ed25519.as_bytes(), &signature.ml_dsa);
        verify_routing(&self.ed25519, message, ed25519).is_ok()
            && verify_ml_dsa(&self.ml_dsa, message, ml_dsa).is_ok()
    }

    /// Whether the Ed25519 key made this signature.
    pub(super) fn verifies_ed25519(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        verify_routing(&self.ed25519, message, signature).is_ok()
    }

    fn verifies_ml_dsa(&self, message: &[u8], bytes: &[u8]) -> bool {
        MlDsaSignature::try_from(bytes)
            .is_ok_and(|signature| verify_ml_dsa(&self.ml_dsa, message, &signature).is_ok())
    }
}

/// At least one signature, and each of them good.
fn every<'a>(
    kind: &'static str,
    signatures: impl Iterator<Item = &'a [u8]>,
    good: impl Fn(&'a [u8]) -> bool,
) -> Result<(), CheckpointError> {
    let mut any = false;
    for signature in signatures {
        if !good(signature) {
            return Err(CheckpointError::BadSignature(kind));
        }
        any = true;
    }
    if any { Ok(()) } else { Err(CheckpointError::Unsigned(kind)) }
}

/// Both of a log's signatures over something that isn't a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSignature {
    ed25519: meshara_identity::FixedBytes<64>,
    ml_dsa: MlDsaSignature,
}

#[cfg(test)]
impl LogSignature {
    /// Two halves of different origin.
    pub(super) fn with_ed25519_of(self, other: &Self) -> Self {
        Self { ed25519: other.ed25519.clone(), ..self }
    }
}

/// A log's keys. They sign checkpoints and promises, nothing else.
pub struct LogKey {
    ed25519: RoutingKey,
    ml_dsa: MlDsaKey,
    public: LogPublic,
}

impl LogKey {
    /// Keys of a new log.
    pub fn generate(origin: KeyName) -> Result<Self, KeyError> {
        Self::from_parts(origin, RoutingKey::generate()?, MlDsaKey::generate()?)
    }

    /// The keys that [`seeds`](Self::seeds) came from: Ed25519 seed, then ML-DSA-65 seed.
    pub fn from_seeds(origin: KeyName, seeds: &Zeroizing<[[u8; 32]; 2]>) -> Result<Self, KeyError> {
        let [ed25519, ml_dsa]: [Seed; 2] = (**seeds).map(Zeroizing::new);
        Self::from_parts(origin, RoutingKey::from_seed(ed25519)?, MlDsaKey::from_seed(ml_dsa)?)
    }

    fn from_parts(origin: KeyName, ed25519: RoutingKey, ml_dsa: MlDsaKey) -> Result<Self, KeyError> {
        let public = LogPublic { origin, ed25519: ed25519.public_key(), ml_dsa: ml_dsa.public().clone() };
        Ok(Self { ed25519, ml_dsa, public })
    }

    /// Name of the log of `issuer`: `<mesh>.mesh/log/<NodeId>`. The NodeId stays when the issuer's CA key is rotated.
    pub fn origin_of(mesh: &MeshName, issuer: &NodeId) -> Result<KeyName, BadKeyName> {
        KeyName::new(&format!("{mesh}.mesh/log/{issuer}"))
    }

    /// Both secrets, for a sealed file.
    pub fn seeds(&self) -> Zeroizing<[[u8; 32]; 2]> {
        Zeroizing::new([**self.ed25519.seed(), **self.ml_dsa.seed()])
    }

    /// Public half.
    pub fn public(&self) -> &LogPublic {
        &self.public
    }

    /// Signs a checkpoint. Only the log itself does, once the tree is stored.
    pub(super) fn checkpoint(&self, head: TreeHead) -> Result<Note, KeyError> {
        let origin = &self.public.origin;
        let mut note = Note::unsigned(Checkpoint { origin: origin.clone(), head }.text());
        let signature = self.sign(note.text().as_bytes())?;
        let line = |key, bytes: &[u8]| NoteSignature { name: origin.clone(), key, bytes: bytes.to_vec() };
        note.signatures = vec![
            line(self.public.ed25519_id(), signature.ed25519.as_ref()),
            line(self.public.ml_dsa_id(), signature.ml_dsa.as_ref()),
        ];
        Ok(note)
    }

    /// With the Ed25519 key alone, where a wrong signature would cost no more than room.
    pub(super) fn sign_ed25519(&self, message: &[u8]) -> [u8; 64] {
        self.ed25519.sign(message)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<LogSignature, KeyError> {
        Ok(LogSignature { ed25519: self.ed25519.sign(message).into(), ml_dsa: self.ml_dsa.sign(message)? })
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({}, secret)", self.public.origin)
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
pub(crate) mod tests;
