//! A number for each inode. Neighbours lie together: what was made together is
//! often changed together, and a listing looks at an inode for each record.

use std::collections::HashMap;

use crate::units::InodeNo;

/// Inodes in a row that share a piece.
const PIECE: u32 = 64;

/// Numbers of inodes, below `u32::MAX`.
#[derive(Default)]
pub struct Places(HashMap<u32, Box<[u32; PIECE as usize]>>);

/// There is none.
const NONE: u32 = u32::MAX;

impl Places {
    pub fn get(&self, inode: InodeNo) -> Option<usize> {
        let piece = self.0.get(&(inode.0 / PIECE))?;
        number(piece[(inode.0 % PIECE) as usize])
    }

    /// Sets an inode's number; the one that it had.
    pub fn insert(&mut self, inode: InodeNo, place: usize) -> Option<usize> {
        let piece = self.0.entry(inode.0 / PIECE);
        let piece = piece.or_insert_with(|| Box::new([NONE; PIECE as usize]));
        let slot = &mut piece[(inode.0 % PIECE) as usize];
        number(std::mem::replace(slot, place as u32))
    }

    pub fn remove(&mut self, inode: InodeNo) -> Option<usize> {
        let piece = self.0.get_mut(&(inode.0 / PIECE))?;
        let slot = &mut piece[(inode.0 % PIECE) as usize];
        number(std::mem::replace(slot, NONE))
    }
}

fn number(slot: u32) -> Option<usize> {
    (slot != NONE).then_some(slot as usize)
}
