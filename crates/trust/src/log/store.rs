//! The log on disk. An entry is durable in a write-ahead file before anything is said about it, then in tiles, then under a
//! signed checkpoint. Stopped at any point, it goes on from there and contradicts nothing that it signed.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use meshara_identity::UnixMillis;

use super::attest::Promise;
use super::checkpoint::{LogKey, TreeHead};
use super::edge::Edge;
use super::entry::Entry;
use super::error::LogError;
use super::files::{Files, Writer, failed};
use super::hash::Hash;
use super::history;
use super::note::Note;
use super::open::{self, Opened};
use super::routing_head::{self, RoutingHead, WITNESS_LINES};
use super::wal::{Segment, frame_count};

/// Where the newest checkpoint is (tlog-tiles).
pub(super) const CHECKPOINT: &str = "checkpoint";

/// Most entries that wait to be published: minutes of the highest rate; 8 MB of memory as a rule, and a quarter of what a
/// write-ahead file may hold at worst.
pub const PENDING_MAX: usize = 32 * 1024;

/// An entry that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    index: u64,
    leaf: Hash,
}

impl Logged {
    /// Its place in the log.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Its hash.
    pub fn leaf(&self) -> Hash {
        self.leaf
    }
}

/// What appends share.
pub(super) struct Queue {
    /// Encoded entries that wait for the next sync, in the order of their indices.
    pub(super) waiting: Vec<Vec<u8>>,
    /// Durable entries that aren't in tiles yet.
    pub(super) pending: Vec<Vec<u8>>,
    /// Index of the next entry that is appended.
    pub(super) next: u64,
    /// Every entry below this index is durable.
    pub(super) durable: u64,
    pub(super) segment: Segment,
    /// Somebody writes to `segment`.
    pub(super) flushing: bool,
    /// The publisher wants to change `segment`; nobody begins to write to it.
    pub(super) rotating: bool,
    /// A write failed: what is on disk is unknown until the log is opened again.
    pub(super) stopped: Option<String>,
}

/// What is published.
#[derive(Clone)]
pub(super) struct Published {
    pub(super) edge: Edge,
    pub(super) note: Note,
}

/// A log that is open for writing. Its methods block on the disk; several threads may call them.
pub struct Log {
    pub(super) files: Box<dyn Files>,
    pub(super) key: LogKey,
    pub(super) queue: Mutex<Queue>,
    pub(super) changed: Condvar,
    /// Held by the one who writes tiles and checkpoints; taken before the others.
    pub(super) publishing: Mutex<()>,
    /// Held for moments, so that proofs don't wait for the disk of whoever publishes.
    pub(super) published: Mutex<Published>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Begins a log without entries, with a signed checkpoint that says so. Never over another one.
    pub fn create(files: Box<dyn Files>, key: LogKey) -> Result<Self, LogError> {
        let names = files.list("").map_err(|error| failed(&*files, "", "list", &error))?;
        if names.iter().any(|name| [CHECKPOINT, history::DIRECTORY, "tile"].contains(&name.as_str())) {
            return Err(LogError::AlreadyExists { path: files.locate("") });
        }
        let segment = Segment::first(&*files)?;
        let note = key.checkpoint(TreeHead { size: 0, root: Hash::empty() })?;
        Writer::new(&*files).replace(CHECKPOINT, note.encode().as_bytes())?;
        let published = Published { edge: Edge::default(), note };
        Ok(Self::start(files, key, published, segment, Vec::new()))
    }

    /// Opens a log, after whatever it was stopped in. Entries that were durable but not published are published next.
    pub fn open(files: Box<dyn Files>, key: LogKey) -> Result<Self, LogError> {
        let Opened { edge, note, pending, segment } = open::open(&*files, key.public())?;
        Ok(Self::start(files, key, Published { edge, note }, segment, pending))
    }

    fn start(
        files: Box<dyn Files>,
        key: LogKey,
        published: Published,
        segment: Segment,
        pending: Vec<Vec<u8>>,
    ) -> Self {
        let next = published.edge.tree.size() + pending.len() as u64;
        let queue = Queue {
            waiting: Vec::new(),
            pending,
            next,
            durable: next,
            segment,
            flushing: false,
            rotating: false,
            stopped: None,
        };
        let (queue, published) = (Mutex::new(queue), Mutex::new(published));
        Self { files, key, queue, changed: Condvar::new(), publishing: Mutex::new(()), published }
    }

    /// Makes an entry durable; see [`append_all`](Self::append_all).
    pub fn append(&self, entry: &Entry) -> Result<Logged, LogError> {
        let logged = self.append_all(std::slice::from_ref(entry))?;
        logged.first().copied().ok_or(LogError::Backlog)
    }

    /// Makes entries durable, side by side in the log. Callers that wait together share one sync.
    pub fn append_all(&self, entries: &[Entry]) -> Result<Vec<Logged>, LogError> {
        let encoded: Vec<Vec<u8>> = entries.iter().map(Entry::encode).collect::<Result<_, _>>()?;
        let leaves: Vec<Hash> = encoded.iter().map(|bytes| Hash::leaf(bytes)).collect();
        let mut queue = lock(&self.queue);
        check_running(&queue)?;
        if encoded.is_empty() {
            return Ok(Vec::new());
        }
        if queue.waiting.len() + queue.pending.len() + encoded.len() > PENDING_MAX {
            return Err(LogError::Backlog);
        }
        let first = queue.next;
        let end = first + encoded.len() as u64;
        queue.next = end;
        queue.waiting.extend(encoded);
        while queue.durable < end {
            check_running(&queue)?;
            queue = if queue.flushing || queue.rotating {
                self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.flush(queue)
            };
        }
        Ok((first..).zip(leaves).map(|(index, leaf)| Logged { index, leaf }).collect())
    }

    /// Writes one frame of what waits, for all who wait.
    fn flush<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let count = frame_count(queue.waiting.iter().map(Vec::len));
        let batch: Vec<Vec<u8>> = queue.waiting.drain(..count).collect();
        let (first, segment) = (queue.durable, queue.segment);
        queue.flushing = true;
        drop(queue);
        let written = segment.append(&*self.files, first, &batch);
        let mut queue = lock(&self.queue);
        queue.flushing = false;
        match written {
            Ok(()) => {
                queue.durable += batch.len() as u64;
                queue.pending.extend(batch);
            }
            Err(error) => queue.stopped = Some(error.to_string()),
        }
        self.changed.notify_all();
        queue
    }

    /// Signs that an entry is in the log. Only an entry that is durable can be had as [`Logged`].
    pub fn promise(&self, logged: &Logged, now: UnixMillis) -> Result<Promise, LogError> {
        Ok(Promise::sign(&self.key, logged.index, logged.leaf, now)?)
    }

    /// The newest checkpoint, with the cosignatures that it has.
    pub fn checkpoint(&self) -> Note {
        lock(&self.published).note.clone()
    }

    /// The newest checkpoint, named a head for proofs of routing keys, with as many cosignatures as such a head carries.
    pub fn routing_head(&self) -> RoutingHead {
        let mut note = self.checkpoint();
        let mut own = self.public().only_own(&note).signatures;
        note.signatures.retain(|line| !own.contains(line));
        note.signatures.truncate(WITNESS_LINES);
        own.append(&mut note.signatures);
        note.signatures = own;
        RoutingHead { naming: self.key.sign_ed25519(&routing_head::message(&note)), note }
    }

    /// Entries under the newest checkpoint.
    pub fn size(&self) -> u64 {
        lock(&self.published).edge.tree.size()
    }

    /// Public half of the log's keys.
    pub fn public(&self) -> &super::LogPublic {
        self.key.public()
    }

    /// The log's files, for [`Tiles`](super::Tiles) and for serving them.
    pub fn files(&self) -> &dyn Files {
        &*self.files
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({}, {} entries)", self.key.public().origin(), self.size())
    }
}

pub(super) fn check_running(queue: &Queue) -> Result<(), LogError> {
    queue.stopped.as_ref().map_or(Ok(()), |why| Err(LogError::Stopped(why.clone())))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "crash_tests.rs"]
mod crash_tests;
