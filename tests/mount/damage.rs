//! Damage that a mount meets: `EIO` for whoever met it, and from then on
//! nothing is changed; who asks is told where, and e2fsck is set to work.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::process::Command;

use crate::daemon::World;
use crate::needs_fuse;
use crate::support::e2fsck;
use crate::support::images::{DEBIAN, path_with_sbin, run};

/// What debugfs says.
fn debugfs(world: &World, request: &str) -> String {
    run(Command::new("debugfs")
        .env("PATH", path_with_sbin())
        .args(["-R", request])
        .arg(world.image()))
}

/// Lets debugfs change the image.
fn debugfs_writes(world: &World, request: &str) {
    run(Command::new("debugfs")
        .env("PATH", path_with_sbin())
        .args(["-w", "-R", request])
        .arg(world.image()));
}

/// The first block of what has a name.
fn block_of(world: &World, path: &str) -> u64 {
    let said = debugfs(world, &format!("blocks {path}"));
    said.split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap()
}

/// A mounted image in which a block of the directory `bad` is not what its
/// checksum says; inode and block.
fn with_damaged_directory(options: &[&str]) -> (World, String, u64) {
    let mut world = World::with_image(&DEBIAN.make(64 << 20));
    world.mount(&[]);
    fs::create_dir(world.at("bad")).unwrap();
    fs::write(world.at("bad/file"), "lost to sight").unwrap();
    fs::write(world.at("good"), "still there").unwrap();
    world.umount();
    let block = block_of(&world, "/bad");
    let stat = debugfs(&world, "stat /bad");
    let mut words = stat.split_whitespace().skip_while(|word| *word != "Inode:");
    let inode = words.nth(1).unwrap().to_owned();
    let image = fs::File::options().write(true).open(world.image()).unwrap();
    image.write_all_at(b"?", block * 4096 + 100).unwrap();
    match options.contains(&"-f") {
        true => world.mount_to_kill(&[]),
        false => world.mount(options),
    }
    fs::write(world.at("before"), "acknowledged").unwrap();
    let met = fs::read(world.at("bad/file")).unwrap_err();
    assert_eq!(met.raw_os_error(), Some(libc::EIO));
    (world, inode, block)
}

#[track_caller]
fn refused(result: std::io::Result<()>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
}

fn superblock(world: &World) -> String {
    run(Command::new("dumpe2fs")
        .env("PATH", path_with_sbin())
        .arg("-h")
        .arg(world.image()))
}

/// e2fsck mends it, and then finds nothing.
fn mend(world: &World) {
    let output = Command::new("e2fsck")
        .env("PATH", path_with_sbin())
        .arg("-p")
        .arg(world.image())
        .output()
        .unwrap();
    // Without -f: what is noted in the superblock makes it look at everything.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("contains a file system with errors"),
        "{said}"
    );
    let output = Command::new("e2fsck")
        .env("PATH", path_with_sbin())
        .arg("-fy")
        .arg(world.image())
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    e2fsck::assert_clean(&world.image());
}

#[test]
fn damage_turns_a_mount_read_only_and_is_told_with_inode_and_block() {
    needs_fuse!();
    let (mut world, inode, block) = with_damaged_directory(&[]);
    refused(fs::write(world.at("good"), "x"));
    refused(fs::write(world.at("new"), "x"));
    refused(fs::remove_file(world.at("good")));
    assert_eq!(fs::read(world.at("good")).unwrap(), b"still there");
    // What was acknowledged before can still be made durable.
    let before = fs::File::open(world.at("before")).unwrap();
    before.sync_all().unwrap();
    drop(before);

    let place = format!("(inode {inode}, block {block})");
    let status = world.succeeds(&["status", "--json", world.point_str()]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let damage = status["damage"].as_str().unwrap();
    assert!(
        damage.starts_with("checksum of directory block"),
        "{damage}"
    );
    assert!(damage.ends_with(&place), "{damage}");
    assert_eq!(status["read_only"], true);
    let told = world.succeeds(&["status", world.point_str()]);
    assert!(told.contains(&place) && told.contains("e2fsck"), "{told}");
    let log = fs::read_to_string(world.journal().join("daemon.log")).unwrap();
    assert!(log.contains(&place), "{log}");

    let line = world.fails(32, &["umount", world.point_str()]);
    assert!(
        line.contains(&place) && line.contains("e2fsck -f"),
        "{line}"
    );
    let noted = superblock(&world);
    for line in [
        "Filesystem state:         clean with errors".to_owned(),
        "FS Error count:           1".to_owned(),
        "First error function:     journalfs".to_owned(),
        format!("First error inode #:      {inode}"),
        format!("First error block #:      {block}"),
        "First error err:          EFSBADCRC".to_owned(),
        format!("Last error block #:       {block}"),
    ] {
        assert!(noted.contains(&line), "{line} is not in {noted}");
    }
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("e2fsck -f"), "{line}");
    mend(&world);
    world.mount(&[]);
    assert_eq!(fs::read(world.at("before")).unwrap(), b"acknowledged");
    world.umount_and_judge();
}

#[test]
fn damage_is_remembered_although_the_daemon_is_killed() {
    needs_fuse!();
    let (mut world, inode, block) = with_damaged_directory(&["-f"]);
    world.kill();
    world.detach_dead();
    // The mount replays, leaves the image an ordinary one, and goes no further.
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("e2fsck -f"), "{line}");
    let noted = superblock(&world);
    assert!(noted.contains("clean with errors"), "{noted}");
    for line in [
        format!("First error inode #:      {inode}"),
        format!("First error block #:      {block}"),
    ] {
        assert!(noted.contains(&line), "{line} is not in {noted}");
    }
    mend(&world);
    world.mount(&[]);
    assert_eq!(fs::read(world.at("before")).unwrap(), b"acknowledged");
    world.umount_and_judge();
}

#[test]
fn damage_on_a_read_only_mount_is_told_and_leaves_no_trace() {
    needs_fuse!();
    let mut world = World::with_image(&DEBIAN.make(64 << 20));
    world.mount(&[]);
    fs::create_dir(world.at("bad")).unwrap();
    world.umount();
    let block = block_of(&world, "/bad");
    let image = fs::File::options().write(true).open(world.image()).unwrap();
    image.write_all_at(b"?", block * 4096 + 100).unwrap();
    let before = world.bytes();
    world.mount(&["--read-only"]);
    let met = fs::read_dir(world.at("bad")).and_then(|mut all| all.next().transpose());
    assert_eq!(met.unwrap_err().raw_os_error(), Some(libc::EIO));
    let told = world.succeeds(&["status", world.point_str()]);
    assert!(told.contains(&format!("block {block})")), "{told}");
    world.umount();
    assert_eq!(before, world.bytes());
    let mended = Command::new("e2fsck")
        .env("PATH", path_with_sbin())
        .arg("-fy")
        .arg(world.image())
        .output()
        .unwrap();
    assert_eq!(mended.status.code(), Some(1), "{mended:?}");
}

#[test]
fn a_damaged_inode_hides_no_other_name_of_its_directory() {
    needs_fuse!();
    let mut world = World::with_image(&DEBIAN.make(64 << 20));
    world.mount(&[]);
    let names: Vec<String> = (0..300).map(|n| format!("file{n}")).collect();
    fs::create_dir(world.at("dir")).unwrap();
    for name in &names {
        fs::write(world.at("dir").join(name), name).unwrap();
    }
    let (bad, number) = (
        "file150",
        fs::metadata(world.at("dir/file150")).unwrap().ino(),
    );
    world.umount();
    debugfs_writes(&world, "set_inode_field /dir/file150 checksum 0x12345678");

    world.mount(&[]);
    let listed = fs::read_dir(world.at("dir")).unwrap();
    let listed: BTreeMap<OsString, u64> = listed
        .map(|entry| entry.map(|entry| (entry.file_name(), entry.ino())).unwrap())
        .collect();
    let wanted: BTreeSet<OsString> = names.iter().map(OsString::from).collect();
    assert!(listed.keys().eq(&wanted));
    assert_eq!(listed[OsStr::new(bad)], number);
    // Names alone touch no inode: nothing has been met yet.
    fs::write(world.at("still"), "written").unwrap();
    for name in &names {
        let read = fs::read(world.at("dir").join(name));
        match name == bad {
            true => assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO)),
            false => assert_eq!(read.unwrap(), name.as_bytes()),
        }
    }
    refused(fs::write(world.at("still"), "x"));
    let line = world.fails(32, &["umount", world.point_str()]);
    assert!(line.contains(&format!("inode {number},")), "{line}");
    mend(&world);
}
