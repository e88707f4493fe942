//! Where a file's blocks lie: extent trees and block maps.
//!
//! One walker for two visitors: the first claims the blocks, the second
//! reads directories. It never descends where the visitor says no, and the
//! first visitor says no to a block that somebody owns already: so the work
//! is bounded by the image however the pointers run.

use super::finding::{Finding, Place};
use super::source::Source;
use super::sums::{crc32c, le16, le32};
use super::superblock::Super;

const EXTENTS_FL: u32 = 0x80000;
const MAX_DEPTH: u16 = 5;
const UNWRITTEN: u16 = 32768;

/// Who is told what the walk meets.
pub trait Visit {
    /// A block of the map itself, inside the image; false: don't descend.
    fn node(&mut self, block: u64) -> bool;
    /// Blocks of the file, inside the image.
    fn run(&mut self, at: u32, block: u64, count: u32, written: bool);
    /// Something wrong.
    fn fault(&mut self, finding: Finding);
}

/// The part of an inode that says where its blocks are.
#[derive(Clone, Copy)]
pub struct Mapped<'a> {
    pub inode: u32,
    pub flags: u32,
    /// The 60 bytes of i_block.
    pub i_block: &'a [u8],
    /// Start of the checksums of its blocks.
    pub seed: u32,
}

/// Walks all of an inode's blocks in file order.
pub fn walk(source: &dyn Source, sb: &Super, inode: Mapped<'_>, visit: &mut dyn Visit) {
    let mut walker = Walker {
        source,
        sb,
        inode,
        visit,
    };
    if inode.flags & EXTENTS_FL != 0 {
        let root = Node {
            place: Place::Inode { inode: inode.inode },
            depth: None,
            first: None,
            end: 1 << 32,
        };
        walker.extents(inode.i_block, root);
    } else {
        walker.block_map(inode.i_block);
    }
}

struct Walker<'a, 'v> {
    source: &'a dyn Source,
    sb: &'a Super,
    inode: Mapped<'a>,
    visit: &'v mut dyn Visit,
}

/// What a node of an extent tree must be, by its parent's word.
#[derive(Clone, Copy)]
struct Node {
    place: Place,
    depth: Option<u16>,
    first: Option<u64>,
    end: u64,
}

impl Walker<'_, '_> {
    fn fault(&mut self, place: Place, at: u64, why: &'static str) {
        self.visit.fault(Finding::Map { place, at, why });
    }

    fn extents(&mut self, raw: &[u8], node: Node) {
        let Some((count, depth)) = self.header(raw, &node) else {
            return;
        };
        let entries = raw[12..].chunks_exact(12).take(count);
        if depth == 0 {
            self.leaf(entries, &node);
        } else {
            self.index(raw, count, depth, &node);
        }
    }

    /// Number of entries and depth, if the header makes sense.
    fn header(&mut self, raw: &[u8], node: &Node) -> Option<(usize, u16)> {
        let (magic, count, max, depth) = (le16(raw, 0), le16(raw, 2), le16(raw, 4), le16(raw, 6));
        let room = (raw.len() - 12) / 12;
        let why = match () {
            () if magic != 0xf30a => "the extent header's magic is missing",
            () if usize::from(max) > room || max == 0 => {
                "the extent header promises more entries than fit"
            }
            () if count > max => "more extents than the header allows",
            () if depth > MAX_DEPTH => "the extent tree is too deep",
            () if node.depth.is_some_and(|want| want != depth) => {
                "the depth differs from the parent's"
            }
            () if depth > 0 && count == 0 => "an index node without entries",
            () => return Some((count.into(), depth)),
        };
        self.fault(node.place, node.first.unwrap_or(0), why);
        None
    }

    fn leaf<'r>(&mut self, entries: impl Iterator<Item = &'r [u8]>, node: &Node) {
        let mut next = node.first.unwrap_or(0);
        let mut first = node.first;
        for entry in entries {
            let (at, raw_len) = (u64::from(le32(entry, 0)), le16(entry, 4));
            let block = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
            let written = raw_len <= UNWRITTEN;
            let len = u64::from(if written {
                raw_len
            } else {
                raw_len - UNWRITTEN
            });
            if first.take().is_some_and(|want| want != at) {
                self.fault(
                    node.place,
                    at,
                    "the first extent is not where the index says",
                );
            }
            let why = match () {
                () if len == 0 => "an extent of no blocks",
                () if at < next => "an extent out of order",
                () if at + len > node.end => "an extent that runs into its neighbour's part",
                () if !self.sb.inside(block, len) => {
                    self.visit.fault(Finding::Outside {
                        place: node.place,
                        block,
                    });
                    continue;
                }
                () => {
                    next = at + len;
                    self.visit.run(at as u32, block, len as u32, written);
                    continue;
                }
            };
            self.fault(node.place, at, why);
        }
    }

    fn index(&mut self, raw: &[u8], count: usize, depth: u16, node: &Node) {
        let entry = |i: usize| &raw[12 + 12 * i..24 + 12 * i];
        for i in 0..count {
            let at = u64::from(le32(entry(i), 0));
            let end = if i + 1 < count {
                u64::from(le32(entry(i + 1), 0))
            } else {
                node.end
            };
            if at >= end || (i == 0 && node.first.is_some_and(|want| want != at)) {
                self.fault(node.place, at, "an index entry out of order");
                continue;
            }
            let block = u64::from(le32(entry(i), 4)) | u64::from(le16(entry(i), 8)) << 32;
            let place = Place::MapBlock {
                inode: self.inode.inode,
                block,
            };
            let Some(raw) = self.read(node.place, block) else {
                continue;
            };
            self.judge_sum(place, &raw);
            self.extents(
                &raw,
                Node {
                    place,
                    depth: Some(depth - 1),
                    first: Some(at),
                    end,
                },
            );
        }
    }

    /// A block of the map, if it may be descended into.
    fn read(&mut self, from: Place, block: u64) -> Option<Vec<u8>> {
        if !self.sb.inside(block, 1) {
            self.visit.fault(Finding::Outside { place: from, block });
            return None;
        }
        if !self.visit.node(block) {
            return None;
        }
        let mut raw = vec![0; self.sb.block_size];
        match self
            .source
            .read(&mut raw, block * self.sb.block_size as u64)
        {
            Ok(()) => Some(raw),
            Err(e) => {
                let place = Place::MapBlock {
                    inode: self.inode.inode,
                    block,
                };
                self.visit.fault(Finding::Unreadable {
                    place,
                    error: e.to_string(),
                });
                None
            }
        }
    }

    fn judge_sum(&mut self, place: Place, raw: &[u8]) {
        let tail = 12 + 12 * usize::from(le16(raw, 4));
        if !self.sb.metadata_csum() || tail + 4 > raw.len() {
            return;
        }
        let (stored, computed) = (le32(raw, tail), crc32c(self.inode.seed, &raw[..tail]));
        if stored != computed {
            self.visit.fault(Finding::Checksum {
                place,
                stored,
                computed,
            });
        }
    }

    fn block_map(&mut self, i_block: &[u8]) {
        let per_block = self.sb.block_size as u64 / 4;
        let mut at = 0;
        for (slot, raw) in i_block.chunks_exact(4).take(15).enumerate() {
            let depth = slot.saturating_sub(11) as u32;
            self.pointer(
                le32(raw, 0),
                at,
                depth,
                Place::Inode {
                    inode: self.inode.inode,
                },
            );
            at += per_block.pow(depth);
        }
    }

    /// A pointer of a block map, to data at depth 0.
    fn pointer(&mut self, block: u32, at: u64, depth: u32, from: Place) {
        let block = u64::from(block);
        if block == 0 {
            return;
        }
        if depth == 0 {
            match (u32::try_from(at), self.sb.inside(block, 1)) {
                (Ok(at), true) => self.visit.run(at, block, 1, true),
                (Err(_), _) => self.fault(from, at, "a block past the largest file"),
                (_, false) => self.visit.fault(Finding::Outside { place: from, block }),
            }
            return;
        }
        let Some(raw) = self.read(from, block) else {
            return;
        };
        let place = Place::MapBlock {
            inode: self.inode.inode,
            block,
        };
        let covers = (self.sb.block_size as u64 / 4).pow(depth - 1);
        for (i, pointer) in (0..).zip(raw.chunks_exact(4)) {
            self.pointer(le32(pointer, 0), at + i * covers, depth - 1, place);
        }
    }
}
