//! Direct paths: two nodes that talk try to reach each other without relays.
//!
//! Whoever opened the session tells the peer its addresses over it; then both dial each other's addresses at once, which opens the
//! bindings of most NATs (hole punching, RFC 5128 §3.3). A link so made takes no part in routing. When none comes about, the
//! overlay goes on carrying the session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshara_overlay::LinkKind;
use meshara_transport::tls::Expect;
use quinn::Side;
use tokio::task::JoinSet;

use super::Inner;
use super::links::run_link;
use super::sessions::Session;
use super::streams::{Opening, write_opening};

/// Attempts, and the wait before each: soon, then when a NAT's state may have changed, then rarely.
const WAITS: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(3), Duration::from_secs(15), Duration::from_secs(60)];
/// One attempt at all addresses. Handshake packets are repeated by QUIC meanwhile, which is what punches.
const ATTEMPT: Duration = Duration::from_millis(2500);
/// Addresses tried of one peer.
const MAX_ADDRESSES: usize = 8;

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
        let ours: Vec<SocketAddr> = inner.reachable_at().into_iter().take(MAX_ADDRESSES).collect();
        if let Ok((mut send, _)) = session.connection.open_bi().await {
            let _ = write_opening(&mut send, &Opening::Punch(ours)).await;
            let _ = send.finish();
        }
        let theirs = inner.overlay.view(|core| core.node(&session.member.node_id).map(|node| node.addresses));
        punch(&inner, &session, theirs.unwrap_or_default()).await;
    }
}

/// The peer asks to be dialled at its addresses.
pub(crate) fn punched(inner: &Arc<Inner>, session: &Session, addrs: Vec<SocketAddr>) {
    if !inner.config.direct || inner.overlay.link_to(&session.member.node_id).is_some() {
        return;
    }
    let (task, session) = (inner.clone(), session.clone());
    inner.spawn(async move { punch(&task, &session, addrs).await });
}

async fn punch(inner: &Arc<Inner>, session: &Session, addrs: Vec<SocketAddr>) {
    let peer = session.member.node_id;
    let mut attempts = JoinSet::new();
    for addr in addrs.into_iter().take(MAX_ADDRESSES) {
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
