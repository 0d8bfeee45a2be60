//! The control API's server and client against each other over a real Unix socket.

// Clippy's exception for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

mod node;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meshara::api::{
    BenchRequest, Body, Client, ConnectEvent, ConnectRequest, ErrorCode, InviteRequest, IssuerRequest,
    MAX_MESSAGE, MessageRef, NodeRevoked, PingEvent, PingRequest, PolicyCheckRequest, PolicyRequest,
    RevokeRequest, bind, serve, socket_path,
};
use node::TestNode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Running {
    home: tempfile::TempDir,
    node: Arc<TestNode>,
    client: Client,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

fn start() -> Running {
    let home = tempfile::tempdir().unwrap();
    let node = Arc::new(TestNode::default());
    let listener = bind(home.path()).unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, Arc::clone(&node), async { drop(stopped.await) }));
    let client = Client::new(home.path());
    Running { home, node, client, stop, serving }
}

/// The raw answer to a raw request on a connection of its own.
async fn raw(running: &Running, request: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket_path(running.home.path())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Clients such as Python's `http.client` write head and body apart.
#[tokio::test]
async fn a_body_that_comes_late_and_that_nobody_needs_costs_no_answer() {
    let r = start();
    for (path, status) in [("/v1/trust/renewals", "200"), ("/v1/shutdown", "200"), ("/v1/nothing", "404")] {
        let mut stream = tokio::net::UnixStream::connect(socket_path(r.home.path())).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // Long enough for the server to answer, and close, if it doesn't wait for the body.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(b"{}").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn questions_are_answered() {
    let r = start();
    assert_eq!(r.client.status().await, Ok(node::status()));
    assert_eq!(r.client.id().await.unwrap().name, "alice");
    assert_eq!(r.client.peers().await, Ok(vec![node::peer()]));
    assert_eq!(r.client.routes().await, Ok(vec![node::route()]));
    assert_eq!(r.client.metrics().await.unwrap(), "meshara_up 1\n# EOF\n");
    assert_eq!(r.client.ready().await, Ok(()));
    assert_eq!(r.client.doctor().await.unwrap().pid, 7);
    assert_eq!(r.client.resolve("bob").await.unwrap().node_id, "b0b");
    assert_eq!(r.client.trace("bob").await.unwrap().hops.len(), 2);
    let invite = r
        .client
        .invite(&InviteRequest { ttl_ms: 1000, uses: 2, roles: vec!["ops".into()], attest: Vec::new() })
        .await
        .unwrap();
    assert_eq!((invite.expires_at.unix_ms(), invite.uses), (1000, 2));
    assert_eq!(r.client.add_peer("h:1").await, Ok(()));
    assert_eq!(r.client.trust_status().await, Ok(node::trust_status()));
    assert_eq!(r.client.trust_renew().await, Ok(node::trust_status().certificate));
    let request = meshara::api::PublishRequest::new(b"root", &[b"signature".to_vec()]);
    let published = r.client.trust_publish(&request).await.unwrap();
    assert_eq!((published.kind.as_str(), published.number, published.known), ("root", 2, false));
    assert_eq!(r.client.trust_phase().await, Ok(node::phase()));
    let advance = |instead| meshara::api::AdvanceRequest { instead };
    let closed = r.client.trust_phase_advance(&advance(false)).await.unwrap_err();
    assert_eq!(closed.code, ErrorCode::GateClosed);
    assert_eq!(r.client.trust_phase_advance(&advance(true)).await.unwrap().number, 2);
    let audit = r.client.trust_audit().await.unwrap();
    assert_eq!((audit.ok, audit.entries), (true, 7));
    let added = r.client.trust_issuer_add(&IssuerRequest::new("bob")).await.unwrap();
    assert_eq!((added.node_id.as_str(), added.statement_file()), ("b0b", Ok(None)));
    let proposed = IssuerRequest { propose: true, ..IssuerRequest::new("bob") };
    let proposed = r.client.trust_issuer_add(&proposed).await.unwrap();
    assert_eq!(proposed.statement_file(), Ok(Some(b"statement".to_vec())));
    let error = r.client.trust_issuer_add(&IssuerRequest::new("eve")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownNode);
}

#[tokio::test]
async fn revocation_and_policy_pass_both_ways() {
    let r = start();
    let revoke =
        |node: &str| RevokeRequest { node: node.into(), reason: "laptop stolen".into(), force: false };
    let revoked = NodeRevoked { number: 7, node_id: "b0b".into(), issuer: None };
    assert_eq!(r.client.trust_revoke(&revoke("bob")).await, Ok(revoked));
    assert_eq!(r.client.trust_revoke(&revoke("eve")).await, Err(node::unknown("eve")));
    assert_eq!(r.client.policy_show().await.unwrap().number, 0);
    // Larger than any other request, and with every byte escaped.
    let text = "\u{1}".repeat(2 << 20);
    let applied = r.client.policy_apply(&PolicyRequest { text, dry_run: true }).await.unwrap();
    assert_eq!((applied.number, applied.dry_run), (2 << 20, true));
    let check = PolicyCheckRequest { node: "bob".into(), target: "db/x".into(), explain: false };
    assert!(!r.client.policy_check(&check).await.unwrap().allowed);
}

#[tokio::test]
async fn node_errors_arrive_whole() {
    let r = start();
    assert_eq!(r.client.resolve("käthe & co?").await, Err(node::unknown("käthe & co?")));
    let timeout = Duration::from_secs(1);
    assert_eq!(r.client.send("a b/c", Bytes::new(), timeout).await, Err(node::unknown("a b/c")));
}

#[tokio::test]
async fn errors_have_a_fitting_status_and_the_envelope() {
    let r = start();
    for (request, status, code) in [
        ("GET /v2/status HTTP/1.1", "404", "not_found"),
        ("DELETE /v1/status HTTP/1.1", "405", "not_found"),
        ("POST /v1/resolve HTTP/1.1\r\nContent-Length: 1", "400", "invalid_argument"),
        ("POST /v1/trace HTTP/1.1\r\nContent-Length: 65537", "413", "too_large"),
        ("POST /v1/send?to=bob HTTP/1.1", "400", "invalid_argument"),
        ("DELETE /v1/services/none HTTP/1.1", "404", "unknown_service"),
    ] {
        let length = request.rsplit_once("Content-Length: ").map_or(0, |(_, n)| n.parse().unwrap());
        let request = format!("{request}\r\nHost: n\r\nConnection: close\r\n\r\n{}", "{".repeat(length));
        let answer = raw(&r, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
        assert!(
            answer.contains(&format!(r#"{{"error":{{"code":"{code}","message":""#)),
            "{request}\n{answer}"
        );
    }
    let unknown_field = r#"{"node":"bob","nod":1}"#;
    let request = format!(
        "POST /v1/resolve HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{unknown_field}",
        unknown_field.len()
    );
    assert!(raw(&r, &request).await.contains("unknown field `nod`"));
}

#[tokio::test]
async fn impossible_requests_do_not_reach_the_node() {
    let r = start();
    let ping = |count, interval_ms| PingRequest { node: "bob".into(), count, interval_ms, size: 0 };
    for result in [r.client.ping(&ping(0, 1.0)).await.err(), r.client.ping(&ping(1, 0.0)).await.err()] {
        assert_eq!(result.unwrap().code, ErrorCode::InvalidArgument);
    }
    let invite =
        r.client.invite(&InviteRequest { ttl_ms: 0, uses: 1, roles: Vec::new(), attest: Vec::new() }).await;
    assert_eq!(invite.unwrap_err().code, ErrorCode::InvalidArgument);
    let bench = BenchRequest { node: "bob".into(), duration_ms: 1, streams: 0 };
    assert_eq!(r.client.bench(&bench).await.err().unwrap().code, ErrorCode::InvalidArgument);
}

#[tokio::test]
async fn messages_up_to_the_limit_pass_and_larger_ones_are_refused() {
    let r = start();
    let timeout = Duration::from_secs(1);
    r.client.send("bob", Bytes::from(vec![0; MAX_MESSAGE]), timeout).await.unwrap();
    let larger = r.client.send("bob", Bytes::from(vec![0; MAX_MESSAGE + 1]), timeout).await;
    assert_eq!(larger.unwrap_err().code, ErrorCode::TooLarge);
    // Past the client's own check, the server refuses as well.
    let request = "POST /v1/send?to=bob&timeout_ms=1 HTTP/1.1\r\nHost: n\r\nContent-Length: 1048577\r\nConnection: close\r\n\r\n";
    let answer = raw(&r, &format!("{request}{}", "x".repeat(MAX_MESSAGE + 1))).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(r.node.sent(), 1);
}

#[tokio::test]
async fn reading_consumes_nothing_until_it_is_confirmed() {
    let r = start();
    r.node.deliver("m1", Body::Text("line\nbreak \u{0}".into()));
    r.node.deliver("m2", Body::Base64("//8=".into()));
    let first = r.client.unread().await.unwrap();
    assert_eq!(first.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["m1", "m2"]);
    assert_eq!(r.client.unread().await.unwrap(), first);
    let stranger = MessageRef { from: "ca401".into(), id: "m2".into() };
    r.client.consume(&[first[0].reference(), stranger]).await.unwrap();
    assert_eq!(r.client.unread().await.unwrap(), first[1..]);
    let many = vec![first[1].reference(); 1000];
    r.client.consume(&many).await.unwrap();
    assert_eq!(r.client.unread().await.unwrap(), []);
}

#[tokio::test]
async fn a_follower_sees_messages_as_they_come() {
    let r = start();
    let mut follow = r.client.follow().await.unwrap();
    let large = Body::Text("\u{1}".repeat(MAX_MESSAGE));
    r.node.deliver("m1", large.clone());
    assert_eq!(follow.next().await.unwrap().unwrap().body, large);
    r.node.deliver("m2", Body::Text("2".into()));
    assert_eq!(follow.next().await.unwrap().unwrap().id, "m2");
}

#[tokio::test]
async fn a_stream_ends_after_its_last_line() {
    let r = start();
    let request = PingRequest { node: "bob".into(), count: 300, interval_ms: 0.5, size: 8 };
    let mut stream = r.client.ping(&request).await.unwrap();
    for seq in 0..300 {
        let PingEvent::Reply(reply) = stream.next().await.unwrap().unwrap() else { panic!("no reply") };
        assert_eq!(reply.seq, seq);
    }
    let PingEvent::Summary { summary } = stream.next().await.unwrap().unwrap() else { panic!("no summary") };
    assert_eq!((summary.sent, summary.received), (300, 300));
    assert_eq!(stream.next().await, Ok(None));
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_the_error() {
    let r = start();
    let request = BenchRequest { node: "bob".into(), duration_ms: 1000, streams: 1 };
    let mut stream = r.client.bench(&request).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
    assert_eq!(stream.next().await.unwrap_err().code, ErrorCode::Unreachable);
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test]
async fn the_node_learns_at_once_that_a_client_has_gone() {
    let r = start();
    let request = ConnectRequest { node: "bob".into(), service: "ssh".into(), listen: "127.0.0.1:0".into() };
    let mut stream = r.client.connect(&request).await.unwrap();
    let ConnectEvent::Listening(info) = stream.next().await.unwrap().unwrap() else {
        panic!("not listening")
    };
    assert_eq!(info.service, "ssh");
    assert!(!*r.node.disconnected.borrow());
    drop(stream);
    let mut gone = r.node.disconnected.subscribe();
    tokio::time::timeout(Duration::from_secs(5), gone.wait_for(|gone| *gone)).await.unwrap().unwrap();
}

#[tokio::test]
async fn services_are_kept_by_name() {
    let r = start();
    let added = r.client.serve_add("ssh", "127.0.0.1:22").await.unwrap();
    assert_eq!(r.client.serve_list().await, Ok(vec![added.clone()]));
    assert_eq!(r.client.serve_remove("ssh").await, Ok(added));
    assert_eq!(r.client.serve_remove("ssh").await.unwrap_err().code, ErrorCode::UnknownService);
}

#[tokio::test]
async fn shutdown_cuts_streams_and_frees_the_node() {
    let r = start();
    let mut follow = r.client.follow().await.unwrap();
    r.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(3), r.serving).await.unwrap().unwrap();
    assert_eq!(follow.next().await.unwrap_err().code, ErrorCode::ShuttingDown);
    assert_eq!(Arc::strong_count(&r.node), 1);
    assert_eq!(r.client.status().await.unwrap_err().code, ErrorCode::NotRunning);
}

#[tokio::test]
async fn without_a_node_the_error_names_socket_and_remedy() {
    let home = tempfile::tempdir().unwrap();
    let error = Client::new(home.path()).status().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotRunning);
    assert!(error.message.contains("control.sock"), "{error:?}");
    assert!(error.hint.contains("meshara up"), "{error:?}");
    let error = Client::new(home.path().join("none")).status().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotRunning);
    assert!(error.hint.contains("meshara init"), "{error:?}");
}

#[tokio::test]
async fn what_is_no_node_is_a_protocol_error() {
    let home = tempfile::tempdir().unwrap();
    let listener = bind(home.path()).unwrap();
    let stranger = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
    });
    let error = Client::new(home.path()).status().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Protocol, "{error:?}");
    stranger.await.unwrap();
}
