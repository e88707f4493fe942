//! Files over a real journal, in memory: what was acknowledged is there after
//! the daemon is killed at any moment, with a journal so small that large
//! truncations need several records and run out of room.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use journalfs::device::memory::{MemoryDir, MemoryDisk};
use journalfs::fs::mount::{self, Mounted};
use journalfs::fs::{Caller, Error, Fs, Options, Result};
use journalfs::units::{InodeNo, StepClock, Time};
use support::e2fsck;
use support::images::{DEBIAN, Variant, pages_of};
use support::random::Seeded;

const KEEP: i32 = 1;
const PUNCH: i32 = 2 | KEEP;
const ZERO: i32 = 16;
const MOST: u64 = 400_000;

/// What it leaves when a test is done with it must recover to an image that
/// e2fsck finds nothing in.
struct World {
    disk: Arc<MemoryDisk>,
    dir: Arc<MemoryDir>,
    mounted: Option<Mounted>,
    by: Caller,
}

impl World {
    /// Over a fresh image of this variant.
    fn new(variant: &str) -> World {
        let image = Variant::named(variant).make(16 << 20);
        World::over(image.to_memory(), Arc::default())
    }

    fn over(disk: Arc<MemoryDisk>, dir: Arc<MemoryDir>) -> World {
        let clock = Arc::new(StepClock::new(Time {
            secs: 1_790_000_000,
            nanos: 0,
        }));
        let options = mount::Options {
            fs: Options::default(),
            segment_size: Some(128 << 10),
            segments: Some(8),
            cache_size: 1 << 20,
            clock,
            seed: 7,
            ..mount::Options::default()
        };
        let opened = mount::open(disk.clone(), dir.clone(), options).expect("the image opens");
        let mounted = opened.mount().expect("the image mounts");
        World {
            disk,
            dir,
            mounted: Some(mounted),
            by: Caller::default(),
        }
    }

    fn fs(&self) -> &Fs {
        self.mounted.as_ref().expect("not closed yet").fs()
    }

    /// Does it, with a checkpoint when the journal is full, as a mount would.
    fn retry<T>(&self, mut act: impl FnMut(&Fs) -> Result<T>) -> Result<T> {
        for _ in 0..50 {
            match act(self.fs()) {
                Err(Error::Full) => self.fs().journal().checkpoint().expect("a checkpoint"),
                done => return done,
            }
        }
        panic!("the journal stays full");
    }

    /// What a new daemon finds after this one was killed now.
    fn killed(&self) -> World {
        let disk = Arc::new(MemoryDisk::from_pages(self.disk.pages()));
        let dir = Arc::new(MemoryDir::from_files(self.dir.files()));
        World::over(disk, dir)
    }

    /// Unmounts; e2fsck has nothing to say.
    fn close(mut self, when: &str) {
        let mounted = self.mounted.take().expect("not closed yet");
        mounted.close().unwrap_or_else(|e| panic!("{when}: {e}"));
        e2fsck::assert_clean_disk(&*self.disk);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() || self.mounted.take().is_none() {
            return;
        }
        e2fsck::assert_recovers_clean(self.disk.clone(), self.dir.clone());
    }
}

type Model = BTreeMap<String, Vec<u8>>;

fn compare(world: &World, model: &Model, when: &str) {
    for (name, bytes) in model {
        let attr = world.fs().lookup(&world.by, InodeNo::ROOT, name.as_bytes());
        let attr = attr.unwrap_or_else(|e| panic!("{when}: {name}: {e}"));
        world.fs().forget(attr.inode, 1);
        let found = world
            .fs()
            .read(attr.inode, 0, bytes.len() as u32 + 1)
            .expect("a read");
        assert_eq!(found.len(), bytes.len(), "{when}: size of {name}");
        assert!(found == *bytes, "{when}: contents of {name}");
    }
}

fn step(world: &World, model: &mut Model, random: &mut Seeded) -> String {
    let name = format!("file{}", random.u32(0..4));
    if !model.contains_key(&name) {
        let made = world
            .retry(|fs| fs.create(&world.by, InodeNo::ROOT, name.as_bytes(), 0o644, 0))
            .expect("create");
        world.fs().forget(made.value.inode, 1);
        model.insert(name.clone(), Vec::new());
    }
    let inode = world
        .fs()
        .lookup(&world.by, InodeNo::ROOT, name.as_bytes())
        .expect("lookup")
        .inode;
    world.fs().forget(inode, 1);
    let bytes = model.get_mut(&name).expect("in the model");
    let (at, len) = (random.u64(0..MOST), random.u64(1..MOST / 4));
    // A block map can't say "unwritten": the last two are for extents.
    let kinds = if world.fs().superblock().has_extents() {
        12
    } else {
        10
    };
    let what = match random.u32(0..kinds) {
        0..3 => {
            let data = random.bytes(len as usize);
            let mut done = 0;
            while done < data.len() {
                let part = |fs: &Fs| {
                    fs.write(
                        &world.by,
                        inode,
                        at + done as u64,
                        &data[done..],
                        Default::default(),
                    )
                };
                done += world.retry(part).expect("write").value;
            }
            bytes.resize(bytes.len().max((at + len) as usize), 0);
            bytes[at as usize..][..data.len()].copy_from_slice(&data);
            "write"
        }
        3..6 => {
            // Every other block: a tree with much to free.
            for n in 0..40 {
                let to = (at / 2048 + n) * 2048;
                world
                    .retry(|fs| fs.write(&world.by, inode, to, b"piece", Default::default()))
                    .expect("write");
                bytes.resize(bytes.len().max(to as usize + 5), 0);
                bytes[to as usize..][..5].copy_from_slice(b"piece");
            }
            "pieces"
        }
        6 => {
            world
                .retry(|fs| fs.open(&world.by, inode, 0o1001))
                .expect("open with O_TRUNC");
            world.retry(|fs| fs.release(inode)).expect("release");
            bytes.clear();
            "truncate to nothing"
        }
        7 => {
            let set = journalfs::fs::SetAttr {
                size: Some(at),
                ..Default::default()
            };
            world
                .retry(|fs| fs.setattr(&world.by, inode, &set))
                .expect("truncate");
            bytes.resize(at as usize, 0);
            "truncate"
        }
        8 => {
            world
                .retry(|fs| fs.unlink(&world.by, InodeNo::ROOT, name.as_bytes()))
                .expect("unlink");
            model.remove(&name);
            return format!("unlink {name}");
        }
        9 => {
            world
                .retry(|fs| fs.fallocate(&world.by, inode, PUNCH, at, len))
                .expect("punch");
            let end = bytes.len().min((at + len) as usize);
            bytes.get_mut(at as usize..end).unwrap_or_default().fill(0);
            "punch"
        }
        10 => {
            world
                .retry(|fs| fs.fallocate(&world.by, inode, ZERO, at, len))
                .expect("zero");
            bytes.resize(bytes.len().max((at + len) as usize), 0);
            bytes[at as usize..][..len as usize].fill(0);
            "zero"
        }
        _ => {
            world
                .retry(|fs| fs.fallocate(&world.by, inode, KEEP, at, len))
                .expect("fallocate");
            "fallocate"
        }
    };
    format!("{what} {name} {at}+{len}")
}

fn changes_and_kills(variant: &str, seed: u64) {
    let world = World::new(variant);
    let mut random = Seeded::from_seed("changes_and_kills", seed);
    let mut model = Model::new();
    for round in 0..60 {
        let when = format!(
            "{variant}, seed {seed}, round {round}: {}",
            step(&world, &mut model, &mut random)
        );
        if round % 4 == 3 {
            let found = world.killed();
            compare(&found, &model, &when);
            if round % 12 == 11 {
                found.close(&when);
            }
        }
    }
    compare(&world, &model, "at the end");
    world.close("at the end");
}

/// The kernel is told not to send longer ones: half of a request must never
/// be found after a crash.
#[test]
fn the_longest_write_that_may_come_is_one_record() {
    for (segment, least) in [(64 << 10, 4096), (1 << 20, 240 << 10), (4 << 20, 1 << 20)] {
        let image = Arc::new(MemoryDisk::from_pages(pages_of(
            DEBIAN.make(64 << 20).path(),
        )));
        let options = mount::Options {
            segment_size: Some(segment),
            segments: Some(8),
            ..mount::Options::default()
        };
        let opened = mount::open(image, Arc::new(MemoryDir::default()), options).unwrap();
        let mounted = opened.mount().unwrap();
        let (fs, by) = (mounted.fs(), Caller::default());
        let created = fs.create(&by, InodeNo::ROOT, b"file", 0o644, 0).unwrap();
        let data = vec![7; fs.longest_write()];
        assert!(data.len() >= least, "{} in {segment}", data.len());
        for offset in [0, 1, 4095, 100_000, 5_000_000_001] {
            let before = fs.journal().watermarks().appended;
            let inode = created.value.inode;
            assert_eq!(
                fs.write(&by, inode, offset, &data, Default::default())
                    .unwrap()
                    .value,
                data.len()
            );
            assert_eq!(
                fs.journal().watermarks().appended,
                before.next(),
                "at {offset}"
            );
            fs.journal().checkpoint().unwrap();
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    for (seed, variant) in ["1k-blocks", "upstream", "uninit-bg", "ext3"]
        .into_iter()
        .enumerate()
    {
        changes_and_kills(variant, seed as u64);
    }
}

#[test]
fn a_file_that_a_killed_daemon_had_open_without_a_name_is_freed() {
    let world = World::new("1k-blocks");
    let free = world.fs().statfs().expect("statfs").free;
    let inode = world
        .retry(|fs| fs.create(&world.by, InodeNo::ROOT, b"file", 0o644, 0))
        .expect("create")
        .value
        .inode;
    world.fs().opened(inode);
    for n in 0..300 {
        world
            .retry(|fs| fs.write(&world.by, inode, n * 2048, b"piece", Default::default()))
            .expect("write");
    }
    world
        .retry(|fs| fs.unlink(&world.by, InodeNo::ROOT, b"file"))
        .expect("unlink");
    assert_eq!(world.fs().read(inode, 2048, 5).expect("read"), b"piece");
    let found = world.killed();
    assert_eq!(found.fs().statfs().expect("statfs").free, free);
    found.close("after the kill");
}
