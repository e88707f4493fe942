//! The superblock of a new image: upstream's default features, without an
//! internal journal (ours lies beside the image) and without room for growth.

use super::bytes::{put_halves, put16, put32};
use super::features::{Features, compat, incompat, ro_compat};
use super::superblock::{SIZE, Superblock, seal};
use super::{Unusable, checksum::crc32c};
use crate::units::{GroupNo, Time};

/// What mkfs decides.
#[derive(Clone, Debug)]
pub struct New {
    /// 1024, 2048 or 4096.
    pub block_size: u32,
    /// Blocks of the image.
    pub blocks: u64,
    /// A multiple of 8 and of the inodes in a block.
    pub inodes_per_group: u32,
    /// Identifies the image, and seeds its checksums.
    pub uuid: [u8; 16],
    /// Seeds its directories' hashes.
    pub hash_seed: [u8; 16],
    /// The volume's name, padded with zeros.
    pub label: [u8; 16],
    /// When it is made.
    pub time: Time,
}

/// Features of new images.
pub const FEATURES: Features = Features {
    compat: compat::EXT_ATTR | compat::DIR_INDEX,
    incompat: incompat::FILETYPE | incompat::EXTENTS | incompat::BIT64 | incompat::FLEX_BG,
    ro_compat: ro_compat::SPARSE_SUPER
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::METADATA_CSUM,
};

/// log2 of the groups whose tables lie together.
pub const LOG_FLEX: u8 = 4;

impl New {
    /// The superblock's bytes, and what they decode to. Free counts are zero.
    pub fn superblock(&self) -> Result<([u8; SIZE], Superblock), Unusable> {
        let mut raw = [0; SIZE];
        self.geometry(&mut raw);
        self.identity(&mut raw);
        self.defaults(&mut raw);
        seal(&mut raw);
        let sb = Superblock::decode(&raw)?;
        put32(&mut raw, 0x248, overhead(&sb) as u32); // s_overhead_clusters
        seal(&mut raw);
        let sb = Superblock::decode(&raw)?;
        Ok((raw, sb))
    }

    /// Groups of the image.
    pub fn groups(&self) -> u64 {
        let first = u64::from(self.block_size == 1024);
        (self.blocks - first).div_ceil(u64::from(self.block_size) * 8)
    }

    fn geometry(&self, raw: &mut [u8; SIZE]) {
        let bs = self.block_size;
        let inodes = self.groups() * u64::from(self.inodes_per_group);
        put32(raw, 0x0, inodes as u32);
        put_halves(raw, 0x4, 0x150, self.blocks);
        put32(raw, 0x14, u32::from(bs == 1024)); // s_first_data_block
        put32(raw, 0x18, bs.trailing_zeros() - 10); // s_log_block_size
        put32(raw, 0x1C, bs.trailing_zeros() - 10); // s_log_cluster_size
        put32(raw, 0x20, bs * 8); // s_blocks_per_group
        put32(raw, 0x24, bs * 8); // s_clusters_per_group
        put32(raw, 0x28, self.inodes_per_group);
        put32(raw, 0x54, 11); // s_first_ino
        put16(raw, 0x58, 256); // s_inode_size
        put16(raw, 0xFE, 64); // s_desc_size
        put16(raw, 0x15C, 32); // s_min_extra_isize
        put16(raw, 0x15E, 32); // s_want_extra_isize
        raw[0x174] = LOG_FLEX;
    }

    fn identity(&self, raw: &mut [u8; SIZE]) {
        let now = self.time.secs as u32;
        put32(raw, 0x30, now); // s_wtime
        put32(raw, 0x40, now); // s_lastcheck
        put32(raw, 0x108, now); // s_mkfs_time
        raw[0x68..0x78].copy_from_slice(&self.uuid);
        raw[0x78..0x88].copy_from_slice(&self.label);
        raw[0xEC..0xFC].copy_from_slice(&self.hash_seed);
        put32(raw, 0x270, crc32c(!0, &self.uuid)); // s_checksum_seed, should the feature come
    }

    fn defaults(&self, raw: &mut [u8; SIZE]) {
        put16(raw, 0x36, 0xFFFF); // s_max_mnt_count: never check for its sake
        put16(raw, 0x38, 0xEF53); // s_magic
        put16(raw, 0x3A, 1); // s_state: clean
        put16(raw, 0x3C, 1); // s_errors: continue
        put32(raw, 0x4C, 1); // s_rev_level: dynamic
        put32(raw, 0x5C, FEATURES.compat);
        put32(raw, 0x60, FEATURES.incompat);
        put32(raw, 0x64, FEATURES.ro_compat);
        raw[0xFC] = 1; // s_def_hash_version: half MD4
        put32(raw, 0x100, 0xC); // s_default_mount_opts: user_xattr, acl
        put32(raw, 0x160, 1); // s_flags: names are hashed as signed bytes
        raw[0x175] = 1; // s_checksum_type: crc32c
    }
}

/// Blocks that no file can have.
fn overhead(sb: &Superblock) -> u64 {
    let bases: u64 = (0..sb.group_count())
        .map(|n| u64::from(sb.base_blocks(GroupNo(n))))
        .sum();
    sb.first_data_block
        + bases
        + u64::from(sb.group_count()) * (2 + u64::from(sb.inode_table_blocks()))
}
