//! The durable store of a node, `node.redb`: outbox, inbox, receiver marks, services, address book and settings.
//!
//! One thread owns the database. Requests that wait while it writes go into its next transaction together (group
//! commit), and an answer comes only after that transaction is on the disk. See `docs/messaging.md`.

mod error;
mod open;
mod tables;
mod transact;
mod writer;

#[cfg(test)]
mod exchange;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use meshara_identity::NodeId;
use meshara_messaging::{InboxRow, MessageId, Snapshot, StoreOp};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::error::StoreError;
pub(crate) use self::tables::Bucket;
use self::{
    open::Opener,
    transact::Work,
    writer::{Request, Writer},
};

/// Entry for fuzzing: reads `value` as every kind of row of the store; whether it is one of them.
#[doc(hidden)]
pub fn decodes_row(value: &[u8]) -> bool {
    tables::decodes(value)
}

/// Name of the file inside a home.
pub(crate) const FILE: &str = "node.redb";

/// Requests that may wait for the thread; whoever comes then waits too. The messaging core has one commit under way at a time, so
/// this only bounds callers of the local API.
const REQUESTS_MAX: usize = 256;

/// A handle on the open store; clones share it. The file is closed when the last one is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    path: Arc<Path>,
    requests: mpsc::Sender<Request>,
    arrivals: watch::Receiver<u64>,
    health: watch::Receiver<Option<StoreError>>,
}

/// How much [`Store::unread`] gives at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TakeLimit {
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes of bodies; the first message is given even if it alone exceeds them.
    pub(crate) bytes: usize,
}

impl Store {
    /// Opens the store at `path`, or makes it if nothing is there, and reads what the messaging core needs to start. Checks
    /// the whole file, and blocks meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] naming the file and the remedy.
    pub(crate) fn open(path: &Path) -> Result<(Self, Snapshot), StoreError> {
        open::prepare(path)?;
        Self::start(Opener::new(path))
    }

    /// Opens the file as [`Store::open`] does and closes it again; nothing is made where none is. Blocks meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] naming the file and the remedy.
    pub(crate) fn check(path: &Path) -> Result<(), StoreError> {
        if open::existing(path)?.is_some() {
            Opener::new(path).open_checked()?;
        }
        Ok(())
    }

    fn start(opener: Opener) -> Result<(Self, Snapshot), StoreError> {
        let (database, batch, snapshot) = opener.open_checked()?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let (arrived, arrivals) = watch::channel(snapshot.inbox.last_arrival);
        let (sick, health) = watch::channel(None);
        let path = opener.path.as_path().into();
        Writer::spawn(opener, database, batch, receiver, arrived, sick)?;
        Ok((Self { path, requests, arrivals, health }, snapshot))
    }

    /// Applies a batch of the messaging core, whole or not at all. Returns once it is on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was applied, unless it is [`StoreError::Stopped`], after which nothing is known.
    pub(crate) async fn commit(&self, ops: Vec<StoreOp>) -> Result<(), StoreError> {
        self.write(Work::Commit, ops).await
    }

    /// Reads unread messages and consumes them.
    #[cfg(test)]
    async fn take_unread(&self, limit: TakeLimit) -> Result<Vec<InboxRow>, StoreError> {
        let rows = self.unread(0, limit).await?;
        self.consume(rows.iter().map(|row| (row.from, row.id)).collect()).await?;
        Ok(rows)
    }

    /// Unread messages that arrived after number `after` (0: all), oldest first, without taking them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn unread(&self, after: u64, limit: TakeLimit) -> Result<Vec<InboxRow>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Unread(after, limit, reply)).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Removes unread messages, named by sender and identifier, durably. Those that aren't there are ignored. Gives the number
    /// removed and the bytes of their bodies, to be reported to the core.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was removed.
    pub(crate) async fn consume(&self, named: Vec<(NodeId, MessageId)>) -> Result<(u64, u64), StoreError> {
        self.write(Work::Consume, named).await
    }

    /// Keeps a record, replacing the one that was there.
    ///
    /// # Errors
    /// [`StoreError`], among them [`StoreError::RecordTooLarge`] and [`StoreError::TooManyRecords`].
    pub(crate) async fn put<T: Serialize + Sync>(
        &self,
        bucket: Bucket,
        key: &str,
        value: &T,
    ) -> Result<(), StoreError> {
        let bytes = tables::encode_record(bucket, key, value)?;
        self.write(Work::Put, (bucket, key.to_owned(), bytes)).await
    }

    /// Removes a record; `false` when there was none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn remove(&self, bucket: Bucket, key: &str) -> Result<bool, StoreError> {
        self.write(Work::Remove, (bucket, key.to_owned())).await
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`StoreError`], among them [`StoreError::Damaged`] when the record is not a `T`.
    pub(crate) async fn get<T: Serialize + DeserializeOwned>(
        &self,
        bucket: Bucket,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Get(bucket, key.to_owned(), reply)).await?;
        let bytes = answer.await.map_err(|_| StoreError::Stopped)??;
        bytes.map(|bytes| tables::decode_record(&self.path, bucket, key, &bytes)).transpose()
    }

    /// Reads all records of a bucket, ordered by key.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub(crate) async fn list<T: Serialize + DeserializeOwned>(
        &self,
        bucket: Bucket,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::List(bucket, reply)).await?;
        let records = answer.await.map_err(|_| StoreError::Stopped)??;
        let typed = |(key, bytes): (String, Vec<u8>)| {
            tables::decode_record(&self.path, bucket, &key, &bytes).map(|value| (key, value))
        };
        records.into_iter().map(typed).collect()
    }

    /// Arrival number of the newest message ever put in the inbox; changes with each arrival.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.clone()
    }

    /// Why the store cannot work at present, if so: then every request is refused with this error, and the thread tries to open
    /// the file again by itself.
    pub(crate) fn health(&self) -> Option<StoreError> {
        self.health.borrow().clone()
    }

    /// Finishes what waits and closes the file.
    pub(crate) async fn close(self) {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Close(reply)).await.is_ok() {
            // The thread has ended already if the answer fails: the file is closed then too.
            let _ = answer.await;
        }
    }

    async fn write<I, O>(
        &self,
        work: fn(I, oneshot::Sender<Result<O, StoreError>>) -> Work,
        input: I,
    ) -> Result<O, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Write(work(input, reply))).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    async fn send(&self, request: Request) -> Result<(), StoreError> {
        self.requests.send(request).await.map_err(|_| StoreError::Stopped)
    }
}
