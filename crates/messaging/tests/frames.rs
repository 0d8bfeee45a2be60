//! The frame codec: frozen bytes, round trip, and refusal of everything that is not the one encoding.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests may panic")]

use bytes::Bytes;
use meshara_messaging::{
    MAX_FRAME, MAX_MESSAGE, MessageId, Trouble,
    frame::{Ack, Data, DecodeError, Envelope, FRAME_TARGET, Frame, Open},
};
use proptest::prelude::*;

fn fixtures() -> [(Frame, &'static str); 3] {
    let message = |n: u8, body: &'static [u8]| Envelope {
        id: MessageId::from_bytes([n; 16]),
        sent_at_unix_ms: 0x0102_0304_0506,
        body: Bytes::from_static(body),
    };
    [
        (
            Frame::Open(Open { incarnation: 0x1122_3344_5566_7788, settled: 41, next: 43 }),
            "010111223344556677880000000000000029000000000000002b",
        ),
        (
            Frame::Data(Data {
                incarnation: 1,
                settled: 2,
                first: 3,
                messages: vec![message(0xaa, b"hi"), message(0xbb, b"")],
            }),
            "01020000000000000001000000000000000200000000000000030002aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0000010203040506000000\
             026869bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb000001020304050600000000",
        ),
        (
            Frame::Ack(Ack {
                incarnation: 1,
                stored: 4,
                expected: 6,
                resume: true,
                trouble: Some(Trouble::InboxFull),
                window: 0x0a0b,
                window_bytes: 0x0c0d,
            }),
            "01030000000000000001000000000000000400000000000000060101\
             00000a0b0000000000000c0d",
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frozen_bytes() {
    for (frame, expected) in fixtures() {
        assert_eq!(hex(&frame.encode()), expected, "{frame:?}");
        assert_eq!(Frame::decode(frame.encode().into()), Ok(frame));
    }
}

#[test]
fn every_prefix_and_every_extension_is_refused() {
    for (frame, _) in fixtures() {
        let bytes = Bytes::from(frame.encode());
        for end in 0..bytes.len() {
            assert_eq!(Frame::decode(bytes.slice(..end)), Err(DecodeError::Truncated), "{end}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Frame::decode(longer.into()), Err(DecodeError::Trailing(1)));
    }
}

#[test]
fn impossible_fields_are_named() {
    let [(open, _), (data, _), (ack, _)] = fixtures();
    let with = |frame: &Frame, at: usize, value: u8| {
        let mut bytes = frame.encode();
        bytes[at] = value;
        Frame::decode(bytes.into())
    };
    assert_eq!(with(&open, 0, 2), Err(DecodeError::Version { found: 2 }));
    assert_eq!(with(&open, 1, 9), Err(DecodeError::Kind(9)));
    assert_eq!(with(&open, 25, 41), Err(DecodeError::Field("next number")));
    assert_eq!(with(&data, 25, 2), Err(DecodeError::Field("first number")));
    assert_eq!(with(&data, 27, 0), Err(DecodeError::Field("count")));
    assert_eq!(with(&data, 26, 0xff), Err(DecodeError::Field("count")));
    assert_eq!(with(&data, 52, 0x7f), Err(DecodeError::MessageTooLong(0x7f00_0002)));
    assert_eq!(with(&ack, 25, 4), Err(DecodeError::Field("expected number")));
    assert_eq!(with(&ack, 26, 2), Err(DecodeError::Field("resume flag")));
    assert_eq!(with(&ack, 27, 3), Err(DecodeError::Field("trouble")));
    assert_eq!(Frame::decode(vec![1; MAX_FRAME + 1].into()), Err(DecodeError::TooLong(MAX_FRAME + 1)));
}

#[test]
fn the_largest_frame_is_accepted() {
    let message = |size| Envelope {
        id: MessageId::from_bytes([1; 16]),
        sent_at_unix_ms: 1,
        body: Bytes::from(vec![7; size]),
    };
    let messages = vec![message(FRAME_TARGET - 28), message(MAX_MESSAGE)];
    let frame = Frame::Data(Data { incarnation: 1, settled: 0, first: 1, messages });
    let bytes = frame.encode();
    assert_eq!(bytes.len(), MAX_FRAME);
    assert_eq!(Frame::decode(bytes.into()), Ok(frame));
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let envelope = (any::<[u8; 16]>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(id, sent_at_unix_ms, body)| Envelope {
            id: MessageId::from_bytes(id),
            sent_at_unix_ms,
            body: body.into(),
        });
    let trouble = prop_oneof![Just(None), Just(Some(Trouble::InboxFull)), Just(Some(Trouble::StoreFailing))];
    prop_oneof![
        (any::<u64>(), 0..u64::MAX, 1..1000_u64).prop_map(|(incarnation, settled, more)| {
            Frame::Open(Open { incarnation, settled, next: settled.saturating_add(more) })
        }),
        (any::<u64>(), 0..1_u64 << 60, 1..1000_u64, proptest::collection::vec(envelope, 1..20)).prop_map(
            |(incarnation, settled, more, messages)| {
                Frame::Data(Data { incarnation, settled, first: settled + more, messages })
            }
        ),
        (any::<u64>(), 0..u64::MAX, 1..9_u64, any::<bool>(), trouble, any::<u32>(), any::<u64>()).prop_map(
            |(incarnation, stored, more, resume, trouble, window, window_bytes)| {
                let expected = stored.saturating_add(more);
                Frame::Ack(Ack { incarnation, stored, expected, resume, trouble, window, window_bytes })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn round_trip(frame in any_frame()) {
        prop_assert_eq!(Frame::decode(frame.encode().into()), Ok(frame));
    }

    #[test]
    fn what_decodes_is_the_one_encoding(
        head in prop_oneof![Just([1, 1]), Just([1, 2]), Just([1, 3])],
        tail in proptest::collection::vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 0..120),
    ) {
        let bytes: Vec<u8> = head.into_iter().chain(tail).collect();
        if let Ok(frame) = Frame::decode(bytes.clone().into()) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }
}
