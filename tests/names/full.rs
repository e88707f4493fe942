//! A full image: everything that takes a block or an inode is tried with
//! none, one, two … left, until it succeeds. What fails changes no byte.

use journalfs::fs::{Access, Caller, Error, Result, SetAttr, alloc};
use journalfs::units::InodeNo;

use crate::support::e2fsck;
use crate::support::images::{Image, Variant};
use crate::world::{ROOT, World};

const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;

type Act = Box<dyn Fn(&World, &Caller) -> Result<()>>;

/// What is there before the image fills up, and what is done when it is full.
struct Case {
    name: &'static str,
    prepare: Box<dyn Fn(&World)>,
    act: Act,
}

fn case(
    name: &'static str,
    prepare: impl Fn(&World) + 'static,
    act: impl Fn(&World, &Caller) -> Result<()> + 'static,
) -> Case {
    Case {
        name,
        prepare: Box::new(prepare),
        act: Box::new(act),
    }
}

/// Four fit into a block of 1 KiB, fifteen into one of 4 KiB.
fn long_name(n: usize) -> String {
    format!("{n:05}{}", "n".repeat(235))
}

fn link(world: &World, by: &Caller, n: usize) -> Result<()> {
    let (file, dir) = (find(world, "file"), find(world, "dir"));
    let name = long_name(n);
    world.fs.link(by, file, dir, name.as_bytes()).map(drop)
}

fn find(world: &World, name: &str) -> InodeNo {
    world.look(ROOT, name).unwrap().inode
}

fn write(world: &World, by: &Caller, name: &str, block: u64, len: usize) -> Result<()> {
    let at = block * u64::from(world.fs.superblock().block_size);
    let done = world
        .fs
        .write(by, find(world, name), at, &vec![7; len], Default::default())?;
    assert!(done.value > 0);
    Ok(())
}

/// Every other block of the file.
fn pieces(world: &World, name: &str, count: u64) {
    for n in 0..count {
        write(world, &world.by, name, n * 2, 1).unwrap();
    }
}

/// By how many blocks the directory of long names grows with each of the
/// first 600 of them.
fn growth(format: &str) -> Vec<u64> {
    let world = World::new(format, 8 << 20);
    world.file(ROOT, "file");
    let dir = world.dir(ROOT, "dir");
    let block = u64::from(world.fs.superblock().block_size);
    let size = || world.fs.getattr(dir).unwrap().size / block;
    let grow = |n| {
        let before = size();
        link(&world, &world.by, n).unwrap();
        size() - before
    };
    (0..600).map(grow).collect()
}

/// An access control list that needs a block of its own.
fn long_list() -> Vec<u8> {
    let mut list = 2u32.to_le_bytes().to_vec();
    let mut add = |tag: u16, perm: u16, id: u32| {
        list.extend(tag.to_le_bytes());
        list.extend(perm.to_le_bytes());
        list.extend(id.to_le_bytes());
    };
    add(1, 7, u32::MAX);
    (0..40).for_each(|n| add(2, 6, 1000 + n));
    add(4, 5, u32::MAX);
    add(0x10, 7, u32::MAX);
    add(0x20, 5, u32::MAX);
    list
}

fn cases(format: &str) -> Vec<Case> {
    let growth = growth(format);
    let grows = |by: u64| growth.iter().enumerate().filter(move |(_, n)| **n == by);
    let nothing = |_: &World| {};
    let files = |world: &World| {
        world.file(ROOT, "file");
        world.dir(ROOT, "dir");
    };
    let names = move |count: usize| {
        move |world: &World| {
            files(world);
            (0..count).for_each(|n| link(world, &world.by, n).unwrap());
        }
    };
    // The first two blocks more: the index begins; the next: a level or a node of it.
    let begins = grows(2).next().expect("an index").0;
    let splits = grows(1).next().expect("a leaf that is cut").0;
    let small = matches!(format, "1k-blocks" | "ext3");
    let mut cases = vec![
        case("mkdir", nothing, |w, by| {
            w.fs.mkdir(by, ROOT, b"new", 0o755, 0).map(drop)
        }),
        case("a long symlink", nothing, |w, by| {
            w.fs.symlink(by, ROOT, b"new", &[b't'; 900]).map(drop)
        }),
        case("a write", files, |w, by| write(w, by, "file", 0, 20_000)),
        case("a write far out", files, |w, by| {
            write(w, by, "file", 100_000, 9)
        }),
        case("an attribute", files, |w, by| {
            let value = [1; 700];
            w.fs.setxattr(by, find(w, "file"), b"user.a", &value, 0)
                .map(drop)
        }),
        case("a default list", files, |w, by| {
            let name = b"system.posix_acl_default";
            w.fs.setxattr(by, find(w, "dir"), name, &long_list(), 0)
                .map(drop)
        }),
        case(
            "a list inherited",
            move |w| {
                files(w);
                let name = b"system.posix_acl_default";
                w.fs.setxattr(&w.by, find(w, "dir"), name, &long_list(), 0)
                    .unwrap();
            },
            |w, by| w.fs.mkdir(by, find(w, "dir"), b"new", 0o755, 0).map(drop),
        ),
        case("an index begun by link", names(begins), move |w, by| {
            link(w, by, begins)
        }),
        case("an index begun by create", names(begins), move |w, by| {
            let name = long_name(begins);
            w.fs.create(by, find(w, "dir"), name.as_bytes(), 0o644, 0)
                .map(drop)
        }),
        case("an index begun by rename", names(begins), move |w, by| {
            let name = long_name(begins);
            w.fs.rename(by, ROOT, b"file", find(w, "dir"), name.as_bytes(), 0)
                .map(drop)
        }),
        case("a leaf cut", names(splits), move |w, by| {
            link(w, by, splits)
        }),
        case("a leaf cut by mkdir", names(splits), move |w, by| {
            let name = long_name(splits);
            w.fs.mkdir(by, find(w, "dir"), name.as_bytes(), 0o755, 0)
                .map(drop)
        }),
    ];
    if small {
        let deeper = grows(2).nth(1).expect("a second level").0;
        cases.push(case("a level of the index", names(deeper), move |w, by| {
            link(w, by, deeper)
        }));
        // Four extents in the inode, 84 in a block; 12 pointers, 256 in a block.
        for count in [4, 4 * 84, 6, 6 + 128] {
            let prepare = move |w: &World| {
                files(w);
                pieces(w, "file", count);
            };
            cases.push(case("a map that grows", prepare, move |w, by| {
                write(w, by, "file", count * 2, 1)
            }));
        }
    }
    if Variant::named(format).has_extents() {
        let reserved = move |w: &World| {
            files(w);
            pieces(w, "file", 3);
            let bs = u64::from(w.fs.superblock().block_size);
            w.fs.fallocate(&w.by, find(w, "file"), 0, 100 * bs, 20 * bs)
                .unwrap();
        };
        cases.push(case("fallocate", reserved, |w, by| {
            w.fs.fallocate(by, find(w, "file"), KEEP, 1 << 20, 9000)
                .map(drop)
        }));
        cases.push(case("a write between unwritten", reserved, |w, by| {
            write(w, by, "file", 110, 1)
        }));
        cases.push(case("a range zeroed", reserved, |w, by| {
            w.fs.fallocate(by, find(w, "file"), ZERO, 0, 9000).map(drop)
        }));
    }
    cases
}

fn free(world: &World) -> (u64, u32) {
    alloc::totals(&world.fs.journal().view(), world.fs.superblock()).unwrap()
}

/// This needs a node of an extent tree and nothing else, and nodes come from
/// what the kernel keeps free.
const NODE: &str = "a write between unwritten";

/// Fills the image so that this many blocks are free for root.
fn leave(world: &World, left: u64) {
    let fs = &world.fs;
    let left = left + alloc::kernel_reserve(fs.superblock());
    let filler = world.file(ROOT, "filler");
    let mut at = 0;
    while let Ok(done) = fs.write(&world.by, filler, at, &[9; 64 << 10], Default::default()) {
        at += done.value as u64;
    }
    while free(world).0 < left {
        at -= u64::from(fs.superblock().block_size);
        resize(world, filler, at);
    }
    // A file may give back a block of its map too, or find no room for one.
    for n in 0.. {
        if free(world).0 == left {
            break;
        }
        let name = format!("crumb{n}");
        fs.symlink(&world.by, ROOT, name.as_bytes(), &[b't'; 900])
            .unwrap();
    }
}

fn resize(world: &World, file: InodeNo, size: u64) {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    world.fs.setattr(&world.by, file, &set).unwrap();
}

/// All bytes of the image, e2fsck being content with them.
#[track_caller]
fn bytes(world: &World) -> Vec<u8> {
    world.save();
    e2fsck::assert_clean(world.image.path());
    std::fs::read(world.image.path()).unwrap()
}

fn copy(image: &Image) -> World {
    World::on(image.duplicate(), Access::Kernel)
}

/// The image on which the case can be tried.
fn prepared(format: &str, case: &Case) -> World {
    let world = World::new(format, 8 << 20);
    (case.prepare)(&world);
    world.save();
    world
}

#[test]
fn whatever_needs_a_block_fails_without_a_trace_until_there_are_enough() {
    for format in ["1k-blocks", "ext3", "upstream", "uninit-bg"] {
        for case in cases(format) {
            let base = prepared(format, &case);
            let needed = (0..20).find(|left| {
                let when = format!("{format}, {}, {left} blocks", case.name);
                let world = copy(&base.image);
                leave(&world, *left);
                let before = bytes(&world);
                match (case.act)(&world, &world.by) {
                    Ok(()) => return true,
                    Err(Error::NoSpace) => {}
                    Err(error) => panic!("{when}: {error}"),
                }
                assert!(bytes(&world) == before, "{when}: it left a trace");
                // What is freed can be used at once.
                resize(&world, find(&world, "filler"), 0);
                (case.act)(&world, &world.by).unwrap_or_else(|e| panic!("{when}, freed: {e}"));
                false
            });
            println!("{format}, {}: {needed:?} blocks", case.name);
            let least = if case.name == NODE { 0 } else { 1 };
            assert!(
                needed.is_some_and(|needed| needed >= least),
                "{}",
                case.name
            );
        }
    }
}

/// The reserve is for root, and for whom the superblock names.
#[test]
fn whatever_needs_a_block_of_the_reserve_is_for_root_and_the_reserved_group() {
    let (user, member) = (
        Caller {
            uid: 1000,
            gid: 1000,
            ..Caller::default()
        },
        Caller {
            uid: 1000,
            gid: 1000,
            groups: vec![7, 77].into(),
            ..Caller::default()
        },
    );
    for format in ["1k-blocks", "upstream"] {
        for case in cases(format) {
            let base = prepared(format, &case);
            let reserved = base.fs.superblock().reserved_blocks;
            base.image.debugfs("ssv def_resgid 77");
            for by in [&user, &member, &Caller::default()] {
                let world = copy(&base.image);
                leave(&world, reserved);
                let done = (case.act)(&world, by);
                let spared = case.name == NODE;
                match by.uid == 1000 && !by.in_group(77) && !spared {
                    true => assert!(matches!(done, Err(Error::NoSpace)), "{}", case.name),
                    false => done.unwrap_or_else(|e| panic!("{format}, {}: {e}", case.name)),
                }
            }
        }
    }
}

#[test]
fn without_a_free_inode_nothing_is_made_and_nothing_changes() {
    type Make = fn(&World) -> Result<()>;
    let makes: [(&str, Make); 5] = [
        ("create", |w| {
            w.fs.create(&w.by, ROOT, b"new", 0o644, 0).map(drop)
        }),
        ("mkdir", |w| {
            w.fs.mkdir(&w.by, ROOT, b"new", 0o755, 0).map(drop)
        }),
        ("symlink", |w| {
            w.fs.symlink(&w.by, ROOT, b"new", b"short").map(drop)
        }),
        ("long symlink", |w| {
            w.fs.symlink(&w.by, ROOT, b"new", &[b't'; 900]).map(drop)
        }),
        ("mknod", |w| {
            w.fs.mknod(&w.by, ROOT, b"new", 0o010_644, 0, 0).map(drop)
        }),
    ];
    for args in [
        &["-b1024", "-I256", "-N64"][..],
        &["-b4096", "-I256", "-N64", "-Ouninit_bg,^metadata_csum"],
    ] {
        let base = World::made_with(args, 16 << 20);
        let dir = base.dir(ROOT, "dir");
        for n in 0.. {
            match free(&base).1 {
                1 => break,
                _ => base.file(dir, &format!("{n}")),
            };
        }
        base.save();
        for (name, make) in makes {
            let world = copy(&base.image);
            let last = world.file(dir, "last");
            let before = bytes(&world);
            assert!(matches!(make(&world), Err(Error::NoSpace)), "{name}");
            assert!(bytes(&world) == before, "{name} left a trace");
            world.unlink(dir, "last").unwrap();
            make(&world).unwrap_or_else(|e| panic!("{name} with {last} free again: {e}"));
            assert_eq!(free(&world).1, 0);
        }
    }
}
