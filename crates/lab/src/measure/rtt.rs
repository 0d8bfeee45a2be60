//! Round trips over a bare UDP echo, beside whatever else uses the link: idle or loaded.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::stall::ms;
use crate::net::namespace::Namespace;

/// Echo port, beside that of the nodes.
const PORT: u16 = 6007;

/// Time between two probes: many more than one per queue length, far too few to matter on the link.
const INTERVAL: Duration = Duration::from_millis(10);

/// How often a waiting socket looks whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Probes from one host to another until dropped.
#[derive(Debug)]
pub(crate) struct Prober {
    samples: Arc<Mutex<Vec<(f64, f64)>>>,
    start: Instant,
    stop: Arc<AtomicBool>,
}

impl Prober {
    /// Starts an echo at `to`, whose address is `address`, and probes it.
    pub(crate) fn start(from: &Namespace, to: &Namespace, address: std::net::Ipv4Addr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let server = to.within(move || bound(PORT))?.context("cannot bind the echo port")?;
        let client = from.within(|| bound(0))?.context("cannot bind a socket")?;
        client.connect(SocketAddr::from((address, PORT)))?;
        let receiver = client.try_clone()?;
        let samples = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let spawn = |work: Box<dyn FnOnce() + Send>| std::thread::spawn(work);
        let flag = Arc::clone(&stop);
        spawn(Box::new(move || echo(&server, &flag)));
        let flag = Arc::clone(&stop);
        spawn(Box::new(move || send(&client, start, &flag)));
        let (flag, into) = (Arc::clone(&stop), Arc::clone(&samples));
        spawn(Box::new(move || receive(&receiver, start, &into, &flag)));
        Ok(Self { samples, start, stop })
    }

    /// Milliseconds since the start, the clock of the samples.
    pub(crate) fn now(&self) -> f64 {
        ms(self.start.elapsed())
    }

    /// Round trips in milliseconds of the probes sent in a span of time.
    pub(crate) fn between(&self, from: f64, to: f64) -> Vec<f64> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|(sent, _)| (from..to).contains(sent)).map(|(_, rtt)| *rtt).collect()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn bound(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..len).unwrap_or_default(), from);
        }
    }
}

/// The probe holds the time at which it was sent.
fn send(socket: &UdpSocket, start: Instant, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let _ = socket.send(&ms(start.elapsed()).to_le_bytes());
        std::thread::sleep(INTERVAL);
    }
}

fn receive(socket: &UdpSocket, start: Instant, into: &Mutex<Vec<(f64, f64)>>, stop: &AtomicBool) {
    let mut buffer = [0; 8];
    while !stop.load(Relaxed) {
        if socket.recv(&mut buffer).is_ok() {
            let sent = f64::from_le_bytes(buffer);
            into.lock().unwrap_or_else(PoisonError::into_inner).push((sent, ms(start.elapsed()) - sent));
        }
    }
}
