//! Spreads the grants of issuers from neighbour to neighbour: on every new link, and whenever there is a new one, each side asks the other for
//! what it lacks. They are signed by the root, so it does not matter who tells them.

use std::sync::Arc;

use meshara_identity::UnixMillis;
use meshara_identity::grant::GRANTS_BYTES_MAX;
use meshara_identity::grant_exchange::{HELD_MAX, HeldGrants, decode_grants, encode_grants};
use quinn::{Connection, RecvStream, SendStream};

use super::Inner;
use super::standing;
use super::streams::{Opening, write_opening};
use crate::frames::{read_frame, write_frame};

/// Asks a neighbour for the grants that it has and this node lacks. The question tells it which ones this node has.
pub(super) async fn pull(inner: &Arc<Inner>, connection: &Connection) -> Option<()> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    write_opening(&mut send, &Opening::Grants).await.ok()?;
    let held = HeldGrants::of(&inner.standing.anchors().told()).encode().ok()?;
    write_frame(&mut send, &held).await.ok()?;
    let _ = send.finish();
    let told = read_frame(&mut receive, GRANTS_BYTES_MAX).await.ok()?;
    let grants = match decode_grants(&told) {
        Ok(grants) => grants,
        Err(error) => {
            tracing::debug!(%error, "a neighbour's grants were refused");
            return None;
        }
    };
    if grants.is_empty() {
        return Some(());
    }
    match standing::learn(inner, &grants).await {
        Ok(true) => {
            let issuers = inner.standing.anchors().issuers(UnixMillis::now()).len();
            tracing::info!(issuers, "other nodes issue than before");
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "a neighbour's grants were not taken"),
    }
    Some(())
}

/// Answers a neighbour's question; whether it holds grants that this node lacks.
pub(super) async fn tell(inner: &Inner, mut send: SendStream, mut receive: RecvStream) -> Option<bool> {
    let held = read_frame(&mut receive, HELD_MAX).await.ok()?;
    let held = HeldGrants::decode(&held).ok()?;
    let anchors = inner.standing.anchors();
    // Those that count no more are of no use to it.
    let ours: Vec<_> = anchors.in_force().cloned().collect();
    let lacked = encode_grants(&held.lacks(&ours)).ok()?;
    write_frame(&mut send, &lacked).await.ok()?;
    send.finish().ok()?;
    Some(held.exceed(anchors.grants()))
}
