//! Makes an ext4 image.
//!
//! Only what differs from zeros is written: groups that nobody has used yet
//! have no bitmaps, and inode tables are the zeros of a fresh sparse file. A
//! terabyte takes as long as its descriptors.
//!
//! The power may fail meanwhile. What stood there before loses its
//! superblock first, and the new one has no magic until all else is on
//! disk: an unfinished image is none.

use std::io::Read;
use std::sync::Arc;

use super::inode::{create, load};
use super::{Error, alloc, dir};
use crate::device::Disk;
use crate::ext4::bitmap::{self, Which};
use crate::ext4::format::New;
use crate::ext4::group::{BLOCK_UNINIT, Group, INODE_UNINIT, INODE_ZEROED};
use crate::ext4::inode::{Inode, mode};
use crate::ext4::{Superblock, Unusable, superblock};
use crate::journal::{Journal, Op, Txn};
use crate::units::{BlockNo, GroupNo, InodeNo, Time};

/// Below this size blocks are small, and so are most files.
const SMALL: u64 = 64 << 20;
/// Below this size there is an inode for every 4 KiB, above for every 16 KiB.
const MEDIUM: u64 = 512 << 20;
const INODE_SIZE: u32 = 256;
/// What ext2 called a directory entry's type of directory.
const TYPE_DIRECTORY: u8 = 2;

/// What image to make.
#[derive(Clone, Debug, Default)]
pub struct MkfsOptions {
    /// Bytes; what doesn't make a whole block is left out.
    pub size: u64,
    /// The volume's name, up to 16 bytes.
    pub label: String,
    /// Its UUID; otherwise random.
    pub uuid: Option<[u8; 16]>,
    /// 1024, 2048 or 4096; otherwise as fits the size.
    pub block_size: Option<u32>,
    /// Nothing is random: the same seed and time make the same bytes.
    pub seed: Option<u64>,
    /// Owner of the root directory.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it is made.
    pub time: Time,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum MkfsError {
    /// The host failed.
    #[error("writing the image: {0}")]
    Io(#[from] std::io::Error),
    /// It can't be done like that.
    #[error("{0}")]
    Usage(String),
    /// Our own fault.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The first directories could not be made.
    #[error(transparent)]
    Fs(#[from] Error),
}

/// Makes an image on `disk`, whose contents are lost; it gets the size.
pub fn mkfs(disk: &Arc<dyn Disk>, options: &MkfsOptions) -> Result<Superblock, MkfsError> {
    let (mut raw, sb, groups) = plan(options)?;
    forget_image(disk.as_ref())?;
    disk.set_len(0)?;
    disk.set_len(options.size)?;
    let groups = lay_out(&sb, groups)?;
    write_bitmaps(disk.as_ref(), &sb, &groups)?;
    disk.write_at(
        &descriptors(&sb, &groups),
        block_offset(&sb, sb.descriptor_place(GroupNo(0)).0),
    )?;
    superblock::set_known(&mut raw, false);
    disk.write_at(&raw, superblock::OFFSET)?;
    make_directories(disk, &sb, options)?;
    disk.read_at(&mut raw, superblock::OFFSET)?;
    superblock::set_known(&mut raw, true);
    write_backups(disk.as_ref(), &sb, raw)?;
    disk.sync()?;
    // Nothing else is in flight: found torn, its checksum is wrong.
    disk.write_at(&raw, superblock::OFFSET)?;
    disk.sync()?;
    Ok(sb)
}

/// What stood here is no image any more, before any of it changes.
fn forget_image(disk: &dyn Disk) -> Result<(), MkfsError> {
    if disk.len()? >= superblock::OFFSET + superblock::SIZE as u64 {
        disk.write_at(&[0; superblock::SIZE], superblock::OFFSET)?;
        disk.sync()?;
    }
    Ok(())
}

/// The geometry: a last group too short for its own metadata is left out.
fn plan(options: &MkfsOptions) -> Result<([u8; superblock::SIZE], Superblock, u32), MkfsError> {
    let bs = options
        .block_size
        .unwrap_or(if options.size < SMALL { 1024 } else { 4096 });
    if ![1024, 2048, 4096].contains(&bs) {
        return Err(MkfsError::Usage(format!(
            "blocks of {bs} bytes: 1024, 2048 and 4096 are possible"
        )));
    }
    let label = options.label.as_bytes();
    if label.len() > 16 {
        return Err(MkfsError::Usage(format!(
            "the label has {} bytes, 16 are possible",
            label.len()
        )));
    }
    let mut random = Random::new(options.seed)?;
    let mut new = New {
        block_size: bs,
        blocks: options.size / u64::from(bs),
        inodes_per_group: 0,
        uuid: options.uuid.map_or_else(|| random.uuid(), Ok)?,
        hash_seed: random.uuid()?,
        label: [0; 16],
        time: options.time,
    };
    new.label[..label.len()].copy_from_slice(label);
    let too_small = || {
        MkfsError::Usage(format!(
            "{} bytes are too few for a file system",
            options.size
        ))
    };
    if new.blocks < 256 {
        return Err(too_small());
    }
    loop {
        new.inodes_per_group = inodes_per_group(&new, options.size)?;
        let (raw, sb) = new.superblock()?;
        let groups = sb.group_count();
        let last = GroupNo(groups - 1);
        let tables = if last.0.is_multiple_of(1 << sb.log_groups_per_flex) {
            2 + sb.inode_table_blocks()
        } else {
            0
        };
        if sb.group_blocks(last) > sb.base_blocks(last) + tables + 8 {
            return Ok((raw, sb, groups));
        }
        if groups == 1 {
            return Err(too_small());
        }
        new.blocks = sb.group_start(last).0;
    }
}

fn inodes_per_group(new: &New, size: u64) -> Result<u32, MkfsError> {
    let each = if size < MEDIUM { 4096 } else { 16384 };
    let per_block = u64::from(new.block_size / INODE_SIZE).max(8);
    let wanted = (size / each)
        .div_ceil(new.groups())
        .max(16)
        .next_multiple_of(per_block);
    let most = u64::from(new.block_size) * 8;
    let inodes = wanted.min(most);
    match inodes.checked_mul(new.groups()) {
        Some(all) if all <= u64::from(u32::MAX) => Ok(inodes as u32),
        _ => Err(MkfsError::Usage(format!(
            "{size} bytes are too many: with an inode for every {each} they would need more than 2^32"
        ))),
    }
}

/// Where the groups' tables lie: together, at the start of each row of
/// groups, around the backups.
fn lay_out(sb: &Superblock, count: u32) -> Result<Vec<Group>, MkfsError> {
    let mut groups = vec![Group::default(); count as usize];
    let row = 1 << sb.log_groups_per_flex;
    for (n, row) in groups.chunks_mut(row).enumerate() {
        let mut free = sb.group_start(GroupNo((n as u32) << sb.log_groups_per_flex));
        for group in row.iter_mut() {
            group.block_bitmap = next(sb, &mut free, 1)?;
        }
        for group in row.iter_mut() {
            group.inode_bitmap = next(sb, &mut free, 1)?;
        }
        for group in row.iter_mut() {
            group.inode_table = next(sb, &mut free, sb.inode_table_blocks())?;
        }
    }
    for number in 0..count {
        let used = bits_of(sb, &groups, GroupNo(number));
        let size = sb.group_blocks(GroupNo(number));
        let in_use = bitmap::ones(&used, size);
        let group = &mut groups[number as usize];
        group.free_blocks = size - in_use;
        group.flags = INODE_ZEROED;
        if in_use == sb.base_blocks(GroupNo(number)) && number + 1 < count {
            group.flags |= BLOCK_UNINIT;
        } else {
            group.block_bitmap_csum = bitmap::checksum(sb, Which::Blocks, &used);
        }
        let reserved = if number == 0 { sb.first_inode - 1 } else { 0 };
        group.free_inodes = sb.inodes_per_group - reserved;
        group.itable_unused = group.free_inodes;
        match number {
            0 => {
                group.inode_bitmap_csum = bitmap::checksum(sb, Which::Inodes, &reserved_inodes(sb))
            }
            _ => group.flags |= INODE_UNINIT,
        }
    }
    Ok(groups)
}

/// The next `count` blocks in a row that no backup is in.
fn next(sb: &Superblock, free: &mut BlockNo, count: u32) -> Result<BlockNo, MkfsError> {
    loop {
        let end = free.0 + u64::from(count);
        if end > sb.blocks_count {
            return Err(MkfsError::Usage("too small for its own tables".into()));
        }
        let groups = sb.group_of_block(*free).0..=sb.group_of_block(BlockNo(end - 1)).0;
        let base = |n: u32| sb.group_start(GroupNo(n)).0 + u64::from(sb.base_blocks(GroupNo(n)));
        let in_the_way = groups
            .rev()
            .find(|n| base(*n) > free.0 && sb.group_start(GroupNo(*n)).0 < end);
        match in_the_way {
            Some(group) => *free = BlockNo(base(group)),
            None => return Ok(std::mem::replace(free, BlockNo(end))),
        }
    }
}

/// A group's block bitmap as mkfs leaves it. Tables lie in their own row.
fn bits_of(sb: &Superblock, groups: &[Group], number: GroupNo) -> Vec<u8> {
    let mut bits = vec![0; sb.block_size as usize];
    let (start, size) = (sb.group_start(number).0, sb.group_blocks(number));
    bitmap::fill(&mut bits, 0, sb.base_blocks(number), true);
    bitmap::fill(&mut bits, size, sb.block_size * 8, true);
    let row = 1usize << sb.log_groups_per_flex;
    let first = number.0 as usize / row * row;
    for group in &groups[first..groups.len().min(first + row)] {
        for (block, count) in [
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, sb.inode_table_blocks()),
        ] {
            let clip = |at: u64| (at.clamp(start, start + u64::from(size)) - start) as u32;
            bitmap::fill(
                &mut bits,
                clip(block.0),
                clip(block.0 + u64::from(count)),
                true,
            );
        }
    }
    bits
}

fn reserved_inodes(sb: &Superblock) -> Vec<u8> {
    let mut bits = vec![0; sb.block_size as usize];
    bitmap::fill(&mut bits, 0, sb.first_inode - 1, true);
    bitmap::fill(&mut bits, sb.inodes_per_group, sb.block_size * 8, true);
    bits
}

fn descriptors(sb: &Superblock, groups: &[Group]) -> Vec<u8> {
    let mut raw = vec![0; (sb.descriptor_blocks() * sb.block_size) as usize];
    let slots = raw.chunks_exact_mut(usize::from(sb.desc_size));
    for ((number, group), slot) in groups.iter().enumerate().zip(slots) {
        group.encode(slot, sb, GroupNo(number as u32));
    }
    raw
}

/// Writes the bitmaps that aren't implied.
fn write_bitmaps(disk: &dyn Disk, sb: &Superblock, groups: &[Group]) -> Result<(), MkfsError> {
    for (number, group) in groups.iter().enumerate() {
        if !group.has(BLOCK_UNINIT) {
            let bits = bits_of(sb, groups, GroupNo(number as u32));
            disk.write_at(&bits, block_offset(sb, group.block_bitmap))?;
        }
        if !group.has(INODE_UNINIT) {
            disk.write_at(&reserved_inodes(sb), block_offset(sb, group.inode_bitmap))?;
        }
    }
    Ok(())
}

fn block_offset(sb: &Superblock, block: BlockNo) -> u64 {
    block.0 * u64::from(sb.block_size)
}

/// The root and lost+found, made as any others.
fn make_directories(
    disk: &Arc<dyn Disk>,
    sb: &Superblock,
    options: &MkfsOptions,
) -> Result<(), MkfsError> {
    let journal = Journal::scratch(disk.clone(), sb.block_size as usize);
    let mut txn = journal.begin().map_err(Error::from)?;
    make_root(&mut txn, sb, options)?;
    make_lost_found(&mut txn, sb, options.time)?;
    alloc::settle_counts(&mut txn, sb)?;
    txn.commit(&Op::Orphan {
        inode: InodeNo::ROOT,
    })
    .map_err(Error::from)?;
    journal.flush().map_err(Error::from)?;
    Ok(())
}

fn make_root(txn: &mut Txn<'_>, sb: &Superblock, options: &MkfsOptions) -> Result<(), Error> {
    let mut root = Inode::new(InodeNo::ROOT, mode::DIRECTORY | 0o755, 0, options.time, sb);
    (root.uid, root.gid, root.links) = (options.uid, options.gid, 3);
    create(txn, sb, &root)?;
    dir::init(txn, sb, &mut root, InodeNo::ROOT, 0)?;
    let mut group = super::inode::group(txn, sb, GroupNo(0))?;
    group.used_dirs += 1; // its inode is a reserved one
    super::inode::store_group(txn, sb, GroupNo(0), &group)?;
    super::inode::store(txn, sb, &root)
}

fn make_lost_found(txn: &mut Txn<'_>, sb: &Superblock, time: Time) -> Result<(), Error> {
    // Near inode 1, not as a child of the root, whose directories are spread:
    // everyone expects the first free number.
    let number = alloc::new_inode(txn, sb, &alloc::Full::default(), InodeNo(1), true, &|_| {
        false
    })?;
    let mut found = Inode::new(number, mode::DIRECTORY | 0o700, 0, time, sb);
    found.links = 2;
    create(txn, sb, &found)?;
    dir::init(txn, sb, &mut found, InodeNo::ROOT, 0)?;
    super::inode::store(txn, sb, &found)?;
    let mut root = load(txn, sb, InodeNo::ROOT)?;
    dir::insert(txn, sb, &mut root, b"lost+found", number, TYPE_DIRECTORY, 0)?;
    super::inode::store(txn, sb, &root)
}

/// Copies of superblock and descriptors, for e2fsck's bad days.
fn write_backups(
    disk: &dyn Disk,
    sb: &Superblock,
    mut raw: [u8; superblock::SIZE],
) -> Result<(), MkfsError> {
    let mut table = vec![0; (sb.descriptor_blocks() * sb.block_size) as usize];
    disk.read_at(
        &mut table,
        block_offset(sb, sb.descriptor_place(GroupNo(0)).0),
    )?;
    for number in (1..sb.group_count())
        .map(GroupNo)
        .filter(|n| sb.has_backup(*n))
    {
        let start = block_offset(sb, sb.group_start(number));
        superblock::set_backup_of(&mut raw, number);
        disk.write_at(&raw, start)?;
        disk.write_at(&table, start + u64::from(sb.block_size))?;
    }
    Ok(())
}

/// Random bytes: the host's, or a seed's.
enum Random {
    Host(std::fs::File),
    Seed(u64),
}

impl Random {
    fn new(seed: Option<u64>) -> std::io::Result<Self> {
        Ok(match seed {
            Some(seed) => Random::Seed(seed),
            None => Random::Host(std::fs::File::open("/dev/urandom")?),
        })
    }

    /// A version 4 UUID.
    fn uuid(&mut self) -> std::io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        match self {
            Random::Host(file) => file.read_exact(&mut bytes)?,
            Random::Seed(state) => bytes
                .chunks_exact_mut(8)
                .for_each(|piece| piece.copy_from_slice(&step(state))),
        }
        bytes[6] = bytes[6] & 0x0F | 0x40;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        Ok(bytes)
    }
}

/// SplitMix64: enough to tell images apart.
fn step(state: &mut u64) -> [u8; 8] {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests;
