//! Extended attributes: in the inode, in blocks, in shared blocks; lists.

use std::collections::BTreeMap;

use journalfs::fs::xattr::{CREATE, REPLACE};
use journalfs::fs::{Access, Error};
use journalfs::units::InodeNo;

use crate::support::kernel::Mount;
use crate::support::random::Seeded;
use crate::world::{ROOT, World};

const FORMATS: [&str; 6] = [
    "debian",
    "upstream",
    "no-metadata-csum",
    "1k-blocks",
    "uninit-bg",
    "128-byte-inodes",
];

type Attributes = BTreeMap<String, Vec<u8>>;

fn shown(world: &World, inode: InodeNo) -> Attributes {
    let names = world.fs.listxattr(&world.by, inode).unwrap();
    names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            (
                String::from_utf8(name.to_vec()).unwrap(),
                world.fs.getxattr(&world.by, inode, name).unwrap(),
            )
        })
        .collect()
}

#[test]
fn attributes_come_and_go_as_in_a_map() {
    for format in FORMATS {
        let mut random = Seeded::new("xattrs");
        let world = World::new(format, 16 << 20);
        let files: Vec<InodeNo> = (0..4)
            .map(|n| world.file(ROOT, &format!("file{n}")))
            .collect();
        let mut models = vec![Attributes::new(); files.len()];
        for step in 0..400 {
            let which = random.usize(0..files.len());
            let (file, model) = (files[which], &mut models[which]);
            let prefix = ["user.", "trusted.", "security."][random.usize(0..3)];
            let name = format!(
                "{prefix}ä{}{}",
                random.usize(0..6),
                "n".repeat(random.usize(0..3) * 10)
            );
            if random.u8(0..4) == 0 {
                let done = world.fs.removexattr(&world.by, file, name.as_bytes());
                match model.remove(&name) {
                    Some(_) => drop(done.unwrap()),
                    None => assert!(matches!(done, Err(Error::NoAttribute))),
                }
            } else {
                let len = [0, 1, 7, 30, 100, 400][random.usize(0..6)];
                let value = random.bytes(len);
                match world
                    .fs
                    .setxattr(&world.by, file, name.as_bytes(), &value, 0)
                {
                    Ok(_) => drop(model.insert(name, value)),
                    Err(error) => assert!(matches!(error, Error::NoSpace), "{format}: {error}"),
                }
            }
            assert_eq!(shown(&world, file), *model, "{format}, step {step}");
        }
        world.judge();
        let Some(mount) = Mount::read_only(world.image.path()) else {
            return;
        };
        for (n, model) in models.iter().enumerate() {
            let path = mount.at(&format!("file{n}"));
            let theirs: Attributes = xattr::list(&path)
                .unwrap()
                .map(|name| {
                    (
                        name.to_str().unwrap().to_owned(),
                        xattr::get(&path, &name).unwrap().unwrap(),
                    )
                })
                .collect();
            assert_eq!(theirs, *model, "{format}: the kernel sees the same");
        }
        drop(mount);
        for n in 0..files.len() {
            world.unlink(ROOT, &format!("file{n}")).unwrap();
        }
        world.judge();
    }
}

#[test]
fn a_block_that_files_share_is_copied_before_it_changes() {
    let world = World::new("debian", 16 << 20);
    for n in 0..3 {
        world.file(ROOT, &format!("file{n}"));
    }
    world.save();
    let Some(mount) = Mount::read_write(world.image.path()) else {
        return;
    };
    let value = vec![7; 900];
    for n in 0..3 {
        xattr::set(mount.at(&format!("file{n}")), "user.shared", &value).unwrap();
    }
    mount.unmount();
    let world = world.read_back(Access::Kernel);
    let block = |name: &str| {
        let stat = world.image.debugfs(&format!("stat {name}"));
        let (_, rest) = stat.split_once("File ACL: ").expect("a block");
        rest.split_whitespace().next().unwrap().to_owned()
    };
    assert!(
        block("file0") != "0" && block("file0") == block("file1"),
        "the kernel shares the block"
    );
    let [first, second, third] =
        ["file0", "file1", "file2"].map(|name| world.look(ROOT, name).unwrap().inode);
    world
        .fs
        .setxattr(&world.by, first, b"user.shared", b"mine", 0)
        .unwrap();
    assert_eq!(
        world
            .fs
            .getxattr(&world.by, second, b"user.shared")
            .unwrap(),
        value
    );
    world.judge();
    world
        .fs
        .setxattr(&world.by, second, b"user.more", &[1; 900], 0)
        .unwrap();
    world.judge();
    world.unlink(ROOT, "file2").unwrap();
    assert!(world.fs.getattr(third).is_err());
    assert_eq!(
        world
            .fs
            .getxattr(&world.by, second, b"user.shared")
            .unwrap(),
        value
    );
    world
        .fs
        .removexattr(&world.by, second, b"user.shared")
        .unwrap();
    world
        .fs
        .removexattr(&world.by, second, b"user.more")
        .unwrap();
    assert_eq!(world.fs.getattr(second).unwrap().blocks, 0);
    world.judge();
}

#[test]
fn errors_are_those_of_linux() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let file = world.file(ROOT, "file");
    let link = fs.symlink(by, ROOT, b"link", b"x").unwrap().value.inode;
    let set = |inode, name: &[u8], value: &[u8], flags| {
        fs.setxattr(by, inode, name, value, flags).map(drop)
    };
    assert!(matches!(
        set(file, b"user.a", b"", REPLACE),
        Err(Error::NoAttribute)
    ));
    set(file, b"user.a", b"1", CREATE).unwrap();
    assert!(matches!(
        set(file, b"user.a", b"", CREATE),
        Err(Error::Exists)
    ));
    assert!(matches!(set(file, b"user.", b"", 0), Err(Error::Invalid)));
    assert!(matches!(
        set(file, b"other.a", b"", 0),
        Err(Error::Unsupported)
    ));
    assert!(matches!(set(file, &[b'x'; 256], b"", 0), Err(Error::Range)));
    assert!(matches!(
        set(file, b"user.big", &[0; 65537], 0),
        Err(Error::ValueTooBig)
    ));
    assert!(matches!(
        set(file, b"user.big", &[0; 5000], 0),
        Err(Error::NoSpace)
    ));
    assert!(matches!(
        set(link, b"user.a", b"", 0),
        Err(Error::NotPermitted)
    ));
    // XATTR_CREATE and XATTR_REPLACE at once.
    assert!(matches!(set(file, b"user.a", b"2", 3), Err(Error::Exists)));
    assert!(matches!(
        set(file, b"user.none", b"2", 3),
        Err(Error::NoAttribute)
    ));
    assert!(matches!(
        fs.getxattr(by, file, b"user.none"),
        Err(Error::NoAttribute)
    ));
    assert!(matches!(
        fs.getxattr(by, file, b"system.posix_acl_access"),
        Err(Error::NoAttribute)
    ));
    set(link, b"trusted.a", b"on a symlink", 0).unwrap();
    assert_eq!(fs.getxattr(by, file, b"user.a").unwrap(), b"1");
    world.judge();
}

/// `u::rwx,u:1000:rw,g::r,m::rw,o::-` as setxattr brings it.
pub fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut wire = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        wire.extend(tag.to_le_bytes());
        wire.extend(perm.to_le_bytes());
        wire.extend(id.to_le_bytes());
    }
    wire
}

pub const NOBODY: u32 = u32::MAX;

#[test]
fn lists_change_the_mode_and_are_inherited() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let file = world.file(ROOT, "file");
    let named = list(&[
        (1, 7, NOBODY),
        (2, 6, 1000),
        (4, 4, NOBODY),
        (16, 6, NOBODY),
        (32, 0, NOBODY),
    ]);
    fs.setxattr(by, file, b"system.posix_acl_access", &named, 0)
        .unwrap();
    assert_eq!(fs.getattr(file).unwrap().perm, 0o760);
    assert_eq!(
        fs.getxattr(by, file, b"system.posix_acl_access").unwrap(),
        named
    );
    // chmod changes the mask.
    let mode = |mode| journalfs::fs::SetAttr {
        mode: Some(mode),
        ..Default::default()
    };
    fs.setattr(by, file, &mode(0o640)).unwrap();
    let masked = list(&[
        (1, 6, NOBODY),
        (2, 6, 1000),
        (4, 4, NOBODY),
        (16, 4, NOBODY),
        (32, 0, NOBODY),
    ]);
    assert_eq!(
        fs.getxattr(by, file, b"system.posix_acl_access").unwrap(),
        masked
    );
    // A list that says no more than the mode is not kept.
    let plain = list(&[(1, 6, NOBODY), (4, 4, NOBODY), (32, 4, NOBODY)]);
    fs.setxattr(by, file, b"system.posix_acl_access", &plain, 0)
        .unwrap();
    assert_eq!(fs.getattr(file).unwrap().perm, 0o644);
    assert!(matches!(
        fs.getxattr(by, file, b"system.posix_acl_access"),
        Err(Error::NoAttribute)
    ));
    assert!(matches!(
        fs.setxattr(by, file, b"system.posix_acl_default", &named, 0),
        Err(Error::Access)
    ));
    assert!(matches!(
        fs.setxattr(by, file, b"system.posix_acl_access", b"junk", 0),
        Err(Error::Invalid)
    ));

    let dir = world.dir(ROOT, "dir");
    fs.setxattr(by, dir, b"system.posix_acl_default", &named, 0)
        .unwrap();
    let inner = fs.create(by, dir, b"inner", 0o666, 0o077).unwrap().value;
    assert_eq!(inner.perm, 0o660, "the umask counts for nothing");
    let sub = fs.mkdir(by, dir, b"sub", 0o777, 0o077).unwrap().value;
    assert_eq!(
        fs.getxattr(by, sub.inode, b"system.posix_acl_default")
            .unwrap(),
        named
    );
    world.judge();
    let Some(mount) = Mount::read_only(world.image.path()) else {
        return;
    };
    for (path, inode) in [("dir/inner", inner.inode), ("dir/sub", sub.inode)] {
        let theirs = xattr::get(mount.at(path), "system.posix_acl_access")
            .unwrap()
            .unwrap();
        assert_eq!(
            theirs,
            fs.getxattr(by, inode, b"system.posix_acl_access").unwrap()
        );
    }
}

#[test]
fn losing_privileges_loses_capabilities() {
    let world = World::new("debian", 16 << 20);
    let (fs, by) = (&world.fs, &world.by);
    let file = world.file(ROOT, "file");
    let give = || {
        fs.setxattr(by, file, b"security.capability", &[1; 20], 0)
            .unwrap()
    };
    for change in [
        journalfs::fs::SetAttr {
            uid: Some(5),
            ..Default::default()
        },
        journalfs::fs::SetAttr {
            size: Some(0),
            ..Default::default()
        },
    ] {
        give();
        fs.setattr(by, file, &change).unwrap();
        assert!(matches!(
            fs.getxattr(by, file, b"security.capability"),
            Err(Error::NoAttribute)
        ));
    }
    world.judge();
}
