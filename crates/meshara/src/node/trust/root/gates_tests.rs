use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshara_trust::root::{JournalError, StandingGrants};

use super::super::signing::SigningError;
use super::*;
use crate::node::sessions::tests::build;
use crate::{Node, create_mesh};

/// The node that made a mesh, alone: its key is the root.
async fn founder(dir: &Path) -> Node {
    let home = dir.join("alice");
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    create_mesh(&home, &mesh, &name, None, UnixMillis::now()).unwrap();
    build(&home).await
}

fn held(node: &Node) -> RootDocument {
    node.inner.sets.view(|gossip| gossip.root().cloned()).unwrap()
}

/// A later end, and nothing else.
fn rotation(held: &RootDocument) -> (RootDocument, StatementFile) {
    let next = held.following(UnixMillis::now().plus(Duration::from_millis(1)), held.life());
    // The founder stays the root, so what that key signed stands without being named.
    let document = RootDocument { grants: Some(StandingGrants::default()), ..next };
    let file = StatementFile::root(&document).unwrap();
    (document, file)
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn a_phase_contradicts_no_version_that_was_signed_unless_the_operator_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let alice = founder(dir.path()).await;
    let (inner, held) = (&alice.inner, held(&alice));
    let (home, keys) = (inner.sets.home(), inner.sets.keys());
    // The operator signed a rotation and handed it out; others sign beside it.
    let (_, file) = rotation(&held);
    let signature = signing::sign(&file, keys.root().unwrap(), &JournalFile::of_home(home), false).unwrap();
    let proposed = proposals::write(home, &file, &[signature], 2).unwrap();
    let directory = proposed.file.parent().unwrap();
    let before = contents(directory);
    assert_eq!(before.len(), 2);

    let phase = RootDocument { phase: held.phase.next().unwrap(), ..rotation(&held).0 };
    let entering = StatementFile::root(&phase).unwrap();
    let error = sign(inner, &held, &phase, &entering, false).unwrap_err();
    let contradiction = JournalError::Contradiction { word: "root", number: 2 };
    assert!(
        matches!(&error, PublishError::Signing(SigningError::Journal(error)) if *error == contradiction),
        "{error}"
    );
    assert_eq!(contents(directory), before);
    let (_, signatures) = sign(inner, &held, &phase, &entering, true).unwrap();
    assert_eq!(signatures.len(), 1);
    assert_eq!(contents(directory), before, "what was handed out stays, to be looked at");
    alice.shutdown().await;
}

#[tokio::test]
async fn what_was_measured_under_another_version_lets_the_mesh_into_no_phase() {
    let dir = tempfile::tempdir().unwrap();
    let alice = founder(dir.path()).await;
    let inner = &alice.inner;
    let measured = PhaseInfo { ready: true, ..measure(inner).await.unwrap() };
    // Another version comes meanwhile.
    let (_, file) = rotation(&held(&alice));
    let signature = file.sign(inner.sets.keys().root().unwrap()).unwrap();
    assert_eq!(publish::publish(inner, file, vec![signature]).await.unwrap().number, 2);
    let error = enter(inner, measured, false).await.unwrap_err();
    assert!(matches!(error, AdvanceError::Changed { measured: 1, held: 2 }), "{error}");
    assert_eq!((held(&alice).version, held(&alice).phase), (2, Phase::Founder));
    alice.shutdown().await;
}
