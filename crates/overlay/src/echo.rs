//! The payload of class echo: request, reply, and the report of a node at which the TTL ended.

use crate::codec::{Reader, Truncated};

/// Version of the format, the first byte.
pub const VERSION: u8 = 1;
/// Length of every echo.
pub const ECHO_LEN: usize = 16;

/// What an echo says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoKind {
    /// Answer this.
    Request,
    /// The destination answers.
    Reply,
    /// The frame's TTL ended here; the frame's source address names the node.
    TtlExceeded,
    /// The node that the frame's source address names answers nothing: its policy denies it. Behind the echo stands the rule.
    Denied,
}

/// An echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// What it says.
    pub kind: EchoKind,
    /// TTL that this frame started with: `origin_ttl − ttl + 1` is the number of links it crossed.
    pub origin_ttl: u8,
    /// In replies and reports: links that the request crossed to get here. 0 in requests.
    pub forward_hops: u8,
    /// Whose ping it is; chosen by the requester.
    pub id: u64,
    /// Which of its pings.
    pub seq: u32,
}

/// Why bytes are no echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EchoError {
    /// Not [`ECHO_LEN`] bytes.
    #[error("an echo has 16 bytes")]
    Length,
    /// Another version.
    #[error("unknown echo version {0}")]
    UnknownVersion(u8),
    /// Another kind.
    #[error("unknown echo kind {0}")]
    UnknownKind(u8),
}

impl Echo {
    /// Writes the echo.
    #[must_use]
    pub fn encode(&self) -> [u8; ECHO_LEN] {
        let kind = match self.kind {
            EchoKind::Request => 0,
            EchoKind::Reply => 1,
            EchoKind::TtlExceeded => 2,
            EchoKind::Denied => 3,
        };
        let [a, b, c, d, e, f, g, h] = self.id.to_be_bytes();
        let [i, j, k, l] = self.seq.to_be_bytes();
        [VERSION, kind, self.origin_ttl, self.forward_hops, a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// Reads an echo.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EchoError> {
        if bytes.len() != ECHO_LEN {
            return Err(EchoError::Length);
        }
        let mut r = Reader::new(bytes);
        let [version, kind, origin_ttl, forward_hops] = r.array()?;
        if version != VERSION {
            return Err(EchoError::UnknownVersion(version));
        }
        let kind = match kind {
            0 => EchoKind::Request,
            1 => EchoKind::Reply,
            2 => EchoKind::TtlExceeded,
            3 => EchoKind::Denied,
            other => return Err(EchoError::UnknownKind(other)),
        };
        Ok(Self { kind, origin_ttl, forward_hops, id: r.u64()?, seq: r.u32()? })
    }

    /// Links crossed by a frame that arrives with this TTL left and carries this echo.
    #[must_use]
    pub const fn hops(&self, ttl: u8) -> u8 {
        self.origin_ttl.saturating_sub(ttl).saturating_add(1)
    }

    /// The answer to a request that arrived with `ttl` left: a reply, or a report if its TTL ended here.
    #[must_use]
    pub const fn answer(&self, kind: EchoKind, ttl: u8, answer_ttl: u8) -> Self {
        Self { kind, origin_ttl: answer_ttl, forward_hops: self.hops(ttl), id: self.id, seq: self.seq }
    }
}

impl From<Truncated> for EchoError {
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
        let echo = Echo {
            kind: EchoKind::Request,
            origin_ttl: 32,
            forward_hops: 0,
            id: 0x0102_0304_0506_0708,
            seq: 9,
        };
        assert_eq!(echo.encode(), [1, 0, 32, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9]);
        let reply = echo.answer(EchoKind::Reply, 30, 32);
        assert_eq!(reply.encode(), [1, 1, 32, 3, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9]);
        let denied = echo.answer(EchoKind::Denied, 30, 32);
        assert_eq!(denied.encode()[..4], [1, 3, 32, 3]);
        assert_eq!(echo.hops(32), 1);
    }

    #[test]
    fn refuses() {
        assert_eq!(Echo::decode(&[1; 15]), Err(EchoError::Length));
        assert_eq!(Echo::decode(&[1; 17]), Err(EchoError::Length));
        assert_eq!(Echo::decode(&[2; 16]), Err(EchoError::UnknownVersion(2)));
        let mut bytes = [1; 16];
        bytes[1] = 4;
        assert_eq!(Echo::decode(&bytes), Err(EchoError::UnknownKind(4)));
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; 16]) {
            if let Ok(echo) = Echo::decode(&bytes) {
                prop_assert_eq!(echo.encode(), bytes);
            }
        }
    }
}
