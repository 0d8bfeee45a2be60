//! The proof that this node's certificate is in its issuer's log, which it shows to whoever asks; and the task that asks peers for theirs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::{
    Answer, Ask, Certificate, Entry, Hash, InclusionProof, Note, WitnessPolicy, verify_certificate_proof,
};
use tokio::task::JoinSet;

use super::own::lock;
use super::peers::{self, Peers};
use super::{ask, witness};
use crate::node::Inner;

/// Between looks at who has no proof yet.
const LOOK: Duration = Duration::from_millis(500);
/// Between tries for the own proof of a certificate that was issued just now. A head has its witnesses some 0.3 s after the entry, and
/// at most 0.6 s: so the proof is held well within a second, for a few questions more.
const TRY_SOON: Duration = Duration::from_millis(150);
/// How long that is worth it.
const SOON: Duration = Duration::from_secs(2);

/// What is known of this node's certificate and those of peers.
#[derive(Debug, Default)]
pub(crate) struct Attestations {
    own: Mutex<Option<Own>>,
    pub(super) peers: Peers,
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

impl Attestations {
    /// What this node shows.
    pub(super) fn shown(&self) -> Option<Answer> {
        lock(&self.own)
            .as_ref()
            .map(|own| Answer::Attestation { promise: own.promise.clone(), proof: own.proof.clone() })
    }

    /// How many members cosigned the head that the proof of this node's certificate leads to, as its lines say; `None` without a proof.
    pub(crate) fn witnesses(&self, leaf: &[u8]) -> Option<u64> {
        let leaf = Hash::of(leaf);
        let own = lock(&self.own);
        let proof = own.as_ref().filter(|own| own.leaf == leaf)?.proof.as_ref()?;
        Some(witness::cosigners(&Note::parse(proof.checkpoint.as_bytes()).ok()?) as u64)
    }

    /// Certificates of peers that are proved, and those that have had their time and are not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.peers.counts()
    }

    /// A peer went on with another certificate on a live connection.
    pub(crate) fn showed(&self, node: NodeId, leaf: Vec<u8>) {
        self.peers.showed(node, leaf);
    }
}

/// Runs as long as the node.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut asked: JoinSet<()> = JoinSet::new();
    let mut looked: Option<Instant> = None;
    loop {
        while asked.try_join_next().is_some() {}
        let pause = if own(&inner).await { TRY_SOON } else { LOOK };
        tokio::time::sleep(pause).await;
        if looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            continue;
        }
        looked = Some(Instant::now());
        peers::look(&inner, &mut asked);
    }
}

/// The entry of a member's certificate, and who issued it.
pub(super) fn entry(inner: &Inner, leaf: &[u8], now: UnixMillis) -> Option<(NodeId, Certificate, Hash)> {
    let anchors = inner.standing.anchors();
    let member = anchors.verify_leaf(leaf, now).ok()?;
    let certificate = Certificate::of(&member, leaf)?;
    let bytes = Entry::Certificate(certificate.clone()).encode().ok()?;
    Some((anchors.issuer_of(leaf)?, certificate, Hash::leaf(&bytes)))
}

/// Gets the proof for this node's certificate, first as it is and then with its witnesses. Whether it is worth another try soon.
async fn own(inner: &Arc<Inner>) -> bool {
    let (asks, young) = own_due(inner);
    if asks {
        own_proof(inner).await;
    }
    young
}

/// Whether to ask for this node's proof now, and whether its certificate is so young that it can be there any moment.
fn own_due(inner: &Inner) -> (bool, bool) {
    let membership = inner.standing.membership();
    let hash = Hash::of(membership.leaf_der());
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
    if note.is_some_and(|note| witness::cosigners(&note) >= witness::wanted(inner)) {
        return (false, false);
    }
    let now = Instant::now();
    let young = now.saturating_duration_since(own.since) < SOON;
    let asks = young || peers::due(own.since, own.tried, now, false);
    if asks {
        own.tried = Some(now);
    }
    (asks, young)
}

/// Asks the issuer for this node's proof as it is now, and keeps what it verified.
async fn own_proof(inner: &Arc<Inner>) {
    let membership = inner.standing.membership();
    let hash = Hash::of(membership.leaf_der());
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
