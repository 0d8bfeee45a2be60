//! Turns session packets into frames and sends them in the largest batches that the kernel takes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use meshara_identity::MeshAddress;
use meshara_overlay::header::{Class, DEFAULT_TTL, HEADER_LEN, Header, TAG_LEN};
use quinn_udp::Transmit;

use crate::counters::Counters;
use crate::data_plane::write_header;
use crate::fragment::{FRAGMENT_HEADER_LEN, FragmentHeader, part_count, xor_into};
use crate::hop_keys::BULK_OVERHEAD;
use crate::hop_link::{HopLink, Outgoing};
use crate::wire::Wire;

/// Session packets up to this size are encrypted whole: a link watcher sees no handshakes and no small messages, and a
/// few hundred bytes cost no more than the tag itself.
const WHOLE_BELOW: usize = 256;
/// A QUIC packet whose first byte has this bit has a long header, so belongs to a handshake (RFC 9000 §17.2).
const LONG_HEADER: u8 = 0x80;
/// Bytes of one segmented send. The kernel's limit is 65,507.
const BATCH: usize = 65_000;

/// Frames that the kernel didn't take.
struct Pending {
    to: SocketAddr,
    frames: Vec<u8>,
    segment: usize,
}

/// Frames of one length (the last may be shorter), ready for one segmented send.
struct Batch {
    /// Always [`BATCH`] bytes, so that none are cleared only to be written.
    memory: Vec<u8>,
    /// Bytes in use.
    used: usize,
    segment: usize,
    /// A shorter frame ended the batch.
    closed: bool,
}

/// The sending half of the session socket.
pub(crate) struct SessionSender {
    packet: u32,
    batch: Batch,
    /// At most what one QUIC transmit makes: nothing new is taken while it isn't empty.
    pending: Vec<Pending>,
    parity: BTreeSet<MeshAddress>,
    sum: Vec<u8>,
}

impl SessionSender {
    pub(crate) fn new() -> Self {
        let batch = Batch { memory: vec![0; BATCH], used: 0, segment: 0, closed: false };
        Self { packet: 0, batch, pending: Vec::new(), parity: BTreeSet::new(), sum: Vec::new() }
    }

    pub(crate) fn set_parity(&mut self, destination: MeshAddress, on: bool) {
        if on {
            self.parity.insert(destination);
        } else {
            self.parity.remove(&destination);
        }
    }

    /// Whether the kernel has taken everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Sends what the kernel refused earlier; `false` while it still refuses.
    pub(crate) fn flush_pending(&mut self, wire: &Wire) -> bool {
        while let Some(pending) = self.pending.first_mut() {
            let sent = wire.send_run(pending.to, &pending.frames, pending.segment);
            if sent < pending.frames.len() {
                pending.frames.drain(..sent);
                return false;
            }
            self.pending.remove(0);
        }
        true
    }

    /// Sends one QUIC transmit over `link`.
    pub(crate) fn send(
        &mut self,
        wire: &Wire,
        link: &HopLink,
        (source, destination): (MeshAddress, MeshAddress),
        path_mtu: u16,
        transmit: &Transmit<'_>,
        counters: &Counters,
    ) {
        let outgoing = link.outgoing();
        let mtu = usize::from(link.mtu().min(path_mtu));
        let Some(part) = mtu.checked_sub(BULK_OVERHEAD).filter(|part| *part > 0) else { return };
        let with_parity = !self.parity.is_empty() && self.parity.contains(&destination);
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(segment) {
            let Some(count) = part_count(packet.len(), part) else {
                counters.too_big.fetch_add(1, Relaxed);
                continue;
            };
            let whole =
                packet.len() <= WHOLE_BELOW || packet.first().is_some_and(|first| first & LONG_HEADER != 0);
            self.packet = self.packet.wrapping_add(1);
            let header = Header {
                sealed: whole,
                ttl: DEFAULT_TTL,
                class: Class::SessionFragment,
                epoch: outgoing.key.epoch() as u8,
                link: outgoing.index,
                counter: 0,
                destination,
                source,
            };
            // All parts are equally long, so that those of several packets leave in one segmented send: the last one begins a few
            // bytes early.
            let parts = usize::from(count);
            let part = packet.len().div_ceil(parts);
            let bytes = parts * (part + BULK_OVERHEAD);
            // Batches end on packet borders, so that the far end joins a packet within one receive buffer.
            if self.batch.used + bytes > BATCH {
                self.send_batch(wire, &outgoing);
            }
            let number = FragmentHeader { packet: self.packet, index: 0, count, length: packet.len() as u16 };
            for index in 0..count {
                let start = (usize::from(index) * part).min(packet.len() - part);
                let piece = packet.get(start..start + part).unwrap_or_default();
                self.frame(wire, link, &outgoing, header, FragmentHeader { index, ..number }, piece);
            }
            if with_parity && parts > 1 {
                let mut sum = std::mem::take(&mut self.sum);
                sum.clear();
                sum.resize(part, 0);
                packet.chunks(part).for_each(|piece| xor_into(&mut sum, piece));
                let parity = Header { class: Class::SessionParity, ..header };
                self.frame(wire, link, &outgoing, parity, number, &sum);
                self.sum = sum;
            }
        }
        self.send_batch(wire, &outgoing);
    }

    /// Appends one sealed frame to the batch, sending the batch first when the frame doesn't fit its pattern.
    fn frame(
        &mut self,
        wire: &Wire,
        link: &HopLink,
        outgoing: &Outgoing,
        header: Header,
        part: FragmentHeader,
        payload: &[u8],
    ) {
        let len = payload.len() + BULK_OVERHEAD;
        let mismatch = self.batch.closed || (self.batch.segment != 0 && len > self.batch.segment);
        if mismatch || self.batch.used + len > BATCH {
            self.send_batch(wire, outgoing);
        }
        if self.batch.segment == 0 {
            self.batch.segment = len;
        }
        self.batch.closed = len < self.batch.segment;
        let start = self.batch.used;
        let Some(frame) = self.batch.memory.get_mut(start..start + len) else { return };
        let header = Header { counter: link.next_counter(len), ..header };
        if fill(frame, header, part, payload, outgoing).is_some() {
            self.batch.used += len;
        }
    }

    fn send_batch(&mut self, wire: &Wire, outgoing: &Outgoing) {
        let Batch { memory, used, segment, closed } = &mut self.batch;
        if let Some(frames) = memory.get(..*used).filter(|frames| !frames.is_empty()) {
            let sent =
                if self.pending.is_empty() { wire.send_run(outgoing.remote, frames, *segment) } else { 0 };
            if let Some(rest) = frames.get(sent..).filter(|rest| !rest.is_empty()) {
                self.pending.push(Pending { to: outgoing.remote, frames: rest.to_vec(), segment: *segment });
            }
        }
        *used = 0;
        *segment = 0;
        *closed = false;
    }
}

/// Writes and seals one frame.
fn fill(
    frame: &mut [u8],
    header: Header,
    part: FragmentHeader,
    payload: &[u8],
    outgoing: &Outgoing,
) -> Option<()> {
    write_header(frame, &header);
    part.write(frame.get_mut(HEADER_LEN..)?)?;
    let body = HEADER_LEN + FRAGMENT_HEADER_LEN;
    if header.sealed {
        frame.get_mut(body..body + payload.len())?.copy_from_slice(payload);
        outgoing.key.seal_whole(frame)
    } else {
        frame.get_mut(body + TAG_LEN..)?.copy_from_slice(payload);
        outgoing.key.seal_bulk(frame)
    }
}
