//! Images that `mkfs.ext4` makes, one for each format that we promise.

use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use journalfs::device::Disk;
use journalfs::device::memory::{MemoryDisk, Pages};
use nix::unistd::{Whence, lseek};

/// A format: what mkfs.ext4 is told.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub name: &'static str,
    pub args: &'static [&'static str],
}

/// Debian's defaults (e2fsprogs 1.47 with `/etc/mke2fs.conf`), spelt out so
/// that a host's own configuration does not change the tests.
pub const DEBIAN: Variant = Variant {
    name: "debian",
    args: &["-b4096", "-I256"],
};

/// Every format of the matrix. `-b4096 -I256` undo mkfs's habit of giving
/// small images small blocks and small inodes.
pub const VARIANTS: &[Variant] = &[
    DEBIAN,
    Variant {
        name: "upstream",
        args: &["-b4096", "-I256", "-Ometadata_csum_seed,orphan_file"],
    },
    Variant {
        name: "no-metadata-csum",
        args: &["-b4096", "-I256", "-O^metadata_csum"],
    },
    Variant {
        name: "1k-blocks",
        args: &["-b1024", "-I256"],
    },
    Variant {
        name: "2k-blocks",
        args: &["-b2048", "-I256"],
    },
    Variant {
        name: "uninit-bg",
        args: &["-b4096", "-I256", "-Ouninit_bg,^metadata_csum"],
    },
    // Many groups, most of them never used, in a small image.
    Variant {
        name: "small-groups",
        args: &["-b4096", "-I256", "-g2048"],
    },
    Variant {
        name: "small-uninit-groups",
        args: &["-b4096", "-I256", "-g2048", "-Ouninit_bg,^metadata_csum"],
    },
    Variant {
        name: "no-journal",
        args: &["-b4096", "-I256", "-O^has_journal"],
    },
    Variant {
        name: "32-bit",
        args: &["-b4096", "-I256", "-O^64bit"],
    },
    Variant {
        name: "block-mapped",
        args: &["-b4096", "-I256", "-O^extent,^64bit"],
    },
    Variant {
        name: "128-byte-inodes",
        args: &["-b4096", "-I128"],
    },
    Variant {
        name: "tea-hash",
        args: &["-b1024", "-I256"],
    },
    Variant {
        name: "no-dir-index",
        args: &["-b4096", "-I256", "-O^dir_index"],
    },
    Variant {
        name: "no-flex-bg",
        args: &["-b1024", "-I256", "-O^flex_bg"],
    },
    Variant {
        name: "ext3",
        args: &[
            "-b1024",
            "-I128",
            "-O^extent,^64bit,^flex_bg,^huge_file,^metadata_csum,^dir_nlink,^extra_isize",
        ],
    },
];

impl Variant {
    /// The one with this name.
    pub fn named(name: &str) -> Variant {
        *VARIANTS
            .iter()
            .find(|v| v.name == name)
            .unwrap_or_else(|| panic!("no variant {name}"))
    }

    /// Whether new files map their blocks by extents (the alternative is ext3's).
    pub fn has_extents(&self) -> bool {
        !self.args.iter().any(|arg| arg.contains("^extent"))
    }

    /// A fresh image of `size` bytes. Times are the current ones; the UUID
    /// and the hash seed are fixed, so that runs repeat.
    pub fn make(&self, size: u64) -> Image {
        let image = Image::blank(size);
        let mut command = Command::new("mkfs.ext4");
        command
            .args(self.args)
            .args(["-q", "-F", "-U", UUID, "-E", HASH_SEED])
            .arg(image.path());
        run(&mut command);
        if self.name == "tea-hash" {
            run(Command::new("debugfs")
                .args(["-w", "-R", "ssv def_hash_version tea"])
                .arg(image.path()));
        }
        image
    }
}

/// The UUID of all test images.
pub const UUID: &str = "6a6f7572-6e61-4c66-8373-746573740001";

const HASH_SEED: &str = "hash_seed=0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

/// An image in a temporary folder that goes with it (its journal as well, if
/// that lies beside it).
pub struct Image {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    /// A sparse file of zeros.
    pub fn blank(size: u64) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("journalfs-test-")
            .tempdir()
            .expect("a temporary folder");
        let path = folder.path().join("image");
        let file = std::fs::File::create(&path).expect("a file in the temporary folder");
        file.set_len(size).expect("a sparse file");
        Image { folder, path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, for mount points and other files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A copy in memory; holes stay holes.
    pub fn to_memory(&self) -> Arc<MemoryDisk> {
        Arc::new(MemoryDisk::from_pages(pages_of(&self.path)))
    }

    /// Overwrites the file with a disk's bytes.
    pub fn write_back(&self, disk: &dyn Disk) {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&self.path)
            .expect("the image opens");
        let len = disk.len().expect("a length");
        file.set_len(0).expect("truncates");
        file.set_len(len).expect("extends");
        let mut piece = vec![0; 1 << 16];
        for at in (0..len).step_by(piece.len()) {
            let n = piece.len().min((len - at) as usize);
            disk.read_at(&mut piece[..n], at).expect("the disk reads");
            if piece[..n].iter().any(|&b| b != 0) {
                file.write_all_at(&piece[..n], at)
                    .expect("the image writes");
            }
        }
    }

    /// Another image with the same bytes.
    pub fn duplicate(&self) -> Image {
        let copy = Image::blank(0);
        run(Command::new("cp")
            .arg("--sparse=always")
            .arg(&self.path)
            .arg(copy.path()));
        copy
    }

    /// What debugfs says of its own journal (without a look at bitmaps, which
    /// may be wrong before a replay).
    pub fn logdump(&self) -> String {
        run(Command::new("debugfs")
            .args(["-c", "-R", "logdump -a"])
            .arg(&self.path))
    }

    /// Runs debugfs commands, one a line, that change the image.
    pub fn debugfs_script(&self, requests: &str) -> String {
        let script = self.folder().join("requests");
        std::fs::write(&script, requests).expect("a file in the temporary folder");
        run(Command::new("debugfs")
            .args(["-w", "-f"])
            .arg(script)
            .arg(&self.path))
    }

    /// Runs one debugfs command that changes the image.
    pub fn debugfs(&self, request: &str) -> String {
        run(Command::new("debugfs")
            .args(["-w", "-R", request])
            .arg(&self.path))
    }
}

/// A file's bytes as shared pages; holes and pages of zeros are left out.
pub fn pages_of(path: &Path) -> Pages {
    let file = std::fs::File::open(path).expect("the image opens");
    let len = file.metadata().expect("its length").len();
    let mut pages = Pages::default();
    pages.set_len(len);
    let mut piece = vec![0; 4096];
    let mut at = 0;
    while let Ok(data) = lseek(&file, at as i64, Whence::SeekData) {
        let hole = lseek(&file, data, Whence::SeekHole).expect("every file ends in a hole");
        for start in (data as u64 / 4096 * 4096..hole as u64).step_by(piece.len()) {
            let n = piece.len().min((len - start) as usize);
            file.read_exact_at(&mut piece[..n], start)
                .expect("the image reads");
            if piece[..n].iter().any(|&b| b != 0) {
                pages.write(&piece[..n], start);
            }
        }
        at = hole as u64;
    }
    pages
}

/// Runs a tool that must succeed; answers what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let done = command
        .env("PATH", path_with_sbin())
        .env("LC_ALL", "C")
        .output();
    let done = done
        .unwrap_or_else(|e| panic!("{command:?}: {e} (scripts/setup installs what tests need)"));
    let mut output = String::from_utf8_lossy(&done.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&done.stderr));
    assert!(
        done.status.success(),
        "{command:?}: {}\n{output}",
        done.status
    );
    output
}

/// An ordinary user's PATH often lacks the folders of mkfs.ext4 and e2fsck.
pub fn path_with_sbin() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
