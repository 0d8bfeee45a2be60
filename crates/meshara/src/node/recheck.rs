//! Keeps live connections honest: when the certificate that a peer began with nears its end, it is asked for its present one, which its key
//! signs for this very connection. A peer that can't show one is cut off at the end. See `docs/trust.md`, "Certificates".

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meshara_identity::leaf_proof::{self, BINDING_LEN, LEAF_PROOF_MAX, LeafProofError};
use meshara_identity::{Member, UnixMillis};
use quinn::{Connection, RecvStream, SendStream, Side};
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::Inner;
use super::renewal::CLOSE_ENDED;
use super::standing::LOOK;
use super::streams::{Opening, write_opening};
use crate::frames::{FrameReadError, read_frame, write_frame};

/// Version of question and answer.
const VERSION: u8 = 1;
const NONCE_LEN: usize = 32;
/// TLS exporter label (RFC 8446, 7.5). Its context is the side of who answers (0: who dialled) and the nonce.
const LABEL: &[u8] = b"EXPORTER-meshara-leaf-v1";
/// A peer answers within a few round trips and a signature.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between questions to a peer that has not renewed yet.
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// A peer whose certificate's issuer was revoked has so long to show one of another: it asks each issuer for 2 s at most, and there are few. What
/// it has open lives on meanwhile; nothing new is let in.
const DISOWNED_GRACE: Duration = Duration::from_secs(10);
/// Close code when it shows none: as the TLS alert `certificate_revoked`, with which its handshakes fail.
const CLOSE_REVOKED: u32 = 0x12c;

/// Why a peer's present certificate is not known.
#[derive(Debug, thiserror::Error)]
enum RecheckError {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Read(#[from] FrameReadError),
    #[error("the connection gives no binding")]
    NoBinding,
    #[error("the system gives no random numbers")]
    Random,
    #[error(transparent)]
    Proof(#[from] LeafProofError),
    #[error("the certificate is another node's")]
    OtherNode,
    #[error("the peer has not renewed yet")]
    NotRenewed,
    #[error("the certificate, or its issuer's, is revoked")]
    Revoked,
}

/// Answers a peer that asks for this node's present certificate. A signature takes half a millisecond: not on the network's thread.
pub(super) async fn show(
    inner: &Arc<Inner>,
    connection: &Connection,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Option<()> {
    let mut question = [0; 1 + NONCE_LEN];
    receive.read_exact(&mut question).await.ok()?;
    let [VERSION, nonce @ ..] = question else {
        let _ = send.reset(super::pipe::RESET);
        return None;
    };
    let binding = binding(connection, connection.side(), &nonce)?;
    let membership = inner.standing.membership();
    let proved = tokio::task::spawn_blocking(move || leaf_proof::prove(&membership, &binding)).await;
    write_frame(&mut send, &proved.ok()?.ok()?).await.ok()?;
    send.finish().ok()
}

/// Follows the certificate of a connection's peer: returns when the connection has ended, which it sees to when no valid one is shown.
pub(super) async fn follow(inner: &Arc<Inner>, connection: &Connection, member: &Member) {
    let mut member = member.clone();
    let mut revocations = inner.standing.revoked().changes();
    loop {
        if inner.standing.revoked().contains(&member.issuer) {
            let present =
                tokio::time::timeout(DISOWNED_GRACE, other_issuer(inner, connection, &member)).await;
            let Ok(present) = present else {
                tracing::info!(peer = %member.name, issuer = %member.issuer, "the issuer of the peer's certificate was revoked, and it shows no other");
                inner.standing.counts.cut.fetch_add(1, Relaxed);
                connection.close(CLOSE_REVOKED.into(), b"certificate revoked");
                return;
            };
            let Some(present) = present else { return };
            inner.standing.counts.rechecked.fetch_add(1, Relaxed);
            member = present;
        }
        let now = UnixMillis::now();
        if now > member.not_after {
            tracing::info!(peer = %member.name, ended = %member.not_after, "the peer's certificate has ended, and it shows no other");
            inner.standing.counts.cut.fetch_add(1, Relaxed);
            connection.close(CLOSE_ENDED.into(), b"certificate expired");
            return;
        }
        // A peer renews around half of its life; the serial number spreads the questions.
        let life = member.life();
        let spread = u32::from(member.serial.last().copied().unwrap_or_default());
        let due = member.not_after.minus(life / 4 + life / 8 * spread / 255);
        if now < due {
            let wait = tokio::time::sleep(due.distance(now).min(LOOK));
            tokio::select! {
                () = wait => continue,
                _ = revocations.changed() => continue,
                _ = connection.closed() => return,
            }
        }
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, ask(inner, connection, &member)).await;
        match asked.unwrap_or(Err(RecheckError::TimedOut)) {
            Ok(present) => {
                inner.standing.counts.rechecked.fetch_add(1, Relaxed);
                member = present;
            }
            Err(error) => {
                if connection.close_reason().is_some() {
                    return;
                }
                tracing::debug!(peer = %member.name, %error, "a peer's present certificate is not known");
                let end = member.not_after.plus(Duration::from_millis(1)).distance(UnixMillis::now());
                tokio::time::sleep((life / 32).max(MIN_PAUSE).min(end).min(LOOK)).await;
            }
        }
    }
}

/// A certificate of the peer whose issuer isn't revoked, asked for until there is one; `None` when the connection has ended.
async fn other_issuer(inner: &Inner, connection: &Connection, known: &Member) -> Option<Member> {
    loop {
        match tokio::time::timeout(ANSWER_TIMEOUT, ask(inner, connection, known)).await {
            Ok(Ok(present)) => return Some(present),
            _ if connection.close_reason().is_some() => return None,
            _ => tokio::time::sleep(MIN_PAUSE).await,
        }
    }
}

/// What the peer's certificate is now: one that lasts longer than the one known, or that another issuer gave it after that one's was revoked.
async fn ask(inner: &Inner, connection: &Connection, known: &Member) -> Result<Member, RecheckError> {
    let mut nonce = [0; NONCE_LEN];
    OsRng.try_fill_bytes(&mut nonce).map_err(|_| RecheckError::Random)?;
    let (mut send, mut receive) = connection.open_bi().await?;
    write_opening(&mut send, &Opening::Leaf).await?;
    send.write_all(&[VERSION]).await?;
    send.write_all(&nonce).await?;
    let _ = send.finish();
    let proof = read_frame(&mut receive, LEAF_PROOF_MAX).await?;
    let theirs = if connection.side() == Side::Client { Side::Server } else { Side::Client };
    let binding = binding(connection, theirs, &nonce).ok_or(RecheckError::NoBinding)?;
    let present = leaf_proof::check(&proof, &inner.standing.anchors(), &binding, UnixMillis::now())?;
    if present.node_id != known.node_id {
        return Err(RecheckError::OtherNode);
    }
    if let Some(leaf) = leaf_proof::leaf(&proof) {
        inner.logs.attestations.showed(present.node_id, leaf);
    }
    let revoked = inner.standing.revoked();
    if revoked.refuses(&present) {
        return Err(RecheckError::Revoked);
    }
    let newer = present.not_after > known.not_after || revoked.contains(&known.issuer);
    if newer { Ok(present) } else { Err(RecheckError::NotRenewed) }
}

/// What only the two ends of this connection can know: of this answerer, to this nonce.
fn binding(connection: &Connection, answerer: Side, nonce: &[u8; NONCE_LEN]) -> Option<[u8; BINDING_LEN]> {
    let mut binding = [0; BINDING_LEN];
    let side = u8::from(answerer != Side::Client);
    let context = [&[side], nonce.as_slice()].concat();
    connection.export_keying_material(&mut binding, LABEL, &context).ok()?;
    Some(binding)
}
