//! The superblock, as the checker reads it.
//!
//! The checker reads the format's bytes for itself: with the writer's
//! decoders it would repeat, and so never see, a wrong offset or a checksum
//! over the wrong bytes.

use super::finding::{Finding, Place};
use super::report::Report;
use super::sums::{crc32c, le16, le32};
use crate::units::BlockNo;

/// Incompatible features that change what the checker must read.
mod incompat {
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const EXTENTS: u32 = 0x40;
    pub const BIT64: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const CSUM_SEED: u32 = 0x2000;
    pub const LARGEDIR: u32 = 0x4000;
    /// filetype, recover, extents, 64bit, mmp, flex_bg, csum_seed, largedir
    pub const KNOWN: u32 =
        FILETYPE | RECOVER | EXTENTS | BIT64 | MMP | 0x200 | CSUM_SEED | LARGEDIR;
    pub const NAMES: &[(u32, &str)] = &[
        (0x1, "compression"),
        (0x8, "journal_dev"),
        (0x10, "meta_bg"),
        (0x400, "ea_inode"),
        (0x1000, "dirdata"),
        (0x8000, "inline_data"),
        (0x10000, "encrypt"),
        (0x20000, "casefold"),
    ];
}

/// Read-only compatible features, likewise.
mod ro_compat {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const HUGE_FILE: u32 = 0x8;
    pub const GDT_CSUM: u32 = 0x10;
    pub const DIR_NLINK: u32 = 0x20;
    pub const EXTRA_ISIZE: u32 = 0x40;
    pub const QUOTA: u32 = 0x100;
    pub const METADATA_CSUM: u32 = 0x400;
    pub const ORPHAN_PRESENT: u32 = 0x10000;
    /// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize,
    /// quota, metadata_csum, read-only, project, orphan_present
    pub const KNOWN: u32 = SPARSE_SUPER
        | 0x2
        | HUGE_FILE
        | GDT_CSUM
        | DIR_NLINK
        | EXTRA_ISIZE
        | QUOTA
        | METADATA_CSUM
        | 0x1000
        | 0x2000
        | ORPHAN_PRESENT;
    pub const NAMES: &[(u32, &str)] = &[
        (0x4, "btree_dir"),
        (0x200, "bigalloc"),
        (0x800, "replica"),
        (0x4000, "shared_blocks"),
        (0x8000, "verity"),
    ];
}

/// Compatible features, likewise.
mod compat {
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const RESIZE_INODE: u32 = 0x10;
    pub const DIR_INDEX: u32 = 0x20;
    pub const SPARSE_SUPER2: u32 = 0x200;
    pub const ORPHAN_FILE: u32 = 0x1000;
}

/// What the walk needs to know, checked against each other.
#[derive(Clone, Copy, Debug)]
pub struct Super {
    pub block_size: usize,
    pub blocks: u64,
    pub inodes: u32,
    pub free_blocks: u64,
    pub free_inodes: u32,
    pub first_data_block: u64,
    pub blocks_per_group: u64,
    pub inodes_per_group: u32,
    pub groups: u32,
    pub inode_size: usize,
    pub first_inode: u32,
    pub desc_size: usize,
    pub reserved_gdt: u64,
    pub state: u16,
    pub last_orphan: u32,
    pub orphan_file: u32,
    pub journal_inode: u32,
    pub unsigned_hash: bool,
    pub hash_seed: [u32; 4],
    pub mmp_block: u64,
    pub uuid: [u8; 16],
    pub guard: Option<[u8; 16]>,
    /// Start of all metadata checksums.
    pub seed: u32,
    backup_groups: [u32; 2],
    compat: u32,
    incompat: u32,
    ro_compat: u32,
}

impl Super {
    /// Decodes and judges; `None` when the rest can't be walked.
    pub fn read(raw: &[u8; 1024], image_len: u64, report: &mut Report) -> Option<Super> {
        let magic = le16(raw, 0x38);
        if magic != 0xef53 {
            report.add(Finding::NotExt4 { magic });
            return None;
        }
        let mut sb = Super::fields(raw).supported(report)?;
        sb.judge_checksum(raw, report);
        sb.groups = sb.count_groups().unwrap_or(0);
        if let Some((field, value)) = sb.nonsense(raw, image_len) {
            report.add(Finding::Field {
                place: Place::Superblock,
                field,
                value,
                want: None,
            });
            return None;
        }
        let present = image_len / sb.block_size as u64;
        if sb.blocks > present {
            report.add(Finding::ShortImage {
                blocks: sb.blocks,
                present,
            });
            return None;
        }
        sb.judge_state(report);
        Some(sb)
    }

    /// Fields of a superblock that was judged when it was copied; `None` if
    /// it can't be one.
    pub fn of_bytes(raw: &[u8]) -> Option<Super> {
        let raw: &[u8; 1024] = raw.try_into().ok()?;
        let sb = Super::fields(raw);
        (le16(raw, 0x38) == 0xef53 && sb.block_size > 0).then_some(sb)
    }

    fn fields(raw: &[u8; 1024]) -> Super {
        let (compat, incompat, ro_compat) = (le32(raw, 0x5c), le32(raw, 0x60), le32(raw, 0x64));
        let wide = |lo, hi| match incompat & incompat::BIT64 {
            0 => u64::from(le32(raw, lo)),
            _ => u64::from(le32(raw, lo)) | u64::from(le32(raw, hi)) << 32,
        };
        let old = le32(raw, 0x4c) == 0;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        let mut journal_uuid = [0; 16];
        journal_uuid.copy_from_slice(&raw[0xd0..0xe0]);
        let (journal_inode, journal_dev) = (le32(raw, 0xe0), le32(raw, 0xe4));
        let foreign = journal_inode == 0 || journal_dev == 0xfffe;
        let guarded = incompat & incompat::RECOVER != 0
            && compat & compat::HAS_JOURNAL != 0
            && journal_uuid != [0; 16]
            && foreign;
        let log_block_size = le32(raw, 0x18);
        Super {
            block_size: if log_block_size <= 2 {
                1024 << log_block_size
            } else {
                0
            },
            blocks: wide(0x4, 0x150),
            inodes: le32(raw, 0),
            free_blocks: wide(0xc, 0x158),
            free_inodes: le32(raw, 0x10),
            first_data_block: u64::from(le32(raw, 0x14)),
            blocks_per_group: u64::from(le32(raw, 0x20)),
            inodes_per_group: le32(raw, 0x28),
            groups: 0,
            inode_size: if old {
                128
            } else {
                usize::from(le16(raw, 0x58))
            },
            first_inode: if old { 11 } else { le32(raw, 0x54) },
            desc_size: if incompat & incompat::BIT64 == 0 {
                32
            } else {
                usize::from(le16(raw, 0xfe))
            },
            reserved_gdt: if compat & compat::RESIZE_INODE == 0 {
                0
            } else {
                u64::from(le16(raw, 0xce))
            },
            state: le16(raw, 0x3a),
            last_orphan: le32(raw, 0xe8),
            orphan_file: if compat & compat::ORPHAN_FILE == 0 {
                0
            } else {
                le32(raw, 0x280)
            },
            journal_inode,
            unsigned_hash: le32(raw, 0x160) & 2 != 0,
            hash_seed: [0xec, 0xf0, 0xf4, 0xf8].map(|at| le32(raw, at)),
            mmp_block: if incompat & incompat::MMP == 0 {
                0
            } else {
                u64::from(le32(raw, 0x168))
            },
            uuid,
            guard: guarded.then_some(journal_uuid),
            seed: match incompat & incompat::CSUM_SEED {
                0 => crc32c(!0, &uuid),
                _ => le32(raw, 0x270),
            },
            backup_groups: [le32(raw, 0x24c), le32(raw, 0x250)],
            compat,
            incompat,
            ro_compat,
        }
    }

    /// Refuses features that this checker does not know, by name.
    fn supported(self, report: &mut Report) -> Option<Super> {
        let name = |bits: u32, names: &[(u32, &str)], set: &str| match names
            .iter()
            .find(|(bit, _)| bits & bit != 0)
        {
            Some((_, name)) => format!("feature {name}"),
            None => format!("unknown {set} features {bits:#x}"),
        };
        let incompat = self.incompat & !incompat::KNOWN;
        let ro_compat = self.ro_compat & !ro_compat::KNOWN;
        let what = match (incompat, ro_compat) {
            (0, 0) if self.block_size == 0 => "blocks larger than 4 KiB".to_owned(),
            (0, 0) => return Some(self),
            (0, bits) => name(bits, ro_compat::NAMES, "read-only compatible"),
            (bits, _) => name(bits, incompat::NAMES, "incompatible"),
        };
        report.add(Finding::Unsupported { what });
        None
    }

    fn judge_checksum(&self, raw: &[u8; 1024], report: &mut Report) {
        if !self.metadata_csum() {
            return;
        }
        let (stored, computed) = (le32(raw, 0x3fc), crc32c(!0, &raw[..0x3fc]));
        if stored != computed {
            report.add(Finding::Checksum {
                place: Place::Superblock,
                stored,
                computed,
            });
        }
    }

    /// The first field that contradicts the others.
    fn nonsense(&self, raw: &[u8; 1024], image_len: u64) -> Option<(&'static str, u64)> {
        let bits = self.block_size as u64 * 8;
        let per_block = (self.block_size / self.inode_size.max(128)).max(1) as u32;
        let fits = u64::from(self.inodes).saturating_mul(self.inode_size as u64) <= image_len;
        let (min_extra, want_extra) = (le16(raw, 0x15c), le16(raw, 0x15e));
        let extra_fits = |extra: u16| {
            self.inode_size <= 128
                || self.ro_compat & ro_compat::EXTRA_ISIZE == 0
                || usize::from(extra) <= self.inode_size - 128
        };
        // Revision 0 has no features but a journal, its own or ours.
        let beyond = |word: u32, known: u32| word & !known != 0;
        let featureless = !beyond(self.compat, compat::HAS_JOURNAL)
            && !beyond(self.incompat, incompat::RECOVER)
            && self.ro_compat == 0;
        let checks: [(bool, &'static str, u64); 14] = [
            (
                le32(raw, 0x4c) > 0 || featureless,
                "s_rev_level",
                le32(raw, 0x4c).into(),
            ),
            (extra_fits(min_extra), "s_min_extra_isize", min_extra.into()),
            (
                extra_fits(want_extra),
                "s_want_extra_isize",
                want_extra.into(),
            ),
            (
                self.first_data_block == u64::from(self.block_size == 1024),
                "s_first_data_block",
                self.first_data_block,
            ),
            (
                (8..=bits).contains(&self.blocks_per_group),
                "s_blocks_per_group",
                self.blocks_per_group,
            ),
            (
                self.blocks_per_group.is_multiple_of(8),
                "s_blocks_per_group",
                self.blocks_per_group,
            ),
            (
                (1..=bits).contains(&u64::from(self.inodes_per_group))
                    && self.inodes_per_group.is_multiple_of(8)
                    && self.inodes_per_group.is_multiple_of(per_block),
                "s_inodes_per_group",
                self.inodes_per_group.into(),
            ),
            (
                self.inode_size.is_power_of_two()
                    && (128..=self.block_size).contains(&self.inode_size),
                "s_inode_size",
                self.inode_size as u64,
            ),
            (
                self.desc_size.is_power_of_two()
                    && (32..=self.block_size).contains(&self.desc_size),
                "s_desc_size",
                self.desc_size as u64,
            ),
            (
                self.blocks > self.first_data_block && self.groups > 0,
                "s_blocks_count",
                self.blocks,
            ),
            (
                fits && self.groups.checked_mul(self.inodes_per_group) == Some(self.inodes),
                "s_inodes_count",
                self.inodes.into(),
            ),
            (
                self.first_inode >= 11 && self.first_inode <= self.inodes,
                "s_first_ino",
                self.first_inode.into(),
            ),
            (
                self.reserved_gdt <= self.block_size as u64 / 4,
                "s_reserved_gdt_blocks",
                self.reserved_gdt,
            ),
            (
                le32(raw, 0x1c) == le32(raw, 0x18),
                "s_log_cluster_size",
                le32(raw, 0x1c).into(),
            ),
        ];
        checks
            .into_iter()
            .find(|(holds, ..)| !holds)
            .map(|(_, field, value)| (field, value))
    }

    fn count_groups(&self) -> Option<u32> {
        let blocks = self.blocks.checked_sub(self.first_data_block)?;
        u32::try_from(blocks.div_ceil(self.blocks_per_group.max(1))).ok()
    }

    fn judge_state(&self, report: &mut Report) {
        let (valid, errors) = (self.state & 1 != 0, self.state & 2 != 0);
        if let Some(uuid) = self.guard {
            report.add(Finding::Guarded {
                uuid: uuid_text(&uuid),
            });
        } else if !valid || errors {
            let (value, place) = (self.state.into(), Place::Superblock);
            report.add(Finding::Field {
                place,
                field: "s_state",
                value,
                want: Some(1),
            });
        }
    }

    /// Whether its own journal must be replayed first.
    pub fn needs_replay(&self) -> bool {
        self.guard.is_none() && self.incompat & incompat::RECOVER != 0
    }
    /// Whether it has a journal of its own, in an inode.
    pub fn has_journal(&self) -> bool {
        self.guard.is_none() && self.compat & compat::HAS_JOURNAL != 0 && self.journal_inode != 0
    }
    /// Whether metadata carry CRC-32C.
    pub fn metadata_csum(&self) -> bool {
        self.ro_compat & ro_compat::METADATA_CSUM != 0
    }
    /// Whether group descriptors carry a checksum, flags and `itable_unused`.
    pub fn group_csum(&self) -> bool {
        self.ro_compat & (ro_compat::METADATA_CSUM | ro_compat::GDT_CSUM) != 0
    }
    /// Whether `i_blocks` has 48 bits.
    pub fn huge_file(&self) -> bool {
        self.ro_compat & ro_compat::HUGE_FILE != 0
    }
    /// The size that no file exceeds, in bytes: `i_blocks` must be able to count
    /// its blocks, though it have holes.
    pub fn max_size(&self) -> u64 {
        let block = self.block_size as u64;
        match self.huge_file() {
            true => (1 << 32) * block,
            false => u64::from(u32::MAX) / (block / 512) * block,
        }
    }
    /// Whether a directory's link count may be 1 for "too many".
    pub fn dir_nlink(&self) -> bool {
        self.ro_compat & ro_compat::DIR_NLINK != 0
    }
    /// Whether indexed directories are in use.
    pub fn dir_index(&self) -> bool {
        self.compat & compat::DIR_INDEX != 0
    }
    /// Levels of index blocks below the root that a directory may have.
    pub fn index_levels(&self) -> u8 {
        if self.incompat & incompat::LARGEDIR != 0 {
            2
        } else {
            1
        }
    }
    /// Whether directory entries hold the file's type.
    pub fn file_type(&self) -> bool {
        self.incompat & incompat::FILETYPE != 0
    }
    /// Whether files may be mapped by extents.
    pub fn extents(&self) -> bool {
        self.incompat & incompat::EXTENTS != 0
    }
    /// Whether growing space is kept in inode 7.
    pub fn resize_inode(&self) -> bool {
        self.compat & compat::RESIZE_INODE != 0
    }
    /// Whether the orphan file may hold something.
    pub fn orphan_present(&self) -> bool {
        self.ro_compat & ro_compat::ORPHAN_PRESENT != 0
    }
    /// The block in which the superblock lies.
    pub fn home(&self) -> BlockNo {
        BlockNo(1024 / self.block_size as u64)
    }
    /// Blocks of the group descriptor table.
    pub fn gdt_blocks(&self) -> u64 {
        (u64::from(self.groups) * self.desc_size as u64).div_ceil(self.block_size as u64)
    }
    /// Blocks of one group's inode table.
    pub fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group) * self.inode_size as u64 / self.block_size as u64
    }
    /// First block of a group.
    pub fn group_start(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * self.blocks_per_group
    }
    /// Blocks in a group: fewer in the last.
    pub fn group_len(&self, group: u32) -> u64 {
        self.blocks_per_group
            .min(self.blocks - self.group_start(group))
    }
    /// The group of a block.
    pub fn group_of(&self, block: u64) -> u32 {
        (block.saturating_sub(self.first_data_block) / self.blocks_per_group) as u32
    }
    /// Whether a group holds a superblock and descriptors.
    pub fn has_super(&self, group: u32) -> bool {
        let power = |base: u32| {
            let mut n = base;
            while n < group {
                n = n.saturating_mul(base);
            }
            n == group
        };
        match group {
            0 => true,
            _ if self.compat & compat::SPARSE_SUPER2 != 0 => self.backup_groups.contains(&group),
            1 => true,
            _ if self.ro_compat & ro_compat::SPARSE_SUPER == 0 => true,
            _ => power(3) || power(5) || power(7),
        }
    }
    /// Whether `count` blocks from `first` on lie inside the groups.
    pub fn inside(&self, first: u64, count: u64) -> bool {
        first >= self.first_data_block
            && first
                .checked_add(count)
                .is_some_and(|end| end <= self.blocks)
    }
    /// Start of the checksums of an inode's structures.
    pub fn inode_seed(&self, inode: u32, generation: u32) -> u32 {
        crc32c(
            crc32c(self.seed, &inode.to_le_bytes()),
            &generation.to_le_bytes(),
        )
    }
}

/// A UUID as people write it.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<String>();
    [
        &uuid[..4],
        &uuid[4..6],
        &uuid[6..8],
        &uuid[8..10],
        &uuid[10..],
    ]
    .map(hex)
    .join("-")
}
