//! Freed space goes back to the host: holes in the image's file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::daemon::{World, said};
use crate::needs_fuse;
use crate::support::images::{DEBIAN, path_with_sbin, run};
use crate::support::{e2fsck, kernel};

const MIB: u64 = 1 << 20;

/// Bytes that the image takes on the host.
fn taken(world: &World) -> u64 {
    fs::metadata(world.image()).unwrap().blocks() * 512
}

/// Neighbours of which every second one goes, and what the others hold.
fn fill_and_thin(world: &World) {
    for n in 0..32u8 {
        fs::write(world.at(&format!("{n}")), vec![n | 0x80; MIB as usize]).unwrap();
    }
    fs::File::open(world.at("0")).unwrap().sync_all().unwrap();
    for n in (1..32).step_by(2) {
        fs::remove_file(world.at(&format!("{n}"))).unwrap();
    }
}

fn assert_the_rest_is_intact(world: &World) {
    for n in (0..32u8).step_by(2) {
        let bytes = fs::read(world.at(&format!("{n}"))).unwrap();
        assert!(bytes.len() as u64 == MIB && bytes.iter().all(|&b| b == n | 0x80));
    }
}

#[test]
fn discard_gives_back_what_removed_files_took() {
    needs_fuse!();
    let left: Vec<u64> = ["nodiscard", "discard"]
        .into_iter()
        .map(|option| {
            let mut world = World::new("128M");
            world.mount(&[]);
            fill_and_thin(&world);
            for n in (1..32).step_by(2) {
                fs::write(world.at(&format!("{n}")), vec![1; MIB as usize]).unwrap();
            }
            world.umount();
            // All 32 are home; half of them go.
            world.mount(&["-o", option]);
            for n in (1..32).step_by(2) {
                fs::remove_file(world.at(&format!("{n}"))).unwrap();
            }
            assert_the_rest_is_intact(&world);
            world.umount_and_judge();
            let left = taken(&world);
            world.mount(&[]);
            assert_the_rest_is_intact(&world);
            world.umount();
            left
        })
        .collect();
    assert!(left[1] + 15 * MIB <= left[0], "{left:?}");
}

#[test]
fn fstrim_gives_back_what_is_free() {
    needs_fuse!();
    let mut world = World::new("128M");
    world.mount(&[]);
    fill_and_thin(&world);
    // Nothing of it may have come home yet; now it does.
    world.umount();
    world.mount(&[]);
    for n in (0..32).step_by(4) {
        fs::copy(world.at("2"), world.at(&format!("copy {n}"))).unwrap();
    }
    world.umount();
    world.mount(&[]);
    for n in (0..32).step_by(4) {
        fs::remove_file(world.at(&format!("copy {n}"))).unwrap();
    }
    let before = taken(&world);
    let output = Command::new("fstrim")
        .env("PATH", crate::support::images::path_with_sbin())
        .args(["-v", world.point_str()])
        .output()
        .unwrap();
    let said = crate::daemon::said(&output);
    assert!(output.status.success(), "{said}");
    let trimmed: u64 = said
        .split('(')
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert!((80 * MIB..112 * MIB).contains(&trimmed), "{said}");
    assert!(taken(&world) + 7 * MIB <= before, "{before}");
    assert_the_rest_is_intact(&world);
    world.umount_and_judge();
    world.mount(&[]);
    assert_the_rest_is_intact(&world);
    world.umount();
    let read_only = ["-o", "ro"];
    world.mount(&read_only);
    let output = Command::new("fstrim")
        .env("PATH", crate::support::images::path_with_sbin())
        .arg(world.point_str())
        .output()
        .unwrap();
    assert!(!output.status.success());
    world.umount();
}

/// A loop device over a file; dropped, it is gone.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Loop {
        let said = run(Command::new("losetup")
            .env("PATH", path_with_sbin())
            .args(["-f", "--show"])
            .arg(file));
        Loop(said.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let losetup = Command::new("losetup")
            .env("PATH", path_with_sbin())
            .args(["-d", &self.0])
            .status();
        drop(losetup);
    }
}

/// A host that knows no holes; dropped, it is gone.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn new() -> Ramfs {
        let host = Ramfs(tempfile::tempdir().unwrap());
        let mut mount = Command::new("mount");
        run(mount.args(["-t", "ramfs", "none"]).arg(host.0.path()));
        host
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// What fstrim says of the mount, which it calls `MOUNT`.
fn fstrim(point: &Path) -> String {
    let output = Command::new("fstrim")
        .env("PATH", path_with_sbin())
        .arg(point)
        .output()
        .unwrap();
    said(&output).replace(point.to_str().unwrap(), "MOUNT")
}

#[test]
fn a_host_that_cant_discard_is_told_of_once() {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    let host = Ramfs::new();
    let mut world = World::on(host.0.path(), "64M");
    world.mount(&[]);
    for name in ["a", "b"] {
        fs::write(world.at(name), vec![1; MIB as usize]).unwrap();
    }
    world.umount();
    world.mount(&["-o", "discard"]);
    fs::remove_file(world.at("a")).unwrap();
    let ours = [fstrim(&world.point()), fstrim(&world.point())];
    fs::remove_file(world.at("b")).unwrap();
    world.umount_and_judge();
    let log = fs::read_to_string(world.journal().join("daemon.log")).unwrap();
    assert_eq!(log, "journalfs: warn: the image's host can't discard\n");
    let mount = kernel::Mount::with_options(&world.image(), "loop,discard").unwrap();
    let theirs = fstrim(mount.path());
    mount.unmount();
    assert_eq!(ours, [theirs.clone(), theirs]);
}

#[test]
fn a_block_device_is_told_of_freed_blocks() {
    needs_fuse!();
    if !kernel::allowed() {
        return;
    }
    let mut world = World::empty();
    let store = DEBIAN.make(128 << 20);
    let taken = || fs::metadata(store.path()).unwrap().blocks() * 512;
    let device = Loop::over(store.path());
    let journal = world.beside("journal");
    let mount = |world: &World, options| {
        let (journal, point) = (journal.to_str().unwrap(), world.point_str());
        let args = [
            "mount",
            "-o",
            options,
            "--journal",
            journal,
            &device.0,
            point,
        ];
        world.succeeds(&args);
    };
    mount(&world, "discard");
    fill_and_thin(&world);
    for n in (1..32).step_by(2) {
        fs::write(world.at(&format!("{n}")), vec![1; MIB as usize]).unwrap();
    }
    world.umount();
    let full = taken();
    assert!(full >= 32 * MIB, "{full}");
    mount(&world, "discard");
    for n in (1..32).step_by(2) {
        fs::remove_file(world.at(&format!("{n}"))).unwrap();
    }
    world.umount();
    assert!(taken() + 15 * MIB <= full, "{} of {full}", taken());
    mount(&world, "ro");
    assert_the_rest_is_intact(&world);
    world.umount();
    drop(device);
    e2fsck::assert_clean(store.path());
}
