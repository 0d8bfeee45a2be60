//! Control messages between neighbours: floods, and the comparison of databases.
//!
//! ```text
//! version u8 | type u8 | …
//!   1 records   (age_s u16 | length u16 | record)*
//!   3 request   (origin [32] | kind u8)*
//!   4 digest    [32]
//!   5 heads     (issuer [32] | size u64)*
//!   6 want      (issuer [32] | size u64)*
//!   7 head      issuer [32] | size u64 | body
//!   8 summary   (origin [32] | kind u8 | sequence u64 | tie u64)*
//! ```
//! The entries of summaries, requests and lists of heads are in ascending order, each once.
//! Type 2 was a summary without ties. A link starts with a digest each way; whoever sees another one sends a summary; whoever lacks something requests it.

use std::borrow::Borrow;

use meshara_identity::NodeId;

use crate::codec::{Reader, Truncated};
use crate::heads::{HeadId, MAX_HEAD_LEN};
use crate::record::{Kind, MAX_RECORD_LEN, Rank, Record, RecordError};

/// Version of the format, the first byte.
pub const VERSION: u8 = 1;
/// Longest control message: one longest record fits, and a slow link isn't blocked for long.
pub const MAX_CONTROL_LEN: usize = MAX_RECORD_LEN + 16 * 1024;
/// Most entries in one summary or request, so that both stay under [`MAX_CONTROL_LEN`].
pub const MAX_ENTRIES: usize = 512;

/// A record and how long ago its origin made it, as far as the hops it crossed know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    /// Age in seconds, saturating.
    pub age_s: u16,
    /// The record.
    pub record: Record,
}

/// One line of a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummaryEntry {
    /// Whose record.
    pub origin: NodeId,
    /// Which one.
    pub kind: Kind,
    /// In which version the sender has it.
    pub sequence: u64,
    /// And which one of that sequence: [`Record::tie`].
    pub tie: u64,
}

impl SummaryEntry {
    pub(crate) const fn rank(&self) -> Rank {
        (self.sequence, self.tie)
    }
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Records, new to the sender or requested.
    Records(Vec<Aged>),
    /// A part of what the sender has.
    Summary(Vec<SummaryEntry>),
    /// Records that the sender wants.
    Request(Vec<(NodeId, Kind)>),
    /// A hash of all that the sender has.
    Digest([u8; 32]),
    /// Heads of issuers' logs that the sender has.
    Heads(Vec<HeadId>),
    /// Heads that the sender wants.
    WantHeads(Vec<HeadId>),
    /// A head that was wanted.
    Head {
        /// Which one.
        id: HeadId,
        /// What the authenticator judges, 1 to [`MAX_HEAD_LEN`] bytes.
        body: Vec<u8>,
    },
}

/// Why a control message is refused. The driver closes the link: an honest peer sends none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Ends before its fields do.
    #[error("the control message is truncated")]
    Truncated,
    /// Longer than [`MAX_CONTROL_LEN`].
    #[error("the control message is too long")]
    TooLong,
    /// Has bytes after its end.
    #[error("the control message has trailing bytes")]
    Trailing,
    /// Another version.
    #[error("unknown control version {0}")]
    UnknownVersion(u8),
    /// Another type.
    #[error("unknown control type {0}")]
    UnknownType(u8),
    /// An unknown kind in a summary or request.
    #[error("unknown record kind {0}")]
    UnknownKind(u8),
    /// Too many entries, or none.
    #[error("the control message has no or too many entries")]
    Entries,
    /// The entries of a summary or request are not in ascending order, or doubled.
    #[error("the entries of the control message are out of order")]
    Order,
    /// A record in it is malformed.
    #[error("malformed record: {0}")]
    Record(#[from] RecordError),
    /// A record's signature does not verify under its origin's routing key.
    #[error("a record's signature is forged")]
    BadSignature,
    /// A member record is not a certificate of this mesh for its origin.
    #[error("a member record is refused: {0}")]
    BadMember(crate::auth::MemberError),
    /// The peer requests more than any honest peer would.
    #[error("too many requests")]
    TooManyRequests,
    /// Control does not belong on a direct link.
    #[error("control on a direct link")]
    DirectLink,
    /// The core doesn't know the link (it may have closed it already).
    #[error("no such link")]
    UnknownLink,
}

impl From<Truncated> for ControlError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Message {
    /// Writes the message. The caller keeps to the limits; [`chunk_records`] helps.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Records(records) => {
                encode_records(MAX_CONTROL_LEN, records.iter().map(|aged| (aged.age_s, &aged.record)))
            }
            Self::Summary(entries) => {
                let mut out = vec![VERSION, 8];
                for entry in entries {
                    out.extend(entry.origin.0);
                    out.push(entry.kind.code());
                    out.extend(entry.sequence.to_be_bytes());
                    out.extend(entry.tie.to_be_bytes());
                }
                out
            }
            Self::Request(entries) => {
                let mut out = vec![VERSION, 3];
                for (origin, kind) in entries {
                    out.extend(origin.0);
                    out.push(kind.code());
                }
                out
            }
            Self::Digest(digest) => [&[VERSION, 4], digest.as_slice()].concat(),
            Self::Heads(ids) => encode_heads(5, ids),
            Self::WantHeads(ids) => encode_heads(6, ids),
            Self::Head { id, body } => {
                let mut out = encode_heads(7, std::slice::from_ref(id));
                out.extend(body);
                out
            }
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        if bytes.len() > MAX_CONTROL_LEN {
            return Err(ControlError::TooLong);
        }
        let mut r = Reader::new(bytes);
        let [version, code] = r.array()?;
        if version != VERSION {
            return Err(ControlError::UnknownVersion(version));
        }
        let message = match code {
            1 => Self::Records(read_all(&mut r, |r| {
                let (age_s, bytes) = raw_record(r)?;
                Ok(Aged { age_s, record: Record::decode(bytes)? })
            })?),
            8 => {
                let entries = read_all(&mut r, |r| {
                    let (origin, kind) = (r.node()?, read_kind(r)?);
                    Ok(SummaryEntry { origin, kind, sequence: r.u64()?, tie: r.u64()? })
                })?;
                if !entries.is_sorted_by(|a, b| (a.origin, a.kind) < (b.origin, b.kind)) {
                    return Err(ControlError::Order);
                }
                Self::Summary(entries)
            }
            3 => {
                let entries = read_all(&mut r, |r| Ok((r.node()?, read_kind(r)?)))?;
                if !entries.is_sorted_by(|a, b| a < b) {
                    return Err(ControlError::Order);
                }
                Self::Request(entries)
            }
            4 => {
                let digest = r.array()?;
                if !r.is_empty() {
                    return Err(ControlError::Trailing);
                }
                Self::Digest(digest)
            }
            5 => Self::Heads(read_heads(&mut r)?),
            6 => Self::WantHeads(read_heads(&mut r)?),
            7 => {
                let id = read_head(&mut r)?;
                let body = r.rest();
                if body.is_empty() {
                    return Err(ControlError::Truncated);
                }
                if body.len() > MAX_HEAD_LEN {
                    return Err(ControlError::TooLong);
                }
                Self::Head { id, body: body.to_vec() }
            }
            other => return Err(ControlError::UnknownType(other)),
        };
        Ok(message)
    }
}

/// A record as it came: its age in seconds and its bytes.
pub(crate) type RawRecord<'a> = (u16, &'a [u8]);

/// The records of a message, if it is one of records, unread. The message is sound as a whole before the first one is told.
pub(crate) fn raw_records(bytes: &[u8]) -> Result<Option<impl Iterator<Item = RawRecord<'_>>>, ControlError> {
    if !bytes.starts_with(&[VERSION, 1]) {
        return Ok(None);
    }
    if bytes.len() > MAX_CONTROL_LEN {
        return Err(ControlError::TooLong);
    }
    let records = bytes.get(2..).unwrap_or_default();
    let (mut r, mut count) = (Reader::new(records), 0);
    while !r.is_empty() {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(ControlError::Entries);
        }
        raw_record(&mut r)?;
    }
    if count == 0 {
        return Err(ControlError::Entries);
    }
    let mut r = Reader::new(records);
    Ok(Some(std::iter::from_fn(move || raw_record(&mut r).ok())))
}

/// Kind and length of each record in a message, with its age and length before it; nothing of other messages. For those who count bytes.
pub fn kinds(bytes: &[u8]) -> impl Iterator<Item = (Kind, usize)> {
    let records = raw_records(bytes).ok().flatten();
    let kind = |(_, bytes): RawRecord<'_>| Some((Record::peek(bytes)?.0, bytes.len() + 4));
    records.into_iter().flatten().filter_map(kind)
}

/// Whether a message is about heads. For those who count bytes.
#[must_use]
pub fn is_of_heads(bytes: &[u8]) -> bool {
    matches!(bytes, [VERSION, 5..=7, ..])
}

fn raw_record<'a>(r: &mut Reader<'a>) -> Result<RawRecord<'a>, Truncated> {
    let age_s = r.u16()?;
    let length = r.u16()?;
    Ok((age_s, r.bytes(usize::from(length))?))
}

fn encode_heads(code: u8, ids: &[HeadId]) -> Vec<u8> {
    let mut out = vec![VERSION, code];
    for id in ids {
        out.extend(id.issuer.0);
        out.extend(id.size.to_be_bytes());
    }
    out
}

fn read_head(r: &mut Reader<'_>) -> Result<HeadId, ControlError> {
    Ok(HeadId { issuer: r.node()?, size: r.u64()? })
}

fn read_heads(r: &mut Reader<'_>) -> Result<Vec<HeadId>, ControlError> {
    let ids = read_all(r, read_head)?;
    if ids.is_sorted_by(|a, b| a < b) { Ok(ids) } else { Err(ControlError::Order) }
}

fn read_kind(r: &mut Reader<'_>) -> Result<Kind, ControlError> {
    let code = r.u8()?;
    Kind::from_code(code).ok_or(ControlError::UnknownKind(code))
}

fn read_all<'a, T>(
    r: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, ControlError>,
) -> Result<Vec<T>, ControlError> {
    let mut entries = Vec::new();
    while !r.is_empty() {
        if entries.len() == MAX_ENTRIES {
            return Err(ControlError::Entries);
        }
        entries.push(read(r)?);
    }
    if entries.is_empty() { Err(ControlError::Entries) } else { Ok(entries) }
}

fn encode_records<'a>(size: usize, records: impl Iterator<Item = (u16, &'a Record)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    out.extend([VERSION, 1]);
    for (age_s, record) in records {
        let bytes = record.bytes();
        out.extend(age_s.to_be_bytes());
        out.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(bytes);
    }
    out
}

/// Writes records into as few messages as the limits allow.
#[must_use]
pub fn chunk_records<R: Borrow<Record>>(records: &[(u16, R)]) -> Vec<Vec<u8>> {
    let part = |start: usize, end: usize| {
        records.iter().take(end).skip(start).map(|(age_s, record)| (*age_s, record.borrow()))
    };
    let mut messages = Vec::new();
    let mut start = 0;
    let mut size = 2;
    for (at, (_, record)) in records.iter().enumerate() {
        let more = 4 + record.borrow().bytes().len();
        if at > start && (size + more > MAX_CONTROL_LEN || at - start == MAX_ENTRIES) {
            messages.push(encode_records(size, part(start, at)));
            start = at;
            size = 2;
        }
        size += more;
    }
    if start < records.len() {
        messages.push(encode_records(size, part(start, records.len())));
    }
    messages
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(sequence: u64, len: usize) -> Record {
        Record::sign(Kind::Member, NodeId([1; 32]), sequence, &vec![0; len], |_| [2; 64]).unwrap()
    }

    #[test]
    fn fixtures() {
        let id = NodeId([1; 32]);
        let summary =
            Message::Summary(vec![SummaryEntry { origin: id, kind: Kind::LinkState, sequence: 258, tie: 7 }]);
        let mut expected = vec![1, 8];
        expected.extend([1; 32]);
        expected.extend([3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(summary.encode(), expected);

        let mut expected = vec![1, 3];
        expected.extend([1; 32]);
        expected.push(1);
        assert_eq!(Message::Request(vec![(id, Kind::Member)]).encode(), expected);

        let mut expected = vec![1, 4];
        expected.extend([5; 32]);
        assert_eq!(Message::Digest([5; 32]).encode(), expected);

        let head = HeadId { issuer: id, size: 258 };
        let named = [&[1; 32][..], &[0, 0, 0, 0, 0, 0, 1, 2]].concat();
        assert_eq!(Message::Heads(vec![head]).encode(), [&[1, 5][..], &named].concat());
        assert_eq!(Message::WantHeads(vec![head]).encode(), [&[1, 6][..], &named].concat());
        let whole = Message::Head { id: head, body: vec![8, 9] };
        assert_eq!(whole.encode(), [&[1, 7][..], &named, &[8, 9]].concat());

        let record = record(1, 0);
        let mut expected = vec![1, 1, 0, 3, 0, 108];
        expected.extend(record.bytes());
        assert_eq!(Message::Records(vec![Aged { age_s: 3, record }]).encode(), expected);
    }

    #[test]
    fn refuses() {
        assert_eq!(Message::decode(&[1]), Err(ControlError::Truncated));
        assert_eq!(Message::decode(&[2, 1]), Err(ControlError::UnknownVersion(2)));
        assert_eq!(Message::decode(&[1, 9]), Err(ControlError::UnknownType(9)));
        assert_eq!(Message::decode(&[1, 1]), Err(ControlError::Entries));
        assert_eq!(
            Message::decode(&[1, 1, 0, 0, 0, 1, 7]),
            Err(ControlError::Record(RecordError::Truncated))
        );
        assert_eq!(Message::decode(&vec![1; MAX_CONTROL_LEN + 1]), Err(ControlError::TooLong));
        let mut bytes = Message::Digest([0; 32]).encode();
        bytes.push(0);
        assert_eq!(Message::decode(&bytes), Err(ControlError::Trailing));
        let mut bytes = vec![1, 3];
        bytes.extend([0; 33]);
        assert_eq!(Message::decode(&bytes), Err(ControlError::UnknownKind(0)));
        let many = Message::Request(vec![(NodeId([1; 32]), Kind::Member); MAX_ENTRIES + 1]).encode();
        assert_eq!(Message::decode(&many), Err(ControlError::Entries));
        let (one, two) = (NodeId([1; 32]), NodeId([2; 32]));
        let request = |entries| Message::decode(&Message::Request(entries).encode());
        assert!(request(vec![(one, Kind::Member), (one, Kind::LinkState), (two, Kind::Member)]).is_ok());
        assert_eq!(request(vec![(one, Kind::Member); 2]), Err(ControlError::Order));
        assert_eq!(request(vec![(two, Kind::Member), (one, Kind::LinkState)]), Err(ControlError::Order));
        let entry = |origin, kind, sequence| SummaryEntry { origin, kind, sequence, tie: 1 };
        assert_eq!(Message::decode(&[1, 2]), Err(ControlError::UnknownType(2)));
        let summary = |entries| Message::decode(&Message::Summary(entries).encode());
        assert!(summary(vec![entry(one, Kind::Member, 2), entry(one, Kind::Addresses, 1)]).is_ok());
        let doubled = vec![entry(one, Kind::Member, 1), entry(one, Kind::Member, 2)];
        assert_eq!(summary(doubled), Err(ControlError::Order));
        let head = |size| HeadId { issuer: one, size };
        for lists in [Message::Heads, Message::WantHeads] {
            let read =
                |sizes: &[u64]| Message::decode(&lists(sizes.iter().copied().map(head).collect()).encode());
            assert!(read(&[0, 1, 9]).is_ok());
            assert_eq!(read(&[1, 1]), Err(ControlError::Order));
            assert_eq!(read(&[9, 1]), Err(ControlError::Order));
            assert_eq!(read(&[]), Err(ControlError::Entries));
        }
        let body = |len| Message::decode(&Message::Head { id: head(1), body: vec![0; len] }.encode());
        assert!(body(MAX_HEAD_LEN).is_ok());
        assert_eq!(body(MAX_HEAD_LEN + 1), Err(ControlError::TooLong));
        assert_eq!(body(0), Err(ControlError::Truncated));
    }

    #[test]
    fn chunks_keep_to_the_limits() {
        let records: Vec<_> = (0..2000).map(|n| (0, record(n, (n as usize * 37) % 15_000))).collect();
        let mut back = Vec::new();
        for chunk in chunk_records(&records) {
            assert!(chunk.len() <= MAX_CONTROL_LEN);
            let Message::Records(part) = Message::decode(&chunk).unwrap() else { panic!() };
            back.extend(part.into_iter().map(|aged| (aged.age_s, aged.record)));
        }
        assert_eq!(back, records);
        assert!(chunk_records::<Record>(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn decoded_is_canonical(mut bytes: Vec<u8>, code in 1u8..9) {
            for (to, from) in bytes.iter_mut().zip([VERSION, code]) { *to = from; }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn round_trip(entries in proptest::collection::vec((any::<[u8; 32]>(), 1u8..4, any::<u64>(), any::<u64>()), 1..20)) {
            let mut entries: Vec<_> = entries.into_iter().map(|(origin, kind, sequence, tie)| SummaryEntry {
                origin: NodeId(origin), kind: Kind::from_code(kind).unwrap(), sequence, tie }).collect();
            entries.sort_unstable_by_key(|entry| (entry.origin, entry.kind));
            entries.dedup_by_key(|entry| (entry.origin, entry.kind));
            let message = Message::Summary(entries);
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }
}
