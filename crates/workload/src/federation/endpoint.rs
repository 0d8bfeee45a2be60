//! The federation bundle endpoint: other trust domains fetch the mesh's bundle over HTTPS and check it against an X.509-SVID (the profile
//! `https_spiffe`; SPIFFE_Federation, 5.2.2).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::svids::{Issuers, Standing, Workloads};

/// Connections at once; more wait in the kernel. A consumer comes once an hour.
const MAX_CONNECTIONS: usize = 64;
/// A consumer that takes longer for handshake, request and answer is cut off: the answer is a few kilobytes.
const CONNECTION_TIME: Duration = Duration::from_secs(20);
/// Longest head of a request; that of a stock client has some 200 bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after a failed accept (out of file descriptors): long enough not to spin, short enough not to be felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves what `document` gives at `/` of `listener` until `shutdown` resolves, as the SVID of the node's own programs. Without an SVID or
/// a document connections are closed: consumers keep what they have, and come again.
pub async fn serve_bundle<I, F, D>(
    listener: TcpListener,
    workloads: Arc<Workloads<I>>,
    document: F,
    shutdown: impl Future<Output = ()>,
) where
    I: Issuers,
    F: Fn() -> D + Clone + Send + Sync + 'static,
    D: Future<Output = Option<Vec<u8>>> + Send,
{
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (workloads, document) = (workloads.clone(), document.clone());
                connections.spawn(async move {
                    let answered = answer(stream, &workloads, document);
                    match tokio::time::timeout(CONNECTION_TIME, answered).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%from, %error, "a bundle was not handed out"),
                        Err(_) => tracing::debug!(%from, "a consumer of the bundle was too slow"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection at the bundle endpoint");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.shutdown().await;
}

async fn answer<I, F, D>(stream: TcpStream, workloads: &Workloads<I>, document: F) -> io::Result<()>
where
    I: Issuers,
    F: Fn() -> D + Clone + Send + Sync + 'static,
    D: Future<Output = Option<Vec<u8>>> + Send,
{
    let config = config(workloads).await?;
    let bytes = document().await.ok_or_else(|| io::Error::other("no workload root is known yet"))?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let bytes = Bytes::from(bytes);
    let service = service_fn(move |request| {
        let response = respond(&request, &bytes);
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// TLS with the SVID as it is now. Consumers are other people's programs: they need no hybrid key exchange, but those that have it use it.
async fn config<I: Issuers>(workloads: &Workloads<I>) -> io::Result<Arc<ServerConfig>> {
    if *workloads.standing().borrow() != Standing::Good {
        return Err(io::Error::other("this node may not speak for its programs"));
    }
    let svid = workloads.x509(None).await.map_err(io::Error::other)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.pkcs8().to_vec()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(svid.leaf_der)], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A consumer comes once an hour: nothing is to be resumed.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn respond(request: &Request<Incoming>, document: &Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *response.body_mut() = Full::new(document.clone());
    }
    response
}
