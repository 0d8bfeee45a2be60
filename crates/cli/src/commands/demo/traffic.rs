//! What crosses the demo's mesh: messages, pings and a TCP stream, in calm and across a failure.

use std::collections::BTreeSet;
use std::time::Duration;

use meshara::api::{
    ApiError, Body, ConnectEvent, ConnectRequest, ErrorCode, MessageRef, PingEvent, PingRequest, PingSummary,
    Received,
};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::grid::{self, FAR, NEAR};
use super::nodes::Mesh;
use super::view::{State, View};
use crate::failure::Failure;

/// Pings of the measurement, and the time between two: the gap is known to that.
const PINGS: u32 = 500;
const INTERVAL: Duration = Duration::from_millis(10);
/// Calm before the failure, in which a stall of the machine would show.
const CALM: Duration = Duration::from_millis(1500);
/// Messages on the way during the measurement, and the time between two.
const MESSAGES: usize = 20;
const PACE: Duration = Duration::from_millis(200);
/// What one write of the stream holds, and the time between two: some 3 MB/s each way.
const CHUNK: usize = 16 << 10;
const CHUNK_PACE: Duration = Duration::from_millis(5);
/// How long anything may take to arrive across the failure.
const ARRIVAL: Duration = Duration::from_secs(20);
/// Any seed does: both ends of the stream make the same bytes from it.
const SEED: u64 = 9;

/// What the measurement showed.
pub(super) struct Crossing {
    pub(super) stopped: usize,
    pub(super) gap_ms: f64,
    pub(super) path_before: Vec<usize>,
    pub(super) path_after: Vec<usize>,
    pub(super) messages: usize,
    pub(super) stream_bytes: u64,
    pub(super) bytes_equal: bool,
}

/// Sends `count` messages from corner to corner and as many back; gives how many arrived, which is all of them.
pub(super) async fn exchange(mesh: &Mesh, count: usize) -> Result<usize, Failure> {
    for (from, to) in [(NEAR, FAR), (FAR, NEAR)] {
        deliver(mesh, from, to, count, Duration::ZERO).await?;
    }
    Ok(2 * count)
}

/// Sends messages and checks that each arrived, once and in order.
async fn deliver(mesh: &Mesh, from: usize, to: usize, count: usize, pace: Duration) -> Result<(), Failure> {
    let client = mesh.client(from);
    let mut expected = Vec::new();
    for number in 1..=count {
        let text = format!("message {number} of {count} from {}", grid::name(from));
        client.send(grid::name(to), text.clone().into_bytes().into(), ARRIVAL).await?;
        expected.push(Body::Text(text));
        tokio::time::sleep(pace).await;
    }
    let client = mesh.client(to);
    let (mut seen, mut got): (BTreeSet<MessageRef>, Vec<Body>) = Default::default();
    loop {
        let mut batch: Vec<Received> = client.unread().await?;
        batch.retain(|message| message.from_name == grid::name(from) && seen.insert(message.reference()));
        if batch.is_empty() {
            break;
        }
        let arrived: Vec<_> = batch.iter().map(Received::reference).collect();
        got.extend(batch.into_iter().map(|message| message.body));
        client.consume(&arrived).await?;
    }
    if got == expected {
        return Ok(());
    }
    let message =
        format!("{} acknowledged messages, and {} are in the inbox or their order differs", count, got.len());
    Err(ApiError::new(ErrorCode::Internal, message).into())
}

/// Pings, streams and sends while the node in the middle of the path stops.
pub(super) async fn cross_a_failure(mesh: &Mesh, view: &mut View) -> Result<Crossing, Failure> {
    let (measured, measuring) = watch::channel(false);
    let pings = async {
        let summary = ping(mesh).await;
        measured.send_replace(true);
        summary
    };
    let messages = deliver(mesh, NEAR, FAR, MESSAGES, PACE);
    let (summary, (), stream, fault) =
        tokio::try_join!(pings, messages, stream(mesh, measuring), fault(mesh, view))?;
    if summary.received == 0 {
        return Err(ApiError::new(ErrorCode::Unreachable, "no ping was answered").into());
    }
    Ok(Crossing {
        stopped: fault.stopped,
        gap_ms: summary.longest_gap_ms,
        path_before: fault.path_before,
        path_after: fault.path_after,
        messages: MESSAGES,
        stream_bytes: stream.bytes,
        bytes_equal: stream.equal,
    })
}

async fn ping(mesh: &Mesh) -> Result<PingSummary, Failure> {
    let request = PingRequest {
        node: grid::name(FAR).to_owned(),
        count: PINGS,
        interval_ms: INTERVAL.as_secs_f64() * 1000.0,
        size: 32,
    };
    let mut events = mesh.client(NEAR).ping(&request).await?;
    while let Some(event) = events.next().await? {
        if let PingEvent::Summary { summary } = event {
            return Ok(summary);
        }
    }
    Err(ApiError::new(ErrorCode::Protocol, "the pings ended without a summary").into())
}

struct Fault {
    stopped: usize,
    path_before: Vec<usize>,
    path_after: Vec<usize>,
}

/// Stops the node in the middle of the path and waits for a path without it.
async fn fault(mesh: &Mesh, view: &mut View) -> Result<Fault, Failure> {
    tokio::time::sleep(CALM).await;
    let path_before = mesh.path().await?;
    let forwarders = path_before.len().saturating_sub(1);
    let none = || ApiError::new(ErrorCode::Internal, "no node forwards between the two corners");
    let stopped =
        path_before.get(..forwarders).and_then(|path| path.get(forwarders / 2)).copied().ok_or_else(none)?;
    mesh.stop(stopped)?;
    view.path(&path_before);
    view.state(stopped, State::Stopped);
    view.say(&format!("stopped {} (SIGSTOP), in the middle of the path", grid::name(stopped)))?;
    let deadline = Instant::now() + ARRIVAL;
    loop {
        let last = match mesh.path().await {
            Ok(path) if path.last() == Some(&FAR) && !path.contains(&stopped) => {
                view.path(&path);
                view.redraw()?;
                return Ok(Fault { stopped, path_before, path_after: path });
            }
            Ok(_) => ApiError::new(ErrorCode::Unreachable, "the path still leads over the stopped node"),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(last.into());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

struct Streamed {
    bytes: u64,
    equal: bool,
}

/// Carries bytes to a TCP service of the far corner, which echoes them, until `stop`; compares what comes back.
async fn stream(mesh: &Mesh, stop: watch::Receiver<bool>) -> Result<Streamed, Failure> {
    let echo = TcpListener::bind("127.0.0.1:0").await?;
    mesh.client(FAR).serve_add("echo", &echo.local_addr()?.to_string()).await?;
    let request = ConnectRequest {
        node: grid::name(FAR).to_owned(),
        service: "echo".to_owned(),
        listen: "127.0.0.1:0".to_owned(),
    };
    let mut events = mesh.client(NEAR).connect(&request).await?;
    let Some(ConnectEvent::Listening(info)) = events.next().await? else {
        return Err(ApiError::new(ErrorCode::Protocol, "the node does not say where it listens").into());
    };
    let (read, write) = TcpStream::connect(&info.listen).await?.into_split();
    let echoed = async {
        let (mut socket, _) = echo.accept().await?;
        let (mut from, mut to) = socket.split();
        tokio::io::copy(&mut from, &mut to).await?;
        to.shutdown().await
    };
    let (sent, back, ()) = tokio::try_join!(
        async { Ok::<_, Failure>(write_until(write, stop).await?) },
        async { Ok(read_back(read).await?) },
        async { Ok(echoed.await?) }
    )?;
    Ok(Streamed { bytes: sent, equal: back == Some(sent) })
}

async fn write_until(
    mut write: tokio::net::tcp::OwnedWriteHalf,
    stop: watch::Receiver<bool>,
) -> std::io::Result<u64> {
    let mut generator = SmallRng::seed_from_u64(SEED);
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    while !*stop.borrow() {
        generator.fill_bytes(&mut chunk);
        write.write_all(&chunk).await?;
        sent += u64::try_from(chunk.len()).unwrap_or_default();
        tokio::time::sleep(CHUNK_PACE).await;
    }
    // The half-close is carried too: the echo ends because of it.
    write.shutdown().await?;
    Ok(sent)
}

/// How many bytes came back, if they are the bytes that were sent.
async fn read_back(mut read: tokio::net::tcp::OwnedReadHalf) -> std::io::Result<Option<u64>> {
    let mut generator = SmallRng::seed_from_u64(SEED);
    let (mut expected, mut chunk) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut count = 0;
    loop {
        let mut filled = 0;
        while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = tokio::time::timeout(ARRIVAL, read.read(rest)).await??;
            if read == 0 {
                break;
            }
            filled += read;
        }
        count += u64::try_from(filled).unwrap_or_default();
        generator.fill_bytes(&mut expected);
        if chunk.get(..filled) != expected.get(..filled) {
            return Ok(None);
        }
        if filled < CHUNK {
            return Ok(Some(count));
        }
    }
}
