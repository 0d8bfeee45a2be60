//! Exact errors of the store; each names the file and what to do.

use std::{io, path::Path, path::PathBuf};

use super::tables::{Bucket, FORMAT, KEY_MAX, RECORDS_MAX, VALUE_MAX};

/// The store could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is not a store, or was altered since it was written.
    #[error(
        "{path}: damaged ({detail}); restore it from a backup, or move it away to start with an empty outbox and inbox \
         (the node's identity is kept elsewhere)",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A later version of Meshara wrote the file.
    #[error("{path}: written by a newer version (format {found}, this one knows {FORMAT}); upgrade meshara", path = path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process has the file open.
    #[error("{path}: in use by another process; stop the node that runs on this home", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// No space is left.
    #[error("{path}: the disk is full (or a quota is reached); free some space, the node goes on by itself", path = path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Another failure of the operating system.
    #[error("{path}: {detail}; check the disk and the permissions", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
    /// A key or a value above its limit.
    #[error(
        "record {key:?} of {bucket} is too large ({size} bytes, where a key may have {KEY_MAX}, a value {VALUE_MAX})"
    )]
    RecordTooLarge {
        /// Where it was to go.
        bucket: Bucket,
        /// Its key, cut after `KEY_MAX` bytes.
        key: String,
        /// Bytes of what is too large.
        size: usize,
    },
    /// A bucket is full.
    #[error("{bucket} holds {RECORDS_MAX} records already; remove some")]
    TooManyRecords {
        /// The bucket.
        bucket: Bucket,
    },
    /// A value has no encoding.
    #[error("record {key:?} of {bucket} cannot be written: {detail}")]
    Record {
        /// Where it was to go.
        bucket: Bucket,
        /// Its key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed: the node is stopping")]
    Stopped,
}

impl StoreError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, detail: error.to_string() },
        }
    }

    pub(super) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }

    pub(super) fn database(path: &Path, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
            {
                Self::damaged(path, error.to_string())
            }
            redb::Error::Io(error) => Self::io(path, &error),
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path: path.to_owned() },
            other => Self::damaged(path, other.to_string()),
        }
    }
}
