//! Reading: the state after the last commit.

use std::ops::Range;

use super::cache::Changed;
use super::cache::{Home, State};
use super::{Block, Blocks, Inner, Journal, Result, image_error, ready};
use crate::log::Place;
use crate::sync::RwLockReadGuard;
use crate::sync::atomic::Ordering;
use crate::units::{BlockNo, Lsn};

/// The state after the last commit, for reading; writers wait while one lives.
pub struct View<'j> {
    inner: &'j Inner,
    state: RwLockReadGuard<'j, State>,
}

impl<'j> View<'j> {
    pub(super) fn new(inner: &'j Inner) -> Self {
        View {
            inner,
            state: inner.state.read(),
        }
    }

    /// The last record whose changes it shows.
    pub fn last(&self) -> Lsn {
        self.state.last
    }

    /// A place to note in what is to be read when this view has gone.
    pub fn gather(&self) -> Gather {
        Gather {
            pieces: Vec::new(),
            checkpoints: self.inner.checkpoints.load(Ordering::SeqCst),
        }
    }

    /// Notes where `len` bytes from byte `offset` of a block on stand.
    pub fn find(&self, block: BlockNo, offset: usize, len: usize, into: &mut Gather) -> Result<()> {
        let pieces = &mut into.pieces;
        self.inner.find_run(&self.state, block, offset, len, pieces)
    }

    /// The blocks that are not home, ascending; without the pinned one.
    pub fn lacking(&self) -> Vec<BlockNo> {
        let all = [&self.state.dirty, &*self.state.frozen]
            .map(Changed::sorted)
            .concat();
        let mut blocks: Vec<BlockNo> = all.into_iter().map(|(block, _)| block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }
}

/// Bytes as a view found them, to be read without it: writers need not wait
/// for a disk then.
pub struct Gather {
    pieces: Vec<Piece>,
    /// Those that had begun. A later one may write other bytes into blocks of
    /// the image, which may by then belong to others.
    checkpoints: u64,
}

/// Where a stretch of bytes is read from.
enum Piece {
    Zeros(usize),
    Bytes(Block, Range<usize>),
    /// A place in the log, from a byte of its record's data on. Holding it
    /// keeps its segment.
    Log(Place, usize, usize),
    /// From a byte of the image on.
    Image(u64, usize),
}

impl Gather {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Notes a hole.
    pub fn zeros(&mut self, len: usize) {
        self.pieces.push(Piece::Zeros(len));
    }
}

impl Journal {
    /// Reads what a view found; `false` if a checkpoint has begun since, and
    /// it has to be found anew.
    pub fn read(&self, found: &Gather, buf: &mut [u8]) -> Result<bool> {
        self.0.read_pieces(&found.pieces, buf)?;
        Ok(self.still(found))
    }

    /// The same without waiting for a disk; `false` also if it would have to.
    pub fn read_ready(&self, found: &Gather, buf: &mut [u8]) -> Result<bool> {
        Ok(self.0.read_ready_pieces(&found.pieces, buf)? && self.still(found))
    }

    fn still(&self, found: &Gather) -> bool {
        self.0.checkpoints.load(Ordering::SeqCst) == found.checkpoints
    }
}

impl Blocks for View<'_> {
    fn block_size(&self) -> usize {
        self.inner.block_size()
    }
    fn block(&self, block: BlockNo) -> Result<Block> {
        self.inner.load(&self.state, block)
    }
    fn read(&self, block: BlockNo, offset: usize, buf: &mut [u8]) -> Result<()> {
        self.inner.read_run(&self.state, block, offset, buf)
    }
}

impl Inner {
    /// A block's newest bytes.
    pub(super) fn load(&self, state: &State, block: BlockNo) -> Result<Block> {
        match state.newest(block) {
            Some(Home::Cached(bytes)) => return Ok(bytes),
            Some(Home::Logged { place, from }) => {
                return self.load_piece(Piece::Log(place, from as usize, self.block_size()));
            }
            None => {}
        }
        if let Some(bytes) = self.clean.get(block) {
            return Ok(bytes);
        }
        self.inside(block, 1)?;
        let size = self.block_size();
        let bytes = self.load_piece(Piece::Image(block.0 * size as u64, size))?;
        self.clean.insert(block, bytes.clone());
        Ok(bytes)
    }

    fn load_piece(&self, piece: Piece) -> Result<Block> {
        let mut bytes = vec![0; piece.len()];
        self.read_or_note(vec![piece], &mut bytes)?;
        Ok(bytes.into())
    }

    /// Reads, under a guard: unless that has to wait and must not.
    fn read_or_note(&self, pieces: Vec<Piece>, buf: &mut [u8]) -> Result<()> {
        if !ready::tries() {
            return self.read_pieces(&pieces, buf);
        }
        match self.read_ready_pieces(&pieces, buf)? {
            true => Ok(()),
            false => Err(ready::lacks(Gather {
                pieces,
                checkpoints: self.checkpoints.load(Ordering::SeqCst),
            })),
        }
    }

    /// Bytes of consecutive blocks; stretches that are home, or that lie
    /// together in the log, are read in one piece.
    pub(super) fn read_run(
        &self,
        state: &State,
        block: BlockNo,
        offset: usize,
        buf: &mut [u8],
    ) -> Result<()> {
        let mut pieces = Vec::new();
        self.find_run(state, block, offset, buf.len(), &mut pieces)?;
        self.read_or_note(pieces, buf)
    }

    fn find_run(
        &self,
        state: &State,
        block: BlockNo,
        offset: usize,
        len: usize,
        into: &mut Vec<Piece>,
    ) -> Result<()> {
        let size = self.block_size();
        self.inside(block, (offset + len).div_ceil(size) as u64)?;
        let (mut at, mut offset, mut left) = (block, offset, len);
        while left > 0 {
            let most = (offset + left).div_ceil(size);
            let (blocks, source) = self.stretch(state, at, most);
            let len = (blocks * size - offset).min(left);
            into.push(match source {
                Source::Bytes(bytes) => Piece::Bytes(bytes, offset..offset + len),
                Source::Log(place, from) => Piece::Log(place, from + offset, len),
                Source::Image => Piece::Image(at.0 * size as u64 + offset as u64, len),
            });
            (at, offset, left) = (BlockNo(at.0 + blocks as u64), 0, left - len);
        }
        Ok(())
    }

    fn read_pieces(&self, pieces: &[Piece], buf: &mut [u8]) -> Result<()> {
        let mut rest = buf;
        for piece in pieces {
            let (now, after) = rest.split_at_mut(piece.len());
            match piece {
                Piece::Zeros(_) => now.fill(0),
                Piece::Bytes(bytes, range) => now.copy_from_slice(&bytes[range.clone()]),
                Piece::Log(place, from, _) => self.read_logged(place, *from, now)?,
                Piece::Image(from, _) => self
                    .image
                    .read_at(now, *from)
                    .map_err(|e| image_error("read", e))?,
            }
            rest = after;
        }
        Ok(())
    }

    fn read_ready_pieces(&self, pieces: &[Piece], buf: &mut [u8]) -> Result<bool> {
        let mut rest = buf;
        for piece in pieces {
            let (now, after) = rest.split_at_mut(piece.len());
            let ready = match piece {
                Piece::Zeros(_) | Piece::Bytes(..) => {
                    self.read_pieces(std::slice::from_ref(piece), now)?;
                    true
                }
                Piece::Log(place, from, _) => self.logged(place) && place.read_ready(*from, now)?,
                Piece::Image(from, _) => self
                    .image
                    .read_ready_at(now, *from)
                    .map_err(|e| image_error("read", e))?,
            };
            if !ready {
                return Ok(false);
            }
            rest = after;
        }
        Ok(true)
    }

    /// How many blocks from `first` on, `most` at most, come from one place.
    fn stretch(&self, state: &State, first: BlockNo, most: usize) -> (usize, Source) {
        let nth = |n: usize| BlockNo(first.0 + n as u64);
        match state.newest(first) {
            Some(Home::Cached(bytes)) => (1, Source::Bytes(bytes)),
            Some(Home::Logged { place, from }) => {
                let follows = |n: &usize| match state.newest(nth(*n)) {
                    Some(Home::Logged {
                        place: other,
                        from: there,
                    }) => {
                        other.lsn() == place.lsn()
                            && there as usize == from as usize + n * self.block_size()
                    }
                    _ => false,
                };
                let blocks = (1..most).take_while(follows).count() + 1;
                (blocks, Source::Log(place, from as usize))
            }
            None => match self.clean.get(first) {
                Some(bytes) => (1, Source::Bytes(bytes)),
                None => {
                    // The clean cache equals the image: no need to ask it for each.
                    let blocks = (1..most)
                        .take_while(|n| state.newest(nth(*n)).is_none())
                        .count()
                        + 1;
                    (blocks, Source::Image)
                }
            },
        }
    }
}

/// Where a stretch of blocks is read from.
enum Source {
    Bytes(Block),
    Log(Place, usize),
    Image,
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Zeros(len) | Piece::Log(.., len) | Piece::Image(_, len) => *len,
            Piece::Bytes(_, range) => range.len(),
        }
    }
}
