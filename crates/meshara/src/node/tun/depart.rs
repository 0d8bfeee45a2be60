//! From the device to the peers: a queue for each, emptied into datagrams of its session.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_interface::packet::UDP;
use meshara_interface::{Departure, Flow, Flows, Problem, Queue, TooBig};
use quinn::SendDatagramError;
use tokio::sync::Notify;

use super::counts::add;
use super::{Inner, Interface};
use crate::node::sessions::{Session, SessionError};

/// Packets read before other tasks get their turn: at 60 KB each four times what a session takes at once, or the acknowledgements of what
/// came in one turn.
const TURN: usize = 16;
/// Packets below this size are copied out of the buffer that they were read into; it has room for the largest.
const SMALL: usize = 8192;
/// A peer's task ends when nothing came for this long.
const IDLE: Duration = Duration::from_secs(10);
/// After a session didn't come about, packets are refused at once for this long.
const REST: Duration = Duration::from_secs(1);
/// Smallest MTU that an error may name, RFC 8200 §5.
const MIN_MTU: usize = 1280;

/// What is kept of a node that packets go to or come from.
pub(super) struct Peer {
    pub(super) node: NodeId,
    flows: Mutex<Flows>,
    queue: Mutex<Queue<Departure>>,
    ready: Notify,
    /// Whether a task empties the queue.
    running: AtomicBool,
}

impl Peer {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            flows: Mutex::default(),
            queue: Mutex::default(),
            ready: Notify::new(),
            running: AtomicBool::new(false),
        }
    }

    pub(super) fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Departure>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether packets wait.
    pub(super) fn is_busy(&self) -> bool {
        self.running.load(Acquire)
    }
}

/// Reads the device as long as it exists.
pub(super) async fn run(inner: Arc<Inner>, interface: Arc<Interface>) {
    let mut buffer = Vec::new();
    loop {
        let Ok(mut ready) = interface.device.readable().await else { return };
        for _ in 0..TURN {
            match ready.try_io(|device| device.get_ref().receive(&mut buffer)) {
                Ok(Ok(())) => {
                    let small = buffer.len() < SMALL;
                    let packet = if small {
                        Bytes::copy_from_slice(&buffer)
                    } else {
                        std::mem::take(&mut buffer).into()
                    };
                    depart(&inner, &interface, packet);
                }
                Ok(Err(error)) => {
                    // An administrator switched it off, perhaps for a moment.
                    tracing::debug!(%error, "the TUN device can't be read");
                    tokio::time::sleep(REST).await;
                    break;
                }
                Err(_would_block) => break,
            }
        }
        drop(ready);
        tokio::task::yield_now().await;
    }
}

/// Puts a packet of the device into its peer's queue.
fn depart(inner: &Arc<Inner>, interface: &Arc<Interface>, packet: Bytes) {
    let counts = &interface.counts;
    let Ok(departure) = Departure::read(packet) else {
        add(&counts.not_carried, 1);
        return;
    };
    let flow = *departure.flow();
    let [first, ..] = flow.destination.0;
    if first == MULTICAST {
        return; // neighbour and router discovery, which nobody needs here
    }
    if flow.source != interface.me {
        add(&counts.other_source, 1);
        return;
    }
    if is_our_own(&flow, inner.bound.port()) {
        add(&counts.own, 1);
        complain(interface, &departure, Problem::NoRoute);
        return;
    }
    let Some(peer) = interface.peer(inner, flow.destination) else {
        add(&counts.unreachable, 1);
        complain(interface, &departure, Problem::NoRoute);
        return;
    };
    if !departure.is_rest() {
        peer.flows().goes(interface.now(), &departure.connection(), departure.begins());
    }
    let bytes = departure.packet().len();
    let dropped = {
        let mut queue = peer.queue();
        if queue.last().is_some_and(|last| departure.supersedes(last)) {
            add(&counts.merged, 1);
            queue.replace_last(interface.now(), bytes, departure);
        } else {
            queue.push(interface.now(), bytes, departure);
        }
        queue.take_dropped()
    };
    if dropped > 0 {
        add(&counts.queue_full, dropped);
    } else {
        add(&counts.sent_bytes, bytes as u64);
    }
    if peer.running.swap(true, AcqRel) {
        peer.ready.notify_one();
    } else {
        inner.spawn(empty(inner.clone(), interface.clone(), peer));
    }
}

/// Whether the node itself sends it: somebody gave a mesh address for its neighbour's. Its links would run over themselves.
fn is_our_own(flow: &Flow, port: u16) -> bool {
    flow.protocol == UDP && flow.source_port == port
}

/// First byte of multicast addresses.
const MULTICAST: u8 = 0xff;

/// Empties a peer's queue until nothing has come for a while.
async fn empty(inner: Arc<Inner>, interface: Arc<Interface>, peer: Arc<Peer>) {
    let counts = &interface.counts;
    let mut rest_until: Option<(Instant, Problem)> = None;
    loop {
        let (next, dropped) = {
            let mut queue = peer.queue();
            (queue.pop(interface.now()), queue.take_dropped())
        };
        add(&counts.queue_full, dropped);
        let Some(departure) = next else {
            if tokio::time::timeout(IDLE, peer.ready.notified()).await.is_ok() {
                continue;
            }
            peer.running.store(false, Release);
            // What came in between has started no other task if it saw this one running.
            if peer.queue().is_empty() || peer.running.swap(true, AcqRel) {
                return;
            }
            continue;
        };
        if let Some((until, problem)) = rest_until {
            if Instant::now() < until {
                add(&counts.unreachable, 1);
                complain(&interface, &departure, problem);
                continue;
            }
            rest_until = None;
        }
        match inner.sessions.get(peer.node).await {
            Ok(session) => send(&interface, &session, &departure).await,
            Err(error) => {
                tracing::debug!(%error, node = %peer.node.short(), "no session for the interface");
                let problem = match error {
                    SessionError::Unreachable => Problem::NoRoute,
                    _ => Problem::Unreachable,
                };
                add(&counts.unreachable, 1);
                complain(&interface, &departure, problem);
                rest_until = Some((Instant::now() + REST, problem));
            }
        }
    }
}

/// Sends one packet, as many datagrams as it needs.
async fn send(interface: &Interface, session: &Session, departure: &Departure) {
    let counts = &interface.counts;
    let Some(room) = session.connection.max_datagram_size() else {
        add(&counts.peer_without, 1);
        complain(interface, departure, Problem::Prohibited);
        return;
    };
    let datagrams = match departure.datagrams(room) {
        Ok(datagrams) => datagrams,
        Err(TooBig { mtu }) => {
            add(&counts.too_big, 1);
            if mtu >= MIN_MTU {
                complain(interface, departure, Problem::TooBig { mtu: mtu as u32 });
            }
            return;
        }
    };
    for datagram in datagrams {
        match session.connection.send_datagram_wait(datagram).await {
            Ok(()) => add(&counts.sent, 1),
            // The largest packet has become smaller meanwhile: TCP sends the rest again.
            Err(SendDatagramError::TooLarge) => {
                add(&counts.too_big, 1);
                return;
            }
            Err(_) => {
                add(&counts.unreachable, 1);
                return;
            }
        }
    }
}

/// Tells the program that sent a packet what is wrong.
fn complain(interface: &Interface, departure: &Departure, problem: Problem) {
    if !interface.may_complain() {
        return;
    }
    if let Some(error) = meshara_interface::icmp::error(departure.packet(), problem) {
        let nothing_left = [0; meshara_interface::vnet::VNET_LEN];
        let pieces = [std::io::IoSlice::new(&nothing_left), std::io::IoSlice::new(&error)];
        if interface.device.get_ref().send(&pieces).is_err() {
            add(&interface.counts.refused, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use meshara_identity::MeshAddress;
    use meshara_interface::packet::TCP;

    use super::*;

    #[test]
    fn the_nodes_own_packets_are_known_by_their_port() {
        let [source, destination] = [1, 2].map(|last| MeshAddress([last; 16]));
        let flow = |protocol, source_port, destination_port| Flow {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        };
        assert!(is_our_own(&flow(UDP, 6374, 6374), 6374));
        for other in [flow(UDP, 6375, 6374), flow(UDP, 40_000, 6374), flow(TCP, 6374, 6374)] {
            assert!(!is_our_own(&other, 6374));
        }
    }
}
