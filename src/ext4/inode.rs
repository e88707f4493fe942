//! Inodes: 128 bytes of old fields, then `i_extra_isize` bytes of newer ones
//! (an inode has those fields that fit), then room for attributes.

use super::Corrupt;
use super::bytes::{le16, le32, put16, put32};
use super::checksum::crc32c;
use super::features::{incompat, ro_compat};
use super::superblock::Superblock;
use crate::units::{InodeNo, Time};

/// Bits of `i_flags`.
#[allow(missing_docs)]
pub mod flag {
    /// Changes are durable when they are answered,
    pub const SYNC: u32 = 0x8;
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const NODUMP: u32 = 0x40;
    pub const NOATIME: u32 = 0x80;
    pub const INDEX: u32 = 0x1000;
    pub const JOURNAL_DATA: u32 = 0x4000;
    /// and so are changes of a directory's names.
    pub const DIRSYNC: u32 = 0x1_0000;
    pub const TOPDIR: u32 = 0x2_0000;
    pub const DAX: u32 = 0x200_0000;
    pub const PROJINHERIT: u32 = 0x2000_0000;
    pub const HUGE_FILE: u32 = 0x4_0000;
    pub const EXTENTS: u32 = 0x8_0000;
    pub const EA_INODE: u32 = 0x20_0000;
    pub const INLINE_DATA: u32 = 0x1000_0000;
    /// What lsattr(1) shows and chattr(1) may name, as of the kernel
    /// (Documentation/filesystems/ext4/inodes.rst has the bits).
    pub const VISIBLE: u32 = 0x725B_DFFF;
    /// What chattr(1) changes. (EXTENTS asks for another layout.)
    pub const CHANGEABLE: u32 = 0x224B_C0FF;
    /// Of a folder that finds names whatever their case, which no image has here.
    pub const CASEFOLD: u32 = 0x4000_0000;
    /// What new inodes take over from their directory, as those that the
    /// kernel makes do: directories all of it,
    const INHERITED: u32 = 0x2201_C4CF;
    /// regular files all but DIRSYNC and PROJINHERIT,
    const INHERITED_BY_DIRECTORIES: u32 = 0x2001_0000;
    /// and others NODUMP and NOATIME alone.
    const OF_ALL: u32 = 0xC0;

    /// What a new inode of this type has of its directory's flags.
    pub fn inherited(directory: u32, kind: u16) -> u32 {
        directory
            & match kind {
                super::mode::DIRECTORY => INHERITED,
                super::mode::REGULAR => INHERITED & !INHERITED_BY_DIRECTORIES,
                _ => OF_ALL,
            }
    }
}

/// File types in `i_mode`.
#[allow(missing_docs)]
pub mod mode {
    pub const TYPE: u16 = 0o170000;
    pub const FIFO: u16 = 0o010000;
    pub const CHAR: u16 = 0o020000;
    pub const DIRECTORY: u16 = 0o040000;
    pub const BLOCK: u16 = 0o060000;
    pub const REGULAR: u16 = 0o100000;
    pub const SYMLINK: u16 = 0o120000;
    pub const SOCKET: u16 = 0o140000;
}

/// Bytes of the old inode.
pub const OLD_SIZE: usize = 128;
/// `i_extra_isize` that covers all fields known here (up to `i_projid`).
pub const EXTRA: u16 = 32;
const CHECKSUM_LO: usize = 0x7C;
const CHECKSUM_HI: usize = 0x82;

/// A decoded inode.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the format's own fields, under their plain names
pub struct Inode {
    pub number: InodeNo,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub crtime: Time,
    /// Time of deletion; on the orphan chain, the next inode's number.
    pub dtime: u32,
    pub links: u16,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub flags: u32,
    pub generation: u32,
    pub version: u64,
    /// `i_block`: extent tree root, block map, device number, or a short symlink's target.
    pub block: [u8; 60],
    /// The attribute block; 0: none.
    pub file_acl: u64,
    pub extra_isize: u16,
    /// Bytes behind the extra fields: attributes inside the inode.
    pub tail: Vec<u8>,
}

impl Inode {
    /// An inode without blocks or links, for `Inode::encode` onto zeros.
    pub fn new(number: InodeNo, mode: u16, generation: u32, time: Time, sb: &Superblock) -> Self {
        let extra_isize = sb.want_extra_isize;
        let room = usize::from(sb.inode_size) - OLD_SIZE - usize::from(extra_isize);
        let mut inode = Inode {
            number,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            dtime: 0,
            links: 0,
            blocks: 0,
            flags: 0,
            generation,
            version: 1,
            block: [0; 60],
            file_acl: 0,
            extra_isize,
            tail: vec![0; room],
        };
        let kind = mode & self::mode::TYPE;
        if sb.has_extents() && (kind == self::mode::REGULAR || kind == self::mode::DIRECTORY) {
            inode.init_extents();
        }
        inode
    }

    /// Makes `i_block` the root of an empty extent tree.
    pub fn init_extents(&mut self) {
        self.flags |= flag::EXTENTS;
        self.block = [0; 60];
        put16(&mut self.block, 0, 0xF30A);
        put16(&mut self.block, 4, 4); // eh_max: what fits behind the header
    }

    /// Decodes `sb.inode_size` bytes.
    pub fn decode(raw: &[u8], number: InodeNo, sb: &Superblock) -> Result<Self, Corrupt> {
        let size = usize::from(sb.inode_size);
        let wrong = |field, value| Corrupt::Field {
            what: format!("inode {number}"),
            field,
            value,
        };
        if raw.len() < size {
            return Err(wrong("length", raw.len() as u64));
        }
        let raw = &raw[..size];
        let extra_isize = if size > OLD_SIZE { le16(raw, 0x80) } else { 0 };
        if usize::from(extra_isize) > size - OLD_SIZE || extra_isize % 4 != 0 {
            return Err(wrong("i_extra_isize", u64::from(extra_isize)));
        }
        verify(raw, number, sb, extra_isize)?;

        let mode = le16(raw, 0x0);
        let flags = le32(raw, 0x20);
        let has = |end: usize| OLD_SIZE + usize::from(extra_isize) >= end;
        let extra = |at| if has(at + 4) { le32(raw, at) } else { 0 };
        let wide_size = mode & self::mode::TYPE == self::mode::REGULAR;
        let wide_blocks = sb.features.ro_compat(ro_compat::HUGE_FILE);
        let blocks = u64::from(le32(raw, 0x1C))
            | if wide_blocks {
                u64::from(le16(raw, 0x74)) << 32
            } else {
                0
            };
        let unit = if wide_blocks && flags & flag::HUGE_FILE != 0 {
            u64::from(sb.block_size / 512)
        } else {
            1
        };
        let inode = Inode {
            number,
            mode,
            uid: u32::from(le16(raw, 0x2)) | u32::from(le16(raw, 0x78)) << 16,
            gid: u32::from(le16(raw, 0x18)) | u32::from(le16(raw, 0x7A)) << 16,
            size: u64::from(le32(raw, 0x4))
                | if wide_size {
                    u64::from(le32(raw, 0x6C)) << 32
                } else {
                    0
                },
            atime: time(le32(raw, 0x8), extra(0x8C)),
            ctime: time(le32(raw, 0xC), extra(0x84)),
            mtime: time(le32(raw, 0x10), extra(0x88)),
            crtime: if has(0x94) {
                time(le32(raw, 0x90), extra(0x94))
            } else {
                Time::default()
            },
            dtime: le32(raw, 0x14),
            links: le16(raw, 0x1A),
            blocks: blocks * unit,
            flags,
            generation: le32(raw, 0x64),
            version: u64::from(le32(raw, 0x24)) | u64::from(extra(0x98)) << 32,
            block: raw[0x28..0x64].try_into().expect("60 bytes"),
            file_acl: u64::from(le32(raw, 0x68))
                | if sb.features.incompat(incompat::BIT64) {
                    u64::from(le16(raw, 0x76)) << 32
                } else {
                    0
                },
            extra_isize,
            tail: raw[OLD_SIZE + usize::from(extra_isize)..].to_vec(),
        };
        if inode.size > i64::MAX as u64 {
            return Err(wrong("i_size", inode.size));
        }
        Ok(inode)
    }

    /// Writes the fields into the inode's bytes (fields not known here stay)
    /// and sets the checksum.
    pub fn encode(&self, raw: &mut [u8], sb: &Superblock) {
        let raw = &mut raw[..usize::from(sb.inode_size)];
        let unit = u64::from(sb.block_size / 512);
        let wide_blocks = sb.features.ro_compat(ro_compat::HUGE_FILE);
        let (blocks, huge) = match self.blocks >> 48 {
            0 => (self.blocks, 0),
            _ => (self.blocks / unit, flag::HUGE_FILE),
        };
        put16(raw, 0x0, self.mode);
        put16(raw, 0x2, self.uid as u16);
        put32(raw, 0x4, self.size as u32);
        put16(raw, 0x18, self.gid as u16);
        put16(raw, 0x1A, self.links);
        put32(raw, 0x14, self.dtime);
        put32(raw, 0x1C, blocks as u32);
        put32(raw, 0x20, self.flags & !flag::HUGE_FILE | huge);
        put32(raw, 0x24, self.version as u32);
        raw[0x28..0x64].copy_from_slice(&self.block);
        put32(raw, 0x64, self.generation);
        put32(raw, 0x68, self.file_acl as u32);
        put32(raw, 0x6C, (self.size >> 32) as u32);
        if wide_blocks {
            put16(raw, 0x74, (blocks >> 32) as u16);
        }
        if sb.features.incompat(incompat::BIT64) {
            put16(raw, 0x76, (self.file_acl >> 32) as u16);
        }
        put16(raw, 0x78, (self.uid >> 16) as u16);
        put16(raw, 0x7A, (self.gid >> 16) as u16);
        self.encode_extra(raw);
        self.set_checksum(raw, sb);
    }

    fn encode_extra(&self, raw: &mut [u8]) {
        let end = OLD_SIZE + usize::from(self.extra_isize);
        if raw.len() > OLD_SIZE {
            put16(raw, 0x80, self.extra_isize);
            raw[end..].copy_from_slice(&self.tail);
        }
        let times = [
            (0x8, 0x8C, self.atime),
            (0xC, 0x84, self.ctime),
            (0x10, 0x88, self.mtime),
            (0x90, 0x94, self.crtime),
        ];
        for (base, extra, time) in times {
            let fits = end >= extra + 4;
            let (secs, more) = stamp(time, fits);
            if base < OLD_SIZE || end >= base + 4 {
                put32(raw, base, secs);
            }
            if fits {
                put32(raw, extra, more);
            }
        }
        if end >= 0x9C {
            put32(raw, 0x98, (self.version >> 32) as u32);
        }
    }

    fn set_checksum(&self, raw: &mut [u8], sb: &Superblock) {
        if !sb.has_metadata_csum() {
            return;
        }
        let sum = checksum(raw, self.number, sb, self.extra_isize);
        put16(raw, CHECKSUM_LO, sum as u16);
        if self.extra_isize >= 4 {
            put16(raw, CHECKSUM_HI, (sum >> 16) as u16);
        }
    }

    /// The file type bits of `i_mode`.
    pub fn kind(&self) -> u16 {
        self.mode & mode::TYPE
    }
    /// Whether a flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
    /// Whether changes of it are to be durable when they are answered.
    pub fn is_sync(&self) -> bool {
        self.has(flag::SYNC)
    }
    /// The same of changes of a directory's names.
    pub fn is_dirsync(&self) -> bool {
        self.has(flag::SYNC | flag::DIRSYNC)
    }
    /// The checksum seed of the inode's blocks.
    pub fn seed(&self, sb: &Superblock) -> u32 {
        sb.inode_seed(self.number, self.generation)
    }

    /// A device's number, as makedev(3) gives it.
    pub fn device(&self) -> u32 {
        match le32(&self.block, 0) {
            0 => le32(&self.block, 4),
            old => old, // 8 bits major, 8 bits minor: the same in both encodings
        }
    }
    /// Sets a device's number: in the old field if 16 bits suffice.
    pub fn set_device(&mut self, rdev: u32) {
        self.block = [0; 60];
        let at = if rdev <= 0xFFFF { 0 } else { 4 };
        put32(&mut self.block, at, rdev);
    }
}

/// The inode's checksum, its own fields taken as zeros.
fn checksum(raw: &[u8], number: InodeNo, sb: &Superblock, extra_isize: u16) -> u32 {
    let seed = sb.inode_seed(number, le32(raw, 0x64));
    let sum = crc32c(seed, &raw[..CHECKSUM_LO]);
    let sum = crc32c(crc32c(sum, &[0, 0]), &raw[CHECKSUM_LO + 2..OLD_SIZE]);
    match raw.len() > OLD_SIZE {
        false => sum & 0xFFFF,
        true if extra_isize < 4 => crc32c(sum, &raw[OLD_SIZE..]) & 0xFFFF,
        true => {
            let sum = crc32c(sum, &raw[OLD_SIZE..CHECKSUM_HI]);
            crc32c(crc32c(sum, &[0, 0]), &raw[CHECKSUM_HI + 2..])
        }
    }
}

fn verify(raw: &[u8], number: InodeNo, sb: &Superblock, extra_isize: u16) -> Result<(), Corrupt> {
    if !sb.has_metadata_csum() {
        return Ok(());
    }
    let high = if extra_isize >= 4 {
        u32::from(le16(raw, CHECKSUM_HI)) << 16
    } else {
        0
    };
    let stored = u32::from(le16(raw, CHECKSUM_LO)) | high;
    let computed = checksum(raw, number, sb, extra_isize);
    match stored == computed {
        true => Ok(()),
        false => Err(Corrupt::Checksum {
            what: format!("inode {number}"),
            stored,
            computed,
        }),
    }
}

impl Inode {
    /// The time that is kept when this one is set: nearest in range, at the
    /// range's ends and without extra bits in whole seconds (as Linux does).
    pub fn nearest(&self, time: Time) -> Time {
        let extra = OLD_SIZE + usize::from(self.extra_isize) >= 0x90;
        let (first, last) = range(extra);
        let secs = time.secs.clamp(first, last);
        let whole = !extra || secs == first || secs == last;
        Time {
            secs,
            nanos: if whole { 0 } else { time.nanos },
        }
    }
}

/// The first and the last second that can be stored: in 1901 and 2446,
/// without extra bits 2038.
fn range(extra: bool) -> (i64, i64) {
    let last = i64::from(i32::MAX) + if extra { 3 << 32 } else { 0 };
    (i64::from(i32::MIN), last)
}

/// A stored time: signed seconds, then two bits of epoch and thirty of nanoseconds.
pub(crate) fn time(secs: u32, extra: u32) -> Time {
    Time {
        secs: i64::from(secs as i32) + (i64::from(extra & 3) << 32),
        nanos: (extra >> 2).min(999_999_999),
    }
}

/// The inverse of [`time`]; times outside the range become its ends.
fn stamp(time: Time, extra: bool) -> (u32, u32) {
    let (first, last) = range(extra);
    let secs = time.secs.clamp(first, last);
    let epoch = ((secs - i64::from(secs as i32)) >> 32) as u32 & 3;
    (secs as u32, epoch | time.nanos << 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_until_2446() {
        for secs in [
            -1,
            0,
            i64::from(i32::MIN),
            2_147_483_648,
            4_294_967_296,
            15_032_385_535,
        ] {
            let at = Time {
                secs,
                nanos: 999_999_999,
            };
            let (base, extra) = stamp(at, true);
            assert_eq!(time(base, extra), at);
        }
        let late = Time {
            secs: 20_000_000_000,
            nanos: 0,
        };
        assert_eq!(stamp(late, false).0, i32::MAX as u32);
        let (base, extra) = stamp(late, true);
        assert_eq!(time(base, extra).secs, 15_032_385_535);
    }
}
