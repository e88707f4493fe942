//! Files against a plain vector of bytes, and e2fsck after every change.

use super::super::world::{FORMATS, MAPPED, World};
use super::*;

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

/// The same changes on a file and on a vector.
struct Twin<'w> {
    world: &'w World,
    file: InodeNo,
    model: Vec<u8>,
    random: fastrand::Rng,
    most: u64,
    extents: bool,
}

impl Twin<'_> {
    fn step(&mut self) -> String {
        let at = self.random.u64(0..self.most);
        let len = self.random.u64(1..=(self.most / 4));
        match self.random.u32(0..10) {
            0..4 => self.write(at, len.min(20_000)),
            4 => self.truncate(at),
            5 if self.extents => self.space(0, at, len),
            6 if self.extents => self.space(KEEP, at, len),
            7 if self.extents => self.space(ZERO, at, len),
            8 if self.extents => self.space(ZERO | KEEP, at, len),
            _ => self.space(PUNCH, at, len),
        }
    }

    fn write(&mut self, at: u64, len: u64) -> String {
        let mut data = vec![0; len as usize];
        self.random.fill(&mut data);
        let wrote = self.world.write(self.file, at, &data).unwrap();
        assert_eq!(wrote, data.len());
        self.reach(at + len);
        self.model[at as usize..(at + len) as usize].copy_from_slice(&data);
        format!("write {at}+{len}")
    }

    fn truncate(&mut self, size: u64) -> String {
        self.world.truncate(self.file, size);
        self.model.resize(size as usize, 0);
        format!("truncate {size}")
    }

    fn space(&mut self, mode: i32, at: u64, len: u64) -> String {
        self.world.fallocate(self.file, mode, at, len).unwrap();
        if mode & KEEP == 0 {
            self.reach(at + len);
        }
        if mode & !KEEP != 0 {
            let end = (at + len).min(self.model.len() as u64);
            if at < end {
                self.model[at as usize..end as usize].fill(0);
            }
        }
        format!("fallocate {mode} {at}+{len}")
    }

    fn reach(&mut self, end: u64) {
        if self.model.len() < end as usize {
            self.model.resize(end as usize, 0);
        }
    }

    fn compare(&self, when: &str) {
        let found = self.world.contents(self.file);
        assert_eq!(found.len(), self.model.len(), "{when}: size");
        let differs = found.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{when}: first byte that differs");
    }
}

fn random_changes(name: &str, args: &[&str], extents: bool) {
    let world = World::new(args, 24 << 20);
    let file = world.file("file");
    let free = world.free_blocks();
    let random = fastrand::Rng::with_seed(1);
    let mut twin = Twin {
        world: &world,
        file,
        model: Vec::new(),
        random,
        most: 600_000,
        extents,
    };
    for round in 0..240 {
        let what = format!("{name}, step {round}: {}", twin.step());
        twin.compare(&what);
        if round % 8 == 0 {
            world.judge(&what);
        }
    }
    let when = format!("{name}, at the end");
    world.judge(&when);
    assert_eq!(world.debugfs_reads(file), twin.model, "{when}: debugfs");
    world.truncate(file, 0);
    world.judge(&when);
    assert_eq!(world.free_blocks(), free, "{when}: blocks got lost");
}

#[test]
fn random_changes_leave_what_a_vector_would_hold() {
    for (name, args) in FORMATS {
        random_changes(name, args, true);
    }
}
