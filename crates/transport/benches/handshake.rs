//! Full mutual handshake to the first reply, on loopback: X25519MLKEM768, ML-DSA-65 on both sides, nothing resumed.
//!
//! `cargo bench -p meshara-transport [-- COUNT]` prints the distribution. Each run dials as a node dials a neighbour: handshake,
//! hello, the neighbour's hello. Caller and listener have a thread each, as two processes would.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::UnixMillis;
use meshara_identity::home::Identity;
use meshara_overlay::LinkKind;
use meshara_transport::Accepted;
use meshara_transport::tls::Expect;

use common::{Mesh, endpoints};

#[path = "../tests/common/mod.rs"]
mod common;

/// Any port.
const LOCALHOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Enough that the 99th percentile stands on ten samples.
const COUNT: usize = 1000;
/// Unmeasured runs first: lazily made tables, the allocator.
const WARM: usize = 20;
/// What is to be reached.
const BAR: Duration = Duration::from_millis(5);

async fn listen(identity: Identity, address: std::sync::mpsc::Sender<SocketAddr>) {
    let endpoints = Arc::new(endpoints(&identity, LOCALHOST));
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
    let Mesh { alice, bob, .. } = Mesh::new(UnixMillis::now());
    let (address, listening) = std::sync::mpsc::channel();
    std::thread::spawn(move || runtime().block_on(listen(bob, address)));
    let to = listening.recv().unwrap();
    let mut samples = runtime().block_on(async {
        let endpoints = endpoints(&alice, LOCALHOST);
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
