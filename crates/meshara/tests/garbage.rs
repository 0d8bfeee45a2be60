//! Nonsense at the UDP port, also in the name of a neighbour: altered, cut, padded and repeated packets of a living link.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshara::api::Control;
use meshara::config::Config;
use meshara::{Event, Node};
use meshara_overlay::MeshAddress;
use meshara_overlay::header::{Class, Header, TAG_LEN};
use tokio::net::UdpSocket;
use tokio::sync::broadcast::Receiver;

use common::{build, config, first, joined, reached, soon};

mod common;

/// The largest datagram of IPv4.
const LARGEST: usize = 65_507;
/// Packets of the link that are kept for the attack.
const KEPT: usize = 200;

/// The way between one node and another, which sees and keeps what the first one sends.
struct Relay {
    address: SocketAddr,
    /// What the second node takes for the first one.
    back: Arc<UdpSocket>,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Self {
        let bind = async || Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let (front, back, kept) = (bind().await, bind().await, Arc::new(Mutex::new(Vec::new())));
        let relay = Self { address: front.local_addr().unwrap(), back: back.clone(), kept: kept.clone() };
        tokio::spawn(async move {
            let (mut there, mut here) = (vec![0; LARGEST], vec![0; LARGEST]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        back.send_to(&there[..length], to).await.unwrap();
                        let mut kept = kept.lock().unwrap();
                        if kept.len() < KEPT {
                            kept.push(there[..length].to_vec());
                        }
                    }
                    Ok(length) = back.recv(&mut here) => {
                        if let Some(client) = client {
                            front.send_to(&here[..length], client).await.unwrap();
                        }
                    }
                }
            }
        });
        relay
    }
}

/// What becomes of a packet on its way: as it was, altered in one bit, cut, with a tail, as large as can be.
fn variants(packet: &[u8], n: usize) -> [Vec<u8>; 5] {
    let mut altered = packet.to_vec();
    altered[n * 7 % packet.len()] ^= 1 << (n % 8);
    let tail = [packet, b"tail"].concat();
    let mut large = packet.to_vec();
    large.resize(LARGEST, n as u8);
    [packet.to_vec(), altered, packet[..n * 5 % packet.len()].to_vec(), tail, large]
}

/// Bytes that are nobody's packet; `n` chooses how many, and what kind of packet the first one claims.
fn nonsense(n: usize) -> Vec<u8> {
    (0..n % 1500).map(|at| ((n * 31 + at * at) % 256) as u8).collect()
}

/// A frame that is well-formed, and belongs to no link.
fn stray(n: usize) -> Vec<u8> {
    let header = Header {
        sealed: true,
        ttl: 8,
        class: Class::Probe,
        epoch: 0,
        link: u32::MAX - n as u32,
        counter: 1,
        destination: MeshAddress([0; 16]),
        source: MeshAddress([0; 16]),
    };
    [header.encode().as_slice(), &[0; TAG_LEN]].concat()
}

async fn counted(node: &Node, name: &str) -> u64 {
    let text = node.control().metrics_text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("meshara_frames_{name}_total ")));
    line.unwrap().parse().unwrap()
}

/// Throws everything at `to` that can be made of packets, in bob's name and in nobody's.
async fn attack(relay: &Relay, to: SocketAddr) {
    let kept = relay.kept.lock().unwrap().clone();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for n in 0..KEPT {
        let variants = variants(&kept[n % kept.len()], n);
        for bytes in variants.into_iter().chain([nonsense(n), nonsense(n * 64 + 1), stray(n)]) {
            relay.back.send_to(&bytes, to).await.unwrap();
            stranger.send_to(&bytes, to).await.unwrap();
        }
        // The node reads what came before more does.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Whether a link ended since the last call.
fn parted(events: &mut Receiver<Event>) -> bool {
    std::iter::from_fn(|| events.try_recv().ok()).any(|event| matches!(event, Event::LinkDown { .. }))
}

#[tokio::test]
async fn nonsense_and_repeated_packets_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let calm = Config { auto: false, direct: false, ..config() };
    let alice = first(dir.path(), calm.clone()).await;
    let relay = Relay::start(alice.local_addr()).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let mut events = alice.events();
    let bob = build(&home, Config { peers: vec![relay.address.into()], ..calm }).await;
    reached(&mut events, bob.member().node_id).await;

    let mut sent = Vec::new();
    let mut send = async |text: String| {
        bob.send(alice.member().node_id, text.clone(), Duration::from_secs(10)).await.unwrap();
        sent.push(text);
    };
    // A machine that stands still may part neighbours too; what packets do, they do each time.
    let mut harm = true;
    for round in 0..3 {
        relay.kept.lock().unwrap().clear();
        send(format!("before {round}")).await;
        parted(&mut events);
        attack(&relay, alice.local_addr()).await;
        send(format!("after {round}")).await;
        harm = parted(&mut events);
        if !harm {
            break;
        }
    }
    assert!(!harm, "the link ended three times");
    let received = alice.receive().await.unwrap();
    let texts: Vec<_> = received.iter().map(|row| String::from_utf8(row.body.to_vec()).unwrap()).collect();
    assert_eq!(texts, sent, "each once");
    for name in ["malformed", "unknown_link", "refused"] {
        assert!(counted(&alice, name).await > 0, "{name}");
    }
    assert_eq!(alice.control().status().await.unwrap().neighbours, 1);
    soon(bob.shutdown()).await;
    alice.shutdown().await;
}
