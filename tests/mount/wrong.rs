//! Wrong input: each case one clear line and an exit code, and nothing changed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::daemon::{World, journalfs, said};
use crate::needs_fuse;
use crate::support::images::{DEBIAN, Image, path_with_sbin};
use crate::support::kernel;

#[test]
fn a_field_that_makes_no_sense_is_named_with_what_mends_it() {
    needs_fuse!();
    let image = DEBIAN.make(16 << 20);
    image.debugfs("ssv want_extra_isize 132");
    let world = World::with_image(&image);
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    let words = "s_want_extra_isize is 132: run e2fsck -f";
    assert!(line.contains(words), "{line}");
    let mut e2fsck = Command::new("e2fsck");
    let e2fsck = e2fsck.args(["-fy", world.image_str()]);
    let mended = e2fsck.env("PATH", path_with_sbin()).output().unwrap();
    assert_eq!(mended.status.code(), Some(1));
}

#[test]
fn what_is_no_image_is_refused() {
    needs_fuse!();
    let mut world = World::empty();
    world.beyond_recovery = Some("not an ext4");
    let mount = ["mount", world.image_str(), world.point_str()];
    let line = world.fails(32, &mount);
    assert!(
        line.contains("no such image") && line.contains("mkfs"),
        "{line}"
    );
    for contents in [
        vec![],
        vec![0; 100],
        vec![0; 1 << 20],
        b"not an image".repeat(1000),
    ] {
        fs::write(world.image(), contents).unwrap();
        let line = world.fails(32, &mount);
        assert!(
            line.contains("not an ext4") && line.contains("mkfs"),
            "{line}"
        );
        for (code, command) in [(8, "status"), (32, "recover"), (32, "detach")] {
            let line = world.fails(code, &[command, world.image_str()]);
            assert!(line.contains("not an ext4"), "{line}");
        }
    }
    assert!(
        !world.journal().exists(),
        "no journal is made for what is no image"
    );
    let line = world.fails(32, &["mount", "/dev/null", world.point_str()]);
    assert!(line.contains("neither a file nor a block device"), "{line}");
    let line = world.fails(32, &["mount", "/", world.point_str()]);
    assert!(line.contains("is a directory"), "{line}");
}

#[test]
fn an_image_in_use_is_refused() {
    needs_fuse!();
    let mut world = World::new("64M");
    world.mount(&[]);
    let second = world.beside("second");
    fs::create_dir(&second).unwrap();
    let second = second.to_str().unwrap();
    for args in [
        &["mount", world.image_str(), second][..],
        &["mount", "-o", "ro", world.image_str(), second],
        &["recover", world.image_str()],
        &["mkfs", "--force", world.image_str()],
        &["detach", world.image_str()],
    ] {
        let line = world.fails(32, args);
        assert!(
            line.contains("is in use") && line.contains(world.point_str()),
            "{line}"
        );
    }
    let line = world.fails(8, &["check", world.image_str()]);
    assert!(line.contains("is in use"), "{line}");
    world.umount_and_judge();
}

#[test]
fn an_image_behind_a_loop_device_is_refused() {
    needs_fuse!();
    let world = World::new("64M");
    let Some(mount) = (kernel::allowed())
        .then(|| kernel::Mount::read_only(&world.image()))
        .flatten()
    else {
        return;
    };
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("/dev/loop"), "{line}");
    mount.unmount();
}

#[test]
fn the_journal_of_another_image_is_refused() {
    needs_fuse!();
    let mut one = World::new("64M");
    let mut two = World::new("64M");
    for world in [&mut one, &mut two] {
        world.mount_to_kill(&[]);
        fs::write(world.at("file"), b"x").unwrap();
        world.kill();
    }
    let other = two.journal();
    let line = one.fails(
        32,
        &[
            "mount",
            "--journal",
            other.to_str().unwrap(),
            one.image_str(),
            one.point_str(),
        ],
    );
    assert!(line.contains("another image"), "{line}");
    let kept = one.beside("kept");
    fs::rename(one.journal(), &kept).unwrap();
    let line = one.fails(32, &["mount", one.image_str(), one.point_str()]);
    assert!(
        line.contains("UUID") && line.contains("--journal"),
        "{line}"
    );
    assert!(
        !one.journal().exists(),
        "never a new journal for a guarded image"
    );
    fs::rename(kept, one.journal()).unwrap();
    one.mount(&[]);
    one.umount_and_judge();
}

/// An image without a guard lacks nothing, but the folder's own one does.
#[test]
fn a_journal_that_another_image_still_needs_is_not_begun_anew() {
    needs_fuse!();
    let mut one = World::new("64M");
    let two = World::new("64M");
    one.mount_to_kill(&[]);
    fs::write(one.at("file"), b"acknowledged").unwrap();
    one.kill();
    let folder = one.journal().display().to_string();
    let before = one.bytes();
    for command in [
        &[
            "mount",
            "--journal",
            &folder,
            two.image_str(),
            two.point_str(),
        ][..],
        &["recover", "--journal", &folder, two.image_str()],
    ] {
        let line = two.fails(32, command);
        assert!(
            line.contains("another file system (UUID") && line.contains("still lacks"),
            "{line}"
        );
    }
    assert!(one.bytes() == before);
    one.mount(&[]);
    assert_eq!(fs::read(one.at("file")).unwrap(), b"acknowledged");
    one.umount_and_judge();
    // Now nobody needs it.
    two.mount(&["--journal", &folder]);
    two.succeeds(&["umount", two.point_str()]);
}

#[test]
fn names_that_are_not_text_are_refused() {
    needs_fuse!();
    let world = World::new("64M");
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff");
    let image = world.beside("").join(odd);
    fs::rename(world.image(), &image).unwrap();
    let output = journalfs()
        .arg("mount")
        .args([&image, &world.point()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(32));
    assert!(said(&output).contains("is not UTF-8"), "{}", said(&output));
    assert!(!world.is_mounted());
    fs::rename(&image, world.image()).unwrap();
}

#[test]
fn a_device_is_made_an_image_by_mkfs_ext4() {
    let world = World::new("32M");
    if !kernel::allowed() {
        return;
    }
    let attached = Command::new("losetup")
        .args(["-f", "--show", world.image_str()])
        .output()
        .unwrap();
    let device = String::from_utf8(attached.stdout)
        .unwrap()
        .trim()
        .to_owned();
    let detach = device.clone();
    let _detach = OnDrop(move || drop(Command::new("losetup").args(["-d", &detach]).status()));
    let line = world.fails(32, &["mkfs", "--force", &device]);
    assert!(line.contains("mkfs.ext4"), "{line}");
}

#[test]
fn a_mountpoint_must_be_a_directory() {
    needs_fuse!();
    let world = World::new("64M");
    let line = world.fails(
        32,
        &[
            "mount",
            world.image_str(),
            world.beside("missing").to_str().unwrap(),
        ],
    );
    assert!(
        line.contains("No such file") && line.contains("mkdir"),
        "{line}"
    );
    let line = world.fails(32, &["mount", world.image_str(), world.image_str()]);
    assert!(line.contains("is not a directory"), "{line}");
    let line = world.fails(1, &["umount", world.point_str()]);
    assert!(line.contains("not a mountpoint"), "{line}");
    let line = world.fails(1, &["umount", "/proc"]);
    assert!(line.contains("not of journalfs"), "{line}");
    let line = world.fails(8, &["status", world.point_str()]);
    assert!(line.contains("no journalfs"), "{line}");
}

#[test]
fn image_and_journal_may_not_lie_on_the_mount_itself() {
    needs_fuse!();
    let world = World::new("64M");
    let inside = world.at("journal");
    let line = world.fails(
        32,
        &[
            "mount",
            "--journal",
            inside.to_str().unwrap(),
            world.image_str(),
            world.point_str(),
        ],
    );
    assert!(line.contains("on the mount itself"), "{line}");
    let line = world.fails(
        32,
        &[
            "mount",
            world.image_str(),
            world.beside("").to_str().unwrap(),
        ],
    );
    assert!(line.contains("on the mount itself"), "{line}");
}

#[test]
fn options_must_make_sense() {
    needs_fuse!();
    let world = World::new("64M");
    for (option, word) in [
        ("nosuch", "unknown option"),
        ("commit=never", "number"),
        ("errors=panic", "remount-ro"),
        ("journal_size=1", "at least"),
    ] {
        let line = world.fails(
            1,
            &["mount", "-o", option, world.image_str(), world.point_str()],
        );
        assert!(line.contains(option) && line.contains(word), "{line}");
    }
}

#[test]
fn wrong_arguments_are_one_line_that_says_where_to_read_more() {
    for (code, args, words, help) in [
        (1, &[][..], "no command given", "journalfs --help"),
        (1, &["mont", "a", "b"], "similar", "journalfs --help"),
        (1, &["--nosuch"], "'--nosuch'", "journalfs --help"),
        (1, &["mount"], "<IMAGE> <DIR>", "journalfs mount --help"),
        (1, &["mount", "image"], "<DIR>", "journalfs mount --help"),
        (1, &["mount", "-o"], "'-o <OPT", "journalfs mount --help"),
        (
            1,
            &["mount", "a", "b", "c"],
            "'c'",
            "journalfs mount --help",
        ),
        (1, &["umount"], "<DIR>", "journalfs umount --help"),
        (
            1,
            &["mkfs", "--size", "1X", "a"],
            "unknown unit",
            "journalfs mkfs --help",
        ),
        (
            1,
            &["mkfs", "--size"],
            "'--size <SIZE>'",
            "journalfs mkfs --help",
        ),
        (
            1,
            &["mkfs", "--uuid", "xyz", "a"],
            "32 hexadecimal",
            "journalfs mkfs --help",
        ),
        (
            1,
            &["status", "--jsn", "a"],
            "'--json'",
            "journalfs status --help",
        ),
        (
            1,
            &["recover", "--journal"],
            "'--journal <DIR>'",
            "journalfs recover --help",
        ),
        // fsck(8): 1 would say that errors were corrected.
        (16, &["check"], "<IMAGE>", "journalfs check --help"),
        (
            16,
            &["check", "--force", "a"],
            "'--force'",
            "journalfs check --help",
        ),
    ] {
        let line = World::empty().fails(code, args);
        assert!(line.contains(words), "{args:?}: {line}");
        assert!(
            line.trim_end().ends_with(&format!(": see {help}")),
            "{line}"
        );
    }
}

#[test]
fn help_is_a_page_on_standard_output() {
    for args in [
        &["--help"][..],
        &["help"],
        &["mount", "--help"],
        &["--version"],
    ] {
        let output = journalfs().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn what_exists_is_not_overwritten_unasked() {
    let world = World::new("32M");
    let before = fs::read(world.image()).unwrap();
    let line = world.fails(32, &["mkfs", "--size", "64M", world.image_str()]);
    assert!(line.contains("--force"), "{line}");
    assert!(fs::read(world.image()).unwrap() == before);
    world.succeeds(&["mkfs", "--force", "--size", "64M", world.image_str()]);
    assert_eq!(fs::metadata(world.image()).unwrap().len(), 64 << 20);
    let line = world.fails(
        1,
        &[
            "mkfs",
            "--size",
            "4K",
            world.beside("tiny").to_str().unwrap(),
        ],
    );
    assert!(line.contains("tiny"), "{line}");
    assert!(!world.beside("tiny").exists(), "nothing half-made is left");
}

#[test]
fn an_unsupported_feature_is_named() {
    needs_fuse!();
    let image = Image::blank(64 << 20);
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "encrypt"])
        .arg(image.path())
        .status();
    assert!(made.unwrap().success());
    let world = World::with_image(&image);
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("encrypt"), "{line}");
    assert!(!world.journal().exists());
}

#[test]
fn an_image_that_was_left_unclean_is_sent_to_e2fsck() {
    needs_fuse!();
    let image = DEBIAN.make(64 << 20);
    image.debugfs("ssv state 2");
    let world = World::with_image(&image);
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("e2fsck"), "{line}");
}

#[test]
fn no_space_for_the_journal_is_said() {
    needs_fuse!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    }
    let world = World::new("256M");
    let small = world.beside("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(&small)
        .status();
    assert!(mount.unwrap().success());
    let _unmount = OnDrop(|| drop(Command::new("umount").arg(&small).status()));
    let journal = small.join("journal");
    let args = [
        "mount",
        "--journal",
        journal.to_str().unwrap(),
        world.image_str(),
        world.point_str(),
    ];
    let line = world.fails(32, &args);
    assert!(line.contains("no space for the journal"), "{line}");
    assert!(!world.is_mounted());
    crate::support::e2fsck::assert_clean(&world.image());
}

/// Not even room to recover: everything is shown, and nothing pretended.
#[test]
fn a_full_host_leaves_a_mount_to_read_from_that_says_so() {
    needs_fuse!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    }
    let base = World::empty();
    let small = base.beside("small");
    fs::create_dir(&small).unwrap();
    let tmpfs = |options: &str| {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&small)
            .status();
        assert!(mount.unwrap().success());
    };
    tmpfs("size=40m");
    let _unmount = OnDrop(|| drop(Command::new("umount").arg(&small).status()));
    let mut world = World::on(&small, "64M");
    world.mount_to_kill(&[]);
    fs::write(world.at("file"), b"acknowledged").unwrap();
    world.kill();
    let full = small.join("full");
    let filled = std::io::copy(
        &mut std::io::repeat(1),
        &mut fs::File::create(&full).unwrap(),
    );
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let output = journalfs()
        .args(["mount", world.image_str(), world.point_str()])
        .output()
        .unwrap();
    assert!(said(&output).contains("for reading only"), "{output:?}");
    assert_eq!(fs::read(world.at("file")).unwrap(), b"acknowledged");
    let status = world.succeeds(&["status", world.point_str()]);
    assert!(status.contains("read-only"), "{status}");
    // Emptied first: a program that a test beside this one is starting may hold
    // all our open files, and this one's room.
    fs::write(&full, b"").unwrap();
    fs::remove_file(&full).unwrap();
    let line = world.fails(32, &["umount", world.point_str()]);
    assert!(line.contains("still lags"), "{line}");
    world.mount(&[]);
    let status = world.succeeds(&["status", world.point_str()]);
    assert!(!status.contains("read-only"), "{status}");
    world.umount_and_judge();
}

#[test]
fn a_missing_device_or_helper_is_said() {
    needs_fuse!();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: hiding /dev/fuse needs root");
        return;
    }
    let world = World::new("64M");
    fs::set_permissions(
        world.beside(""),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    // In a mount namespace of its own, with something else over the file.
    let without = |hidden: &str, user: &str| {
        let (program, image) = (env!("CARGO_BIN_EXE_journalfs"), world.image_str());
        let script = format!(
            "{hidden} && exec {user} {program} mount {image} {}",
            world.point_str()
        );
        Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .output()
            .unwrap()
    };
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    for (hidden, user, code, word) in [
        ("mount -t tmpfs none /dev", "", 2, "modprobe fuse"),
        (
            "mount --bind /dev/null /dev/fuse",
            "",
            32,
            "can't be mounted on",
        ),
        (
            "mount --bind /dev/null $(readlink -f $(command -v fusermount3))",
            nobody,
            2,
            "package fuse3",
        ),
    ] {
        let output = without(hidden, user);
        let text = said(&output);
        if text.contains("Permission denied (os error 13)") || text.contains("Permission denied\n")
        {
            eprintln!(
                "skipped: nobody can't run {}",
                env!("CARGO_BIN_EXE_journalfs")
            );
            continue;
        }
        assert_eq!(output.status.code(), Some(code), "{hidden}: {text}");
        assert_eq!(text.lines().count(), 1, "{hidden}: {text}");
        assert!(text.contains(word), "{hidden}: {text}");
    }
    crate::support::e2fsck::assert_clean(&world.image());
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn clusters_are_refused_by_the_name_of_their_feature() {
    needs_fuse!();
    let world = World::empty();
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "bigalloc"])
        .arg(world.image())
        .arg("64M")
        .env("PATH", crate::support::images::path_with_sbin())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let line = world.fails(32, &["mount", world.image_str(), world.point_str()]);
    assert!(line.contains("bigalloc"), "{line}");
}

/// `| head` reads no more than it wants.
#[test]
fn a_reader_who_has_left_is_no_reason_to_panic() {
    let world = World::new("16M");
    for command in ["status", "check", "verify", "recover"] {
        let mut run = journalfs();
        run.args([command, world.image_str()]);
        run.stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = run.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains("panicked"), "{command}: {told}");
        assert_ne!(output.status.code(), Some(101), "{command}: {told}");
    }
}
