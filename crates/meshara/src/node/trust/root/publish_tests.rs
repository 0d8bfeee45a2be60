use std::path::Path;

use meshara_identity::{GrantOffer, IssuerKey, Lives, NodeId, RootKey, create_mesh};
use meshara_trust::sets::Signer;

use super::*;
use crate::Node;
use crate::node::sessions::tests::build;

const BOB: NodeId = NodeId([2; 32]);
const CAROL: NodeId = NodeId([3; 32]);

/// The node that made a mesh, alone, and what it goes by.
async fn founder(dir: &Path) -> (Node, RootDocument) {
    let home = dir.join("alice");
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    create_mesh(&home, &mesh, &name, None, UnixMillis::now()).unwrap();
    let alice = build(&home).await;
    let held = alice.inner.sets.view(|gossip| gossip.root().cloned()).unwrap();
    (alice, held)
}

/// A version with this key as root, and its statement.
fn handed_to(inner: &Inner, held: &RootDocument, key: &RootKey) -> RootDocument {
    let now = UnixMillis::now();
    let signer = Signer { name: "anna".parse().unwrap(), key: key.public().clone() };
    let grants = Some(inner.standing.anchors().standing(now));
    RootDocument { root: Quorum::new(1, vec![signer]).unwrap(), grants, ..held.following(now, held.life()) }
}

fn grant_of(issuer: NodeId, number: u64, held: &RootDocument) -> StatementFile {
    let offer = GrantOffer::new("test".parse().unwrap(), issuer, number, Lives::default(), UnixMillis::now());
    let key = IssuerKey::generate().unwrap();
    let statement = offer.statement(key.ca_certificate(&offer).unwrap(), Some(held.mesh)).unwrap();
    StatementFile::grant(&statement).unwrap()
}

#[tokio::test]
async fn a_grant_of_new_signers_counts_as_soon_as_their_root_document_does() {
    let dir = tempfile::tempdir().unwrap();
    let (alice, held) = founder(dir.path()).await;
    let inner = &alice.inner;
    let (anna, bert) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
    let second = handed_to(inner, &held, &anna);
    let mut signed = SignedRoot::new(second.clone());
    signed.approve(inner.sets.keys().root().unwrap()).unwrap();
    signed.approve(&anna).unwrap();
    // As it comes from a neighbour; on this runtime nothing else runs before this test waits for something.
    inner.sets.input(inner, |gossip, now| gossip.publish_root(now, signed)).unwrap();
    let file = grant_of(BOB, 2, &held);
    let signature = file.sign(&anna).unwrap();
    let published = publish(inner, file, vec![signature]).await.unwrap();
    assert_eq!(published, Published { kind: "grant", number: 2, known: false });
    assert!(inner.standing.anchors().issuers(UnixMillis::now()).contains(&BOB));

    // And as it is published here: when that returns, grants are judged by it.
    let third = handed_to(inner, &second, &bert);
    let file = StatementFile::root(&third).unwrap();
    let signatures = [&anna, &bert].map(|key| file.sign(key).unwrap()).to_vec();
    assert_eq!(publish(inner, file, signatures).await.unwrap().number, 3);
    let former = grant_of(CAROL, 3, &held);
    let signature = former.sign(&anna).unwrap();
    let error = publish(inner, former, vec![signature]).await.unwrap_err();
    assert!(matches!(error, PublishError::Offline(OfflineError::UnknownKey { .. })), "{error}");
    let file = grant_of(CAROL, 3, &held);
    let signature = file.sign(&bert).unwrap();
    assert_eq!(publish(inner, file, vec![signature]).await.unwrap().number, 3);
    let issuers = inner.standing.anchors().issuers(UnixMillis::now());
    assert!(issuers.contains(&BOB) && issuers.contains(&CAROL));
    alice.shutdown().await;
}
