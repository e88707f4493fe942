//! How the samples were made: each kind of operation, of record and of file.
//! One that is there stays as it is, for that is its point.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use journalfs::device::memory::{MemoryDir, MemoryDisk, Pages};
use journalfs::device::{Dir, Disk};
use journalfs::fs::mkfs::{MkfsOptions, mkfs};
use journalfs::fs::mount::{self, History, Mounted};
use journalfs::fs::{Atime, Caller, Fs, SetAttr, SetTime};
use journalfs::journal::Op;
use journalfs::journal::archive::Limits;
use journalfs::units::{Clock, InodeNo, Lsn, StepClock, Time};

use crate::support::images::{Image, run};
use crate::{SAMPLES, Sample, folder, says};

/// `cargo test --test samples make -- --ignored`
#[test]
#[ignore = "writes into the source tree"]
fn make_what_is_missing() {
    for name in SAMPLES {
        let (packed, text) = (format!("{name}.tar.gz"), format!("{name}.txt"));
        if folder().join(&packed).exists() {
            continue;
        }
        let world = match name {
            "clean" => clean(),
            "killed" => killed(),
            "damaged" => damaged(),
            _ => archived(),
        };
        world.pack(&folder().join(packed));
        let said = says::all(&Sample::unpack(name));
        fs::write(folder().join(text), said).unwrap();
    }
}

/// An image, its journal, and maybe an archive; all times are of a clock that
/// starts in 2020.
pub struct World {
    pub image: Arc<MemoryDisk>,
    pub journal: Arc<MemoryDir>,
    pub archive: Option<Arc<MemoryDir>>,
    clock: Arc<StepClock>,
    sessions: u64,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(StepClock::new(Time {
            secs: 1_600_000_000,
            nanos: 0,
        }));
        let image = Arc::new(MemoryDisk::default());
        let options = MkfsOptions {
            size: 4 << 20,
            label: "sample".to_owned(),
            block_size: Some(1024),
            seed: Some(1),
            time: clock.wall(),
            ..MkfsOptions::default()
        };
        let disk: Arc<dyn Disk> = image.clone();
        mkfs(&disk, &options).unwrap();
        World {
            image,
            journal: Arc::default(),
            archive: None,
            clock,
            sessions: 0,
        }
    }

    fn mount(&mut self) -> Mounted {
        self.sessions += 1;
        let mut options = mount::Options {
            segment_size: Some(64 << 10),
            segments: Some(8),
            cache_size: 1 << 20,
            clock: self.clock.clone(),
            seed: self.sessions,
            history: self.archive.clone().map(|dir| History {
                left: None,
                dir,
                limits: Limits::default(),
                held: Arc::new(()),
            }),
            ..mount::Options::default()
        };
        options.fs.atime = Atime::Strict;
        let opened = mount::open(self.image.clone(), self.journal.clone(), options).unwrap();
        let mounted = opened.mount().unwrap();
        let program = |pid: u32| (pid != 0).then(|| b"sampler".to_vec());
        mounted.fs().journal().set_programs(Box::new(program));
        mounted
    }

    fn pack(&self, to: &Path) {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::blank(0);
        image.write_back(&*self.image);
        fs::copy(image.path(), dir.path().join("disk.img")).unwrap();
        put(&dir.path().join("disk.img.journal"), self.journal.files());
        if let Some(archive) = &self.archive {
            put(&dir.path().join("archive"), archive.files());
        }
        let mut tar = Command::new("tar");
        tar.args([
            "-c",
            "-S",
            "--format=gnu",
            "--sort=name",
            "--mtime=@1600000000",
        ]);
        tar.args(["--owner=0", "--group=0", "--numeric-owner", "--mode=go="]);
        tar.args(["-I", "gzip -9n", "-f"]).arg(to);
        run(tar.arg("-C").arg(dir.path()).arg("."));
    }
}

fn put(folder: &Path, files: BTreeMap<String, Pages>) {
    fs::create_dir(folder).unwrap();
    for (name, pages) in files {
        fs::write(folder.join(name), pages.to_vec()).unwrap();
    }
}

fn by() -> Caller {
    Caller {
        pid: 4321,
        ..Caller::default()
    }
}

/// Each kind of operation once at least; what is called `file` has this in it.
fn everything(fs: &Fs, letter: u8) {
    let (by, root) = (by(), InodeNo::ROOT);
    let name = |name: &str| format!("{name}{}", char::from(letter)).into_bytes();
    let dir = fs
        .mkdir(&by, root, &name("dir"), 0o755, 0)
        .unwrap()
        .value
        .inode;
    let file = fs
        .create(&by, dir, b"file", 0o644, 0o022)
        .unwrap()
        .value
        .inode;
    fs.write(&by, file, 0, &[letter; 5000], Default::default())
        .unwrap();
    fs.write(&by, file, 100_001, b"behind a hole", Default::default())
        .unwrap();
    fs.fallocate(&by, file, 1, 200_000, 3000).unwrap();
    fs.link(&by, file, root, &name("link")).unwrap();
    fs.symlink(&by, root, &name("symlink"), b"/target").unwrap();
    fs.mknod(&by, dir, b"fifo", 0o010600, 0, 0).unwrap();
    fs.setxattr(&by, file, b"user.name", b"value", 0).unwrap();
    fs.setxattr(&by, file, b"user.gone", &[letter; 300], 0)
        .unwrap();
    fs.removexattr(&by, file, b"user.gone").unwrap();
    let set = SetAttr {
        mode: Some(0o600),
        uid: Some(1000),
        gid: Some(100),
        size: Some(90_000),
        mtime: Some(SetTime::At(Time {
            secs: 1_500_000_000,
            nanos: 5,
        })),
        ..SetAttr::default()
    };
    fs.setattr(&by, file, &set).unwrap();
    fs.set_flags(&by, file, 0x8_0080, u32::MAX).unwrap(); // noatime, extents
    let old = fs.create(&by, dir, b"old", 0o644, 0).unwrap().value.inode;
    fs.write(&by, old, 0, b"soon replaced", Default::default())
        .unwrap();
    fs.open(&by, old, 0).unwrap();
    fs.read(old, 0, 100).unwrap();
    fs.release(old).unwrap();
    fs.create(&by, dir, b"new", 0o644, 0).unwrap();
    fs.rename(&by, dir, b"new", dir, b"old", 0).unwrap();
    fs.rename(&by, dir, b"old", root, &name("moved"), 1)
        .unwrap();
    fs.mkdir(&by, dir, b"sub", 0o700, 0).unwrap();
    fs.rmdir(&by, dir, b"sub").unwrap();
    // Removed while it is in use, so that it becomes an orphan.
    let open = fs.create(&by, dir, b"open", 0o644, 0).unwrap().value.inode;
    fs.open(&by, open, 0).unwrap();
    fs.write(&by, open, 3000, &[letter; 2000], Default::default())
        .unwrap();
    fs.unlink(&by, dir, b"open").unwrap();
    fs.release(open).unwrap();
    fs.forget(open, 1);
}

fn mark(fs: &Fs, name: &str, clock: &StepClock) {
    let mark = Op::Mark {
        name: name.as_bytes().to_vec(),
        time: clock.wall(),
    };
    fs.journal().begin().unwrap().commit(&mark).unwrap();
}

fn clean() -> World {
    let mut world = World::new();
    for letter in [b'a', b'b'] {
        let mounted = world.mount();
        everything(mounted.fs(), letter);
        mark(mounted.fs(), "done", &world.clock);
        mounted.close().unwrap();
    }
    world
}

/// A clean session, then one that is killed when it has filled some segments:
/// some of them are home, others are not, and one is ready for what comes.
pub fn killed() -> World {
    let mut world = clean();
    let mounted = world.mount();
    let (fs, by) = (mounted.fs().clone(), by());
    let log = fs.journal().log().unwrap();
    log.prepare().unwrap();
    let file = fs.create(&by, InodeNo::ROOT, b"large", 0o644, 0).unwrap();
    let file = file.value.inode;
    for round in 0..12u8 {
        fs.write(
            &by,
            file,
            u64::from(round) * 9000,
            &[round; 9000],
            Default::default(),
        )
        .unwrap();
        if round == 5 {
            fs.journal().checkpoint().unwrap();
            mark(&fs, "home", &world.clock);
        }
    }
    everything(&fs, b'c');
    fs.journal().sync().unwrap();
    mark(&fs, "synced", &world.clock);
    fs.create(&by, InodeNo::ROOT, b"unsynced", 0o644, 0)
        .unwrap();
    log.prepare().unwrap();
    drop(mounted);
    world
}

/// The same with a byte of a record gone that was synced.
fn damaged() -> World {
    let world = killed();
    let lost = journalfs::log::Survey::read(world.journal.clone()).unwrap();
    let lsn = Lsn(lost.durable().0 - 5);
    let (_, newest) = lost
        .segments()
        .iter()
        .map(|segment| (segment.base, segment))
        .filter(|(base, _)| *base <= lsn)
        .max_by_key(|(base, _)| *base)
        .unwrap();
    let mut files = world.journal.files();
    let pages = files.get_mut(&newest.name).unwrap();
    let bytes = pages.to_vec();
    let at = (4096..bytes.len())
        .step_by(8)
        .find(|at| {
            bytes[*at..].starts_with(b"jfR0") && bytes[at + 16..at + 24] == lsn.0.to_le_bytes()
        })
        .unwrap();
    pages.flip(at as u64 + 90, 0x10);
    World {
        journal: Arc::new(MemoryDir::from_files(files)),
        ..world
    }
}

/// A base and all segments since, which the journal has used again.
pub fn archived() -> World {
    let mut world = World::new();
    world.archive = Some(Arc::default());
    let archive = world.archive.clone().unwrap();
    let mut mounted = world.mount();
    mounted.start_background().unwrap();
    let has_base = || {
        archive
            .list()
            .unwrap()
            .iter()
            .any(|name| name.ends_with(".img"))
    };
    while !has_base() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    mounted.close().unwrap();
    for letter in [b'a', b'b'] {
        let mounted = world.mount();
        let (fs, by) = (mounted.fs().clone(), by());
        let log = fs.journal().log().unwrap();
        let dir = fs.lookup(&by, InodeNo::ROOT, b"dir").map(|dir| dir.inode);
        let dir = dir.unwrap_or_else(|_| {
            fs.mkdir(&by, InodeNo::ROOT, b"dir", 0o755, 0)
                .unwrap()
                .value
                .inode
        });
        let file = fs.lookup(&by, dir, b"file").map(|file| file.inode);
        let file =
            file.unwrap_or_else(|_| fs.create(&by, dir, b"file", 0o644, 0).unwrap().value.inode);
        everything(&fs, letter);
        for round in 0..20u8 {
            let data = [letter + round; 6000];
            fs.write(
                &by,
                file,
                u64::from(round) * 1000,
                &data,
                Default::default(),
            )
            .unwrap();
        }
        mark(
            &fs,
            if letter == b'a' { "first" } else { "second" },
            &world.clock,
        );
        fs.journal().checkpoint().unwrap();
        log.clean().unwrap();
        fs.write(&by, file, 0, &[letter; 30_000], Default::default())
            .unwrap();
        fs.journal().sync().unwrap();
        match letter {
            b'a' => mounted.close().unwrap(),
            _ => drop(mounted),
        }
    }
    world
}
