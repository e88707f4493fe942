//! Inodes in their tables.

use super::damage::at as placed;
use super::judgement::Judgement;
use super::{Error, Result};
use crate::ext4::extent::MAX_BLOCKS;
use crate::ext4::group::{self, Group};
use crate::ext4::inode::Inode;
use crate::ext4::{Corrupt, Superblock, superblock};
use crate::journal::{Blocks, Txn};
use crate::units::{BlockNo, GroupNo, InodeNo};

/// A group's descriptor.
pub fn group(blocks: &dyn Blocks, sb: &Superblock, number: GroupNo) -> Result<Group> {
    let (block, at) = sb.descriptor_place(number);
    let bytes = blocks.block(block)?;
    let size = usize::from(sb.desc_size);
    let first = GroupNo(number.0 - (at / size) as u32);
    let all = bytes.once(Judgement::Descriptors.mark(sb.csum_seed), |bytes| {
        let groups = (first.0..sb.group_count()).map(GroupNo);
        let mut pairs = bytes.chunks_exact(size).zip(groups);
        pairs.try_for_each(|(raw, number)| group::verify(raw, sb, number))
    });
    // Where one is damaged the others are as good as they are.
    let decoded = match all {
        Ok(()) => Group::unsummed(&bytes[at..], sb, number),
        Err(_) => Group::decode(&bytes[at..], sb, number),
    };
    placed(InodeNo(0), block, decoded)
}

/// Writes a group's descriptor.
pub fn store_group(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    number: GroupNo,
    group: &Group,
) -> Result<()> {
    let (block, at) = sb.descriptor_place(number);
    group.encode(&mut txn.block_mut(block)?[at..], sb, number);
    Ok(())
}

/// Where an inode's bytes lie.
pub fn place(blocks: &dyn Blocks, sb: &Superblock, inode: InodeNo) -> Result<(BlockNo, usize)> {
    let (number, index) = sb.group_of_inode(inode)?;
    Ok(sb.inode_place(group(blocks, sb, number)?.inode_table, index))
}

/// An inode in use; `Error::Stale` if it is not.
pub fn load(blocks: &dyn Blocks, sb: &Superblock, number: InodeNo) -> Result<Inode> {
    let (block, at) = place(blocks, sb, number)?;
    let bytes = blocks.block(block)?;
    let raw = &bytes[at..at + usize::from(sb.inode_size)];
    // A never used inode is zeros, without a checksum.
    if raw[..2] == [0, 0] {
        return Err(Error::Stale);
    }
    let inode = placed(number, block, Inode::decode(raw, number, sb))?;
    // Without links it is on the orphan chain (`dtime`: the next one) or
    // deleted (`dtime`: when; mkfs numbers inodes far below any date).
    if inode.links == 0 && inode.dtime > sb.inodes_count {
        return Err(Error::Stale);
    }
    // No file has more blocks than numbers for them.
    match inode.size > u64::from(MAX_BLOCKS) * u64::from(sb.block_size) {
        true => Err(Corrupt::Field {
            what: format!("inode {number}"),
            field: "i_size",
            value: inode.size,
        }
        .at(number, block)
        .into()),
        false => Ok(inode),
    }
}

/// An inode that a name or a caller refers to: never one of the reserved
/// ones except the root. (A caller may make up any number, so that one outside
/// the tables is no damage; see [`named`] for names.)
pub fn load_file(blocks: &dyn Blocks, sb: &Superblock, number: InodeNo) -> Result<Inode> {
    match number == InodeNo::ROOT || number.0 >= sb.first_inode {
        true if number.0 <= sb.inodes_count => load(blocks, sb, number),
        _ => Err(Error::Stale),
    }
}

/// The inode that a directory's entry refers to: it must be in use.
pub fn named(blocks: &dyn Blocks, sb: &Superblock, dir: InodeNo, number: InodeNo) -> Result<Inode> {
    let dangling = |field| {
        Corrupt::Field {
            what: format!("entry of directory {dir}"),
            field,
            value: number.0.into(),
        }
        .at(dir, BlockNo(0))
    };
    match load_file(blocks, sb, number) {
        Err(Error::Stale) => Err(dangling("inode").into()),
        Ok(inode) if inode.links == 0 => Err(dangling("inode without links").into()),
        other => other,
    }
}

/// Writes an existing inode.
pub fn store(txn: &mut Txn<'_>, sb: &Superblock, inode: &Inode) -> Result<()> {
    let (block, at) = place(txn, sb, inode.number)?;
    inode.encode(&mut txn.block_mut(block)?[at..], sb);
    Ok(())
}

/// Writes a newly allocated inode whole: nothing of its predecessor stays.
pub fn create(txn: &mut Txn<'_>, sb: &Superblock, inode: &Inode) -> Result<()> {
    let (block, at) = place(txn, sb, inode.number)?;
    let raw = &mut txn.block_mut(block)?[at..at + usize::from(sb.inode_size)];
    raw.fill(0);
    inode.encode(raw, sb);
    Ok(())
}

/// The superblock's bytes as of now.
pub fn superblock(blocks: &dyn Blocks, sb: &Superblock) -> Result<[u8; superblock::SIZE]> {
    let (block, at) = sb.home();
    let mut raw = [0; superblock::SIZE];
    blocks.read(block, at, &mut raw)?;
    Ok(raw)
}

/// The superblock's bytes, for changing through `ext4::superblock`.
pub fn superblock_mut<'t>(txn: &'t mut Txn<'_>, sb: &Superblock) -> Result<&'t mut [u8]> {
    let (block, at) = sb.home();
    Ok(&mut txn.block_mut(block)?[at..at + superblock::SIZE])
}

/// Sets ro_compat bits of the superblock that are not set yet.
pub fn want_ro_compat(txn: &mut Txn<'_>, sb: &Superblock, mask: u32) -> Result<()> {
    if sb.features.ro_compat & mask != mask
        && !superblock::ro_compat_now(&superblock(txn, sb)?, mask)
    {
        superblock::set_ro_compat(superblock_mut(txn, sb)?, mask, 0);
    }
    Ok(())
}

/// Sets compat bits of the superblock that are not set yet.
pub fn want_compat(txn: &mut Txn<'_>, sb: &Superblock, mask: u32) -> Result<()> {
    if sb.features.compat & mask != mask && !superblock::compat_now(&superblock(txn, sb)?, mask) {
        superblock::set_compat(superblock_mut(txn, sb)?, mask);
    }
    Ok(())
}
