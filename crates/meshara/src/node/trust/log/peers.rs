//! Whether the certificates that peers show are in their issuers' logs: each that a live connection began with, or went on with, and the
//! one of the peer's routing record.
//!
//! A certificate works at once, by the issuer's promise; a peer that has shown no proof some seconds later is closed if the configuration
//! says `require_logged`, and else named in the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshara_identity::{NodeId, UnixMillis};
use meshara_transport::tls::peer_leaf;
use meshara_trust::log::{
    Answer, Ask, Certificate, Hash, InclusionProof, LogPublic, Note, PROMISE_LIFE, Promise, WitnessPolicy,
    verify_certificate_promise, verify_certificate_proof,
};
use tokio::task::JoinSet;

use super::attest::entry;
use super::own::lock;
use super::{ask, follow};
use crate::node::Inner;

/// Between questions about one certificate, while it is young, or where proof is required; and later.
const TRY: Duration = Duration::from_secs(1);
const TRY_LATER: Duration = Duration::from_secs(10);
/// A peer has so long to show a proof: as long as its promise would count, and one more try.
pub(super) const GRACE: Duration = PROMISE_LIFE.saturating_add(Duration::from_secs(2));
/// The last question, to a peer whose time is over: a round trip of the slowest link, twice.
const LAST_ASK: Duration = Duration::from_secs(2);
/// Certificates asked about at once.
const ASKED: usize = 8;
/// Certificates remembered. Those that ended go first; more peers than this hold no sessions and links.
const REMEMBERED: usize = 4096;
/// Close code: 0x100 and certificate_unknown (RFC 8446, 6.2).
const CLOSE_UNLOGGED: u32 = 0x12e;
const WHY: &str = "the certificate is not proved to be in the log";

/// What is known of the certificates of peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// By the SHA-256 of the certificate.
    known: Mutex<BTreeMap<Hash, Peer>>,
    /// What each peer showed last on a connection that it had begun with another certificate.
    shown: Mutex<BTreeMap<NodeId, Vec<u8>>>,
}

#[derive(Debug)]
struct Peer {
    since: Instant,
    tried: Option<Instant>,
    asking: bool,
    proved: bool,
    told: bool,
    end: UnixMillis,
}

/// Whether it is time to try again.
pub(super) fn due(since: Instant, tried: Option<Instant>, now: Instant, strict: bool) -> bool {
    let young = now.saturating_duration_since(since) < GRACE;
    let pause = if young || strict { TRY } else { TRY_LATER };
    tried.is_none_or(|tried| now.saturating_duration_since(tried) >= pause)
}

impl Peers {
    /// How many certificates are proved, and how many have had their time and are not.
    pub(super) fn counts(&self) -> (usize, usize) {
        let known = lock(&self.known);
        let proved = known.values().filter(|peer| peer.proved).count();
        let late = known.values().filter(|peer| !peer.proved && peer.since.elapsed() > GRACE).count();
        (proved, late)
    }

    /// A peer went on with another certificate on a live connection.
    pub(super) fn showed(&self, node: NodeId, leaf: Vec<u8>) {
        let mut shown = lock(&self.shown);
        shown.insert(node, leaf);
        while shown.len() > REMEMBERED {
            shown.pop_first();
        }
    }

    fn forget(&self, now: UnixMillis) {
        let mut known = lock(&self.known);
        known.retain(|_, peer| peer.end > now);
        while known.len() > REMEMBERED {
            known.pop_first();
        }
    }
}

/// Asks for proof of what has none, a few at a time.
pub(super) fn look(inner: &Arc<Inner>, asked: &mut JoinSet<()>) {
    inner.logs.attestations.peers.forget(UnixMillis::now());
    for (hash, (node, leaf)) in leaves(inner) {
        if asked.len() >= ASKED {
            break;
        }
        if wants(inner, hash, &leaf) {
            let inner = inner.clone();
            asked.spawn(async move { check(&inner, hash, node, leaf).await });
        }
    }
}

/// Every certificate that a peer goes by now, with whose it is.
fn leaves(inner: &Inner) -> BTreeMap<Hash, (NodeId, Vec<u8>)> {
    let sessions = inner.sessions.every().into_iter();
    let sessions = sessions.map(|session| (session.member.node_id, peer_leaf(&session.connection)));
    let links = inner.overlay.links().into_iter();
    let links = links.map(|link| (link.member.node_id, peer_leaf(link.hop.connection())));
    let connections: Vec<(NodeId, Option<Vec<u8>>)> = sessions.chain(links).collect();
    let peers: std::collections::BTreeSet<NodeId> = connections.iter().map(|(node, _)| *node).collect();
    let mut shown = lock(&inner.logs.attestations.peers.shown);
    shown.retain(|node, _| peers.contains(node));
    let shown: Vec<_> = shown.iter().map(|(node, leaf)| (*node, Some(leaf.clone()))).collect();
    // A record that is a proof needs no other.
    let certificate = |view: meshara_overlay::NodeView| view.member.filter(|_| !view.proved);
    let recorded = peers
        .into_iter()
        .map(|node| (node, inner.overlay.view(|core| core.node(&node)).and_then(certificate)));
    let all = connections.into_iter().chain(shown).chain(recorded);
    all.filter_map(|(node, leaf)| leaf.map(|leaf| (Hash::of(&leaf), (node, leaf)))).collect()
}

/// Whether to ask about a certificate now.
fn wants(inner: &Inner, hash: Hash, leaf: &[u8]) -> bool {
    let now = Instant::now();
    let mut known = lock(&inner.logs.attestations.peers.known);
    let peer = known.entry(hash).or_insert_with(|| {
        let end =
            inner.standing.anchors().inspect_leaf(leaf).map_or(UnixMillis(0), |member| member.not_after);
        Peer { since: now, tried: None, asking: false, proved: false, told: false, end }
    });
    let wanted =
        !peer.proved && !peer.asking && due(peer.since, peer.tried, now, inner.config.require_logged);
    if wanted {
        (peer.tried, peer.asking) = (Some(now), true);
    }
    wanted
}

/// Asks for the proof of a certificate and verifies it; enforces what the configuration says of those that have none in time.
async fn check(inner: &Arc<Inner>, hash: Hash, node: NodeId, leaf: Vec<u8>) {
    let known = &inner.logs.attestations.peers.known;
    let late = lock(known).get(&hash).is_some_and(|peer| peer.since.elapsed() > GRACE);
    let proved = if late {
        tokio::time::timeout(LAST_ASK, proved(inner, node, &leaf)).await.unwrap_or(false)
    } else {
        proved(inner, node, &leaf).await
    };
    let told = {
        let mut known = lock(known);
        let Some(peer) = known.get_mut(&hash) else { return };
        (peer.asking, peer.proved) = (false, proved);
        let told = peer.told;
        peer.told |= late && !proved;
        told
    };
    if proved || !late {
        return;
    }
    if !told {
        tracing::warn!(peer = %inner.name_of(&node), %node, "this peer has shown no proof that its certificate is in the log");
    }
    if inner.config.require_logged && leaves(inner).get(&hash).is_some_and(|(of, _)| *of == node) {
        close(inner, node);
    }
}

/// Ends all that is open with a node.
fn close(inner: &Inner, node: NodeId) {
    inner.sessions.end(&node, CLOSE_UNLOGGED, WHY.as_bytes());
    for link in inner.overlay.links() {
        if link.member.node_id == node {
            inner.overlay.close_link(link.hop.id(), CLOSE_UNLOGGED, WHY);
        }
    }
}

/// Whether a peer's certificate is in the log of its issuer that this node follows.
async fn proved(inner: &Arc<Inner>, node: NodeId, leaf: &[u8]) -> bool {
    find_proof(inner, node, leaf).await.is_some()
}

async fn find_proof(inner: &Arc<Inner>, node: NodeId, leaf: &[u8]) -> Option<()> {
    let now = UnixMillis::now();
    let (issuer, certificate, hash) = entry(inner, leaf, now)?;
    if issuer == inner.member.node_id {
        return inner.logs.find_own(&hash).map(drop);
    }
    // The peer itself knows the log that it is in, should the issuer be away.
    let known = if inner.logs.others.get(&issuer).is_some() { issuer } else { node };
    let other = inner.log_of(issuer, known).await?;
    let public = other.statement.public();
    let answer = ask::ask(&inner.sessions, node, &Ask::Attestation).await;
    let Some(Answer::Attestation { promise, proof }) = answer else { return None };
    let (from, proof) = match proof.filter(|proof| fits(public, &certificate, proof, now)) {
        Some(proof) => (node, proof),
        None => {
            let promise = Promise::decode(&promise).ok();
            let promised = promise.is_some_and(|promise| {
                verify_certificate_promise(public, &certificate, &promise, now).is_ok()
            });
            if promised {
                return None;
            }
            // The peer has renewed, and shows what belongs to its present certificate: the issuer has the proof of this one, too.
            let question = Ask::Proof { issuer, leaf: hash };
            match ask::ask(&inner.sessions, issuer, &question).await {
                Some(Answer::Proof(proof)) if fits(public, &certificate, &proof, now) => (issuer, proof),
                _ => return None,
            }
        }
    };
    // The checkpoint that it leads to must be one of the log that this node follows, not of another past.
    let note = Note::parse(proof.checkpoint.as_bytes()).ok()?;
    follow::take(inner, &other, from, note).await;
    other.shown().fork.is_none().then_some(())
}

fn fits(public: &LogPublic, certificate: &Certificate, proof: &InclusionProof, now: UnixMillis) -> bool {
    verify_certificate_proof(public, certificate, proof, &WitnessPolicy::default(), now).is_ok()
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
