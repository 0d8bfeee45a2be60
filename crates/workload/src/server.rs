//! Serves the Workload API on a Unix socket: HTTP/2 without TLS, as the SPIFFE Workload Endpoint is.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tonic::codegen::Service;

use crate::caller::Caller;
use crate::grpc::Api;
use crate::pb::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::svids::{Issuers, Workloads};
use crate::uds::Uds;

/// Connections at once. Each program holds one or two for its whole life.
const MAX_CONNECTIONS: usize = 512;
/// Connections of one other user at once, registered or not: nobody can take all places.
const MAX_PER_USER: usize = 64;
/// Calls at once on one connection; a client has three streams open and asks for tokens now and then.
const MAX_CALLS: u32 = 64;
/// Longest request: the longest token that is validated, with room.
const MAX_MESSAGE: usize = 64 * 1024;
/// Metadata of one request; ours is one line.
const MAX_HEADERS: u32 = 16 * 1024;
/// A connection whose client doesn't answer this long after a ping is dropped.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after a failed accept (out of file descriptors): long enough not to spin, short enough not to be felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `workloads` on `listener` until `shutdown` resolves. Streams end there: clients connect again to the next life of the node.
pub async fn serve<I: Issuers>(
    listener: UnixListener,
    workloads: Arc<Workloads<I>>,
    shutdown: impl Future<Output = ()>,
) {
    let users = Arc::new(Users { own: workloads.own_uid(), open: Mutex::default() });
    let service = SpiffeWorkloadApiServer::new(Api(workloads)).max_decoding_message_size(MAX_MESSAGE);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted.and_then(|(stream, _)| identified(stream, &users)) {
            Ok(Some((stream, caller, place))) => {
                let service = service.clone();
                connections.spawn(async move {
                    serve_connection(stream, caller, service).await;
                    drop(place);
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the workload socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.shutdown().await;
}

/// The caller of a new connection and its place; `None` when it is dropped.
fn identified(
    stream: UnixStream,
    users: &Arc<Users>,
) -> io::Result<Option<(UnixStream, Arc<Caller>, Place)>> {
    let caller = match Caller::of(&stream) {
        Ok(caller) => Arc::new(caller),
        Err(error) => {
            tracing::debug!(%error, "a connection to the workload socket was dropped");
            return Ok(None);
        }
    };
    let place = Users::enter(users, caller.uid());
    Ok(place.map(|place| (stream, caller, place)))
}

async fn serve_connection<I: Issuers>(
    stream: UnixStream,
    caller: Arc<Caller>,
    service: SpiffeWorkloadApiServer<Api<I>>,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        // The service is an Arc and settings; it is always ready.
        let mut service = service.clone();
        service.call(request)
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(Uds::new(stream)), service)
        .await;
    if let Err(error) = served {
        // A client that goes away in the middle is everyday life.
        tracing::debug!(%error, "a workload connection ended early");
    }
}

/// Counts the connections of each user.
struct Users {
    own: u32,
    /// At most [`MAX_CONNECTIONS`].
    open: Mutex<HashMap<u32, usize>>,
}

/// One connection, counted until dropped.
struct Place {
    users: Arc<Users>,
    uid: u32,
}

impl Users {
    fn enter(users: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut open = users.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_default();
        if uid != users.own && *count >= MAX_PER_USER {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Place { users: users.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.users.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_user_takes_all_places() {
        let users = Arc::new(Users { own: 1, open: Mutex::default() });
        let held: Vec<_> = (0..=MAX_PER_USER).map_while(|_| Users::enter(&users, 2)).collect();
        assert_eq!(held.len(), MAX_PER_USER);
        assert!(Users::enter(&users, 3).is_some(), "others are not held");
        let own: Vec<_> = (0..=MAX_PER_USER).map_while(|_| Users::enter(&users, 1)).collect();
        assert_eq!(own.len(), MAX_PER_USER + 1);
        drop(held);
        assert!(Users::enter(&users, 2).is_some());
        drop(own);
        assert!(users.open.lock().unwrap().is_empty());
    }
}
