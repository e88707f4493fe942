//! Every inode: its fields and checksum, its blocks claimed, its attributes.

use super::bits::{Bits, disk_bit};
use super::finding::{Finding, Place};
use super::groups::Group;
use super::map::{self, Mapped, Visit};
use super::report::Report;
use super::sums::{crc32c, le16, le32};
use super::superblock::Super;
use super::walk::{Directory, Reach, Walk, state};

const HUGE_FILE_FL: u32 = 0x40000;
const EXTENTS_FL: u32 = 0x80000;
/// Inodes whose attributes or data lie in ways that we don't support.
const FOREIGN_FL: u32 = 0x200000 | 0x1000_0000 | 0x800 | 0x4000_0000;

const ROOT: u32 = 2;
const RESIZE: u32 = 7;

impl Walk<'_> {
    /// Walks all inode tables.
    pub fn all_inodes(&mut self) {
        let mut bitmap = vec![0; self.sb.block_size];
        let mut piece = vec![0; 32 << 10];
        for number in 0..self.sb.groups {
            let group = self.groups[number as usize];
            if group.inode_uninit || !group.sound {
                continue;
            }
            let at = group.inode_bitmap * self.sb.block_size as u64;
            let place = Place::InodeBitmap { group: number };
            if self.read_at(&mut bitmap, at, place).is_none() {
                continue;
            }
            self.judge_inode_bitmap(number, &group, &bitmap);
            self.table(number, &group, &bitmap, &mut piece);
        }
        if self.state(ROOT) & state::KIND != state::DIRECTORY {
            self.report.add(Finding::Unreachable { directory: ROOT });
        }
    }

    fn table(&mut self, number: u32, group: &Group, bitmap: &[u8], piece: &mut [u8]) {
        let (size, per_group) = (self.sb.inode_size, self.sb.inodes_per_group);
        let initialised = per_group - group.unused;
        let per_piece = (piece.len() / size) as u32;
        let table = group.inode_table * self.sb.block_size as u64;
        for start in (0..initialised).step_by(per_piece as usize) {
            let count = per_piece.min(initialised - start);
            let raw = &mut piece[..count as usize * size];
            let place = Place::InodeTable { group: number };
            if self
                .read_at(raw, table + u64::from(start) * size as u64, place)
                .is_none()
            {
                continue;
            }
            for (i, raw) in (start..).zip(raw.chunks_exact(size)) {
                self.inode(number * per_group + i + 1, raw, disk_bit(bitmap, i));
            }
        }
        for i in (initialised..per_group).filter(|&i| disk_bit(bitmap, i)) {
            self.report.add(Finding::InodeMarkedUsed {
                inode: number * per_group + i + 1,
            });
        }
    }

    fn inode(&mut self, inode: u32, raw: &[u8], marked: bool) {
        let (mode, links) = (le16(raw, 0), le16(raw, 0x1a));
        let reserved = inode < self.sb.first_inode && inode != ROOT;
        let orphan = self.state(inode) & state::ORPHAN != 0;
        if links == 0 && !marked && !orphan && !reserved {
            if mode != 0 && le32(raw, 0x14) == 0 {
                let place = Place::Inode { inode };
                self.report.add(Finding::Field {
                    place,
                    field: "i_dtime",
                    value: 0,
                    want: None,
                });
            }
            return;
        }
        if !marked {
            self.report.add(Finding::InodeMarkedFree { inode });
        }
        if links == 0 && !orphan && !reserved {
            self.report.add(Finding::InodeMarkedUsed { inode });
        }
        self.used(inode, links.into(), kind(mode));
        if (!reserved || mode != 0) && raw.iter().any(|&b| b != 0) {
            self.judge_inode(inode, raw, orphan);
        } else if inode == 1 {
            self.claim_map(inode, raw);
        }
    }

    /// Notes that an inode is in use.
    fn used(&mut self, inode: u32, links: u32, kind: u8) {
        let group = &mut self.groups[((inode - 1) / self.sb.inodes_per_group) as usize];
        group.seen_inodes += 1;
        group.seen_directories += u32::from(kind == state::DIRECTORY);
        let counts = &mut self.report.counts;
        counts.inodes_used += 1;
        // (Reserved inodes are nobody's files.)
        let shown = inode == ROOT || (inode >= self.sb.first_inode && inode != self.sb.orphan_file);
        match kind {
            _ if !shown => {}
            1 => counts.files += 1,
            2 => counts.directories += 1,
            7 => counts.symlinks += 1,
            0 => {}
            _ => counts.specials += 1,
        }
        let one = if links == 1 { state::ONE_LINK } else { 0 };
        self.inodes[inode as usize] |= kind | state::USED | one;
        if links != 1 && kind != state::DIRECTORY {
            self.links.insert(inode, links);
        }
    }

    fn judge_inode(&mut self, inode: u32, raw: &[u8], orphan: bool) {
        let place = Place::Inode { inode };
        let (mode, flags) = (le16(raw, 0), le32(raw, 0x20));
        self.judge_inode_sum(inode, raw);
        self.judge_extra(inode, raw);
        if kind(mode) == 0 {
            self.report.add(Finding::Field {
                place,
                field: "i_mode",
                value: mode.into(),
                want: None,
            });
            return;
        }
        if flags & FOREIGN_FL != 0 || (flags & EXTENTS_FL != 0 && !self.sb.extents()) {
            self.report.add(Finding::Field {
                place,
                field: "i_flags",
                value: flags.into(),
                want: None,
            });
            return;
        }
        let claimed = self.claim_map(inode, raw);
        let xattr_blocks = self.xattrs(inode, raw);
        self.judge_blocks(inode, raw, claimed.blocks + xattr_blocks);
        if !orphan && inode != RESIZE {
            self.judge_size(inode, raw, &claimed);
        }
        if kind(mode) == state::DIRECTORY {
            self.note_directory(inode, raw, &claimed);
        }
    }

    fn judge_inode_sum(&mut self, inode: u32, raw: &[u8]) {
        if !self.sb.metadata_csum() {
            return;
        }
        let wide = raw.len() > 128 && le16(raw, 0x80) >= 4;
        let crc = crc32c(self.sb.inode_seed(inode, le32(raw, 0x64)), &raw[..0x7c]);
        let crc = crc32c(crc32c(crc, &[0, 0]), &raw[0x7e..0x80]);
        let crc = match (raw.len() > 128, wide) {
            (false, _) => crc,
            (true, false) => crc32c(crc, &raw[0x80..]),
            (true, true) => crc32c(crc32c(crc32c(crc, &raw[0x80..0x82]), &[0, 0]), &raw[0x84..]),
        };
        let lo = u32::from(le16(raw, 0x7c));
        let (stored, computed) = match wide {
            true => (lo | u32::from(le16(raw, 0x82)) << 16, crc),
            false => (lo, crc & 0xffff),
        };
        if stored != computed {
            self.report.add(Finding::Checksum {
                place: Place::Inode { inode },
                stored,
                computed,
            });
        }
    }

    /// The fields beyond byte 128.
    fn judge_extra(&mut self, inode: u32, raw: &[u8]) {
        if raw.len() == 128 {
            return;
        }
        let place = Place::Inode { inode };
        let extra = le16(raw, 0x80);
        if !extra.is_multiple_of(4) || usize::from(extra) + 128 > raw.len() {
            self.report.add(Finding::Field {
                place,
                field: "i_extra_isize",
                value: extra.into(),
                want: None,
            });
            return;
        }
        let times = [
            (0x84, "i_ctime_extra"),
            (0x88, "i_mtime_extra"),
            (0x8c, "i_atime_extra"),
            (0x94, "i_crtime_extra"),
        ];
        for (at, field) in times {
            if at + 4 <= 128 + usize::from(extra) && le32(raw, at) >> 2 >= 1_000_000_000 {
                self.report.add(Finding::Field {
                    place,
                    field,
                    value: le32(raw, at).into(),
                    want: None,
                });
            }
        }
    }

    fn claim_map(&mut self, inode: u32, raw: &[u8]) -> Claimed {
        if !has_map(raw) {
            return Claimed::default();
        }
        if inode == RESIZE && self.sb.resize_inode() {
            return self.resize_inode(raw);
        }
        let mut claim = Claim {
            sb: &self.sb,
            inode,
            groups: &self.groups,
            owned: &mut self.owned,
            report: &mut self.report,
            claimed: Claimed::default(),
        };
        map::walk(
            self.source,
            &self.sb,
            mapped(&self.sb, inode, raw),
            &mut claim,
        );
        claim.claimed
    }

    fn judge_blocks(&mut self, inode: u32, raw: &[u8], blocks: u64) {
        let flags = le32(raw, 0x20);
        let hi = if self.sb.huge_file() {
            u64::from(le16(raw, 0x74)) << 32
        } else {
            0
        };
        let stored = u64::from(le32(raw, 0x1c)) | hi;
        let unit = match self.sb.huge_file() && flags & HUGE_FILE_FL != 0 {
            true => 1,
            false => self.sb.block_size as u64 / 512,
        };
        self.judge(Place::Inode { inode }, "i_blocks", stored, blocks * unit);
    }

    fn judge_size(&mut self, inode: u32, raw: &[u8], claimed: &Claimed) {
        let place = Place::Inode { inode };
        let size = size(raw);
        let block = self.sb.block_size as u64;
        match kind(le16(raw, 0)) {
            // (Blocks past the end must be unwritten: read after an extension, they must give zeros.)
            1 if (claimed.written_end > 0 && size <= (claimed.written_end - 1) * block)
                || size > self.sb.max_size() =>
            {
                self.report.add(Finding::Field {
                    place,
                    field: "i_size",
                    value: size,
                    want: None,
                });
            }
            2 => {
                self.judge(place, "i_size", size, claimed.end * block);
                if claimed.end == 0 || claimed.data != claimed.end {
                    let at = claimed.hole.unwrap_or(0);
                    self.report.add(Finding::Hole {
                        directory: inode,
                        at,
                    });
                }
            }
            7 => self.symlink(inode, raw, size, claimed),
            _ => {}
        }
    }

    fn symlink(&mut self, inode: u32, raw: &[u8], size: u64, claimed: &Claimed) {
        let mut slow = Vec::new();
        let target = match claimed.first {
            None => &raw[0x28..0x64],
            Some(block) => {
                slow.resize(self.sb.block_size, 0);
                let at = block * self.sb.block_size as u64;
                if self
                    .read_at(&mut slow, at, Place::Inode { inode })
                    .is_none()
                {
                    return;
                }
                &slow[..]
            }
        };
        let len = target.iter().position(|&b| b == 0).unwrap_or(target.len());
        let why = match () {
            () if size == 0 => "an empty target",
            () if size >= target.len() as u64 => "the target is longer than its place",
            () if len as u64 != size => "the target's length is not the size",
            () => return,
        };
        self.report.add(Finding::Symlink { inode, why });
    }

    fn note_directory(&mut self, inode: u32, raw: &[u8], claimed: &Claimed) {
        let links = le16(raw, 0x1a).into();
        self.directories.push(Directory {
            inode,
            links,
            counted: 0,
            parent: 0,
            dotdot: 0,
            skip: claimed.damaged || links == 0,
            reach: if inode == ROOT {
                Reach::Found
            } else {
                Reach::Unknown
            },
        });
    }

    /// Inode 7 maps the descriptor blocks kept for growing, and they map
    /// their copies in other groups; all but its double indirect block are
    /// claimed with the groups already.
    fn resize_inode(&mut self, raw: &[u8]) -> Claimed {
        let place = Place::Inode { inode: RESIZE };
        let mut claimed = Claimed::default();
        let dind = u64::from(le32(raw, 0x28 + 13 * 4));
        if dind == 0 {
            return claimed;
        }
        if !self.sb.inside(dind, 1) {
            self.report.add(Finding::Outside { place, block: dind });
            return claimed;
        }
        if let Some((first, count)) = self.owned.add(dind, 1) {
            self.report.add(Finding::UsedTwice {
                place,
                first,
                count,
            });
            return claimed;
        }
        claimed.blocks = 1;
        let block = self.sb.block_size as u64;
        let mut outer = vec![0; self.sb.block_size];
        if self.read_at(&mut outer, dind * block, place).is_none() {
            return claimed;
        }
        let start = self.sb.first_data_block + 1 + self.sb.gdt_blocks();
        let copies: Vec<u64> = (1..self.sb.groups)
            .filter(|&g| self.sb.has_super(g))
            .map(|g| u64::from(g) * self.sb.blocks_per_group)
            .collect();
        let mut inner = vec![0; self.sb.block_size];
        for pointer in outer
            .chunks_exact(4)
            .map(|p| u64::from(le32(p, 0)))
            .filter(|&p| p != 0)
        {
            let reserved = (start..start + self.sb.reserved_gdt).contains(&pointer);
            if !reserved || self.read_at(&mut inner, pointer * block, place).is_none() {
                self.report.add(Finding::Map {
                    place,
                    at: pointer,
                    why: "not a block kept for descriptors",
                });
                continue;
            }
            let found = inner
                .chunks_exact(4)
                .map(|p| u64::from(le32(p, 0)))
                .take_while(|&p| p != 0);
            if !found.eq(copies.iter().map(|copy| pointer + copy)) {
                self.report.add(Finding::Map {
                    place,
                    at: pointer,
                    why: "does not list its copies",
                });
            }
            claimed.blocks += 1 + copies.len() as u64;
        }
        claimed
    }
}

/// What a mode says the inode is, as directory entries number it; 0: nothing.
pub fn kind(mode: u16) -> u8 {
    match mode >> 12 {
        0x8 => 1,
        0x4 => 2,
        0x2 => 3,
        0x6 => 4,
        0x1 => 5,
        0xc => 6,
        0xa => 7,
        _ => 0,
    }
}

/// Bytes of the file.
pub fn size(raw: &[u8]) -> u64 {
    let hi = match kind(le16(raw, 0)) {
        1 | 2 => u64::from(le32(raw, 0x6c)) << 32,
        _ => 0,
    };
    u64::from(le32(raw, 4)) | hi
}

/// Whether i_block maps blocks: not in devices, and not in short symlinks.
fn has_map(raw: &[u8]) -> bool {
    match kind(le16(raw, 0)) {
        0..=2 => true,
        7 => le32(raw, 0x20) & EXTENTS_FL != 0 || size(raw) >= 60,
        _ => false,
    }
}

/// The part of an inode that maps its blocks.
pub fn mapped<'a>(sb: &Super, inode: u32, raw: &'a [u8]) -> Mapped<'a> {
    Mapped {
        inode,
        flags: le32(raw, 0x20),
        i_block: &raw[0x28..0x64],
        seed: sb.inode_seed(inode, le32(raw, 0x64)),
    }
}

/// What an inode's map claims.
#[derive(Clone, Copy, Default)]
struct Claimed {
    /// Blocks in all, the map's own included.
    blocks: u64,
    /// Blocks of the file.
    data: u64,
    /// File block behind the last mapped.
    end: u64,
    /// The same for blocks that have been written.
    written_end: u64,
    /// The first file block missing before a mapped one.
    hole: Option<u32>,
    /// Where the first block lies.
    first: Option<u64>,
    damaged: bool,
}

struct Claim<'w> {
    sb: &'w Super,
    inode: u32,
    groups: &'w [Group],
    owned: &'w mut Bits,
    report: &'w mut Report,
    claimed: Claimed,
}

impl Claim<'_> {
    fn claim(&mut self, first: u64, count: u64) -> bool {
        let place = Place::Inode { inode: self.inode };
        self.claimed.blocks += count;
        for group in self.sb.group_of(first)..=self.sb.group_of(first + count - 1) {
            if self
                .groups
                .get(group as usize)
                .is_some_and(|g| g.block_uninit)
            {
                self.report.add(Finding::UsedUninit { place, group });
            }
        }
        match self.owned.add(first, count) {
            None => true,
            Some((first, count)) => {
                self.report.add(Finding::UsedTwice {
                    place,
                    first,
                    count,
                });
                self.claimed.damaged = true;
                false
            }
        }
    }
}

impl Visit for Claim<'_> {
    fn node(&mut self, block: u64) -> bool {
        self.claim(block, 1)
    }

    fn run(&mut self, at: u32, block: u64, count: u32, written: bool) {
        self.claim(block, count.into());
        let claimed = &mut self.claimed;
        if u64::from(at) > claimed.end && claimed.hole.is_none() {
            claimed.hole = Some(claimed.end as u32);
        }
        claimed.first = claimed.first.or(Some(block));
        claimed.data += u64::from(count);
        claimed.end = u64::from(at) + u64::from(count);
        if written {
            claimed.written_end = claimed.end;
        }
    }

    fn fault(&mut self, finding: Finding) {
        self.claimed.damaged |= !matches!(finding, Finding::Checksum { .. });
        self.report.add(finding);
    }
}
