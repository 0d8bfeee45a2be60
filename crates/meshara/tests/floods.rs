//! Floods of handshakes at the UDP port: they stay bounded, and whoever is honest gets in meanwhile.

#![cfg(target_os = "linux")] // elsewhere 127.0.0.1 is the only source on loopback
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meshara::Node;
use meshara::api::Control;
use meshara_transport::LINK_TIMEOUT;
use meshara_transport::tls::{self, ALPN_LINK, Expect, Tls};
use quinn::{Connection, ConnectionError, Endpoint, TransportErrorCode};
use tokio::task::JoinSet;

use common::{build, config, first, joined, reached, soon};

mod common;

/// Handshakes under way above which a stranger must prove its address.
const UNPROVEN: usize = 32;
/// Handshakes under way of one source at most.
const OF_ONE: usize = 64;
/// And of all.
const IN_ALL: usize = 256;

/// The connection id that a QUIC packet with a long header is for (RFC 9000 §17.2).
fn destination(packet: &[u8]) -> &[u8] {
    &packet[6..][..usize::from(packet[5])]
}

/// The first packets of as many newcomers, from before anything was answered.
async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let sink = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = tls::join_client_config().unwrap();
    let (mut packets, mut ids) = (Vec::new(), HashSet::new());
    let mut buffer = [0; 2048];
    while packets.len() < count {
        let dial = endpoint.connect_with(config.clone(), sink.local_addr().unwrap(), tls::SERVER_NAME);
        let _dial = dial.unwrap();
        loop {
            let length = soon(sink.recv(&mut buffer)).await.unwrap();
            // What an earlier one sends besides is of no use.
            if ids.insert(destination(&buffer[..length]).to_vec()) {
                packets.push(buffer[..length].to_vec());
                break;
            }
        }
    }
    packets
}

/// What became of a flood.
struct Answers {
    /// Strangers whose handshake went on.
    admitted: HashSet<Vec<u8>>,
    took: Duration,
}

/// Strangers at addresses that they don't prove: they send first packets without end and never hear what is answered.
struct Strangers {
    stop: Arc<AtomicBool>,
    retries: Arc<AtomicUsize>,
    thread: JoinHandle<Answers>,
}

impl Strangers {
    fn send(packets: Vec<Vec<u8>>, to: SocketAddr) -> Self {
        let (stop, retries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, retried) = (stop.clone(), retries.clone());
        let thread = std::thread::spawn(move || {
            let bind = |host| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, host), 0)).unwrap();
            let sockets: Vec<_> = (2..10).map(bind).collect();
            sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
            let start = Instant::now();
            let mut admitted = HashSet::new();
            let mut buffer = [0; 2048];
            for (packet, socket) in packets.iter().cycle().zip(sockets.iter().cycle()) {
                if stopped.load(Relaxed) {
                    break;
                }
                let _ = socket.send_to(packet, to);
                // 10,000 a second at most.
                std::thread::sleep(Duration::from_micros(100));
                while let Ok(length) = socket.recv(&mut buffer) {
                    match buffer[0] {
                        0xf0.. => drop(retried.fetch_add(1, Relaxed)),
                        0x80.. => drop(admitted.insert(destination(&buffer[..length]).to_vec())),
                        _ => {}
                    }
                }
            }
            Answers { admitted, took: start.elapsed() }
        });
        Self { stop, retries, thread }
    }

    fn end(self) -> Answers {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

#[tokio::test]
async fn strangers_that_prove_no_address_hold_few_places_and_hinder_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let mut events = alice.events();
    let strangers = Strangers::send(first_packets(IN_ALL + OF_ONE).await, alice.local_addr());
    let flooded = async {
        while strangers.retries.load(Relaxed) < IN_ALL {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(flooded).await;

    let bob = build(&joined(&alice, dir.path(), "bob").await, config()).await;
    reached(&mut events, bob.member().node_id).await;
    let answers = strangers.end();
    let rounds = answers.took.as_secs() / LINK_TIMEOUT.as_secs() + 1;
    let most = UNPROVEN * usize::try_from(rounds).unwrap();
    let admitted = answers.admitted.len();
    assert!((1..=most).contains(&admitted), "{admitted} admitted in {:?}", answers.took);
    bob.shutdown().await;
    alice.shutdown().await;
}

/// Handshakes from `source` that stop half-way: complete in TLS, but without a hello. Those that were let in, and the number of those
/// that were refused.
async fn half_way(tls: &Tls, source: Ipv4Addr, to: SocketAddr, count: usize) -> (Vec<Connection>, usize) {
    let endpoint = Endpoint::client((source, 0).into()).unwrap();
    let mut dials = JoinSet::new();
    for _ in 0..count {
        let config = tls.client_config(ALPN_LINK, Expect::AnyMember);
        dials.spawn(endpoint.connect_with(config, to, tls::SERVER_NAME).unwrap());
    }
    let (mut held, mut refused) = (Vec::new(), 0);
    while let Some(dial) = soon(dials.join_next()).await {
        match dial.unwrap() {
            Ok(connection) => held.push(connection),
            Err(ConnectionError::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    (held, refused)
}

/// Those that the node hasn't given up yet.
fn open(held: &[Connection]) -> usize {
    held.iter().filter(|connection| connection.close_reason().is_none()).count()
}

async fn mesh(dir: &std::path::Path) -> (Node, Tls, std::path::PathBuf) {
    let alice = first(dir, config()).await;
    let mallory = common::tls(&joined(&alice, dir, "mallory").await);
    let bob = joined(&alice, dir, "bob").await;
    (alice, mallory, bob)
}

#[tokio::test]
async fn one_source_holds_a_part_of_the_places_and_hinders_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, mallory, bob) = mesh(dir.path()).await;
    let mut events = alice.events();
    let (held, refused) =
        half_way(&mallory, Ipv4Addr::new(127, 0, 0, 2), alice.local_addr(), IN_ALL + OF_ONE).await;
    assert_eq!(held.len() + refused, IN_ALL + OF_ONE);
    assert!(held.len() >= OF_ONE && open(&held) <= OF_ONE, "{} of {} are open", open(&held), held.len());

    let bob = build(&bob, config()).await;
    reached(&mut events, bob.member().node_id).await;
    bob.shutdown().await;
    alice.shutdown().await;
}

#[tokio::test]
async fn many_sources_are_held_to_a_total_and_leave_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, mallory, bob) = mesh(dir.path()).await;
    let mut events = alice.events();
    let (mut held, mut refused) = (Vec::new(), 0);
    for host in 2..8 {
        let source = Ipv4Addr::new(127, 0, 0, host);
        let (more, fewer) = half_way(&mallory, source, alice.local_addr(), OF_ONE).await;
        held.extend(more);
        refused += fewer;
    }
    assert_eq!(held.len() + refused, 6 * OF_ONE);
    assert!(held.len() >= IN_ALL && open(&held) <= IN_ALL, "{} of {} are open", open(&held), held.len());
    alice.control().status().await.unwrap();

    held.iter().for_each(|connection| connection.close(0_u32.into(), b"enough"));
    let bob = build(&bob, config()).await;
    reached(&mut events, bob.member().node_id).await;
    assert_eq!(alice.control().status().await.unwrap().neighbours, 1);
    bob.shutdown().await;
    alice.shutdown().await;
}
