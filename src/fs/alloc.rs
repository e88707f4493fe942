//! Blocks and inodes: who is free, who is taken.
//!
//! Counts live in the group descriptors alone (the superblock's are sums,
//! written when the image is closed). Searches begin at a goal, so that what
//! belongs together lies together and a full group costs one descriptor.

use parking_lot::Mutex;

use super::damage::at as placed;
use super::inode::{group, store_group, superblock_mut};
use super::judgement::Judgement;
use super::{Error, Result};
use crate::ext4::bitmap::{self, Which};
use crate::ext4::group::{BLOCK_UNINIT, Group, INODE_UNINIT, INODE_ZEROED};
use crate::ext4::zones::Zones;
use crate::ext4::{Corrupt, Superblock, superblock};
use crate::journal::{Block, Blocks, Txn};
use crate::units::{BlockNo, GroupNo, InodeNo};

/// Groups that are looked at for a run of the wanted length, once there is a
/// shorter one.
const PATIENCE: u32 = 8;
/// Groups among which a directory of the root is placed.
const SPREAD: u32 = 64;

/// Takes 1 ..= `want` blocks in a row, at `goal` or as near behind it as may
/// be. So many blocks as `keep` stay free.
pub fn new_blocks(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    goal: BlockNo,
    want: u32,
    keep: u64,
) -> Result<(BlockNo, u32)> {
    let want = match keep {
        0 => want,
        _ => want.min(sparable(txn, sb, sb.group_of_block(goal), want, keep)?),
    };
    if want == 0 {
        return Err(Error::NoSpace);
    }
    let run = find_run(txn, sb, goal, want)?.ok_or(Error::NoSpace)?;
    take(txn, sb, &run)?;
    Ok((
        BlockNo(sb.group_start(run.group).0 + u64::from(run.at)),
        run.len,
    ))
}

/// Gives blocks back.
pub fn free_blocks(txn: &mut Txn<'_>, sb: &Superblock, first: BlockNo, count: u64) -> Result<()> {
    if !sb.may_hold_data(first, count) {
        return Err(Corrupt::BlockOutside {
            what: "freeing".into(),
            block: first,
        }
        .into());
    }
    let mut at = first;
    let end = first.0 + count;
    while at.0 < end {
        let number = sb.group_of_block(at);
        let start = sb.group_start(number);
        let stop = end.min(start.0 + u64::from(sb.group_blocks(number)));
        give(
            txn,
            sb,
            number,
            (at.0 - start.0) as u32,
            (stop - start.0) as u32,
        )?;
        at = BlockNo(stop);
    }
    txn.free(first, count);
    Ok(())
}

/// Groups that were seen without a free inode, a bit each, and got none since:
/// a directory that outgrows its group must not read their descriptors for
/// each new file. (Only committed groups are marked, and who frees an inode
/// has the guard, as who takes one.)
#[derive(Default)]
pub struct Full(Mutex<Vec<u8>>);

impl Full {
    /// Visits the groups that may have free inodes, from `first` around, until one did.
    fn visit(&self, sb: &Superblock, first: GroupNo, each: GroupVisit<'_>) -> Result<()> {
        let count = sb.group_count();
        let first = if first.0 < count { first.0 } else { 0 };
        let mut bits = self.0.lock();
        bits.resize(count.div_ceil(8) as usize, 0);
        for (mut at, end) in [(first, count), (0, first)] {
            while let Some(number) = bitmap::next(&bits, at, end, false) {
                match each(GroupNo(number))? {
                    Visit::Done => return Ok(()),
                    Visit::Full => bitmap::fill(&mut bits, number, number + 1, true),
                    Visit::GoOn => {}
                }
                at = number + 1;
            }
        }
        Ok(())
    }

    /// A group has a free inode, or may have one soon.
    fn forget(&self, number: GroupNo) {
        let mut bits = self.0.lock();
        if (number.0 as usize) < bits.len() * 8 {
            bitmap::fill(&mut bits, number.0, number.0 + 1, false);
        }
    }
}

/// What a look at a group came to.
enum Visit {
    Done,
    Full,
    GoOn,
}

type GroupVisit<'a> = &'a mut dyn FnMut(GroupNo) -> Result<Visit>;

/// Takes an inode near `parent`; `busy` numbers are passed over. The caller
/// writes it whole (`fs::inode::create`).
pub fn new_inode(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    full: &Full,
    parent: InodeNo,
    directory: bool,
    busy: &dyn Fn(InodeNo) -> bool,
) -> Result<InodeNo> {
    let (near, _) = sb.group_of_inode(parent)?;
    let first = if directory && parent == InodeNo::ROOT {
        emptiest(txn, sb)?
    } else {
        near
    };
    let mut taken = None;
    full.visit(sb, first, &mut |number| {
        if group(txn, sb, number)?.free_inodes == 0 {
            return Ok(Visit::Full);
        }
        let Some(index) = free_index(txn, sb, number, busy)? else {
            return Ok(Visit::GoOn);
        };
        take_inode(txn, sb, number, index, directory)?;
        taken = Some(sb.inode_at(number, index));
        Ok(Visit::Done)
    })?;
    taken.ok_or(Error::NoSpace)
}

/// Gives an inode number back (its blocks must be free, its bytes written).
pub fn free_inode(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    full: &Full,
    inode: InodeNo,
    was_directory: bool,
) -> Result<()> {
    let (number, index) = sb.group_of_inode(inode)?;
    full.forget(number);
    let mut group = group(txn, sb, number)?;
    let bits = inode_bitmap(txn, sb, number, &group)?;
    if inode.0 < sb.first_inode || !bitmap::get(&bits, index) || group.has(INODE_UNINIT) {
        return Err(inconsistent(
            number,
            "inode freed twice",
            u64::from(inode.0),
        ));
    }
    let bits = txn.block_mut(group.inode_bitmap)?;
    bitmap::fill(bits, index, index + 1, false);
    group.inode_bitmap_csum = bitmap::checksum(sb, Which::Inodes, bits);
    group.free_inodes += 1;
    if was_directory {
        let less = group.used_dirs.checked_sub(1);
        group.used_dirs = less.ok_or_else(|| inconsistent(number, "bg_used_dirs_count", 0))?;
    }
    store_group(txn, sb, number, &group)
}

/// The format's own blocks. (A group whose descriptor is damaged has none that
/// could be known, and can't be used either.)
pub fn zones(blocks: &dyn Blocks, sb: &Superblock) -> Zones {
    Zones::new(sb, |number| group(blocks, sb, number).ok())
}

/// Free blocks and inodes of all groups.
pub fn totals(blocks: &dyn Blocks, sb: &Superblock) -> Result<(u64, u32)> {
    let mut sum = (0, 0);
    for number in 0..sb.group_count() {
        let group = group(blocks, sb, GroupNo(number))?;
        sum.0 += u64::from(group.free_blocks);
        sum.1 += group.free_inodes;
    }
    Ok(sum)
}

/// Writes the sums over the groups into the superblock: when an image is
/// closed.
pub fn settle_counts(txn: &mut Txn<'_>, sb: &Superblock) -> Result<()> {
    let (blocks, inodes) = totals(txn, sb)?;
    superblock::set_free_counts(superblock_mut(txn, sb)?, blocks, inodes);
    Ok(())
}

/// All groups, from `first` around.
fn around(sb: &Superblock, first: GroupNo) -> impl Iterator<Item = GroupNo> + use<> {
    let count = sb.group_count();
    let first = if first.0 < count { first.0 } else { 0 };
    (first..count).chain(0..first).map(GroupNo)
}

/// What the kernel keeps free for its own needs, and leaves out of df's figures:
/// the fiftieth part, 4096 blocks at most. Only the nodes of extent trees come
/// from it, so that a full image can be punched and written to where it is
/// reserved.
pub fn kernel_reserve(sb: &Superblock) -> u64 {
    match sb.has_extents() {
        true => (sb.blocks_count / 50).min(4096),
        false => 0,
    }
}

/// How many of `want` blocks may be taken if `keep` are to stay free. Stops
/// counting as soon as all may: the usual case costs a look at few groups.
fn sparable(
    blocks: &dyn Blocks,
    sb: &Superblock,
    first: GroupNo,
    want: u32,
    keep: u64,
) -> Result<u32> {
    let enough = keep + u64::from(want);
    let mut free = 0;
    for number in around(sb, first) {
        free += u64::from(group(blocks, sb, number)?.free_blocks);
        if free >= enough {
            return Ok(want);
        }
    }
    Ok(free.saturating_sub(keep).min(u64::from(want)) as u32)
}

/// How many of `want` blocks a caller could have who must leave `keep`.
pub fn available(blocks: &dyn Blocks, sb: &Superblock, keep: u64, want: u64) -> Result<u64> {
    let mut free = 0;
    for number in around(sb, GroupNo(0)) {
        free += u64::from(group(blocks, sb, number)?.free_blocks);
        if free >= want + keep {
            return Ok(want);
        }
    }
    Ok(free.saturating_sub(keep))
}

/// Free blocks in a row.
struct Run {
    group: GroupNo,
    at: u32,
    len: u32,
}

fn find_run(txn: &Txn<'_>, sb: &Superblock, goal: BlockNo, want: u32) -> Result<Option<Run>> {
    let goal = if sb.contains(goal, 1) {
        goal
    } else {
        BlockNo(sb.first_data_block + 1)
    };
    let near = sb.group_of_block(goal);
    let mut best: Option<Run> = None;
    let mut tried = 0;
    for number in around(sb, near) {
        let group = group(txn, sb, number)?;
        if group.free_blocks == 0 {
            continue;
        }
        let bits = block_bitmap(txn, sb, number, &group)?;
        let size = sb.group_blocks(number);
        let from = if number == near {
            (goal.0 - sb.group_start(near).0) as u32
        } else {
            0
        };
        let run = if number == near && !bitmap::get(&bits, from) {
            // The very next block is free: contiguous beats long.
            let most = size.min(from.saturating_add(want));
            let end = bitmap::next(&bits, from, most, true).unwrap_or(most);
            return Ok(Some(Run {
                group: number,
                at: from,
                len: end - from,
            }));
        } else {
            longest(&bits, from, size, want)
        };
        let Some((at, len)) = run else {
            return Err(inconsistent(
                number,
                "bg_free_blocks_count",
                u64::from(group.free_blocks),
            ));
        };
        if best.as_ref().is_none_or(|b| b.len < len) {
            best = Some(Run {
                group: number,
                at,
                len,
            });
        }
        tried += 1;
        if len >= want || tried >= PATIENCE {
            break;
        }
    }
    Ok(best)
}

/// The first run of `want` zeros from `from` around, or the longest there is.
fn longest(bits: &[u8], from: u32, size: u32, want: u32) -> Option<(u32, u32)> {
    let mut best: Option<(u32, u32)> = None;
    for (mut at, end) in [(from, size), (0, from)] {
        while let Some(start) = bitmap::next(bits, at, end, false) {
            let most = size.min(start.saturating_add(want));
            let stop = bitmap::next(bits, start, most, true).unwrap_or(most);
            if best.is_none_or(|(_, len)| len < stop - start) {
                best = Some((start, stop - start));
            }
            if stop - start >= want {
                return best;
            }
            at = stop;
        }
    }
    best
}

fn take(txn: &mut Txn<'_>, sb: &Superblock, run: &Run) -> Result<()> {
    let mut group = group(txn, sb, run.group)?;
    if run.at < sb.base_blocks(run.group) {
        let block = sb.group_start(run.group).0 + u64::from(run.at);
        return Err(inconsistent(
            run.group,
            "superblock or descriptors called free",
            block,
        ));
    }
    init_block_bitmap(txn, sb, run.group, &mut group)?;
    let bits = txn.block_mut(group.block_bitmap)?;
    bitmap::fill(bits, run.at, run.at + run.len, true);
    group.block_bitmap_csum = bitmap::checksum(sb, Which::Blocks, bits);
    let left = group.free_blocks.checked_sub(run.len);
    group.free_blocks = left
        .ok_or_else(|| inconsistent(run.group, "bg_free_blocks_count", group.free_blocks.into()))?;
    store_group(txn, sb, run.group, &group)
}

/// Clears `from .. to` of a group's block bitmap.
fn give(txn: &mut Txn<'_>, sb: &Superblock, number: GroupNo, from: u32, to: u32) -> Result<()> {
    let mut group = group(txn, sb, number)?;
    let bits = block_bitmap(txn, sb, number, &group)?;
    let at = |bit: u32| sb.group_start(number).0 + u64::from(bit);
    if group.has(BLOCK_UNINIT) || from < sb.base_blocks(number) {
        return Err(inconsistent(
            number,
            "block freed that no file had",
            at(from),
        ));
    }
    if let Some(bit) = bitmap::next(&bits, from, to, false) {
        return Err(inconsistent(number, "block freed twice", at(bit)));
    }
    let bits = txn.block_mut(group.block_bitmap)?;
    bitmap::fill(bits, from, to, false);
    group.block_bitmap_csum = bitmap::checksum(sb, Which::Blocks, bits);
    group.free_blocks += to - from;
    store_group(txn, sb, number, &group)
}

/// A group's block bitmap, checked; computed where it was never written.
pub(super) fn block_bitmap(
    blocks: &dyn Blocks,
    sb: &Superblock,
    number: GroupNo,
    group: &Group,
) -> Result<Block> {
    if group.has(BLOCK_UNINIT) {
        return Ok(initial_block_bitmap(blocks, sb, number, group)?.into());
    }
    let bits = blocks.block(group.block_bitmap)?;
    bits.once(Judgement::BlockBitmap.mark(number.0), |bits| {
        let verified = bitmap::verify(sb, number, group, Which::Blocks, bits);
        placed(InodeNo(0), group.block_bitmap, verified)?;
        agrees(sb, number, group, bits)
    })?;
    Ok(bits)
}

/// Without a checksum a bitmap can still be seen to be wrong: what it calls
/// free are as many as the descriptor says, and none of the format's own.
fn agrees(sb: &Superblock, number: GroupNo, group: &Group, bits: &[u8]) -> Result<()> {
    let (start, size) = (sb.group_start(number), sb.group_blocks(number));
    let free = size - bitmap::ones(bits, size);
    if free != group.free_blocks {
        return Err(inconsistent(
            number,
            "bg_free_blocks_count against its bitmap",
            free.into(),
        ));
    }
    for (first, count) in sb.zones.within(start, size.into()) {
        let (from, to) = ((first - start.0) as u32, (first - start.0 + count) as u32);
        if let Some(at) = bitmap::next(bits, from, to, false) {
            return Err(inconsistent(
                number,
                "bitmap that calls free what is the format's own: block",
                start.0 + u64::from(at),
            ));
        }
    }
    Ok(())
}

/// What an uninitialised block bitmap stands for.
fn initial_block_bitmap(
    blocks: &dyn Blocks,
    sb: &Superblock,
    number: GroupNo,
    own: &Group,
) -> Result<Vec<u8>> {
    let bits = metadata_bitmap(blocks, sb, number)?;
    let size = sb.group_blocks(number);
    match size - bitmap::ones(&bits, size) {
        free if free == own.free_blocks => Ok(bits),
        free => Err(inconsistent(
            number,
            "bg_free_blocks_count of an uninitialised group",
            free.into(),
        )),
    }
}

/// The blocks of a group that are the format's own: superblock and
/// descriptors, bitmaps and tables, also those of other groups that flex_bg
/// put here, and padding.
pub(super) fn metadata_bitmap(
    blocks: &dyn Blocks,
    sb: &Superblock,
    number: GroupNo,
) -> Result<Vec<u8>> {
    let mut bits = vec![0; sb.block_size as usize];
    let size = sb.group_blocks(number);
    bitmap::fill(&mut bits, 0, sb.base_blocks(number).min(size), true);
    let start = sb.group_start(number).0;
    let mut mark = |first: BlockNo, count: u32| {
        let from = first.0.clamp(start, start + u64::from(size));
        let to = (first.0 + u64::from(count)).clamp(start, start + u64::from(size));
        bitmap::fill(&mut bits, (from - start) as u32, (to - start) as u32, true);
    };
    let flex = 1u32 << sb.log_groups_per_flex;
    let first = number.0 / flex * flex;
    for neighbour in first..first.saturating_add(flex).min(sb.group_count()) {
        let group = group(blocks, sb, GroupNo(neighbour))?;
        mark(group.block_bitmap, 1);
        mark(group.inode_bitmap, 1);
        mark(group.inode_table, sb.inode_table_blocks());
    }
    bitmap::fill(&mut bits, size, sb.block_size * 8, true);
    Ok(bits)
}

/// Writes the bitmap that was only implied so far.
fn init_block_bitmap(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    number: GroupNo,
    group: &mut Group,
) -> Result<()> {
    if group.has(BLOCK_UNINIT) {
        let bits = initial_block_bitmap(txn, sb, number, group)?;
        txn.fresh(group.block_bitmap)?.copy_from_slice(&bits);
        group.block_bitmap_csum = bitmap::checksum(sb, Which::Blocks, &bits);
        group.flags &= !BLOCK_UNINIT;
    }
    Ok(())
}

/// A group's inode bitmap, checked; computed where it was never written.
fn inode_bitmap(
    blocks: &dyn Blocks,
    sb: &Superblock,
    number: GroupNo,
    group: &Group,
) -> Result<Block> {
    if group.has(INODE_UNINIT) {
        return Ok(initial_inode_bitmap(sb).into());
    }
    let bits = blocks.block(group.inode_bitmap)?;
    let verified = bitmap::verify(sb, number, group, Which::Inodes, &bits);
    placed(InodeNo(0), group.inode_bitmap, verified)?;
    Ok(bits)
}

fn initial_inode_bitmap(sb: &Superblock) -> Vec<u8> {
    let mut bits = vec![0; sb.block_size as usize];
    bitmap::fill(&mut bits, sb.inodes_per_group, sb.block_size * 8, true);
    bits
}

/// The group with the fewest directories among those that aren't fuller than
/// the average.
fn emptiest(blocks: &dyn Blocks, sb: &Superblock) -> Result<GroupNo> {
    let count = sb.group_count().min(SPREAD);
    let groups = (0..count)
        .map(|n| group(blocks, sb, GroupNo(n)))
        .collect::<Result<Vec<_>>>()?;
    let average = |each: fn(&Group) -> u32| {
        groups.iter().map(|g| u64::from(each(g))).sum::<u64>() / u64::from(count)
    };
    let (inodes, room) = (average(|g| g.free_inodes), average(|g| g.free_blocks));
    let fits = |g: &Group| {
        g.free_inodes > 0 && u64::from(g.free_inodes) >= inodes && u64::from(g.free_blocks) >= room
    };
    let best = (0..count)
        .zip(&groups)
        .filter(|(_, g)| fits(g))
        .min_by_key(|(_, g)| g.used_dirs);
    Ok(GroupNo(best.map_or(0, |(n, _)| n)))
}

/// The first free inode of a group that nobody still refers to.
fn free_index(
    blocks: &dyn Blocks,
    sb: &Superblock,
    number: GroupNo,
    busy: &dyn Fn(InodeNo) -> bool,
) -> Result<Option<u32>> {
    let bits = inode_bitmap(blocks, sb, number, &group(blocks, sb, number)?)?;
    // Groups of fewer than eleven inodes share the reserved ones.
    let mut at = (sb.first_inode - 1).saturating_sub(number.0.saturating_mul(sb.inodes_per_group));
    while let Some(index) = bitmap::next(&bits, at, sb.inodes_per_group, false) {
        if !busy(sb.inode_at(number, index)) {
            return Ok(Some(index));
        }
        at = index + 1;
    }
    Ok(None)
}

fn take_inode(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    number: GroupNo,
    index: u32,
    directory: bool,
) -> Result<()> {
    let mut group = group(txn, sb, number)?;
    // As the kernel does: a group with inodes has both its bitmaps.
    init_block_bitmap(txn, sb, number, &mut group)?;
    if group.has(INODE_UNINIT) {
        txn.fresh(group.inode_bitmap)?
            .copy_from_slice(&initial_inode_bitmap(sb));
        group.flags &= !INODE_UNINIT;
    }
    let bits = txn.block_mut(group.inode_bitmap)?;
    bitmap::fill(bits, index, index + 1, true);
    group.inode_bitmap_csum = bitmap::checksum(sb, Which::Inodes, bits);
    let used = sb.inodes_per_group - group.itable_unused;
    if index >= used {
        if !group.has(INODE_ZEROED) {
            wipe_inodes(txn, sb, &group, used, index)?;
        }
        group.itable_unused = sb.inodes_per_group - index - 1;
    }
    let left = group.free_inodes.checked_sub(1);
    group.free_inodes = left.ok_or_else(|| inconsistent(number, "bg_free_inodes_count", 0))?;
    group.used_dirs += u32::from(directory);
    store_group(txn, sb, number, &group)
}

/// Inodes that come below the unused mark without being used must read as
/// zeros; in a table never written they hold anything.
fn wipe_inodes(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    group: &Group,
    from: u32,
    to: u32,
) -> Result<()> {
    for index in from..to {
        let (block, at) = sb.inode_place(group.inode_table, index);
        txn.block_mut(block)?[at..at + usize::from(sb.inode_size)].fill(0);
    }
    Ok(())
}

fn inconsistent(group: GroupNo, field: &'static str, value: u64) -> Error {
    Corrupt::Field {
        what: format!("group {group}"),
        field,
        value,
    }
    .into()
}
