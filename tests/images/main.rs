//! Every promised format × every kind of operation, without FUSE: what the
//! file system leaves behind must please `check` and e2fsck, and the kernel
//! must see the same tree.

#[path = "../support/mod.rs"]
mod support;

mod figures;
mod large;
mod script;

use std::sync::Arc;

use journalfs::check;
use journalfs::device::Disk;
use journalfs::device::memory::MemoryDir;
use journalfs::fs::Error;
use journalfs::fs::mount::{self, Course};
use support::bench::{Bench, assert_refused};
use support::fill;
use support::images::{VARIANTS, Variant};
use support::kernel::Mount;
use support::random::Seeded;
use support::tree::Tree;

/// Runs a part of the script on every format and asks the judges.
fn on_every_format(what: &str, part: impl Fn(&Bench, &mut Seeded)) {
    let mut random = Seeded::new("images");
    for variant in chosen() {
        let bench = Bench::new(variant, 48 << 20);
        eprintln!("{what} on {}", variant.name);
        part(&bench, &mut random);
        let name = format!("{what} on {}", variant.name);
        // Before: reading it sets times of access.
        let shown = bench.tree();
        bench.judge(&name);
        let judged = bench.pages();
        let bench = bench.reopen();
        bench.judge_again(&format!("{name}, opened again"), &judged, &shown);
    }
}

/// Room for a copy of the superblock is nobody's, wherever mkfs put it.
#[test]
fn groups_that_sparse_super2_chose_keep_their_copies() {
    let two = Variant {
        name: "sparse-super2",
        args: &["-b1024", "-I256", "-Osparse_super2"],
    };
    let bench = Bench::new(&two, 40 << 20);
    script::a_full_image_recovers(&bench, &mut Seeded::new("copies"));
    bench.judge("full, with copies in two groups");
}

/// Eight inodes a group: the reserved ones reach into the second.
#[test]
fn groups_smaller_than_the_reserved_inodes_are_filled() {
    let tiny = Variant {
        name: "tiny-groups-of-inodes",
        args: &["-b1024", "-I256", "-i1048576"],
    };
    let bench = Bench::new(&tiny, 40 << 20);
    let mut made = 0;
    let error = loop {
        match bench.create(&format!("{made}")) {
            Ok(_) => made += 1,
            Err(e) => break e,
        }
    };
    assert_refused::<()>(Err(error), &Error::NoSpace);
    assert_eq!((made, bench.fs.statfs().unwrap().free_inodes), (29, 0));
    bench.judge("groups of eight inodes");
}

/// Without large_dir an index has two levels at most.
#[test]
fn a_directory_with_a_full_index_says_so_and_has_room_again() {
    let small = Variant {
        name: "full-index",
        args: &["-b1024", "-I256", "-N40000"],
    };
    let bench = Bench::new(&small, 160 << 20);
    bench.mkdir("d").unwrap();
    let path = |n: usize| format!("d/{n:0255}");
    let mut made = 0;
    let error = loop {
        match bench.create(&path(made)) {
            Ok(_) => made += 1,
            Err(e) => break e,
        }
    };
    assert_refused::<()>(Err(error), &Error::NoSpace);
    assert!(made > 15_000 && bench.fs.statfs().unwrap().free_inodes > 0);
    for n in (0..made).step_by(2) {
        bench.unlink(&path(n)).unwrap();
    }
    bench.create("d/again").unwrap();
    assert_eq!(bench.names("d").unwrap().len(), made / 2 + 1);
    bench.judge("a directory whose index was full");
}

/// Neither flag in `s_flags`: one is chosen and written.
#[test]
fn an_image_that_never_said_how_names_are_hashed_says_so_afterwards() {
    let image = VARIANTS[0].make(48 << 20);
    image.debugfs("ssv flags 0");
    let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
    let mounted = mount::open(disk.clone(), dir, mount::Options::default());
    let mounted = mounted.unwrap().mount().unwrap();
    let bench = Bench::of_mounted(image, disk.clone(), mounted.fs().clone());
    bench.mkdir("d").unwrap();
    for n in 0..300 {
        bench.create(&format!("d/é{n}")).unwrap();
    }
    let tree = bench.tree();
    mounted.close().unwrap();
    let mut flags = [0; 4];
    disk.read_at(&mut flags, 1024 + 0x160).unwrap();
    assert_eq!(flags, [1, 0, 0, 0], "signed");
    bench.judge_closed("hashes of a sign that was not told", &tree);
}

/// With few inodes it is they that run out.
#[test]
fn an_image_without_free_inodes_recovers() {
    let few = Variant {
        name: "few-inodes",
        args: &["-b1024", "-I256", "-N64"],
    };
    let bench = Bench::new(&few, 24 << 20);
    let mut made = Vec::new();
    let error = loop {
        let path = format!("{} long enough to need blocks", made.len());
        let done = match made.len() % 3 {
            0 => bench.mkdir(&path).map(drop),
            1 => bench.symlink(&path, b"target").map(drop),
            _ => bench.create(&path).map(drop),
        };
        match done {
            Ok(()) => made.push(path),
            Err(e) => break e,
        }
    };
    assert_refused::<()>(Err(error), &Error::NoSpace);
    assert_eq!(bench.fs.statfs().unwrap().free_inodes, 0);
    bench.judge("no free inodes");
    for path in &made {
        bench.unlink(path).or_else(|_| bench.rmdir(path)).unwrap();
    }
    bench.create("again").unwrap();
    bench.judge("free inodes again");
}

#[test]
fn the_largest_file_is_as_large_as_the_kernels() {
    const UNCOUNTED: support::images::Variant = support::images::Variant {
        name: "no huge_file",
        args: &["-b1024", "-O^huge_file"],
    };
    for variant in chosen().chain([&UNCOUNTED]) {
        let image = variant.make(16 << 20);
        let Some(mount) = Mount::read_write(image.path()) else {
            return;
        };
        let file = std::fs::File::create(mount.at("file")).unwrap();
        let (mut fits, mut fails) = (0, i64::MAX as u64);
        while fails - fits > 1 {
            let middle = fits + (fails - fits) / 2;
            match file.set_len(middle) {
                Ok(()) => fits = middle,
                Err(_) => fails = middle,
            }
        }
        file.set_len(0).unwrap();
        drop(file);
        mount.unmount();
        let bench = Bench::over(image);
        assert_eq!(script::largest(&bench, "file"), fits, "on {}", variant.name);
    }
}

/// The same through the journal: killed, checked through the journal,
/// recovered, closed.
#[test]
fn every_format_survives_a_killed_session() {
    let mut random = Seeded::new("killed");
    for variant in chosen() {
        let image = variant.make(48 << 20);
        let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
        let open = |seed| {
            let options = mount::Options {
                segment_size: Some(8 << 20),
                segments: Some(16),
                seed,
                ..Default::default()
            };
            let opened =
                mount::open(disk.clone(), dir.clone(), options).unwrap_or_else(|e| panic!("{e}"));
            opened.mount().unwrap_or_else(|e| panic!("{e}"))
        };
        let killed = open(1);
        let bench = Bench::of_mounted(image, disk.clone(), killed.fs().clone());
        script::files_are_written_and_cut(&bench, &mut random);
        script::extended_attributes_are_set(&bench, &mut random);
        killed.fs().journal().checkpoint().unwrap();
        script::renames_of_every_kind(&bench, &mut random);
        let tree = bench.tree();
        killed.fs().journal().sync().unwrap();
        drop(killed);

        let report = check::run_disks(disk.clone(), Some(dir.clone()));
        assert!(
            report.is_clean() && report.counts.guarded,
            "{}: {:?}",
            variant.name,
            report.findings
        );
        let recovered = open(2);
        assert_eq!(recovered.course(), Course::Recover);
        let bench = bench.remounted(recovered.fs().clone());
        bench.tree().assert_same("recovered", &tree, "killed");
        script::names_come_and_go(&bench, &mut random);
        let tree = bench.tree();
        recovered.close().unwrap_or_else(|e| panic!("{e}"));
        bench.judge_closed(&format!("a killed session on {}", variant.name), &tree);
        let report = check::run_disks(disk.clone(), Some(dir.clone()));
        assert!(
            report.is_clean() && !report.counts.guarded,
            "{}: {:?}",
            variant.name,
            report.findings
        );
    }
}

/// All formats, or the one named in `JOURNALFS_FORMAT`.
fn chosen() -> impl Iterator<Item = &'static Variant> {
    let only = std::env::var("JOURNALFS_FORMAT").ok();
    VARIANTS
        .iter()
        .filter(move |variant| only.as_deref().is_none_or(|name| name == variant.name))
}

/// A tree of the kernel's making must be shown as the kernel shows it, can be
/// worked on, and be removed to the last file.
#[test]
fn kernel_made_trees_are_shown_and_changed() {
    let mut random = Seeded::new("kernel-made");
    for variant in chosen() {
        let image = variant.make(96 << 20);
        let Some(mount) = Mount::read_write(image.path()) else {
            return;
        };
        fill::everything(mount.path(), fill::SMALL, &mut random);
        let tree = Tree::of(mount.path());
        mount.unmount();
        let bench = Bench::over(image);
        bench.tree().assert_same("fs", &tree, "kernel");
        let name = format!("a kernel-made tree on {}", variant.name);
        script::change_everything(&bench, &mut random);
        bench.judge(&format!("{name}, changed"));
        script::remove_everything(&bench, "");
        bench.judge(&format!("{name}, removed"));
    }
}

macro_rules! parts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            on_every_format(stringify!($name), script::$name);
        }
    )*};
}

parts! {
    files_are_written_and_cut
    holes_are_made_and_found
    names_come_and_go
    renames_of_every_kind
    large_directories_grow_and_shrink
    attributes_are_set
    extended_attributes_are_set
    open_files_outlive_their_names
    a_full_image_recovers
    a_nearly_full_image_stays_sound
    the_largest_file_has_its_last_byte
    scattered_files_get_deep_trees
}
