//! Signed sets on the disk: `trust/*.set` in the home. They are public and signed, but a revocation that is lost is a hole.
//!
//! `"MESHSETS" | version u8 | BLAKE3 of the content [32] | content`; written aside, synced, renamed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use meshara_identity::root_chain::{VERSION_MAX, VERSIONS_BYTES_MAX};
use meshara_identity::sealed::{FileError, private_directory, private_options, sync_directory};
use meshara_trust::gossip::{Gossip, Have, SET_MESSAGE_MAX, Stored};
use meshara_trust::root::{ROOT_MAX, SignedRoot};
use meshara_trust::sets::{FRESHNESS_MAX, HeadRef, SetKind, SignedFreshness, SignedSet};

/// The directory in the home.
const DIRECTORY: &str = "trust";
const MAGIC: &[u8; 8] = b"MESHSETS";
const VERSION: u8 = 1;
/// Magic, version, hash.
const HEAD_LEN: usize = 8 + 1 + 32;
/// Longest file: that of all versions of the root document, with their lengths before them.
const FILE_MAX: u64 = (VERSIONS_BYTES_MAX + 4 * VERSION_MAX as usize + HEAD_LEN) as u64;
// The largest set is shorter.
const _: () = assert!((SET_MESSAGE_MAX + HEAD_LEN) as u64 <= FILE_MAX);

const ROOTS: &str = "roots.set";
const REVOCATIONS: &str = "revocations.set";
const POLICY: &str = "policy.set";
const STATEMENTS: &str = "freshness.set";

fn name(kind: SetKind) -> &'static str {
    if kind == SetKind::Policy { POLICY } else { REVOCATIONS }
}

/// The files of one home, and what they hold.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    written: Have,
    /// Of revocations and policy: the hash of the signed head that is written. Approvals change without the set.
    signed: [Option<blake3::Hash>; 2],
}

/// What is to be written, taken from the core while it is locked.
pub(crate) struct Unwritten {
    roots: Option<(u64, Vec<u8>)>,
    sets: Vec<(SetKind, HeadRef, Option<blake3::Hash>, Vec<u8>)>,
    statements: Option<Vec<u8>>,
}

impl Files {
    /// Reads what an earlier life kept.
    pub(crate) fn open(home: &Path) -> Result<(Self, Stored), FileError> {
        let directory = home.join(DIRECTORY);
        private_directory(&directory)?;
        let list = |name: &str, max| -> Result<Vec<Vec<u8>>, FileError> {
            let path = directory.join(name);
            read(&path)?.map_or(Ok(Vec::new()), |bytes| {
                split(&bytes, max).ok_or(FileError::Damaged { path, what: "a length" })
            })
        };
        let damaged = |name: &str, what| FileError::Damaged { path: directory.join(name), what };
        let set = |kind| -> Result<Option<SignedSet>, FileError> {
            let Some(bytes) = read(&directory.join(name(kind)))? else { return Ok(None) };
            let set = SignedSet::decode(&bytes).map_err(|_| damaged(name(kind), "no signed set"))?;
            Ok(Some(set))
        };
        let statements = list(STATEMENTS, FRESHNESS_MAX)?;
        let statements =
            statements.iter().map(|bytes| SignedFreshness::decode(bytes)).collect::<Result<_, _>>();
        let stored = Stored {
            roots: read_roots(home)?,
            revocations: set(SetKind::Revocations)?,
            policy: set(SetKind::Policy)?,
            statements: statements.map_err(|_| damaged(STATEMENTS, "no statement"))?,
        };
        let reference = |set: &Option<SignedSet>| {
            set.as_ref().and_then(|set| HeadRef::of(&set.signed.head).ok()).unwrap_or(HeadRef::NONE)
        };
        let written = Have {
            root: stored.roots.len() as u64,
            revocations: reference(&stored.revocations),
            policy: reference(&stored.policy),
        };
        let signed = [&stored.revocations, &stored.policy].map(|set| set.as_ref().and_then(head_hash));
        Ok((Self { directory, written, signed }, stored))
    }

    /// Where the file of a kind of set is.
    pub(crate) fn path(&self, kind: SetKind) -> PathBuf {
        self.directory.join(name(kind))
    }

    /// What the core holds and the files don't. Statements change all the time and are always among it.
    pub(crate) fn unwritten(&self, gossip: &Gossip) -> Unwritten {
        let have = gossip.have();
        let roots = (have.root != self.written.root)
            .then(|| (have.root, join(gossip.versions().iter().filter_map(|signed| signed.encode().ok()))));
        let sets = [
            (SetKind::Revocations, have.revocations, self.written.revocations),
            (SetKind::Policy, have.policy, self.written.policy),
        ];
        let sets = sets
            .into_iter()
            // A signer writes before the core holds it: then what is written is the newer one.
            .filter(|(kind, held, written)| {
                held.number > written.number
                    || held == written && gossip.set(*kind).and_then(head_hash) != self.signed_of(*kind)
            })
            .filter_map(|(kind, held, _)| {
                let set = gossip.set(kind)?;
                Some((kind, held, head_hash(set), set.encode().ok()?))
            });
        let statements = join(gossip.revocations().statements().filter_map(|signed| signed.encode().ok()));
        Unwritten { roots, sets: sets.collect(), statements: Some(statements) }
    }

    /// Writes; what is written is durable when this returns. Blocks.
    pub(crate) fn write(&mut self, unwritten: Unwritten) -> Result<(), FileError> {
        if let Some((version, bytes)) = unwritten.roots {
            replace(&self.directory.join(ROOTS), &bytes)?;
            self.written.root = version;
        }
        for (kind, reference, signed, bytes) in unwritten.sets {
            self.write_encoded(kind, reference, signed, &bytes)?;
        }
        if let Some(bytes) = unwritten.statements {
            replace(&self.directory.join(STATEMENTS), &bytes)?;
        }
        Ok(())
    }

    /// Writes a set before anybody hears of it: a signer that forgets what it signed contradicts itself later. Blocks.
    pub(crate) fn write_set(&mut self, set: &SignedSet) -> Result<(), FileError> {
        let kind = set.signed.head.kind;
        let damaged = |_| FileError::Damaged { path: self.path(kind), what: "the set does not encode" };
        let reference = HeadRef::of(&set.signed.head).map_err(damaged)?;
        let bytes = set.encode().map_err(damaged)?;
        self.write_encoded(kind, reference, head_hash(set), &bytes)
    }

    /// Writes the first version of the root document before anybody hears of it. Blocks.
    pub(crate) fn write_root(&mut self, root: &SignedRoot) -> Result<(), FileError> {
        let path = self.directory.join(ROOTS);
        let damaged =
            |_| FileError::Damaged { path: path.clone(), what: "the root document does not encode" };
        replace(&path, &join([root.encode().map_err(damaged)?]))?;
        self.written.root = root.document.version;
        Ok(())
    }

    fn write_encoded(
        &mut self,
        kind: SetKind,
        reference: HeadRef,
        signed: Option<blake3::Hash>,
        bytes: &[u8],
    ) -> Result<(), FileError> {
        replace(&self.path(kind), bytes)?;
        let [of_revocations, of_policy] = &mut self.signed;
        match kind {
            SetKind::Policy => (self.written.policy, *of_policy) = (reference, signed),
            _ => (self.written.revocations, *of_revocations) = (reference, signed),
        }
        Ok(())
    }

    fn signed_of(&self, kind: SetKind) -> Option<blake3::Hash> {
        let [of_revocations, of_policy] = self.signed;
        if kind == SetKind::Policy { of_policy } else { of_revocations }
    }
}

/// The hash of a head with its approvals.
fn head_hash(set: &SignedSet) -> Option<blake3::Hash> {
    Some(blake3::hash(&set.signed.encode().ok()?))
}

/// The versions of the root document that a home holds, for who reads nothing else. Makes no directory.
pub(super) fn read_roots(home: &Path) -> Result<Vec<SignedRoot>, FileError> {
    let path = home.join(DIRECTORY).join(ROOTS);
    let Some(bytes) = read(&path)? else { return Ok(Vec::new()) };
    let damaged = |what| FileError::Damaged { path: path.clone(), what };
    let parts = split(&bytes, ROOT_MAX).ok_or_else(|| damaged("a length"))?;
    let decoded = parts.iter().map(|bytes| SignedRoot::decode(bytes)).collect::<Result<_, _>>();
    decoded.map_err(|_| damaged("no root document"))
}

/// The set of a kind that a home holds. Its approvals were verified before it was written.
pub(super) fn read_set(home: &Path, kind: SetKind) -> Result<Option<SignedSet>, FileError> {
    let path = home.join(DIRECTORY).join(name(kind));
    let Some(bytes) = read(&path)? else { return Ok(None) };
    let set = SignedSet::decode(&bytes);
    set.map(Some).map_err(|_| FileError::Damaged { path, what: "no signed set" })
}

/// Each with its length before it.
fn join(parts: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(part);
    }
    out
}

fn split(mut bytes: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok().filter(|len| *len <= max)?;
        let (part, rest) = rest.split_at_checked(len)?;
        parts.push(part.to_vec());
        bytes = rest;
    }
    Some(parts)
}

/// The content of a file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::io(path, "open", &error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|error| FileError::io(path, "read", &error))?;
    content(path, &bytes).map(|content| Some(content.to_vec()))
}

fn content<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8], FileError> {
    let damaged = |what| FileError::Damaged { path: path.to_owned(), what };
    if bytes.len() as u64 > FILE_MAX {
        return Err(damaged("too large"));
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("not a file of signed sets"))?;
    let (&found, rest) = rest.split_first().ok_or_else(|| damaged("truncated"))?;
    if found != VERSION {
        return Err(FileError::UnknownVersion { path: path.to_owned(), found, supported: VERSION });
    }
    let (hash, content) = rest.split_first_chunk::<32>().ok_or_else(|| damaged("truncated"))?;
    if blake3::hash(content) != blake3::Hash::from(*hash) {
        return Err(damaged("checksum"));
    }
    Ok(content)
}

/// Whether bytes are a file of signed sets, or the list in one; for the fuzz target.
#[doc(hidden)]
pub fn decodes(bytes: &[u8]) -> bool {
    content(Path::new("fuzzed"), bytes).is_ok() | split(bytes, ROOT_MAX).is_some()
}

/// Replaces a file in one step: after a crash there is the old one or the new one.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let aside = path.with_extension("new");
    let failed = |action| move |error: std::io::Error| FileError::io(path, action, &error);
    let mut file =
        private_options().write(true).create(true).truncate(true).open(&aside).map_err(failed("write"))?;
    let head = [&MAGIC[..], &[VERSION], blake3::hash(content).as_bytes()].concat();
    let (len, max) = (head.len() + content.len(), FILE_MAX as usize);
    if len > max {
        return Err(FileError::TooLarge { path: path.to_owned(), len, max });
    }
    file.write_all(&head)
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .map_err(failed("write"))?;
    fs::rename(&aside, path).map_err(failed("replace"))?;
    sync_directory(path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshara_identity::{RootKey, UnixMillis};
    use meshara_trust::gossip::Moment;
    use meshara_trust::revocation::Revocations;
    use meshara_trust::root::RootDocument;
    use meshara_trust::sets::{Quorum, SetHead, SignedHead, Signer};

    use super::*;

    #[test]
    fn the_form_of_a_file_is_frozen_and_every_change_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.set");
        replace(&path, b"content").unwrap();
        let bytes = fs::read(&path).unwrap();
        let hash = "3fba5250be9ac259c56e7250c526bc83bacb4be825f2799d3d59e5b4878dd74e";
        assert_eq!(bytes[..9], *b"MESHSETS\x01");
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes[9..41]), hash);
        assert_eq!(bytes[41..], *b"content");
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"content"[..]));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(content(&path, &bad).is_err(), "{at}");
            assert!(content(&path, &bytes[..at]).is_err(), "{at}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let error = content(&path, &newer).unwrap_err();
        assert_eq!(error, FileError::UnknownVersion { path, found: 2, supported: 1 });
        assert_eq!(read(&dir.path().join("none.set")), Ok(None));
    }

    #[test]
    fn what_a_signer_wrote_is_not_written_over_with_what_the_core_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        let mesh = key.public().fingerprint();
        let now = UnixMillis::now();
        let signer = Signer { name: "founder".parse().unwrap(), key: key.public().clone() };
        let quorum = Quorum::new(1, vec![signer]).unwrap();
        let name = "founder".parse().unwrap();
        let document = RootDocument::founding(&key, name, quorum, now, Duration::from_secs(1000)).unwrap();
        let mut root = SignedRoot::new(document);
        root.approve(&key).unwrap();
        let set = |previous: Option<&SignedSet>| {
            let body = Revocations::default().encode().unwrap();
            let previous = previous.map(|set| &set.signed.head);
            let head = SetHead::following(previous, SetKind::Revocations, mesh, now, &body).unwrap();
            let mut signed = SignedHead::new(head);
            signed.approve(&key).unwrap();
            SignedSet { signed, body }
        };
        let one = set(None);
        let two = set(Some(&one));
        let (mut files, stored) = Files::open(dir.path()).unwrap();
        let mut gossip = Gossip::new(mesh, Duration::from_secs(60), stored, now).unwrap();
        let moment = Moment { elapsed: Duration::ZERO, clock: now };
        gossip.publish_root(moment, root).unwrap();
        gossip.publish_set(moment, one).unwrap();
        // A signer writes the next one; before the core has it, what the core holds is written.
        files.write_set(&two).unwrap();
        files.write(files.unwritten(&gossip)).unwrap();
        let (mut files, stored) = Files::open(dir.path()).unwrap();
        assert_eq!(stored.revocations.map(|set| set.signed.head.number), Some(2));
        assert_eq!(stored.roots.len(), 1, "all else is written");
        // What is newer is.
        gossip.publish_set(moment, set(Some(&two))).unwrap();
        files.write(files.unwritten(&gossip)).unwrap();
        let (_, stored) = Files::open(dir.path()).unwrap();
        assert_eq!(stored.revocations.map(|set| set.signed.head.number), Some(3));
    }

    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        let parts = vec![b"one".to_vec(), Vec::new(), vec![7; 300]];
        let bytes = join(parts.clone());
        assert_eq!(split(&bytes, 300), Some(parts));
        assert_eq!(split(&bytes, 299), None);
        assert_eq!(split(&bytes[..bytes.len() - 1], 300), None);
        assert_eq!(split(&[], 1), Some(Vec::new()));
    }
}
