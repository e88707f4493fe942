//! An instant as an ordinary image of its own.

use std::sync::Arc;

use super::{Error, Instant, Result, io_error};
use crate::device::Disk;
use crate::ext4::superblock::{OFFSET, SIZE};
use crate::ext4::{Superblock, superblock};
use crate::fs::mount;
use crate::fs::{self, Fs, alloc, guard, jbd2};
use crate::journal::Journal;
use crate::units::{BlockNo, Clock, StepClock};

/// Bytes copied at a time, and the zeros that are left out.
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;

/// Writes the image as it was into `out`, an empty file: a clean ext4 image,
/// durable when this returns. `step` is told of bytes that were looked at.
pub fn restore(instant: &Instant, out: Arc<dyn Disk>, step: &mut dyn FnMut(u64)) -> Result<()> {
    copy(instant, &*out, step)?;
    finish(instant, out.clone())?;
    out.sync().map_err(io_error("sync of the restored image"))
}

/// The base with its holes, then what the records changed. In this order the
/// base's blocks may be shared by the host.
fn copy(instant: &Instant, out: &dyn Disk, step: &mut dyn FnMut(u64)) -> Result<()> {
    let (past, size) = (instant.past(), u64::from(instant.superblock().block_size));
    let (read, write) = ("read of the image", "write of the restored image");
    let ground = past.ground();
    let shared = match (ground.host_file(), out.host_file()) {
        (Some(from), Some(to)) => rustix::fs::ioctl_ficlone(to, from).is_ok(),
        _ => false,
    };
    let len = past.len().map_err(io_error(read))?;
    out.set_len(len).map_err(io_error(write))?;
    if !shared {
        let mut at = 0;
        while let Some((from, to)) = ground.next_data(at).map_err(io_error(read))? {
            copy_range(&**ground, out, (from, to.min(len)), true)?;
            step(to - from);
            at = to;
        }
    }
    for (first, count) in joined(past.touched().collect()) {
        // (Records may name blocks outside the image.)
        let (from, bytes) = (first.0.saturating_mul(size), count.saturating_mul(size));
        let to = from.saturating_add(bytes).min(len);
        copy_range(past, out, (from, to), false)?;
        step(bytes);
    }
    Ok(())
}

/// The same blocks, each in one run.
fn joined(mut runs: Vec<(BlockNo, u64)>) -> Vec<(BlockNo, u64)> {
    runs.sort_unstable();
    let mut joined: Vec<(BlockNo, u64)> = Vec::new();
    for (first, count) in runs {
        match joined.last_mut() {
            Some((start, len)) if first.0 <= start.0 + *len => {
                *len = (*len).max(first.0 - start.0 + count);
            }
            _ => joined.push((first, count)),
        }
    }
    joined
}

/// `sparse`: the target is nothing but a hole there.
fn copy_range(
    from: &dyn Disk,
    to: &dyn Disk,
    (start, end): (u64, u64),
    sparse: bool,
) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = start;
    while at < end {
        let piece = &mut buffer[..(end - at).min(PIECE as u64) as usize];
        from.read_at(piece, at)
            .map_err(io_error("read of the image"))?;
        for (n, page) in piece.chunks(PAGE).enumerate() {
            if !sparse || page.iter().any(|byte| *byte != 0) {
                to.write_at(page, at + (n * PAGE) as u64)
                    .map_err(io_error("write of the restored image"))?;
            }
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// What an unmount would do: files that were open without a name go, the
/// image's own journal is empty, the counts are right. All of it as of the record's
/// time: the same moment gives the same image each time.
fn finish(instant: &Instant, out: Arc<dyn Disk>) -> Result<()> {
    let sb = instant.superblock();
    let journal = Journal::scratch(out.clone(), sb.block_size as usize);
    let clock: Arc<dyn Clock> = Arc::new(StepClock::new(instant.past().time()));
    let fs = Fs::new(journal, sb.clone(), fs::Options::default(), clock);
    fs.collect_orphans()?;
    jbd2::empty(&fs)?;
    fs.journal().flush()?;
    let (blocks, inodes) = alloc::totals(&fs.journal().view(), sb)?;
    let what = "superblock of the restored image";
    let mut raw = [0; SIZE];
    out.read_at(&mut raw, OFFSET).map_err(io_error(what))?;
    let mut plain = guard::take_off(&raw);
    superblock::set_free_counts(&mut plain, blocks, inodes);
    out.write_at(&plain, OFFSET).map_err(io_error(what))?;
    Superblock::decode(&plain)
        .map(drop)
        .map_err(|what| Error::Mount(mount::Error::Unusable(what)))
}
