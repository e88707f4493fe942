//! What an unmount leaves: an ordinary ext4 image with the tree that was seen.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::daemon::World;
use crate::needs_fuse;
use crate::support::images::{DEBIAN, Variant, path_with_sbin};
use crate::support::kernel;
use crate::support::tree::Tree;

/// A small tree with one of each.
fn plant(root: &Path) {
    fs::create_dir_all(root.join("dir/deep/deeper")).unwrap();
    fs::write(root.join("dir/file"), b"contents").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("link")).unwrap();
    symlink("dir/file", root.join("symlink")).unwrap();
    symlink("x".repeat(200), root.join("long")).unwrap();
    fs::write(root.join("big"), vec![1; 5_000_000]).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"far out", 900_000_000).unwrap();
    xattr::set(root.join("big"), "user.name", b"value").unwrap();
    xattr::set(root.join("dir"), "user.large", &[1; 500]).unwrap();
    fs::set_permissions(root.join("dir/deep"), fs::Permissions::from_mode(0o1700)).unwrap();
    for n in 0..500 {
        fs::write(
            root.join(format!("dir/deep/deeper/{n}")),
            n.to_string().repeat(n % 50),
        )
        .unwrap();
    }
    for n in (0..500).step_by(3) {
        fs::remove_file(root.join(format!("dir/deep/deeper/{n}"))).unwrap();
    }
}

#[test]
fn an_image_may_end_anywhere() {
    needs_fuse!();
    for size in [(128 << 20) + 4096, 200_001 << 10, 524_289 << 10] {
        let mut world = World::with_image(&DEBIAN.make(size));
        world.mount_to_kill(&[]);
        fs::write(world.point().join("file"), b"contents").unwrap();
        world.kill();
        world.succeeds(&["recover", world.image_str()]);
        world.mount(&[]);
        assert_eq!(fs::read(world.point().join("file")).unwrap(), b"contents");
        world.umount_and_judge();
    }
}

fn kernel_sees_the_same(variant: Variant) {
    let image = variant.make(96 << 20);
    let mut world = World::with_image(&image);
    world.mount(&[]);
    plant(&world.point());
    let shown = Tree::of(&world.point());
    world.umount_and_judge();
    let Some(mount) = kernel::Mount::read_only(&world.image()) else {
        return;
    };
    Tree::of(mount.path()).assert_same("kernel", &shown, "journalfs");
    mount.unmount();
    // And once more through us, as the kernel left it.
    world.mount(&["-o", "ro"]);
    Tree::of(&world.point()).assert_same("read-only", &shown, "journalfs");
    world.umount();
}

#[test]
fn the_kernel_sees_the_tree_that_the_mount_showed() {
    needs_fuse!();
    kernel_sees_the_same(DEBIAN);
}

#[test]
fn the_kernel_sees_it_on_small_blocks_too() {
    needs_fuse!();
    kernel_sees_the_same(Variant::named("1k-blocks"));
}

#[test]
fn the_kernel_sees_it_on_upstreams_defaults_too() {
    needs_fuse!();
    kernel_sees_the_same(Variant::named("upstream"));
}

#[test]
fn check_agrees_with_e2fsck() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    plant(&world.point());
    world.umount_and_judge();
    world.succeeds(&["check", world.image_str()]);
    let json = world.succeeds(&["check", "--json", world.image_str()]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["verdict"], "clean");
}

#[test]
fn stock_tools_refuse_a_killed_image_and_leave_it_alone() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    plant(&world.point());
    let shown = Tree::of(&world.point());
    world.kill();
    let before = fs::read(world.image()).unwrap();
    let refused = |how: &str| {
        let done = std::process::Command::new("e2fsck")
            .arg(how)
            .arg(world.image())
            .output()
            .unwrap();
        assert!(
            matches!(done.status.code(), Some(8 | 12)),
            "e2fsck {how}: {:?}",
            done.status
        );
    };
    // While the dead mount stands, e2fsck may take the image for a mounted one,
    // which `-n` reads all the same.
    ["-p", "-fy"].into_iter().for_each(refused);
    world.detach_dead();
    ["-fn", "-p", "-fy"].into_iter().for_each(refused);
    if kernel::allowed() {
        for options in ["loop,ro", "loop"] {
            assert!(
                kernel::Mount::attempt(&world.image(), options).is_err(),
                "mount -o {options}"
            );
        }
    }
    assert!(
        fs::read(world.image()).unwrap() == before,
        "the image was changed"
    );
    world.mount(&[]);
    Tree::of(&world.point()).assert_same("recovered", &shown, "before the kill");
    world.umount_and_judge();
}

#[test]
fn recover_does_without_a_mount_what_a_mount_does() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    fs::write(world.at("file"), b"acknowledged").unwrap();
    world.kill();
    let printed = world.succeeds(&["recover", world.image_str()]);
    assert!(printed.contains("replayed"), "{printed}");
    crate::support::e2fsck::assert_clean(&world.image());
    let again = world.succeeds(&["recover", world.image_str()]);
    assert!(again.contains("nothing to replay"), "{again}");
    if let Some(mount) = kernel::Mount::read_only(&world.image()) {
        assert_eq!(fs::read(mount.at("file")).unwrap(), b"acknowledged");
    }
}

#[test]
fn recover_changes_nothing_of_an_image_that_lacks_nothing() {
    let mut world = World::new("64M");
    let before = fs::read(world.image()).unwrap();
    let printed = world.succeeds(&["recover", world.image_str()]);
    assert!(printed.contains("nothing to replay"), "{printed}");
    assert!(fs::read(world.image()).unwrap() == before);
    assert!(!world.journal().exists());
    needs_fuse!();
    world.mount(&[]);
    world.umount_and_judge();
    let before = fs::read(world.image()).unwrap();
    world.succeeds(&["recover", world.image_str()]);
    assert!(fs::read(world.image()).unwrap() == before);
}

#[test]
fn the_end_of_a_mount_leaves_the_one_below_it() {
    needs_fuse!();
    let mut below = World::new("64M");
    below.mount(&[]);
    fs::write(below.at("below"), b"x").unwrap();
    let above = World::new("64M");
    let mount = ["mount", above.image_str(), below.point_str()];
    above.succeeds(&mount);
    assert!(!below.at("below").exists());
    above.succeeds(&["umount", below.point_str()]);
    assert!(below.at("below").exists());
    below.umount_and_judge();
}

#[test]
fn a_read_only_mount_replays_in_memory_and_writes_nothing() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount_to_kill(&[]);
    fs::write(world.at("file"), b"acknowledged").unwrap();
    world.kill();
    let before = fs::read(world.image()).unwrap();
    world.mount(&["--read-only"]);
    assert_eq!(fs::read(world.at("file")).unwrap(), b"acknowledged");
    let refused = fs::write(world.at("other"), b"x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    for at in ["file", "."] {
        fs::File::open(world.at(at)).unwrap().sync_all().unwrap();
    }
    world.umount();
    assert!(fs::read(world.image()).unwrap() == before);
    world.mount(&[]);
    assert_eq!(fs::read(world.at("file")).unwrap(), b"acknowledged");
    world.umount_and_judge();
}

#[test]
fn a_deterministic_image_is_the_same_to_the_byte() {
    let world = World::empty();
    let make = |name: &str| {
        let path = world.beside(name);
        world.succeeds(&[
            "mkfs",
            "--size",
            "32M",
            "--deterministic",
            "7",
            "--label",
            "name",
            path.to_str().unwrap(),
        ]);
        crate::support::e2fsck::assert_clean(&path);
        fs::read(path).unwrap()
    };
    assert!(make("one") == make("two"));
}

/// resize2fs asks the kernel to grow what is mounted, which FUSE can't.
#[test]
fn resize2fs_leaves_a_mounted_image_alone_and_grows_it_afterwards() {
    needs_fuse!();
    let mut world = World::with_image(&DEBIAN.make(64 << 20));
    world.mount(&[]);
    plant(&world.point());
    let shown = Tree::of(&world.point());
    fs::File::options()
        .write(true)
        .open(world.image())
        .and_then(|image| image.set_len(128 << 20))
        .unwrap();
    let image = world.image();
    let resize = |options: &[&str]| {
        let mut resize2fs = std::process::Command::new("resize2fs");
        resize2fs.env("PATH", path_with_sbin()).args(options);
        let output = resize2fs.arg(&image).output().unwrap();
        (output.status.success(), crate::daemon::said(&output))
    };
    for options in [&[][..], &["-f"], &["-M"]] {
        let (done, said) = resize(options);
        assert!(!done, "resize2fs {options:?}: {said}");
    }
    Tree::of(&world.point()).assert_same("asked to grow", &shown, "before");
    fs::write(world.at("more"), vec![2; 3_000_000]).unwrap();
    world.umount_and_judge();

    // As after any mount in a later second than the last check.
    let mut checked = std::process::Command::new("e2fsck");
    checked.env("PATH", path_with_sbin()).args(["-f", "-p"]);
    assert!(
        checked
            .arg(world.image())
            .output()
            .unwrap()
            .status
            .success()
    );
    let (done, said) = resize(&[]);
    assert!(done, "{said}");
    crate::support::e2fsck::assert_clean(&world.image());
    world.mount(&[]);
    assert_eq!(fs::read(world.at("dir/file")).unwrap(), b"contents");
    // More than there was before.
    fs::write(world.at("most"), vec![3; 80 << 20]).unwrap();
    world.umount_and_judge();
    world.mount(&["-o", "ro"]);
    assert!(fs::read(world.at("most")).unwrap() == vec![3; 80 << 20]);
    world.umount();
}

#[test]
fn resize2fs_refuses_an_image_that_lags_behind_its_journal() {
    needs_fuse!();
    let mut world = World::with_image(&DEBIAN.make(64 << 20));
    world.mount_to_kill(&[]);
    plant(&world.point());
    let shown = Tree::of(&world.point());
    world.kill();
    world.detach_dead();
    let before = fs::read(world.image()).unwrap();
    let output = std::process::Command::new("resize2fs")
        .env("PATH", path_with_sbin())
        .arg(world.image())
        .arg("48M")
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", crate::daemon::said(&output));
    assert!(fs::read(world.image()).unwrap() == before);
    world.mount(&[]);
    Tree::of(&world.point()).assert_same("recovered", &shown, "before the kill");
    world.umount_and_judge();
}
