//! The log on disk. An entry is durable in a write-ahead file before anything is said about it, then in tiles, then under a
//! signed checkpoint. Stopped at any point, it goes on from there and contradicts nothing that it signed.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use meshara_identity::UnixMillis;

use super::attest::{InclusionProof, Promise};
use super::checkpoint::{Checkpoint, LogKey, TreeHead};
use super::entry::Entry;
use super::error::LogError;
use super::files::{Files, Writer, failed};
use super::hash::Hash;
use super::history;
use super::note::Note;
use super::open::{self, Opened};
use super::reader::Tiles;
use super::tile::{Row, TileId, WIDTH, append_to_bundle, tile_bytes};
use super::tree::Tree;
use super::wal::{Segment, frame_count};
use super::witness::WitnessPolicy;

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
struct Queue {
    /// Encoded entries that wait for the next sync, in the order of their indices.
    waiting: Vec<Vec<u8>>,
    /// Durable entries that aren't in tiles yet.
    pending: Vec<Vec<u8>>,
    /// Index of the next entry that is appended.
    next: u64,
    /// Every entry below this index is durable.
    durable: u64,
    segment: Segment,
    /// Somebody writes to `segment`.
    flushing: bool,
    /// The publisher wants to change `segment`; nobody begins to write to it.
    rotating: bool,
    /// A write failed: what is on disk is unknown until the log is opened again.
    stopped: Option<String>,
}

/// What the publisher works on.
struct Published {
    tree: Tree,
    /// Entries of the partial bundle.
    bundle: Vec<u8>,
    note: Note,
}

/// A log that is open for writing. Its methods block on the disk; several threads may call them.
pub struct Log {
    files: Box<dyn Files>,
    key: LogKey,
    queue: Mutex<Queue>,
    changed: Condvar,
    published: Mutex<Published>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        let published = Published { tree: Tree::default(), bundle: Vec::new(), note };
        Ok(Self::start(files, key, published, segment, Vec::new()))
    }

    /// Opens a log, after whatever it was stopped in. Entries that were durable but not published are published next.
    pub fn open(files: Box<dyn Files>, key: LogKey) -> Result<Self, LogError> {
        let Opened { tree, bundle, note, pending, segment } = open::open(&*files, key.public())?;
        Ok(Self::start(files, key, Published { tree, bundle, note }, segment, pending))
    }

    fn start(
        files: Box<dyn Files>,
        key: LogKey,
        published: Published,
        segment: Segment,
        pending: Vec<Vec<u8>>,
    ) -> Self {
        let next = published.tree.size() + pending.len() as u64;
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
        Self { files, key, queue, changed: Condvar::new(), published }
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

    /// Moves what is durable into tiles and signs a checkpoint over it; the present one when nothing is new.
    ///
    /// Appends go on meanwhile, but for the moment in which the write-ahead file is changed.
    pub fn publish(&self) -> Result<Note, LogError> {
        let mut published = lock(&self.published);
        let result = self.publish_next(&mut published);
        if let Err(error) = &result {
            // Tiles may be half written, and only opening the log again knows what to make of them.
            lock(&self.queue).stopped.get_or_insert_with(|| error.to_string());
            self.changed.notify_all();
        }
        result
    }

    fn publish_next(&self, published: &mut Published) -> Result<Note, LogError> {
        let Some((entries, segment)) = self.take_pending()? else { return Ok(published.note.clone()) };
        let files = &*self.files;
        let mut writer = Writer::new(files);
        let (mut tree, mut bundle) = (published.tree.clone(), published.bundle.clone());
        let mut full = Vec::new();
        for entry in &entries {
            append_to_bundle(&mut bundle, entry)?;
            tree.push(Hash::leaf(entry), &mut full);
            if tree.size() % u64::from(WIDTH) == 0 {
                let tile = TileId::full(Row::Entries, tree.size() / u64::from(WIDTH) - 1);
                writer.create(&tile.to_string(), &bundle)?;
                bundle.clear();
            }
            for tile in full.drain(..) {
                let path = TileId::full(Row::Hashes(tile.level), tile.index).to_string();
                writer.create(&path, &tile_bytes(&tile.hashes))?;
            }
        }
        let before: BTreeSet<TileId> = partial(&published.tree).map(|(tile, _)| tile).collect();
        let mut kept = BTreeSet::new();
        for (tile, hashes) in partial(&tree) {
            if !before.contains(&tile) {
                let bytes = if tile.row == Row::Entries { bundle.clone() } else { tile_bytes(hashes) };
                writer.create(&tile.to_string(), &bytes)?;
            }
            kept.insert(tile);
        }
        writer.sync()?;

        let head = TreeHead { size: tree.size(), root: tree.root() };
        let note = self.key.checkpoint(head)?;
        history::keep(&mut writer, files, &published.note, head.size)?;
        writer.replace(CHECKPOINT, note.encode().as_bytes())?;
        *published = Published { tree, bundle, note: note.clone() };
        segment.remove_older(files)?;
        remove_partial(files, &before, &kept)?;
        Ok(note)
    }

    /// What is durable and unpublished, and the write-ahead file for what follows; `None` when nothing is new.
    fn take_pending(&self) -> Result<Option<(Vec<Vec<u8>>, Segment)>, LogError> {
        let (segment, idle) = {
            let queue = lock(&self.queue);
            check_running(&queue)?;
            (queue.segment, queue.pending.is_empty() && queue.waiting.is_empty() && !queue.flushing)
        };
        if idle {
            return Ok(None);
        }
        // Made before the lock is taken: appends need not wait for it. Only the publisher, of whom there is one, changes segments.
        let segment = segment.next(&*self.files, 0, &[])?;
        let mut queue = lock(&self.queue);
        queue.rotating = true;
        while queue.flushing {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.rotating = false;
        self.changed.notify_all();
        check_running(&queue)?;
        queue.segment = segment;
        let pending = std::mem::take(&mut queue.pending);
        Ok(Some((pending, segment)))
    }

    /// The newest checkpoint, with the cosignatures that it has.
    pub fn checkpoint(&self) -> Note {
        lock(&self.published).note.clone()
    }

    /// Entries under the newest checkpoint.
    pub fn size(&self) -> u64 {
        lock(&self.published).tree.size()
    }

    /// Public half of the log's keys.
    pub fn public(&self) -> &super::LogPublic {
        self.key.public()
    }

    /// The log's files, for [`Tiles`] and for serving them.
    pub fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Proof that entry `index` is under `checkpoint`, one of this log's own.
    pub fn prove(&self, index: u64, checkpoint: &Note) -> Result<InclusionProof, LogError> {
        let size = self.own(checkpoint)?.size;
        let path = Tiles::new(&*self.files, size).inclusion(index)?;
        Ok(InclusionProof { index, path, checkpoint: checkpoint.encode() })
    }

    /// Proof, for witnesses and neighbours, that the log of `first` entries is the beginning of the one under `checkpoint`.
    pub fn prove_growth(&self, first: u64, checkpoint: &Note) -> Result<Vec<Hash>, LogError> {
        let size = self.own(checkpoint)?.size;
        Tiles::new(&*self.files, size).consistency(first)
    }

    /// Adds the witnesses' signature lines of `cosigned` to the stored checkpoint of that size, and gives the whole. Lines of others
    /// are left out.
    pub fn add_cosignatures(
        &self,
        cosigned: &Note,
        witnesses: &WitnessPolicy,
        now: UnixMillis,
    ) -> Result<Note, LogError> {
        let size = self.own(cosigned)?.size;
        witnesses.cosigned(cosigned, now)?;
        let lines = witnesses.lines(cosigned);
        let mut published = lock(&self.published);
        if published.note.text() == cosigned.text() {
            published.note = history::cosign(&*self.files, CHECKPOINT, &published.note, &lines)?;
            return Ok(published.note.clone());
        }
        history::cosign_kept(&*self.files, size, cosigned, &lines)
    }

    /// Whether a note that this log signed, as others show it, is part of what is on disk. [`LogError::RolledBack`] when an old copy
    /// was restored: to be asked of every head that members know before the first append.
    pub fn check_signed(&self, note: &Note) -> Result<(), LogError> {
        self.own(note).map(|_| ())
    }

    /// The head of a checkpoint of this log, which must be part of its tree; a note that it didn't sign isn't.
    fn own(&self, note: &Note) -> Result<TreeHead, LogError> {
        let here = {
            let published = lock(&self.published);
            let head = TreeHead { size: published.tree.size(), root: published.tree.root() };
            if published.note.text() == note.text() {
                return Ok(head);
            }
            head.size
        };
        let Ok(Checkpoint { head, .. }) = self.key.public().verify(note) else {
            return Err(LogError::NotOurs);
        };
        let contained = head.size <= here && Tiles::new(&*self.files, head.size).root()? == head.root;
        if contained { Ok(head) } else { Err(LogError::RolledBack { signed: head.size, here }) }
    }
}

fn check_running(queue: &Queue) -> Result<(), LogError> {
    queue.stopped.as_ref().map_or(Ok(()), |why| Err(LogError::Stopped(why.clone())))
}

/// The partial tiles and the partial bundle of a tree; the bundle's hashes are those of its entries.
fn partial(tree: &Tree) -> impl Iterator<Item = (TileId, &[Hash])> {
    let bundle = tree.edge().take(1).map(|(tile, hashes)| (TileId { row: Row::Entries, ..tile }, hashes));
    tree.edge().chain(bundle).filter(|(_, hashes)| !hashes.is_empty())
}

/// Removes partial tiles that wider or full ones took the place of.
fn remove_partial(
    files: &dyn Files,
    before: &BTreeSet<TileId>,
    kept: &BTreeSet<TileId>,
) -> Result<(), LogError> {
    let writer = Writer::new(files);
    for tile in before.union(kept) {
        let directory = tile.partial_directory();
        let names = files.list(&directory).map_err(|error| failed(files, &directory, "list", &error))?;
        let mut empty = true;
        for name in names {
            let path = format!("{directory}/{name}");
            if kept.iter().any(|tile| tile.to_string() == path) {
                empty = false;
            } else {
                writer.remove(&path)?;
            }
        }
        if empty {
            writer.remove_directory(&directory)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "crash_tests.rs"]
mod crash_tests;
