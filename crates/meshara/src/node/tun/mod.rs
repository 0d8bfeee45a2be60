//! The TUN interface: packets of local programs travel to other nodes in datagrams of their sessions, and those of other
//! nodes come out. `docs/interface.md` says why so.

mod arrive;
mod counts;
mod depart;
mod link;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::{Member, MeshAddress};
use meshara_interface::packet::ICMPV6;
use meshara_interface::{Device, DeviceError, Flow, MTU, Question};
use tokio::io::unix::AsyncFd;

use super::Inner;
pub(crate) use arrive::receive;
use counts::Counts;
use depart::Peer;

/// Peers whose queues and connections are remembered: as many as there may be sessions.
const MAX_PEERS: usize = 1024;
/// ICMP errors a second: what a person or a program needs to notice. A flood needs no more (RFC 4443 §2.4(f)).
const ERRORS: u32 = 100;

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunError {
    /// There is no device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It could not be given its address.
    #[error("can't set up {name}: {error}")]
    Setup { name: String, error: String },
    /// The runtime doesn't watch it.
    #[error("can't watch the TUN device: {0}")]
    Watch(std::io::Error),
}

/// The node's interface.
pub(crate) struct Interface {
    device: AsyncFd<Device>,
    link: link::Link,
    me: MeshAddress,
    start: Instant,
    peers: Mutex<HashMap<MeshAddress, Arc<Peer>>>,
    errors: Mutex<(Duration, u32)>,
    pub(crate) counts: Counts,
}

impl Interface {
    /// Makes the device and gives it the node's address.
    pub(crate) async fn open(
        name: Option<&meshara_interface::DeviceName>,
        me: MeshAddress,
    ) -> Result<Self, TunError> {
        let device = Device::open(name)?;
        let link = link::Link::set_up(device.name(), me).await?;
        Ok(Self {
            device: device.watch().map_err(TunError::Watch)?,
            link,
            me,
            start: Instant::now(),
            peers: Mutex::default(),
            errors: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.device.get_ref().name()
    }

    /// Its MTU.
    pub(crate) const fn mtu(&self) -> u16 {
        MTU
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<MeshAddress, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of the node at an address; `None` when nobody is known there.
    fn peer(&self, inner: &Inner, address: MeshAddress) -> Option<Arc<Peer>> {
        if let Some(peer) = self.peers().get(&address) {
            return Some(peer.clone());
        }
        let node = inner.node_at(address)?;
        Some(self.keep(inner, address, Peer::new(node)))
    }

    /// Remembers a peer. Those without a session and without waiting packets make room.
    fn keep(&self, inner: &Inner, address: MeshAddress, peer: Peer) -> Arc<Peer> {
        let mut peers = self.peers();
        if peers.len() >= MAX_PEERS {
            peers.retain(|_, peer| peer.is_busy() || inner.sessions.existing(&peer.node).is_some());
        }
        peers.entry(address).or_insert_with(|| Arc::new(peer)).clone()
    }

    /// Whether one more ICMP error may be sent now.
    fn may_complain(&self) -> bool {
        let now = self.now();
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(errors.0) >= Duration::from_secs(1) {
            *errors = (now, 0);
        }
        errors.1 += 1;
        errors.1 <= ERRORS
    }
}

/// Whether a connection that a peer began may come in. Its flow names protocol and ports.
///
/// Members may use the interface, as the starter policy has it.
fn may_enter(inner: &Inner, peer: &Member, flow: &Flow, question: Question) -> bool {
    // What stands in the place of ports there is no port.
    let port = if flow.protocol == ICMPV6 { 0 } else { flow.destination_port };
    super::trust::policy::ask_tun(inner, peer, flow.protocol, port, question == Question::Begin).is_ok()
}

/// Carries packets as long as the node runs.
pub(crate) async fn run(inner: Arc<Inner>, interface: Arc<Interface>) {
    tokio::join!(depart::run(inner.clone(), interface.clone()), link::follow(inner, interface));
}
