//! Acknowledged messages of 100 bytes over three hops: how many a second, how long each takes at 10,000 a second, and whether any is
//! lost or comes twice when a node on the way is killed meanwhile.
//!
//! Four nodes in a line on loopback and a fifth beside the second, each on a thread of its own as if in its own process; every message is stored by both ends
//! before it counts. `cargo bench -p meshara --bench messages [-- SECONDS]`; one JSON line per run.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement may stop at the first surprise"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara::api::Control;
use meshara::config::Config;
use meshara::{JoinOptions, Node, NodeId, UnixMillis, create_mesh, join};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Size of a message.
const SIZE: usize = 100;
/// Messages under way at once when as many as possible are sent: below the outbox's bound.
const WINDOW: usize = 8_192;
/// Names of the nodes, in a line.
const LINE: [&str; 4] = ["a", "b", "c", "d"];
/// The other way from a to c, once b is dead.
const SPARE: &str = "e";

/// A node on a thread of its own, which runs until the handle is dropped.
struct Running {
    node: Arc<Node>,
    runtime: tokio::runtime::Handle,
    _end: oneshot::Sender<()>,
}

fn start(home: &Path, peers: &[SocketAddr]) -> Running {
    let (node_to, node_from) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    let home = home.to_owned();
    let peers = peers.iter().copied().map(Into::into).collect();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config {
                listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
                peers,
                multicast: false,
                auto: false,
                direct: false,
                ..Config::default()
            };
            let node = Arc::new(Node::builder().home(home).config(config).build().await.unwrap());
            node_to.send((node, tokio::runtime::Handle::current())).unwrap();
            drop(ended.await);
        });
    });
    let (node, runtime) = node_from.recv().unwrap();
    Running { node, runtime, _end: end }
}

/// Nodes in a line and the spare one, routed from end to end.
fn mesh(dir: &Path) -> Vec<Running> {
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut nodes: Vec<Running> = Vec::new();
    let mut ticket = String::new();
    for name in LINE.into_iter().chain([SPARE]) {
        let home = dir.join(name);
        let at = |place: usize| nodes[place].node.local_addr();
        let peers = if name == SPARE {
            vec![at(0), at(2)]
        } else {
            nodes.len().checked_sub(1).map(at).into_iter().collect()
        };
        if let Some(before) = peers.first().copied() {
            let mut options = JoinOptions::new(home.clone(), ticket.clone(), name.parse().unwrap());
            options.peers = vec![before.into()];
            own.block_on(join(options)).unwrap();
        } else {
            create_mesh(&home, &"bench".parse().unwrap(), &name.parse().unwrap(), None, UnixMillis::now())
                .unwrap();
        }
        nodes.push(start(&home, &peers));
        if ticket.is_empty() {
            let control = nodes[0].node.control();
            ticket = own.block_on(control.invite(Duration::from_secs(600), 10)).unwrap().ticket;
        }
        let all = nodes.len() as u64 - 1;
        let deadline = Instant::now() + Duration::from_secs(30);
        while own.block_on(nodes[0].node.control().status()).unwrap().nodes_known < all {
            assert!(Instant::now() < deadline, "{name} is not routed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    nodes
}

/// Sends for `duration`, `rate` messages a second if given, else as many as the window allows; times to the acknowledgement, sorted.
async fn send(
    node: Arc<Node>,
    to: NodeId,
    duration: Duration,
    rate: Option<f64>,
) -> (Vec<Duration>, Duration) {
    let places = Arc::new(Semaphore::new(WINDOW));
    let (acked, mut times) = mpsc::unbounded_channel();
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < duration {
        let due = rate.map_or(u64::MAX, |rate| (start.elapsed().as_secs_f64() * rate) as u64);
        if sent >= due {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let place = places.clone().acquire_owned().await.unwrap();
        let (node, acked) = (node.clone(), acked.clone());
        let mut body = vec![b'x'; SIZE];
        body[..8].copy_from_slice(&sent.to_be_bytes());
        tokio::spawn(async move {
            let begun = Instant::now();
            node.send(to, Bytes::from(body), Duration::from_secs(60)).await.unwrap();
            acked.send(begun.elapsed()).unwrap();
            drop(place);
        });
        sent += 1;
        if sent.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    }
    drop(acked);
    let mut all = Vec::new();
    while let Some(time) = times.recv().await {
        all.push(time);
    }
    let took = start.elapsed();
    all.sort_unstable();
    (all, took)
}

/// Takes what arrives, so that the inbox stays small; the numbers of the messages.
async fn consume(node: Arc<Node>, mut stop: oneshot::Receiver<()>) -> Vec<u64> {
    let mut arrivals = node.arrivals();
    let mut numbers = Vec::new();
    loop {
        arrivals.borrow_and_update();
        let received = node.receive().await.unwrap();
        numbers
            .extend(received.iter().map(|message| u64::from_be_bytes(message.body[..8].try_into().unwrap())));
        if !received.is_empty() {
            continue;
        }
        tokio::select! {
            _ = arrivals.changed() => {}
            _ = &mut stop => return numbers,
        }
    }
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse::<u64>().ok()).unwrap_or(10);
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = mesh(dir.path());
    let (first, last) = (nodes[0].node.clone(), nodes[3].node.clone());
    let (from, to) = (nodes[0].runtime.clone(), nodes[3].runtime.clone());
    let address = last.member().node_id;
    for (rate, kill) in [(None, false), (Some(10_000.0), false), (Some(10_000.0), true)] {
        let (stop, stopped) = oneshot::channel();
        let receiver = to.spawn(consume(last.clone(), stopped));
        let sending = from.spawn(send(first.clone(), address, Duration::from_secs(seconds), rate));
        if kill {
            std::thread::sleep(Duration::from_secs(seconds) / 2);
            let routes = wait(from.spawn({
                let first = first.clone();
                async move { first.control().routes().await.unwrap() }
            }));
            let route = routes.iter().find(|route| route.dest == address.to_string()).unwrap();
            let on_the_way =
                nodes.iter().position(|n| n.node.member().node_id.to_string() == route.next_hop).unwrap();
            // Its runtime goes with it: no goodbye.
            drop(nodes.remove(on_the_way));
        }
        let (times, took) = wait(sending);
        stop.send(()).unwrap();
        let mut received = wait(receiver);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            r#"{{"hops":{},"bytes":{SIZE},"asked_per_s":{},"killed":{kill},"acked":{},"received":{},"per_s":{:.0},"p50_ms":{:.2},"p99_ms":{:.2},"max_ms":{:.2}}}"#,
            LINE.len() - 1,
            rate.map_or_else(|| "null".to_owned(), |rate| rate.to_string()),
            times.len(),
            received.len(),
            times.len() as f64 / took.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(1.0),
        );
        received.sort_unstable();
        assert!(
            received.iter().copied().eq(0..times.len() as u64),
            "every acknowledged message arrives once"
        );
    }
}

/// Waits for a task of another runtime.
fn wait<T>(task: tokio::task::JoinHandle<T>) -> T {
    let own = tokio::runtime::Builder::new_current_thread().build().unwrap();
    own.block_on(task).unwrap()
}
