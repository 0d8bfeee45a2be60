//! A path whose MTU shrinks under a living link: a relay between two real endpoints that from some moment on drops large packets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use meshara_identity::UnixMillis;
use meshara_overlay::LinkKind;
use meshara_transport::quic::WIRE_MTU;
use meshara_transport::tls::Expect;
use meshara_transport::{Accepted, HopLink, MtuCheck};
use tokio::net::UdpSocket;

use common::{Mesh, endpoints};

mod common;

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// As often as the node looks at a busy link once it loses packets.
const LOOK: Duration = Duration::from_millis(500);
/// Four losses, each found at the next look, and patience for a machine under load.
const NOTICED: Duration = Duration::from_secs(20);

/// Carries datagrams between one client and a server.
struct Relay {
    address: SocketAddr,
    /// Larger ones are dropped.
    limit: Arc<AtomicUsize>,
    /// The largest that was carried from the client.
    largest: Arc<AtomicUsize>,
}

impl Relay {
    async fn new(server: SocketAddr) -> Self {
        let (front, back) =
            (UdpSocket::bind(LOCALHOST).await.unwrap(), UdpSocket::bind(LOCALHOST).await.unwrap());
        back.connect(server).await.unwrap();
        let relay = Self {
            address: front.local_addr().unwrap(),
            limit: Arc::new(AtomicUsize::new(usize::MAX)),
            largest: Arc::default(),
        };
        let (limit, largest) = (relay.limit.clone(), relay.largest.clone());
        tokio::spawn(async move {
            let (mut out, mut home) = ([0; 2048], [0; 2048]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((len, from)) = front.recv_from(&mut out) => {
                        client = Some(from);
                        if len <= limit.load(Relaxed) {
                            largest.fetch_max(len, Relaxed);
                            let _ = back.send(&out[..len]).await;
                        }
                    }
                    Ok(len) = back.recv(&mut home) => {
                        if let Some(client) = client.filter(|_| len <= limit.load(Relaxed)) {
                            let _ = front.send_to(&home[..len], client).await;
                        }
                    }
                }
            }
        });
        relay
    }
}

/// Does for a busy link what the node does, until its MTU is `wanted`.
async fn look_until(link: &HopLink, wanted: u16) {
    let start = Instant::now();
    let mut check = MtuCheck::new(start);
    while link.refresh() != wanted {
        assert!(start.elapsed() < NOTICED, "still {} and not {wanted}", link.mtu());
        check.run(Instant::now(), link, true);
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test]
async fn a_path_that_takes_only_smaller_packets_is_noticed_by_both_ends() {
    let Mesh { alice, bob, .. } = Mesh::new(UnixMillis::now());
    let (alice, bob) = (endpoints(&alice, LOCALHOST), endpoints(&bob, LOCALHOST));
    let relay = Relay::new(bob.plane().local_addr().unwrap()).await;
    let accept = async {
        let incoming = bob.next_incoming().await.unwrap();
        let Accepted::Link(link) = bob.accept(incoming).await.unwrap() else { panic!("no link") };
        link
    };
    let dial = alice.dial(relay.address, Expect::AnyMember, LinkKind::Routing);
    let (dialled, accepted) = tokio::join!(dial, accept);
    let (dialled, accepted) = (dialled.unwrap(), accepted);
    let (near, far) = (dialled.hop.clone(), accepted.hop.clone());
    tokio::join!(look_until(&near, WIRE_MTU), look_until(&far, WIRE_MTU));

    // On a sound path nothing changes, and what goes out is as large as a full frame.
    relay.largest.store(0, Relaxed);
    let mut check = MtuCheck::new(Instant::now());
    for _ in 0..8 {
        check.run(Instant::now(), &near, true);
        tokio::time::sleep(LOOK).await;
    }
    assert_eq!((near.refresh(), relay.largest.load(Relaxed)), (WIRE_MTU, usize::from(WIRE_MTU)));

    relay.limit.store(usize::from(WIRE_MTU) - 8, Relaxed); // as behind PPPoE
    tokio::join!(look_until(&near, 1200), look_until(&far, 1200));
    assert!(near.connection().close_reason().is_none() && far.connection().close_reason().is_none());
}
