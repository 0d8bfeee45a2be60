//! How fast this disk takes group commits. Run with
//! `cargo test --release -p meshara store::measure -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_messaging::{FlowRow, MarkRow, MessageId, OutboxRow};

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
