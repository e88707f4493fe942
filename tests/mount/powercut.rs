//! `-o powercut`: the power of a live mount, cut when and as asked for.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use journalfs::fs::mount::Lock;
use journalfs::sim::cut::Loss;

use crate::daemon::{World, journalfs, said};
use crate::needs_fuse;
use crate::support::kernel;

const MODELS: [&str; 3] = ["prefix", "ext4", "posix"];

fn rigged() -> World {
    let world = World::new("32M");
    world.mount(&["-o", "powercut"]);
    world
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A `journalfs cut` that has been started.
struct Pending(Child);

impl Pending {
    fn start(world: &World, args: &[&str]) -> Self {
        let mut command = journalfs();
        command
            .args(["cut", "--json"])
            .args(args)
            .arg(world.point());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut pending = Pending(command.spawn().unwrap());
        // The first line only: what follows is for whoever waits for the end.
        let told = pending.0.stderr.as_mut().unwrap();
        let (mut line, mut byte) = (String::new(), [0]);
        while told.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(char::from(byte[0]));
        }
        assert!(line.contains("armed"), "{line}");
        pending
    }

    #[track_caller]
    fn loss(self) -> Loss {
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[track_caller]
fn cut(world: &World, args: &[&str]) -> Loss {
    let mut all = vec!["cut", "--json"];
    all.extend(args);
    all.push(world.point_str());
    let loss = serde_json::from_str(&world.succeeds(&all)).unwrap();
    let socket = world.journal().join("control");
    assert!(!socket.exists(), "nobody listens after a cut");
    loss
}

/// An application under test: saves a file's new contents.
type App = fn(&Path, &[u8]) -> io::Result<()>;

fn forgets_fsync_before_rename(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(dir.join("tmp"), bytes)?;
    fs::rename(dir.join("tmp"), dir.join("conf"))?;
    sync(dir)
}

fn replaces_as_it_should(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut tmp = File::create(dir.join("tmp"))?;
    tmp.write_all(bytes)?;
    tmp.sync_all()?;
    fs::rename(dir.join("tmp"), dir.join("conf"))?;
    sync(dir)
}

fn forgets_to_sync_the_directory(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut entry = File::create(dir.join("entry"))?;
    entry.write_all(bytes)?;
    entry.sync_all()
}

fn syncs_the_directory_too(dir: &Path, bytes: &[u8]) -> io::Result<()> {
    forgets_to_sync_the_directory(dir, bytes)?;
    sync(dir)
}

/// What files hold after a cut of a mount on which an application ran once;
/// one text for each of several seeds.
fn found(app: App, file: &str, model: &str, when: &[&str]) -> Vec<String> {
    let mut world = World::new("32M");
    world.mount(&[]);
    let dir = world.at("db");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("conf"), "old").unwrap();
    world.umount();
    let mut found = Vec::new();
    for seed in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        world.mount(&["-o", "powercut"]);
        let mut args = vec!["--model", model, "--seed", seed];
        args.extend(when);
        match when.is_empty() {
            true => {
                app(&dir, b"new contents").unwrap();
                cut(&world, &args);
            }
            false => {
                let pending = Pending::start(&world, &args);
                let _ = app(&dir, b"new contents");
                pending.loss();
            }
        }
        world.mount(&[]);
        found.push(fs::read_to_string(dir.join(file)).unwrap_or_else(|_| "missing".to_owned()));
        let _ = fs::remove_file(dir.join("entry"));
        fs::write(dir.join("conf"), "old").unwrap();
        world.umount_and_judge();
    }
    found
}

fn any(found: &[String], text: &str) -> bool {
    found.iter().any(|what| what == text)
}

#[test]
fn an_application_that_forgets_fsync_before_rename_is_caught() {
    needs_fuse!();
    for model in MODELS {
        let left = found(forgets_fsync_before_rename, "conf", model, &[]);
        let broken = any(&left, "");
        assert_eq!(broken, model != "prefix", "{model}: {left:?}");
        let mended = found(replaces_as_it_should, "conf", model, &[]);
        assert!(
            mended.iter().all(|text| text == "new contents"),
            "{model}: {mended:?}"
        );
    }
}

#[test]
fn an_application_that_forgets_to_sync_the_directory_is_caught() {
    needs_fuse!();
    for model in MODELS {
        let left = found(forgets_to_sync_the_directory, "entry", model, &[]);
        assert_eq!(any(&left, "missing"), model == "posix", "{model}: {left:?}");
        let mended = found(syncs_the_directory_too, "entry", model, &[]);
        assert!(
            mended.iter().all(|text| text == "new contents"),
            "{model}: {mended:?}"
        );
    }
}

#[test]
fn between_the_steps_of_a_right_replacement_there_is_the_old_or_the_new() {
    needs_fuse!();
    for when in [
        ["--before-op", "rename:*/conf"],
        ["--after-op", "rename:/db/*"],
    ] {
        let left = found(replaces_as_it_should, "conf", "posix", &when);
        assert!(
            left.iter()
                .all(|text| text == "old" || text == "new contents"),
            "{left:?}"
        );
    }
}

/// Appends numbered lines, syncs some, is cut: what is found is a prefix, no
/// shorter than what was synced.
#[test]
fn a_live_cut_keeps_the_law() {
    needs_fuse!();
    let mut world = World::new("32M");
    let mut lost = 0;
    for seed in 1..=12u32 {
        world.mount(&["-o", "powercut,commit=3600"]);
        let seed_text = seed.to_string();
        let mut args = vec!["--seed", &seed_text, "--after", "200ms"];
        if seed % 2 == 0 {
            args.push("--torn");
        }
        let pending = Pending::start(&world, &args);
        let (mut done, mut synced) = (0u32, 0);
        let write = |n: u32| {
            let at = world.at(&format!("{seed}-{}", n % 7));
            let file = OpenOptions::new().create(true).append(true).open(at)?;
            (&file).write_all(format!("{n:06}").as_bytes())?;
            Ok::<_, io::Error>(file)
        };
        while let Ok(file) = write(done) {
            done += 1;
            if done % 50 == 0 && file.sync_data().is_ok() {
                synced = done;
            }
        }
        lost += pending.loss().lost.len();
        world.mount(&[]);
        let mut numbers: Vec<u32> = (0..7)
            .flat_map(|n| {
                let text = fs::read_to_string(world.at(&format!("{seed}-{n}"))).unwrap_or_default();
                let numbers = text.as_bytes().chunks(6);
                numbers
                    .map(|n| String::from_utf8_lossy(n).parse().unwrap())
                    .collect::<Vec<u32>>()
            })
            .collect();
        numbers.sort_unstable();
        let last = numbers.len() as u32;
        assert_eq!(
            numbers,
            (0..last).collect::<Vec<_>>(),
            "seed {seed}: a hole"
        );
        assert!(
            (synced..=done + 1).contains(&last),
            "seed {seed}: {synced} ≤ {last} ≤ {done}"
        );
        world.umount_and_judge();
    }
    assert!(lost > 0, "no cut took anything");
}

#[test]
fn a_cut_keeps_nothing_all_or_up_to_a_record() {
    needs_fuse!();
    let mut world = World::new("32M");
    for (keep, wanted) in [("none", "0"), ("all", "012"), ("LSN", "01")] {
        world.mount(&["-o", "powercut,commit=3600"]);
        let at = world.at(&format!("file-{keep}"));
        let file = File::create(&at).unwrap();
        file.write_all_at(b"0", 0).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(b"1", 1).unwrap();
        let marked = world.succeeds(&["mark", world.point_str(), "after-1"]);
        file.write_all_at(b"2", 2).unwrap();
        drop(file);
        let unsynced =
            world.succeeds(&["unsynced", "--json", "--model", "prefix", world.point_str()]);
        assert_eq!(unsynced.lines().count(), 2, "{unsynced}");
        assert!(
            unsynced.contains(r#""op":"write","path":"/file-"#),
            "{unsynced}"
        );
        let keep = if keep == "LSN" { marked.trim() } else { keep };
        let loss = cut(&world, &["--keep", keep]);
        let bytes: u64 = loss.bytes.values().sum();
        assert_eq!(bytes, 3 - wanted.len() as u64, "{loss:?}");
        world.mount(&[]);
        assert_eq!(fs::read_to_string(&at).unwrap(), wanted);
        world.umount_and_judge();
    }
}

#[test]
fn a_cut_comes_when_it_is_due() {
    needs_fuse!();
    let mut world = World::new("32M");
    for (n, (when, due)) in [
        (["--at-mark", "now"], "mark"),
        (["--at-lsn", "1000000"], "writes"),
        (["--before-op", "mkdir:/stop"], "mkdir"),
        (["--after-op", "fsync:/file*"], "fsync"),
    ]
    .into_iter()
    .enumerate()
    {
        world.mount(&["-o", "powercut,commit=3600"]);
        let before = String::from_utf8(
            xattr::get(world.point(), "user.journalfs.lsn")
                .unwrap()
                .unwrap(),
        );
        let near = (before.unwrap().parse::<u64>().unwrap() + 5).to_string();
        let when = when.map(|word| if word == "1000000" { &near } else { word });
        let pending = Pending::start(&world, &[&when[..], &["--keep", "all"]].concat());
        let file = File::create(world.at(&format!("file-{n}"))).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        assert!(world.is_mounted());
        match due {
            "mark" => drop(world.succeeds(&["mark", world.point_str(), "now"])),
            "mkdir" => assert!(fs::create_dir(world.at("stop")).is_err()),
            "fsync" => file.sync_all().unwrap(),
            _ => (1..20).for_each(|n| drop(file.write_all_at(b"x", n))),
        }
        let loss = pending.loss();
        assert!(file.sync_all().is_err(), "{due}: the power is off");
        assert_eq!(loss.lost, [], "{due}");
        drop(file);
        world.mount(&[]);
        assert!(world.at(&format!("file-{n}")).exists() && !world.at("stop").exists());
        world.umount_and_judge();
    }
}

#[test]
fn injected_faults_are_met_and_healed() {
    needs_fuse!();
    let mut world = rigged();
    let file = File::create(world.at("file")).unwrap();
    file.write_all_at(b"kept", 0).unwrap();
    file.sync_all().unwrap();
    let inject = |world: &World, args: &[&str]| {
        world.succeeds(&[&["inject"], args, &[world.point_str()]].concat())
    };
    // inject DIR FAULT
    world.succeeds(&["inject", world.point_str(), "sync@store:eio,forget"]);
    file.write_all_at(b"lost", 4).unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(file.sync_all().is_err(), "nor the second time");
    assert!(inject(&world, &[]).contains("met 1 times"));
    assert_eq!(inject(&world, &["--heal"]), "");
    assert!(file.sync_all().is_err(), "a failed sync is final");
    assert!(file.write_all_at(b"x", 9).is_err(), "it is read-only now");
    drop(file);
    cut(&world, &["--keep", "all"]);
    world.mount(&[]);
    let left = fs::read(world.at("file")).unwrap();
    assert!(left.starts_with(b"kept"), "{left:?}");
    world.umount_and_judge();
}

#[test]
fn without_a_cut_a_rigged_mount_is_a_mount() {
    needs_fuse!();
    let mut world = rigged();
    for n in 0..300 {
        fs::write(world.at(&format!("file-{n}")), vec![n as u8; 50_000]).unwrap();
    }
    world.umount_and_judge();
    world.mount(&[]);
    for n in 0..300 {
        assert!(fs::read(world.at(&format!("file-{n}"))).unwrap() == vec![n as u8; 50_000]);
    }
    world.umount();
}

#[test]
fn a_killed_rigged_mount_leaves_the_image_as_it_was_at_the_mount() {
    needs_fuse!();
    let mut world = World::new("32M");
    world.mount(&[]);
    fs::write(world.at("before"), "x").unwrap();
    world.umount();
    let before = fs::read(world.image()).unwrap();
    world.mount_to_kill(&["-o", "powercut"]);
    fs::write(world.at("after"), "y").unwrap();
    sync(&world.at("after")).unwrap();
    world.kill();
    world.detach_dead();
    assert!(fs::read(world.image()).unwrap() == before);
    let left_over = world.journal().join("unsynced-7");
    fs::write(&left_over, "a segment that had no name yet").unwrap();
    world.mount(&[]);
    assert!(!left_over.exists());
    assert!(world.at("before").exists() && !world.at("after").exists());
    world.umount_and_judge();
}

#[test]
fn what_was_synced_survives_the_unmount_after_a_fault() {
    needs_fuse!();
    let mut world = rigged();
    fs::write(world.at("kept"), "x").unwrap();
    sync(&world.at("kept")).unwrap();
    world.succeeds(&["inject", world.point_str(), "sync@store:eio"]);
    fs::write(world.at("late"), "y").unwrap();
    assert!(sync(&world.at("late")).is_err());
    let line = world.fails(32, &["umount", world.point_str()]);
    assert!(line.contains("still lags behind its journal"), "{line}");
    world.mount(&[]);
    assert_eq!(fs::read_to_string(world.at("kept")).unwrap(), "x");
    world.umount_and_judge();
}

#[test]
fn a_rigged_mount_that_a_full_host_ends_is_told_as_lost() {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    let host = Small::new("24M");
    let mut world = World::on(host.0.path(), "200M");
    world.mount(&["-o", "powercut,journal_size=8M"]);
    let written = fs::write(world.at("large"), vec![7; 60 << 20]);
    let synced = written.and_then(|()| sync(&world.at("large")));
    assert!(synced.is_err(), "the host has room");
    let line = world.fails(32, &["umount", world.point_str()]);
    assert!(line.contains("unmounted, but"), "{line}");
    world.mount(&[]);
    assert!(!world.at("large").exists());
    world.umount_and_judge();
}

/// Until its very end a daemon holds what it has open there, and on a full
/// host the room of what is removed too.
#[test]
fn its_host_can_be_unmounted_as_soon_as_umount_returns() {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    for round in 0..8 {
        let host = Small::new("60M");
        let mut world = World::on(host.0.path(), "64M");
        world.mount(&["-o", "powercut,journal_size=8M"]);
        fs::write(world.at("large"), vec![7; 20 << 20]).unwrap();
        world.umount();
        let host = nix::mount::umount(host.0.path());
        assert!(host.is_ok(), "round {round}: {host:?}");
    }
}

/// A host with little room.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        assert!(command.arg(folder.path()).status().unwrap().success());
        Small(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_rigged_mount_keeps_its_locks_until_all_is_in_the_image() {
    needs_fuse!();
    let world = World::new("64M");
    world.mount(&["-o", "powercut"]);
    fs::write(world.at("large"), vec![7; 30 << 20]).unwrap();
    world.unmount_with(&mut Command::new("umount"));
    while Lock::on(&world.image(), false).is_err() {
        thread::sleep(Duration::from_millis(1));
    }
    let at_once = fs::read(world.image()).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(fs::read(world.image()).unwrap() == at_once);
}

#[test]
fn a_disk_that_lied_is_told_as_a_loss() {
    needs_fuse!();
    let mut world = rigged();
    world.succeeds(&["inject", world.point_str(), "sync:lie"]);
    fs::write(world.at("file"), "x").unwrap();
    sync(&world.at("file")).unwrap();
    let loss = cut(&world, &["--keep", "none"]);
    assert!(
        loss.last < loss.durable && !loss.lost.is_empty(),
        "{loss:?}"
    );
    world.mount(&[]);
    assert!(!world.at("file").exists());
    world.umount_and_judge();
}

#[test]
fn whoever_waits_for_a_cut_hears_of_the_unmount() {
    needs_fuse!();
    let mut world = rigged();
    let waiting = [
        Pending::start(&world, &["--after-op", "mkdir:/never"]),
        Pending::start(&world, &["--after", "60m"]),
    ];
    world.umount_and_judge();
    for pending in waiting {
        let output = pending.0.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(32));
        let line = said(&output);
        assert!(line.contains("unmounted before the cut was due"), "{line}");
    }
}

#[test]
fn a_cut_that_nobody_waits_for_any_more_does_not_come() {
    needs_fuse!();
    let mut world = rigged();
    let mut pending = Pending::start(&world, &["--before-op", "mkdir:/stop"]);
    pending.0.kill().unwrap();
    pending.0.wait().unwrap();
    thread::sleep(Duration::from_millis(100));
    fs::create_dir(world.at("stop")).unwrap();
    world.umount_and_judge();
}

/// Whichever comes first: what was synced is there.
#[test]
fn a_cut_may_come_during_the_unmount() {
    needs_fuse!();
    let mut world = World::new("64M");
    let mut cuts = 0;
    for n in 0..12u32 {
        world.mount(&["-o", "powercut"]);
        let name = format!("file-{n}");
        let file = File::create(world.at(&name)).unwrap();
        file.write_all_at(&vec![n as u8; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        sync(&world.point()).unwrap();
        drop(file);
        let (model, after) = (MODELS[n as usize % 3], format!("{}ms", 5 * n));
        let pending = Pending::start(&world, &["--model", model, "--after", &after]);
        let unmounted = journalfs()
            .arg("umount")
            .arg(world.point())
            .output()
            .unwrap();
        let output = pending.0.wait_with_output().unwrap();
        assert!(output.status.success() || unmounted.status.success());
        cuts += u32::from(output.status.success());
        world.mount(&[]);
        assert!(fs::read(world.at(&name)).unwrap() == vec![n as u8; 1 << 20]);
        world.umount_and_judge();
    }
    assert!(cuts > 0, "no cut came");
}

#[test]
fn orders_that_make_no_sense_are_refused_in_one_line() {
    needs_fuse!();
    let mut world = rigged();
    let point = world.point_str();
    let file = File::create(world.at("file")).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let refused = |code, args: &[&str], words: &str| {
        let line = world.fails(code, args);
        assert!(line.contains(words), "{line}");
    };
    refused(
        1,
        &["cut", "--at-lsn", "5", "--after", "1s", point],
        "one thing only",
    );
    refused(1, &["cut", "--before-op", "fsink:/x", point], "fsink");
    refused(1, &["cut", "--model", "xfs", point], "xfs");
    refused(32, &["cut", "--keep", "1", point], "durable");
    refused(1, &["inject", point, "sync:nonsense"], "nonsense");
    refused(32, &["mark", point, ""], "1 to 255 bytes");
    assert!(world.is_mounted());
    world.umount();
    let refused = |code, args: &[&str], words: &str| {
        let line = world.fails(code, args);
        assert!(line.contains(words), "{line}");
    };
    refused(1, &["cut", point], "no journalfs is mounted");
    refused(
        1,
        &["mount", "-o", "powercut,ro", world.image_str(), point],
        "powercut",
    );
    world.mount(&[]);
    let line = world.fails(32, &["cut", point]);
    assert!(line.contains("-o powercut"), "{line}");
    world.umount();
}
