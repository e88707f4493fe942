//! Contents: written, cut, reserved, punched, scattered; what is read back is
//! compared with bytes in memory.

use journalfs::fs::file::max_size;
use journalfs::fs::{Error, Whence, inode};

use crate::support::bench::{Bench, assert_refused};
use crate::support::random::Seeded;

pub const KEEP: i32 = 1;
pub const PUNCH: i32 = 2 | KEEP;
pub const ZERO: i32 = 0x10;

/// A file whose contents are known.
struct Twin<'b> {
    bench: &'b Bench,
    path: String,
    bytes: Vec<u8>,
}

impl<'b> Twin<'b> {
    fn new(bench: &'b Bench, path: &str) -> Self {
        bench.create(path).unwrap();
        Twin {
            bench,
            path: path.to_owned(),
            bytes: Vec::new(),
        }
    }
    fn write(&mut self, offset: usize, data: &[u8]) {
        self.bench.write(&self.path, offset as u64, data).unwrap();
        // Nothing written extends nothing, wherever it is written.
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset..end].copy_from_slice(data);
    }
    fn truncate(&mut self, size: usize) {
        self.bench.truncate(&self.path, size as u64).unwrap();
        self.bytes.resize(size, 0);
    }
    /// False where the image can't.
    fn fallocate(&mut self, mode: i32, offset: usize, len: usize) -> bool {
        match self
            .bench
            .fallocate(&self.path, mode, offset as u64, len as u64)
        {
            Ok(()) => {}
            Err(Error::Unsupported) => return false,
            Err(e) => panic!("fallocate {mode:#x} {offset} {len}: {e}"),
        }
        if mode & KEEP == 0 {
            self.bytes.resize(self.bytes.len().max(offset + len), 0);
        }
        if mode & !KEEP != 0 {
            let end = self.bytes.len().min(offset + len);
            self.bytes[offset.min(end)..end].fill(0);
        }
        true
    }
    #[track_caller]
    fn judge(&self) {
        let read = self.bench.read(&self.path).unwrap();
        if read != self.bytes {
            let at = read.iter().zip(&self.bytes).position(|(a, b)| a != b);
            panic!(
                "{} of {} bytes (want {}) differs at {at:?}",
                self.path,
                read.len(),
                self.bytes.len()
            );
        }
    }
}

/// New files need extents; without them the part ends here, refused by name.
pub fn supported(bench: &Bench) -> bool {
    bench.create("probe").is_ok() && bench.write("probe", 0, b"probe").is_ok()
}

pub fn files_are_written_and_cut(bench: &Bench, random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    let bs = bench.fs.superblock().block_size as usize;
    for (i, size) in [
        0,
        1,
        bs - 1,
        bs,
        bs + 1,
        12 * bs,
        13 * bs + 7,
        300 << 10,
        1 << 20,
    ]
    .into_iter()
    .enumerate()
    {
        let mut twin = Twin::new(bench, &format!("size {i}"));
        twin.write(0, &random.bytes(size));
        twin.write(size / 2, &random.bytes(size / 3));
        twin.write(size, &random.bytes(10));
        twin.judge();
        twin.truncate(size / 2 + 1);
        twin.truncate(size + 3 * bs + 1);
        twin.write(size + bs, &random.bytes(bs));
        twin.judge();
    }
    for round in 0..30 {
        let mut twin = Twin::new(bench, &format!("mixed {round}"));
        for _ in 0..random.usize(1..20) {
            let (at, len) = (random.usize(0..40 * bs), random.usize(0..5 * bs));
            match random.u8(0..4) {
                0 => twin.truncate(at),
                _ => twin.write(at, &random.bytes(len)),
            }
            twin.judge();
        }
    }
    for round in (0..30).step_by(3) {
        bench.unlink(&format!("mixed {round}")).unwrap();
    }
}

pub fn holes_are_made_and_found(bench: &Bench, random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    let bs = bench.fs.superblock().block_size as usize;
    for round in 0..20 {
        let mut twin = Twin::new(bench, &format!("holes {round}"));
        for _ in 0..random.usize(1..15) {
            let (at, len) = (random.usize(0..60 * bs), random.usize(1..20 * bs));
            match random.u8(0..8) {
                0 => twin.truncate(at),
                1 => drop(twin.fallocate(0, at, len)),
                2 => drop(twin.fallocate(KEEP, at, len)),
                3 => drop(twin.fallocate(PUNCH, at, len)),
                4 => drop(twin.fallocate(ZERO, at, len)),
                5 => drop(twin.fallocate(ZERO | KEEP, at, len)),
                _ => twin.write(at, &random.bytes(len)),
            }
            twin.judge();
            judge_holes(&twin);
        }
    }
    let mut far = Twin::new(bench, "far");
    far.write(9 << 20, b"after a hole");
    far.judge();
    let inode = bench.at("far").unwrap();
    assert_eq!(bench.fs.seek(inode, 0, Whence::Hole).unwrap(), 0);
    assert_eq!(bench.fs.seek(inode, 0, Whence::Data).unwrap(), 9 << 20);
    assert_refused(
        bench.fs.seek(inode, 10 << 20, Whence::Data),
        &Error::NoDevice,
    );
}

/// What SEEK_HOLE calls a hole must read as zeros, and the two alternate.
fn judge_holes(twin: &Twin<'_>) {
    let inode = twin.bench.at(&twin.path).unwrap();
    let seek = |from: usize, whence| match twin.bench.fs.seek(inode, from as u64, whence) {
        Ok(at) => at as usize,
        Err(Error::NoDevice) => twin.bytes.len(),
        Err(e) => panic!("seek: {e}"),
    };
    let mut at = 0;
    while at < twin.bytes.len() {
        let data = seek(at, Whence::Data);
        assert!(
            data >= at && twin.bytes[at..data].iter().all(|&b| b == 0),
            "{}: data in a hole",
            twin.path
        );
        if data == twin.bytes.len() {
            break;
        }
        at = seek(data, Whence::Hole);
        assert!(at > data, "{}: no hole behind data", twin.path);
    }
}

pub fn the_largest_file_has_its_last_byte(bench: &Bench, _random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    bench.create("largest").unwrap();
    let most = largest(bench, "largest");
    bench.write("largest", most - 1, b"!").unwrap();
    let inode = bench.at("largest").unwrap();
    assert_eq!(bench.fs.getattr(inode).unwrap().size, most);
    assert_eq!(bench.fs.read(inode, most - 3, 100).unwrap(), b"\0\0!");
    assert_refused(
        bench
            .fs
            .write(&bench.by, inode, most, b"!", Default::default()),
        &Error::TooBig,
    );
    assert_refused(bench.truncate("largest", most + 1), &Error::TooBig);
    bench.truncate("largest", 5 << 20).unwrap(); // (the judges read all of it)
}

/// The most bytes that a file may have.
pub fn largest(bench: &Bench, path: &str) -> u64 {
    let sb = bench.fs.superblock();
    let inode = inode::load(&bench.fs.journal().view(), sb, bench.at(path).unwrap()).unwrap();
    max_size(sb, &inode)
}

pub fn scattered_files_get_deep_trees(bench: &Bench, random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    let bs = bench.fs.superblock().block_size as usize;
    let mut twin = Twin::new(bench, "scattered");
    let mut order: Vec<usize> = (0..1500).collect();
    random.shuffle(&mut order);
    for n in order {
        twin.write(n * 2 * bs + 1, &random.bytes(10));
    }
    twin.judge();
    for n in (0..1500).filter(|n| n % 5 == 1) {
        twin.fallocate(PUNCH, n * 2 * bs, bs);
    }
    twin.judge();
    for n in (0..1500).filter(|n| n % 11 == 2) {
        twin.fallocate(ZERO, n * 2 * bs - bs, 3 * bs);
    }
    twin.judge();
    for n in (0..1500).step_by(3) {
        twin.write((n * 2 + 1) * bs, &random.bytes(bs));
    }
    twin.judge();
    judge_holes(&twin);
    let mut other = Twin::new(bench, "freed");
    for n in 0..700 {
        other.write(n * 3 * bs, b"x");
    }
    bench.unlink("freed").unwrap();
    twin.truncate(400 * bs);
    twin.judge();
}
