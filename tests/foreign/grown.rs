//! Images that resize2fs has grown, and ones that are full of holes.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use crate::churn::churn;
use crate::dirty;
use crate::support::bench::Bench;
use crate::support::e2fsck;
use crate::support::images::{Image, Variant, path_with_sbin, run};
use crate::support::kernel::{self, Mount};
use crate::support::random::Seeded;
use crate::support::tree::Tree;

const FORMATS: [&str; 4] = ["debian", "1k-blocks", "2k-blocks", "no-metadata-csum"];

fn lengthen(image: &Path, size: u64) {
    let file = OpenOptions::new().write(true).open(image).unwrap();
    file.set_len(size).unwrap();
}

/// Grows what is mounted to its file's new length, where this process may.
fn grow_mounted(mount: &Mount) -> bool {
    let device = mount.device();
    run(Command::new("losetup").args(["-c", &device]));
    let done = Command::new("resize2fs")
        .arg(&device)
        .env("PATH", path_with_sbin())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    let allowed = !words.contains("Permission denied");
    assert!(done.status.success() || !allowed, "{words}");
    if !allowed {
        eprintln!("skipped: growing a mounted image needs CAP_SYS_RESOURCE");
    }
    allowed
}

/// What the kernel shows of it, and we; changed by us, the judges look.
fn assert_usable(image: Image, what: &str, random: &mut Seeded) -> Image {
    let mount = Mount::read_only(image.path()).unwrap();
    let tree = Tree::of(mount.path());
    mount.unmount();
    let bench = Bench::over(image);
    bench.tree().assert_same("fs", &tree, "kernel");
    for n in 0..200 {
        let path = format!("ours {n}");
        bench.write(&path, 0, &random.bytes(40_000)).unwrap();
    }
    bench.judge(what);
    bench.image().duplicate()
}

#[test]
fn images_grown_by_resize2fs_are_used_to_their_end() {
    if !kernel::allowed() {
        return;
    }
    let mut random = Seeded::new("grown");
    for name in FORMATS {
        let image = Variant::named(name).make(32 << 20);
        let mount = Mount::read_write(image.path()).unwrap();
        drop(churn(mount.path(), &mut random));
        mount.unmount();
        // resize2fs wants a check since the last mount, to the second.
        run(Command::new("e2fsck")
            .args(["-f", "-p", "-E", "fixes_only"])
            .arg(image.path()));
        run(Command::new("resize2fs").arg(image.path()).arg("60M"));
        e2fsck::assert_clean(image.path());
        let image = assert_usable(image, &format!("{name}, grown"), &mut random);

        // And while the kernel has it mounted; then the power fails.
        let mount = Mount::read_write(image.path()).unwrap();
        lengthen(image.path(), 120 << 20);
        if !grow_mounted(&mount) {
            continue;
        }
        fs::create_dir(mount.at("again")).unwrap();
        let held = churn(&mount.at("again"), &mut random);
        mount.cut(true, held);
        assert!(dirty::needs_recovery(&image), "{name}");
        let wanted = dirty::by_the_kernel(&image);
        dirty::looked_at(&image, &wanted);
        dirty::recovered(&image, &wanted, &format!("{name}, grown and cut off"));
    }
}

#[test]
fn the_gaps_of_an_image_are_filled_to_the_last() {
    let mut random = Seeded::new("gaps");
    for name in FORMATS {
        let image = Variant::named(name).make(32 << 20);
        let Some(mount) = Mount::read_write(image.path()) else {
            return;
        };
        let path = |n: usize| mount.at(&format!("{n}"));
        let mut made = 0;
        while fs::write(path(made), random.bytes(6000)).is_ok() {
            made += 1;
        }
        for n in (0..made).step_by(2) {
            fs::remove_file(path(n)).unwrap();
        }
        mount.unmount();
        let bench = Bench::over(image);
        let (mut at, piece) = (0, random.bytes(100_000));
        while bench.write("one file", at, &piece).is_ok() {
            at += piece.len() as u64;
        }
        // (Its map needs some of the blocks.)
        assert!(
            at > 6000 * made as u64 / 3,
            "{name}: {at} bytes of {made} files"
        );
        bench.judge(&format!("{name}, filled"));
        bench.unlink("one file").unwrap();
        bench.judge(&format!("{name}, with its gaps again"));
    }
}
