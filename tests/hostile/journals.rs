//! Forged journals: headers of segments, frames, records and indexes that are
//! summed as they should be and say what nobody wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use journalfs::check;
use journalfs::device::Dir;
use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::ext4::Superblock;
use journalfs::fs::Caller;
use journalfs::fs::{guard, mount};
use journalfs::history::audit;
use journalfs::history::chart::Chart;
use journalfs::history::chronicle::Chronicle;
use journalfs::history::shown;
use journalfs::journal::archive::Limits;
use journalfs::journal::{Journal, Options, Record, Replay, replay};
use journalfs::log::Survey;
use journalfs::past::removal;
use journalfs::units::{InodeNo, Lsn, Time};

use crate::exercise::{self, options};
use crate::forge::tamper;
use crate::support::images::Variant;
use crate::support::random::Seeded;

/// Bytes of a frame's header, and of a segment's.
pub const FRAME: usize = 80;
const SEGMENT: usize = 128;

/// An image and its journal as a killed daemon leaves them.
#[derive(Clone)]
pub struct Left {
    pub image: Pages,
    pub files: BTreeMap<String, Pages>,
}

impl Left {
    /// Two sessions, the second one killed: with a checkpoint or without, with
    /// several segments, and records that the image lacks.
    pub fn killed(variant: &str, checkpoint: bool) -> Left {
        Left::archived(variant, checkpoint, None)
    }

    /// The same with an archive.
    pub fn archived(variant: &str, checkpoint: bool, archive: Option<Arc<MemoryDir>>) -> Left {
        let image = Variant::named(variant).make(8 << 20).to_memory();
        let journal = Arc::new(MemoryDir::default());
        let fresh = image.pages();
        for session in 1..3 {
            let mut how = options(false, session);
            how.segment_size = Some(128 << 10);
            how.history = archive.clone().map(|dir| mount::History {
                left: None,
                dir,
                limits: Limits::default(),
                held: Arc::new(()),
            });
            let opened = mount::open(image.clone(), journal.clone(), how).unwrap();
            let mounted = opened.mount().unwrap();
            // The copy that a daemon takes of an image that has no history yet.
            if let (Some(archive), 1) = (&archive, session) {
                let base = format!("base-{:020}-{:020}-{:010}.img", 0, 0, 1);
                let base = archive.create(&base).unwrap();
                base.write_at(&fresh.to_vec(), 0).unwrap();
            }
            let (fs, by) = (mounted.fs(), Caller::default());
            for n in 0..30 {
                let name = format!("{session}-{n}");
                let file = fs.create(&by, InodeNo::ROOT, name.as_bytes(), 0o644, 0);
                let file = file.unwrap().value.inode;
                fs.write(&by, file, n * 500, &[n as u8; 3000], Default::default())
                    .unwrap();
                if n % 10 == 9 && checkpoint {
                    fs.journal().checkpoint().unwrap();
                    fs.unlink(&by, InodeNo::ROOT, name.as_bytes()).unwrap();
                }
            }
            fs.journal().sync().unwrap();
            match session {
                1 => mounted.close().unwrap(),
                _ => drop(mounted),
            }
        }
        Left {
            image: image.pages(),
            files: journal.files(),
        }
    }

    pub fn image(&self) -> Arc<MemoryDisk> {
        Arc::new(MemoryDisk::from_pages(self.image.clone()))
    }
    pub fn journal(&self) -> Arc<MemoryDir> {
        Arc::new(MemoryDir::from_files(self.files.clone()))
    }

    /// Changes what (frame or header, offset, how, value) says in the stores,
    /// and puts their checksums right.
    pub fn apply(
        &mut self,
        edits: impl Iterator<Item = (usize, usize, u8, u8)>,
        edit: fn(&mut [u8], usize, u8, u8),
    ) {
        let stores: Vec<String> = (self.files.keys())
            .filter(|name| name.ends_with(".store"))
            .cloned()
            .collect();
        for (place, at, how, value) in edits {
            let name = &stores[place % stores.len()];
            let mut bytes = self.files[name].to_vec();
            change_store(&mut bytes, place / stores.len(), at, |raw, at| {
                edit(raw, at, how, value);
            });
            self.files.insert(name.clone(), Pages::from_bytes(&bytes));
        }
    }

    /// Changes any bytes of any file, spares and indexes too. An index's sums
    /// are put right, nothing else is.
    pub fn apply_anywhere(
        &mut self,
        edits: impl Iterator<Item = (usize, usize, u8, u8)>,
        edit: fn(&mut [u8], usize, u8, u8),
    ) {
        let names: Vec<String> = self.files.keys().cloned().collect();
        for (place, at, how, value) in edits {
            let name = &names[place % names.len()];
            let mut bytes = self.files[name].to_vec();
            let at = at + place / names.len() % 2 * (1 << 16);
            edit(&mut bytes, at, how, value);
            if name.ends_with(".index") && bytes.len() >= 64 {
                seal_index(&mut bytes);
            }
            self.files.insert(name.clone(), Pages::from_bytes(&bytes));
        }
    }

    /// Changes one file of the journal so that it is still believed.
    pub fn change(&mut self, random: &mut Seeded) {
        let names: Vec<String> = self.files.keys().cloned().collect();
        let name = names[random.usize(0..names.len())].clone();
        let mut bytes = self.files[&name].to_vec();
        match random.u8(..12) {
            _ if name.ends_with(".index") => change_index(&mut bytes, random),
            0 => bytes.truncate(random.usize(0..=bytes.len())),
            1 => {
                let other = names[random.usize(0..names.len())].clone();
                bytes = self.files[&other].to_vec();
            }
            2..5 => change_segment(&mut bytes, random),
            _ => change_frame(&mut bytes, random),
        }
        let name = match random.u8(..20) {
            0 => format!("spare-{}.store", u64::MAX),
            _ => name,
        };
        self.files.insert(name, Pages::from_bytes(&bytes));
    }
}

/// Changes a frame of a segment's store or, past the last of them, its header,
/// and puts the checksums right.
pub fn change_store(
    bytes: &mut [u8],
    place: usize,
    at: usize,
    edit: impl FnOnce(&mut [u8], usize),
) {
    let found = frames(bytes);
    match place % (found.len() + 1) {
        n if n < found.len() => {
            let (start, len) = (found[n], FRAME + meta_len(bytes, found[n]));
            // Not the magic and the sum, by which it is found.
            edit(&mut bytes[start + 16..], at % len);
            seal_frame(bytes, start);
        }
        _ if bytes.len() >= SEGMENT => {
            edit(&mut bytes[16..SEGMENT], at % (SEGMENT - 16));
            seal_segment(bytes);
        }
        _ => {}
    }
}

/// Both copies of the header.
fn change_segment(bytes: &mut [u8], random: &mut Seeded) {
    let Some(header) = bytes.get_mut(..SEGMENT) else {
        return;
    };
    for _ in 0..random.usize(1..4) {
        match random.bool() {
            true => tamper(&mut header[16..], random),
            // A large number in a field of 64 bits.
            false => {
                let field = 24 + 8 * random.usize(0..10);
                let large = u64::MAX >> random.u32(0..64);
                header[field..field + 8].copy_from_slice(&large.to_le_bytes());
            }
        }
    }
    seal_segment(bytes);
}

pub fn seal_segment(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[16..SEGMENT]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    if bytes.len() >= 2048 + SEGMENT {
        bytes.copy_within(..SEGMENT, 2048);
    }
}

fn change_index(bytes: &mut [u8], random: &mut Seeded) {
    if bytes.len() < 64 {
        return;
    }
    match random.bool() {
        true => tamper(&mut bytes[32..40], random),
        false => tamper(&mut bytes[64..], random),
    }
    seal_index(bytes);
}

pub fn seal_index(bytes: &mut [u8]) {
    let count = u64::from_le_bytes(bytes[32..40].try_into().unwrap());
    let len = usize::try_from(count).unwrap_or(0).saturating_mul(16);
    if let Some(entries) = bytes[64..].get(..len) {
        let crc = crc32fast::hash(entries);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    }
    let own = crc32fast::hash(&bytes[16..64]);
    bytes[12..16].copy_from_slice(&own.to_le_bytes());
}

/// Where frames begin.
pub fn frames(bytes: &[u8]) -> Vec<usize> {
    (4096..bytes.len().saturating_sub(FRAME))
        .step_by(8)
        .filter(|at| bytes[*at..*at + 4] == *b"jfR0")
        .collect()
}

fn change_frame(bytes: &mut [u8], random: &mut Seeded) {
    let found = frames(bytes);
    if found.is_empty() {
        return;
    }
    let at = found[random.usize(0..found.len())];
    let meta = meta_len(bytes, at);
    match random.u8(..6) {
        0 => tamper(&mut bytes[at + 16..at + FRAME], random),
        1 => {
            let field = at + 16 + 8 * random.usize(0..6);
            let large = u64::MAX >> random.u32(0..64);
            bytes[field..field + 8].copy_from_slice(&large.to_le_bytes());
        }
        _ => {
            for _ in 0..random.usize(1..4) {
                let Some(record) = bytes.get_mut(at + FRAME..at + FRAME + meta) else {
                    return;
                };
                // Numbers stand at any byte of a record.
                let skip = random.usize(0..record.len().clamp(1, 200));
                let record = record.get_mut(skip..).unwrap_or_default();
                let len = record.len().min(8);
                match random.bool() {
                    _ if record.is_empty() => {}
                    true => tamper(&mut record[..len], random),
                    false => record[..len].fill(0xFF),
                }
            }
        }
    }
    seal_frame(bytes, at);
}

/// Bytes of a frame's record.
pub fn meta_len(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at + 72..at + 76].try_into().unwrap()) as usize
}

/// Puts a frame's checksums right, if its lengths lie within the file.
pub fn seal_frame(bytes: &mut [u8], at: usize) {
    let meta = meta_len(bytes, at);
    let data = u32::from_le_bytes(bytes[at + 76..at + 80].try_into().unwrap()) as usize;
    let head = usize::from(u16::from_le_bytes([bytes[at + 70], bytes[at + 71]]));
    let chunks = match data.checked_sub(head) {
        _ if data == 0 => 0,
        None => 1,
        Some(rest) => 1 + rest.div_ceil(4096),
    };
    let sums = at + FRAME + meta;
    let start = sums + 4 * chunks;
    if start + data > bytes.len() {
        return;
    }
    let mut from = start;
    for n in 0..chunks {
        let len = if n == 0 { head.min(data) } else { 4096 };
        let to = (from + len).min(start + data);
        let crc = crc32fast::hash(&bytes[from..to]);
        bytes[sums + 4 * n..sums + 4 * n + 4].copy_from_slice(&crc.to_le_bytes());
        from = to;
    }
    let crc = crc32fast::hash(&bytes[at + 8..start]);
    bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

struct Anything;

impl Replay for Anything {
    fn record(
        &mut self,
        _: &journalfs::journal::Heading,
        _: &journalfs::journal::Record,
        data: Option<&journalfs::log::Place>,
    ) -> journalfs::journal::Result<()> {
        if let Some(place) = data {
            let mut piece = vec![0; place.len()];
            let _ = place.read(0, &mut piece);
        }
        Ok(())
    }
}

/// What people are told of it.
fn tell(survey: &Survey, left: &Left) {
    audit::audit(survey, &mut |_| {});
    Chronicle::of(survey, survey.durable(), &mut |_| {});
    let _ = removal::find(survey, b"/1-9");
    let mut raw = [0; 1024];
    left.image.read(&mut raw, 1024);
    let Ok(sb) = Superblock::decode(&guard::take_off(&raw)) else {
        return;
    };
    let chart = Chart::read(&*left.image(), sb);
    // Each takes all before it.
    let step = survey.numbers(Lsn(1)).count().min(2000) / 4 + 1;
    for frame in survey.frames(Lsn(1)).flatten().step_by(step) {
        if let Ok(record) = Record::decode(&frame.meta) {
            shown::changes(survey, &chart, frame.lsn, &record, frame.data.as_ref());
        }
    }
}

/// Everything that reads a journal.
pub fn read_and_work(left: &Left, random: &mut Seeded) {
    if let Ok(survey) = Survey::read(left.journal()) {
        for frame in survey.frames(Lsn(1)) {
            let _ = replay(std::iter::once(frame), &mut Anything);
        }
        tell(&survey, left);
        for secs in [0, 1_800_000_000, i64::MAX / 1_000_000_000] {
            let _ = survey.find_time(Time { secs, nanos: 0 });
        }
    }
    if let Ok(unrecovered) = Journal::open(left.journal()) {
        let _ = unrecovered.untouched_samples();
        let _ = unrecovered.scrub(left.image(), Options::for_image(8 << 20, 1024));
    }
    let _ = check::run_disks(left.image(), Some(left.journal()));
    let _ = mount::recover(left.image(), left.journal(), options(false, 7));
    // Another size of segments than that of the files.
    exercise::mount_and_work(left.image(), left.journal(), random);
}

#[test]
fn a_forged_journal_never_makes_anything_panic() {
    let samples = [
        Left::killed("1k-blocks", true),
        Left::killed("upstream", false),
        Left::killed("uninit-bg", true),
    ];
    super::rounds("a_forged_journal", |random| {
        let mut left = samples[random.usize(0..samples.len())].clone();
        for _ in 0..random.usize(1..3) {
            left.change(random);
        }
        // A superblock that has to be taken from the journal.
        if random.u8(..6) == 0 {
            left.image.write(&[0xA5; 300], 1024);
        }
        read_and_work(&left, random);
    });
}
