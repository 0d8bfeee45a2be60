//! Why the log on disk can't go on. Each error names the file and what to do.

use std::io;
use std::path::PathBuf;

use meshara_identity::KeyError;
use meshara_identity::wire::WireError;

use super::entry::EntryError;
use super::witness::WitnessError;

/// Why the log was not opened, appended to, or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
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
    /// The content isn't what was written.
    #[error(
        "{path}: damaged ({what}); restore this file from a backup or from a member that mirrors the log, and start again: \
         the log can't go on without it, and a new one would contradict what was signed",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// A part of the log isn't there.
    #[error(
        "{path}: missing; restore it from a backup or from a member that mirrors the log",
        path = path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A log is there already.
    #[error("{path}: holds a log already, which is never overwritten", path = path.display())]
    AlreadyExists {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{path}: another process has this log open; stop it first", path = path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The newest checkpoint is of other keys.
    #[error(
        "{path}: signed with other keys than the issuer's; restore the log and issuer.key together",
        path = path.display()
    )]
    WrongKey {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A write failed before, so what is on disk isn't known until the log is opened again.
    #[error("the log stopped after an earlier failure ({0}): open it again")]
    Stopped(String),
    /// Too many entries wait to be published.
    #[error("too many entries wait to be published; try again")]
    Backlog,
    /// A checkpoint that this log signed isn't part of what is on disk.
    #[error(
        "a signed checkpoint of {signed} entries is not what is on disk ({here} entries): an old copy of the log was restored; \
         restore the newest one, since going on would fork the log"
    )]
    RolledBack {
        /// Entries in the signed checkpoint.
        signed: u64,
        /// Entries on disk.
        here: u64,
    },
    /// A checkpoint that this log didn't sign.
    #[error("the checkpoint isn't signed by this log")]
    NotOurs,
    /// No such entry, or no such size.
    #[error("entry {index} is outside a log of {size} entries")]
    OutOfRange {
        /// The entry.
        index: u64,
        /// Entries.
        size: u64,
    },
    /// Not an entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A witness's signature doesn't verify.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// Signing failed.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<WireError> for LogError {
    fn from(error: WireError) -> Self {
        Self::Entry(error.into())
    }
}
