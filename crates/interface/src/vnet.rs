//! The header in front of each packet of a device with offload: `struct virtio_net_hdr` (linux/virtio_net.h), in the machine's
//! byte order.

/// Its length in bytes.
pub const VNET_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6` and `VIRTIO_NET_HDR_GSO_UDP_L4`.
const TCP_V6: u8 = 4;
const UDP: u8 = 5;

/// What the segments of an unsegmented packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// TCP segments over IPv6.
    Tcp,
    /// UDP datagrams.
    Udp,
}

/// What the kernel left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Where the summed bytes begin, and where behind that the checksum belongs, when it isn't made yet.
    pub checksum: Option<(u16, u16)>,
    /// The packet is several segments of so many bytes each, but for the last.
    pub segments: Option<(Segments, u16)>,
    /// Length of all headers; a hint that 0 leaves out.
    pub headers: u16,
}

impl VnetHeader {
    /// Reads it from the front; `None` for what this node never asked the kernel for.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes.first_chunk::<VNET_LEN>()?;
        let segment = u16::from_ne_bytes([g0, g1]);
        let segments = match kind {
            0 => None,
            TCP_V6 if segment > 0 => Some((Segments::Tcp, segment)),
            UDP if segment > 0 => Some((Segments::Udp, segment)),
            _ => return None,
        };
        let places = (u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([o0, o1]));
        let checksum = (flags & NEEDS_CHECKSUM != 0).then_some(places);
        Some(Self { checksum, segments, headers: u16::from_ne_bytes([h0, h1]) })
    }

    /// As bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; VNET_LEN] {
        let (flags, (start, offset)) = self.checksum.map_or((0, (0, 0)), |places| (NEEDS_CHECKSUM, places));
        let (kind, segment) = match self.segments {
            None => (0, 0),
            Some((Segments::Tcp, segment)) => (TCP_V6, segment),
            Some((Segments::Udp, segment)) => (UDP, segment),
        };
        let [h0, h1] = self.headers.to_ne_bytes();
        let [g0, g1] = segment.to_ne_bytes();
        let [s0, s1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_the_kernels() {
        let header =
            VnetHeader { checksum: Some((40, 16)), segments: Some((Segments::Tcp, 1253)), headers: 72 };
        let mut wanted = vec![1, 4];
        for word in [72_u16, 1253, 40, 16] {
            wanted.extend(word.to_ne_bytes());
        }
        assert_eq!(header.bytes().as_slice(), wanted);
        assert_eq!(VnetHeader::read(&wanted), Some(header));
        assert_eq!(VnetHeader::read(&[0; 10]), Some(VnetHeader::default()));
        assert_eq!(VnetHeader::read(&[0; 9]), None);
        wanted[1] = 4 | 0x80; // ECN, never asked for
        assert_eq!(VnetHeader::read(&wanted), None);
    }

    proptest! {
        #[test]
        fn any_header_that_reads_comes_back(bytes: [u8; VNET_LEN]) {
            if let Some(header) = VnetHeader::read(&bytes) {
                prop_assert_eq!(VnetHeader::read(&header.bytes()), Some(header));
            }
        }
    }
}
