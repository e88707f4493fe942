//! The index of a directory: a tree of hash → block maps.
//!
//! The root lies in the directory's first block behind `.` and `..`, further
//! nodes in blocks that look empty to a reader of plain entries. Slot 0 of a
//! map has no hash of its own (limit and count stand in its place): it covers
//! everything below slot 1. A set lowest bit in a slot's hash says that the
//! leaf before holds names of the same hash.
//!
//! With metadata_csum a tail behind the last possible slot holds the block's
//! checksum, seeded like the leaves' ([`super::checksum::inode_seed`]).

use super::Corrupt;
use super::bytes::{le16, le32, put16, put32};
use super::checksum::crc32c;
use super::dirent::{self, Entry};
use crate::units::{FileBlock, InodeNo};

/// Levels of index blocks, the root included, without the large_dir feature.
pub const LEVELS: usize = 2;

/// Bytes of a slot.
const SLOT: usize = 8;
/// The tail: a reserved word and the checksum.
const TAIL: usize = 8;
/// Where `dx_root_info` begins.
const INFO: usize = 0x18;

/// Which of the two layouts an index block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The directory's first block.
    Root,
    /// Any other index block.
    Node,
}

impl Layout {
    /// Where the map begins.
    fn base(self) -> usize {
        match self {
            Layout::Root => 0x20,
            Layout::Node => 8,
        }
    }

    /// The most slots that a block has room for.
    pub fn limit(self, block_size: usize, seed: Option<u32>) -> usize {
        (block_size - self.base() - if seed.is_some() { TAIL } else { 0 }) / SLOT
    }
}

/// What the root says of the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootInfo {
    /// `hash_version`: 0 legacy, 1 half MD4, 2 TEA.
    pub hash_version: u8,
    /// `indirect_levels`: 0 means that the root's slots lead to leaves.
    pub indirect_levels: u8,
}

/// A range of hashes and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The lowest hash; the lowest bit means "continued from the slot before".
    pub hash: u32,
    /// The block of the directory file.
    pub child: FileBlock,
}

/// A checked map.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    slots: &'a [u8],
    limit: usize,
}

impl<'a> Map<'a> {
    /// The map of an index block.
    pub fn decode(block: &'a [u8], layout: Layout, seed: Option<u32>) -> Result<Self, Corrupt> {
        let map = Self::unsummed(block, layout, seed)?;
        if let Some(seed) = seed {
            let (base, limit, count) = (layout.base(), map.limit, map.count());
            let (stored, computed) = (
                le32(block, base + limit * SLOT + 4),
                sum(block, base, limit, count, seed),
            );
            if stored != computed {
                return Err(Corrupt::Checksum {
                    what: "directory index block".into(),
                    stored,
                    computed,
                });
            }
        }
        Ok(map)
    }

    /// The same of a block whose checksum has been looked at.
    pub fn unsummed(block: &'a [u8], layout: Layout, seed: Option<u32>) -> Result<Self, Corrupt> {
        let base = layout.base();
        let wrong = |field, value: usize| Corrupt::Field {
            what: "directory index block".into(),
            field,
            value: value as u64,
        };
        if layout == Layout::Node && usize::from(le16(block, 4)) != block.len() {
            return Err(wrong("fake.rec_len", le16(block, 4).into()));
        }
        let (limit, count) = (
            usize::from(le16(block, base)),
            usize::from(le16(block, base + 2)),
        );
        if limit > layout.limit(block.len(), seed) {
            return Err(wrong("limit", limit));
        }
        if count == 0 || count > limit {
            return Err(wrong("count", count));
        }
        Ok(Map {
            slots: &block[base..base + count * SLOT],
            limit,
        })
    }

    /// Slots in use, at least one.
    pub fn count(&self) -> usize {
        self.slots.len() / SLOT
    }

    /// The most slots that it takes, as it says.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether no slot is left.
    pub fn is_full(&self) -> bool {
        self.count() == self.limit
    }

    /// The slot, if it is in use.
    pub fn slot(&self, at: usize) -> Option<Slot> {
        let raw = self.slots.get(at.checked_mul(SLOT)?..)?.get(..SLOT)?;
        // The upper four bits of the block number are reserved.
        let child = FileBlock(le32(raw, 4) & 0x0fff_ffff);
        Some(Slot {
            hash: if at == 0 { 0 } else { le32(raw, 0) },
            child,
        })
    }

    /// All slots; the first one's hash is 0.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..self.count()).filter_map(|at| self.slot(at))
    }

    /// Where to go for a hash: the last slot that isn't above it.
    pub fn position(&self, hash: u32) -> usize {
        let (mut low, mut high) = (1, self.count());
        while low < high {
            let middle = (low + high) / 2;
            match self.slot(middle) {
                Some(slot) if slot.hash <= hash => low = middle + 1,
                _ => high = middle,
            }
        }
        low - 1
    }
}

/// What the root says; an error if the block is no root that we know.
pub fn root(block: &[u8]) -> Result<RootInfo, Corrupt> {
    let field = |field, value: u32| {
        Err(Corrupt::Field {
            what: "root of a directory index".into(),
            field,
            value: value.into(),
        })
    };
    if le16(block, 4) != 12 {
        return field("dot.rec_len", le16(block, 4).into());
    }
    if usize::from(le16(block, 0x10)) != block.len() - 12 {
        return field("dotdot.rec_len", le16(block, 0x10).into());
    }
    if le32(block, INFO) != 0 {
        return field("reserved_zero", le32(block, INFO));
    }
    if block[INFO + 5] != 8 {
        return field("info_length", block[INFO + 5].into());
    }
    if block[INFO + 7] & 1 != 0 {
        return field("unused_flags", block[INFO + 7].into());
    }
    let info = RootInfo {
        hash_version: block[INFO + 4],
        indirect_levels: block[INFO + 6],
    };
    if usize::from(info.indirect_levels) >= LEVELS {
        return field("indirect_levels", info.indirect_levels.into());
    }
    Ok(info)
}

/// Makes a directory's first block, which has its dots, the root of an index
/// with one leaf.
pub fn init_root(
    block: &mut [u8],
    (inode, parent): (InodeNo, InodeNo),
    hash_version: u8,
    leaf: FileBlock,
    seed: Option<u32>,
) {
    // File types, or none on file systems without them, stay.
    let types = [block[7], block[0x13]];
    dirent::init(block, inode, parent, None);
    [block[7], block[0x13]] = types;
    block[INFO + 4] = hash_version;
    block[INFO + 5] = 8;
    fill(
        block,
        Layout::Root,
        [Slot {
            hash: 0,
            child: leaf,
        }],
        seed,
    );
}

/// Makes a block a node with these slots.
pub fn init_node(block: &mut [u8], slots: impl IntoIterator<Item = Slot>, seed: Option<u32>) {
    block.fill(0);
    let len = block.len() as u16;
    put16(block, 4, len);
    fill(block, Layout::Node, slots, seed);
}

/// One more level: everything that the root had now hangs below `child`.
pub fn raise_root(block: &mut [u8], child: FileBlock, seed: Option<u32>) -> Result<(), Corrupt> {
    let levels = root(block)?.indirect_levels;
    block[INFO + 6] = levels + 1;
    fill(block, Layout::Root, [Slot { hash: 0, child }], seed);
    Ok(())
}

/// Keeps the first `count` slots.
pub fn truncate(
    block: &mut [u8],
    layout: Layout,
    count: usize,
    seed: Option<u32>,
) -> Result<(), Corrupt> {
    Map::decode(block, layout, seed)?;
    put16(block, layout.base() + 2, count as u16);
    seal(block, layout, seed);
    Ok(())
}

/// Puts a slot at `at` (1 ..= count), moving the later ones. A full map has no
/// room for it; and where a bitmap calls blocks in use free, the block may
/// have become another since the caller has read it.
pub fn insert(
    block: &mut [u8],
    layout: Layout,
    at: usize,
    slot: Slot,
    seed: Option<u32>,
) -> Result<(), Corrupt> {
    let base = layout.base();
    let map = Map::decode(block, layout, seed)?;
    let count = map.count();
    if map.is_full() || !(1..=count).contains(&at) {
        return Err(Corrupt::Field {
            what: "directory index block".into(),
            field: "count",
            value: count as u64,
        });
    }
    let (from, to) = (base + at * SLOT, base + count * SLOT);
    block.copy_within(from..to, from + SLOT);
    put32(block, from, slot.hash);
    put32(block, from + 4, slot.child.0);
    put16(block, base + 2, (count + 1) as u16);
    seal(block, layout, seed);
    Ok(())
}

/// Replaces the map. The first slot's hash has no place and is dropped.
fn fill(
    block: &mut [u8],
    layout: Layout,
    slots: impl IntoIterator<Item = Slot>,
    seed: Option<u32>,
) {
    let (base, limit) = (layout.base(), layout.limit(block.len(), seed));
    let mut count = 0;
    for slot in slots {
        put32(block, base + count * SLOT, slot.hash);
        put32(block, base + count * SLOT + 4, slot.child.0);
        count += 1;
    }
    put16(block, base, limit as u16);
    put16(block, base + 2, count as u16);
    seal(block, layout, seed);
}

/// `..` of an index root, which has no other home.
pub fn set_parent(block: &mut [u8], parent: InodeNo, seed: Option<u32>) {
    put32(block, 12, parent.0);
    seal(block, Layout::Root, seed);
}

/// `.` and `..` of a directory's first block.
pub fn dots(block: &[u8]) -> Result<(InodeNo, InodeNo), Corrupt> {
    let mut entries = dirent::entries(block);
    let mut next = |want: &'static [u8]| match entries.next().transpose()? {
        Some(Entry { inode, name, .. }) if name == want => Ok(inode),
        _ => Err(Corrupt::Field {
            what: "first block of a directory".into(),
            field: "dot.name",
            value: 0,
        }),
    };
    Ok((next(b".")?, next(b"..")?))
}

fn seal(block: &mut [u8], layout: Layout, seed: Option<u32>) {
    let Some(seed) = seed else { return };
    let base = layout.base();
    let (limit, count) = (
        usize::from(le16(block, base)),
        usize::from(le16(block, base + 2)),
    );
    let tail = base + limit * SLOT;
    put32(block, tail, 0);
    put32(block, tail + 4, sum(block, base, limit, count, seed));
}

/// Over everything up to the last slot in use, and the tail with its checksum
/// taken as zero.
fn sum(block: &[u8], base: usize, limit: usize, count: usize, seed: u32) -> u32 {
    let tail = base + limit * SLOT;
    let seed = crc32c(seed, &block[..base + count * SLOT]);
    crc32c(crc32c(seed, &block[tail..tail + 4]), &[0; 4])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(hash: u32, child: u32) -> Slot {
        Slot {
            hash,
            child: FileBlock(child),
        }
    }

    #[test]
    fn a_hash_leads_to_the_last_slot_that_is_not_above_it() {
        let mut block = vec![0; 1024];
        init_root(
            &mut block,
            (InodeNo(12), InodeNo(2)),
            1,
            FileBlock(1),
            Some(9),
        );
        insert(&mut block, Layout::Root, 1, slot(400, 3), Some(9)).unwrap();
        insert(&mut block, Layout::Root, 1, slot(200, 2), Some(9)).unwrap();
        let map = Map::decode(&block, Layout::Root, Some(9)).unwrap();
        let child = |hash| map.slot(map.position(hash)).unwrap().child.0;
        assert_eq!(
            [0, 199, 200, 399, 400, u32::MAX].map(child),
            [1, 1, 2, 2, 3, 3]
        );
        assert_eq!(
            root(&block).unwrap(),
            RootInfo {
                hash_version: 1,
                indirect_levels: 0
            }
        );
        assert_eq!(dots(&block).unwrap(), (InodeNo(12), InodeNo(2)));
    }

    #[test]
    fn a_block_has_as_many_slots_as_the_kernel_gives_it() {
        assert_eq!(Layout::Root.limit(1024, Some(0)), 123);
        assert_eq!(Layout::Node.limit(1024, Some(0)), 126);
        assert_eq!(Layout::Root.limit(4096, None), 508);
        assert_eq!(Layout::Node.limit(4096, None), 511);
    }

    #[test]
    fn a_block_that_is_no_index_any_more_takes_no_slot() {
        for seed in [None, Some(9)] {
            let mut block = vec![0xFF; 1024];
            assert!(insert(&mut block, Layout::Node, 1, slot(1, 1), seed).is_err());
            assert!(truncate(&mut block, Layout::Node, 1, seed).is_err());
            assert!(raise_root(&mut block, FileBlock(1), seed).is_err());
            init_node(&mut block, [slot(0, 5)], seed);
            assert!(insert(&mut block, Layout::Node, 2, slot(1, 1), seed).is_err());
        }
    }

    #[test]
    fn a_changed_index_fails_its_checksum() {
        let mut block = vec![0; 1024];
        init_node(&mut block, [slot(0, 5), slot(8, 6)], Some(1));
        assert_eq!(
            Map::decode(&block, Layout::Node, Some(1)).unwrap().count(),
            2
        );
        put32(&mut block, 8 + 12, 7);
        assert!(matches!(
            Map::decode(&block, Layout::Node, Some(1)),
            Err(Corrupt::Checksum { .. })
        ));
    }

    proptest! {
        #[test]
        fn hostile_blocks_never_panic(
            mut block in proptest::collection::vec(any::<u8>(), 1024..=1024),
            (limit, count) in (0_u16..200, 0_u16..200),
            hash: u32,
        ) {
            let _ = root(&block);
            let _ = dots(&block);
            put16(&mut block, 4, 1024);
            for layout in [Layout::Root, Layout::Node] {
                put16(&mut block, layout.base(), limit);
                put16(&mut block, layout.base() + 2, count);
                for seed in [None, Some(1)] {
                    if let Ok(map) = Map::decode(&block, layout, seed) {
                        prop_assert!(map.slot(map.position(hash)).is_some());
                        prop_assert_eq!(map.slots().count(), usize::from(count));
                    }
                }
            }
        }
    }
}
