//! Files of many extents, and of as many bytes as there may be.

use std::fs::File;
use std::os::unix::fs::FileExt;

use journalfs::fs::{Error, Fs, SetAttr, alloc};
use journalfs::units::InodeNo;

use crate::script;
use crate::support::bench::{Bench, assert_refused};
use crate::support::images::Variant;
use crate::support::kernel::Mount;

const BLOCK: u64 = 1024;
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// What a block of the test's files has: its number, all over.
fn block(n: u64) -> [u8; BLOCK as usize] {
    let mut bytes = [0; BLOCK as usize];
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&n.to_le_bytes());
    }
    bytes
}

fn resize(bench: &Bench, file: InodeNo, size: u64) {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    bench.fs.setattr(&bench.by, file, &set).unwrap();
}

fn read(fs: &Fs, file: InodeNo, n: u64) -> Vec<u8> {
    fs.read(file, n * BLOCK, BLOCK as u32).unwrap()
}

/// e2fsck is content; we and the kernel read the blocks that `there` says, and
/// zeros for others.
fn judge(bench: &Bench, path: &str, blocks: u64, there: &dyn Fn(u64) -> bool, when: &str) {
    bench.judge_without_kernel(when);
    let expected = |n| match there(n) {
        true => block(n),
        false => [0; BLOCK as usize],
    };
    let file = bench.at(path).unwrap();
    for n in 0..blocks {
        assert!(
            read(&bench.fs, file, n) == expected(n),
            "{when}: block {n} of ours"
        );
    }
    let Some(mount) = Mount::read_only(bench.image.path()) else {
        return;
    };
    let file = File::open(mount.at(path)).unwrap();
    assert_eq!(file.metadata().unwrap().len(), blocks * BLOCK, "{when}");
    let mut bytes = [0; BLOCK as usize];
    for n in 0..blocks {
        file.read_exact_at(&mut bytes, n * BLOCK).unwrap();
        assert!(
            bytes == expected(n),
            "{when}: block {n} as the kernel reads it"
        );
    }
}

/// The first half by writing every other block, the second by punching every
/// other one out.
#[test]
fn a_file_of_a_hundred_thousand_extents_is_made_read_and_cut() {
    const EXTENTS: u64 = 100_000;
    let bench = Bench::new(&Variant::named("1k-blocks"), 320 << 20);
    let free = || alloc::totals(&bench.fs.journal().view(), bench.fs.superblock()).unwrap();
    let before = free();
    let file = bench.create("file").unwrap();
    let (fs, by) = (&bench.fs, &bench.by);
    for n in (0..EXTENTS).step_by(2) {
        fs.write(by, file, n * BLOCK, &block(n), Default::default())
            .unwrap();
    }
    for first in (EXTENTS..2 * EXTENTS).step_by(100) {
        let bytes: Vec<u8> = (first..first + 100).flat_map(block).collect();
        fs.write(by, file, first * BLOCK, &bytes, Default::default())
            .unwrap();
    }
    for n in (EXTENTS + 1..2 * EXTENTS).step_by(2) {
        fs.fallocate(by, file, PUNCH, n * BLOCK, BLOCK).unwrap();
    }
    let even = |n: u64| n.is_multiple_of(2);
    judge(&bench, "file", 2 * EXTENTS, &even, "made");

    for blocks in [199_999, 170_001, 120_000] {
        resize(&bench, file, blocks * BLOCK);
        judge(&bench, "file", blocks, &even, "cut");
    }
    let (from, to) = (30_001, 110_000);
    fs.fallocate(by, file, PUNCH, from * BLOCK, (to - from) * BLOCK)
        .unwrap();
    let left = |n: u64| even(n) && !(from..to).contains(&n);
    judge(&bench, "file", 120_000, &left, "a hole in the middle");
    bench.unlink("file").unwrap();
    bench.judge("all gone");
    assert_eq!(free(), before);
}

#[test]
fn the_kernel_and_we_scatter_one_file_by_turns() {
    const BLOCKS: u64 = 40_000;
    let bench = Bench::new(&Variant::named("1k-blocks"), 128 << 20);
    bench.create("file").unwrap();
    bench.judge_without_kernel("an empty file");
    let Some(mount) = Mount::read_write(bench.image.path()) else {
        return;
    };
    let file = File::options().write(true).open(mount.at("file")).unwrap();
    for n in (0..BLOCKS).step_by(4) {
        file.write_all_at(&block(n), n * BLOCK).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    mount.unmount();

    let bench = bench.read_back();
    let file = bench.at("file").unwrap();
    let (fs, by) = (&bench.fs, &bench.by);
    for n in (2..BLOCKS).step_by(4).chain((1..BLOCKS).step_by(16)) {
        fs.write(by, file, n * BLOCK, &block(n), Default::default())
            .unwrap();
    }
    for n in (0..BLOCKS).step_by(12) {
        fs.fallocate(by, file, PUNCH, n * BLOCK, BLOCK).unwrap();
    }
    let ours = |n: u64| (n.is_multiple_of(2) && !n.is_multiple_of(12)) || n % 16 == 1;
    judge(&bench, "file", BLOCKS - 1, &ours, "continued by us");

    let Some(mount) = Mount::read_write(bench.image.path()) else {
        return;
    };
    let file = File::options().write(true).open(mount.at("file")).unwrap();
    for n in (3..BLOCKS).step_by(16) {
        file.write_all_at(&block(n), n * BLOCK).unwrap();
    }
    file.set_len(30_000 * BLOCK).unwrap();
    drop(file);
    mount.unmount();
    let bench = bench.read_back();
    let theirs = |n: u64| ours(n) || n % 16 == 3;
    judge(&bench, "file", 30_000, &theirs, "continued by the kernel");
    bench.unlink("file").unwrap();
    bench.judge("gone");
}

/// The last byte of the largest file is the kernel's, and so are the errors
/// behind it.
#[test]
fn the_last_byte_of_the_largest_file_can_be_written() {
    for variant in crate::chosen() {
        let bench = Bench::new(variant, 16 << 20);
        let file = bench.create("file").unwrap();
        let most = script::largest(&bench, "file");
        let (fs, by) = (&bench.fs, &bench.by);
        let wrote = fs
            .write(by, file, most - 3, b"12345", Default::default())
            .unwrap();
        assert_eq!(wrote.value, 3, "{}: cut at the end", variant.name);
        for at in [most, most + 5, i64::MAX as u64 - 1] {
            assert_refused(
                fs.write(by, file, at, b"6", Default::default()),
                &Error::TooBig,
            );
        }
        let size = Some(most + 1);
        let longer = SetAttr {
            size,
            ..SetAttr::default()
        };
        assert_refused(fs.setattr(by, file, &longer), &Error::TooBig);
        let beyond = fs.fallocate(by, file, 0, most - 10, 20);
        let extents = variant.has_extents();
        match extents {
            true => assert_refused(beyond, &Error::TooBig),
            false => assert!(beyond.is_err()),
        }
        bench.judge_without_kernel(&format!("{}: the largest file", variant.name));

        let Some(mount) = Mount::read_write(bench.image.path()) else {
            return;
        };
        let open = |name| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(mount.at(name)).unwrap()
        };
        let file = open("file");
        assert_eq!(file.metadata().unwrap().len(), most, "{}", variant.name);
        let mut tail = [9; 5];
        assert_eq!(file.read_at(&mut tail, most - 5).unwrap(), 5);
        assert_eq!(tail, *b"\0\x00123", "{}: the kernel reads it", variant.name);
        drop(file);
        let file = open("theirs");
        assert_eq!(file.write_at(b"12345", most - 3).unwrap(), 3);
        let big = |done: std::io::Result<()>| {
            assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EFBIG));
        };
        for at in [most, most + 5, i64::MAX as u64 - 1] {
            big(file.write_at(b"6", at).map(drop));
        }
        big(file.set_len(most + 1));
        if extents {
            let (offset, len) = (most as i64 - 10, 20);
            let none = nix::fcntl::FallocateFlags::empty();
            big(nix::fcntl::fallocate(&file, none, offset, len).map_err(Into::into));
        }
        drop(file);
        mount.unmount();
        let bench = bench.read_back();
        let file = bench.at("theirs").unwrap();
        assert_eq!(
            bench.fs.read(file, most - 5, 100).unwrap(),
            b"\0\x00123",
            "{}: we read theirs",
            variant.name
        );
        for name in ["file", "theirs"] {
            bench.unlink(name).unwrap();
        }
        bench.judge("the largest files gone");
    }
}

const MILLION: u32 = 1_000_000;

#[test]
#[ignore = "takes minutes: cargo test --test images -- --ignored"]
fn a_directory_of_a_million_entries_is_made_listed_and_emptied() {
    let args = &["-b4096", "-I256", "-N1000100", "-O^has_journal"];
    let image = Variant { name: "", args }.make(1 << 30);
    let bench = Bench::over(image);
    let (fs, by, dir) = (&bench.fs, &bench.by, bench.mkdir("large").unwrap());
    let name = |n: u32| format!("entry-{n:08}.dat").into_bytes();
    let inodes: Vec<InodeNo> = (0..MILLION)
        .map(|n| fs.create(by, dir, &name(n), 0o644, 0).unwrap().value.inode)
        .collect();
    bench.judge_without_kernel("a million entries");
    if let Some(mount) = Mount::read_only(bench.image().path()) {
        let seen = std::fs::read_dir(mount.at("large"));
        assert_eq!(
            seen.unwrap().count(),
            MILLION as usize,
            "the kernel's count"
        );
    }
    // In an order that has nothing to do with the index's.
    for n in (0..MILLION).map(|n| (u64::from(n) * 700_001 % 1_000_000) as u32) {
        let found = fs.lookup(by, dir, &name(n)).unwrap();
        assert_eq!(found.inode, inodes[n as usize]);
    }
    let mut listed = bench.names("large").unwrap();
    listed.sort_unstable();
    assert!(
        listed
            .iter()
            .eq(&(0..MILLION).map(name).collect::<Vec<_>>())
    );
    for name in listed {
        fs.unlink(by, dir, &name).unwrap();
    }
    assert_eq!(bench.names("large").unwrap().len(), 0);
    bench.judge("emptied");
}
