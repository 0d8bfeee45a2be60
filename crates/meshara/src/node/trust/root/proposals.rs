//! Statements that wait for signatures, in the home's directory `proposals`, with the signatures that this node gave.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use meshara_identity::sealed::{self, FileError};
use meshara_trust::root::{DetachedSignature, StatementFile};

use super::DIRECTORY;
use super::signing::beside;

/// Most proposals of a kind that are kept: the newest. Those that were published, or given up, are of no use.
const KEPT: usize = 16;
/// Ending of a statement.
const STATEMENT: &str = "statement";
/// Ending of a signature.
pub(super) const SIGNATURE: &str = "signature";

/// A statement that was written for others to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposed {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Approvals that are needed, and how many this node gave.
    pub(crate) needed: usize,
    pub(crate) given: usize,
}

/// Where a signature of a statement stands, unless somebody says otherwise.
pub(super) fn signature_of(statement: &Path, signature: &DetachedSignature) -> PathBuf {
    let key: String = signature.key().to_string().chars().take(8).collect();
    beside(statement, &format!("{key}.{SIGNATURE}"))
}

/// Writes a statement and this node's signatures. Another statement of that number stays as it is, with its signatures: somebody may be about
/// to sign or to publish it. Blocks.
pub(crate) fn write(
    home: &Path,
    statement: &StatementFile,
    signatures: &[DetachedSignature],
    needed: usize,
) -> Result<Proposed, FileError> {
    let directory = home.join(DIRECTORY);
    sealed::private_directory(&directory)?;
    let damaged = |path: &Path| FileError::Damaged { path: path.to_owned(), what: "it does not encode" };
    let content = statement.statement().map_err(|_| damaged(&directory))?;
    let (word, number) = (content.word(), content.number());
    prune(&directory, word);
    let bytes = statement.encode().map_err(|_| damaged(&directory))?;
    let mut file = directory.join(format!("{word}-{number}.{STATEMENT}"));
    if fs::read(&file).is_ok_and(|held| held != bytes) {
        let hash: String = HEXLOWER.encode(&statement.hash()).chars().take(8).collect();
        file.set_file_name(format!("{word}-{number}-{hash}.{STATEMENT}"));
    }
    put(&file, &bytes)?;
    for signature in signatures {
        let path = signature_of(&file, signature);
        put(&path, &signature.encode().map_err(|_| damaged(&path))?)?;
    }
    Ok(Proposed { file, needed, given: signatures.len() })
}

/// Writes a file in one step, in place of another one of its name.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let aside = beside(path, "new");
    fs::write(&aside, bytes)
        .and_then(|()| fs::File::open(&aside)?.sync_all())
        .map_err(|error| FileError::io(path, "write", &error))?;
    fs::rename(&aside, path).map_err(|error| FileError::io(path, "replace", &error))?;
    sealed::sync_directory(path)
}

/// The signatures that stand beside a statement, in the order of their names.
pub(super) fn signatures_beside(statement: &Path) -> Vec<PathBuf> {
    let Some(name) = statement.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let directory = statement.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = fs::read_dir(directory.unwrap_or_else(|| Path::new("."))).into_iter().flatten();
    let is_one = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(SIGNATURE))
            .is_some_and(|rest| rest.ends_with('.'))
    };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_one).collect();
    found.sort_unstable();
    found
}

/// Signatures of a statement that is removed are of no use.
fn remove_signatures(statement: &Path) {
    for path in signatures_beside(statement) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old signature could not be removed");
        }
    }
}

/// Removes the oldest proposals of a kind: those with the lowest numbers, and of one number those that were written first.
fn prune(directory: &Path, word: &str) {
    let mut held: Vec<(u64, Option<SystemTime>, PathBuf)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let number = path.file_name()?.to_str()?.strip_prefix(word)?.strip_prefix('-')?;
            let number = number.strip_suffix(&format!(".{STATEMENT}"))?;
            let number = number.split_once('-').map_or(number, |(number, _)| number);
            let written = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            Some((number.parse().ok()?, written, path))
        })
        .collect();
    held.sort_unstable();
    let excess = (held.len() + 1).saturating_sub(KEPT);
    for (.., path) in held.into_iter().take(excess) {
        remove_signatures(&path);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old proposal could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use meshara_identity::{RootKey, UnixMillis};
    use meshara_trust::revocation::Revocations;
    use meshara_trust::sets::{SetHead, SetKind};

    use super::*;

    fn statement(key: &RootKey, number: u64, at: u64) -> StatementFile {
        let body = Revocations::default().encode().unwrap();
        let (mesh, at) = (key.public().fingerprint(), UnixMillis(at));
        let mut head = SetHead::following(None, SetKind::Revocations, mesh, at, &body).unwrap();
        head.number = number;
        StatementFile::set(&head, body).unwrap()
    }

    #[test]
    fn proposals_are_bounded_and_signatures_go_with_them() {
        let home = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        for number in 1..=KEPT as u64 + 3 {
            let file = statement(&key, number, number);
            let signature = file.sign(&key).unwrap();
            let proposed = write(home.path(), &file, &[signature], 2).unwrap();
            assert_eq!((proposed.given, proposed.needed), (1, 2));
            assert_eq!(signatures_beside(&proposed.file).len(), 1);
        }
        let files = fs::read_dir(home.path().join(DIRECTORY)).unwrap().count();
        assert_eq!(files, 2 * KEPT);
    }

    #[test]
    fn what_others_sign_is_never_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        let (one, other) = (statement(&key, 7, 1), statement(&key, 7, 2));
        let first = write(home.path(), &one, &[one.sign(&key).unwrap()], 2).unwrap();
        let bytes = fs::read(&first.file).unwrap();
        // Another one of its number has a file of its own, without the signatures of the first.
        let second = write(home.path(), &other, &[], 2).unwrap();
        assert_ne!(second.file, first.file);
        assert!(signatures_beside(&second.file).is_empty());
        assert_eq!(fs::read(&first.file).unwrap(), bytes);
        assert_eq!(signatures_beside(&first.file).len(), 1);
        // The same once more is in its place, with what was signed meanwhile.
        for (statement, proposed, signatures) in [(&one, &first, 1), (&other, &second, 0)] {
            let again = write(home.path(), statement, &[], 2).unwrap();
            assert_eq!((&again.file, again.given), (&proposed.file, 0));
            assert_eq!(signatures_beside(&again.file).len(), signatures);
        }
        assert_eq!(fs::read_dir(home.path().join(DIRECTORY)).unwrap().count(), 3);
    }
}
