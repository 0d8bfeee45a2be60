//! Statements that wait for signatures, in the home's directory `proposals`, with the signatures that this node gave.

use std::fs;
use std::path::{Path, PathBuf};

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

/// Writes a statement and this node's signatures. Blocks.
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
    let file = directory.join(format!("{word}-{number}.{STATEMENT}"));
    remove_signatures(&file);
    put(&file, &statement.encode().map_err(|_| damaged(&file))?)?;
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

/// Signatures of what stood there before are of no use.
fn remove_signatures(statement: &Path) {
    for path in signatures_beside(statement) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old signature could not be removed");
        }
    }
}

/// Removes the oldest proposals of a kind.
fn prune(directory: &Path, word: &str) {
    let mut held: Vec<(u64, PathBuf)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let number = path.file_name()?.to_str()?.strip_prefix(word)?.strip_prefix('-')?;
            Some((number.strip_suffix(&format!(".{STATEMENT}"))?.parse().ok()?, path))
        })
        .collect();
    held.sort_unstable();
    let excess = (held.len() + 1).saturating_sub(KEPT);
    for (_, path) in held.into_iter().take(excess) {
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

    #[test]
    fn proposals_are_bounded_and_signatures_go_with_them() {
        let home = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        let body = Revocations::default().encode().unwrap();
        let statement = |number| {
            let mesh = key.public().fingerprint();
            let at = UnixMillis(number);
            let mut head = SetHead::following(None, SetKind::Revocations, mesh, at, &body).unwrap();
            head.number = number;
            StatementFile::set(&head, body.clone()).unwrap()
        };
        for number in 1..=KEPT as u64 + 3 {
            let file = statement(number);
            let signature = file.sign(&key).unwrap();
            let proposed = write(home.path(), &file, &[signature], 2).unwrap();
            assert_eq!((proposed.given, proposed.needed), (1, 2));
            assert_eq!(signatures_beside(&proposed.file).len(), 1);
        }
        let files = fs::read_dir(home.path().join(DIRECTORY)).unwrap().count();
        assert_eq!(files, 2 * KEPT);
        // A proposal in place of another of its number has none of its signatures.
        let again = write(home.path(), &statement(KEPT as u64 + 3), &[], 2).unwrap();
        assert!(signatures_beside(&again.file).is_empty());
    }
}
