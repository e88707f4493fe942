//! The form of a file's map: a tree of extents, or a block map. chattr(1)
//! turns one into the other where nothing but the inode changes: the map's
//! root has room for it, and no block belongs to the map itself.

use super::map::{self, Mapping};
use super::{Error, Result};
use crate::ext4::Superblock;
use crate::ext4::blockmap;
use crate::ext4::extent::{Extent, Items, Node};
use crate::ext4::inode::{Inode, flag, mode};
use crate::journal::Blocks;
use crate::units::FileBlock;

/// Blocks that a block map's root names itself.
const DIRECT: u64 = 12;
/// Extents that a tree's root has room for.
const ROOM: u16 = 4;

/// Turns a file's or folder's map into the other form. [`Error::Unsupported`] if
/// that would take more than the inode.
pub fn turn(blocks: &dyn Blocks, sb: &Superblock, inode: &mut Inode) -> Result<()> {
    if !matches!(inode.kind(), mode::REGULAR | mode::DIRECTORY) || !sb.has_extents() {
        return Err(Error::Unsupported);
    }
    let extents = pieces(blocks, sb, inode)?;
    let block = match inode.has(flag::EXTENTS) {
        true => block_map(&extents)?,
        false => tree(extents, sb),
    };
    inode.block = block;
    inode.flags ^= flag::EXTENTS;
    Ok(())
}

/// All blocks of a file whose map has none of its own.
fn pieces(blocks: &dyn Blocks, sb: &Superblock, inode: &Inode) -> Result<Vec<Extent>> {
    let own = u64::from(inode.file_acl != 0);
    let mut extents = Vec::new();
    let (mut at, mut counted) = (0, own);
    let most = map::max_blocks(sb, inode);
    while at < most {
        let file = FileBlock(at as u32);
        let len = match map::find(blocks, sb, inode, file)? {
            Mapping::Hole { len } => len,
            Mapping::Mapped {
                unwritten: true, ..
            } => return Err(Error::Unsupported),
            Mapping::Mapped { block, len, .. } => {
                extents.push(Extent {
                    file,
                    len,
                    block,
                    unwritten: false,
                });
                counted += u64::from(len);
                len
            }
        };
        if extents.len() > usize::from(ROOM) {
            return Err(Error::Unsupported);
        }
        at += u64::from(len.max(1));
    }
    match counted * u64::from(sb.block_size / 512) == inode.blocks {
        true => Ok(extents),
        false => Err(Error::Unsupported),
    }
}

fn block_map(extents: &[Extent]) -> Result<[u8; 60]> {
    let mut raw = [0; 60];
    for extent in extents {
        let fits = extent.block.0 + u64::from(extent.len) <= u64::from(u32::MAX);
        if extent.end() > DIRECT || !fits {
            return Err(Error::Unsupported);
        }
        for n in 0..extent.len {
            let block = extent
                .slice(u64::from(extent.file.0 + n), extent.end())
                .block;
            blockmap::set(&mut raw, (extent.file.0 + n) as usize, block);
        }
    }
    Ok(raw)
}

fn tree(extents: Vec<Extent>, sb: &Superblock) -> [u8; 60] {
    let root = Node {
        depth: 0,
        max: ROOM,
        generation: 0,
        items: Items::Extents(extents),
    };
    let mut raw = [0; 60];
    root.encode(&mut raw, sb, None);
    raw
}
