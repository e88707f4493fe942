//! Extent trees, searched and changed.
//!
//! One way to change a tree: [`edit`] hands the leaf's extents to a closure
//! and then puts the nodes above right: splits what overflows, frees what is
//! empty, lets the root grow and shrink, keeps every key equal to the first
//! key below it.
//!
//! A change that runs out of space midway leaves the transaction half done:
//! give it up.

use super::alloc::{free_blocks, new_blocks};
use super::damage::at as placed;
use super::judgement::Judgement;
use super::{Error, Result};
use crate::ext4::extent::{Extent, Index, Items, MAX_BLOCKS, MAX_DEPTH, Node, NodeRef, room};
use crate::ext4::inode::Inode;
use crate::ext4::{Corrupt, Superblock};
use crate::journal::{Block, Blocks, Txn};
use crate::units::{BlockNo, FileBlock};

/// What is done to a leaf's extents.
pub type Change<'c> = &'c mut dyn FnMut(&mut Vec<Extent>) -> Result<()>;

/// What lies around a file block.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// The last extent that begins at or before it.
    pub left: Option<Extent>,
    /// Where the next extent begins: `MAX_BLOCKS` if there is none.
    pub next: u32,
}

/// Looks a file block up.
pub fn around(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    at: FileBlock,
) -> Result<Around> {
    let root = NodeRef::open(&inode.block, inode.number, None);
    let root = root.and_then(|root| root.check(sb).map(|()| root));
    let root = placed(inode.number, BlockNo(0), root)?;
    descend(blocks, sb, inode, root, at, MAX_BLOCKS)
}

/// A node, if its block's checksum is right and its items are possible and in
/// order.
fn whole<'a>(
    block: &Block,
    node: NodeRef<'a>,
    sb: &Superblock,
    seed: u32,
) -> std::result::Result<NodeRef<'a>, Corrupt> {
    let mark = Judgement::Extents.mark(seed);
    let judge = |_: &[u8]| node.verify(sb, seed).and_then(|()| node.check(sb));
    block.once(mark, judge).map(|()| node)
}

fn descend(
    blocks: &dyn Blocks,
    sb: &Superblock,
    inode: &Inode,
    node: NodeRef<'_>,
    at: FileBlock,
    next: u32,
) -> Result<Around> {
    let slot = node.search(at);
    let behind = slot.map_or(0, |n| n + 1);
    let next = if behind < node.len() {
        node.key(behind).0
    } else {
        next
    };
    match slot {
        None => Ok(Around { left: None, next }),
        Some(slot) if node.depth == 0 => Ok(Around {
            left: Some(placed(inode.number, BlockNo(0), node.extent(slot, sb))?),
            next,
        }),
        Some(slot) => {
            let number = placed(inode.number, BlockNo(0), node.child(slot, sb))?.child;
            let child = blocks.block(number)?;
            let below = NodeRef::open(&child, inode.number, Some(node.depth - 1));
            let below = below.and_then(|below| whole(&child, below, sb, inode.seed(sb)));
            let below = placed(inode.number, number, below)?;
            if !below.is_empty() && below.key(0) != node.key(slot) {
                return Err(tangled(inode, below.key(0)));
            }
            descend(blocks, sb, inode, below, at, next)
        }
    }
}

/// The last extent of a file.
pub fn last(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Option<Extent>> {
    Ok(around(blocks, sb, inode, FileBlock(MAX_BLOCKS))?.left)
}

/// Changes the extents of the leaf that has (or would get) `key`. The closure
/// may add two at most.
pub fn edit(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    inode: &mut Inode,
    key: FileBlock,
    change: Change<'_>,
) -> Result<()> {
    let root = NodeRef::open(&inode.block, inode.number, None).and_then(|root| root.decode(sb));
    let mut root = placed(inode.number, BlockNo(0), root)?;
    let mut tree = Tree {
        txn,
        sb,
        seed: inode.seed(sb),
        goal: inode_goal(sb, inode),
        inode,
    };
    tree.edit_below(&mut root, key, change)?;
    tree.fit_root(&mut root)?;
    root.encode(&mut inode.block, sb, None);
    Ok(())
}

/// Adds an extent where there is a hole.
pub fn insert(txn: &mut Txn<'_>, sb: &Superblock, inode: &mut Inode, new: Extent) -> Result<()> {
    edit(txn, sb, inode, new.file, &mut |list| {
        add(list, new);
        Ok(())
    })
}

/// Adds an extent to a leaf, joined with its neighbours where possible.
pub fn add(list: &mut Vec<Extent>, new: Extent) {
    let at = list.partition_point(|e| e.file < new.file);
    list.insert(at, new);
    if at + 1 < list.len() && list[at].joins(&list[at + 1]) {
        list[at].len += list[at + 1].len;
        list.remove(at + 1);
    }
    if at > 0 && list[at - 1].joins(&list[at]) {
        list[at - 1].len += list[at].len;
        list.remove(at);
    }
}

/// Where a file's first block should lie: in its inode's group.
pub fn inode_goal(sb: &Superblock, inode: &Inode) -> BlockNo {
    match sb.group_of_inode(inode.number) {
        Ok((group, _)) => sb.group_start(group),
        Err(_) => BlockNo(0),
    }
}

struct Tree<'t, 'j> {
    txn: &'t mut Txn<'j>,
    sb: &'t Superblock,
    inode: &'t mut Inode,
    seed: u32,
    goal: BlockNo,
}

impl Tree<'_, '_> {
    /// Changes the leaf below `node`; `node` itself may come out too long or
    /// empty, which is its parent's business.
    fn edit_below(&mut self, node: &mut Node, key: FileBlock, change: Change<'_>) -> Result<()> {
        let list = match &mut node.items {
            Items::Extents(list) => {
                if let Some(first) = list.first() {
                    self.goal = first.block;
                }
                return change(list);
            }
            Items::Children(list) => list,
        };
        let at = list.partition_point(|i| i.file <= key).saturating_sub(1);
        let Some(index) = list.get(at).copied() else {
            return Err(Error::Invalid);
        };
        let mut child = self.load(index.child, node.depth - 1)?;
        self.edit_below(&mut child, key, change)?;
        if child.is_empty() {
            self.release(index.child)?;
            list.remove(at);
            return Ok(());
        }
        if child.len() > usize::from(child.max) {
            let sibling = self.split(&mut child, key)?;
            list.insert(at + 1, sibling);
        }
        list[at].file = child.first().unwrap_or(index.file);
        self.store(index.child, &child)
    }

    /// Moves part of a node that is too long into a new one.
    fn split(&mut self, node: &mut Node, key: FileBlock) -> Result<Index> {
        // A file that grows at its end leaves full nodes behind.
        let appended = match &node.items {
            Items::Extents(list) => list.last().is_some_and(|e| e.file <= key),
            Items::Children(list) => list.last().is_some_and(|i| i.file <= key),
        };
        let at = if appended {
            usize::from(node.max)
        } else {
            node.len() / 2
        };
        let sibling = node.split_off(at, room(self.txn.block_size()));
        let child = self.acquire()?;
        self.store(child, &sibling)?;
        Ok(Index {
            file: sibling.first().unwrap_or(key),
            child,
        })
    }

    /// Lets the root grow a level or give up levels that one node can do without.
    fn fit_root(&mut self, root: &mut Node) -> Result<()> {
        if root.len() > usize::from(root.max) {
            if root.depth >= MAX_DEPTH {
                return Err(Error::TooBig);
            }
            let child = self.acquire()?;
            let below = root.split_off(0, room(self.txn.block_size()));
            self.store(child, &below)?;
            let file = below.first().unwrap_or_default();
            root.depth += 1;
            root.items = Items::Children(vec![Index { file, child }]);
        }
        while let Items::Children(list) = &root.items {
            match list[..] {
                [] => {
                    *root = Node {
                        depth: 0,
                        items: Items::Extents(Vec::new()),
                        ..*root
                    }
                }
                [index] => {
                    let child = self.load(index.child, root.depth - 1)?;
                    if child.len() > usize::from(root.max) {
                        break;
                    }
                    self.release(index.child)?;
                    *root = Node {
                        max: root.max,
                        generation: root.generation,
                        ..child
                    };
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn load(&self, block: BlockNo, depth: u16) -> Result<Node> {
        let raw = self.txn.block(block)?;
        let node = NodeRef::open(&raw, self.inode.number, Some(depth))
            .and_then(|node| whole(&raw, node, self.sb, self.seed))
            .and_then(|node| node.decode(self.sb));
        placed(self.inode.number, block, node)
    }

    fn store(&mut self, block: BlockNo, node: &Node) -> Result<()> {
        node.encode(self.txn.block_mut(block)?, self.sb, Some(self.seed));
        Ok(())
    }

    fn acquire(&mut self) -> Result<BlockNo> {
        let (block, _) = new_blocks(self.txn, self.sb, self.goal, 1, 0)?;
        self.txn.fresh(block)?;
        self.inode.blocks += u64::from(self.sb.block_size / 512);
        Ok(block)
    }

    fn release(&mut self, block: BlockNo) -> Result<()> {
        free_blocks(self.txn, self.sb, block, 1)?;
        self.inode.blocks = self
            .inode
            .blocks
            .saturating_sub(u64::from(self.sb.block_size / 512));
        Ok(())
    }
}

/// The tree's keys lead elsewhere than its leaves say.
pub fn tangled(inode: &Inode, at: FileBlock) -> Error {
    let what = format!("extent tree of inode {}", inode.number);
    Corrupt::Field {
        what,
        field: "ei_block",
        value: u64::from(at.0),
    }
    .at(inode.number, BlockNo(0))
    .into()
}
