//! Taking a log elsewhere: a copy of its files at one size, and the witnesses that its own entries name.

use std::collections::{BTreeMap, BTreeSet};

use meshara_identity::MeshName;

use super::checkpoint::{LogPublic, TreeHead};
use super::entry::Entry;
use super::error::LogError;
use super::files::{Files, Writer};
use super::history;
use super::note::{KeyId, KeyName, Note};
use super::open::newest;
use super::reader::{Tiles, hashes_at};
use super::store::CHECKPOINT;
use super::tile::{HEIGHT, Row, TileId, WIDTH, append_to_bundle, tile_bytes, width_at};
use super::witness::{WITNESSES_MAX, Witness};

/// Copies a log, as it is now, to a directory that holds nothing else. The log may go on meanwhile.
pub fn export(from: &dyn Files, log: &LogPublic, to: &dyn Files) -> Result<TreeHead, LogError> {
    let sizes = history::sizes(from)?;
    let (note, head) = newest(from, log)?;
    let mut writer = Writer::new(to);
    let tiles = Tiles::new(from, head.size);
    for index in 0..head.size.div_ceil(u64::from(WIDTH)) {
        let mut bundle = Vec::new();
        for entry in tiles.entries(index * u64::from(WIDTH))? {
            append_to_bundle(&mut bundle, &entry)?;
        }
        let tile = TileId { row: Row::Entries, index, width: width_at(0, index, head.size) };
        writer.create(&tile.to_string(), &bundle)?;
    }
    for level in 0.. {
        let row = head.size.checked_shr(HEIGHT * u32::from(level)).unwrap_or(0);
        if row == 0 {
            break;
        }
        for index in 0..row.div_ceil(u64::from(WIDTH)) {
            let width = width_at(level, index, head.size);
            let tile = TileId { row: Row::Hashes(level), index, width };
            writer.create(&tile.to_string(), &tile_bytes(&hashes_at(from, level, index, width)?))?;
        }
    }
    for size in sizes {
        match history::note(from, size) {
            // A log that goes on lets go of some.
            Err(LogError::Missing { .. }) => {}
            kept => writer.create(&format!("{}/{size}", history::DIRECTORY), kept?.encode().as_bytes())?,
        }
    }
    writer.replace(CHECKPOINT, note.encode().as_bytes())?;
    Ok(head)
}

/// The keys of those who cosigned checkpoints of any of `logs`, as certificates in any of them have them: who is a member may witness.
///
/// Whose log it is has no place among its witnesses; the caller leaves that one out.
pub fn witnesses(logs: &[(&dyn Files, &LogPublic)], mesh: &MeshName) -> Result<Vec<Witness>, LogError> {
    let mut wanted: BTreeSet<(KeyName, KeyId)> = BTreeSet::new();
    for (files, log) in logs {
        let mut lines = |note: Note| {
            wanted.extend(note.signatures.into_iter().map(|line| (line.name, line.key)));
        };
        lines(newest(*files, log)?.0);
        for size in history::sizes(*files)? {
            // What can't be read is the audit's to tell.
            if let Ok(note) = history::note(*files, size) {
                lines(note);
            }
        }
    }
    let mut found: BTreeMap<(KeyName, KeyId), Witness> = BTreeMap::new();
    for (files, log) in logs {
        let size = newest(*files, log)?.1.size;
        let tiles = Tiles::new(*files, size);
        for first in (0..size).step_by(usize::from(WIDTH)) {
            for bytes in tiles.entries(first).unwrap_or_default() {
                let Ok(Entry::Certificate(certificate)) = Entry::decode(&bytes) else { continue };
                let witness =
                    Witness::new(mesh, certificate.node, &certificate.name, certificate.routing_key);
                let Ok(witness) = witness else { continue };
                let line = (witness.name().clone(), witness.id());
                if wanted.contains(&line) && found.len() < WITNESSES_MAX {
                    found.insert(line, witness);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use meshara_identity::UnixMillis;

    use super::*;
    use crate::log::checkpoint::tests::key;
    use crate::log::entry::tests::certificate;
    use crate::log::{DiskFiles, Log, WitnessPolicy, audit};

    #[test]
    fn what_is_exported_is_audited_as_the_log_itself() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = Log::create(Box::new(DiskFiles::open(one.path()).unwrap()), key()).unwrap();
        for (from, count) in [(0, 3), (3, 600), (603, 1)] {
            let entries: Vec<Entry> =
                (from..from + count).map(|number| Entry::Certificate(certificate(number))).collect();
            log.append_all(&entries).unwrap();
            log.publish().unwrap();
        }
        let copy = DiskFiles::open(two.path()).unwrap();
        let head = export(&DiskFiles::read_only(one.path()), key().public(), &copy).unwrap();
        assert_eq!(head.size, 604);
        let run = |files: &dyn Files| {
            let (policy, now) = (WitnessPolicy::default(), UnixMillis(1_795_000_000_500));
            audit(files, key().public(), &policy, &[certificate(603)], now, &mut |_, _| {}).unwrap()
        };
        let report = run(&copy);
        assert!(report.is_ok(), "{:?}", report.problems);
        assert_eq!(report, run(log.files()));
    }
}
