//! Images whose own journal the kernel had not brought home when the power
//! failed: recovered by us and, a copy, by the kernel, they are the same.

use std::process::Command;
use std::sync::Arc;

use journalfs::check;
use journalfs::device::Disk;
use journalfs::device::memory::{MemoryDir, MemoryDisk};
use journalfs::fs::mount::{self, Course};

use crate::churn::churn;
use crate::support::bench::Bench;
use crate::support::e2fsck;
use crate::support::images::{Image, Variant, pages_of, run};
use crate::support::kernel::{self, Mount};
use crate::support::random::Seeded;
use crate::support::tree::Tree;

/// A format, and how the kernel mounts it.
type Format = (&'static str, &'static [&'static str], &'static str);

const FORMATS: &[Format] = &[
    ("4k", &["-b4096", "-I256", "-Jsize=4"], "data=ordered"),
    ("4k, data", &["-b4096", "-I256", "-Jsize=8"], "data=journal"),
    ("1k", &["-b1024", "-I256", "-Jsize=1"], "data=ordered"),
    ("1k, data", &["-b1024", "-I256", "-Jsize=2"], "data=journal"),
    ("2k", &["-b2048", "-I256", "-Jsize=2"], "data=ordered"),
    (
        "upstream",
        &[
            "-b4096",
            "-I256",
            "-Jsize=4",
            "-Ometadata_csum_seed,orphan_file",
        ],
        "data=ordered",
    ),
    (
        "4k, 32-bit",
        &["-b4096", "-I256", "-Jsize=4", "-O^64bit"],
        "data=ordered",
    ),
    (
        "2k, no sums, data",
        &["-b2048", "-I256", "-Jsize=4", "-O^metadata_csum"],
        "data=journal",
    ),
    (
        "1k, no sums, 32-bit",
        &["-b1024", "-I256", "-Jsize=1", "-O^metadata_csum,^64bit"],
        "data=ordered",
    ),
    (
        "1k, sums of transactions",
        &["-b1024", "-I256", "-Jsize=1", "-O^metadata_csum,^64bit"],
        "journal_checksum",
    ),
    (
        "4k, sums of transactions, data",
        &["-b4096", "-I256", "-Jsize=8", "-O^metadata_csum"],
        "journal_checksum,data=journal",
    ),
    (
        "4k, asynchronous commits",
        &["-b4096", "-I256", "-Jsize=4"],
        "journal_async_commit,data=writeback",
    ),
    (
        "ext3",
        &[
            "-b1024",
            "-I128",
            "-Jsize=1",
            "-O^extent,^64bit,^flex_bg,^huge_file,^metadata_csum,^dir_nlink,^extra_isize",
        ],
        "data=ordered",
    ),
];

/// An image of this format in use, when the power fails.
fn cut_off(format: &Format, random: &mut Seeded) -> Option<Image> {
    let (name, args, options) = *format;
    let image = Variant { name, args }.make(48 << 20);
    let mount = Mount::with_options(image.path(), &format!("loop,rw,{options}"))?;
    let held = churn(mount.path(), random);
    mount.cut(random.bool(), held);
    Some(image)
}

pub fn needs_recovery(image: &Image) -> bool {
    let words = run(Command::new("dumpe2fs").arg("-h").arg(image.path()));
    words.contains("needs_recovery")
}

pub fn options(seed: u64, read_only: bool) -> mount::Options {
    let mut options = mount::Options {
        segment_size: Some(4 << 20),
        segments: Some(8),
        seed,
        ..mount::Options::default()
    };
    options.fs.read_only = read_only;
    options
}

/// What the kernel makes of a copy.
pub fn by_the_kernel(image: &Image) -> Tree {
    let copy = image.duplicate();
    let mount = Mount::read_write(copy.path()).expect("it could be mounted before");
    let tree = Tree::of(mount.path());
    mount.unmount();
    e2fsck::assert_clean(copy.path());
    tree
}

/// For reading only: the same tree, and not a byte is written.
pub fn looked_at(image: &Image, wanted: &Tree) {
    let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
    let opened = mount::open(disk.clone(), dir.clone(), options(1, true));
    let mounted = opened.and_then(mount::Opened::mount);
    let mounted = mounted.unwrap_or_else(|e| panic!("read-only: {e}"));
    let bench = Bench::of_mounted(image.duplicate(), disk.clone(), mounted.fs().clone());
    let tree = bench.looked_at().tree();
    tree.assert_same("read-only", wanted, "kernel");
    mounted.close().unwrap();
    assert!(disk.pages() == pages_of(image.path()), "written to");
    assert!(dir.files().is_empty(), "a journal was begun");
}

/// Recovered, it is the kernel's tree, to every judge.
pub fn recovered(image: &Image, wanted: &Tree, what: &str) {
    let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
    let report = check::run_disks(disk.clone(), None);
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
    let replays = |finding: &check::Finding| matches!(finding, check::Finding::NeedsReplay { transactions } if *transactions > 0);
    assert!(
        report.findings.iter().any(replays),
        "{what}: {:?}",
        report.findings
    );
    let report = mount::recover(disk.clone(), dir.clone(), options(1, false));
    let report = report.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(report.is_some(), "{what}: there was something to do");
    assert_given_back(&disk, what);
    let once = disk.pages();
    let again = mount::recover(disk.clone(), dir.clone(), options(2, false));
    assert!(again.unwrap().is_none() && disk.pages() == once, "{what}");

    let opened = mount::open(disk.clone(), dir, options(3, false)).unwrap();
    assert_eq!(opened.course(), Course::GoOn, "{what}");
    let mounted = opened.mount().unwrap();
    let bench = Bench::of_mounted(image.duplicate(), disk.clone(), mounted.fs().clone());
    bench.tree().assert_same(what, wanted, "kernel");
    bench.mkdir("more").unwrap();
    bench.write("more/file", 0, b"written by us").unwrap();
    let shown = bench.tree();
    mounted.close().unwrap();
    bench.judge_closed(what, &shown);
    assert_given_back(&disk, what);
}

/// The image's own journal is empty and valid: the kernel, which is the first
/// to mind, recovers nothing, and `dumpe2fs` finds no start.
fn assert_given_back(disk: &Arc<MemoryDisk>, what: &str) {
    let file = Image::blank(0);
    file.write_back(&**disk as &dyn Disk);
    e2fsck::assert_clean(file.path());
    let words = run(Command::new("dumpe2fs").arg("-h").arg(file.path()));
    let start = words
        .lines()
        .find(|line| line.starts_with("Journal start:"));
    let start = start.and_then(|line| line.split_whitespace().last());
    assert_eq!(start, Some("0"), "{what}: {words}");
    assert!(!words.contains("needs_recovery"), "{what}");
    assert!(check::run_image(&**disk).is_clean(), "{what}");
}

#[test]
fn dirty_journals_are_replayed_as_the_kernel_replays_them() {
    if !kernel::allowed() {
        return;
    }
    let (mut random, mut revoked, mut escaped) = (Seeded::new("dirty"), 0, 0);
    for format in FORMATS {
        let image = cut_off(format, &mut random).expect("mounts are allowed");
        let what = format.0;
        assert!(needs_recovery(&image), "{what} is clean");
        let log = image.logdump();
        revoked += usize::from(log.contains("revoke table"));
        // Odd flags: it begins with the magic.
        let odd = ["0x1)", "0x3)", "0x9)", "0xb)"];
        escaped += usize::from(odd.iter().any(|flags| log.contains(flags)));
        let wanted = by_the_kernel(&image);
        looked_at(&image, &wanted);
        recovered(&image, &wanted, what);
    }
    assert!(revoked > 4 && escaped > 0, "{revoked} {escaped}");
}

/// The kernel throws such a journal away; e2fsck would ask.
#[test]
fn a_journal_that_no_superblock_speaks_of_is_emptied() {
    let args = &["-b1024", "-I256", "-Jsize=1"];
    let image = Variant { name: "", args }.make(8 << 20);
    std::fs::write(image.folder().join("data"), [0xAB; 1024]).unwrap();
    let data = image.folder().join("data");
    image.debugfs_script(&format!(
        "journal_open -c -v 3\njournal_write -b 5001 {}\njournal_close\n",
        data.display()
    ));
    image.debugfs("feature -needs_recovery");
    let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
    let opened = mount::open(disk.clone(), dir, options(1, false)).unwrap();
    opened.mount().unwrap().close().unwrap();
    assert_given_back(&disk, "a journal of the past");
    let mut block = [1; 1024];
    disk.read_at(&mut block, 5001 << 10).unwrap();
    assert_eq!(block, [0; 1024], "it was not replayed");
}

#[test]
fn fast_commits_that_wait_are_refused_by_name() {
    let args = &["-b4096", "-I256", "-Jsize=4", "-Ofast_commit"];
    let image = Variant { name: "", args }.make(48 << 20);
    let Some(mount) = Mount::read_write(image.path()) else {
        return;
    };
    // (After a whole commit, files that are made and synced one by one.)
    std::fs::create_dir(mount.at("d")).unwrap();
    nix::unistd::syncfs(std::fs::File::open(mount.path()).unwrap()).unwrap();
    for n in 0..5 {
        let path = mount.at(&format!("d/{n}"));
        std::fs::write(&path, b"hello").unwrap();
        std::fs::File::open(path).unwrap().sync_all().unwrap();
    }
    mount.cut(false, ());
    assert!(image.logdump().contains("tag HEAD"), "none wait");
    let before = pages_of(image.path());
    let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
    for read_only in [false, true] {
        let opened = mount::open(disk.clone(), dir.clone(), options(1, read_only));
        let words = opened.err().expect("refused").to_string();
        assert!(
            words.contains("fast commits") && words.contains("e2fsck"),
            "{words}"
        );
    }
    assert!(disk.pages() == before && dir.files().is_empty());
    assert_eq!(check::run_image(&*disk).exit_code(), 8);
    // Once they are replayed by one who can, it is an image like any other.
    let tree = by_the_kernel(&image);
    let mount = Mount::read_write(image.path()).unwrap();
    mount.unmount();
    // (A replay of fast commits gives directories the time of that moment.)
    let shown = Bench::over(image).tree().without_times();
    shown.assert_same("fs", &tree.without_times(), "kernel");
}
