//! How fast this disk takes group commits, and two nodes' cores and stores acknowledge messages. Run with
//! `cargo test --release -p meshara store::measure -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_messaging::{Config, Core, FlowRow, MarkRow, MessageId, OutboxRow, Output, StoreFailure};

use super::*;

const MESSAGES: u64 = 100_000;

/// Commits `MESSAGES` of 100 B in batches of `size`, as a sender or a receiver does; gives messages/s and the commits' times.
async fn run(store: &Store, size: u64, ops: impl Fn(u64, u64) -> Vec<StoreOp>) -> (f64, Vec<Duration>) {
    let commits = (MESSAGES / size).min(400);
    let mut times = Vec::new();
    let start = Instant::now();
    for commit in 0..commits {
        let begin = Instant::now();
        store.commit(ops(commit * size + 1, size)).await.unwrap();
        times.push(begin.elapsed());
        if commit % 16 == 15 {
            store.take_unread(TakeLimit { messages: usize::MAX, bytes: usize::MAX }).await.unwrap();
        }
    }
    let rate = (commits * size) as f64 / start.elapsed().as_secs_f64();
    times.sort();
    (rate, times)
}

fn sender(first: u64, size: u64) -> Vec<StoreOp> {
    let to = NodeId([1; 32]);
    let put = |seq: u64| {
        let id = MessageId::from_bytes(u128::from(seq).to_be_bytes());
        StoreOp::OutboxPut(OutboxRow {
            to,
            seq,
            id,
            sent_at_unix_ms: seq,
            body: Bytes::from_static(&[5; 100]),
        })
    };
    let mut ops: Vec<_> = (first..first + size).map(put).collect();
    ops.push(StoreOp::OutboxFlow(FlowRow { to, incarnation: 1, next_seq: first + size }));
    ops.push(StoreOp::OutboxSettle { to, through: first.saturating_sub(3 * size) });
    ops
}

fn receiver(first: u64, size: u64) -> Vec<StoreOp> {
    let from = NodeId([2; 32]);
    let put = |arrival: u64| {
        let id = MessageId::from_bytes(u128::from(arrival).to_be_bytes());
        let body = Bytes::from_static(&[5; 100]);
        StoreOp::InboxPut(InboxRow { arrival, from, id, sent_at_unix_ms: arrival, body })
    };
    let mut ops: Vec<_> = (first..first + size).map(put).collect();
    ops.push(StoreOp::Mark(MarkRow { from, incarnation: 1, stored: first + size - 1 }));
    ops
}

#[test]
#[ignore = "measures the disk"]
fn group_commit_rate() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for size in [1, 10, 100, 1_000, 8_192] {
            for (name, ops) in [("sender", sender as fn(u64, u64) -> _), ("receiver", receiver)] {
                let folder =
                    tempfile::tempdir_in(std::env::var("MESHARA_MEASURE").unwrap_or_else(|_| ".".into()))
                        .unwrap();
                let (store, _) = Store::open(&folder.path().join("node.redb")).unwrap();
                let (rate, times) = run(&store, size, ops).await;
                let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
                println!(
                    "{name:8} {size:5} a commit: {rate:9.0} messages/s, commit p50 {:?} p99 {:?}",
                    at(0.5),
                    at(0.99)
                );
                store.close().await;
            }
        }
    });
}

/// One node without a network: its core, its store, and frames to and from the other.
struct Peer {
    core: Core,
    store: Store,
    other: NodeId,
    to: mpsc::UnboundedSender<Bytes>,
    from: mpsc::UnboundedReceiver<Bytes>,
    clock: Instant,
    acked: Vec<Duration>,
}

impl Peer {
    async fn open(
        folder: &Path,
        name: u8,
        other: u8,
        to: mpsc::UnboundedSender<Bytes>,
        from: mpsc::UnboundedReceiver<Bytes>,
    ) -> Self {
        let (store, snapshot) = Store::open(&folder.join(format!("{name}.redb"))).unwrap();
        let (local, other) = (NodeId([name; 32]), NodeId([other; 32]));
        let mut core = Core::new(Config::default(), local, [name; 32], Duration::ZERO, 0, snapshot).unwrap();
        core.peer_up(Duration::ZERO, other).unwrap();
        Self { core, store, other, to, from, clock: Instant::now(), acked: Vec::new() }
    }

    /// Submits `count` messages, `rate` a second if given, and runs until `until` holds.
    async fn run(&mut self, count: usize, rate: Option<f64>, until: impl Fn(&Core) -> bool) {
        let (done, mut commits) = mpsc::unbounded_channel();
        let (start, mut sent) = (Instant::now(), 0);
        loop {
            let due = rate.map_or(count, |rate| (start.elapsed().as_secs_f64() * rate) as usize).min(count);
            while sent < due && self.core.stats().outbox_messages < 8_192 {
                self.core.submit(self.clock.elapsed(), self.other, Bytes::from_static(&[5; 100]), 0).unwrap();
                sent += 1;
            }
            while let Some(output) = self.core.poll_output(self.clock.elapsed()) {
                match output {
                    Output::Transmit { frame, .. } => drop(self.to.send(frame.into())),
                    Output::Acked { after, .. } => self.acked.push(after),
                    Output::Store { token, ops } => {
                        let (store, done) = (self.store.clone(), done.clone());
                        tokio::spawn(async move { done.send((token, store.commit(ops).await)) });
                    }
                    _ => {}
                }
            }
            if until(&self.core) && sent == count {
                return;
            }
            let pause = Duration::from_millis(if sent < count { 1 } else { 50 });
            tokio::select! {
                Some(frame) = self.from.recv() => {
                    self.core.handle_frame(self.clock.elapsed(), self.other, frame).unwrap();
                }
                Some((token, result)) = commits.recv() => match result {
                    Ok(()) => self.core.stored(self.clock.elapsed(), token),
                    Err(error) => {
                        let failure = StoreFailure(error.to_string());
                        self.core.store_failed(self.clock.elapsed(), token, failure);
                    }
                },
                () = tokio::time::sleep(pause) => {}
            }
            self.core.handle_timeout(self.clock.elapsed());
            if self.core.stats().inbox_messages > 4_096 {
                let taken =
                    self.store.take_unread(TakeLimit { messages: 65_536, bytes: usize::MAX }).await.unwrap();
                let bytes = taken.iter().map(|row| row.body.len() as u64).sum();
                self.core.consumed(taken.len() as u64, bytes);
            }
        }
    }
}

/// Sends `count` messages between two nodes; gives messages/s and the sorted times to the acknowledgement.
async fn exchange(folder: &Path, count: usize, rate: Option<f64>) -> (f64, Vec<Duration>) {
    let (to_b, from_a) = mpsc::unbounded_channel();
    let (to_a, from_b) = mpsc::unbounded_channel();
    let mut a = Peer::open(folder, 1, 2, to_b, from_b).await;
    let mut b = Peer::open(folder, 2, 1, to_a, from_a).await;
    let start = Instant::now();
    let receiver = tokio::spawn(async move {
        b.run(0, None, |core| core.stats().delivered as usize == count).await;
        b
    });
    a.run(count, rate, |core| core.stats().outbox_messages == 0).await;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let b = receiver.await.unwrap();
    assert_eq!((a.acked.len(), b.core.stats().duplicates), (count, 0));
    a.acked.sort();
    (rate, a.acked)
}

#[test]
fn two_nodes_with_real_stores_acknowledge_every_message() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(exchange(folder.path(), 20_000, None));
}

#[test]
#[ignore = "measures the disk"]
fn acknowledged_rate() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (count, rate) in
        [(500_000, None), (50_000, Some(10_000.0)), (100_000, Some(20_000.0)), (2_000, Some(100.0))]
    {
        let folder =
            tempfile::tempdir_in(std::env::var("MESHARA_MEASURE").unwrap_or_else(|_| ".".into())).unwrap();
        let (measured, times) = runtime.block_on(exchange(folder.path(), count, rate));
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "asked {rate:?}/s: {measured:9.0} messages/s, acknowledged p50 {:?} p99 {:?}",
            at(0.5),
            at(0.99)
        );
    }
}
