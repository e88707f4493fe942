//! The figures of df are the kernel's, on the same image.

use nix::sys::statvfs::statvfs;

use crate::support::bench::Bench;
use crate::support::images::Variant;
use crate::support::kernel::Mount;

const MORE: [Variant; 7] = [
    Variant {
        name: "no reserve",
        args: &["-b4096", "-I256", "-m0"],
    },
    Variant {
        name: "a large reserve",
        args: &["-b1024", "-I256", "-m40"],
    },
    Variant {
        name: "no resize inode",
        args: &["-b1024", "-O^resize_inode,^flex_bg"],
    },
    Variant {
        name: "sparse_super2",
        args: &["-b1024", "-Osparse_super2"],
    },
    Variant {
        name: "few inodes",
        args: &["-b4096", "-I256", "-N64", "-Jsize=4"],
    },
    Variant {
        name: "all copies",
        args: &["-b1024", "-O^sparse_super,^resize_inode"],
    },
    Variant {
        name: "a last group that is no group",
        args: &["-b1024", "-I256", "-g1024"],
    },
];

#[track_caller]
fn compare(bench: &Bench, when: &str) {
    let ours = bench.fs.statfs().unwrap();
    bench.judge_without_kernel(when);
    let Some(mount) = Mount::read_only(bench.image.path()) else {
        return;
    };
    let theirs = statvfs(mount.path()).unwrap();
    assert_eq!(
        [
            u64::from(ours.block_size),
            ours.blocks,
            ours.free,
            ours.available,
            ours.inodes,
            ours.free_inodes,
            u64::from(ours.name_max),
        ],
        [
            theirs.block_size(),
            theirs.blocks(),
            theirs.blocks_free(),
            theirs.blocks_available(),
            theirs.files(),
            theirs.files_free(),
            theirs.name_max(),
        ],
        "{when}: block size, blocks, free, available, inodes, free, longest name"
    );
}

#[test]
fn df_shows_what_the_kernel_shows() {
    for variant in crate::chosen().chain(&MORE) {
        let bench = Bench::new(variant, (35 << 20) + (300 << 10));
        compare(&bench, &format!("{}, empty", variant.name));
        for n in 0..20 {
            bench.write(&format!("{n}"), 0, &[1; 30_000]).unwrap();
        }
        bench.mkdir("dir").unwrap();
        compare(&bench, &format!("{}, in use", variant.name));
        let mut at = 0;
        while bench.write("fill", at, &[2; 64 << 10]).is_ok() {
            at += 64 << 10;
        }
        compare(&bench, &format!("{}, full", variant.name));
    }
}

/// mke2fs notes how many blocks the format itself takes; where nobody did,
/// both sum it up.
#[test]
fn df_shows_the_same_where_mkfs_noted_no_overhead() {
    for variant in crate::chosen().chain(&MORE) {
        let image = variant.make(50 << 20);
        image.debugfs("ssv overhead_clusters 0");
        compare(&Bench::over(image), variant.name);
    }
}
