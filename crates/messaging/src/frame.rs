//! The frames of a message channel: version 1, fixed-width big-endian fields, one encoding per meaning.
//!
//! ```text
//! every frame   version u8 = 1 · kind u8
//! 1 Open        incarnation u64 · settled u64 · next u64
//! 2 Data        incarnation u64 · settled u64 · first u64 · count u16 · count × (id 16 · sent_at u64 · length u32 · body)
//! 3 Ack         incarnation u64 · stored u64 · expected u64 · resume u8 · trouble u8 · window u32 · window bytes u64
//! 4 Denied      length u8 · name of the rule: the receiver's policy denies the messages. For the drivers alone: the core never sees it
//! ```
//! The channel carries whole frames; the driver delimits them with their length, at most [`MAX_FRAME`].

use bytes::{Buf, BufMut, Bytes};

use crate::MessageId;

/// Version byte of every frame.
pub const VERSION: u8 = 1;
/// Largest body, bytes: the product's promise, see `docs/messaging.md`.
pub const MAX_MESSAGE: usize = 1 << 20;
/// A Data frame is closed once it holds this much: large enough that its header and the peer's wake-up are small beside
/// it, small enough that an acknowledgement waits behind little.
pub const FRAME_TARGET: usize = 64 << 10;
/// Most messages in one Data frame: a 64 KiB frame of empty bodies holds 2,340.
pub const MAX_COUNT: usize = 4_096;
/// Largest frame, bytes: one message of the largest size that was added to a frame just below its target.
pub const MAX_FRAME: usize = DATA_HEADER + FRAME_TARGET + MESSAGE_HEADER + MAX_MESSAGE;

const DATA_HEADER: usize = 2 + 3 * 8 + 2;
const MESSAGE_HEADER: usize = 16 + 8 + 4;
const OPEN: u8 = 1;
const DATA: u8 = 2;
const ACK: u8 = 3;
const DENIED: u8 = 4;

/// Whether a frame carries messages, which a receiver's policy may deny.
#[must_use]
pub fn carries_messages(frame: &[u8]) -> bool {
    frame.starts_with(&[VERSION, DATA])
}

/// The beginning of the frame that says which rule denied messages.
pub const DENIED_HEAD: [u8; 2] = [VERSION, DENIED];

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Sender: where my numbering stands; answer with an Ack that says where to resume.
    Open(Open),
    /// Sender: messages.
    Data(Data),
    /// Receiver: what is stored, and how much more may come.
    Ack(Ack),
}

/// Opens a flow on a channel, or asks a silent receiver where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Random name of the sender's numbering.
    pub incarnation: u64,
    /// Everything up to this number is acknowledged or given up, and will not come again.
    pub settled: u64,
    /// Number that the sender's next new message gets; above `settled`.
    pub next: u64,
}

/// Consecutive messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// As in [`Open`].
    pub incarnation: u64,
    /// As in [`Open`].
    pub settled: u64,
    /// Number of the first message; above `settled`.
    pub first: u64,
    /// The messages, at least one.
    pub messages: Vec<Envelope>,
}

/// One message as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Identifier.
    pub id: MessageId,
    /// When it was submitted, Unix milliseconds by the sender's clock.
    pub sent_at_unix_ms: u64,
    /// Body.
    pub body: Bytes,
}

impl Envelope {
    /// Bytes that it takes in a Data frame.
    pub(crate) fn encoded_len(body: usize) -> usize {
        MESSAGE_HEADER.saturating_add(body)
    }
}

/// What the receiver has stored, and how much more may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The numbering that this speaks of.
    pub incarnation: u64,
    /// Everything up to this number is durable here, or settled at the sender.
    pub stored: u64,
    /// The next number that will be taken; above `stored`.
    pub expected: u64,
    /// Go on from `expected`, whatever was sent before.
    pub resume: bool,
    /// Why nothing is taken at present.
    pub trouble: Option<Trouble>,
    /// Messages that may be unacknowledged at once, counted from `stored`.
    pub window: u32,
    /// Bytes of bodies that may be unacknowledged at once.
    pub window_bytes: u64,
}

/// Why a receiver takes nothing at present. It says by itself when that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Trouble {
    /// Its inbox is full of unread messages.
    InboxFull,
    /// Its store fails, for example on a full disk.
    StoreFailing,
}

/// Bytes that are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A version that this node does not speak.
    #[error("message frame of version {found}, this node speaks {VERSION}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// A kind that version 1 does not have.
    #[error("message frame of unknown kind {0}")]
    Kind(u8),
    /// The bytes end inside a field.
    #[error("message frame ends early")]
    Truncated,
    /// Bytes follow the last field.
    #[error("{0} bytes after the end of a message frame")]
    Trailing(usize),
    /// A frame longer than [`MAX_FRAME`].
    #[error("message frame of {0} bytes, the maximum is {MAX_FRAME}")]
    TooLong(usize),
    /// A body longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes, the maximum is {MAX_MESSAGE}")]
    MessageTooLong(usize),
    /// A field has a value that no sender writes.
    #[error("message frame with an impossible {0}")]
    Field(&'static str),
}

impl Frame {
    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Open(open) => {
                let mut out = start(OPEN, 24);
                out.put_u64(open.incarnation);
                out.put_u64(open.settled);
                out.put_u64(open.next);
                out
            }
            Self::Data(data) => {
                let bodies: usize = data.messages.iter().map(|m| Envelope::encoded_len(m.body.len())).sum();
                let mut out = start(DATA, DATA_HEADER + bodies);
                out.put_u64(data.incarnation);
                out.put_u64(data.settled);
                out.put_u64(data.first);
                // Both casts are exact: the core closes a frame at MAX_COUNT and refuses larger bodies.
                out.put_u16(data.messages.len() as u16);
                for message in &data.messages {
                    out.put_slice(message.id.as_bytes());
                    out.put_u64(message.sent_at_unix_ms);
                    out.put_u32(message.body.len() as u32);
                    out.put_slice(&message.body);
                }
                out
            }
            Self::Ack(ack) => {
                let mut out = start(ACK, 38);
                out.put_u64(ack.incarnation);
                out.put_u64(ack.stored);
                out.put_u64(ack.expected);
                out.put_u8(u8::from(ack.resume));
                out.put_u8(match ack.trouble {
                    None => 0,
                    Some(Trouble::InboxFull) => 1,
                    Some(Trouble::StoreFailing) => 2,
                });
                out.put_u32(ack.window);
                out.put_u64(ack.window_bytes);
                out
            }
        }
    }

    /// Reads a frame that ends where the bytes end. Bodies share the memory of `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_FRAME {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let b = &mut bytes;
        let version = b.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let frame = match b.try_get_u8()? {
            OPEN => Self::Open(decode_open(b)?),
            DATA => Self::Data(decode_data(b)?),
            ACK => Self::Ack(decode_ack(b)?),
            kind => return Err(DecodeError::Kind(kind)),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(DecodeError::Trailing(bytes.len())) }
    }
}

impl From<bytes::TryGetError> for DecodeError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

fn start(kind: u8, rest: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + rest);
    out.extend([VERSION, kind]);
    out
}

fn decode_open(b: &mut Bytes) -> Result<Open, DecodeError> {
    let open = Open { incarnation: b.try_get_u64()?, settled: b.try_get_u64()?, next: b.try_get_u64()? };
    if open.next <= open.settled {
        return Err(DecodeError::Field("next number"));
    }
    Ok(open)
}

fn decode_data(b: &mut Bytes) -> Result<Data, DecodeError> {
    let (incarnation, settled, first) = (b.try_get_u64()?, b.try_get_u64()?, b.try_get_u64()?);
    let count = usize::from(b.try_get_u16()?);
    if count == 0 || count > MAX_COUNT {
        return Err(DecodeError::Field("count"));
    }
    // The number after the last must exist too: the receiver expects it next.
    if first <= settled || first.checked_add(count as u64).is_none() {
        return Err(DecodeError::Field("first number"));
    }
    // The count is the peer's word: reserve no more than the bytes could hold.
    let mut messages = Vec::with_capacity(count.min(b.len() / MESSAGE_HEADER));
    for _ in 0..count {
        let mut id = [0; 16];
        b.try_copy_to_slice(&mut id)?;
        let sent_at_unix_ms = b.try_get_u64()?;
        let length = b.try_get_u32()? as usize;
        if length > MAX_MESSAGE {
            return Err(DecodeError::MessageTooLong(length));
        }
        if length > b.len() {
            return Err(DecodeError::Truncated);
        }
        messages.push(Envelope { id: MessageId::from_bytes(id), sent_at_unix_ms, body: b.split_to(length) });
    }
    Ok(Data { incarnation, settled, first, messages })
}

fn decode_ack(b: &mut Bytes) -> Result<Ack, DecodeError> {
    let ack = Ack {
        incarnation: b.try_get_u64()?,
        stored: b.try_get_u64()?,
        expected: b.try_get_u64()?,
        resume: match b.try_get_u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Field("resume flag")),
        },
        trouble: match b.try_get_u8()? {
            0 => None,
            1 => Some(Trouble::InboxFull),
            2 => Some(Trouble::StoreFailing),
            _ => return Err(DecodeError::Field("trouble")),
        },
        window: b.try_get_u32()?,
        window_bytes: b.try_get_u64()?,
    };
    if ack.expected <= ack.stored {
        return Err(DecodeError::Field("expected number"));
    }
    Ok(ack)
}
