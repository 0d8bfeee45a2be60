//! The data plane's half of a link: where its frames go, their keys, counters and the `usable` flag.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use meshara_identity::MeshAddress;
use meshara_overlay::LinkId;

use crate::hop_keys::{Direction, EPOCH_FRAMES, HopKey};
use crate::replay::ReplayWindow;

/// Frame size in bytes until the link's QUIC connection has found the path's MTU: QUIC's own minimum (RFC 9000 §14).
pub(crate) const INITIAL_MTU: u16 = 1200;

/// Keys and replay window for what the neighbour sends.
#[derive(Debug)]
struct Receiver {
    window: ReplayWindow,
    key: HopKey,
    previous: Option<HopKey>,
    /// Prepared when the first frame of the next epoch comes.
    next: Option<HopKey>,
}

/// A link as the data plane sees it.
#[derive(Debug)]
pub struct HopLink {
    id: LinkId,
    peer: MeshAddress,
    connection: quinn::Connection,
    send_direction: Direction,
    receive_direction: Direction,
    remote: Mutex<SocketAddr>,
    peer_index: AtomicU32,
    counter: AtomicU64,
    sender: ArcSwap<HopKey>,
    receiver: Mutex<Receiver>,
    usable: AtomicBool,
    mtu: AtomicU16,
    busy: AtomicBool,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
}

impl HopLink {
    /// The data plane's half of `connection`; `None` when its handshake isn't complete.
    pub(crate) fn new(
        id: LinkId,
        peer: MeshAddress,
        connection: quinn::Connection,
        dialled: bool,
    ) -> Option<Self> {
        let (send_direction, receive_direction) = if dialled {
            (Direction::FromDialler, Direction::FromListener)
        } else {
            (Direction::FromListener, Direction::FromDialler)
        };
        let receiver = Receiver {
            window: ReplayWindow::new(),
            key: HopKey::export(&connection, receive_direction, 0)?,
            previous: None,
            next: None,
        };
        Some(Self {
            id,
            peer,
            send_direction,
            receive_direction,
            remote: Mutex::new(crate::wire::canonical(connection.remote_address())),
            peer_index: AtomicU32::new(0),
            counter: AtomicU64::new(1),
            sender: ArcSwap::from_pointee(HopKey::export(&connection, send_direction, 0)?),
            receiver: Mutex::new(receiver),
            usable: AtomicBool::new(false),
            mtu: AtomicU16::new(INITIAL_MTU),
            busy: AtomicBool::new(false),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            connection,
        })
    }

    /// Our number of the link; the neighbour writes it into every frame.
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// The neighbour's mesh address.
    pub fn peer(&self) -> MeshAddress {
        self.peer
    }

    /// The link's QUIC connection.
    pub fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Where frames go now.
    pub fn remote(&self) -> SocketAddr {
        *self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the connection's address (it moves when a NAT rebinds) and MTU. Returns the MTU in bytes.
    pub fn refresh(&self) -> u16 {
        *self.remote.lock().unwrap_or_else(PoisonError::into_inner) =
            crate::wire::canonical(self.connection.remote_address());
        let mtu = self.connection.stats().path.current_mtu;
        self.mtu.store(mtu, Relaxed);
        if self.counter.load(Relaxed) / EPOCH_FRAMES > u64::from(self.sender.load().epoch()) {
            self.next_epoch();
        }
        mtu
    }

    /// Starts sending under the next epoch's key.
    pub fn next_epoch(&self) {
        let epoch = self.sender.load().epoch().wrapping_add(1);
        if let Some(key) = HopKey::export(&self.connection, self.send_direction, epoch) {
            self.sender.store(Arc::new(key));
        }
    }

    /// Learns the neighbour's number of the link; frames can be sent from now on.
    pub(crate) fn set_peer_index(&self, index: u32) {
        self.peer_index.store(index, Relaxed);
    }

    /// Largest frame in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Whether routes may use the link.
    pub fn usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    /// Lets routes use the link or keeps them off it.
    pub fn set_usable(&self, usable: bool) {
        self.usable.store(usable, Relaxed);
    }

    /// Whether data frames passed since the last call.
    pub fn take_busy(&self) -> bool {
        self.busy.swap(false, Relaxed)
    }

    /// Bytes of hop frames sent and received.
    pub fn bytes(&self) -> (u64, u64) {
        (self.tx_bytes.load(Relaxed), self.rx_bytes.load(Relaxed))
    }

    /// Marks data traffic; true for the first frame after [`HopLink::take_busy`].
    pub(crate) fn mark_busy(&self) -> bool {
        !self.busy.load(Relaxed) && !self.busy.swap(true, Relaxed)
    }

    /// What the next frames out of this link need.
    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing { key: self.sender.load_full(), remote: self.remote(), index: self.peer_index.load(Relaxed) }
    }

    pub(crate) fn next_counter(&self, frame_len: usize) -> u64 {
        self.tx_bytes.fetch_add(frame_len as u64, Relaxed);
        self.counter.fetch_add(1, Relaxed)
    }

    /// Checks and decrypts a frame in place: the tag first, then the counter. `whole` tells which form it has.
    pub(crate) fn open(&self, frame: &mut [u8], epoch: u8, counter: u64, whole: bool) -> bool {
        let mut guard = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = &mut *guard;
        let current = receiver.key.epoch();
        let open = |key: &HopKey, frame: &mut [u8]| {
            if whole { key.open_whole(frame) } else { key.open_bulk(frame) }.is_some()
        };
        let opened = if epoch == current as u8 {
            open(&receiver.key, frame)
        } else if epoch == current.wrapping_sub(1) as u8 {
            receiver.previous.as_ref().is_some_and(|key| open(key, frame))
        } else if epoch == current.wrapping_add(1) as u8 {
            if receiver.next.is_none() {
                receiver.next =
                    HopKey::export(&self.connection, self.receive_direction, current.wrapping_add(1));
            }
            let opened = receiver.next.as_ref().is_some_and(|key| open(key, frame));
            if opened && let Some(next) = receiver.next.take() {
                receiver.previous = Some(std::mem::replace(&mut receiver.key, next));
            }
            opened
        } else {
            false
        };
        let accepted = opened && receiver.window.accept(counter);
        if accepted {
            self.rx_bytes.fetch_add(frame.len() as u64, Relaxed);
        }
        accepted
    }
}

/// What it takes to send frames over a link, read once per batch.
pub(crate) struct Outgoing {
    pub(crate) key: Arc<HopKey>,
    pub(crate) remote: SocketAddr,
    pub(crate) index: u32,
}

/// Links at once: 16 neighbours, their replacements while both live, and direct links to talkers. The low byte of a
/// link's number is its place here.
pub const MAX_LINKS: usize = 256;

/// All links, by our number.
#[derive(Clone, Debug)]
pub struct LinkTable {
    slots: Vec<Option<Arc<HopLink>>>,
}

impl Default for LinkTable {
    fn default() -> Self {
        Self { slots: vec![None; MAX_LINKS] }
    }
}

impl LinkTable {
    /// The link with this number.
    pub fn get(&self, id: LinkId) -> Option<&Arc<HopLink>> {
        self.slots.get(id.0 as usize % MAX_LINKS)?.as_ref().filter(|link| link.id == id)
    }

    /// Every link, by place.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<HopLink>> {
        self.slots.iter().flatten()
    }

    pub(crate) fn with(&self, link: Arc<HopLink>) -> Self {
        let mut slots = self.slots.clone();
        if let Some(slot) = slots.get_mut(link.id.0 as usize % MAX_LINKS) {
            *slot = Some(link);
        }
        Self { slots }
    }

    pub(crate) fn without(&self, id: LinkId) -> Self {
        let mut slots = self.slots.clone();
        if let Some(slot) = slots.get_mut(id.0 as usize % MAX_LINKS) {
            slot.take_if(|link| link.id == id);
        }
        Self { slots }
    }
}
