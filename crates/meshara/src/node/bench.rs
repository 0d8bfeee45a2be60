//! Throughput runs: one node sends for a while, the other counts and reports what arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::NodeId;
use quinn::{ReadExactError, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::pipe::RESET;
use super::services::{append_rule, read_rule};
use super::sessions::{SessionError, Sessions};
use super::streams::Opening;
use super::trust::policy::Denied;
use crate::api::{BenchEvent, BenchProgress};

/// Bytes handed to a stream at once.
const CHUNK: usize = 256 << 10;
/// Between two reports of the receiver, and two lines of progress.
const REPORT: Duration = Duration::from_millis(100);
/// After the run's time the receiver has so long to confirm more. A re-route takes half a second; a node that is gone for good would
/// otherwise be waited for until its session ends.
const SILENCE: Duration = Duration::from_secs(5);
/// Most streams of a run.
pub(crate) const MAX_STREAMS: u32 = 64;
/// Longest run.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(3600);

/// What a run measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Bytes that the receiver confirmed.
    pub(crate) bytes: u64,
    /// From the first byte sent to the last report counted.
    pub(crate) elapsed: Duration,
}

/// In place of a sum: the node's policy denies the run, and a rule's name follows.
const DENIED: u64 = u64::MAX;

/// Tells a peer which rule denied its run.
pub(crate) async fn deny(mut send: SendStream, mut receive: RecvStream, rule: &str) {
    let mut answer = DENIED.to_be_bytes().to_vec();
    append_rule(&mut answer, rule);
    if send.write_all(&answer).await.is_ok() {
        let _ = send.finish();
        let _ = receive.stop(RESET);
        let _ = send.stopped().await;
    }
}

/// Counts what comes on a stream and reports the sum as big-endian `u64`s, the last one when the stream has ended, or that it is `denied` by now.
pub(crate) async fn sink(
    mut send: SendStream,
    mut receive: RecvStream,
    denied: impl Future<Output = Denied>,
) {
    let mut denied = std::pin::pin!(denied);
    let mut total = 0_u64;
    let mut chunks: [Bytes; 64] = std::array::from_fn(|_| Bytes::new());
    let mut next = Instant::now() + REPORT;
    loop {
        let read = tokio::select! {
            read = receive.read_chunks(&mut chunks) => read,
            Denied { rule } = &mut denied => return deny(send, receive, &rule).await,
        };
        let Ok(Some(count)) = read else { break };
        total += chunks.iter().take(count).map(|chunk| chunk.len() as u64).sum::<u64>();
        if Instant::now() >= next {
            next = Instant::now() + REPORT;
            if send.write_all(&total.to_be_bytes()).await.is_err() {
                return;
            }
        }
    }
    let _ = send.write_all(&total.to_be_bytes()).await;
    let _ = send.finish();
    let _ = send.stopped().await;
}

/// Sends zeros on `streams` streams for `duration`.
pub(crate) async fn run(
    sessions: &Sessions,
    node: NodeId,
    duration: Duration,
    streams: u32,
    progress: &mpsc::Sender<crate::api::Result<BenchEvent>>,
) -> Result<Measured, SessionError> {
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(sessions.open_stream(node, &Opening::Bench).await?);
    }
    let start = Instant::now();
    let end = start + duration;
    let confirmed: Arc<Vec<AtomicU64>> = Arc::new((0..streams).map(|_| AtomicU64::new(0)).collect());
    let mut tasks = JoinSet::new();
    for (index, (send, receive)) in open.into_iter().enumerate() {
        tasks.spawn(source(send, end));
        tasks.spawn(reports(receive, confirmed.clone(), index));
    }
    let sum = || confirmed.iter().map(|count| count.load(Relaxed)).sum::<u64>();
    let mut ticks = tokio::time::interval(REPORT);
    let mut last = (start, 0);
    let mut heard = start;
    let gone = progress.closed();
    tokio::pin!(gone);
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                None => break,
                Some(Ok(Err(error))) => return Err(error),
                Some(_) => {}
            },
            now = ticks.tick() => {
                let now = now.into_std();
                let bytes = sum();
                let rate = gigabits(bytes - last.1, now - last.0);
                if bytes > last.1 {
                    heard = now;
                }
                last = (now, bytes);
                if now.saturating_duration_since(heard.max(end)) >= SILENCE {
                    break;
                }
                let line = BenchProgress { elapsed_s: (now - start).as_secs_f64(), bytes, gbit_s: rate };
                let _ = progress.try_send(Ok(BenchEvent::Progress(line)));
            }
            () = &mut gone => break,
        }
    }
    // What was under way at the end still counts, with the time that it took.
    match sum() {
        0 => Err(SessionError::NothingConfirmed),
        bytes => {
            Ok(Measured { bytes, elapsed: if tasks.is_empty() { start.elapsed() } else { heard - start } })
        }
    }
}

/// A rate in Gbit/s.
pub(crate) fn gigabits(bytes: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { bytes as f64 * 8e-9 / seconds } else { 0.0 }
}

async fn source(mut send: SendStream, end: Instant) -> Result<(), SessionError> {
    let zeros = Bytes::from_static(&[0; CHUNK]);
    while Instant::now() < end {
        // A write that waits for window must still end with the run.
        match tokio::time::timeout_at(end.into(), send.write_chunk(zeros.clone())).await {
            // Why the other end takes no more, it says on its half.
            Ok(Err(quinn::WriteError::Stopped(_))) => return Ok(()),
            Ok(written) => written?,
            Err(_) => break,
        }
    }
    let _ = send.finish();
    Ok(())
}

/// Takes the receiver's sums until it ends the stream in order.
async fn reports(
    mut receive: RecvStream,
    confirmed: Arc<Vec<AtomicU64>>,
    index: usize,
) -> Result<(), SessionError> {
    let mut total = [0; 8];
    loop {
        match receive.read_exact(&mut total).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(_)) => return Ok(()),
            Err(ReadExactError::ReadError(error)) => return Err(error.into()),
        }
        if total == DENIED.to_be_bytes() {
            let rule = read_rule(&mut receive).await.unwrap_or_default();
            return Err(SessionError::Denied { rule });
        }
        if let Some(count) = confirmed.get(index) {
            count.store(u64::from_be_bytes(total), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::tests::pair;
    use super::*;

    #[tokio::test]
    async fn a_run_whose_session_breaks_or_that_confirms_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, bob) = pair(dir.path()).await;
        let (sessions, peer) = (&alice.inner.sessions, bob.member().node_id);
        let opened = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Ok(streams) = sessions.open_stream(peer, &Opening::Bench).await {
                    return streams;
                }
            }
        });
        let (mut send, receive) = opened.await.unwrap();
        send.write_all(b"12345").await.unwrap();
        send.finish().unwrap();
        let confirmed = Arc::new(vec![AtomicU64::new(0)]);
        reports(receive, confirmed.clone(), 0).await.unwrap();
        assert_eq!(confirmed[0].load(Relaxed), 5);

        let (progress, _lines) = mpsc::channel(64);
        let nothing = run(sessions, peer, Duration::ZERO, 1, &progress).await;
        assert!(matches!(nothing, Err(SessionError::NothingConfirmed)), "{nothing:?}");

        let (_send, receive) = sessions.open_stream(peer, &Opening::Bench).await.unwrap();
        for session in sessions.all() {
            session.connection.close(0_u32.into(), b"");
        }
        let broken = reports(receive, confirmed, 0).await;
        assert!(matches!(broken, Err(SessionError::Read(_))), "{broken:?}");
        alice.shutdown().await;
        bob.shutdown().await;
    }
}
