//! Issuers that fail, are stolen, or sign what they may not: members go to another, and what the wrong one signed is refused and named.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use meshara::api::{
    Control, ErrorCode, IssuerRequest, PolicyControl, RevokeRequest, RolesRequest, TrustControl,
};
use meshara::{Lives, Node, UnixMillis, create_mesh_with};
use meshara_identity::home;
use meshara_transport::tls::{self, Expect, Tls, TlsMaterial};
use meshara_trust::audit::{Event as Audited, export};
use quinn::{ConnectionError, Endpoint};

use common::{build, config, first, joined, soon};

mod common;

/// What a handshake with a certificate of a revoked issuer ends with: 0x100 and certificate_revoked (RFC 8446, 6.2).
const REVOKED: u64 = 0x12c;
/// And one with another node's name: access_denied.
const DENIED: u64 = 0x131;

/// Issuers read each other's logs every few seconds, and one that was asked too often says no for a while.
const LONG: Duration = Duration::from_secs(90);

async fn neighbours(node: &Node, count: u64) {
    soon(async {
        while node.control().status().await.unwrap().neighbours != count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

async fn issuer_of(node: &Node) -> String {
    node.control().trust_status().await.unwrap().certificate.issuer_name
}

/// Waits until the node's certificate is from this issuer.
async fn issued_by(node: &Node, issuer: &str) {
    soon(async {
        while issuer_of(node).await != issuer {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

async fn issuers(node: &Node) -> usize {
    node.control().trust_status().await.unwrap().issuers.len()
}

/// Makes bob an issuer; returns when every node knows.
async fn second_issuer(alice: &Node, others: &[&Node]) {
    alice.control().trust_issuer_add(IssuerRequest::new("bob")).await.unwrap();
    soon(async {
        for node in others {
            while issuers(node).await < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    })
    .await;
}

/// The TLS of a node that nobody knows, with a certificate for `name` that bob's CA key, which somebody has, signed.
fn stolen(bob: &Path, dir: &Path, name: &str) -> Tls {
    let now = UnixMillis::now();
    let held = home::load(bob, None).unwrap().membership;
    let issuer = home::open_issuer(bob, held.anchors(), None).unwrap().unwrap();
    let ticket = issuer.invite(Duration::from_secs(60), 1, Vec::new(), now).unwrap().ticket;
    let (client, node, routing) = home::begin_join(dir, ticket, name.parse().unwrap(), None, now).unwrap();
    let membership = client.open_reply(&issuer.handle_join(client.request(), now).reply, now).unwrap();
    let made = home::finish(dir, node, routing, membership, None).unwrap();
    Tls::new(&TlsMaterial::new(&made.membership).unwrap()).unwrap()
}

/// The events of a home's audit trail.
fn audited(home: &Path) -> Vec<Audited> {
    let mut text = Vec::new();
    assert_eq!(export(&home.join("audit"), 1, &mut text).unwrap().bad, None);
    let event = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        serde_json::from_value(line["event"].clone()).unwrap()
    };
    String::from_utf8(text).unwrap().lines().map(event).collect()
}

/// The code that a dial of this node ends with.
async fn refused(tls: &Tls, node: &Node) -> u64 {
    let endpoint = Endpoint::client((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = tls.client_config(tls::ALPN_LINK, Expect::Node(node.member().node_id));
    let error = match soon(endpoint.connect_with(config, node.local_addr(), tls::SERVER_NAME).unwrap()).await
    {
        Ok(connection) => soon(connection.closed()).await,
        Err(error) => error,
    };
    match error {
        ConnectionError::TransportError(error) => error.code.into(),
        ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("no code: {other:?}"),
    }
}

#[tokio::test]
async fn when_an_issuer_is_revoked_members_find_another_and_its_certificates_count_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    neighbours(&carol, 2).await;
    second_issuer(&alice, &[&bob, &carol]).await;
    soon(async {
        while issuer_of(&carol).await != "bob" {
            carol.control().trust_renew().await.unwrap();
        }
    })
    .await;
    bob.shutdown().await;
    let thief = stolen(&homes[0], &dir.path().join("x"), "mallory");
    neighbours(&alice, 1).await;
    let (to, from) = (carol.member().node_id, alice.member().node_id);
    alice.send(to, "before", Duration::from_secs(10)).await.unwrap();

    let request = RevokeRequest { node: "bob".into(), reason: "laptop stolen".into(), force: false };
    alice.control().trust_revoke(request).await.unwrap();
    assert_eq!(refused(&thief, &alice).await, REVOKED);
    // Hers would last for an hour; she asks alice at once.
    issued_by(&carol, "alice").await;
    for node in [&alice, &carol] {
        assert_eq!(issuers(node).await, 1);
    }
    alice.send(to, "after", Duration::from_secs(20)).await.unwrap();
    carol.send(from, "after", Duration::from_secs(20)).await.unwrap();
    assert_eq!(refused(&thief, &carol).await, REVOKED);
    for node in [carol, alice] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_rogue_issuers_certificate_for_anothers_name_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    neighbours(&carol, 2).await;
    second_issuer(&alice, &[&bob, &carol]).await;
    let bobs = bob.member().node_id;
    bob.shutdown().await;
    let rogue = stolen(&homes[0], &dir.path().join("x"), "carol");
    assert_eq!(refused(&rogue, &alice).await, DENIED);
    // The true one goes on.
    alice.send(carol.member().node_id, "you are carol", Duration::from_secs(10)).await.unwrap();
    for node in [carol, alice] {
        node.shutdown().await;
    }
    let named = |event: &&Audited| {
        matches!(event, Audited::Evidence { against, what }
            if against.as_str() == bobs.to_string() && what.as_str().starts_with("certified carol for "))
    };
    let events = audited(&dir.path().join("alice"));
    assert_eq!(events.iter().filter(named).count(), 1, "{events:?}");
}

#[tokio::test]
async fn a_log_that_cannot_be_begun_makes_no_issuer_and_the_next_offer_does() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first(dir.path(), config()).await;
    let bob_home = joined(&alice, dir.path(), "bob").await;
    let bob = build(&bob_home, config()).await;
    neighbours(&alice, 1).await;
    let in_the_way = bob_home.join("log.key");
    std::fs::create_dir(&in_the_way).unwrap();
    let error = alice.control().trust_issuer_add(IssuerRequest::new("bob")).await.unwrap_err();
    assert_ne!(error.code, ErrorCode::AlreadyInitialised, "{error:?}");
    assert_eq!((issuers(&alice).await, issuers(&bob).await), (1, 1), "nobody has heard of a grant");
    std::fs::remove_dir(&in_the_way).unwrap();
    second_issuer(&alice, &[&alice, &bob]).await;
    bob.control().invite(Duration::from_secs(60), 1).await.unwrap();
    bob.shutdown().await;
    alice.shutdown().await;
}

#[tokio::test]
async fn an_issuer_whose_log_fails_is_renewed_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    let lives = Lives::unlimited(Some(Duration::from_secs(6)), Duration::from_secs(90 * 24 * 3600));
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    create_mesh_with(&home, &mesh, &name, lives, None, UnixMillis::now()).unwrap();
    let alice = build(&home, config()).await;
    let bob_home = joined(&alice, dir.path(), "bob").await;
    let bob = build(&bob_home, config()).await;
    neighbours(&alice, 1).await;
    second_issuer(&alice, &[&bob]).await;
    issued_by(&bob, "bob").await;
    std::fs::remove_dir_all(bob_home.join("log")).unwrap();
    std::fs::write(bob_home.join("log"), b"in the way").unwrap();
    issued_by(&bob, "alice").await;
    assert!(bob.control().trust_status().await.unwrap().valid);
    bob.shutdown().await;
    alice.shutdown().await;
}

/// Says something of carol's roles at an issuer; all that she has then.
async fn say(issuer: &Node, add: &[&str], remove: &[&str]) -> Vec<String> {
    let [add, remove] = [add, remove].map(|roles| roles.iter().copied().map(str::to_owned).collect());
    let request = RolesRequest { node: "carol".into(), add, remove };
    issuer.control().trust_roles(request).await.unwrap().roles
}

/// Has the node's certificate renewed until this issuer did; the roles in each that it got on the way.
async fn renewed(node: &Node, issuer: &str) -> Vec<Vec<String>> {
    let mut seen = Vec::new();
    let renewing = async {
        loop {
            // An issuer that is asked again and again says no for a while, and one that just started isn't reached yet.
            if let Ok(certificate) = node.control().trust_renew().await {
                seen.push(certificate.roles);
                if certificate.issuer_name == issuer {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, renewing).await.unwrap();
    seen
}

/// Waits until this issuer's certificates have these roles.
async fn certified(node: &Node, issuer: &str, roles: &[&str]) {
    let certifying = async { while renewed(node, issuer).await.last().unwrap() != roles {} };
    tokio::time::timeout(LONG, certifying).await.unwrap();
}

#[tokio::test]
async fn a_role_given_or_taken_at_one_issuer_stands_in_what_the_other_renews() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("alice");
    // Renewed as often as this test asks: one in 3 s, and ten at once.
    let lives = Lives::unlimited(Some(Duration::from_secs(60)), Duration::from_secs(90 * 24 * 3600));
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    create_mesh_with(&home, &mesh, &name, lives, None, UnixMillis::now()).unwrap();
    let alice = build(&home, config()).await;
    let homes = [joined(&alice, dir.path(), "bob").await, joined(&alice, dir.path(), "carol").await];
    let bob = build(&homes[0], config()).await;
    let carol = build(&homes[1], config()).await;
    neighbours(&carol, 2).await;
    second_issuer(&alice, &[&bob, &carol]).await;

    // Given at alice: bob, who did not admit carol, reads it in alice's log.
    assert_eq!(say(&alice, &["ops", "db"], &[]).await, ["db", "ops"]);
    certified(&carol, "bob", &["db", "ops"]).await;
    let (held, kept) = (homes[1].join(home::MEMBERSHIP), dir.path().join("membership"));
    std::fs::copy(&held, &kept).unwrap();
    // Taken at bob, who never gave it: alice, who did, certifies it no more.
    assert_eq!(say(&bob, &[], &["ops"]).await, ["db"]);
    certified(&carol, "alice", &["db"]).await;
    assert_eq!(say(&alice, &[], &["db"]).await, [""; 0]);
    certified(&carol, "bob", &[]).await;

    // It stays so, at each: also where bob starts anew, who has said otherwise himself, before he has asked alice anything.
    bob.shutdown().await;
    let bob = build(&homes[0], config()).await;
    let nothing = |seen: &[Vec<String>]| seen.iter().all(Vec::is_empty);
    for issuer in ["bob", "alice"] {
        let seen = renewed(&carol, issuer).await;
        assert!(nothing(&seen), "at {issuer}: {seen:?}");
    }
    // And where she comes with a certificate that has the roles.
    carol.shutdown().await;
    std::fs::copy(&kept, &held).unwrap();
    let carol = build(&homes[1], config()).await;
    for issuer in ["bob", "alice"] {
        let seen = renewed(&carol, issuer).await;
        assert!(nothing(&seen), "at {issuer}: {seen:?}");
    }
    for node in [carol, bob, alice] {
        node.shutdown().await;
    }
}
