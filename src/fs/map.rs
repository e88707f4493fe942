//! A file's blocks: which block of the image a block of the file is.

use super::alloc::{free_blocks, new_blocks};
use super::{Error, Result, blockmap, tree};
use crate::ext4::Superblock;
use crate::ext4::extent::{Extent, MAX_BLOCKS, MAX_UNWRITTEN, MAX_WRITTEN};
use crate::ext4::features::ro_compat;
use crate::ext4::inode::{Inode, flag, mode};
use crate::journal::{Blocks, Txn};
use crate::units::{BlockNo, FileBlock};

/// Extents that one step of freeing takes before it looks at the record's size.
const STEP: usize = 16;
/// Blocks of a block map that one such step takes.
const MAPPED_STEP: u64 = 128;

/// What a block of a file is, and for how many blocks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing: reads as zeros.
    Hole {
        /// Blocks until the next that is mapped, or the end of what a file can have.
        len: u32,
    },
    /// Blocks of the image.
    Mapped {
        /// The first.
        block: BlockNo,
        /// How many follow in a row, this one included.
        len: u32,
        /// Allocated, but reads as zeros.
        unwritten: bool,
    },
}

/// Looks a block of a file up.
pub fn find(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode, at: FileBlock) -> Result<Mapping> {
    if !inode.has(flag::EXTENTS) {
        return blockmap::find(blocks, sb, inode, at);
    }
    let around = tree::around(blocks, sb, inode, at)?;
    match around.left.filter(|e| e.end() > u64::from(at.0)) {
        Some(extent) => {
            let rest = extent.slice(u64::from(at.0), u64::MAX);
            Ok(Mapping::Mapped {
                block: rest.block,
                len: rest.len,
                unwritten: rest.unwritten,
            })
        }
        None => Ok(Mapping::Hole {
            len: around.next.saturating_sub(at.0),
        }),
    }
}

/// Blocks that a file can have.
pub fn max_blocks(sb: &Superblock, inode: &Inode) -> u64 {
    match inode.has(flag::EXTENTS) {
        true => u64::from(MAX_BLOCKS).min(countable(sb)),
        false => blockmap::max_blocks(sb),
    }
}

/// Blocks that `i_blocks` can count: without huge_file it has 32 bits, for
/// sectors of 512 bytes.
pub(super) fn countable(sb: &Superblock) -> u64 {
    match sb.features.ro_compat(ro_compat::HUGE_FILE) {
        true => u64::MAX,
        false => u64::from(u32::MAX) / u64::from(sb.block_size / 512),
    }
}

/// Whether `i_block` leads to blocks at all: short symlinks and devices keep
/// other things there.
pub fn has_blocks(inode: &Inode) -> bool {
    match inode.kind() {
        mode::REGULAR | mode::DIRECTORY => true,
        mode::SYMLINK => inode.has(flag::EXTENTS) || inode.size >= 60,
        _ => false,
    }
}

/// Fills the hole at `at` with 1 ..= `want` blocks (`want` at most the hole's
/// length). Their contents are the caller's business.
pub fn allocate(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    at: FileBlock,
    want: u32,
    unwritten: bool,
    keep: u64,
) -> Result<(BlockNo, u32)> {
    if !inode.has(flag::EXTENTS) {
        return blockmap::allocate(txn, sb, inode, at, want, keep);
    }
    let left = tree::around(txn, sb, inode, at)?.left;
    let goal = left.map_or_else(
        || tree::inode_goal(sb, inode),
        |e| BlockNo(e.block.0 + u64::from(at.0) - u64::from(e.file.0)),
    );
    let want = want.min(if unwritten {
        MAX_UNWRITTEN
    } else {
        MAX_WRITTEN
    });
    let (block, len) = new_blocks(txn, sb, goal, want, keep)?;
    charge(sb, inode, u64::from(len));
    tree::insert(
        txn,
        sb,
        inode,
        Extent {
            file: at,
            len,
            block,
            unwritten,
        },
    )?;
    Ok((block, len))
}

/// Makes `at .. at + len`, which lie within one extent, written or unwritten.
pub fn mark(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    at: FileBlock,
    len: u32,
    unwritten: bool,
) -> Result<()> {
    let (from, to) = (u64::from(at.0), u64::from(at.0) + u64::from(len));
    let tangled = tree::tangled(inode, at);
    tree::edit(txn, sb, inode, at, &mut |list| {
        let slot = list.partition_point(|e| e.file <= at).saturating_sub(1);
        let Some(old) = list
            .get(slot)
            .copied()
            .filter(|e| e.file <= at && e.end() >= to)
        else {
            return Err(tangled.clone());
        };
        list.remove(slot);
        let pieces = [
            old.slice(0, from),
            Extent {
                unwritten,
                ..old.slice(from, to)
            },
            old.slice(to, u64::MAX),
        ];
        for piece in pieces.into_iter().filter(|p| p.len > 0) {
            tree::add(list, piece);
        }
        Ok(())
    })
}

/// Frees blocks `from ..` of a file, last ones first. False: the record has
/// grown past `budget` bytes before all was done; go on in another.
pub fn free_from(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    from: FileBlock,
    budget: usize,
) -> Result<bool> {
    if !has_blocks(inode) {
        return Ok(true);
    }
    if !inode.has(flag::EXTENTS) {
        return free_mapped_from(txn, sb, inode, u64::from(from.0), budget);
    }
    while let Some(last) = tree::last(txn, sb, inode)?.filter(|e| e.end() > u64::from(from.0)) {
        if txn.len() > budget {
            return Ok(false);
        }
        cut_last(txn, sb, inode, last.file, from)?;
    }
    Ok(true)
}

/// Frees up to `STEP` extents (or what of them lies behind `from`) at the end
/// of the leaf that has `key`.
fn cut_last(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    key: FileBlock,
    from: FileBlock,
) -> Result<()> {
    let mut freed = Vec::new();
    let from = u64::from(from.0);
    tree::edit(txn, sb, inode, key, &mut |list| {
        while freed.len() < STEP {
            let Some(last) = list.pop_if(|e| e.end() > from) else {
                break;
            };
            let keep = last.slice(0, from);
            if u64::from(last.file.0) < from {
                list.push(keep);
            }
            freed.push(last.slice(from, u64::MAX));
        }
        Ok(())
    })?;
    if freed.is_empty() {
        return Err(tree::tangled(inode, key));
    }
    release(txn, sb, inode, &freed)
}

/// Frees what is mapped in `from .. to`, first ones first. Answers up to where
/// it came before the record grew past `budget` bytes.
pub fn punch(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    from: FileBlock,
    to: FileBlock,
    budget: usize,
) -> Result<FileBlock> {
    let (mut at, end) = (u64::from(from.0), u64::from(to.0));
    while at < end {
        if txn.len() > budget {
            return Ok(FileBlock(at as u32));
        }
        if !inode.has(flag::EXTENTS) {
            at = punch_mapped(txn, sb, inode, at, end)?;
            continue;
        }
        let around = tree::around(txn, sb, inode, FileBlock(at as u32))?;
        match around.left.filter(|e| e.end() > at) {
            None => at = u64::from(around.next),
            Some(extent) => {
                let gone = extent.slice(at, end);
                // First: cutting an extent in two may need one of these blocks.
                release(txn, sb, inode, &[gone])?;
                let tangled = tree::tangled(inode, extent.file);
                tree::edit(txn, sb, inode, extent.file, &mut |list| {
                    let slot = list
                        .iter()
                        .position(|e| *e == extent)
                        .ok_or_else(|| tangled.clone())?;
                    list.remove(slot);
                    let pieces = [extent.slice(0, at), extent.slice(end, u64::MAX)];
                    pieces
                        .into_iter()
                        .filter(|p| p.len > 0)
                        .for_each(|piece| tree::add(list, piece));
                    Ok(())
                })?;
                at = gone.end();
            }
        }
    }
    Ok(to)
}

/// The same for a block map, a few blocks at a time.
fn free_mapped_from(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    from: u64,
    budget: usize,
) -> Result<bool> {
    while let Some(last) = blockmap::last(txn, sb, inode)?
        .map(|n| u64::from(n.0))
        .filter(|n| *n >= from)
    {
        if txn.len() > budget {
            return Ok(false);
        }
        blockmap::free_range(
            txn,
            sb,
            inode,
            from.max(last.saturating_sub(MAPPED_STEP)),
            last + 1,
        )?;
    }
    Ok(true)
}

fn punch_mapped(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    at: u64,
    end: u64,
) -> Result<u64> {
    match blockmap::find(txn, sb, inode, FileBlock(at as u32))? {
        Mapping::Hole { len } => Ok(at + u64::from(len.max(1))),
        Mapping::Mapped { .. } => {
            let upto = end.min(at + MAPPED_STEP);
            blockmap::free_range(txn, sb, inode, at, upto)?;
            Ok(upto)
        }
    }
}

fn release(txn: &mut Txn<'_>, sb: &Superblock, inode: &mut Inode, freed: &[Extent]) -> Result<()> {
    for extent in freed {
        free_blocks(txn, sb, extent.block, u64::from(extent.len))?;
        let units = u64::from(extent.len) * u64::from(sb.block_size / 512);
        inode.blocks = inode.blocks.saturating_sub(units);
    }
    Ok(())
}

/// Counts blocks that the file got.
fn charge(sb: &Superblock, inode: &mut Inode, blocks: u64) {
    inode.blocks += blocks * u64::from(sb.block_size / 512);
}

/// Adds a block of zeros to the end of a directory.
pub fn append_directory_block(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    keep: u64,
) -> Result<(FileBlock, BlockNo)> {
    let bs = u64::from(sb.block_size);
    let at = u32::try_from(inode.size / bs)
        .ok()
        .filter(|n| *n < MAX_BLOCKS)
        .ok_or(Error::TooBig)?;
    // Without large_dir a directory's size has 32 bits.
    if inode.size + bs > u64::from(u32::MAX) {
        return Err(Error::NoSpace);
    }
    let (block, _) = allocate(txn, sb, inode, FileBlock(at), 1, false, keep)?;
    txn.fresh(block)?;
    inode.size += bs;
    Ok((FileBlock(at), block))
}
