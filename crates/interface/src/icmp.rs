//! ICMPv6 errors (RFC 4443) that tell a local program at once why its packet went nowhere.

use crate::checksum;
use crate::packet::{ICMPV6, IPV6_LEN, LAST_ERROR, Packet, addresses};

/// Largest error: IPv6's smallest MTU, RFC 4443 §2.4(c).
const MAX_ERROR: usize = 1280;
/// Type, code, checksum, and four bytes that depend on the type.
const ICMP_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;

/// Why a packet goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Nobody has the address, or no route leads there.
    NoRoute,
    /// The node there takes no packets.
    Prohibited,
    /// A route leads there, and no session comes about.
    Unreachable,
    /// The packet may have so many bytes.
    TooBig {
        /// How many.
        mtu: u32,
    },
}

/// The error for a packet that this machine sent, as if its destination had sent it; none for what must not be answered.
#[must_use]
pub fn error(packet: &[u8], problem: Problem) -> Option<Vec<u8>> {
    let read = Packet::read(packet).ok()?;
    // No error answers an error.
    let is_error =
        read.flow.protocol == ICMPV6 && packet.get(read.transport).is_none_or(|kind| *kind <= LAST_ERROR);
    if is_error || read.rest {
        return None;
    }
    let (source, destination) = addresses(packet)?;
    let (kind, code, rest) = match problem {
        Problem::NoRoute => (1, 0, 0),
        Problem::Prohibited => (1, 1, 0),
        Problem::Unreachable => (1, 3, 0),
        Problem::TooBig { mtu } => (2, 0, mtu),
    };
    let quoted = packet.get(..packet.len().min(MAX_ERROR - IPV6_LEN - ICMP_LEN))?;
    let len = ICMP_LEN + quoted.len();
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend_from_slice(quoted);
    let sum = checksum::pseudo_header(&destination.0, &source.0, len, ICMPV6);
    let checksum = checksum::finish(sum, &message);
    if let Some(room) = message.get_mut(2..4) {
        room.copy_from_slice(&checksum.to_be_bytes());
    }
    let mut out = Vec::with_capacity(IPV6_LEN + len);
    out.extend([0x60, 0, 0, 0]);
    out.extend((len as u16).to_be_bytes());
    out.extend([ICMPV6, HOP_LIMIT]);
    out.extend(destination.0);
    out.extend(source.0);
    out.extend(message);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ALICE, BOB, packet, udp};

    #[test]
    fn an_error_quotes_the_packet_and_has_a_right_checksum() {
        let lost = udp(&[7; 2000]);
        for (problem, front) in [
            (Problem::NoRoute, [1, 0, 0, 0, 0, 0]),
            (Problem::Prohibited, [1, 1, 0, 0, 0, 0]),
            (Problem::Unreachable, [1, 3, 0, 0, 0, 0]),
            (Problem::TooBig { mtu: 1300 }, [2, 0, 0, 0, 5, 20]),
        ] {
            let error = error(&lost, problem).unwrap();
            assert_eq!(error.len(), MAX_ERROR);
            let read = Packet::read(&error).unwrap();
            assert_eq!((read.flow.source, read.flow.destination, read.flow.protocol), (BOB, ALICE, ICMPV6));
            assert_eq!((&error[40..42], &error[44..48]), (&front[..2], &front[2..]));
            assert_eq!(error[48..], lost[..MAX_ERROR - 48]);
            let sum = checksum::pseudo_header(&BOB.0, &ALICE.0, error.len() - 40, ICMPV6);
            assert_eq!(checksum::finish(sum, &error[40..]), 0);
        }
    }

    #[test]
    fn errors_and_later_parts_are_not_answered() {
        assert_eq!(error(&packet(ICMPV6, &[1, 0, 0, 0]), Problem::NoRoute), None);
        assert_eq!(error(&packet(ICMPV6, &[]), Problem::NoRoute), None);
        assert!(error(&packet(ICMPV6, &[128, 0, 0, 0]), Problem::NoRoute).is_some());
        assert_eq!(error(&packet(44, &[17, 0, 0, 8, 0, 0, 0, 1, 5]), Problem::NoRoute), None);
        assert_eq!(error(b"no packet", Problem::NoRoute), None);
    }
}
