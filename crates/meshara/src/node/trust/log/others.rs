//! The logs of other issuers: what this node saw of each, in a directory of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use meshara_identity::{NodeId, TrustAnchors, sealed};
use meshara_trust::log::keys::STATEMENT_MAX;
use meshara_trust::log::{
    Checkpoint, DiskFiles, Files, ForkEvidence, LogError, LogStatement, Mirror, Note, StatementError,
    TreeHead,
};
use tokio::sync::Mutex as AsyncMutex;

use super::own::{files, keep, lock};

/// Where they are, each in a directory named by its issuer.
pub(crate) const DIRECTORY: &str = "logs";
/// The issuer's statement of its log's keys.
pub(crate) const KEYS: &str = "keys";
/// Another statement of the same issuer, for other keys: evidence against it.
const OTHER_KEYS: &str = "other-keys";

/// Why a log is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LearnError {
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Directory(String),
    #[error("the issuer signed for two sets of keys of its log")]
    OtherKeys,
}

/// What this node knows of another's log, for those who may not wait for the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// The newest checkpoint seen.
    pub(crate) note: Option<Note>,
    /// Its head.
    pub(crate) head: Option<TreeHead>,
    /// Evidence that the log forked.
    pub(crate) fork: Option<ForkEvidence>,
    /// Entries that are copied.
    pub(crate) copied: u64,
}

impl Shown {
    fn of(mirror: &Mirror) -> Self {
        let note = mirror.seen().cloned();
        // It was verified when it was taken.
        let head = note.as_ref().and_then(|note| Checkpoint::parse(note.text()).ok());
        let head = head.map(|checkpoint| checkpoint.head);
        Self { note, head, fork: mirror.fork().cloned(), copied: mirror.copied() }
    }
}

/// The log of another issuer.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) issuer: NodeId,
    pub(crate) statement: LogStatement,
    /// Held while files are read and written: never by a thread of the network, and never while anybody is asked.
    mirror: Mutex<Mirror>,
    shown: ArcSwap<Shown>,
    /// Held while the log is copied: two copies would write the same files.
    pub(super) copying: Arc<AsyncMutex<()>>,
    /// The issuer signed for other keys too, so it may write a second log.
    contradicted: AtomicBool,
    /// That it did was written into the audit trail, in this life or an earlier one.
    told: AtomicBool,
}

impl Other {
    /// Uses the mirror. Blocks, on the disk and on others who use it.
    pub(crate) fn mirror<T>(&self, work: impl FnOnce(&mut Mirror) -> T) -> T {
        let mut mirror = lock(&self.mirror);
        let done = work(&mut mirror);
        let shown = self.shown.load();
        if shown.note.as_ref() != mirror.seen()
            || shown.fork.is_some() != mirror.fork().is_some()
            || shown.copied != mirror.copied()
        {
            self.shown.store(Arc::new(Shown::of(&mirror)));
        }
        done
    }

    /// Uses the mirror on a thread that may block; `None` when the runtime is stopping.
    pub(super) async fn using<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Mirror) -> T + Send + 'static,
    ) -> Option<T> {
        let other = self.clone();
        tokio::task::spawn_blocking(move || other.mirror(work)).await.ok()
    }

    /// Whether its issuer signed for other keys too.
    pub(crate) fn is_contradicted(&self) -> bool {
        self.contradicted.load(Ordering::Relaxed)
    }

    /// What is known of it. Never blocks.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Others {
    directory: PathBuf,
    /// Held while a new one is opened, so that nobody else does.
    learning: Mutex<()>,
    /// At most one for each grant. Held for moments.
    known: Mutex<BTreeMap<NodeId, Result<Arc<Other>, LearnError>>>,
}

impl Others {
    /// Opens what was kept. What can't be opened is neither followed nor cosigned, and stays for whoever looks.
    pub(super) fn open(directory: PathBuf, anchors: &TrustAnchors) -> Self {
        let mut known = BTreeMap::new();
        for issuer in anchors.grants().iter().map(|grant| grant.statement.issuer) {
            let place = directory.join(issuer.to_string());
            if !place.join(KEYS).exists() || known.contains_key(&issuer) {
                continue;
            }
            let opened = load(&place, anchors);
            if let Err(error) = &opened {
                tracing::error!(%issuer, %error, "what was kept of this issuer's log can't be used");
            }
            known.insert(issuer, opened);
        }
        Self { directory, learning: Mutex::default(), known: Mutex::new(known) }
    }

    /// Where what is kept of an issuer's log stands.
    pub(super) fn directory_of(&self, issuer: &NodeId) -> PathBuf {
        self.directory.join(issuer.to_string())
    }

    /// The log of an issuer, if it is known and can be used.
    pub(crate) fn get(&self, issuer: &NodeId) -> Option<Arc<Other>> {
        lock(&self.known).get(issuer)?.clone().ok()
    }

    /// Every log that can be used.
    pub(crate) fn all(&self) -> Vec<Arc<Other>> {
        lock(&self.known).values().filter_map(|known| known.clone().ok()).collect()
    }

    /// Whether nothing that this log says counts: it showed two pasts, its issuer signed for two sets of keys, or what was kept of it, which may be
    /// evidence of that, can't be used.
    pub(crate) fn is_distrusted(&self, issuer: &NodeId) -> bool {
        match lock(&self.known).get(issuer) {
            None => false,
            Some(Ok(other)) => other.shown().fork.is_some() || other.is_contradicted(),
            Some(Err(_)) => true,
        }
    }

    /// Issuers that were found to have signed for two sets of keys, each once.
    pub(super) fn contradicted(&self) -> Vec<NodeId> {
        let found = self.all().into_iter();
        let found =
            found.filter(|other| other.is_contradicted() && !other.told.swap(true, Ordering::Relaxed));
        found.map(|other| other.issuer).collect()
    }

    /// Why logs that were kept can't be used.
    pub(crate) fn broken(&self) -> Vec<(NodeId, LearnError)> {
        let known = lock(&self.known);
        known.iter().filter_map(|(issuer, known)| Some((*issuer, known.clone().err()?))).collect()
    }

    /// Follows a log from now on, whose keys its issuer signed for. Blocks.
    pub(super) fn learn(
        &self,
        statement: &LogStatement,
        anchors: &TrustAnchors,
    ) -> Result<Arc<Other>, LearnError> {
        let (issuer, public) = statement.verify(anchors)?;
        let _alone = lock(&self.learning);
        let known = lock(&self.known).get(&issuer).cloned();
        if let Some(known) = known {
            let other = known?;
            if other.statement.public() != public {
                if !other.contradicted.swap(true, Ordering::Relaxed) {
                    tracing::error!(%issuer, "this issuer signed for two sets of keys of its log");
                    let evidence = statement.encode().map_err(StatementError::from)?;
                    keep(&DiskFiles::read_only(&self.directory_of(&issuer)), OTHER_KEYS, &evidence)?;
                }
                return Err(LearnError::OtherKeys);
            }
            return Ok(other);
        }
        let place = self.directory_of(&issuer);
        for directory in [&self.directory, &place] {
            sealed::private_directory(directory).map_err(|error| LearnError::Directory(error.to_string()))?;
        }
        let keys = statement.encode().map_err(StatementError::from)?;
        keep(&DiskFiles::read_only(&place), KEYS, &keys)?;
        let mirror = open_mirror(&place, statement)?;
        let other = Arc::new(Other::new(issuer, statement.clone(), mirror));
        lock(&self.known).insert(issuer, Ok(other.clone()));
        Ok(other)
    }

    /// The largest checkpoint seen. Never blocks.
    pub(super) fn newest(&self) -> Option<Note> {
        let shown = self.all().into_iter().map(|other| other.shown());
        let newest = shown.max_by_key(|shown| shown.head.map_or(0, |head| head.size))?;
        newest.note.clone()
    }
}

impl Other {
    fn new(issuer: NodeId, statement: LogStatement, mirror: Mirror) -> Self {
        Self {
            issuer,
            statement,
            shown: ArcSwap::from_pointee(Shown::of(&mirror)),
            mirror: Mutex::new(mirror),
            copying: Arc::default(),
            contradicted: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }
}

fn open_mirror(place: &Path, statement: &LogStatement) -> Result<Mirror, LogError> {
    Mirror::open(Box::new(files(place)?), statement.public().clone())
}

fn load(place: &Path, anchors: &TrustAnchors) -> Result<Arc<Other>, LearnError> {
    let statement = kept_statement(place, KEYS)?;
    let (issuer, public) = statement.verify(anchors)?;
    let mirror = open_mirror(place, &statement)?;
    let other = Other::new(issuer, statement.clone(), mirror);
    if place.join(OTHER_KEYS).exists() {
        let evidence = kept_statement(place, OTHER_KEYS)?;
        let (of, other_keys) = evidence.verify(anchors)?;
        let contradicts = of == issuer && other_keys != public;
        other.contradicted.store(contradicts, Ordering::Relaxed);
        other.told.store(contradicts, Ordering::Relaxed);
    }
    Ok(Arc::new(other))
}

fn kept_statement(place: &Path, name: &str) -> Result<LogStatement, LearnError> {
    let files = DiskFiles::read_only(place);
    let bytes = files
        .read(name, STATEMENT_MAX as u64)
        .map_err(|error| LearnError::Directory(format!("{}: {error}", place.join(name).display())))?;
    Ok(LogStatement::decode(&bytes).map_err(StatementError::from)?)
}

#[cfg(test)]
#[path = "others_tests.rs"]
mod tests;
