//! An IPv6 packet as far as a carrier looks: addresses, where the transport header is, and which flow it belongs to.

use meshara_identity::MeshAddress;

/// Length of the fixed header, RFC 8200 §3.
pub const IPV6_LEN: usize = 40;

/// Protocol numbers (IANA).
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// See [`TCP`].
pub const ICMPV6: u8 = 58;
/// Others that begin with two ports: DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 3] = [33, 132, 136];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Extension headers of one packet: each known kind once and twice destination options is what RFC 8200 §4.1 recommends.
const MAX_EXTENSIONS: usize = 6;

/// ICMPv6 types, RFC 4443: up to this one errors, which quote the packet that they are about behind eight bytes.
pub(crate) const LAST_ERROR: u8 = 127;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const ICMP_LEN: usize = 8;

/// The flags SYN and ACK, and where TCP's flags stand (RFC 9293 §3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const TCP_FLAGS: usize = 13;

/// Shortest TCP and UDP header.
pub(crate) const TCP_LEN: usize = 20;
pub(crate) const UDP_LEN: usize = 8;

/// Why bytes are no packet that is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Not IPv6.
    #[error("the packet is not IPv6")]
    NotIpv6,
    /// Shorter or longer than it says.
    #[error("the packet has another length than it says")]
    Length,
    /// Headers that don't fit in the packet, or too many.
    #[error("the packet's headers don't fit in it")]
    Headers,
}

/// Who speaks with whom, of what: a connection in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who sends.
    pub source: MeshAddress,
    /// Who receives.
    pub destination: MeshAddress,
    /// Protocol number (IANA).
    pub protocol: u8,
    /// The sender's port; 0 where the protocol has none.
    pub source_port: u16,
    /// The receiver's port; 0 where the protocol has none.
    pub destination_port: u16,
}

impl Flow {
    /// The flow of the answers.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// What a packet's headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The flow.
    pub flow: Flow,
    /// Where the transport header begins.
    pub transport: usize,
    /// Whether this is the rest of a packet that its sender cut: without ports, and of no use without the first part.
    pub rest: bool,
}

impl Packet {
    /// Reads the headers of exactly one packet.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn read(bytes: &[u8]) -> Result<Self, PacketError> {
        let [first, _, _, _, l0, l1, next, _, ..] = *bytes else { return Err(PacketError::Length) };
        if first >> 4 != 6 {
            return Err(PacketError::NotIpv6);
        }
        if bytes.len() != IPV6_LEN + usize::from(u16::from_be_bytes([l0, l1])) {
            return Err(PacketError::Length);
        }
        let (source, destination) = addresses(bytes).ok_or(PacketError::Length)?;
        let Transport { protocol, at, rest } = transport(bytes, next).ok_or(PacketError::Headers)?;
        let (source_port, destination_port) = if rest {
            (0, 0)
        } else {
            bytes.get(at..).and_then(|transport| ports(protocol, transport)).ok_or(PacketError::Headers)?
        };
        let flow = Flow { source, destination, protocol, source_port, destination_port };
        Ok(Self { flow, transport: at, rest })
    }

    /// The connection that policy knows it by: the flow, but a ping has its identifier for a port, and an ICMPv6 error between the two
    /// belongs to what it quotes.
    #[must_use]
    pub fn connection(&self, bytes: &[u8]) -> Flow {
        let icmp = bytes.get(self.transport..).filter(|_| self.flow.protocol == ICMPV6 && !self.rest);
        let ports = |source_port, destination_port| Flow { source_port, destination_port, ..self.flow };
        match icmp.and_then(<[u8]>::first_chunk::<ICMP_LEN>) {
            Some([..=LAST_ERROR, ..]) => {
                let quoted = icmp.and_then(|icmp| icmp.get(ICMP_LEN..)).and_then(quoted);
                let answers = quoted.map(|quoted| quoted.reversed()).filter(|flow| {
                    (flow.source, flow.destination) == (self.flow.source, self.flow.destination)
                });
                answers.unwrap_or(self.flow)
            }
            Some([ECHO_REQUEST, _, _, _, i0, i1, ..]) => ports(u16::from_be_bytes([*i0, *i1]), 0),
            Some([ECHO_REPLY, _, _, _, i0, i1, ..]) => ports(0, u16::from_be_bytes([*i0, *i1])),
            _ => self.flow,
        }
    }

    /// Whether it can be the first of its connection: no later segment of TCP's, and of ICMPv6 only a ping.
    #[must_use]
    pub fn begins(&self, bytes: &[u8]) -> bool {
        let at = |offset| bytes.get(self.transport + offset).copied().unwrap_or_default();
        match self.flow.protocol {
            _ if self.rest => false,
            TCP => at(TCP_FLAGS) & (SYN | ACK) == SYN,
            ICMPV6 => at(0) == ECHO_REQUEST,
            _ => true,
        }
    }

    /// Length of all headers, when the transport is TCP or UDP and its header is whole.
    #[must_use]
    pub fn headers(&self, bytes: &[u8]) -> Option<usize> {
        if self.rest {
            return None;
        }
        let transport = bytes.get(self.transport..)?;
        let len = match self.flow.protocol {
            TCP => usize::from(transport.get(12)? >> 4) * 4,
            UDP => UDP_LEN,
            _ => return None,
        };
        let least = if self.flow.protocol == TCP { TCP_LEN } else { UDP_LEN };
        (len >= least && len <= transport.len()).then_some(self.transport + len)
    }
}

/// The connection of a packet that an error quotes, of which the end may be missing.
fn quoted(bytes: &[u8]) -> Option<Flow> {
    let next = *bytes.get(6)?;
    let (source, destination) = addresses(bytes)?;
    let Transport { protocol, at, rest: false } = transport(bytes, next)? else { return None };
    let (source_port, destination_port) = match protocol {
        // Errors answer no errors, RFC 4443 §2.4(e), so this goes no deeper.
        ICMPV6 => match bytes.get(at..)?.first_chunk()? {
            [ECHO_REQUEST, _, _, _, i0, i1] => (u16::from_be_bytes([*i0, *i1]), 0),
            [ECHO_REPLY, _, _, _, i0, i1] => (0, u16::from_be_bytes([*i0, *i1])),
            _ => return None,
        },
        _ => ports(protocol, bytes.get(at..)?)?,
    };
    Some(Flow { source, destination, protocol, source_port, destination_port })
}

/// The ports that a transport header begins with; zeros where it has none.
fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    if !matches!(protocol, TCP | UDP) && !WITH_PORTS.contains(&protocol) {
        return Some((0, 0));
    }
    let [s0, s1, d0, d1] = *transport.first_chunk()?;
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

/// Source and destination.
pub(crate) fn addresses(bytes: &[u8]) -> Option<(MeshAddress, MeshAddress)> {
    let source = bytes.get(8..24)?.try_into().ok()?;
    let destination = bytes.get(24..40)?.try_into().ok()?;
    Some((MeshAddress(source), MeshAddress(destination)))
}

struct Transport {
    protocol: u8,
    at: usize,
    rest: bool,
}

/// Walks the extension headers.
fn transport(bytes: &[u8], next: u8) -> Option<Transport> {
    let (mut protocol, mut at) = (next, IPV6_LEN);
    for _ in 0..=MAX_EXTENSIONS {
        let units = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => usize::from(*bytes.get(at + 1)?) * 8 + 8,
            AUTHENTICATION => usize::from(*bytes.get(at + 1)?) * 4 + 8,
            FRAGMENT => {
                let [_, _, o0, o1] = *bytes.get(at..)?.first_chunk::<4>()?;
                if u16::from_be_bytes([o0, o1]) >> 3 != 0 {
                    let inner = *bytes.get(at)?;
                    return (at + 8 <= bytes.len()).then_some(Transport {
                        protocol: inner,
                        at: at + 8,
                        rest: true,
                    });
                }
                8
            }
            _ => return (at <= bytes.len()).then_some(Transport { protocol, at, rest: false }),
        };
        protocol = *bytes.get(at)?;
        at += units;
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const ALICE: MeshAddress =
        MeshAddress([0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 1]);
    pub(crate) const BOB: MeshAddress = MeshAddress([0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 2]);

    /// A packet of any protocol from Alice to Bob.
    pub(crate) fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend(ALICE.0);
        bytes.extend(BOB.0);
        bytes.extend(payload);
        bytes
    }

    /// A TCP segment with so many bytes of options (a multiple of 4).
    pub(crate) fn tcp(sequence: u32, flags: u8, options: usize, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x30, 0x39, 0x00, 0x50];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend([(((20 + options) / 4) << 4) as u8, flags, 0x40, 0, 0, 0, 0, 0]);
        bytes.extend((0..options).map(|n| n as u8));
        bytes.extend(payload);
        packet(TCP, &bytes)
    }

    pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x30, 0x39, 0x00, 0x35];
        bytes.extend((8 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        packet(UDP, &bytes)
    }

    #[test]
    fn a_flow_is_read_behind_extension_headers() {
        let plain = Packet::read(&tcp(1, 0, 12, b"x")).unwrap();
        let flow = Flow {
            source: ALICE,
            destination: BOB,
            protocol: TCP,
            source_port: 12_345,
            destination_port: 80,
        };
        assert_eq!(plain, Packet { flow, transport: 40, rest: false });
        assert_eq!(plain.headers(&tcp(1, 0, 12, b"x")), Some(72));
        assert_eq!(flow.reversed().reversed(), flow);

        let mut extended = vec![DESTINATION, 0, 1, 4, 0, 0, 0, 0, TCP, 1];
        extended.extend([0; 14]);
        extended.extend(&tcp(1, 0, 0, b"")[40..]);
        let read = Packet::read(&packet(HOP_BY_HOP, &extended)).unwrap();
        assert_eq!(read, Packet { flow, transport: 40 + 24, rest: false });
    }

    fn connection(bytes: &[u8]) -> (Flow, bool) {
        let read = Packet::read(bytes).unwrap();
        (read.connection(bytes), read.begins(bytes))
    }

    #[test]
    fn pings_and_errors_belong_to_connections() {
        let flow = |protocol, source_port, destination_port| Flow {
            source: ALICE,
            destination: BOB,
            protocol,
            source_port,
            destination_port,
        };
        let echo = |kind| packet(ICMPV6, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
        let (request, reply) = (flow(ICMPV6, 0x1234, 0), flow(ICMPV6, 0, 0x1234));
        assert_eq!(connection(&echo(128)), (request, true));
        assert_eq!(connection(&echo(129)), (reply, false));
        let back = Flow { source: BOB, destination: ALICE, ..reply };
        assert_eq!(request.reversed(), back);
        assert_eq!(connection(&packet(ICMPV6, &[133, 0, 0, 0, 1, 2, 3, 4])), (flow(ICMPV6, 0, 0), false));

        // An error from Alice about a packet that Bob sent her, cut off behind the ports; and one about somebody else's.
        let swapped = |mut packet: Vec<u8>| {
            packet[8..24].copy_from_slice(&BOB.0);
            packet[24..40].copy_from_slice(&ALICE.0);
            packet
        };
        let error = |quoted: &[u8]| packet(ICMPV6, &[&[1, 4, 0, 0, 0, 0, 0, 0], quoted].concat());
        let sent = swapped(tcp(1, 0, 0, b"much more"));
        assert_eq!(connection(&error(&sent)), (flow(TCP, 80, 12_345), false));
        assert_eq!(connection(&error(&sent[..44])), (flow(TCP, 80, 12_345), false));
        assert_eq!(connection(&error(&swapped(echo(128)))), (flow(ICMPV6, 0, 0x1234), false));
        let icmp = (flow(ICMPV6, 0, 0), false);
        assert_eq!(connection(&error(&sent[..43])), icmp, "the ports are missing");
        assert_eq!(connection(&error(&tcp(1, 0, 0, b""))), icmp, "not Bob's");
        assert_eq!(connection(&error(&swapped(error(&sent)))), icmp, "an error about an error");
        assert_eq!(connection(&error(b"")), icmp);
        assert_eq!(connection(&packet(ICMPV6, &[])), icmp);
    }

    #[test]
    fn only_the_first_segment_begins_a_connection() {
        for (flags, begins) in [(SYN, true), (SYN | 0xc0, true), (SYN | ACK, false), (ACK, false), (4, false)]
        {
            assert_eq!(connection(&tcp(1, flags, 0, b"")).1, begins, "{flags}");
        }
        assert!(connection(&udp(b"")).1);
    }

    #[test]
    fn parts_of_a_cut_packet_are_told_apart() {
        let mut first = vec![UDP, 0, 0, 1, 0, 0, 0, 1];
        first.extend(&udp(b"abc")[40..]);
        let read = Packet::read(&packet(FRAGMENT, &first)).unwrap();
        assert_eq!((read.rest, read.flow.destination_port, read.transport), (false, 53, 48));
        let rest = [UDP, 0, 0x05, 0xa8, 0, 0, 0, 1, 1, 2];
        let read = Packet::read(&packet(FRAGMENT, &rest)).unwrap();
        assert_eq!((read.rest, read.flow.destination_port, read.flow.protocol), (true, 0, UDP));
        assert_eq!(read.headers(&packet(FRAGMENT, &rest)), None);
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let good = udp(b"abc");
        assert_eq!(Packet::read(&good[..good.len() - 1]), Err(PacketError::Length));
        assert_eq!(Packet::read(&[good.as_slice(), b"x"].concat()), Err(PacketError::Length));
        assert_eq!(Packet::read(&[]), Err(PacketError::Length));
        let mut four = good.clone();
        four[0] = 0x45;
        assert_eq!(Packet::read(&four), Err(PacketError::NotIpv6));
        assert_eq!(Packet::read(&packet(UDP, &[0, 1, 2])), Err(PacketError::Headers));
        assert_eq!(Packet::read(&packet(HOP_BY_HOP, &[6, 9, 0, 0])), Err(PacketError::Headers));
        let endless: Vec<u8> = [HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(Packet::read(&packet(HOP_BY_HOP, &endless)), Err(PacketError::Headers));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), fit: bool) {
            if fit && bytes.len() >= IPV6_LEN {
                bytes[0] = 0x60;
                let len = (bytes.len() - IPV6_LEN) as u16;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
            }
            if let Ok(packet) = Packet::read(&bytes) {
                prop_assert!(packet.transport <= bytes.len());
                let connection = packet.connection(&bytes);
                prop_assert_eq!(connection.source, packet.flow.source);
                prop_assert_eq!(connection.destination, packet.flow.destination);
                if let Some(headers) = packet.headers(&bytes) {
                    prop_assert!(headers <= bytes.len());
                }
            }
        }
    }
}
