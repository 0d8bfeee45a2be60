//! Remembers where other nodes were, so that a restarted node finds the mesh again when its configured peers are gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::store::Bucket;

/// The first write: by then a new node knows some others, and one that crashes young finds them again.
const FIRST: Duration = Duration::from_secs(5);
/// How often changes are written later; losing the last minute's costs nothing.
const WRITE: Duration = Duration::from_secs(60);
/// Nodes remembered: a few reachable ones are enough to find all others.
const MAX_NODES: usize = 64;

/// Writes the addresses of reachable nodes now and then, and when the node stops.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut written = BTreeMap::<String, Vec<SocketAddr>>::new();
    let mut stop = inner.stop.subscribe();
    let mut wait = FIRST;
    loop {
        let stopped = tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_ok();
        wait = WRITE;
        write(&inner, &mut written).await;
        if stopped {
            return;
        }
    }
}

async fn write(inner: &Inner, written: &mut BTreeMap<String, Vec<SocketAddr>>) {
    let nodes: BTreeMap<String, Vec<SocketAddr>> = inner.overlay.view(|core| {
        core.nodes()
            .filter(|node| node.reachable && node.node != inner.member.node_id && !node.addresses.is_empty())
            .take(MAX_NODES)
            .map(|node| (node.node.to_string(), node.addresses))
            .collect()
    });
    for (node, addrs) in &nodes {
        if written.get(node) != Some(addrs) {
            let put = inner.messages.store.put(Bucket::Addresses, node, addrs).await;
            if let Err(error) = put {
                tracing::warn!(%error, "the address book was not written");
                break;
            }
            written.insert(node.clone(), addrs.clone());
        }
    }
    // Nodes that have gone stay in the book while it has room: they may come back.
    if written.len() > MAX_NODES {
        let gone: Vec<String> = written.keys().filter(|node| !nodes.contains_key(*node)).cloned().collect();
        for node in gone {
            let _ = inner.messages.store.remove(Bucket::Addresses, &node).await;
            written.remove(&node);
        }
    }
}
