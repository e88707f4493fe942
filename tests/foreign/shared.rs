//! Directories that the kernel and we work on in turns.

use std::collections::BTreeSet;
use std::fs::{self, File};

use crate::support::bench::Bench;
use crate::support::e2fsck;
use crate::support::images::{Image, Variant};
use crate::support::kernel::{self, Mount};
use crate::support::random::Seeded;

/// Names of all lengths; a turn's own.
fn names(turn: &str, random: &mut Seeded) -> Vec<String> {
    let name = |n: usize| format!("{turn} {n} {}", "x".repeat(random.usize(0..60)));
    (0..1500).map(name).collect()
}

/// What is gone after a turn.
fn some(names: &BTreeSet<String>, random: &mut Seeded) -> Vec<String> {
    let chosen = names.iter().filter(|_| random.u8(0..3) == 0);
    chosen.cloned().collect()
}

fn kernels_turn(image: &Image, names: &mut BTreeSet<String>, new: &[String], random: &mut Seeded) {
    let mount = Mount::read_write(image.path()).unwrap();
    let dir = mount.at("dir");
    let _ = fs::create_dir(&dir);
    // (A listing is no lookup.)
    for name in names.iter() {
        assert!(fs::symlink_metadata(dir.join(name)).is_ok(), "lost: {name}");
    }
    for name in new {
        File::create_new(dir.join(name)).unwrap();
    }
    names.extend(new.iter().cloned());
    for name in some(names, random) {
        fs::remove_file(dir.join(&name)).unwrap();
        names.remove(&name);
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), names.len());
    mount.unmount();
    e2fsck::assert_clean(image.path());
}

fn our_turn(
    image: Image,
    names: &mut BTreeSet<String>,
    new: &[String],
    random: &mut Seeded,
    what: &str,
) -> Image {
    let bench = Bench::over(image);
    if bench.at("dir").is_err() {
        bench.mkdir("dir").unwrap();
    }
    for name in names.iter() {
        assert!(bench.at(&format!("dir/{name}")).is_ok(), "lost: {name}");
    }
    for name in new {
        bench.create(&format!("dir/{name}")).unwrap();
        assert!(bench.create(&format!("dir/{name}")).is_err());
    }
    names.extend(new.iter().cloned());
    for name in some(names, random) {
        bench.unlink(&format!("dir/{name}")).unwrap();
        names.remove(&name);
    }
    let listed = bench.names("dir").unwrap().into_iter();
    let listed: BTreeSet<String> = listed.map(|n| String::from_utf8(n).unwrap()).collect();
    assert_eq!(&listed, names);
    bench.judge(what);
    bench.image().duplicate()
}

#[test]
fn directories_are_worked_on_by_the_kernel_and_us_in_turns() {
    if !kernel::allowed() {
        return;
    }
    let mut random = Seeded::new("turns");
    for format in [
        "debian",
        "1k-blocks",
        "2k-blocks",
        "tea-hash",
        "no-dir-index",
        "ext3",
    ] {
        for we_begin in [true, false] {
            let mut image = Variant::named(format).make(32 << 20);
            let mut there = BTreeSet::new();
            for turn in 0..4 {
                let who = if (turn % 2 == 0) == we_begin {
                    "ours"
                } else {
                    "kernel's"
                };
                let new = names(&format!("{who} {turn}"), &mut random);
                match who {
                    "ours" => {
                        let what = format!("{format}, turn {turn}");
                        image = our_turn(image, &mut there, &new, &mut random, &what);
                    }
                    _ => kernels_turn(&image, &mut there, &new, &mut random),
                }
            }
        }
    }
}
