//! The header of a hop frame: 48 bytes, then a tag, then the payload.
//!
//! ```text
//! 0 kind | 1 ttl | 2 class | 3 epoch | 4..8 link index | 8..16 counter | 16..32 destination | 32..48 source
//! ```
//! Big-endian. The transport encrypts bytes 16..48 and authenticates all; this codec reads and writes them in clear.
//! Version 1 of the format is named by the kinds 0x20 and 0x21: a later version takes other kinds.

use meshara_identity::MeshAddress;

/// Length of the header: two addresses, and 16 bytes that keep the encrypted part aligned to AES blocks.
pub const HEADER_LEN: usize = 48;
/// Length of the AEAD tag after the header (AES-GCM and ChaCha20-Poly1305 alike).
pub const TAG_LEN: usize = 16;
/// First TTL of a frame: five times the diameter of 10,000 nodes at degree 8, and low enough that a transient loop
/// costs at most 32 transmissions.
pub const DEFAULT_TTL: u8 = 32;
/// Kind: the payload follows in clear under the header's tag (it is session ciphertext).
pub const KIND_BULK: u8 = 0x20;
/// Kind: the payload is encrypted for the hop as well.
pub const KIND_SEALED: u8 = 0x21;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A part of a session packet.
    SessionFragment,
    /// Parity over parts of a session packet.
    SessionParity,
    /// A link probe; link-local.
    Probe,
    /// Echo request, reply or TTL report.
    Echo,
    /// A control datagram.
    Control,
}

impl Class {
    /// The class as a byte.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::SessionFragment => 0,
            Self::SessionParity => 1,
            Self::Probe => 2,
            Self::Echo => 3,
            Self::Control => 4,
        }
    }

    /// The class of a byte.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::SessionFragment),
            1 => Some(Self::SessionParity),
            2 => Some(Self::Probe),
            3 => Some(Self::Echo),
            4 => Some(Self::Control),
            _ => None,
        }
    }
}

/// A hop frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the payload is encrypted for the hop ([`KIND_SEALED`]) or not ([`KIND_BULK`]).
    pub sealed: bool,
    /// Forwardings left.
    pub ttl: u8,
    /// What the frame carries.
    pub class: Class,
    /// Which key of the link.
    pub epoch: u8,
    /// The receiver's index of the link.
    pub link: u32,
    /// The sender's packet number under this key.
    pub counter: u64,
    /// Where the frame goes; zero on link-local frames.
    pub destination: MeshAddress,
    /// Where it comes from; zero on link-local frames.
    pub source: MeshAddress,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Shorter than header and tag.
    #[error("the frame is shorter than its header and tag")]
    Truncated,
    /// Not a kind of this version.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// Not a class of this version.
    #[error("unknown frame class {0}")]
    UnknownClass(u8),
}

impl Header {
    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let kind = if self.sealed { KIND_SEALED } else { KIND_BULK };
        // Whole words at fixed places: this runs once per frame sent.
        let (front, addresses) = out.split_at_mut(16);
        let (kinds, numbers) = front.split_at_mut(4);
        let (link, counter) = numbers.split_at_mut(4);
        let (destination, source) = addresses.split_at_mut(16);
        kinds.copy_from_slice(&[kind, self.ttl, self.class.code(), self.epoch]);
        link.copy_from_slice(&self.link.to_be_bytes());
        counter.copy_from_slice(&self.counter.to_be_bytes());
        destination.copy_from_slice(&self.destination.0);
        source.copy_from_slice(&self.source.0);
        out
    }

    /// Reads the header at the start of `frame`, which must also hold the tag.
    ///
    /// # Errors
    /// Says what is wrong with the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, HeaderError> {
        if frame.len() < HEADER_LEN + TAG_LEN {
            return Err(HeaderError::Truncated);
        }
        let mut r = crate::codec::Reader::new(frame);
        let [kind, ttl, class, epoch] = r.array()?;
        let sealed = match kind {
            KIND_BULK => false,
            KIND_SEALED => true,
            other => return Err(HeaderError::UnknownKind(other)),
        };
        Ok(Self {
            sealed,
            ttl,
            class: Class::from_code(class).ok_or(HeaderError::UnknownClass(class))?,
            epoch,
            link: r.u32()?,
            counter: r.u64()?,
            destination: MeshAddress(r.array()?),
            source: MeshAddress(r.array()?),
        })
    }
}

impl From<crate::codec::Truncated> for HeaderError {
    fn from(_: crate::codec::Truncated) -> Self {
        Self::Truncated
    }
}

/// Whether a UDP datagram is a hop frame of this version by its first byte (QUIC sets 0x40, RFC 9443).
#[must_use]
pub const fn is_hop_frame(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(&(KIND_BULK | KIND_SEALED)))
}

/// Takes one from the TTL in place. False, and the frame unchanged, when none is left to forward with (or no header).
#[must_use]
pub fn decrement_ttl(frame: &mut [u8]) -> bool {
    match frame.get_mut(1) {
        Some(ttl) if *ttl > 1 => {
            *ttl -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(header: &Header) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes.extend([0; TAG_LEN]);
        bytes
    }

    #[test]
    fn fixture() {
        let header = Header {
            sealed: true,
            ttl: DEFAULT_TTL,
            class: Class::Echo,
            epoch: 2,
            link: 0x0102_0304,
            counter: 0x0506_0708_090a_0b0c,
            destination: MeshAddress([0xfd; 16]),
            source: MeshAddress([0xfe; 16]),
        };
        let mut expected = vec![0x21, 32, 3, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        expected.extend([0xfd; 16]);
        expected.extend([0xfe; 16]);
        assert_eq!(header.encode().to_vec(), expected);
        assert_eq!(Header::decode(&frame(&header)), Ok(header));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(Header::decode(&[0x20; 63]), Err(HeaderError::Truncated));
        assert_eq!(Header::decode(&[0x40; 64]), Err(HeaderError::UnknownKind(0x40)));
        assert_eq!(Header::decode(&[0x20; 64]), Err(HeaderError::UnknownClass(0x20)));
        assert!(
            is_hop_frame(&[0x20]) && is_hop_frame(&[0x21, 0]) && !is_hop_frame(&[0x22]) && !is_hop_frame(&[])
        );
    }

    #[test]
    fn ttl_ends() {
        let mut bytes = [0x20, 2];
        assert!(decrement_ttl(&mut bytes));
        assert!(!decrement_ttl(&mut bytes));
        assert_eq!(bytes, [0x20, 1]);
        assert!(!decrement_ttl(&mut []));
    }

    proptest! {
        #[test]
        fn round_trip(sealed: bool, ttl: u8, class in 0u8..5, epoch: u8, link: u32, counter: u64, d: [u8; 16], s: [u8; 16]) {
            let class = Class::from_code(class).unwrap();
            let (destination, source) = (MeshAddress(d), MeshAddress(s));
            let header = Header { sealed, ttl, class, epoch, link, counter, destination, source };
            prop_assert_eq!(Header::decode(&frame(&header)), Ok(header));
        }

        #[test]
        fn never_panics(mut bytes: Vec<u8>) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(&header.encode()[..], &bytes[..HEADER_LEN]);
            }
            let _ = decrement_ttl(&mut bytes);
        }
    }
}
