//! The proof that a certificate is in its issuer's log: this node gets that of its own, and asks each peer for theirs.
//!
//! A certificate works at once, by the issuer's promise; a peer that has shown no proof some seconds later is closed if the configuration
//! says `require_logged`, and else named in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::{
    Answer, Ask, Certificate, Entry, Hash, InclusionProof, Note, PROMISE_LIFE, Promise, WitnessPolicy,
    verify_certificate_promise, verify_certificate_proof,
};
use tokio::task::JoinSet;

use super::own::lock;
use super::{ask, follow, witness};
use crate::node::Inner;

/// Between looks at who has no proof yet.
const LOOK: Duration = Duration::from_millis(500);
/// Between tries with one peer, or for the own proof, while it is young; and later.
const TRY: Duration = Duration::from_secs(1);
const TRY_LATER: Duration = Duration::from_secs(10);
/// A peer has so long to show a proof: as long as its promise would count, and one more try.
const GRACE: Duration = PROMISE_LIFE.saturating_add(Duration::from_secs(2));
/// Peers asked at once.
const ASKED: usize = 8;
/// Certificates remembered. Those that ended go first; more peers than this hold no sessions and links.
const REMEMBERED: usize = 4096;
/// Close code: 0x100 and certificate_unknown (RFC 8446, 6.2).
const CLOSE_UNLOGGED: u32 = 0x12e;

/// What is known of this node's certificate and those of peers.
#[derive(Debug, Default)]
pub(crate) struct Attestations {
    own: Mutex<Option<Own>>,
    /// By the SHA-256 of the certificate.
    peers: Mutex<BTreeMap<Hash, Peer>>,
}

#[derive(Debug)]
struct Own {
    /// SHA-256 of the certificate.
    leaf: Hash,
    promise: Vec<u8>,
    proof: Option<InclusionProof>,
    since: Instant,
    tried: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    since: Instant,
    tried: Option<Instant>,
    proved: bool,
    told: bool,
    end: UnixMillis,
}

/// Whether it is time to try again.
fn due(since: Instant, tried: Option<Instant>, now: Instant) -> bool {
    let pause = if now.saturating_duration_since(since) < GRACE { TRY } else { TRY_LATER };
    tried.is_none_or(|tried| now.saturating_duration_since(tried) >= pause)
}

impl Attestations {
    /// What this node shows.
    pub(super) fn shown(&self) -> Option<Answer> {
        lock(&self.own)
            .as_ref()
            .map(|own| Answer::Attestation { promise: own.promise.clone(), proof: own.proof.clone() })
    }

    /// Peers that have shown a proof, and those that have had their time and have not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let peers = lock(&self.peers);
        let proved = peers.values().filter(|peer| peer.proved).count();
        let late = peers.values().filter(|peer| !peer.proved && peer.since.elapsed() > GRACE).count();
        (proved, late)
    }

    fn forget(&self, now: UnixMillis) {
        let mut peers = lock(&self.peers);
        peers.retain(|_, peer| peer.end > now);
        while peers.len() > REMEMBERED {
            peers.pop_first();
        }
    }
}

/// Runs as long as the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut asked: JoinSet<()> = JoinSet::new();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        while asked.try_join_next().is_some() {}
        own(&inner).await;
        inner.logs.attestations.forget(UnixMillis::now());
        for node in peers(&inner) {
            if asked.len() >= ASKED {
                break;
            }
            let Some(leaf) = inner.overlay.view(|core| core.node(&node)?.member) else { continue };
            if wants(&inner, node, &leaf) {
                let inner = inner.clone();
                asked.spawn(async move { peer(&inner, node, leaf).await });
            }
        }
    }
}

/// Nodes that this one has a session or a link with.
fn peers(inner: &Inner) -> BTreeSet<NodeId> {
    let sessions = inner.sessions.all().into_iter().map(|session| session.member.node_id);
    let links = inner.overlay.links().into_iter().map(|link| link.member.node_id);
    sessions.chain(links).collect()
}

/// Whether a peer has to be asked now; enforces what the configuration says of those that show nothing.
fn wants(inner: &Inner, node: NodeId, leaf: &[u8]) -> bool {
    let hash = Hash::of(leaf);
    let now = Instant::now();
    let mut peers = lock(&inner.logs.attestations.peers);
    let peer = peers.entry(hash).or_insert_with(|| {
        let end =
            inner.standing.anchors().inspect_leaf(leaf).map_or(UnixMillis(0), |member| member.not_after);
        Peer { since: now, tried: None, proved: false, told: false, end }
    });
    if peer.proved {
        return false;
    }
    if now.saturating_duration_since(peer.since) > GRACE {
        if !peer.told {
            peer.told = true;
            tracing::warn!(peer = %inner.name_of(&node), %node, "this peer has shown no proof that its certificate is in the log");
        }
        if inner.config.require_logged {
            close(inner, node);
        }
    }
    let wanted = due(peer.since, peer.tried, now);
    if wanted {
        peer.tried = Some(now);
    }
    wanted
}

fn close(inner: &Inner, node: NodeId) {
    const WHY: &str = "the certificate is not proved to be in the log";
    if let Some(session) = inner.sessions.existing(&node) {
        session.connection.close(CLOSE_UNLOGGED.into(), WHY.as_bytes());
    }
    for link in inner.overlay.links() {
        if link.member.node_id == node {
            inner.overlay.close_link(link.hop.id(), CLOSE_UNLOGGED, WHY);
        }
    }
}

/// The entry of a member's certificate, and who issued it.
fn entry(inner: &Inner, leaf: &[u8], now: UnixMillis) -> Option<(NodeId, Certificate, Hash)> {
    let anchors = inner.standing.anchors();
    let member = anchors.verify_leaf(leaf, now).ok()?;
    let certificate = Certificate::of(&member, leaf)?;
    let bytes = Entry::Certificate(certificate.clone()).encode().ok()?;
    Some((anchors.issuer_of(leaf)?, certificate, Hash::leaf(&bytes)))
}

/// Gets the proof for this node's certificate, first as it is and then with its witnesses.
async fn own(inner: &Arc<Inner>) {
    let membership = inner.standing.membership();
    let hash = Hash::of(membership.leaf_der());
    {
        let mut own = lock(&inner.logs.attestations.own);
        let fresh = || Own {
            leaf: hash,
            promise: membership.promise().to_vec(),
            proof: None,
            since: Instant::now(),
            tried: None,
        };
        if own.as_ref().is_none_or(|own| own.leaf != hash) {
            *own = Some(fresh());
        }
        let own = own.get_or_insert_with(fresh);
        let note = own.proof.as_ref().and_then(|proof| Note::parse(proof.checkpoint.as_bytes()).ok());
        let witnessed = note.is_some_and(|note| witness::cosigners(&note) >= witness::wanted(inner));
        if witnessed || !due(own.since, own.tried, Instant::now()) {
            return;
        }
        own.tried = Some(Instant::now());
    }
    let now = UnixMillis::now();
    let Some((issuer, certificate, leaf)) = entry(inner, membership.leaf_der(), now) else { return };
    let (proof, public) = if issuer == inner.member.node_id {
        let Some(own) = inner.logs.own().cloned() else { return };
        let public = own.public().clone();
        let proof = tokio::task::spawn_blocking(move || own.proof(&leaf)).await;
        (proof.ok().flatten(), public)
    } else {
        let Some(other) = inner.log_of(issuer, issuer).await else { return };
        let question = Ask::Proof { issuer, leaf };
        let proof = match ask::ask(&inner.sessions, issuer, &question).await {
            Some(Answer::Proof(proof)) => Some(proof),
            _ => None,
        };
        (proof, other.statement.public().clone())
    };
    let Some(proof) = proof else { return };
    match verify_certificate_proof(&public, &certificate, &proof, &WitnessPolicy::default(), now) {
        Ok(_) => {
            let mut own = lock(&inner.logs.attestations.own);
            if let Some(own) = own.as_mut().filter(|own| own.leaf == hash) {
                own.proof = Some(proof);
            }
        }
        Err(error) => {
            tracing::error!(%issuer, %error, "the issuer's proof for this node's certificate is wrong")
        }
    }
}

/// Asks a peer for its proof and verifies it.
async fn peer(inner: &Arc<Inner>, node: NodeId, leaf: Vec<u8>) {
    match proved(inner, node, &leaf).await {
        Some(Proved::Logged) => {
            if let Some(peer) = lock(&inner.logs.attestations.peers).get_mut(&Hash::of(&leaf)) {
                peer.proved = true;
            }
        }
        Some(Proved::Promised) | None => {}
    }
}

enum Proved {
    Logged,
    Promised,
}

async fn proved(inner: &Arc<Inner>, node: NodeId, leaf: &[u8]) -> Option<Proved> {
    let now = UnixMillis::now();
    let (issuer, certificate, hash) = entry(inner, leaf, now)?;
    if issuer == inner.member.node_id {
        return inner.logs.find_own(&hash).map(|_| Proved::Logged);
    }
    // The peer itself knows the log that it is in, should the issuer be away.
    let known = if inner.logs.others.get(&issuer).is_some() { issuer } else { node };
    let other = inner.log_of(issuer, known).await?;
    let Answer::Attestation { promise, proof } = ask::ask(&inner.sessions, node, &Ask::Attestation).await?
    else {
        return None;
    };
    let public = other.statement.public();
    if let Some(proof) = proof {
        let verified = verify_certificate_proof(public, &certificate, &proof, &WitnessPolicy::default(), now);
        if let Err(error) = verified {
            tracing::debug!(%node, %error, "a peer's proof was refused");
            return None;
        }
        // The checkpoint that it leads to must be one of the log that this node follows, not of another past.
        let note = Note::parse(proof.checkpoint.as_bytes()).ok()?;
        follow::take(inner, &other, node, note).await;
        let look = other.clone();
        let forked = tokio::task::spawn_blocking(move || look.mirror(|mirror| mirror.fork().is_some()));
        return (!forked.await.ok()?).then_some(Proved::Logged);
    }
    let promise = Promise::decode(&promise).ok()?;
    verify_certificate_promise(public, &certificate, &promise, now).ok().map(|()| Proved::Promised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_peer_is_asked_every_second_and_an_old_one_less() {
        let start = Instant::now();
        assert!(due(start, None, start));
        assert!(!due(start, Some(start), start + TRY / 2));
        assert!(due(start, Some(start), start + TRY));
        let later = start + GRACE;
        assert!(!due(start, Some(later), later + TRY));
        assert!(due(start, Some(later), later + TRY_LATER));
    }
}
