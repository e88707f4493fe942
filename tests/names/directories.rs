//! Directories that grow: by blocks, by an index, by levels of it.

use std::collections::BTreeSet;
use std::fs;

use journalfs::ext4::hash::Hasher;
use journalfs::fs::{Access, Error};

use crate::support::kernel::Mount;
use crate::support::random::Seeded;
use crate::world::{ROOT, World};

const FORMATS: [&str; 11] = [
    "debian",
    "upstream",
    "no-metadata-csum",
    "1k-blocks",
    "2k-blocks",
    "uninit-bg",
    "128-byte-inodes",
    "tea-hash",
    "no-dir-index",
    "block-mapped",
    "ext3",
];

/// A name for each number, of lengths that differ.
fn name(n: usize) -> String {
    format!("{n:07}-{}", "x".repeat(n * 7 % 40))
}

#[test]
fn every_format_takes_and_gives_back_hundreds_of_names() {
    for format in FORMATS {
        let world = World::new(format, 32 << 20);
        let dir = world.dir(ROOT, "many");
        for n in 0..900 {
            world.file(dir, &name(n));
        }
        world.judge();
        let all: BTreeSet<String> = (0..900).map(name).collect();
        let listed = world.names(dir, 17);
        assert_eq!(listed.len(), 900, "{format}");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all, "{format}");
        for n in (0..900).step_by(2) {
            world.unlink(dir, &name(n)).unwrap();
        }
        assert!(matches!(world.look(dir, &name(4)), Err(Error::NotFound)));
        world.look(dir, &name(5)).unwrap();
        world.judge();
        for n in (1..900).step_by(2) {
            world.unlink(dir, &name(n)).unwrap();
        }
        assert!(world.names(dir, 100).is_empty());
        world.fs.rmdir(&world.by, ROOT, b"many").unwrap();
        world.judge();
    }
}

#[test]
fn directories_without_file_types_stay_without() {
    let world = World::made_with(&["-b1024", "-I256", "-O^filetype"], 16 << 20);
    let dir = world.dir(ROOT, "dir");
    for n in 0..100 {
        world.file(dir, &name(n));
    }
    world
        .fs
        .rename(&world.by, dir, name(3).as_bytes(), ROOT, b"moved", 0)
        .unwrap();
    let mut kinds = Vec::new();
    let mut note = |_, _: &[u8], _, kind| {
        kinds.push(kind);
        true
    };
    world.fs.readdir(&world.by, ROOT, 0, &mut note).unwrap();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == journalfs::fs::Kind::Regular)
            .count(),
        1
    );
    world.judge();
}

#[test]
fn legacy_and_unsigned_hashes_work_too() {
    for request in ["ssv def_hash_version 0", "ssv flags 2", "ssv flags 1"] {
        let image = crate::support::images::Variant::named("1k-blocks").make(16 << 20);
        image.debugfs(request);
        let world = World::on(image, Access::Kernel);
        let dir = world.dir(ROOT, "many");
        for n in 0..500 {
            world.file(dir, &format!("größe-{}", name(n)));
        }
        world.judge();
        assert_eq!(world.names(dir, 10).len(), 500, "{request}");
    }
}

fn a_hundred_thousand_names(args: &'static [&'static str]) {
    let world = World::made_with(args, 256 << 20);
    let dir = world.dir(ROOT, "many");
    let first = world.file(dir, "first");
    // Links to few files: inodes are not the point here.
    let mut inode = first;
    let count = 100_000;
    for n in 0..count {
        if n % 60_000 == 0 {
            inode = world.file(ROOT, &format!("file{n}"));
        }
        world
            .fs
            .link(&world.by, inode, dir, format!("entry-{n:08}").as_bytes())
            .unwrap();
    }
    world.judge();
    for n in (0..count).step_by(97) {
        world.look(dir, &format!("entry-{n:08}")).unwrap();
        assert!(matches!(
            world.look(dir, &format!("other-{n:08}")),
            Err(Error::NotFound)
        ));
    }
    let listed = world.names(dir, 500);
    assert_eq!(listed.len(), count + 1);
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>().len(), count + 1);
    for n in 0..count {
        world.unlink(dir, &format!("entry-{n:08}")).unwrap();
    }
    world.unlink(dir, "first").unwrap();
    assert!(world.names(dir, 10).is_empty());
    world.judge();
    world.fs.rmdir(&world.by, ROOT, b"many").unwrap();
    world.judge();
}

#[test]
fn a_hundred_thousand_names_in_small_blocks() {
    a_hundred_thousand_names(&["-b1024", "-I256"]);
}

#[test]
fn a_hundred_thousand_names_in_large_blocks() {
    a_hundred_thousand_names(&["-b4096", "-I256"]);
}

#[test]
fn a_full_index_is_no_space_and_changes_nothing() {
    let world = World::made_with(&["-b1024", "-I256"], 256 << 20);
    let dir = world.dir(ROOT, "full");
    let long = "y".repeat(240);
    let mut inode = world.file(ROOT, "file");
    let mut count = 0;
    let failed = loop {
        if count % 60_000 == 59_999 {
            inode = world.file(ROOT, &format!("file{count}"));
        }
        match world.fs.link(
            &world.by,
            inode,
            dir,
            format!("{count:08}{long}").as_bytes(),
        ) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, Error::NoSpace), "{failed}");
    assert!(count > 20_000, "{count} names only");
    assert_eq!(world.names(dir, 1000).len(), count);
    world.judge();
}

#[test]
fn the_kernel_and_we_extend_each_others_directories() {
    for format in [
        "debian",
        "1k-blocks",
        "no-metadata-csum",
        "tea-hash",
        "uninit-bg",
    ] {
        let world = World::new(format, 64 << 20);
        let dir = world.dir(ROOT, "both");
        for n in 0..2000 {
            world.file(dir, &format!("ours-{}", name(n)));
        }
        world.judge();
        let Some(mount) = Mount::read_write(world.image.path()) else {
            return;
        };
        for n in 0..2000 {
            fs::write(mount.at(&format!("both/theirs-{}", name(n))), b"").unwrap();
        }
        for n in (0..2000).step_by(3) {
            fs::remove_file(mount.at(&format!("both/ours-{}", name(n)))).unwrap();
        }
        let seen = fs::read_dir(mount.at("both")).unwrap().count();
        mount.unmount();

        let world = world.read_back(Access::Kernel);
        let dir = world.look(ROOT, "both").unwrap().inode;
        assert_eq!(world.names(dir, 50).len(), seen, "{format}");
        for n in 0..2000 {
            world.look(dir, &format!("theirs-{}", name(n))).unwrap();
            world.file(dir, &format!("again-{}", name(n)));
        }
        for n in (0..2000).step_by(2) {
            world.unlink(dir, &format!("theirs-{}", name(n))).unwrap();
        }
        world.judge();
        let Some(mount) = Mount::read_only(world.image.path()) else {
            return;
        };
        let seen = fs::read_dir(mount.at("both")).unwrap().count();
        assert_eq!(world.names(dir, 50).len(), seen, "{format}");
        for n in 0..2000 {
            assert!(mount.at(&format!("both/again-{}", name(n))).exists());
        }
    }
}

/// Six names of 232 bytes with one half-MD4 hash (0x06e2966c, under the seed
/// of these images): a leaf of 1 KiB holds four.
fn colliding() -> Vec<String> {
    let ends = [
        "005724d5", "01d2c701", "0467ae70", "056fd5e2", "0803161c", "0ae655ba",
    ];
    ends.map(|end| format!("{}{end}", "c".repeat(224))).to_vec()
}

#[test]
fn names_of_one_hash_go_on_in_the_next_leaf() {
    for format in ["1k-blocks", "no-metadata-csum"] {
        let world = match format {
            "1k-blocks" => World::new(format, 16 << 20),
            _ => World::made_with(
                &[
                    "-b1024",
                    "-O^metadata_csum",
                    "-Ehash_seed=0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
                ],
                16 << 20,
            ),
        };
        let sb = world.fs.superblock();
        let hasher = Hasher::new(1, sb.unsigned_hash, sb.hash_seed).unwrap();
        for name in colliding() {
            assert_eq!(hasher.hash(name.as_bytes()).major, 115_512_940);
        }
        let dir = world.dir(ROOT, "dir");
        let mut all: Vec<String> = (0..60)
            .map(|n| format!("{n:03}{}", "f".repeat(200)))
            .collect();
        for (n, name) in colliding().into_iter().enumerate() {
            all.insert(n * 11, name);
        }
        for name in &all {
            world.file(dir, name);
        }
        world.judge();
        for batch in [1, 2, 3, 1000] {
            let listed = world.names(dir, batch);
            assert_eq!(listed.len(), all.len());
            assert_eq!(
                listed.into_iter().collect::<BTreeSet<_>>(),
                all.iter().cloned().collect()
            );
        }
        let index = world.image.debugfs("htree_dump dir");
        assert!(
            index.contains("0x06e2966d"),
            "one hash goes on in another leaf: {index}"
        );
        for name in &all {
            world.look(dir, name).unwrap();
        }
        if let Some(mount) = Mount::read_only(world.image.path()) {
            for name in &all {
                assert!(
                    mount.at("dir").join(name).exists(),
                    "the kernel finds {name}"
                );
            }
        }
        for name in colliding().iter().skip(1).step_by(2) {
            world.unlink(dir, name).unwrap();
            assert!(matches!(world.look(dir, name), Err(Error::NotFound)));
            world.file(dir, name);
        }
        world.judge();
        assert_eq!(world.names(dir, 2).len(), all.len());
    }
}

/// Whatever is there from the first call of readdir to its last is listed
/// exactly once; whatever never is, never.
#[test]
fn listing_survives_changes_between_its_calls() {
    for format in ["1k-blocks", "tea-hash", "no-dir-index"] {
        for round in 0..12 {
            let mut random = Seeded::from_seed("listing", round);
            let world = World::new(format, 16 << 20);
            let dir = world.dir(ROOT, "changing");
            let start = [3, 20, 60, 400][round as usize % 4];
            let steady: BTreeSet<String> =
                (0..start).map(|n| format!("steady-{}", name(n))).collect();
            for name in &steady {
                world.file(dir, name);
            }
            let mut passing = Vec::new();
            let mut ever = BTreeSet::new();
            let mut listed = Vec::new();
            let mut cookie = 0;
            loop {
                for _ in 0..random.usize(0..30) {
                    if random.bool() || passing.is_empty() {
                        let name =
                            format!("passing-{}-{}", ever.len(), "z".repeat(random.usize(0..60)));
                        world.file(dir, &name);
                        ever.insert(name.clone());
                        passing.push(name);
                    } else {
                        let gone = passing.swap_remove(random.usize(0..passing.len()));
                        world.unlink(dir, &gone).unwrap();
                    }
                }
                let some = world.some_names(dir, &mut cookie, random.usize(1..9));
                if some.is_empty() {
                    break;
                }
                listed.extend(some);
            }
            let seen: BTreeSet<String> = listed.iter().cloned().collect();
            assert_eq!(listed.len(), seen.len(), "{format}: nothing comes twice");
            assert!(
                steady.is_subset(&seen),
                "{format}: nothing steady is skipped"
            );
            assert!(
                seen.iter().all(|name| steady.contains(name)
                    || ever.contains(name)
                    || name.starts_with('.'))
            );
            world.judge();
        }
    }
}
