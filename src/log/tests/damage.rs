//! Frames torn, lost and damaged at every position of a small log.

use super::*;
use crate::device::memory::Pages;

/// A log of twelve records: the first six durable and known to be (record 7
/// is the mark that says so), the others not.
struct Small {
    dir: Arc<MemoryDir>,
    durable: u64,
    last: u64,
    /// Offset and end of each frame.
    frames: Vec<(u64, u64)>,
}

const STORE: &str = "00000000000000000001.store";

fn small() -> Small {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=6 {
        append(&log, &[n; 30], &vec![n; usize::from(n) * 40]);
    }
    log.sync().unwrap();
    log.mark().unwrap();
    for n in 8..=12 {
        append(&log, &[n; 30], &vec![n; usize::from(n) * 40]);
    }
    let segment = log.0.segment_of(Lsn(1)).unwrap();
    let frames = (1..=12).map(|n| segment.front(Lsn(n)).unwrap().0);
    let frames = frames.map(|header| (header.at, header.end())).collect();
    Small {
        dir,
        durable: 6,
        last: 12,
        frames,
    }
}

impl Small {
    /// The folder with its store file changed.
    fn with(&self, change: impl FnOnce(&mut Pages)) -> Survey {
        let mut files = self.dir.files();
        change(files.get_mut(STORE).unwrap());
        Survey::read(Arc::new(MemoryDir::from_files(files))).unwrap()
    }

    /// The survey of a log whose record `bad` is bad: the verdict is as the
    /// marks say, and what is kept is as it was written.
    fn check(&self, survey: &Survey, bad: Option<u64>, what: &str) {
        match (bad, survey.verdict()) {
            (None, Verdict::Clean) => {}
            (Some(bad), Verdict::Corrupt(found)) if bad <= self.durable => {
                assert_eq!(found.lsn, Lsn(bad), "{what}");
                assert_eq!(found.segment, STORE);
                let near = self.frames[bad as usize - 1];
                assert!(
                    found.offset <= near.1 && found.offset + 4096 >= near.0,
                    "{what}: {found:?}"
                );
                assert_eq!(found.after.is_some(), bad > 1, "{what}");
            }
            (Some(bad), Verdict::Torn { first, .. }) if bad > self.durable => {
                assert_eq!(first.lsn, Lsn(bad), "{what}");
            }
            // Nothing is left of the last one: as if it had never been.
            (Some(bad), Verdict::Clean) if bad == self.last => {}
            (_, verdict) => panic!("{what}: {verdict:?}, bad: {bad:?}"),
        }
        assert_eq!(
            survey.last(),
            Lsn(bad.map_or(self.last, |bad| bad - 1)),
            "{what}"
        );
        for frame in survey.frames(Lsn(1)) {
            let frame = frame.unwrap();
            let n = frame.lsn.0 as u8;
            if frame.kind == Kind::Record {
                assert_eq!(frame.meta, [n; 30]);
                let mut data = vec![0; usize::from(n) * 40];
                frame.data.unwrap().read(0, &mut data).unwrap();
                assert!(data.iter().all(|byte| *byte == n));
            }
        }
    }

    /// The record whose meaning depends on the byte at `at`.
    fn owner(&self, at: u64) -> Option<u64> {
        let frame = self
            .frames
            .iter()
            .position(|(start, end)| (*start..*end).contains(&at))?;
        Some(frame as u64 + 1)
    }
}

#[test]
fn every_byte_flipped_in_turn_is_noticed_or_does_not_matter() {
    let small = small();
    let end = small.frames[11].1;
    let mut harmless = 0;
    for at in (0..end + 5000).filter(|at| !(200..2000).contains(at)) {
        for flip in [1, 0x80] {
            let survey = small.with(|store| {
                let mut byte = [0];
                store.read(&mut byte, at);
                store.write(&[byte[0] ^ flip], at);
            });
            let what = format!("byte {at} of {end}");
            match small.owner(at) {
                // Padding behind the data is the only part of a frame that means nothing.
                Some(n) if survey.last() == Lsn(12) && at + 7 >= small.frames[n as usize - 1].1 => {
                    small.check(&survey, None, &what);
                    harmless += 1;
                }
                owner => small.check(&survey, owner, &what),
            }
        }
    }
    assert!(harmless < 2 * 7 * 12, "{harmless}");
}

#[test]
fn a_store_cut_at_any_length_loses_what_lay_behind() {
    let small = small();
    for len in 4096..small.frames[11].1 + 100 {
        let survey = small.with(|store| store.set_len(len));
        // Padding need not be there for the frame's bytes, but its length says it is.
        let bad = small
            .frames
            .iter()
            .position(|(_, end)| *end > len)
            .map(|n| n as u64 + 1);
        match (bad, survey.verdict()) {
            (Some(bad), Verdict::Clean) if bad > small.durable => {
                assert_eq!(survey.last(), Lsn(bad - 1), "cut at {len}");
            }
            // Nothing of record 1 is there, nor of any mark.
            (Some(_), Verdict::Clean) => assert!(len < small.frames[6].1, "cut at {len}"),
            // The mark is gone: nobody knows that the others were synced once.
            (Some(bad), Verdict::Torn { first, .. }) if len < small.frames[6].1 => {
                assert_eq!(first.lsn, Lsn(bad), "cut at {len}");
            }
            _ => small.check(&survey, bad, &format!("cut at {len}")),
        }
    }
}

#[test]
fn every_frame_lost_or_torn_in_turn_is_noticed() {
    let small = small();
    for (n, (start, end)) in (1..).zip(&small.frames) {
        let lost = small.with(|store| store.write(&vec![0; (end - start) as usize], *start));
        small.check(&lost, Some(n), &format!("record {n} lost"));
        for sector in *start / 512..end.div_ceil(512) {
            let torn = small.with(|store| {
                let (from, to) = ((sector * 512).max(*start), (sector * 512 + 512).min(*end));
                store.write(&vec![0x5A; (to - from) as usize], from);
            });
            if torn.last() != Lsn(12) || small.frames[n as usize - 1].1 % 512 > 7 {
                small.check(&torn, Some(n), &format!("record {n} torn"));
            }
        }
    }
}

#[test]
fn leftovers_behind_a_cut_count_only_for_their_marks() {
    let small = small();
    let (start, end) = small.frames[8];
    let survey = small.with(|store| store.write(&vec![0; (end - start) as usize], start));
    assert!(
        matches!(survey.verdict(), Verdict::Torn { dropped: 3, .. }),
        "{:?}",
        survey.verdict()
    );
    let log = survey.open(options(2)).unwrap();
    assert_eq!(log.watermarks().appended, Lsn(8));
    assert_eq!(append(&log, b"new", b""), Lsn(9));
    let read = log.read(Lsn(9)).unwrap();
    assert_eq!((read.epoch, read.meta), (Epoch(2), b"new".to_vec()));
    assert!(matches!(log.read(Lsn(10)), Err(Error::Missing(_))));
}

#[test]
fn a_corrupt_log_is_not_opened_and_not_changed_but_can_be_given_up() {
    let small = small();
    let (start, _) = small.frames[2];
    let mut files = small.dir.files();
    files.get_mut(STORE).unwrap().write(&[1, 2, 3], start + 90);
    let dir = Arc::new(MemoryDir::from_files(files));
    let before: Vec<_> = dir
        .files()
        .into_iter()
        .map(|(name, pages)| (name, pages.to_vec()))
        .collect();
    match Survey::read(dir.clone()).unwrap().open(options(2)) {
        Err(Error::Corrupt {
            lsn: Lsn(3),
            segment,
            offset,
            ..
        }) => assert_eq!((&*segment, offset), (STORE, start)),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("opened"),
    }
    let after: Vec<_> = dir
        .files()
        .into_iter()
        .map(|(name, pages)| (name, pages.to_vec()))
        .collect();
    assert!(before == after);
    let log = Survey::read(dir.clone())
        .unwrap()
        .open_anew(options(2))
        .unwrap();
    assert_eq!(log.watermarks().installed, Lsn(12));
    assert_eq!(Survey::read(dir).unwrap().verdict(), &Verdict::Clean);
}

#[test]
fn a_lost_header_is_not_an_empty_log() {
    let small = small();
    let survey = small.with(|store| store.write(&[0; 4096], 0));
    assert!(
        matches!(survey.verdict(), Verdict::Corrupt(_)),
        "{:?}",
        survey.verdict()
    );

    // Nor is the newest segment's loss the end of the log before it.
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    while log.segments().len() < 3 {
        append(&log, b"m", &[1; 5000]);
    }
    append(&log, b"m", &[1; 5000]);
    log.sync().unwrap();
    log.mark().unwrap();
    let newest = log.segments()[2].clone();
    let mut files = dir.files();
    files.get_mut(&newest.name).unwrap().write(&[0; 4096], 0);
    let survey = Survey::read(Arc::new(MemoryDir::from_files(files))).unwrap();
    assert!(
        matches!(survey.verdict(), Verdict::Corrupt(bad) if bad.lsn == newest.base),
        "{:?}",
        survey.verdict()
    );
}

#[test]
fn a_log_of_another_version_is_not_called_damaged() {
    let small = small();
    let mut files = small.dir.files();
    let pages = files.get_mut(STORE).unwrap();
    let later = (super::super::segment::VERSION + 1).to_le_bytes();
    pages.write(&later, 8);
    pages.write(&later, 2048 + 8);
    match Survey::read(Arc::new(MemoryDir::from_files(files))) {
        Err(Error::Version { version, .. }) => {
            assert_eq!(version.to_le_bytes(), later);
        }
        Err(other) => panic!("{other}"),
        Ok(survey) => panic!("{:?}", survey.verdict()),
    }
}

#[test]
fn frames_at_or_below_installed_are_not_judged() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=9 {
        append_told(&log, n);
    }
    let proof = log.sync().unwrap();
    log.set_installed(Lsn(5), proof);
    append_told(&log, 10);
    log.sync().unwrap();
    let segment = log.0.segment_of(Lsn(1)).unwrap();
    for n in 1..=9 {
        let mut files = dir.files();
        let at = segment.entry(Lsn(n)).unwrap().offset;
        files.get_mut(STORE).unwrap().write(&[0; 40], at);
        let survey = Survey::read(Arc::new(MemoryDir::from_files(files))).unwrap();
        assert_eq!(survey.installed(), Lsn(5));
        match survey.verdict() {
            Verdict::Clean => assert!(n <= 5, "record {n}"),
            Verdict::Corrupt(bad) => assert_eq!(bad.lsn, Lsn(n)),
            other => panic!("{other:?}"),
        }
        if n <= 5 {
            assert!(survey.frame(Lsn(n)).is_err());
            assert_told(&survey.frame(Lsn(n + 1)).unwrap(), n + 1);
            survey.open(options(2)).unwrap();
        }
    }
}

#[test]
fn a_frame_in_somebodys_data_is_never_taken_for_a_record() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    append_told(&log, 1);
    let store = dir.open(STORE).unwrap();
    let mut bytes = vec![0; 20_000];
    store.read_at(&mut bytes, 0).unwrap();
    // The whole segment so far, as data of the next records, shifted to line up.
    for shift in [0, 8, 512] {
        append(&log, b"", &bytes[4096 - shift..]);
    }
    let survey = small_tail_lost(&dir, &log);
    assert_eq!(survey.last(), Lsn(2));
}

/// Without the third record.
/// Whoever lists records reads little of what is in the image, and all that is
/// not: what recovery would drop, a listing must not call sound.
#[test]
fn a_sealed_index_hides_damage_only_in_what_is_installed() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    while log.segments().len() < 3 {
        append(&log, &[1; 20], &[2; 3000]);
    }
    let proof = log.sync().unwrap();
    for installed in [false, true] {
        if installed {
            log.set_installed(proof.lsn(), proof);
        }
        log.mark().unwrap();
        log.sync().unwrap();
        let spoilt = copy(&dir);
        let frame = log.0.segment_of(Lsn(3)).unwrap().front(Lsn(3)).unwrap().0;
        let store = spoilt.open(STORE).unwrap();
        store.write_at(b"spoilt", frame.data_at() + 100).unwrap();
        let survey = Survey::judged(spoilt.clone()).unwrap();
        let found = survey.verdict();
        let corrupt = matches!(found, Verdict::Corrupt(bad) if bad.lsn == Lsn(3));
        assert_eq!(corrupt, !installed, "{found:?}");
        assert_eq!(found, Survey::read(spoilt).unwrap().verdict());
    }
}

/// Three segments, all of it durable and known to be.
fn three() -> Arc<MemoryDir> {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    while log.segments().len() < 3 {
        append(&log, &[1; 20], &[2; 3000]);
    }
    log.sync().unwrap();
    log.mark().unwrap();
    log.sync().unwrap();
    dir
}

#[test]
fn a_segment_that_is_missing_or_has_lost_its_header_is_named() {
    let dir = three();
    let names: Vec<String> = (Survey::read(dir.clone()).unwrap().segments().iter())
        .map(|segment| segment.name.clone())
        .collect();
    for (at, name) in names.iter().enumerate() {
        let bad = |change: &dyn Fn(&MemoryDir)| {
            let left = copy(&dir);
            change(&left);
            let survey = Survey::read(left).unwrap();
            match survey.verdict() {
                Verdict::Corrupt(bad) => bad.clone(),
                _ => survey.lost_end().unwrap(),
            }
        };
        let base = Segment::base_in(name);
        let headless = bad(&|left| left.open(name).unwrap().write_at(&[0; 4096], 0).unwrap());
        let found = (Some(headless.lsn), &headless.segment);
        assert_eq!(found, (base, name));
        assert!(headless.why.contains("header"), "{headless:?}");
        let gone = bad(&|left| left.remove(name).unwrap());
        assert_eq!(Some(gone.lsn), base);
        assert!(gone.why.contains("missing"), "{gone:?}");
        assert_eq!(gone.segment == *name, at > 0, "{gone:?}");
    }
}

/// Also where an index that is not believed, or none, leaves a hole.
#[test]
fn a_damaged_frame_is_told_with_its_place() {
    let dir = three();
    let installed = Survey::read(dir.clone()).unwrap();
    let segment = &installed.pieces[0].segment;
    let (header, _) = segment.front(Lsn(5)).unwrap();
    dir.remove(&Segment::index_name(Lsn(1))).unwrap();
    let store = dir.open(STORE).unwrap();
    store.write_at(b"spoilt", header.at + 20).unwrap();
    let beyond = Survey::beyond(dir).unwrap();
    let Err(Error::Corrupt { lsn, offset, .. }) = beyond.survey().frame(Lsn(5)) else {
        panic!("it can be read");
    };
    assert_eq!((lsn, offset), (Lsn(5), header.at));
}

fn small_tail_lost(dir: &MemoryDir, log: &Log) -> Survey {
    let at = log
        .0
        .segment_of(Lsn(3))
        .unwrap()
        .entry(Lsn(3))
        .unwrap()
        .offset;
    let mut files = dir.files();
    files.get_mut(STORE).unwrap().write(&[0; 80], at);
    Survey::read(Arc::new(MemoryDir::from_files(files))).unwrap()
}

#[test]
fn a_store_that_claims_to_be_longer_than_any_is_not_searched_for_frames() {
    let dir = Arc::new(MemoryDir::default());
    append_told(&open(&dir, 1), 1);
    let mut files = dir.files();
    let store = files.get_mut(STORE).unwrap();
    let mut header = [0; 128];
    store.read(&mut header, 0);
    header[96..104].copy_from_slice(&(1u64 << 62).to_le_bytes());
    let crc = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    store.write(&header, 0);
    store.write(&header, 2048);
    let survey = Survey::read(Arc::new(MemoryDir::from_files(files))).unwrap();
    assert!(survey.segments().is_empty());
    assert!(matches!(survey.verdict(), Verdict::Corrupt(_)));
}
