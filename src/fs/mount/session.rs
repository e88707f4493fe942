//! The guard goes on and off: a session's first and last writes of the
//! superblock, each after the journal knows both versions.

use std::ops::Range;

use super::super::alloc;
use super::super::guard::{self, Raw};
use super::{Error, Fs, Options, Result, io_error, length};
use crate::device::Disk;
use crate::ext4::group::Group;
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::ext4::{Superblock, fault, superblock};
use crate::journal::record::{Clean, Session};
use crate::journal::{Blocks, Journal};
use crate::units::{BlockNo, GroupNo, Lsn, Time};

/// What was read may be in the host's cache alone: an earlier process was
/// killed before it had synced the superblock, or its sync failed and the host
/// calls the page clean. Were the disk's own version found after a cut, the
/// journal would not know it any more. (Torn, it is repaired from there.)
pub(super) fn confirm_superblock(image: &dyn Disk, good: &Raw) -> Result<()> {
    write_sectors(image, good, |_| true)
}

/// Session record durable, then the guard, then everything else. `replayed` is
/// the superblock's block as the image's own journal leaves it, if that has
/// just been replayed.
pub(super) fn begin(
    image: &dyn Disk,
    journal: &Journal,
    sb: &Superblock,
    found: &Raw,
    good: &Raw,
    replayed: Option<Vec<u8>>,
    options: &Options,
) -> Result<Superblock> {
    let (home, at) = sb.home();
    let mut pinned = match (replayed, journal.pinned()) {
        (Some(replayed), _) => replayed,
        (None, Some(pinned)) => pinned.to_vec(),
        (None, None) => journal.view().block(home)?.to_vec(),
    };
    let mut current: Raw = pinned[at..at + SIZE]
        .try_into()
        .expect("a superblock lies within its block");
    if !guard::is_torn(found, good) {
        guard::merge_errors(&mut current, found);
    }
    let uuid = fresh_uuid(options, journal.watermarks().appended);
    let guarded = guard::put_on(&current, uuid);
    // What the journal remembers is believed about this image only.
    let now = Superblock::decode(&guarded).map_err(Error::Unusable)?;
    if !now.has_shape_of(sb) {
        return Err(Error::Unrecognised);
    }
    pinned[at..at + SIZE].copy_from_slice(&guarded);
    let is_guarded = matches!(guard::standing(good), guard::Standing::Guarded(_));
    let session = Session {
        guard: uuid,
        prior: good.to_vec(),
        guarded: guarded.to_vec(),
    };
    journal.begin_session(session, &pinned, &witnesses(journal, sb, is_guarded)?)?;
    write_superblock(image, found, &guarded)?;
    Ok(now)
}

/// Blocks by which the image is recognised should its superblock be torn:
/// the first descriptors, and the inode table with the root directory.
fn witnesses(journal: &Journal, sb: &Superblock, guarded: bool) -> Result<Vec<BlockNo>> {
    let (block, at) = sb.descriptor_place(GroupNo(0));
    let group = Group::decode(&journal.view().block(block)?[at..], sb, GroupNo(0));
    // A damaged one keeps an image from being mounted, but not one that is
    // guarded already from being recovered.
    let table = match group {
        Err(_) if guarded => None,
        group => Some(group?.inode_table),
    };
    Ok(std::iter::once(block).chain(table).collect())
}

/// Log home, record durable, then the guard off.
pub(super) fn end(image: &dyn Disk, fs: &Fs, began: Time, options: &Options) -> Result<()> {
    let (journal, sb) = (fs.journal(), fs.superblock());
    let pinned = journal.settle()?.unwrap_or_default();
    let (_, at) = sb.home();
    let current = pinned
        .get(at..at + SIZE)
        .and_then(|raw| Raw::try_from(raw).ok());
    let mut current = current.ok_or(Error::Unrecognised)?;
    let found = read_superblock(image)?;
    if !guard::is_torn(&found, &current) {
        guard::merge_errors(&mut current, &found);
    }
    let (free_blocks, free_inodes) = free_counts(fs, &current)?;
    if let Some(damage) = fs.damage()
        && !fault::is_noted(&current)
    {
        fault::note(&mut current, &damage.fault());
    }
    let restored = guard::restore(
        &current,
        &guard::Visit {
            mounted: began,
            unmounted: options.clock.wall(),
            point: &options.point,
            written: journal.written_home(),
            free_blocks,
            free_inodes,
        },
    );
    journal.end(Clean {
        fingerprint: guard::fingerprint(&restored),
        restored: restored.to_vec(),
    })?;
    write_superblock(image, &found, &restored)
}

/// The superblock's counts are sums: no operation keeps them. Where damage
/// lets nobody count, they stay as they are.
fn free_counts(fs: &Fs, current: &Raw) -> Result<(u64, u32)> {
    let counted = alloc::totals(&fs.journal().view(), fs.superblock());
    match fs.noting(counted) {
        Err(super::super::Error::Corrupt(_)) => Ok(superblock::free_counts(current)),
        counted => Ok(counted?),
    }
}

/// The superblock's bytes, whatever they say.
pub(super) fn read_superblock(image: &dyn Disk) -> Result<Raw> {
    let mut raw = [0; SIZE];
    match length(image)? {
        len if len < OFFSET + SIZE as u64 => {
            return Err(Error::Unusable(
                crate::ext4::Corrupt::NotExt4 { magic: 0 }.into(),
            ));
        }
        _ => image
            .read_at(&mut raw, OFFSET)
            .map_err(io_error("read of the superblock"))?,
    }
    Ok(raw)
}

/// Writes the sectors that differ, so that no other is in flight when the
/// power fails.
pub(super) fn write_superblock(image: &dyn Disk, found: &Raw, now: &Raw) -> Result<()> {
    write_sectors(image, now, |sector| found[sector.clone()] != now[sector])
}

fn write_sectors(image: &dyn Disk, now: &Raw, chosen: impl Fn(Range<usize>) -> bool) -> Result<()> {
    const SECTOR: usize = 512;
    for from in (0..SIZE).step_by(SECTOR) {
        if chosen(from..from + SECTOR) {
            image
                .write_at(&now[from..from + SECTOR], OFFSET + from as u64)
                .map_err(io_error("write of the superblock"))?;
        }
    }
    image.sync().map_err(io_error("sync of the superblock"))
}

/// A guard's name: random, or, in a simulation, different at every opening.
fn fresh_uuid(options: &Options, appended: Lsn) -> [u8; 16] {
    let mut uuid = [0; 16];
    let random = options.seed == 0
        && std::fs::File::open("/dev/urandom")
            .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut uuid))
            .is_ok();
    if !random {
        let now = options.clock.wall().as_nanos() as u64;
        let mut state = options.seed ^ appended.0.rotate_left(32) ^ now.rotate_left(17);
        for half in uuid.chunks_mut(8) {
            state = state
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x1405_7B7E_F767_814F);
            half.copy_from_slice(&(state ^ state >> 29).to_le_bytes());
        }
    }
    // Version 4, variant 1: what uuid(1) makes.
    uuid[6] = uuid[6] & 0x0F | 0x40;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}
