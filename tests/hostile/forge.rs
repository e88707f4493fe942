//! A forger of images: knows where metadata lie and how they are summed, so
//! that no checksum gives away what was changed.

use std::sync::Arc;

use journalfs::device::memory::{MemoryDisk, Pages};
use journalfs::ext4::Superblock;
use journalfs::ext4::checksum::{crc16, crc32c, inode_seed};
use journalfs::ext4::inode::{Inode, flag, mode};
use journalfs::fs;
use journalfs::fs::map::Mapping;
use journalfs::journal::{Blocks, Journal, View};
use journalfs::units::{BlockNo, FileBlock, GroupNo, InodeNo};

use crate::support::random::Seeded;

/// A piece of metadata.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Superblock,
    Group(u32),
    BlockBitmap(u32),
    InodeBitmap(u32),
    Inode(u32),
    /// A block of an extent tree, of this inode.
    Extents(u32),
    /// A block of a block map.
    Pointers,
    /// A directory's block: entries, or the index's root or node.
    Leaf(u32),
    Root(u32),
    Node(u32),
    /// An attribute block.
    Attributes(u64),
    /// A block of the orphan file, with its number.
    Orphans(u32, u64),
}

/// What lies where.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub what: What,
    pub at: u64,
    pub len: usize,
}

/// An image's bytes, and where its metadata are.
#[derive(Clone)]
pub struct Forge {
    pub pages: Pages,
    sb: Superblock,
    pieces: Vec<Piece>,
}

impl Forge {
    /// Looks for everything in a good image.
    pub fn of(pages: &Pages) -> Self {
        let mut raw = [0; 1024];
        pages.read(&mut raw, 1024);
        let sb = Superblock::decode(&raw).expect("a good image");
        let disk = Arc::new(MemoryDisk::from_pages(pages.clone()));
        let journal = Journal::scratch(disk, sb.block_size as usize);
        let mut forge = Forge {
            pages: pages.clone(),
            pieces: vec![Piece {
                what: What::Superblock,
                at: 1024,
                len: 1024,
            }],
            sb,
        };
        let view = journal.view();
        for group in 0..forge.sb.group_count() {
            forge.find_group(&view, group);
        }
        for number in 1..=forge.sb.inodes_count {
            if let Ok(inode) = fs::inode::load(&view, &forge.sb, InodeNo(number)) {
                forge.find_inode(&view, &inode);
            }
        }
        forge
    }

    fn add(&mut self, what: What, block: BlockNo) {
        let bs = self.sb.block_size as usize;
        self.pieces.push(Piece {
            what,
            at: block.0 * bs as u64,
            len: bs,
        });
    }

    fn find_group(&mut self, view: &View<'_>, number: u32) {
        let group = fs::inode::group(view, &self.sb, GroupNo(number)).expect("a good group");
        let (block, at) = self.sb.descriptor_place(GroupNo(number));
        self.pieces.push(Piece {
            what: What::Group(number),
            at: block.0 * u64::from(self.sb.block_size) + at as u64,
            len: self.sb.desc_size.into(),
        });
        self.add(What::BlockBitmap(number), group.block_bitmap);
        self.add(What::InodeBitmap(number), group.inode_bitmap);
    }

    fn find_inode(&mut self, view: &View<'_>, inode: &Inode) {
        let number = inode.number.0;
        let (block, at) = fs::inode::place(view, &self.sb, inode.number).expect("its place");
        self.pieces.push(Piece {
            what: What::Inode(number),
            at: block.0 * u64::from(self.sb.block_size) + at as u64,
            len: self.sb.inode_size.into(),
        });
        if inode.file_acl != 0 {
            self.add(What::Attributes(inode.file_acl), BlockNo(inode.file_acl));
        }
        let kind = inode.kind();
        if !matches!(kind, mode::REGULAR | mode::DIRECTORY | mode::SYMLINK) {
            return;
        }
        if inode.has(flag::EXTENTS) {
            self.find_extents(view, number, &inode.block);
        } else if kind != mode::SYMLINK && number != 7 {
            for (slot, levels) in [(12, 1), (13, 2), (14, 3)] {
                self.find_pointers(view, le32(&inode.block, slot * 4).into(), levels);
            }
        }
        for n in 0..(inode.size / u64::from(self.sb.block_size)).min(2000) as u32 {
            let found = fs::map::find(view, &self.sb, inode, FileBlock(n));
            let Ok(Mapping::Mapped { block, .. }) = found else {
                continue;
            };
            if number == self.sb.orphan_file_inode {
                self.add(What::Orphans(number, block.0), block);
            } else if kind == mode::DIRECTORY {
                let bytes = view.block(block).expect("a block");
                let indexed = inode.has(flag::INDEX);
                let empty = le32(&bytes, 0) == 0 && le16(&bytes, 4) == bytes.len();
                let what = match (indexed, n) {
                    (true, 0) => What::Root(number),
                    (true, _) if empty => What::Node(number),
                    _ => What::Leaf(number),
                };
                self.add(what, block);
            }
        }
    }

    fn find_extents(&mut self, view: &View<'_>, number: u32, node: &[u8]) {
        if le16(node, 6) == 0 {
            return;
        }
        for n in 0..le16(node, 2) {
            let child = BlockNo(le32(node, 12 + n * 12 + 4).into());
            self.add(What::Extents(number), child);
            self.find_extents(view, number, &view.block(child).expect("a node"));
        }
    }

    fn find_pointers(&mut self, view: &View<'_>, block: u64, levels: u32) {
        if block == 0 || levels == 0 {
            return;
        }
        self.add(What::Pointers, BlockNo(block));
        let bytes = view.block(BlockNo(block)).expect("a block");
        for slot in 0..bytes.len() / 4 {
            self.find_pointers(view, le32(&bytes, slot * 4).into(), levels - 1);
        }
    }

    /// Bytes of the first piece of this kind.
    pub fn get(&self, what: impl Fn(What) -> bool, offset: usize, len: usize) -> Vec<u8> {
        let piece = self.pieces.iter().find(|piece| what(piece.what));
        let mut bytes = vec![0; len];
        let at = piece.expect("such a piece").at + offset as u64;
        self.pages.read(&mut bytes, at);
        bytes
    }

    /// Other bytes in the first piece of this kind, and all checksums right.
    pub fn set(&mut self, what: impl Fn(What) -> bool, offset: usize, bytes: &[u8]) {
        let piece = self.pieces.iter().find(|piece| what(piece.what));
        let at = piece.expect("such a piece").at + offset as u64;
        self.pages.write(bytes, at);
        self.seal();
    }

    /// Where metadata lie.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The orphan file's inode.
    pub fn orphan_file(&self) -> u32 {
        self.sb.orphan_file_inode
    }

    /// Changes a few numbers somewhere, and puts all checksums right.
    pub fn change(&mut self, random: &mut Seeded) -> Vec<Piece> {
        let mut changed = Vec::new();
        for _ in 0..random.usize(1..4) {
            let piece = self.choose(random);
            for _ in 0..random.usize(1..4) {
                let mut raw = vec![0; piece.len];
                self.pages.read(&mut raw, piece.at);
                // Most blocks say more at their start; inodes everywhere.
                let most = match random.bool() {
                    true => piece.len.min(64),
                    false => piece.len,
                };
                tamper(&mut raw[..most], random);
                self.pages.write(&raw, piece.at);
            }
            changed.push(piece);
        }
        if random.u8(..20) > 0 {
            self.seal();
        }
        changed
    }

    /// Changes what (piece, offset, how, value) says, and puts all checksums
    /// right. The pieces of a kind lie together, so near numbers are alike.
    pub fn apply(
        &mut self,
        edits: impl Iterator<Item = (usize, usize, u8, u8)>,
        edit: fn(&mut [u8], usize, u8, u8),
    ) {
        for (piece, at, how, value) in edits {
            let piece = self.pieces[piece % self.pieces.len()];
            let mut raw = vec![0; piece.len];
            self.pages.read(&mut raw, piece.at);
            edit(&mut raw, at % piece.len, how, value);
            self.pages.write(&raw, piece.at);
        }
        self.seal();
    }

    /// Each kind of metadata as often as the next, few as there may be of it.
    fn choose(&self, random: &mut Seeded) -> Piece {
        let kinds: Vec<_> = (self.pieces.iter())
            .map(|piece| std::mem::discriminant(&piece.what))
            .collect();
        let mut different = Vec::new();
        for kind in &kinds {
            if !different.contains(kind) {
                different.push(*kind);
            }
        }
        let kind = different[random.usize(0..different.len())];
        let of_kind: Vec<usize> = (0..kinds.len()).filter(|n| kinds[*n] == kind).collect();
        self.pieces[of_kind[random.usize(0..of_kind.len())]]
    }

    fn seal(&mut self) {
        let mut raw = [0; 1024];
        self.pages.read(&mut raw, 1024);
        let fs_seed = match le32(&raw, 0x60) & 0x2000 {
            0 => crc32c(!0, &raw[0x68..0x78]),
            _ => le32(&raw, 0x270),
        };
        let pieces = self.pieces.clone();
        let mut descriptors = Vec::new();
        for piece in &pieces {
            let mut raw = vec![0; piece.len];
            self.pages.read(&mut raw, piece.at);
            match piece.what {
                What::Group(_) => descriptors.push(*piece),
                what => self.seal_piece(what, &mut raw, fs_seed),
            }
            self.pages.write(&raw, piece.at);
        }
        // After the bitmaps, whose sums they hold.
        for piece in descriptors {
            self.seal_group(piece, &pieces, fs_seed);
        }
    }

    fn seal_piece(&self, what: What, raw: &mut [u8], fs_seed: u32) {
        if !self.sb.has_metadata_csum() {
            return;
        }
        let seed = |number: u32| {
            let at = self.pieces.iter().find_map(|piece| match piece.what {
                What::Inode(n) if n == number => Some(piece.at),
                _ => None,
            });
            let mut generation = [0; 4];
            self.pages
                .read(&mut generation, at.expect("its inode") + 0x64);
            inode_seed(fs_seed, number, u32::from_le_bytes(generation))
        };
        let len = raw.len();
        match what {
            What::Superblock => {
                let sum = crc32c(!0, &raw[..0x3FC]);
                put32(raw, 0x3FC, sum);
            }
            What::Inode(number) => {
                let wide = len > 128 && le16(raw, 0x80) >= 4;
                raw[0x7C..0x7E].fill(0);
                if wide {
                    raw[0x82..0x84].fill(0);
                }
                let sum = crc32c(inode_seed(fs_seed, number, le32(raw, 0x64)), raw);
                raw[0x7C..0x7E].copy_from_slice(&(sum as u16).to_le_bytes());
                if wide {
                    raw[0x82..0x84].copy_from_slice(&((sum >> 16) as u16).to_le_bytes());
                }
            }
            What::Extents(number) => seal_at(raw, 12 + 12 * le16(raw, 4), seed(number)),
            What::Leaf(number) => {
                let sum = crc32c(seed(number), &raw[..len - 12]);
                put32(raw, len - 4, sum);
            }
            What::Root(number) => seal_index(raw, 0x20, seed(number)),
            What::Node(number) => seal_index(raw, 8, seed(number)),
            What::Attributes(block) => {
                put32(raw, 16, 0);
                let sum = crc32c(crc32c(fs_seed, &block.to_le_bytes()), raw);
                put32(raw, 16, sum);
            }
            What::Orphans(number, block) => {
                let seed = crc32c(seed(number), &block.to_le_bytes());
                let sum = crc32c(seed, &raw[..len - 8]);
                put32(raw, len - 4, sum);
            }
            What::Group(_) | What::BlockBitmap(_) | What::InodeBitmap(_) | What::Pointers => {}
        }
    }

    fn seal_group(&mut self, piece: Piece, all: &[Piece], fs_seed: u32) {
        let What::Group(number) = piece.what else {
            return;
        };
        let mut raw = vec![0; piece.len];
        self.pages.read(&mut raw, piece.at);
        let wide = raw.len() >= 64;
        if self.sb.has_metadata_csum() {
            for bitmap in all {
                let (bits, lo, hi) = match bitmap.what {
                    What::BlockBitmap(n) if n == number => (self.sb.blocks_per_group, 0x18, 0x38),
                    What::InodeBitmap(n) if n == number => (self.sb.inodes_per_group, 0x1A, 0x3A),
                    _ => continue,
                };
                let mut bytes = vec![0; bitmap.len];
                self.pages.read(&mut bytes, bitmap.at);
                let sum = crc32c(fs_seed, &bytes[..bits as usize / 8]);
                raw[lo..lo + 2].copy_from_slice(&(sum as u16).to_le_bytes());
                if wide {
                    raw[hi..hi + 2].copy_from_slice(&((sum >> 16) as u16).to_le_bytes());
                }
            }
        }
        raw[0x1E..0x20].fill(0);
        let number = number.to_le_bytes();
        let sum = if self.sb.has_metadata_csum() {
            crc32c(crc32c(fs_seed, &number), &raw) as u16
        } else if self.sb.has_uninit_groups() {
            let sum = crc16(crc16(crc16(!0, &self.sb.uuid), &number), &raw[..0x1E]);
            if wide { crc16(sum, &raw[0x20..]) } else { sum }
        } else {
            0
        };
        raw[0x1E..0x20].copy_from_slice(&sum.to_le_bytes());
        self.pages.write(&raw, piece.at);
    }
}

/// Makes one number another: a bit, any byte, or a value at a border.
pub fn tamper(raw: &mut [u8], random: &mut Seeded) {
    let at = random.usize(0..raw.len());
    let borders = [0, 1, 2, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 1, u32::MAX];
    let border = borders[random.usize(0..borders.len())];
    match random.u8(..6) {
        0 | 1 => raw[at] ^= 1 << random.u8(..8),
        2 => raw[at] = random.u8(..),
        3 => raw[at] = border as u8,
        4 => {
            let word = &mut raw[at / 2 * 2..];
            let len = word.len().min(2);
            word[..len].copy_from_slice(&border.to_le_bytes()[..len]);
        }
        _ => {
            let word = &mut raw[at / 4 * 4..];
            let len = word.len().min(4);
            word[..len].copy_from_slice(&border.to_le_bytes()[..len]);
        }
    }
}

fn seal_at(raw: &mut [u8], at: usize, seed: u32) {
    if at + 4 <= raw.len() {
        let sum = crc32c(seed, &raw[..at]);
        put32(raw, at, sum);
    }
}

fn seal_index(raw: &mut [u8], base: usize, seed: u32) {
    let (limit, count) = (le16(raw, base), le16(raw, base + 2));
    let (tail, used) = (base + limit * 8, base + count * 8);
    if tail + 8 <= raw.len() && used <= raw.len() {
        let sum = crc32c(seed, &raw[..used]);
        let sum = crc32c(crc32c(sum, &raw[tail..tail + 4]), &[0; 4]);
        put32(raw, tail + 4, sum);
    }
}

fn le16(raw: &[u8], at: usize) -> usize {
    u16::from_le_bytes([raw[at], raw[at + 1]]).into()
}
fn le32(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}
fn put32(raw: &mut [u8], at: usize, value: u32) {
    raw[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
