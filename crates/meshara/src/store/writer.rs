//! The thread that owns the database.
//!
//! After an error the outcome of a transaction is in doubt: a commit may be on the disk although its sync failed. So every transaction
//! writes its number; the thread opens the file again, which repairs it, and looks whether that number is there. Only then
//! it answers. Until the file opens, every other request is refused with the error.

use std::{thread, time::Duration};

use meshara_messaging::InboxRow;
use redb::{Database, ReadableDatabase, ReadableTable};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    StoreError, TakeLimit,
    open::Opener,
    tables::{Bucket, INBOX},
    transact::{self, Done, Reply, Work},
};

/// Requests in one transaction: all that can wait.
const GROUP_MAX: usize = super::REQUESTS_MAX;
/// Pause between attempts to open the file after an error: soon after a disk has space again, and not a busy loop.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// A record as stored: key and value.
pub(super) type RawRecord = (String, Vec<u8>);

/// What the handle asks of the thread.
#[derive(Debug)]
pub(super) enum Request {
    Write(Work),
    Get(Bucket, String, Reply<Option<Vec<u8>>>),
    List(Bucket, Reply<Vec<RawRecord>>),
    Unread(u64, TakeLimit, Reply<Vec<InboxRow>>),
    Close(oneshot::Sender<()>),
}

pub(super) struct Writer {
    opener: Opener,
    requests: mpsc::Receiver<Request>,
    arrived: watch::Sender<u64>,
    sick: watch::Sender<Option<StoreError>>,
    /// Number of the last durable transaction.
    batch: u64,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn spawn(
        opener: Opener,
        database: Database,
        batch: u64,
        requests: mpsc::Receiver<Request>,
        arrived: watch::Sender<u64>,
        sick: watch::Sender<Option<StoreError>>,
    ) -> Result<(), StoreError> {
        let path = opener.path.clone();
        let writer = Self { opener, requests, arrived, sick, batch };
        let thread = thread::Builder::new().name("meshara-store".into());
        thread.spawn(move || writer.run(database)).map_err(|error| StoreError::io(&path, &error))?;
        Ok(())
    }

    fn run(mut self, mut database: Database) {
        while let Some(first) = self.requests.blocking_recv() {
            let (mut group, mut reads, mut close) = (Vec::new(), Vec::new(), None);
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Write(work) => group.push(work),
                    Request::Close(reply) => close = Some(reply),
                    read => reads.push(read),
                }
                let more = group.len() + reads.len() < GROUP_MAX && close.is_none();
                next = if more { self.requests.try_recv().ok() } else { None };
            }
            if !group.is_empty() {
                match self.write(database, group) {
                    Some(working) => database = working,
                    None => return,
                }
            }
            reads.into_iter().for_each(|request| self.read(&database, request));
            if let Some(reply) = close {
                self.requests.close();
                drop(database);
                let _ = reply.send(());
                return;
            }
        }
    }

    /// Makes a group durable and answers it. Gives back a database that works, or `None` when the handles are gone.
    fn write(&mut self, database: Database, group: Vec<Work>) -> Option<Database> {
        let number = self.batch + 1;
        let path = &self.opener.path;
        let mut done = Done::default();
        let error = match self.opener.guarded(|| transact::run(path, &database, number, &group, &mut done)) {
            Ok(()) => {
                self.finish(number, done, group);
                return Some(database);
            }
            Err(error) => error,
        };
        tracing::warn!(%error, "the store failed; opening it again");
        // Closing may fail like any other access; the file is opened afresh anyway.
        let _ = self.opener.guarded(|| {
            drop(database);
            Ok(())
        });
        let (database, durable) = self.reopen()?;
        if durable == number {
            self.finish(number, done, group);
        } else {
            group.into_iter().for_each(|work| work.refuse(error.clone()));
        }
        Some(database)
    }

    fn finish(&mut self, number: u64, done: Done, group: Vec<Work>) {
        self.batch = number;
        // First, so that whoever has an answer sees the arrivals that it includes.
        if let Some(arrival) = done.arrived {
            self.arrived.send_replace(arrival);
        }
        group.into_iter().zip(done.outcomes).for_each(|(work, outcome)| work.answer(outcome));
    }

    /// Tries to open the file until it works; refuses requests meanwhile.
    fn reopen(&mut self) -> Option<(Database, u64)> {
        loop {
            let error = match self.opener.reopen() {
                Ok(opened) => {
                    self.sick.send_replace(None);
                    return Some(opened);
                }
                Err(error) => error,
            };
            self.sick.send_replace(Some(error.clone()));
            thread::sleep(REOPEN_PAUSE);
            loop {
                match self.requests.try_recv() {
                    Ok(Request::Close(_)) | Err(mpsc::error::TryRecvError::Disconnected) => return None,
                    Ok(request) => request.refuse(error.clone()),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
            }
        }
    }

    fn read(&self, database: &Database, request: Request) {
        match request {
            Request::Get(bucket, key, reply) => {
                let _ = reply.send(self.opener.guarded(|| self.get(database, bucket, &key)));
            }
            Request::List(bucket, reply) => {
                let _ = reply.send(self.opener.guarded(|| self.list(database, bucket)));
            }
            Request::Unread(after, limit, reply) => {
                let _ = reply.send(self.opener.guarded(|| self.unread(database, after, limit)));
            }
            Request::Write(_) | Request::Close(_) => {}
        }
    }

    fn get(&self, database: &Database, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let get = || -> Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(bucket.table())?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        get().map_err(|error| self.opener.error(error))
    }

    fn unread(&self, database: &Database, after: u64, limit: TakeLimit) -> Result<Vec<InboxRow>, StoreError> {
        let table = || -> Result<_, redb::Error> { Ok(database.begin_read()?.open_table(INBOX)?) };
        let table = table().map_err(|error| self.opener.error(error))?;
        transact::unread(&self.opener.path, &table, after, limit)
    }

    fn list(&self, database: &Database, bucket: Bucket) -> Result<Vec<RawRecord>, StoreError> {
        let list = || -> Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(bucket.table())?;
            let mut records = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                records.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(records)
        };
        list().map_err(|error| self.opener.error(error))
    }
}

impl Request {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Write(work) => work.refuse(error),
            Self::Get(.., reply) => drop(reply.send(Err(error))),
            Self::List(_, reply) => drop(reply.send(Err(error))),
            Self::Unread(.., reply) => drop(reply.send(Err(error))),
            Self::Close(_) => {}
        }
    }
}
