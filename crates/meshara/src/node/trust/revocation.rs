//! What a revocation does to a running node, and how one is made.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use meshara_identity::{NodeId, TrustAnchors, UnixMillis};
use meshara_trust::audit::Event;
use meshara_trust::revocation::{Reason, Reinstatement, Revocation, Revocations};
use meshara_trust::sets::SetKind;

use super::log::routing;
use super::sets::{self, PublishError};
use crate::node::{Inner, ResolveError};

/// Revocations of one snapshot that become lines of the audit trail: more are a mesh's whole history, which the set itself keeps.
const AUDITED: usize = 256;
/// Close code of a session whose peer was revoked: as the TLS alert `certificate_revoked`, with which its handshakes fail.
const CLOSE_REVOKED: u32 = 0x100 + 44;

/// Goes by the newest snapshot: from now on the revoked are refused in every handshake, then what they have open ends.
pub(super) fn enforce(inner: &Inner) {
    let _alone = inner.sets.enforcing.lock().unwrap_or_else(PoisonError::into_inner);
    let (number, list) = inner.sets.view(|gossip| {
        let held = gossip.revocations().unconfirmed();
        (gossip.have().revocations.number, held.map(Revocations::revoked).unwrap_or_default())
    });
    let reinstated =
        inner.sets.view(|gossip| gossip.revocations().unconfirmed().map(Revocations::reinstated));
    // Those that this node went by until now.
    let back: Vec<Reinstatement> =
        reinstated.into_iter().flatten().filter(|back| inner.sets.revoked.contains(&back.node)).collect();
    let nodes: HashSet<NodeId> = list.iter().map(|revocation| revocation.node).collect();
    let new: BTreeSet<NodeId> = inner.sets.revoked.replace(nodes).into_iter().collect();
    tracing::info!(number, revoked = list.len(), new = new.len(), "a revocation snapshot was taken");
    inner.workload.reconsider(inner);
    let known: BTreeSet<NodeId> = known(inner);
    for node in new.intersection(&known) {
        inner.sessions.end(node, CLOSE_REVOKED, b"certificate revoked");
        inner.overlay.input(|core, now| core.revoke(now, node));
    }
    // Also of issuers of which nothing else is held.
    inner.overlay.input(|core, _| core.review_heads());
    for Revocation { node, reason, .. } in
        list.into_iter().filter(|revocation| new.contains(&revocation.node)).take(AUDITED)
    {
        if node == inner.member.node_id {
            tracing::error!(%reason, number, "the mesh revoked this node: no member talks with it any more");
        } else {
            tracing::warn!(%node, %reason, number, "a node was revoked");
        }
        inner.audit.record(Event::Revocation { number, node, revoked: true, reason });
    }
    for Reinstatement { node, reason, .. } in back.into_iter().take(AUDITED) {
        tracing::warn!(%node, %reason, number, "a node is reinstated");
        inner.audit.record(Event::Revocation { number, node, revoked: false, reason });
    }
}

/// The nodes of which anything is held.
fn known(inner: &Inner) -> BTreeSet<NodeId> {
    let mut known: BTreeSet<NodeId> = inner.overlay.view(|core| core.nodes().map(|node| node.node).collect());
    known.extend(inner.overlay.links().iter().map(|link| link.member.node_id));
    known.extend(inner.sessions.peers());
    known
}

/// Why nobody was revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RevokeError {
    /// Nobody has the name, or several have.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The signer itself.
    #[error("this node signs for the mesh: it cannot revoke itself")]
    Ourselves,
    /// Nobody would issue any more.
    #[error(
        "this node is the mesh's only issuer: without it nobody gets or renews a certificate, and the {members} known members with one of its are cut off"
    )]
    LastIssuer {
        /// Members whose certificates it made, of those known.
        members: usize,
    },
    /// It could not be signed or published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// What follows from an issuer's revocation.
pub(crate) struct Follows {
    /// Members that must renew with another, of those known.
    pub(crate) members: usize,
    /// Issuers that are left.
    pub(crate) left: usize,
}

/// A node that was revoked.
pub(crate) struct Done {
    /// Of the snapshot.
    pub(crate) number: u64,
    pub(crate) node: NodeId,
    pub(crate) issuer: Option<Follows>,
}

/// Revokes a node. Returns when the snapshot is on the disk, enforced here, and on its way. The last issuer only goes with `force`.
pub(crate) async fn revoke(
    inner: &Arc<Inner>,
    text: &str,
    reason: Reason,
    force: bool,
) -> Result<Done, RevokeError> {
    let node = named(inner, text)?;
    if node == inner.member.node_id {
        return Err(RevokeError::Ourselves);
    }
    let issuer = follows(inner, &node);
    if let Some(Follows { members, left: 0 }) = issuer
        && !force
    {
        return Err(RevokeError::LastIssuer { members });
    }
    let number = sets::publish(inner, SetKind::Revocations, |gossip| {
        let mut revocations = gossip.revocations().unconfirmed().cloned().unwrap_or_default();
        revocations.revoke(node, UnixMillis::now(), reason)?;
        Ok(revocations.encode()?)
    })
    .await?;
    Ok(Done { number, node, issuer })
}

/// What follows if this node is revoked and issues now.
fn follows(inner: &Inner, node: &NodeId) -> Option<Follows> {
    let issuers = inner.standing.issuers(UnixMillis::now());
    if !issuers.contains(node) {
        return None;
    }
    let (anchors, me) = (inner.standing.anchors(), inner.standing.member());
    let records: Vec<Vec<u8>> = inner.overlay.view(|core| {
        let others = core.nodes().filter(|other| other.node != me.node_id && other.node != *node);
        others.filter_map(|other| other.member).collect()
    });
    let members = certified_by(&anchors, &records, node, UnixMillis::now());
    Some(Follows { members: members + usize::from(me.issuer == *node), left: issuers.len() - 1 })
}

/// How many of these member records, which the overlay has verified, are of certificates of this issuer: they show one, or prove that its log has it.
fn certified_by(anchors: &TrustAnchors, records: &[Vec<u8>], issuer: &NodeId, now: UnixMillis) -> usize {
    let issuer_of = |body: &Vec<u8>| Some(routing::recorded(anchors, body, now)?.member.issuer);
    records.iter().filter(|body| issuer_of(body).as_ref() == Some(issuer)).count()
}

/// Takes a revocation back; the number of the snapshot, and whose. Returns as [`revoke`] does. The node comes back by itself.
pub(crate) async fn reinstate(
    inner: &Arc<Inner>,
    text: &str,
    reason: Reason,
) -> Result<(u64, NodeId), RevokeError> {
    let revoked = inner.sets.view(|gossip| gossip.revocations().unconfirmed().map(Revocations::revoked));
    let mut fitting = revoked.unwrap_or_default();
    fitting
        .retain(|entry| !text.is_empty() && entry.node.to_string().starts_with(&text.to_ascii_lowercase()));
    let node = match fitting.as_slice() {
        [one] => one.node,
        _ => named(inner, text)?,
    };
    let number = sets::publish(inner, SetKind::Revocations, |gossip| {
        let mut revocations = gossip.revocations().unconfirmed().cloned().unwrap_or_default();
        // Later than the revocation, whatever this clock was set to meanwhile.
        let (now, held) = (UnixMillis::now(), revocations.get(&node));
        let at = held.map_or(now, |held| now.max(held.since.plus(Duration::from_millis(1))));
        revocations.reinstate(node, at, reason)?;
        Ok(revocations.encode()?)
    })
    .await?;
    Ok((number, node))
}

/// The node that a text names: one that is known now, one that this node's issuer admitted, or any by its whole id.
pub(crate) fn named(inner: &Inner, text: &str) -> Result<NodeId, ResolveError> {
    let unknown = match inner.resolve(text) {
        Ok((node, _)) => return Ok(node),
        Err(error @ ResolveError::Unknown(_)) => error,
        Err(error) => return Err(error),
    };
    let members = inner.standing.issuer().and_then(|issuer| issuer.members().ok());
    let member = members.into_iter().flatten().find(|(name, _)| name.as_str() == text);
    member.map(|(_, node)| node).or_else(|| text.parse().ok()).ok_or(unknown)
}

#[cfg(test)]
mod tests {
    use meshara_identity::create_mesh;
    use meshara_trust::log::{Certificate, ProvedKey};

    use super::*;

    #[test]
    fn members_of_an_issuer_are_counted_by_certificates_and_by_proofs() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
        let made = create_mesh(dir.path(), &mesh, &name, None, UnixMillis::now()).unwrap();
        let (own, anchors) = (made.membership.member(), made.membership.anchors());
        let leaf = made.membership.leaf_der().to_vec();
        let certificate = Certificate::of(own, &leaf).unwrap();
        let proof = ProvedKey { issuer: own.node_id, size: 1, index: 0, path: Vec::new(), certificate };
        let records = [leaf, proof.encode().unwrap(), b"rubbish".to_vec()];
        let count = |issuer, now| certified_by(anchors, &records, &issuer, now);
        assert_eq!(count(own.node_id, UnixMillis::now()), 2);
        assert_eq!(count(NodeId([1; 32]), UnixMillis::now()), 0);
        assert_eq!(count(own.node_id, own.not_after.plus(Duration::from_secs(1))), 0, "ended");
    }
}
