//! Free space, given back to the host.

use super::alloc::{block_bitmap, metadata_bitmap};
use super::inode::group;
use super::{Access, Caller, Error, Fs, Result};
use crate::ext4::{Superblock, bitmap};
use crate::journal::{Blocks, OnTrimmed};
use crate::units::{BlockNo, GroupNo};

impl Fs {
    /// Gives the host back what is free among `len` bytes from `start` on, in
    /// runs of at least `least` bytes, as FITRIM of ioctl_fstrim(2) has it.
    /// `tell` gets the number of bytes, perhaps from another thread.
    pub fn trim(
        &self,
        by: &Caller,
        (start, len): (u64, u64),
        least: u64,
        tell: Box<dyn FnOnce(Result<u64>) + Send>,
    ) {
        let size = u64::from(self.sb.block_size);
        if let Err(refused) = self.may_trim(by, start, len, least) {
            return tell(Err(refused));
        }
        let told: OnTrimmed = Box::new(move |blocks| {
            tell(blocks.map(|blocks| blocks * size).map_err(Error::from));
        });
        let first = BlockNo((start / size).max(self.sb.first_data_block));
        let end = (start.saturating_add(len) / size).min(self.sb.blocks_count);
        let count = end.saturating_sub(first.0);
        self.journal.trim(first, count, least.div_ceil(size), told);
    }

    fn may_trim(&self, by: &Caller, start: u64, len: u64, least: u64) -> Result<()> {
        // Where we check, nobody else than the mounting user gets in.
        if self.options.access == Access::Kernel && by.uid != 0 {
            return Err(Error::NotPermitted);
        }
        self.writable()?;
        let size = u64::from(self.sb.block_size);
        let longest = u64::from(self.sb.blocks_per_group) * size;
        match start / size >= self.sb.blocks_count || len < size || least > longest {
            true => Err(Error::Invalid),
            false => Ok(()),
        }
    }
}

/// The runs of free blocks in a range, in ascending order; none of a group
/// whose bitmap is damaged.
pub fn runs(
    blocks: &dyn Blocks,
    sb: &Superblock,
    first: BlockNo,
    count: u64,
) -> Vec<(BlockNo, u64)> {
    let mut found = Vec::new();
    let end = first.0.saturating_add(count).min(sb.blocks_count);
    let mut at = first.0.max(sb.first_data_block);
    while at < end {
        let number = sb.group_of_block(BlockNo(at));
        let start = sb.group_start(number).0;
        let stop = end.min(start + u64::from(sb.group_blocks(number)));
        if let Ok(taken) = taken(blocks, sb, number) {
            let (mut from, to) = ((at - start) as u32, (stop - start) as u32);
            while let Some(free) = bitmap::next(&taken, from, to, false) {
                let upto = bitmap::next(&taken, free, to, true).unwrap_or(to);
                found.push((BlockNo(start + u64::from(free)), u64::from(upto - free)));
                from = upto;
            }
        }
        at = stop;
    }
    found
}

/// A group's blocks that are in use, the format's own among them even if a
/// forged bitmap calls them free.
fn taken(blocks: &dyn Blocks, sb: &Superblock, number: GroupNo) -> Result<Vec<u8>> {
    let group = group(blocks, sb, number)?;
    let bits = block_bitmap(blocks, sb, number, &group)?;
    let own = metadata_bitmap(blocks, sb, number)?;
    Ok(bits
        .iter()
        .zip(&own)
        .map(|(one, other)| one | other)
        .collect())
}
