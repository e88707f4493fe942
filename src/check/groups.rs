//! Group descriptors, the blocks that belong to no file, and at the end the
//! bitmaps and counts against what the walk has seen.

use super::bits::disk_word;
use super::finding::{Finding, Place};
use super::sums::{crc16, crc32c, le16, le32};
use super::walk::Walk;

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;

/// A group as its descriptor tells it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    pub free_blocks: u32,
    pub free_inodes: u32,
    pub directories: u32,
    /// Inodes at the table's end that were never used.
    pub unused: u32,
    pub block_uninit: bool,
    pub inode_uninit: bool,
    block_bitmap_sum: u32,
    inode_bitmap_sum: u32,
    /// Whether its three places lie inside the image.
    pub sound: bool,
    /// Seen by the walk.
    pub seen_inodes: u32,
    pub seen_directories: u32,
}

impl Walk<'_> {
    /// Reads and judges all descriptors, and claims the blocks that no file owns.
    pub fn groups(&mut self) -> Option<()> {
        let mut raw = vec![0; self.sb.gdt_blocks() as usize * self.sb.block_size];
        let at = (self.sb.first_data_block + 1) * self.sb.block_size as u64;
        self.read_at(&mut raw, at, Place::Descriptors { group: 0 })?;
        self.groups = Vec::with_capacity(self.sb.groups as usize);
        for (group, desc) in (0..self.sb.groups).zip(raw.chunks_exact(self.sb.desc_size)) {
            let decoded = self.descriptor(group, desc);
            self.groups.push(decoded);
        }
        for group in 0..self.sb.groups {
            self.claim_static(group);
        }
        if self.sb.mmp_block != 0 {
            self.claim(self.sb.mmp_block, 1, Place::MultiMount);
        }
        Some(())
    }

    fn descriptor(&mut self, number: u32, raw: &[u8]) -> Group {
        let sb = self.sb;
        let wide = raw.len() >= 64;
        let hi32 = |at| {
            if wide {
                u64::from(le32(raw, at)) << 32
            } else {
                0
            }
        };
        let hi16 = |at| {
            if wide {
                u32::from(le16(raw, at)) << 16
            } else {
                0
            }
        };
        let flags = if sb.group_csum() { le16(raw, 0x12) } else { 0 };
        let mut group = Group {
            block_bitmap: u64::from(le32(raw, 0)) | hi32(0x20),
            inode_bitmap: u64::from(le32(raw, 4)) | hi32(0x24),
            inode_table: u64::from(le32(raw, 8)) | hi32(0x28),
            free_blocks: u32::from(le16(raw, 0xc)) | hi16(0x2c),
            free_inodes: u32::from(le16(raw, 0xe)) | hi16(0x2e),
            directories: u32::from(le16(raw, 0x10)) | hi16(0x30),
            unused: if sb.group_csum() {
                u32::from(le16(raw, 0x1c)) | hi16(0x32)
            } else {
                0
            },
            block_uninit: flags & BLOCK_UNINIT != 0,
            inode_uninit: flags & INODE_UNINIT != 0,
            block_bitmap_sum: u32::from(le16(raw, 0x18)) | hi16(0x38),
            inode_bitmap_sum: u32::from(le16(raw, 0x1a)) | hi16(0x3a),
            ..Group::default()
        };
        self.judge_descriptor(number, raw, &mut group);
        group
    }

    fn judge_descriptor(&mut self, number: u32, raw: &[u8], group: &mut Group) {
        let sb = self.sb;
        let place = Place::Group { group: number };
        if let Some(computed) = self.descriptor_sum(number, raw) {
            let stored = u32::from(le16(raw, 0x1e));
            if stored != computed {
                self.report.add(Finding::Checksum {
                    place,
                    stored,
                    computed,
                });
            }
        }
        group.sound = true;
        for (block, count) in [
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, sb.table_blocks()),
        ] {
            if !sb.inside(block, count) {
                self.report.add(Finding::Outside { place, block });
                group.sound = false;
            }
        }
        if group.unused > sb.inodes_per_group {
            let value = group.unused.into();
            self.report.add(Finding::Field {
                place,
                field: "bg_itable_unused",
                value,
                want: None,
            });
            group.unused = 0;
        }
    }

    fn descriptor_sum(&self, number: u32, raw: &[u8]) -> Option<u32> {
        let number = number.to_le_bytes();
        if self.sb.metadata_csum() {
            let crc = crc32c(crc32c(self.sb.seed, &number), &raw[..0x1e]);
            let crc = crc32c(crc32c(crc, &[0, 0]), &raw[0x20..]);
            Some(crc & 0xffff)
        } else if self.sb.group_csum() {
            let crc = crc16(crc16(!0, &self.sb.uuid), &number);
            Some(crc16(crc16(crc, &raw[..0x1e]), &raw[0x20..]).into())
        } else {
            None
        }
    }

    /// Superblock copies, descriptors and room for more of them, bitmaps, table.
    fn claim_static(&mut self, number: u32) {
        let sb = self.sb;
        if sb.has_super(number) {
            let count = 1 + sb.gdt_blocks() + sb.reserved_gdt;
            self.claim(
                sb.group_start(number),
                count,
                Place::Descriptors { group: number },
            );
        }
        let group = self.groups[number as usize];
        let places = [
            (group.block_bitmap, 1, Place::BlockBitmap { group: number }),
            (group.inode_bitmap, 1, Place::InodeBitmap { group: number }),
            (
                group.inode_table,
                sb.table_blocks(),
                Place::InodeTable { group: number },
            ),
        ];
        for (first, count, place) in places {
            if sb.inside(first, count) {
                self.claim(first, count, place);
            }
        }
    }

    fn claim(&mut self, first: u64, count: u64, place: Place) {
        if let Some((first, count)) = self.owned.add(first, count) {
            self.report.add(Finding::UsedTwice {
                place,
                first,
                count,
            });
        }
    }

    /// Every bitmap and count against what the walk has seen.
    pub fn judge_groups(&mut self) {
        let (mut free_blocks, mut free_inodes) = (0, 0);
        let mut bitmap = vec![0; self.sb.block_size];
        for number in 0..self.sb.groups {
            let group = self.groups[number as usize];
            let free = self.judge_block_bitmap(number, &group, &mut bitmap);
            let want = self.sb.inodes_per_group - group.seen_inodes.min(self.sb.inodes_per_group);
            let place = Place::Group { group: number };
            self.judge(
                place,
                "bg_free_blocks_count",
                group.free_blocks.into(),
                free,
            );
            self.judge(
                place,
                "bg_free_inodes_count",
                group.free_inodes.into(),
                want.into(),
            );
            self.judge(
                place,
                "bg_used_dirs_count",
                group.directories.into(),
                group.seen_directories.into(),
            );
            free_blocks += free;
            free_inodes += u64::from(want);
        }
        self.report.counts.blocks_used = self.sb.blocks - free_blocks;
        // The guarded superblock's totals are mended when the guard goes; what
        // the kernel left unfinished has them from its mount.
        if self.sb.guard.is_none() && !self.sb.needs_replay() {
            self.judge(
                Place::Superblock,
                "s_free_blocks_count",
                self.sb.free_blocks,
                free_blocks,
            );
            self.judge(
                Place::Superblock,
                "s_free_inodes_count",
                self.sb.free_inodes.into(),
                free_inodes,
            );
        }
    }

    /// Compares a group's bitmap with the owners; answers how many blocks nobody owns.
    fn judge_block_bitmap(&mut self, number: u32, group: &Group, bitmap: &mut [u8]) -> u64 {
        let (start, len) = (self.sb.group_start(number), self.sb.group_len(number));
        let place = Place::BlockBitmap { group: number };
        // A group never used has no bitmap on disk; files in it have been reported.
        let known = group.sound
            && !group.block_uninit
            && self
                .read_at(
                    bitmap,
                    group.block_bitmap * self.sb.block_size as u64,
                    place,
                )
                .is_some();
        let mut used = 0;
        let mut differences = Differences::default();
        for at in (0..len).step_by(64) {
            let mask = u64::MAX >> (64 - (len - at).min(64));
            let owned = self.owned.word(start + at) & mask;
            used += u64::from(owned.count_ones());
            if known {
                differences.add(start + at, owned, disk_word(bitmap, at) & mask, &mut |f| {
                    self.report.add(f)
                });
            }
        }
        differences.end(&mut |f| self.report.add(f));
        if known {
            self.judge_bitmap_sum(
                place,
                bitmap,
                self.sb.blocks_per_group / 8,
                group.block_bitmap_sum,
            );
            if number + 1 == self.sb.groups {
                self.judge_padding(place, bitmap, len);
            }
        }
        len - used
    }

    /// An inode bitmap's checksum and padding; the walk over inodes uses its bits.
    pub fn judge_inode_bitmap(&mut self, number: u32, group: &Group, bitmap: &[u8]) {
        let place = Place::InodeBitmap { group: number };
        self.judge_bitmap_sum(
            place,
            bitmap,
            u64::from(self.sb.inodes_per_group) / 8,
            group.inode_bitmap_sum,
        );
        self.judge_padding(place, bitmap, self.sb.inodes_per_group.into());
    }

    fn judge_bitmap_sum(&mut self, place: Place, bitmap: &[u8], len: u64, stored: u32) {
        if !self.sb.metadata_csum() {
            return;
        }
        let mask = if self.sb.desc_size >= 64 {
            u32::MAX
        } else {
            0xffff
        };
        let computed = crc32c(self.sb.seed, &bitmap[..bitmap.len().min(len as usize)]) & mask;
        if stored & mask != computed {
            self.report.add(Finding::Checksum {
                place,
                stored,
                computed,
            });
        }
    }

    fn judge_padding(&mut self, place: Place, bitmap: &[u8], from: u64) {
        let bits = bitmap.len() as u64 * 8;
        let tail = (from / 8) as usize;
        let first_is_full = from.is_multiple_of(8)
            || bitmap
                .get(tail)
                .is_none_or(|b| b >> (from % 8) == 0xff >> (from % 8));
        let rest = bitmap.get((from.div_ceil(8)) as usize..).unwrap_or(&[]);
        if from < bits && !(first_is_full && rest.iter().all(|&b| b == 0xff)) {
            self.report.add(Finding::Padding { place });
        }
    }

    /// One stored number against the counted one.
    pub fn judge(&mut self, place: Place, field: &'static str, value: u64, want: u64) {
        if value != want {
            self.report.add(Finding::Field {
                place,
                field,
                value,
                want: Some(want),
            });
        }
    }
}

/// Joins neighbouring blocks that differ in the same way into one finding.
#[derive(Default)]
struct Differences {
    /// First block, count, and whether they are in use.
    run: Option<(u64, u64, bool)>,
}

impl Differences {
    fn add(&mut self, start: u64, owned: u64, marked: u64, found: &mut dyn FnMut(Finding)) {
        let mut differ = owned ^ marked;
        while differ != 0 {
            let bit = differ.trailing_zeros();
            differ &= differ - 1;
            let (block, in_use) = (start + u64::from(bit), owned >> bit & 1 == 1);
            match &mut self.run {
                Some((first, count, use_)) if *first + *count == block && *use_ == in_use => {
                    *count += 1
                }
                _ => {
                    self.end(found);
                    self.run = Some((block, 1, in_use));
                }
            }
        }
    }

    fn end(&mut self, found: &mut dyn FnMut(Finding)) {
        match self.run.take() {
            Some((first, count, true)) => found(Finding::MarkedFree { first, count }),
            Some((first, count, false)) => found(Finding::MarkedUsed { first, count }),
            None => {}
        }
    }
}
