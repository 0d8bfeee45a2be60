//! The Workload API through a client that no one here wrote: the crate `spiffe`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use meshara_workload::{Lives, Registration};
use spiffe::{SpiffeId, TrustDomain, WorkloadApiError};

fn registration(uid: u32) -> Registration {
    Registration { uid: Some(uid), exe: None }
}

#[tokio::test]
async fn the_nodes_own_programs_get_its_identity() {
    let api = api(Lives::default(), own_uid());
    let client = api.client().await;
    let context = soon(client.fetch_x509_context()).await.unwrap();
    let svid = context.default_svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://lab/workload/alice");
    assert_eq!(svid.cert_chain().len(), 1);
    assert_eq!(svid.hint(), None);
    let bundles = soon(client.fetch_x509_bundles()).await.unwrap();
    let lab = TrustDomain::new("lab").unwrap();
    assert_eq!(bundles.get(&lab).unwrap().authorities().len(), 1);
    assert_eq!(context.bundle_set().get(&lab), bundles.get(&lab));

    // Whoever asks again is told the same.
    let again = soon(api.client().await.fetch_x509_svid()).await.unwrap();
    assert_eq!(again.leaf(), svid.leaf());
}

#[tokio::test]
async fn tokens_are_made_and_validated() {
    let api = api(Lives::default(), own_uid());
    let client = api.client().await;
    let token = soon(client.fetch_jwt_svid(["reports"], None)).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), "spiffe://lab/workload/alice");
    assert_eq!(token.audience(), ["reports"]);
    let bundles = soon(client.fetch_jwt_bundles()).await.unwrap();
    let lab = TrustDomain::new("lab").unwrap();
    assert!(bundles.get(&lab).unwrap().find_jwt_authority(token.key_id()).is_some());
    soon(client.validate_jwt_token("reports", token.token())).await.unwrap();

    let other = soon(client.validate_jwt_token("payroll", token.token())).await.unwrap_err();
    assert!(other.is_invalid_argument(), "{other}");
    let (head, tail) = token.token().split_at(token.token().len() - 3);
    let forged = format!("{head}{}", if tail == "AAA" { "BBB" } else { "AAA" });
    assert!(soon(client.validate_jwt_token("reports", &forged)).await.unwrap_err().is_invalid_argument());
    let none: [&str; 0] = [];
    assert!(soon(client.fetch_jwt_svid(none, None)).await.unwrap_err().is_invalid_argument());

    let own: SpiffeId = "spiffe://lab/workload/alice".parse().unwrap();
    soon(client.fetch_jwt_svid(["reports"], Some(&own))).await.unwrap();
    for foreign in
        ["spiffe://lab/workload/bob", "spiffe://lab/workload/alice/db", "spiffe://other/workload/alice"]
    {
        let foreign: SpiffeId = foreign.parse().unwrap();
        let refused = soon(client.fetch_jwt_svid(["reports"], Some(&foreign))).await.unwrap_err();
        assert!(matches!(refused, WorkloadApiError::PermissionDenied(_)), "{refused}");
    }
    let odd: SpiffeId = "spiffe://lab/node/alice".parse().unwrap();
    assert!(soon(client.fetch_jwt_svid(["reports"], Some(&odd))).await.unwrap_err().is_invalid_argument());
}

#[tokio::test]
async fn who_is_not_registered_is_denied_everything() {
    // The node's own user is another one than ours.
    let api = api(Lives::default(), own_uid() + 1);
    let client = api.client().await;
    let denied =
        |error: WorkloadApiError| assert!(matches!(error, WorkloadApiError::NoIdentityIssued), "{error}");
    denied(soon(client.fetch_x509_svid()).await.unwrap_err());
    denied(soon(client.fetch_x509_bundles()).await.unwrap_err());
    denied(soon(client.fetch_jwt_bundles()).await.unwrap_err());
    denied(soon(client.fetch_jwt_svid(["x"], None)).await.unwrap_err());
    denied(soon(client.validate_jwt_token("x", "y")).await.unwrap_err());
}

#[tokio::test]
async fn registered_identities_come_first_and_end_with_their_registration() {
    let api = api(Lives::default(), own_uid());
    let (db, web) = ("db".parse().unwrap(), "web".parse().unwrap());
    api.workloads.register(web, registration(own_uid())).unwrap();
    let exe = Registration { uid: Some(own_uid()), exe: Some(std::env::current_exe().unwrap()) };
    let client = api.client().await;
    let mut contexts = std::pin::pin!(soon(client.stream_x509_contexts()).await.unwrap());
    let ids = |context: &spiffe::X509Context| {
        let all = context.svids().iter();
        all.map(|svid| (svid.spiffe_id().path().to_owned(), svid.hint().map(str::to_owned)))
            .collect::<Vec<_>>()
    };
    let entry = |name: &str| (format!("/workload/alice/{name}"), Some(name.to_owned()));
    let own = ("/workload/alice".to_owned(), None);
    assert_eq!(ids(&soon(contexts.next()).await.unwrap().unwrap()), [entry("web"), own.clone()]);

    api.workloads.register("db".parse().unwrap(), exe).unwrap();
    assert_eq!(ids(&soon(contexts.next()).await.unwrap().unwrap()), [entry("db"), entry("web"), own.clone()]);
    let tokens = soon(client.fetch_all_jwt_svids(["x"], None)).await.unwrap();
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens[0].spiffe_id().to_string(), "spiffe://lab/workload/alice/db");
    api.workloads.unregister(&db).unwrap();
    assert_eq!(ids(&soon(contexts.next()).await.unwrap().unwrap()), [entry("web"), own]);
}

#[tokio::test]
async fn a_stream_that_lost_its_identity_is_denied() {
    let api = api(Lives::default(), own_uid() + 1);
    api.workloads.register("db".parse().unwrap(), registration(own_uid())).unwrap();
    let client = api.client().await;
    let mut svids = std::pin::pin!(soon(client.stream_x509_svids()).await.unwrap());
    let mut bundles = std::pin::pin!(soon(client.stream_jwt_bundles()).await.unwrap());
    soon(svids.next()).await.unwrap().unwrap();
    soon(bundles.next()).await.unwrap().unwrap();
    api.workloads.unregister(&"db".parse().unwrap()).unwrap();
    let denied = soon(svids.next()).await.unwrap().unwrap_err();
    assert!(matches!(denied, WorkloadApiError::NoIdentityIssued), "{denied}");
    let denied = soon(bundles.next()).await.unwrap().unwrap_err();
    assert!(matches!(denied, WorkloadApiError::NoIdentityIssued), "{denied}");
}

#[tokio::test]
async fn rotation_is_pushed() {
    let lives = Lives { x509: Duration::from_secs(4), ..Lives::default() };
    let api = api(lives, own_uid());
    let client = api.client().await;
    let mut svids = std::pin::pin!(soon(client.stream_x509_svids()).await.unwrap());
    let first = soon(svids.next()).await.unwrap().unwrap();
    let second = soon(svids.next()).await.unwrap().unwrap();
    assert_eq!(first.spiffe_id(), second.spiffe_id());
    assert_ne!(first.leaf(), second.leaf());
    assert_ne!(first.private_key(), second.private_key());
}

#[tokio::test]
async fn an_absent_issuer_costs_nothing_until_the_end() {
    let hour = api(Lives::default(), own_uid());
    let held = soon(hour.client().await.fetch_x509_svid()).await.unwrap();
    hour.up.store(false, Ordering::SeqCst);
    let again = soon(hour.client().await.fetch_x509_svid()).await.unwrap();
    assert_eq!(held.leaf(), again.leaf());

    let api = api(Lives { x509: Duration::from_secs(2), ..Lives::default() }, own_uid());
    let client = api.client().await;
    let mut svids = std::pin::pin!(soon(client.stream_x509_svids()).await.unwrap());
    soon(svids.next()).await.unwrap().unwrap();
    api.up.store(false, Ordering::SeqCst);
    // What can't be renewed serves to its end; then the stream ends, so that the client tries again.
    let ended = loop {
        if let Err(error) = soon(svids.next()).await.unwrap() {
            break error;
        }
    };
    assert!(ended.to_string().contains("no issuer"), "{ended}");
    let refused = soon(client.fetch_x509_svid()).await.unwrap_err();
    assert!(refused.to_string().contains("no issuer"), "{refused}");
}

/// Calls a method with an empty message; the gRPC status.
async fn status(api: &Api, method: &str, header: Option<&str>) -> String {
    let stream = tokio::net::UnixStream::connect(api.path()).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(value) = header {
        request = request.header("workload.spiffe.io", value);
    }
    let request = request.body(Full::new(bytes::Bytes::from_static(&[0; 5]))).unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    let found = |headers: &hyper::HeaderMap| {
        headers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    let status = match found(response.headers()) {
        Some(status) => status,
        None => {
            let collected = soon(response.into_body().collect()).await.unwrap();
            found(collected.trailers().unwrap()).unwrap()
        }
    };
    connection.abort();
    status
}

#[tokio::test]
async fn the_mandatory_metadata_is_mandatory() {
    let api = api(Lives::default(), own_uid());
    // Codes: 3 InvalidArgument, 12 Unimplemented.
    for method in ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"]
    {
        for header in [None, Some("True"), Some("false"), Some("")] {
            assert_eq!(status(&api, method, header).await, "3", "{method} {header:?}");
        }
    }
    // An optional profile that isn't there.
    assert_eq!(status(&api, "FetchWITSVID", Some("true")).await, "12");
}

/// One frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The type of the first frame that answers a stream: 1 headers, 3 a reset.
async fn answer_on(socket: &mut tokio::net::UnixStream, stream: u8) -> u8 {
    use tokio::io::AsyncReadExt;
    loop {
        let mut head = [0; 9];
        soon(socket.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        soon(socket.read_exact(&mut payload)).await.unwrap();
        if head[8] == stream {
            return head[3];
        }
    }
}

/// gRPC in Python, C++, Java and Swift sends the socket's path as `:authority`, which is none.
#[tokio::test]
async fn a_client_that_takes_the_path_for_an_authority_is_served() {
    use tokio::io::AsyncWriteExt;
    let api = api(Lives::default(), own_uid());
    let mut socket = tokio::net::UnixStream::connect(api.path()).await.unwrap();
    let literal = |name: &[u8], value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap();
        [name, &[length], value].concat()
    };
    let path = literal(&[0x04], b"/SpiffeWorkloadAPI/FetchX509SVID");
    let rest = [
        literal(&[0x0f, 0x10], b"application/grpc"),
        literal(b"\x00\x02te", b"trailers"),
        literal(b"\x00\x12workload.spiffe.io", b"true"),
    ]
    .concat();
    // The second request refers to the authority of the first by its place in the table.
    let first = literal(b"\x40\x0a:authority", b"%2Frun%2Fworkload.sock");
    for (stream, authority) in [(1, first), (3, vec![0xbe]), (5, literal(&[0x41], b"/run/workload.sock"))] {
        if stream == 1 {
            socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        }
        let block = [&[0x83, 0x86], &path[..], &authority, &rest].concat();
        socket.write_all(&frame(1, 4, stream, &block)).await.unwrap();
        socket.write_all(&frame(0, 1, stream, &[0; 5])).await.unwrap();
        assert_eq!(answer_on(&mut socket, stream).await, 1, "stream {stream}");
    }
}
