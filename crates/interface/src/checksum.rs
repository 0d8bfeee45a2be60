//! The internet checksum (RFC 1071) and IPv6's pseudo-header (RFC 8200 §8.1).

/// Adds 16-bit words; an odd last byte counts as the high one.
fn add(mut sum: u32, data: &[u8]) -> u32 {
    let (words, rest) = data.as_chunks::<2>();
    for word in words {
        // The largest packet has half of the words that could overflow this.
        sum += u32::from(u16::from_be_bytes(*word));
    }
    if let [last] = rest {
        sum += u32::from(*last) << 8;
    }
    u32::from(fold(sum))
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The sum of the pseudo-header, as the kernel leaves it in the field of a checksum that is still to be made.
pub(crate) fn pseudo_header(source: &[u8; 16], destination: &[u8; 16], len: usize, protocol: u8) -> u16 {
    // The length has 32 bits there; packets are shorter than 65,536 bytes, so the upper half is zero.
    fold(add(add(0, source), destination) + len as u32 + u32::from(protocol))
}

/// The checksum over `data` that begins with `sum`.
pub(crate) fn finish(sum: u16, data: &[u8]) -> u16 {
    !fold(add(sum.into(), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071 §3.
        assert_eq!(finish(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(finish(0, &[0xab]), !0xab00);
        assert_eq!(finish(0, &vec![0xff; 65_535]), !fold(0xffff + 0xff00));
    }

    #[test]
    fn what_carries_its_checksum_sums_to_zero() {
        let mut data = vec![0x12, 0x34, 0, 0, 0xff, 0xfe, 0x80, 0x01, 7];
        let sum = pseudo_header(&[0xfd; 16], &[0xfe; 16], data.len(), 6);
        let checksum = finish(sum, &data);
        data[2..4].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(finish(sum, &data), 0);
    }
}
