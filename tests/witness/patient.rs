//! A good image to be damaged: the kernel filled it with one of everything,
//! and debugfs says where things are.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::OnceLock;

use journalfs::check::{self, Finding, Report};

use crate::support::e2fsck;
use crate::support::images::{Image, Variant};
use crate::support::kernel::Mount;

/// With checksums on everything.
pub const SUMMED: Variant = Variant {
    name: "summed",
    args: &[
        "-b1024",
        "-I256",
        "-N2048",
        "-Ometadata_csum_seed,orphan_file",
    ],
};

/// Without, so that bytes can be changed without mending a checksum.
pub const PLAIN: Variant = Variant {
    name: "plain",
    args: &["-b1024", "-I256", "-N2048", "-O^metadata_csum"],
};

/// With CRC-16 on group descriptors only.
pub const GROUPED: Variant = Variant {
    name: "grouped",
    args: &["-b1024", "-I256", "-N2048", "-O^metadata_csum,uninit_bg"],
};

const SIZE: u64 = 40 << 20;
pub const BLOCK: u64 = 1024;

/// An image of one's own, good at first.
pub struct Patient {
    pub image: Image,
}

impl Patient {
    /// `None` when this process may not mount.
    pub fn new(variant: &Variant) -> Option<Self> {
        static GOOD: [OnceLock<Option<Image>>; 3] = [const { OnceLock::new() }; 3];
        let slot = ["summed", "plain", "grouped"]
            .iter()
            .position(|name| *name == variant.name)
            .unwrap();
        let good = GOOD[slot].get_or_init(|| filled(variant)).as_ref()?;
        Some(Patient {
            image: good.duplicate(),
        })
    }

    pub fn debugfs(&self, request: &str) -> String {
        self.image.debugfs(request)
    }

    pub fn inode(&self, path: &str) -> u32 {
        let said = self.debugfs(&format!("stat {path}"));
        word_after(&said, "Inode:")
            .parse()
            .unwrap_or_else(|_| panic!("stat {path}: {said}"))
    }

    /// Byte offset of an inode.
    pub fn inode_at(&self, path: &str) -> u64 {
        let said = self.debugfs(&format!("imap {path}"));
        let block: u64 = word_after(&said, "at block")
            .trim_end_matches(',')
            .parse()
            .unwrap();
        let offset = word_after(&said, "offset")
            .trim_start_matches("0x")
            .to_owned();
        block * BLOCK + u64::from_str_radix(&offset, 16).unwrap()
    }

    /// Byte offset of a file's block.
    pub fn block_at(&self, path: &str, n: u32) -> u64 {
        let said = self.debugfs(&format!("bmap {path} {n}"));
        BLOCK
            * said
                .split_whitespace()
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or_else(|| panic!("bmap: {said}"))
    }

    /// Byte offset of the first block below the root of a file's extent tree.
    pub fn extent_block_at(&self, path: &str) -> u64 {
        let raw = self.bytes(self.inode_at(path) + 0x28, 60);
        assert!(raw[6] > 0, "{path} has no extent block");
        BLOCK * u64::from(u32::from_le_bytes(raw[16..20].try_into().unwrap()))
    }

    /// Byte offset of an inode's attribute block.
    pub fn xattr_block_at(&self, path: &str) -> u64 {
        BLOCK * u64::from(self.le32(self.inode_at(path) + 0x68))
    }

    /// Byte offset of a group's descriptor.
    pub fn group_at(&self, group: u64) -> u64 {
        2 * BLOCK + group * 64
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fs::File::open(self.image.path())
            .unwrap()
            .read_exact_at(&mut bytes, offset)
            .unwrap();
        bytes
    }

    pub fn le32(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.bytes(offset, 4).try_into().unwrap())
    }

    pub fn patch(&self, offset: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.image.path())
            .unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Turns one bit.
    pub fn flip(&self, offset: u64, bit: u8) {
        self.patch(offset, &[self.bytes(offset, 1)[0] ^ 1 << bit]);
    }

    /// Byte offset of a name in a directory's block: of its entry.
    pub fn entry_at(&self, block: u64, name: &str) -> u64 {
        let raw = self.bytes(block, BLOCK as usize);
        let at = raw.windows(name.len()).position(|w| w == name.as_bytes());
        block + at.unwrap_or_else(|| panic!("{name} is not in the block")) as u64 - 8
    }

    /// Both judges must find it; ours must say this.
    #[track_caller]
    pub fn assert_found(&self, want: fn(&Finding) -> bool) {
        let report = self.check();
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(
            report.findings.iter().any(want),
            "not among the findings:\n{}",
            findings.join("\n")
        );
        assert_eq!(report.exit_code(), 4);
        let judgement = e2fsck::judge(self.image.path());
        assert!(
            !judgement.is_clean(),
            "e2fsck sees nothing:\n{}we see:\n{}",
            judgement.output,
            findings.join("\n")
        );
    }

    pub fn check(&self) -> Report {
        check::run_image(&*self.image.to_memory())
    }
}

fn word_after(text: &str, before: &str) -> String {
    let rest = text
        .split(before)
        .nth(1)
        .unwrap_or_else(|| panic!("no {before:?} in {text}"));
    rest.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn filled(variant: &Variant) -> Option<Image> {
    let image = variant.make(SIZE);
    let mount = Mount::read_write(image.path())?;
    fill(mount.path());
    mount.unmount();
    e2fsck::assert_clean(image.path());
    Some(image)
}

fn fill(root: &Path) {
    for name in ["file", "other", "linked"] {
        fs::write(root.join(name), vec![b'f'; 5000]).unwrap();
    }
    fs::hard_link(root.join("linked"), root.join("linked too")).unwrap();
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("dir/child"), b"child").unwrap();
    fs::write(root.join("dir/twin1"), b"").unwrap();
    fs::write(root.join("dir/twin2"), b"").unwrap();
    symlink("fast", root.join("fast")).unwrap();
    symlink("s".repeat(100), root.join("slow")).unwrap();
    // Directories with an index of one and of two levels.
    for (name, count) in [("indexed", 200), ("tall", 3500)] {
        fs::create_dir(root.join(name)).unwrap();
        for n in 0..count {
            let name = root.join(name).join(format!("{n:04} {}", "x".repeat(100)));
            fs::hard_link(root.join("linked"), name).unwrap();
        }
    }
    let scattered = fs::File::create(root.join("scattered")).unwrap();
    for n in 0..200 {
        scattered.write_all_at(b"scattered", n * 4096).unwrap();
    }
    for (n, name) in ["attributes1", "attributes2"].iter().enumerate() {
        fs::write(root.join(name), b"").unwrap();
        xattr::set(root.join(name), "user.large", &[7; 500]).unwrap();
        xattr::set(root.join(name), "user.other", &[8; 100]).unwrap();
        xattr::set(root.join("file"), format!("user.small{n}"), b"in the inode").unwrap();
    }
}
