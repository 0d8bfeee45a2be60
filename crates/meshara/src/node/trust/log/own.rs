//! The log of the issuer that this node is: its keys, its files, and whether it may go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use meshara_identity::sealed::{self, FileError, FileKind};
use meshara_identity::wire::{self, WireError};
use meshara_identity::{Issuer, IssuerError, KeyError, Membership, NodeId, Passphrase, UnixMillis};
use meshara_trust::log::keys::{STATEMENT_DOMAIN, STATEMENT_MAX};
use meshara_trust::log::{
    Certificate, DiskFiles, Enrolment, Entry, Files, Hash, InclusionProof, KeyName, Log, LogError, LogKey,
    LogPublic, LogStatement, Logged, Note, RoutingHead, Tiles, WitnessPolicy,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::others::KEYS;
use super::stops;

/// The log's files.
pub(crate) const DIRECTORY: &str = "log";
/// The log's keys, sealed as the issuer's are.
pub(crate) const KEY: &str = "log.key";
/// Longest content of the key file.
const KEY_MAX: usize = 256;
/// A node that just ended may hold the files for so long.
const BUSY: Duration = Duration::from_secs(2);

/// Why the log of an issuer was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The key file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file's content.
    #[error("{path}: {error}; restore it and the directory `log` from the same backup", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: WireError,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The cryptographic library failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Something does not encode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The issuer's members can't be read.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// This running node began the log for another CA key, which is gone.
    #[error("its log was begun for another CA key: restart that node, then try again")]
    OtherKey,
    /// The node ends.
    #[error("the runtime is stopping")]
    Interrupted,
}

impl OpenError {
    /// The system's error, when that is what it is.
    #[must_use]
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        match self {
            Self::Log(LogError::Io { kind, .. }) | Self::File(FileError::Io { kind, .. }) => Some(*kind),
            _ => None,
        }
    }
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct KeyContent {
    seeds: [[u8; 32]; 2],
    /// Whether the log was begun. If not, one that isn't there was never there.
    begun: bool,
}

/// Whether this copy of the log is the newest one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Newest {
    /// Not known yet: nothing is signed.
    Unknown,
    /// As far as anybody who answered knows.
    Yes,
    /// An old copy was restored: signing anything would fork the log.
    No(LogError),
}

struct Opened {
    /// None while a broken one can't be opened again.
    log: Option<Log>,
    /// How often it was opened.
    times: u64,
}

/// A log that this node writes.
pub(crate) struct OwnLog {
    directory: PathBuf,
    origin: KeyName,
    seeds: Zeroizing<[[u8; 32]; 2]>,
    public: LogPublic,
    pub(super) me: NodeId,
    statement: LogStatement,
    /// Held while the log works on the disk: never by a thread of the network.
    opened: RwLock<Opened>,
    /// The newest checkpoint, for those who may not wait for the disk.
    shown: ArcSwap<Note>,
    newest: Mutex<Newest>,
    decided: Condvar,
    /// Who gets no certificate into the log. Held for reading while one is on its way there.
    barred: RwLock<BTreeSet<NodeId>>,
    /// Certificates that have not ended, by the hash of their entry: index and end.
    index: Mutex<BTreeMap<Hash, (u64, UnixMillis)>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OwnLog {
    /// Opens the log of `issuer`, or begins it: then with the enrolments of all whom the issuer knows, and its own certificate.
    pub(super) fn open(
        home: &Path,
        issuer: &Issuer,
        own: &Membership,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, OpenError> {
        let me = own.member().node_id;
        let directory = home.join(DIRECTORY);
        let key_path = home.join(KEY);
        let origin = LogKey::origin_of(issuer.anchors().mesh(), &me).map_err(|_| WireError::Malformed)?;
        sealed::private_directory(&directory)?;
        let there = directory.join("checkpoint").exists();
        let mut content = if key_path.symlink_metadata().is_err() && !there {
            let content = KeyContent { seeds: *LogKey::generate(origin.clone())?.seeds(), begun: false };
            sealed::create(&key_path, FileKind::Log, &encoded(&content)?, passphrase)?;
            content
        } else {
            let bytes = sealed::read(&key_path, FileKind::Log, passphrase)?;
            wire::decode(&bytes, KEY_MAX)
                .map_err(|error| OpenError::Content { path: key_path.clone(), error })?
        };
        let seeds = Zeroizing::new(content.seeds);
        let key = LogKey::from_seeds(origin.clone(), &seeds)?;
        let public = key.public().clone();
        let files = Box::new(files(&directory)?);
        let statement = statement(&files, issuer, &public)?;
        let log = if content.begun || there { Log::open(files, key)? } else { Log::create(files, key)? };
        let members = issuer.members()?;
        let shared = content.begun && members.iter().any(|(_, node)| *node != me);
        if !content.begun {
            // What was enrolled before there was a log. Also after a crash right here: an enrolment may be repeated.
            let now = UnixMillis::now();
            let until = now.plus(issuer.lives().enrolment());
            let enrolled = |(name, node)| {
                Entry::Enrolment(Enrolment { node, name, roles: Vec::new(), from: now, until })
            };
            let mut entries: Vec<Entry> = members.into_iter().map(enrolled).collect();
            entries.extend(own_certificate(own).map(Entry::Certificate));
            log.append_all(&entries)?;
            content.begun = true;
            sealed::replace(&key_path, FileKind::Log, &encoded(&content)?, passphrase)?;
        }
        // Nobody else can know a head of a log that was just begun, or of a mesh of one.
        let newest = if shared { Newest::Unknown } else { Newest::Yes };
        Ok(Self {
            directory,
            origin,
            seeds,
            public,
            me,
            statement,
            shown: ArcSwap::from_pointee(log.checkpoint()),
            opened: RwLock::new(Opened { log: Some(log), times: 0 }),
            newest: Mutex::new(newest),
            decided: Condvar::new(),
            barred: RwLock::default(),
            index: Mutex::default(),
        })
    }

    pub(crate) fn public(&self) -> &LogPublic {
        &self.public
    }

    pub(crate) fn statement(&self) -> &LogStatement {
        &self.statement
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Asks the open log something; opens it again first if a write failed before.
    pub(super) fn with<T>(&self, ask: impl Fn(&Log) -> Result<T, LogError>) -> Result<T, LogError> {
        let (answer, times) = self.try_with(&ask);
        match answer {
            Err(error) if stops(&error) => {
                tracing::warn!(%error, "the log stopped; it is opened again");
                self.reopen(times)?;
                self.try_with(&ask).0
            }
            answer => answer,
        }
    }

    fn try_with<T>(&self, ask: &impl Fn(&Log) -> Result<T, LogError>) -> (Result<T, LogError>, u64) {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || Err(LogError::Stopped("it could not be opened again".into()));
        (opened.log.as_ref().map_or_else(closed, ask), opened.times)
    }

    /// Opens the log again, unless somebody did since `times`.
    fn reopen(&self, times: u64) -> Result<(), LogError> {
        let mut opened: RwLockWriteGuard<'_, Opened> =
            self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.times != times {
            return Ok(());
        }
        // The lock on the files goes with the old one.
        opened.log = None;
        let key = LogKey::from_seeds(self.origin.clone(), &self.seeds)?;
        opened.log = Some(Log::open(Box::new(files(&self.directory)?), key)?);
        opened.times += 1;
        Ok(())
    }

    /// Makes entries durable, once it is known whether this is the newest copy of the log.
    pub(super) fn append(&self, entries: &[Entry]) -> Result<Vec<Logged>, LogError> {
        self.wait_newest()?;
        self.append_unsigned(entries)
    }

    /// Makes entries durable at once. Nothing may be signed for them before this is known to be the newest copy: until then they are in no
    /// log that anybody has seen, and contradict none.
    pub(super) fn append_unsigned(&self, entries: &[Entry]) -> Result<Vec<Logged>, LogError> {
        let logged = self.with(|log| log.append_all(entries))?;
        let mut index = lock(&self.index);
        for (entry, logged) in entries.iter().zip(&logged) {
            if let Entry::Certificate(certificate) = entry {
                index.insert(logged.leaf(), (logged.index(), certificate.not_after));
            }
        }
        Ok(logged)
    }

    /// From now on these nodes get no certificate into the log; any that was on its way there is in it. Blocks.
    pub(super) fn bar(&self, nodes: BTreeSet<NodeId>) {
        *self.barred.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// The barred nodes, who stay so while this is held.
    pub(super) fn barred(&self) -> RwLockReadGuard<'_, BTreeSet<NodeId>> {
        self.barred.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_newest(&self) -> Result<(), LogError> {
        let mut newest = lock(&self.newest);
        // The publisher decides within seconds. Should it have ended, so has the node.
        let until = Instant::now() + super::publish::DECIDE * 2;
        loop {
            match &*newest {
                Newest::Yes => return Ok(()),
                Newest::No(error) => return Err(error.clone()),
                Newest::Unknown => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(LogError::Backlog);
                    }
                    newest =
                        self.decided.wait_timeout(newest, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Says whether this copy is the newest. What was once found to be old stays so until the node starts again.
    pub(super) fn decide(&self, decision: Newest) {
        let mut newest = lock(&self.newest);
        if !matches!(*newest, Newest::No(_)) {
            *newest = decision;
        }
        self.decided.notify_all();
    }

    pub(super) fn newest(&self) -> Newest {
        lock(&self.newest).clone()
    }

    /// Checks a checkpoint that somebody shows as this log's.
    pub(super) fn check_signed(&self, note: &Note) {
        if let Err(error @ LogError::RolledBack { .. }) = self.with(|log| log.check_signed(note)) {
            tracing::error!(%error, "this node's log is an old copy: nothing is issued");
            self.decide(Newest::No(error));
        }
    }

    /// The newest checkpoint. Never blocks.
    pub(crate) fn checkpoint(&self) -> Note {
        self.shown.load().as_ref().clone()
    }

    /// Publishes what was appended; the checkpoint that is the newest then.
    pub(super) fn publish(&self) -> Result<Note, LogError> {
        let note = self.with(|log| log.publish())?;
        self.shown.store(Arc::new(note.clone()));
        Ok(note)
    }

    /// Adds the cosignatures of a checkpoint to the log's, if it is the newest.
    pub(super) fn add_cosignatures(&self, note: &Note, witnesses: &WitnessPolicy) -> Result<(), LogError> {
        let newest = self.with(|log| {
            log.add_cosignatures(note, witnesses, UnixMillis::now())?;
            Ok(log.checkpoint())
        })?;
        self.shown.store(Arc::new(newest));
        Ok(())
    }

    /// The proof for a certificate's entry, under the newest checkpoint.
    pub(super) fn proof(&self, leaf: &Hash) -> Option<InclusionProof> {
        let index = self.find(leaf)?;
        self.with(|log| log.prove(index, &log.checkpoint())).ok()
    }

    /// The newest checkpoint, named a head for proofs of routing keys. Blocks.
    pub(super) fn routing_head(&self) -> Option<RoutingHead> {
        self.with(|log| Ok(log.routing_head())).ok()
    }

    /// Place of a certificate's entry and its path, under the head of `size` entries. Blocks.
    pub(super) fn inclusion(&self, leaf: &Hash, size: u64) -> Option<(u64, Vec<Hash>)> {
        let index = self.find(leaf)?;
        let path = self.with(|log| {
            let outside = LogError::OutOfRange { index: size, size: log.size() };
            if size > log.size() { Err(outside) } else { Tiles::new(log.files(), size).inclusion(index) }
        });
        Some((index, path.ok()?))
    }

    /// The index of a certificate's entry, until the certificate ends.
    pub(super) fn find(&self, leaf: &Hash) -> Option<u64> {
        lock(&self.index).get(leaf).map(|(index, _)| *index)
    }

    /// Remembers entries of certificates that were logged in an earlier life, and forgets those that have ended.
    pub(super) fn remember(&self, entries: impl Iterator<Item = (Hash, u64, UnixMillis)>, now: UnixMillis) {
        let mut index = lock(&self.index);
        for (leaf, place, end) in entries {
            index.entry(leaf).or_insert((place, end));
        }
        index.retain(|_, (_, end)| *end > now);
    }
}

impl std::fmt::Debug for OwnLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnLog({})", self.origin)
    }
}

/// The statement that was kept, or a new one: a signature differs each time, and nobody should wonder at two.
fn statement(files: &DiskFiles, issuer: &Issuer, public: &LogPublic) -> Result<LogStatement, OpenError> {
    let kept =
        files.read(KEYS, STATEMENT_MAX as u64).ok().and_then(|bytes| LogStatement::decode(&bytes).ok());
    let good = |kept: &LogStatement| kept.public() == public && kept.verify(&issuer.anchors()).is_ok();
    if let Some(kept) = kept.filter(good) {
        return Ok(kept);
    }
    let signature = issuer.sign_statement(STATEMENT_DOMAIN, &LogStatement::content(public)?)?;
    let statement = LogStatement::new(public.clone(), signature);
    keep(files, KEYS, &statement.encode()?)?;
    Ok(statement)
}

/// Replaces a small file, durably.
pub(super) fn keep(files: &DiskFiles, name: &str, bytes: &[u8]) -> Result<(), LogError> {
    let new = format!("{name}.new");
    let kept = files.create(&new, bytes).and_then(|()| files.rename(&new, name));
    kept.and_then(|()| files.sync_directory("")).map_err(|error| LogError::Io {
        path: files.locate(name),
        action: "keep",
        kind: error.kind(),
        message: error.to_string(),
    })
}

/// The certificate that a node shows, when it issued that itself.
pub(super) fn own_certificate(own: &Membership) -> Option<Certificate> {
    let (member, leaf) = (own.member(), own.leaf_der());
    (own.anchors().issuer_of(leaf) == Some(member.node_id)).then(|| Certificate::of(member, leaf)).flatten()
}

fn encoded(content: &KeyContent) -> Result<Zeroizing<Vec<u8>>, WireError> {
    wire::encode(content).map(Zeroizing::new)
}

/// Opens a directory for writing.
pub(super) fn files(directory: &Path) -> Result<DiskFiles, LogError> {
    let until = Instant::now() + BUSY;
    loop {
        match DiskFiles::open(directory) {
            Err(LogError::Busy { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
