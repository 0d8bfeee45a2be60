//! The home's lock: one running node per home.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the lock file.
const LOCK: &str = "lock";

/// Holds the home until dropped. The kernel releases it when the process dies, however it dies, so a stale file is no lock.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another node runs on this home.
    #[error("a node runs on {} already", home.display())]
    Held {
        /// The home.
        home: PathBuf,
    },
    /// The operating system refused.
    #[error("can't lock {}: {error}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Lock {
    /// Takes the lock of a home, at once or not at all.
    pub(crate) fn take(home: &Path) -> Result<Self, LockError> {
        let path = home.join(LOCK);
        let failed = |error| LockError::Io { path: path.clone(), error };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { home: home.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // For people who look at it; nothing reads it.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_locked_once_and_free_after_its_node() {
        let home = tempfile::tempdir().unwrap();
        let lock = Lock::take(home.path()).unwrap();
        assert!(matches!(Lock::take(home.path()), Err(LockError::Held { .. })));
        drop(lock);
        Lock::take(home.path()).unwrap();
    }
}
