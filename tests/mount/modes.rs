//! How a daemon comes and goes.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{World, journalfs, said};
use crate::needs_fuse;
use crate::support::e2fsck;

#[test]
fn umount_returns_when_the_image_is_clean_and_the_daemon_has_gone() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    fs::write(world.at("file"), vec![1; 10 << 20]).unwrap();
    let pid = world.pid();
    world.umount();
    // (Whoever inherited the process may not have buried it yet.)
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(
        state.is_empty() || state.contains(") Z "),
        "process {pid} is still there: {state}"
    );
    e2fsck::assert_clean(&world.image());
}

/// README.md promises each of them by its name.
#[test]
fn json_has_the_keys_that_programs_were_promised() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    let status = world.succeeds(&["status", "--json", world.point_str()]);
    world.kill();
    let check = world.succeeds(&["check", "--json", world.image_str()]);
    for (command, printed) in [("status", status), ("check", check)] {
        let readme = include_str!("../../README.md");
        let row = format!("| `{command}` | ");
        let row = readme.lines().find_map(|line| line.strip_prefix(&row));
        let mut promised: Vec<&str> = row.unwrap().split('`').skip(1).step_by(2).collect();
        // What the verdict of a check may be are no keys.
        let values = ["clean", "errors", "unchecked"];
        promised.retain(|word| command != "check" || !values.contains(word));
        let mut keys = Vec::new();
        keys_of(&serde_json::from_str(&printed).unwrap(), &mut keys);
        for key in &keys {
            assert!(promised.contains(&&**key), "{command}: {key} is not told");
        }
        for word in promised {
            assert!(keys.iter().any(|key| key == word), "{command}: no {word}");
        }
    }
}

fn keys_of(value: &serde_json::Value, keys: &mut Vec<String>) {
    if let Some(object) = value.as_object() {
        keys.extend(object.keys().cloned());
        object.values().for_each(|value| keys_of(value, keys));
    }
    // Of a list the first will do; a finding's kind may bring a key of its own.
    if let Some(first) = value.as_array().and_then(|list| list.first()) {
        let own = first.as_object().into_iter().flatten();
        keys.extend(own.map(|(key, _)| key.clone()).filter(|key| key != "uuid"));
    }
}

#[test]
fn a_plain_umount_is_enough_too() {
    needs_fuse!();
    let world = World::new("64M");
    world.mount(&[]);
    fs::write(world.at("file"), b"x").unwrap();
    let point = world.point();
    let how = if nix::unistd::geteuid().is_root() {
        "umount"
    } else {
        "fusermount3"
    };
    let mut command = std::process::Command::new(how);
    if how == "fusermount3" {
        command.arg("-u");
    }
    assert!(command.arg(&point).status().unwrap().success());
    wait_until(|| !world.in_use());
    e2fsck::assert_clean(&world.image());
}

#[test]
fn a_signal_unmounts_and_leaves_a_clean_image() {
    needs_fuse!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut world = World::new("64M");
        world.mount(&[]);
        fs::write(world.at("file"), b"x").unwrap();
        kill(Pid::from_raw(world.pid()), signal).unwrap();
        wait_until(|| !world.is_mounted() && !world.in_use());
        e2fsck::assert_clean(&world.image());
        world.mount(&[]);
        assert_eq!(fs::read(world.at("file")).unwrap(), b"x");
        world.umount();
    }
}

/// script(1) gives the command a terminal, and hangs up when it has ended. The
/// terminal stops who writes to it from the background.
#[test]
fn a_mount_outlives_the_terminal_it_was_made_from() {
    needs_fuse!();
    let mut world = World::new("64M");
    let mount = format!(
        "stty tostop && RUST_LOG=debug timeout --foreground 30 {} mount {} {} && cut -d ' ' -f 6 /proc/$$/stat >{}",
        env!("CARGO_BIN_EXE_journalfs"),
        world.image_str(),
        world.point_str(),
        world.beside("session").display(),
    );
    let mut script = Command::new("script");
    script.args(["-qec", &mount, "/dev/null"]);
    let output = script.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("info: Mounting"),
        "it says nothing there"
    );
    // The hangup comes when the terminal goes, and a daemon that heard it ends
    // soon.
    thread::sleep(Duration::from_millis(300));
    assert!(world.is_mounted());
    fs::write(world.at("after"), "it").unwrap();
    // Nor has it left the session, which may be the scheduler's group: it is in
    // that of the shell, and not of the group that the terminal signals.
    let daemon = Pid::from_raw(world.pid());
    let session = nix::unistd::getsid(Some(daemon)).unwrap();
    let shell = fs::read_to_string(world.beside("session")).unwrap();
    assert_eq!(shell.trim(), session.to_string());
    assert_eq!(nix::unistd::getpgid(Some(daemon)).unwrap(), daemon);
    world.umount_and_judge();
}

#[test]
fn a_busy_mount_is_not_taken_away() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let mut file = fs::File::create(world.at("file")).unwrap();
    let line = world.fails(32, &["umount", world.point_str()]);
    assert!(line.contains("busy"), "{line}");
    file.write_all(b"still mounted").unwrap();
    drop(file);
    world.umount_and_judge();
}

#[test]
fn create_makes_the_image_first() {
    needs_fuse!();
    let mut world = World::empty();
    world.mount(&["--create", "64M"]);
    fs::write(world.at("file"), b"x").unwrap();
    world.umount_and_judge();
    let line = world.fails(
        32,
        &[
            "mount",
            "--create",
            "64M",
            world.image_str(),
            world.point_str(),
        ],
    );
    assert!(line.contains("exists"), "{line}");
}

#[test]
fn the_journal_may_lie_elsewhere() {
    needs_fuse!();
    let mut world = World::new("64M");
    let journal = world.beside("elsewhere");
    let options = ["--journal", journal.to_str().unwrap()];
    world.mount_to_kill(&options);
    fs::write(world.at("file"), b"x").unwrap();
    world.kill();
    assert!(!world.journal().exists());
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("--journal"), "{line}");
    world.mount(&options);
    assert_eq!(fs::read(world.at("file")).unwrap(), b"x");
    world.umount_and_judge();
}

#[test]
fn status_tells_a_mounted_a_killed_and_a_clean_image_apart() {
    needs_fuse!();
    let mut world = World::new("64M");
    let status = |target: &str| -> serde_json::Value {
        serde_json::from_str(&world_status(target)).unwrap()
    };
    let clean = status(world.image_str());
    assert_eq!(
        (&clean["mounted"], &clean["guarded"]),
        (&false.into(), &false.into())
    );
    world.mount_to_kill(&[]);
    fs::write(world.at("file"), b"x").unwrap();
    for target in [world.image_str(), world.point_str()] {
        let mounted = status(target);
        assert_eq!(
            (&mounted["mounted"], &mounted["guarded"]),
            (&true.into(), &true.into())
        );
        let mark = |name: &str| mounted[name].as_u64().unwrap();
        assert!(mark("checkpoint") <= mark("durable"));
        assert!(mark("durable") <= mark("written"));
        assert!(mark("written") <= mark("appended"));
    }
    world.kill();
    let killed = status(world.image_str());
    assert_eq!(
        (&killed["mounted"], &killed["guarded"]),
        (&false.into(), &true.into())
    );
    assert!(killed["lag"].as_u64().unwrap() > 0);
    world.mount(&[]);
    let recovered = status(world.point_str());
    assert!(recovered["recovery"]["operations"].as_u64().unwrap() > 0);
    world.umount();
    let text = world.succeeds(&["status", world.image_str()]);
    assert!(text.contains("an ordinary ext4 image"), "{text}");
}

fn world_status(target: &str) -> String {
    let output = journalfs()
        .args(["status", "--json", target])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", crate::daemon::said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn detach_gives_the_image_back_to_e2fsck() {
    needs_fuse!();
    let mut world = World::new("64M");
    let line = world.fails(32, &["detach", world.image_str()]);
    assert!(line.contains("no guard"), "{line}");
    world.mount_to_kill(&[]);
    fs::write(world.at("file"), b"x").unwrap();
    world.kill();
    world.succeeds(&["detach", world.image_str()]);
    let done = std::process::Command::new("e2fsck")
        .arg("-fy")
        .arg(world.image())
        .output()
        .unwrap();
    assert!(matches!(done.status.code(), Some(0 | 1)), "{done:?}");
    e2fsck::assert_clean(&world.image());
}

#[test]
fn a_damaged_synced_record_is_named_and_nothing_is_changed() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    for n in 0..50 {
        fs::write(world.at(&format!("file-{n}")), vec![n; 5000]).unwrap();
    }
    fs::File::open(world.at("file-7"))
        .unwrap()
        .sync_all()
        .unwrap();
    for n in 50..60 {
        fs::write(world.at(&format!("file-{n}")), vec![n; 5000]).unwrap();
    }
    world.kill();
    // In the middle of the synced part.
    damage_data_of(&world, 20);
    let before = world.bytes();
    world.beyond_recovery = Some("is damaged");
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(
        line.contains("record ") && line.contains(".store"),
        "{line}"
    );
    assert!(world.bytes() == before, "image or journal changed");
    // Past the checkpoint nothing may be lost in silence; reading only does not help either.
    world.fails(32, &["recover", world.image_str()]);
    assert!(world.bytes() == before, "image or journal changed");
}

/// Turns a bit of a file's contents in the journal: a run of this byte.
fn damage_data_of(world: &World, byte: u8) {
    let store = world.stores().pop().expect("a segment");
    let mut bytes = fs::read(&store).unwrap();
    let at = bytes
        .windows(4000)
        .position(|window| window.iter().all(|&found| found == byte))
        .unwrap();
    bytes[at + 2000] ^= 1;
    fs::write(&store, &bytes).unwrap();
}

#[test]
fn a_damaged_unsynced_record_is_cut_off_with_those_behind_it_and_that_is_said() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&["-o", "commit=3600"]);
    for n in 0..40 {
        fs::write(world.at(&format!("file-{n}")), vec![n; 5000]).unwrap();
    }
    world.kill();
    damage_data_of(&world, 20);
    world.mount(&[]);
    let said = world.succeeds(&["status", world.point_str()]);
    assert!(said.contains("torn") && said.contains("dropped"), "{said}");
    for n in 0..40 {
        let found = fs::read(world.at(&format!("file-{n}"))).ok();
        match n {
            0..20 => assert_eq!(found, Some(vec![n; 5000])),
            20 => assert_eq!(found, Some(Vec::new()), "made, but not written"),
            _ => assert_eq!(found, None),
        }
    }
    world.umount_and_judge();
}

pub fn wait_until(mut done: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < patience, "waited for a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}
