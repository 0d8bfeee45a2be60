//! Serves the control API of a node on its Unix socket.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::control::Control;
use super::routes::router;
use super::socket::is_allowed;

/// Connections served at once. Each `connect` and each follower holds one for its whole life; the rest are short.
const MAX_CONNECTIONS: usize = 256;
/// A local client writes its headers at once; one that does not must not hold a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// What open requests get at shutdown, out of the five seconds that a node has to end.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after a failed accept (out of file descriptors): long enough not to spin, short enough not to be felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `control` on `listener` (see [`super::bind`]) until `shutdown` resolves; then open requests get half a second
/// and are cut. Streams that last (followers, connects) end there.
pub async fn serve<C: Control>(listener: UnixListener, control: Arc<C>, shutdown: impl Future<Output = ()>) {
    let router = router(control);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, _)) if !is_allowed(&stream) => {
                tracing::warn!("another user's program came to the control socket: it was sent away");
            }
            Ok((stream, permit)) => {
                let serving = serve_connection(stream, router.clone(), stopping.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// The next connection, once fewer than the most are open.
async fn accept(
    listener: &UnixListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve_connection(stream: UnixStream, router: Router, mut stopping: watch::Receiver<bool>) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that goes away in the middle is everyday life: Ctrl-C on a follower.
        tracing::debug!(%error, "a control connection ended early");
    }
}
