//! Remembers where other nodes were, so that a restarted node finds the mesh again when its configured peers are gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use crate::store::{Bucket, Store, StoreError};

/// The first write: by then a new node knows some others, and one that crashes young finds them again.
const FIRST: Duration = Duration::from_secs(5);
/// How often changes are written later; losing the last minute's costs nothing.
const WRITE: Duration = Duration::from_secs(60);
/// Nodes remembered: a few reachable ones are enough to find all others.
const MAX_NODES: usize = 64;

/// Addresses by NodeId.
type Addresses = BTreeMap<String, Vec<SocketAddr>>;

/// What the store holds.
#[derive(Debug)]
pub(crate) struct AddressBook {
    written: Addresses,
}

impl AddressBook {
    /// Reads what earlier lives wrote.
    pub(crate) async fn load(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { written: store.list(Bucket::Addresses).await?.into_iter().collect() })
    }

    /// Who was where.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &[SocketAddr])> {
        self.written.iter().map(|(node, addrs)| (node.as_str(), addrs.as_slice()))
    }

    /// Writes what changed, each entry durably. What an error keeps from being written is tried again next time.
    async fn update(&mut self, store: &Store, nodes: &Addresses) -> Result<(), StoreError> {
        for (node, addrs) in nodes {
            if self.written.get(node) != Some(addrs) {
                store.put(Bucket::Addresses, node, addrs).await?;
                self.written.insert(node.clone(), addrs.clone());
            }
        }
        // Nodes that have gone stay in the book while it has room: they may come back.
        let gone = self.written.keys().filter(|node| !nodes.contains_key(*node));
        let excess: Vec<_> = gone.take(self.written.len().saturating_sub(MAX_NODES)).cloned().collect();
        for node in excess {
            store.remove(Bucket::Addresses, &node).await?;
            self.written.remove(&node);
        }
        Ok(())
    }
}

/// Writes the addresses of reachable nodes now and then, and when the node stops.
pub(crate) async fn keep(inner: Arc<Inner>, mut book: AddressBook) {
    let mut stop = inner.stop.subscribe();
    let mut wait = FIRST;
    loop {
        let stopped = tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_ok();
        wait = WRITE;
        if let Err(error) = book.update(&inner.messages.store, &reachable(&inner)).await {
            tracing::warn!(%error, "the address book was not written");
        }
        if stopped {
            return;
        }
    }
}

fn reachable(inner: &Inner) -> Addresses {
    inner.overlay.view(|core| {
        core.nodes()
            .filter(|node| node.reachable && node.node != inner.member.node_id && !node.addresses.is_empty())
            .take(MAX_NODES)
            .map(|node| (node.node.to_string(), node.addresses))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// This many nodes, numbered from `first`, all on one port.
    fn nodes(first: usize, count: usize, port: u16) -> Addresses {
        let place = |n| (format!("{n:064x}"), vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
        (first..first + count).map(place).collect()
    }

    #[tokio::test]
    async fn what_was_written_survives_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let (path, image) = (dir.path().join("node.redb"), dir.path().join("image.redb"));
        let (store, _) = Store::open(&path).unwrap();
        let mut book = AddressBook::load(&store).await.unwrap();
        book.update(&store, &nodes(0, 3, 1)).await.unwrap();
        book.update(&store, &nodes(0, 2, 2)).await.unwrap();
        // The file as it stands, never closed: what a killed process leaves.
        std::fs::copy(&path, &image).unwrap();
        let (killed, _) = Store::open(&image).unwrap();
        let expected = nodes(0, 2, 2).into_iter().chain(nodes(2, 1, 1)).collect();
        assert_eq!(
            AddressBook::load(&killed).await.unwrap().written,
            expected,
            "moved nodes, and one that left"
        );
    }

    #[tokio::test]
    async fn it_stays_bounded_over_many_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("node.redb")).unwrap();
        for life in 0..5 {
            let mut book = AddressBook::load(&store).await.unwrap();
            book.update(&store, &nodes(life * MAX_NODES / 2, MAX_NODES / 2, 1)).await.unwrap();
            let kept = AddressBook::load(&store).await.unwrap().written;
            assert_eq!(kept.len(), ((life + 1) * MAX_NODES / 2).min(MAX_NODES));
            assert_eq!(kept, book.written);
            assert!(nodes(life * MAX_NODES / 2, MAX_NODES / 2, 1).keys().all(|node| kept.contains_key(node)));
        }
    }

    #[tokio::test]
    async fn an_entry_that_does_not_decode_is_damage_and_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.redb");
        let (store, _) = Store::open(&path).unwrap();
        store.put(Bucket::Addresses, "bob", &7_u8).await.unwrap();
        let error = AddressBook::load(&store).await.unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { path: named, .. } if *named == path), "{error:?}");
        assert!(error.to_string().contains("\"bob\" of addresses"), "{error}");
    }
}
