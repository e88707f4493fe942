//! An ordinary user mounts through fusermount3 and can use what is mounted.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use crate::daemon::{World, said};
use crate::needs_fuse;

const NOBODY: u32 = 65_534;

/// Runs a shell command as nobody.
fn as_nobody(command: &str) -> Output {
    Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            command,
        ])
        .output()
        .unwrap()
}

#[track_caller]
fn nobody_can(command: &str) -> String {
    let output = as_nobody(command);
    assert!(output.status.success(), "{command}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn possible() -> bool {
    let helper = ["/bin/fusermount3", "/usr/bin/fusermount3"]
        .iter()
        .any(|path| fs::exists(path).unwrap_or(false));
    if !nix::unistd::geteuid().is_root() || !helper {
        eprintln!("skipped: becoming nobody needs root, and fusermount3");
        return false;
    }
    if !as_nobody(": <> /dev/fuse").status.success() {
        eprintln!(
            "skipped: nobody may not open /dev/fuse here (chmod 666 /dev/fuse, as most systems have it)"
        );
        return false;
    }
    true
}

/// A folder of nobody's, and the program where nobody may run it.
fn world_of_nobody() -> (World, String) {
    let world = World::empty();
    let folder = world.beside("");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [folder, world.point()] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let program = world.beside("journalfs");
    fs::copy(env!("CARGO_BIN_EXE_journalfs"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.display().to_string();
    (world, program)
}

#[test]
fn an_ordinary_user_mounts_works_and_unmounts() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let (world, program) = world_of_nobody();
    let (image, point) = (world.image_str(), world.point_str());
    nobody_can(&format!("{program} mount --create 64M {image} {point}"));
    nobody_can(&format!(
        "echo mine > {point}/file && mkdir {point}/dir && chmod 700 {point}/dir"
    ));
    nobody_can(&format!(
        "ls -l {point} && mv {point}/file {point}/dir/ && cat {point}/dir/file"
    ));
    assert_eq!(
        nobody_can(&format!("stat -c %u {point}/dir/file")).trim(),
        "65534"
    );
    // Owners' rules hold without the kernel's help.
    assert!(
        !as_nobody(&format!("chown root {point}/dir/file"))
            .status
            .success()
    );
    let denied = as_nobody(&format!(
        "chmod 000 {point}/dir/file && cat {point}/dir/file"
    ));
    assert!(
        said(&denied).contains("Permission denied"),
        "{}",
        said(&denied)
    );
    nobody_can(&format!("{program} status {point}"));
    nobody_can(&format!("{program} umount {point}"));
    crate::support::e2fsck::assert_clean(&world.image());
    assert_eq!(fs::metadata(world.image()).unwrap().uid(), NOBODY);
}

#[test]
fn fakeroot_lets_the_mounting_user_act_on_any_tree() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let (mut world, program) = world_of_nobody();
    let (image, point) = (world.image_str(), world.point_str());
    world.succeeds(&["mkfs", "--size", "64M", image]);
    world.mount(&[]);
    fs::create_dir(world.at("roots")).unwrap();
    fs::set_permissions(world.at("roots"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(world.at("roots/secret"), b"x").unwrap();
    world.umount();
    for path in [world.image(), world.journal()] {
        Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(path)
            .status()
            .unwrap();
    }
    nobody_can(&format!("{program} mount {image} {point}"));
    assert!(
        !as_nobody(&format!("cat {point}/roots/secret"))
            .status
            .success(),
        "nobody is not root"
    );
    nobody_can(&format!("{program} umount {point}"));
    nobody_can(&format!("{program} mount -o fakeroot {image} {point}"));
    nobody_can(&format!(
        "cat {point}/roots/secret && chown 7:8 {point}/roots/secret && rm -r {point}/roots"
    ));
    nobody_can(&format!("{program} umount {point}"));
    crate::support::e2fsck::assert_clean(&world.image());
}

#[test]
fn root_unmounts_what_a_user_mounted_and_waits() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let (mut world, program) = world_of_nobody();
    let (image, point) = (world.image_str(), world.point_str());
    nobody_can(&format!(
        "{program} mount --create 64M {image} {point} && cp -r /usr/include/linux {point}/"
    ));
    world.umount_and_judge();
}

#[test]
fn others_get_in_with_allow_other_and_permissions_hold() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let mut world = World::new("64M");
    fs::set_permissions(world.beside(""), fs::Permissions::from_mode(0o755)).unwrap();
    let point = world.point_str();
    world.mount(&[]);
    assert!(
        !as_nobody(&format!("ls {point}")).status.success(),
        "without allow_other only who mounted it"
    );
    world.umount();
    world.mount(&["-o", "allow_other"]);
    fs::write(world.at("open"), b"x").unwrap();
    fs::write(world.at("closed"), b"x").unwrap();
    fs::set_permissions(world.at("closed"), fs::Permissions::from_mode(0o600)).unwrap();
    nobody_can(&format!("cat {point}/open"));
    assert!(!as_nobody(&format!("cat {point}/closed")).status.success());
    assert!(!as_nobody(&format!("touch {point}/new")).status.success());
    assert!(
        !as_nobody(&format!("ls {point}/lost+found"))
            .status
            .success()
    );
    let granted = Command::new("setfacl")
        .args(["-m", "u:65534:r"])
        .arg(world.at("closed"))
        .status();
    if granted.is_ok_and(|status| status.success()) {
        nobody_can(&format!("cat {point}/closed"));
    }
    world.umount_and_judge();
}
