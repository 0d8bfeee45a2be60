//! Drives the overlay core: feeds it links, probes and time, and carries out what it asks for.
//!
//! The core sits behind one mutex. Every input takes it for microseconds, then all outputs are carried out at once, so
//! that a suspicion reaches the data plane without a task switch.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::{Member, NodeId};
use meshara_overlay::{
    CloseReason, Core, DialTarget, Event, Hint, KnownNode, LinkDownReason, LinkId, LinkKind, LinkPeer, Output,
};
use meshara_transport::{DataPlane, HopLink, Link};
use tokio::sync::{Notify, broadcast, mpsc};

use super::network;

/// Control messages waiting for one neighbour; a neighbour that doesn't read for longer is cut off.
const CONTROL_QUEUE: usize = 4096;
/// And bytes of them: the records of some 6,000 nodes. A slow neighbour that asks for more at once is cut off, and asks for
/// the rest when it is back.
const CONTROL_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Dials asked for and not begun. The core asks for each target once; there are at most as many as it knows.
const DIAL_QUEUE: usize = 1024;
/// Events that a slow listener may miss before it is told that it did.
const EVENT_QUEUE: usize = 1024;

/// A link as the node's tasks see it.
#[derive(Debug)]
pub(crate) struct LinkHandle {
    pub(crate) hop: Arc<HopLink>,
    pub(crate) member: Member,
    pub(crate) dialled: bool,
    /// This machine's address that the link began with.
    pub(crate) source: Option<IpAddr>,
    control: ControlQueue,
}

/// Where control messages wait for a neighbour: bounded in number and in bytes.
#[derive(Debug)]
struct ControlQueue {
    messages: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// The other end of a link's queue of control messages.
#[derive(Debug)]
pub(crate) struct ControlMessages {
    messages: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

impl ControlQueue {
    fn new() -> (Self, ControlMessages) {
        let (sender, messages) = mpsc::channel(CONTROL_QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        (Self { messages: sender, waiting: waiting.clone() }, ControlMessages { messages, waiting })
    }

    /// Puts a message in; `false` if it is full or nobody reads it any more. Only called under the core's lock.
    fn put(&self, message: Vec<u8>) -> bool {
        let len = message.len();
        if self.waiting.load(Ordering::Relaxed) + len > CONTROL_QUEUE_BYTES {
            return false;
        }
        // Before it is in: the reader must not subtract it first.
        self.waiting.fetch_add(len, Ordering::Relaxed);
        self.messages.try_send(message).is_ok()
    }
}

impl ControlMessages {
    /// The next message. None when the overlay has forgotten the link.
    pub(crate) async fn recv(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.recv().await?;
        self.waiting.fetch_sub(message.len(), Ordering::Relaxed);
        Some(message)
    }
}

struct State {
    core: Core,
    links: HashMap<LinkId, Arc<LinkHandle>>,
}

/// The overlay core and its surroundings.
pub(crate) struct Overlay {
    state: Mutex<State>,
    plane: Arc<DataPlane>,
    start: Instant,
    timer: Notify,
    dials: mpsc::Sender<(DialTarget, LinkKind)>,
    events: broadcast::Sender<Event>,
}

impl Overlay {
    /// Wraps a core made at `start`. The receiver gives the dials that the core asks for.
    pub(crate) fn new(
        core: Core,
        plane: Arc<DataPlane>,
        start: Instant,
    ) -> (Self, mpsc::Receiver<(DialTarget, LinkKind)>) {
        let (dials, requests) = mpsc::channel(DIAL_QUEUE);
        let state = Mutex::new(State { core, links: HashMap::new() });
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        (Self { state, plane, start, timer: Notify::new(), dials, events }, requests)
    }

    /// Time since the core's start.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// What happens from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the core without changing it.
    pub(crate) fn view<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.lock().core)
    }

    /// All links, also those that the overlay suspects.
    pub(crate) fn links(&self) -> Vec<Arc<LinkHandle>> {
        let mut links: Vec<_> = self.lock().links.values().cloned().collect();
        links.sort_by_key(|link| link.hop.id());
        links
    }

    /// One link.
    pub(crate) fn link(&self, id: LinkId) -> Option<Arc<LinkHandle>> {
        self.lock().links.get(&id).cloned()
    }

    /// Gives the core an input and carries out what follows from it.
    pub(crate) fn input<T>(&self, input: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let mut state = self.lock();
        let before = state.core.poll_timeout();
        let result = input(&mut state.core, self.now());
        self.carry_out(&mut state);
        if state.core.poll_timeout() != before {
            self.timer.notify_one();
        }
        result
    }

    /// Tells the core of a new link. The receiver gives the control messages to send on it.
    pub(crate) fn link_up(&self, link: &Link) -> (Arc<LinkHandle>, ControlMessages) {
        let (control, messages) = ControlQueue::new();
        let handle = Arc::new(LinkHandle {
            hop: link.hop.clone(),
            member: link.member.clone(),
            dialled: link.dialled,
            source: network::source(&link.hop),
            control,
        });
        self.lock().links.insert(link.hop.id(), handle.clone());
        let peer = LinkPeer {
            node: link.member.node_id,
            address: link.member.address,
            dialled_by_us: link.dialled,
            kind: link.kind,
            mtu: link.hop.mtu(),
            rtt: Some(link.hop.connection().rtt()),
            remote: Some(link.hop.remote()),
        };
        self.input(|core, now| core.link_up(now, link.hop.id(), peer));
        (handle, messages)
    }

    /// Tells the core that a link's connection has ended. Repeating it does no harm.
    pub(crate) fn link_down(&self, id: LinkId, reason: LinkDownReason) {
        self.plane.remove_link(id);
        if self.lock().links.remove(&id).is_some() {
            self.input(|core, now| core.link_down(now, id, reason));
        }
    }

    /// Closes a link for a reason of the driver's.
    pub(crate) fn close_link(&self, id: LinkId, code: u32, why: &'static str) {
        if let Some(link) = self.link(id) {
            tracing::warn!(peer = %link.member.name, why, "closing the link");
            link.hop.connection().close(code.into(), why.as_bytes());
        }
        self.link_down(id, LinkDownReason::Local);
    }

    /// Runs the core's timers for ever.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = self.view(Core::poll_timeout);
            let now = self.now();
            match next {
                Some(at) if at <= now => self.input(|core, now| core.handle_timeout(now)),
                Some(at) => {
                    let _ = tokio::time::timeout(at - now, self.timer.notified()).await;
                }
                None => self.timer.notified().await,
            }
        }
    }

    fn carry_out(&self, state: &mut State) {
        while let Some(output) = state.core.poll_output() {
            match output {
                Output::Probe { link, bytes } => self.plane.send_probe(link, &bytes),
                Output::Control { link, bytes } => {
                    let Some(handle) = state.links.get(&link) else { continue };
                    if !handle.control.put(bytes) {
                        // The reader of the queue ended, or the neighbour doesn't read: the connection is of no use. Its end
                        // reaches the core through the link's own task.
                        handle
                            .hop
                            .connection()
                            .close(CLOSE_STUCK.into(), b"control messages are not being read");
                    }
                }
                Output::Dial { target, kind } => {
                    if let Err(error) = self.dials.try_send((target, kind)) {
                        let (target, _) = error.into_inner();
                        state.core.dial_failed(self.now(), &target);
                    }
                }
                Output::CloseLink { link, reason } => self.close(state, link, reason),
                Output::LinkUsable { link, usable } => {
                    if let Some(handle) = state.links.get(&link) {
                        handle.hop.set_usable(usable);
                    }
                }
                Output::Table(table) => self.plane.set_table(table),
                Output::Event(event) => {
                    tracing::debug!(?event, "overlay");
                    let _ = self.events.send(event);
                }
            }
        }
    }

    fn close(&self, state: &mut State, link: LinkId, reason: CloseReason) {
        self.plane.remove_link(link);
        if let Some(handle) = state.links.remove(&link) {
            let why = format!("{reason:?}");
            handle.hop.connection().close(u32::from(reason.code()).into(), why.as_bytes());
        }
    }

    // Inputs with a name of their own.

    pub(crate) fn known(&self, known: KnownNode) {
        self.input(|core, now| core.add_known(now, known));
    }

    pub(crate) fn dial_failed(&self, target: &DialTarget) {
        self.input(|core, now| core.dial_failed(now, target));
    }

    pub(crate) fn hint(&self, link: LinkId, hint: Hint) {
        self.input(|core, now| core.link_hint(now, link, hint));
    }

    /// The routing link to a neighbour, if there is one.
    pub(crate) fn link_to(&self, node: &NodeId) -> Option<Arc<LinkHandle>> {
        self.lock().links.values().find(|link| link.member.node_id == *node).cloned()
    }
}

/// Close code of a link whose other end doesn't read its control stream. Above the overlay's own codes.
const CLOSE_STUCK: u32 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn control_messages_are_bounded_in_number_and_in_bytes() {
        let (queue, mut messages) = ControlQueue::new();
        let large = vec![0; CONTROL_QUEUE_BYTES / 4];
        assert!((0..4).all(|_| queue.put(large.clone())));
        assert!(!queue.put(vec![0]), "the bytes are full");
        assert_eq!(messages.recv().await.map(|message| message.len()), Some(large.len()));
        assert!(queue.put(large.clone()));
        let (queue, messages) = ControlQueue::new();
        assert!((0..CONTROL_QUEUE).all(|_| queue.put(vec![0])));
        assert!(!queue.put(vec![0]), "as many as fit");
        drop(messages);
        let (queue, messages) = ControlQueue::new();
        drop(messages);
        assert!(!queue.put(vec![0]), "nobody reads");
    }
}
