use super::*;
use crate::log::files::DiskFiles;

fn entries(from: u8, count: u8) -> Vec<Vec<u8>> {
    (from..from + count).map(|number| vec![number; 300]).collect()
}

/// A directory with one write-ahead file that holds frames of 2, 3 and 1 entries, from index 10 on.
fn written() -> (tempfile::TempDir, DiskFiles, Segment) {
    let directory = tempfile::tempdir().unwrap();
    let files = DiskFiles::open(directory.path()).unwrap();
    let segment = Segment::first(&files).unwrap();
    segment.append(&files, 10, &entries(0, 2)).unwrap();
    segment.append(&files, 12, &entries(2, 3)).unwrap();
    segment.append(&files, 15, &entries(5, 1)).unwrap();
    (directory, files, segment)
}

fn content(files: &DiskFiles) -> Vec<u8> {
    files.read(&path(0), u64::MAX).unwrap()
}

#[test]
fn what_was_appended_is_recovered() {
    let (_directory, files, segment) = written();
    assert_eq!(recover(&files, 10), Ok((entries(0, 6), segment)));
    assert_eq!(recover(&files, 13), Ok((entries(3, 3), segment)));
    assert_eq!(recover(&files, 16), Ok((Vec::new(), segment)));
    assert_eq!(recover(&files, 99), Ok((Vec::new(), segment)));
    let next = segment.next(&files, 12, &entries(2, 4)).unwrap();
    assert_eq!(recover(&files, 12), Ok((entries(2, 4), next)));
    next.append(&files, 16, &entries(6, 1)).unwrap();
    assert_eq!(recover(&files, 10), Ok((entries(0, 7), next)));
    next.remove_older(&files).unwrap();
    assert_eq!(recover(&files, 12), Ok((entries(2, 5), next)));
}

#[test]
fn gaps_and_contradictions_are_damage() {
    let (directory, files, segment) = written();
    let damaged = |number: u64| {
        let what = "entries don't continue those before";
        Err(LogError::Damaged { path: directory.path().join(path(number)), what })
    };
    assert_eq!(recover(&files, 9), damaged(0));
    let next = segment.next(&files, 17, &entries(7, 1)).unwrap();
    assert_eq!(recover(&files, 10), damaged(1));
    next.remove_older(&files).unwrap();
    let other = next.next(&files, 17, &entries(8, 1)).unwrap();
    assert_eq!(recover(&files, 17), damaged(2));
    other.remove_older(&files).unwrap();
    files.remove(&path(2)).unwrap();
    assert_eq!(recover(&files, 17), Err(LogError::Missing { path: directory.path().join("wal") }));
    files.create("wal/7", b"").unwrap();
    let path = directory.path().join("wal/7");
    assert_eq!(recover(&files, 17), Err(LogError::Damaged { path, what: "not a write-ahead file" }));
}

#[test]
fn every_way_to_cut_the_last_frame_loses_only_that() {
    let (_directory, files, segment) = written();
    let whole = content(&files);
    let last = whole.len() - (HEAD_LEN + HEAD_CHECK_LEN + 302 + CHECK_LEN);
    for end in last..whole.len() {
        files.create(&path(0), &whole[..end]).unwrap();
        assert_eq!(recover(&files, 10), Ok((entries(0, 5), segment)), "cut at {end}");
        // The length is there and the sectors aren't: all from this one on, or this one alone.
        let sector = end.next_multiple_of(SECTOR);
        if sector < whole.len() && sector > last {
            let mut zeros = whole.clone();
            zeros[sector..].fill(0);
            files.create(&path(0), &zeros).unwrap();
            assert_eq!(recover(&files, 10), Ok((entries(0, 5), segment)), "zeros from {sector}");
        }
    }
    let mut zeros = whole.clone();
    zeros[last..].fill(0);
    files.create(&path(0), &zeros).unwrap();
    assert_eq!(recover(&files, 10), Ok((entries(0, 5), segment)));
    for end in 0..MAGIC.len() {
        files.create(&path(0), &whole[..end]).unwrap();
        assert_eq!(recover(&files, 10), Ok((Vec::new(), segment)));
    }
}

#[test]
fn every_altered_byte_is_damage() {
    let (directory, files, _) = written();
    let whole = content(&files);
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 0x55;
        files.create(&path(0), &altered).unwrap();
        let answer = recover(&files, 10);
        let Err(LogError::Damaged { path: named, .. }) = &answer else { panic!("{at}: {answer:?}") };
        assert_eq!(*named, directory.path().join(path(0)));
    }
}

#[test]
fn frames_end_soon_after_their_target() {
    assert_eq!(frame_count([10, 20].into_iter()), 2);
    assert_eq!(frame_count([FRAME_TARGET, 1].into_iter()), 1);
    assert_eq!(frame_count([FRAME_TARGET - 3, 1, 1].into_iter()), 2);
    assert_eq!(frame_count(std::iter::empty()), 0);
    let (_directory, files, segment) = written();
    let many: Vec<Vec<u8>> = (0..3000u32).map(|number| [number.to_be_bytes().repeat(256)].concat()).collect();
    let next = segment.next(&files, 16, &many).unwrap();
    assert_eq!(recover(&files, 16), Ok((many, next)));
    let bytes = files.read(&path(1), u64::MAX).unwrap();
    assert_eq!(parse(&bytes).unwrap().len(), 3);
}
