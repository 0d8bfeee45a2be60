//! The few operations on files that a log needs, so that a test can stop between any two of them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::error::LogError;

/// Name of the file whose lock says that the log is open for writing.
const LOCK: &str = "lock";

/// A directory of files. Paths are relative, with `/` between their parts.
pub trait Files: Send + Sync {
    /// The path as a person finds it.
    fn locate(&self, path: &str) -> PathBuf;
    /// Whole content; `InvalidData` when it is longer than `max`.
    fn read(&self, path: &str, max: u64) -> io::Result<Vec<u8>>;
    /// Names in a directory, in order; none when there is no such directory.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;
    /// Writes a file whole and makes its content durable. Directories on the way are made, durably; the file's own name is durable
    /// only after [`sync_directory`](Self::sync_directory).
    fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Appends to a file and makes the content durable.
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_directory(&self, path: &str) -> io::Result<()>;
    /// Makes names in a directory durable.
    fn sync_directory(&self, directory: &str) -> io::Result<()>;
}

/// The directory of a path, empty for the top.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Operations with errors that name the file, and the directories that still have to be synced.
pub(super) struct Writer<'a> {
    files: &'a dyn Files,
    unsynced: BTreeSet<String>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self::resume(files, BTreeSet::new())
    }

    /// One that goes on where another one stopped, with the directories that it had not synced yet.
    pub(super) fn resume(files: &'a dyn Files, unsynced: BTreeSet<String>) -> Self {
        Self { files, unsynced }
    }

    /// Stops; the directories that are not synced yet.
    pub(super) fn unsynced(self) -> BTreeSet<String> {
        self.unsynced
    }

    pub(super) fn create(&mut self, path: &str, bytes: &[u8]) -> Result<(), LogError> {
        self.files.create(path, bytes).map_err(|error| failed(self.files, path, "write", &error))?;
        self.unsynced.insert(parent(path).to_owned());
        Ok(())
    }

    /// Makes every new name durable.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        for directory in std::mem::take(&mut self.unsynced) {
            self.files
                .sync_directory(&directory)
                .map_err(|error| failed(self.files, &directory, "sync", &error))?;
        }
        Ok(())
    }

    /// Replaces a file in one step, durably.
    pub(super) fn replace(&mut self, path: &str, bytes: &[u8]) -> Result<(), LogError> {
        let new = format!("{path}.new");
        self.create(&new, bytes)?;
        self.files.rename(&new, path).map_err(|error| failed(self.files, path, "replace", &error))?;
        self.sync()
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &str) -> Result<(), LogError> {
        self.removed(path, self.files.remove(path))
    }

    /// Removes an empty directory, if it is there.
    pub(super) fn remove_directory(&self, path: &str) -> Result<(), LogError> {
        self.removed(path, self.files.remove_directory(path))
    }

    fn removed(&self, path: &str, result: io::Result<()>) -> Result<(), LogError> {
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(self.files, path, "remove", &error))
            }
            _ => Ok(()),
        }
    }
}

/// The system's error, with the file's name.
pub(super) fn failed(files: &dyn Files, path: &str, action: &'static str, error: &io::Error) -> LogError {
    LogError::Io { path: files.locate(path), action, kind: error.kind(), message: error.to_string() }
}

/// Reads a file of the log; absent is [`LogError::Missing`], too long is damage.
pub(super) fn read(files: &dyn Files, path: &str, max: u64) -> Result<Vec<u8>, LogError> {
    files.read(path, max).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LogError::Missing { path: files.locate(path) },
        io::ErrorKind::InvalidData => damaged(files, path, "too large"),
        _ => failed(files, path, "read", &error),
    })
}

/// A file that isn't what was written.
pub(super) fn damaged(files: &dyn Files, path: &str, what: &'static str) -> LogError {
    LogError::Damaged { path: files.locate(path), what }
}

/// A directory on disk.
#[derive(Debug)]
pub struct DiskFiles {
    root: PathBuf,
    /// Held as long as the log is open for writing; the system drops it with the process.
    _lock: Option<File>,
}

impl DiskFiles {
    /// For writing; the directory is made if it isn't there. [`LogError::Busy`] while another holder lives.
    pub fn open(root: &Path) -> Result<Self, LogError> {
        let io = |action, path: &Path, error: io::Error| LogError::Io {
            path: path.to_owned(),
            action,
            kind: error.kind(),
            message: error.to_string(),
        };
        fs::create_dir_all(root).map_err(|error| io("make the directory", root, error))?;
        let path = root.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| io("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => Err(LogError::Busy { path: root.to_owned() }),
            Err(TryLockError::Error(error)) => Err(io("lock", &path, error)),
        }
    }

    /// For reading, beside a writer or from a copy.
    pub fn read_only(root: &Path) -> Self {
        Self { root: root.to_owned(), _lock: None }
    }

    /// Makes the directories of `path` one by one, each durable in the one above it.
    fn make_directories(&self, path: &str) -> io::Result<()> {
        if self.locate(path).is_dir() {
            return Ok(());
        }
        if !path.is_empty() {
            self.make_directories(parent(path))?;
        }
        match fs::create_dir(self.locate(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_directory(parent(path)),
        }
    }
}

impl Files for DiskFiles {
    fn locate(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn read(&self, path: &str, max: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.locate(path))?;
        let length = file.metadata()?.len();
        if length > max {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        Read::by_ref(&mut file).take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes) }
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.locate(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_directories(parent(path))?;
        let mut file = File::create(self.locate(path))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.locate(path))?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.locate(from), self.locate(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.locate(path))
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.locate(path))
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        File::open(self.locate(directory))?.sync_all()
    }
}
