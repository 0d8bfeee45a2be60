//! What one session datagram carries: an IPv6 packet, or some TCP or UDP segments under one set of headers.
//!
//! | Bytes | Field | |
//! |---|---|---|
//! | 0 | version | 1 |
//! | 1 | flags | 1: the transport checksum is not made; others must be 0 |
//! | 2–3 | segment | payload bytes of each segment but the last, when there are several; else 0 |
//! | 4– | packet | one IPv6 packet, exactly as long as it says |
//!
//! [`Departure`] is what the device gave, cut into datagrams; [`Arrival`] one datagram; [`Burst`] arrivals of one flow put
//! together again for one write to the device. The receiver makes checksums itself or leaves them to its kernel: the session
//! proves every byte, so a checksum that the sender's kernel left open is never made by anyone.

use std::io::IoSlice;

use bytes::{BufMut, Bytes, BytesMut};
use meshara_identity::MeshAddress;

use crate::checksum;
use crate::packet::{Flow, IPV6_LEN, Packet, PacketError, TCP, TCP_LEN, UDP, UDP_LEN};
use crate::vnet::{Segments, VNET_LEN, VnetHeader};

/// Bytes in front of the packet.
pub const CARRY_LEN: usize = 4;
const VERSION: u8 = 1;
const OPEN_CHECKSUM: u8 = 1;

/// Where the checksum stands behind the transport header's beginning.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
/// TCP's flags, RFC 9293 §3.1.
const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// How options that are timestamps alone begin: two of no meaning, then kind and length.
const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
/// Largest payload length of an IPv6 packet.
const MAX_PAYLOAD: usize = u16::MAX as usize;
/// Datagrams put together at once: the kernel takes 1,024 pieces in one write, a packet of 65 KB has five of the largest.
const MAX_JOINED: usize = 64;

/// Why what the device gave isn't carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DepartureError {
    /// A header of the device that this node never asked for.
    #[error("the device gave a packet of a kind that it was not asked for")]
    Device,
    /// No packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// Segments or an open checksum of something else than TCP or UDP.
    #[error("the packet leaves more to do than TCP and UDP do")]
    Offload,
}

/// The smallest piece doesn't fit in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet may have {mtu} bytes here")]
pub struct TooBig {
    /// Largest packet that fits.
    pub mtu: usize,
}

/// A packet as the device gave it, perhaps of several segments.
#[derive(Clone, Debug)]
pub struct Departure {
    packet: Bytes,
    read: Packet,
    headers: usize,
    segments: Option<(Segments, usize)>,
    open: bool,
}

impl Departure {
    /// Reads what one read of the device gave.
    ///
    /// # Errors
    /// [`DepartureError`].
    pub fn read(mut bytes: Bytes) -> Result<Self, DepartureError> {
        let header = VnetHeader::read(&bytes).ok_or(DepartureError::Device)?;
        let packet = bytes.split_off(VNET_LEN);
        let read = Packet::read(&packet)?;
        let (open, segments) = (header.checksum.is_some(), header.segments);
        if !open && segments.is_none() {
            return Ok(Self { packet, read, headers: IPV6_LEN, segments: None, open: false });
        }
        let headers = read.headers(&packet).ok_or(DepartureError::Offload)?;
        let checksum = checksum_place(read.flow.protocol).ok_or(DepartureError::Offload)?;
        let kind_fits = match segments {
            None => true,
            Some((Segments::Tcp, _)) => read.flow.protocol == TCP,
            Some((Segments::Udp, _)) => read.flow.protocol == UDP,
        };
        let place_fits = header.checksum.is_some_and(|(start, offset)| {
            (usize::from(start), usize::from(offset)) == (read.transport, checksum)
        });
        if !kind_fits || !place_fits {
            return Err(DepartureError::Offload);
        }
        // The kernel names segments also for a packet that is a single one.
        let several = |(_, segment): &(Segments, usize)| packet.len() - headers > *segment;
        let segments = segments.map(|(kind, segment)| (kind, usize::from(segment))).filter(several);
        if segments.is_none() && !udp_length_fits(&read, &packet) {
            return Err(DepartureError::Offload);
        }
        Ok(Self { packet, read, headers, segments, open })
    }

    /// Who sends it to whom.
    #[must_use]
    pub const fn flow(&self) -> &Flow {
        &self.read.flow
    }

    /// The connection that policy knows it by.
    #[must_use]
    pub fn connection(&self) -> Flow {
        self.read.connection(&self.packet)
    }

    /// Whether it can be the first of its connection.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.read.begins(&self.packet)
    }

    /// The packet itself; when it has several segments, they stand behind one set of headers.
    #[must_use]
    pub const fn packet(&self) -> &Bytes {
        &self.packet
    }

    /// Whether it is part of a cut packet without ports.
    #[must_use]
    pub const fn is_rest(&self) -> bool {
        self.read.rest
    }

    /// Whether it says all that `older`, which waits, says and more: both are acknowledgements of one TCP connection without anything
    /// else, and this one acknowledges more bytes. Those with options other than timestamps (RFC 7323 appendix A) say something of
    /// their own, as do repeated ones.
    #[must_use]
    pub fn supersedes(&self, older: &Self) -> bool {
        let (Some(ours), Some(theirs)) = (self.acknowledges(), older.acknowledges()) else { return false };
        let advance = ours.wrapping_sub(theirs);
        self.read.flow == older.read.flow && advance > 0 && advance < 1 << 31
    }

    /// What it acknowledges, when it does nothing but that.
    fn acknowledges(&self) -> Option<u32> {
        if self.read.flow.protocol != TCP || self.read.transport != IPV6_LEN || self.read.rest {
            return None;
        }
        let tcp = self.packet.get(IPV6_LEN..)?;
        let (header, options) = tcp.split_first_chunk::<TCP_LEN>()?;
        let [_, _, _, _, _, _, _, _, a0, a1, a2, a3, length, flags, ..] = *header;
        let plain = options.is_empty() || (options.len() == 12 && options.starts_with(&TIMESTAMPS));
        let is_whole = usize::from(length >> 4) * 4 == tcp.len() && length & 0x0f == 0;
        (plain && is_whole && flags == ACK).then(|| u32::from_be_bytes([a0, a1, a2, a3]))
    }

    /// Datagrams of at most `room` bytes that carry it, as many segments in each as fit.
    ///
    /// # Errors
    /// [`TooBig`].
    pub fn datagrams(&self, room: usize) -> Result<impl Iterator<Item = Bytes> + use<'_>, TooBig> {
        let too_big = TooBig { mtu: room.saturating_sub(CARRY_LEN) };
        let room = too_big.mtu;
        let piece = match self.segments {
            None if self.packet.len() <= room => usize::MAX,
            None => return Err(too_big),
            Some((_, segment)) => match room.saturating_sub(self.headers) / segment {
                0 => return Err(too_big),
                fit => fit * segment,
            },
        };
        let (front, payload) = self.packet.split_at(self.headers.min(self.packet.len()));
        let last = payload.len().saturating_sub(1) / piece;
        // A packet without payload is one datagram too.
        Ok((0..=last).map(move |index| {
            let start = index * piece;
            let part = payload.get(start..payload.len().min(start.saturating_add(piece))).unwrap_or_default();
            self.datagram(front, part, start, index == last)
        }))
    }

    /// One datagram: the headers, made right for `part`, which begins at `start` of the payload.
    fn datagram(&self, front: &[u8], part: &[u8], start: usize, last: bool) -> Bytes {
        let several = self.segments.filter(|(_, segment)| part.len() > *segment);
        let segment = several.map_or(0, |(_, segment)| segment as u16);
        let mut out = BytesMut::with_capacity(CARRY_LEN + front.len() + part.len());
        out.put_slice(&[VERSION, if self.open { OPEN_CHECKSUM } else { 0 }]);
        out.put_u16(segment);
        out.put_slice(front);
        out.put_slice(part);
        if self.segments.is_some()
            && let Some(packet) = out.get_mut(CARRY_LEN..)
        {
            set_length(packet);
            match self.read.flow.protocol {
                TCP => {
                    add_sequence(packet, self.read.transport, start);
                    if !last && let Some(flags) = packet.get_mut(self.read.transport + TCP_FLAGS) {
                        *flags &= !(FIN | PUSH);
                    }
                }
                _ => set_udp_length(packet, self.read.transport),
            }
        }
        out.freeze()
    }
}

/// Whether a UDP packet is as long as its UDP header says: only then can a kernel make its checksum.
fn udp_length_fits(read: &Packet, packet: &[u8]) -> bool {
    let says = packet.get(read.transport + 4..).and_then(<[u8]>::first_chunk::<2>);
    let len = packet.len() - read.transport;
    read.flow.protocol != UDP || says.is_some_and(|says| usize::from(u16::from_be_bytes(*says)) == len)
}

/// The datagram of a packet that this node made itself, with its checksum.
#[must_use]
pub fn whole(packet: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(CARRY_LEN + packet.len());
    out.put_slice(&[VERSION, 0, 0, 0]);
    out.put_slice(packet);
    out.freeze()
}

/// Why a datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// Too short, or of another version.
    #[error("the datagram is of another version")]
    Version,
    /// Flags or a segment length that don't fit the packet, or a second spelling.
    #[error("the datagram contradicts its packet")]
    Malformed,
    /// No packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// A datagram that came, decoded and consistent in itself. Who may send it is the caller's to check.
#[derive(Clone, Debug)]
pub struct Arrival {
    packet: Bytes,
    read: Packet,
    /// Length of all headers when the checksum is open.
    open: Option<usize>,
    /// 0 for a single segment.
    segment: usize,
}

impl Arrival {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`CarryError`].
    pub fn decode(mut datagram: Bytes) -> Result<Self, CarryError> {
        let Some([VERSION, flags, s0, s1]) = datagram.first_chunk().copied() else {
            return Err(CarryError::Version);
        };
        let packet = datagram.split_off(CARRY_LEN);
        let segment = usize::from(u16::from_be_bytes([s0, s1]));
        let read = Packet::read(&packet)?;
        let open = match flags {
            0 => None,
            OPEN_CHECKSUM => Some(read.headers(&packet).ok_or(CarryError::Malformed)?),
            _ => return Err(CarryError::Malformed),
        };
        if segment > 0 && open.is_none_or(|headers| packet.len() - headers <= segment) {
            return Err(CarryError::Malformed);
        }
        if open.is_some() && !udp_length_fits(&read, &packet) {
            return Err(CarryError::Malformed);
        }
        Ok(Self { packet, read, open, segment })
    }

    /// Who sends it to whom.
    #[must_use]
    pub const fn flow(&self) -> &Flow {
        &self.read.flow
    }

    /// The connection that policy knows it by.
    #[must_use]
    pub fn connection(&self) -> Flow {
        self.read.connection(&self.packet)
    }

    /// The packet.
    #[must_use]
    pub const fn packet(&self) -> &Bytes {
        &self.packet
    }

    /// Whether it is part of a cut packet without ports.
    #[must_use]
    pub const fn is_rest(&self) -> bool {
        self.read.rest
    }

    fn payload_len(&self) -> usize {
        self.packet.len() - self.open.unwrap_or(0)
    }

    /// Payload of each segment but the last.
    fn segment(&self) -> usize {
        if self.segment > 0 { self.segment } else { self.payload_len() }
    }

    /// Whether it may be joined with others of its flow: data and nothing else.
    fn is_plain_tcp(&self) -> bool {
        let flags = self.packet.get(self.read.transport + TCP_FLAGS).copied().unwrap_or_default();
        self.open.is_some()
            && self.read.flow.protocol == TCP
            && self.read.transport == IPV6_LEN
            && flags & !(FIN | PUSH) == ACK
            && self.payload_len() > 0
    }
}

/// Arrivals of one connection that follow each other, as one packet for the device.
#[derive(Debug)]
pub struct Burst {
    /// The device's header and, when the checksum is open, all headers of the packet.
    head: Vec<u8>,
    pieces: Vec<Bytes>,
    first: Arrival,
    payload: usize,
    /// Nothing may follow: it isn't plain TCP, or its last segment is shorter than the others.
    closed: bool,
}

impl Burst {
    /// Begins with one arrival.
    #[must_use]
    pub fn new(first: Arrival) -> Self {
        let (front, piece) = first.packet.split_at(first.open.unwrap_or(0).min(first.packet.len()));
        let mut head = Vec::with_capacity(VNET_LEN + front.len());
        head.extend([0; VNET_LEN]);
        head.extend_from_slice(front);
        let payload = piece.len();
        let pieces = vec![first.packet.slice(front.len()..)];
        let mut burst = Self { head, pieces, payload, closed: !first.is_plain_tcp(), first };
        burst.close_after(payload);
        burst
    }

    /// Closes it when a payload that was added ends in a short segment or in a flag that ends a run.
    fn close_after(&mut self, added: usize) {
        let ends = self.flags() & (FIN | PUSH) != 0;
        self.closed |= ends || !added.is_multiple_of(self.first.segment().max(1));
    }

    fn flags(&self) -> u8 {
        self.head.get(VNET_LEN + self.first.read.transport + TCP_FLAGS).copied().unwrap_or_default()
    }

    /// Who sent it.
    #[must_use]
    pub const fn source(&self) -> &MeshAddress {
        &self.first.read.flow.source
    }

    /// Appends an arrival that continues this one.
    ///
    /// # Errors
    /// The arrival, when it doesn't: it begins another burst.
    pub fn append(&mut self, next: Arrival) -> Result<(), Arrival> {
        if self.closed || !self.is_continued_by(&next) {
            return Err(next);
        }
        let headers = next.open.unwrap_or(0);
        let flags = next.packet.get(IPV6_LEN + TCP_FLAGS).copied().unwrap_or_default();
        if let Some(ours) = self.head.get_mut(VNET_LEN + IPV6_LEN + TCP_FLAGS) {
            *ours |= flags;
        }
        let added = next.payload_len();
        self.pieces.push(next.packet.slice(headers.min(next.packet.len())..));
        self.payload += added;
        self.close_after(added);
        Ok(())
    }

    fn is_continued_by(&self, next: &Arrival) -> bool {
        let segment = self.first.segment();
        let same_size =
            if next.segment > 0 { next.segment == segment } else { next.payload_len() <= segment };
        let fits = self.head.len() - VNET_LEN - IPV6_LEN + self.payload + next.payload_len() <= MAX_PAYLOAD;
        if !same_size || !fits || self.pieces.len() >= MAX_JOINED || !next.is_plain_tcp() {
            return false;
        }
        let (ours, theirs) = (self.first.packet.as_ref(), next.packet.as_ref());
        let Some(headers) = self.first.open.filter(|headers| next.open == Some(*headers)) else {
            return false;
        };
        let tcp = IPV6_LEN;
        // All but the length, the sequence number, the flags FIN and PSH, and the checksum.
        let equal = [0..4, 6..tcp + 4, tcp + 8..tcp + TCP_FLAGS, tcp + 14..tcp + 16, tcp + 18..headers]
            .into_iter()
            .all(|range| ours.get(range.clone()).is_some_and(|part| theirs.get(range) == Some(part)));
        let expected = sequence(ours, tcp).map(|first| first.wrapping_add(self.payload as u32));
        equal && expected.is_some() && sequence(theirs, tcp) == expected
    }

    /// The pieces of one write to the device.
    pub fn slices(&mut self) -> impl Iterator<Item = IoSlice<'_>> {
        self.complete();
        std::iter::once(IoSlice::new(&self.head)).chain(self.pieces.iter().map(|piece| IoSlice::new(piece)))
    }

    /// Bytes of the packet.
    #[must_use]
    pub fn packet_len(&self) -> usize {
        self.head.len() - VNET_LEN + self.payload
    }

    /// Makes the headers fit what was put together.
    fn complete(&mut self) {
        let Some(headers) = self.first.open else { return };
        let Packet { flow, transport, .. } = self.first.read;
        let len = headers - transport + self.payload;
        let Some((device, packet)) = self.head.split_first_chunk_mut::<VNET_LEN>() else { return };
        let Some(place) = checksum_place(flow.protocol) else { return };
        let payload_len = (headers - IPV6_LEN + self.payload) as u16;
        if let Some(room) = packet.get_mut(4..6) {
            room.copy_from_slice(&payload_len.to_be_bytes());
        }
        if flow.protocol == UDP
            && let Some(room) = packet.get_mut(transport + 4..transport + 6)
        {
            room.copy_from_slice(&(len as u16).to_be_bytes());
        }
        let sum = checksum::pseudo_header(&flow.source.0, &flow.destination.0, len, flow.protocol);
        if let Some(room) = packet.get_mut(transport + place..transport + place + 2) {
            room.copy_from_slice(&sum.to_be_bytes());
        }
        let segment = self.first.segment();
        let kind = if flow.protocol == TCP { Segments::Tcp } else { Segments::Udp };
        let header = VnetHeader {
            checksum: Some((transport as u16, place as u16)),
            segments: (self.payload > segment).then_some((kind, segment as u16)),
            headers: headers as u16,
        };
        *device = header.bytes();
    }
}

/// Where the checksum is behind the transport header's beginning.
const fn checksum_place(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(TCP_CHECKSUM),
        UDP => Some(UDP_CHECKSUM),
        _ => None,
    }
}

/// Writes the length of the packet into its header.
fn set_length(packet: &mut [u8]) {
    let len = (packet.len() - IPV6_LEN.min(packet.len())) as u16;
    if let Some(room) = packet.get_mut(4..6) {
        room.copy_from_slice(&len.to_be_bytes());
    }
}

fn set_udp_length(packet: &mut [u8], transport: usize) {
    let len = (packet.len() - transport.min(packet.len())) as u16;
    if let Some(room) = packet.get_mut(transport + 4..transport + UDP_CHECKSUM) {
        room.copy_from_slice(&len.to_be_bytes());
    }
}

fn sequence(packet: &[u8], transport: usize) -> Option<u32> {
    packet.get(transport + 4..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn add_sequence(packet: &mut [u8], transport: usize, by: usize) {
    let Some(sequence) = sequence(packet, transport) else { return };
    if let Some(room) = packet.get_mut(transport + 4..transport + 8) {
        room.copy_from_slice(&sequence.wrapping_add(by as u32).to_be_bytes());
    }
}

const _: () = assert!(UDP_LEN > UDP_CHECKSUM);

#[cfg(test)]
mod tests;
