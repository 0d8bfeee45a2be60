//! A TCP connection that beats through the mesh and is echoed: what an application feels of a fault. Beats are numbered, so a lost,
//! doubled or changed one counts as a broken connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::stall::ms;
use crate::net::namespace::Namespace;

/// Time between two beats, unless told otherwise.
const INTERVAL: Duration = Duration::from_millis(10);

/// Time before a broken connection is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Silence after which a connection that still stands counts as broken.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Bytes of a beat.
const BEAT: usize = 8;

/// How often the echo looks for a connection; it is made once, long before anything is measured.
const ACCEPT: Duration = Duration::from_millis(20);

/// A TCP echo in a namespace that ends when dropped; left open, its socket would keep the namespace alive.
#[derive(Debug)]
pub(crate) struct Echo(Arc<AtomicBool>);

impl Echo {
    /// Starts it.
    pub(crate) fn start(host: &Namespace, port: u16) -> Result<Self> {
        let listener = host
            .within(move || TcpListener::bind(("127.0.0.1", port)))?
            .context("cannot bind the echo port")?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            while !stopped.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(thread::spawn(move || echo(stream))),
                    Err(_) => thread::sleep(ACCEPT),
                }
            }
        });
        Ok(Self(stop))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = (stream.set_nonblocking(false), stream.set_nodelay(true));
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
            break;
        }
    }
}

/// A heart that beats until dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    echoes: Arc<Mutex<Vec<f64>>>,
    broken: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Beats from a host to an address there; times count from `start`.
    pub(crate) fn start(host: &Namespace, to: SocketAddr, start: Instant) -> Result<Self> {
        Self::every(INTERVAL, host, to, start)
    }

    /// The same with another time between two beats.
    pub(crate) fn every(
        interval: Duration,
        host: &Namespace,
        to: SocketAddr,
        start: Instant,
    ) -> Result<Self> {
        let heart = Self { echoes: Arc::default(), broken: Arc::default(), stop: Arc::default() };
        let (echoes, broken, stop) =
            (Arc::clone(&heart.echoes), Arc::clone(&heart.broken), Arc::clone(&heart.stop));
        host.spawn(move || {
            while !stop.load(Relaxed) {
                if beat(interval, to, start, &echoes, &stop).is_some() && !stop.load(Relaxed) {
                    broken.fetch_add(1, Relaxed);
                }
                thread::sleep(RETRY);
            }
        })?;
        Ok(heart)
    }

    /// Times at which echoes came, in milliseconds, from a time on.
    pub(crate) fn since(&self, from: f64) -> Vec<f64> {
        let echoes = self.echoes.lock().unwrap_or_else(PoisonError::into_inner);
        echoes.iter().copied().filter(|time| *time >= from).collect()
    }

    /// The last echo so far.
    pub(crate) fn last(&self) -> Option<f64> {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    /// Waits for the first echo.
    pub(crate) fn beats(&self, within: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.last().is_none() {
            if begun.elapsed() > within {
                bail!("no echo came within {within:?}");
            }
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Connections that ended though nobody ended them.
    pub(crate) fn broken(&self) -> u64 {
        self.broken.load(Relaxed)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// One connection; `None` if it never stood.
fn beat(
    interval: Duration,
    to: SocketAddr,
    start: Instant,
    echoes: &Arc<Mutex<Vec<f64>>>,
    stop: &Arc<AtomicBool>,
) -> Option<()> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(GIVE_UP)).ok()?;
    let mut reader = stream.try_clone().ok()?;
    let ended = Arc::new(AtomicBool::new(false));
    let alive = Arc::new(AtomicBool::new(false));
    let listener = {
        let (echoes, ended, alive) = (Arc::clone(echoes), Arc::clone(&ended), Arc::clone(&alive));
        thread::spawn(move || {
            let mut buffer = [0; BEAT];
            let mut expected = 0_u64;
            while reader.read_exact(&mut buffer).is_ok() && u64::from_le_bytes(buffer) == expected {
                expected += 1;
                alive.store(true, Relaxed);
                echoes.lock().unwrap_or_else(PoisonError::into_inner).push(ms(start.elapsed()));
            }
            ended.store(true, Relaxed);
        })
    };
    let mut beats = 0_u64;
    let begun = Instant::now();
    while !stop.load(Relaxed) && !ended.load(Relaxed) && stream.write_all(&beats.to_le_bytes()).is_ok() {
        beats += 1;
        let next = interval * u32::try_from(beats).unwrap_or(u32::MAX);
        thread::sleep(next.saturating_sub(begun.elapsed()));
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = listener.join();
    alive.load(Relaxed).then_some(())
}
