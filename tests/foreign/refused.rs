//! Images that the kernel refuses, and so do we: before anything is written,
//! with the field and its value.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use journalfs::check;
use journalfs::device::memory::MemoryDir;
use journalfs::fs::mount;

use crate::dirty::options;
use crate::support::bench::Bench;
use crate::support::images::{Variant, pages_of, path_with_sbin, run};
use crate::support::kernel::{Mount, allowed};

/// An image of a format that debugfs has changed is refused by the kernel and
/// us, and our words have these; once e2fsck has mended it, it is mounted.
#[track_caller]
fn refused(format: &str, request: &str, words: &[&str]) {
    let image = Variant::named(format).make(16 << 20);
    image.debugfs(request);
    if allowed() {
        // (It notes errors in what it refuses.)
        let copy = image.duplicate();
        assert!(by_the_kernel(copy.path()), "the kernel mounts {request}");
    }
    let before = pages_of(image.path());
    for read_only in [true, false] {
        let (disk, dir) = (image.to_memory(), Arc::new(MemoryDir::default()));
        let opened = mount::open(disk.clone(), dir.clone(), options(1, read_only));
        let error = opened.and_then(mount::Opened::mount).err();
        let said = error.unwrap_or_else(|| panic!("mounted: {request}"));
        let said = said.to_string();
        for word in words {
            assert!(said.contains(word), "{request}: {said}");
        }
        assert!(disk.pages() == before, "{request}: written to");
        assert!(dir.files().is_empty(), "{request}: a journal begun");
    }
    let checked = check::run_image(&*image.to_memory());
    assert_eq!(checked.exit_code(), 4, "{request}: {:?}", checked.findings);

    let mut e2fsck = Command::new("e2fsck");
    let mended = e2fsck
        .arg("-fy")
        .arg(image.path())
        .env("PATH", path_with_sbin());
    assert_eq!(mended.output().unwrap().status.code(), Some(1), "{request}");
    let opened = mount::open(
        image.to_memory(),
        Arc::new(MemoryDir::default()),
        options(1, false),
    );
    let mounted = opened.and_then(mount::Opened::mount);
    let mounted = mounted.unwrap_or_else(|e| panic!("{request}, mended: {e}"));
    mounted.close().unwrap();
}

fn by_the_kernel(image: &Path) -> bool {
    Mount::attempt(image, "loop,rw").is_err()
}

#[test]
fn an_image_without_a_root_is_refused() {
    for (request, field) in [
        ("sif <2> links_count 0", "i_links_count is 0"),
        ("sif <2> mode 0100644", "i_mode is 33188"),
        ("sif <2> mode 0", "i_mode"),
        ("sif <2> size 0", "i_size is 0"),
        ("sif <2> blocks 0", "i_blocks is 0"),
    ] {
        refused("debian", request, &[field, "root directory", "e2fsck -f"]);
    }
    // (Here it is the magic of a tree of extents.)
    refused("debian", "sif <2> block[0] 0", &["inode 2", "e2fsck -f"]);
}

#[test]
fn a_journal_inode_that_is_no_journal_is_refused() {
    for (number, field) in [
        ("5000", "superblock: s_journal_inum is 5000"),
        ("100000", "superblock: s_journal_inum is 100000"),
        ("3000", "i_mode is 0"),
        ("11", "i_mode is 16832"),
        ("3", "i_mode is 0"),
    ] {
        let request = format!("ssv journal_inum {number}");
        refused("debian", &request, &[field, number, "e2fsck -f"]);
    }
    for (request, field) in [
        ("sif <8> links_count 0", "i_links_count is 0"),
        ("sif <8> size 0", "i_size is 0"),
        ("sif <8> size 409600", "i_size is 409600"),
    ] {
        refused("debian", request, &[field, "s_journal_inum 8"]);
    }
}

#[test]
fn more_extra_bytes_than_an_inode_has_are_refused() {
    for field in ["min_extra_isize", "want_extra_isize"] {
        let request = format!("ssv {field} 132");
        refused("debian", &request, &[&format!("s_{field} is 132")]);
    }
}

#[test]
fn features_of_a_revision_without_are_refused() {
    refused("debian", "ssv rev_level 0", &["s_rev_level", "is 0"]);
}

#[test]
fn an_image_of_revision_0_is_used_and_gets_features_with_revision_1() {
    let args = &["-r0", "-b1024", "-I128"];
    let image = Variant { name: "", args }.make(8 << 20);
    let bench = Bench::over(image);
    bench.create("f").unwrap();
    bench.set_xattr("f", "user.a", &[7; 300]).unwrap();
    bench.judge("the first attribute");
    let after = run(Command::new("dumpe2fs").arg("-h").arg(bench.image().path()));
    assert!(
        after.contains("1 (dynamic)") && after.contains("ext_attr"),
        "{after}"
    );
}
