//! The log's promises, on disks in memory.

use std::sync::Arc;

use super::*;
use crate::device::memory::MemoryDir;
use crate::units::StepClock;

mod basics;
mod crash;
mod damage;
mod faults;
#[cfg(feature = "shuttle")]
mod models;
mod threads;

/// Small segments, a clock that steps, and salts that repeat.
fn options(seed: u64) -> Options {
    let clock = Arc::new(StepClock::new(Time {
        secs: 1_000_000 + seed as i64,
        nanos: 0,
    }));
    Options {
        segment_size: 64 << 10,
        segments: 6,
        clock,
        seed,
        keeper: None,
    }
}

fn open(dir: &Arc<MemoryDir>, seed: u64) -> Log {
    Survey::read(dir.clone())
        .unwrap()
        .open(options(seed))
        .unwrap()
}

fn append(log: &Log, meta: &[u8], data: &[u8]) -> Lsn {
    let slot = log.reserve(meta.len(), data.len(), 4096).unwrap();
    let lsn = slot.lsn();
    slot.write(meta, data).unwrap();
    lsn
}

/// Metadata and data of a record, told from its number.
fn told(n: u64) -> (Vec<u8>, Vec<u8>) {
    let meta = format!("record {n}").into_bytes();
    let data = vec![n as u8; (n as usize * 379) % 9000];
    (meta, data)
}

fn append_told(log: &Log, n: u64) -> Lsn {
    let (meta, data) = told(n);
    append(log, &meta, &data)
}

fn assert_told(frame: &Frame, n: u64) {
    let (meta, data) = told(n);
    assert_eq!(frame.meta, meta);
    let mut read = vec![0; frame.data.as_ref().map_or(0, Place::len)];
    if let Some(place) = &frame.data {
        place.read(0, &mut read).unwrap();
    }
    assert_eq!(read, data);
}

/// The same folder, as another process would find it after a kill.
fn copy(dir: &MemoryDir) -> Arc<MemoryDir> {
    Arc::new(MemoryDir::from_files(dir.files()))
}
