//! The index of a large directory: which block may hold which hashes.

use super::finding::{Finding, Place};
use super::sums::{crc32c, le16, le32};
use super::walk::Walk;
use crate::ext4::hash::Hasher;

/// What the index says of a directory's block.
#[derive(Clone, Copy)]
enum Slot {
    Unseen,
    Index,
    /// Entries with these hashes, both ends included.
    Leaf(u32, u32),
}

/// A directory's index; empty for a linear directory.
#[derive(Default)]
pub struct Index {
    slots: Vec<Slot>,
    hasher: Option<Hasher>,
}

/// A node, by its parent's word.
#[derive(Clone, Copy)]
struct Node {
    at: u32,
    /// Levels of nodes below it.
    levels: u8,
    /// Hashes below it, both ends included.
    low: u32,
    high: u32,
}

struct Directory<'a> {
    inode: u32,
    seed: u32,
    blocks: &'a [(u32, u64)],
}

impl Index {
    /// Forgets the last directory's.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.hasher = None;
    }

    /// Whether a block holds index entries rather than names.
    pub fn is_index(&self, at: u32) -> bool {
        matches!(self.slots.get(at as usize), Some(Slot::Index))
    }

    /// Why a name should not be where it is.
    pub fn misplaced(&self, at: u32, name: &[u8]) -> Option<&'static str> {
        let hash = self.hasher.as_ref()?.hash(name).major;
        match self.slots.get(at as usize)? {
            Slot::Leaf(low, high) if (*low..=*high).contains(&hash) => None,
            Slot::Leaf(..) => Some("its hash belongs into another block of the index"),
            _ => None,
        }
    }
}

impl Walk<'_> {
    /// Reads and judges a directory's index.
    pub fn read_index(&mut self, inode: u32, seed: u32, blocks: &[(u32, u64)], index: &mut Index) {
        let directory = Directory {
            inode,
            seed,
            blocks,
        };
        let Some(raw) = self.node_bytes(&directory, 0) else {
            return;
        };
        let (version, info_len, levels) = (raw[0x1c], raw[0x1d], raw[0x1e]);
        let hasher = Hasher::new(version, self.sb.unsigned_hash, self.sb.hash_seed);
        let wrong = match () {
            () if le32(&raw, 0x18) != 0 => {
                Some(("its reserved word is not zero", le32(&raw, 0x18)))
            }
            () if hasher.is_none() => Some(("unknown hash version", version.into())),
            () if info_len != 8 => Some(("wrong length of its header", info_len.into())),
            () if levels > self.sb.index_levels() => Some(("too many levels", levels.into())),
            () => None,
        };
        if let Some((why, value)) = wrong {
            self.htree(&directory, 0, why, value.into());
            return;
        }
        index.hasher = hasher;
        index.slots.resize(blocks.len(), Slot::Unseen);
        let root = Node {
            at: 0,
            levels,
            low: 0,
            high: u32::MAX,
        };
        index.slots[0] = Slot::Index;
        self.index_node(&directory, root, &raw, 0x20, &mut index.slots);
        for (at, slot) in index.slots.iter().enumerate() {
            if matches!(slot, Slot::Unseen) {
                self.htree(
                    &directory,
                    at as u32,
                    "nothing refers to the block",
                    at as u64,
                );
            }
        }
    }

    /// Judges a node whose count and limit stand at `start`, and all below it.
    fn index_node(
        &mut self,
        directory: &Directory<'_>,
        node: Node,
        raw: &[u8],
        start: usize,
        slots: &mut [Slot],
    ) {
        let (limit, count) = (
            usize::from(le16(raw, start)),
            usize::from(le16(raw, start + 2)),
        );
        let tail = if self.sb.metadata_csum() { 8 } else { 0 };
        let want = (raw.len() - start - tail) / 8;
        if limit != want || count == 0 || count > limit {
            let (why, value) = match limit != want {
                true => ("wrong limit of entries", limit),
                false => ("impossible number of entries", count),
            };
            self.htree(directory, node.at, why, value as u64);
            return;
        }
        self.judge_index_sum(directory, node.at, raw, start, limit, count);
        let hash = |i: usize| {
            if i == 0 {
                node.low
            } else {
                le32(raw, start + 8 * i)
            }
        };
        for i in 0..count {
            let low = hash(i) & !1;
            // An odd hash says that the block before holds entries of this hash too.
            let high = match i + 1 < count {
                true if hash(i + 1) & 1 == 1 => hash(i + 1) & !1,
                true => hash(i + 1).wrapping_sub(1),
                false => node.high,
            };
            if low < node.low & !1 || low > high || high > node.high {
                self.htree(directory, node.at, "hashes out of order", hash(i).into());
                continue;
            }
            let at = le32(raw, start + 8 * i + 4) & 0x0fff_ffff;
            self.index_child(
                directory,
                Node {
                    at,
                    levels: node.levels,
                    low,
                    high,
                },
                node.at,
                slots,
            );
        }
    }

    fn index_child(
        &mut self,
        directory: &Directory<'_>,
        child: Node,
        parent: u32,
        slots: &mut [Slot],
    ) {
        match slots.get_mut(child.at as usize) {
            None => self.htree(directory, parent, "a block past the end", child.at.into()),
            Some(slot @ Slot::Unseen) if child.levels == 0 => {
                *slot = Slot::Leaf(child.low, child.high)
            }
            Some(slot @ Slot::Unseen) => {
                *slot = Slot::Index;
                let Some(raw) = self.node_bytes(directory, child.at) else {
                    return;
                };
                let shape = (le32(&raw, 0), usize::from(le16(&raw, 4)));
                if shape != (0, raw.len()) {
                    self.htree(directory, child.at, "not an index node", shape.0.into());
                    return;
                }
                let levels = child.levels - 1;
                self.index_node(directory, Node { levels, ..child }, &raw, 8, slots);
            }
            Some(_) => self.htree(
                directory,
                parent,
                "a block referred to twice",
                child.at.into(),
            ),
        }
    }

    fn judge_index_sum(
        &mut self,
        directory: &Directory<'_>,
        at: u32,
        raw: &[u8],
        start: usize,
        limit: usize,
        count: usize,
    ) {
        if !self.sb.metadata_csum() {
            return;
        }
        let tail = start + 8 * limit;
        let crc = crc32c(directory.seed, &raw[..start + 8 * count]);
        let computed = crc32c(crc32c(crc, &raw[tail..tail + 4]), &[0; 4]);
        let stored = le32(raw, tail + 4);
        if stored != computed {
            let place = Place::DirectoryBlock {
                inode: directory.inode,
                at,
            };
            self.report.add(Finding::Checksum {
                place,
                stored,
                computed,
            });
        }
    }

    fn node_bytes(&mut self, directory: &Directory<'_>, at: u32) -> Option<Vec<u8>> {
        let i = directory
            .blocks
            .binary_search_by_key(&at, |&(at, _)| at)
            .ok()?;
        let mut raw = vec![0; self.sb.block_size];
        let place = Place::DirectoryBlock {
            inode: directory.inode,
            at,
        };
        self.read_at(
            &mut raw,
            directory.blocks[i].1 * self.sb.block_size as u64,
            place,
        )?;
        Some(raw)
    }

    fn htree(&mut self, directory: &Directory<'_>, at: u32, why: &'static str, value: u64) {
        let place = Place::DirectoryBlock {
            inode: directory.inode,
            at,
        };
        self.report.add(Finding::Htree { place, why, value });
    }
}
