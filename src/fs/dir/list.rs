//! Listing a directory that changes meanwhile.
//!
//! A cookie says where to go on. Entries move when a leaf is cut or a block
//! becomes an index, so the cookie of an indexed directory (and of one that
//! may become indexed) is not a place but a hash, which never changes: names
//! come in the order of (major, minor), and a cookie is the lowest such
//! number not listed yet. Where no index can come, entries never move, and a
//! cookie is an offset.
//!
//! Cookies: 0 before `.`, 1 before `..`, then the first entry. All are below
//! 2^63, since programs see them as a signed number.

use std::collections::HashSet;

use super::index::{Index, Path};
use super::{dots, future_hasher, leaf, leaves, lost};
use crate::ext4::Superblock;
use crate::ext4::dirent;
use crate::ext4::hash::Hasher;
use crate::ext4::inode::{Inode, flag};
use crate::fs::Result;
use crate::fs::damage::at as placed;
use crate::journal::{Block, Blocks};
use crate::units::{BlockNo, FileBlock, InodeNo};

/// Gets an entry: the cookie behind it, inode, type, name. `false`: enough.
pub type Each<'a> = dyn FnMut(u64, InodeNo, u8, &[u8]) -> bool + 'a;

/// Cookies of entries begin here.
const FIRST: u64 = 2;

/// Lists the directory from a cookie on (0: all). An entry that is there
/// throughout comes exactly once, whatever happens to others between calls.
pub fn list(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    from: u64,
    each: &mut Each<'_>,
) -> Result<()> {
    let (own, parent) = dots(blocks, sb, dir)?;
    for (cookie, inode, name) in [(1, own, b".".as_slice()), (2, parent, b"..")] {
        if from < cookie && !each(cookie, inode, dirent::DIRECTORY, name) {
            return Ok(());
        }
    }
    let from = from.max(FIRST);
    if dir.has(flag::INDEX) {
        let index = Index::open(blocks, sb, dir)?;
        return match index.hasher(sb) {
            Some(hasher) => by_hash(blocks, sb, dir, (index, hasher), from, each),
            None => by_place(blocks, sb, dir, from, each),
        };
    }
    match future_hasher(sb, dir) {
        Some(hasher) => {
            let block = leaf(blocks, sb, dir, FileBlock(0))?;
            batch(dir, &[block], hasher, FIRST, from, each)?;
            Ok(())
        }
        None => by_place(blocks, sb, dir, from, each),
    }
}

/// A hash as a cookie: 31 bits of major (its lowest is always 0), 32 of minor.
fn key(major: u32, minor: u32) -> u64 {
    u64::from(major >> 1) << 32 | u64::from(minor)
}

fn by_hash(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    (index, hasher): (Index, Hasher),
    from: u64,
    each: &mut Each<'_>,
) -> Result<()> {
    let mut path = index.probe(blocks, sb, dir, ((from >> 32) as u32) << 1)?;
    // An index that leads in circles would fill the memory.
    let mut seen = HashSet::from([path.leaf]);
    let mut advance = |path: &mut Path| -> Result<bool> {
        let more = path.advance(blocks, sb, dir)?;
        match !more || seen.insert(path.leaf) {
            true => Ok(more),
            false => Err(lost(dir, "index that comes twice to block", path.leaf)),
        }
    };
    loop {
        let lowest = key(path.start(dir)?, 0).max(FIRST);
        let mut chain = vec![leaf(blocks, sb, dir, path.leaf)?];
        // Names of one hash, parted between leaves, are put in order together.
        while path.peek(dir)?.is_some_and(|start| start & 1 == 1) {
            advance(&mut path)?;
            chain.push(leaf(blocks, sb, dir, path.leaf)?);
        }
        if !batch(dir, &chain, hasher, lowest, from, each)? || !advance(&mut path)? {
            return Ok(());
        }
    }
}

/// Lists some leaves' entries in the order of their hashes. `lowest` is where
/// their hashes begin: one below it would send the caller back for ever.
fn batch(
    dir: &Inode,
    leaves: &[(BlockNo, Block)],
    hasher: Hasher,
    lowest: u64,
    from: u64,
    each: &mut Each<'_>,
) -> Result<bool> {
    let mut entries = Vec::new();
    for (number, block) in leaves {
        for entry in dirent::entries(block) {
            let entry = placed(dir.number, *number, entry)?;
            if !matches!(entry.name, b"." | b"..") {
                entries.push((key_of(hasher, entry.name), entry));
            }
        }
    }
    entries.sort_by(|(a, first), (b, second)| a.cmp(b).then_with(|| first.name.cmp(second.name)));
    let mut next = lowest;
    for (key, entry) in entries {
        // Equal keys count on, so that each entry has a cookie of its own.
        let at = key.max(next);
        next = at + 1;
        if at >= from && !each(next, entry.inode, entry.kind, entry.name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The legacy hash has no minor part, and collides where names are many.
fn key_of(hasher: Hasher, name: &[u8]) -> u64 {
    let hash = hasher.hash(name);
    let minor = if hasher.version() == 0 {
        crate::ext4::checksum::crc32c(!0, name)
    } else {
        hash.minor
    };
    key(hash.major, minor)
}

fn by_place(
    blocks: &dyn Blocks,
    sb: &Superblock,
    dir: &Inode,
    from: u64,
    each: &mut Each<'_>,
) -> Result<()> {
    let size = u64::from(sb.block_size);
    for at in leaves(blocks, sb, dir)? {
        let start = u64::from(at.0) * size;
        if start + size <= from {
            continue;
        }
        let (number, block) = leaf(blocks, sb, dir, at)?;
        for record in dirent::records(&block) {
            let record = placed(dir.number, number, record)?;
            let Some(entry) = placed(dir.number, number, record.checked_entry())? else {
                continue;
            };
            let place = start + record.at as u64;
            if place < from || matches!(entry.name, b"." | b"..") {
                continue;
            }
            let next = place + dirent::needed(entry.name) as u64;
            if !each(next, entry.inode, entry.kind, entry.name) {
                return Ok(());
            }
        }
    }
    Ok(())
}
