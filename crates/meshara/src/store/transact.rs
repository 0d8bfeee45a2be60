//! One transaction: what a group of requests changes, applied in their order.

use std::{collections::BTreeMap, path::Path};

use meshara_identity::NodeId;
use meshara_messaging::{InboxRow, MessageId, StoreOp};
use redb::{Database, Durability, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use tokio::sync::oneshot;

use super::{
    StoreError, TakeLimit,
    tables::{self, Bucket, FLOWS, INBOX, MARKS, META, META_BATCH, OUTBOX, RECORDS_MAX},
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request that changes the store.
#[derive(Debug)]
pub(super) enum Work {
    Commit(Vec<StoreOp>, Reply<()>),
    Consume(Vec<(NodeId, MessageId)>, Reply<(u64, u64)>),
    Put((Bucket, String, Vec<u8>), Reply<()>),
    Remove((Bucket, String), Reply<bool>),
}

/// The answer to a [`Work`], in the same order; given only once the transaction is durable.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    Consumed((u64, u64)),
    Put(Result<(), StoreError>),
    Removed(bool),
}

/// What a transaction did.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) outcomes: Vec<Outcome>,
    /// Arrival number of the last message put in the inbox.
    pub(super) arrived: Option<u64>,
}

impl Work {
    /// Answers after the transaction is durable.
    pub(super) fn answer(self, outcome: Outcome) {
        // A caller that has gone away needs no answer.
        let _ = match (self, outcome) {
            (Self::Commit(_, reply), _) => reply.send(Ok(())).is_ok(),
            (Self::Consume(_, reply), Outcome::Consumed(counts)) => reply.send(Ok(counts)).is_ok(),
            (Self::Put(_, reply), Outcome::Put(result)) => reply.send(result).is_ok(),
            (Self::Remove(_, reply), Outcome::Removed(was)) => reply.send(Ok(was)).is_ok(),
            (Self::Consume(..) | Self::Put(..) | Self::Remove(..), _) => false,
        };
    }

    /// Answers that nothing was changed.
    pub(super) fn refuse(self, error: StoreError) {
        let _ = match self {
            Self::Commit(_, reply) => reply.send(Err(error)).is_ok(),
            Self::Consume(_, reply) => reply.send(Err(error)).is_ok(),
            Self::Put(_, reply) => reply.send(Err(error)).is_ok(),
            Self::Remove(_, reply) => reply.send(Err(error)).is_ok(),
        };
    }
}

/// Applies `group` in one transaction with number `batch` and makes it durable. `done` is set before the commit, and holds if
/// the commit proves durable although it reported an error.
pub(super) fn run(
    path: &Path,
    database: &Database,
    batch: u64,
    group: &[Work],
    done: &mut Done,
) -> Result<(), StoreError> {
    let error = |error: redb::Error| StoreError::database(path, error);
    let mut write = database.begin_write().map_err(|e| error(e.into()))?;
    write.set_durability(Durability::Immediate).map_err(|e| error(e.into()))?;
    for work in group {
        let outcome = match work {
            Work::Commit(ops, _) => {
                done.arrived = apply(&write, ops).map_err(error)?.or(done.arrived);
                Outcome::Done
            }
            Work::Consume(ids, _) => Outcome::Consumed(consume(path, &write, ids)?),
            Work::Put((bucket, key, value), _) => Outcome::Put(put(path, &write, *bucket, key, value)?),
            Work::Remove((bucket, key), _) => Outcome::Removed(remove(&write, *bucket, key).map_err(error)?),
        };
        done.outcomes.push(outcome);
    }
    let number = |write: &WriteTransaction| -> Result<(), redb::Error> {
        write.open_table(META)?.insert(META_BATCH, batch)?;
        Ok(())
    };
    number(&write).map_err(error)?;
    write.commit().map_err(|e| error(e.into()))
}

fn apply(write: &WriteTransaction, ops: &[StoreOp]) -> Result<Option<u64>, redb::Error> {
    let mut outbox = write.open_table(OUTBOX)?;
    let mut flows = write.open_table(FLOWS)?;
    let mut inbox = write.open_table(INBOX)?;
    let mut marks = write.open_table(MARKS)?;
    let (mut value, mut arrived) = (Vec::new(), None);
    for op in ops {
        match op {
            StoreOp::OutboxPut(row) => {
                tables::encode_outbox(row, &mut value);
                outbox.insert((&row.to.0, row.seq), value.as_slice())?;
            }
            StoreOp::OutboxFlow(row) => {
                flows.insert(&row.to.0, (row.incarnation, row.next_seq))?;
            }
            StoreOp::OutboxSettle { to, through } => settle(&mut outbox, &to.0, *through)?,
            StoreOp::InboxPut(row) => {
                tables::encode_inbox(row, &mut value);
                inbox.insert(row.arrival, value.as_slice())?;
                arrived = Some(row.arrival);
            }
            StoreOp::Mark(row) => {
                marks.insert(&row.from.0, (row.incarnation, row.stored))?;
            }
        }
    }
    Ok(arrived)
}

fn settle(
    outbox: &mut Table<'_, (&'static [u8; 32], u64), &'static [u8]>,
    to: &[u8; 32],
    through: u64,
) -> Result<(), redb::Error> {
    outbox.retain_in::<(&[u8; 32], u64), _>((to, 0)..=(to, through), |_, _| false)?;
    Ok(())
}

/// Removes messages by sender and identifier; gives their number and the bytes of their bodies. An identifier is the sender's choice,
/// so it tells apart only its own; one that it gave twice is removed once for each time that it is named, oldest first. The messages
/// are mostly the oldest ones, so looking from the start finds them soon.
fn consume(
    path: &Path,
    write: &WriteTransaction,
    named: &[(NodeId, MessageId)],
) -> Result<(u64, u64), StoreError> {
    let error = |error: redb::Error| StoreError::database(path, error);
    let mut inbox = write.open_table(INBOX).map_err(|e| error(e.into()))?;
    let mut left: BTreeMap<_, usize> = BTreeMap::new();
    for message in named {
        *left.entry(*message).or_default() += 1;
    }
    let mut found = Vec::new();
    for row in inbox.iter().map_err(|e| error(e.into()))? {
        if left.is_empty() {
            break;
        }
        let (arrival, value) = row.map_err(|e| error(e.into()))?;
        let row = tables::decode_inbox(path, arrival.value(), value.value())?;
        let message = (row.from, row.id);
        let Some(times) = left.get_mut(&message) else { continue };
        *times -= 1;
        if *times == 0 {
            left.remove(&message);
        }
        found.push((row.arrival, row.body.len() as u64));
    }
    for (arrival, _) in &found {
        inbox.remove(arrival).map_err(|e| error(e.into()))?;
    }
    Ok((found.len() as u64, found.iter().map(|(_, bytes)| bytes).sum()))
}

/// Unread messages that arrived after `after`, oldest first.
pub(super) fn unread(
    path: &Path,
    inbox: &impl ReadableTable<u64, &'static [u8]>,
    after: u64,
    limit: TakeLimit,
) -> Result<Vec<InboxRow>, StoreError> {
    let error = |error: redb::Error| StoreError::database(path, error);
    let (mut rows, mut bytes) = (Vec::new(), 0_usize);
    for row in inbox.range(after.saturating_add(1)..).map_err(|e| error(e.into()))? {
        let (arrival, value) = row.map_err(|e| error(e.into()))?;
        let row = tables::decode_inbox(path, arrival.value(), value.value())?;
        bytes = bytes.saturating_add(row.body.len());
        if rows.len() >= limit.messages || (bytes > limit.bytes && !rows.is_empty()) {
            break;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The inner error is the caller's own; the outer one fails the transaction.
fn put(
    path: &Path,
    write: &WriteTransaction,
    bucket: Bucket,
    key: &str,
    value: &[u8],
) -> Result<Result<(), StoreError>, StoreError> {
    let put = || -> Result<bool, redb::Error> {
        let mut table = write.open_table(bucket.table())?;
        if table.len()? >= RECORDS_MAX && table.get(key)?.is_none() {
            return Ok(false);
        }
        table.insert(key, value)?;
        Ok(true)
    };
    let kept = put().map_err(|error| StoreError::database(path, error))?;
    Ok(if kept { Ok(()) } else { Err(StoreError::TooManyRecords { bucket }) })
}

fn remove(write: &WriteTransaction, bucket: Bucket, key: &str) -> Result<bool, redb::Error> {
    Ok(write.open_table(bucket.table())?.remove(key)?.is_some())
}
