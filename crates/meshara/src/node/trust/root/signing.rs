//! Signs a statement with one key, once its journal says that the key never signed another one of this number.

use std::fs::File;
use std::path::{Path, PathBuf};

use meshara_identity::RootKey;
use meshara_identity::sealed::{FileError, private_options};
use meshara_trust::root::{
    DetachedSignature, JOURNAL_MAX, Journal, JournalError, OfflineError, StatementFile,
};
use meshara_trust::sets::KeyId;

use crate::node::trust::files;

/// The journal of a home's own keys.
const HOME_JOURNAL: &str = "trust/signed.set";

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// The journal's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key must not sign it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The statement.
    #[error(transparent)]
    Statement(#[from] OfflineError),
}

/// The journal of a home's keys.
pub(crate) fn home_journal(home: &Path) -> PathBuf {
    home.join(HOME_JOURNAL)
}

/// The journal of a key in a file of its own: it stands beside it.
pub(crate) fn journal_of(key: &Path) -> PathBuf {
    beside(key, "signed.set")
}

/// The name of a file with an ending more.
pub(super) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}

/// What was signed so far. Blocks.
pub(crate) fn read(journal: &Path) -> Result<Journal, FileError> {
    let damaged = |what| FileError::Damaged { path: journal.to_owned(), what };
    let Some(bytes) = files::read(journal)? else { return Ok(Journal::default()) };
    if bytes.len() > JOURNAL_MAX {
        return Err(damaged("too large"));
    }
    Journal::decode(&bytes).map_err(|_| damaged("no journal of signatures"))
}

/// Signs, with the journal on the disk first. Blocks.
///
/// # Errors
/// [`SigningError`]; nothing was signed then.
pub(crate) fn sign(
    file: &StatementFile,
    key: &RootKey,
    journal: &Path,
    instead: bool,
) -> Result<DetachedSignature, SigningError> {
    // A node and the command may sign at one time.
    let _alone = lock(journal)?;
    let mut held = read(journal)?;
    if held.note(KeyId::of(key.public()), file, instead)? {
        let bytes = held.encode().map_err(JournalError::from)?;
        files::replace(journal, &bytes)?;
    }
    Ok(file.sign(key)?)
}

/// Held while the journal is read and written.
fn lock(journal: &Path) -> Result<File, FileError> {
    let path = beside(journal, "lock");
    let failed = |action| move |error: std::io::Error| (action, error);
    let locked = private_options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed("open"))
        .and_then(|file| file.lock().map(|()| file).map_err(failed("lock")));
    locked.map_err(|(action, error)| FileError::io(&path, action, &error))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use meshara_identity::UnixMillis;
    use meshara_trust::revocation::Revocations;
    use meshara_trust::sets::{SetHead, SetKind};

    use super::*;

    fn statement(key: &RootKey, at: u64) -> StatementFile {
        let body = Revocations::default().encode().unwrap();
        let mesh = key.public().fingerprint();
        let head = SetHead::following(None, SetKind::Revocations, mesh, UnixMillis(at), &body).unwrap();
        StatementFile::set(&head, body).unwrap()
    }

    #[test]
    fn one_content_of_a_number_is_signed_whoever_asks_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal_of(&dir.path().join("bob.key"));
        let key = RootKey::generate().unwrap();
        let signed: Vec<_> = thread::scope(|scope| {
            let sign = |at| {
                let (key, journal) = (&key, &journal);
                scope.spawn(move || sign(&statement(key, at), key, journal, false))
            };
            let threads: Vec<_> = (0..4).map(sign).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(signed.iter().filter(|signed| signed.is_ok()).count(), 1);
        let winner = signed.iter().position(Result::is_ok).unwrap() as u64;
        // Again the same: yes, also in a later life. Another one: no.
        sign(&statement(&key, winner), &key, &journal, false).unwrap();
        let other = sign(&statement(&key, 9), &key, &journal, true).unwrap_err();
        let contradiction = JournalError::Contradiction { word: "revocations", number: 1 };
        assert!(matches!(other, SigningError::Journal(error) if error == contradiction));
    }

    #[test]
    fn nothing_is_signed_with_a_damaged_journal() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("signed.set");
        let key = RootKey::generate().unwrap();
        sign(&statement(&key, 1), &key, &journal, false).unwrap();
        let mut bytes = std::fs::read(&journal).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
        let error = sign(&statement(&key, 1), &key, &journal, false).unwrap_err();
        assert!(matches!(error, SigningError::File(FileError::Damaged { what: "checksum", .. })));
    }
}
