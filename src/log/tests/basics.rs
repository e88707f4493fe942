//! Appending, reading, rotating, recycling, opening again.

use super::*;

#[test]
fn an_empty_folder_is_an_empty_log() {
    let survey = Survey::read(Arc::new(MemoryDir::default())).unwrap();
    assert_eq!(
        (survey.epoch(), survey.last(), survey.durable()),
        (Epoch(0), Lsn(0), Lsn(0))
    );
    assert_eq!(survey.verdict(), &Verdict::Clean);
    assert_eq!(survey.frames(Lsn(0)).count(), 0);
}

#[test]
fn what_is_appended_can_be_read_at_once_and_after_opening_again() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=40 {
        assert_eq!(append_told(&log, n), Lsn(n));
    }
    for n in 1..=40 {
        assert_told(&log.read(Lsn(n)).unwrap(), n);
    }
    assert!(log.segments().len() > 2, "the log was to rotate");
    let survey = Survey::read(copy(&dir)).unwrap();
    assert_eq!(
        (survey.last(), survey.verdict()),
        (Lsn(40), &Verdict::Clean)
    );
    let log = survey.open(options(2)).unwrap();
    assert_eq!(log.epoch(), Epoch(2));
    let marks = log.watermarks();
    assert_eq!(
        (marks.durable, marks.written, marks.appended),
        (Lsn(40), Lsn(40), Lsn(40))
    );
    let frames: Vec<Frame> = log.frames(Lsn(1)).collect::<Result<_>>().unwrap();
    assert_eq!(frames.len(), 40);
    for (frame, n) in frames.iter().zip(1..) {
        assert_told(frame, n);
        assert_eq!(frame.epoch, Epoch(1));
    }
    assert_eq!(append_told(&log, 41), Lsn(41));
}

#[test]
fn what_the_host_was_made_to_write_is_not_idle() {
    let log = open(&Arc::new(MemoryDir::default()), 1);
    log.write_back();
    assert_eq!(log.idle(), 0);
    append_told(&log, 1);
    let one = log.idle();
    append_told(&log, 2);
    assert!(0 < one && one < log.idle(), "{one}, {}", log.idle());
    log.write_back();
    assert_eq!(log.idle(), 0);
    assert!(log.unsynced() > 0, "it was no sync");
}

#[test]
fn what_a_followed_segment_has_left_is_written_back_too() {
    let log = open(&Arc::new(MemoryDir::default()), 1);
    let data = vec![7; 50_000];
    for segments in 1..=3 {
        append(&log, b"large", &data);
        assert_eq!(log.segments().len(), segments);
    }
    let (idle, backlog) = (log.idle(), log.backlog());
    assert!(idle > 150_000 && backlog == idle, "{idle} {backlog}");
    log.write_back();
    assert!(log.idle() < idle && log.idle() > 100_000);
    while log.idle() > 0 {
        log.write_back();
    }
    log.wait_back();
    assert_eq!(log.backlog(), 0);
    assert!(log.unsynced() > 150_000);
    append(&log, b"large", &data);
    log.sync().unwrap();
    assert_eq!((log.idle(), log.backlog(), log.unsynced()), (0, 0, 0));
}

#[test]
fn any_piece_of_the_data_can_be_read_and_is_verified() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    let data: Vec<u8> = (0..10_000u32).map(|n| (n * 7) as u8).collect();
    let slot = log.reserve(4, data.len(), 1000).unwrap();
    let place = slot.place().unwrap();
    assert!(
        matches!(place.read(0, &mut [0]), Err(Error::Missing(_))),
        "not written yet"
    );
    slot.write(b"meta", &data).unwrap();
    for (from, len) in [
        (0, 10_000),
        (0, 1),
        (999, 2),
        (1000, 4096),
        (1001, 4096),
        (5095, 2),
        (9999, 1),
        (3, 9000),
    ] {
        let mut read = vec![0; len];
        place.read(from, &mut read).unwrap();
        assert_eq!(read, data[from..from + len], "{from} {len}");
    }
    let store = dir.open("00000000000000000001.store").unwrap();
    store
        .write_at(&[data[6000] ^ 1], place.0.offset + 6000)
        .unwrap();
    assert!(place.read(1000, &mut [0; 4096]).is_ok(), "another chunk");
    for (from, len) in [(6001, 5), (1000, 9000), (0, 10_000), (999, 5000)] {
        assert!(
            matches!(
                place.read(from, &mut vec![0; len]),
                Err(Error::Corrupt { lsn: Lsn(1), .. })
            ),
            "{from} {len}"
        );
    }
}

#[test]
fn a_sync_makes_durable_what_was_appended_before_it() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    append_told(&log, 1);
    assert!(log.unsynced() > 0);
    assert_eq!(log.watermarks().durable, Lsn(0));
    assert_eq!(log.sync().unwrap().lsn(), Lsn(1));
    assert_eq!(log.unsynced(), 0);
    assert_eq!(log.mark().unwrap(), Lsn(2));
    assert_eq!(log.read(Lsn(2)).unwrap().durable, Lsn(1));
    assert_eq!(log.read(Lsn(2)).unwrap().kind, Kind::Mark);
    let survey = Survey::read(dir).unwrap();
    assert_eq!((survey.durable(), survey.last()), (Lsn(1), Lsn(2)));
}

#[test]
fn the_first_frame_after_a_sync_starts_a_new_page() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    let mut last_page = 0;
    for n in 1..=6 {
        append(&log, b"a", b"b");
        append(&log, b"a", b"b");
        let segment = log.0.segment_of(Lsn(2 * n - 1)).unwrap();
        let page = segment.entry(Lsn(2 * n - 1)).unwrap().offset;
        assert!(page.is_multiple_of(4096) && page > last_page);
        assert_eq!(
            segment.entry(Lsn(2 * n)).unwrap().offset / 4096,
            page / 4096
        );
        last_page = page;
        log.sync().unwrap();
        log.sync().unwrap();
    }
}

#[test]
fn a_full_log_says_so_keeps_spare_room_and_goes_on_after_cleaning() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    let mut n = 0;
    loop {
        match log.reserve(100, 8000, 4096) {
            Ok(slot) => slot.write(&[1; 100], &[2; 8000]).unwrap(),
            Err(Error::Full) => break,
            Err(e) => panic!("{e}"),
        }
        n += 1;
    }
    assert!(log.room() < 8192, "{}", log.room());
    assert!(n > 25 && log.dead().is_none());
    let slot = log.reserve_spare(100, 8000, 4096).unwrap();
    slot.write(&[1; 100], &[2; 8000]).unwrap();
    log.mark().unwrap();
    // Even now it can be opened again: a segment was kept for that.
    Survey::read(copy(&dir)).unwrap().open(options(2)).unwrap();

    let proof = log.sync().unwrap();
    let pinned = log.read(Lsn(1)).unwrap().data.unwrap();
    log.set_installed(proof.lsn(), proof);
    log.clean().unwrap();
    assert!(
        matches!(log.reserve(100, 8000, 4096), Err(Error::Full)),
        "record 1 is pinned"
    );
    drop(pinned);
    log.clean().unwrap();
    assert!(matches!(log.read(Lsn(1)), Err(Error::Recycled(_))));
    for n in 0..100 {
        append(&log, &[1; 100], &[n; 8000]);
        let proof = log.sync().unwrap();
        log.set_installed(proof.lsn(), proof);
        log.clean().unwrap();
        log.prepare().unwrap();
    }
    let stores = dir
        .list()
        .unwrap()
        .iter()
        .filter(|name| name.ends_with(".store"))
        .count();
    assert!(stores <= 6, "{stores} store files");
    let last = log.watermarks().appended;
    let log = open(&copy(&dir), 3);
    assert_eq!(log.watermarks().appended, last);
    assert_eq!(log.frames(last).count(), 1);
}

#[test]
fn records_are_found_by_time() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=60 {
        append_told(&log, n);
    }
    assert!(log.segments().len() > 2);
    let time = |n| log.read(Lsn(n)).unwrap().time.as_nanos();
    let find = |nanos| log.find_time(Time::from_nanos(nanos));
    assert_eq!(find(i64::MIN), Some(Lsn(1)));
    for n in 1..=60 {
        assert_eq!(find(time(n)), Some(Lsn(n)));
        assert_eq!(find(time(n) - 1), Some(Lsn(n)));
    }
    assert_eq!(find(time(60) + 1), None);
    let times: Vec<i64> = (1..=60).map(time).collect();
    let survey = Survey::read(dir).unwrap();
    assert_eq!(survey.find_time(Time::from_nanos(times[29])), Some(Lsn(30)));
}

#[test]
fn a_new_timeline_keeps_nothing_but_goes_on_counting() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=5 {
        append_told(&log, n);
    }
    drop(log);
    let log = Survey::read(dir.clone())
        .unwrap()
        .open_anew(options(2))
        .unwrap();
    let marks = log.watermarks();
    assert_eq!(
        (marks.installed, marks.durable, marks.appended),
        (Lsn(5), Lsn(5), Lsn(5))
    );
    assert_eq!(append_told(&log, 6), Lsn(6));
    let survey = Survey::read(dir).unwrap();
    assert_eq!(
        (survey.verdict(), survey.installed(), survey.last()),
        (&Verdict::Clean, Lsn(5), Lsn(6))
    );
    assert!(matches!(survey.frame(Lsn(5)), Err(Error::Recycled(_))));
    assert_eq!(survey.frames(Lsn(1)).count(), 1);
}

#[test]
fn a_slot_dropped_unwritten_stops_the_log() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    drop(log.reserve(1, 0, 0).unwrap());
    assert!(log.dead().is_some());
    assert!(matches!(log.reserve(1, 0, 0), Err(Error::Dead(_))));
    assert!(matches!(log.sync(), Err(Error::Dead(_))));
}

#[test]
fn many_records_kept_over_a_kill_may_need_several_fresh_segments() {
    let dir = Arc::new(MemoryDir::default());
    let log = open(&dir, 1);
    for n in 1..=50 {
        append_told(&log, n);
    }
    for seed in 2..6 {
        let copied = copy(&dir);
        let log = open(&copied, seed);
        assert!(log.segments().len() > 2);
        let again = open(&copy(&copied), seed + 10);
        for (frame, n) in again.frames(Lsn(1)).zip(1..) {
            assert_told(&frame.unwrap(), n);
        }
        assert_eq!(again.watermarks().appended, Lsn(50));
    }
}

#[test]
fn a_log_on_host_files_does_the_same() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("journal");
    let dir = || Arc::new(crate::device::host::HostDir::create(&path).unwrap());
    let mut last = 0;
    for seed in 1..4 {
        let log = Survey::read(dir()).unwrap().open(options(seed)).unwrap();
        assert_eq!(log.watermarks().appended, Lsn(last));
        for n in last + 1..=last + 30 {
            append_told(&log, n);
            if n % 7 == 0 {
                let proof = log.sync().unwrap();
                log.set_installed(Lsn(n - 5), proof);
                log.write_back();
            }
            log.clean().unwrap();
            log.prepare().unwrap();
        }
        for frame in log.frames(Lsn(last + 10)) {
            let frame = frame.unwrap();
            // Cleaning appends marks in between.
            if frame.kind == Kind::Record {
                let n = String::from_utf8(frame.meta.clone()).unwrap();
                assert_told(&frame, n.trim_start_matches("record ").parse().unwrap());
            }
        }
        last = log.watermarks().appended.0;
    }
}

#[test]
fn pages_to_come_are_read_ahead_and_none_that_a_frame_takes_whole() {
    let large = Options {
        segment_size: 8 << 20,
        ..options(1)
    };
    let dir: Arc<MemoryDir> = Arc::default();
    let log = Survey::read(dir).unwrap().open(large).unwrap();
    let place = |len| {
        let mut tail = log.0.tail.lock();
        let placed = tail.place(&log.0, len, tail::Room::Ordinary).unwrap();
        (placed.at + len, placed.ahead)
    };
    let mut cached = 0;
    for n in 0..1000 {
        let (end, ahead) = place(1024);
        if let Some(ahead) = ahead {
            assert!(ahead.start.is_multiple_of(frame::PAGE) && !ahead.is_empty());
            assert!(n == 0 || ahead.start == cached, "once");
            cached = ahead.end;
        }
        assert!(end + (60 << 10) < cached, "well ahead");
    }
    let (end, ahead) = place(1 << 20);
    let page = end / frame::PAGE * frame::PAGE;
    assert_eq!(ahead, Some(page..page + frame::PAGE));
    let (_, ahead) = place(1024);
    assert!(
        ahead.is_some_and(
            |ahead| ahead.start == page + frame::PAGE && ahead.end > page + (100 << 10)
        )
    );
    // At the segment's end there is nothing to come.
    while log.segments().len() == 1 {
        let (end, ahead) = place(256 << 10);
        assert!(ahead.is_none_or(|ahead| ahead.end <= 8 << 20), "{end}");
    }
}
