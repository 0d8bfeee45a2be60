//! Exact errors of the files in a home.

use std::io;
use std::path::{Path, PathBuf};

use crate::home::{ISSUER_KEY, ISSUER_STATE, KEYSTORE, MEMBERSHIP, ROOT_KEY, WORKLOAD_KEY};
use crate::keys::KeyError;

/// What to do about a file whose content is lost, by its name in the home. One clause, without a semicolon.
pub(crate) fn remedy(path: &Path) -> &'static str {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(KEYSTORE) => {
            "restore it from a backup, or move keystore and membership away and join again with a new ticket under another \
             --name: a new key cannot have the old name (the mesh's issuer cannot join: it needs the backup)"
        }
        Some(MEMBERSHIP) => {
            "restore it from a backup, or move it away and join again with a new ticket and the same --name (on the node that \
             made the mesh: `meshara init` again with the same --mesh and --name)"
        }
        Some(ISSUER_KEY | ISSUER_STATE) => {
            "restore it from a backup, without one this node cannot issue any more: move issuer.key and issuer.redb away \
             together and it runs as a plain member until its certificate ends"
        }
        Some(ROOT_KEY) => {
            "move it away and restore it from the backup of `meshara root export` with `meshara root import --from FILE` (the \
             node runs without it)"
        }
        Some(WORKLOAD_KEY) => {
            "restore it from a backup, or move it away: the next start makes new roots, and programs get new identities from them"
        }
        Some(name) if name.ends_with(".set") => {
            "move it away: the node asks its neighbours for what it held (a node that signs needs them up first)"
        }
        _ => "restore it from a backup",
    }
}

/// The same when the file is not there.
fn missing_remedy(path: &Path) -> &'static str {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(MEMBERSHIP) => "run `meshara init` or `meshara join` first, or restore it from a backup",
        Some(ROOT_KEY) => {
            "only the node that made the mesh has it (there, restore it from the backup of `meshara root export` with \
             `meshara root import --from FILE`)"
        }
        Some(KEYSTORE | ISSUER_KEY | ISSUER_STATE) => remedy(path),
        _ => "check its name",
    }
}

/// Why a file was not read or written. Each names the file and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// No such file.
    #[error("{path}: no such file; {remedy}", path = path.display(), remedy = missing_remedy(path))]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is there already and is never overwritten.
    #[error("{path}: exists already and is not overwritten; use another --home, or move it away if it is not needed", path = path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read an unsealed secret.
    #[error("{path}: others can access it (mode {mode:03o}); run `chmod 600 {path}`", path = path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is intact and the passphrase does not open it.
    #[error("{path}: wrong passphrase; give the right one with --passphrase-file", path = path.display())]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The file is sealed and no passphrase was given.
    #[error("{path}: sealed with a passphrase; give it with --passphrase-file", path = path.display())]
    PassphraseRequired {
        /// The file.
        path: PathBuf,
    },
    /// A passphrase was given and the file is not sealed.
    #[error("{path}: not sealed, although a passphrase was given; leave out --passphrase-file if this is as you want it", path = path.display())]
    NotSealed {
        /// The file.
        path: PathBuf,
    },
    /// The passphrase file has no passphrase.
    #[error("{path}: holds no passphrase; write one into it", path = path.display())]
    EmptyPassphrase {
        /// The passphrase file.
        path: PathBuf,
    },
    /// The content is not what was written.
    #[error("{path}: damaged ({what}); {remedy}", path = path.display(), remedy = remedy(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// More than a file of a home may hold: it was not written.
    #[error("{path}: {len} bytes where at most {max} are allowed; nothing was written", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How long it would be.
        len: usize,
        /// Longest allowed.
        max: usize,
    },
    /// Written by a newer version.
    #[error("{path}: format version {found}, this program knows up to {supported}; update it", path = path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u8,
        /// Newest version known.
        supported: u8,
    },
    /// Another kind of file.
    #[error("{path}: another kind of file ({found} instead of {expected}); put the right file in its place", path = path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// Kind that belongs here.
        expected: u8,
        /// Kind found.
        found: u8,
    },
    /// The system refused.
    #[error("{path}: cannot {action}: {message}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Kind of the error.
        kind: io::ErrorKind,
        /// The system's words.
        message: String,
    },
    /// The cryptographic library failed.
    #[error("{path}: {error}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: KeyError,
    },
}

impl FileError {
    /// What the file system said about `path` while it was to `action`.
    pub fn io(path: &Path, action: &'static str, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound if action == "open" => Self::Missing { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            kind => Self::Io { path, action, kind, message: error.to_string() },
        }
    }

    pub(super) fn key(path: &Path, error: KeyError) -> Self {
        Self::Key { path: path.to_owned(), error }
    }
}
