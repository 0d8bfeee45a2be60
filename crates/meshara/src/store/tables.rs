//! Tables of the store, and how rows and records are written in them.

use std::{fmt, path::Path};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_messaging::{FlowRow, InboxRow, MarkRow, MessageId, OutboxRow};
use redb::TableDefinition;
use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

/// Version of the tables below. A store of a later version is refused.
pub(super) const FORMAT: u32 = 1;

/// Longest key of a record, bytes: a name or the text form of a NodeId, with much to spare.
pub(crate) const KEY_MAX: usize = 256;
/// Longest value of a record, bytes: an address list or a service, with much to spare.
pub(crate) const VALUE_MAX: usize = 64 << 10;
/// Records in one bucket: an address book of 10,000 nodes, with much to spare.
pub(crate) const RECORDS_MAX: u64 = 65_536;

/// `format` and `batch`, the number of the last transaction.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// (destination, number) to `id 16 · sent_at u64 · body`.
pub(super) const OUTBOX: TableDefinition<'_, (&[u8; 32], u64), &[u8]> = TableDefinition::new("outbox");
/// Destination to (incarnation, next number).
pub(super) const FLOWS: TableDefinition<'_, &[u8; 32], (u64, u64)> = TableDefinition::new("flows");
/// Arrival number to `sender 32 · id 16 · sent_at u64 · body`.
pub(super) const INBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("inbox");
/// Sender to (incarnation, stored).
pub(super) const MARKS: TableDefinition<'_, &[u8; 32], (u64, u64)> = TableDefinition::new("marks");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_BATCH: &str = "batch";

/// A small table of records by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// Exposed services by name.
    Services,
    /// Addresses of nodes by NodeId.
    Addresses,
    /// Settings that the node itself changes.
    Settings,
    /// Registered workloads by name.
    Workloads,
    /// What issuers state about their workload roots, by NodeId.
    WorkloadRoots,
    /// Bundles of other trust domains by name.
    Federation,
}

impl Bucket {
    pub(super) const ALL: [Self; 6] = [
        Self::Services,
        Self::Addresses,
        Self::Settings,
        Self::Workloads,
        Self::WorkloadRoots,
        Self::Federation,
    ];

    pub(super) const fn table(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Services => TableDefinition::new("services"),
            Self::Addresses => TableDefinition::new("addresses"),
            Self::Settings => TableDefinition::new("settings"),
            Self::Workloads => TableDefinition::new("workloads"),
            Self::WorkloadRoots => TableDefinition::new("workload-roots"),
            Self::Federation => TableDefinition::new("federation"),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "services",
            Self::Addresses => "addresses",
            Self::Settings => "settings",
            Self::Workloads => "workloads",
            Self::WorkloadRoots => "workload-roots",
            Self::Federation => "federation",
        })
    }
}

pub(super) fn encode_record<T: Serialize>(
    bucket: Bucket,
    key: &str,
    value: &T,
) -> Result<Vec<u8>, StoreError> {
    let too_large = |size| {
        let key = key.chars().take(KEY_MAX).collect();
        StoreError::RecordTooLarge { bucket, key, size }
    };
    if key.len() > KEY_MAX {
        return Err(too_large(key.len()));
    }
    let record =
        |error: postcard::Error| StoreError::Record { bucket, key: key.into(), detail: error.to_string() };
    let bytes = postcard::to_stdvec(value).map_err(record)?;
    if bytes.len() > VALUE_MAX { Err(too_large(bytes.len())) } else { Ok(bytes) }
}

/// Takes only what [`encode_record`] writes: postcard alone would take longer spellings of a number.
pub(super) fn decode_record<T: Serialize + DeserializeOwned>(
    path: &Path,
    bucket: Bucket,
    key: &str,
    bytes: &[u8],
) -> Result<T, StoreError> {
    let damaged = |detail| StoreError::damaged(path, format!("record {key:?} of {bucket}: {detail}"));
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes too many", rest.len())));
    }
    match postcard::to_stdvec(&value) {
        Ok(canonical) if canonical == bytes => Ok(value),
        _ => Err(damaged("not the canonical encoding".into())),
    }
}

pub(super) fn encode_outbox(row: &OutboxRow, value: &mut Vec<u8>) {
    value.clear();
    value.extend(row.id.as_bytes());
    value.extend(row.sent_at_unix_ms.to_be_bytes());
    value.extend(&row.body);
}

pub(super) fn encode_inbox(row: &InboxRow, value: &mut Vec<u8>) {
    value.clear();
    value.extend(row.from.0);
    value.extend(row.id.as_bytes());
    value.extend(row.sent_at_unix_ms.to_be_bytes());
    value.extend(&row.body);
}

pub(super) fn decode_outbox(
    path: &Path,
    key: (&[u8; 32], u64),
    value: &[u8],
) -> Result<OutboxRow, StoreError> {
    let (id, rest) = split(path, "outbox", value)?;
    let (sent_at, body) = split(path, "outbox", rest)?;
    Ok(OutboxRow {
        to: NodeId(*key.0),
        seq: key.1,
        id: MessageId::from_bytes(id),
        sent_at_unix_ms: u64::from_be_bytes(sent_at),
        body: Bytes::copy_from_slice(body),
    })
}

pub(super) fn decode_inbox(path: &Path, arrival: u64, value: &[u8]) -> Result<InboxRow, StoreError> {
    let (from, rest) = split(path, "inbox", value)?;
    let (id, rest) = split(path, "inbox", rest)?;
    let (sent_at, body) = split(path, "inbox", rest)?;
    Ok(InboxRow {
        arrival,
        from: NodeId(from),
        id: MessageId::from_bytes(id),
        sent_at_unix_ms: u64::from_be_bytes(sent_at),
        body: Bytes::copy_from_slice(body),
    })
}

/// Entry for fuzzing: reads `value` as every kind of row; whether it is one of them.
pub(super) fn decodes(value: &[u8]) -> bool {
    let path = Path::new("fuzzed");
    let record = |bucket| {
        decode_record::<String>(path, bucket, "key", value).is_ok()
            || decode_record::<Vec<String>>(path, bucket, "key", value).is_ok()
            || decode_record::<Vec<std::net::SocketAddr>>(path, bucket, "key", value).is_ok()
            || decode_record::<u16>(path, bucket, "key", value).is_ok()
    };
    decode_outbox(path, (&[0; 32], 1), value).is_ok()
        | decode_inbox(path, 1, value).is_ok()
        | Bucket::ALL.into_iter().any(record)
}

/// Bytes of an inbox row that are not its body.
pub(super) const INBOX_HEADER: usize = 32 + 16 + 8;

pub(super) fn flow(to: &[u8; 32], (incarnation, next_seq): (u64, u64)) -> FlowRow {
    FlowRow { to: NodeId(*to), incarnation, next_seq }
}

pub(super) fn mark(from: &[u8; 32], (incarnation, stored): (u64, u64)) -> MarkRow {
    MarkRow { from: NodeId(*from), incarnation, stored }
}

fn split<'a, const N: usize>(
    path: &Path,
    table: &str,
    bytes: &'a [u8],
) -> Result<([u8; N], &'a [u8]), StoreError> {
    let (head, rest) = bytes
        .split_first_chunk()
        .ok_or_else(|| StoreError::damaged(path, format!("a short row in {table}")))?;
    Ok((*head, rest))
}
