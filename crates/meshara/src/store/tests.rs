//! The store on a real file: what is answered survives, and damage and full disks are exact errors.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use meshara_identity::NodeId;
use meshara_messaging::{FlowRow, InboxTotals, MarkRow, MessageId, OutboxRow};
use redb::{BackendError, StorageBackend, backends::FileBackend};

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn home() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.redb");
    (folder, path)
}

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn inbox_row(arrival: u64, size: usize) -> InboxRow {
    let id = MessageId::from_bytes([arrival as u8; 16]);
    InboxRow {
        arrival,
        from: node(1),
        id,
        sent_at_unix_ms: 1_000 + arrival,
        body: Bytes::from(vec![7; size]),
    }
}

fn outbox_row(to: u8, seq: u64) -> OutboxRow {
    let id = MessageId::from_bytes([seq as u8; 16]);
    OutboxRow { to: node(to), seq, id, sent_at_unix_ms: seq, body: Bytes::from(vec![to; 20]) }
}

fn id(n: u8) -> MessageId {
    MessageId::from_bytes([n; 16])
}

fn inbox(rows: impl IntoIterator<Item = u64>) -> Vec<StoreOp> {
    rows.into_iter().map(|arrival| StoreOp::InboxPut(inbox_row(arrival, 10))).collect()
}

const ALL: TakeLimit = TakeLimit { messages: usize::MAX, bytes: usize::MAX };

/// A store with something in every table, closed.
fn filled(path: &Path) {
    runtime().block_on(async {
        let (store, _) = Store::open(path).unwrap();
        let mut ops = inbox(1..=300);
        ops.extend((1..=200).map(|seq| StoreOp::OutboxPut(outbox_row(2, seq))));
        ops.push(StoreOp::OutboxFlow(FlowRow { to: node(2), incarnation: 5, next_seq: 201 }));
        ops.push(StoreOp::Mark(MarkRow { from: node(1), incarnation: 6, stored: 300 }));
        store.commit(ops).await.unwrap();
        store.put(Bucket::Services, "ssh", &"127.0.0.1:22".to_owned()).await.unwrap();
        store.close().await;
    });
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, empty) = Store::open(&path).unwrap();
        assert_eq!(empty, Snapshot::default());
        let flow = FlowRow { to: node(2), incarnation: 9, next_seq: 6 };
        let mark = MarkRow { from: node(1), incarnation: 8, stored: 2 };
        let mut ops: Vec<_> = (1..=5).map(|seq| StoreOp::OutboxPut(outbox_row(2, seq))).collect();
        ops.extend([
            StoreOp::OutboxPut(outbox_row(1, 1)),
            StoreOp::OutboxPut(outbox_row(3, 1)),
            StoreOp::OutboxFlow(flow),
            StoreOp::OutboxSettle { to: node(2), through: 3 },
            StoreOp::Mark(mark),
        ]);
        ops.extend(inbox([1, 2]));
        store.commit(ops).await.unwrap();
        store.close().await;

        let (_store, snapshot) = Store::open(&path).unwrap();
        let outbox = vec![outbox_row(1, 1), outbox_row(2, 4), outbox_row(2, 5), outbox_row(3, 1)];
        let inbox = InboxTotals { messages: 2, bytes: 20, last_arrival: 2 };
        assert_eq!(snapshot, Snapshot { outbox, flows: vec![flow], marks: vec![mark], inbox });
    });
}

#[test]
fn unread_messages_are_taken_once_in_order_and_within_limits() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        let mut arrivals = store.arrivals();
        store.commit(inbox(1..=5)).await.unwrap();
        assert_eq!(*arrivals.borrow_and_update(), 5);
        let taken = |messages, bytes| {
            let store = store.clone();
            async move {
                let rows = store.take_unread(TakeLimit { messages, bytes }).await.unwrap();
                rows.into_iter().map(|row| row.arrival).collect::<Vec<_>>()
            }
        };
        assert_eq!(taken(2, 1000).await, [1, 2]);
        assert_eq!(taken(9, 25).await, [3, 4], "30 bytes would exceed 25");
        assert_eq!(taken(9, 1).await, [5], "the first is always given");
        assert_eq!(taken(9, 9).await, [0; 0]);
        store.commit(vec![StoreOp::InboxPut(inbox_row(6, 3))]).await.unwrap();
        assert!(arrivals.has_changed().unwrap());
        assert_eq!(store.take_unread(ALL).await.unwrap(), [inbox_row(6, 3)]);
        store.close().await;
        let (_store, snapshot) = Store::open(&path).unwrap();
        assert_eq!(snapshot.inbox, InboxTotals::default());
    });
}

#[test]
fn records_are_typed_and_bounded() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        let bucket = Bucket::Services;
        store.put(bucket, "ssh", &("127.0.0.1", 22_u16)).await.unwrap();
        store.put(bucket, "http", &("127.0.0.1", 80_u16)).await.unwrap();
        store.put(Bucket::Settings, "ssh", &1_u8).await.unwrap();
        type Service = (String, u16);
        assert_eq!(store.get::<Service>(bucket, "ssh").await, Ok(Some(("127.0.0.1".into(), 22))));
        assert_eq!(store.get::<Service>(bucket, "none").await, Ok(None));
        let names: Vec<_> =
            store.list::<Service>(bucket).await.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(names, ["http", "ssh"]);
        assert_eq!(store.remove(bucket, "ssh").await, Ok(true));
        assert_eq!(store.remove(bucket, "ssh").await, Ok(false));
        assert!(matches!(
            store.get::<Service>(Bucket::Settings, "ssh").await,
            Err(StoreError::Damaged { .. })
        ));
        assert!(matches!(
            store.get::<u8>(bucket, "http").await,
            Err(StoreError::Damaged { path: named, detail })
                if named == path && detail.starts_with("record \"http\" of services") && detail.ends_with("bytes too many")
        ));
        let size = tables::VALUE_MAX + 3;
        let large = vec![0_u8; tables::VALUE_MAX];
        assert_eq!(
            store.put(bucket, "x", &large).await,
            Err(StoreError::RecordTooLarge { bucket, key: "x".into(), size })
        );
        let key = "k".repeat(tables::KEY_MAX + 1);
        assert!(matches!(
            store.put(bucket, &key, &1_u8).await,
            Err(StoreError::RecordTooLarge { size: 257, .. })
        ));
    });
}

#[test]
fn requests_that_wait_share_a_transaction() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        let writes = (0..100_u32).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put(Bucket::Settings, &n.to_string(), &n).await })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap().unwrap();
        }
        assert_eq!(store.list::<u32>(Bucket::Settings).await.unwrap().len(), 100);
        store.close().await;
        let (_, batches, _) = Opener::new(&path).open_checked().unwrap();
        assert!(batches < 50, "{batches} transactions for 100 concurrent requests");
    });
}

#[test]
fn the_file_is_private_and_has_one_owner() {
    let (_folder, path) = home();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(Store::open(&path).unwrap_err(), StoreError::InUse { path: path.clone() });
        store.close().await;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let (_store, _) = Store::open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    });
}

#[test]
fn after_closing_every_request_says_so() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        store.clone().close().await;
        assert_eq!(store.commit(inbox([1])).await, Err(StoreError::Stopped));
        assert_eq!(store.get::<u8>(Bucket::Settings, "x").await, Err(StoreError::Stopped));
    });
}

#[test]
fn the_image_of_a_killed_node_opens_with_all_that_was_answered() {
    let (folder, path) = home();
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        for round in 1..=20 {
            store.commit(inbox([round])).await.unwrap();
            // What a process leaves that is killed now: the file as it stands, never closed.
            let image = folder.path().join(format!("image-{round}.redb"));
            fs::copy(&path, &image).unwrap();
            let (killed, snapshot) = Store::open(&image).unwrap();
            assert_eq!(snapshot.inbox.last_arrival, round);
            killed.close().await;
        }
    });
}

#[test]
fn a_newer_format_is_refused() {
    let (_folder, path) = home();
    filled(&path);
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(tables::META).unwrap().insert(tables::META_FORMAT, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error, StoreError::NewerVersion { path: path.clone(), found: 2 });
    assert!(error.to_string().contains("upgrade meshara"));
}

/// Opens a file made of `bytes`; it is either refused as damaged or holds exactly what was stored.
fn opens_exactly_or_is_refused(bytes: &[u8], what: &str) -> bool {
    let (_folder, path) = home();
    fs::write(&path, bytes).unwrap();
    runtime().block_on(async {
        match Store::open(&path) {
            Err(StoreError::Damaged { path: named, .. }) => {
                assert_eq!(named, path, "{what}");
                false
            }
            Err(other) => panic!("{what}: {other}"),
            Ok((store, snapshot)) => {
                assert_eq!((snapshot.outbox.len(), snapshot.inbox.messages), (200, 300), "{what}");
                let rows = store.take_unread(ALL).await.unwrap();
                assert_eq!(rows, (1..=300).map(|n| inbox_row(n, 10)).collect::<Vec<_>>(), "{what}");
                store.close().await;
                true
            }
        }
    })
}

#[test]
fn damaged_files_are_refused_by_name_and_never_panic() {
    let (_folder, path) = home();
    filled(&path);
    let whole = fs::read(&path).unwrap();
    assert!(opens_exactly_or_is_refused(&whole, "untouched"));
    for length in [0, 1, 100, 4_096, 5_000, whole.len() / 2, whole.len() - 4_096, whole.len() - 1] {
        assert!(!opens_exactly_or_is_refused(&whole[..length], &format!("cut to {length}")));
    }
    assert!(!opens_exactly_or_is_refused(&vec![0; whole.len()], "zeroed"));
    assert!(!opens_exactly_or_is_refused(b"garbage, but not empty", "garbage"));
    // Each page in turn zeroed, and bytes changed all over; what redb does not use may change freely.
    let mut refused = 0;
    for page in 0..whole.len() / 4_096 {
        let mut bytes = whole.clone();
        bytes[page * 4_096..][..4_096].fill(0);
        if bytes != whole {
            refused += u32::from(!opens_exactly_or_is_refused(&bytes, &format!("page {page} zeroed")));
        }
    }
    let mut place = 0_usize;
    for step in 0..200_usize {
        place = (place + 7_919 + step * 31) % whole.len();
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (step % 8);
        refused += u32::from(!opens_exactly_or_is_refused(&bytes, &format!("bit flipped at {place}")));
    }
    for place in (0..330).step_by(3) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0xff;
        refused += u32::from(!opens_exactly_or_is_refused(&bytes, &format!("header byte {place}")));
    }
    assert!(refused > 30, "{refused}");
}

const WORKS: u8 = 0;
const FULL: u8 = 1;
/// Everything is written, then the sync reports an error: the commit is durable and says it is not.
const SYNC_LIES: u8 = 2;

/// A file on a disk that fails on demand.
#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    mode: Arc<AtomicU8>,
}

impl Faulty {
    fn check(&self) -> std::io::Result<()> {
        match self.mode.load(Ordering::SeqCst) {
            FULL => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.check()?;
        self.file.sync_data()?;
        if self.mode.compare_exchange(SYNC_LIES, WORKS, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return Err(std::io::Error::other("lost contact with the disk"));
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn unlock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

fn faulty(path: &Path) -> (Store, Arc<AtomicU8>) {
    open::prepare(path).unwrap();
    let mode = Arc::new(AtomicU8::new(WORKS));
    let (file, shared) = (path.to_owned(), mode.clone());
    let opener = Opener::with(path, move |builder| {
        let file = fs::OpenOptions::new().read(true).write(true).open(&file)?;
        builder.create_with_backend(Faulty { file: FileBackend::new(file)?, mode: shared.clone() })
    });
    (Store::start(opener).unwrap().0, mode)
}

#[test]
fn a_full_disk_is_an_exact_error_and_the_store_goes_on_when_there_is_space() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, mode) = faulty(&path);
        store.commit(inbox([1])).await.unwrap();
        mode.store(FULL, Ordering::SeqCst);
        let commit = tokio::spawn({
            let store = store.clone();
            async move { store.commit(inbox([2])).await }
        });
        // The outcome is in doubt until the file opens again; meanwhile the reason is known and others are refused.
        let full = StoreError::DiskFull { path: path.clone() };
        let mut health = store.health.clone();
        health.wait_for(Option::is_some).await.unwrap();
        assert_eq!(store.health(), Some(full.clone()));
        assert_eq!(store.put(Bucket::Settings, "x", &1_u8).await, Err(full.clone()));
        assert_eq!(store.get::<u8>(Bucket::Settings, "x").await, Err(full.clone()));
        mode.store(WORKS, Ordering::SeqCst);
        assert_eq!(commit.await.unwrap(), Err(full));
        assert_eq!(store.health(), None);
        store.commit(inbox([3])).await.unwrap();
        let taken = store.take_unread(ALL).await.unwrap();
        assert_eq!(taken.iter().map(|row| row.arrival).collect::<Vec<_>>(), [1, 3]);
    });
}

#[test]
fn a_commit_that_is_durable_although_its_sync_failed_counts() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, mode) = faulty(&path);
        mode.store(SYNC_LIES, Ordering::SeqCst);
        assert_eq!(store.commit(inbox([1, 2])).await, Ok(()));
        mode.store(SYNC_LIES, Ordering::SeqCst);
        let taken = store.take_unread(TakeLimit { messages: 1, bytes: 100 }).await.unwrap();
        assert_eq!(taken, [inbox_row(1, 10)]);
        assert_eq!(store.take_unread(ALL).await.unwrap(), [inbox_row(2, 10)]);
    });
}

#[test]
fn senders_with_the_same_identifiers_are_told_apart() {
    let (_folder, path) = home();
    runtime().block_on(async {
        let (store, _) = Store::open(&path).unwrap();
        // Nodes 1 and 2 chose the same identifier, node 1 even twice.
        let row = |arrival, from| InboxRow { from: node(from), id: id(9), ..inbox_row(arrival, 10) };
        let rows = [row(1, 1), row(2, 1), row(3, 2), inbox_row(4, 10)];
        store.commit(rows.map(StoreOp::InboxPut).into()).await.unwrap();
        let unread = async || -> Vec<u64> {
            store.unread(0, ALL).await.unwrap().iter().map(|row| row.arrival).collect()
        };
        assert_eq!(store.consume(vec![(node(3), id(9))]).await, Ok((0, 0)));
        assert_eq!(store.consume(vec![(node(2), id(9)), (node(1), id(4))]).await, Ok((2, 20)));
        assert_eq!(unread().await, [1, 2]);
        assert_eq!(store.consume(vec![(node(1), id(9))]).await, Ok((1, 10)));
        assert_eq!(unread().await, [2], "named once, removed once");
        assert_eq!(store.consume(vec![(node(1), id(9)); 3]).await, Ok((1, 10)));
        assert!(unread().await.is_empty());
    });
}

#[test]
fn a_number_has_one_spelling() {
    let decode =
        |bytes: &[u8]| tables::decode_record::<u16>(Path::new("it"), Bucket::Settings, "port", bytes);
    assert_eq!(decode(&[0x80, 0x01]), Ok(128));
    assert_eq!(decode(&[0x7f]), Ok(127));
    assert!(matches!(decode(&[0xff, 0x00]), Err(StoreError::Damaged { .. })), "over-long 127");
    assert!(matches!(decode(&[0x7f, 0x00]), Err(StoreError::Damaged { .. })), "trailing byte");
}
