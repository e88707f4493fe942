//! Directories: names in blocks, found by hash or one after the other.
//!
//! A directory begins as one block. When that overflows it becomes the root
//! of an index, on file systems that have one ([`index`]); otherwise blocks
//! are added, and a search goes through them all. Blocks are never given back
//! while the directory lives, but the room in them is used again.
//!
//! All functions take the directory's inode; those that may change it leave
//! storing it to the caller, who has its times to set too.

use super::damage::at as placed;
use super::judgement::Judgement;
use super::map::{self, Mapping};
use super::{Error, Result};
use crate::ext4::dirent;
use crate::ext4::features::{compat, incompat};
use crate::ext4::hash::Hasher;
use crate::ext4::htree::{self, Layout};
use crate::ext4::inode::{Inode, flag};
use crate::ext4::{Corrupt, Superblock};
use crate::journal::{Block, Blocks, Txn};
use crate::units::{BlockNo, FileBlock, InodeNo};

mod index;
mod list;

use index::Index;

pub use list::list;

/// What a name refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub inode: InodeNo,
    /// The directory's own note of its type; 0: unknown.
    pub kind: u8,
}

/// Where a name stands, until one is added to its directory: that may move
/// others. Removing or redirecting one moves none.
pub(super) struct Place {
    block: BlockNo,
    at: usize,
    pub(super) entry: Entry,
}

/// What a name refers to; `.` and `..` included.
pub fn lookup(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    name: &[u8],
) -> Result<Option<Entry>> {
    if name == b"." || name == b".." {
        let (own, parent) = dots(blocks, sb, dir)?;
        let inode = if name == b"." { own } else { parent };
        return Ok(Some(Entry {
            inode,
            kind: dirent::DIRECTORY,
        }));
    }
    Ok(locate(blocks, sb, dir, name)?.map(|place| place.entry))
}

/// Adds a name, which must not be there yet. `keep`: blocks may come
/// from the reserve.
pub fn insert(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    name: &[u8],
    inode: InodeNo,
    kind: u8,
    keep: u64,
) -> Result<()> {
    if name.is_empty() || name.len() > dirent::NAME_MAX {
        return Err(Error::NameTooLong);
    }
    let kind = if sb.features.incompat(incompat::FILETYPE) {
        kind
    } else {
        0
    };
    let entry = dirent::Entry { inode, kind, name };
    if dir.has(flag::INDEX) {
        return index::insert(txn, sb, dir, entry, keep);
    }
    if insert_where_there_is_room(txn, sb, dir, entry)? {
        return Ok(());
    }
    match future_hasher(sb, dir) {
        Some(hasher) => {
            index::begin(txn, sb, dir, hasher, keep)?;
            index::insert(txn, sb, dir, entry, keep)
        }
        None => {
            let (_, block) = map::append_directory_block(txn, sb, dir, keep)?;
            dirent::rebuild(txn.block_mut(block)?, [entry], seed(sb, dir));
            Ok(())
        }
    }
}

/// Removes a name. Those of others stay where they are.
pub(super) fn remove(txn: &mut Txn<'_>, sb: &Superblock, dir: &Inode, place: &Place) -> Result<()> {
    let removed = dirent::remove(txn.block_mut(place.block)?, place.at, seed(sb, dir));
    placed(dir.number, place.block, removed)
}

/// Lets an existing name refer to another inode.
pub(super) fn replace(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &Inode,
    place: &Place,
    inode: InodeNo,
    kind: u8,
) -> Result<()> {
    let kind = if sb.features.incompat(incompat::FILETYPE) {
        kind
    } else {
        0
    };
    dirent::redirect(
        txn.block_mut(place.block)?,
        place.at,
        inode,
        kind,
        seed(sb, dir),
    );
    Ok(())
}

/// Whether only `.` and `..` are left.
pub fn is_empty(blocks: &dyn Blocks, sb: &Superblock, dir: &Inode) -> Result<bool> {
    for at in leaves(blocks, sb, dir)? {
        let (number, block) = leaf(blocks, sb, dir, at)?;
        for entry in dirent::entries(&block) {
            if !matches!(placed(dir.number, number, entry)?.name, b"." | b"..") {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The first name in a directory that refers to this inode: a search from end
/// to end.
pub fn name_of(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    inode: InodeNo,
) -> Result<Option<Vec<u8>>> {
    for at in leaves(blocks, sb, dir)? {
        let (number, block) = leaf(blocks, sb, dir, at)?;
        for entry in dirent::entries(&block) {
            let entry = placed(dir.number, number, entry)?;
            if entry.inode == inode && !matches!(entry.name, b"." | b"..") {
                return Ok(Some(entry.name.to_vec()));
            }
        }
    }
    Ok(None)
}

/// Gives a new directory its first block, with `.` and `..`.
pub fn init(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &mut Inode,
    parent: InodeNo,
    keep: u64,
) -> Result<()> {
    let (_, block) = map::append_directory_block(txn, sb, dir, keep)?;
    dirent::init(txn.block_mut(block)?, dir.number, parent, seed(sb, dir));
    if !sb.features.incompat(incompat::FILETYPE) {
        let bytes = txn.block_mut(block)?;
        for (at, inode) in [(0, dir.number), (12, parent)] {
            dirent::redirect(bytes, at, inode, 0, seed(sb, dir));
        }
    }
    Ok(())
}

/// Lets `..` refer to another directory.
pub fn set_parent(txn: &mut Txn<'_>, sb: &Superblock, dir: &Inode, parent: InodeNo) -> Result<()> {
    dots(txn, sb, dir)?;
    let (block, bytes) = raw(txn, sb, dir, FileBlock(0))?;
    let second = placed(dir.number, block, dirent::find(&bytes, b".."))?;
    let second = second.ok_or_else(|| lost(dir, "missing .. in block", FileBlock(0)))?;
    let kind = second.entry.map_or(0, |entry| entry.kind);
    let changed = txn.block_mut(block)?;
    match dir.has(flag::INDEX) {
        true => htree::set_parent(changed, parent, seed(sb, dir)),
        false => dirent::redirect(changed, second.at, parent, kind, seed(sb, dir)),
    }
    Ok(())
}

/// What `.` and `..` refer to.
pub fn dots(blocks: &dyn Blocks, sb: &Superblock, dir: &Inode) -> Result<(InodeNo, InodeNo)> {
    let (number, block) = raw(blocks, sb, dir, FileBlock(0))?;
    let seed = seed(sb, dir);
    let of = match dir.has(flag::INDEX) {
        true => Judgement::Root,
        false => Judgement::Leaf,
    };
    let dots = judge(&block, of, seed).and_then(|()| htree::dots(&block));
    placed(dir.number, number, dots)
}

/// The checksum seed of the directory's blocks, if they have checksums.
fn seed(sb: &Superblock, dir: &Inode) -> Option<u32> {
    sb.has_metadata_csum().then(|| dir.seed(sb))
}

/// The directory's blocks, by its size.
fn block_count(sb: &Superblock, dir: &Inode) -> u32 {
    u32::try_from(dir.size / u64::from(sb.block_size)).unwrap_or(u32::MAX)
}

/// The hash that an index would have: the directory's one block holds plain
/// entries, and the file system wants directories indexed.
fn future_hasher(sb: &Superblock, dir: &Inode) -> Option<Hasher> {
    let wanted =
        sb.features.compat(compat::DIR_INDEX) && !dir.has(flag::INDEX) && block_count(sb, dir) == 1;
    wanted
        .then(|| Hasher::new(sb.hash_default_version, sb.unsigned_hash, sb.hash_seed))
        .flatten()
}

/// A block of the directory, not judged yet.
fn raw(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    at: FileBlock,
) -> Result<(BlockNo, Block)> {
    if at.0 >= block_count(sb, dir) {
        return Err(lost(dir, "block past its end", at));
    }
    match map::find(blocks, sb, dir, at)? {
        Mapping::Mapped {
            block,
            unwritten: false,
            ..
        } => Ok((block, blocks.block(block)?)),
        _ => Err(lost(dir, "missing block", at)),
    }
}

/// A block of plain entries.
fn leaf(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    at: FileBlock,
) -> Result<(BlockNo, Block)> {
    let (number, block) = raw(blocks, sb, dir, at)?;
    let judged = judge(&block, Judgement::Leaf, seed(sb, dir));
    placed(dir.number, number, judged)?;
    Ok((number, block))
}

/// Whether a block is whole, once; `seed`: see [`seed`].
fn judge(block: &Block, of: Judgement, seed: Option<u32>) -> std::result::Result<(), Corrupt> {
    block.once(of.mark(seed.unwrap_or(0)), |bytes| match of {
        Judgement::Root => {
            htree::root(bytes)?;
            htree::Map::decode(bytes, Layout::Root, seed).map(drop)
        }
        Judgement::Node => htree::Map::decode(bytes, Layout::Node, seed).map(drop),
        _ => dirent::verify(bytes, seed),
    })
}

/// The blocks with plain entries, in file order.
fn leaves(blocks: &dyn Blocks, sb: &Superblock, dir: &Inode) -> Result<Vec<FileBlock>> {
    match dir.has(flag::INDEX) {
        true => index::leaves(blocks, sb, dir),
        false => Ok((0..block_count(sb, dir)).map(FileBlock).collect()),
    }
}

/// Where a name stands that is neither `.` nor `..`.
pub(super) fn locate(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    name: &[u8],
) -> Result<Option<Place>> {
    if dir.has(flag::INDEX) {
        let index = Index::open(blocks, sb, dir)?;
        if let Some(hasher) = index.hasher(sb) {
            return index::locate(blocks, sb, dir, (index, hasher), name);
        }
    }
    for at in leaves(blocks, sb, dir)? {
        if let Some(place) = locate_in(blocks, sb, dir, at, name)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn locate_in(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    at: FileBlock,
    name: &[u8],
) -> Result<Option<Place>> {
    let (number, block) = leaf(blocks, sb, dir, at)?;
    let found = placed(dir.number, number, dirent::find(&block, name))?;
    Ok(found.and_then(|record| {
        let dirent::Entry { inode, kind, .. } = record.entry?;
        Some(Place {
            block: number,
            at: record.at,
            entry: Entry { inode, kind },
        })
    }))
}

fn insert_where_there_is_room(
    txn: &mut Txn<'_>,
    sb: &Superblock,
    dir: &Inode,
    entry: dirent::Entry<'_>,
) -> Result<bool> {
    let seed = seed(sb, dir);
    for at in (0..block_count(sb, dir)).map(FileBlock) {
        let (number, block) = leaf(txn, sb, dir, at)?;
        let gap = dirent::gap(&block, entry.name, seed);
        if let Some(gap) = placed(dir.number, number, gap)? {
            dirent::fill(txn.block_mut(number)?, gap, entry, seed);
            return Ok(true);
        }
        // Entries of a directory with one block are listed by hash, so they
        // may move to close gaps. (Listed by place, they must stay.)
        if future_hasher(sb, dir).is_some()
            && close_gaps(txn, dir.number, number, &block, entry, seed)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Rebuilds a block with one entry more, if they fit without gaps.
fn close_gaps(
    txn: &mut Txn<'_>,
    dir: InodeNo,
    number: BlockNo,
    block: &Block,
    entry: dirent::Entry<'_>,
    seed: Option<u32>,
) -> Result<bool> {
    let entries = dirent::entries(block).collect::<std::result::Result<Vec<_>, _>>();
    let mut entries = placed(dir, number, entries)?;
    entries.push(entry);
    let whole: usize = entries.iter().map(|entry| dirent::needed(entry.name)).sum();
    let fits = whole <= dirent::capacity(block.len(), seed);
    if fits {
        dirent::rebuild(txn.block_mut(number)?, entries, seed);
    }
    Ok(fits)
}

fn lost(dir: &Inode, field: &'static str, at: FileBlock) -> Error {
    Corrupt::Field {
        what: format!("directory {}", dir.number),
        field,
        value: at.0.into(),
    }
    .at(dir.number, BlockNo(0))
    .into()
}
