//! The witness judged: `check` and e2fsck on good images and on images
//! damaged in controlled ways.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod hostile;
mod journal;
mod patient;

use journalfs::check::{self, Report};
use support::images::{Image, VARIANTS, Variant};
use support::kernel::Mount;
use support::random::Seeded;
use support::tree::Tree;
use support::{e2fsck, fill};

fn check(image: &Image) -> Report {
    check::run_image(&*image.to_memory())
}

#[track_caller]
fn assert_silent(image: &Image, variant: &Variant) {
    e2fsck::assert_clean(image.path());
    let report = check(image);
    let shown: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(
        shown.is_empty(),
        "{}: {} findings:\n{}",
        variant.name,
        shown.len(),
        shown.join("\n")
    );
}

#[test]
fn both_judges_are_silent_on_every_fresh_image() {
    for variant in VARIANTS {
        for size in [4 << 20, 16 << 20, 300 << 20] {
            assert_silent(&variant.make(size), variant);
        }
    }
}

#[test]
fn both_judges_are_silent_on_images_that_the_kernel_filled() {
    let mut random = Seeded::new("kernel-filled");
    for variant in VARIANTS {
        let image = variant.make(96 << 20);
        let Some(mount) = Mount::read_write(image.path()) else {
            return;
        };
        fill::everything(mount.path(), fill::SMALL, &mut random);
        let before = Tree::of(mount.path());
        mount.unmount();
        assert_silent(&image, variant);
        let mount = Mount::read_only(image.path()).unwrap();
        before.assert_same("first mount", &Tree::of(mount.path()), "second mount");
    }
}

/// More entries than a byte counts, in the block that begins with the dots.
#[test]
fn both_judges_are_silent_on_a_block_of_300_short_names() {
    let variant = Variant::named("debian");
    let image = variant.make(16 << 20);
    let Some(mount) = Mount::read_write(image.path()) else {
        return;
    };
    for n in 0..300 {
        std::fs::write(mount.at(&format!("{n:x}")), b"").unwrap();
    }
    mount.unmount();
    assert_silent(&image, &variant);
}

/// Directories of two levels of index, files of three levels of extents.
#[test]
fn both_judges_are_silent_on_large_trees() {
    let mut random = Seeded::new("large");
    for name in ["1k-blocks", "block-mapped"] {
        let variant = Variant::named(name);
        let image = variant.make(200 << 20);
        let Some(mount) = Mount::read_write(image.path()) else {
            return;
        };
        let amount = fill::Amount {
            megabytes: 20,
            entries: 20_000,
            extents: 4000,
        };
        fill::everything(mount.path(), amount, &mut random);
        mount.unmount();
        assert_silent(&image, &variant);
    }
}
