//! Block maps, searched and changed: files of images without extents.

use super::alloc::{free_blocks, new_blocks};
use super::map::{Mapping, countable};
use super::tree::inode_goal;
use super::{Error, Result};
use crate::ext4::blockmap::{ROOTS, capacity, fanout, get, overhead, path, root_span, set};
use crate::ext4::inode::Inode;
use crate::ext4::{Corrupt, Superblock};
use crate::journal::{Blocks, Txn};
use crate::units::{BlockNo, FileBlock};

/// Blocks that a file can have: what the map holds, and what `i_blocks` can count.
pub fn max_blocks(sb: &Superblock) -> u64 {
    let bs = sb.block_size;
    let countable = countable(sb).saturating_sub(overhead(bs));
    capacity(bs).min(u64::from(u32::MAX)).min(countable)
}

/// Looks a block of a file up.
pub fn find(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode, at: FileBlock) -> Result<Mapping> {
    let at = u64::from(at.0);
    let Some(way) = path(at, sb.block_size) else {
        return Ok(Mapping::Hole {
            len: u32::MAX - at as u32,
        });
    };
    let mut pointer = checked(sb, inode, get(&inode.block, way.root))?;
    if way.levels == 0 {
        return Ok(run(&inode.block, way.root, 12));
    }
    for level in (1..=way.levels).rev() {
        let below = fanout(sb.block_size).pow(level);
        if pointer.0 == 0 {
            return Ok(Mapping::Hole {
                len: (below - way.inside % below).min(u64::from(u32::MAX)) as u32,
            });
        }
        let raw = blocks.block(pointer)?;
        let slot = slot(sb, way.inside, level);
        if level == 1 {
            checked(sb, inode, get(&raw, slot))?;
            return Ok(run(&raw, slot, raw.len() / 4));
        }
        pointer = checked(sb, inode, get(&raw, slot))?;
    }
    unreachable!("the last level answers")
}

/// Equal things from `slot` on: a hole, or blocks in a row.
fn run(raw: &[u8], slot: usize, slots: usize) -> Mapping {
    let first = get(raw, slot);
    let expected = |n: u64| if first.0 == 0 { 0 } else { first.0 + n };
    let len = (slot..slots)
        .zip(0..)
        .take_while(|(slot, n)| get(raw, *slot).0 == expected(*n))
        .count() as u32;
    match first.0 {
        0 => Mapping::Hole { len },
        _ => Mapping::Mapped {
            block: first,
            len,
            unwritten: false,
        },
    }
}

fn slot(sb: &Superblock, inside: u64, level: u32) -> usize {
    (inside / fanout(sb.block_size).pow(level - 1) % fanout(sb.block_size)) as usize
}

fn checked(sb: &Superblock, inode: &Inode, block: BlockNo) -> Result<BlockNo> {
    match block.0 == 0 || sb.may_hold_data(block, 1) {
        true => Ok(block),
        false => Err(Corrupt::BlockOutside {
            what: format!("block map of inode {}", inode.number),
            block,
        }
        .at(inode.number, block)
        .into()),
    }
}

/// Fills the hole at `at` with 1 ..= `want` blocks.
pub fn allocate(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    at: FileBlock,
    want: u32,
    keep: u64,
) -> Result<(BlockNo, u32)> {
    let way = path(u64::from(at.0), sb.block_size).ok_or(Error::TooBig)?;
    let mut holder = None; // the block with the pointer; none: the inode
    for level in (1..=way.levels).rev() {
        let at = if level == way.levels {
            way.root
        } else {
            slot(sb, way.inside, level + 1)
        };
        holder = Some(match pointer(txn, sb, inode, holder, at)? {
            BlockNo(0) => {
                let goal = holder.unwrap_or_else(|| inode_goal(sb, inode));
                let (block, _) = take(txn, sb, inode, goal, 1, keep)?;
                txn.fresh(block)?;
                set_pointers(txn, inode, holder, at, block, 1)?;
                block
            }
            block => block,
        });
    }
    let (at, slots) = match way.levels {
        0 => (way.root, 12),
        _ => (slot(sb, way.inside, 1), fanout(sb.block_size) as usize),
    };
    let mut room = 0;
    while at + room < slots
        && room < want as usize
        && pointer(txn, sb, inode, holder, at + room)?.0 == 0
    {
        room += 1;
    }
    let before = match at {
        0 => BlockNo(0),
        _ => pointer(txn, sb, inode, holder, at - 1)?,
    };
    let goal = match (before.0, holder) {
        (0, Some(holder)) => BlockNo(holder.0 + 1),
        (0, None) => inode_goal(sb, inode),
        (block, _) => BlockNo(block + 1),
    };
    let (first, count) = take(txn, sb, inode, goal, room as u32, keep)?;
    set_pointers(txn, inode, holder, at, first, count)?;
    Ok((first, count))
}

fn take(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    goal: BlockNo,
    want: u32,
    keep: u64,
) -> Result<(BlockNo, u32)> {
    let (first, count) = new_blocks(txn, sb, goal, want, keep)?;
    // Pointers have 32 bits; beyond them this kind of file finds no space.
    if first.0 + u64::from(count) > u64::from(u32::MAX) {
        return Err(Error::NoSpace);
    }
    inode.blocks += u64::from(count) * u64::from(sb.block_size / 512);
    Ok((first, count))
}

fn pointer(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    holder: Option<BlockNo>,
    slot: usize,
) -> Result<BlockNo> {
    let found = match holder {
        None => get(&inode.block, slot),
        Some(holder) => get(&blocks.block(holder)?, slot),
    };
    checked(sb, inode, found)
}

fn set_pointers(
    txn: &mut Txn<'_>,
    inode: &mut Inode,
    holder: Option<BlockNo>,
    at: usize,
    first: BlockNo,
    count: u32,
) -> Result<()> {
    let raw = match holder {
        None => &mut inode.block[..],
        Some(holder) => txn.block_mut(holder)?,
    };
    for n in 0..count as usize {
        set(raw, at + n, BlockNo(first.0 + n as u64));
    }
    Ok(())
}

/// The last block that a file has.
pub fn last(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Option<FileBlock>> {
    for root in (0..ROOTS).rev() {
        let (start, levels) = root_span(root, sb.block_size);
        let block = checked(sb, inode, get(&inode.block, root))?;
        if block.0 != 0
            && let Some(inside) = last_below(blocks, sb, inode, block, levels)?
        {
            let at = (start + inside).min(u64::from(u32::MAX));
            return Ok(Some(FileBlock(at as u32)));
        }
    }
    Ok(None)
}

fn last_below(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    block: BlockNo,
    level: u32,
) -> Result<Option<u64>> {
    if level == 0 {
        return Ok(Some(0));
    }
    let raw = blocks.block(block)?;
    let span = fanout(sb.block_size).pow(level - 1);
    for slot in (0..raw.len() / 4).rev() {
        let child = checked(sb, inode, get(&raw, slot))?;
        if child.0 != 0
            && let Some(inside) = last_below(blocks, sb, inode, child, level - 1)?
        {
            return Ok(Some(slot as u64 * span + inside));
        }
    }
    // Pointer blocks without pointers: freed with what lies before them.
    Ok(Some(0))
}

/// Frees what is mapped in `from .. to`, and blocks of pointers that come out
/// empty. One record must hold it: few hundred blocks at a time.
pub fn free_range(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    from: u64,
    to: u64,
) -> Result<()> {
    let mut freed = Vec::new();
    for root in 0..ROOTS {
        let (start, levels) = root_span(root, sb.block_size);
        let block = checked(sb, inode, get(&inode.block, root))?;
        let end = start + fanout(sb.block_size).pow(levels);
        if block.0 != 0 && from < end && to > start {
            let (from, to) = (from.saturating_sub(start), to - start);
            if levels == 0 || clear(txn, sb, inode, block, levels, from, to, &mut freed)? {
                freed.push(block);
                set(&mut inode.block, root, BlockNo(0));
            }
        }
    }
    inode.blocks = inode
        .blocks
        .saturating_sub(freed.len() as u64 * u64::from(sb.block_size / 512));
    freed.sort();
    for run in freed.chunk_by(|a, b| a.0 + 1 == b.0) {
        free_blocks(txn, sb, run[0], run.len() as u64)?;
    }
    Ok(())
}

/// Clears pointers below a block of them. True: none is left.
#[allow(clippy::too_many_arguments)]
fn clear(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &Inode,
    block: BlockNo,
    level: u32,
    from: u64,
    to: u64,
    freed: &mut Vec<BlockNo>,
) -> Result<bool> {
    let span = fanout(sb.block_size).pow(level - 1);
    let before = txn.block(block)?;
    let slots = before.len() / 4;
    let mut after = before.to_vec();
    let first = (from / span) as usize;
    let last = to.div_ceil(span).min(slots as u64) as usize;
    for slot in first..last {
        let child = checked(sb, inode, get(&before, slot))?;
        let start = slot as u64 * span;
        let gone = match (child.0, level) {
            (0, _) => false,
            (_, 1) => true,
            _ => clear(
                txn,
                sb,
                inode,
                child,
                level - 1,
                from.saturating_sub(start),
                to - start,
                freed,
            )?,
        };
        if gone {
            freed.push(child);
            set(&mut after, slot, BlockNo(0));
        }
    }
    let empty = (0..slots).all(|slot| get(&after, slot).0 == 0);
    if !empty && after[..] != before[..] {
        txn.block_mut(block)?.copy_from_slice(&after);
    }
    Ok(empty)
}
