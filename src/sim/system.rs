//! The system under test: how it is formatted, mounted, unmounted and checked.

use std::sync::Arc;

use super::clock::StillClock;
use super::random::Random;
use crate::check::{self, Finding, Severity, Through};
use crate::device::Disk;
use crate::device::memory::{MemoryDisk, Pages};
use crate::device::volatile::{Host, Snapshot};
use crate::fs::mkfs::{MkfsOptions, mkfs};
use crate::fs::mount::{self, Course, Options};
use crate::fs::{self, Access, Atime, Fs};
use crate::journal::Report;
use crate::units::{Clock, Lsn};

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
    /// When reads note their time.
    pub atime: Atime,
    /// Whether freed blocks are discarded.
    pub discard: bool,
    /// Decides UUIDs and salts.
    pub seed: u64,
}

/// A mounted file system, and how far its journal was recovered.
pub struct Mounted {
    /// The file system.
    pub fs: Arc<Fs>,
    /// The last record that was kept.
    pub last: Lsn,
    inner: mount::Mounted,
}

impl Mounted {
    /// What was done at the opening.
    pub fn course(&self) -> Course {
        self.inner.course()
    }
    /// What the journal's folder held then.
    pub fn report(&self) -> &Report {
        self.inner.report()
    }
}

impl Setup {
    /// Small, so that a run rotates, recycles and fills what it has; but no
    /// operation needs more than one record, since the model has no halves.
    pub fn random(random: &mut Random) -> Self {
        let block_size = *random.pick(&[1024, 1024, 1024, 4096]);
        Setup {
            size: (1 << 20) * (1 + random.below(3)),
            block_size,
            segment_size: u64::from(block_size) * 64,
            segments: 6 + random.below(3) as u32,
            atime: *random.pick(&[Atime::Noatime, Atime::Noatime, Atime::Relatime]),
            discard: false,
            seed: random.bits() | 1,
        }
        .with_discard()
    }

    /// A third of them with discard, without another draw: seeds keep their runs.
    fn with_discard(self) -> Self {
        let discard = (self.seed >> 8).is_multiple_of(3);
        Setup { discard, ..self }
    }

    fn options(&self, clock: &Arc<StillClock>, nonce: u64) -> Options {
        Options {
            fs: fs::Options {
                access: Access::Kernel,
                atime: self.atime,
                ..fs::Options::default()
            },
            point: b"/sim".to_vec(),
            segment_size: Some(self.segment_size),
            segments: Some(self.segments),
            cache_size: 4 << 20,
            discard: self.discard,
            clock: clock.clone(),
            seed: Random::new(self.seed ^ nonce).bits() | 1,
            ..Options::default()
        }
    }
}

/// A fresh image.
pub fn format(setup: &Setup, clock: &Arc<StillClock>) -> Result<Pages, String> {
    let memory = Arc::new(MemoryDisk::default());
    make(memory.clone(), setup, clock)?;
    Ok(memory.pages())
}

/// The same on a disk, whatever it held.
pub fn make(disk: Arc<dyn Disk>, setup: &Setup, clock: &Arc<StillClock>) -> Result<(), String> {
    let options = MkfsOptions {
        size: setup.size,
        block_size: Some(setup.block_size),
        seed: Some(setup.seed),
        time: clock.wall(),
        ..MkfsOptions::default()
    };
    mkfs(&disk, &options)
        .map(drop)
        .map_err(|e| format!("mkfs: {e}"))
}

/// Mounts what a host has, recovering first where that is needed. `nonce`
/// differs from one opening to the next.
pub fn mount(
    host: &Arc<Host>,
    setup: &Setup,
    clock: &Arc<StillClock>,
    nonce: u64,
) -> Result<Mounted, String> {
    let opened = mount::open(host.image(), host.folder(), setup.options(clock, nonce));
    let inner = opened
        .and_then(mount::Opened::mount)
        .map_err(|e| format!("mount refuses: {e}"))?;
    Ok(Mounted {
        fs: inner.fs().clone(),
        last: inner.last(),
        inner,
    })
}

/// Unmounts cleanly.
pub fn unmount(mounted: Mounted) -> Result<(), String> {
    mounted
        .inner
        .close()
        .map_err(|e| format!("unmount fails: {e}"))
}

/// Replays and leaves an ordinary image, as `journalfs recover` does.
pub fn recover(
    host: &Arc<Host>,
    setup: &Setup,
    clock: &Arc<StillClock>,
    nonce: u64,
) -> Result<(), String> {
    let done = mount::recover(host.image(), host.folder(), setup.options(clock, nonce));
    done.map(drop).map_err(|e| format!("recover refuses: {e}"))
}

/// Whether two states of the disks are equal to the byte.
pub fn same(once: &Snapshot, twice: &Snapshot) -> Result<(), String> {
    match (once.image == twice.image, once.files == twice.files) {
        (true, true) => Ok(()),
        (false, _) => Err("the image differs".to_owned()),
        (true, false) => Err("the journal's folder differs".to_owned()),
    }
}

/// Whether an image and its journal are sound. (What was cut off before a
/// new timeline began leaves holes among records that nobody needs.)
pub fn check(left: &Snapshot) -> Result<(), String> {
    let host = Host::new(left.clone());
    content(&check::run_disks(host.image(), Some(host.folder())))
}

/// Whether the image is sound, as the journal shows it to the file system.
pub fn check_mounted(mounted: &Mounted) -> Result<(), String> {
    let sb = mounted.fs.superblock();
    content(&check::run(&Through {
        blocks: &mounted.fs.journal().view(),
        len: sb.bytes(),
    }))
}

fn content(report: &check::Report) -> Result<(), String> {
    let bad: Vec<String> = (report.findings.iter())
        .filter(|finding| {
            finding.severity() != Severity::Note && !matches!(finding, Finding::JournalFrame { .. })
        })
        .map(ToString::to_string)
        .collect();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(format!("the witness finds: {}", bad.join("; ")))
    }
}
