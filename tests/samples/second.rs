//! A second reader of segments, index files and spares, written from
//! `src/log/FORMAT.md` alone and stricter than ours: what the log writes today
//! is what the text says, byte by byte, and so are the samples.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use journalfs::device::memory::{MemoryDir, Pages};
use journalfs::journal::{BlockIndex, Record};
use journalfs::log::Survey;
use journalfs::units::Lsn;

use crate::{SAMPLES, Sample, make};

/// A frame: where it lies, and where its metadata do.
pub struct Frame {
    pub at: usize,
    pub lsn: u64,
    pub time: u64,
    pub epoch: u32,
    pub meta: Vec<u8>,
}

pub fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(raw[at..at + 4].try_into().unwrap())
}
fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(raw[at..at + 8].try_into().unwrap())
}
pub fn crc(raw: &[u8]) -> u32 {
    crc32fast::hash(raw)
}

/// A segment's header, if the store is no spare: (salt, base).
pub fn header(store: &[u8]) -> Option<(u64, u64)> {
    let raw = &store[..128];
    if raw.starts_with(b"jfsspare") {
        assert_eq!((u32_at(raw, 8), u32_at(raw, 12)), (1, crc(&raw[16..20])));
        assert!(u32_at(raw, 16) <= 1, "a flag of a spare");
        return None;
    }
    assert!(raw.starts_with(b"jfsegmnt"), "no store file");
    assert_eq!((u32_at(raw, 8), u32_at(raw, 12)), (1, crc(&raw[16..])));
    assert_eq!(raw, &store[2048..2048 + 128], "the copy");
    assert!(u32_at(raw, 20) <= 3, "flags");
    assert!(raw[104..].iter().all(|byte| *byte == 0), "unused bytes");
    let (salt, base) = (u64_at(raw, 24), u64_at(raw, 32));
    assert!(salt != 0 && u64_at(raw, 64) < base && u64_at(raw, 72) < base);
    assert_eq!(u64_at(raw, 96), store.len() as u64, "the file's size");
    Some((salt, base))
}

/// The whole frames of a segment, in the order of their places.
pub fn frames(store: &[u8], salt: u64) -> Vec<Frame> {
    let mut found = Vec::new();
    let mut at = 4096;
    while at + 80 <= store.len() {
        match frame(store, salt, at) {
            Some((frame, end)) => {
                found.push(frame);
                at = end;
            }
            None if at % 4096 == 0 => break,
            None => at = at.next_multiple_of(4096),
        }
    }
    found
}

fn frame(store: &[u8], salt: u64, at: usize) -> Option<(Frame, usize)> {
    let raw = store.get(at..)?;
    let ours = raw.starts_with(b"jfR0") && u64_at(raw, 8) == salt && u64_at(raw, 24) == at as u64;
    if !ours {
        return None;
    }
    let (kind, unused, lsn) = (raw[68], raw[69], u64_at(raw, 16));
    let h = usize::from(raw[70]) | usize::from(raw[71]) << 8;
    let (m, d) = (u32_at(raw, 72) as usize, u32_at(raw, 76) as usize);
    let c = match d {
        0 => 0,
        _ if d <= h => 1,
        _ => 1 + (d - h).div_ceil(4096),
    };
    let front = 80 + m + 4 * c;
    if front + d > raw.len() || u32_at(raw, 4) != crc(&raw[8..front]) {
        return None;
    }
    let mut from = front;
    for n in 0..c {
        let to = (from + if n == 0 { h } else { 4096 }).min(front + d);
        if u32_at(raw, 80 + m + 4 * n) != crc(&raw[from..to]) {
            return None;
        }
        from = to;
    }
    let len = (front + d).next_multiple_of(8);
    assert!(raw[front + d..len].iter().all(|byte| *byte == 0));
    assert!(unused == 0 && (kind == 2 || kind == 1 && m == 0 && d == 0));
    assert!((d == 0) == (h == 0) && h <= 4096);
    assert!(u64_at(raw, 56) <= u64_at(raw, 48) && u64_at(raw, 48) < lsn);
    let frame = Frame {
        at,
        lsn,
        time: u64_at(raw, 32),
        epoch: u32_at(raw, 64),
        meta: raw[80..80 + m].to_vec(),
    };
    Some((frame, at + len))
}

/// Reads a folder of segments, and finds in it what the log finds; answers how
/// many records and sealed indexes that were.
fn compare(files: BTreeMap<String, Vec<u8>>) -> (usize, usize) {
    let mut all = BTreeMap::new();
    let mut indexes = 0;
    for (name, store) in files.iter().filter(|(name, _)| name.ends_with(".store")) {
        let Some((salt, base)) = header(store) else {
            continue;
        };
        let frames = frames(store, salt);
        if let Some(index) = files.get(&name.replace(".store", ".index")) {
            indexes += usize::from(is_sealed(index, salt, base, &frames));
        }
        if let Some(blocks) = files.get(&name.replace(".store", ".blocks")) {
            assert_eq!(BlockIndex::decode(blocks).unwrap().encode(), *blocks);
        }
        all.extend(frames.into_iter().map(|f| ((f.lsn, f.epoch), f.meta)));
    }
    let pages = files
        .iter()
        .map(|(name, bytes)| (name.clone(), Pages::from_bytes(bytes)));
    let survey = Survey::read(std::sync::Arc::new(MemoryDir::from_files(pages))).unwrap();
    let mut count = 0;
    for frame in survey.frames(Lsn(1)).filter_map(Result::ok) {
        let seen = all.get(&(frame.lsn.0, frame.epoch.0));
        assert_eq!(seen, Some(&frame.meta), "record {}", frame.lsn);
        if !frame.meta.is_empty() {
            let again = Record::decode(&frame.meta).unwrap().encode();
            assert_eq!(again, frame.meta, "record {}", frame.lsn);
        }
        count += 1;
    }
    (count, indexes)
}

/// Whether the index is sealed: then it must have these frames.
fn is_sealed(index: &[u8], salt: u64, base: u64, frames: &[Frame]) -> bool {
    let written = index
        .get(..64)
        .is_some_and(|it| it.iter().any(|byte| *byte != 0));
    if !written || u64_at(index, 16) != salt {
        return false;
    }
    assert!(index.starts_with(b"jfsindex"));
    assert_eq!(
        (u32_at(index, 8), u32_at(index, 12)),
        (1, crc(&index[16..64]))
    );
    assert_eq!(u64_at(index, 24), base);
    let entries = &index[64..64 + 16 * u64_at(index, 32) as usize];
    assert_eq!(u32_at(index, 40), crc(entries));
    for (n, entry) in entries.chunks(16).enumerate() {
        let frame = frames.iter().find(|frame| frame.lsn == base + n as u64);
        let place = frame.map_or((0, 0), |frame| (frame.at as u64, frame.time));
        assert_eq!((u64_at(entry, 0), u64_at(entry, 8)), place);
    }
    true
}

#[test]
fn what_the_log_writes_is_what_its_format_says() {
    let files = make::killed().journal.files();
    let (records, indexes) = compare(files.into_iter().map(|(n, p)| (n, p.to_vec())).collect());
    assert!(records > 30 && indexes > 0, "{records}, {indexes}");
}

#[test]
fn samples_are_what_the_format_says() {
    for name in SAMPLES {
        let sample = Sample::unpack(name);
        for folder in [Some(sample.journal()), sample.archive()]
            .into_iter()
            .flatten()
        {
            let files = fs::read_dir(&folder).unwrap().map(|file| {
                let file = file.unwrap();
                (
                    file.file_name().into_string().unwrap(),
                    fs::read(file.path()).unwrap(),
                )
            });
            let (records, _) = compare(files.collect());
            assert!(records > 10, "{name}: {records} in {}", folder.display());
        }
    }
}

#[test]
fn a_manifest_has_the_keys_that_it_always_had() {
    let keys = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let keys = text.lines().filter_map(|line| line.split_once("\": "));
        keys.map(|(key, _)| key.to_owned()).collect::<BTreeSet<_>>()
    };
    let archive = make::archived().archive.unwrap();
    let sample = Sample::unpack("archive");
    let kept = fs::read(sample.at("archive/manifest.json")).unwrap();
    let mut now = keys(&archive.files()["manifest.json"].to_vec());
    // Optional, and passed over by readers that don't know it.
    now.retain(|key| key.trim() != "\"whole");
    assert_eq!(now, keys(&kept));
}

#[test]
fn samples_have_every_kind_of_record() {
    let (mut kinds, mut redos) = (BTreeSet::new(), BTreeSet::new());
    for name in SAMPLES {
        let sample = Sample::unpack(name);
        for folder in [Some(sample.journal()), sample.archive()]
            .into_iter()
            .flatten()
        {
            let bytes = fs::read_dir(folder)
                .unwrap()
                .map(|file| file.unwrap().path());
            for store in bytes.filter(|path| path.extension().is_some_and(|end| end == "store")) {
                let store = fs::read(store).unwrap();
                let Some((salt, _)) = header(&store) else {
                    continue;
                };
                for frame in frames(&store, salt).iter().filter(|f| !f.meta.is_empty()) {
                    let tag = if frame.meta[1] == 1 { frame.meta[2] } else { 0 };
                    kinds.insert((frame.meta[1], tag));
                    if let Record::Operation(operation) = Record::decode(&frame.meta).unwrap() {
                        let names = operation.redo.iter().map(|redo| format!("{redo:?}"));
                        redos.extend(names.map(|name| name.split(' ').next().unwrap().to_owned()));
                    }
                }
            }
        }
    }
    let operations = (1..=14).map(|tag| (1, tag));
    let all = operations.chain((2..=5).map(|kind| (kind, 0)));
    assert_eq!(kinds, all.collect());
    let all = ["Edit", "Free", "Image", "Patch", "Put", "Zeros"].map(str::to_owned);
    assert_eq!(redos, all.into());
}
