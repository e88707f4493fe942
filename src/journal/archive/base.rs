//! Copies of the image, from which history is redone.

use std::io;
use std::sync::Arc;

use super::manifest::Manifest;
use super::{Archive, PART};
use crate::device::{Dir, Disk};
use crate::journal::record::Record;
use crate::journal::{Error, Result};
use crate::log::{self, Frame, Kind};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::{BlockNo, Epoch, Lsn, Time};

/// Bytes copied at a time.
const PIECE: usize = 1 << 20;
/// Zeros of this length are left out of a copy.
const PAGE: usize = 4096;
/// A new base is worth its bytes when so much history stands behind the last.
const LEAST: u64 = 256 << 20;

/// A copy of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBase {
    /// The file's name.
    pub name: String,
    /// All records up to this one are in it.
    pub from: Lsn,
    /// Nothing of a later record than this is.
    pub through: Lsn,
    /// The opening of the log in which it was taken.
    pub epoch: Epoch,
    /// When it was finished, if that is known.
    pub time: Option<Time>,
    /// Bytes that it holds, holes left out.
    pub bytes: u64,
    /// Whether its superblock's block is as of `from` too: no record is needed for
    /// that then.
    pub whole: bool,
}

impl ImageBase {
    fn name(from: Lsn, through: Lsn, epoch: Epoch) -> String {
        format!("base-{:020}-{:020}-{:010}.img", from.0, through.0, epoch.0)
    }

    /// What a name says, if it is a base's.
    fn parse(name: &str) -> Option<ImageBase> {
        let mut parts = name.strip_prefix("base-")?.strip_suffix(".img")?.split('-');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (from, through, epoch) = (number()?, number()?, number()?);
        let epoch = Epoch(u32::try_from(epoch).ok()?);
        let base = ImageBase {
            name: name.to_owned(),
            from: Lsn(from),
            through: Lsn(through),
            epoch,
            time: None,
            bytes: 0,
            whole: false,
        };
        (from <= through && name == Self::name(base.from, base.through, epoch)).then_some(base)
    }
}

/// The bases in a folder, oldest first. Their times and lengths only a
/// manifest knows.
pub fn found(dir: &dyn Dir, noted: &Manifest) -> Result<Vec<ImageBase>> {
    let names = dir.list().map_err(super::io("list"))?;
    let mut bases: Vec<ImageBase> = names.iter().filter_map(|n| ImageBase::parse(n)).collect();
    for base in &mut bases {
        match noted.bases.iter().find(|noted| noted.name == base.name) {
            Some(noted) => {
                (base.time, base.bytes, base.whole) = (noted.time(), noted.bytes, noted.whole);
            }
            None => {
                let disk = dir.open(&base.name).map_err(super::io(&base.name))?;
                base.bytes = stored(&*disk).map_err(super::io(&base.name))?;
            }
        }
    }
    bases.sort_by_key(|base| (base.epoch, base.from, base.through));
    Ok(bases)
}

/// Where the superblock's block lies, by its length.
pub fn home(pinned: &[u8]) -> BlockNo {
    BlockNo(u64::from(pinned.len() == 1024))
}

/// The pinned block as of `from`, which the record says that called everything
/// up to there home: the first of `frames` behind it.
pub fn pinned(
    frames: impl Iterator<Item = log::Result<Frame>>,
    from: Lsn,
) -> Result<Option<(Lsn, Vec<u8>)>> {
    for frame in frames {
        let frame = frame?;
        if frame.kind == Kind::Record
            && let Ok(Record::Session(base) | Record::Checkpoint(base)) =
                Record::decode_meaning(&frame.meta)
            && base.through == from
            && !base.pinned.is_empty()
        {
            return Ok(Some((frame.lsn, base.pinned)));
        }
    }
    Ok(None)
}

/// Bytes of a file that are not holes.
fn stored(disk: &dyn Disk) -> io::Result<u64> {
    let (mut at, mut bytes) = (0, 0);
    while let Some((from, to)) = disk.next_data(at)? {
        bytes += to - from;
        at = to;
    }
    Ok(bytes)
}

impl Archive {
    /// Whether history needs a new base to begin with.
    pub(in crate::journal) fn wants_base(&self, now: Time) -> bool {
        if self.rests() {
            return false;
        }
        let state = self.state.lock();
        let Some(newest) = state.bases.last() else {
            return true;
        };
        let worth = newest.bytes.max(LEAST);
        let worth = self.limits.size.map_or(worth, |most| worth.min(most / 3));
        let half = self.limits.age.map(|age| age.as_nanos() / 2);
        let old = half.zip(newest.time).is_some_and(|(half, time)| {
            let age = now.as_nanos().saturating_sub(time.as_nanos());
            u128::try_from(age).is_ok_and(|age| age >= half)
        });
        state.lost || state.grown >= worth || (old && state.grown > 0)
    }

    /// Copies the image, which may be in use: up to `from` all is in it but the
    /// pinned block, which is as given then, if it is known.
    pub(in crate::journal) fn take_base(
        &self,
        image: &dyn Disk,
        at: (Lsn, Epoch),
        pinned: Option<&[u8]>,
        now: &dyn Fn() -> Time,
    ) -> Result<()> {
        let taken = self.copy(image, at, pinned).and_then(|mut base| {
            base.time = Some(now());
            let mut state = self.state.lock();
            state.bases.retain(|known| known.name != base.name);
            state.bases.push(base);
            (state.grown, state.lost) = (0, false);
            self.note(&state)
        });
        if !self.stopping.load(Ordering::SeqCst) {
            self.say(&taken);
        }
        taken
    }

    fn copy(
        &self,
        image: &dyn Disk,
        (from, epoch): (Lsn, Epoch),
        pinned: Option<&[u8]>,
    ) -> Result<ImageBase> {
        let part = format!("base{PART}");
        let _ = self.dir.remove(&part);
        let copied = || {
            let disk = self.dir.create(&part)?;
            let bytes = copy(image, &*disk, &self.stopping)?;
            if let Some(block) = pinned {
                disk.write_at(block, home(block).0 * block.len() as u64)?;
            }
            disk.sync()?;
            // Sampled when all has been read.
            let through = from.max(Lsn(self.installing.load(Ordering::SeqCst)));
            let name = ImageBase::name(from, through, epoch);
            self.dir.rename(&part, &name)?;
            self.dir.sync()?;
            Ok(ImageBase {
                name,
                from,
                through,
                epoch,
                time: None,
                bytes,
                whole: pinned.is_some(),
            })
        };
        copied().map_err(|e: io::Error| {
            let _ = self.dir.remove(&part);
            Error::Io {
                what: "copy of the image to the archive".to_owned(),
                source: Arc::new(e),
            }
        })
    }
}

/// Copies a disk, sharing its blocks where the host can, else without its
/// holes and zeros. Answers how many bytes are data.
fn copy(from: &dyn Disk, to: &dyn Disk, stopping: &AtomicBool) -> io::Result<u64> {
    if let (Some(source), Some(target)) = (from.host_file(), to.host_file())
        && rustix::fs::ioctl_ficlone(target, source).is_ok()
    {
        return stored(from);
    }
    to.set_len(from.len()?)?;
    let (mut at, mut bytes) = (0, 0);
    let mut buffer = vec![0; PIECE];
    while let Some((start, end)) = from.next_data(at)? {
        at = start;
        while at < end {
            if stopping.load(Ordering::SeqCst) {
                return Err(io::Error::other("the file system is being unmounted"));
            }
            let piece = &mut buffer[..(end - at).min(PIECE as u64) as usize];
            from.read_at(piece, at)?;
            for (n, page) in piece.chunks(PAGE).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    to.write_at(page, at + (n * PAGE) as u64)?;
                    bytes += page.len() as u64;
                }
            }
            at += piece.len() as u64;
        }
    }
    Ok(bytes)
}
