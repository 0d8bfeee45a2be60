//! Routing keys by inclusion: once the log has a witnessed head, nodes tell each other proofs in place of certificates, and route by them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::time::{Duration, Instant};

use common::{build, config, first_with, joined, reached};
use meshara::api::{Control, LogControl, PolicyControl, RevokeRequest, TrustControl};
use meshara::{Lives, Node, UnixMillis, create_mesh_with};

mod common;

/// The shortest life for which heads are named: every 5 s. Renewed after 27 to 33 s, or when asked.
const LIFE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Heads come every 5 s, and a machine may be under load.
const PATIENCE: Duration = Duration::from_secs(120);

async fn metric(node: &Node, name: &str) -> u64 {
    let text = node.control().metrics_text().await.unwrap();
    let named = |line: &&str| line.split(' ').next() == Some(name);
    let line = text.lines().find(named).unwrap_or_else(|| panic!("no metric {name}"));
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

/// How many members a node believes by proof, and how many by certificate.
async fn members(node: &Node) -> (u64, u64) {
    (metric(node, "meshara_members_proved").await, metric(node, "meshara_members_certified").await)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn all_proved(nodes: &[&Node]) {
    for node in nodes {
        let name = node.member().name.to_string();
        until(&format!("{name} believes everybody by proof"), async || {
            members(node).await == (nodes.len() as u64, 0)
        })
        .await;
    }
}

#[tokio::test]
async fn members_tell_proofs_in_place_of_certificates_and_route_by_them() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first_with(dir.path(), LIFE).await;
    let mut nodes = Vec::new();
    for name in ["bob", "carol"] {
        let mut events = alice.events();
        let node = build(&joined(&alice, dir.path(), name).await, config()).await;
        reached(&mut events, node.member().node_id).await;
        nodes.push(node);
    }
    let (bob, carol) = (&nodes[0], &nodes[1]);
    all_proved(&[&alice, bob, carol]).await;
    bob.send(carol.member().node_id, "by proof", Duration::from_secs(20)).await.unwrap();

    // A renewed certificate is not told: its proof is, under a later head. A node that gets none tells the certificate after 15 s.
    let heads = metric(&alice, "meshara_overlay_heads_taken_total").await;
    let before = carol.control().trust_status().await.unwrap().certificate.serial;
    carol.control().trust_renew().await.unwrap();
    assert_ne!(carol.control().trust_status().await.unwrap().certificate.serial, before);
    let renewed = Instant::now();
    while renewed.elapsed() < Duration::from_secs(17) {
        for node in [&alice, bob, carol] {
            assert_eq!(members(node).await, (3, 0), "a certificate was told");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(metric(&alice, "meshara_overlay_heads_taken_total").await > heads);
    // The log has every certificate that is in use, those that are proved too.
    until("an audit finds everybody's, and carol's two", async || {
        let audit = alice.control().trust_audit().await.unwrap();
        assert!(audit.problems.is_empty(), "{audit:?}");
        audit.ok && audit.certificates >= 4
    })
    .await;

    // A newcomer gets the heads from its neighbours, before it knows anybody whom they could be asked of.
    let dave = build(&joined(&alice, dir.path(), "dave").await, config()).await;
    until("dave believes three by proof", async || members(&dave).await.0 >= 3).await;
    dave.send(carol.member().node_id, "hello", Duration::from_secs(20)).await.unwrap();
    all_proved(&[&alice, bob, carol, &dave]).await;

    // Who is revoked is out, whatever proves its key.
    let request = RevokeRequest { node: "carol".into(), reason: "gone".into(), force: false };
    alice.control().trust_revoke(request).await.unwrap();
    for node in [&alice, bob, &dave] {
        until("carol is out", async || members(node).await == (3, 0)).await;
    }
    for node in [&alice, bob, &dave] {
        for counter in ["bad_control", "records_forged", "heads_refused"] {
            let name = format!("meshara_overlay_{counter}_total");
            assert_eq!(metric(node, &name).await, 0, "{counter} of {}", node.member().name);
        }
    }
    dave.shutdown().await;
    for node in nodes {
        node.shutdown().await;
    }
    alice.shutdown().await;
}

#[tokio::test]
async fn where_certificates_are_too_short_or_nobody_witnesses_they_are_told_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let alice = first_with(dir.path(), LIFE).await;
    // A mesh of one has no witness.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(members(&alice).await, (0, 1));
    assert_eq!(metric(&alice, "meshara_routing_heads").await, 0);
    alice.shutdown().await;
    let home = dir.path().join("short");
    let lives = Lives::unlimited(Some(LIFE / 2), 90 * DAY);
    let (mesh, name) = ("test".parse().unwrap(), "short".parse().unwrap());
    create_mesh_with(&home, &mesh, &name, lives, None, UnixMillis::now()).unwrap();
    let short = build(&home, config()).await;
    let mut events = short.events();
    let other = build(&joined(&short, dir.path(), "other").await, config()).await;
    reached(&mut events, other.member().node_id).await;
    until("the log is witnessed", async || short.control().trust_status().await.unwrap().log.witnesses > 0)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((members(&short).await, members(&other).await), ((0, 2), (0, 2)));
    other.shutdown().await;
    short.shutdown().await;
}
