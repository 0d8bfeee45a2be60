//! Message identifiers: 16 bytes, sortable by the time of submission.

use std::{fmt, str::FromStr};

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

/// Identifies one message: 48 bits of Unix milliseconds, then 80 random bits, big-endian.
///
/// Identifiers that one core hands out strictly increase, so sorting them gives the order of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId([u8; 16]);

impl MessageId {
    /// The identifier with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// A text is not a message identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message id is 32 lower-case hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let canonical = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() != 32 || !text.bytes().all(canonical) {
            return Err(ParseIdError);
        }
        u128::from_str_radix(text, 16).map(|v| Self(v.to_be_bytes())).map_err(|_| ParseIdError)
    }
}

/// Hands out strictly increasing identifiers.
#[derive(Debug)]
pub(crate) struct IdSource {
    last: u128,
}

impl IdSource {
    pub(crate) const fn new() -> Self {
        Self { last: 0 }
    }

    /// A fresh identifier; within one millisecond, or after the clock stepped back, the last one plus one.
    pub(crate) fn next(&mut self, unix_ms: u64, rng: &mut ChaCha8Rng) -> MessageId {
        let random = (u128::from(rng.next_u32()) << 64 | u128::from(rng.next_u64())) & ((1 << 80) - 1);
        let fresh = (u128::from(unix_ms) << 80) | random;
        self.last = if fresh > self.last { fresh } else { self.last.wrapping_add(1) };
        MessageId(self.last.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn text_form_is_canonical() {
        let id = MessageId::from_bytes(*b"\x00\x01\xfe\xff0123456789ab");
        assert_eq!(id.to_string(), "0001feff303132333435363738396162");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "0001FEFF303132333435363738396162", "+001feff303132333435363738396162", "00"] {
            assert_eq!(bad.parse::<MessageId>(), Err(ParseIdError), "{bad}");
        }
    }

    #[test]
    fn identifiers_increase_even_when_the_clock_steps_back() {
        let (mut source, mut rng) = (IdSource::new(), ChaCha8Rng::from_seed([1; 32]));
        let ids: Vec<_> = [5, 5, 5, 9, 3, 3, 10].map(|ms| source.next(ms, &mut rng)).to_vec();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
