//! What is checked: a plain image, or an image as its journal would leave it.

use std::io;

use crate::device::Disk;
use crate::journal::Blocks;
use crate::units::BlockNo;

/// Bytes to check, addressed from the image's start.
pub trait Source {
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buf` from `offset`.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// An image as it is.
pub struct Plain<'a>(pub &'a dyn Disk);

impl Source for Plain<'_> {
    fn length(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }
}

/// The state that a journal shows to its readers: of an image that waits for
/// recovery, what recovery would make of it.
pub struct Through<'a> {
    /// The readers' view.
    pub blocks: &'a dyn Blocks,
    /// Length of the image in bytes.
    pub len: u64,
}

impl Source for Through<'_> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len)
    }
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        by_block(
            self.blocks.block_size(),
            offset,
            buf,
            |block, start, out| {
                self.blocks
                    .read(block, start, out)
                    .map_err(io::Error::other)
            },
        )
    }
}

/// Cuts a range at block borders: block, offset inside it, piece of `buf`.
fn by_block(
    size: usize,
    offset: u64,
    buf: &mut [u8],
    mut each: impl FnMut(BlockNo, usize, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = buf;
    let mut at = offset;
    while !rest.is_empty() {
        let start = (at % size as u64) as usize;
        let n = rest.len().min(size - start);
        let (piece, tail) = rest.split_at_mut(n);
        each(BlockNo(at / size as u64), start, piece)?;
        rest = tail;
        at += n as u64;
    }
    Ok(())
}
