//! The image after one record.
//!
//! It looks as if it had been unmounted just then: without the guard, its
//! counts right. Only files that were open without a name are still on the
//! chain of orphans; [`restore`](fn@super::restore) lets go of them.

use std::sync::Arc;

use super::{Error, Result, io_error};
use crate::device::Disk;
use crate::ext4::superblock::{self, OFFSET, SIZE};
use crate::ext4::{Corrupt, Superblock, Unusable};
use crate::fs::guard::{self, Raw};
use crate::fs::mount::{self, Held};
use crate::fs::{self, Fs, alloc};
use crate::journal::{self, Journal, Past};
use crate::units::{BlockNo, HostClock, Lsn};

/// Bytes of memory for its blocks.
const CACHE: usize = 64 << 20;

fn unusable(what: Unusable) -> Error {
    Error::Mount(mount::Error::Unusable(what))
}

fn not_ext4() -> Error {
    unusable(Corrupt::NotExt4 { magic: 0 }.into())
}

/// Where the superblock stands in its block.
fn place(block: &[u8]) -> usize {
    if block.len() == SIZE { 0 } else { SIZE }
}

/// The superblock of this block, as it is without a guard.
pub(super) fn plain(block: &[u8]) -> Result<(Raw, Superblock)> {
    let raw = block
        .get(place(block)..)
        .and_then(|tail| tail.first_chunk());
    let plain = guard::take_off(raw.ok_or_else(not_ext4)?);
    let sb = Superblock::decode(&plain).map_err(unusable)?;
    Ok((plain, sb))
}

/// The superblock's block as it is on an image.
pub(super) fn home_block(image: &dyn Disk) -> Result<Vec<u8>> {
    let read = |block: &mut [u8], at| image.read_at(block, at).map_err(io_error("read of a base"));
    let mut raw = vec![0; SIZE];
    read(&mut raw, OFFSET)?;
    let size = plain(&raw)?.1.block_size as usize;
    let mut block = vec![0; size];
    read(&mut block, if size == SIZE { OFFSET } else { 0 })?;
    Ok(block)
}

/// The image after one record.
#[derive(Clone)]
pub struct Instant {
    past: Arc<Past>,
    sb: Superblock,
    _held: Arc<Held>,
}

impl Instant {
    pub(super) fn new(mut past: Past, held: Arc<Held>) -> Result<Instant> {
        let block = past.pinned()?.ok_or_else(not_ext4)?;
        let (mut unguarded, sb) = plain(&block)?;
        let at = place(&block);
        let show = |past: &mut Past, raw: &Raw| {
            let mut bytes = block.to_vec();
            bytes[at..at + SIZE].copy_from_slice(raw);
            past.replace_pinned(bytes.into());
        };
        show(&mut past, &unguarded);
        let past = Arc::new(past);
        // The counts are sums that no record keeps; where damage lets nobody
        // count, they stay.
        let counted = {
            let journal = Journal::read_only(past.clone(), options(&past, &sb)?)?;
            alloc::totals(&journal.view(), &sb)
        };
        let mut past = Arc::into_inner(past).expect("the journal has gone");
        match counted {
            Ok((blocks, inodes)) => superblock::set_free_counts(&mut unguarded, blocks, inodes),
            Err(fs::Error::Corrupt(_)) => {}
            Err(error) => return Err(error.into()),
        }
        show(&mut past, &unguarded);
        Ok(Instant {
            past: Arc::new(past),
            sb,
            _held: held,
        })
    }

    /// The record.
    pub fn at(&self) -> Lsn {
        self.past.at()
    }

    /// Its superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }

    /// Its bytes.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.past.clone()
    }

    pub(super) fn past(&self) -> &Past {
        &self.past
    }

    /// A file system on it, for reading only.
    pub fn fs(&self, access: fs::Access) -> Result<Arc<Fs>> {
        let journal = Journal::read_only(self.disk(), options(&self.past, &self.sb)?)?;
        let options = fs::Options {
            access,
            atime: fs::Atime::Noatime,
            read_only: true,
            ..fs::Options::default()
        };
        Ok(Arc::new(Fs::new(
            journal,
            self.sb.clone(),
            options,
            Arc::new(HostClock),
        )))
    }

    /// Runs of blocks that may differ from those of the image that it is made
    /// from: first block and how many.
    pub fn touched(&self) -> impl Iterator<Item = (BlockNo, u64)> + '_ {
        self.past.touched()
    }
}

fn options(past: &Past, sb: &Superblock) -> Result<journal::Options> {
    let len = past.len().map_err(super::io_error("length of the image"))?;
    Ok(journal::Options {
        cache_size: CACHE,
        ..journal::Options::for_image(len, sb.block_size as usize)
    })
}
