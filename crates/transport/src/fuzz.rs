//! Entry for fuzzing: the table of partial packets under parts that no honest sender makes.

use std::io::IoSliceMut;

use meshara_identity::MeshAddress;
use quinn_udp::RecvMeta;

use crate::fragment::{FRAGMENT_HEADER_LEN, FragmentHeader};
use crate::reassembly::{Reassembly, Sink};

/// Packets that one hand-over holds.
const BUFFERS: usize = 4;

/// Feeds `input` as a run of frames, each `flags u8 | length u8 | fragment header [8]` and a payload of 8 × length bytes that may be
/// cut short: bits 0–1 of the flags are the source, bit 2 says parity, bit 3 ends the hand-over. Gives the length of every packet
/// that came out.
pub fn reassemble(input: &[u8]) -> Vec<usize> {
    let mut reassembly = Reassembly::new();
    let mut packets = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let mut memory = vec![vec![0; usize::from(u16::MAX)]; BUFFERS];
        let mut meta = [RecvMeta::default(); BUFFERS];
        let mut buffers: Vec<IoSliceMut<'_>> = memory.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        let mut sink = Sink::new(&mut buffers, &mut meta);
        while sink.has_room()
            && let Some(([flags, length], tail)) = rest.split_first_chunk::<2>()
        {
            let header = FragmentHeader::read(tail);
            let tail = tail.get(FRAGMENT_HEADER_LEN..).unwrap_or_default();
            let (payload, tail) = tail.split_at(tail.len().min(usize::from(*length) * 8));
            rest = tail;
            let mut source = MeshAddress([0xfd; 16]);
            source.0[15] = flags & 3;
            match header {
                Some(header) if flags & 4 == 0 => reassembly.part(source, header, payload, &mut sink),
                Some(header) => reassembly.parity(source, header, payload, &mut sink),
                None => {}
            }
            if flags & 8 != 0 {
                break;
            }
        }
        if rest.len() < 2 {
            rest = &[];
        }
        reassembly.spill(&mut sink);
        let filled = sink.filled();
        for meta in meta.iter().take(filled) {
            let whole = meta.len / meta.stride;
            packets.extend(std::iter::repeat_n(meta.stride, whole));
            packets.extend(Some(meta.len % meta.stride).filter(|left| *left > 0));
        }
    }
    packets
}
