use proptest::prelude::*;

use super::*;
use crate::packet::tests::{ALICE, BOB, tcp, udp};

/// As the device would give it.
fn device(packet: &[u8], segments: Option<(Segments, u16)>, place: u16) -> Bytes {
    let header = VnetHeader { checksum: Some((40, place)), segments, headers: 0 };
    [&header.bytes(), packet].concat().into()
}

fn departure(packet: &[u8], segment: u16) -> Departure {
    Departure::read(device(packet, Some((Segments::Tcp, segment)), 16)).unwrap()
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

/// What one write gives the kernel: the device's header, and the packet.
fn written(burst: &mut Burst) -> (VnetHeader, Vec<u8>) {
    let bytes: Vec<u8> = burst.slices().flat_map(|slice| slice.to_vec()).collect();
    (VnetHeader::read(&bytes).unwrap(), bytes[VNET_LEN..].to_vec())
}

#[test]
fn the_wire_form_is_frozen() {
    let one: Vec<_> = departure(&tcp(1, ACK, 0, b"abcde"), 2).datagrams(4 + 60 + 4).unwrap().collect();
    let mut wanted = vec![1, 1, 0, 2];
    wanted.extend(tcp(1, ACK, 0, b"abcd"));
    assert_eq!(one[0], wanted);
    let mut wanted = vec![1, 1, 0, 0];
    wanted.extend(tcp(5, ACK, 0, b"e"));
    assert_eq!(one[1], wanted);
    assert_eq!(one.len(), 2);
}

#[test]
fn a_packet_that_leaves_nothing_to_do_is_carried_as_it_is() {
    let packet = crate::packet::tests::packet(58, &[128, 0, 1, 2, 3]);
    let given: Bytes = [&[0; VNET_LEN], packet.as_slice()].concat().into();
    let departure = Departure::read(given).unwrap();
    let datagrams: Vec<_> = departure.datagrams(100).unwrap().collect();
    assert_eq!(datagrams, [Bytes::from([&[1, 0, 0, 0], packet.as_slice()].concat())]);
    let mut burst = Burst::new(Arrival::decode(datagrams[0].clone()).unwrap());
    assert_eq!(written(&mut burst), (VnetHeader::default(), packet));
    assert_eq!(departure.datagrams(44).err(), Some(TooBig { mtu: 40 }));
    // Not a byte of payload: an empty packet is one datagram too.
    let empty = crate::packet::tests::packet(59, &[]);
    let given: Bytes = [&[0; VNET_LEN], empty.as_slice()].concat().into();
    assert_eq!(Departure::read(given).unwrap().datagrams(100).unwrap().count(), 1);
}

#[test]
fn segments_travel_together_and_come_out_as_they_went_in() {
    let data = payload(48 * 1253);
    let packet = tcp(4_294_960_000, ACK | PUSH | FIN, 12, &data);
    let departure = departure(&packet, 1253);
    let datagrams: Vec<_> = departure.datagrams(15_142).unwrap().collect();
    assert_eq!(datagrams.len(), 4);
    assert!(datagrams.iter().all(|datagram| datagram.len() == 4 + 72 + 12 * 1253));
    let arrivals = datagrams.into_iter().map(|datagram| Arrival::decode(datagram).unwrap());
    let mut bursts: Vec<Burst> = Vec::new();
    for arrival in arrivals {
        assert_eq!((arrival.flow().source, arrival.flow().destination), (ALICE, BOB));
        match bursts.last_mut().map(|burst| burst.append(arrival.clone())) {
            Some(Ok(())) => {}
            _ => bursts.push(Burst::new(arrival)),
        }
    }
    let [burst] = bursts.as_mut_slice() else { panic!("{} bursts", bursts.len()) };
    let (header, out) = written(burst);
    assert_eq!(header.segments, Some((Segments::Tcp, 1253)));
    assert_eq!((header.checksum, header.headers), (Some((40, 16)), 72));
    let mut wanted = packet.clone();
    let sum = checksum::pseudo_header(&ALICE.0, &BOB.0, packet.len() - 40, TCP);
    wanted[56..58].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(out, wanted);
    assert_eq!(burst.packet_len(), packet.len());
}

#[test]
fn datagrams_of_udp_keep_their_lengths() {
    let packet = udp(&payload(2500));
    let given = device(&packet, Some((Segments::Udp, 1000)), 6);
    let departure = Departure::read(given).unwrap();
    let datagrams: Vec<_> = departure.datagrams(4 + 48 + 2000).unwrap().collect();
    let lens: Vec<_> =
        datagrams.iter().map(|datagram| u16::from_be_bytes([datagram[48], datagram[49]])).collect();
    assert_eq!(lens, [2008, 508]);
    let mut burst = Burst::new(Arrival::decode(datagrams[0].clone()).unwrap());
    assert!(burst.append(Arrival::decode(datagrams[1].clone()).unwrap()).is_err(), "UDP isn't joined");
    let (header, out) = written(&mut burst);
    assert_eq!(header.segments, Some((Segments::Udp, 1000)));
    assert_eq!(out[48..], packet[48..2048]);
}

#[test]
fn what_does_not_continue_a_burst_begins_another() {
    let arrival = |sequence, flags, options, data: &[u8]| {
        let packet = tcp(sequence, flags, options, data);
        Arrival::decode([&[1, 1, 0, 0], packet.as_slice()].concat().into()).unwrap()
    };
    let burst = || Burst::new(arrival(100, ACK, 12, &[1; 50]));
    assert!(burst().append(arrival(150, ACK, 12, &[1; 50])).is_ok());
    assert!(burst().append(arrival(150, ACK | FIN, 12, &[1; 9])).is_ok());
    assert!(burst().append(arrival(151, ACK, 12, &[1; 50])).is_err(), "a gap");
    assert!(burst().append(arrival(150, ACK, 8, &[1; 50])).is_err(), "other options");
    assert!(burst().append(arrival(150, ACK, 12, &[1; 51])).is_err(), "a larger segment");
    assert!(burst().append(arrival(150, ACK, 12, &[])).is_err(), "no data");
    assert!(burst().append(arrival(150, ACK | 0x20, 12, &[1; 50])).is_err(), "urgent");
    let mut short = burst();
    assert!(short.append(arrival(150, ACK, 12, &[1; 9])).is_ok());
    assert!(short.append(arrival(159, ACK, 12, &[1; 9])).is_err(), "a short segment was the last");
    let mut pushed = Burst::new(arrival(100, ACK | PUSH, 12, &[1; 50]));
    assert!(pushed.append(arrival(150, ACK, 12, &[1; 50])).is_err(), "a push ends a run");
    let mut whole = Burst::new({
        let packet = tcp(100, ACK, 12, &[1; 50]);
        Arrival::decode([&[1, 0, 0, 0], packet.as_slice()].concat().into()).unwrap()
    });
    assert!(whole.append(arrival(150, ACK, 12, &[1; 50])).is_err(), "a checksum that is still to be checked");
}

#[test]
fn a_burst_never_exceeds_a_packet() {
    let mut sequence = 0_u32;
    let mut next = || {
        let packet = tcp(sequence, ACK, 0, &[1; 1000]);
        sequence += 1000;
        Arrival::decode([&[1, 1, 0, 0], packet.as_slice()].concat().into()).unwrap()
    };
    let mut burst = Burst::new(next());
    let joined = (0..200).take_while(|_| burst.append(next()).is_ok()).count();
    assert_eq!(joined, MAX_JOINED - 1);
    assert_eq!(written(&mut burst).1.len(), 60 + MAX_JOINED * 1000);

    let mut large = Burst::new({
        let mut datagram = vec![1, 1, 0x3a, 0x98];
        datagram.extend(tcp(0, ACK, 0, &payload(30_000)));
        Arrival::decode(datagram.into()).unwrap()
    });
    let second = {
        let mut datagram = vec![1, 1, 0x3a, 0x98];
        datagram.extend(tcp(30_000, ACK, 0, &payload(30_000)));
        Arrival::decode(datagram.into()).unwrap()
    };
    let third = {
        let mut datagram = vec![1, 1, 0, 0];
        datagram.extend(tcp(60_000, ACK, 0, &payload(6_000)));
        Arrival::decode(datagram.into()).unwrap()
    };
    assert!(large.append(second).is_ok());
    assert!(large.append(third).is_err(), "65,535 bytes at most");
}

#[test]
fn what_the_device_never_gives_is_refused() {
    let packet = tcp(1, ACK, 0, b"abc");
    let wrong = |bytes: Bytes| Departure::read(bytes).unwrap_err();
    assert_eq!(wrong(Bytes::from_static(&[0; 9])), DepartureError::Device);
    assert_eq!(wrong(Bytes::from_static(&[0; 10])), DepartureError::Packet(PacketError::Length));
    assert_eq!(wrong(device(&packet, None, 6)), DepartureError::Offload);
    assert_eq!(wrong(device(&packet, Some((Segments::Udp, 1)), 16)), DepartureError::Offload);
    let icmp = crate::packet::tests::packet(58, &[1; 40]);
    assert_eq!(wrong(device(&icmp, None, 2)), DepartureError::Offload);
    // A UDP header that says another length than the packet has.
    let mut short = crate::packet::tests::packet(17, &[0, 1, 0, 2, 0, 8, 0, 0]);
    assert!(Departure::read(device(&short, None, 6)).is_ok());
    *short.get_mut(45).unwrap() = 7;
    assert_eq!(wrong(device(&short, None, 6)), DepartureError::Offload);
}

#[test]
fn of_acknowledgements_that_wait_the_newest_says_it_all() {
    let with = |flags, options: &[u8], acknowledged: u32, data: &[u8]| {
        let mut packet = tcp(7, flags, options.len(), data);
        packet[48..52].copy_from_slice(&acknowledged.to_be_bytes());
        packet[60..60 + options.len()].copy_from_slice(options);
        departure(&packet, 1253)
    };
    let timestamps = |time| [1, 1, 8, 10, 0, 0, 0, time, 0, 0, 0, 9];
    let plain = |acknowledged| with(ACK, &[], acknowledged, b"");
    assert!(plain(1000).supersedes(&plain(999)));
    assert!(plain(5).supersedes(&plain(u32::MAX)), "numbers wrap");
    assert!(!plain(999).supersedes(&plain(1000)), "the order has changed");
    assert!(!plain(999).supersedes(&plain(999)), "a repeated one says that something is missing");
    let later = with(ACK, &timestamps(2), 1000, b"");
    assert!(later.supersedes(&with(ACK, &timestamps(1), 900, b"")));
    let selective = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9];
    assert!(!later.supersedes(&with(ACK, &selective, 900, b"")), "it names what came out of order");
    assert!(!with(ACK, &selective, 1000, b"").supersedes(&plain(900)));
    for flags in [ACK | PUSH, ACK | FIN, ACK | 0x02, ACK | 0x40] {
        assert!(!later.supersedes(&with(flags, &[], 900, b"")), "{flags}");
    }
    assert!(!later.supersedes(&with(ACK, &[], 900, b"data")));
    let other = {
        let mut packet = tcp(7, ACK, 0, b"");
        packet[41] += 1;
        packet[48..52].copy_from_slice(&900_u32.to_be_bytes());
        departure(&packet, 1253)
    };
    assert!(!plain(1000).supersedes(&other), "another connection's");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |bytes: Vec<u8>| Arrival::decode(bytes.into()).unwrap_err();
    let with = |front: [u8; 4], packet: &[u8]| [&front, packet].concat();
    let packet = tcp(1, ACK, 0, b"abc");
    assert_eq!(refused(vec![1, 0, 0]), CarryError::Version);
    assert_eq!(refused(with([2, 0, 0, 0], &packet)), CarryError::Version);
    assert_eq!(refused(with([1, 2, 0, 0], &packet)), CarryError::Malformed);
    assert_eq!(refused(with([1, 0, 0, 1], &packet)), CarryError::Malformed, "segments with a made checksum");
    assert_eq!(refused(with([1, 1, 0, 3], &packet)), CarryError::Malformed, "one segment is told as none");
    let trailing = [with([1, 1, 0, 0], &packet), vec![0]].concat();
    assert_eq!(refused(trailing), CarryError::Packet(PacketError::Length));
    let mut long = udp(b"abc");
    long[45] += 1;
    assert_eq!(refused(with([1, 1, 0, 0], &long)), CarryError::Malformed);
    let mut offset = packet;
    offset[52] = 0xf0;
    assert_eq!(refused(with([1, 1, 0, 0], &offset)), CarryError::Malformed);
    assert_eq!(
        refused(with([1, 1, 0, 0], &crate::packet::tests::packet(58, &[1; 8]))),
        CarryError::Malformed
    );
}

proptest! {
    #[test]
    fn any_datagram_is_refused_or_becomes_a_packet(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        mend: bool,
        protocol in prop_oneof![Just(6_u8), Just(17), Just(58), any::<u8>()],
        more in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = bytes;
        if mend && bytes.len() >= 44 {
            bytes[0] = 1;
            bytes[1] &= 1;
            bytes[4] = 0x60;
            let len = (bytes.len() - 44) as u16;
            bytes[8..10].copy_from_slice(&len.to_be_bytes());
            bytes[10] = protocol;
        }
        if let Ok(arrival) = Arrival::decode(bytes.clone().into()) {
            let mut burst = Burst::new(arrival.clone());
            let (_, out) = written(&mut burst);
            prop_assert_eq!(out.len(), bytes.len() - 4);
            prop_assert_eq!(Packet::read(&out).unwrap().flow, *arrival.flow());
            if let Ok(other) = Arrival::decode(more.into()) {
                let _ = burst.append(other);
            }
        }
    }

    /// Whatever the kernel gives comes out at the other end as segments with the same bytes in the same order, whatever the room.
    #[test]
    fn cutting_and_joining_loses_nothing(
        len in 1_usize..65_000,
        segment in 1_u16..3000,
        room in 80_usize..16_000,
        options in 0_usize..=10,
        flags in prop_oneof![Just(ACK), Just(ACK | PUSH), Just(ACK | FIN)],
        first in any::<u32>(),
    ) {
        let data = payload(len.min(65_000 - options * 4));
        let packet = tcp(first, flags, options * 4, &data);
        let departure = departure(&packet, segment);
        let Ok(datagrams) = departure.datagrams(room) else {
            prop_assert!(room < CARRY_LEN + 60 + options * 4 + usize::from(segment).min(data.len()));
            return Ok(());
        };
        let (mut at, mut seen) = (0, 0);
        let mut bursts: Vec<Burst> = Vec::new();
        for datagram in datagrams {
            prop_assert!(datagram.len() <= room);
            let arrival = Arrival::decode(datagram).unwrap();
            prop_assert_eq!(sequence(arrival.packet(), 40), Some(first.wrapping_add(at as u32)));
            at += arrival.payload_len();
            if let Some(Ok(())) = bursts.last_mut().map(|burst| burst.append(arrival.clone())) {
                continue;
            }
            bursts.push(Burst::new(arrival));
        }
        prop_assert_eq!(at, data.len());
        for burst in &mut bursts {
            let (header, out) = written(burst);
            let here = &out[60 + options * 4..];
            prop_assert_eq!(here, &data[seen..seen + here.len()]);
            prop_assert_eq!(Packet::read(&out).is_ok(), true);
            if let Some((_, size)) = header.segments {
                prop_assert_eq!(size, segment);
            }
            seen += here.len();
        }
        prop_assert_eq!(seen, data.len());
    }
}
