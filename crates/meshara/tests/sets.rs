//! Revocation and policy among real nodes: what is cut, what is refused, who hears of it, and what silence ends.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::{Duration, Instant};

use meshara::api::{
    BenchEvent, BenchRequest, ConnectEvent, ConnectRequest, Control, ErrorCode, PingEvent, PingRequest,
    PolicyCheckRequest, PolicyControl, PolicyRequest, ReinstateRequest, RevokeRequest, TrustControl,
};
use meshara::config::Config;
use meshara::{CongestionControl, Event, Node, NodeId, SendError, SessionError};
use meshara_identity::home;
use meshara_overlay::LinkKind;
use meshara_transport::tls::{self, Expect, Tls};
use meshara_transport::{DataPlane, Endpoints, Wire};
use meshara_trust::audit::{Event as Audited, export};
use meshara_trust::gossip::{Item, Message};
use meshara_trust::sets::SignedSet;
use quinn::{ConnectionError, Endpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use common::{build, config, first, joined, soon};

mod common;

/// What a handshake with a revoked node ends with: 0x100 and certificate_revoked (RFC 8446, 6.2).
const REVOKED: u64 = 0x12c;
/// Revocation is promised within two seconds; a machine that does much else gets more.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Waits until the node routes to so many others.
async fn routes(node: &Node, count: u64) {
    soon(async {
        while node.control().status().await.unwrap().nodes_known != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn routed(node: &Node, to: NodeId) -> bool {
    node.control().routes().await.unwrap().iter().any(|route| route.dest == to.to_string())
}

async fn revoke(authority: &Node, node: &str) -> u64 {
    let request = RevokeRequest { node: node.to_owned(), reason: "laptop stolen".to_owned(), force: false };
    authority.control().trust_revoke(request).await.unwrap().number
}

async fn number(node: &Node) -> u64 {
    node.control().trust_status().await.unwrap().revocations
}

/// Dials a node as this member and says how it ended.
async fn dialled(tls: &Tls, node: &Node) -> ConnectionError {
    let endpoint = Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = tls.client_config(tls::ALPN_LINK, Expect::Node(node.member().node_id));
    match soon(endpoint.connect_with(config, node.local_addr(), tls::SERVER_NAME).unwrap()).await {
        Ok(connection) => soon(connection.closed()).await,
        Err(error) => error,
    }
}

fn code(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::TransportError(error) => error.code.into(),
        ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("no code: {other:?}"),
    }
}

/// The events of a home's audit trail.
fn audited(home: &Path) -> Vec<Audited> {
    let mut text = Vec::new();
    let report = export(&home.join("audit"), 1, &mut text).unwrap();
    assert_eq!(report.bad, None);
    let lines = String::from_utf8(text).unwrap();
    let event = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        serde_json::from_value(line["event"].clone()).unwrap()
    };
    lines.lines().map(event).collect()
}

#[tokio::test]
async fn a_revoked_node_is_cut_off_at_once_and_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    let (bobs, carols) = (bob.member().node_id, carol.member().node_id);
    for node in [&alice, &bob, &carol] {
        routes(node, 2).await;
    }
    // A live session, and a ticket to resume a connection with.
    let mut stream = soon(carol.open_stream(bobs, "live")).await.unwrap();
    stream.send.write_all(b"x").await.unwrap();
    let mut accepted = soon(bob.accept_stream()).await.unwrap();
    accepted.receive.read_exact(&mut [0]).await.unwrap();
    let ticket = common::tls(&homes[1]);
    let endpoint = Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let expect = Expect::Node(bobs);
    let connecting = endpoint
        .connect_with(ticket.client_config(tls::ALPN_LINK, expect), bob.local_addr(), tls::SERVER_NAME)
        .unwrap();
    let before = soon(connecting).await.unwrap();
    // The ticket comes right after the handshake.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop((before, endpoint));

    let start = Instant::now();
    assert_eq!(revoke(&alice, "carol").await, 1);
    let ended = soon(accepted.receive.read(&mut [0])).await;
    assert!(ended.is_err(), "{ended:?}");
    for node in [&alice, &bob] {
        let out = async {
            while routed(node, carols).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(out).await;
        assert_eq!(number(node).await, 1);
    }
    println!("revoked everywhere after {:?}", start.elapsed());
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());

    // Neither with a ticket from before nor without does any node take it, nor does it reach anybody.
    assert_eq!(code(&dialled(&ticket, &bob).await), REVOKED);
    for node in [&alice, &bob] {
        assert_eq!(code(&dialled(&common::tls(&homes[1]), node).await), REVOKED);
    }
    assert!(carol.send(bobs, "hello?", Duration::from_millis(500)).await.is_err());
    assert!(bob.send(carols, "hello?", Duration::from_millis(500)).await.is_err());
    // Everything else goes on.
    soon(alice.send(bobs, "still here", Duration::from_secs(10))).await.unwrap();

    // A node that restarts knows before it has heard anybody.
    bob.shutdown().await;
    alice.shutdown().await;
    let bob = build(&homes[0], config()).await;
    assert_eq!(number(&bob).await, 1);
    assert_eq!(code(&dialled(&common::tls(&homes[1]), &bob).await), REVOKED);
    bob.shutdown().await;
    carol.shutdown().await;
    let written = audited(&homes[0]);
    let expected = |event: &Audited| matches!(event, Audited::Revocation { number: 1, node, revoked: true, .. } if *node == carols);
    assert_eq!(written.iter().filter(|event| expected(event)).count(), 1, "{written:?}");
}

#[tokio::test]
async fn after_a_healed_partition_a_revocation_comes_with_the_first_link() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    for node in [&alice, &bob, &carol] {
        routes(node, 2).await;
    }
    // Alice alone knows, and is gone. The other two get along.
    bob.shutdown().await;
    carol.shutdown().await;
    // Nobody routes to her any more; her issuer knows the name.
    assert_eq!(revoke(&alice, "carol").await, 1);
    alice.shutdown().await;
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], Config { peers: vec![bob.local_addr().into()], ..config() }).await;
    let (bobs, carols) = (bob.member().node_id, carol.member().node_id);
    routes(&bob, 1).await;
    soon(carol.send(bobs, "hello", Duration::from_secs(10))).await.unwrap();
    assert_eq!(number(&bob).await, 0);

    let mut events = bob.events();
    let alice =
        build(&dir.path().join("alice"), Config { peers: vec![bob.local_addr().into()], ..config() }).await;
    let alices = alice.member().node_id;
    let linked = async {
        loop {
            match events.recv().await.unwrap() {
                Event::LinkUp { node, .. } if node == alices => return,
                _ => {}
            }
        }
    };
    soon(linked).await;
    let start = Instant::now();
    while routed(&bob, carols).await || number(&bob).await != 1 {
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("heard {:?} after the link", start.elapsed());
    assert!(carol.send(bobs, "hello?", Duration::from_millis(500)).await.is_err());
    for node in [alice, bob, carol] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_neighbour_that_talks_nonsense_about_sets_loses_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), Config { auto: false, ..config() }).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let bob = stranger(&home).await;
    for nonsense in [&[0, 0, 0, 4, b'n', b'o', b'p', b'e'][..], &[0xff; 8], &[0, 0, 0, 0]] {
        let dial = bob.dial(alice.local_addr(), Expect::AnyMember, LinkKind::Routing);
        let link = soon(dial).await.unwrap();
        let connection = link.hop.connection().clone();
        let _halves = link.claim();
        let mut send = soon(connection.open_uni()).await.unwrap();
        send.write_all(nonsense).await.unwrap();
        match soon(connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 0x103_u32.into()),
            other => panic!("{nonsense:?}: {other:?}"),
        }
    }
    let metrics = alice.control().metrics_text().await.unwrap();
    assert!(metrics.contains("meshara_sets_refused_total 3"), "{metrics}");
    alice.shutdown().await;
    assert_eq!(judged(&dir.path().join("alice")), 1, "a burst of misdeeds is one");
}

/// A member that speaks with `node` as it likes.
async fn stranger(home: &Path) -> Endpoints {
    let wire = Wire::bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = home::load(home, None).unwrap().membership.member().address;
    let (plane, mut events) = DataPlane::new(address, wire);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let tls = std::sync::Arc::new(common::tls(home));
    Endpoints::new(plane, tls, CongestionControl::default(), &[7; 32]).unwrap()
}

/// A message with its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// How the first member judged others.
fn judged(home: &Path) -> usize {
    audited(home).iter().filter(|event| matches!(event, Audited::Evidence { .. })).count()
}

#[tokio::test]
async fn a_newer_version_is_told_to_both_sides_and_is_no_misdeed() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), Config { auto: false, ..config() }).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let bob = stranger(&home).await;
    // Of signed sets, and of the overlay's own messages.
    for (code, on_control) in [(0x103_u32, false), (0x101, true)] {
        for _ in 0..2 {
            let dial = bob.dial(alice.local_addr(), Expect::AnyMember, LinkKind::Routing);
            let link = soon(dial).await.unwrap();
            let connection = link.hop.connection().clone();
            let (mut control, _receiver) = link.claim();
            if on_control {
                control.send(&[2, 1]).await.unwrap();
            } else {
                let mut send = soon(connection.open_uni()).await.unwrap();
                send.write_all(&framed(&[2, 1])).await.unwrap();
            }
            let closed = soon(connection.closed()).await;
            let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
            assert_eq!(close.error_code, code.into());
            let told = String::from_utf8(close.reason.to_vec()).unwrap();
            assert!(told.contains("newer version: update the node that closes this link"), "{told}");
        }
    }
    alice.shutdown().await;
    assert_eq!(judged(&dir.path().join("alice")), 0);
}

#[tokio::test]
async fn an_old_snapshot_and_an_old_policy_that_a_member_replays_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), Config { auto: false, ..config() }).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let stored = |name: &str| {
        // Behind magic, version and hash.
        let bytes = std::fs::read(dir.path().join("alice/trust").join(name)).unwrap();
        Message::Set(SignedSet::decode(&bytes[41..]).unwrap()).encode().unwrap()
    };
    for node in ["ab", "cd"] {
        revoke(&alice, &node.repeat(32)).await;
    }
    apply(&alice, policy_against_bob("\"mesh:alice/ping\"")).await;
    let old = [stored("revocations.set"), stored("policy.set")];
    revoke(&alice, &"ef".repeat(32)).await;
    apply(&alice, policy_against_bob("\"mesh:alice/*\"")).await;
    let bob = stranger(&home).await;
    let link = soon(bob.dial(alice.local_addr(), Expect::AnyMember, LinkKind::Routing)).await.unwrap();
    let connection = link.hop.connection().clone();
    let _halves = link.claim();
    let mut receive = soon(connection.accept_uni()).await.unwrap();
    let mut send = soon(connection.open_uni()).await.unwrap();
    for message in old {
        send.write_all(&framed(&message)).await.unwrap();
    }
    // What is asked behind them is answered after them: with the newest.
    let want = Message::Want { item: Item::Policy, above: 1 };
    send.write_all(&framed(&want.encode().unwrap())).await.unwrap();
    let newest = soon(async {
        loop {
            let mut length = [0; 4];
            receive.read_exact(&mut length).await.unwrap();
            let mut message = vec![0; u32::from_be_bytes(length) as usize];
            receive.read_exact(&mut message).await.unwrap();
            if let Message::Set(set) = Message::decode(&message).unwrap() {
                return set;
            }
        }
    });
    assert_eq!(newest.await.signed.head.number, 2);
    assert_eq!(number(&alice).await, 3);
    assert_eq!(alice.control().policy_show().await.unwrap().number, 2);
    assert_eq!(connection.close_reason(), None, "an honest neighbour may be late");
    alice.shutdown().await;
    assert_eq!(judged(&dir.path().join("alice")), 0);
}

#[tokio::test]
async fn a_reinstated_node_is_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let bob = build(&home, config()).await;
    let (alices, bobs) = (alice.member().node_id, bob.member().node_id);
    routes(&alice, 1).await;
    routes(&bob, 1).await;
    assert_eq!(revoke(&alice, "bob").await, 1);
    routes(&alice, 0).await;
    let reinstate = |node: &str| ReinstateRequest { node: node.to_owned(), reason: "found".to_owned() };
    let nobody = alice.control().trust_reinstate(reinstate(&"ab".repeat(32))).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::InvalidArgument);
    let stranger = bob.control().trust_reinstate(reinstate(&bobs.to_string())).await.unwrap_err();
    assert_eq!(stranger.code, ErrorCode::NotAuthority);
    // A prefix is enough among the few that are revoked.
    let back = alice.control().trust_reinstate(reinstate(&bobs.to_string()[..8])).await.unwrap();
    assert_eq!((back.number, back.node_id), (2, bobs.to_string()));
    // It asks again a minute after it was refused, and when it starts.
    bob.shutdown().await;
    let bob = build(&home, config()).await;
    routes(&alice, 1).await;
    routes(&bob, 1).await;
    soon(bob.send(alices, "back again", Duration::from_secs(10))).await.unwrap();
    assert_eq!(number(&bob).await, 2);
    let again = alice.control().trust_reinstate(reinstate(&bobs.to_string())).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::InvalidArgument);
    for node in [alice, bob] {
        node.shutdown().await;
    }
    let events = audited(&dir.path().join("alice"));
    let told = events.iter().filter_map(|event| match event {
        Audited::Revocation { number, node, revoked, .. } if *node == bobs => Some((*number, *revoked)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(1, true), (2, false)]);
}

/// Everything is allowed but what the rule says of bob.
fn policy_against_bob(targets: &str) -> String {
    format!(
        "version = 1\n[[rule]]\nname = \"no-bob\"\neffect = \"deny\"\nfrom = \"bob\"\nto = [{targets}]\n\
         [[rule]]\nname = \"rest\"\neffect = \"allow\"\nfrom = \"*\"\nto = [\"mesh:*\", \"service:*\"]\n"
    )
}

async fn apply(node: &Node, text: String) -> u64 {
    let request = PolicyRequest { text, dry_run: false };
    node.control().policy_apply(request).await.unwrap().number
}

#[tokio::test]
async fn denials_come_from_the_node_that_is_asked_and_name_the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let home = joined(&alice, dir.path(), "bob").await;
    let bob = build(&home, config()).await;
    routes(&bob, 1).await;
    let alices = alice.member().node_id;
    // The starter policy lets members ping and message each other.
    soon(bob.send(alices, "first", Duration::from_secs(10))).await.unwrap();
    let targets = r#""mesh:alice/*", "service:alice/db""#;
    let dry = PolicyRequest { text: policy_against_bob(targets), dry_run: true };
    let dry = alice.control().policy_apply(dry).await.unwrap();
    assert_eq!((dry.number, dry.added.as_slice()), (1, &["no-bob".to_owned(), "rest".to_owned()][..]));
    assert_eq!(alice.control().policy_show().await.unwrap().number, 0, "a dry run changes nothing");
    assert_eq!(apply(&alice, policy_against_bob(targets)).await, 1);

    let named = |text: &str| assert!(text.contains("`no-bob`"), "{text}");
    let ping = PingRequest { node: "alice".into(), count: 3, interval_ms: 10.0, size: 0 };
    let mut pings = bob.control().ping(ping).await.unwrap();
    let error = soon(pings.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Denied);
    named(&error.message);
    let error = soon(bob.control().trace("alice".into())).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Denied);
    named(&error.message);
    let denied = soon(bob.send(alices, "second", Duration::from_secs(10))).await.unwrap_err();
    assert_eq!(denied, SendError::Denied { rule: "no-bob".into() });
    let bench = BenchRequest { node: "alice".into(), duration_ms: 500, streams: 2 };
    let mut bench = bob.control().bench(bench).await.unwrap();
    let error = loop {
        match soon(bench.recv()).await.unwrap() {
            Ok(BenchEvent::Progress(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::Denied);
    named(&error.message);
    alice.control().serve_add("db".into(), "127.0.0.1:9".into()).await.unwrap();
    let connect = ConnectRequest { node: "alice".into(), service: "db".into(), listen: "127.0.0.1:0".into() };
    let mut connects = bob.control().connect(connect).await.unwrap();
    let Some(Ok(ConnectEvent::Listening(info))) = connects.recv().await else { panic!() };
    let mut tcp = TcpStream::connect(&info.listen).await.unwrap();
    assert!(soon(tcp.read(&mut [0])).await.is_err(), "reset");
    let Some(Ok(ConnectEvent::Failed(failure))) = soon(connects.recv()).await else { panic!() };
    named(&failure.reason);

    // A stream of an application is reset; whose rule it was, the opener finds in its own copy of the policy.
    let mut stream = soon(bob.open_stream(alices, "db")).await.unwrap();
    let reset = soon(stream.receive.read(&mut [0])).await.unwrap_err();
    assert_eq!(reset, quinn::ReadError::Reset(meshara::STREAM_DENIED));
    assert_eq!(bob.denied_by(&alices, "db").as_deref(), Some("no-bob"));
    assert_eq!(bob.denied_by(&alices, "web"), None);

    // The other way nothing is denied, and a check says the same as the node that is asked.
    soon(alice.send(bob.member().node_id, "hello", Duration::from_secs(10))).await.unwrap();
    let check = |node: &str, target: &str| PolicyCheckRequest {
        node: node.into(),
        target: target.into(),
        explain: true,
    };
    for node in [&alice, &bob] {
        let checked = node.control().policy_check(check("bob", "alice/db")).await.unwrap();
        assert_eq!((checked.allowed, checked.rule.as_str(), checked.rules.len()), (false, "no-bob", 2));
        let checked = node.control().policy_check(check("alice", "mesh:bob/ping")).await.unwrap();
        assert_eq!((checked.allowed, checked.rule.as_str()), (true, "rest"));
        let checked = node.control().policy_check(check("nobody-yet", "control:alice/stop")).await.unwrap();
        assert_eq!((checked.allowed, checked.rule.as_str()), (false, "default"));
    }
    let metrics = alice.control().metrics_text().await.unwrap();
    assert!(metrics.contains("meshara_policy_denials_total{rule=\"no-bob\"}"), "{metrics}");

    // Only where the mesh root is can a policy be made.
    let request = PolicyRequest { text: policy_against_bob(targets), dry_run: false };
    assert_eq!(bob.control().policy_apply(request).await.unwrap_err().code, ErrorCode::NotAuthority);
    let bad = PolicyRequest { text: "version = 1\n[[rule]]\nname = 7\n".into(), dry_run: false };
    let bad = alice.control().policy_apply(bad).await.unwrap_err();
    assert_eq!(bad.code, ErrorCode::InvalidArgument);
    assert!(bad.message.starts_with("line 3"), "{}", bad.message);

    // What was denied waits, and is delivered once it is allowed. Pings are answered again.
    assert_eq!(apply(&alice, policy_against_bob("\"service:alice/db\"")).await, 2);
    let bodies = soon(async {
        let mut bodies = Vec::new();
        while bodies.len() < 2 {
            bodies.extend(alice.receive().await.unwrap().into_iter().map(|row| row.body));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bodies
    });
    assert_eq!(bodies.await, ["first", "second"]);
    let ping = PingRequest { node: "alice".into(), count: 1, interval_ms: 10.0, size: 0 };
    let mut pings = bob.control().ping(ping).await.unwrap();
    assert!(matches!(soon(pings.recv()).await, Some(Ok(PingEvent::Reply(_)))));

    // It outlives a restart.
    alice.shutdown().await;
    let alice = build(&dir.path().join("alice"), config()).await;
    let policy = alice.control().policy_show().await.unwrap();
    assert_eq!((policy.number, policy.rules), (2, 2));
    assert!(policy.text.contains("no-bob"), "{}", policy.text);
    alice.shutdown().await;
    bob.shutdown().await;
    let changed = |event: &&Audited| matches!(event, Audited::PolicyChange { .. });
    let events = audited(&dir.path().join("alice"));
    assert_eq!(events.iter().filter(changed).count(), 2);
    let denials = |event: &&Audited| matches!(event, Audited::Denial { rule, target, .. } if rule.as_str() == "no-bob" && target.as_str() == "mesh:alice/bench");
    assert!(events.iter().filter(denials).count() > 0, "{events:?}");
}

#[tokio::test]
async fn what_is_open_ends_when_it_is_denied_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let bob = build(&joined(&alice, dir.path(), "bob").await, config()).await;
    routes(&bob, 1).await;
    let alices = alice.member().node_id;
    // Two services that send back what they get.
    let mut tcps = Vec::new();
    for name in ["db", "web"] {
        let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        alice.control().serve_add(name.into(), echo.local_addr().unwrap().to_string()).await.unwrap();
        tokio::spawn(async move {
            let (mut tcp, _) = echo.accept().await.unwrap();
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let connect =
            ConnectRequest { node: "alice".into(), service: name.into(), listen: "127.0.0.1:0".into() };
        let mut connects = bob.control().connect(connect).await.unwrap();
        let Some(Ok(ConnectEvent::Listening(info))) = connects.recv().await else { panic!() };
        tcps.push((TcpStream::connect(&info.listen).await.unwrap(), connects));
    }
    let echoed = async |tcp: &mut TcpStream| -> std::io::Result<()> {
        tcp.write_all(b"x").await?;
        soon(tcp.read_exact(&mut [0])).await.map(|_| ())
    };
    let [(db, _), (web, _)] = &mut tcps[..] else { panic!() };
    let mut chat = soon(bob.open_stream(alices, "chat")).await.unwrap();
    chat.send.write_all(b"hello").await.unwrap();
    let mut heard = soon(alice.accept_stream()).await.unwrap();
    soon(heard.receive.read_exact(&mut [0; 5])).await.unwrap();
    for tcp in [&mut *db, &mut *web] {
        echoed(tcp).await.unwrap();
    }
    let bench = BenchRequest { node: "alice".into(), duration_ms: 60_000, streams: 1 };
    let mut bench = bob.control().bench(bench).await.unwrap();
    let Some(Ok(BenchEvent::Progress(_))) = soon(bench.recv()).await else { panic!() };

    apply(&alice, policy_against_bob("\"service:alice/db\", \"mesh:alice/bench\"")).await;
    assert!(soon(db.read(&mut [0])).await.is_err(), "reset");
    let error = loop {
        match soon(bench.recv()).await.unwrap() {
            Ok(BenchEvent::Progress(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::Denied);
    // What is allowed still goes on.
    echoed(web).await.unwrap();
    chat.send.write_all(b"still").await.unwrap();
    soon(heard.receive.read_exact(&mut [0; 5])).await.unwrap();

    // An application holds its streams: they end with their session.
    apply(&alice, policy_against_bob("\"service:alice/chat\"")).await;
    assert!(soon(heard.receive.read(&mut [0])).await.is_err());
    soon(bob.send(alices, "over another session", Duration::from_secs(20))).await.unwrap();
    alice.shutdown().await;
    bob.shutdown().await;
}

#[tokio::test]
async fn silence_of_the_signers_ends_acceptance_until_they_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let short = Config { stale_after_s: 8, ..config() };
    let bob = build(&homes[0], Config { peers: vec![alice.local_addr().into()], ..short }).await;
    let carol = build(&homes[1], config()).await;
    let (bobs, carols) = (bob.member().node_id, carol.member().node_id);
    routes(&bob, 2).await;
    soon(bob.send(carols, "hello", Duration::from_secs(10))).await.unwrap();
    alice.shutdown().await;
    // Eight seconds after her last word.
    let stale = soon(async {
        loop {
            match bob.open_stream(carols, "x").await {
                Err(SessionError::Stale(stale)) => return stale,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
    .await;
    assert!(stale.confirmed.is_some(), "{stale}");
    assert_eq!(bob.control().status().await.unwrap().sessions, 0);
    assert!(carol.send(bobs, "hello?", Duration::from_millis(500)).await.is_err());
    // Links stay: over them the signers are heard again.
    assert!(routed(&bob, carols).await);
    // At another port: the one from before may be taken.
    let back = Config { peers: vec![bob.local_addr().into()], ..config() };
    let alice = build(&dir.path().join("alice"), back).await;
    soon(async {
        while bob.open_stream(carols, "x").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for node in [alice, bob, carol] {
        node.shutdown().await;
    }
}
