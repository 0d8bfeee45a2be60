//! The log is stopped at every step of its life, on a disk that forgets what wasn't synced, and must go on without a contradiction.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::*;
use crate::log::checkpoint::tests::key;
use crate::log::entry::tests::certificate;
use crate::log::files::parent;
use crate::log::{Files, Tiles, WitnessPolicy, audit};

/// Content of a file as programs see it, and as it was when it was synced last.
#[derive(Debug, Clone, Default)]
struct Inode {
    data: Vec<u8>,
    synced: Vec<u8>,
}

/// A disk: names as programs see them, and as they were when their directory was synced last.
#[derive(Debug, Clone, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    synced: BTreeMap<String, usize>,
    steps: usize,
    /// The step that fails.
    stop_at: usize,
    /// Whether everything fails after it: the machine is off. Else only the one step does.
    off: bool,
    /// Every checkpoint that was ever handed to the disk, released or not.
    signed: Vec<Note>,
}

/// What a disk has after the machine went off.
#[derive(Debug, Clone, Copy)]
enum Survives {
    /// All that was written.
    Written,
    /// Only what was synced.
    Synced,
    /// Lengths and names of all, content only of what was synced.
    Lengths,
    /// Anything of these, for each file and each name.
    Mixed(u64),
}

/// Choices that a seed repeats.
struct Choices(u64);

impl Choices {
    fn below(&mut self, count: u8) -> u8 {
        self.0 += 1;
        Hash::of(&self.0.to_be_bytes()).0[0] % count
    }
}

impl Disk {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        let fails = self.steps == self.stop_at || (self.off && self.stop_at > 0 && self.steps > self.stop_at);
        if fails { Err(io::Error::other("the test stopped the disk")) } else { Ok(()) }
    }

    fn after(&self, survives: Survives) -> Self {
        let mut choices = Choices(if let Survives::Mixed(seed) = survives { seed << 32 } else { 0 });
        let zeros = |inode: &Inode| {
            let mut data = inode.synced.clone();
            data.resize(inode.data.len(), 0);
            data
        };
        let mut content = |inode: &Inode| match survives {
            Survives::Written => inode.data.clone(),
            Survives::Synced => inode.synced.clone(),
            Survives::Lengths => zeros(inode),
            Survives::Mixed(_) => match choices.below(3) {
                0 => inode.data.clone(),
                1 => inode.synced.clone(),
                _ => zeros(inode),
            },
        };
        let content: Vec<Vec<u8>> = self.inodes.iter().map(&mut content).collect();
        let inodes = content.into_iter().map(|data| Inode { synced: data.clone(), data }).collect();
        let mut names = BTreeMap::new();
        let all: BTreeSet<&String> = self.names.keys().chain(self.synced.keys()).collect();
        for name in all {
            let keep_new = match survives {
                Survives::Written | Survives::Lengths => true,
                Survives::Synced => false,
                Survives::Mixed(_) => choices.below(2) == 0,
            };
            let from = if keep_new { &self.names } else { &self.synced };
            names.extend(from.get(name).map(|inode| (name.clone(), *inode)));
        }
        Self { inodes, synced: names.clone(), names, signed: self.signed.clone(), ..Self::default() }
    }
}

#[derive(Debug, Clone, Default)]
struct CrashFiles(Arc<Mutex<Disk>>);

impl CrashFiles {
    fn disk(&self) -> Disk {
        self.0.lock().unwrap().clone()
    }
}

impl Files for CrashFiles {
    fn locate(&self, path: &str) -> PathBuf {
        PathBuf::from(path)
    }

    fn read(&self, path: &str, _: u64) -> io::Result<Vec<u8>> {
        let disk = self.0.lock().unwrap();
        let inode = disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(disk.inodes[*inode].data.clone())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let disk = self.0.lock().unwrap();
        let below = |path: &String| {
            let rest = if directory.is_empty() {
                Some(path.as_str())
            } else {
                path.strip_prefix(directory)?.strip_prefix('/')
            };
            rest.and_then(|rest| rest.split('/').next()).map(str::to_owned)
        };
        Ok(disk.names.keys().filter_map(below).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if path == "checkpoint.new" {
            disk.signed.push(Note::parse(bytes).unwrap());
        }
        disk.step()?;
        let at = disk.names.get(path).copied().unwrap_or(disk.inodes.len());
        if at == disk.inodes.len() {
            disk.inodes.push(Inode::default());
        }
        disk.names.insert(path.to_owned(), at);
        disk.inodes[at].data.clear();
        disk.step()?;
        disk.inodes[at].data = bytes[..bytes.len() / 2].to_vec();
        disk.step()?;
        disk.inodes[at].data = bytes.to_vec();
        disk.step()?;
        disk.inodes[at].synced = bytes.to_vec();
        Ok(())
    }

    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        let at = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        for part in [half, rest] {
            disk.step()?;
            disk.inodes[at].data.extend_from_slice(part);
        }
        disk.step()?;
        disk.inodes[at].synced = disk.inodes[at].data.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let inode = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.names.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        assert_eq!(self.list(path)?, [""; 0], "{path}");
        self.0.lock().unwrap().step()
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        let here = |path: &str| parent(path) == directory;
        disk.synced.retain(|path, _| !here(path));
        let now: Vec<_> =
            disk.names.iter().filter(|(path, _)| here(path)).map(|(p, i)| (p.clone(), *i)).collect();
        disk.synced.extend(now);
        Ok(())
    }
}

fn entries(from: u64, count: u64) -> Vec<Entry> {
    (from..from + count).map(|number| Entry::Certificate(certificate(number))).collect()
}

/// What the world was told.
#[derive(Debug, Default)]
struct Told {
    promised: Vec<Logged>,
    released: Vec<Note>,
}

fn open(files: &CrashFiles) -> Result<Log, LogError> {
    Log::open(Box::new(files.clone()), key())
}

/// A life: appends that fill a tile, publications, a restart with entries that aren't published.
fn live(files: &CrashFiles, told: &mut Told) -> Result<(), LogError> {
    let mut number = 1000;
    let mut append = |log: &Log, count, told: &mut Told| -> Result<(), LogError> {
        told.promised.extend(log.append_all(&entries(number, count))?);
        number += count;
        Ok(())
    };
    let log = open(files)?;
    append(&log, 3, told)?;
    told.released.push(log.publish()?);
    append(&log, 2, told)?;
    append(&log, 5, told)?;
    told.released.push(log.publish()?);
    append(&log, 1, told)?;
    drop(log);
    let log = open(files)?;
    append(&log, 1, told)?;
    told.released.push(log.publish()?);
    Ok(())
}

/// After whatever happened the log opens, holds what it promised, contradicts nothing that it signed, and goes on.
fn goes_on(files: &CrashFiles, told: &Told, what: &str) {
    let log = open(files).unwrap_or_else(|error| panic!("{what}: {error}"));
    // What is appended to what was found must survive a start before it is published.
    let last = log.append(&entries(5000, 1)[0]).unwrap();
    drop(log);
    let log = open(files).unwrap_or_else(|error| panic!("{what}, then again: {error}"));
    let note = log.publish().unwrap();
    let tiles = Tiles::new(log.files(), log.size());
    for logged in told.promised.iter().chain([&last]) {
        let entry = tiles.entry(logged.index()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(Hash::leaf(&entry), logged.leaf(), "{what}: entry {} is another", logged.index());
    }
    let signed = files.disk().signed;
    for note in told.released.iter().chain(&signed) {
        assert_eq!(log.check_signed(note), Ok(()), "{what}: forked at {}", note.text());
    }
    assert!(log.prove(0, &note).is_ok());
    let now = UnixMillis(0);
    let report =
        audit(log.files(), log.public(), &WitnessPolicy::default(), &[], now, &mut |_, _| {}).unwrap();
    assert_eq!(report.problems, [], "{what}");
    assert_eq!(report.entries, log.size());
}

/// A log of 250 entries, 6 before a full tile.
fn before() -> Disk {
    let files = CrashFiles::default();
    let log = Log::create(Box::new(files.clone()), key()).unwrap();
    log.append_all(&entries(0, 250)).unwrap();
    log.publish().unwrap();
    Disk { steps: 0, ..files.disk() }
}

fn run(stop_at: usize, off: bool, disk: &Disk) -> (CrashFiles, Told, Result<(), LogError>) {
    let files = CrashFiles(Arc::new(Mutex::new(Disk { stop_at, off, ..disk.clone() })));
    let mut told = Told::default();
    let result = live(&files, &mut told);
    (files, told, result)
}

fn restart(disk: Disk) -> CrashFiles {
    CrashFiles(Arc::new(Mutex::new(Disk { steps: 0, stop_at: 0, off: false, ..disk })))
}

#[test]
fn stopped_at_any_step_the_log_goes_on() {
    let before = before();
    let (files, told, result) = run(0, true, &before);
    assert_eq!(result, Ok(()));
    assert_eq!((told.promised.len(), told.released.len()), (12, 3));
    goes_on(&restart(files.disk()), &told, "not stopped");
    let steps = files.disk().steps;
    assert!(steps > 100, "{steps}");
    for stop_at in 1..=steps {
        let (files, told, result) = run(stop_at, true, &before);
        assert!(result.is_err(), "{stop_at}");
        let seed = stop_at as u64;
        for survives in [Survives::Written, Survives::Synced, Survives::Lengths, Survives::Mixed(seed)] {
            goes_on(
                &restart(files.disk().after(survives)),
                &told,
                &format!("stopped at {stop_at}, {survives:?}"),
            );
        }
    }
}

#[test]
fn stopped_again_while_it_recovers_the_log_goes_on() {
    let before = before();
    let steps = run(0, true, &before).0.disk().steps;
    for stop_at in (1..=steps).step_by(7) {
        let (files, told, _) = run(stop_at, true, &before);
        for again in 1.. {
            let seed = (stop_at * 1000 + again) as u64;
            let disk = files.disk().after(Survives::Mixed(seed));
            let recovering = CrashFiles(Arc::new(Mutex::new(Disk { stop_at: again, off: true, ..disk })));
            let opened = open(&recovering).is_ok();
            let what = format!("stopped at {stop_at}, again at {again}");
            goes_on(&restart(recovering.disk().after(Survives::Mixed(seed + 1))), &told, &what);
            if opened {
                break;
            }
        }
    }
}

#[test]
fn after_a_failed_write_the_log_says_nothing_until_it_is_opened_again() {
    let before = before();
    let steps = run(0, true, &before).0.disk().steps;
    for stop_at in (1..=steps).step_by(3) {
        let files = CrashFiles(Arc::new(Mutex::new(Disk { stop_at, off: false, ..before.clone() })));
        let mut told = Told::default();
        if let Ok(log) = open(&files) {
            let tried = (|| {
                told.promised.extend(log.append_all(&entries(1000, 10))?);
                told.released.push(log.publish()?);
                Ok::<_, LogError>(())
            })();
            if tried.is_err() {
                assert!(matches!(log.append(&entries(1, 1)[0]), Err(LogError::Stopped(_))), "{stop_at}");
                assert!(matches!(log.publish(), Err(LogError::Stopped(_))), "{stop_at}");
            }
        }
        goes_on(&restart(files.disk()), &told, &format!("one failure at {stop_at}"));
    }
}
