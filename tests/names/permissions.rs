//! Who may do what, when we are the ones to check.

use journalfs::fs::{Access, Caller, Error, SetAttr, SetTime};
use journalfs::units::{InodeNo, Time};

use crate::world::{ROOT, World};
use crate::xattrs::{NOBODY, list};

fn user(uid: u32, gid: u32, groups: &[u32]) -> Caller {
    Caller {
        uid,
        gid,
        pid: 1,
        groups: groups.to_vec().into(),
    }
}

fn chmod(mode: u16) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}

fn chown(uid: Option<u32>, gid: Option<u32>) -> SetAttr {
    SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    }
}

/// A file of user 10 and group 20 with this mode.
fn owned(world: &World, name: &str, mode: u16) -> InodeNo {
    let file = world.file(ROOT, name);
    world
        .fs
        .setattr(&world.by, file, &chown(Some(10), Some(20)))
        .unwrap();
    world.fs.setattr(&world.by, file, &chmod(mode)).unwrap();
    file
}

#[test]
fn the_first_class_that_fits_decides() {
    let world = World::strict();
    let file = owned(&world, "file", 0o640);
    let may = |by: &Caller, mask| world.fs.access(by, file, mask).is_ok();
    let (owner, member, second, other) = (
        user(10, 1, &[]),
        user(11, 20, &[]),
        user(12, 1, &[20]),
        user(13, 1, &[]),
    );
    assert_eq!([4, 2, 1].map(|mask| may(&owner, mask)), [true, true, false]);
    assert_eq!(
        [4, 2, 1].map(|mask| may(&member, mask)),
        [true, false, false]
    );
    assert_eq!(
        [4, 2, 1].map(|mask| may(&second, mask)),
        [true, false, false]
    );
    assert_eq!(
        [4, 2, 1].map(|mask| may(&other, mask)),
        [false, false, false]
    );
    assert_eq!(
        [4, 2, 1].map(|mask| may(&world.by, mask)),
        [true, true, false]
    );
    // The owner gets the owner's bits although others get more.
    let odd = owned(&world, "odd", 0o077);
    assert!(world.fs.access(&owner, odd, 4).is_err());
    assert!(world.fs.access(&other, odd, 7).is_ok());
    assert!(world.fs.access(&world.by, odd, 1).is_ok());
}

#[test]
fn lists_name_users_and_groups() {
    let world = World::strict();
    let file = owned(&world, "file", 0o600);
    let acl = list(&[
        (1, 6, NOBODY),
        (2, 6, 30),
        (4, 0, NOBODY),
        (8, 4, 40),
        (16, 4, NOBODY),
        (32, 0, NOBODY),
    ]);
    world
        .fs
        .setxattr(&user(10, 1, &[]), file, b"system.posix_acl_access", &acl, 0)
        .unwrap();
    let may = |by: &Caller, mask| world.fs.access(by, file, mask).is_ok();
    assert!(may(&user(30, 1, &[]), 4) && !may(&user(30, 1, &[]), 2));
    assert!(may(&user(31, 1, &[40]), 4) && !may(&user(31, 1, &[]), 4));
    assert!(!may(&user(32, 20, &[]), 4));
    assert!(matches!(
        world
            .fs
            .setxattr(&user(30, 1, &[]), file, b"system.posix_acl_access", &acl, 0),
        Err(Error::NotPermitted)
    ));
}

#[test]
fn directories_ask_for_search_and_write() {
    let world = World::strict();
    let by = user(10, 20, &[]);
    assert!(matches!(
        world.fs.create(&by, ROOT, b"x", 0o644, 0),
        Err(Error::Access)
    ));
    let dir = world.dir(ROOT, "dir");
    world.file(dir, "file");
    world
        .fs
        .setattr(&world.by, dir, &chown(Some(10), None))
        .unwrap();
    for (mode, looks, makes, lists) in [
        (0o700, true, true, true),
        (0o300, true, true, false),
        (0o500, true, false, true),
        (0o600, false, false, true),
        (0o100, true, false, false),
    ] {
        world.fs.setattr(&world.by, dir, &chmod(mode)).unwrap();
        assert_eq!(
            world.fs.lookup(&by, dir, b"file").is_ok(),
            looks,
            "{mode:o}"
        );
        assert_eq!(
            world
                .fs
                .create(&by, dir, format!("new{mode}").as_bytes(), 0o644, 0)
                .is_ok(),
            makes,
            "{mode:o}"
        );
        assert_eq!(
            world
                .fs
                .readdir(&by, dir, 0, &mut |_, _, _, _| true)
                .is_ok(),
            lists,
            "{mode:o}"
        );
    }
}

#[test]
fn in_a_sticky_directory_only_owners_remove() {
    let world = World::strict();
    let dir = world.dir(ROOT, "tmp");
    world.fs.setattr(&world.by, dir, &chmod(0o1777)).unwrap();
    let (mine, theirs) = (user(10, 10, &[]), user(11, 11, &[]));
    world.fs.create(&mine, dir, b"file", 0o666, 0).unwrap();
    world.fs.create(&theirs, dir, b"other", 0o666, 0).unwrap();
    assert!(matches!(
        world.fs.unlink(&theirs, dir, b"file"),
        Err(Error::NotPermitted)
    ));
    assert!(matches!(
        world.fs.rename(&theirs, dir, b"file", dir, b"x", 0),
        Err(Error::NotPermitted)
    ));
    assert!(matches!(
        world.fs.rename(&theirs, dir, b"other", dir, b"file", 0),
        Err(Error::NotPermitted)
    ));
    world.fs.unlink(&mine, dir, b"file").unwrap();
    world.fs.unlink(&world.by, dir, b"other").unwrap();
}

#[test]
fn chmod_and_chown_are_for_owners_and_take_privileges() {
    let world = World::strict();
    let file = owned(&world, "file", 0o755);
    let (owner, other) = (user(10, 20, &[30]), user(11, 20, &[]));
    let perm = || world.fs.getattr(file).unwrap().perm;
    assert!(matches!(
        world.fs.setattr(&other, file, &chmod(0o777)),
        Err(Error::NotPermitted)
    ));
    world.fs.setattr(&owner, file, &chmod(0o6755)).unwrap();
    assert_eq!(perm(), 0o6755);
    assert!(matches!(
        world.fs.setattr(&owner, file, &chown(Some(11), None)),
        Err(Error::NotPermitted)
    ));
    assert!(matches!(
        world.fs.setattr(&owner, file, &chown(None, Some(99))),
        Err(Error::NotPermitted)
    ));
    world
        .fs
        .setattr(&owner, file, &chown(Some(10), Some(30)))
        .unwrap();
    assert_eq!(perm(), 0o755, "a change of owner takes suid and sgid");
    // Group 99's rights are not for someone else to hand on.
    world
        .fs
        .setattr(&world.by, file, &chown(None, Some(99)))
        .unwrap();
    world.fs.setattr(&owner, file, &chmod(0o2755)).unwrap();
    assert_eq!(perm(), 0o755);
    // Without group execute sgid means locking, and stays.
    world.fs.setattr(&world.by, file, &chmod(0o6745)).unwrap();
    world
        .fs
        .setattr(&world.by, file, &chown(Some(10), None))
        .unwrap();
    assert_eq!(perm(), 0o2745);
}

#[test]
fn times_are_set_by_owners_or_to_now_by_writers() {
    let world = World::strict();
    let file = owned(&world, "file", 0o666);
    let other = user(11, 11, &[]);
    let at = Time {
        secs: 5_000_000_000,
        nanos: 123_456_789,
    };
    let explicit = SetAttr {
        mtime: Some(SetTime::At(at)),
        ..SetAttr::default()
    };
    let now = SetAttr {
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::Now),
        ..SetAttr::default()
    };
    assert!(matches!(
        world.fs.setattr(&other, file, &explicit),
        Err(Error::NotPermitted)
    ));
    world.fs.setattr(&other, file, &now).unwrap();
    let done = world
        .fs
        .setattr(&user(10, 1, &[]), file, &explicit)
        .unwrap()
        .value;
    assert_eq!(done.mtime, at);
    assert!(done.ctime > done.crtime && done.ctime != at);
    world.fs.setattr(&world.by, file, &chmod(0o600)).unwrap();
    assert!(matches!(
        world.fs.setattr(&other, file, &now),
        Err(Error::Access)
    ));
    world.judge();
}

#[test]
fn truncating_asks_for_write_unless_through_a_handle() {
    let world = World::strict();
    let file = owned(&world, "file", 0o4444);
    let owner = user(10, 1, &[]);
    let size = SetAttr {
        size: Some(10_000),
        ..SetAttr::default()
    };
    assert!(matches!(
        world.fs.setattr(&owner, file, &size),
        Err(Error::Access)
    ));
    let done = world
        .fs
        .setattr(
            &owner,
            file,
            &SetAttr {
                by_handle: true,
                ..size
            },
        )
        .unwrap()
        .value;
    assert_eq!((done.size, done.perm), (10_000, 0o444));
    assert_eq!(done.mtime, done.ctime);
    assert!(matches!(
        world.fs.setattr(&world.by, ROOT, &size),
        Err(Error::IsDirectory)
    ));
    world.judge();
}

#[test]
fn attributes_have_rules_of_their_own() {
    let world = World::strict();
    let file = owned(&world, "file", 0o644);
    let (owner, other) = (user(10, 1, &[]), user(11, 11, &[]));
    let fs = &world.fs;
    fs.setxattr(&owner, file, b"user.a", b"1", 0).unwrap();
    assert!(matches!(
        fs.setxattr(&other, file, b"user.a", b"1", 0),
        Err(Error::Access)
    ));
    assert_eq!(fs.getxattr(&other, file, b"user.a").unwrap(), b"1");
    assert!(matches!(
        fs.setxattr(&owner, file, b"trusted.a", b"1", 0),
        Err(Error::NotPermitted)
    ));
    assert!(matches!(
        fs.setxattr(&owner, file, b"security.a", b"1", 0),
        Err(Error::NotPermitted)
    ));
    fs.setxattr(&world.by, file, b"trusted.a", b"1", 0).unwrap();
    assert!(matches!(
        fs.getxattr(&owner, file, b"trusted.a"),
        Err(Error::NoAttribute)
    ));
    assert_eq!(fs.listxattr(&owner, file).unwrap(), b"user.a\0");
    assert_eq!(
        fs.listxattr(&world.by, file).unwrap(),
        b"user.a\0trusted.a\0"
    );
}

#[test]
fn immutable_and_append_only_hold_for_root_too() {
    let world = World::new("debian", 16 << 20);
    for name in ["fixed", "log"] {
        world.file(ROOT, name);
    }
    for name in ["fixed-dir", "log-dir"] {
        world.file(world.dir(ROOT, name), "file");
    }
    world.save();
    for (name, flag) in [
        ("fixed", "0x80010"),
        ("log", "0x80020"),
        ("fixed-dir", "0x80010"),
        ("log-dir", "0x80020"),
    ] {
        world.image.debugfs(&format!("sif {name} flags {flag}"));
    }
    let world = world.read_back(Access::Fakeroot);
    let (fs, by) = (&world.fs, &world.by);
    let refused =
        |done: Result<(), Error>| assert!(matches!(done, Err(Error::NotPermitted)), "{done:?}");
    for name in ["fixed", "log"] {
        let inode = world.look(ROOT, name).unwrap().inode;
        refused(world.unlink(ROOT, name));
        refused(fs.link(by, inode, ROOT, b"l").map(drop));
        refused(
            fs.rename(by, ROOT, name.as_bytes(), ROOT, b"n", 0)
                .map(drop),
        );
        refused(fs.setattr(by, inode, &chmod(0o600)).map(drop));
        refused(
            fs.setattr(
                by,
                inode,
                &SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                },
            )
            .map(drop),
        );
        refused(fs.setxattr(by, inode, b"user.x", b"", 0).map(drop));
    }
    let [fixed, log] = ["fixed-dir", "log-dir"].map(|name| world.look(ROOT, name).unwrap().inode);
    refused(fs.create(by, fixed, b"x", 0o644, 0).map(drop));
    fs.create(by, log, b"x", 0o644, 0).unwrap();
    refused(world.unlink(fixed, "file"));
    refused(world.unlink(log, "file"));
    world.judge();
}

#[test]
fn fakeroot_may_do_anything() {
    let mut world = World::on(
        crate::support::images::Variant::named("debian").make(16 << 20),
        Access::Fakeroot,
    );
    let file = owned(&world, "file", 0o600);
    world.by = user(1000, 1000, &[]);
    world.fs.access(&world.by, file, 6).unwrap();
    world
        .fs
        .setattr(&world.by, file, &chown(Some(7), Some(8)))
        .unwrap();
    world.fs.setattr(&world.by, file, &chmod(0o2755)).unwrap();
    assert_eq!(world.fs.getattr(file).unwrap().perm, 0o2755);
    world
        .fs
        .setxattr(&world.by, file, b"trusted.a", b"1", 0)
        .unwrap();
    world.judge();
}

/// FUSE doesn't tell a chown that changes nobody from a write by its request:
/// who could do neither must not take a program's privileges with it.
#[test]
fn only_owners_and_writers_strip_a_program_by_changing_nothing() {
    let world = World::strict();
    let strip = |by: &Caller, mode| {
        let file = owned(&world, &format!("{}-{mode:o}", by.uid), mode);
        world.fs.setattr(by, file, &SetAttr::default()).unwrap();
        world.fs.getattr(file).unwrap().perm
    };
    let (owner, other) = (user(10, 20, &[]), user(11, 21, &[]));
    assert_eq!(strip(&owner, 0o6755), 0o755);
    assert_eq!(strip(&other, 0o6755), 0o6755);
    assert_eq!(strip(&other, 0o6757), 0o757);
    assert_eq!(strip(&owner, 0o2745), 0o2745, "sgid without execution");
}
