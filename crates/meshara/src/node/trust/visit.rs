//! Signed sets over the channel that newcomers use, for a member whose certificate is refused: it asks why, and learns of the revocation that it
//! missed. It proves that it is or was a member; what it hears proves itself. See `docs/trust.md`, "Who missed a revocation".

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meshara_identity::leaf_proof::{self, BINDING_LEN, LEAF_PROOF_MAX, LeafProofError, ProveError};
use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::gossip::{Gossip, MESSAGE_MAX, Misbehaviour, Visit};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::Notify;

use super::sets::Exchange;
use crate::frames::{FrameReadError, read_frame, write_frame};
use crate::join::Meeting;
use crate::node::admission::CLOSE_BUSY;
use crate::node::{Inner, rejoin};

/// First byte of a visitor, where a newcomer's is the version of joining: another exchange, and its version 1.
pub(crate) const VISIT: u8 = 0x11;
/// TLS exporter label (RFC 8446, 7.5). A connection carries one visit, so nothing else tells apart what is signed.
const LABEL: &[u8] = b"EXPORTER-meshara-visit-v1";
/// Messages taken from a visitor: what it holds, what it asks for, and the words and evidence that it tells any neighbour (32 and 16).
const MESSAGES: usize = 64;
/// One member is answered this often: a set may have 8 MiB.
const AGAIN: Duration = Duration::from_secs(1);
/// Visitors remembered for so long; those above are sent away. More members than that aren't revoked in a second.
const VISITORS: usize = 4096;
/// Close code of a visit by one who proves no membership. Beside those of joins.
const CLOSE_STRANGER: u32 = 0x203;
/// Shortest time between two rounds of asking. It doubles with each that brings nothing, up to [`MAX_WAIT`].
const WAIT: Duration = Duration::from_secs(1);
/// A node that knows that it is revoked and is refused all day asks this rarely whether it still is.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Close codes of links that say that this node's certificate counts no more: the overlay's, and TLS alert `certificate_revoked` (RFC 8446, 6.2).
const REVOKED: [u64; 2] = [7, 0x12c];

/// Why a visit brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VisitError {
    #[error("the connection gives no binding")]
    NoBinding,
    #[error("this node's certificate can't be proved: {0}")]
    Proof(#[from] ProveError),
    #[error("the runtime is stopping")]
    Interrupted,
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Read(#[from] FrameReadError),
    #[error(transparent)]
    Misbehaviour(#[from] Misbehaviour),
    #[error("the member knows nothing that this node doesn't")]
    NothingNew,
}

/// Members that asked lately.
#[derive(Default)]
pub(crate) struct Visitors(Mutex<HashMap<NodeId, Instant>>);

impl Visitors {
    fn admit(&self, node: NodeId, now: Instant) -> bool {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lately.retain(|_, at| now.duration_since(*at) < AGAIN);
        let admitted = lately.len() < VISITORS && !lately.contains_key(&node);
        if admitted {
            lately.insert(node, now);
        }
        admitted
    }
}

/// Answers a visitor.
pub(crate) async fn serve(
    inner: &Inner,
    connection: &Connection,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Option<()> {
    write_frame(&mut send, &inner.standing.mesh_info().encode().ok()?).await.ok()?;
    let proof = read_frame(&mut receive, LEAF_PROOF_MAX).await.ok()?;
    let visitor = match check(inner, connection, &proof) {
        Ok(visitor) => visitor,
        Err(error) => {
            tracing::debug!(from = %connection.remote_address(), %error, "a visitor proves no membership");
            connection.close(CLOSE_STRANGER.into(), b"the signed sets are for members");
            return None;
        }
    };
    if !inner.admission.visitors.admit(visitor, Instant::now()) {
        connection.close(CLOSE_BUSY.into(), b"asked a moment ago, try again in a second");
        return None;
    }
    tracing::debug!(%visitor, "a member whose certificate is refused asks why");
    for message in inner.sets.view(Gossip::greet).ok()? {
        write_frame(&mut send, &message).await.ok()?;
    }
    let mut visit = Visit::default();
    for _ in 0..MESSAGES {
        let message = read_frame(&mut receive, MESSAGE_MAX).await.ok()?;
        for answer in inner.sets.answer(&mut visit, &message).ok()? {
            write_frame(&mut send, &answer).await.ok()?;
        }
    }
    None
}

/// Who visits. Whether it or its issuer is revoked doesn't matter: it is to hear so.
fn check(inner: &Inner, connection: &Connection, proof: &[u8]) -> Result<NodeId, LeafProofError> {
    let binding = binding(connection).ok_or(LeafProofError::BadSignature)?;
    let member = leaf_proof::check(proof, &inner.standing.anchors(), &binding, UnixMillis::now())?;
    Ok(member.node_id)
}

/// Asks a member that was met and checked for what this node lacks.
pub(crate) async fn pay(inner: &Arc<Inner>, meeting: Meeting) -> Result<(), VisitError> {
    let Meeting { connection, mut send, mut receive, .. } = meeting;
    let before = inner.sets.view(Gossip::have);
    let binding = binding(&connection).ok_or(VisitError::NoBinding)?;
    let membership = inner.standing.membership();
    let proved = tokio::task::spawn_blocking(move || leaf_proof::prove(&membership, &binding)).await;
    write_frame(&mut send, &proved.map_err(|_| VisitError::Interrupted)??).await?;
    let (peer, mut messages) = inner.sets.begin(inner);
    let _ends = Exchange { inner, peer };
    let write = async {
        while let Some(message) = messages.recv().await {
            if let Err(error) = write_frame(&mut send, &message).await {
                return VisitError::from(error);
            }
        }
        VisitError::Interrupted
    };
    let read = async {
        loop {
            // What this node asks for, it asks for while it handles a message: by now its answer may come.
            let limit = inner.sets.view(|gossip| gossip.limit(peer));
            let message = read_frame(&mut receive, limit).await?;
            inner.sets.input(inner, |gossip, now| gossip.handle_message(now, peer, &message))?;
            if inner.sets.view(|gossip| gossip.has_all_of(peer)) {
                return Ok::<(), VisitError>(());
            }
        }
    };
    tokio::select! {
        read = read => read?,
        broken = write => return Err(broken),
    }
    connection.close(0_u32.into(), b"thanks");
    if inner.sets.view(Gossip::have) == before { Err(VisitError::NothingNew) } else { Ok(()) }
}

/// What only the two ends of this connection can know.
fn binding(connection: &Connection) -> Option<[u8; BINDING_LEN]> {
    let mut binding = [0; BINDING_LEN];
    connection.export_keying_material(&mut binding, LABEL, &[]).ok()?;
    Some(binding)
}

/// Told whenever somebody says that this node's certificate, or its issuer's, is revoked.
#[derive(Default)]
pub(crate) struct Doubts {
    /// Those whom this node dialled, or had a link with.
    chosen: Doubt,
    /// Whoever dialled this node. TLS refuses a server before it hears who refuses: any host can say so, and must not make those above wait.
    strangers: Doubt,
}

#[derive(Default)]
struct Doubt {
    noted: Notify,
    by: Mutex<Option<SocketAddr>>,
}

impl Doubt {
    fn note(&self, by: SocketAddr) {
        *self.by.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
        self.noted.notify_one();
    }
}

impl Doubts {
    /// A node that this one dialled refuses its certificate.
    pub(crate) fn note(&self, by: SocketAddr) {
        self.chosen.note(by);
    }

    /// A host that dialled this node refuses its certificate.
    pub(crate) fn note_stranger(&self, by: SocketAddr) {
        self.strangers.note(by);
    }

    /// A link was closed.
    pub(crate) fn closed(&self, by: SocketAddr, end: &ConnectionError) {
        if let ConnectionError::ApplicationClosed(close) = end
            && REVOKED.contains(&close.error_code.into_inner())
        {
            self.note(by);
        }
    }
}

/// Asks why, whenever this node's certificate is refused as revoked: first who refused it, then others. For ever.
pub(crate) async fn run(inner: Arc<Inner>) {
    tokio::join!(ask_why(&inner, &inner.doubts.chosen), ask_why(&inner, &inner.doubts.strangers));
}

async fn ask_why(inner: &Arc<Inner>, doubt: &Doubt) {
    let mut wait = WAIT;
    let mut last = Instant::now();
    loop {
        doubt.noted.notified().await;
        if last.elapsed() > MAX_WAIT {
            wait = WAIT;
        }
        let by = doubt.by.lock().unwrap_or_else(PoisonError::into_inner).take();
        match rejoin::visit(inner, by).await {
            Ok(()) => {
                tracing::info!("what members know of revocations was heard from them");
                wait = WAIT;
            }
            Err(error) => {
                tracing::debug!(%error, "this node's certificate was refused, and no member tells why");
                wait = (wait * 2).min(MAX_WAIT);
            }
        }
        last = Instant::now();
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_answered_once_a_second_and_the_table_is_bounded() {
        let (visitors, start) = (Visitors::default(), Instant::now());
        let node = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            NodeId(id)
        };
        assert!(visitors.admit(node(0), start));
        assert!(!visitors.admit(node(0), start + AGAIN / 2));
        assert!((1..VISITORS).all(|n| visitors.admit(node(n), start + AGAIN / 2)));
        assert!(!visitors.admit(node(VISITORS), start + AGAIN / 2), "full");
        assert!(visitors.admit(node(0), start + AGAIN));
    }
}
