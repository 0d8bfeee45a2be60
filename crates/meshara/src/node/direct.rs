//! Direct paths: two nodes that talk try to reach each other without relays.
//!
//! Whoever opened the session tells the peer its addresses over it; then both dial each other's addresses at once, which opens the
//! bindings of most NATs (hole punching, RFC 5128 §3.3). A link so made takes no part in routing. When none comes about, the
//! overlay goes on carrying the session.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::NodeId;
use meshara_overlay::LinkKind;
use meshara_transport::tls::Expect;
use quinn::Side;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use super::Inner;
use super::links::run_link;
use super::observed::is_unicast;
use super::sessions::Session;
use super::streams::{Opening, write_opening};

/// Attempts, and the wait before each: soon, then when a NAT's state may have changed, then rarely.
const WAITS: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(3), Duration::from_secs(15), Duration::from_secs(60)];
/// One attempt at all addresses. Handshake packets are repeated by QUIC meanwhile, which is what punches.
const ATTEMPT: Duration = Duration::from_millis(2500);
/// Addresses tried of one peer.
const MAX_ADDRESSES: usize = 8;

/// Between attempts at one peer. It names the addresses, so without a pause it could point this node's handshakes at anyone.
const APART: Duration = Duration::from_secs(2);
/// Attempts at once: 128 handshakes at most, a few milliseconds of one core.
const AT_ONCE: usize = 16;

/// Attempts under way and those just made.
pub(crate) struct Punches {
    places: Semaphore,
    /// When the last attempt at a peer began, and whether it goes on.
    turns: Mutex<HashMap<NodeId, (Instant, bool)>>,
}

impl Default for Punches {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), turns: Mutex::default() }
    }
}

/// The only attempt at a peer.
struct Turn<'a> {
    punches: &'a Punches,
    peer: NodeId,
    _place: SemaphorePermit<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.punches.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, goes_on)) = turns.get_mut(&self.peer) {
            *goes_on = false;
        }
    }
}

impl Punches {
    /// A turn at our own wish: waits for a place. `None` while the peer has its turn.
    async fn wait(&self, peer: NodeId) -> Option<Turn<'_>> {
        let place = self.places.acquire().await.ok()?;
        self.take(peer, place, Instant::now())
    }

    /// A turn at the peer's wish, if there is a place.
    fn begin(&self, peer: NodeId, now: Instant) -> Option<Turn<'_>> {
        self.take(peer, self.places.try_acquire().ok()?, now)
    }

    fn take<'a>(&'a self, peer: NodeId, place: SemaphorePermit<'a>, now: Instant) -> Option<Turn<'a>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, (began, goes_on)| *goes_on || now.saturating_duration_since(*began) < APART);
        if turns.contains_key(&peer) {
            return None;
        }
        turns.insert(peer, (now, true));
        Some(Turn { punches: self, peer, _place: place })
    }
}

/// Looks for a direct path as long as the session lives and none exists.
pub(crate) async fn seek(inner: Arc<Inner>, session: Session) {
    // One side leads, or both would dial twice.
    if !inner.config.direct || session.connection.side() != Side::Client {
        return;
    }
    let mut waits = WAITS.into_iter();
    let mut wait = waits.next().unwrap_or(ATTEMPT);
    loop {
        tokio::select! {
            _ = session.connection.closed() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = waits.next().unwrap_or(WAITS[3]);
        if inner.overlay.link_to(&session.member.node_id).is_some() {
            continue;
        }
        let Some(_turn) = inner.sessions.punches.wait(session.member.node_id).await else { continue };
        let ours: Vec<SocketAddr> = inner.reachable_at().into_iter().take(MAX_ADDRESSES).collect();
        let ask = async {
            if let Ok((mut send, _)) = session.connection.open_bi().await {
                let _ = write_opening(&mut send, &Opening::Punch(ours)).await;
                let _ = send.finish();
            }
        };
        // A peer that takes no stream must not keep the place.
        let _ = tokio::time::timeout(ATTEMPT, ask).await;
        punch(&inner, &session, addresses_of(&inner, &session.member.node_id)).await;
    }
}

/// The peer asks to be dialled at its addresses.
pub(crate) fn punched(inner: &Arc<Inner>, session: &Session, addrs: Vec<SocketAddr>) {
    let peer = session.member.node_id;
    if !inner.config.direct || inner.overlay.link_to(&peer).is_some() {
        return;
    }
    let (task, session) = (inner.clone(), session.clone());
    inner.spawn(async move {
        if let Some(_turn) = task.sessions.punches.begin(peer, Instant::now()) {
            punch(&task, &session, addrs).await;
        }
    });
}

/// The addresses in a node's own record.
fn addresses_of(inner: &Inner, node: &NodeId) -> Vec<SocketAddr> {
    inner.overlay.view(|core| core.node(node).map(|node| node.addresses)).unwrap_or_default()
}

/// Whether to dial an address that a peer named. Other services of this machine are none of its business.
fn may_dial(addr: SocketAddr, bound: SocketAddr, known: &[SocketAddr]) -> bool {
    let local = addr.ip().to_canonical().is_loopback();
    is_unicast(addr) && (!local || bound.ip().to_canonical().is_loopback() || known.contains(&addr))
}

async fn punch(inner: &Arc<Inner>, session: &Session, addrs: Vec<SocketAddr>) {
    let peer = session.member.node_id;
    let known = addresses_of(inner, &peer);
    let mut attempts = JoinSet::new();
    let fits = |addr: &SocketAddr| may_dial(*addr, inner.bound, &known);
    for addr in addrs.into_iter().filter(fits).take(MAX_ADDRESSES) {
        let inner = inner.clone();
        attempts.spawn(async move {
            let dial = inner.endpoints.dial(addr, Expect::Node(peer), LinkKind::Direct);
            tokio::time::timeout(ATTEMPT, dial).await
        });
    }
    while let Some(attempt) = attempts.join_next().await {
        if let Ok(Ok(Ok(link))) = attempt {
            if inner.overlay.link_to(&peer).is_none() {
                run_link(inner.clone(), link);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_one_attempt_at_a_time_and_rests_between_them() {
        let (punches, start, peer) = (Punches::default(), Instant::now(), NodeId([1; 32]));
        let turn = punches.begin(peer, start).unwrap();
        assert!(punches.begin(peer, start + APART * 2).is_none(), "the first goes on");
        drop(turn);
        assert!(punches.begin(peer, start + APART / 2).is_none());
        drop(punches.begin(peer, start + APART).unwrap());
        assert!(punches.begin(peer, start + APART).is_none());

        let others: Vec<_> = (2..40).filter_map(|n| punches.begin(NodeId([n; 32]), start + APART)).collect();
        assert_eq!(others.len(), AT_ONCE);
        drop(others);
        let later = start + APART * 2;
        assert!(punches.begin(peer, later).is_some());
        assert_eq!(punches.turns.lock().unwrap().len(), 1, "others are forgotten");
    }

    #[test]
    fn a_peer_cannot_point_at_what_is_none_of_its_addresses() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (everywhere, here, known) = (addr("[::]:7"), addr("127.0.0.1:7"), [addr("127.0.0.1:22")]);
        assert!(may_dial(addr("192.0.2.1:9"), everywhere, &[]));
        for odd in ["192.0.2.1:0", "0.0.0.0:9", "224.0.0.1:9", "255.255.255.255:9", "[ff02::1]:9", "[::]:9"] {
            assert!(!may_dial(addr(odd), everywhere, &[]) && !may_dial(addr(odd), here, &[]), "{odd}");
        }
        for local in ["127.0.0.1:22", "127.9.9.9:22", "[::1]:22", "[::ffff:127.0.0.1]:22"] {
            assert!(!may_dial(addr(local), everywhere, &[]), "{local}");
            assert!(may_dial(addr(local), here, &[]), "{local}");
        }
        assert!(may_dial(addr("127.0.0.1:22"), everywhere, &known));
    }
}
