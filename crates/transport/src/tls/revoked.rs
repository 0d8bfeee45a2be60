//! Nodes that the mesh revoked, and with them what they issued: refused in every handshake, and by every later look at a connection.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use meshara_identity::{Member, NodeId};
use tokio::sync::watch;

/// The revoked nodes. Looked up without a lock.
#[derive(Debug, Default)]
pub struct Revoked {
    nodes: ArcSwap<HashSet<NodeId>>,
    changes: watch::Sender<()>,
}

impl Revoked {
    /// Whether a node is revoked.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.nodes.load().contains(node)
    }

    /// Whether a certificate counts for nothing: its node is revoked, or its issuer is, who may be anybody that has the stolen CA key.
    pub fn refuses(&self, member: &Member) -> bool {
        let nodes = self.nodes.load();
        nodes.contains(&member.node_id) || nodes.contains(&member.issuer)
    }

    /// Goes by these from now on; gives those that were not revoked before.
    pub fn replace(&self, nodes: HashSet<NodeId>) -> Vec<NodeId> {
        let nodes = Arc::new(nodes);
        let before = self.nodes.swap(nodes.clone());
        self.changes.send_replace(());
        nodes.difference(&before).copied().collect()
    }

    /// Told whenever other nodes are revoked than before.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_once() {
        let (revoked, nodes) = (Revoked::default(), [1, 2].map(|n| NodeId([n; 32])));
        let mut changes = revoked.changes();
        assert!(!changes.has_changed().unwrap());
        assert_eq!(revoked.replace(HashSet::from([nodes[0]])), [nodes[0]]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(revoked.replace(HashSet::from(nodes)), [nodes[1]]);
        assert!(changes.has_changed().unwrap());
        assert!(nodes.iter().all(|node| revoked.contains(node)));
        assert!(revoked.replace(HashSet::from([nodes[1]])).is_empty());
        assert!(!revoked.contains(&nodes[0]), "reinstated");
    }
}
