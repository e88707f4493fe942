//! The parts of the script: each takes a fresh file system and leaves it
//! changed. What it reads back is compared with what it wrote.

use journalfs::fs::file::max_size;
use journalfs::fs::{Error, SetAttr, Whence, inode};
use journalfs::units::Time;

use crate::support::bench::{Bench, assert_refused};
use crate::support::random::Seeded;

const KEEP: i32 = 1;
const PUNCH: i32 = 2 | KEEP;
const ZERO: i32 = 0x10;

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
fn supported(bench: &Bench) -> bool {
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

pub fn names_come_and_go(bench: &Bench, random: &mut Seeded) {
    let mut deep = String::from("deep");
    for level in 0..25 {
        bench.mkdir(&deep).unwrap();
        deep.push_str(&format!("/{level}"));
    }
    for (i, len) in [1, 59, 60, 61, 200, 1000, 4095].into_iter().enumerate() {
        let target = "t/".repeat(len)[..len].as_bytes().to_vec();
        match bench.symlink(&format!("link {i}"), &target) {
            Ok(inode) => assert_eq!(bench.fs.readlink(inode).unwrap(), target),
            Err(Error::NameTooLong | Error::Unsupported) => {}
            Err(e) => panic!("symlink of {len}: {e}"),
        }
    }
    for (name, mode, rdev) in [
        ("fifo", 0o010_600, 0),
        ("socket", 0o140_644, 0),
        ("null", 0o020_666, 0x103),
        ("big", 0o060_600, 0x11_12c70),
    ] {
        bench.mknod(name, mode, rdev).unwrap();
        assert_eq!(bench.attr(name).unwrap().rdev, rdev);
    }
    bench.mkdir("names").unwrap();
    let long = "n".repeat(255);
    bench.create(&format!("names/{long}")).unwrap();
    assert_refused(bench.create(&format!("names/{long}n")), &Error::NameTooLong);
    assert_refused(bench.create(&format!("names/{long}")), &Error::Exists);
    for n in 0..60 {
        bench
            .link(&format!("names/{long}"), &format!("names/{n}"))
            .unwrap();
    }
    assert_eq!(bench.attr("names/7").unwrap().links, 61);
    for n in (0..60).filter(|_| random.bool()) {
        bench.unlink(&format!("names/{n}")).unwrap();
    }
    assert_refused(bench.rmdir("names"), &Error::NotEmpty);
    assert_refused(bench.rmdir("fifo"), &Error::NotDirectory);
    assert_refused(bench.unlink("names"), &Error::IsDirectory);
    assert_refused(bench.unlink("nothing"), &Error::NotFound);
    bench.rmdir(deep.rsplit_once('/').unwrap().0).unwrap();
    bench.unlink("link 2").unwrap();
    bench.unlink("null").unwrap();
    bench.unlink("socket").unwrap();
}

pub fn renames_of_every_kind(bench: &Bench, _random: &mut Seeded) {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    for dir in ["a", "b", "a/inner", "b/empty", "b/full", "b/full/x"] {
        bench.mkdir(dir).unwrap();
    }
    for file in ["a/one", "a/two", "b/three", "a/inner/four"] {
        bench.create(file).unwrap();
    }
    bench.link("a/one", "a/same").unwrap();
    let roots = bench.attr("").unwrap().links;
    bench.rename("a/one", "a/renamed", 0).unwrap();
    bench.rename("a/renamed", "b/moved", 0).unwrap();
    bench.rename("a/two", "b/three", 0).unwrap();
    bench.rename("a/same", "b/moved", 0).unwrap(); // the same file: nothing happens
    assert_eq!(bench.attr("b/moved").unwrap().links, 2);
    assert_refused(
        bench.rename("b/moved", "b/three", NOREPLACE),
        &Error::Exists,
    );
    bench.rename("b/moved", "b/fresh", NOREPLACE).unwrap();
    bench.rename("a/inner", "b/empty", 0).unwrap(); // over an empty directory
    assert_eq!(bench.attr("a").unwrap().links, 2);
    assert_refused(bench.rename("b/empty", "b/full", 0), &Error::NotEmpty);
    assert_refused(bench.rename("b", "b/full/x/b", 0), &Error::Invalid);
    assert_refused(bench.rename("b/three", "b/full", 0), &Error::IsDirectory);
    assert_refused(bench.rename("b/full", "b/three", 0), &Error::NotDirectory);
    bench.rename("b/three", "b/full", EXCHANGE).unwrap();
    bench.rename("b/three", "a/up", 0).unwrap(); // a directory to another parent
    bench.rename("a/up/x", "x", 0).unwrap();
    assert_eq!(bench.attr("").unwrap().links, roots + 1);
    bench.rename("b/empty", "a/up", EXCHANGE).unwrap();
    bench.rename("x", "b/full", EXCHANGE).unwrap(); // a directory for a file across parents
    assert_eq!(bench.attr("").unwrap().links, roots);
    let long = "l".repeat(250);
    for n in 0..40 {
        bench.create(&format!("a/{n} {}", &long[..200])).unwrap();
    }
    for n in 0..40 {
        bench
            .rename(
                &format!("a/{n} {}", &long[..200]),
                &format!("b/{long}{n}"),
                0,
            )
            .unwrap();
    }
}

pub fn large_directories_grow_and_shrink(bench: &Bench, random: &mut Seeded) {
    const COUNT: usize = 4000;
    bench.mkdir("large").unwrap();
    bench.create("file").unwrap();
    let name = |n: usize| format!("large/{n} {}", "long ".repeat(n % 20));
    let mut there = vec![false; COUNT];
    for round in 0..3 {
        let mut order: Vec<usize> = (0..COUNT).collect();
        random.shuffle(&mut order);
        for n in order {
            match (there[n], (n + round) % 3 == 0) {
                (false, _) => bench.link("file", &name(n)).unwrap(),
                (true, true) => bench.unlink(&name(n)).unwrap(),
                (true, false) => continue,
            }
            there[n] = !there[n];
        }
        let mut names = bench.names("large").unwrap();
        names.sort();
        let mut want: Vec<Vec<u8>> = (0..COUNT)
            .filter(|&n| there[n])
            .map(|n| name(n)["large/".len()..].as_bytes().to_vec())
            .collect();
        want.sort();
        assert!(
            names == want,
            "the listing has {} names, want {}",
            names.len(),
            want.len()
        );
        for n in 0..COUNT {
            assert_eq!(
                bench.at(&name(n)).is_ok(),
                there[n],
                "look-up of {}",
                name(n)
            );
        }
    }
    listing_stays_right(bench, &there, name);
    bench.mkdir("emptied").unwrap();
    for n in 0..500 {
        bench
            .link("file", &format!("emptied/{n} {}", "x".repeat(100)))
            .unwrap();
    }
    for n in 0..500 {
        bench
            .unlink(&format!("emptied/{n} {}", "x".repeat(100)))
            .unwrap();
    }
    bench.rmdir("emptied").unwrap();
}

/// While names come and go, those that stay are listed once each.
fn listing_stays_right(bench: &Bench, there: &[bool], name: impl Fn(usize) -> String) {
    let inode = bench.at("large").unwrap();
    let mut cookie = 0;
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut round = 0;
    loop {
        let mut some = Vec::new();
        bench
            .fs
            .readdir(&bench.by, inode, cookie, &mut |next, name, _, _| {
                cookie = next;
                some.push(name.to_vec());
                some.len() < 100
            })
            .unwrap();
        if some.is_empty() {
            break;
        }
        seen.extend(some);
        for n in 0..30 {
            bench
                .link("file", &format!("large/during {round} {n}"))
                .unwrap();
        }
        round += 1;
        assert!(round < 1000, "the listing does not end");
    }
    seen.sort();
    for n in (0..there.len()).filter(|&n| there[n]) {
        let name = &name(n)["large/".len()..];
        let from = seen.partition_point(|seen| seen.as_slice() < name.as_bytes());
        let count = seen[from..]
            .iter()
            .take_while(|seen| seen.as_slice() == name.as_bytes())
            .count();
        assert_eq!(count, 1, "{name:?} is listed {count} times");
    }
}

pub fn attributes_are_set(bench: &Bench, _random: &mut Seeded) {
    bench.create("file").unwrap();
    bench.mkdir("dir").unwrap();
    let both = ["file", "dir"];
    for path in both {
        let set = SetAttr {
            mode: Some(0o7751),
            uid: Some(70_000),
            gid: Some(4_000_000_000),
            ..SetAttr::default()
        };
        bench.setattr(path, set).unwrap();
        let attr = bench.attr(path).unwrap();
        assert_eq!((attr.uid, attr.gid), (70_000, 4_000_000_000));
    }
    let old = bench.fs.superblock().inode_size == 128;
    for (i, secs) in [
        0,
        1,
        -1,
        -1_000_000_000,
        (1 << 31) - 1,
        1 << 31,
        1 << 32,
        (1 << 34) - (1 << 31) - 1,
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("time {i}");
        bench.create(&path).unwrap();
        let time = Time {
            secs,
            nanos: 999_999_999,
        };
        bench.set_times(&path, time).unwrap();
        if !old {
            assert_eq!(bench.attr(&path).unwrap().mtime, time);
        }
    }
}

pub fn extended_attributes_are_set(bench: &Bench, random: &mut Seeded) {
    bench.mkdir("dir").unwrap();
    for n in 0..30 {
        let path = format!("dir/{n}");
        bench.create(&path).unwrap();
        bench.set_xattr(&path, "user.small", b"value").unwrap();
        bench.set_xattr(&path, "trusted.empty", b"").unwrap();
        if n % 2 == 0 {
            bench
                .set_xattr(&path, "user.large", &vec![n as u8 / 4; 400])
                .unwrap();
        }
        if n % 3 == 0 {
            bench
                .set_xattr(&path, "security.random", &random.bytes(100))
                .unwrap();
            bench
                .set_xattr(&path, "user.small", &random.bytes(300))
                .unwrap();
        }
        if n % 5 == 0 {
            bench.remove_xattr(&path, "user.small").unwrap();
        }
        if n % 7 == 0 {
            bench.remove_xattr(&path, "trusted.empty").unwrap();
        }
    }
    let mut count = 0;
    bench.create("full").unwrap();
    while count < 200 {
        match bench.set_xattr("full", &format!("user.number {count}"), &random.bytes(37)) {
            Ok(()) => count += 1,
            Err(Error::NoSpace) => break,
            Err(e) => panic!("attribute {count}: {e}"),
        }
    }
    assert!(count > 5, "only {count} attributes fit");
    for n in (0..count).step_by(2) {
        bench
            .remove_xattr("full", &format!("user.number {n}"))
            .unwrap();
    }
    access_lists(bench);
    bench.symlink("link", b"target").unwrap();
    bench.set_xattr("link", "trusted.of-link", b"yes").unwrap();
    for n in (0..30).step_by(4) {
        bench.unlink(&format!("dir/{n}")).unwrap();
    }
}

fn access_lists(bench: &Bench) {
    // Version 2; user:: rw-, user:1000 r--, group:: r--, mask:: rw-, other:: ---
    let entry = |tag: u16, perm: u16, id: u32| {
        [
            &tag.to_le_bytes()[..],
            &perm.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let list = |who: u32| {
        let none = u32::MAX;
        [
            2_u32.to_le_bytes().to_vec(),
            entry(1, 6, none),
            entry(2, 4, who),
            entry(4, 4, none),
            entry(0x10, 6, none),
            entry(0x20, 0, none),
        ]
        .concat()
    };
    bench.create("listed").unwrap();
    bench
        .set_xattr("listed", "system.posix_acl_access", &list(1000))
        .unwrap();
    assert_eq!(bench.attr("listed").unwrap().perm, 0o660);
    bench.mkdir("heir").unwrap();
    bench
        .set_xattr("heir", "system.posix_acl_default", &list(2000))
        .unwrap();
    bench.create("heir/file").unwrap();
    bench.mkdir("heir/dir").unwrap();
    bench.create("heir/dir/file").unwrap();
}

pub fn open_files_outlive_their_names(bench: &Bench, random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    let before = bench.fs.statfs().unwrap();
    let mut open = Vec::new();
    for n in 0..20 {
        let path = format!("open {n}");
        let inode = bench.create(&path).unwrap();
        bench.fs.open(&bench.by, inode, libc::O_RDWR).unwrap();
        bench.write(&path, 0, &random.bytes(20_000)).unwrap();
        bench.unlink(&path).unwrap();
        bench
            .fs
            .write(&bench.by, inode, 30_000, b"after the end", false)
            .unwrap();
        assert_eq!(bench.fs.read(inode, 30_000, 100).unwrap(), b"after the end");
        assert_eq!(bench.fs.getattr(inode).unwrap().links, 0);
        open.push(inode);
    }
    random.shuffle(&mut open);
    for inode in open {
        bench.fs.release(inode).unwrap();
    }
    bench.mkdir("dir").unwrap();
    let dir = bench.at("dir").unwrap();
    bench.fs.opendir(&bench.by, dir).unwrap();
    bench.rmdir("dir").unwrap();
    assert_refused(
        bench
            .fs
            .create(&bench.by, dir, b"in a removed directory", 0o644, 0),
        &Error::NotFound,
    );
    bench.fs.releasedir(dir).unwrap();
    let after = bench.fs.statfs().unwrap();
    assert_eq!(
        (before.free, before.free_inodes),
        (after.free, after.free_inodes)
    );
}

pub fn a_full_image_recovers(bench: &Bench, random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    let before = bench.fs.statfs().unwrap();
    bench.mkdir("full").unwrap();
    let mut files = 0;
    let data = random.bytes(700_000);
    let error = loop {
        let path = format!("full/{files}");
        let size = random.usize(0..data.len());
        match bench
            .create(&path)
            .and_then(|_| bench.write(&path, 0, &data[..size]))
        {
            Ok(()) => files += 1,
            Err(e) => break e,
        }
    };
    assert_refused::<()>(Err(error), &Error::NoSpace);
    bench.judge_without_kernel("a full image");
    let mut names = 0;
    while bench
        .create(&format!("full/a name that takes room {names}"))
        .is_ok()
        && names < 20_000
    {
        names += 1;
    }
    let mkdirs = (0..5)
        .filter(|n| bench.mkdir(&format!("full/dir {n}")).is_ok())
        .count();
    let links = (0..5)
        .filter(|n| {
            bench
                .symlink(&format!("full/link {n}"), &[b'x'; 900])
                .is_ok()
        })
        .count();
    eprintln!("{files} files, {names} more names, {mkdirs} directories, {links} links");
    bench.judge_without_kernel("a brimful image");
    for name in bench.names("full").unwrap() {
        let path = format!("full/{}", String::from_utf8(name).unwrap());
        bench.unlink(&path).or_else(|_| bench.rmdir(&path)).unwrap();
    }
    bench.rmdir("full").unwrap();
    bench.fs.tidy().unwrap();
    let after = bench.fs.statfs().unwrap();
    assert_eq!(
        (before.free, before.free_inodes),
        (after.free, after.free_inodes)
    );
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
        bench.fs.write(&bench.by, inode, most, b"!", false),
        &Error::TooBig,
    );
    assert_refused(bench.truncate("largest", most + 1), &Error::TooBig);
    bench.truncate("largest", 5 << 20).unwrap(); // (the judges read all of it)
}

/// Random operations of every kind where each may fail for want of space; a
/// failed one must leave nothing behind.
pub fn a_nearly_full_image_stays_sound(bench: &Bench, random: &mut Seeded) {
    if !supported(bench) {
        return;
    }
    let filler = bench.fs.statfs().unwrap();
    let spare = 200 * u64::from(filler.block_size);
    let bytes = (filler.free * u64::from(filler.block_size)).saturating_sub(spare);
    let piece = random.bytes(256 << 10);
    bench.create("filler").unwrap();
    for at in (0..bytes).step_by(piece.len()) {
        if bench.write("filler", at, &piece).is_err() {
            break;
        }
    }
    let (mut done, mut full) = (0, 0);
    for n in 0..3000_u32 {
        let path = |random: &mut Seeded| match random.u8(0..3) {
            0 => format!("name {}", random.u8(0..40)),
            _ => format!(
                "dir {}/{:03} {}",
                random.u8(0..4),
                random.u8(..),
                "long ".repeat(random.usize(0..30))
            ),
        };
        let (one, two) = (path(random), path(random));
        let bs = u64::from(filler.block_size);
        let result = match random.u8(0..14) {
            0 => bench.mkdir(&format!("dir {}", random.u8(0..4))).map(drop),
            1 | 2 => bench.create(&one).map(drop),
            3 | 4 => bench.write(
                &one,
                random.u64(0..60 * bs),
                &piece[..random.usize(1..9000)],
            ),
            5 => bench.truncate(&one, random.u64(0..40 * bs)),
            6 => bench.fallocate(
                &one,
                random.choice([0, KEEP, PUNCH, ZERO]).unwrap(),
                random.u64(0..30 * bs),
                1 + random.u64(0..30 * bs),
            ),
            7 => bench.set_xattr(
                &one,
                &format!("user.{}", random.u8(0..9)),
                &piece[..random.usize(1..600)],
            ),
            8 => bench
                .symlink(&one, &[b't'; 300][..random.usize(1..300)])
                .map(drop),
            9 => bench.link(&one, &two),
            10 => bench.rename(&one, &two, random.choice([0, 0, 1, 2]).unwrap()),
            11 => bench.write("filler", bytes + u64::from(n) * bs, &piece[..20]),
            _ => bench.unlink(&one),
        };
        match result {
            Ok(()) => done += 1,
            Err(Error::NoSpace) => full += 1,
            Err(Error::Corrupt(_) | Error::Journal(_) | Error::Stale) => {
                panic!("{one}: {result:?}")
            }
            Err(_) => {}
        }
        if n % 500 == 499 {
            bench.judge_without_kernel("nearly full");
        }
    }
    eprintln!("{done} operations succeeded, {full} found no space");
    assert!(done > 200 && full > 20);
    bench.unlink("filler").unwrap();
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

/// Every file of a tree gets an operation or two of a random kind.
pub fn change_everything(bench: &Bench, random: &mut Seeded) {
    for (path, kind) in all_paths(bench, "") {
        if kind == 'd' {
            bench.create(&format!("{path}/new")).unwrap();
            continue;
        }
        match random.u8(0..9) {
            0 if kind == '-' => bench.truncate(&path, random.u64(0..10_000)).unwrap(),
            1 | 2 if kind == '-' => bench
                .write(&path, random.u64(0..50_000), &random.bytes(300))
                .unwrap(),
            3 if kind == '-' => bench.fallocate(&path, PUNCH, 0, 10_000).unwrap(),
            4 if kind == '-' => bench
                .set_xattr(&path, "user.new", &random.bytes(60))
                .unwrap(),
            5 => bench.rename(&path, &format!("{path} renamed"), 0).unwrap(),
            6 => bench.link(&path, &format!("{path} linked")).unwrap(),
            7 => bench.unlink(&path).unwrap(),
            _ => bench
                .setattr(
                    &path,
                    SetAttr {
                        uid: Some(77),
                        ..SetAttr::default()
                    },
                )
                .unwrap(),
        }
    }
}

/// Removes all below a directory; `lost+found` stays.
pub fn remove_everything(bench: &Bench, path: &str) {
    for (path, kind) in all_paths(bench, path).into_iter().rev() {
        match kind {
            'd' => bench.rmdir(&path).unwrap(),
            _ => bench.unlink(&path).unwrap(),
        }
    }
}

/// Paths below a directory, each before those below it.
fn all_paths(bench: &Bench, path: &str) -> Vec<(String, char)> {
    let nodes = bench.tree().nodes;
    let paths = nodes
        .into_iter()
        .map(|(name, node)| (name.to_string_lossy().into_owned(), node.kind));
    paths
        .filter(|(name, _)| {
            name.len() > path.len() && name.starts_with(path) && name != "lost+found"
        })
        .collect()
}
