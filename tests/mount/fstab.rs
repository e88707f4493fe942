//! Lines of fstab(5), by mount(8): type `fuse.journalfs` calls mount.fuse,
//! and that calls `journalfs IMAGE DIR -o …`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::daemon::{World, said};
use crate::needs_fuse;
use crate::support::images::path_with_sbin;

fn possible() -> bool {
    let helper = ["/sbin/mount.fuse", "/usr/sbin/mount.fuse"]
        .iter()
        .any(|path| fs::exists(path).unwrap_or(false));
    if !nix::unistd::geteuid().is_root() || !helper {
        eprintln!("skipped: lines of fstab need root, and mount.fuse (package fuse3)");
    }
    helper && nix::unistd::geteuid().is_root()
}

/// mount(8) by a line with these options. (What stands behind `fuse.` is the
/// program; a user's line has its name, since that is in the PATH.)
fn mount(world: &World, options: &str) -> Output {
    let fstab = world.beside("fstab");
    let (image, point) = (world.image_str(), world.point_str());
    let program = env!("CARGO_BIN_EXE_journalfs");
    let line = format!("{image} {point} fuse.{program} {options} 0 0\n");
    fs::write(&fstab, line).unwrap();
    Command::new("mount")
        .env("PATH", path_with_sbin())
        .env("LC_ALL", "C")
        .args(["-T", fstab.to_str().unwrap(), point])
        .output()
        .unwrap()
}

#[test]
fn a_line_of_fstab_mounts_an_image() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let mut world = World::new("64M");
    for (options, shown) in [
        ("allow_other,noauto", "allow_other"),
        (
            "defaults,nofail,_netdev,x-systemd.automount,noexec",
            "noexec",
        ),
        (
            "ro,user,x-systemd.requires=/home,comment=disk",
            "ro,nosuid,nodev,noexec",
        ),
    ] {
        let output = mount(&world, options);
        assert!(output.status.success(), "{options}: {}", said(&output));
        assert!(world.is_mounted(), "{options}");
        let table = fs::read_to_string("/proc/mounts").unwrap();
        let line = table.lines().find(|line| line.contains(world.point_str()));
        let line = line.unwrap();
        assert!(
            line.contains(" fuse.journalfs ") && line.contains(shown),
            "{line}"
        );
        match options.starts_with("ro") {
            true => assert!(fs::write(world.at("file"), "x").is_err()),
            false => fs::write(world.at("file"), options).unwrap(),
        }
        world.umount_and_judge();
    }
}

/// As users write it. mount(8) hands no PATH on, so the program must be where
/// a shell looks by itself: here in this process's own /usr/local/bin.
#[test]
fn the_type_by_its_plain_name_finds_the_program() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let world = World::new("64M");
    let bin = world.beside("bin");
    fs::create_dir(&bin).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_journalfs"), bin.join("journalfs")).unwrap();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-ec"])
        .arg(
            r#"
            mount --bind "$1" /usr/local/bin
            mount -t fuse.journalfs "$2" "$3" -o noexec
            findmnt -no FSTYPE,OPTIONS "$3"
            echo plain >"$3/file"
            journalfs umount "$3"
            echo "$2 $3 fuse.journalfs ro,noauto 0 0" >"$1/fstab"
            mount -T "$1/fstab" "$3"
            cat "$3/file"
            journalfs umount "$3"
            "#,
        )
        .args([Path::new("sh"), &bin, &world.image(), &world.point()])
        .env("PATH", path_with_sbin())
        .output()
        .unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("fuse.journalfs rw,noexec,"), "{said}");
    assert!(said.ends_with("\nplain\n"), "{said}");
}

#[test]
fn what_a_line_of_fstab_gets_wrong_is_said() {
    needs_fuse!();
    if !possible() {
        return;
    }
    let world = World::new("64M");
    let output = mount(&world, "nosuch,noauto");
    assert!(!output.status.success() && !world.is_mounted());
    let said = said(&output);
    assert!(
        said.contains("journalfs: -o nosuch: unknown option"),
        "{said}"
    );
}
