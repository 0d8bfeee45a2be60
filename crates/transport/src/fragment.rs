//! The eight bytes that say which part of which session packet a frame carries.
//!
//! A session may use QUIC packets far larger than the wire's MTU; frames carry their parts. Parts of one packet are equally
//! long: the last one repeats some bytes of the one before it, or is shorter. On lossy paths one parity part, the XOR of all, makes up for one lost part.

/// Length of the fragment header, which stands directly behind the hop-frame header.
pub(crate) const FRAGMENT_HEADER_LEN: usize = 8;

/// Most parts of one packet: one bit each in a `u64`. 48 parts of 1,380 bytes would exceed the largest packet.
pub(crate) const MAX_PARTS: u8 = 48;

/// One part of a session packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// The sender's number of the packet; wraps.
    pub packet: u32,
    /// Position of the part, below `count`.
    pub index: u8,
    /// How many parts the packet has, 1..=`MAX_PARTS`.
    pub count: u8,
    /// Length of the whole packet in bytes, never 0.
    pub length: u16,
}

impl FragmentHeader {
    /// Writes the header to the front of `out`; `None` when it is too short.
    pub fn write(self, out: &mut [u8]) -> Option<()> {
        let out: &mut [u8; FRAGMENT_HEADER_LEN] = out.get_mut(..FRAGMENT_HEADER_LEN)?.try_into().ok()?;
        let [p0, p1, p2, p3] = self.packet.to_be_bytes();
        let [l0, l1] = self.length.to_be_bytes();
        *out = [p0, p1, p2, p3, self.index, self.count, l0, l1];
        Some(())
    }

    /// Reads the header; `None` when it is short or contradicts itself.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; FRAGMENT_HEADER_LEN] = bytes.get(..FRAGMENT_HEADER_LEN)?.try_into().ok()?;
        let [p0, p1, p2, p3, index, count, l0, l1] = bytes;
        let header = Self {
            packet: u32::from_be_bytes([p0, p1, p2, p3]),
            index,
            count,
            length: u16::from_be_bytes([l0, l1]),
        };
        ((1..=MAX_PARTS).contains(&count) && index < count && header.length >= u16::from(count))
            .then_some(header)
    }

    /// Where the part of `len` bytes belongs in the packet; `None` when it can't.
    pub(crate) fn offset(&self, len: usize) -> Option<usize> {
        let total = usize::from(self.length);
        let offset = if self.index + 1 == self.count {
            total.checked_sub(len)?
        } else {
            usize::from(self.index) * len
        };
        (len > 0 && offset + len <= total).then_some(offset)
    }
}

/// How a packet of `length` bytes splits into parts of at most `part` bytes.
///
/// `None` when it would need more than `MAX_PARTS` or is empty.
pub(crate) fn part_count(length: usize, part: usize) -> Option<u8> {
    let count = u8::try_from(length.checked_div(part)? + usize::from(!length.is_multiple_of(part))).ok()?;
    (1..=MAX_PARTS).contains(&count).then_some(count)
}

/// XORs `part` into the front of `sum`.
pub(crate) fn xor_into(sum: &mut [u8], part: &[u8]) {
    for (sum, byte) in sum.iter_mut().zip(part) {
        *sum ^= byte;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_form_is_frozen() {
        let mut bytes = [0; 8];
        FragmentHeader { packet: 0x0102_0304, index: 5, count: 12, length: 16_560 }
            .write(&mut bytes)
            .unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 12, 0x40, 0xb0]);
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics_and_round_trips(bytes in proptest::array::uniform8(any::<u8>())) {
            if let Some(header) = FragmentHeader::read(&bytes) {
                let mut again = [0; 8];
                header.write(&mut again).unwrap();
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn parts_cover_the_packet_exactly(length in 1_usize..60_000, part in 1128_usize..1500) {
            let Some(count) = part_count(length, part) else {
                prop_assert!(length > part * usize::from(MAX_PARTS));
                return Ok(());
            };
            let mut at = 0;
            for index in 0..count {
                let len = part.min(length - at);
                let header = FragmentHeader { packet: 1, index, count, length: length as u16 };
                prop_assert_eq!(header.offset(len), Some(at));
                at += len;
            }
            prop_assert_eq!(at, length);
        }
    }
}
