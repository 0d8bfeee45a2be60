//! Opening the file: made whole or not at all, readable by its owner only, checked before it is trusted.

use std::{
    fs::{File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use meshara_messaging::Snapshot;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, backends::FileBackend};

use super::{
    StoreError,
    tables::{self, Bucket, FLOWS, FORMAT, INBOX, MARKS, META, META_BATCH, META_FORMAT, OUTBOX},
};

/// Pages kept in memory. The tail of each table is all that a running node touches, so 16 MiB is ample, and an idle node
/// stays under its 40 MB.
const CACHE_BYTES: usize = 16 << 20;

/// Opens the file with the settings of a builder.
type Open = dyn Fn(&Builder) -> Result<Database, DatabaseError> + Send;

/// Knows how to open the database, at start and again after an error.
pub(super) struct Opener {
    pub(super) path: PathBuf,
    open: Box<Open>,
}

impl Opener {
    pub(super) fn new(path: &Path) -> Self {
        let file = path.to_owned();
        Self::with(path, move |builder| builder.open(&file))
    }

    /// An opener that opens the database in its own way, such as on a disk that fails on demand.
    pub(super) fn with(
        path: &Path,
        open: impl Fn(&Builder) -> Result<Database, DatabaseError> + Send + 'static,
    ) -> Self {
        Self { path: path.to_owned(), open: Box::new(open) }
    }

    /// Opens the file at start: every page is checked against its checksum, and everything is read once.
    /// Gives the number of the last transaction too.
    pub(super) fn open_checked(&self) -> Result<(Database, u64, Snapshot), StoreError> {
        self.guarded(|| {
            let database = self.open(true)?;
            let snapshot = load(&self.path, &database)?;
            let batch = self.last_batch(&database)?;
            Ok((database, batch, snapshot))
        })
    }

    /// Opens the file again after an error, and gives the number of the last transaction in it.
    pub(super) fn reopen(&self) -> Result<(Database, u64), StoreError> {
        self.guarded(|| {
            let database = self.open(false)?;
            let batch = self.last_batch(&database)?;
            Ok((database, batch))
        })
    }

    fn last_batch(&self, database: &Database) -> Result<u64, StoreError> {
        let last = || -> Result<_, redb::Error> {
            let meta = database.begin_read()?.open_table(META)?;
            Ok(meta.get(META_BATCH)?.map_or(0, |value| value.value()))
        };
        last().map_err(|error| self.error(error))
    }

    fn open(&self, check: bool) -> Result<Database, StoreError> {
        let mut builder = builder();
        builder.set_check_integrity_on_open(check);
        (self.open)(&builder).map_err(|error| self.error(error))
    }

    /// The database library may panic on a file that was altered; that is an error about the file like any other.
    pub(super) fn guarded<T>(&self, action: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(action)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown reason");
            Err(StoreError::damaged(&self.path, format!("the database gave up: {text}")))
        })
    }

    pub(super) fn error(&self, error: impl Into<redb::Error>) -> StoreError {
        StoreError::database(&self.path, error)
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes the file if nothing is there, and sees that only its owner can read it.
pub(super) fn prepare(path: &Path) -> Result<(), StoreError> {
    let Some(metadata) = existing(path)? else { return create(path) };
    if metadata.permissions().mode() & 0o077 != 0 {
        let private = Permissions::from_mode(0o600);
        std::fs::set_permissions(path, private).map_err(|error| StoreError::io(path, &error))?;
    }
    Ok(())
}

/// The file that is there, if it can be a store at all.
pub(super) fn existing(path: &Path) -> Result<Option<Metadata>, StoreError> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| StoreError::io(path, &error))?,
    };
    if !metadata.is_file() {
        return Err(StoreError::damaged(path, "not a regular file"));
    }
    // The database library would take an empty file for a new one, and hide that everything was lost.
    if metadata.len() == 0 {
        return Err(StoreError::damaged(path, "empty"));
    }
    Ok(Some(metadata))
}

/// Makes the file under another name first, so that a crash meanwhile leaves no half a store.
fn create(path: &Path) -> Result<(), StoreError> {
    let io = |error: io::Error| StoreError::io(path, &error);
    let database = |error: redb::Error| StoreError::database(path, error);
    let new = path.with_extension("redb.new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
    let backend = FileBackend::new(file.map_err(io)?).map_err(|error| database(error.into()))?;
    let made = builder().create_with_backend(backend).map_err(|error| database(error.into()))?;
    make_tables(&made).map_err(database)?;
    drop(made);
    File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&new, path).map_err(io)?;
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(META_FORMAT, u64::from(FORMAT))?;
        meta.insert(META_BATCH, 0)?;
        write.open_table(OUTBOX)?;
        write.open_table(FLOWS)?;
        write.open_table(INBOX)?;
        write.open_table(MARKS)?;
        for bucket in Bucket::ALL {
            write.open_table(bucket.table())?;
        }
    }
    write.commit()?;
    Ok(())
}

fn load(path: &Path, database: &Database) -> Result<Snapshot, StoreError> {
    let mut snapshot = Snapshot::default();
    let mut bad_row = None;
    let format = read_all(path, database, &mut snapshot, &mut bad_row);
    match format.map_err(|error| StoreError::database(path, error))? {
        FORMAT => bad_row.map_or(Ok(snapshot), Err),
        0 => Err(StoreError::damaged(path, "no format")),
        found => Err(StoreError::NewerVersion { path: path.to_owned(), found }),
    }
}

/// Gives the format; reads the rest only if it is ours.
fn read_all(
    path: &Path,
    database: &Database,
    snapshot: &mut Snapshot,
    bad_row: &mut Option<StoreError>,
) -> Result<u32, redb::Error> {
    let read = database.begin_read()?;
    let format = read.open_table(META)?.get(META_FORMAT)?.map_or(0, |value| value.value());
    let format = u32::try_from(format).unwrap_or(u32::MAX);
    if format != FORMAT {
        return Ok(format);
    }
    for row in read.open_table(OUTBOX)?.iter()? {
        let (key, value) = row?;
        match tables::decode_outbox(path, key.value(), value.value()) {
            Ok(row) => snapshot.outbox.push(row),
            Err(error) => *bad_row = Some(error),
        }
    }
    for row in read.open_table(FLOWS)?.iter()? {
        let (key, value) = row?;
        snapshot.flows.push(tables::flow(key.value(), value.value()));
    }
    for row in read.open_table(MARKS)?.iter()? {
        let (key, value) = row?;
        snapshot.marks.push(tables::mark(key.value(), value.value()));
    }
    for bucket in Bucket::ALL {
        read.open_table(bucket.table())?;
    }
    for row in read.open_table(INBOX)?.iter()? {
        let (key, value) = row?;
        match value.value().len().checked_sub(tables::INBOX_HEADER) {
            Some(body) => snapshot.inbox.bytes += body as u64,
            None => *bad_row = Some(StoreError::damaged(path, "a short row in inbox")),
        }
        snapshot.inbox.messages += 1;
        snapshot.inbox.last_arrival = key.value();
    }
    Ok(format)
}
