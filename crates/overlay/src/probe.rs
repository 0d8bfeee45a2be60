//! The probe of a link: small, unreliable, sent by both ends all the time (after BFD, RFC 5880).
//!
//! ```text
//! version u8 | flags u8 | interval_ms u16 | seq u32 | echo u32 | hold_us u32 | loss u16
//! ```
//! Each probe names the last one heard from the other end, so a link that carries only one way shows.

use std::time::Duration;

use crate::codec::{Reader, Truncated};

/// Version of the format, the first byte.
pub const VERSION: u8 = 1;
/// Length of every probe.
pub const PROBE_LEN: usize = 18;
/// The sender carries traffic on this link: probe fast, and answer at once.
const ACTIVE: u8 = 1;
/// The sender does not hear the receiver.
const DEAF: u8 = 2;
/// A loss of one, in the unit of the loss fields: parts of ten thousand.
pub const LOSS_ONE: u16 = 10_000;

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The sender carries traffic on this link.
    pub active: bool,
    /// The sender does not hear the receiver.
    pub deaf: bool,
    /// The sender will send its next probe within this many milliseconds, at least 1.
    pub interval_ms: u16,
    /// The sender's probe number; starts at 1.
    pub seq: u32,
    /// Newest probe heard from the receiver; 0 for none.
    pub echo: u32,
    /// How long the sender has held that one, µs.
    pub hold_us: u32,
    /// Share of the receiver's probes that the sender missed, of [`LOSS_ONE`].
    pub loss: u16,
}

/// Why bytes are no probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Not [`PROBE_LEN`] bytes.
    #[error("a probe has 18 bytes")]
    Length,
    /// Another version.
    #[error("unknown probe version {0}")]
    UnknownVersion(u8),
    /// Unknown flag bits, a zero interval or number, or a loss above one.
    #[error("a field of the probe is out of range")]
    OutOfRange,
    /// It echoes a probe that we never sent.
    #[error("the probe echoes one that was never sent")]
    EchoFromFuture,
    /// The core doesn't know the link (it may have closed it already).
    #[error("no such link")]
    UnknownLink,
}

impl Probe {
    /// Writes the probe.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PROBE_LEN);
        let flags = if self.active { ACTIVE } else { 0 } | if self.deaf { DEAF } else { 0 };
        out.extend([VERSION, flags]);
        out.extend(self.interval_ms.to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.echo.to_be_bytes());
        out.extend(self.hold_us.to_be_bytes());
        out.extend(self.loss.to_be_bytes());
        out
    }

    /// Reads a probe.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProbeError> {
        if bytes.len() != PROBE_LEN {
            return Err(ProbeError::Length);
        }
        let mut r = Reader::new(bytes);
        let [version, flags] = r.array()?;
        if version != VERSION {
            return Err(ProbeError::UnknownVersion(version));
        }
        let probe = Self {
            active: flags & ACTIVE != 0,
            deaf: flags & DEAF != 0,
            interval_ms: r.u16()?,
            seq: r.u32()?,
            echo: r.u32()?,
            hold_us: r.u32()?,
            loss: r.u16()?,
        };
        let known = flags & !(ACTIVE | DEAF) == 0;
        if !known || probe.interval_ms == 0 || probe.seq == 0 || probe.loss > LOSS_ONE {
            return Err(ProbeError::OutOfRange);
        }
        Ok(probe)
    }

    /// The announced interval.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.interval_ms))
    }
}

impl From<Truncated> for ProbeError {
    fn from(_: Truncated) -> Self {
        Self::Length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fixture() {
        let probe = Probe {
            active: true,
            deaf: true,
            interval_ms: 50,
            seq: 258,
            echo: 257,
            hold_us: 3,
            loss: 10_000,
        };
        let bytes = [1, 3, 0, 50, 0, 0, 1, 2, 0, 0, 1, 1, 0, 0, 0, 3, 0x27, 0x10];
        assert_eq!(probe.encode(), bytes);
        assert_eq!(Probe::decode(&bytes), Ok(probe));
    }

    #[test]
    fn refuses() {
        let good = [1, 0, 0, 50, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Probe::decode(&good).is_ok());
        assert_eq!(Probe::decode(&good[..17]), Err(ProbeError::Length));
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Probe::decode(&bytes)
        };
        assert_eq!(with(0, 2), Err(ProbeError::UnknownVersion(2)));
        assert_eq!(with(1, 4), Err(ProbeError::OutOfRange));
        assert_eq!(with(3, 0), Err(ProbeError::OutOfRange));
        assert_eq!(with(7, 0), Err(ProbeError::OutOfRange));
        assert_eq!(with(16, 0x28), Err(ProbeError::OutOfRange));
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; PROBE_LEN]) {
            let mut bytes = bytes;
            bytes[0] = VERSION;
            bytes[1] &= 3;
            bytes[16] &= 0x1f;
            if let Ok(probe) = Probe::decode(&bytes) {
                prop_assert_eq!(probe.encode(), bytes);
            }
        }
    }
}
