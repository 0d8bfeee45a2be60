use std::fs;

use meshara_identity::{MeshName, create_mesh, home};
use meshara_trust::log::{Ended, Tiles};

use super::*;

fn ended(by: u64) -> Entry {
    Entry::Ended(Ended { node: NodeId([by as u8; 32]), by, at: UnixMillis(by) })
}

#[test]
fn after_a_write_that_failed_it_is_opened_again_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mesh, name): (MeshName, _) = ("test".parse().unwrap(), "alice".parse().unwrap());
    let made = create_mesh(dir.path(), &mesh, &name, None, UnixMillis::now()).unwrap();
    let issuer = home::open_issuer(dir.path(), made.membership.anchors(), None).unwrap().unwrap();
    let own = OwnLog::open(dir.path(), &issuer, &made.membership, None).unwrap();
    own.append(&[ended(1)]).unwrap();
    let size = own.publish().map(|note| note.text().lines().nth(1).unwrap().parse::<u64>().unwrap()).unwrap();
    assert_eq!(own.append(&[ended(2)]).unwrap()[0].index(), size);

    // The disk fails: where the write-ahead file was, none can be written.
    let log = dir.path().join(DIRECTORY);
    let names = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
    let wal = names.filter(|path| path.to_string_lossy().contains("wal")).max().unwrap();
    let away = dir.path().join("away");
    fs::rename(&wal, &away).unwrap();
    fs::create_dir(&wal).unwrap();
    let failed = own.append(&[ended(3)]).unwrap_err();
    // What is missing is found as it is opened again.
    assert!(matches!(failed, LogError::Missing { .. }), "{failed:?}");
    // Nothing is said before it could be opened again.
    assert!(own.append(&[ended(4)]).is_err() && own.publish().is_err());
    assert!(own.checkpoint().text().contains(&format!("\n{size}\n")), "what was signed is still told");

    fs::remove_dir(&wal).unwrap();
    fs::rename(&away, &wal).unwrap();
    assert_eq!(own.append(&[ended(5)]).unwrap()[0].index(), size + 1);
    own.publish().unwrap();
    let found = own.with(|log| Ok((log.size(), Tiles::new(log.files(), log.size()).entries(0)?))).unwrap();
    let last: Vec<Entry> = found.1.iter().map(|bytes| Entry::decode(bytes).unwrap()).collect();
    assert_eq!((found.0, &last[size as usize..]), (size + 2, &[ended(2), ended(5)][..]));
}
