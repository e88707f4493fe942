//! Damaged images: every request answers, none panics, whatever the bytes; and
//! an image that e2fsck finds whole stays so.

use std::sync::Arc;

use journalfs::device::Disk;
use journalfs::device::memory::MemoryDisk;
use journalfs::fs::{Access, Error, Result, SetAttr};
use journalfs::units::InodeNo;

use crate::support::e2fsck;
use crate::support::images::{Image, pages_of};
use crate::support::random::Seeded;
use crate::world::{ROOT, World};

/// A small image with a bit of everything, without checksums that would stop
/// damage at the door.
fn sample(format: &str) -> World {
    let world = World::new(format, 4 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let big = world.dir(ROOT, "big");
    for n in 0..300 {
        world.file(big, &format!("{n}-{}", "x".repeat(n % 50)));
    }
    let dir = world.dir(ROOT, "dir");
    let file = world.file(dir, "file");
    world.dir(dir, "sub");
    fs.symlink(by, dir, b"long", &[b't'; 300]).unwrap();
    fs.setxattr(by, file, b"user.small", b"value", 0).unwrap();
    fs.setxattr(by, file, b"user.large", &[3; 500], 0).unwrap();
    fs.setxattr(
        by,
        dir,
        b"system.posix_acl_default",
        &crate::xattrs::list(&[(1, 7, !0), (2, 5, 9), (4, 5, !0), (16, 7, !0), (32, 0, !0)]),
        0,
    )
    .unwrap();
    world.save();
    world
}

/// Everything that names and attributes can be asked. Answers don't matter.
fn exercise(world: &World) {
    let (fs, by) = (&world.fs, &world.by);
    let mut found: Vec<InodeNo> = vec![ROOT];
    let mut at = 0;
    while at < found.len().min(40) {
        let dir = found[at];
        at += 1;
        let mut cookie = 0;
        for _ in 0..3 {
            let _ = fs.readdirplus(by, dir, cookie, &mut |next, _, inode, _, _| {
                cookie = next;
                found.push(inode);
                !found.len().is_multiple_of(50)
            });
        }
        for name in [
            &b"big"[..],
            b"dir",
            b"file",
            b"7-xxxxxxx",
            b"long",
            b"..",
            b"none",
        ] {
            let _ = fs.lookup(by, dir, name).map(|attr| found.push(attr.inode));
        }
        let _ = fs.readlink(dir);
        let _ = fs.listxattr(by, dir);
        let _ = fs.getxattr(by, dir, b"user.large");
        let _ = fs.access(by, dir, 7);
        let _ = fs.setxattr(by, dir, b"user.new", &[1; 120], 0);
        let _ = fs.removexattr(by, dir, b"user.small");
        let _ = fs.setattr(
            by,
            dir,
            &SetAttr {
                mode: Some(0o700),
                uid: Some(3),
                ..SetAttr::default()
            },
        );
        for n in 0..8 {
            let name = format!("new{n}-{}", "n".repeat(n * 20));
            let _ = fs.create(by, dir, name.as_bytes(), 0o644, 0);
            let _ = fs.mkdir(by, dir, format!("d{n}").as_bytes(), 0o755, 0);
        }
        let _ = fs.rename(by, dir, b"dir", dir, b"new0-", 2);
        let _ = fs.rename(by, dir, b"big", ROOT, b"dir", 0);
        let _ = fs.unlink(by, dir, b"file");
        let _ = fs.rmdir(by, dir, b"sub");
    }
}

#[test]
fn no_damage_to_blocks_in_use_makes_a_request_panic() {
    for format in ["uninit-bg", "debian"] {
        let clean = pages_of(sample(format).image.path());
        let disk = MemoryDisk::from_pages(clean.clone());
        let len = disk.len().unwrap();
        let mut used = Vec::new();
        let mut block = [0; 1024];
        for at in (2048..len).step_by(1024) {
            disk.read_at(&mut block, at).unwrap();
            if block.iter().any(|&byte| byte != 0) {
                used.push(at);
            }
        }
        for round in 0..150 {
            let mut random = Seeded::from_seed("damage", round);
            let disk = Arc::new(MemoryDisk::from_pages(clean.clone()));
            for _ in 0..random.usize(1..40) {
                let at = used[random.usize(0..used.len())] + random.u64(0..1024);
                let len = random.usize(1..9);
                disk.write_at(&random.bytes(len), at).unwrap();
            }
            let mut world = World::over(Image::blank(0), disk.clone(), Access::Check);
            world.image.write_back(&*disk);
            // What hit only what files contain does no harm afterwards either.
            world.damaged = !e2fsck::judge(world.image.path()).is_clean();
            exercise(&world);
        }
    }
}

/// The number that follows a word in debugfs' text.
fn number_after(text: &str, word: &str) -> u64 {
    let (_, rest) = text
        .split_once(word)
        .unwrap_or_else(|| panic!("{word}: {text}"));
    let digits = rest
        .trim_start()
        .split(|c: char| !c.is_ascii_digit())
        .next();
    digits.unwrap().parse().unwrap()
}

/// A request, and where it meets the damage.
type Meeting<'a> = (&'a str, u64, InodeNo, Box<dyn Fn(&World) -> Result<()>>);

#[test]
fn every_structure_that_is_damaged_is_named_with_its_place_and_ends_all_changes() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, world.by.clone());
    let small = world.dir(ROOT, "small");
    world.file(small, "file");
    let large = world.dir(ROOT, "large");
    for n in 0..300 {
        world.file(large, &format!("{n:040}"));
    }
    let file = world.file(ROOT, "pieces");
    for n in 0..10 {
        fs.write(&by, file, n * 8192, &[7; 4096], Default::default())
            .unwrap();
    }
    let marked = world.file(ROOT, "marked");
    fs.setxattr(&by, marked, b"user.large", &[3; 500], 0)
        .unwrap();
    world.judge();
    let stat = |name: &str| world.image.debugfs(&format!("stat {name}"));
    let first = |name: &str| {
        let said = world.image.debugfs(&format!("bmap {name} 0"));
        said.split_whitespace()
            .find_map(|word| word.parse().ok())
            .unwrap()
    };
    let group = world.image.debugfs("show_super_stats");
    let none = InodeNo(0);
    let damaged: Vec<Meeting<'_>> = vec![
        ("checksum of directory block", first("/small"), small, {
            Box::new(move |w| w.look(small, "file").map(drop))
        }),
        (
            "checksum of directory index block",
            first("/large"),
            large,
            { Box::new(move |w| w.look(large, "1").map(drop)) },
        ),
        (
            "checksum of an extent block",
            number_after(&stat("/pieces"), "(ETB0):"),
            file,
            { Box::new(move |w| w.fs.read(file, 0, 10).map(drop)) },
        ),
        (
            "checksum of attribute block",
            number_after(&stat("/marked"), "File ACL:"),
            marked,
            { Box::new(move |w| w.fs.listxattr(&w.by, marked).map(drop)) },
        ),
        (
            "block bitmap",
            number_after(&group, "block bitmap at"),
            none,
            {
                Box::new(move |w| {
                    w.fs.write(&w.by, marked, 0, b"new", Default::default())
                        .map(drop)
                })
            },
        ),
        (
            "inode bitmap",
            number_after(&group, "inode bitmap at"),
            none,
            { Box::new(move |w| w.fs.create(&w.by, ROOT, b"new", 0o644, 0).map(drop)) },
        ),
        (
            "checksum of inode",
            number_after(&group, "inode table at"),
            ROOT,
            { Box::new(move |w| w.look(ROOT, "small").map(drop)) },
        ),
        ("checksum of group 0", 1, none, {
            Box::new(move |w| w.look(ROOT, "small").map(drop))
        }),
    ];
    for (what, block, inode, request) in damaged {
        let disk = Arc::new(MemoryDisk::from_pages(pages_of(world.image.path())));
        // Times of the root's inode, and whatever stands there elsewhere.
        let at = block * 4096 + if inode == ROOT { 256 + 12 } else { 44 };
        let mut byte = [0];
        disk.read_at(&mut byte, at).unwrap();
        disk.write_at(&[byte[0] ^ 1], at).unwrap();
        let mut hurt = World::over(Image::blank(0), disk, Access::Kernel);
        hurt.damaged = true;
        let met = hurt.fs.noting(request(&hurt)).unwrap_err();
        let said = met.to_string();
        assert!(
            matches!(met, Error::Corrupt(_)) && said.contains(what),
            "{what}: {said}"
        );
        let damage = hurt.fs.damage().expect("noted");
        assert_eq!(
            (damage.what.inode(), damage.what.block().0),
            (inode, block),
            "{said}"
        );
        let refused = hurt.fs.mkdir(&hurt.by, ROOT, b"later", 0o755, 0);
        assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
        hurt.fs.statfs().ok();
    }
}

#[test]
fn a_number_that_a_caller_made_up_is_no_damage() {
    let world = World::new("debian", 4 << 20);
    for made_up in [0, 1, 3, 11, 4000, 1 << 20, u32::MAX].map(InodeNo) {
        let met = world.fs.noting(world.fs.getattr(made_up));
        assert!(
            matches!(met, Ok(_) | Err(Error::Stale)),
            "{made_up}: {met:?}"
        );
        let met = world
            .fs
            .noting(world.fs.lookup(&world.by, made_up, b"name"));
        assert!(met.is_err());
    }
    assert!(world.fs.damage().is_none());
}
