//! Bounds, exact errors and timers of the core.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests may panic")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Disk, UNIX_MS, batch, core, drain, frames, node};
use meshara_messaging::{
    Config, Core, FrameError, LoadError, MAX_MESSAGE, MarkRow, Output, StoreFailure, SubmitError, Trouble,
    Waiting,
    frame::{Ack, Data, DecodeError, Frame, Open},
};

const T0: Duration = Duration::ZERO;

fn send(core: &mut Core, to: u8, size: usize) -> Result<meshara_messaging::MessageId, SubmitError> {
    core.submit(T0, node(to), Bytes::from(vec![1; size]), UNIX_MS)
}

/// Stores whatever waits; gives all outputs but the batches.
fn settle(core: &mut Core, disk: &mut Disk, now: Duration) -> Vec<Output> {
    let mut all = Vec::new();
    loop {
        let outputs = drain(core, now);
        let Some((token, ops)) = batch(&outputs) else {
            all.extend(outputs);
            return all;
        };
        ops.into_iter().for_each(|op| disk.apply(op));
        all.extend(outputs.into_iter().filter(|output| !matches!(output, Output::Store { .. })));
        core.stored(now, token);
    }
}

fn ack(core: &mut Core, from: u8, incarnation: u64, stored: u64, window: u32) {
    let ack = Ack {
        incarnation,
        stored,
        expected: stored + 1,
        resume: true,
        trouble: None,
        window,
        window_bytes: 1 << 20,
    };
    core.handle_frame(T0, node(from), Frame::Ack(ack).encode().into()).expect("a valid frame");
}

fn decode(outputs: &[Output]) -> Vec<Frame> {
    frames(outputs)
        .into_iter()
        .map(|frame| Frame::decode(frame.into()).expect("a frame of the core"))
        .collect()
}

#[test]
fn every_refusal_of_a_submission_is_exact() {
    let config = Config {
        outbox_messages: 3,
        outbox_messages_per_peer: 2,
        outbox_bytes_per_peer: 50,
        destinations: 2,
        ..Config::default()
    };
    let mut core = core(&config, 0, 1, T0, &Disk::default());
    let (size, max) = (MAX_MESSAGE + 1, MAX_MESSAGE);
    assert_eq!(send(&mut core, 1, size), Err(SubmitError::TooLarge { size, max }));
    assert_eq!(send(&mut core, 0, 1), Err(SubmitError::ToSelf));
    send(&mut core, 1, 10).expect("room");
    assert_eq!(send(&mut core, 1, 41), Err(SubmitError::PeerQueueFull { messages: 1, bytes: 10 }));
    send(&mut core, 1, 10).expect("room");
    assert_eq!(send(&mut core, 1, 0), Err(SubmitError::PeerQueueFull { messages: 2, bytes: 20 }));
    send(&mut core, 2, 5).expect("room");
    assert_eq!(send(&mut core, 3, 0), Err(SubmitError::TooManyDestinations { max: 2 }));
    assert_eq!(send(&mut core, 2, 0), Err(SubmitError::QueueFull { messages: 3, bytes: 25 }));
    assert_eq!(core.stats().outbox_messages, 3);
}

#[test]
fn the_largest_message_is_carried() {
    let (mut disk, mut core) = (Disk::default(), core(&Config::default(), 0, 1, T0, &Disk::default()));
    core.peer_up(T0, node(1)).expect("room");
    send(&mut core, 1, MAX_MESSAGE).expect("exactly the maximum");
    let opened = decode(&settle(&mut core, &mut disk, T0));
    let [Frame::Open(Open { incarnation, settled: 0, next: 2 })] = opened[..] else { panic!("{opened:?}") };
    ack(&mut core, 1, incarnation, 0, 1);
    let data = decode(&drain(&mut core, T0));
    assert!(
        matches!(&data[..], [Frame::Data(Data { messages, .. })] if messages[0].body.len() == MAX_MESSAGE)
    );
}

#[test]
fn nothing_is_sent_before_it_is_stored_nor_beyond_the_window() {
    let (mut disk, mut core) = (Disk::default(), core(&Config::default(), 0, 1, T0, &Disk::default()));
    core.peer_up(T0, node(1)).expect("room");
    for _ in 0..10 {
        send(&mut core, 1, 100).expect("room");
    }
    let outputs = drain(&mut core, T0);
    assert!(frames(&outputs).is_empty(), "not durable yet");
    assert_eq!(core.waiting(node(1)), Some(Waiting::Storing));
    let (token, ops) = batch(&outputs).expect("one batch");
    assert_eq!(ops.len(), 11, "ten messages and their flow in one commit");
    ops.into_iter().for_each(|op| disk.apply(op));
    core.stored(T0, token);
    let opened = decode(&settle(&mut core, &mut disk, T0));
    let [Frame::Open(Open { incarnation, .. })] = opened[..] else { panic!("{opened:?}") };
    ack(&mut core, 1, incarnation, 0, 3);
    let count = |frames: &[Frame]| -> usize {
        frames.iter().map(|frame| if let Frame::Data(data) = frame { data.messages.len() } else { 0 }).sum()
    };
    assert_eq!(count(&decode(&drain(&mut core, T0))), 3);
    assert_eq!(core.waiting(node(1)), Some(Waiting::Acknowledgement));
    ack(&mut core, 1, incarnation, 2, 3);
    let outputs = drain(&mut core, T0);
    assert_eq!(count(&decode(&outputs)), 3, "the third again, as the receiver says, and two more");
    let acked = outputs.iter().filter(|output| matches!(output, Output::Acked { .. })).count();
    assert_eq!(acked, 2);
}

#[test]
fn a_failing_store_rejects_what_it_lost_and_refuses_until_the_retry() {
    let config = Config::default();
    let (mut disk, mut core) = (Disk::default(), core(&config, 0, 1, T0, &Disk::default()));
    let kept = send(&mut core, 1, 1).expect("room");
    settle(&mut core, &mut disk, T0);
    let lost = send(&mut core, 1, 1).expect("room");
    let (token, _) = batch(&drain(&mut core, T0)).expect("a batch");
    let behind = send(&mut core, 1, 1).expect("room");
    let full = StoreFailure("disk full".into());
    core.store_failed(T0, token, full.clone());
    let error = SubmitError::Store(full);
    let rejected = |id| Output::Rejected { to: node(1), id, error: error.clone() };
    assert_eq!(drain(&mut core, T0), [rejected(lost), rejected(behind)]);
    assert_eq!(send(&mut core, 1, 1), Err(error.clone()));
    core.handle_timeout(config.store_retry);
    drain(&mut core, config.store_retry);
    let after = send(&mut core, 1, 1).expect("tried again");
    settle(&mut core, &mut disk, config.store_retry);
    let stored: Vec<_> = disk.outbox.iter().map(|((_, seq), row)| (*seq, row.id)).collect();
    assert_eq!(stored, [(1, kept), (2, after)], "numbers stay consecutive");
}

#[test]
fn a_full_inbox_is_named_and_resumes_when_messages_are_consumed() {
    let config = Config { inbox_messages: 2, ..Config::default() };
    let (mut a_disk, mut a) = (Disk::default(), core(&config, 0, 1, T0, &Disk::default()));
    let (mut b_disk, mut b) = (Disk::default(), core(&config, 1, 2, T0, &Disk::default()));
    a.peer_up(T0, node(1)).expect("room");
    b.peer_up(T0, node(0)).expect("room");
    for _ in 0..5 {
        send(&mut a, 1, 10).expect("room");
    }
    let mut exchange = |a: &mut Core, b: &mut Core| {
        for _ in 0..10 {
            for frame in frames(&settle(a, &mut a_disk, T0)) {
                b.handle_frame(T0, node(0), frame.into()).expect("valid");
            }
            for frame in frames(&settle(b, &mut b_disk, T0)) {
                a.handle_frame(T0, node(1), frame.into()).expect("valid");
            }
        }
    };
    exchange(&mut a, &mut b);
    assert_eq!((a.stats().acked, b.stats().inbox_messages), (2, 2));
    assert_eq!(a.waiting(node(1)), Some(Waiting::Peer(Trouble::InboxFull)));
    b.consumed(2, 20);
    exchange(&mut a, &mut b);
    assert_eq!(a.stats().acked, 4);
    b.consumed(2, 20);
    exchange(&mut a, &mut b);
    assert_eq!((a.stats().acked, a.waiting(node(1))), (5, None));
}

#[test]
fn bad_frames_are_exact_errors() {
    let config = Config { senders: 1, ..Config::default() };
    let mut core = core(&config, 0, 1, T0, &Disk::default());
    let open = Frame::Open(Open { incarnation: 1, settled: 0, next: 1 }).encode();
    assert_eq!(core.handle_frame(T0, node(1), open.clone().into()), Err(FrameError::NotConnected));
    core.peer_up(T0, node(1)).expect("room");
    assert_eq!(core.peer_up(T0, node(2)), Err(FrameError::TooManySenders { max: 1 }));
    let garbage = core.handle_frame(T0, node(1), Bytes::from_static(&[9, 9]));
    assert_eq!(garbage, Err(FrameError::Decode(DecodeError::Version { found: 9 })));
    let message = meshara_messaging::frame::Envelope {
        id: meshara_messaging::MessageId::from_bytes([0; 16]),
        sent_at_unix_ms: 0,
        body: Bytes::new(),
    };
    let data = |incarnation| {
        let data = Data { incarnation, settled: 0, first: 1, messages: vec![message.clone()] };
        Bytes::from(Frame::Data(data).encode())
    };
    assert_eq!(core.handle_frame(T0, node(1), data(1)), Err(FrameError::NotOpened));
    core.handle_frame(T0, node(1), open.into()).expect("valid");
    assert_eq!(core.handle_frame(T0, node(1), data(2)), Err(FrameError::NotOpened));
    assert_eq!(core.handle_frame(T0, node(1), data(1)), Ok(()));
}

#[test]
fn sessions_are_asked_for_with_growing_pauses_and_at_once_when_a_route_appears() {
    let config = Config::default();
    let (mut disk, mut core) = (Disk::default(), core(&config, 0, 1, T0, &Disk::default()));
    send(&mut core, 1, 1).expect("room");
    let connects =
        |outputs: Vec<Output>| outputs.iter().filter(|o| matches!(o, Output::Connect { .. })).count();
    assert_eq!(connects(settle(&mut core, &mut disk, T0)), 1);
    let (mut now, mut asked) = (T0, 0);
    while now < Duration::from_secs(60) {
        now = core.poll_timeout().expect("a connect timer");
        core.handle_timeout(now);
        asked += connects(drain(&mut core, now));
    }
    assert!((9..=13).contains(&asked), "{asked} requests in a minute");
    core.peer_reachable(now, node(1));
    assert_eq!(connects(drain(&mut core, now)), 1);
}

#[test]
fn a_silent_receiver_is_asked_where_it_stands() {
    let config = Config::default();
    let (mut disk, mut core) = (Disk::default(), core(&config, 0, 1, T0, &Disk::default()));
    core.peer_up(T0, node(1)).expect("room");
    send(&mut core, 1, 1).expect("room");
    assert!(matches!(decode(&settle(&mut core, &mut disk, T0))[..], [Frame::Open(_)]));
    core.handle_timeout(config.probe_interval);
    assert!(matches!(decode(&drain(&mut core, config.probe_interval))[..], [Frame::Open(_)]));
}

#[test]
fn what_the_receiver_denies_is_sent_again_ever_more_seldom() {
    let config = Config::default();
    let (mut disk, mut core) = (Disk::default(), core(&config, 0, 1, T0, &Disk::default()));
    core.peer_up(T0, node(1)).expect("room");
    send(&mut core, 1, 1).expect("room");
    // Whatever is sent in a round is answered with a denial.
    let mut asked = Vec::new();
    let note = |core: &mut Core, now, frames: Vec<Output>, asked: &mut Vec<Duration>| {
        if !decode(&frames).is_empty() {
            asked.push(now);
            core.denied(node(1));
        }
    };
    let first = settle(&mut core, &mut disk, T0);
    note(&mut core, T0, first, &mut asked);
    let day = Duration::from_secs(24 * 3600);
    let run = |core: &mut Core, until, asked: &mut Vec<Duration>| {
        while let Some(now) = core.poll_timeout().filter(|at| *at <= until) {
            core.handle_timeout(now);
            let frames = drain(core, now);
            note(core, now, frames, asked);
        }
    };
    run(&mut core, day / 24, &mut asked);
    assert!((20..=40).contains(&asked.len()), "{} rounds in an hour", asked.len());
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.is_sorted(), "{waits:?}");
    // Another policy is reason to try at once, and from the start again.
    let now = day / 24;
    core.retry_denied(now);
    assert!(matches!(decode(&drain(&mut core, now))[..], [Frame::Open(_)]));
    core.denied(node(1));
    let mut asked = vec![now];
    run(&mut core, now + Duration::from_secs(60), &mut asked);
    assert!(asked.len() >= 3, "{asked:?}");
}

#[test]
fn old_messages_expire_and_the_flow_goes_on_behind_them() {
    let config = Config { ttl: Duration::from_secs(100), ..Config::default() };
    let (mut disk, mut core) = (Disk::default(), core(&config, 0, 1, T0, &Disk::default()));
    let old = send(&mut core, 1, 1).expect("room");
    settle(&mut core, &mut disk, T0);
    let late = Duration::from_secs(90);
    let unix = UNIX_MS + 90_000;
    core.submit(late, node(1), Bytes::new(), unix).expect("room");
    settle(&mut core, &mut disk, late);
    let mut expired = Vec::new();
    for second in [60, 120, 122] {
        let now = Duration::from_secs(second);
        core.handle_timeout(now);
        let outputs = settle(&mut core, &mut disk, now);
        expired.extend(outputs.into_iter().filter(|output| matches!(output, Output::Expired { .. })));
    }
    assert_eq!(expired, [Output::Expired { to: node(1), id: old }]);
    assert_eq!(disk.outbox.keys().map(|(_, seq)| *seq).collect::<Vec<_>>(), [2]);
    core.peer_up(late, node(1)).expect("room");
    let opened = decode(&settle(&mut core, &mut disk, late));
    assert!(matches!(opened[..], [Frame::Open(Open { settled: 1, next: 3, .. })]), "{opened:?}");
}

#[test]
fn an_older_copy_of_the_store_takes_up_a_new_incarnation() {
    let (mut disk, mut first) = (Disk::default(), core(&Config::default(), 0, 1, T0, &Disk::default()));
    let old = send(&mut first, 1, 1).expect("room");
    settle(&mut first, &mut disk, T0);
    // The copy was made here; the receiver went on to store five.
    let mut restored = core(&Config::default(), 0, 2, T0, &disk);
    let fresh = send(&mut restored, 1, 1).expect("room");
    restored.peer_up(T0, node(1)).expect("room");
    let opened = decode(&settle(&mut restored, &mut disk, T0));
    let incarnation =
        opened.iter().find_map(|f| if let Frame::Open(open) = f { Some(open.incarnation) } else { None });
    ack(&mut restored, 1, incarnation.expect("opened"), 5, 10);
    let outputs = settle(&mut restored, &mut disk, T0);
    let acked =
        outputs.iter().filter_map(|o| if let Output::Acked { id, .. } = o { Some(*id) } else { None });
    assert_eq!(acked.collect::<Vec<_>>(), [old], "what the copy held was stored, what came since was not");
    let reopened = decode(&outputs);
    let [Frame::Open(Open { incarnation: again, settled: 1, next: 3 })] = reopened[..] else {
        panic!("{reopened:?}")
    };
    assert_ne!(Some(again), incarnation);
    assert_eq!(disk.flows[&node(1)].incarnation, again, "durable before it is used");
    assert_eq!(disk.outbox[&(node(1), 2)].id, fresh);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let (mut disk, mut writer) = (Disk::default(), core(&Config::default(), 0, 1, T0, &Disk::default()));
    for _ in 0..3 {
        send(&mut writer, 1, 1).expect("room");
    }
    settle(&mut writer, &mut disk, T0);
    let load =
        |disk: &Disk| Core::new(Config::default(), node(0), [0; 32], T0, UNIX_MS, disk.snapshot()).err();
    assert_eq!(load(&disk), None);
    let mut gap = disk.clone();
    gap.outbox.remove(&(node(1), 2));
    assert_eq!(load(&gap), Some(LoadError::Outbox { to: node(1), seq: 3 }));
    let mut end = disk.clone();
    end.outbox.remove(&(node(1), 3));
    assert_eq!(load(&end), Some(LoadError::Outbox { to: node(1), seq: 3 }));
    let mut orphan = disk.clone();
    orphan.flows.clear();
    assert_eq!(load(&orphan), Some(LoadError::Outbox { to: node(1), seq: 1 }));
    disk.marks.insert(node(2), MarkRow { from: node(2), incarnation: 1, stored: u64::MAX });
    assert_eq!(load(&disk), None, "a mark at the end of the numbers loads");
}
