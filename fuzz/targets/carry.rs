//! What a session datagram carries, from its sender and from the device; and DNS queries.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use meshara_interface::{Arrival, Burst, Departure, Packet, Problem, icmp};

fuzz_target!(|data: &[u8]| {
    // Two datagrams, one behind the other.
    let (first, second) = data.split_at(data.len() / 2);
    let both = [data, first, second].map(|data| Arrival::decode(Bytes::copy_from_slice(data)).ok());
    let mut burst: Option<Burst> = None;
    for arrival in both.into_iter().flatten() {
        let _ = icmp::error(arrival.packet(), Problem::Prohibited);
        let flow = *arrival.flow();
        let mut next = match burst.take().map(|mut open| open.append(arrival.clone()).map(|()| open)) {
            Some(Ok(open)) => open,
            _ => Burst::new(arrival),
        };
        let packet: Vec<u8> = next.slices().flat_map(|piece| piece.to_vec()).skip(10).collect();
        assert_eq!(packet.len(), next.packet_len());
        assert_eq!(Packet::read(&packet).unwrap().flow, flow);
        burst = Some(next);
    }
    // What the device gives comes out again, whatever the room.
    let Ok(departure) = Departure::read(Bytes::copy_from_slice(data)) else { return };
    for room in [60, 200, 1342] {
        let Ok(datagrams) = departure.datagrams(room) else { continue };
        for datagram in datagrams {
            assert!(datagram.len() <= room);
            assert_eq!(Arrival::decode(datagram).unwrap().flow(), departure.flow());
        }
    }
});
