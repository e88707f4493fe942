//! What is durable when a call returns, because of chattr(1)'s S and D.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::daemon::World;
use crate::needs_fuse;
use crate::support::images;

/// The last record that is durable, and the last.
fn marks(world: &World) -> (u64, u64) {
    let status = world.succeeds(&["status", "--json", world.point_str()]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let mark = |name: &str| status[name].as_u64().unwrap();
    (mark("durable"), mark("appended"))
}

fn run(command: &mut Command) {
    images::run(command);
}

fn chattr(how: &str, path: &Path) {
    run(Command::new("chattr").arg(how).arg(path));
}

/// Whether each of these changes is durable when it returns.
fn durable(world: &World, changes: &[(&str, &dyn Fn())]) -> Vec<(String, bool)> {
    let after = |(name, change): &(&str, &dyn Fn())| {
        let (_, before) = marks(world);
        change();
        let (durable, last) = marks(world);
        assert!(last > before, "{name} changes something");
        (name.to_string(), durable == last)
    };
    changes.iter().map(after).collect()
}

fn of_file(world: &World, file: &Path) -> Vec<(String, bool)> {
    let open = || OpenOptions::new().write(true).open(file).unwrap();
    durable(
        world,
        &[
            ("write", &|| open().write_all(b"written").unwrap()),
            ("truncate", &|| open().set_len(3).unwrap()),
            ("O_TRUNC", &|| drop(File::create(file).unwrap())),
            ("fallocate", &|| {
                fallocate(open(), FallocateFlags::empty(), 0, 8192).unwrap();
            }),
            ("chmod", &|| {
                fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("utimens", &|| run(Command::new("touch").arg(file))),
            ("setxattr", &|| {
                run(Command::new("setfattr")
                    .args(["-n", "user.x", "-v", "1"])
                    .arg(file));
            }),
            ("removexattr", &|| {
                run(Command::new("setfattr").args(["-x", "user.x"]).arg(file));
            }),
        ],
    )
}

fn of_names(world: &World, dir: &Path) -> Vec<(String, bool)> {
    let (at, out) = (|name: &str| dir.join(name), world.at("out"));
    durable(
        world,
        &[
            ("create", &|| drop(File::create(at("file")).unwrap())),
            ("mkdir", &|| fs::create_dir(at("dir")).unwrap()),
            ("symlink", &|| symlink("x", at("symlink")).unwrap()),
            ("mknod", &|| run(Command::new("mkfifo").arg(at("fifo")))),
            ("link", &|| fs::hard_link(at("file"), at("link")).unwrap()),
            ("rename", &|| fs::rename(at("link"), at("renamed")).unwrap()),
            ("out", &|| fs::rename(at("renamed"), &out).unwrap()),
            ("into", &|| fs::rename(&out, at("renamed")).unwrap()),
            ("unlink", &|| fs::remove_file(at("renamed")).unwrap()),
            ("rmdir", &|| fs::remove_dir(at("dir")).unwrap()),
        ],
    )
}

/// Fails if some change always is durable. (Whoever calls sync(2) meanwhile,
/// somewhere on this machine, syncs this too.)
#[track_caller]
fn none(find: &dyn Fn() -> Vec<(String, bool)>) {
    let quiet = |_| find().iter().all(|(_, durable)| !durable);
    assert!((0..5).any(quiet), "{:?}", find());
}

#[test]
fn what_chattr_made_synchronous_is_durable_when_it_returns_and_nothing_else_is() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&["-o", "commit=3600"]);
    let (file, dir) = (world.at("file"), world.at("dir"));
    fs::write(&file, b"").unwrap();
    fs::create_dir(&dir).unwrap();
    let all = |found: Vec<(String, bool)>| {
        assert!(found.iter().all(|(_, durable)| *durable), "{found:?}");
    };
    none(&|| of_file(&world, &file));
    chattr("+S", &file);
    all(of_file(&world, &file));
    chattr("-S", &file);
    none(&|| of_file(&world, &file));

    none(&|| {
        let found = of_names(&world, &dir);
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        found
    });
    fs::remove_dir(&dir).unwrap();
    for how in ["+D", "+S"] {
        fs::create_dir(&dir).unwrap();
        chattr(how, &dir);
        all(of_names(&world, &dir));
        fs::write(dir.join("below"), b"").unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
    world.umount_and_judge();
}

/// What D promises is names; a file made there may be lost from.
#[test]
fn a_file_in_a_directory_with_dirsync_is_written_later() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&["-o", "commit=3600"]);
    let dir = world.at("dir");
    fs::create_dir(&dir).unwrap();
    chattr("+D", &dir);
    let file = dir.join("file");
    fs::write(&file, b"").unwrap();
    none(&|| of_file(&world, &file));
    world.umount_and_judge();
}
