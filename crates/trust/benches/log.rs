//! The log at work: appends that are synced, and a log of a million entries: its size, a proof, the audit.
//!
//! `cargo bench -p meshara-trust --bench log [-- ENTRIES]` prints each figure beside its bar. Files are in the system's directory
//! for temporary files; where that is memory, syncs cost nothing and the first figures say nothing.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::{
    Certificate, DiskFiles, Entry, Hash, Log, LogKey, WitnessPolicy, audit, verify_certificate_proof,
};

/// Entries of the large log.
const ENTRIES: u64 = 1_000_000;
/// Entries that one call appends while the large log is made: an issuer that renews a whole mesh.
const BATCH: u64 = 4096;
/// Proofs that are timed.
const PROOFS: u64 = 1000;
/// How long appends are counted.
const SPAN: Duration = Duration::from_secs(5);
/// How often a checkpoint is published meanwhile; proofs have to be there within a second.
const PUBLISH: Duration = Duration::from_millis(500);

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

fn certificate(number: u64) -> Certificate {
    let mut serial = [0x40; 16];
    serial.last_chunk_mut::<8>().unwrap().copy_from_slice(&number.to_be_bytes());
    let node = number % 10_000;
    let hash = Hash::of(&number.to_be_bytes());
    Certificate {
        serial,
        node: NodeId(Hash::of(&node.to_be_bytes()).0),
        name: format!("node-{node}").parse().unwrap(),
        not_before: UnixMillis(NOW.0 + number),
        not_after: UnixMillis(NOW.0 + number + 3_600_000),
        leaf: hash,
        routing_key: hash.0,
    }
}

fn new_log(path: &Path) -> Log {
    let origin = LogKey::origin_of(&"bench".parse().unwrap(), &NodeId([1; 32])).unwrap();
    Log::create(Box::new(DiskFiles::open(path).unwrap()), LogKey::generate(origin).unwrap()).unwrap()
}

/// The time that this share of the sorted times, in hundredths, stays below.
fn share(times: &[Duration], hundredths: usize) -> Duration {
    times.get(times.len() * hundredths / 100).copied().unwrap_or_default()
}

/// Appends with promises from `threads` callers, each waiting for its own, while checkpoints are published.
fn rate(threads: usize) {
    let directory = tempfile::tempdir().unwrap();
    let log = new_log(directory.path());
    let running = AtomicBool::new(true);
    let start = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                std::thread::sleep(PUBLISH);
                log.publish().unwrap();
            }
        });
        let callers: Vec<_> = (0..threads)
            .map(|thread| {
                let log = &log;
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while start.elapsed() < SPAN {
                        let entry = Entry::Certificate(certificate((times.len() * threads + thread) as u64));
                        let begun = Instant::now();
                        let logged = log.append(&entry).unwrap();
                        log.promise(&logged, NOW).unwrap();
                        times.push(begun.elapsed());
                    }
                    times
                })
            })
            .collect();
        let times = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        running.store(false, Ordering::Relaxed);
        publisher.join().unwrap();
        times
    });
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort();
    println!(
        "append, sync and promise, {threads:>2} callers: {rate:>7.0}/s (bar 500/s), p50 {:.2?}, p99 {:.2?}",
        share(&times, 50),
        share(&times, 99)
    );
}

fn large(entries: u64) {
    let directory = tempfile::tempdir().unwrap();
    let log = new_log(directory.path());
    let start = Instant::now();
    for (round, first) in (0..entries).step_by(BATCH as usize).enumerate() {
        let batch: Vec<Entry> = (first..entries.min(first + BATCH))
            .map(|number| Entry::Certificate(certificate(number)))
            .collect();
        log.append_all(&batch).unwrap();
        if round % 4 == 3 {
            log.publish().unwrap();
        }
    }
    let note = log.publish().unwrap();
    println!("{entries} entries appended and published in {:.1?}", start.elapsed());

    let mut times = Vec::new();
    for number in 0..PROOFS {
        let index = number.wrapping_mul(2_654_435_761) % entries;
        let begun = Instant::now();
        let proof = log.prove(index, &note).unwrap();
        times.push(begun.elapsed());
        if number % 100 == 0 {
            let none = WitnessPolicy::default();
            verify_certificate_proof(log.public(), &certificate(index), &proof, &none, NOW).unwrap();
        }
    }
    times.sort();
    println!("inclusion proof: p50 {:.2?}, p99 {:.2?} (bar 1 ms)", share(&times, 50), share(&times, 99));

    let all = size_of(&directory.path().join("tile"));
    let bundles = size_of(&directory.path().join("tile/entries"));
    println!(
        "storage: tiles {:.1} MB, entries {:.1} MB ({} bytes each), together {:.1} MB (bar 200 MB)",
        (all - bundles) as f64 / 1e6,
        bundles as f64 / 1e6,
        bundles / entries,
        all as f64 / 1e6
    );

    let live: Vec<Certificate> = (entries.saturating_sub(10_000)..entries).map(certificate).collect();
    let start = Instant::now();
    let none = WitnessPolicy::default();
    let report = audit(log.files(), log.public(), &none, &live, NOW, &mut |_, _| {}).unwrap();
    assert!(report.is_ok(), "{:?}", report.problems);
    assert_eq!(report.entries, entries);
    println!("audit with {} live certificates: {:.1?} (bar 60 s)", live.len(), start.elapsed());
    drop(log);
}

/// Bytes of the files below a directory.
fn size_of(directory: &Path) -> u64 {
    let mut total = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let directory = entry.file_type().unwrap().is_dir();
        total += if directory { size_of(&entry.path()) } else { entry.metadata().unwrap().len() };
    }
    total
}

fn main() {
    let entries = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(ENTRIES);
    for threads in [1, 4, 16] {
        rate(threads);
    }
    large(entries);
}
