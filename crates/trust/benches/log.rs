//! The log at work: certificates issued by the real issuer with the log and every sync, appends alone, and a log of a million entries: its
//! size, a proof, the audit.
//!
//! `cargo bench -p meshara-trust --bench log [-- ENTRIES [--seed SEED] [--issued CERTIFICATES]]` tells each figure beside its bar on stderr, and
//! all of them as one JSON object on stdout. Files are below the build directory; where that is memory, syncs cost nothing and the figures
//! of appends and issuance say nothing: beside them stands what a sync alone takes there.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use meshara_identity::issuer::{Issuance, Record, RecordError, RoleChange};
use meshara_identity::{
    Issuer, JoinClient, Membership, NodeId, NodeKey, RenewClient, RoutingKey, UnixMillis, create_mesh, home,
};
use meshara_trust::log::{
    Certificate, DiskFiles, Enrolment, Entry, Hash, Log, LogError, LogKey, Roles, WitnessPolicy, audit,
    verify_certificate_proof,
};
use serde_json::{Value, json};

/// Entries of the large log.
const ENTRIES: u64 = 1_000_000;
/// Certificates that are issued, to newcomers and then again to them as members.
const ISSUED: usize = 4000;
/// Seed of which entries are proved.
const SEED: u64 = 2611;
/// Entries that one call appends while the large log is made: an issuer that renews a whole mesh.
const BATCH: u64 = 4096;
/// Proofs that are timed.
const PROOFS: u64 = 1000;
/// How long appends are counted.
const SPAN: Duration = Duration::from_secs(5);
/// How often a checkpoint is published meanwhile; proofs have to be there within a second.
const PUBLISH: Duration = Duration::from_millis(500);
/// Requests handled at once: a node answers those of so many sources side by side, and the log syncs once for all that wait.
const CALLERS: [usize; 3] = [1, 4, 16];
/// Syncs that are timed alone.
const SYNCS: usize = 200;

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
        roles: Vec::new(),
        enrolled_from: NOW,
        enrolled_until: UnixMillis(NOW.0 + 90 * 24 * 3_600_000),
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

/// Some shares of times, in milliseconds.
fn shares(times: &mut [Duration]) -> Value {
    times.sort();
    let ms = |hundredths| share(times, hundredths).as_secs_f64() * 1e3;
    json!({ "n": times.len(), "p50": ms(50), "p95": ms(95), "p99": ms(99), "max": times.last().map(|last| last.as_secs_f64() * 1e3) })
}

fn ms_of(shares: &Value, share: &str) -> f64 {
    shares[share].as_f64().unwrap_or_default()
}

/// What appending 4 KiB and syncing takes here without a log.
fn syncs(place: &Path) -> Value {
    let mut file = tempfile::tempfile_in(place).unwrap();
    let mut times: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
            begun.elapsed()
        })
        .collect();
    let shares = shares(&mut times);
    eprintln!("a sync alone: p50 {:.3} ms, p99 {:.3} ms", ms_of(&shares, "p50"), ms_of(&shares, "p99"));
    json!({ "what": "sync", "ms": shares })
}

/// Calls `call` with 0, 1, … from so many threads, each waiting for its own, while `log` publishes, until it says that it is enough; the time
/// of each call, and of all.
fn together(
    threads: usize,
    log: Option<&Log>,
    call: &(dyn Fn(usize) -> bool + Sync),
) -> (Vec<Duration>, Duration) {
    let (running, next) = (AtomicBool::new(true), AtomicUsize::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            while let Some(log) = log.filter(|_| running.load(Ordering::Relaxed)) {
                std::thread::sleep(PUBLISH);
                log.publish().unwrap();
            }
        });
        let caller = || {
            let mut times = Vec::new();
            loop {
                let begun = Instant::now();
                if !call(next.fetch_add(1, Ordering::Relaxed)) {
                    return times;
                }
                times.push(begun.elapsed());
            }
        };
        let callers: Vec<_> = (0..threads).map(|_| scope.spawn(caller)).collect();
        let times = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        let took = start.elapsed();
        running.store(false, Ordering::Relaxed);
        publisher.join().unwrap();
        (times, took)
    })
}

/// Appends with promises, one entry each.
fn appends(place: &Path, threads: usize) -> Value {
    let directory = tempfile::tempdir_in(place).unwrap();
    let log = new_log(directory.path());
    let begun = Instant::now();
    let append = |number: usize| {
        let logged = log.append(&Entry::Certificate(certificate(number as u64))).unwrap();
        log.promise(&logged, NOW).unwrap();
        begun.elapsed() < SPAN
    };
    let (mut times, took) = together(threads, Some(&log), &append);
    let rate = times.len() as f64 / took.as_secs_f64();
    let ms = shares(&mut times);
    eprintln!(
        "append, sync and promise, {threads:>2} callers: {rate:>7.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        ms_of(&ms, "p50"),
        ms_of(&ms, "p99")
    );
    json!({ "what": "append", "callers": threads, "per_s": rate, "ms": ms })
}

/// Records as a node's issuer does: enrolment and certificate side by side in the log, one sync, then the promise.
#[derive(Debug)]
struct Recorder(Arc<Log>);

impl Record for Recorder {
    fn record(&self, issuance: &Issuance<'_>) -> Result<Vec<u8>, RecordError> {
        let Issuance { member, leaf_der, enrolment, .. } = issuance;
        let failed = |error: LogError| RecordError(error.to_string());
        let enrolment = enrolment.map(|enrolled| {
            Entry::Enrolment(Enrolment {
                node: member.node_id,
                name: member.name.clone(),
                roles: enrolled.roles.clone(),
                from: enrolled.from,
                until: enrolled.until,
            })
        });
        let certificate = Certificate::of(member, leaf_der).map(Entry::Certificate);
        let entries: Vec<Entry> = enrolment.into_iter().chain(certificate).collect();
        let logged = self.0.append_all(&entries).map_err(failed)?;
        let promise = self.0.promise(logged.last().unwrap(), UnixMillis::now()).map_err(failed)?;
        promise.encode().map_err(|error| RecordError(error.to_string()))
    }

    fn record_roles(&self, node: &NodeId, change: &RoleChange) -> Result<(), RecordError> {
        let RoleChange { at, roles } = change.clone();
        let logged = self.0.append(&Entry::Roles(Roles { node: *node, roles, at }));
        logged.map(|_| ()).map_err(|error| RecordError(error.to_string()))
    }
}

/// Makes something for each number on two threads.
fn made<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let half = count / 2;
    std::thread::scope(|scope| {
        let upper = scope.spawn(|| (half..count).map(&make).collect::<Vec<_>>());
        let mut all: Vec<T> = (0..half).map(&make).collect();
        all.extend(upper.join().unwrap());
        all
    })
}

/// Requests of newcomers, then of the same nodes as members, answered by an issuer as a node runs it: request checked, decision on the disk, leaf
/// signed, logged with a sync, promised.
fn issuance(place: &Path, count: usize, threads: usize, results: &mut Vec<Value>) {
    let directory = tempfile::tempdir_in(place).unwrap();
    let issuer = new_issuer(directory.path());
    let log = Arc::new(new_log(&directory.path().join("log")));
    issuer.record_with(Arc::new(Recorder(log.clone())));
    issue(&issuer, count, threads, Some(&log), results);
}

fn new_issuer(home: &Path) -> Issuer {
    let (mesh, name) = ("bench".parse().unwrap(), "issuer".parse().unwrap());
    let made = create_mesh(home, &mesh, &name, None, UnixMillis::now()).unwrap().membership;
    home::open_issuer(home, made.anchors(), None).unwrap().unwrap()
}

type Keys = (NodeKey, RoutingKey);

/// Newcomers join, then renew.
fn issue(issuer: &Issuer, count: usize, threads: usize, log: Option<&Log>, results: &mut Vec<Value>) {
    let uses = u32::try_from(count).unwrap();
    let ticket =
        issuer.invite(Duration::from_secs(3600), uses, Vec::new(), UnixMillis::now()).unwrap().ticket;
    let keys: Vec<Keys> = made(count, |_| (NodeKey::generate().unwrap(), RoutingKey::generate().unwrap()));
    let joins: Vec<JoinClient> = made(count, |number| {
        let name = format!("node-{number}").parse().unwrap();
        let (node, routing) = keys.get(number).unwrap();
        JoinClient::new(ticket.clone(), name, node, routing, UnixMillis::now()).unwrap()
    });
    let replies: Vec<std::sync::Mutex<Vec<u8>>> = (0..count).map(|_| std::sync::Mutex::default()).collect();
    let join = |number: usize| {
        let Some(client) = joins.get(number) else { return false };
        let answer = issuer.handle_join(client.request(), UnixMillis::now());
        answer.outcome.unwrap();
        *replies.get(number).unwrap().lock().unwrap() = answer.reply;
        true
    };
    results.push(issued("join", threads, log, together(threads, log, &join)));
    let members: Vec<Membership> = made(count, |number| {
        let reply = replies.get(number).unwrap().lock().unwrap();
        joins.get(number).unwrap().open_reply(&reply, UnixMillis::now()).unwrap()
    });
    let renewals: Vec<RenewClient> = made(count, |number| {
        let (node, routing) = keys.get(number).unwrap();
        RenewClient::new(members.get(number).unwrap(), node, routing, UnixMillis::now()).unwrap()
    });
    let renew = |number: usize| {
        let Some(client) = renewals.get(number) else { return false };
        issuer.renew(client.request(), None, UnixMillis::now()).outcome.unwrap();
        true
    };
    results.push(issued("renewal", threads, log, together(threads, log, &renew)));
}

fn issued(
    what: &str,
    threads: usize,
    log: Option<&Log>,
    (mut times, took): (Vec<Duration>, Duration),
) -> Value {
    let rate = times.len() as f64 / took.as_secs_f64();
    let (ms, logged) = (shares(&mut times), log.is_some());
    let how = if logged { "logged and synced (bar 500/s)" } else { "in memory, not logged (bar: p99 5 ms)" };
    eprintln!(
        "{what}, {how}, {threads:>2} callers: {rate:>6.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        ms_of(&ms, "p50"),
        ms_of(&ms, "p99")
    );
    json!({ "what": what, "logged": logged, "callers": threads, "per_s": rate, "ms": ms })
}

/// A request checked and decided and its leaf signed, without any disk: more than what signing the leaf alone takes.
fn leaf(results: &mut Vec<Value>) {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        eprintln!("no /dev/shm: signing without a disk was not measured");
        return;
    }
    let directory = tempfile::tempdir_in(memory).unwrap();
    issue(&new_issuer(directory.path()), 1000, 1, None, results);
}

fn large(place: &Path, entries: u64, seed: u64, results: &mut Vec<Value>) {
    let directory = tempfile::tempdir_in(place).unwrap();
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
    eprintln!("{entries} entries appended and published in {:.1?}", start.elapsed());
    results.push(json!({ "what": "written", "entries": entries, "seconds": start.elapsed().as_secs_f64() }));

    let mut times = Vec::new();
    for number in 0..PROOFS {
        // Spread by the golden ratio (Knuth, multiplicative hashing).
        let index = (seed + number).wrapping_mul(2_654_435_761) % entries;
        let begun = Instant::now();
        let proof = log.prove(index, &note).unwrap();
        times.push(begun.elapsed());
        if number % 100 == 0 {
            let none = WitnessPolicy::default();
            verify_certificate_proof(log.public(), &certificate(index), &proof, &none, NOW).unwrap();
        }
    }
    let ms = shares(&mut times);
    eprintln!("inclusion proof: p50 {:.3} ms, p99 {:.3} ms (bar 1 ms)", ms_of(&ms, "p50"), ms_of(&ms, "p99"));
    results.push(json!({ "what": "proof", "entries": entries, "ms": ms }));

    let all = size_of(&directory.path().join("tile"));
    let bundles = size_of(&directory.path().join("tile/entries"));
    eprintln!(
        "storage: tiles {:.1} MB, entries {:.1} MB ({} bytes each), together {:.1} MB (bar 200 MB)",
        (all - bundles) as f64 / 1e6,
        bundles as f64 / 1e6,
        bundles / entries,
        all as f64 / 1e6
    );

    results.push(json!({ "what": "storage", "entries": entries, "tile_bytes": all - bundles, "entry_bytes": bundles, "bytes": all }));

    let live: Vec<Certificate> = (entries.saturating_sub(10_000)..entries).map(certificate).collect();
    let start = Instant::now();
    let none = WitnessPolicy::default();
    let report = audit(log.files(), log.public(), &none, &live, NOW, &mut |_, _| {}).unwrap();
    assert!(report.is_ok(), "{:?}", report.problems);
    assert_eq!(report.entries, entries);
    let took = start.elapsed();
    eprintln!("audit with {} live certificates: {took:.1?} (bar 60 s)", live.len());
    results.push(
        json!({ "what": "audit", "entries": entries, "live": live.len(), "seconds": took.as_secs_f64() }),
    );
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

fn machine() -> Value {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": cpu.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load": read("/proc/loadavg").split(' ').next(),
        "unix_time": UnixMillis::now().0 / 1000,
    })
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse().ok()
    };
    let entries = arguments.first().and_then(|entries| entries.parse().ok()).unwrap_or(ENTRIES);
    let seed = after("--seed").unwrap_or(SEED);
    let count = after("--issued").map_or(ISSUED, |count| usize::try_from(count).unwrap());
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let machine = machine();
    let mut results = vec![syncs(place)];
    results.extend(CALLERS.map(|threads| appends(place, threads)));
    leaf(&mut results);
    for threads in CALLERS {
        issuance(place, count, threads, &mut results);
    }
    large(place, entries, seed, &mut results);
    let report = json!({ "schema": 1, "command": "log", "arguments": arguments, "seed": seed, "machine": machine, "results": results });
    println!("{report}");
}
