//! A host that fails, a host that is full, and what a reader may meet.

use std::io;

use parking_lot::Mutex;

use super::*;
use crate::device::crash::{Frontier, Plan};
use crate::device::fault::{Call, Effect, Fault};
use crate::device::volatile::{Host, Snapshot};
use crate::device::{Dir, Disk};

/// One call fails; if it is a sync, what was dirty is forgotten.
fn fault(call: Call, after: u64, errno: i32) -> Fault {
    let effect = match call {
        Call::Sync => Effect::Forget { errno },
        _ => Effect::Fail { errno },
    };
    Fault::new(call, effect).after(after).times(1)
}

fn host_log() -> (Arc<Host>, Log) {
    let host = Host::new(Snapshot::default());
    let log = Survey::read(host.folder())
        .unwrap()
        .open(options(1))
        .unwrap();
    (host, log)
}

fn refuses_everything(log: &Log) {
    assert!(log.dead().is_some());
    assert!(matches!(log.reserve(1, 0, 0), Err(Error::Dead(_))));
    assert!(matches!(log.reserve_spare(1, 0, 0), Err(Error::Dead(_))));
    assert!(matches!(log.mark(), Err(Error::Dead(_))));
    assert!(matches!(log.sync(), Err(Error::Dead(_))));
    assert!(matches!(log.clean(), Err(Error::Dead(_))));
    assert!(matches!(log.prepare(), Err(Error::Dead(_))));
}

#[test]
fn a_failed_sync_is_final_and_what_it_lost_is_never_called_durable() {
    let (host, log) = host_log();
    append_told(&log, 1);
    log.sync().unwrap();
    append_told(&log, 2);
    host.faults().arm(fault(Call::Sync, 0, libc::EIO));
    assert!(matches!(log.sync(), Err(Error::Io { .. })));
    // The host would now report success: nobody asks it.
    refuses_everything(&log);
    assert_eq!(log.watermarks().durable, Lsn(1));
    assert_told(&log.read(Lsn(2)).unwrap(), 2);

    // The next process sees the record in the page cache, but it is not on
    // disk: it has to be written again before it counts as durable.
    let log = Survey::read(host.folder())
        .unwrap()
        .open(options(2))
        .unwrap();
    assert_eq!(log.watermarks().durable, Lsn(2));
    let mut frontier = Frontier::new(&host.start());
    host.trace().iter().for_each(|event| frontier.pass(event));
    let left = frontier.crash(&Plan::default()).0;
    let survey = Survey::read(Arc::new(MemoryDir::from_files(left.files))).unwrap();
    assert_eq!(survey.last(), Lsn(2));
    assert_told(&survey.frame(Lsn(2)).unwrap(), 2);
}

#[test]
fn a_failed_write_of_a_numbered_frame_is_final_for_all_who_wait() {
    let (host, log) = host_log();
    append_told(&log, 1);
    let slot = log.reserve(3, 0, 0).unwrap();
    let waiter = log.clone();
    let waiting = std::thread::spawn(move || waiter.wait_written(Lsn(2)));
    host.faults().arm(fault(Call::Write, 0, libc::ENOSPC));
    assert!(matches!(slot.write(b"abc", b""), Err(Error::Io { .. })));
    assert!(matches!(waiting.join().unwrap(), Err(Error::Dead(_))));
    refuses_everything(&log);
    assert_eq!(Survey::read(host.folder()).unwrap().last(), Lsn(1));
}

#[test]
fn a_failed_sync_of_the_folder_is_final_too() {
    let (host, log) = host_log();
    while log.segments().len() < 2 {
        append(&log, b"m", &[1; 5000]);
    }
    // Old segment, new segment, folder.
    host.faults().arm(fault(Call::Sync, 2, libc::EIO));
    assert!(log.sync().is_err());
    refuses_everything(&log);
}

#[test]
fn an_opening_that_fails_anywhere_changes_nothing_that_counts() {
    for call in Call::ALL {
        for after in 0.. {
            let (host, log) = host_log();
            for n in 1..=12 {
                append_told(&log, n);
            }
            drop(log);
            host.faults().arm(fault(call, after, libc::EIO));
            let opened = Survey::read(host.folder()).and_then(|survey| survey.open(options(2)));
            let met = host.faults().heal();
            // A failure may also have hit what an opening can do without.
            assert!(opened.is_ok() || met);
            drop(opened);
            let survey = Survey::read(host.folder()).unwrap();
            assert_eq!(
                (survey.last(), survey.verdict()),
                (Lsn(12), &Verdict::Clean),
                "{call:?} {after}"
            );
            let log = survey.open(options(3)).unwrap();
            for n in 1..=12 {
                assert_told(&log.read(Lsn(n)).unwrap(), n);
            }
            if !met {
                // (Nothing is allocated: there is a spare.)
                assert!(after > 1 || call == Call::Space, "{call:?}");
                break;
            }
        }
    }
}

#[test]
fn a_full_host_makes_the_log_full_and_not_dead() {
    let (host, log) = host_log();
    log.prepare().unwrap();
    // No new file can be made from now on.
    let errno = libc::ENOSPC;
    let none = Fault::new(Call::Name, Effect::Fail { errno });
    let mut appended = 0;
    let full = loop {
        if appended == 3 {
            host.faults().arm(none.clone());
        }
        match log.reserve(10, 9000, 4096) {
            Ok(slot) => slot.write(&[0; 10], &[1; 9000]).unwrap(),
            Err(e) => break e,
        }
        appended += 1;
    };
    assert!(matches!(full, Error::Full), "{full}");
    assert!(log.dead().is_none());
    log.prepare().unwrap();
    log.sync().unwrap();
}

/// A folder on a host without space: no new file can be made.
struct FullDir(Arc<MemoryDir>);

impl Dir for FullDir {
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn crate::device::Disk>> {
        self.0.open(name)
    }
    fn create(&self, _: &str) -> std::io::Result<Arc<dyn crate::device::Disk>> {
        Err(std::io::Error::from_raw_os_error(libc::ENOSPC))
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.0.remove(name)
    }
    fn sync(&self) -> std::io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_log_is_recovered_and_goes_on_although_the_host_is_full() {
    let dir = Arc::new(MemoryDir::default());
    drop(open(&dir, 1));
    let full = || Arc::new(FullDir(dir.clone()));
    let mut last = 0;
    for seed in 2..8 {
        let log = Survey::read(full()).unwrap().open(options(seed)).unwrap();
        assert_eq!(log.watermarks().appended, Lsn(last));
        // What a recovery does: everything home, a checkpoint record, cleaning.
        let slot = log.reserve_spare(100, 0, 0).unwrap();
        slot.write(&[1; 100], &[]).unwrap();
        let proof = log.sync().unwrap();
        log.set_installed(proof.lsn(), proof);
        log.clean().unwrap();
        log.prepare().unwrap();
        append_told(&log, 1);
        last = log.watermarks().appended.0;
    }
}

#[test]
fn no_bytes_make_a_survey_or_an_opening_panic() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=30 {
        append_told(&log, n);
    }
    let proof = log.sync().unwrap();
    log.set_installed(Lsn(9), proof);
    log.mark().unwrap();
    let second = log.segments()[1].clone();
    let words = [
        0,
        1,
        12,
        31,
        1 << 31,
        (1 << 32) - 1,
        (1 << 62) - 1,
        1 << 62,
        u64::MAX - 1,
        u64::MAX,
    ];
    // Every word of a segment's header and of a frame's, with checksums that fit.
    for at in (16..104)
        .step_by(4)
        .chain((4096 + 16..4096 + 80).step_by(4))
    {
        for word in words {
            let mut files = dir.files();
            let store = files.get_mut(&second.name).unwrap();
            store.write(&word.to_le_bytes(), at);
            if at < 4096 {
                let mut header = [0; 112];
                store.read(&mut header, 16);
                store.write(&crc32fast::hash(&header).to_le_bytes(), 12);
                store.write(&[0; 128], 2048);
            } else {
                let mut frame = [0; 5000];
                store.read(&mut frame, 4096);
                let meta =
                    u32::from_le_bytes([frame[72], frame[73], frame[74], frame[75]]) as usize;
                let data =
                    u32::from_le_bytes([frame[76], frame[77], frame[78], frame[79]]) as usize;
                let head = usize::from(u16::from_le_bytes([frame[70], frame[71]]));
                let front = 80
                    + meta.min(4000)
                    + 4 * super::super::frame::chunk_count(data.min(9000), head.max(1));
                store.write(&crc32fast::hash(&frame[8..front]).to_le_bytes(), 4096 + 4);
            }
            let files = Arc::new(MemoryDir::from_files(files));
            let survey = Survey::read(files.clone()).unwrap();
            let _ = survey.frames(Lsn(1)).filter(Result::is_ok).count();
            let _ = survey.find_time(Time::from_nanos(word as i64));
            if let Ok(log) = survey.open(options(2)) {
                append(&log, b"on it goes", b"");
            }
            let _ = Survey::read(files).unwrap().open_anew(options(3));
        }
    }
}

#[test]
fn the_index_of_an_earlier_process_may_hold_anything() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=40 {
        append_told(&log, n);
    }
    let proof = log.sync().unwrap();
    log.set_installed(Lsn(30), proof);
    log.mark().unwrap();
    drop(log);
    let indexes: Vec<String> = dir
        .list()
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".index"))
        .collect();
    assert!(indexes.len() > 2);
    for seed in 0..8u64 {
        let mut files = dir.files();
        for (name, nth) in indexes.iter().zip(seed..) {
            let pages = files.get_mut(name).unwrap();
            match nth % 4 {
                0 => pages.write(&vec![0xAB; pages.len() as usize], 0),
                1 => pages.set_len(100),
                2 => pages.write(&[0x55; 64], 64 + seed * 16),
                _ => drop(files.remove(name)),
            }
        }
        let log = open(&Arc::new(MemoryDir::from_files(files)), seed + 2);
        for n in 1..=40 {
            assert_told(&log.read(Lsn(n)).unwrap(), n);
        }
        let time = log.read(Lsn(20)).unwrap().time;
        assert_eq!(log.find_time(time), Some(Lsn(20)));
    }
}

#[test]
fn frames_of_a_recycled_segments_earlier_use_are_never_believed() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    // All records alike, so that old frames lie exactly where new ones would.
    let mut turns = 0;
    while turns < 30 {
        let before = log.segments().len();
        append(&log, &[1; 20], &[2; 3000]);
        if log.segments().len() > before {
            turns += 1;
            let proof = log.sync().unwrap();
            log.set_installed(proof.lsn(), proof);
            log.clean().unwrap();
        }
        let survey = Survey::read(copy(&dir)).unwrap();
        assert_eq!(survey.verdict(), &Verdict::Clean);
        assert_eq!(survey.last(), log.watermarks().appended);
    }
}

#[test]
fn numbers_above_a_cut_come_again_in_a_new_epoch() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    append_told(&log, 1);
    log.sync().unwrap();
    let at = log.reserve(8, 0, 0).unwrap();
    drop(at);
    let log = open(&copy(&dir), 2);
    assert_eq!(append(&log, b"again", b""), Lsn(2));
    let (one, two) = (log.read(Lsn(1)).unwrap(), log.read(Lsn(2)).unwrap());
    assert_eq!((one.epoch, two.epoch), (Epoch(1), Epoch(2)));
    assert!(two.time > one.time);
}

#[test]
fn times_never_run_backwards_though_the_wall_clock_does() {
    let dir = Arc::new(MemoryDir::default());
    let late = options(5);
    let log = Survey::read(dir.clone()).unwrap().open(late).unwrap();
    append_told(&log, 1);
    // The next boot's clock is four seconds behind.
    let log = open(&dir, 1);
    append_told(&log, 2);
    let (one, two) = (log.read(Lsn(1)).unwrap(), log.read(Lsn(2)).unwrap());
    assert!(two.time > one.time && two.wall < one.wall);
}

#[test]
fn records_of_a_segment_that_was_overwritten_out_of_turn_are_recycled_not_missing() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    while log.segments().len() < 4 {
        append(&log, &[1; 20], &[2; 3000]);
    }
    let proof = log.sync().unwrap();
    log.set_installed(proof.lsn(), proof);
    log.mark().unwrap();
    log.sync().unwrap();
    let segments = log.segments();
    let (gap, after) = (segments[1].base, segments[2].base);
    let left = copy(&dir);
    left.remove(&segments[1].name).unwrap();
    let survey = Survey::read(left).unwrap();
    assert_eq!(survey.verdict(), &Verdict::Clean);
    let mut lsn = segments[0].base;
    while lsn < segments[3].base {
        let read = survey.frame(lsn);
        match lsn >= gap && lsn < after {
            true => assert!(matches!(read, Err(Error::Recycled(_))), "{lsn}"),
            false => assert!(read.is_ok(), "{lsn}"),
        }
        lsn = lsn.next();
    }
}

/// Else a power failure would look like a segment that somebody removed.
#[test]
fn an_index_is_written_when_the_next_segment_is_there_durably() {
    let (host, log) = host_log();
    let written = || {
        let folder = host.folder();
        let names = folder.list().unwrap().into_iter();
        let lens = names
            .filter(|name| name.ends_with(".index"))
            .map(|name| folder.open(&name).unwrap().len().unwrap());
        lens.collect::<Vec<u64>>()
    };
    while log.segments().len() < 3 {
        append(&log, b"m", &[1; 5000]);
    }
    assert_eq!(written(), [0]);
    log.sync().unwrap();
    let entries = |at: usize| {
        let segment = &log.segments()[at];
        segment.last.0 + 1 - segment.base.0
    };
    assert_eq!(written(), [64 + 16 * entries(0), 64 + 16 * entries(1), 0]);
}

/// All before it may be given up, and then no index tells of it.
#[test]
fn a_log_whose_active_segment_is_missing_or_cut_short_has_lost_its_end() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    while log.segments().len() < 3 {
        append(&log, &[1; 20], &[2; 3000]);
    }
    let proof = log.sync().unwrap();
    let lost = |dir: Arc<MemoryDir>| Survey::read(dir).unwrap().lost_end();
    for retired in [false, true] {
        if retired {
            log.set_installed(proof.lsn(), proof);
            log.mark().unwrap();
            log.sync().unwrap();
        }
        log.clean().unwrap();
        let active = log.segments().pop().unwrap();
        let spares = Survey::read(copy(&dir)).unwrap().files;
        let spares = spares.iter().filter(|file| file.name.contains("spare"));
        assert_eq!(spares.count() >= 2, retired);
        assert_eq!(lost(copy(&dir)), None);

        let left = copy(&dir);
        left.remove(&active.name).unwrap();
        let bad = lost(left).unwrap_or_else(|| panic!("{retired}"));
        assert!(bad.why.contains("missing"), "{retired}");
        for len in [0, 4096, 5000, active.bytes - 4096] {
            let left = copy(&dir);
            left.open(&active.name).unwrap().set_len(len).unwrap();
            let bad = lost(left).unwrap_or_else(|| panic!("{retired} {len}"));
            assert_eq!(bad.why.contains("cut short"), len > 0, "{retired} {len}");
        }
    }
}

/// A folder whose log goes on just when an index is looked for.
struct Meanwhile<F: FnOnce()> {
    dir: Arc<MemoryDir>,
    goes_on: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send> Dir for Meanwhile<F> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let goes_on = || self.goes_on.lock().take();
        if name.ends_with(".index")
            && let Some(goes_on) = goes_on()
        {
            goes_on();
        }
        self.dir.open(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.dir.create(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.dir.sync()
    }
}

#[test]
fn what_a_live_log_overwrites_while_it_is_read_is_recycled_not_missing() {
    for look in [Survey::read, Survey::glance] {
        let dir = Arc::new(MemoryDir::default());
        let log = open(&dir, 1);
        let fill = |segments| {
            while log.segments().len() < segments {
                append(&log, &[1; 20], &[2; 3000]);
            }
            let proof = log.sync().unwrap();
            log.set_installed(proof.lsn(), proof);
        };
        fill(4);
        fill(5);
        let goes_on = log.clone();
        let goes_on = move || {
            goes_on.clean().unwrap();
            for _ in 0..25 {
                append(&goes_on, &[1; 20], &[2; 3000]);
            }
        };
        let survey = look(Arc::new(Meanwhile {
            dir: dir.clone(),
            goes_on: Mutex::new(Some(goes_on)),
        }));
        let survey = survey.unwrap();
        assert_eq!(survey.verdict(), &Verdict::Clean);
        let gone = survey.numbers(Lsn(1)).filter(|lsn| {
            let read = survey.frame(*lsn);
            assert_eq!(
                read.is_err(),
                matches!(read, Err(Error::Recycled(_))),
                "{read:?}"
            );
            read.is_err()
        });
        assert!(gone.count() > 0);
    }
}
