//! Extent trees: a file's blocks as runs, in a tree of nodes whose root sits
//! in the inode.
//!
//! A node is a 12-byte header and 12-byte items, sorted: runs in a leaf,
//! children elsewhere. An index item's key equals the first key below it. A
//! node in a block of its own ends in a checksum when metadata_csum is on.
//!
//! [`NodeRef`] searches bytes in place; [`Node`] is for changing.

use super::Corrupt;
use super::bytes::{le16, le32, put16, put32};
use super::checksum::crc32c;
use super::superblock::Superblock;
use crate::units::{BlockNo, FileBlock, InodeNo};

/// The longest written run.
pub const MAX_WRITTEN: u32 = 32768;
/// The longest unwritten run.
pub const MAX_UNWRITTEN: u32 = 32767;
/// The deepest tree the format needs (and the kernel accepts).
pub const MAX_DEPTH: u16 = 5;
/// Blocks a file can have: the last number is never used.
pub const MAX_BLOCKS: u32 = u32::MAX;

const MAGIC: u16 = 0xF30A;
const ITEM: usize = 12;

/// A run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first block in the file.
    pub file: FileBlock,
    /// Blocks.
    pub len: u32,
    /// Its first block in the image.
    pub block: BlockNo,
    /// Allocated, but reads as zeros.
    pub unwritten: bool,
}

/// A child of an inner node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// The first file block below it.
    pub file: FileBlock,
    /// Where the child node lies.
    pub child: BlockNo,
}

impl Extent {
    /// The file block behind the run.
    pub fn end(&self) -> u64 {
        u64::from(self.file.0) + u64::from(self.len)
    }
    /// The part of the run from file block `from` to before `to` (which overlap it).
    pub fn slice(&self, from: u64, to: u64) -> Extent {
        let from = from.max(u64::from(self.file.0));
        let to = to.min(self.end());
        let skip = from - u64::from(self.file.0);
        Extent {
            file: FileBlock(from as u32),
            len: to.saturating_sub(from) as u32,
            block: BlockNo(self.block.0 + skip),
            unwritten: self.unwritten,
        }
    }
    /// Whether `next` follows in the file and in the image, in the same state.
    pub fn joins(&self, next: &Extent) -> bool {
        let most = if self.unwritten {
            MAX_UNWRITTEN
        } else {
            MAX_WRITTEN
        };
        self.unwritten == next.unwritten
            && self.end() == u64::from(next.file.0)
            && self.block.0 + u64::from(self.len) == next.block.0
            && self.len + next.len <= most
    }
}

/// A node's items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Items {
    /// Of a leaf.
    Extents(Vec<Extent>),
    /// Of an inner node.
    Children(Vec<Index>),
}

/// A decoded node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Levels below it; 0 for a leaf.
    pub depth: u16,
    /// Items that it has room for.
    pub max: u16,
    /// Kept as found.
    pub generation: u32,
    /// What it holds.
    pub items: Items,
}

/// Items that fit into a block of its own, the checksum's room left out.
pub fn room(block_size: usize) -> u16 {
    ((block_size - ITEM) / ITEM) as u16
}

/// A node's bytes, with the header checked: for searching.
#[derive(Clone, Copy)]
pub struct NodeRef<'a> {
    raw: &'a [u8],
    owner: InodeNo,
    entries: u16,
    max: u16,
    /// Levels below it; 0 for a leaf.
    pub depth: u16,
}

impl<'a> NodeRef<'a> {
    /// Checks the header. `depth` is what the parent promises.
    pub fn open(raw: &'a [u8], owner: InodeNo, depth: Option<u16>) -> Result<Self, Corrupt> {
        let wrong = |field, value: u16| Err(bad(owner, field, u64::from(value)));
        if raw.len() < ITEM {
            return wrong("length", raw.len() as u16);
        }
        let (magic, entries, max, found) = (le16(raw, 0), le16(raw, 2), le16(raw, 4), le16(raw, 6));
        if magic != MAGIC {
            return wrong("eh_magic", magic);
        }
        if max == 0 || ITEM + usize::from(max) * ITEM > raw.len() {
            return wrong("eh_max", max);
        }
        if entries > max || (entries == 0 && found > 0) {
            return wrong("eh_entries", entries);
        }
        if found > MAX_DEPTH || depth.is_some_and(|want| want != found) {
            return wrong("eh_depth", found);
        }
        Ok(NodeRef {
            raw,
            owner,
            entries,
            max,
            depth: found,
        })
    }

    /// Checks the checksum of a node in a block of its own.
    pub fn verify(&self, sb: &Superblock, seed: u32) -> Result<(), Corrupt> {
        if !sb.has_metadata_csum() {
            return Ok(());
        }
        let at = tail(self.max);
        if at + 4 > self.raw.len() {
            return Err(bad(self.owner, "eh_max", u64::from(self.max)));
        }
        let (stored, computed) = (le32(self.raw, at), crc32c(seed, &self.raw[..at]));
        match stored == computed {
            true => Ok(()),
            false => {
                let what = format!("an extent block of inode {}", self.owner);
                Err(Corrupt::Checksum {
                    what,
                    stored,
                    computed,
                })
            }
        }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        usize::from(self.entries)
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
    fn item(&self, at: usize) -> &'a [u8] {
        &self.raw[ITEM + at * ITEM..ITEM * 2 + at * ITEM]
    }
    /// The first file block of an item.
    pub fn key(&self, at: usize) -> FileBlock {
        FileBlock(le32(self.item(at), 0))
    }
    /// The last item that begins at or before `file`.
    pub fn search(&self, file: FileBlock) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let mid = (low + high) / 2;
            match self.key(mid) <= file {
                true => low = mid + 1,
                false => high = mid,
            }
        }
        low.checked_sub(1)
    }

    /// An item of a leaf.
    pub fn extent(&self, at: usize, sb: &Superblock) -> Result<Extent, Corrupt> {
        let raw = self.item(at);
        let len = u32::from(le16(raw, 4));
        let unwritten = len > MAX_WRITTEN;
        let extent = Extent {
            file: self.key(at),
            len: if unwritten { len - MAX_WRITTEN } else { len },
            block: BlockNo(u64::from(le32(raw, 8)) | u64::from(le16(raw, 6)) << 32),
            unwritten,
        };
        if len == 0 || extent.end() > u64::from(MAX_BLOCKS) {
            return Err(bad(self.owner, "ee_len", u64::from(len)));
        }
        match sb.may_hold_data(extent.block, u64::from(extent.len)) {
            true => Ok(extent),
            false => Err(self.outside(extent.block)),
        }
    }

    /// An item of an inner node.
    pub fn child(&self, at: usize, sb: &Superblock) -> Result<Index, Corrupt> {
        let raw = self.item(at);
        let child = BlockNo(u64::from(le32(raw, 4)) | u64::from(le16(raw, 8)) << 32);
        match sb.may_hold_data(child, 1) {
            true => Ok(Index {
                file: self.key(at),
                child,
            }),
            false => Err(self.outside(child)),
        }
    }

    /// Checks that every item is possible and begins behind the one before.
    pub fn check(&self, sb: &Superblock) -> Result<(), Corrupt> {
        let mut end = 0;
        for n in 0..self.len() {
            let (first, behind) = match self.depth {
                0 => self
                    .extent(n, sb)
                    .map(|extent| (extent.file, extent.end()))?,
                _ => self
                    .child(n, sb)
                    .map(|child| (child.file, u64::from(child.file.0) + 1))?,
            };
            if u64::from(first.0) < end {
                return Err(bad(self.owner, "ee_block", u64::from(first.0)));
            }
            end = behind;
        }
        Ok(())
    }

    /// All items, their order checked.
    pub fn decode(&self, sb: &Superblock) -> Result<Node, Corrupt> {
        self.check(sb)?;
        let items = match self.depth {
            0 => Items::Extents(
                (0..self.len())
                    .map(|n| self.extent(n, sb))
                    .collect::<Result<_, _>>()?,
            ),
            _ => Items::Children(
                (0..self.len())
                    .map(|n| self.child(n, sb))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Node {
            depth: self.depth,
            max: self.max,
            generation: le32(self.raw, 8),
            items,
        })
    }

    fn outside(&self, block: BlockNo) -> Corrupt {
        Corrupt::BlockOutside {
            what: format!("extent tree of inode {}", self.owner),
            block,
        }
    }
}

impl Node {
    /// Number of items.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Extents(list) => list.len(),
            Items::Children(list) => list.len(),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The first key.
    pub fn first(&self) -> Option<FileBlock> {
        match &self.items {
            Items::Extents(list) => list.first().map(|e| e.file),
            Items::Children(list) => list.first().map(|i| i.file),
        }
    }
    /// Moves the items from `at` on into a new node of the same level.
    pub fn split_off(&mut self, at: usize, max: u16) -> Node {
        let items = match &mut self.items {
            Items::Extents(list) => Items::Extents(list.split_off(at)),
            Items::Children(list) => Items::Children(list.split_off(at)),
        };
        Node {
            depth: self.depth,
            max,
            generation: 0,
            items,
        }
    }

    /// Writes the node (which fits: `len() <= max`); what lies behind the
    /// items stays. `seed` is for a node in a block of its own.
    pub fn encode(&self, raw: &mut [u8], sb: &Superblock, seed: Option<u32>) {
        assert!(
            self.len() <= usize::from(self.max) && ITEM + usize::from(self.max) * ITEM <= raw.len()
        );
        put16(raw, 0, MAGIC);
        put16(raw, 2, self.len() as u16);
        put16(raw, 4, self.max);
        put16(raw, 6, self.depth);
        put32(raw, 8, self.generation);
        let mut items = raw[ITEM..].chunks_exact_mut(ITEM);
        match &self.items {
            Items::Extents(list) => list
                .iter()
                .zip(&mut items)
                .for_each(|(extent, raw)| extent.encode(raw)),
            Items::Children(list) => list
                .iter()
                .zip(&mut items)
                .for_each(|(index, raw)| index.encode(raw)),
        }
        if let Some(seed) = seed.filter(|_| sb.has_metadata_csum()) {
            let at = tail(self.max);
            let sum = crc32c(seed, &raw[..at]);
            put32(raw, at, sum);
        }
    }
}

impl Extent {
    fn encode(&self, raw: &mut [u8]) {
        put32(raw, 0, self.file.0);
        put16(
            raw,
            4,
            (self.len + if self.unwritten { MAX_WRITTEN } else { 0 }) as u16,
        );
        put16(raw, 6, (self.block.0 >> 32) as u16);
        put32(raw, 8, self.block.0 as u32);
    }
}

impl Index {
    fn encode(&self, raw: &mut [u8]) {
        put32(raw, 0, self.file.0);
        put32(raw, 4, self.child.0 as u32);
        put16(raw, 8, (self.child.0 >> 32) as u16);
        put16(raw, 10, 0);
    }
}

/// Where the checksum stands: behind the last possible item.
fn tail(max: u16) -> usize {
    ITEM + usize::from(max) * ITEM
}

fn bad(owner: InodeNo, field: &'static str, value: u64) -> Corrupt {
    Corrupt::Field {
        what: format!("extent tree of inode {owner}"),
        field,
        value,
    }
}
