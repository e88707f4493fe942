//! The superblock: geometry, features, and where everything else lies.
//!
//! [`Superblock`] holds what never changes while an image is open. The few
//! fields that do change (orphan chain, feature bits set when first needed)
//! are read and written in the raw bytes, through [`last_orphan`] and its
//! neighbours; [`seal`] puts the checksum right after a change.

use super::bytes::{halves, le16, le32, put_halves, put32};
use super::checksum::crc32c;
use super::features::{Features, compat, incompat, ro_compat};
use super::zones::Zones;
use super::{Corrupt, Unusable};
use crate::units::{BlockNo, GroupNo, InodeNo};

/// Bytes of a superblock.
pub const SIZE: usize = 1024;
/// Where it lies in the image, in bytes.
pub const OFFSET: u64 = 1024;
const MAGIC: u16 = 0xEF53;
/// `s_state`: unmounted cleanly.
pub const STATE_CLEAN: u16 = 1;
/// `s_state`: errors were seen (ERROR_FS).
pub const STATE_ERRORS: u16 = 2;

const REVISION: usize = 0x4C;
const CHECKSUM: usize = 0x3FC;
const LAST_ORPHAN: usize = 0xE8;
const RO_COMPAT: usize = 0x64;
const COMPAT: usize = 0x5C;
const INCOMPAT: usize = 0x60;

/// A decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the format's own fields, under their plain names
pub struct Superblock {
    pub block_size: u32,
    pub blocks_count: u64,
    pub inodes_count: u32,
    pub blocks_per_group: u32,
    pub inodes_per_group: u32,
    pub first_data_block: u64,
    /// First inode that files may have.
    pub first_inode: u32,
    pub inode_size: u16,
    pub desc_size: u16,
    /// Blocks kept for root.
    pub reserved_blocks: u64,
    pub reserved_uid: u16,
    pub reserved_gid: u16,
    pub reserved_gdt_blocks: u16,
    /// With sparse_super2, the groups that have copies; 0: none.
    pub backup_groups: [u32; 2],
    /// What mkfs says is not for files, in blocks; 0: not said.
    pub overhead_blocks: u32,
    pub features: Features,
    pub state: u16,
    pub uuid: [u8; 16],
    pub label: [u8; 16],
    /// Where all metadata checksums begin.
    pub csum_seed: u32,
    pub hash_seed: [u32; 4],
    pub hash_default_version: u8,
    /// Names are hashed as unsigned bytes.
    pub unsigned_hash: bool,
    /// Neither hash-signedness flag is set: choose one and write it.
    pub hash_sign_unset: bool,
    /// Extra inode bytes that new inodes get.
    pub want_extra_isize: u16,
    pub log_groups_per_flex: u8,
    pub journal_inode: u32,
    pub orphan_file_inode: u32,
    pub lost_found_inode: u32,
    /// The format's own blocks, as far as they have been looked up.
    pub zones: Zones,
}

impl Superblock {
    /// Decodes the 1024 bytes at offset 1024 of an image.
    pub fn decode(raw: &[u8; SIZE]) -> Result<Self, Unusable> {
        let magic = le16(raw, 0x38);
        if magic != MAGIC {
            return Err(Corrupt::NotExt4 { magic }.into());
        }
        let features = features_of(raw)?;
        refuse_unreadable(raw, features)?;
        verify(raw, features)?;
        let sb = Self::fields(raw, features)?;
        sb.check_geometry(raw)?;
        Ok(sb)
    }

    fn fields(raw: &[u8; SIZE], features: Features) -> Result<Self, Unusable> {
        let log_block_size = le32(raw, 0x18);
        if log_block_size > 2 {
            return Err(match log_block_size {
                3..=6 => {
                    Unusable::Unsupported(format!("blocks of {} bytes", 1024u64 << log_block_size))
                }
                _ => field("s_log_block_size", u64::from(log_block_size)).into(),
            });
        }
        let dynamic = le32(raw, REVISION) > 0;
        let is64 = features.incompat(incompat::BIT64);
        let high = |at| {
            if is64 {
                u64::from(le32(raw, at)) << 32
            } else {
                0
            }
        };
        let flags = le32(raw, 0x160);
        let uuid: [u8; 16] = raw[0x68..0x78].try_into().expect("16 bytes");
        let inode_size = if dynamic { le16(raw, 0x58) } else { 128 };
        Ok(Superblock {
            block_size: 1024 << log_block_size,
            blocks_count: u64::from(le32(raw, 0x4)) | high(0x150),
            inodes_count: le32(raw, 0x0),
            blocks_per_group: le32(raw, 0x20),
            inodes_per_group: le32(raw, 0x28),
            first_data_block: u64::from(le32(raw, 0x14)),
            first_inode: if dynamic { le32(raw, 0x54) } else { 11 },
            inode_size,
            desc_size: if is64 { le16(raw, 0xFE) } else { 32 },
            reserved_blocks: (u64::from(le32(raw, 0x8)) | high(0x154)).min(1 << 48),
            reserved_uid: le16(raw, 0x50),
            reserved_gid: le16(raw, 0x52),
            reserved_gdt_blocks: if features.compat(compat::RESIZE_INODE) {
                le16(raw, 0xCE)
            } else {
                0
            },
            backup_groups: [le32(raw, 0x24C), le32(raw, 0x250)],
            overhead_blocks: le32(raw, 0x248),
            features,
            state: le16(raw, 0x3A),
            uuid,
            label: raw[0x78..0x88].try_into().expect("16 bytes"),
            csum_seed: match features.incompat(incompat::CSUM_SEED) {
                true => le32(raw, 0x270),
                false => crc32c(!0, &uuid),
            },
            hash_seed: [0, 4, 8, 12].map(|n| le32(raw, 0xEC + n)),
            hash_default_version: raw[0xFC],
            unsigned_hash: flags & 2 != 0,
            hash_sign_unset: flags & 3 == 0,
            want_extra_isize: match inode_size {
                0..=128 => 0,
                // What the kernel itself writes, unless more is asked for.
                size => le16(raw, 0x15E).max(32).min(size - 128) & !3,
            },
            log_groups_per_flex: if features.incompat(incompat::FLEX_BG) {
                raw[0x174]
            } else {
                0
            },
            journal_inode: le32(raw, 0xE0),
            orphan_file_inode: if features.compat(compat::ORPHAN_FILE) {
                le32(raw, 0x280)
            } else {
                0
            },
            lost_found_inode: le32(raw, 0x268),
            zones: Zones::default(),
        })
    }

    fn check_geometry(&self, raw: &[u8; SIZE]) -> Result<(), Corrupt> {
        let bs = self.block_size;
        let cluster = le32(raw, 0x1C);
        let bigalloc = self.features.ro_compat(0x200);
        // A promise of room in inodes of 128 bytes is nobody's concern.
        let extra_fits = |at| {
            self.inode_size <= 128
                || !self.features.ro_compat(ro_compat::EXTRA_ISIZE)
                || le16(raw, at) <= self.inode_size - 128
        };
        let checks: [(bool, &'static str, u64); 12] = [
            (
                self.first_data_block == u64::from(bs == 1024) || bigalloc,
                "s_first_data_block",
                self.first_data_block,
            ),
            (
                bigalloc || cluster == le32(raw, 0x18),
                "s_log_cluster_size",
                u64::from(cluster),
            ),
            (
                (8..=8 * bs).contains(&self.blocks_per_group)
                    && self.blocks_per_group.is_multiple_of(8)
                    || bigalloc && self.blocks_per_group > 0,
                "s_blocks_per_group",
                u64::from(self.blocks_per_group),
            ),
            (
                (8..=8 * bs).contains(&self.inodes_per_group)
                    && self.inodes_per_group.is_multiple_of(8),
                "s_inodes_per_group",
                u64::from(self.inodes_per_group),
            ),
            (
                self.inode_size.is_power_of_two()
                    && (128..=bs).contains(&u32::from(self.inode_size)),
                "s_inode_size",
                u64::from(self.inode_size),
            ),
            (
                self.desc_size.is_power_of_two() && (32..=1024).contains(&self.desc_size),
                "s_desc_size",
                u64::from(self.desc_size),
            ),
            (
                !self.features.incompat(incompat::BIT64) || self.desc_size >= 64,
                "s_desc_size",
                u64::from(self.desc_size),
            ),
            (
                self.blocks_count > self.first_data_block && self.blocks_count < 1 << 48,
                "s_blocks_count",
                self.blocks_count,
            ),
            (
                self.first_inode >= 11 && self.first_inode <= self.inodes_count,
                "s_first_ino",
                u64::from(self.first_inode),
            ),
            (
                self.log_groups_per_flex < 32,
                "s_log_groups_per_flex",
                u64::from(self.log_groups_per_flex),
            ),
            (
                extra_fits(0x15C),
                "s_min_extra_isize",
                u64::from(le16(raw, 0x15C)),
            ),
            (
                extra_fits(0x15E),
                "s_want_extra_isize",
                u64::from(le16(raw, 0x15E)),
            ),
        ];
        if let Some((_, name, value)) = checks.into_iter().find(|(holds, _, _)| !holds) {
            return Err(field(name, value));
        }
        let groups =
            (self.blocks_count - self.first_data_block).div_ceil(u64::from(self.blocks_per_group));
        if groups.checked_mul(u64::from(self.inodes_per_group))
            != Some(u64::from(self.inodes_count))
        {
            return Err(field("s_inodes_count", u64::from(self.inodes_count)));
        }
        Ok(())
    }

    /// Whether metadata carries crc32c checksums.
    pub fn has_metadata_csum(&self) -> bool {
        self.features.ro_compat(ro_compat::METADATA_CSUM)
    }
    /// Whether groups may be uninitialised (and descriptors carry checksums).
    pub fn has_uninit_groups(&self) -> bool {
        self.features
            .ro_compat(ro_compat::METADATA_CSUM | ro_compat::GDT_CSUM)
    }
    /// Whether new files get extent trees.
    pub fn has_extents(&self) -> bool {
        self.features.incompat(incompat::EXTENTS)
    }

    /// Bytes of the file system.
    pub fn bytes(&self) -> u64 {
        self.blocks_count.saturating_mul(u64::from(self.block_size))
    }
    /// Number of block groups.
    pub fn group_count(&self) -> u32 {
        self.blocks_count
            .saturating_sub(self.first_data_block)
            .div_ceil(u64::from(self.blocks_per_group)) as u32
    }
    /// The first block of a group.
    pub fn group_start(&self, group: GroupNo) -> BlockNo {
        BlockNo(self.first_data_block + u64::from(group.0) * u64::from(self.blocks_per_group))
    }
    /// Blocks in a group; the last one may be short.
    pub fn group_blocks(&self, group: GroupNo) -> u32 {
        let rest = self.blocks_count.saturating_sub(self.group_start(group).0);
        rest.min(u64::from(self.blocks_per_group)) as u32
    }
    /// Whether a file may have these blocks: they lie within the image and are
    /// none of the format's own.
    pub fn may_hold_data(&self, first: BlockNo, count: u64) -> bool {
        self.contains(first, count) && !self.zones.meet(first, count)
    }
    /// The group of a block (which must be a data block).
    pub fn group_of_block(&self, block: BlockNo) -> GroupNo {
        GroupNo(
            (block.0.saturating_sub(self.first_data_block) / u64::from(self.blocks_per_group))
                as u32,
        )
    }
    /// Whether `first .. first + count` are blocks that a file could have.
    pub fn contains(&self, first: BlockNo, count: u64) -> bool {
        first.0 > self.first_data_block
            && first
                .0
                .checked_add(count)
                .is_some_and(|end| end <= self.blocks_count)
    }
    /// The group of an inode and its index there.
    pub fn group_of_inode(&self, inode: InodeNo) -> Result<(GroupNo, u32), Corrupt> {
        if inode.0 == 0 || inode.0 > self.inodes_count {
            return Err(Corrupt::InodeOutside { inode });
        }
        let index = inode.0 - 1;
        Ok((
            GroupNo(index / self.inodes_per_group),
            index % self.inodes_per_group,
        ))
    }
    /// The inode with an index in a group.
    pub fn inode_at(&self, group: GroupNo, index: u32) -> InodeNo {
        InodeNo(group.0 * self.inodes_per_group + index + 1)
    }
    /// Block and byte offset of an inode's bytes, by its index in the group's table.
    pub fn inode_place(&self, table: BlockNo, index: u32) -> (BlockNo, usize) {
        let at = u64::from(index) * u64::from(self.inode_size);
        let bs = u64::from(self.block_size);
        (BlockNo(table.0 + at / bs), (at % bs) as usize)
    }
    /// Blocks of one group's inode table.
    pub fn inode_table_blocks(&self) -> u32 {
        (u64::from(self.inodes_per_group) * u64::from(self.inode_size))
            .div_ceil(u64::from(self.block_size)) as u32
    }
    /// Blocks of the group descriptors.
    pub fn descriptor_blocks(&self) -> u32 {
        self.group_count()
            .div_ceil(self.block_size / u32::from(self.desc_size))
    }
    /// Block and byte offset of a group's descriptor.
    pub fn descriptor_place(&self, group: GroupNo) -> (BlockNo, usize) {
        let each = self.block_size / u32::from(self.desc_size);
        let block = self.first_data_block + 1 + u64::from(group.0 / each);
        (
            BlockNo(block),
            (group.0 % each) as usize * usize::from(self.desc_size),
        )
    }
    /// Whether the same things lie at the same places.
    pub fn has_shape_of(&self, other: &Superblock) -> bool {
        let shape = |sb: &Superblock| {
            (
                (sb.block_size, sb.blocks_count, sb.blocks_per_group),
                (sb.inodes_count, sb.inodes_per_group, sb.inode_size),
                (sb.desc_size, sb.reserved_gdt_blocks),
            )
        };
        shape(self) == shape(other)
    }
    /// Block and byte offset of the superblock itself.
    pub fn home(&self) -> (BlockNo, usize) {
        let bs = u64::from(self.block_size);
        (BlockNo(OFFSET / bs), (OFFSET % bs) as usize)
    }
    /// Whether a group begins with a copy of the superblock and the descriptors.
    pub fn has_backup(&self, group: GroupNo) -> bool {
        let power = |base: u32| {
            std::iter::successors(Some(base), |n| n.checked_mul(base)).any(|n| n == group.0)
        };
        match group.0 {
            0 => true,
            n if self.features.compat(compat::SPARSE_SUPER2) => self.backup_groups.contains(&n),
            1 => true,
            _ if !self.features.ro_compat(ro_compat::SPARSE_SUPER) => true,
            _ => power(3) || power(5) || power(7),
        }
    }
    /// Blocks at a group's start that hold superblock, descriptors and room for more of them.
    pub fn base_blocks(&self, group: GroupNo) -> u32 {
        match self.has_backup(group) {
            true => 1 + self.descriptor_blocks() + u32::from(self.reserved_gdt_blocks),
            false => 0,
        }
    }
    /// The checksum seed of an inode and its blocks.
    pub fn inode_seed(&self, inode: InodeNo, generation: u32) -> u32 {
        super::checksum::inode_seed(self.csum_seed, inode.0, generation)
    }
}

fn features_of(raw: &[u8; SIZE]) -> Result<Features, Corrupt> {
    let features = Features {
        compat: le32(raw, COMPAT),
        incompat: le32(raw, INCOMPAT),
        ro_compat: le32(raw, RO_COMPAT),
    };
    match le32(raw, REVISION) {
        0 => {}
        1 => return Ok(features),
        newer => return Err(field("s_rev_level", newer.into())),
    }
    // Revision 0 has none, but those of a journal or of a guard.
    let Features {
        compat,
        incompat,
        ro_compat,
    } = features;
    match (
        compat & !compat::HAS_JOURNAL,
        incompat & !incompat::RECOVER,
        ro_compat,
    ) {
        (0, 0, 0) => Ok(Features::default()),
        _ => Err(field("s_rev_level, with features set,", 0)),
    }
}

/// Features need revision 1, which says what revision 0 implies.
fn revise(raw: &mut [u8]) {
    if le32(raw, REVISION) == 0 {
        put32(raw, REVISION, 1);
        put32(raw, 0x54, 11);
        super::bytes::put16(raw, 0x58, 128);
    }
}

fn refuse_unreadable(raw: &[u8; SIZE], features: Features) -> Result<(), Unusable> {
    let unknown = features.unreadable();
    if !unknown.is_empty() {
        return Err(Unusable::Unsupported(format!(
            "feature {}",
            unknown.join(", ")
        )));
    }
    if features.ro_compat(ro_compat::METADATA_CSUM) && raw[0x175] != 1 {
        return Err(Unusable::Unsupported(format!(
            "checksum type {}",
            raw[0x175]
        )));
    }
    Ok(())
}

fn verify(raw: &[u8; SIZE], features: Features) -> Result<(), Corrupt> {
    let (stored, computed) = (le32(raw, CHECKSUM), crc32c(!0, &raw[..CHECKSUM]));
    if features.ro_compat(ro_compat::METADATA_CSUM) && stored != computed {
        return Err(Corrupt::Checksum {
            what: "the superblock".into(),
            stored,
            computed,
        });
    }
    Ok(())
}

fn field(field: &'static str, value: u64) -> Corrupt {
    Corrupt::Field {
        what: "superblock".into(),
        field,
        value,
    }
}

/// Puts the checksum right after a change. `raw` is the superblock's 1024 bytes.
pub fn seal(raw: &mut [u8]) {
    if le32(raw, RO_COMPAT) & ro_compat::METADATA_CSUM != 0 {
        let sum = crc32c(!0, &raw[..CHECKSUM]);
        put32(raw, CHECKSUM, sum);
    }
}

/// Gives the bytes the magic by which they are known, or takes it away:
/// without it they are nobody's superblock.
pub fn set_known(raw: &mut [u8], known: bool) {
    super::bytes::put16(raw, 0x38, if known { MAGIC } else { 0 });
    seal(raw);
}

/// The device with the journal, if that is not in the image (`s_journal_dev`).
pub fn journal_device(raw: &[u8; SIZE]) -> u32 {
    le32(raw, 0xE4)
}

/// `i_block` of the journal's inode as the superblock repeats it
/// (`s_jnl_blocks`), if it does.
pub fn journal_blocks(raw: &[u8; SIZE]) -> Option<[u8; 60]> {
    let repeated = raw[0xFD] == 1; // s_jnl_backup_type
    repeated.then(|| raw[0x10C..0x148].try_into().expect("60 bytes"))
}

/// Head of the orphan chain (`s_last_orphan`); 0: empty.
pub fn last_orphan(raw: &[u8]) -> InodeNo {
    InodeNo(le32(raw, LAST_ORPHAN))
}

/// Sets the head of the orphan chain.
pub fn set_last_orphan(raw: &mut [u8], inode: InodeNo) {
    put32(raw, LAST_ORPHAN, inode.0);
    seal(raw);
}

/// Sets and clears ro_compat bits that come and go with use.
pub fn set_ro_compat(raw: &mut [u8], set: u32, clear: u32) {
    revise(raw);
    let word = le32(raw, RO_COMPAT);
    put32(raw, RO_COMPAT, word & !clear | set);
    seal(raw);
}

/// Sets compat bits that come with use.
pub fn set_compat(raw: &mut [u8], set: u32) {
    revise(raw);
    let word = le32(raw, COMPAT);
    put32(raw, COMPAT, word | set);
    seal(raw);
}

/// Whether a ro_compat bit is set at this moment.
pub fn ro_compat_now(raw: &[u8], mask: u32) -> bool {
    le32(raw, RO_COMPAT) & mask != 0
}

/// Says that names are hashed as signed bytes, as [`Superblock::unsigned_hash`]
/// takes it where neither flag is set.
pub fn set_signed_hash(raw: &mut [u8]) {
    let flags = le32(raw, 0x160);
    put32(raw, 0x160, flags | 1);
    seal(raw);
}

/// Whether a compat bit is set at this moment.
pub fn compat_now(raw: &[u8], mask: u32) -> bool {
    le32(raw, COMPAT) & mask != 0
}

/// The free counts as the superblock has them: blocks, inodes.
pub fn free_counts(raw: &[u8]) -> (u64, u32) {
    (halves(raw, 0xC, 0x158), le32(raw, 0x10))
}

/// Sets the free counts (they are sums over the groups).
pub fn set_free_counts(raw: &mut [u8], blocks: u64, inodes: u32) {
    put_halves(raw, 0xC, 0x158, blocks);
    put32(raw, 0x10, inodes);
    seal(raw);
}

/// Marks the bytes as the copy that stands in a group (`s_block_group_nr`).
pub fn set_backup_of(raw: &mut [u8], group: GroupNo) {
    super::bytes::put16(raw, 0x5A, group.0 as u16);
    seal(raw);
}
