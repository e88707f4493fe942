//! `journalfs export`: what an image lacks, replayed by e2fsck from an
//! external journal, is what our own recovery makes of another copy.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use journalfs::device::host::{Access, HostDisk};
use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::device::volatile::{Host, Snapshot};
use journalfs::fs::mount::{self, Exported, Lock};
use journalfs::sim::clock::StillClock;
use journalfs::sim::random::Random;
use journalfs::sim::system::{self, Setup};
use journalfs::sim::workload::{Mix, Workload};
use journalfs::sim::world::{Looking, World};

use support::images::{Image, Variant, pages_of, path_with_sbin, run};
use support::kernel::{self, Mount};
use support::random::Seeded;
use support::tree::Tree;
use support::{e2fsck, images};

mod support;

/// Name, block size, what mkfs.ext4 is told: with an internal journal, and
/// without one.
const FORMATS: &[(&str, u32, &[&str])] = &[
    ("1k", 1024, &["-b1024", "-I256", "-Jsize=1"]),
    ("2k", 2048, &["-b2048", "-I256", "-Jsize=2"]),
    ("4k", 4096, &["-b4096", "-I256", "-Jsize=4"]),
    (
        "4k, orphan file",
        4096,
        &[
            "-b4096",
            "-I256",
            "-Jsize=4",
            "-Ometadata_csum_seed,orphan_file",
        ],
    ),
    (
        "1k, no sums, 32 bits",
        1024,
        &["-b1024", "-I256", "-Jsize=1", "-O^metadata_csum,^64bit"],
    ),
    (
        "1k, no journal",
        1024,
        &["-b1024", "-I256", "-O^has_journal"],
    ),
    (
        "2k, no journal",
        2048,
        &["-b2048", "-I256", "-O^has_journal"],
    ),
    (
        "4k, no journal",
        4096,
        &["-b4096", "-I256", "-O^has_journal"],
    ),
];

fn setup(block_size: u32, image: &Pages) -> Setup {
    Setup {
        size: image.len(),
        block_size,
        segment_size: u64::from(block_size) * 256,
        segments: 12,
        ..Setup::random(&mut Random::new(1))
    }
}

/// What a random history left when its daemon was killed, or the power cut.
fn left_behind(setup: &Setup, image: Pages, random: &mut Seeded) -> Snapshot {
    let mix = *random
        .choice(&[Mix::All, Mix::Names, Mix::Contents])
        .unwrap();
    let tree = {
        let host = Host::new(Snapshot {
            image: image.clone(),
            ..Snapshot::default()
        });
        let mounted = system::mount(&host, setup, &StillClock::new(), 9).unwrap();
        journalfs::sim::walk::walk(&mounted.fs).unwrap()
    };
    let workload = Workload::random(random.u64(..), random.usize(20..120), mix, &tree);
    let world = World::run(setup, image, &workload, Looking::Seldom);
    let world = world.unwrap_or_else(|what| panic!("{what}"));
    match random.bool() {
        true => world.host().kill(),
        false => world.host().cut(random.u64(..)),
    }
}

fn file_of(pages: &Pages) -> Image {
    let image = Image::blank(0);
    image.write_back(&MemoryDisk::from_pages(pages.clone()));
    image
}

/// Exports beside the copy; `None` if it lacks nothing.
fn exported(left: &Snapshot, copy: &Image) -> Option<(PathBuf, Exported)> {
    let out = copy.folder().join("out");
    let folder = Host::new(left.clone()).folder();
    let disk = HostDisk::open(copy.path(), Access::ReadWrite).unwrap();
    let mut options = mount::Options::default();
    options.fs.read_only = true;
    let opened = mount::open(std::sync::Arc::new(disk), folder, options).unwrap();
    let made = HostDisk::create(&out, 0).unwrap();
    match opened.export(&made) {
        Ok(exported) => Some((out, exported)),
        Err(mount::Error::LacksNothing) => None,
        Err(error) => panic!("{error}"),
    }
}

/// `e2fsck -f -y -j`: what it printed, all of it what a recovery prints.
#[track_caller]
fn replayed(out: &Path, copy: &Path) -> String {
    let done = Command::new("e2fsck")
        .args(["-f", "-y", "-j"])
        .args([out, copy])
        .env("PATH", path_with_sbin())
        .env("LC_ALL", "C")
        .env("E2FSCK_TIME", "4000000000")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(matches!(done.status.code(), Some(0 | 1)), "{done:?}");
    assert!(words.contains("recovering journal"), "{words}");
    let fixes = words.lines().filter(|line| line.contains("? yes"));
    let fixes: Vec<&str> = fixes
        .filter(|line| !line.starts_with("Optimize") && !line.contains("could be"))
        .collect();
    assert!(fixes.is_empty(), "{words}");
    words
}

fn seen(image: &Path) -> Option<Tree> {
    kernel::allowed().then(|| {
        let mount = Mount::read_only(image).expect("just allowed");
        let tree = Tree::of(mount.path());
        mount.unmount();
        tree
    })
}

fn features(image: &Path) -> String {
    let words = run(Command::new("dumpe2fs").arg("-h").arg(image));
    let journal = |line: &&str| {
        line.starts_with("Filesystem features") || line.to_lowercase().contains("journal")
    };
    words.lines().filter(journal).collect::<Vec<_>>().join("\n")
}

#[test]
fn e2fsck_makes_of_an_export_what_our_own_recovery_makes() {
    let mut random = Seeded::new("export");
    let (mut exports, mut orphans, mut blocks) = (0, 0, 0);
    for (name, block_size, args) in FORMATS {
        let fresh = pages_of(Variant { name, args }.make(24 << 20).path());
        let setup = setup(*block_size, &fresh);
        for _ in 0..4 {
            let left = left_behind(&setup, fresh.clone(), &mut random);
            let copy = file_of(&left.image);
            let Some((out, exported)) = exported(&left, &copy) else {
                continue;
            };
            orphans += usize::from(replayed(&out, copy.path()).contains("orphaned inode"));
            e2fsck::assert_clean(copy.path());
            let ours = Host::new(left);
            system::recover(&ours, &setup, &StillClock::afterwards(), 3).unwrap();
            let recovered = file_of(&ours.kill().image);
            assert_eq!(features(copy.path()), features(recovered.path()), "{name}");
            if let (Some(theirs), Some(ours)) = (seen(copy.path()), seen(recovered.path())) {
                theirs.assert_same("e2fsck's", &ours, "ours");
            }
            (exports, blocks) = (exports + 1, blocks + exported.blocks);
        }
    }
    println!("{exports} exports of {blocks} blocks, {orphans} with orphans");
    assert!(exports > 20 && orphans > 0);
}

/// A killed mount's files on the host, the journal where it is looked for.
fn on_the_host(name: &'static str, args: &'static [&'static str]) -> (Image, Snapshot, Setup) {
    let fresh = pages_of(Variant { name, args }.make(24 << 20).path());
    let setup = setup(4096, &fresh);
    let steps = "create a 644\nappend a 30000 1\nfsync\nmkdir d 755"
        .parse()
        .unwrap();
    let world = World::run(&setup, fresh, &steps, Looking::Seldom).unwrap();
    let left = world.host().kill();
    let image = file_of(&left.image);
    let folder = mount::journal_folder(image.path());
    std::fs::create_dir(&folder).unwrap();
    for (name, pages) in &left.files {
        std::fs::write(folder.join(name), pages.to_vec()).unwrap();
    }
    (image, left, setup)
}

fn journalfs(args: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_journalfs"));
    command.args(args).args(paths).output().unwrap()
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(32), "{output:?}");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(words.lines().count(), 1, "{words}");
    words
}

#[test]
fn an_exported_image_can_still_be_recovered_by_us() {
    for (name, args) in [
        ("b", &["-b4096", "-I256", "-Jsize=4"][..]),
        ("a", &["-b4096", "-I256", "-O^has_journal"]),
    ] {
        let (image, left, setup) = on_the_host(name, args);
        let out = image.folder().join("out");
        let done = journalfs(&["export", "--jbd2"], &[&out, image.path()]);
        assert!(done.status.success(), "{done:?}");
        assert!(String::from_utf8_lossy(&done.stdout).contains("e2fsck -f -y -j"));
        let done = journalfs(&["recover"], &[image.path()]);
        assert!(done.status.success(), "{done:?}");
        e2fsck::assert_clean(image.path());
        let ours = Host::new(left);
        system::recover(&ours, &setup, &StillClock::afterwards(), 3).unwrap();
        let other = file_of(&ours.kill().image);
        assert_eq!(features(image.path()), features(other.path()), "{name}");
        if let (Some(here), Some(there)) = (seen(image.path()), seen(other.path())) {
            here.assert_same("exported, then recovered", &there, "recovered");
        }
        // What lacks nothing has nothing to export.
        let again = image.folder().join("again");
        let words = refusal(&journalfs(&["export", "--jbd2"], &[&again, image.path()]));
        assert!(words.contains("nothing to export"), "{words}");
        assert!(!again.exists());
    }
}

/// Whatever is printed behind the words "and there" is a shell's script.
#[test]
fn the_commands_printed_leave_an_image_without_a_trace_of_the_guard() {
    for (name, args) in [
        ("internal", &["-b4096", "-I256", "-Jsize=4"][..]),
        ("none", &["-b4096", "-I256", "-O^has_journal"]),
    ] {
        let (image, ..) = on_the_host(name, args);
        let fresh = features(Variant { name, args }.make(24 << 20).path());
        let out = image.folder().join("out");
        let done = journalfs(&["export", "--jbd2"], &[&out, image.path()]);
        let printed = String::from_utf8(done.stdout).unwrap();
        let (_, there) = printed.split_once("and there:\n").unwrap();
        let script: Vec<&str> = there.lines().filter(|l| l.starts_with("  ")).collect();
        assert!(
            script
                .iter()
                .any(|line| line.starts_with("  # nothing else")),
            "{printed}"
        );
        let done = Command::new("sh")
            .args(["-c", &script.join("\n")])
            .env("PATH", path_with_sbin())
            .output()
            .unwrap();
        assert!(matches!(done.status.code(), Some(0 | 1)), "{done:?}");
        e2fsck::assert_clean(image.path());
        assert_eq!(features(image.path()), fresh, "{name}");
        // That the kernel mounts it.
        seen(image.path());
    }
}

/// A folder that nothing can be written to, also by root; as it was at the end.
struct ReadOnly<'p>(&'p Path);

impl<'p> ReadOnly<'p> {
    fn new(folder: &'p Path) -> Self {
        run(Command::new("mount").arg("--bind").args([folder, folder]));
        let made = ReadOnly(folder);
        run(Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(folder));
        made
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn an_image_that_cant_be_written_is_to_be_copied_first() {
    if !kernel::allowed() {
        return;
    }
    let (image, ..) = on_the_host("b", &["-b4096", "-I256", "-Jsize=4"]);
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let _held = ReadOnly::new(image.folder());
    let words = refusal(&journalfs(&["export", "--jbd2"], &[&out, image.path()]));
    assert!(words.contains("give a copy of it"), "{words}");
    assert!(!out.exists());
}

#[test]
fn an_export_that_is_refused_changes_nothing() {
    let (image, ..) = on_the_host("b", &["-b4096", "-I256", "-Jsize=4"]);
    let before = images::pages_of(image.path());
    let out = image.folder().join("out");
    let export = || journalfs(&["export", "--jbd2"], &[&out, image.path()]);

    std::fs::write(&out, "precious").unwrap();
    let there = format!("{}: exists already: name another file", out.display());
    assert!(refusal(&export()).trim_end().ends_with(&there));
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    std::fs::remove_file(&out).unwrap();
    let nowhere = image.folder().join("no/out");
    let words = refusal(&journalfs(&["export", "--jbd2"], &[&nowhere, image.path()]));
    assert!(
        words.contains("no/out: its folder does not exist: make that"),
        "{words}"
    );

    let lock = Lock::on(image.path(), true).unwrap();
    assert!(refusal(&export()).contains("in use"));
    drop(lock);

    let empty = image.folder().join("nothing");
    let elsewhere = journalfs(
        &["export", "--journal"],
        &[&empty, Path::new("--jbd2"), &out, image.path()],
    );
    assert!(refusal(&elsewhere).contains("--journal"));
    assert!(!out.exists() && !empty.exists());
    assert!(images::pages_of(image.path()) == before);
}
