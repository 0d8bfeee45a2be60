use std::fs;

use meshara_identity::{Membership, create_mesh, home};

use super::*;
use crate::UnixMillis;
use crate::node::trust::log::OwnLog;

/// The word of the issuer of a home on the keys of a log that is begun now.
fn statement(home: &Path, own: &Membership) -> LogStatement {
    let issuer = home::open_issuer(home, own.anchors(), None).unwrap().unwrap();
    OwnLog::open(home, &issuer, own, None).unwrap().statement().clone()
}

#[test]
fn an_issuer_that_signed_for_two_logs_and_one_whose_evidence_is_damaged_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let [alice, copy, kept] = ["alice", "copy", "kept"].map(|name| dir.path().join(name));
    let (mesh, name) = ("test".parse().unwrap(), "alice".parse().unwrap());
    let made = create_mesh(&alice, &mesh, &name, None, UnixMillis::now()).unwrap();
    fs::create_dir(&copy).unwrap();
    for file in [home::KEYSTORE, home::MEMBERSHIP, home::ISSUER_KEY, home::ISSUER_STATE] {
        fs::copy(alice.join(file), copy.join(file)).unwrap();
    }
    let [first, second] = [&alice, &copy].map(|home| statement(home, &made.membership));
    let (anchors, issuer) = (made.membership.anchors(), made.membership.member().node_id);

    let others = Others::open(kept.clone(), anchors);
    assert!(!others.is_distrusted(&issuer), "nothing is known of it");
    others.learn(&first, anchors).unwrap();
    assert!(!others.is_distrusted(&issuer));
    for _ in 0..2 {
        assert_eq!(others.learn(&second, anchors).unwrap_err(), LearnError::OtherKeys);
        assert!(others.is_distrusted(&issuer));
    }
    assert_eq!(others.contradicted(), [issuer]);
    assert_eq!(others.contradicted(), []);

    drop(others);
    // In a later life, too; and what can't be read may be evidence.
    let again = Others::open(kept.clone(), anchors);
    assert!(again.is_distrusted(&issuer) && again.get(&issuer).is_some());
    assert_eq!(again.contradicted(), []);
    drop(again);
    fs::write(kept.join(issuer.to_string()).join(OTHER_KEYS), b"rubbish").unwrap();
    let damaged = Others::open(kept, anchors);
    assert!(damaged.is_distrusted(&issuer) && damaged.get(&issuer).is_none());
}
