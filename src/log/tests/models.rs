//! Appends, syncs, rotation and cleaning in orders that a scheduler chooses
//! (`scripts/shuttle`).

use shuttle::thread;

use super::*;
use crate::device::adverse::Adverse;
use crate::device::volatile::{Host, Snapshot};
use crate::sync::explore::{below, explore};

/// What a power cut that takes all it can would leave of the log.
fn worst(host: &Adverse) -> Survey {
    let files = host.worst().files;
    Survey::read(Arc::new(MemoryDir::from_files(files))).unwrap()
}

/// Metadata and data of a record; a few of them fill a segment.
fn made(writer: u8, n: u8) -> (Vec<u8>, Vec<u8>) {
    let len = 5_000 + usize::from(n) * 7_000;
    (vec![writer, n], vec![writer << 4 | n; len])
}

fn assert_made(frame: &Frame) {
    if frame.kind == Kind::Mark {
        return;
    }
    let (_, data) = made(frame.meta[0], frame.meta[1]);
    let place = frame.data.as_ref().expect("records have data");
    let mut read = vec![0; place.len()];
    place.read(0, &mut read).unwrap();
    assert!(read == data, "record {} has other data", frame.lsn);
}

fn append(log: &Log, writer: u8, n: u8) {
    let (meta, data) = made(writer, n);
    let slot = loop {
        match log.reserve(meta.len(), data.len(), 4096) {
            Err(Error::Full) => thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    let lsn = slot.lsn();
    slot.write(&meta, &data).unwrap();
    log.wait_written(lsn).unwrap();
    assert!(log.watermarks().written >= lsn);
    match log.read(lsn) {
        Ok(frame) => assert_made(&frame),
        Err(Error::Recycled(_)) => assert!(log.watermarks().installed >= lsn),
        Err(e) => panic!("{e}"),
    }
}

/// What a sync proves was appended before it, and survives.
fn sync(log: &Log, host: &Adverse) -> Durable {
    let before = log.watermarks();
    let proof = log.sync().unwrap();
    assert!(proof.lsn() >= before.appended);
    for left in [host.worst(), host.host().cut(below(1 << 32))] {
        let left = Survey::read(Arc::new(MemoryDir::from_files(left.files))).unwrap();
        assert!(!matches!(left.verdict(), Verdict::Corrupt(_)));
        assert!(
            left.last() >= proof.lsn(),
            "{} are left of {proof:?}",
            left.last()
        );
    }
    proof
}

fn read_all(log: &Log) {
    for frame in log.frames(log.first()) {
        match frame {
            Ok(frame) => assert_made(&frame),
            Err(Error::Recycled(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
    let marks = log.watermarks();
    assert!(marks.installed <= marks.durable && marks.durable <= marks.written);
    assert!(marks.written <= marks.appended);
}

#[test]
fn appends_syncs_rotation_and_cleaning_keep_every_promise_in_any_order() {
    explore(|| {
        let host = Adverse::new(Host::new(Snapshot::default()));
        let survey = Survey::read(host.folder()).unwrap();
        let log = survey.open(options(1 + below(1000))).unwrap();
        let appending = (0..2).map(|writer| {
            let log = log.clone();
            thread::spawn(move || (0..4).for_each(|n| append(&log, writer, n)))
        });
        let appending: Vec<_> = appending.collect();
        let syncing = (0..2).map(|_| {
            let (log, host) = (log.clone(), host.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let proof = sync(&log, &host);
                    log.set_installed(Lsn(proof.lsn().0.saturating_sub(below(3))), proof);
                    log.clean().unwrap();
                    log.prepare().unwrap();
                }
            })
        });
        let syncing: Vec<_> = syncing.collect();
        read_all(&log);
        appending.into_iter().for_each(|it| it.join().unwrap());
        syncing.into_iter().for_each(|it| it.join().unwrap());
        read_all(&log);
        let last = sync(&log, &host).lsn();
        assert_eq!(last, log.watermarks().appended);
        let left = worst(&host);
        for frame in left.frames(left.installed().next()) {
            assert_made(&frame.unwrap());
        }
    });
}

#[test]
fn after_a_failed_sync_nothing_is_called_durable_that_is_not() {
    explore(|| {
        let host = Adverse::new(Host::new(Snapshot::default()));
        let survey = Survey::read(host.folder()).unwrap();
        let log = survey.open(options(1 + below(1000))).unwrap();
        host.fail_sync(below(4) as usize);
        let working = (0..3u8).map(|writer| {
            let (log, host) = (log.clone(), host.clone());
            thread::spawn(move || {
                for n in 0..2 {
                    let (meta, data) = made(writer, n);
                    let Ok(slot) = log.reserve(meta.len(), data.len(), 4096) else {
                        break;
                    };
                    let _ = slot.write(&meta, &data);
                    if let Ok(proof) = log.sync() {
                        assert!(worst(&host).last() >= proof.lsn());
                    }
                }
            })
        });
        let working: Vec<_> = working.collect();
        working.into_iter().for_each(|it| it.join().unwrap());
        assert!(worst(&host).last() >= log.proof().lsn());
    });
}
