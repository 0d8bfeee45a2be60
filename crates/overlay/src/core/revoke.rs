//! A node that the mesh revoked: nothing of it stays, and nothing of it comes back.

use std::time::Duration;

use meshara_identity::NodeId;

use super::Core;
use crate::types::{CloseReason, LinkId};

impl Core {
    /// The mesh revoked a node: its links close, its records and routes go. From now on the authenticator must say so of it, and answer its member
    /// record with [`MemberError::Revoked`](crate::MemberError::Revoked), so that no neighbour that doesn't know yet brings it back.
    pub fn revoke(&mut self, now: Duration, node: &NodeId) {
        self.begin(now);
        if *node != self.identity.node {
            let links: Vec<LinkId> =
                self.links.iter().filter(|(_, link)| link.peer.node == *node).map(|(id, _)| *id).collect();
            for link in links {
                self.close(now, link, CloseReason::Revoked);
            }
            self.flooding.forget(node);
            self.forget_heads(node);
            self.database.forget(node);
            self.graph.remove(node, now);
            self.damping.remove(node);
            self.dialling.forget(node);
            self.routing.touch();
        }
        self.finish(now);
    }
}
