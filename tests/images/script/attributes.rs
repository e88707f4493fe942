//! Owners, modes, times, extended attributes and access lists.

use journalfs::fs::{Error, SetAttr};
use journalfs::units::Time;

use crate::support::bench::Bench;
use crate::support::random::Seeded;

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
        // (In the last second that ext4 can keep there are no nanoseconds.)
        (1 << 34) - (1 << 31) - 2,
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
