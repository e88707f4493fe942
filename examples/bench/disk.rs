//! The disk below: what reaches it, and what the host has cached of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Bytes written to a disk and flushes of it since the machine started.
#[derive(Clone, Copy)]
pub struct Disk {
    pub bytes: u64,
    pub flushes: u64,
}

impl Disk {
    /// Of the one that has this folder; there may be none that counts.
    pub fn below(folder: &Path) -> Option<Disk> {
        let device = fs::metadata(folder).ok()?.dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        let fields: Vec<u64> = (text.split_whitespace())
            .map_while(|word| word.parse().ok())
            .collect();
        Some(Disk {
            bytes: fields.get(6)? * 512,
            flushes: *fields.get(15)?,
        })
    }
}

/// Drops files, and all files of folders, from the host's page cache.
pub fn evict(files: &[PathBuf]) -> io::Result<()> {
    for path in files {
        if path.is_dir() {
            let inside: io::Result<Vec<_>> =
                fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect();
            evict(&inside?)?;
        } else if path.is_file() {
            let file = File::open(path)?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}
