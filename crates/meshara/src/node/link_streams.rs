//! Streams on a link beside its control stream: what two neighbours have to tell each other that takes no route and no session.

use std::sync::Arc;
use std::time::Duration;

use meshara_identity::Member;
use meshara_overlay::LinkKind;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::Notify;

use super::streams::{Opening, read_opening};
use super::{Inner, grants, pipe, recheck};

/// What is said on such a stream takes a round trip and a disk write.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// Between questions for grants on one link.
const PULL_EVERY: Duration = Duration::from_secs(1);

/// Serves a link's streams, opens those of this node, and follows the neighbour's certificate; returns when the link's connection has ended.
pub(super) async fn run(inner: &Arc<Inner>, connection: &Connection, peer: &Member, kind: LinkKind) {
    let news = Notify::new();
    tokio::join!(serve(inner, connection, &news), recheck::follow(inner, connection, peer), async {
        if kind == LinkKind::Routing {
            pull(inner, connection, &news).await;
        }
    },);
}

/// Asks for grants at once, and again when either side has others.
async fn pull(inner: &Arc<Inner>, connection: &Connection, news: &Notify) {
    let mut changes = inner.standing.grant_changes();
    loop {
        let _ = tokio::time::timeout(STREAM_TIMEOUT, grants::pull(inner, connection)).await;
        // Grants that contradict each other must not make two neighbours ask for ever as fast as they can.
        tokio::time::sleep(PULL_EVERY).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = news.notified() => {}
            _ = connection.closed() => return,
        }
    }
}

/// One after the other: a neighbour has few questions, and one that has many waits.
async fn serve(inner: &Arc<Inner>, connection: &Connection, news: &Notify) {
    while let Ok((send, receive)) = connection.accept_bi().await {
        let served = tokio::time::timeout(STREAM_TIMEOUT, serve_one(inner, connection, send, receive));
        if served.await.ok().flatten() == Some(true) {
            news.notify_one();
        }
    }
}

/// Whether the neighbour holds grants that this node lacks.
async fn serve_one(
    inner: &Arc<Inner>,
    connection: &Connection,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Option<bool> {
    match read_opening(&mut receive).await {
        Ok(Opening::Leaf) => recheck::show(inner, connection, send, receive).await.map(|()| false),
        Ok(Opening::Grants) => grants::tell(inner, send, receive).await,
        _ => {
            let _ = send.reset(pipe::RESET);
            None
        }
    }
}
