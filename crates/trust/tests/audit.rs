//! The trail: chained, bounded, mended after a crash, and every change of it named.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use std::fs;
use std::path::Path;

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::audit::*;
use proptest::prelude::*;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

fn denial(count: u64) -> Event {
    let words = Words::clean;
    Event::Denial { node: NodeId([1; 32]), target: words("service:db/x"), rule: words("default"), count }
}

fn join(name: &str) -> Event {
    Event::Join { node: NodeId([2; 32]), name: name.parse().unwrap(), outcome: Outcome::Done }
}

fn open(directory: &Path) -> (Trail, Vec<Repair>) {
    Trail::open_bounded(directory, NOW, 2000, 3).unwrap()
}

fn fill(directory: &Path, lines: u64) -> Head {
    let (mut trail, repairs) = open(directory);
    assert_eq!(repairs, []);
    for count in 0..lines {
        trail.append(denial(count), NOW).unwrap();
    }
    trail.sync().unwrap();
    trail.head()
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_trail_goes_on_after_a_restart_and_stays_bounded() {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("audit");
    assert_eq!(fill(&directory, 4).seq, 4);
    let head = fill(&directory, 30);
    let report = verify(&directory).unwrap();
    assert_eq!((report.head, report.bad.clone(), report.torn), (head, None, 0));
    assert_eq!((head.seq, report.files), (34, 3));
    assert_eq!(report.first + report.lines - 1, 34);
    assert!(report.first > 1, "the oldest are gone");
    assert_eq!(files(&directory).len(), 3);
    let mut out = Vec::new();
    assert_eq!(export(&directory, 34, &mut out).unwrap(), report);
    let exported: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(exported["seq"], 34);
    assert_eq!(exported["event"]["kind"], "denial");
    assert_eq!(exported["hash"], head.hash.to_string());
}

#[test]
fn a_torn_last_line_is_mended() {
    let home = TempDir::new().unwrap();
    let head = fill(home.path(), 3);
    let file = files(home.path()).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let cut = |bytes: &[u8]| fs::write(&file, bytes).unwrap();
    // Every place at which a crash may cut the fourth line.
    let (mut trail, _) = open(home.path());
    trail.append(join("bob"), NOW).unwrap();
    drop(trail);
    let longer = fs::read(&file).unwrap();
    for end in whole.len() + 1..longer.len() {
        cut(&longer[..end]);
        let torn = (end - whole.len()) as u64;
        let report = verify(home.path()).unwrap();
        assert_eq!((report.head, report.torn, report.bad), (head, torn, None));
        let (trail, repairs) = open(home.path());
        assert_eq!(repairs, [Repair::TornLine { file: file.clone(), bytes: torn }]);
        assert_eq!(trail.head(), head);
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
}

#[test]
fn a_crash_between_a_new_file_and_its_first_line_breaks_no_chain() {
    let home = TempDir::new().unwrap();
    let head = fill(home.path(), 3);
    for (number, left) in (1..).zip(["", "{\"v\":1,\"seq", ""]) {
        // A crash leaves the next file empty or with a torn line.
        let last = files(home.path()).pop().unwrap();
        let last: u64 = last.to_str().unwrap().rsplit(['-', '.']).nth(1).unwrap().parse().unwrap();
        fs::write(home.path().join(format!("audit-{:06}.jsonl", last + 1)), left).unwrap();
        let (mut trail, _) = open(home.path());
        assert_eq!(trail.append(join("bob"), NOW).unwrap().seq, head.seq + number);
    }
    let report = verify(home.path()).unwrap();
    assert_eq!((report.bad, report.head.seq), (None, head.seq + 3));
    // Also when the file before holds the damage.
    let home = TempDir::new().unwrap();
    fill(home.path(), 2);
    let file = files(home.path()).pop().unwrap();
    fs::write(&file, fs::read_to_string(&file).unwrap().replacen("\"count\":0", "\"count\":9", 1)).unwrap();
    fs::write(home.path().join("audit-000002.jsonl"), "").unwrap();
    let (trail, repairs) = open(home.path());
    assert!(matches!(&repairs[..], [Repair::Damage(bad)] if bad.line == 1), "{repairs:?}");
    assert_eq!(trail.head().seq, 1);
    assert_eq!(verify(home.path()).unwrap().bad.unwrap().line, 1);
}

#[test]
fn every_change_is_found_and_named() {
    let home = TempDir::new().unwrap();
    fill(home.path(), 12);
    let all = files(home.path());
    assert!(all.len() > 1);
    let bad = || verify(home.path()).unwrap().bad.unwrap();
    for (at, file) in all.iter().enumerate() {
        let good = fs::read(file).unwrap();
        for position in (0..good.len()).step_by(7) {
            let mut changed = good.clone();
            changed[position] ^= 1;
            fs::write(file, &changed).unwrap();
            let line = 1 + good[..position].iter().filter(|byte| **byte == b'\n').count() as u64;
            let report = verify(home.path()).unwrap();
            // Without the line end of its last line a last file looks torn: that is what a crash leaves.
            if at + 1 == all.len() && position + 1 == good.len() {
                assert!(report.torn > 0);
                continue;
            }
            let found = report.bad.unwrap();
            assert_eq!((&found.file, found.line), (file, line), "{position}: {found}");
        }
        fs::write(file, &good).unwrap();
    }
    assert_eq!(verify(home.path()).unwrap().bad, None);

    // A line taken out, put in twice, or two changed places.
    let file = &all[0];
    let good = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let write = |lines: &[&str]| fs::write(file, format!("{}\n", lines.join("\n"))).unwrap();
    for changed in [
        [&lines[..1], &lines[2..]].concat(),
        [&lines[..2], &lines[1..]].concat(),
        [&[lines[0], lines[2], lines[1]], &lines[3..]].concat(),
    ] {
        write(&changed);
        let found = bad();
        assert_eq!(found.what, "lines are missing before it, or it stands in another place");
        assert!(found.line <= 3);
    }
    // A chain of another making.
    let other = TempDir::new().unwrap();
    let (mut trail, _) = open(other.path());
    trail.append(join("mallory"), NOW).unwrap();
    trail.append(denial(1), NOW).unwrap();
    let forged = fs::read_to_string(files(other.path()).pop().unwrap()).unwrap();
    let forged: Vec<&str> = forged.lines().collect();
    write(&[&[lines[0], forged[1]], &lines[2..]].concat());
    assert_eq!((bad().line, bad().what.as_str()), (2, "it does not follow the line before it"));
    // A file taken out.
    write(&lines);
    fs::remove_file(&all[1]).unwrap();
    if all.len() > 2 {
        assert_eq!(bad().what, "the file before it is missing");
    }
}

#[test]
fn a_damaged_trail_is_kept_and_goes_on_in_a_new_file() {
    let home = TempDir::new().unwrap();
    fill(home.path(), 3);
    let file = files(home.path()).pop().unwrap();
    let damaged = fs::read_to_string(&file).unwrap().replacen("\"count\":1", "\"count\":7", 1);
    fs::write(&file, &damaged).unwrap();
    let (mut trail, repairs) = open(home.path());
    let what = "changed: its hash does not fit it".to_owned();
    let bad = Bad { file: file.clone(), line: 2, what };
    assert_eq!(repairs, [Repair::Damage(bad.clone())]);
    trail.append(join("bob"), NOW).unwrap();
    drop(trail);
    assert_eq!(fs::read_to_string(&file).unwrap(), damaged, "the damage is not hidden");
    assert_eq!(verify(home.path()).unwrap().bad, Some(bad));
    let (_, repairs) = open(home.path());
    assert_eq!(repairs, [], "the new file is whole");
}

#[test]
fn nobody_writes_lines_by_a_name() {
    let clean = Words::clean("x\n{\"v\":1}\u{1b}[2J");
    assert_eq!(clean.as_str(), "x?{\"v\":1}?[2J");
    assert!(Words::try_from("a\nb".to_owned()).is_err());
    assert_eq!(Words::clean(&"ä".repeat(300)).as_str().chars().count(), 256);
}

#[test]
fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = TempDir::new().unwrap();
    let directory = home.path().join("audit");
    fill(&directory, 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&files(&directory)[0])), (0o700, 0o600));
}

/// A line of each kind, written once and read for ever. `MESHARA_FREEZE=1` writes them anew for a new version.
#[test]
fn frozen_lines() {
    let home = TempDir::new().unwrap();
    let (mut trail, _) = Trail::open(home.path(), NOW).unwrap();
    let (words, node) = (Words::clean, NodeId([7; 32]));
    let (done, refused) = (Outcome::Done, Outcome::Refused(words("NameTaken")));
    let events = [
        Event::Join { node, name: "bob".parse().unwrap(), outcome: refused },
        denial(3),
        Event::Renewal { node, outcome: done.clone(), not_after: UnixMillis(NOW.0 + 3_600_000) },
        Event::Revocation { number: 4, node, revoked: true, reason: "laptop \"stolen\"".parse().unwrap() },
        Event::PolicyChange { number: 5, rules: 17, outcome: done.clone() },
        Event::Phase { version: 2, phase: 1, outcome: done },
        Event::Evidence { against: words("alice"), what: words("two heads of revocations 4") },
        Event::Damage { file: words("audit-000001.jsonl"), line: 9, what: words("cut off") },
    ];
    for event in events {
        trail.append(event, NOW).unwrap();
    }
    let written = fs::read_to_string(files(home.path()).pop().unwrap()).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audit.jsonl");
    if std::env::var_os("MESHARA_FREEZE").is_some() {
        fs::write(&fixture, &written).unwrap();
    }
    assert_eq!(written, fs::read_to_string(fixture).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn lines_round_trip(texts in proptest::collection::vec(any::<String>(), 1..6)) {
        let home = TempDir::new().unwrap();
        let (mut trail, _) = Trail::open(home.path(), NOW).unwrap();
        for text in &texts {
            let what = Words::clean(text);
            trail.append(Event::Evidence { against: what.clone(), what }, NOW).unwrap();
        }
        let mut out = Vec::new();
        let report = export(home.path(), 0, &mut out).unwrap();
        prop_assert_eq!((report.lines, report.bad), (texts.len() as u64, None));
        let lines: Vec<serde_json::Value> =
            out.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let read: Vec<_> = lines.iter().map(|line| line["event"]["what"].as_str().unwrap().to_owned()).collect();
        let written: Vec<_> = texts.iter().map(|text| Words::clean(text).as_str().to_owned()).collect();
        prop_assert_eq!(read, written);
    }
}
