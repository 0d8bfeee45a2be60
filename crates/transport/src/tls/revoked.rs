//! Nodes that the mesh revoked: refused in every handshake, and by every later look at a connection.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use meshara_identity::NodeId;

/// The revoked nodes. Looked up without a lock.
#[derive(Debug, Default)]
pub struct Revoked(ArcSwap<HashSet<NodeId>>);

impl Revoked {
    /// Whether a node is revoked.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.0.load().contains(node)
    }

    /// Goes by these from now on; gives those that were not revoked before.
    pub fn replace(&self, nodes: HashSet<NodeId>) -> Vec<NodeId> {
        let nodes = Arc::new(nodes);
        let before = self.0.swap(nodes.clone());
        nodes.difference(&before).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_once() {
        let (revoked, nodes) = (Revoked::default(), [1, 2].map(|n| NodeId([n; 32])));
        assert_eq!(revoked.replace(HashSet::from([nodes[0]])), [nodes[0]]);
        assert_eq!(revoked.replace(HashSet::from(nodes)), [nodes[1]]);
        assert!(nodes.iter().all(|node| revoked.contains(node)));
        assert!(revoked.replace(HashSet::from([nodes[1]])).is_empty());
        assert!(!revoked.contains(&nodes[0]), "reinstated");
    }
}
