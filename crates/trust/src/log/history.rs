//! Checkpoints of earlier sizes: a few, denser towards the present, so that an audit has something to hold the log to.

use std::collections::BTreeSet;

use super::error::LogError;
use super::files::{Files, Writer, damaged, failed, read};
use super::note::{NOTE_MAX, Note, NoteSignature, SIGNATURES_MAX};

/// Where they are, each named by its size.
pub(super) const DIRECTORY: &str = "checkpoints";

fn path(size: u64) -> String {
    format!("{DIRECTORY}/{size}")
}

/// Sizes of the checkpoints that are kept, in order.
pub(super) fn sizes(files: &dyn Files) -> Result<BTreeSet<u64>, LogError> {
    let names = files.list(DIRECTORY).map_err(|error| failed(files, DIRECTORY, "list", &error))?;
    // Another name is no checkpoint: one that a crash left half replaced.
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The checkpoint kept for a size; nothing is verified.
pub(super) fn note(files: &dyn Files, size: u64) -> Result<Note, LogError> {
    note_at(files, &path(size))
}

pub(super) fn note_at(files: &dyn Files, path: &str) -> Result<Note, LogError> {
    let bytes = read(files, path, NOTE_MAX as u64)?;
    Note::parse(&bytes).map_err(|_| damaged(files, path, "not a signed note"))
}

/// Keeps the checkpoint `note`, which one of `size` entries is about to replace, and lets go of those that the present needs less:
/// of all that are about equally old (within a factor of two, in entries) the oldest stays. So at most 64 are kept.
pub(super) fn keep(
    writer: &mut Writer<'_>,
    files: &dyn Files,
    note: &Note,
    size: u64,
) -> Result<(), LogError> {
    let Ok(old) = super::Checkpoint::parse(note.text()) else { return Ok(()) };
    writer.create(&path(old.head.size), note.encode().as_bytes())?;
    let mut ages = BTreeSet::new();
    for kept in sizes(files)? {
        let age = size.saturating_sub(kept).checked_ilog2();
        if kept != old.head.size && !ages.insert(age) {
            writer.remove(&path(kept))?;
        }
    }
    writer.sync()
}

/// `note` with `lines` of witnesses; of two lines of one key the newer stays.
pub(super) fn merge(note: &Note, lines: &[NoteSignature]) -> Note {
    let mut merged = note.clone();
    for line in lines {
        let room = merged.signatures.len() < SIGNATURES_MAX;
        let same = |known: &&mut NoteSignature| (&known.name, known.key) == (&line.name, line.key);
        match merged.signatures.iter_mut().find(same) {
            // A cosignature begins with its time, big-endian.
            Some(known) if known.bytes.first_chunk::<8>() < line.bytes.first_chunk::<8>() => {
                *known = line.clone()
            }
            None if room => merged.signatures.push(line.clone()),
            _ => {}
        }
    }
    merged
}

/// Adds witnesses' lines to the stored checkpoint at `path`, of which `known` is the content.
pub(super) fn cosign(
    files: &dyn Files,
    path: &str,
    known: &Note,
    lines: &[NoteSignature],
) -> Result<Note, LogError> {
    let merged = merge(known, lines);
    if merged != *known {
        Writer::new(files).replace(path, merged.encode().as_bytes())?;
    }
    Ok(merged)
}

/// As [`cosign`], for a checkpoint that isn't the newest; one that is no longer kept is given back as it came.
pub(super) fn cosign_kept(
    files: &dyn Files,
    size: u64,
    cosigned: &Note,
    lines: &[NoteSignature],
) -> Result<Note, LogError> {
    let path = path(size);
    match note_at(files, &path) {
        Err(LogError::Missing { .. }) => Ok(cosigned.clone()),
        known => cosign(files, &path, &known?, lines),
    }
}
