//! Group descriptors: where a group's bitmaps and inode table lie, what is
//! free in it, and the checksums of the bitmaps.

use super::Corrupt;
use super::bytes::{le16, le32, put16, put32};
use super::checksum::{crc16, crc32c};
use super::features::{incompat, ro_compat};
use super::superblock::Superblock;
use crate::units::{BlockNo, GroupNo};

/// The inode bitmap is not written yet: all inodes are free.
pub const INODE_UNINIT: u16 = 1;
/// The block bitmap is not written yet: only the group's metadata is in use.
pub const BLOCK_UNINIT: u16 = 2;
/// The inode table holds zeros where no inode has been.
pub const INODE_ZEROED: u16 = 4;

const CHECKSUM: usize = 0x1E;

/// A decoded group descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the format's own fields, under their plain names
pub struct Group {
    pub block_bitmap: BlockNo,
    pub inode_bitmap: BlockNo,
    pub inode_table: BlockNo,
    pub free_blocks: u32,
    pub free_inodes: u32,
    pub used_dirs: u32,
    pub flags: u16,
    /// Inodes at the table's end that were never used.
    pub itable_unused: u32,
    pub block_bitmap_csum: u32,
    pub inode_bitmap_csum: u32,
}

impl Group {
    /// Decodes `sb.desc_size` bytes; checks the checksum and that every
    /// pointer and count is possible.
    pub fn decode(raw: &[u8], sb: &Superblock, number: GroupNo) -> Result<Self, Corrupt> {
        verify(raw, sb, number)?;
        Self::unsummed(raw, sb, number)
    }

    /// The same of a descriptor whose checksum has been looked at.
    pub fn unsummed(raw: &[u8], sb: &Superblock, number: GroupNo) -> Result<Self, Corrupt> {
        let raw = whole(raw, sb, number)?;
        let wide = wide(sb);
        let block = |lo, hi| {
            BlockNo(
                u64::from(le32(raw, lo))
                    | if wide {
                        u64::from(le32(raw, hi)) << 32
                    } else {
                        0
                    },
            )
        };
        let count = |lo, hi| {
            u32::from(le16(raw, lo))
                | if wide {
                    u32::from(le16(raw, hi)) << 16
                } else {
                    0
                }
        };
        // Without checksums flags and unused counts have no meaning.
        let lazy = sb.has_uninit_groups();
        let group = Group {
            block_bitmap: block(0x0, 0x20),
            inode_bitmap: block(0x4, 0x24),
            inode_table: block(0x8, 0x28),
            free_blocks: count(0xC, 0x2C),
            free_inodes: count(0xE, 0x2E),
            used_dirs: count(0x10, 0x30),
            flags: if lazy { le16(raw, 0x12) } else { INODE_ZEROED },
            itable_unused: if lazy { count(0x1C, 0x32) } else { 0 },
            block_bitmap_csum: count(0x18, 0x38),
            inode_bitmap_csum: count(0x1A, 0x3A),
        };
        group.check(sb, number)?;
        Ok(group)
    }

    fn check(&self, sb: &Superblock, number: GroupNo) -> Result<(), Corrupt> {
        let pointers = [
            (self.block_bitmap, 1),
            (self.inode_bitmap, 1),
            (self.inode_table, sb.inode_table_blocks()),
        ];
        for (block, count) in pointers {
            if !sb.contains(block, u64::from(count)) {
                return Err(Corrupt::BlockOutside {
                    what: format!("group {number}"),
                    block,
                });
            }
        }
        let counts = [
            (
                self.free_blocks,
                sb.group_blocks(number),
                "bg_free_blocks_count",
            ),
            (
                self.free_inodes,
                sb.inodes_per_group,
                "bg_free_inodes_count",
            ),
            (self.itable_unused, sb.inodes_per_group, "bg_itable_unused"),
            (self.used_dirs, sb.inodes_per_group, "bg_used_dirs_count"),
        ];
        match counts.into_iter().find(|(count, most, _)| count > most) {
            None => Ok(()),
            Some((count, _, field)) => Err(Corrupt::Field {
                what: format!("group {number}"),
                field,
                value: u64::from(count),
            }),
        }
    }

    /// Writes the fields into the descriptor's bytes (others stay) and sets the checksum.
    pub fn encode(&self, raw: &mut [u8], sb: &Superblock, number: GroupNo) {
        let raw = &mut raw[..usize::from(sb.desc_size)];
        let wide = wide(sb);
        let mut blocks = |lo, hi, value: BlockNo| {
            put32(raw, lo, value.0 as u32);
            if wide {
                put32(raw, hi, (value.0 >> 32) as u32);
            }
        };
        blocks(0x0, 0x20, self.block_bitmap);
        blocks(0x4, 0x24, self.inode_bitmap);
        blocks(0x8, 0x28, self.inode_table);
        let mut counts = |lo, hi, value: u32| {
            put16(raw, lo, value as u16);
            if wide {
                put16(raw, hi, (value >> 16) as u16);
            }
        };
        counts(0xC, 0x2C, self.free_blocks);
        counts(0xE, 0x2E, self.free_inodes);
        counts(0x10, 0x30, self.used_dirs);
        if sb.has_uninit_groups() {
            counts(0x1C, 0x32, self.itable_unused);
        }
        if sb.has_metadata_csum() {
            counts(0x18, 0x38, self.block_bitmap_csum);
            counts(0x1A, 0x3A, self.inode_bitmap_csum);
        }
        if sb.has_uninit_groups() {
            put16(raw, 0x12, self.flags);
        }
        if let Some(sum) = checksum(raw, sb, number) {
            put16(raw, CHECKSUM, sum);
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The bytes of one descriptor.
fn whole<'a>(raw: &'a [u8], sb: &Superblock, number: GroupNo) -> Result<&'a [u8], Corrupt> {
    let wrong = || Corrupt::Field {
        what: format!("group {number}"),
        field: "length",
        value: raw.len() as u64,
    };
    raw.get(..usize::from(sb.desc_size)).ok_or_else(wrong)
}

/// Compares the checksum of `sb.desc_size` bytes, on file systems that have one.
pub fn verify(raw: &[u8], sb: &Superblock, number: GroupNo) -> Result<(), Corrupt> {
    let raw = whole(raw, sb, number)?;
    let stored = le16(raw, CHECKSUM);
    match checksum(raw, sb, number) {
        Some(computed) if computed != stored => Err(Corrupt::Checksum {
            what: format!("group {number}"),
            stored: stored.into(),
            computed: computed.into(),
        }),
        _ => Ok(()),
    }
}

/// Whether descriptors have high halves.
fn wide(sb: &Superblock) -> bool {
    sb.desc_size >= 64 && sb.features.incompat(incompat::BIT64)
}

/// A descriptor's checksum, as the features want it.
fn checksum(raw: &[u8], sb: &Superblock, number: GroupNo) -> Option<u16> {
    let number = number.0.to_le_bytes();
    if sb.has_metadata_csum() {
        let sum = crc32c(crc32c(sb.csum_seed, &number), &raw[..CHECKSUM]);
        Some(crc32c(crc32c(sum, &[0, 0]), &raw[CHECKSUM + 2..]) as u16)
    } else if sb.features.ro_compat(ro_compat::GDT_CSUM) {
        let sum = crc16(crc16(!0, &sb.uuid), &number);
        let sum = crc16(sum, &raw[..CHECKSUM]);
        Some(if wide(sb) {
            crc16(sum, &raw[CHECKSUM + 2..])
        } else {
            sum
        })
    } else {
        None
    }
}
