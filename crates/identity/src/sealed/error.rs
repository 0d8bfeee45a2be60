//! Exact errors of the files in a home.

use std::io;
use std::path::{Path, PathBuf};

use crate::keys::KeyError;

/// Why a file was not read or written. Each names the file and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// No such file.
    #[error("{path}: no such file; run `meshara init` or `meshara join` first, or restore it from a backup", path = path.display())]
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
    #[error("{path}: damaged ({what}); restore it from a backup, or move it away and join again with a new ticket", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
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
