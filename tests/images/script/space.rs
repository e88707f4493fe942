//! Space: given back by files that lost their names, and running out.

use journalfs::fs::Error;

use super::files::{KEEP, PUNCH, ZERO, supported};
use crate::support::bench::{Bench, assert_refused};
use crate::support::random::Seeded;

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
            .write(
                &bench.by,
                inode,
                30_000,
                b"after the end",
                Default::default(),
            )
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
    bench.fs.remember(dir);
    bench.rmdir("dir").unwrap();
    assert_refused(
        bench
            .fs
            .create(&bench.by, dir, b"in a removed directory", 0o644, 0),
        &Error::NotFound,
    );
    bench.fs.forget(dir, 1);
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
    for n in 0..4000_u32 {
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
