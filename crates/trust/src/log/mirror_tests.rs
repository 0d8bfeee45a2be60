use std::path::Path;

use meshara_identity::{NodeId, RoutingKey};

use super::*;
use crate::log::checkpoint::tests::key;
use crate::log::entry::tests::certificate;
use crate::log::witness::tests::mesh;
use crate::log::{DiskFiles, Entry, Log, Witness, WitnessPolicy, audit};

const NOW: UnixMillis = UnixMillis(1_795_000_000_500);

fn log(path: &Path) -> Log {
    Log::create(Box::new(DiskFiles::open(path).unwrap()), key()).unwrap()
}

fn mirror(path: &Path) -> Mirror {
    Mirror::open(Box::new(DiskFiles::open(path).unwrap()), key().public().clone()).unwrap()
}

fn grow(log: &Log, from: u64, count: u64) -> Note {
    let entries: Vec<Entry> =
        (from..from + count).map(|number| Entry::Certificate(certificate(number))).collect();
    log.append_all(&entries).unwrap();
    log.publish().unwrap()
}

fn fetch(log: &Log) -> impl FnMut(u64, u64) -> Result<Vec<Vec<u8>>, String> {
    |first, size| Tiles::new(log.files(), size).entries(first).map_err(|error| error.to_string())
}

/// Copies up to the checkpoint seen last.
fn copy(
    mirror: &mut Mirror,
    fetch: &mut dyn FnMut(u64, u64) -> Result<Vec<Vec<u8>>, String>,
) -> Result<(), MirrorError> {
    let Some(mut copying) = mirror.begin()? else { return Ok(()) };
    while let Some((first, size)) = copying.wants() {
        copying.take(&fetch(first, size).map_err(MirrorError::Fetch)?)?;
    }
    mirror.finish(copying)
}

#[test]
fn a_copy_follows_its_log_and_passes_the_audit() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = log(one.path());
    let mut size = 0;
    for count in [1, 2, 253, 300, 1] {
        // Each time opened anew, as after a restart.
        let mut mirror = mirror(two.path());
        assert_eq!(mirror.copied(), size);
        let note = grow(&log, size, count);
        let path = log.prove_growth(size, &note).unwrap();
        mirror.follow(&note, &path).unwrap();
        copy(&mut mirror, &mut fetch(&log)).unwrap();
        let middle = size + count / 2;
        assert_eq!(mirror.path(middle, size + count), log.prove_growth(middle, &note));
        size += count;
        assert_eq!((mirror.copied(), mirror.head().unwrap().size), (size, size));
    }
    let files = DiskFiles::read_only(two.path());
    let live = [certificate(0), certificate(size - 1)];
    let report =
        audit(&files, key().public(), &WitnessPolicy::default(), &live, NOW, &mut |_, _| {}).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.entries, report.certificates), (size, size));
    assert!(report.checkpoints >= 2, "{report:?}");
}

#[test]
fn what_does_not_lead_to_the_signed_root_is_never_used() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = log(one.path());
    let mut mirror = mirror(two.path());
    mirror.follow(&grow(&log, 0, 300), &[]).unwrap();
    let refused = copy(&mut mirror, &mut |_, _| Ok(vec![b"nonsense".to_vec(); 150])).unwrap_err();
    assert_eq!(refused, MirrorError::WrongRoot);
    let refused = copy(&mut mirror, &mut |_, _| Ok(vec![b"nonsense".to_vec(); 301])).unwrap_err();
    assert_eq!(refused, MirrorError::Count { found: 301, wanted: 300 });
    let refused = copy(&mut mirror, &mut |_, _| Ok(Vec::new())).unwrap_err();
    assert_eq!(refused, MirrorError::Count { found: 0, wanted: 300 });
    assert_eq!(mirror.copied(), 0);
    drop(mirror);
    let mut mirror = self::mirror(two.path());
    assert_eq!(mirror.copied(), 0);
    copy(&mut mirror, &mut fetch(&log)).unwrap();
    assert_eq!(mirror.copied(), 300);
}

#[test]
fn a_witness_remembers_and_cosigns_no_second_past() {
    let (one, two, three) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (honest, forked) = (log(one.path()), log(two.path()));
    let (bob, name) = (RoutingKey::generate().unwrap(), "bob".parse().unwrap());
    let cosigner = Cosigner::new(&mesh(), &name, &bob).unwrap();
    let policy =
        WitnessPolicy::new(1, vec![Witness::new(&mesh(), NodeId([1; 32]), &name, bob.public_key()).unwrap()])
            .unwrap();
    let first = grow(&honest, 0, 20);
    let mut witness = mirror(three.path());
    let line = witness.cosign(&cosigner, &first, &[], NOW).unwrap();
    let mut cosigned = first.clone();
    cosigned.signatures.push(line);
    assert_eq!(policy.require(&cosigned, NOW).unwrap().len(), 1);
    witness.follow(&cosigned, &[]).unwrap();
    assert_eq!(witness.seen(), Some(&cosigned), "the same tree brings its cosignatures");

    drop(witness);
    let mut witness = mirror(three.path());
    let next = grow(&honest, 20, 5);
    let wrong = witness.cosign(&cosigner, &next, &[], NOW).unwrap_err();
    assert!(wrong.wants_another_path(), "{wrong:?}");
    let older = witness.cosign(&cosigner, &honest.checkpoint(), &[], NOW);
    assert!(older.is_err());
    let path = honest.prove_growth(20, &next).unwrap();
    witness.cosign(&cosigner, &next, &path, NOW).unwrap();

    // The same issuer's other past, larger: the path is the evidence, and it stays.
    grow(&forked, 100, 20);
    let other = grow(&forked, 120, 20);
    let path = forked.prove_growth(25, &other).unwrap();
    let refused = witness.cosign(&cosigner, &other, &path, NOW).unwrap_err();
    assert!(matches!(refused, SeenError::Growth(GrowthError::Fork(_))), "{refused:?}");
    assert_eq!(witness.seen(), Some(&next));
    let evidence = witness.fork().unwrap().clone();
    drop(witness);
    let mut witness = mirror(three.path());
    assert_eq!(witness.fork(), Some(&evidence));
    assert_eq!(witness.cosign(&cosigner, &next, &[], NOW), Err(SeenError::Forked));
    let mut other_member = mirror(two.path().join("of another").as_path());
    other_member.accuse(evidence).unwrap();
    assert_eq!(other_member.follow(&next, &[]), Err(SeenError::Forked));
}

#[test]
fn damaged_memory_is_named() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = log(one.path());
    mirror(two.path()).follow(&grow(&log, 0, 3), &[]).unwrap();
    let path = two.path().join(SEEN);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\n3\n", "\n4\n")).unwrap();
    let open = |path: &Path| Mirror::open(Box::new(DiskFiles::open(path)?), key().public().clone());
    assert_eq!(open(two.path()).unwrap_err(), LogError::WrongKey { path: path.clone() });
    std::fs::write(&path, "x").unwrap();
    assert!(matches!(open(two.path()), Err(LogError::Damaged { .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(two.path().join(FORK), "x").unwrap();
    assert!(matches!(open(two.path()), Err(LogError::Damaged { .. })));
}

#[test]
fn a_copy_that_another_one_overtook_or_that_lacks_entries_does_not_count() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = log(one.path());
    let mut mirror = mirror(two.path());
    mirror.follow(&grow(&log, 0, 300), &[]).unwrap();
    let mut late = mirror.begin().unwrap().unwrap();
    while let Some((first, size)) = late.wants() {
        late.take(&fetch(&log)(first, size).unwrap()).unwrap();
    }
    let short = mirror.begin().unwrap().unwrap();
    assert_eq!(mirror.finish(short), Err(MirrorError::WrongRoot));
    copy(&mut mirror, &mut fetch(&log)).unwrap();
    assert_eq!(mirror.finish(late), Err(MirrorError::Overtaken));
    assert!(mirror.begin().unwrap().is_none());
    assert_eq!(mirror.copied(), 300);
}
