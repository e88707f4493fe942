//! The figures of df.

use super::inode::load;
use super::{Fs, Result, alloc};
use crate::units::{GroupNo, InodeNo};

/// What statfs(2) answers, in blocks and inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Statfs {
    pub block_size: u32,
    /// All that files could have: without the format's own.
    pub blocks: u64,
    pub free: u64,
    /// Free for others than root.
    pub available: u64,
    pub inodes: u64,
    pub free_inodes: u64,
    pub name_max: u32,
}

impl Fs {
    /// Figures as the kernel's df shows them.
    pub fn statfs(&self) -> Result<Statfs> {
        let sb = &self.sb;
        let (free, free_inodes) = alloc::totals(&self.view(), sb)?;
        Ok(Statfs {
            block_size: sb.block_size,
            blocks: match self.options.minixdf {
                true => sb.blocks_count,
                false => sb.blocks_count.saturating_sub(self.overhead()?),
            },
            free,
            available: free.saturating_sub(sb.reserved_blocks + alloc::kernel_reserve(sb)),
            inodes: u64::from(sb.inodes_count),
            free_inodes: u64::from(free_inodes),
            name_max: 255,
        })
    }

    /// Blocks that no file can have. (What mkfs noted in the superblock is not
    /// asked, by the kernel neither: tools change the format and leave it.)
    fn overhead(&self) -> Result<u64> {
        let sb = &self.sb;
        if let Some(known) = self.overhead.get() {
            return Ok(*known);
        }
        let groups = (0..sb.group_count()).map(GroupNo);
        let bases: u64 = groups.map(|group| u64::from(sb.base_blocks(group))).sum();
        let tables = u64::from(sb.group_count()) * (u64::from(sb.inode_table_blocks()) + 2);
        let journal = match sb.journal_inode {
            0 => 0,
            number => load(&self.view(), sb, InodeNo(number))?.size / u64::from(sb.block_size),
        };
        let sum = sb.first_data_block + bases + tables + journal;
        Ok(*self.overhead.get_or_init(|| sum))
    }
}
