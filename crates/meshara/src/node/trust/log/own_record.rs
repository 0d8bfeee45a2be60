//! What this node tells of itself: a proof of its certificate as soon as there is a head that has it, else the certificate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshara_identity::{Membership, NodeId, UnixMillis};
use meshara_trust::log::{Answer, Ask, Certificate, Hash, ProvedKey, proved};

use super::routing::{self, Recorded, cadence};
use super::{ask, attest};
use crate::node::Inner;

/// Between looks.
const LOOK: Duration = Duration::from_millis(500);
/// A proof under one of so many newest heads stays; under an older one it is made anew, before the head leaves its place (of sixteen).
const RECENT: usize = 12;
/// What comes to two cadences: until the next head there is one at most, and it may lack a witness for so long.
const SLACK: Duration = Duration::from_secs(5);

/// What was tried for the certificate in use.
struct Trial {
    leaf: Hash,
    since: Instant,
    /// The head that the path is asked for next or was asked for last, and when.
    head: Option<(u64, Instant, bool)>,
}

/// Runs as long as the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut trial: Option<Trial> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if inner.standing.is_silent() {
            continue;
        }
        let membership = inner.standing.membership();
        let leaf = Hash::of(membership.leaf_der());
        let fresh = || Trial { leaf, since: Instant::now(), head: None };
        if trial.as_ref().is_none_or(|trial| trial.leaf != leaf) {
            trial = Some(fresh());
        }
        look(&inner, &membership, trial.get_or_insert_with(fresh)).await;
    }
}

/// Whether a renewed certificate may wait to be told until it can be proved: its issuer names heads, the one before says the same of the node, and
/// counts for long enough.
pub(crate) fn may_wait(inner: &Inner, held: &Membership, renewed: &Membership) -> bool {
    let (before, now) = (held.member(), UnixMillis::now());
    let after = renewed.member();
    let same = before.enrolled.roles == after.enrolled.roles
        && before.name == after.name
        && before.routing_key == after.routing_key;
    let counts = !inner.standing.revoked().refuses(before) && before.not_after > now.plus(after.life() / 4);
    same && counts && names_heads(inner, after.issuer) && cadence(after.life()).is_some()
}

fn names_heads(inner: &Inner, issuer: NodeId) -> bool {
    !inner.logs.is_distrusted(&issuer) && !routing::sizes(inner, issuer).is_empty()
}

async fn look(inner: &Arc<Inner>, membership: &Membership, trial: &mut Trial) {
    let (now, member) = (UnixMillis::now(), membership.member());
    let body = inner.overlay.view(|core| core.node(&inner.member.node_id)?.member).unwrap_or_default();
    let is_proof = body.first() == Some(&proved::VERSION);
    let told = routing::recorded(&inner.standing.anchors(), &body, now);
    let current = told.as_ref().is_some_and(|told| told.certificate.leaf == trial.leaf);
    let usable = names_heads(inner, member.issuer);
    if usable {
        let sizes = routing::sizes(inner, member.issuer);
        let recent = sizes.iter().rev().take(RECENT);
        if current && is_proof && recent.clone().any(|size| under(&body) == Some((member.issuer, *size))) {
            return;
        }
        if let Some(newest) = sizes.last()
            && due(trial, *newest, cadence(member.life()).unwrap_or(LOOK))
            && let Some(proof) = prove(inner, membership, *newest, now).await
            && inner.overlay.input(|core, now| core.set_member(now, proof)).is_ok()
        {
            return;
        }
    }
    let certificate = current && !is_proof;
    let waiting = usable && waits(inner, told.as_ref(), member.life(), trial, now);
    if !certificate && !waiting {
        let leaf = membership.leaf_der().to_vec();
        if let Err(error) = inner.overlay.input(|core, now| core.set_member(now, leaf)) {
            tracing::warn!(%error, "the overlay doesn't accept this node's certificate");
        }
    }
}

/// Under which head a proof is.
fn under(body: &[u8]) -> Option<(NodeId, u64)> {
    ProvedKey::decode(body).ok().map(|proof| (proof.issuer, proof.size))
}

/// Whether the path to this head is to be asked for now. Nodes wait for different times, as a head comes to all at once; who got no path asks
/// again when half of the time to the next head is over, or for that one.
fn due(trial: &mut Trial, newest: u64, cadence: Duration) -> bool {
    let now = Instant::now();
    match &mut trial.head {
        Some((size, at, asked)) if *size == newest => {
            if now < *at {
                return false;
            }
            (*at, *asked) = (now + cadence / 2, true);
            true
        }
        next => {
            let wait = (cadence / 10).mul_f64(routing::share(&trial.leaf.0, newest));
            *next = Some((newest, now + wait, false));
            false
        }
    }
}

/// Whether what was told before counts long enough for the next head to come.
fn waits(inner: &Inner, told: Option<&Recorded>, life: Duration, trial: &Trial, now: UnixMillis) -> bool {
    let patient = cadence(life).is_some_and(|cadence| trial.since.elapsed() < cadence * 2 + SLACK);
    patient
        && told.is_some_and(|told| {
            !inner.standing.revoked().refuses(&told.member)
                && !inner.logs.is_distrusted(&told.member.issuer)
                && told.member.not_after > now.plus(life / 6)
        })
}

/// This node's certificate, proved under a head of its issuer's log.
async fn prove(inner: &Arc<Inner>, membership: &Membership, size: u64, now: UnixMillis) -> Option<Vec<u8>> {
    let (issuer, certificate, leaf): (NodeId, Certificate, Hash) =
        attest::entry(inner, membership.leaf_der(), now)?;
    let (index, path) = if issuer == inner.member.node_id {
        let own = inner.logs.own()?.clone();
        tokio::task::spawn_blocking(move || own.inclusion(&leaf, size)).await.ok()??
    } else {
        match ask::ask(&inner.sessions, issuer, &Ask::Inclusion { issuer, leaf, size }).await? {
            Answer::Inclusion { index, path } => (index, path),
            _ => return None,
        }
    };
    ProvedKey { issuer, size, index, path, certificate }.encode().ok()
}
