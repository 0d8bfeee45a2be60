//! Writing the trail. One process writes; the home's lock sees to that.
//!
//! Every event but denials is on the disk (`fdatasync`) before [`Trail::append`] returns; denials wait for the next of those, or for
//! [`Trail::sync`], which the owner calls each second. A power cut costs a second of denials at most.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use meshara_identity::UnixMillis;
use meshara_identity::sealed::{self, FileError};

use super::event::{Event, Words};
use super::line::{Line, LineHash};
use super::verify::{Bad, Head, Scan, scan};

/// Longest file: read and verified whole in a tenth of a second, by any editor too.
pub const FILE_MAX: u64 = 8 * 1024 * 1024;

/// Most files: 128 MiB, some 400,000 lines. The oldest goes first; export it before, if it must be kept.
pub const FILES_MAX: usize = 16;

/// Why the trail can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrailError {
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// An event that doesn't encode.
    #[error("an event cannot be written as JSON: {0}")]
    Encoding(String),
}

/// What was found and mended when the trail was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// The last line was cut off by a crash while it was written. It was removed; its event never counted as written.
    TornLine {
        /// The file.
        file: PathBuf,
        /// Bytes that were removed.
        bytes: u64,
    },
    /// A line is bad. The file stays as it is; the trail goes on in a new one that says so in its first line.
    Damage(Bad),
}

/// The trail, open for appending.
#[derive(Debug)]
pub struct Trail {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    number: u64,
    /// Length of what is whole; beyond it is at most what a failed write left.
    length: u64,
    /// A write failed and what it left may still be there.
    torn: bool,
    unsynced: bool,
    head: Head,
    file_max: u64,
    files_max: usize,
}

impl Trail {
    /// Opens the trail in `directory`, or begins it, and mends what a crash left.
    pub fn open(directory: &Path, now: UnixMillis) -> Result<(Self, Vec<Repair>), TrailError> {
        Self::open_bounded(directory, now, FILE_MAX, FILES_MAX)
    }

    /// As [`open`](Self::open), with smaller files and fewer of them, for tests.
    #[doc(hidden)]
    pub fn open_bounded(
        directory: &Path,
        now: UnixMillis,
        file_max: u64,
        files_max: usize,
    ) -> Result<(Self, Vec<Repair>), TrailError> {
        sealed::private_directory(directory)?;
        let numbers = numbers(directory)?;
        let number = numbers.last().copied().unwrap_or(1);
        let path = path_of(directory, number);
        let Scan { head, whole, torn, bad } = last_lines(directory, &numbers)?;
        let file = open_file(&path, numbers.is_empty())?;
        let directory = directory.to_owned();
        let mut trail = Self {
            directory,
            file,
            number,
            length: whole,
            torn: false,
            unsynced: false,
            head,
            file_max,
            files_max,
            path,
        };
        let mut repairs = Vec::new();
        if let Some(bad) = bad {
            let damage = Event::Damage {
                file: Words::clean(&bad.file.to_string_lossy()),
                line: bad.line,
                what: Words::clean(&bad.what),
            };
            // The new file begins a chain of its own: what it would go on from is not certain.
            trail.head.hash = LineHash::ZERO;
            trail.rotate()?;
            trail.append(damage, now)?;
            repairs.push(Repair::Damage(bad));
        } else if torn > 0 {
            trail.truncate()?;
            repairs.push(Repair::TornLine { file: trail.path.clone(), bytes: torn });
        }
        Ok((trail, repairs))
    }

    /// Number and hash of the last line: note it elsewhere to prove later that no line was cut off.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Writes an event. When it fails, nothing of it stays.
    pub fn append(&mut self, event: Event, now: UnixMillis) -> Result<Head, TrailError> {
        let urgent = event.is_urgent();
        let line = Line { seq: self.head.seq.saturating_add(1), at: now, event, previous: self.head.hash };
        let (mut text, hash) = line.encode().map_err(|error| TrailError::Encoding(error.to_string()))?;
        text.push('\n');
        let bytes = text.len() as u64;
        if self.torn {
            self.truncate()?;
        }
        if self.length > 0 && self.length.saturating_add(bytes) > self.file_max {
            self.rotate()?;
        }
        self.torn = true;
        let written = self.file.write_all(text.as_bytes());
        let written = written.and_then(|()| if urgent { self.file.sync_data() } else { Ok(()) });
        written.map_err(|error| FileError::io(&self.path, "write", &error))?;
        self.torn = false;
        self.unsynced = !urgent;
        self.length = self.length.saturating_add(bytes);
        self.head = Head { seq: line.seq, hash };
        Ok(self.head)
    }

    /// Makes durable what was written. Does nothing when it is.
    pub fn sync(&mut self) -> Result<(), TrailError> {
        if self.unsynced {
            self.file.sync_data().map_err(|error| FileError::io(&self.path, "sync", &error))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Removes what is behind the last whole line.
    fn truncate(&mut self) -> Result<(), FileError> {
        let cut = self.file.set_len(self.length).and_then(|()| self.file.sync_data());
        cut.map_err(|error| FileError::io(&self.path, "mend", &error))?;
        self.torn = false;
        Ok(())
    }

    /// Goes on in a new file; removes the oldest beyond the bound.
    fn rotate(&mut self) -> Result<(), TrailError> {
        self.sync()?;
        let number = self.number.saturating_add(1);
        let path = path_of(&self.directory, number);
        self.file = open_file(&path, true)?;
        (self.path, self.number, self.length) = (path, number, 0);
        let numbers = numbers(&self.directory)?;
        let surplus = numbers.len().saturating_sub(self.files_max.max(1));
        for old in numbers.into_iter().take(surplus) {
            let old = path_of(&self.directory, old);
            fs::remove_file(&old).map_err(|error| FileError::io(&old, "remove", &error))?;
        }
        Ok(())
    }
}

/// What the last file is found to be. One without a line, from a crash after it was made, goes on from the file before it.
fn last_lines(directory: &Path, numbers: &[u64]) -> Result<Scan, TrailError> {
    let mut newest = numbers.iter().rev().map(|number| path_of(directory, *number));
    let Some(last) = newest.next() else { return Ok(Scan::default()) };
    let mut found = scan(&last, None, true, |_| Ok(()))?;
    for before in newest {
        if found.head.seq > 0 || found.bad.is_some() {
            break;
        }
        let before = scan(&before, None, false, |_| Ok(()))?;
        (found.head, found.bad) = (before.head, before.bad);
    }
    Ok(found)
}

fn open_file(path: &Path, new: bool) -> Result<File, FileError> {
    let mut options = sealed::private_options();
    options.append(true);
    if new {
        options.create_new(true);
    }
    let file = options.open(path).map_err(|error| FileError::io(path, "open", &error))?;
    if new {
        sealed::sync_directory(path)?;
    }
    Ok(file)
}

pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("audit-{number:06}.jsonl"))
}

/// The numbers of the trail's files, rising. Other files in the directory are none of it.
pub(super) fn numbers(directory: &Path) -> Result<Vec<u64>, FileError> {
    let listed = fs::read_dir(directory).map_err(|error| FileError::io(directory, "open", &error))?;
    let mut numbers = Vec::new();
    for file in listed {
        let file = file.map_err(|error| FileError::io(directory, "list", &error))?;
        let name = file.file_name();
        let number = name.to_str().and_then(|name| {
            let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
            digits.parse::<u64>().ok().filter(|number| path_of(directory, *number).ends_with(name))
        });
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}
