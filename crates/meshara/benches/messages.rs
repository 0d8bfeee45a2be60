//! Acknowledged messages of 100 bytes over three hops: how many a second, and how long each takes at 10,000 a second.
//!
//! Four nodes in a line on loopback, each on a thread of its own as if in its own process; every message is stored by both ends
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

/// A node on a thread of its own, which runs until the handle is dropped.
struct Running {
    node: Arc<Node>,
    runtime: tokio::runtime::Handle,
    _end: oneshot::Sender<()>,
}

fn start(home: &Path, peer: Option<SocketAddr>) -> Running {
    let (node_to, node_from) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    let home = home.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config {
                listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
                peers: peer.into_iter().map(Into::into).collect(),
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

/// Nodes in a line, routed from end to end.
fn line(dir: &Path) -> Vec<Running> {
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut nodes: Vec<Running> = Vec::new();
    let mut ticket = String::new();
    for name in LINE {
        let home = dir.join(name);
        let before = nodes.last().map(|last| last.node.local_addr());
        if let Some(before) = before {
            let mut options = JoinOptions::new(home.clone(), ticket.clone(), name.parse().unwrap());
            options.peers = vec![before.into()];
            own.block_on(join(options)).unwrap();
        } else {
            create_mesh(&home, &"bench".parse().unwrap(), &name.parse().unwrap(), None, UnixMillis::now())
                .unwrap();
        }
        nodes.push(start(&home, before));
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
    let body = Bytes::from(vec![b'x'; SIZE]);
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < duration {
        let due = rate.map_or(u64::MAX, |rate| (start.elapsed().as_secs_f64() * rate) as u64);
        if sent >= due {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let place = places.clone().acquire_owned().await.unwrap();
        let (node, acked, body) = (node.clone(), acked.clone(), body.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            node.send(to, body, Duration::from_secs(60)).await.unwrap();
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

/// Takes what arrives, so that the inbox stays small; counts it.
async fn consume(node: Arc<Node>, mut stop: oneshot::Receiver<()>) -> usize {
    let mut arrivals = node.arrivals();
    let mut count = 0;
    loop {
        arrivals.borrow_and_update();
        let received = node.receive().await.unwrap();
        count += received.len();
        if !received.is_empty() {
            continue;
        }
        tokio::select! {
            _ = arrivals.changed() => {}
            _ = &mut stop => return count,
        }
    }
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse::<u64>().ok()).unwrap_or(10);
    let dir = tempfile::tempdir().unwrap();
    let nodes = line(dir.path());
    let (first, last) = (&nodes[0], nodes.last().unwrap());
    let to = last.node.member().node_id;
    for rate in [None, Some(10_000.0)] {
        let (stop, stopped) = oneshot::channel();
        let receiver = last.runtime.spawn(consume(last.node.clone(), stopped));
        let sending = first.runtime.spawn(send(first.node.clone(), to, Duration::from_secs(seconds), rate));
        let (times, took) = wait(sending);
        stop.send(()).unwrap();
        let received = wait(receiver);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            r#"{{"hops":{},"bytes":{SIZE},"asked_per_s":{},"acked":{},"received":{received},"per_s":{:.0},"p50_ms":{:.2},"p99_ms":{:.2}}}"#,
            LINE.len() - 1,
            rate.map_or_else(|| "null".to_owned(), |rate| rate.to_string()),
            times.len(),
            times.len() as f64 / took.as_secs_f64(),
            at(0.5),
            at(0.99),
        );
        assert_eq!(received, times.len(), "every acknowledged message arrives once");
    }
}

/// Waits for a task of another runtime.
fn wait<T>(task: tokio::task::JoinHandle<T>) -> T {
    let own = tokio::runtime::Builder::new_current_thread().build().unwrap();
    own.block_on(task).unwrap()
}
