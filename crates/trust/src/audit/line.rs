//! One line: `{"v":1,"seq":…,"at":…,"event":{…},"previous":"…","hash":"…"}`, where the hash is over all before it.

use std::fmt;

use data_encoding::HEXLOWER;
use meshara_identity::UnixMillis;
use serde::{Deserialize, Serialize};

use super::event::Event;

/// Version of the lines.
const VERSION: u8 = 1;

/// Longest line: the longest event has three texts of 256 characters of up to four bytes, and 400 bytes around them.
pub const LINE_MAX: usize = 4096;

/// What stands before the hash, which is the last field.
const HASH_KEY: &str = ",\"hash\":\"";

/// Hash of a line.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineHash(pub [u8; 32]);

impl LineHash {
    /// What stands before the first line.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LineHash({self})")
    }
}

/// A line of the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Number of the line, from 1, through all files.
    pub seq: u64,
    /// When it was written.
    pub at: UnixMillis,
    /// The event.
    pub event: Event,
    /// Hash of the line before it.
    pub previous: LineHash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unhashed {
    v: u8,
    seq: u64,
    at: UnixMillis,
    event: Event,
    previous: String,
}

/// Why a text isn't a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadLine {
    TooLong,
    Version,
    Hash,
    Form,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "longer than any line",
            Self::Version => "of another version of the program",
            Self::Hash => "changed: its hash does not fit it",
            Self::Form => "not a line of the trail",
        })
    }
}

impl Line {
    /// The text without its line end, and its hash.
    pub(super) fn encode(&self) -> Result<(String, LineHash), serde_json::Error> {
        let unhashed = Unhashed {
            v: VERSION,
            seq: self.seq,
            at: self.at,
            event: self.event.clone(),
            previous: self.previous.to_string(),
        };
        let mut text = serde_json::to_string(&unhashed)?;
        // Without the closing brace, which comes behind the hash.
        text.pop();
        let hash = hash(&text);
        text.push_str(HASH_KEY);
        text.push_str(&hash.to_string());
        text.push_str("\"}");
        Ok((text, hash))
    }

    /// Reads [`encode`](Self::encode)'s form, with no second spelling of it.
    pub(super) fn decode(text: &str) -> Result<(Self, LineHash), BadLine> {
        if text.len() > LINE_MAX {
            return Err(BadLine::TooLong);
        }
        let (covered, rest) = text.rsplit_once(HASH_KEY).ok_or(BadLine::Form)?;
        let found = rest.strip_suffix("\"}").and_then(parse_hash).ok_or(BadLine::Form)?;
        if hash(covered) != found {
            return Err(BadLine::Hash);
        }
        if !covered.starts_with(&format!("{{\"v\":{VERSION},")) {
            return Err(BadLine::Version);
        }
        let unhashed: Unhashed = serde_json::from_str(&format!("{covered}}}")).map_err(|_| BadLine::Form)?;
        let previous = parse_hash(&unhashed.previous).ok_or(BadLine::Form)?;
        let line = Self { seq: unhashed.seq, at: unhashed.at, event: unhashed.event, previous };
        match line.encode() {
            Ok((again, _)) if again == text => Ok((line, found)),
            _ => Err(BadLine::Form),
        }
    }
}

fn hash(covered: &str) -> LineHash {
    LineHash(blake3::derive_key("meshara 2026-11 audit line v1", covered.as_bytes()))
}

fn parse_hash(text: &str) -> Option<LineHash> {
    Some(LineHash(HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()?))
}

/// Entries for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use super::{HASH_KEY, Line, hash};

    /// Reads a line; its canonical text when it is one.
    pub fn decoded(text: &str) -> Option<String> {
        let (line, _) = Line::decode(text).ok()?;
        Some(line.encode().ok()?.0)
    }

    /// `text` with the hash that makes it whole.
    pub fn hashed(text: &str) -> String {
        format!("{text}{HASH_KEY}{}\"}}", hash(text))
    }
}
