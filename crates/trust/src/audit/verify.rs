//! Verifying and exporting the trail. It needs nothing but the files.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use meshara_identity::sealed::FileError;

use super::event::Event;
use super::line::{LINE_MAX, Line, LineHash};
use super::trail::{FILE_MAX, TrailError, numbers, path_of};

/// Number and hash of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number, from 1; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: LineHash,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: LineHash::ZERO }
    }
}

/// The first line that doesn't fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The file.
    pub file: PathBuf,
    /// The line of the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}: {}", self.file.display(), self.line, self.what)
    }
}

/// What the trail is found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files looked at.
    pub files: u64,
    /// Lines that are good, up to the first bad one.
    pub lines: u64,
    /// Number of the oldest line kept; 0 when there is none.
    pub first: u64,
    /// The last good line.
    pub head: Head,
    /// Bytes of a last line that isn't whole: being written, or cut off by a crash, which the next start mends.
    pub torn: u64,
    /// The first bad line.
    pub bad: Option<Bad>,
}

/// What a file was found to be.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) head: Head,
    /// Length of its whole lines.
    pub(super) whole: u64,
    /// Bytes behind them, in the last file.
    pub(super) torn: u64,
    pub(super) bad: Option<Bad>,
}

/// Verifies the trail in `directory` up to the first bad line.
pub fn verify(directory: &Path) -> Result<Report, TrailError> {
    walk(directory, |_| Ok(()))
}

/// Writes the good lines from number `from` on, as they are stored, and verifies on the way.
pub fn export(directory: &Path, from: u64, out: &mut impl Write) -> Result<Report, TrailError> {
    walk(directory, |(line, text)| {
        if line.seq < from {
            return Ok(());
        }
        writeln!(out, "{text}").map_err(|error| FileError::io(directory, "export", &error))
    })
}

fn walk(
    directory: &Path,
    mut each: impl FnMut((&Line, &str)) -> Result<(), FileError>,
) -> Result<Report, TrailError> {
    let mut report = Report::default();
    let numbers = numbers(directory)?;
    for (at, number) in numbers.iter().enumerate() {
        let path = path_of(directory, *number);
        if at > 0 && numbers.get(at - 1).and_then(|before| before.checked_add(1)) != Some(*number) {
            let what = "the file before it is missing".to_owned();
            report.bad = Some(Bad { file: path, line: 1, what });
            return Ok(report);
        }
        // What was before the oldest line is gone, so it may go on from anything.
        let before = (report.lines > 0).then_some(report.head);
        let last = at + 1 == numbers.len();
        let found = scan(&path, before, last, |(line, text)| {
            report.lines += 1;
            if report.first == 0 {
                report.first = line.seq;
            }
            each((line, text))
        })?;
        report.files += 1;
        report.head = found.head;
        report.torn = found.torn;
        if found.bad.is_some() {
            report.bad = found.bad;
            return Ok(report);
        }
    }
    Ok(report)
}

/// Reads one file line by line, up to the first that is bad or doesn't follow `before`.
pub(super) fn scan(
    path: &Path,
    before: Option<Head>,
    last: bool,
    mut each: impl FnMut((&Line, &str)) -> Result<(), FileError>,
) -> Result<Scan, TrailError> {
    let mut bytes = Vec::new();
    let limit = FILE_MAX + LINE_MAX as u64;
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(|error| FileError::io(path, "open", &error))?;
    let mut scan = Scan { head: before.unwrap_or_default(), ..Scan::default() };
    let mut expected = before;
    let bad = |line: u64, what: &str| Some(Bad { file: path.to_owned(), line, what: what.to_owned() });
    for (number, with_end) in (1u64..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        if scan.whole > limit {
            scan.bad = bad(number, "the file is longer than any file of the trail");
            return Ok(scan);
        }
        let Some(text) = with_end.strip_suffix(b"\n") else {
            if last {
                scan.torn = with_end.len() as u64;
            } else {
                scan.bad = bad(number, "cut off");
            }
            return Ok(scan);
        };
        let decoded = std::str::from_utf8(text).ok().map(|text| (text, Line::decode(text)));
        let (text, line, hash) = match decoded {
            Some((text, Ok((line, hash)))) => (text, line, hash),
            Some((_, Err(error))) => {
                scan.bad = bad(number, &error.to_string());
                return Ok(scan);
            }
            None => {
                scan.bad = bad(number, "not a line of the trail");
                return Ok(scan);
            }
        };
        if let Some(what) = expected.and_then(|before| does_not_follow(&line, before)) {
            scan.bad = bad(number, what);
            return Ok(scan);
        }
        each((&line, text))?;
        scan.head = Head { seq: line.seq, hash };
        scan.whole += with_end.len() as u64;
        expected = Some(scan.head);
    }
    Ok(scan)
}

fn does_not_follow(line: &Line, before: Head) -> Option<&'static str> {
    if before.seq.checked_add(1) != Some(line.seq) {
        return Some("lines are missing before it, or it stands in another place");
    }
    if line.previous == before.hash {
        return None;
    }
    if matches!(line.event, Event::Damage { .. }) {
        return Some("the trail was found damaged here and began anew");
    }
    Some("it does not follow the line before it")
}
