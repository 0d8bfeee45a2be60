//! The write-ahead files: what is durable and not yet in tiles. Each holds frames; a frame is what one sync made durable.
//!
//! ```text
//! "MESHWAL" 1 | frame…      frame: length u32 | first index u64 | entries u32 | check 8 | entries, each after its length u16 | check 16
//! ```
//! Numbers are big-endian; the checks are the first bytes of SHA-256 over the frame's head, and over the whole frame before them.

use super::error::LogError;
use super::files::{Files, Writer, damaged, failed, read};
use super::hash::Hash;
use super::tile::append_to_bundle;

/// What a write-ahead file starts with: a name and the version of the format.
const MAGIC: &[u8; 8] = b"MESHWAL\x01";

/// The directory.
pub(super) const DIRECTORY: &str = "wal";

/// A frame is closed at this length, so that one sync never waits for more than a few milliseconds of disk.
pub(super) const FRAME_TARGET: usize = 1024 * 1024;

/// Longest frame: the target and the entry that passed it.
const FRAME_MAX: usize = FRAME_TARGET + 64 * 1024;

/// Longest write-ahead file. The log refuses appends long before, see `PENDING_MAX`.
const SEGMENT_MAX: u64 = 256 * 1024 * 1024;

const HEAD_LEN: usize = 16;
const HEAD_CHECK_LEN: usize = 8;
const CHECK_LEN: usize = 16;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

fn path(number: u64) -> String {
    // 20 digits hold every number, so names sort as numbers do.
    format!("{DIRECTORY}/{number:020}")
}

/// The file that frames are appended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    number: u64,
}

impl Segment {
    /// The first file of a new log.
    pub(super) fn first(files: &dyn Files) -> Result<Self, LogError> {
        Self { number: 0 }.make(files, &[])
    }

    /// The file after this one, with frames of `entries` from index `first` on. It is durable when this returns.
    pub(super) fn next(self, files: &dyn Files, first: u64, entries: &[Vec<u8>]) -> Result<Self, LogError> {
        let (mut frames, mut from, mut rest) = (Vec::new(), first, entries);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(frame_count(rest.iter().map(Vec::len)));
            frames.extend_from_slice(&frame(from, now)?);
            from += now.len() as u64;
            rest = later;
        }
        Self { number: self.number + 1 }.make(files, &frames)
    }

    fn make(self, files: &dyn Files, frames: &[u8]) -> Result<Self, LogError> {
        let mut writer = Writer::new(files);
        writer.create(&path(self.number), &[MAGIC, frames].concat())?;
        writer.sync()?;
        Ok(self)
    }

    /// Makes entries durable.
    pub(super) fn append(self, files: &dyn Files, first: u64, entries: &[Vec<u8>]) -> Result<(), LogError> {
        let path = path(self.number);
        files
            .append(&path, &frame(first, entries)?)
            .map_err(|error| failed(files, &path, "append to", &error))
    }

    /// Removes every file before this one.
    pub(super) fn remove_older(self, files: &dyn Files) -> Result<(), LogError> {
        let writer = Writer::new(files);
        for number in numbers(files)?.into_iter().filter(|number| *number < self.number) {
            writer.remove(&path(number))?;
        }
        Ok(())
    }
}

/// How many of these entries go in one frame: at least one.
pub(super) fn frame_count(lengths: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    lengths
        .take_while(|length| {
            let open = bytes < FRAME_TARGET;
            bytes += length + 2;
            open
        })
        .count()
}

fn check<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut check = [0; N];
    for (to, from) in check.iter_mut().zip(Hash::of(bytes).0) {
        *to = from;
    }
    check
}

fn frame(first: u64, entries: &[Vec<u8>]) -> Result<Vec<u8>, LogError> {
    let mut body = Vec::new();
    for entry in entries {
        append_to_bundle(&mut body, entry)?;
    }
    let mut frame = Vec::with_capacity(HEAD_LEN + HEAD_CHECK_LEN + body.len() + CHECK_LEN);
    // A frame is closed soon after FRAME_TARGET, so both numbers fit.
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&first.to_be_bytes());
    frame.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    frame.extend_from_slice(&check::<HEAD_CHECK_LEN>(&frame));
    frame.extend_from_slice(&body);
    frame.extend_from_slice(&check::<CHECK_LEN>(&frame));
    Ok(frame)
}

/// Numbers of the files that are there, in order.
fn numbers(files: &dyn Files) -> Result<Vec<u64>, LogError> {
    let names = files.list(DIRECTORY).map_err(|error| failed(files, DIRECTORY, "list", &error))?;
    let mut numbers = Vec::new();
    for name in names {
        let number: Option<u64> = name.parse().ok();
        match number.filter(|number| path(*number) == format!("{DIRECTORY}/{name}")) {
            Some(number) => numbers.push(number),
            None => return Err(damaged(files, &format!("{DIRECTORY}/{name}"), "not a write-ahead file")),
        }
    }
    Ok(numbers)
}

/// What the write-ahead files hold beyond the first `size` entries, and the last of the files.
pub(super) fn recover(files: &dyn Files, size: u64) -> Result<(Vec<Vec<u8>>, Segment), LogError> {
    let numbers = numbers(files)?;
    let Some(last) = numbers.last() else {
        return Err(LogError::Missing { path: files.locate(DIRECTORY) });
    };
    let mut pending: Vec<Vec<u8>> = Vec::new();
    for number in &numbers {
        let path = path(*number);
        let bytes = read(files, &path, SEGMENT_MAX)?;
        for frame in parse(&bytes).map_err(|what| damaged(files, &path, what))? {
            for (index, entry) in (frame.first..).zip(frame.entries) {
                let Some(at) = index.checked_sub(size) else { continue };
                // Files overlap after a crash in a recovery; a gap or another entry in the same place never comes of a crash.
                match usize::try_from(at).ok().map(|at| (at, pending.get(at))) {
                    Some((_, Some(known))) if known == entry => {}
                    Some((at, None)) if at == pending.len() => pending.push(entry.to_vec()),
                    _ => return Err(damaged(files, &path, "entries don't continue those before")),
                }
            }
        }
    }
    Ok((pending, Segment { number: *last }))
}

struct Frame<'a> {
    first: u64,
    entries: Vec<&'a [u8]>,
}

/// Frames of a file. A last one that a crash cut off was acknowledged to nobody, and is left out.
fn parse(file: &[u8]) -> Result<Vec<Frame<'_>>, &'static str> {
    let Some(mut rest) = file.strip_prefix(MAGIC) else {
        // The file was made in one write with a sync, so a crash leaves less of it, or zeros.
        let cut = MAGIC.starts_with(file) || file.iter().all(|byte| *byte == 0);
        return if cut { Ok(Vec::new()) } else { Err("not a write-ahead file of this version") };
    };
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        let Some((head, after)) = head(rest) else {
            return if is_cut(at, rest) { Ok(frames) } else { Err("frame head") };
        };
        let Some((body, after)) = after.split_at_checked(head.length) else { return Ok(frames) };
        let Some((found, after)) = after.split_first_chunk::<CHECK_LEN>() else { return Ok(frames) };
        let (whole, _) = rest.split_at(HEAD_LEN + HEAD_CHECK_LEN + body.len());
        if check::<CHECK_LEN>(whole) != *found {
            // A frame with another behind it was durable before that one began.
            let (all, _) = rest.split_at(rest.len() - after.len());
            let cut = after.is_empty() && is_cut(at, all);
            return if cut { Ok(frames) } else { Err("frame checksum") };
        }
        frames.push(Frame { first: head.first, entries: entries(body, head.count).ok_or("frame content")? });
        rest = after;
    }
    Ok(frames)
}

/// Entry for fuzzing: reads a write-ahead file; whether it is one, cut off or whole.
#[doc(hidden)]
pub fn wal_decodes(file: &[u8]) -> bool {
    parse(file).is_ok()
}

struct Head {
    length: usize,
    first: u64,
    count: u32,
}

/// A sound head and what follows it.
fn head(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
    let (found, rest) = rest.split_first_chunk::<HEAD_CHECK_LEN>()?;
    let [a, b, c, d, first @ .., e, f, g, h] = *head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let sound = check::<HEAD_CHECK_LEN>(head) == *found && length <= FRAME_MAX;
    let head = Head { length, first: u64::from_be_bytes(first), count: u32::from_be_bytes([e, f, g, h]) };
    sound.then_some((head, rest))
}

fn entries(mut body: &[u8], count: u32) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let (length, rest) = body.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        body = rest;
    }
    body.is_empty().then_some(entries)
}

/// Whether bytes at offset `at` look cut off rather than altered: a crash leaves whole sectors unwritten, as zeros, or too few bytes.
fn is_cut(at: usize, bytes: &[u8]) -> bool {
    if bytes.len() < HEAD_LEN + HEAD_CHECK_LEN {
        return true;
    }
    let (first, rest) = bytes.split_at((SECTOR - at % SECTOR).min(bytes.len()));
    std::iter::once(first).chain(rest.chunks(SECTOR)).any(|sector| sector.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
