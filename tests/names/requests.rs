//! Making, linking and removing inodes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use journalfs::fs::{Access, Error, Kind, Result};
use journalfs::units::{InodeNo, Time};

use crate::support::kernel::Mount;
use crate::world::{ROOT, World};

#[test]
fn every_kind_of_inode_is_what_the_kernel_sees() {
    for format in ["debian", "1k-blocks", "no-metadata-csum", "128-byte-inodes"] {
        let world = World::new(format, 16 << 20);
        let (fs, by) = (&world.fs, &world.by);
        let big = nix::sys::stat::makedev(300, 70_000) as u32;
        let small = nix::sys::stat::makedev(4, 66) as u32;
        fs.create(by, ROOT, b"file", 0o640, 0o022).unwrap();
        fs.mkdir(by, ROOT, b"dir", 0o1777, 0o022).unwrap();
        fs.mknod(by, ROOT, b"fifo", 0o010600, 0, 7).unwrap();
        fs.mknod(by, ROOT, b"socket", 0o140600, 0, 0).unwrap();
        fs.mknod(by, ROOT, b"char", 0o020600, 0, small).unwrap();
        fs.mknod(by, ROOT, b"block", 0o060660, 0, big).unwrap();
        let lengths = [1, 58, 59, 60, 61, 500, 1023];
        for len in lengths {
            let target = "t".repeat(len);
            let made = fs
                .symlink(by, ROOT, format!("link{len}").as_bytes(), target.as_bytes())
                .unwrap()
                .value;
            assert_eq!(fs.readlink(made.inode).unwrap(), target.as_bytes());
            assert_eq!((made.kind, made.size), (Kind::Symlink, len as u64));
        }
        assert!(matches!(
            fs.symlink(by, ROOT, b"long", &[b'x'; 4096]),
            Err(Error::NameTooLong)
        ));
        assert!(matches!(
            fs.mknod(by, ROOT, b"no", 0o040755, 0, 0),
            Err(Error::NotPermitted)
        ));
        world.judge();

        let Some(mount) = Mount::read_only(world.image.path()) else {
            return;
        };
        let meta = |name: &str| fs::symlink_metadata(mount.at(name)).unwrap();
        assert_eq!(meta("file").mode(), 0o100640);
        assert_eq!((meta("dir").mode(), meta("dir").nlink()), (0o041755, 2));
        assert!(meta("fifo").file_type().is_fifo() && meta("fifo").rdev() == 0);
        assert!(meta("socket").file_type().is_socket());
        assert_eq!(meta("char").rdev(), u64::from(small));
        assert_eq!(meta("block").rdev(), u64::from(big));
        assert_eq!(world.look(ROOT, "block").unwrap().rdev, big);
        for len in lengths {
            assert_eq!(
                fs::read_link(mount.at(&format!("link{len}")))
                    .unwrap()
                    .as_os_str()
                    .len(),
                len
            );
        }
    }
}

#[test]
fn names_have_rules() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let long = vec![b'n'; 256];
    assert!(matches!(
        fs.create(by, ROOT, &long, 0o644, 0),
        Err(Error::NameTooLong)
    ));
    assert!(matches!(
        fs.lookup(by, ROOT, &long),
        Err(Error::NameTooLong)
    ));
    fs.create(by, ROOT, &long[..255], 0o644, 0).unwrap();
    assert!(matches!(
        fs.mkdir(by, ROOT, &long[..255], 0o755, 0),
        Err(Error::Exists)
    ));
    assert!(matches!(
        fs.create(by, ROOT, b"a/b", 0o644, 0),
        Err(Error::Invalid)
    ));
    let file = world.file(ROOT, "file");
    assert!(matches!(world.look(file, "x"), Err(Error::NotDirectory)));
    assert!(matches!(
        fs.unlink(by, ROOT, b"lost+found"),
        Err(Error::IsDirectory)
    ));
    assert!(matches!(
        fs.rmdir(by, ROOT, b"file"),
        Err(Error::NotDirectory)
    ));
    let dir = world.dir(ROOT, "dir");
    world.file(dir, "inside");
    assert!(matches!(fs.rmdir(by, ROOT, b"dir"), Err(Error::NotEmpty)));
    assert_eq!(world.look(dir, "..").unwrap().inode, ROOT);
    assert_eq!(world.look(dir, ".").unwrap().inode, dir);
    // Inodes that files can't have are nobody's business.
    assert!(fs.getattr(InodeNo(8)).is_err() && fs.getattr(InodeNo(0)).is_err());
    world.judge();
}

#[test]
fn links_are_counted_and_end_at_65000() {
    let world = World::new("1k-blocks", 32 << 20);
    let dir = world.dir(ROOT, "dir");
    let file = world.file(ROOT, "file");
    for n in 1..65_000 {
        world
            .fs
            .link(&world.by, file, dir, format!("{n}").as_bytes())
            .unwrap();
    }
    let more = world.fs.link(&world.by, file, dir, b"more");
    assert!(matches!(more, Err(Error::TooManyLinks)));
    assert_eq!(world.fs.getattr(file).unwrap().links, 65_000);
    assert!(matches!(
        world.fs.link(&world.by, dir, ROOT, b"hard"),
        Err(Error::NotPermitted)
    ));
    world.judge();
}

#[test]
fn a_directory_with_too_many_subdirectories_says_one_link() {
    let world = World::made_with(&["-b1024", "-I128", "-N70000"], 160 << 20);
    let dir = world.dir(ROOT, "dir");
    for n in 0..65_010 {
        world.dir(dir, &format!("{n}"));
        let links = world.fs.getattr(dir).unwrap().links;
        assert_eq!(links, if n < 64_997 { n + 3 } else { 1 });
    }
    world.judge();
    for n in 0..30 {
        world
            .fs
            .rmdir(&world.by, dir, format!("{n}").as_bytes())
            .unwrap();
    }
    assert_eq!(world.fs.getattr(dir).unwrap().links, 1);
    world.judge();
    if let Some(mount) = Mount::read_write(world.image.path()) {
        std::fs::create_dir(mount.at("dir/theirs")).unwrap();
        std::fs::remove_dir(mount.at("dir/40")).unwrap();
        let links = std::fs::metadata(mount.at("dir")).unwrap().nlink();
        assert_eq!(links, 1, "the kernel goes on so");
    }
}

/// Without dir_nlink a directory has room for 64,998 others; this kernel
/// does not set the feature then, so neither do we.
#[test]
fn without_dir_nlink_subdirectories_end_where_the_kernels_do() {
    let world = World::made_with(&["-b1024", "-I128", "-N70000", "-O^dir_nlink"], 160 << 20);
    let dir = world.dir(ROOT, "dir");
    let other = world.dir(ROOT, "other");
    for n in 0..64_998 {
        world.dir(dir, &format!("{n}"));
    }
    let refused = |done: Result<()>| assert!(matches!(done, Err(Error::TooManyLinks)), "{done:?}");
    let fs = &world.fs;
    refused(fs.mkdir(&world.by, dir, b"more", 0o755, 0).map(drop));
    refused(
        fs.rename(&world.by, ROOT, b"other", dir, b"other", 0)
            .map(drop),
    );
    world.file(dir, "file");
    assert_eq!(fs.getattr(dir).unwrap().links, 65_000);
    world.judge();
    let Some(mount) = Mount::read_write(world.image.path()) else {
        return;
    };
    let full = |done: std::io::Result<()>| {
        assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EMLINK));
    };
    full(std::fs::create_dir(mount.at("dir/more")));
    full(std::fs::rename(mount.at("other"), mount.at("dir/other")));
    std::fs::remove_dir(mount.at("dir/7")).unwrap();
    std::fs::rename(mount.at("other"), mount.at("dir/other")).unwrap();
    mount.unmount();
    let world = world.read_back(Access::Kernel);
    assert_eq!(world.look(dir, "other").unwrap().inode, other);
    let fs = &world.fs;
    refused(fs.mkdir(&world.by, dir, b"more", 0o755, 0).map(drop));
    fs.rmdir(&world.by, dir, b"other").unwrap();
    world.dir(dir, "more");
    assert_eq!(fs.getattr(dir).unwrap().links, 65_000);
}

#[test]
fn an_open_file_outlives_its_name() {
    let world = World::new("debian", 16 << 20);
    let fs = &world.fs;
    let file = world.file(ROOT, "file");
    fs.write(&world.by, file, 0, b"still here", Default::default())
        .unwrap();
    fs.opened(file);
    world.unlink(ROOT, "file").unwrap();
    assert!(matches!(world.look(ROOT, "file"), Err(Error::NotFound)));
    assert_eq!(fs.read(file, 0, 100).unwrap(), b"still here");
    assert_eq!(fs.getattr(file).unwrap().links, 0);
    assert!(matches!(
        fs.link(&world.by, file, ROOT, b"back"),
        Err(Error::NotFound)
    ));
    fs.release(file).unwrap();
    assert!(matches!(fs.getattr(file), Err(Error::Stale)));
    world.judge();
}

#[test]
fn nothing_comes_into_a_removed_directory() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let dir = world.dir(ROOT, "dir");
    let file = world.file(ROOT, "file");
    fs.remember(dir);
    fs.rmdir(by, ROOT, b"dir").unwrap();
    assert!(matches!(
        fs.create(by, dir, b"x", 0o644, 0),
        Err(Error::NotFound)
    ));
    assert!(matches!(fs.link(by, file, dir, b"x"), Err(Error::NotFound)));
    assert!(matches!(
        fs.rename(by, ROOT, b"file", dir, b"x", 0),
        Err(Error::NotFound)
    ));
    assert!(matches!(world.look(dir, ".."), Err(Error::NotFound)));
    fs.opendir(by, dir).unwrap();
    fs.forget(dir, 1);
    assert!(matches!(fs.opendir(by, dir), Err(Error::Stale)));
    world.judge();
}

#[test]
fn a_number_that_the_kernel_still_holds_is_not_given_away() {
    let world = World::new("debian", 16 << 20);
    let held = world.file(ROOT, "held");
    world.fs.remember(held);
    world.unlink(ROOT, "held").unwrap();
    for n in 0..20 {
        assert_ne!(world.file(ROOT, &format!("new{n}")), held);
    }
    world.fs.forget(held, 1);
    let generations: Vec<u32> = (0..20)
        .map(|n| {
            world
                .fs
                .getattr(world.file(ROOT, &format!("more{n}")))
                .unwrap()
                .generation
        })
        .collect();
    assert!(
        generations
            .iter()
            .all(|g| generations.iter().filter(|other| g == *other).count() == 1)
    );
    world.judge();
}

#[test]
fn times_move_as_posix_says() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let stamps = |inode| {
        let attr = fs.getattr(inode).unwrap();
        (attr.mtime, attr.ctime)
    };
    let dir = world.dir(ROOT, "dir");
    let file = world.file(dir, "file");
    let made = fs.getattr(file).unwrap();
    assert_eq!(
        (made.atime, made.mtime, made.ctime),
        (made.crtime, made.crtime, made.crtime)
    );
    assert_eq!(stamps(dir), (made.crtime, made.crtime));

    fs.link(by, file, ROOT, b"other").unwrap();
    let (mtime, linked) = stamps(file);
    assert_eq!(mtime, made.mtime);
    assert_eq!(stamps(ROOT), (linked, linked));

    fs.unlink(by, dir, b"file").unwrap();
    let (mtime, unlinked) = stamps(file);
    assert_eq!(mtime, made.mtime);
    assert!(unlinked > linked);
    assert_eq!(stamps(dir), (unlinked, unlinked));

    let before = stamps(dir);
    fs.rename(by, ROOT, b"other", ROOT, b"new", 0).unwrap();
    assert!(stamps(file).1 > unlinked);
    assert_eq!(stamps(ROOT).0, stamps(file).1);
    assert_eq!(stamps(dir), before);
    assert!(stamps(ROOT).0 > Time::default());
    world.judge();
}

#[test]
fn a_setgid_directory_hands_its_group_down() {
    let mut world = World::new("debian", 16 << 20);
    let dir = world.dir(ROOT, "dir");
    let change = journalfs::fs::SetAttr {
        mode: Some(0o2777),
        gid: Some(500),
        ..Default::default()
    };
    world.fs.setattr(&world.by, dir, &change).unwrap();
    (world.by.uid, world.by.gid) = (1000, 1000);
    let file = world.fs.getattr(world.file(dir, "file")).unwrap();
    let sub = world.fs.getattr(world.dir(dir, "sub")).unwrap();
    assert_eq!((file.uid, file.gid, file.perm), (1000, 500, 0o644));
    assert_eq!((sub.gid, sub.perm), (500, 0o2755));
    let plain = world.fs.getattr(world.file(ROOT, "plain")).unwrap();
    assert_eq!(plain.gid, 1000);
    world.judge();
}

#[test]
fn running_out_of_inodes_or_blocks_leaves_order() {
    for args in [&["-b1024", "-I256", "-N64"][..], &["-b1024", "-I256"]] {
        let world = World::made_with(args, 2 << 20);
        let dir = world.dir(ROOT, "dir");
        let mut count = 0;
        let failed = loop {
            let target = vec![b't'; 1000];
            match world
                .fs
                .symlink(&world.by, dir, format!("link{count}").as_bytes(), &target)
            {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(failed, Error::NoSpace), "{failed}");
        assert_eq!(world.names(dir, 10).len(), count);
        world.judge();
        for n in 0..count {
            world.unlink(dir, &format!("link{n}")).unwrap();
        }
        world.fs.rmdir(&world.by, ROOT, b"dir").unwrap();
        world.judge();
    }
}

#[test]
fn a_read_only_file_system_refuses_every_change() {
    let world = World::new("debian", 16 << 20);
    world.file(ROOT, "file");
    world.save();
    let image = crate::support::images::pages_of(world.image.path());
    let disk = std::sync::Arc::new(journalfs::device::memory::MemoryDisk::from_pages(image));
    let journal = journalfs::journal::Journal::scratch(disk, 4096);
    let options = journalfs::fs::Options {
        read_only: true,
        access: Access::Kernel,
        ..Default::default()
    };
    let clock = std::sync::Arc::new(journalfs::units::HostClock);
    let fs = journalfs::fs::Fs::new(journal, world.fs.superblock().clone(), options, clock);
    let by = &world.by;
    fs.lookup(by, ROOT, b"file").unwrap();
    assert!(matches!(
        fs.create(by, ROOT, b"new", 0o644, 0),
        Err(Error::ReadOnly(_))
    ));
    assert!(matches!(
        fs.unlink(by, ROOT, b"file"),
        Err(Error::ReadOnly(_))
    ));
    assert!(matches!(
        fs.setxattr(by, ROOT, b"user.x", b"", 0),
        Err(Error::ReadOnly(_))
    ));
}

#[test]
fn directories_tell_their_paths_and_files_those_they_were_seen_under() {
    let world = World::new("1k-blocks", 16 << 20);
    let mut at = ROOT;
    for n in 0..5 {
        at = world.dir(at, &format!("dir{n}"));
    }
    for n in 0..200 {
        world.dir(at, &format!("sub{n}"));
    }
    let last = world.look(at, "sub150").unwrap().inode;
    assert_eq!(world.fs.path(ROOT).unwrap(), b"/");
    assert_eq!(
        world.fs.path(last).unwrap(),
        b"/dir0/dir1/dir2/dir3/dir4/sub150"
    );
    let dir1 = world
        .look(world.look(ROOT, "dir0").unwrap().inode, "dir1")
        .unwrap()
        .inode;
    let (fs, by) = (&world.fs, &world.by);
    fs.rename(by, dir1, b"dir2", ROOT, b"moved", 0).unwrap();
    assert_eq!(fs.path(last).unwrap(), b"/moved/dir3/dir4/sub150");
    let file = world.file(ROOT, "file");
    assert_eq!(fs.path(file).unwrap(), b"/file");
    fs.link(by, file, last, b"other").unwrap();
    fs.unlink(by, ROOT, b"file").unwrap();
    let other = b"/moved/dir3/dir4/sub150/other";
    assert_eq!(fs.path(file).unwrap(), other);
    world.judge();
    // Without having seen a name before:
    let world = world.read_back(Access::Kernel);
    assert_eq!(world.fs.path(last).unwrap(), b"/moved/dir3/dir4/sub150");
    assert_eq!(world.fs.path(file), None);
    world.look(last, "other").unwrap();
    assert_eq!(world.fs.path(file).unwrap(), other);
}
