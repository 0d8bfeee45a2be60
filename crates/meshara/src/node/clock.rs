//! The clocks of neighbours, for `doctor`: certificates count by the clock, and nothing else tells that one is wrong.

use std::time::{Duration, Instant};

use meshara_identity::UnixMillis;
use meshara_overlay::{LinkKind, Phase};
use quinn::{RecvStream, SendStream};
use tokio::task::JoinSet;

use super::Inner;
use super::sessions::Session;
use super::streams::Opening;
use crate::api::PeerClock;

/// A neighbour answers within a session's handshake and one round trip; `doctor` itself waits five seconds.
const WAIT: Duration = Duration::from_secs(3);
/// Neighbours asked: the median of so many is beyond doubt.
const MAX_ASKED: usize = 16;

/// Answers a peer that asks.
pub(super) async fn tell(mut send: SendStream) {
    if send.write_all(&UnixMillis::now().0.to_be_bytes()).await.is_ok() {
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}

/// Asks every neighbour that is up, all at once.
pub(super) async fn ask(inner: &std::sync::Arc<Inner>) -> Vec<PeerClock> {
    let neighbours: Vec<_> = inner.overlay.view(|core| {
        let up =
            |link: &meshara_overlay::NeighbourView| link.phase == Phase::Up && link.kind == LinkKind::Routing;
        core.neighbours().filter(up).map(|link| link.node).take(MAX_ASKED).collect()
    });
    let mut asked = JoinSet::new();
    for node in neighbours {
        let inner = inner.clone();
        asked.spawn(async move {
            let session = inner.sessions.get(node).await.ok()?;
            let offset_ms = tokio::time::timeout(WAIT, offset(&inner, &session)).await.ok()??;
            let name = session.member.name.to_string();
            Some(PeerClock { node_id: node.to_string(), name, offset_ms })
        });
    }
    let mut clocks = Vec::new();
    let deadline = tokio::time::Instant::now() + WAIT;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, asked.join_next()).await {
        clocks.extend(answer.ok().flatten());
    }
    clocks.sort_by(|a: &PeerClock, b| a.node_id.cmp(&b.node_id));
    clocks
}

/// A peer's clock minus ours in milliseconds, right to half a round trip.
async fn offset(inner: &Inner, session: &Session) -> Option<f64> {
    let (mut send, mut receive) =
        inner.sessions.open_stream(session.member.node_id, &Opening::Clock).await.ok()?;
    let (asked, before) = (Instant::now(), UnixMillis::now());
    let _ = send.finish();
    let theirs = read(&mut receive).await?;
    let halfway = before.0 as f64 + asked.elapsed().as_secs_f64() * 500.0;
    Some(theirs as f64 - halfway)
}

async fn read(receive: &mut RecvStream) -> Option<u64> {
    let mut bytes = [0; 8];
    receive.read_exact(&mut bytes).await.ok()?;
    Some(u64::from_be_bytes(bytes))
}
