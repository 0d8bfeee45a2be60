//! The keys with which this node signs for the mesh.

use std::path::{Path, PathBuf};

use meshara_identity::home::{self, AUTHORITY_KEY, HomeError, ROOT_KEY};
use meshara_identity::{FileError, Passphrase, RootKey};
use meshara_trust::sets::{KeyId, Quorum};

/// What a home holds of signers' keys: the mesh root where the mesh was made, and the keys of one of several signers.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    keys: Vec<(PathBuf, RootKey)>,
}

impl Keys {
    /// Reads what is there. A node runs without keys that can't be opened, and signs nothing with them. Blocks.
    pub(crate) fn load(home: &Path, passphrase: Option<&Passphrase>) -> Self {
        let mut keys = Vec::new();
        for name in [AUTHORITY_KEY, ROOT_KEY] {
            let path = home.join(name);
            match home::load_signer(&path, passphrase) {
                Ok(key) => keys.push((path, key)),
                Err(HomeError::File(FileError::Missing { .. })) => {}
                Err(error) => {
                    tracing::error!(%error, "keys cannot be opened: this node signs nothing with them");
                }
            }
        }
        Self { keys }
    }

    /// The first key that is one of these signers'.
    pub(crate) fn of(&self, quorum: &Quorum) -> Option<&RootKey> {
        self.all().find(|key| quorum.signer_of(&KeyId::of(key.public())).is_some())
    }

    /// All keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = &RootKey> {
        self.keys.iter().map(|(_, key)| key)
    }

    /// The mesh root, if the mesh was made here.
    pub(crate) fn root(&self) -> Option<&RootKey> {
        let root = |(path, _): &&(PathBuf, RootKey)| path.file_name().is_some_and(|name| name == ROOT_KEY);
        self.keys.iter().find(root).map(|(_, key)| key)
    }

    /// Whether the home holds the file of a signer's keys that isn't loaded.
    pub(crate) fn lacks(&self, home: &Path) -> bool {
        let path = home.join(AUTHORITY_KEY);
        path.exists() && !self.keys.iter().any(|(held, _)| *held == path)
    }
}
