//! Questions about logs, and where an answer may come from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::NodeId;
use meshara_trust::log::exchange::ANSWER_MAX;
use meshara_trust::log::{Answer, Ask, Hash, Head};

use super::others::Other;
use crate::frames::{read_frame, write_frame};
use crate::node::Inner;
use crate::node::sessions::Sessions;
use crate::node::streams::Opening;

/// An answer takes a session's handshake, a bundle read from disk, and 0.5 MB on the way.
const ASK: Duration = Duration::from_secs(8);

/// Asks a node; `None` when no answer came, or none that reads.
pub(super) async fn ask(sessions: &Sessions, node: NodeId, ask: &Ask) -> Option<Answer> {
    let question = ask.encode().ok()?;
    let exchange = async {
        let (mut send, mut receive) = sessions.open_stream(node, &Opening::Log).await.ok()?;
        write_frame(&mut send, &question).await.ok()?;
        send.finish().ok()?;
        Answer::decode(&read_frame(&mut receive, ANSWER_MAX).await.ok()?).ok()
    };
    match tokio::time::timeout(ASK, exchange).await.ok()? {
        Some(Answer::Unknown) => None,
        answer => answer,
    }
}

/// Which logs a node knows.
pub(super) async fn heads(sessions: &Sessions, node: NodeId) -> Option<Vec<Head>> {
    match ask(sessions, node, &Ask::Heads).await? {
        Answer::Heads(heads) => Some(heads),
        _ => None,
    }
}

/// A consistency path, as `node` knows it, or gets it from the issuer.
pub(super) async fn path(
    sessions: &Sessions,
    node: NodeId,
    issuer: NodeId,
    (first, second): (u64, u64),
    relay: bool,
) -> Option<Vec<Hash>> {
    if first == 0 || first == second {
        return Some(Vec::new());
    }
    match ask(sessions, node, &Ask::Path { issuer, first, second, relay }).await? {
        Answer::Path(path) => Some(path),
        _ => None,
    }
}

impl Inner {
    /// Nodes that a route leads to now, in order, this one excluded.
    pub(in crate::node) fn reachable(&self) -> Vec<NodeId> {
        let nodes: BTreeSet<NodeId> =
            self.overlay.view(|core| core.routes().map(|route| route.node).collect());
        nodes.into_iter().filter(|node| *node != self.member.node_id).collect()
    }

    /// The log of an issuer, from what `node` says of its keys unless it is known.
    pub(super) async fn log_of(self: &Arc<Self>, issuer: NodeId, node: NodeId) -> Option<Arc<Other>> {
        if let Some(other) = self.logs.others.get(&issuer) {
            return Some(other);
        }
        let heads = heads(&self.sessions, node).await?;
        let anchors = self.standing.anchors();
        let inner = self.clone();
        let learnt = tokio::task::spawn_blocking(move || {
            for head in heads {
                if head.statement.verify(&anchors).is_ok_and(|(of, _)| of == issuer) {
                    return inner.logs.others.learn(&head.statement, &anchors).map(Some);
                }
            }
            Ok(None)
        });
        match learnt.await.ok()? {
            Ok(other) => other,
            Err(error) => {
                tracing::warn!(%issuer, %error, "this issuer's log can't be followed");
                None
            }
        }
    }
}
