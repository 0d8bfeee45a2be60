//! What happens to every hop frame: received, opened, forwarded or handed on; and how session packets become frames.
//!
//! Forwarding works on whole receive buffers: a frame is opened, readdressed and sealed again where it lies, and runs of
//! frames for one next hop leave in one segmented send. It allocates nothing per frame and has no queue: what the kernel
//! doesn't take is dropped, as a router would. The only locks are those of a link's replay window and address, which nobody else holds
//! for longer than a copy.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use meshara_identity::MeshAddress;
use meshara_overlay::header::{Class, HEADER_LEN, Header, TAG_LEN, is_hop_frame};
use meshara_overlay::{ForwardingTable, LinkId};
use quinn_udp::{RecvMeta, Transmit};
use tokio::sync::mpsc;

use crate::counters::Counters;
use crate::fragment::{FRAGMENT_HEADER_LEN, FragmentHeader};
use crate::hop_link::{HopLink, LinkTable};
use crate::quic_queue::QuicQueue;
use crate::reassembly::{Reassembly, ReassemblyStats, Sink};
use crate::sender::SessionSender;
use crate::wire::Wire;

#[cfg(test)]
mod tests;

/// Receive buffers per system call. Each holds one GRO batch; what a batch touches, here, in QUIC's buffers and in the packets
/// made of them, is three times this, and must stay in a core's level 2 cache.
const RECEIVE_BATCH: usize = 2;
/// A GRO batch never exceeds the largest UDP payload.
const RECEIVE_BUFFER: usize = 65_536;
/// System calls before other tasks of the node get their turn, about 1 ms of relaying.
const RECEIVE_CALLS: usize = 16;
/// Echoes and the like waiting for the node's control task. At 20 probes a second from 16 neighbours this is
/// seconds of standstill; more is flood and is dropped.
const CONTROL_QUEUE: usize = 4096;
/// Probes waiting, apart from the rest: no flood of echoes may make a live link look dead. 256 links at 20 probes a second are
/// 200 ms of standstill.
const PROBE_QUEUE: usize = 1024;

/// A frame for the node's control task.
#[derive(Debug)]
pub struct ControlFrame {
    /// The link it came in on.
    pub link: LinkId,
    /// What it carries.
    pub class: Class,
    /// Time to live as received. When `destination` isn't this node, it ended here.
    pub ttl: u8,
    /// Who sent it; only neighbours vouch for it.
    pub source: MeshAddress,
    /// Whom it is for.
    pub destination: MeshAddress,
    /// The decrypted payload.
    pub payload: Vec<u8>,
}

/// What the data plane tells the node.
#[derive(Debug)]
#[non_exhaustive]
pub enum PlaneEvent {
    /// A probe, an echo or another control frame.
    Frame(ControlFrame),
    /// Data frames pass on a link that was quiet.
    Busy(LinkId),
}

/// What the data plane tells the node, probes first.
#[derive(Debug)]
pub struct PlaneEvents {
    probes: mpsc::Receiver<PlaneEvent>,
    rest: mpsc::Receiver<PlaneEvent>,
}

impl PlaneEvents {
    /// Waits for the next event; `None` when the data plane has gone.
    pub async fn recv(&mut self) -> Option<PlaneEvent> {
        tokio::select! {
            biased;
            Some(probe) = self.probes.recv() => Some(probe),
            event = self.rest.recv() => event,
        }
    }
}

/// Reception state, used by one task at a time.
struct Reception {
    memory: Vec<u8>,
    meta: [RecvMeta; RECEIVE_BATCH],
    /// Buffers of the current batch, and the next byte to look at: (buffer, offset).
    batch: usize,
    at: (usize, usize),
    reassembly: Reassembly,
}

/// A run of frames in the receive buffer that leave over the same link.
struct Run {
    link: Arc<HopLink>,
    outgoing: crate::hop_link::Outgoing,
    start: usize,
    end: usize,
    segment: usize,
}

/// The data plane of one node.
pub struct DataPlane {
    me: MeshAddress,
    pub(crate) wire: Arc<Wire>,
    table: ArcSwap<ForwardingTable>,
    links: ArcSwap<LinkTable>,
    reception: Mutex<Reception>,
    sender: Mutex<SessionSender>,
    pub(crate) quic: QuicQueue,
    probes: mpsc::Sender<PlaneEvent>,
    events: mpsc::Sender<PlaneEvent>,
    /// Whether a task waits to send what the kernel refused.
    flushing: AtomicBool,
    counters: Counters,
}

impl std::fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPlane").field("me", &self.me).finish_non_exhaustive()
    }
}

impl DataPlane {
    /// A data plane over `wire` without links or routes, and the queue of what it tells the node.
    pub fn new(me: MeshAddress, wire: Wire) -> (Arc<Self>, PlaneEvents) {
        let (probes, probes_receiver) = mpsc::channel(PROBE_QUEUE);
        let (events, rest) = mpsc::channel(CONTROL_QUEUE);
        let plane = Self {
            me,
            wire: Arc::new(wire),
            table: ArcSwap::from_pointee(ForwardingTable::default()),
            links: ArcSwap::from_pointee(LinkTable::default()),
            reception: Mutex::new(Reception {
                memory: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER],
                meta: [RecvMeta::default(); RECEIVE_BATCH],
                batch: 0,
                at: (0, 0),
                reassembly: Reassembly::new(),
            }),
            sender: Mutex::new(SessionSender::new()),
            quic: QuicQueue::new(),
            probes,
            events,
            flushing: AtomicBool::new(false),
            counters: Counters::default(),
        };
        (Arc::new(plane), PlaneEvents { probes: probes_receiver, rest })
    }

    /// This node's mesh address.
    pub fn me(&self) -> MeshAddress {
        self.me
    }

    /// The socket underneath.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Counts of what was forwarded and dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts of packets joined from parts.
    pub fn reassembly_stats(&self) -> ReassemblyStats {
        self.reception().reassembly.stats
    }

    /// Publishes new routes.
    pub fn set_table(&self, table: Arc<ForwardingTable>) {
        self.table.store(table);
    }

    /// The routes in use.
    pub fn table(&self) -> Arc<ForwardingTable> {
        self.table.load_full()
    }

    /// The links in use.
    pub fn links(&self) -> Arc<LinkTable> {
        self.links.load_full()
    }

    pub(crate) fn add_link(&self, link: &Arc<HopLink>) {
        self.links.rcu(|links| links.with(link.clone()));
    }

    /// Forgets a link; its frames are refused from now on.
    pub fn remove_link(&self, id: LinkId) {
        self.links.rcu(|links| links.without(id));
    }

    /// Sends one lost part's worth of redundancy with each packet to `destination`, or stops doing so.
    pub fn set_parity(&self, destination: MeshAddress, on: bool) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).set_parity(destination, on);
    }

    /// Sends a probe to the neighbour at the other end of a link. Lost without notice when the kernel is full.
    pub fn send_probe(&self, link: LinkId, payload: &[u8]) {
        let links = self.links.load();
        if let Some(link) = links.get(link) {
            self.send_control(link, Class::Probe, 1, MeshAddress([0; 16]), MeshAddress([0; 16]), payload);
        }
    }

    /// Sends an echo frame towards `destination`; `false` when there is no route.
    pub fn send_echo(&self, destination: MeshAddress, ttl: u8, payload: &[u8]) -> bool {
        let links = self.links.load();
        let Some(link) = self.next_hop(&links, destination, None) else {
            self.counters.no_route.fetch_add(1, Relaxed);
            return false;
        };
        if link.mark_busy() {
            let _ = self.events.try_send(PlaneEvent::Busy(link.id()));
        }
        self.send_control(link, Class::Echo, ttl, destination, self.me, payload);
        true
    }

    fn send_control(
        &self,
        link: &HopLink,
        class: Class,
        ttl: u8,
        destination: MeshAddress,
        source: MeshAddress,
        payload: &[u8],
    ) {
        let outgoing = link.outgoing();
        let mut frame = vec![0; HEADER_LEN + payload.len() + TAG_LEN];
        let header = Header {
            sealed: true,
            ttl,
            class,
            epoch: outgoing.key.epoch() as u8,
            link: outgoing.index,
            counter: link.next_counter(frame.len()),
            destination,
            source,
        };
        write_header(&mut frame, &header);
        if let Some(room) = frame.get_mut(HEADER_LEN..HEADER_LEN + payload.len()) {
            room.copy_from_slice(payload);
        }
        if outgoing.key.seal_whole(&mut frame).is_some() {
            let len = frame.len();
            self.wire.send_run(outgoing.remote, &frame, len);
        }
    }

    fn reception(&self) -> MutexGuard<'_, Reception> {
        self.reception.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_hop<'a>(
        &self,
        links: &'a LinkTable,
        destination: MeshAddress,
        from: Option<LinkId>,
    ) -> Option<&'a Arc<HopLink>> {
        let usable = |id| links.get(id).is_some_and(|link| link.usable());
        let id = self.table.load().next_hop(&destination, from, &usable)?;
        links.get(id)
    }

    /// Sends session packets: the `try_send` of the session endpoint's socket.
    pub(crate) fn send_session(self: &Arc<Self>, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.flush_pending(&self.wire) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let IpAddr::V6(ip) = transmit.destination.ip() else { return Ok(()) };
        let destination = MeshAddress(ip.octets());
        let table = self.table.load();
        let links = self.links.load();
        let Some(link) = self.next_hop(&links, destination, None) else {
            self.counters.no_route.fetch_add(1, Relaxed);
            return Ok(()); // the session retransmits; perhaps a route exists by then
        };
        if link.mark_busy() {
            let _ = self.events.try_send(PlaneEvent::Busy(link.id()));
        }
        // A direct link is the whole path.
        let path_mtu = match table.lookup(&destination) {
            Some(route) if table.direct(&destination) != Some(link.id()) => route.path_mtu,
            _ => u16::MAX,
        };
        sender.send(&self.wire, link, (self.me, destination), path_mtu, transmit, &self.counters);
        self.send_rest(&sender);
        Ok(())
    }

    /// Sees that what the kernel refused is sent later. QUIC takes the packets for sent and may have no more for a while: nobody else
    /// would do it.
    fn send_rest(self: &Arc<Self>, sender: &SessionSender) {
        if !sender.is_empty() && !self.flushing.swap(true, AcqRel) {
            tokio::spawn(self.clone().flush());
        }
    }

    /// Sends what the kernel refused, as soon as it takes data again.
    async fn flush(self: Arc<Self>) {
        loop {
            let writable = self.wire.writable().await.is_ok();
            let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            if !writable || sender.flush_pending(&self.wire) {
                // Before the lock is given back: whoever leaves something afterwards must start the next task.
                self.flushing.store(false, Release);
                return;
            }
        }
    }

    /// Receives session packets: the `poll_recv` of the session endpoint's socket. It drives the whole data plane.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut guard = self.reception();
        let reception = &mut *guard;
        let mut sink = Sink::new(bufs, meta);
        for _ in 0..RECEIVE_CALLS {
            self.process(reception, &mut sink);
            if sink.filled() > 0 {
                reception.reassembly.spill(&mut sink);
                return Poll::Ready(Ok(sink.filled()));
            }
            let mut rest = reception.memory.chunks_mut(RECEIVE_BUFFER);
            let mut slices: [IoSliceMut<'_>; RECEIVE_BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
            match self.wire.poll_recv(cx, &mut slices, &mut reception.meta) {
                Poll::Pending => {
                    reception.reassembly.spill(&mut sink);
                    return Poll::Pending;
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(count)) => {
                    reception.batch = count;
                    reception.at = (0, 0);
                }
            }
        }
        reception.reassembly.spill(&mut sink);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Works on what was received until it is done or the sink is full.
    fn process(&self, reception: &mut Reception, sink: &mut Sink<'_, '_>) {
        let links = self.links.load();
        let Reception { memory, meta, batch, at, reassembly } = reception;
        while at.0 < *batch {
            let Some((meta, buffer)) = meta.get(at.0).zip(memory.chunks_mut(RECEIVE_BUFFER).nth(at.0)) else {
                return;
            };
            let Some(buffer) = buffer.get_mut(..meta.len) else { return };
            at.1 = self.process_buffer(&links, meta, buffer, at.1, reassembly, sink);
            if at.1 < meta.len {
                return; // the sink is full
            }
            *at = (at.0 + 1, 0);
        }
    }

    /// Works on one buffer from `start`; returns where it stopped.
    fn process_buffer(
        &self,
        links: &LinkTable,
        meta: &RecvMeta,
        buffer: &mut [u8],
        start: usize,
        reassembly: &mut Reassembly,
        sink: &mut Sink<'_, '_>,
    ) -> usize {
        let stride = meta.stride.max(1);
        let mut run: Option<Run> = None;
        let mut at = start;
        while at < buffer.len() && sink.has_room() {
            let end = (at + stride).min(buffer.len());
            let Some(frame) = buffer.get_mut(at..end) else { break };
            let Some(forward) = self.frame(links, meta, frame, reassembly, sink) else {
                self.finish_run(run.take(), buffer);
                at = end;
                continue;
            };
            let same = run.as_ref().is_some_and(|run| run.link.id() == forward.id() && run.end == at);
            if !same {
                self.finish_run(run.take(), buffer);
                let outgoing = forward.outgoing();
                run = Some(Run { link: forward, outgoing, start: at, end: at, segment: end - at });
            }
            if let (Some(run), Some(frame)) = (&mut run, buffer.get_mut(at..end)) {
                if reseal(frame, run) {
                    run.end = end;
                } else {
                    let done = std::mem::replace(&mut run.end, run.start);
                    self.wire_run(run, buffer.get(run.start..done));
                    run.start = end;
                    run.end = end;
                }
            }
            at = end;
        }
        self.finish_run(run, buffer);
        at
    }

    fn finish_run(&self, run: Option<Run>, buffer: &[u8]) {
        if let Some(run) = run {
            self.wire_run(&run, buffer.get(run.start..run.end));
        }
    }

    fn wire_run(&self, run: &Run, frames: Option<&[u8]>) {
        let Some(frames) = frames.filter(|frames| !frames.is_empty()) else { return };
        let sent = self.wire.send_run(run.outgoing.remote, frames, run.segment);
        let count = |bytes: usize| bytes.div_ceil(run.segment) as u64;
        self.counters.forwarded.fetch_add(count(sent), Relaxed);
        self.counters.send_full.fetch_add(count(frames.len() - sent), Relaxed);
    }

    /// Opens one datagram. Gives the link it must leave by, with its header still to be readdressed; everything else is
    /// dealt with here.
    fn frame(
        &self,
        links: &LinkTable,
        meta: &RecvMeta,
        frame: &mut [u8],
        reassembly: &mut Reassembly,
        sink: &mut Sink<'_, '_>,
    ) -> Option<Arc<HopLink>> {
        if !is_hop_frame(frame) {
            self.quic.push(meta, frame, &self.counters);
            return None;
        }
        let Ok(clear) = Header::decode(frame) else {
            self.counters.malformed.fetch_add(1, Relaxed);
            return None;
        };
        let Some(link) = links.get(LinkId(clear.link)) else {
            self.counters.unknown_link.fetch_add(1, Relaxed);
            return None;
        };
        if !link.open(frame, clear.epoch, clear.counter, clear.sealed) {
            self.counters.refused.fetch_add(1, Relaxed);
            return None;
        }
        let header = Header::decode(frame).ok()?;
        let link_local = matches!(header.class, Class::Probe);
        if link_local || header.destination == self.me {
            self.deliver(link, header, frame, reassembly, sink);
            return None;
        }
        if header.ttl <= 1 {
            self.counters.ttl_ended.fetch_add(1, Relaxed);
            if header.class == Class::Echo {
                self.control(link, header, frame);
            }
            return None;
        }
        if link.mark_busy() {
            let _ = self.events.try_send(PlaneEvent::Busy(link.id()));
        }
        let next = self.next_hop(links, header.destination, Some(link.id()));
        let Some(next) = next else {
            self.counters.no_route.fetch_add(1, Relaxed);
            return None;
        };
        if frame.len() > usize::from(next.mtu()) {
            self.counters.too_big.fetch_add(1, Relaxed);
            return None;
        }
        if next.mark_busy() {
            let _ = self.events.try_send(PlaneEvent::Busy(next.id()));
        }
        Some(next.clone())
    }

    /// A frame that ends at this node.
    fn deliver(
        &self,
        link: &HopLink,
        header: Header,
        frame: &[u8],
        reassembly: &mut Reassembly,
        sink: &mut Sink<'_, '_>,
    ) {
        match header.class {
            Class::SessionFragment | Class::SessionParity => {
                if link.mark_busy() {
                    let _ = self.events.try_send(PlaneEvent::Busy(link.id()));
                }
                let body = HEADER_LEN + FRAGMENT_HEADER_LEN;
                let part = frame.get(HEADER_LEN..).and_then(FragmentHeader::read);
                let payload = if header.sealed {
                    frame.get(body..frame.len().saturating_sub(TAG_LEN))
                } else {
                    frame.get(body + TAG_LEN..)
                };
                let (Some(part), Some(payload)) = (part, payload) else {
                    self.counters.malformed.fetch_add(1, Relaxed);
                    return;
                };
                if header.class == Class::SessionFragment {
                    reassembly.part(header.source, part, payload, sink);
                } else {
                    reassembly.parity(header.source, part, payload, sink);
                }
            }
            _ => self.control(link, header, frame),
        }
    }

    fn control(&self, link: &HopLink, header: Header, frame: &[u8]) {
        let payload = frame.get(HEADER_LEN..frame.len().saturating_sub(TAG_LEN)).filter(|_| header.sealed);
        let Some(payload) = payload else {
            self.counters.malformed.fetch_add(1, Relaxed);
            return;
        };
        let frame = ControlFrame {
            link: link.id(),
            class: header.class,
            ttl: header.ttl,
            source: header.source,
            destination: header.destination,
            payload: payload.to_vec(),
        };
        let queue = if frame.class == Class::Probe { &self.probes } else { &self.events };
        if queue.try_send(PlaneEvent::Frame(frame)).is_err() {
            self.counters.control_full.fetch_add(1, Relaxed);
        }
    }

    /// The bound address of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.wire.local_addr()
    }
}

/// Readdresses an opened frame for the next hop and seals it where it lies.
fn reseal(frame: &mut [u8], run: &Run) -> bool {
    let Ok(header) = Header::decode(frame) else { return false };
    let readdressed = Header {
        ttl: header.ttl.saturating_sub(1),
        epoch: run.outgoing.key.epoch() as u8,
        link: run.outgoing.index,
        counter: run.link.next_counter(frame.len()),
        ..header
    };
    write_header(frame, &readdressed);
    let key = &run.outgoing.key;
    if header.sealed { key.seal_whole(frame) } else { key.seal_bulk(frame) }.is_some()
}

/// Writes `header` to the front of `frame`, which is long enough.
pub(crate) fn write_header(frame: &mut [u8], header: &Header) {
    if let Some(room) = frame.get_mut(..HEADER_LEN) {
        room.copy_from_slice(&header.encode());
    }
}
