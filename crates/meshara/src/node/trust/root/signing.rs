//! Signs a statement with one key, once its journal says that the key never signed another one of this number.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use meshara_identity::RootKey;
use meshara_identity::home::{AUTHORITY_KEY, ROOT_KEY};
use meshara_identity::sealed::{FileError, private_directory, private_options};
use meshara_trust::root::{
    DetachedSignature, JOURNAL_MAX, Journal, JournalError, OfflineError, StatementFile,
};
use meshara_trust::sets::KeyId;

use crate::node::trust::files;

/// The journal of a home's own keys, in its directory and by its name there.
const HOME_JOURNAL: [&str; 2] = ["trust", "signed.set"];
/// What the journal beside a key file is called: its name, and this.
const BESIDE: &str = "signed.set";

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

/// Where it is written down what keys signed: one place for each key file, however it is named.
#[derive(Debug, Clone)]
pub(crate) struct JournalFile {
    path: PathBuf,
    /// Journals that earlier versions wrote for these keys, or that stand beside another name of the file. They are read, and no more.
    earlier: Vec<PathBuf>,
}

impl JournalFile {
    /// The journal of a home's keys.
    pub(crate) fn of_home(home: &Path) -> Self {
        let [directory, name] = HOME_JOURNAL;
        let earlier = [AUTHORITY_KEY, ROOT_KEY].map(|key| beside(&home.join(key), BESIDE));
        Self { path: home.join(directory).join(name), earlier: earlier.into() }
    }

    /// The journal of a key file: beside it, and of a home's key its home's.
    pub(crate) fn of_key(key: &Path) -> Result<Self, FileError> {
        let real = fs::canonicalize(key).map_err(|error| FileError::io(key, "find", &error))?;
        // Also one that is a link to a file elsewhere: its node goes by its place.
        for file in [key, &real] {
            if let (Some(name), Some(home)) = (file.file_name(), file.parent())
                && (name == AUTHORITY_KEY || name == ROOT_KEY)
            {
                return Ok(Self::of_home(home));
            }
        }
        let (path, other) = (beside(&real, BESIDE), beside(key, BESIDE));
        let earlier = if other == path { Vec::new() } else { vec![other] };
        Ok(Self { path, earlier })
    }

    /// What was signed so far. Blocks.
    pub(crate) fn read(&self) -> Result<Journal, SigningError> {
        let mut held = read(&self.path)?;
        for earlier in &self.earlier {
            held.include(read(earlier)?)?;
        }
        Ok(held)
    }
}

/// The name of a file with an ending more.
pub(super) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    file.with_file_name(name)
}

fn read(journal: &Path) -> Result<Journal, FileError> {
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
    journal: &JournalFile,
    instead: bool,
) -> Result<DetachedSignature, SigningError> {
    if let Some(directory) = journal.path.parent() {
        private_directory(directory)?;
    }
    // A node and the command may sign at one time.
    let _alone = lock(&journal.path)?;
    let mut held = journal.read()?;
    if held.note(KeyId::of(key.public()), file, instead)? {
        let bytes = held.encode().map_err(JournalError::from)?;
        files::replace(&journal.path, &bytes)?;
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
    use meshara_identity::root::Purpose;
    use meshara_trust::revocation::Revocations;
    use meshara_trust::sets::{SetHead, SetKind};

    use super::super::offline::{self, SignerError};
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
        let path = dir.path().join("bob.key");
        std::fs::write(&path, "").unwrap();
        let journal = JournalFile::of_key(&path).unwrap();
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
    fn a_homes_key_has_one_journal_however_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
        let refused = JournalError::Contradiction { word: "revocations", number: 1 };
        for own_first in [true, false] {
            let home = dir.path().join(format!("home-{own_first}"));
            meshara_identity::create_mesh(&home, &mesh, &name, None, UnixMillis(1)).unwrap();
            let path = home.join(ROOT_KEY);
            let key = meshara_identity::home::load_signer(&path, None).unwrap();
            let link = dir.path().join(format!("link-{own_first}"));
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let files = [1, 2].map(|at| {
                let file = dir.path().join(format!("{own_first}-{at}.statement"));
                std::fs::write(&file, statement(&key, at).encode().unwrap()).unwrap();
                file
            });
            let sign = |file: &Path, home: &Path, key: Option<&Path>| {
                offline::sign(home, file, key, None, None, false, |_| true).map(|_| ())
            };
            let named = [
                (&*home, None),
                (&*home, Some(&*path)),
                (&*elsewhere, Some(&*path)),
                (&*elsewhere, Some(&*link)),
            ];
            let first = if own_first { named[0] } else { named[2] };
            sign(&files[0], first.0, first.1).unwrap();
            for (home, key) in named {
                let error = sign(&files[1], home, key).unwrap_err();
                assert!(
                    matches!(&error, SignerError::Signing(SigningError::Journal(error)) if *error == refused),
                    "{error}"
                );
            }
            for (home, key) in named {
                sign(&files[0], home, key).unwrap();
            }
        }
    }

    #[test]
    fn nothing_is_signed_with_a_damaged_journal() {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalFile::of_home(dir.path());
        let key = RootKey::generate().unwrap();
        sign(&statement(&key, 1), &key, &journal, false).unwrap();
        let damage = |path: &Path| {
            let mut bytes = std::fs::read(path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(path, bytes).unwrap();
            let error = sign(&statement(&key, 1), &key, &journal, false).unwrap_err();
            assert!(matches!(error, SigningError::File(FileError::Damaged { what: "checksum", .. })));
        };
        damage(&journal.path);
        std::fs::remove_file(&journal.path).unwrap();
        // And with a damaged one of an earlier version.
        sign(&statement(&key, 1), &key, &journal, false).unwrap();
        std::fs::copy(&journal.path, &journal.earlier[1]).unwrap();
        damage(&journal.earlier[1]);
    }

    #[test]
    fn what_a_homes_key_signed_by_its_name_under_earlier_versions_counts() {
        let dir = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        let journal = JournalFile::of_home(dir.path());
        // As they wrote it: beside the key.
        let earlier = JournalFile { path: beside(&dir.path().join(ROOT_KEY), BESIDE), earlier: Vec::new() };
        sign(&statement(&key, 1), &key, &earlier, false).unwrap();
        assert_eq!(journal.read().unwrap().highest(KeyId::of(key.public()), Purpose::Revocations), 1);
        let error = sign(&statement(&key, 2), &key, &journal, false).unwrap_err();
        let refused = JournalError::Contradiction { word: "revocations", number: 1 };
        assert!(matches!(error, SigningError::Journal(error) if error == refused));
        sign(&statement(&key, 1), &key, &journal, false).unwrap();
    }
}
