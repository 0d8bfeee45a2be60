//! Routing keys by inclusion: heads that an issuer names and members verify, and what a member record shows, be it a certificate or a proof.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::{Member, NodeId, NodeName, TrustAnchors, UnixMillis};
use meshara_overlay::{HeadError, HeadId, JudgedHead, Known};
use meshara_trust::log::{
    Certificate, Checkpoint, Hash, LogStatement, ProvedKey, RoutingHead, RoutingHeadError, TreeHead,
    VerifiedHead, Witness, proved,
};

use super::{Logs, OwnLog, follow, witness};
use crate::node::Inner;

/// Heads named in one life of a certificate: with sixteen kept, those of a whole life are there; and a renewed certificate, which is told at half
/// life, waits a sixth of what is left at most.
const HEADS_IN_A_LIFE: u32 = 12;
/// Certificates that live shorter are always told themselves: a head, its witnesses, and a path would not be there in a twelfth of the life.
const LIFE_MIN: Duration = Duration::from_secs(60);
/// An issuer that can be reached and gave no path for a head so often is named in the log: half a minute in a small mesh, where it has forgotten nothing.
const REFUSED: u32 = 6;

/// How often an issuer whose certificates live so long names a head; `None` where it names none.
pub(crate) fn cadence(life: Duration) -> Option<Duration> {
    (life >= LIFE_MIN).then(|| life / HEADS_IN_A_LIFE)
}

/// What a member record shows.
pub(crate) struct Recorded {
    /// The node, as its certificate says.
    pub(crate) member: Member,
    /// The log's entry of the certificate.
    pub(crate) certificate: Certificate,
}

/// Who a member record is of, if it counts at `now`. That a proof leads to a head the overlay verified before it took the record.
pub(crate) fn recorded(anchors: &TrustAnchors, body: &[u8], now: UnixMillis) -> Option<Recorded> {
    if body.first() != Some(&proved::VERSION) {
        let member = anchors.verify_leaf(body, now).ok()?;
        let certificate = Certificate::of(&member, body)?;
        return Some(Recorded { member, certificate });
    }
    let ProvedKey { issuer, certificate, .. } = ProvedKey::decode(body).ok()?;
    let valid = (certificate.not_before..=certificate.not_after).contains(&now);
    (valid && anchors.issuers(now).contains(&issuer))
        .then(|| Recorded { member: certificate.member(anchors, issuer), certificate })
}

impl Logs {
    /// Whether nothing that this log says counts.
    pub(in crate::node) fn is_distrusted(&self, issuer: &NodeId) -> bool {
        self.others.is_distrusted(issuer)
    }
}

/// Whether these bytes are the issuer's word on its log's keys, the same that this node goes by if it knows one.
pub(in crate::node) fn verify_statement(
    logs: &Logs,
    anchors: &TrustAnchors,
    issuer: NodeId,
    body: &[u8],
) -> Result<(), HeadError> {
    let statement = LogStatement::decode(body).map_err(|_| HeadError::Malformed)?;
    let (of, public) = statement.verify(anchors).map_err(|_| HeadError::Untrusted)?;
    let other = logs.others.get(&issuer);
    let own = logs.own().filter(|_| issuer == logs.me);
    let known = other.as_ref().map(|other| other.statement.public()).or_else(|| own.map(|own| own.public()));
    let same = of == issuer && known.is_none_or(|known| known == public);
    if same && !logs.is_distrusted(&issuer) { Ok(()) } else { Err(HeadError::Untrusted) }
}

/// Whether a head is its log's, named by it, and witnessed as far as this node can tell.
pub(in crate::node) fn verify_head(
    logs: &Logs,
    id: &HeadId,
    body: &[u8],
    known: &Known<'_>,
) -> Result<JudgedHead, HeadError> {
    let statement = known.head(&HeadId::statement(id.issuer)).ok_or(HeadError::LacksKeys)?;
    let statement = LogStatement::decode(statement).map_err(|_| HeadError::LacksKeys)?;
    let log = statement.public();
    let head = RoutingHead::decode(body).map_err(|_| HeadError::Malformed)?;
    let prefix = format!("{}.mesh/witness/", logs.mesh);
    // The log's issuer is no witness, nor is anybody of another mesh.
    let issuer = known.members().find(|(node, ..)| *node == id.issuer).map(|(_, name, _)| name);
    let named = head.witness_names(log).filter_map(|name| name.as_str().strip_prefix(&prefix));
    let named: Vec<&str> = named.filter(|name| Some(*name) != issuer).collect();
    if named.is_empty() {
        return Err(HeadError::Unwitnessed);
    }
    let witnesses = known.members().filter(|(node, name, _)| *node != id.issuer && named.contains(name));
    let witnesses = witnesses.filter_map(|(node, name, key)| {
        Witness::new(&logs.mesh, node, &name.parse::<NodeName>().ok()?, key).ok()
    });
    match head.verify(log, id.size, witnesses.collect(), UnixMillis::now()) {
        Ok(VerifiedHead { tree, witnesses: 0 }) => {
            Ok(JudgedHead { root: tree.root.0, unknown: named.into_iter().map(str::to_owned).collect() })
        }
        Ok(VerifiedHead { tree, .. }) => Ok(JudgedHead { root: tree.root.0, unknown: Vec::new() }),
        Err(RoutingHeadError::Witness(_) | RoutingHeadError::Policy(_)) => Err(HeadError::Unwitnessed),
        Err(_) => Err(HeadError::Untrusted),
    }
}

/// Names the newest checkpoint of this node's log a head, if it has its witnesses, entries came since the last, and it is time.
pub(super) async fn name(inner: &Inner, own: &Arc<OwnLog>, named: &mut Option<Instant>) {
    let Some(cadence) = cadence(inner.standing.member().life()) else { return };
    if named.is_some_and(|at| at.elapsed() < cadence) {
        return;
    }
    let work = own.clone();
    let Ok(Some(head)) = tokio::task::spawn_blocking(move || work.routing_head()).await else { return };
    let wanted = witness::wanted(inner);
    if wanted == 0 || witness::cosigners(&head.note) < wanted {
        return;
    }
    let me = inner.member.node_id;
    let Ok(Checkpoint { head: TreeHead { size, .. }, .. }) = Checkpoint::parse(head.note.text()) else {
        return;
    };
    let newest = sizes(inner, me).last().copied().unwrap_or_default();
    let (Ok(statement), Ok(body)) = (own.statement().encode(), head.encode()) else { return };
    if size <= newest {
        return;
    }
    let named_now = inner.overlay.input(|core, now| {
        core.set_head(now, HeadId::statement(me), &statement)?;
        core.set_head(now, HeadId { issuer: me, size }, &body)
    });
    match named_now {
        Ok(()) => *named = Some(Instant::now()),
        Err(error) => tracing::debug!(%error, "no head was named yet"),
    }
}

/// A number from 0 to 1 that is another for each node and head: what all hear at once they don't all answer at once.
pub(super) fn share(of: &[u8; 32], size: u64) -> f64 {
    let Hash([high, low, ..]) = Hash::of(&[&of[..], &size.to_be_bytes()].concat());
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}

/// Sizes of the heads of an issuer that are held, rising.
pub(super) fn sizes(inner: &Inner, issuer: NodeId) -> Vec<u64> {
    let of = |id: &HeadId| id.issuer == issuer && id.size > 0;
    inner.overlay.view(|core| core.heads().filter(of).map(|id| id.size).collect())
}

/// Compares each head that the overlay holds with the log as this node follows it, so that a fork is found: again and again until its issuer has
/// given the path. Runs as long as the node.
pub(crate) async fn run_compare(inner: Arc<Inner>) {
    // How often each was asked for in vain; `None` once it was compared. As many as the overlay holds.
    let mut heads: BTreeMap<HeadId, Option<u32>> = BTreeMap::new();
    let mut round = 0_u64;
    loop {
        // Not all nodes at once: the issuer is asked.
        round = round.wrapping_add(1);
        let spread = 0.5 + share(&inner.member.node_id.0, round);
        tokio::time::sleep(follow::period(inner.reachable().len()).mul_f64(spread)).await;
        let me = inner.member.node_id;
        let held: Vec<HeadId> = inner.overlay.view(|core| core.heads().collect());
        heads.retain(|id, _| held.contains(id));
        let reachable = inner.reachable();
        for id in held.into_iter().filter(|id| id.size > 0 && id.issuer != me) {
            let Some(tries) = heads.entry(id).or_insert(Some(0)) else { continue };
            if !reachable.contains(&id.issuer) {
                continue;
            }
            *tries = tries.saturating_add(1);
            if *tries == REFUSED {
                tracing::warn!(issuer = %id.issuer, size = id.size, "this issuer named a head, and doesn't show that it belongs to its log");
            }
            if compare(&inner, id).await == Some(true) {
                heads.insert(id, None);
            }
        }
    }
}

async fn compare(inner: &Arc<Inner>, id: HeadId) -> Option<bool> {
    let (statement, body) =
        inner.overlay.view(|core| Some((core.head(&HeadId::statement(id.issuer))?, core.head(&id)?)))?;
    let statement = LogStatement::decode(&statement).ok()?;
    let head = RoutingHead::decode(&body).ok()?;
    let (work, anchors) = (inner.clone(), inner.standing.anchors());
    let learn = move || work.logs.others.learn(&statement, &anchors);
    let other = tokio::task::spawn_blocking(learn).await.ok()?.ok()?;
    Some(follow::take(inner, &other, id.issuer, head.note).await)
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
