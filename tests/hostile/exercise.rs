//! Everything that can be asked of a file system. Answers don't matter, only
//! that there are some.

use std::sync::Arc;

use journalfs::device::memory::{MemoryDir, MemoryDisk};
use journalfs::fs::mount::{self, Mounted};
use journalfs::fs::{Access, Caller, Error, Fs, Result, SetAttr, Whence};
use journalfs::units::{InodeNo, Lsn, StepClock, Time};

use crate::support::bench::Bench;
use crate::support::random::Seeded;

/// Directories, requests and bytes of a round are bounded, or a forged size
/// makes it long.
const MOST: usize = 400;

/// One of everything: an index of two levels where blocks are small, a deep
/// map, holes, attributes within and without inodes, links of both kinds.
pub fn fill(bench: &Bench) {
    bench.mkdir("big").unwrap();
    for n in 0..700 {
        let name = format!("big/{n}-{}", "x".repeat(n % 200));
        bench.symlink(&name, b"target").unwrap();
    }
    bench.mkdir("dir").unwrap();
    bench.mkdir("dir/sub").unwrap();
    bench.write("dir/file", 0, &[7; 100_000]).unwrap();
    bench.link("dir/file", "dir/sub/link").unwrap();
    for n in 0..400 {
        bench.write("dir/scattered", n * 8192, b"piece").unwrap();
    }
    bench.symlink("dir/long", &[b't'; 300]).unwrap();
    bench.mknod("dir/fifo", 0o010644, 0).unwrap();
    bench.set_xattr("dir/file", "user.small", b"value").unwrap();
    for name in ["dir/file", "dir/sub"] {
        bench.set_xattr(name, "user.large", &[3; 500]).unwrap();
    }
    let acl = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0];
    let rest = [255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255];
    let acl = [&acl[..], &rest].concat();
    bench
        .set_xattr("dir", "system.posix_acl_default", &acl)
        .unwrap();
}

/// How the mounts of these tests are opened.
pub fn options(read_only: bool, seed: u64) -> mount::Options {
    let mut options = mount::Options {
        segment_size: Some(1 << 20),
        segments: Some(8),
        cache_size: 8 << 20,
        clock: Arc::new(StepClock::new(Time {
            secs: 1_800_000_000,
            nanos: 0,
        })),
        seed: seed | 1,
        ..mount::Options::default()
    };
    options.fs.access = Access::Check;
    options.fs.read_only = read_only;
    options
}

/// Mounts, looks at everything, works, unmounts, and looks again.
pub fn mount_and_work(image: Arc<MemoryDisk>, journal: Arc<MemoryDir>, random: &mut Seeded) {
    let open = |read_only, seed| -> mount::Result<Mounted> {
        mount::open(image.clone(), journal.clone(), options(read_only, seed))?.mount()
    };
    if let Ok(mounted) = open(true, 1) {
        walk(mounted.fs());
        let _ = mounted.close();
    }
    if let Ok(mounted) = open(false, 3) {
        let found = walk(mounted.fs());
        work(mounted.fs(), &found, random);
        if random.bool() {
            let _ = mounted.fs().journal().checkpoint();
        }
        if random.u8(..4) > 0 {
            let _ = mounted.close();
        }
    }
    if let Ok(mounted) = open(false, 5) {
        walk(mounted.fs());
        let _ = mounted.close();
    }
}

/// Lists and reads; answers the inodes that it came by.
pub fn walk(fs: &Fs) -> Vec<InodeNo> {
    let by = Caller::default();
    let mut found = vec![InodeNo::ROOT];
    let mut at = 0;
    while at < found.len().min(MOST) {
        let inode = found[at];
        at += 1;
        let Ok(attr) = fs.getattr(inode) else {
            continue;
        };
        let mut cookie = 0;
        for _ in 0..4 {
            let before = found.len();
            let _ = fs.readdirplus(&by, inode, cookie, &mut |next, name, inode, _, _| {
                cookie = next;
                if !matches!(name, b"." | b"..") && found.len() < 2 * MOST {
                    found.push(inode);
                }
                !found.len().is_multiple_of(150)
            });
            if found.len() == before {
                break;
            }
        }
        for name in [&b".."[..], b"file", b"sub", b"9-xxxxxxxxx", b"none"] {
            let _ = fs.lookup(&by, inode, name);
        }
        let _ = fs.readlink(inode);
        let _ = fs.path(inode);
        let _ = fs.access(&by, inode, 7);
        if let Ok(names) = fs.listxattr(&by, inode) {
            for name in names.split(|byte| *byte == 0) {
                let _ = fs.getxattr(&by, inode, name);
            }
        }
        for offset in [0, 70_000, attr.size.saturating_sub(5000), attr.size / 2] {
            let _ = fs.read(inode, offset, 10_000);
            let _ = fs.seek(inode, offset, Whence::Data);
            let _ = fs.seek(inode, offset, Whence::Hole);
        }
    }
    let _ = fs.statfs();
    found
}

/// Changes of every kind in places that the walk found.
fn work(fs: &Fs, found: &[InodeNo], random: &mut Seeded) {
    for step in 0..60 {
        let by = Caller {
            uid: [0, 1000][random.usize(..2)],
            ..Caller::default()
        };
        let pick = |random: &mut Seeded| found[random.usize(0..found.len().min(40))];
        let (inode, other) = (pick(random), pick(random));
        let offset = match random.u8(..4) {
            0 => random.u64(..1 << 42),
            1 => fs.getattr(inode).map_or(0, |attr| attr.size),
            _ => random.u64(..4 << 20),
        };
        let name = format!("{step}{}", "n".repeat(random.usize(..200)));
        let name = name.as_bytes();
        let old: &[u8] = [&b"file"[..], b"sub", b"scattered", b"long", b"dir"][random.usize(..5)];
        let value = vec![1; random.usize(..700)];
        retry(fs, || match random.u8(..16) {
            0 => fs.create(&by, inode, name, 0o644, 0).map(drop),
            1 => fs.mkdir(&by, inode, name, 0o755, 0).map(drop),
            2 => fs.symlink(&by, inode, name, &[b's'; 90]).map(drop),
            3 => fs.unlink(&by, inode, old).map(drop),
            4 => fs.rmdir(&by, inode, old).map(drop),
            5 => fs
                .rename(&by, inode, old, other, name, random.u32(..3))
                .map(drop),
            6 => fs.rename(&by, inode, old, other, old, 2).map(drop),
            7 => fs.link(&by, other, inode, name).map(drop),
            8 => fs.setxattr(&by, inode, b"user.new", &value, 0).map(drop),
            9 => fs.removexattr(&by, inode, b"user.large").map(drop),
            10 => {
                let set = SetAttr {
                    size: Some(offset),
                    mode: Some(random.u16(..)),
                    uid: Some(random.u32(..)),
                    ..SetAttr::default()
                };
                fs.setattr(&by, inode, &set).map(drop)
            }
            11 | 12 => {
                let mode = [0, 1, 3, 16, 17][random.usize(..5)];
                let len = random.u64(1..300_000);
                fs.fallocate(&by, inode, mode, offset, len).map(drop)
            }
            _ => {
                let data = vec![2; random.usize(1..30_000)];
                fs.write(&by, inode, offset, &data, Default::default())
                    .map(drop)
            }
        });
    }
    let _ = fs.tidy();
    let _ = fs.journal().sync();
    let _: Lsn = fs.journal().watermarks().appended;
}

/// Once more after a checkpoint, when the journal is full.
fn retry(fs: &Fs, mut act: impl FnMut() -> Result<()>) {
    if let Err(Error::Full) = act() {
        let _ = fs.journal().checkpoint();
        let _ = act();
    }
}
