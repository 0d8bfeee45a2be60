//! Joins the parts of session packets, straight into the buffers that QUIC reads where the order allows it.
//!
//! Knows nothing of sockets, keys or routes.

use std::io::IoSliceMut;
use std::net::{SocketAddr, SocketAddrV6};

use meshara_identity::MeshAddress;
use quinn_udp::RecvMeta;

use crate::fragment::{FragmentHeader, xor_into};
use crate::quic::SESSION_MTU;

/// Incomplete packets kept at once, all sources together. A sender has at most some tens of parts on the wire out of
/// order; with 16,560-byte packets the table holds 4 MB.
const PARTIALS: usize = 256;

/// UDP port of every virtual session address. It carries no meaning; QUIC only needs one that isn't 0.
const SESSION_PORT: u16 = 1;

/// The address under which the session endpoint knows a node.
pub fn session_addr(address: MeshAddress) -> SocketAddr {
    SocketAddr::V6(SocketAddrV6::new(address.ipv6(), SESSION_PORT, 0, 0))
}

/// Buffers to be filled with whole packets, as `AsyncUdpSocket::poll_recv` gets them.
pub(crate) struct Sink<'a, 'b> {
    bufs: &'a mut [IoSliceMut<'b>],
    meta: &'a mut [RecvMeta],
    /// Buffers in use; the last one may still take packets.
    used: usize,
}

impl<'a, 'b> Sink<'a, 'b> {
    pub(crate) fn new(bufs: &'a mut [IoSliceMut<'b>], meta: &'a mut [RecvMeta]) -> Self {
        Self { bufs, meta, used: 0 }
    }

    /// Buffers that hold at least one packet.
    pub(crate) fn filled(&self) -> usize {
        self.used
    }

    /// Whether a packet of any size from any source still fits.
    pub(crate) fn has_room(&self) -> bool {
        self.used < self.bufs.len().min(self.meta.len())
    }

    fn appends(&self, source: SocketAddr, len: usize) -> Option<usize> {
        let index = self.used.checked_sub(1)?;
        let (meta, buf) = (self.meta.get(index)?, self.bufs.get(index)?);
        let fits = meta.addr == source
            && len <= meta.stride
            && meta.len.is_multiple_of(meta.stride)
            && meta.len + len <= buf.len();
        fits.then_some(index)
    }

    /// Room for the next packet; nothing counts until [`Sink::commit`].
    fn room(&mut self, source: SocketAddr, len: usize) -> Option<&mut [u8]> {
        let (index, start) = match self.appends(source, len) {
            Some(index) => (index, self.meta.get(index)?.len),
            None => (self.used, 0),
        };
        self.bufs.get_mut(index)?.get_mut(start..start + len)
    }

    fn commit(&mut self, source: SocketAddr, len: usize) {
        if let Some(index) = self.appends(source, len) {
            if let Some(meta) = self.meta.get_mut(index) {
                meta.len += len;
            }
        } else if let Some(meta) = self.meta.get_mut(self.used) {
            *meta = RecvMeta { addr: source, len, stride: len, ecn: None, dst_ip: None };
            self.used += 1;
        }
    }
}

/// A packet whose parts are being collected outside the sink.
#[derive(Default)]
struct Partial {
    source: Option<MeshAddress>,
    packet: u32,
    count: u8,
    length: u16,
    have: u64,
    data: Vec<u8>,
    /// XOR of all parts, when the parity part has come. Its length is the length of every part but the last.
    parity: Vec<u8>,
}

/// The packet that is being put together in the sink itself.
struct Current {
    source: MeshAddress,
    first: FragmentHeader,
    next: u8,
    part: usize,
}

/// What became of parts, for the metrics and for the choice of packet size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReassemblyStats {
    /// Packets handed on complete.
    pub complete: u64,
    /// Packets completed by their parity part.
    pub repaired: u64,
    /// Packets given up with parts missing.
    pub lost: u64,
    /// Parts that contradicted their packet.
    pub invalid: u64,
}

/// Collects parts.
pub(crate) struct Reassembly {
    current: Option<Current>,
    partials: Vec<Partial>,
    pub(crate) stats: ReassemblyStats,
}

impl Reassembly {
    pub(crate) fn new() -> Self {
        let mut partials = Vec::new();
        partials.resize_with(PARTIALS, Partial::default);
        Self { current: None, partials, stats: ReassemblyStats::default() }
    }

    /// Takes one part. The sink must have room ([`Sink::has_room`]).
    pub(crate) fn part(
        &mut self,
        source: MeshAddress,
        header: FragmentHeader,
        payload: &[u8],
        sink: &mut Sink<'_, '_>,
    ) {
        let Some(offset) = header.offset(payload.len()).filter(|_| header.length <= SESSION_MTU) else {
            self.stats.invalid += 1;
            return;
        };
        let address = session_addr(source);
        let length = usize::from(header.length);
        if let Some(current) = &mut self.current {
            let continues = current.source == source
                && header == (FragmentHeader { index: current.next, ..current.first })
                && (payload.len() == current.part || header.index + 1 == header.count);
            if continues {
                if let Some(room) = sink.room(address, length).and_then(|room| room.get_mut(offset..)) {
                    copy(room, payload);
                }
                current.next += 1;
                if current.next == header.count {
                    self.current = None;
                    sink.commit(address, length);
                    self.stats.complete += 1;
                }
                return;
            }
            self.spill(sink);
        }
        let started = header.index == 0 && !self.is_partial(source, header.packet);
        if started && let Some(room) = sink.room(address, length) {
            copy(room, payload);
            if header.count == 1 {
                sink.commit(address, length);
                self.stats.complete += 1;
            } else {
                self.current = Some(Current { source, first: header, next: 1, part: payload.len() });
            }
            return;
        }
        if let Some(partial) = self.partial(source, header) {
            if let Some(room) = partial.data.get_mut(offset..) {
                copy(room, payload);
            }
            partial.have |= 1 << header.index;
            self.finish(source, header.packet, sink);
        }
    }

    /// Takes the parity part of a packet: `payload` is the XOR of all its parts.
    pub(crate) fn parity(
        &mut self,
        source: MeshAddress,
        header: FragmentHeader,
        payload: &[u8],
        sink: &mut Sink<'_, '_>,
    ) {
        // What is under way in the sink must not be written over.
        self.spill(sink);
        if !self.is_partial(source, header.packet) {
            return; // the packet is complete, or so far behind that its parity can't help
        }
        let parts = payload.len() * usize::from(header.count);
        let fits = parts >= usize::from(header.length) && parts - payload.len() < usize::from(header.length);
        if let Some(partial) = self.partial(source, header).filter(|_| fits) {
            partial.parity.clear();
            partial.parity.extend_from_slice(payload);
            self.finish(source, header.packet, sink);
        }
    }

    /// Moves the packet under way out of the sink, before the sink goes back to its owner.
    pub(crate) fn spill(&mut self, sink: &mut Sink<'_, '_>) {
        let Some(current) = self.current.take() else { return };
        let taken = current.part * usize::from(current.next);
        let length = usize::from(current.first.length);
        let Some(partial) = self.partial(current.source, current.first) else { return };
        if let Some(done) = sink.room(session_addr(current.source), length).and_then(|room| room.get(..taken))
        {
            copy(&mut partial.data, done);
            partial.have = (1 << current.next) - 1;
        }
    }

    fn slot(source: MeshAddress, packet: u32) -> usize {
        let [.., a, b] = source.0;
        (packet as usize).wrapping_add(usize::from(u16::from_be_bytes([a, b])) * 97) % PARTIALS
    }

    fn is_partial(&self, source: MeshAddress, packet: u32) -> bool {
        self.partials
            .get(Self::slot(source, packet))
            .is_some_and(|partial| partial.source == Some(source) && partial.packet == packet)
    }

    /// The packet's place in the table, made if there is none. A newer packet takes the place of an older one.
    fn partial(&mut self, source: MeshAddress, header: FragmentHeader) -> Option<&mut Partial> {
        let known = self.is_partial(source, header.packet);
        let partial = self.partials.get_mut(Self::slot(source, header.packet))?;
        if !known {
            self.stats.lost += u64::from(partial.source.is_some());
            partial.source = Some(source);
            partial.packet = header.packet;
            partial.count = header.count;
            partial.length = header.length;
            partial.have = 0;
            partial.parity.clear();
            partial.data.clear();
            partial.data.resize(usize::from(header.length), 0);
        } else if partial.count != header.count || partial.length != header.length {
            self.stats.invalid += 1;
            return None;
        }
        Some(partial)
    }

    /// Hands the packet on if nothing, or only what its parity can replace, is missing.
    fn finish(&mut self, source: MeshAddress, packet: u32, sink: &mut Sink<'_, '_>) {
        let Some(partial) = self.partials.get_mut(Self::slot(source, packet)) else { return };
        let all = (1_u64 << partial.count) - 1;
        let missing = all & !partial.have;
        if missing != 0 {
            if partial.parity.is_empty() || missing.count_ones() != 1 {
                return;
            }
            let part = partial.parity.len();
            let lost = missing.trailing_zeros() as usize;
            let mut sum = std::mem::take(&mut partial.parity);
            for (index, piece) in partial.data.chunks(part).enumerate() {
                if index != lost {
                    xor_into(&mut sum, piece);
                }
            }
            if let Some(room) = partial.data.chunks_mut(part).nth(lost) {
                copy(room, &sum);
            }
            self.stats.repaired += 1;
        }
        partial.source = None;
        let address = session_addr(source);
        if let Some(room) = sink.room(address, partial.data.len()) {
            copy(room, &partial.data);
            sink.commit(address, partial.data.len());
            self.stats.complete += 1;
        }
    }
}

/// Copies as much of `from` as `to` holds.
fn copy(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fragment::part_count;

    const PART: usize = 100;

    fn address(last: u8) -> MeshAddress {
        let mut bytes = [0xfd; 16];
        bytes[15] = last;
        MeshAddress(bytes)
    }

    /// All frames of a packet: (is parity, header, payload). Equally long parts, as this node sends them, or with a shorter last one.
    fn frames(packet: u32, body: &[u8], equal: bool) -> Vec<(bool, FragmentHeader, Vec<u8>)> {
        let count = part_count(body.len(), PART).unwrap();
        let length = body.len() as u16;
        let part = if equal { body.len().div_ceil(count.into()) } else { PART };
        let mut sum = vec![0; part];
        body.chunks(part).for_each(|piece| xor_into(&mut sum, piece));
        let mut out = Vec::new();
        for index in 0..count {
            let start = usize::from(index) * part;
            let piece = if equal {
                &body[start.min(body.len() - part)..][..part]
            } else {
                body.chunks(part).nth(index.into()).unwrap()
            };
            out.push((false, FragmentHeader { packet, index, count, length }, piece.to_vec()));
        }
        out.push((true, FragmentHeader { packet, index: 0, count, length }, sum));
        out
    }

    fn received(
        reassembly: &mut Reassembly,
        input: &[(MeshAddress, bool, FragmentHeader, Vec<u8>)],
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut out = Vec::new();
        // A small sink, so that packets span several hand-overs.
        for chunk in input.chunks(7) {
            let mut memory = vec![vec![0; 4096]; 16];
            let mut meta = [RecvMeta::default(); 16];
            let filled = {
                let mut bufs: Vec<IoSliceMut<'_>> =
                    memory.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
                let mut sink = Sink::new(&mut bufs, &mut meta);
                for (source, parity, header, payload) in chunk {
                    if *parity {
                        reassembly.parity(*source, *header, payload, &mut sink);
                    } else {
                        reassembly.part(*source, *header, payload, &mut sink);
                    }
                }
                reassembly.spill(&mut sink);
                sink.filled()
            };
            for (buf, meta) in memory.iter().zip(&meta).take(filled) {
                out.extend(buf[..meta.len].chunks(meta.stride).map(|packet| (meta.addr, packet.to_vec())));
            }
        }
        out
    }

    proptest! {
        /// Two sources, any interleaving, one part of each packet lost: every packet comes out once, unchanged.
        #[test]
        fn one_lost_part_per_packet_is_made_up_for(
            lengths in proptest::collection::vec(1_usize..1500, 1..12),
            order in any::<u64>(),
            lost in any::<u64>(),
            equal: bool,
        ) {
            let mut input = Vec::new();
            let mut expected = Vec::new();
            for (number, length) in lengths.iter().enumerate() {
                let source = address(number as u8 % 2);
                let body: Vec<u8> = (0..*length).map(|i| (i * 7 + number) as u8).collect();
                let mut parts = frames(number as u32, &body, equal);
                let several = parts.len() > 2;
                if several {
                    let gone = lost as usize % parts.len();
                    parts.remove(gone);
                } else {
                    parts.pop(); // a single part has no parity on the wire
                }
                input.extend(parts.into_iter().map(|(parity, header, payload)| (source, parity, header, payload)));
                expected.push((session_addr(source), body));
            }
            // Reorder within a distance of five frames, as several paths do.
            let mut seed = order;
            for at in 0..input.len() {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let to = (at + (seed >> 33) as usize % 5).min(input.len() - 1);
                input.swap(at, to);
            }
            // A parity part that overtakes every data part of its packet is of no use; keep it behind the first.
            let mut reassembly = Reassembly::new();
            let first_is_parity = input.iter().enumerate().any(|(at, (s, parity, header, _))| {
                *parity && !input[..at].iter().any(|(s2, p2, h2, _)| s == s2 && !p2 && h2.packet == header.packet)
            });
            prop_assume!(!first_is_parity);
            let mut out = received(&mut reassembly, &input);
            out.sort();
            expected.sort();
            prop_assert_eq!(out, expected);
            prop_assert_eq!(reassembly.stats.invalid, 0);
        }

        #[test]
        fn any_frames_never_panic(
            input in proptest::collection::vec(
                (0_u8..3, any::<bool>(), 0_u32..4, 0_u8..50, 1_u8..49, 1_u16..4000, 0_usize..1400), 0..200)
        ) {
            let input: Vec<_> = input.into_iter().map(|(source, parity, packet, index, count, length, len)| {
                (address(source), parity, FragmentHeader { packet, index, count, length }, vec![1; len])
            }).filter(|(_, _, h, _)| h.index < h.count && h.length >= u16::from(h.count)).collect();
            for (_, packet) in received(&mut Reassembly::new(), &input) {
                prop_assert!(!packet.is_empty());
            }
        }
    }
}
