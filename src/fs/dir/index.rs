//! Indexed directories: search, growth.
//!
//! A search walks from the root to the one leaf whose hashes include the
//! name's; only where names of equal hash were parted does it go on to the
//! next leaf. A full leaf is cut in two near the middle of its bytes; a full
//! index node likewise; a full root gets a level below it.

use super::{
    Judgement, Place, block_count, close_gaps, judge, leaf, locate_in, lost, map, raw, seed,
};
use crate::ext4::Superblock;
use crate::ext4::dirent::{self, Entry};
use crate::ext4::hash::Hasher;
use crate::ext4::htree::{self, Layout, Map, RootInfo, Slot};
use crate::ext4::inode::{Inode, flag};
use crate::fs::damage::at as placed;
use crate::fs::{Error, Result};
use crate::journal::{Block, Blocks, Txn};
use crate::units::{BlockNo, FileBlock};

/// The index blocks that lead to a leaf, from the root down.
pub(super) struct Path {
    nodes: Vec<Node>,
    pub(super) leaf: FileBlock,
}

/// An index, as its root tells.
pub(super) struct Index {
    root: Node,
    info: RootInfo,
}

/// An index block, and the slot that leads on.
struct Node {
    number: BlockNo,
    block: Block,
    layout: Layout,
    /// See [`seed`].
    seed: Option<u32>,
    at: usize,
}

impl Node {
    fn load(blocks: &dyn Blocks, sb: &Superblock, dir: &Inode, at: FileBlock) -> Result<Self> {
        let (number, block) = raw(blocks, sb, dir, at)?;
        let (layout, judgement) = match at {
            FileBlock(0) => (Layout::Root, Judgement::Root),
            _ => (Layout::Node, Judgement::Node),
        };
        let seed = seed(sb, dir);
        let judged = judge(&block, judgement, seed);
        placed(dir.number, number, judged)?;
        Ok(Node {
            number,
            block,
            layout,
            seed,
            at: 0,
        })
    }

    fn map(&self, dir: &Inode) -> Result<Map<'_>> {
        let map = Map::unsummed(&self.block, self.layout, self.seed);
        placed(dir.number, self.number, map)
    }

    fn slot(&self, dir: &Inode) -> Result<Slot> {
        let slot = self.map(dir)?.slot(self.at);
        slot.ok_or_else(|| lost(dir, "index slot", FileBlock(self.at as u32)))
    }

    fn reload(&mut self, txn: &Txn<'_>) -> Result<()> {
        self.block = txn.block(self.number)?;
        Ok(())
    }
}

impl Index {
    pub(super) fn open(blocks: &dyn Blocks, sb: &Superblock, dir: &Inode) -> Result<Self> {
        let root = Node::load(blocks, sb, dir, FileBlock(0))?;
        let info = placed(dir.number, root.number, htree::root(&root.block))?;
        Ok(Index { root, info })
    }

    /// Its hash function; `None` if we don't know it.
    pub(super) fn hasher(&self, sb: &Superblock) -> Option<Hasher> {
        Hasher::new(self.info.hash_version, sb.unsigned_hash, sb.hash_seed)
    }

    /// The way to the leaf where names of this hash begin.
    pub(super) fn probe(
        self,
        blocks: &dyn Blocks,
        sb: &Superblock,
        dir: &Inode,
        hash: u32,
    ) -> Result<Path> {
        let Index {
            root: mut node,
            info,
        } = self;
        let mut nodes = Vec::new();
        for _ in 0..info.indirect_levels {
            node.at = node.map(dir)?.position(hash);
            let child = node.slot(dir)?.child;
            nodes.push(node);
            node = Node::load(blocks, sb, dir, inner(dir, child)?)?;
        }
        node.at = node.map(dir)?.position(hash);
        let leaf = inner(dir, node.slot(dir)?.child)?;
        nodes.push(node);
        Ok(Path { nodes, leaf })
    }
}

impl Path {
    /// Where the leaf's hashes begin. The lowest bit: they go on from the leaf before.
    pub(super) fn start(&self, dir: &Inode) -> Result<u32> {
        match self.nodes.iter().rev().find(|node| node.at > 0) {
            Some(node) => Ok(node.slot(dir)?.hash),
            None => Ok(0),
        }
    }

    /// Where the next leaf's hashes begin; `None` if this is the last leaf.
    pub(super) fn peek(&self, dir: &Inode) -> Result<Option<u32>> {
        for node in self.nodes.iter().rev() {
            if let Some(slot) = node.map(dir)?.slot(node.at + 1) {
                return Ok(Some(slot.hash));
            }
        }
        Ok(None)
    }

    /// On to the next leaf; `false` if this is the last one.
    pub(super) fn advance(
        &mut self,
        blocks: &dyn Blocks,
        sb: &Superblock,
        dir: &Inode,
    ) -> Result<bool> {
        let depth = self.nodes.len();
        while let Some(mut node) = self.nodes.pop() {
            node.at += 1;
            if node.at >= node.map(dir)?.count() {
                continue;
            }
            let mut child = inner(dir, node.slot(dir)?.child)?;
            self.nodes.push(node);
            while self.nodes.len() < depth {
                let node = Node::load(blocks, sb, dir, child)?;
                child = inner(dir, node.slot(dir)?.child)?;
                self.nodes.push(node);
            }
            self.leaf = child;
            return Ok(true);
        }
        Ok(false)
    }
}

/// A child's number, which is never the root's own.
fn inner(dir: &Inode, child: FileBlock) -> Result<FileBlock> {
    if child == FileBlock(0) {
        Err(lost(dir, "index slot that leads to block", child))
    } else {
        Ok(child)
    }
}

/// All leaves, in file order.
pub(super) fn leaves(blocks: &dyn Blocks, sb: &Superblock, dir: &Inode) -> Result<Vec<FileBlock>> {
    let mut path = Index::open(blocks, sb, dir)?.probe(blocks, sb, dir, 0)?;
    let mut found = vec![path.leaf];
    // An index that leads in circles has more leaves than the directory has blocks.
    while path.advance(blocks, sb, dir)? && found.len() < block_count(sb, dir) as usize {
        found.push(path.leaf);
    }
    found.sort_unstable();
    Ok(found)
}

/// Where a name stands.
pub(super) fn locate(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    (index, hasher): (Index, Hasher),
    name: &[u8],
) -> Result<Option<Place>> {
    let hash = hasher.hash(name).major;
    let mut path = index.probe(blocks, sb, dir, hash)?;
    loop {
        if let Some(place) = locate_in(blocks, sb, dir, path.leaf, name)? {
            return Ok(Some(place));
        }
        match path.peek(dir)? {
            Some(start) if start & !1 == hash => path.advance(blocks, sb, dir)?,
            _ => return Ok(None),
        };
    }
}

/// Makes the one-block directory an indexed one: its entries move to a leaf.
pub(super) fn begin(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    hasher: Hasher,
    keep: u64,
) -> Result<()> {
    let seed = seed(sb, dir);
    let (root, old) = leaf(txn, sb, dir, FileBlock(0))?;
    let dots = placed(dir.number, root, htree::dots(&old))?;
    let entries = dirent::entries(&old)
        .skip(2)
        .collect::<std::result::Result<Vec<_>, _>>();
    let entries = placed(dir.number, root, entries)?;
    let (first, number) = map::append_directory_block(txn, sb, dir, keep)?;
    dirent::rebuild(txn.block_mut(number)?, entries, seed);
    htree::init_root(txn.block_mut(root)?, dots, hasher.version(), first, seed);
    dir.flags |= flag::INDEX;
    Ok(())
}

/// Adds an entry, with as much growth as it needs.
pub(super) fn insert(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    entry: Entry<'_>,
    keep: u64,
) -> Result<()> {
    let seed = seed(sb, dir);
    let index = Index::open(txn, sb, dir)?;
    let hasher = index.hasher(sb).ok_or(Error::Unsupported)?;
    let mut path = index.probe(txn, sb, dir, hasher.hash(entry.name).major)?;
    let (number, block) = leaf(txn, sb, dir, path.leaf)?;
    let gap = dirent::gap(&block, entry.name, seed);
    if let Some(gap) = placed(dir.number, number, gap)? {
        dirent::fill(txn.block_mut(number)?, gap, entry, seed);
        return Ok(());
    }
    if close_gaps(txn, dir.number, number, &block, entry, seed)? {
        return Ok(());
    }
    make_room(txn, sb, dir, &mut path, keep)?;
    let new = split_leaf(txn, sb, dir, hasher, (number, &block), entry, keep)?;
    match path.nodes.last() {
        Some(node) => htree::insert(
            txn.block_mut(node.number)?,
            node.layout,
            node.at + 1,
            new,
            seed,
        )?,
        None => return Err(lost(dir, "index of leaf", path.leaf)),
    }
    Ok(())
}

/// Cuts a leaf in two, one entry more among them; answers the second half's slot.
fn split_leaf(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    hasher: Hasher,
    (number, block): (BlockNo, &Block),
    entry: Entry<'_>,
    keep: u64,
) -> Result<Slot> {
    let entries = dirent::entries(block).collect::<std::result::Result<Vec<_>, _>>();
    let mut entries = placed(dir.number, number, entries)?;
    entries.push(entry);
    let mut sorted: Vec<_> = entries
        .into_iter()
        .map(|entry| (hasher.hash(entry.name), entry))
        .collect();
    sorted.sort_by_key(|&(hash, _)| hash);
    let (cut, continued) = middle(&sorted, dirent::capacity(block.len(), seed(sb, dir)));
    let (low, high) = sorted.split_at(cut);
    let Some((first, _)) = high.first() else {
        return Err(Error::NoSpace);
    };

    let (child, other) = map::append_directory_block(txn, sb, dir, keep)?;
    let seed = seed(sb, dir);
    dirent::rebuild(
        txn.block_mut(number)?,
        low.iter().map(|&(_, entry)| entry),
        seed,
    );
    dirent::rebuild(
        txn.block_mut(other)?,
        high.iter().map(|&(_, entry)| entry),
        seed,
    );
    Ok(Slot {
        hash: first.major | u32::from(continued),
        child,
    })
}

/// Where to cut: near the middle, rather not between equal hashes. Any cut
/// near the middle fits, since no entry is longer than a quarter of a block
/// and a bit.
fn middle(sorted: &[(crate::ext4::hash::Hash, Entry<'_>)], capacity: usize) -> (usize, bool) {
    let size = |(_, entry): &(_, Entry<'_>)| dirent::needed(entry.name);
    let whole: usize = sorted.iter().map(size).sum();
    let mut below = 0;
    let mut best = (usize::MAX, 0, false);
    for at in 1..sorted.len() {
        below += size(&sorted[at - 1]);
        let longer = below.max(whole - below);
        let continued = sorted[at - 1].0.major == sorted[at].0.major;
        let cost = longer + if continued { capacity / 4 } else { 0 };
        if longer <= capacity && cost < best.0 {
            best = (cost, at, continued);
        }
    }
    (best.1, best.2)
}

/// Makes sure that the last node of the path has a free slot.
fn make_room(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    path: &mut Path,
    keep: u64,
) -> Result<()> {
    loop {
        let mut open = None;
        for (at, node) in path.nodes.iter().enumerate() {
            if !node.map(dir)?.is_full() {
                open = Some(at);
            }
        }
        match open {
            Some(at) if at + 1 == path.nodes.len() => return Ok(()),
            Some(at) => split_node(txn, sb, dir, path, at + 1, keep)?,
            None if path.nodes.len() < htree::LEVELS => add_level(txn, sb, dir, path, keep)?,
            None => return Err(Error::NoSpace),
        }
    }
}

/// Cuts a node in two; its parent has a free slot.
fn split_node(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    path: &mut Path,
    at: usize,
    keep: u64,
) -> Result<()> {
    let slots: Vec<Slot> = path.nodes[at].map(dir)?.slots().collect();
    let half = slots.len() / 2;
    let (child, number) = map::append_directory_block(txn, sb, dir, keep)?;
    let seed = seed(sb, dir);
    htree::init_node(txn.block_mut(number)?, slots[half..].iter().copied(), seed);

    let node = &mut path.nodes[at];
    htree::truncate(txn.block_mut(node.number)?, node.layout, half, seed)?;
    let goes_on_in_the_new_one = node.at >= half;
    if goes_on_in_the_new_one {
        (node.number, node.at) = (number, node.at - half);
    }
    node.reload(txn)?;

    let parent = &mut path.nodes[at - 1];
    let slot = Slot {
        hash: slots[half].hash,
        child,
    };
    htree::insert(
        txn.block_mut(parent.number)?,
        parent.layout,
        parent.at + 1,
        slot,
        seed,
    )?;
    parent.at += usize::from(goes_on_in_the_new_one);
    parent.reload(txn)
}

/// Moves the root's slots to a node of their own.
fn add_level(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    path: &mut Path,
    keep: u64,
) -> Result<()> {
    let slots: Vec<Slot> = path.nodes[0].map(dir)?.slots().collect();
    let (child, number) = map::append_directory_block(txn, sb, dir, keep)?;
    let seed = seed(sb, dir);
    htree::init_node(txn.block_mut(number)?, slots, seed);

    let root = &mut path.nodes[0];
    htree::raise_root(txn.block_mut(root.number)?, child, seed)?;
    let at = std::mem::take(&mut root.at);
    root.reload(txn)?;
    let block = txn.block(number)?;
    path.nodes.insert(
        1,
        Node {
            number,
            block,
            layout: Layout::Node,
            seed,
            at,
        },
    );
    Ok(())
}
