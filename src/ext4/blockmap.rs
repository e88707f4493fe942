//! Block maps: how inodes without extents find their blocks.
//!
//! `i_block` holds twelve direct pointers, then one to a block of pointers,
//! one to a block of such blocks, and one a level deeper still. A pointer of
//! zero is a hole, however much lies below it.

use super::bytes::{le32, put32};
use crate::units::BlockNo;

/// Direct pointers.
pub const DIRECT: u64 = 12;
/// Pointers in `i_block`.
pub const ROOTS: usize = 15;

/// The way to a file block's pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The pointer in `i_block`.
    pub root: usize,
    /// Blocks of pointers on the way: 0 to 3.
    pub levels: u32,
    /// The file block within the tree below `root`.
    pub inside: u64,
}

/// Pointers in a block.
pub fn fanout(block_size: u32) -> u64 {
    u64::from(block_size / 4)
}

/// The way to a file block; `None` past what a map can hold.
pub fn path(at: u64, block_size: u32) -> Option<Path> {
    if at < DIRECT {
        return Some(Path {
            root: at as usize,
            levels: 0,
            inside: 0,
        });
    }
    let mut inside = at - DIRECT;
    for levels in 1..=3 {
        let span = fanout(block_size).pow(levels);
        if inside < span {
            return Some(Path {
                root: 11 + levels as usize,
                levels,
                inside,
            });
        }
        inside -= span;
    }
    None
}

/// The first file block below a pointer of `i_block`, and the levels there.
pub fn root_span(root: usize, block_size: u32) -> (u64, u32) {
    let levels = (root as u64 + 1).saturating_sub(DIRECT) as u32;
    let before: u64 = (1..levels).map(|level| fanout(block_size).pow(level)).sum();
    match levels {
        0 => (root as u64, 0),
        _ => (DIRECT + before, levels),
    }
}

/// Blocks that a map can hold.
pub fn capacity(block_size: u32) -> u64 {
    let (start, levels) = root_span(ROOTS - 1, block_size);
    start + fanout(block_size).pow(levels)
}

/// Blocks of pointers that a full map needs.
pub fn overhead(block_size: u32) -> u64 {
    let n = fanout(block_size);
    3 + n + n + n * n
}

/// A pointer.
pub fn get(raw: &[u8], slot: usize) -> BlockNo {
    BlockNo(u64::from(le32(raw, slot * 4)))
}

/// Sets a pointer; the block has a number of 32 bits.
pub fn set(raw: &mut [u8], slot: usize, block: BlockNo) {
    put32(raw, slot * 4, block.0 as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_spans_agree() {
        for bs in [1024, 2048, 4096] {
            let n = fanout(bs);
            for at in [
                0,
                11,
                12,
                11 + n,
                12 + n,
                11 + n + n * n,
                12 + n + n * n,
                capacity(bs) - 1,
            ] {
                let path = path(at, bs).unwrap();
                let (start, levels) = root_span(path.root, bs);
                assert_eq!((start + path.inside, levels), (at, path.levels));
            }
            assert_eq!(path(capacity(bs), bs), None);
        }
    }
}
