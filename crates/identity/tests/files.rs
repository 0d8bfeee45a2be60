//! Files of a home: sealing, damage, permissions, versions. No damaged file makes anything panic.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use meshara_identity::home::{self, ISSUER_STATE, KEYSTORE, MEMBERSHIP, ROOT_KEY};
use meshara_identity::sealed::{self, FileKind};
use meshara_identity::*;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

fn make(home: &Path, passphrase: Option<&Passphrase>) -> Identity {
    create_mesh(home, &"lab".parse().unwrap(), &"alice".parse().unwrap(), passphrase, NOW).unwrap()
}

fn file_error(error: HomeError) -> FileError {
    match error {
        HomeError::File(error) => error,
        HomeError::Issuer(IssuerError::Store(issuer::StoreError::File(error))) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_clock_need_not_stand_at_a_whole_second() {
    let dir = TempDir::new().unwrap();
    let now = UnixMillis(NOW.0 + 999);
    create_mesh(dir.path(), &"lab".parse().unwrap(), &"alice".parse().unwrap(), None, now).unwrap();
}

#[test]
fn an_identity_survives_a_restart_and_is_never_overwritten() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("deep/home");
    let made = make(&home, None);
    let loaded = home::load(&home, None).unwrap();
    assert_eq!(loaded.node.node_id(), made.node.node_id());
    assert_eq!(loaded.membership.member(), made.membership.member());
    for file in fs::read_dir(&home).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        assert!(!file.file_name().to_string_lossy().contains(".new-"));
    }
    let before = fs::read(home.join(KEYSTORE)).unwrap();
    let again = create_mesh(&home, &"x".parse().unwrap(), &"y".parse().unwrap(), None, NOW).unwrap_err();
    assert_eq!(file_error(again), FileError::AlreadyExists { path: home.join(MEMBERSHIP) });
    assert_eq!(fs::read(home.join(KEYSTORE)).unwrap(), before);
    assert_eq!(
        sealed::create(&home.join(KEYSTORE), FileKind::Keystore, b"x", None),
        Err(FileError::AlreadyExists { path: home.join(KEYSTORE) })
    );
}

#[test]
fn an_interrupted_init_is_finished_by_the_next_one() {
    use home::ISSUER_KEY;
    let order = [KEYSTORE, ROOT_KEY, ISSUER_KEY, ISSUER_STATE, MEMBERSHIP];
    let passphrase = Passphrase::new(b"right").unwrap();
    for written in 0..order.len() {
        let dir = TempDir::new().unwrap();
        let home = dir.path();
        let first = make(home, Some(&passphrase));
        for file in &order[written..] {
            fs::remove_file(home.join(file)).unwrap();
        }
        let kept: Vec<_> = order[..written].iter().map(|file| fs::read(home.join(file)).unwrap()).collect();
        if written > 2 {
            let other =
                create_mesh(home, &"x".parse().unwrap(), &"a".parse().unwrap(), Some(&passphrase), NOW);
            assert!(matches!(other.unwrap_err(), HomeError::OtherMesh { .. }), "{written} files");
        }
        if written > 0 {
            let unsealed = create_mesh(home, &"lab".parse().unwrap(), &"alice".parse().unwrap(), None, NOW);
            let path = home.join(KEYSTORE);
            assert_eq!(file_error(unsealed.unwrap_err()), FileError::PassphraseRequired { path });
        }
        let made = make(home, Some(&passphrase));
        assert_eq!(made.node.node_id() == first.node.node_id(), written > 0);
        let same_root = made.membership.anchors().root() == first.membership.anchors().root();
        assert_eq!(same_root, written > 1);
        for (file, bytes) in order.iter().zip(kept).filter(|(file, _)| **file != ISSUER_STATE) {
            assert_eq!(fs::read(home.join(file)).unwrap(), bytes, "{file} changed");
        }
        home::load(home, Some(&passphrase)).unwrap();
        assert!(home::open_issuer(home, made.membership.anchors(), Some(&passphrase)).unwrap().is_some());
    }
}

#[test]
fn a_mesh_begins_from_an_imported_root_and_a_home_with_an_issuer_does_not_join() {
    let dir = TempDir::new().unwrap();
    let (one, two, backup) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("backup"));
    let passphrase = Passphrase::new(b"p").unwrap();
    let made = make(&one, None);
    home::export_root(&one, None, &backup, &passphrase).unwrap();
    home::import_root(&two, None, &backup, &passphrase).unwrap();
    let again = make(&two, None);
    assert_eq!(again.membership.anchors().root(), made.membership.anchors().root());
    let issuer = home::open_issuer(&two, again.membership.anchors(), None).unwrap().unwrap();
    let ticket = issuer.invite(std::time::Duration::from_secs(60), 1, Vec::new(), NOW).unwrap().ticket;
    fs::remove_file(one.join(MEMBERSHIP)).unwrap();
    let join = home::begin_join(&one, ticket, "bob".parse().unwrap(), None, NOW).unwrap_err();
    assert_eq!(file_error(join), FileError::AlreadyExists { path: one.join(home::ISSUER_KEY) });
}

#[test]
fn passphrases() {
    let dir = TempDir::new().unwrap();
    let (home, backup) = (dir.path().join("home"), dir.path().join("backup"));
    let right = Passphrase::new(b"right\n").unwrap();
    let wrong = Passphrase::new(b"wrong").unwrap();
    let made = make(&home, Some(&right));
    let path = home.join(MEMBERSHIP);
    assert_eq!(
        file_error(home::load(&home, None).unwrap_err()),
        FileError::PassphraseRequired { path: path.clone() }
    );
    assert_eq!(file_error(home::load(&home, Some(&wrong)).unwrap_err()), FileError::WrongPassphrase { path });
    let loaded = home::load(&home, Some(&right)).unwrap();
    assert_eq!(loaded.node.node_id(), made.node.node_id());
    assert!(home::open_issuer(&home, loaded.membership.anchors(), Some(&right)).unwrap().is_some());

    home::export_root(&home, Some(&right), &backup, &wrong).unwrap();
    let again = home::export_root(&home, Some(&right), &backup, &wrong).unwrap_err();
    assert_eq!(file_error(again), FileError::AlreadyExists { path: backup.clone() });
    let other = dir.path().join("other");
    let root = home::import_root(&other, None, &backup, &wrong).unwrap();
    assert_eq!(root.public(), made.membership.anchors().root());
    assert_eq!(home::load_root(&other, None).unwrap().public(), root.public());
    assert_eq!(
        file_error(home::load_root(&other, Some(&right)).unwrap_err()),
        FileError::NotSealed { path: other.join(ROOT_KEY) }
    );
    assert!(Passphrase::new(b"\r\n").is_none());
}

#[test]
fn damage_is_an_exact_error() {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    make(home, None);
    let path = home.join(KEYSTORE);
    let good = fs::read(&path).unwrap();
    let load = || file_error(home::load(home, None).unwrap_err());
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        assert!(matches!(load(), FileError::Damaged { .. }), "byte {position}: {:?}", load());
        fs::write(&path, &good[..position]).unwrap();
        assert!(matches!(load(), FileError::Damaged { .. }), "cut at {position}");
    }
    let newer = {
        let mut bytes = good[..good.len() - 32].to_vec();
        bytes[9] = 2;
        let check = blake3::hash(&bytes);
        [&bytes, check.as_bytes().as_slice()].concat()
    };
    fs::write(&path, newer).unwrap();
    assert_eq!(load(), FileError::UnknownVersion { path: path.clone(), found: 2, supported: 1 });
    fs::copy(home.join(ROOT_KEY), &path).unwrap();
    assert_eq!(load(), FileError::WrongKind { path: path.clone(), expected: 1, found: 4 });
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(load(), FileError::Permissions { path: path.clone(), mode: 0o640 });
    assert!(load().to_string().contains("chmod 600"));
    fs::remove_file(&path).unwrap();
    assert_eq!(load(), FileError::Missing { path: path.clone() });
    assert!(load().to_string().starts_with(&*path.to_string_lossy()));
}

#[test]
fn a_header_cannot_ask_for_gigabytes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keystore");
    let passphrase = Passphrase::new(b"x").unwrap();
    sealed::create(&path, FileKind::Keystore, b"secret", Some(&passphrase)).unwrap();
    let good = fs::read(&path).unwrap();
    assert!(!good.windows(6).any(|window| window == b"secret"));
    // Memory, passes and lanes follow the 11 bytes of the head; each too high and too low, the checksum right.
    for (offset, value) in [(11, 4 << 20), (11, 8), (15, 1 << 20), (15, 1), (19, 64), (19, 0)] {
        let mut bytes = good[..good.len() - 32].to_vec();
        bytes[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(value));
        let check = blake3::hash(&bytes);
        fs::write(&path, [&bytes, check.as_bytes().as_slice()].concat()).unwrap();
        assert_eq!(
            sealed::read(&path, FileKind::Keystore, Some(&passphrase)).unwrap_err(),
            FileError::Damaged { path: path.clone(), what: "key derivation cost out of range" }
        );
    }
}

#[test]
fn files_of_two_nodes_do_not_mix() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    make(&one, None);
    make(&two, None);
    fs::copy(two.join(KEYSTORE), one.join(KEYSTORE)).unwrap();
    assert!(matches!(home::load(&one, None).unwrap_err(), HomeError::OtherNode { .. }));
    let anchors = home::load(&two, None).unwrap().membership.anchors().clone();
    assert!(matches!(
        home::open_issuer(&one, &anchors, None).unwrap_err(),
        HomeError::Issuer(IssuerError::WrongGrant)
    ));
    fs::copy(one.join(ISSUER_STATE), two.join(ISSUER_STATE)).unwrap();
    assert!(matches!(
        home::open_issuer(&two, &anchors, None).unwrap_err(),
        HomeError::Issuer(IssuerError::Store(issuer::StoreError::OtherMesh { .. }))
    ));
}

#[test]
fn a_damaged_issuer_store_never_panics_the_caller() {
    let dir = TempDir::new().unwrap();
    let home = dir.path();
    let alice = make(home, None);
    let anchors = alice.membership.anchors();
    let path = home.join(ISSUER_STATE);
    let good = fs::read(&path).unwrap();
    let open = || home::open_issuer(home, anchors, None);
    assert!(open().unwrap().is_some());

    let mut damaged = 0;
    // The header densely, then samples over the whole file.
    let positions = (0..512).step_by(3).chain((512..good.len()).step_by(good.len() / 64));
    for position in positions {
        let mut bad = good.clone();
        bad[position] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        match open() {
            // Unused pages and padding do not matter; a used page's damage is found by its checksum.
            Ok(issuer) => assert_eq!(issuer.unwrap().members().unwrap().len(), 1, "byte {position}"),
            Err(error) => {
                let error = file_error(error);
                let exact = matches!(error, FileError::Damaged { .. } | FileError::UnknownVersion { .. });
                assert!(exact, "byte {position}: {error}");
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
    for length in [0, 1, 100, 4096, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(file_error(open().unwrap_err()), FileError::Damaged { .. }), "cut at {length}");
    }
    fs::write(&path, vec![0xaa; good.len()]).unwrap();
    assert!(matches!(file_error(open().unwrap_err()), FileError::Damaged { .. }));
    fs::remove_file(&path).unwrap();
    assert_eq!(file_error(open().unwrap_err()), FileError::Missing { path });
}

const FROZEN: [(&str, Option<&[u8]>); 2] =
    [("file-plain.bin", None), ("file-sealed.bin", Some(b"open sesame"))];

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Files that were written once and must be read for ever. For a new version, `MESHARA_FREEZE=1 cargo test -p meshara-identity frozen`
/// writes them anew.
#[test]
fn frozen_files_are_read_and_have_the_form_of_new_ones() {
    let dir = TempDir::new().unwrap();
    for (name, passphrase) in FROZEN {
        let (path, new) = (dir.path().join(name), dir.path().join("new"));
        let passphrase = passphrase.map(|bytes| Passphrase::new(bytes).unwrap());
        sealed::create(&new, FileKind::Keystore, b"frozen content", passphrase.as_ref()).unwrap();
        if std::env::var_os("MESHARA_FREEZE").is_some() {
            fs::copy(&new, fixture(name)).unwrap();
        }
        fs::copy(fixture(name), &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let read = sealed::read(&path, FileKind::Keystore, passphrase.as_ref()).unwrap();
        assert_eq!(read.as_slice(), b"frozen content");
        assert_eq!(fs::metadata(&path).unwrap().len(), fs::metadata(&new).unwrap().len(), "{name}");
        fs::remove_file(&new).unwrap();
    }
}

#[test]
fn what_is_written_can_be_read_and_what_can_not_be_read_is_not_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("membership");
    let passphrase = Passphrase::new(b"correct horse").unwrap();
    let largest = vec![7; membership::STORED_MAX];
    sealed::create(&path, FileKind::Membership, &largest, None).unwrap();
    assert_eq!(*sealed::read(&path, FileKind::Membership, None).unwrap(), largest);
    sealed::replace(&path, FileKind::Membership, &largest, Some(&passphrase)).unwrap();
    assert_eq!(*sealed::read(&path, FileKind::Membership, Some(&passphrase)).unwrap(), largest);
    let longer = [&largest[..], &[7]].concat();
    let refused = sealed::replace(&path, FileKind::Membership, &longer, Some(&passphrase)).unwrap_err();
    assert!(matches!(&refused, FileError::TooLarge { path: named, .. } if *named == path), "{refused}");
    assert_eq!(*sealed::read(&path, FileKind::Membership, Some(&passphrase)).unwrap(), largest);
}
