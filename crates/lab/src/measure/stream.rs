//! A long TCP stream through the mesh whose every byte is compared.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use serde::Serialize;

use super::stall::ms;
use crate::net::namespace::Namespace;

/// Bytes written and compared at once.
const CHUNK: usize = 64 * 1024;

/// A stream that stands still for this long has failed.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How a stream went.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) bytes: u64,
    pub(crate) bytes_equal: bool,
    pub(crate) seconds: f64,
    /// Longest time between two reads at the receiver.
    pub(crate) longest_stall_ms: f64,
    pub(crate) error: Option<String>,
}

/// The receiving end: expects the bytes of a seed.
#[derive(Debug)]
pub(crate) struct Receiver {
    received: Arc<AtomicU64>,
    outcome: mpsc::Receiver<Outcome>,
}

impl Receiver {
    /// Listens in a namespace for one stream of `bytes` bytes.
    pub(crate) fn listen(host: &Namespace, port: u16, bytes: u64, seed: u64) -> Result<Self> {
        let listener = host
            .within(move || TcpListener::bind(("127.0.0.1", port)))?
            .context("cannot bind the stream's port")?;
        let received = Arc::new(AtomicU64::new(0));
        let (send, outcome) = mpsc::channel();
        let counter = Arc::clone(&received);
        thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = send.send(receive(stream, bytes, seed, &counter));
            }
        });
        Ok(Self { received, outcome })
    }

    /// Bytes that have come.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Waits for the end.
    pub(crate) fn outcome(&self, within: Duration) -> Outcome {
        self.outcome.recv_timeout(within).unwrap_or_else(|_| Outcome {
            bytes: self.received(),
            bytes_equal: false,
            seconds: within.as_secs_f64(),
            longest_stall_ms: ms(within),
            error: Some("no end in time".to_owned()),
        })
    }
}

/// Sends the bytes of a seed from a host, in a thread.
pub(crate) fn send(host: &Namespace, to: SocketAddr, bytes: u64, seed: u64) -> Result<()> {
    host.spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(to)?;
        let mut source = Source::new(seed);
        let mut left = bytes;
        while left > 0 {
            let chunk = source.next(left);
            stream.write_all(chunk)?;
            left -= chunk.len() as u64;
        }
        stream.shutdown(std::net::Shutdown::Write)?;
        // Half-closed: the other end closes when it has everything.
        stream.read_to_end(&mut Vec::new()).map(drop)
    })?;
    Ok(())
}

fn receive(mut stream: TcpStream, bytes: u64, seed: u64, counter: &AtomicU64) -> Outcome {
    let begun = Instant::now();
    let mut last = begun;
    let mut outcome =
        Outcome { bytes: 0, bytes_equal: true, seconds: 0.0, longest_stall_ms: 0.0, error: None };
    let _ = stream.set_read_timeout(Some(GIVE_UP));
    let mut source = Source::new(seed);
    let mut expected: Vec<u8> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) => {
                outcome.error = Some(error.to_string());
                break;
            }
        };
        outcome.longest_stall_ms = outcome.longest_stall_ms.max(ms(last.elapsed()));
        last = Instant::now();
        while expected.len() < len {
            expected.extend_from_slice(source.next(CHUNK as u64));
        }
        outcome.bytes_equal &= expected.get(..len) == buffer.get(..len);
        expected.drain(..len);
        outcome.bytes += len as u64;
        counter.store(outcome.bytes, Relaxed);
    }
    outcome.bytes_equal &= outcome.bytes == bytes;
    outcome.seconds = begun.elapsed().as_secs_f64();
    outcome
}

/// Endless bytes of a seed, the same at both ends.
struct Source {
    rng: SmallRng,
    chunk: Vec<u8>,
}

impl Source {
    fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), chunk: vec![0; CHUNK] }
    }

    /// The next bytes, at most `limit` of a chunk; after a shorter piece the stream is over.
    fn next(&mut self, limit: u64) -> &[u8] {
        self.rng.fill_bytes(&mut self.chunk);
        let len = usize::try_from(limit).unwrap_or(CHUNK).min(CHUNK);
        self.chunk.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `bytes` of one seed over loopback to a receiver of another.
    fn over_loopback(bytes: u64, sent: u64, expected: u64) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let sender = thread::spawn(move || {
            let mut stream = TcpStream::connect(to).unwrap();
            let mut source = Source::new(sent);
            let mut left = bytes;
            while left > 0 {
                let chunk = source.next(left);
                stream.write_all(chunk).unwrap();
                left -= chunk.len() as u64;
            }
        });
        let outcome = receive(listener.accept().unwrap().0, 200_000, expected, &AtomicU64::new(0));
        sender.join().unwrap();
        outcome
    }

    #[test]
    fn equal_bytes_are_equal() {
        let outcome = over_loopback(200_000, 1, 1);
        assert!(outcome.bytes_equal && outcome.error.is_none(), "{outcome:?}");
    }

    #[test]
    fn other_or_missing_bytes_are_noticed() {
        assert!(!over_loopback(200_000, 2, 1).bytes_equal);
        assert!(!over_loopback(199_999, 1, 1).bytes_equal);
    }
}
