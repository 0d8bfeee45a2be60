//! From a session's datagrams to the device.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use meshara_identity::MeshAddress;
use meshara_interface::{Arrival, Burst, Flow, Problem, icmp};

use super::counts::add;
use super::depart::Peer;
use super::{Inner, Interface, may_enter};
use crate::node::sessions::Session;

/// Datagrams before other tasks get their turn: a megabyte in the largest ones, which takes a millisecond. The more at once, the fewer
/// acknowledgements go back for them.
const TURN: usize = 64;

/// Delivers a session's datagrams until it ends. Without an interface the peer is told to send none.
pub(crate) async fn receive(inner: Arc<Inner>, session: Session) {
    let Some(interface) = inner.interface.clone() else { return };
    let connection = &session.connection;
    while let Ok(first) = connection.read_datagram().await {
        let mut burst: Option<Burst> = None;
        let mut next = Some(first);
        for _ in 0..TURN {
            let Some(datagram) = next.take() else { break };
            if let Some(arrival) = accept(&inner, &interface, &session, datagram) {
                burst = Some(join(&interface, burst, arrival));
            }
            // Those that came with it.
            next = connection.read_datagram().now_or_never().and_then(Result::ok);
        }
        // The last one read of a whole turn belongs to no burst yet.
        if let Some(arrival) = next.and_then(|datagram| accept(&inner, &interface, &session, datagram)) {
            burst = Some(join(&interface, burst, arrival));
        }
        if let Some(burst) = burst {
            deliver(&interface, burst);
        }
        tokio::task::yield_now().await;
    }
}

/// Joins an arrival to the burst before it, or delivers that and begins another.
fn join(interface: &Interface, burst: Option<Burst>, arrival: Arrival) -> Burst {
    let Some(mut open) = burst else { return Burst::new(arrival) };
    match open.append(arrival) {
        Ok(()) => open,
        Err(arrival) => {
            deliver(interface, open);
            Burst::new(arrival)
        }
    }
}

/// What may come in: from the session's peer itself, for this node, and allowed by policy.
fn accept(inner: &Inner, interface: &Interface, session: &Session, datagram: Bytes) -> Option<Arrival> {
    let counts = &interface.counts;
    let member = &session.member;
    let Ok(arrival) = Arrival::decode(datagram) else {
        add(&counts.malformed, 1);
        return None;
    };
    let flow = *arrival.flow();
    if !is_between(&flow, member.address, interface.me) {
        add(&counts.spoofed, 1);
        return None;
    }
    // Without its first part, which has the ports, the rest of a packet is never made whole.
    if !arrival.is_rest() {
        let known = interface.peers().get(&member.address).cloned();
        let peer = known.unwrap_or_else(|| interface.keep(inner, member.address, Peer::new(member.node_id)));
        let (policy, connection) = (inner.gate.generation(), arrival.connection());
        let allowed = peer.flows().comes(interface.now(), policy, &connection, |flow, question| {
            may_enter(inner, member, flow, question)
        });
        if !allowed {
            add(&counts.denied, 1);
            refuse(interface, session, &arrival);
            return None;
        }
    }
    add(&counts.received, 1);
    Some(arrival)
}

/// Whether a packet comes from the peer itself and is meant for this node: nobody speaks for others, and nothing is passed on.
fn is_between(flow: &Flow, peer: MeshAddress, me: MeshAddress) -> bool {
    flow.source == peer && flow.destination == me
}

/// Tells the peer's program that policy denies its connection, so that it need not wait.
fn refuse(interface: &Interface, session: &Session, arrival: &Arrival) {
    let error = icmp::error(arrival.packet(), Problem::Prohibited).filter(|_| interface.may_complain());
    if let Some(error) = error {
        let datagram = meshara_interface::carry::whole(&error);
        // An error that finds no room is not missed.
        let _ = session.connection.send_datagram(datagram);
    }
}

fn deliver(interface: &Interface, mut burst: Burst) {
    let counts = &interface.counts;
    let len = burst.packet_len() as u64;
    let pieces: Vec<IoSlice<'_>> = burst.slices().collect();
    match interface.device.get_ref().send(&pieces) {
        Ok(()) => add(&counts.received_bytes, len),
        Err(error) => {
            tracing::trace!(%error, "the TUN device takes no packet");
            add(&counts.refused, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_peer_itself_may_send_and_only_to_us() {
        let [peer, me, other] = [1, 2, 3].map(|last| MeshAddress([last; 16]));
        let flow = |source, destination| Flow {
            source,
            destination,
            protocol: 6,
            source_port: 1,
            destination_port: 22,
        };
        assert!(is_between(&flow(peer, me), peer, me));
        for (source, destination) in [(other, me), (peer, other), (me, me), (me, peer)] {
            assert!(!is_between(&flow(source, destination), peer, me));
        }
    }
}
