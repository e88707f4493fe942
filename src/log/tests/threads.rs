//! Many threads at once: appends, syncs, reads, cleaning.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

#[test]
fn appends_syncs_reads_and_cleaning_go_on_beside_each_other() {
    let dir = Arc::new(MemoryDir::default());
    let log = Survey::read(dir.clone())
        .unwrap()
        .open(Options {
            segments: 8,
            ..options(1)
        })
        .unwrap();
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u8)
            .map(|writer| {
                let (log, stop) = (&log, &stop);
                scope.spawn(move || {
                    let _last = StopAll(stop);
                    for n in 0..1500u32 {
                        write_one(log, writer, n, stop);
                        if n % 50 == 0 {
                            let lsn = log.watermarks().written;
                            assert!(log.sync().unwrap().lsn() >= lsn);
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let _last = StopAll(&stop);
            while !stop.load(Ordering::Relaxed) {
                let proof = log.sync().unwrap();
                log.set_installed(Lsn(proof.lsn().0.saturating_sub(20)), proof);
                log.clean().unwrap();
                log.prepare().unwrap();
                log.write_back();
            }
        });
        scope.spawn(|| {
            let _last = StopAll(&stop);
            while !stop.load(Ordering::Relaxed) {
                for frame in log.frames(log.watermarks().installed) {
                    match frame {
                        Ok(frame) => check_one(&frame),
                        Err(Error::Recycled(_)) => continue,
                        Err(e) => panic!("{e}"),
                    }
                    read.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            let _last = StopAll(&stop);
            while !stop.load(Ordering::Relaxed) {
                let marks = log.watermarks();
                assert!(marks.installed <= marks.durable && marks.durable <= marks.written);
                assert!(marks.written <= marks.appended);
                // An outside reader of a live log never sees corruption.
                let verdict = Survey::read(dir.clone()).unwrap().verdict().clone();
                assert!(!matches!(verdict, Verdict::Corrupt(_)), "{verdict:?}");
            }
        });
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    assert!(read.load(Ordering::Relaxed) > 0);
    log.sync().unwrap();
    let marks = log.watermarks();
    assert!(marks.durable == marks.appended && marks.appended >= Lsn(4500));
    let survey = Survey::read(dir).unwrap();
    assert_eq!(
        (survey.last(), survey.verdict()),
        (marks.appended, &Verdict::Clean)
    );
}

/// Lets the others end when one fails.
struct StopAll<'a>(&'a AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn write_one(log: &Log, writer: u8, n: u32, stop: &AtomicBool) {
    let meta = [&[writer][..], &n.to_le_bytes()].concat();
    let data = vec![n as u8; (n as usize * 97) % 3000];
    let slot = loop {
        match log.reserve(meta.len(), data.len(), 1 + n % 4096) {
            Err(Error::Full) if stop.load(Ordering::Relaxed) => return,
            Err(Error::Full) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    let (lsn, place) = (slot.lsn(), slot.place());
    slot.write(&meta, &data).unwrap();
    log.wait_written(lsn).unwrap();
    if let Some(place) = place {
        let mut read = vec![0; data.len()];
        place.read(0, &mut read).unwrap();
        assert_eq!(read, data);
    }
}

fn check_one(frame: &Frame) {
    if frame.kind == Kind::Mark {
        return;
    }
    let n = u32::from_le_bytes([frame.meta[1], frame.meta[2], frame.meta[3], frame.meta[4]]);
    assert_eq!(
        frame.data.as_ref().map_or(0, Place::len),
        (n as usize * 97) % 3000
    );
    if let Some(place) = &frame.data {
        let mut read = vec![0; place.len()];
        place.read(0, &mut read).unwrap();
        assert!(read.iter().all(|byte| *byte == n as u8));
    }
}
