//! Full mutual handshake to the first reply, on loopback: X25519MLKEM768, ML-DSA-65 on both sides, nothing resumed.
//!
//! `cargo bench -p meshara-transport [-- COUNT]` prints the distribution. Each run dials as a node dials a neighbour: handshake,
//! hello, the neighbour's hello. Caller and listener have a thread each, as two processes would.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::home::{self, Identity};
use meshara_identity::{UnixMillis, create_mesh};
use meshara_overlay::LinkKind;
use meshara_transport::quic::CongestionControl;
use meshara_transport::tls::{Expect, Tls, TlsMaterial};
use meshara_transport::{Accepted, DataPlane, Endpoints, Wire};

/// Enough that the 99th percentile stands on ten samples.
const COUNT: usize = 1000;
/// Unmeasured runs first: lazily made tables, the allocator.
const WARM: usize = 20;
/// What is to be reached.
const BAR: Duration = Duration::from_millis(5);

fn endpoints(identity: &Identity) -> Endpoints {
    let wire = Wire::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let (plane, mut events) = DataPlane::new(identity.membership.member().address, wire);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let tls = Tls::new(&TlsMaterial::new(&identity.membership).unwrap()).unwrap();
    Endpoints::new(plane, Arc::new(tls), CongestionControl::default(), &[7; 32]).unwrap()
}

async fn listen(identity: Identity, address: std::sync::mpsc::Sender<SocketAddr>) {
    let endpoints = Arc::new(endpoints(&identity));
    address.send(endpoints.plane().wire().local_addr().unwrap()).unwrap();
    while let Some(incoming) = endpoints.next_incoming().await {
        let endpoints = endpoints.clone();
        tokio::spawn(async move {
            let Ok(Accepted::Link(link)) = endpoints.accept(incoming).await else { return };
            link.hop.connection().closed().await;
            endpoints.plane().remove_link(link.hop.id());
        });
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn main() {
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(COUNT);
    let dir = tempfile::TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let now = UnixMillis::now();
    let alice = create_mesh(&a, &"lab".parse().unwrap(), &"alice".parse().unwrap(), None, now).unwrap();
    let issuer = home::open_issuer(&a, alice.membership.anchors(), None).unwrap().unwrap();
    let ticket = issuer.invite(Duration::from_secs(60), 1, vec![], now).unwrap().ticket;
    let (client, node, routing) = home::begin_join(&b, ticket, "bob".parse().unwrap(), None, now).unwrap();
    let membership = client.open_reply(&issuer.handle_join(client.request(), now).reply, now).unwrap();
    let bob = home::finish(&b, node, routing, membership, None).unwrap();

    let (address, listening) = std::sync::mpsc::channel();
    std::thread::spawn(move || runtime().block_on(listen(bob, address)));
    let to = listening.recv().unwrap();
    let mut samples = runtime().block_on(async {
        let endpoints = endpoints(&alice);
        let mut samples = Vec::new();
        for number in 0..WARM + count {
            let start = Instant::now();
            // Whoever expects just any member resumes nothing: every handshake is a full one.
            let link = endpoints.dial(to, Expect::AnyMember, LinkKind::Routing).await.unwrap();
            let took = start.elapsed();
            link.hop.connection().close(0_u32.into(), b"measured");
            endpoints.plane().remove_link(link.hop.id());
            if number >= WARM {
                samples.push(took);
            }
        }
        samples
    });
    samples.sort_unstable();
    let at = |share: f64| {
        samples.get(((samples.len() - 1) as f64 * share).round() as usize).copied().unwrap_or_default()
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "full mutual handshake to first reply, {count} runs: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, longest {:.2} ms; bar: p99 < {} ms: {}",
        ms(at(0.5)),
        ms(at(0.9)),
        ms(at(0.99)),
        ms(at(1.0)),
        ms(BAR),
        if at(0.99) < BAR { "reached" } else { "missed" }
    );
}
